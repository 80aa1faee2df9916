//! **Every reachable chunk decodes.** Whatever version of whatever file is there, its manifest leads to chunks that are
//! there, verify and decode to exactly the bytes that were promised.
//!
//! How: after each start every file is read as it is, and at one earlier version that is drawn; at the end of a seed,
//! once faults have stopped, at every version. A read may fail only as [`super::reads`] allows; the offline check at the
//! end ([`super::fsck`]) follows every manifest once more, without the node.
//!
//! What it would miss: an earlier version that became unreadable and readable again between two ends.

use node::{FileReadError, FileReader, Node, Target};
use proto::VersionNumber;
use proto::path::FsPath;

use super::{Invariant, acked_writes, atomicity, reads};
use crate::harness::World;
use crate::oracle::{Violation, violation};
use crate::sim::{Random, WatchedDisk};

/// Which versions of a file are read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Extent {
    /// The current one, and one that is drawn.
    Sample,
    /// All.
    All,
}

/// Those of the `earlier` versions of a file that are read.
pub(crate) fn some_of(extent: Extent, earlier: Vec<u64>, random: &mut Random) -> Vec<u64> {
    match extent {
        Extent::All => earlier,
        // The current one is drawn as well, and was read before.
        Extent::Sample => earlier.get(random.below(earlier.len() as u64 + 1) as usize).copied().into_iter().collect(),
    }
}

/// Reads a file, as it is or as it was at a version, and compares what came with all that is known of it.
pub(crate) async fn read_back(
    world: &World,
    node: &Node<WatchedDisk>,
    path: &str,
    version: Option<u64>,
) -> Result<(), Violation> {
    let allowed = world.oracle.borrow_mut().readable(path, version)?;
    let target = Target::Path(FsPath::parse(path).expect("invariant: it was listed"));
    let opened = match version {
        None => node.open_file(target).await,
        Some(version) => node.open_version(target, VersionNumber(version)).await,
    };
    let mut reader = opened.map_err(|error| violation!("{path} at {version:?} is listed, but: {error}"))?;
    let (size, shown) = (reader.info().size(), reader.info().version().0);
    let (bytes, error) = read_all(&mut reader).await;
    world.judge.count(Invariant::Reachable, 1);
    let damaged = match &error {
        Some(FileReadError::Damaged { range, .. }) => Some(range.clone()),
        _ => None,
    };
    world.read.borrow_mut().insert((path.to_owned(), shown), damaged);
    let is_whole = error.is_none();
    let from = reads::check(world, path, 0..size, &allowed, (&bytes, error))?;
    if is_whole {
        acked_writes::check_bytes(world, path, shown, &bytes)?;
        atomicity::check(world, path, shown, &bytes)?;
        world.oracle.borrow_mut().saw_content(path, version, &from)?;
    }
    Ok(())
}

/// Reads to the end of the reader's range. Returns what came, and the error that ended it.
pub(crate) async fn read_all(reader: &mut FileReader<WatchedDisk>) -> (Vec<u8>, Option<FileReadError>) {
    let mut bytes = Vec::new();
    while let Some(next) = reader.next().await {
        match next {
            Ok(part) => bytes.extend_from_slice(&part),
            Err(error) => return (bytes, Some(error)),
        }
    }
    (bytes, None)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sim::{DiskOptions, SimDisk, Simulation};
    use chunk::KeyRing;
    use node::{NodeOptions, PutOptions};
    use std::sync::Arc;

    #[test]
    fn in_the_end_every_version_is_read_and_until_then_each_may_be() {
        let mut random = Random::new(1);
        assert_eq!(some_of(Extent::All, vec![7, 6, 5], &mut random), [7, 6, 5]);
        assert_eq!(some_of(Extent::Sample, vec![], &mut random), [0; 0]);
        let mut drawn: Vec<u64> = (0..100).flat_map(|_| some_of(Extent::Sample, vec![7, 6, 5], &mut random)).collect();
        drawn.sort_unstable();
        drawn.dedup();
        assert_eq!(drawn, [5, 6, 7]);
    }

    #[test]
    fn a_chunk_that_does_not_decode_ends_the_read_with_an_error() {
        let mut simulation = Simulation::new(7);
        let disk = simulation.add_disk(DiskOptions::default());
        fn options(disk: SimDisk) -> NodeOptions<WatchedDisk> {
            NodeOptions::new(vec![WatchedDisk::new(disk)], Arc::new(KeyRing::generate(1, [7; 32])))
        }
        let mut bytes = vec![0; 50_000];
        Random::new(2).fill(&mut bytes);
        let (path, len) = (FsPath::parse("/f").unwrap(), bytes.len());
        let (at, with) = (path.clone(), disk.clone());
        let written = simulation.run(async move {
            let node = Node::open(options(with)).await.unwrap().0;
            let mut writer = node.create(at, PutOptions::default()).unwrap();
            writer.write(&bytes).await.unwrap();
            writer.finish().await.unwrap();
            node.close().await.unwrap();
        });
        written.unwrap();
        let (segment, _) = disk.files().into_iter().find(|(name, _)| name.starts_with("segments/")).unwrap();
        assert!(disk.corrupt(&segment, 4096 + 20_000, 0), "there is data");
        let read = simulation.run(async move {
            let node = Node::open(options(disk)).await.unwrap().0;
            read_all(&mut node.open_file(Target::Path(path)).await.unwrap()).await
        });
        let (bytes, error) = read.unwrap();
        assert!(bytes.len() < len && matches!(error, Some(FileReadError::Damaged { .. })), "{error:?}");
    }
}
