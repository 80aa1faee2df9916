//! **Counters equal recomputed truth.** Files, directories, symlinks and logical bytes are those of the names and
//! versions that a walk meets; chunks, their plain and stored bytes, and what shared blocks save are those that the
//! segments hold, each chunk counted once.
//!
//! How: names are recounted by every full check and compared exactly, and with the oracle's histories as well. What the
//! segments hold is recounted by the offline check, from footers and row tables, without the node: a start that follows
//! must count exactly that, and so must the close before it have. In between the oracle's bounds hold: at least the
//! chunks of acknowledged files, at most those of all that was ever sent.
//!
//! Where garbage is collected, what is dead lies in the segments until they are freed, and a start that reads them counts
//! it again: then a node counts no more than they hold, and no more saved than there was, and the least that the oracle
//! knows of is not asked for, since files go. That what is alive is there shows when every file is read.
//!
//! What it would miss: where devices fail the segments may hold rows that nobody was told of, or lose some, and only the
//! bounds are checked. Where bits rot a node must count what is whole at the end, and may count more.

use node::fsck::Totals;
use node::{Node, NodeStats};
use proto::api::Kind;
use proto::limits::MANIFEST_PAGE_ENTRIES_MAX;

use super::Invariant;
use crate::harness::World;
use crate::harness::faults::Excuse;
use crate::oracle::{Seen, StoreBounds, Violation, violation};
use crate::sim::WatchedDisk;

/// What a walk over all names adds up to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Recount {
    files: u64,
    directories: u64,
    symlinks: u64,
    logical_bytes: u64,
}

impl Default for Recount {
    /// The root, which no walk meets.
    fn default() -> Recount {
        Recount { files: 0, directories: 1, symlinks: 0, logical_bytes: 0 }
    }
}

impl Recount {
    /// Counts an entry.
    pub fn entry(&mut self, kind: Kind) {
        match kind {
            Kind::File => self.files += 1,
            Kind::Directory => self.directories += 1,
            Kind::Symlink => self.symlinks += 1,
        }
    }

    /// Counts a version of a file.
    pub fn version(&mut self, seen: &Seen) {
        self.logical_bytes += seen.size;
    }

    /// # Errors
    /// [`Violation`] if the node counts otherwise.
    fn check(&self, stats: &NodeStats) -> Result<(), Violation> {
        let NodeStats { files, directories, symlinks, logical_bytes, .. } = *stats;
        let counted = Recount { files, directories, symlinks, logical_bytes };
        if counted == *self { Ok(()) } else { Err(violation!("a walk found {self:?}, the node counts {counted:?}")) }
    }
}

/// Distinct chunks.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Distinct {
    chunks: u64,
    plain_bytes: u64,
    stored_bytes: u64,
    similarity_bytes: u64,
}

impl From<&Totals> for Distinct {
    fn from(totals: &Totals) -> Distinct {
        Distinct {
            chunks: totals.distinct_chunks,
            plain_bytes: totals.distinct_plain_bytes,
            stored_bytes: totals.distinct_stored_bytes,
            similarity_bytes: totals.distinct_similarity_bytes,
        }
    }
}

impl From<&NodeStats> for Distinct {
    fn from(stats: &NodeStats) -> Distinct {
        let store = &stats.store;
        Distinct {
            chunks: store.chunks,
            plain_bytes: store.unique_bytes,
            stored_bytes: store.stored_bytes,
            similarity_bytes: store.similarity_bytes,
        }
    }
}

/// Compares what a node counts with what lies in its segments.
fn compare(when: &str, counted: Distinct, there: Distinct) -> Result<(), Violation> {
    if counted == there {
        return Ok(());
    }
    Err(violation!("{when} the node counts {counted:?}, its segments hold {there:?}"))
}

/// Compares what a node counts that has collected garbage with what lies in its segments. Of a chunk with several copies
/// it may count another than the offline check, compressed in another way.
fn at_most(when: &str, counted: Distinct, there: Distinct) -> Result<(), Violation> {
    let more = counted.chunks > there.chunks
        || counted.plain_bytes > there.plain_bytes
        || counted.stored_bytes + counted.similarity_bytes > counted.plain_bytes;
    if !more {
        return Ok(());
    }
    Err(violation!("{when} the node counts {counted:?}, more than its segments hold: {there:?}"))
}

/// Compares what a node counts with what is whole in its segments, some of which rotted: a checkpoint of the index may
/// know of chunks whose row no longer verifies, but what verifies is counted.
fn at_least(counted: Distinct, whole: Distinct) -> Result<(), Violation> {
    if counted.chunks >= whole.chunks && counted.plain_bytes >= whole.plain_bytes {
        return Ok(());
    }
    Err(violation!("the node counts {counted:?}, its segments hold {whole:?} that are whole"))
}

/// Compares what a node counts with what clients sent. Whatever `may_lack` says, there is never more than was sent.
fn within(counted: Distinct, bounds: &StoreBounds, has_pages: bool, may_lack: bool) -> Result<(), Violation> {
    let seen = (counted.chunks, counted.plain_bytes);
    let too_few = seen.0 < bounds.least.0 || seen.1 < bounds.least.1;
    // Pages of manifests are chunks as well, which the oracle does not know.
    let too_many = !has_pages && (seen.0 > bounds.most.0 || seen.1 > bounds.most.1);
    if too_many || (too_few && !may_lack) {
        return Err(violation!("the store counts {seen:?} chunks and bytes; {bounds:?}"));
    }
    Ok(())
}

