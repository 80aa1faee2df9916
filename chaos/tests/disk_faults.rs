//! What the node answers to each fault of a disk, one at a time; seeds meet them in every combination.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use chaos::invariants::nonces::{Seals, WatchedKeys};
use chaos::sim::faults::{self, Happened};
use chaos::sim::{Crash, DiskOptions, Random, SimDisk, Simulation, WatchedDisk};
use node::{ChangeError, FileReadError, Node, NodeOptions, OpenError, ProposeError, PutError, PutOptions, Target};
use proto::limits::{DISK_ANSWER_SECONDS_MAX, SECTOR_BYTES};
use proto::path::FsPath;
use proto::port::runtime;

type Served = Node<WatchedDisk>;

const SECTOR: u64 = SECTOR_BYTES as u64;
/// Longer than any wait that a disk may cause: a few operations in a row, each of which runs into its deadline.
const PATIENCE: Duration = Duration::from_secs(20 * DISK_ANSWER_SECONDS_MAX);

/// A node at rest: its disks, and what was acknowledged.
struct Bench {
    simulation: Simulation,
    disks: Vec<SimDisk>,
    keys: Arc<Seals>,
}

impl Bench {
    fn new(seed: u64, disks: usize) -> Bench {
        let mut simulation = Simulation::new(seed);
        let disks = (0..disks).map(|_| simulation.add_disk(DiskOptions::default())).collect();
        Bench { simulation, disks, keys: Arc::default() }
    }

    /// One start of the node that ends by itself; what is not closed is lost as with a killed process.
    fn start<T: 'static, F: Future<Output = T> + 'static>(
        &mut self,
        main: impl FnOnce(Result<Served, OpenError>) -> F + 'static,
    ) -> T {
        let (disks, seals) = (self.disks.clone(), self.keys.clone());
        let run = async move {
            let watched = disks.into_iter().map(WatchedDisk::new).collect();
            let keys = Arc::new(WatchedKeys::new([7; 32], seals));
            let options = NodeOptions { piece_bytes: 8 << 20, ..NodeOptions::new(watched, keys) };
            main(Node::open(options).await.map(|(node, _)| node)).await
        };
        self.simulation.run(run).expect("a node never hangs")
    }

