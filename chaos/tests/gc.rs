//! What garbage collection promises, each as one small run on simulated disks.

use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use chaos::sim::{DiskOptions, Operation, SimDisk, Simulation};
use chunk::KeyRing;
use futures_util::FutureExt;
use futures_util::future::{Either, select};
use node::{Collect, GcOptions, Node, NodeOptions, PutOptions, Removal, Target};
use proto::path::FsPath;
use proto::port::runtime;

const PIECE_BYTES: u64 = 2 << 20;
const MIB: usize = 1 << 20;

fn path(text: &str) -> FsPath {
    FsPath::parse(text).unwrap()
}

fn random_bytes(seed: u64, bytes: usize) -> Vec<u8> {
    let mut out = vec![0; bytes];
    chaos::sim::Random::new(seed).fill(&mut out);
    out
}

fn options(disk: &SimDisk) -> NodeOptions<SimDisk> {
    NodeOptions {
        piece_bytes: PIECE_BYTES,
        manifest_page_entries: 4,
        gc: GcOptions { automatic: false, ..GcOptions::default() },
        ..NodeOptions::new(vec![disk.clone()], Arc::new(KeyRing::generate(1, [7; 32])))
    }
}

/// A node of two cores.
async fn open(disk: &SimDisk) -> Vec<Node<SimDisk>> {
    Node::open_cores(|| options(disk), 2).await.unwrap().0
}

async fn put(node: &Node<SimDisk>, name: &str, bytes: &[u8]) {
    let mut writer = node.create(path(name), PutOptions::default()).unwrap();
    writer.write(bytes).await.unwrap();
    writer.finish().await.unwrap();
}

async fn get(node: &Node<SimDisk>, name: &str) -> Vec<u8> {
    let mut reader = node.open_file(Target::Path(path(name))).await.unwrap();
    let mut out = Vec::new();
    while let Some(bytes) = reader.next().await {
        out.extend_from_slice(&bytes.unwrap());
    }
    out
}

async fn remove(node: &Node<SimDisk>, name: &str) {
    node.remove(Target::Path(path(name)), Removal::Single, None).await.unwrap();
}

fn segment_bytes(disk: &SimDisk) -> u64 {
    disk.files().into_iter().filter(|(name, _)| name.starts_with("segments/")).map(|(_, bytes)| bytes).sum()
}

fn run<T: 'static, F: Future<Output = T> + 'static>(seed: u64, main: impl FnOnce(SimDisk) -> F) -> T {
    let mut simulation = Simulation::new(seed);
    let disk = simulation.add_disk(DiskOptions::default());
    simulation.run(main(disk)).unwrap()
}

#[test]
fn what_was_removed_before_a_collection_gives_its_space_back() {
    run(1, |disk| async move {
        let nodes = open(&disk).await;
        let kept = random_bytes(1, 4 * MIB);
        put(&nodes[0], "/kept", &kept).await;
        put(&nodes[1], "/dead", &random_bytes(2, 16 * MIB)).await;
        let before = segment_bytes(&disk);
        remove(&nodes[0], "/dead").await;
        let report = nodes[1].collect(Collect::Now).await.unwrap();
        assert!(report.condemned_chunks > 100 && report.freed_segments >= 6, "{report:?}");
        assert_eq!((report.missing, report.kept), (0, 0));
        assert!(segment_bytes(&disk) + 10 * MIB as u64 <= before, "{} of {before}", segment_bytes(&disk));
        let stats = nodes[0].stats().await.unwrap();
        assert!(stats.store.unique_bytes < 4 * MIB as u64 + 16 * 1024, "{stats:?}");
        assert!(get(&nodes[1], "/kept").await == kept);
        let again = nodes[0].collect(Collect::Now).await.unwrap();
        assert_eq!(again.condemned_chunks, 0);
        // A start finds what is there, and no more.
        let nodes = open(&disk).await;
        assert!(get(&nodes[0], "/kept").await == kept);
        assert_eq!(nodes[0].stats().await.unwrap().store.chunks, stats.store.chunks);
    });
}

#[test]
fn a_read_that_began_before_the_file_was_removed_ends_well() {
    run(2, |disk| async move {
        let nodes = open(&disk).await;
        let bytes = random_bytes(3, 8 * MIB);
        put(&nodes[0], "/file", &bytes).await;
        let mut reader = nodes[1].open_file(Target::Path(path("/file"))).await.unwrap();
        let mut read = reader.next().await.unwrap().unwrap().to_vec();
        remove(&nodes[0], "/file").await;
        for _ in 0..3 {
            nodes[0].collect(Collect::Now).await.unwrap();
        }
        while let Some(more) = reader.next().await {
            read.extend_from_slice(&more.unwrap());
        }
        assert!(read == bytes);
        drop(reader);
        let report = nodes[0].collect(Collect::Now).await.unwrap();
        assert!(report.condemned_chunks > 50, "its lease has ended: {report:?}");
    });
}