/// Whether all rows that are whole were also acknowledged, and stay whole.
fn is_exact(world: &World) -> bool {
    !world.excuses(Excuse::UntoldRows)
}

/// Checks a node that was walked over and has not been used since its start.
pub(crate) fn check(world: &World, recount: &Recount, stats: &NodeStats) -> Result<(), Violation> {
    world.judge.count(Invariant::Counters, 1);
    recount.check(stats)?;
    let mut oracle = world.oracle.borrow_mut();
    oracle.saw_counts(&stats.into())?;
    let has_pages = world.plan.manifest_page_entries != MANIFEST_PAGE_ENTRIES_MAX;
    let may_lack = world.plan.collects || world.excuses(Excuse::MissingChunks);
    within(stats.into(), &oracle.store_bounds(), has_pages, may_lack)?;
    if stats.free_bytes > stats.capacity_bytes {
        return Err(violation!("more bytes are free than there are: {stats:?}"));
    }
    // From here on clients change what is there.
    world.judge.at_close.take();
    match world.judge.at_rest.take() {
        Some(there) if is_exact(world) && world.plan.collects => at_most("at its start", stats.into(), there),
        Some(there) if is_exact(world) => compare("at its start", stats.into(), there),
        _ => Ok(()),
    }
}

/// Notes what the node counts that was closed with nothing under way.
pub(crate) async fn closed(world: &World, node: &Node<WatchedDisk>) {
    // A disk that does not tell its free space was armed to fail.
    world.judge.at_close.set(node.stats().await.ok().as_ref().map(Distinct::from));
}

/// Takes what the offline check found in the segments.
pub(crate) fn found_at_rest(world: &World, totals: &Totals) -> Result<(), Violation> {
    let there = Distinct::from(totals);
    world.judge.at_rest.set(Some(there));
    let Some(counted) = world.judge.at_close.get() else { return Ok(()) };
    world.judge.count(Invariant::Counters, 1);
    match is_exact(world) {
        true if world.plan.collects => at_most("at its close", counted, there),
        true => compare("at its close", counted, there),
        false if world.plan.collects => Ok(()),
        // A row that a device refused may be there all the same.
        false if world.excuses(Excuse::UncountedRows) => Ok(()),
        false => at_least(counted, there),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const THERE: Distinct = Distinct { chunks: 3, plain_bytes: 300, stored_bytes: 200, similarity_bytes: 50 };

    #[test]
    fn every_count_must_be_that_of_the_segments() {
        assert_eq!(compare("", THERE, THERE), Ok(()));
        compare("", Distinct { chunks: 4, ..THERE }, THERE).expect_err("a chunk too many");
        compare("", Distinct { plain_bytes: 299, ..THERE }, THERE).expect_err("a byte too few");
        compare("", Distinct { stored_bytes: 201, ..THERE }, THERE).expect_err("a stored byte too many");
        compare("", Distinct { similarity_bytes: 51, ..THERE }, THERE).expect_err("a saved byte too many");
    }

    #[test]
    fn a_node_that_collects_counts_no_more_than_is_there() {
        assert_eq!(at_most("", THERE, THERE), Ok(()));
        let less = Distinct { chunks: 2, plain_bytes: 200, stored_bytes: 100, similarity_bytes: 0 };
        assert_eq!(at_most("", less, THERE), Ok(()));
        at_most("", Distinct { chunks: 4, ..THERE }, THERE).expect_err("a chunk too many");
        at_most("", Distinct { plain_bytes: 301, ..THERE }, THERE).expect_err("a byte too many");
        at_most("", Distinct { stored_bytes: 251, ..THERE }, THERE).expect_err("a stored byte too many");
    }

    #[test]
    fn what_rotted_may_be_counted_and_what_is_whole_must_be() {
        assert_eq!(at_least(Distinct { chunks: 4, plain_bytes: 400, ..THERE }, THERE), Ok(()));
        at_least(Distinct { chunks: 2, ..THERE }, THERE).expect_err("a whole chunk is missing");
        at_least(Distinct { plain_bytes: 299, ..THERE }, THERE).expect_err("bytes of a whole chunk are missing");
    }

    #[test]
    fn every_count_must_be_that_of_the_walk() {
        let mut recount = Recount::default();
        [Kind::File, Kind::Directory, Kind::Symlink].into_iter().for_each(|kind| recount.entry(kind));
        recount.logical_bytes += 9;
        let stats = NodeStats { files: 1, directories: 2, symlinks: 1, logical_bytes: 9, ..NodeStats::default() };
        assert_eq!(recount.check(&stats), Ok(()));
        recount.check(&NodeStats { files: 2, ..stats }).expect_err("files");
        recount.check(&NodeStats { directories: 1, ..stats }).expect_err("directories");
        recount.check(&NodeStats { symlinks: 0, ..stats }).expect_err("symlinks");
        recount.check(&NodeStats { logical_bytes: 8, ..stats }).expect_err("bytes");
    }

    #[test]
    fn acknowledged_chunks_are_there_and_nothing_that_nobody_sent() {
        let bounds = StoreBounds { least: (2, 200), most: (4, 400) };
        assert_eq!(within(THERE, &bounds, false, false), Ok(()));
        let few = Distinct { chunks: 1, ..THERE };
        within(few, &bounds, false, false).expect_err("an acknowledged chunk is gone");
        assert_eq!(within(few, &bounds, false, true), Ok(()), "damage takes chunks away");
        let many = Distinct { chunks: 5, ..THERE };
        within(many, &bounds, false, true).expect_err("nobody sent so many");
        assert_eq!(within(many, &bounds, true, false), Ok(()), "pages are chunks");
    }
}