    /// A start that puts files and is then closed, or not.
    fn put(&mut self, files: &[(&'static str, usize)], closes: bool) {
        let files = files.to_vec();
        self.start(move |node| async move {
            let node = node.expect("it opens");
            for (path, len) in files {
                put(&node, path, len).await.expect("it is stored");
            }
            if closes {
                node.close().await.expect("it closes");
            }
        });
    }

    /// A start that must not open.
    fn refused(&mut self) -> OpenError {
        self.start(|node| async { node.err().expect("this must not open") })
    }

    /// A start that reads files whole.
    fn read(&mut self, files: &[&'static str]) -> Vec<Result<Vec<u8>, FileReadError>> {
        let files = files.to_vec();
        self.start(|node| async move {
            let node = node.expect("it opens");
            let mut read = Vec::new();
            for path in files {
                read.push(get(&node, path).await);
            }
            read
        })
    }

    fn holds(&mut self, files: &[(&'static str, usize)]) {
        let paths: Vec<&'static str> = files.iter().map(|(path, _)| *path).collect();
        for ((path, len), read) in files.iter().zip(self.read(&paths)) {
            assert!(read.expect("it is whole") == bytes_of(path, *len), "{path} has other bytes");
        }
    }

    fn power_loss(&mut self) {
        self.simulation.run_until(0, Crash::Power, async {}).expect("nothing runs");
    }

    /// The disk that has the metadata, and another.
    fn roles(&self) -> (SimDisk, SimDisk) {
        let has_metadata = |disk: &&SimDisk| disk.files().iter().any(|(name, _)| name.starts_with("meta/"));
        let metadata = self.disks.iter().find(has_metadata).expect("one has it");
        let other = self.disks.iter().find(|disk| !has_metadata(disk)).expect("one has not");
        (metadata.clone(), other.clone())
    }
}

/// Contents of a file: noise that only its path and length say.
fn bytes_of(path: &str, len: usize) -> Vec<u8> {
    let seed = path.bytes().fold(1, |seed: u64, byte| seed.wrapping_mul(257) + u64::from(byte));
    let mut bytes = vec![0; len];
    Random::new(seed).fill(&mut bytes);
    bytes
}

fn path_of(path: &str) -> FsPath {
    FsPath::parse(path).expect("a legal path")
}

async fn put(node: &Served, path: &str, len: usize) -> Result<(), PutError> {
    let mut writer = node.create(path_of(path), PutOptions::default())?;
    writer.write(&bytes_of(path, len)).await?;
    writer.finish().await.map(drop)
}

async fn get(node: &Served, path: &str) -> Result<Vec<u8>, FileReadError> {
    let mut reader = node.open_file(Target::Path(path_of(path))).await?;
    let mut bytes = Vec::new();
    while let Some(part) = reader.next().await {
        bytes.extend_from_slice(&part?);
    }
    Ok(bytes)
}

fn times(happened: &Happened, kind: &str) -> u64 {
    happened.counts().get(kind).copied().unwrap_or(0)
}

#[test]
fn metadata_of_an_earlier_start_is_refused() {
    let mut bench = Bench::new(1, 2);
    bench.put(&[("/a", 100)], true);
    let (metadata, _) = bench.roles();
    metadata.remember();
    bench.put(&[("/b", 100)], true);
    assert!(metadata.revert());
    assert!(matches!(bench.refused(), OpenError::Stale { .. }));
    assert!(matches!(bench.refused(), OpenError::Stale { .. }), "and again");
    metadata.restore();
    bench.holds(&[("/a", 100), ("/b", 100)]);
}

#[test]
fn a_data_disk_of_an_earlier_start_is_refused() {
    let mut bench = Bench::new(2, 2);
    bench.put(&[("/a", 100)], true);
    let (_, data) = bench.roles();
    data.remember();
    bench.put(&[("/b", 300_000)], true);
    assert!(data.revert());
    assert!(matches!(bench.refused(), OpenError::Stale { .. }));
    assert!(matches!(bench.refused(), OpenError::Stale { .. }), "a start that failed does not make it newer");
    data.restore();
    bench.holds(&[("/a", 100), ("/b", 300_000)]);
}

#[test]
fn metadata_that_forgot_a_segment_is_refused() {
    let mut bench = Bench::new(3, 2);
    bench.put(&[("/a", 100)], true);
    let (metadata, _) = bench.roles();
    let remembered = metadata.clone();
    bench.start(move |node| async move {
        let node = node.expect("it opens");
        remembered.remember();
        put(&node, "/b", 300_000).await.expect("it is stored");
    });
    assert!(metadata.revert());
    let refused = bench.refused();
    assert!(matches!(refused, OpenError::Stale { .. }), "{refused}");
    metadata.restore();
    bench.holds(&[("/a", 100), ("/b", 300_000)]);
}

#[test]
fn a_crash_while_devices_are_claimed_makes_none_stale() {
    for steps in 0..150 {
        let mut bench = Bench::new(steps, 3);
        bench.put(&[("/a", 300_000)], true);
        for _ in 0..2 {
            let (disks, seals) = (bench.disks.clone(), bench.keys.clone());
            let open = async move {
                let watched = disks.into_iter().map(WatchedDisk::new).collect();
                let keys = Arc::new(WatchedKeys::new([7; 32], seals));
                let options = NodeOptions { piece_bytes: 8 << 20, ..NodeOptions::new(watched, keys) };
                Node::open(options).await.map(drop).expect("it opens");
            };
            bench.simulation.run_until(steps, Crash::Power, open).expect("a node never hangs");
        }
        bench.holds(&[("/a", 300_000)]);
    }
}

#[test]
fn a_slow_disk_fails_nothing() {
    let mut bench = Bench::new(4, 2);
    bench.put(&[("/a", 300_000)], true);
    for disk in &bench.disks {
        disk.slow_nth(0, Duration::from_secs(3600), Duration::from_secs(60));
    }
    bench.put(&[("/b", 300_000), ("/c", 100)], true);
    assert!(times(&bench.simulation.happened(), faults::OPERATION_SLOW) > 2);
    bench.holds(&[("/a", 300_000), ("/b", 300_000), ("/c", 100)]);
}

#[test]
fn a_data_disk_that_stops_answering_is_left_out() {
    for lasts in [None, Some(Duration::from_secs(2 * DISK_ANSWER_SECONDS_MAX))] {
        let mut bench = Bench::new(5, 2);
        bench.put(&[("/a", 300_000)], true);
        let (_, data) = bench.roles();
        let stalled = data.clone();
        bench.start(move |node| async move {
            let node = node.expect("it opens");
            stalled.stall_nth(0, lasts);
            put(&node, "/small", 100).await.expect("it needs no data disk");
            let began = runtime::monotonic();
            let (first, second) = ("/first", "/second");
            let failed = put(&node, first, 300_000).await;
            assert!(runtime::monotonic() - began < PATIENCE);
            if failed.is_err() {
                put(&node, first, 300_000).await.expect("the other disk has room");
            }
            let began = runtime::monotonic();
            put(&node, second, 300_000).await.expect("nobody asks the lost disk any more");
            assert!(runtime::monotonic() - began < Duration::from_secs(DISK_ANSWER_SECONDS_MAX));
            node.close().await.expect("the metadata is well");
        });
        assert!(times(&bench.simulation.happened(), faults::OPERATION_STALLED) > 0);
        bench.power_loss();
        data.clear_faults();
        bench.holds(&[("/a", 300_000), ("/small", 100), ("/first", 300_000), ("/second", 300_000)]);
    }
}

#[test]
fn a_metadata_disk_that_stops_answering_stops_changes_and_nothing_is_lost() {
    let mut bench = Bench::new(6, 2);
    bench.put(&[("/a", 100)], true);
    let (metadata, _) = bench.roles();
    bench.start(move |node| async move {
        let node = node.expect("it opens");
        put(&node, "/b", 100).await.expect("it is stored");
        metadata.stall_nth(0, None);
        let began = runtime::monotonic();
        let refused = put(&node, "/c", 100).await.expect_err("the log does not answer");
        let poisoned = matches!(refused, PutError::Change(ChangeError::Log(ProposeError::Poisoned { .. })));
        assert!(poisoned, "{refused}");
        assert_eq!(get(&node, "/b").await.expect("reads go on"), bytes_of("/b", 100));
        assert!(node.close().await.is_err(), "closing has an answer");
        assert!(runtime::monotonic() - began < PATIENCE);
    });
    bench.power_loss();
    bench.holds(&[("/a", 100), ("/b", 100)]);
}

#[test]
fn a_start_on_a_disk_that_does_not_answer_fails_in_time() {
    for role in 0..2 {
        let mut bench = Bench::new(7, 2);
        bench.put(&[("/a", 300_000)], true);
        bench.disks[role].stall_nth(0, None);
        let refused = bench.refused().to_string();
        assert!(refused.contains("did not answer"), "{refused}");
        bench.holds(&[("/a", 300_000)]);
    }
}

#[test]
fn a_stale_read_of_the_log_is_no_torn_tail() {
    let files = [("/a", 100), ("/b", 200), ("/c", 300)];
    let mut met = 0;
    for seed in 0..20 {
        let mut bench = Bench::new(seed, 1);
        bench.put(&files, false);
        bench.disks[0].stale_nth("meta/wal", seed % 2);
        // It may be refused once, never believed.
        let refused = bench.start(|node| async { node.err() });
        met += times(&bench.simulation.happened(), faults::READ_STALE);
        assert!(refused.is_none_or(|error| matches!(error, OpenError::Meta(_))));
        bench.disks[0].clear_faults();
        bench.holds(&files);
    }
    assert!(met >= 15, "{met}");
}

#[test]
fn a_stale_read_of_an_open_segment_cuts_nothing_off() {
    // Text: a row of it fits a sector.
    let text = |node: Served| async move {
        let mut writer = node.create(path_of("/text"), PutOptions::default()).expect("it is taken");
        writer.write(&vec![b'x'; 20_000]).await.expect("it is stored");
        writer.finish().await.map(drop).expect("it is stored");
    };
    let mut met = 0;
    for nth in 0..12 {
        let mut bench = Bench::new(nth, 1);
        bench.start(move |node| async move { text(node.expect("it opens")).await });
        bench.disks[0].stale_nth("segments/", nth);
        bench.start(|node| async { drop(node) });
        met += times(&bench.simulation.happened(), faults::READ_STALE);
        bench.disks[0].clear_faults();
        let read = bench.read(&["/text"]).remove(0);
        assert_eq!(read.expect("it is whole"), vec![b'x'; 20_000]);
    }
    assert!(met >= 2, "{met}");
}

#[test]
fn a_snapshot_that_went_astray_replaces_nothing() {
    let mut met = 0;
    for nth in 0..4 {
        let mut bench = Bench::new(nth, 1);
        let (disk, happened) = (bench.disks[0].clone(), bench.simulation.happened());
        bench.start(move |node| async move {
            let node = node.expect("it opens");
            for number in 0..20 {
                put(&node, &format!("/{number}"), 4000).await.expect("it is stored");
            }
            disk.misdirect_nth("meta/snapshot", nth);
            let closed = node.close().await;
            assert_eq!(closed.is_err(), times(&happened, faults::WRITE_MISDIRECTED) > 0);
        });
        met += times(&bench.simulation.happened(), faults::WRITE_MISDIRECTED);
        bench.disks[0].clear_faults();
        bench.power_loss();
        bench.holds(&[("/0", 4000), ("/7", 4000), ("/19", 4000)]);
    }
    assert!(met >= 1, "{met}");
}

#[test]
fn a_misdirected_row_is_damage_that_names_the_file_and_never_other_bytes() {
    let files = [("/a", 200_000), ("/b", 150_000), ("/c", 90_000), ("/d", 5_000)];
    let (mut met, mut damaged) = (0, 0);
    for seed in 0..40 {
        let mut bench = Bench::new(seed, 1);
        bench.disks[0].misdirect_nth("segments/", seed % 6);
        bench.start(move |node| async move {
            let node = node.expect("it opens");
            for (path, len) in files {
                // A segment whose header went astray is not used.
                if put(&node, path, len).await.is_err() {
                    put(&node, path, len).await.expect("it is stored");
                }
            }
            if seed % 2 == 0 {
                node.close().await.expect("it closes");
            }
        });
        met += times(&bench.simulation.happened(), faults::WRITE_MISDIRECTED);
        bench.disks[0].clear_faults();
        let paths = files.map(|(path, _)| path);
        for ((path, len), read) in files.into_iter().zip(bench.read(&paths)) {
            match read {
                Ok(read) => assert!(read == bytes_of(path, len), "{path} has other bytes, seed {seed}"),
                Err(FileReadError::Damaged { path: named, .. }) => {
                    assert_eq!(named, path);
                    damaged += 1;
                }
                Err(error) => panic!("{error}"),
            }
        }
    }
    assert!(met > 10 && damaged > 10, "{met} met, {damaged} damaged");
}

#[test]
fn rot_in_what_exists_once_is_a_refusal_that_names_the_file() {
    let files = [("/a", 100), ("/b", 300_000), ("/c", 100)];
    let scopes: BTreeMap<&str, fn(&OpenError) -> bool> = BTreeMap::from([
        (
            "meta/wal",
            (|error| matches!(error, OpenError::Meta(meta::OpenError::Corrupt { .. }))) as fn(&OpenError) -> bool,
        ),
        ("meta/snapshot", |error| matches!(error, OpenError::Meta(meta::OpenError::Corrupt { .. }))),
        ("segments/", |error| matches!(error, OpenError::Segment(_))),
    ]);
    for (scope, expected) in scopes {
        let mut bench = Bench::new(8, 1);
        bench.put(&files, scope == "meta/snapshot");
        let disk = bench.disks[0].clone();
        let in_scope = |(name, _): &(String, u64)| name.starts_with(scope);
        let (name, _) = disk.files().into_iter().find(in_scope).expect("there is one");
        for (offset, bit) in [(3, 0), (100, 7), (200, 3)] {
            assert!(disk.corrupt(&name, offset, bit));
            let refused = bench.refused();
            assert!(expected(&refused), "{name} at {offset}: {refused}");
            assert!(disk.mend(&name, offset, bit));
        }
        bench.holds(&files);
    }
}

#[test]
fn rot_in_three_copies_of_the_superblock_is_survived() {
    let mut bench = Bench::new(9, 2);
    bench.put(&[("/a", 300_000)], true);
    for whole in 0..4 {
        for disk in &bench.disks {
            for copy in (0..4).filter(|copy| *copy != whole) {
                assert!(disk.corrupt("superblock", copy * SECTOR + 40 * whole, 2));
            }
        }
        bench.holds(&[("/a", 300_000)]);
    }
    for copy in 0..4 {
        assert!(bench.disks[1].corrupt("superblock", copy * SECTOR + 40, 2));
    }
    assert!(matches!(bench.refused(), OpenError::Superblock { .. }), "four are beyond redundancy");
}