#[test]
fn an_upload_may_take_many_cycles() {
    run(3, |disk| async move {
        let nodes = open(&disk).await;
        let bytes = random_bytes(4, 8 * MIB);
        // What it finds instead of storing dies meanwhile everywhere else.
        put(&nodes[0], "/source", &bytes[..3 * MIB]).await;
        let mut writer = nodes[1].create(path("/slow"), PutOptions::default()).unwrap();
        for part in bytes.chunks(2 * MIB) {
            writer.write(part).await.unwrap();
            if part.as_ptr() == bytes.as_ptr() {
                remove(&nodes[0], "/source").await;
            }
            nodes[0].collect(Collect::Now).await.unwrap();
        }
        writer.finish().await.unwrap();
        nodes[0].collect(Collect::Now).await.unwrap();
        assert!(get(&nodes[0], "/slow").await == bytes);
    });
}

#[test]
fn what_an_upload_asks_for_is_held_while_the_answer_is_confirmed() {
    for seed in 10..20 {
        run(seed, |disk| async move {
            let bytes = random_bytes(seed, 384 << 10);
            {
                let nodes = open(&disk).await;
                // Rows of their own, each of which is read to confirm what the upload finds.
                for (number, part) in bytes.chunks(48 << 10).enumerate() {
                    put(&nodes[0], &format!("/part{number}"), part).await;
                }
                put(&nodes[0], "/whole", &bytes).await;
                nodes[0].close().await.unwrap();
            }
            let nodes = open(&disk).await;
            disk.slow_nth(0, Duration::from_secs(600), Duration::from_secs(1));
            let mut writer = nodes[1].create(path("/again"), PutOptions::default()).unwrap();
            let upload = async {
                writer.write(&bytes).await.unwrap();
                writer.finish().await.unwrap();
            };
            let removal = async {
                for part in 0..8 {
                    remove(&nodes[0], &format!("/part{part}")).await;
                }
                remove(&nodes[0], "/whole").await;
                for _ in 0..4 {
                    nodes[0].collect(Collect::Once).await.unwrap();
                }
            };
            futures_util::future::join(upload, removal).await;
            assert!(get(&nodes[0], "/again").await == bytes);
        });
    }
}

#[test]
fn what_a_commit_refers_to_is_pinned_whichever_cycle_it_meets() {
    run(4, |disk| async move {
        let nodes = open(&disk).await;
        let bytes = random_bytes(5, 2 * MIB);
        for round in 0..30 {
            put(&nodes[0], "/file", &bytes).await;
            remove(&nodes[0], "/file").await;
            let collecting = nodes[0].collect(Collect::Now).shared();
            // It begins, and ends, somewhere in the middle of it.
            for _ in 0..round * 7 {
                assert!(collecting.clone().now_or_never().is_none() || round > 3);
                runtime::yield_now().await;
            }
            let name = format!("/again{round}");
            futures_util::future::join(put(&nodes[1], &name, &bytes), collecting).await.1.unwrap();
            assert!(get(&nodes[0], &name).await == bytes);
            remove(&nodes[0], &name).await;
        }
    });
}

#[test]
fn a_start_finishes_what_a_crash_left_of_a_freed_segment() {
    // Whatever the moment: the next start opens, all that is there reads, and nothing is left lying about.
    let mut frees_cut_short = 0;
    for steps in (200..30_000).step_by(977) {
        let mut simulation = Simulation::new(5);
        let disk = simulation.add_disk(DiskOptions::default());
        let kept = random_bytes(6, 2 * MIB);
        let (first, bytes) = (disk.clone(), kept.clone());
        let chunks = simulation
            .run(async move {
                let nodes = open(&first).await;
                put(&nodes[0], "/kept", &bytes).await;
                let chunks = nodes[0].stats().await.unwrap().store.chunks;
                put(&nodes[1], "/dead", &random_bytes(7, 6 * MIB)).await;
                remove(&nodes[0], "/dead").await;
                nodes[0].close().await.unwrap();
                chunks
            })
            .unwrap();
        let whole = segment_bytes(&disk);
        let second = disk.clone();
        let collected = simulation.run_until(steps, chaos::sim::Crash::Power, async move {
            let nodes = open(&second).await;
            nodes[0].collect(Collect::Now).await.unwrap();
        });
        let cut_short = matches!(collected.unwrap(), chaos::sim::Outcome::Crashed);
        frees_cut_short += u64::from(cut_short && segment_bytes(&disk) < whole);
        let third = disk.clone();
        simulation
            .run(async move {
                let nodes = open(&third).await;
                assert!(get(&nodes[1], "/kept").await == kept);
                nodes[0].collect(Collect::Now).await.unwrap();
                assert!(get(&nodes[1], "/kept").await == kept);
                assert_eq!(nodes[0].stats().await.unwrap().store.chunks, chunks);
            })
            .unwrap();
    }
    assert!(frees_cut_short > 0, "no crash met a free");
}

