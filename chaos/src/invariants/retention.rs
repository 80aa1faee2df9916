//! **What a retention keeps stays, and what was let go stays gone.** The versions of a file have consecutive numbers, up to
//! that of the current one. The newest that the retention keeps are among them; one that went is refused as such, by a
//! message that names the oldest that is left, and never comes back; and what no retention keeps goes with the next pass.
//!
//! How: the oracle knows which versions may be gone and which somebody was told are ([`crate::oracle`]). Clients meet
//! expired versions in reads and restores; every full check shows it the oldest version of each file, and asks for the one
//! before that. At the end of a seed a pass comes while nothing else happens, and the walk of the next start must find
//! nothing that it should have let go.
//!
//! What it would miss: retentions of single directories, and those that look at the clock, which have tests of their own;
//! and a pass beside clients that leaves a file out, which the last one would make up for.

use meta::MetaError;
use node::{Node, Target};
use proto::VersionNumber;
use proto::path::FsPath;

use super::Invariant;
use crate::harness::World;
use crate::oracle::{Seen, Violation, violation};
use crate::sim::WatchedDisk;

/// Compares the retention in force with what was set.
pub(crate) async fn in_force(world: &World, node: &Node<WatchedDisk>) -> Result<(), Violation> {
    let shown = node.retention(Target::Path(FsPath::root())).await;
    let shown = shown.map_err(|error| violation!("the retention of the root: {error}"))?;
    world.oracle.borrow_mut().saw_retention(shown.in_force.keep)
}

/// Checks which versions of a file there are, all of them and newest first, and that the one before them is refused.
pub(crate) async fn versions(
    world: &World,
    node: &Node<WatchedDisk>,
    path: &str,
    newest_first: &[Seen],
) -> Result<(), Violation> {
    let numbers: Vec<u64> = newest_first.iter().map(|seen| seen.version).collect();
    let Some(oldest) = oldest(&numbers) else { return Err(violation!("{path} has the versions {numbers:?}")) };
    world.oracle.borrow_mut().saw_oldest(path, oldest)?;
    let Some(gone) = oldest.checked_sub(1).filter(|gone| *gone > 0) else { return Ok(()) };
    world.judge.count(Invariant::Retention, 1);
    let target = Target::Path(FsPath::parse(path).expect("invariant: it was listed"));
    match node.stat_version(target, VersionNumber(gone)).await {
        Err(MetaError::VersionExpired { oldest: named }) if named.0 == oldest => Ok(()),
        shown => Err(violation!("{path} has the versions {numbers:?}; a stat of {gone} shows {shown:?}")),
    }
}

/// The oldest of the versions of a file, newest first; `None` if they cannot be that.
pub(crate) fn oldest(newest_first: &[u64]) -> Option<u64> {
    let is_consecutive = newest_first.windows(2).all(|pair| pair[0] == pair[1] + 1);
    newest_first.last().copied().filter(|oldest| is_consecutive && *oldest > 0)
}

/// Lets go what no retention keeps, while nothing else happens.
pub(crate) async fn pass(world: &World, node: &Node<WatchedDisk>) -> Result<(), Violation> {
    let expired = node.expire(u64::MAX).await.map_err(|error| violation!("versions are not let go: {error}"))?;
    if !expired.is_complete {
        return Err(violation!("a pass without a maximum ended early: {expired:?}"));
    }
    world.tally.add("versions expired", expired.versions);
    world.oracle.borrow_mut().saw_pass();
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_follow_each_other() {
        assert_eq!(oldest(&[3, 2, 1]), Some(1));
        assert_eq!(oldest(&[7, 6]), Some(6));
        assert_eq!(oldest(&[]), None);
        assert_eq!(oldest(&[1, 0]), None, "there is no version 0");
        assert_eq!(oldest(&[4, 2]), None, "one is missing");
        assert_eq!(oldest(&[4, 4]), None, "one is there twice");
        assert_eq!(oldest(&[1, 2]), None, "out of order");
    }
}