#[test]
fn a_reader_of_a_short_file_keeps_no_collection_waiting() {
    run(9, |disk| async move {
        let nodes = open(&disk).await;
        put(&nodes[0], "/short", b"it comes with the metadata").await;
        let reader = nodes[1].open_file(Target::Path(path("/short"))).await.unwrap();
        nodes[0].collect(Collect::Now).await.unwrap();
        drop(reader);
    });
}

#[test]
fn what_a_failing_disk_did_not_remove_is_removed_by_the_next_cycle() {
    run(7, |disk| async move {
        let nodes = open(&disk).await;
        put(&nodes[0], "/dead", &random_bytes(9, 8 * MIB)).await;
        remove(&nodes[0], "/dead").await;
        // The first of several that are freed together: the others are freed in the log alone.
        disk.fail_nth(Operation::Remove, 0);
        let why = nodes[0].collect(Collect::Now).await.unwrap_err();
        assert!(why.starts_with("files were not removed"), "{why}");
        assert!(segment_bytes(&disk) > 6 * MIB as u64);
        for _ in 0..2 {
            nodes[0].collect(Collect::Now).await.unwrap();
        }
        assert!(segment_bytes(&disk) < 5 * MIB as u64, "{}", segment_bytes(&disk));
    });
}

/// Pages of the manifest of 1 MiB.
const PAGES: u64 = 4;

#[test]
fn what_was_condemned_and_stored_again_before_the_next_checkpoint_is_counted_once() {
    let mut simulation = Simulation::new(6);
    let disk = simulation.add_disk(DiskOptions::default());
    let open = async |disk: &SimDisk| {
        let options = || NodeOptions { checkpoint_after_chunks: 1, ..options(disk) };
        Node::open_cores(options, 2).await.unwrap()
    };
    // What can be compressed is moved, so that the cycle takes a checkpoint of all.
    let (first, mut bytes) = (disk.clone(), random_bytes(8, MIB));
    bytes.iter_mut().for_each(|byte| *byte &= 15);
    bytes.chunks_exact_mut(64).for_each(|part| part.copy_within(..32, 32));
    let again = bytes.clone();
    let before = simulation
        .run(async move {
            let (nodes, _) = open(&first).await;
            put(&nodes[0], "/file", &bytes).await;
            // Its segments are sealed; then a checkpoint has them.
            nodes[0].collect(Collect::Now).await.unwrap();
            while nodes[0].stats().await.unwrap().index_checkpoints == 0 {
                runtime::sleep(Duration::from_millis(1)).await;
            }
            let before = nodes[0].stats().await.unwrap();
            remove(&nodes[0], "/file").await;
            let stored_again = async {
                while nodes[0].gc_status().await.phase.name() != "free" {
                    runtime::yield_now().await;
                }
                assert_eq!(nodes[0].stats().await.unwrap().store.chunks, 0, "all of it was condemned");
                put(&nodes[1], "/file", &bytes).await;
            };
            match select(pin!(nodes[0].collect(Collect::Once)), pin!(stored_again)).await {
                Either::Left(_) => panic!("the checkpoint that settles the sweep came first"),
                Either::Right(((), _)) => {
                    assert_eq!(nodes[0].stats().await.unwrap().index_checkpoints, before.index_checkpoints)
                }
            }
            before
        })
        .unwrap();
    simulation
        .run(async move {
            let (nodes, report) = open(&disk).await;
            assert_eq!(report.warnings, [""; 0]);
            assert_eq!(report.checkpoint_chunks, before.store.chunks);
            let stats = nodes[0].stats().await.unwrap().store;
            // The first pages name the places where the chunks were: they come back as well, as garbage.
            assert_eq!(stats.chunks, before.store.chunks + PAGES);
            let page_bytes = stats.unique_bytes - before.store.unique_bytes;
            assert!(page_bytes < PAGES * 256, "{page_bytes}");
            // The first copies go once the others were verified.
            let report = nodes[0].collect(Collect::Now).await.unwrap();
            assert_eq!((report.condemned_chunks, report.missing), (PAGES, 0));
            assert!(report.freed_bytes > MIB as u64 / 2, "{report:?}");
            assert!(get(&nodes[1], "/file").await == again);
        })
        .unwrap();
}
