//! What the node promises, each as one small run on simulated disks.

use std::sync::Arc;
use std::time::Duration;

use chaos::sim::{DiskOptions, Operation, SimDisk, Simulation};
use chunk::KeyRing;
use futures_util::FutureExt;
use node::namespace::AttributeChange;
use node::{Attributes, Condition, FileReadError, Node, NodeOptions, PutOptions, Removal, Session, Target};
use proto::VersionNumber;
use proto::limits::{
    CHUNK_BYTES_MAX, CHUNK_BYTES_MIN, INLINE_BYTES_MAX, MANIFEST_PAGE_ENTRIES_MAX, ROW_QUEUE_BYTES_MAX,
};
use proto::path::FsPath;
use proto::port::{Disk, runtime};

fn path(text: &str) -> FsPath {
    FsPath::parse(text).unwrap()
}

async fn open(disks: Vec<SimDisk>) -> Node<SimDisk> {
    let keys = Arc::new(KeyRing::generate(1, [7; 32]));
    Node::open(NodeOptions::new(disks, keys)).await.unwrap().0
}

async fn put(node: &Node<SimDisk>, name: &str, bytes: &[u8]) {
    let mut writer = node.create(path(name), PutOptions::default()).unwrap();
    for part in bytes.chunks(100_000) {
        writer.write(part).await.unwrap();
    }
    writer.finish().await.unwrap();
}

async fn get(node: &Node<SimDisk>, name: &str, range: Option<std::ops::Range<u64>>) -> Result<Vec<u8>, FileReadError> {
    let mut reader = node.open_file(Target::Path(path(name))).await?;
    if let Some(range) = range {
        reader.restrict(range);
    }
    let mut out = Vec::new();
    while let Some(bytes) = reader.next().await {
        out.extend_from_slice(&bytes?);
    }
    Ok(out)
}

fn random_bytes(seed: u64, bytes: usize) -> Vec<u8> {
    let mut out = vec![0; bytes];
    chaos::sim::Random::new(seed).fill(&mut out);
    out
}

/// Runs `main` with a fresh disk.
fn run<T: 'static, F: Future<Output = T> + 'static>(seed: u64, main: impl FnOnce(SimDisk) -> F) -> T {
    let mut simulation = Simulation::new(seed);
    let disk = simulation.add_disk(DiskOptions::default());
    simulation.run(main(disk)).unwrap()
}

#[test]
fn a_file_of_many_chunks_is_a_tree_of_manifest_pages() {
    run(1, |disk| async move {
        // One chunk more than a page holds, even if every chunk were of the smallest size.
        let bytes = random_bytes(1, CHUNK_BYTES_MIN * MANIFEST_PAGE_ENTRIES_MAX * 4);
        let node = open(vec![disk.clone()]).await;
        put(&node, "/large", &bytes).await;
        node.close().await.unwrap();
        let node = open(vec![disk]).await;
        assert!(get(&node, "/large", None).await.unwrap() == bytes);
        let len = bytes.len() as u64;
        for range in [0..1, len - 1..len, len / 2 - 70_000..len / 2 + 70_000, len - 5..len + 5, 7..7, len..len + 1] {
            let read = get(&node, "/large", Some(range.clone())).await.unwrap();
            let clipped = range.start.min(len) as usize..range.end.min(len) as usize;
            assert!(read == bytes[clipped], "{range:?}");
        }
    });
}

#[test]
fn manifests_of_every_shape_read_back() {
    run(7, |disk| async move {
        let keys = Arc::new(KeyRing::generate(1, [7; 32]));
        let options = NodeOptions { manifest_page_entries: 2, ..NodeOptions::new(vec![disk], keys) };
        let node = Node::open(options).await.unwrap().0;
        // With two entries a page, these files have 1 to 17 or more chunks: every way in which levels can be full.
        let bytes = random_bytes(7, 18 * CHUNK_BYTES_MAX);
        for chunks in 1..=18 {
            let bytes = &bytes[..chunks * CHUNK_BYTES_MAX];
            put(&node, "/file", bytes).await;
            assert!(get(&node, "/file", None).await.unwrap() == bytes, "{chunks}");
            let middle = bytes.len() as u64 / 2;
            let part = get(&node, "/file", Some(middle..middle + 10)).await.unwrap();
            assert_eq!(part, bytes[middle as usize..][..10]);
        }
    });
}

#[test]
fn the_same_bytes_are_stored_once() {
    run(2, |disk| async move {
        let node = open(vec![disk.clone()]).await;
        let bytes = random_bytes(2, 3 << 20);
        // At the same time, so that one finds the other's chunks still on their way.
        futures_util::future::join(put(&node, "/a", &bytes), put(&node, "/b", &bytes)).await;
        put(&node, "/c", &bytes).await;
        let stats = node.stats().await.unwrap();
        assert_eq!((stats.logical_bytes, stats.store.unique_bytes), (9 << 20, 3 << 20));
        node.close().await.unwrap();
        let node = open(vec![disk]).await;
        let recovered = node.stats().await.unwrap();
        assert_eq!(recovered.store.unique_bytes, stats.store.unique_bytes);
        assert_eq!((recovered.store.chunks, recovered.logical_bytes), (stats.store.chunks, stats.logical_bytes));
        put(&node, "/d", &bytes).await;
        assert_eq!(node.stats().await.unwrap().store.unique_bytes, 3 << 20);
    });
}

#[test]
fn concurrent_small_files_share_syncs() {
    run(3, |disk| async move {
        let node = open(vec![disk]).await;
        let elapsed = |since: Duration| runtime::monotonic() - since;
        for bytes in [INLINE_BYTES_MAX, 20_000] {
            let start = runtime::monotonic();
            for file in 0..64 {
                put(&node, &format!("/alone-{bytes}-{file}"), &random_bytes(file, bytes)).await;
            }
            let alone = elapsed(start);
            let start = runtime::monotonic();
            let puts = (0..64).map(|file| {
                let node = node.clone();
                async move { put(&node, &format!("/together-{bytes}-{file}"), &random_bytes(1000 + file, bytes)).await }
            });
            futures_util::future::join_all(puts).await;
            let together = elapsed(start);
            assert!(together * 8 < alone, "{bytes} bytes: {together:?} together, {alone:?} one after the other");
        }
    });
}

#[test]
fn damage_is_an_error_that_names_file_and_range() {
    run(4, |disk| async move {
        let node = open(vec![disk.clone()]).await;
        let bytes = random_bytes(4, 1 << 20);
        put(&node, "/precious", &bytes).await;
        let (segment, length) =
            disk.files().into_iter().find(|(name, _)| name.starts_with("segments/")).expect("a segment was written");
        let mut damaged = 0;
        for offset in (8192..(1 << 20).min(length)).step_by(50_000) {
            assert!(disk.corrupt(&segment, offset, 3));
            match get(&node, "/precious", None).await {
                Ok(read) => assert!(read == bytes, "wrong bytes were returned"),
                Err(FileReadError::Damaged { path, range, .. }) => {
                    assert_eq!(path, "/precious");
                    assert!(range.end <= 1 << 20 && !range.is_empty());
                    damaged += 1;
                }
                Err(other) => panic!("{other}"),
            }
        }
        assert!(damaged > 10, "the damage was not noticed");
        // Once every damaged block was met, the bytes can be stored again: such a block answers no more duplicates.
        for start in (0..1 << 20).step_by(CHUNK_BYTES_MIN) {
            let _ = get(&node, "/precious", Some(start..start + 1)).await;
        }
        put(&node, "/again", &bytes).await;
        assert!(get(&node, "/again", None).await.unwrap() == bytes);
    });
}

#[test]
fn chunks_go_to_every_data_directory_and_come_back() {
    let mut simulation = Simulation::new(5);
    let disks: Vec<SimDisk> = (0..3).map(|_| simulation.add_disk(DiskOptions::default())).collect();
    simulation
        .run(async move {
            let bytes: Vec<Vec<u8>> = (0..3).map(|seed| random_bytes(50 + seed, 70 << 20)).collect();
            let node = open(disks.clone()).await;
            for (file, bytes) in bytes.iter().enumerate() {
                put(&node, &format!("/{file}"), bytes).await;
            }
            node.close().await.unwrap();
            for disk in &disks {
                assert!(disk.files().iter().any(|(name, _)| name.starts_with("segments/")), "a directory is unused");
            }
            // The order in which the directories are given does not matter.
            let node = open(disks.iter().rev().cloned().collect()).await;
            for (file, bytes) in bytes.iter().enumerate() {
                assert!(get(&node, &format!("/{file}"), None).await.unwrap() == *bytes);
            }
        })
        .unwrap();
}

#[test]
fn a_missing_or_foreign_data_directory_is_refused() {
    let mut simulation = Simulation::new(6);
    let disks: Vec<SimDisk> = (0..3).map(|_| simulation.add_disk(DiskOptions::default())).collect();
    simulation
        .run(async move {
            let try_open = |disks: Vec<SimDisk>, key: u8| async move {
                let keys = Arc::new(KeyRing::generate(1, [key; 32]));
                Node::open(NodeOptions::new(disks, keys)).await.map(|_| ()).map_err(|error| error.to_string())
            };
            let pair = vec![disks[0].clone(), disks[1].clone()];
            let node = open(pair.clone()).await;
            put(&node, "/file", &random_bytes(6, 100_000)).await;
            node.close().await.unwrap();
            let error = try_open(vec![disks[0].clone()], 7).await.unwrap_err();
            assert!(error.contains("1 were given, the node has 2"), "{error}");
            let error = try_open(vec![disks[0].clone(), disks[2].clone()], 7).await.unwrap_err();
            assert!(error.contains("directory 2 is blank"), "{error}");
            let error = try_open(pair.clone(), 8).await.unwrap_err();
            assert!(error.contains("ring key 1"), "{error}");
            try_open(pair, 7).await.unwrap();
        })
        .unwrap();
}

#[test]
fn lost_metadata_is_never_taken_for_a_new_node() {
    run(8, |disk| async move {
        let node = open(vec![disk.clone()]).await;
        put(&node, "/inline", b"small").await;
        node.close().await.unwrap();
        for name in disk.list("meta").await.unwrap() {
            disk.remove(&format!("meta/{name}")).await.unwrap();
        }
        for _ in 0..2 {
            let keys = Arc::new(KeyRing::generate(1, [7; 32]));
            let error = Node::open(NodeOptions::new(vec![disk.clone()], keys)).await.map(|_| ()).unwrap_err();
            assert!(error.to_string().contains("metadata is gone"), "{error}");
        }
    });
}

#[test]
fn a_write_lands_at_its_path_though_the_directory_moves_away() {
    // Whether the write or the move comes first is for the tasks to decide.
    let moved_first = |seed| {
        run(seed, |disk| async move {
            let node = open(vec![disk]).await;
            put(&node, "/a/old", b"old").await;
            let (from, to) = (path("/a"), path("/b"));
            let (moved, ()) =
                futures_util::future::join(node.rename(from, to, false, None), put(&node, "/a/new", b"new")).await;
            moved.unwrap();
            assert_eq!(get(&node, "/b/old", None).await.unwrap(), b"old");
            let (stayed, followed) = (get(&node, "/a/new", None).await, get(&node, "/b/new", None).await);
            assert_ne!(stayed.is_ok(), followed.is_ok(), "it is in one place");
            let moved_first = stayed.is_ok();
            assert_eq!(stayed.or(followed).unwrap(), b"new");
            moved_first
        })
    };
    let moved_first: Vec<bool> = (0..20).map(moved_first).collect();
    assert!(moved_first.contains(&true) && moved_first.contains(&false), "{moved_first:?}");
}

#[test]
fn what_is_moved_out_of_a_directory_under_removal_survives() {
    run(10, |disk| async move {
        let node = open(vec![disk]).await;
        let puts = (0..600).map(|file| {
            let node = node.clone();
            async move { put(&node, &format!("/d/sub/{file}"), b"x").await }
        });
        futures_util::future::join_all(puts).await;
        let (target, from, to) = (Target::Path(path("/d")), path("/d/sub"), path("/kept"));
        let (removed, moved) = futures_util::future::join(
            node.remove(target.clone(), Removal::Recursive, None),
            node.rename(from, to.clone(), false, None),
        )
        .await;
        removed.unwrap();
        moved.unwrap();
        assert!(node.stat(target).await.is_err());
        let kept = node.list(Target::Path(to), None, 1000).await.unwrap().entries.len();
        // The removal had begun in there: one step of it may have been under way.
        assert!((300..600).contains(&kept), "{kept} of 600 files are left");
    });
}

#[test]
fn repeated_requests_get_their_first_answer_though_the_names_are_gone() {
    run(11, |disk| async move {
        let node = open(vec![disk]).await;
        let session = |sequence| Some(Session::Numbered { client: 1, sequence, acked_below: 0 });
        put(&node, "/file", b"x").await;
        let by_id = Target::Id(node.stat(Target::Path(path("/file"))).await.unwrap().id);
        for _ in 0..2 {
            node.remove(by_id.clone(), Removal::Single, session(1)).await.unwrap();
        }
        put(&node, "/from/file", b"x").await;
        let (from, to) = (path("/from/file"), path("/to"));
        let first = node.rename(from.clone(), to.clone(), false, session(2)).await.unwrap();
        node.remove(Target::Path(path("/from")), Removal::Single, None).await.unwrap();
        assert_eq!(node.rename(from.clone(), to.clone(), false, session(2)).await.unwrap(), first);
        assert!(
            node.rename(from.clone(), to.clone(), false, session(3)).await.is_err(),
            "a new request finds nothing to move"
        );
        node.make_directory(path("/gone/sub"), Attributes::default(), session(4)).await.unwrap();
        let gone = Target::Path(path("/gone"));
        node.remove(gone.clone(), Removal::Recursive, session(5)).await.unwrap();
        put(&node, "/gone/new", b"of somebody else").await;
        node.remove(gone.clone(), Removal::Recursive, session(5)).await.unwrap();
        assert_eq!(get(&node, "/gone/new", None).await.unwrap(), b"of somebody else");
        put(&node, "/again", b"x").await;
        let restore = || node.restore(path("/again"), VersionNumber(1), Condition::Any, session(6));
        assert_eq!(restore().await.unwrap().version(), VersionNumber(2));
        node.remove(Target::Path(path("/again")), Removal::Single, None).await.unwrap();
        assert_eq!(restore().await.unwrap().version(), VersionNumber(2));
    });
}

#[test]
fn writes_go_to_the_other_directories_when_one_fails() {
    let mut simulation = Simulation::new(12);
    let disks: Vec<SimDisk> = (0..2).map(|_| simulation.add_disk(DiskOptions::default())).collect();
    simulation
        .run(async move {
            for operation in [Operation::Create, Operation::SyncDir] {
                let node = open(disks.clone()).await;
                // The second directory has more space, as the metadata lies in the first, and is chosen before it.
                disks[1].fail_nth(operation, 0);
                let bytes = random_bytes(12, 100_000);
                let name = format!("/{operation:?}");
                put(&node, &name, &bytes).await;
                assert!(get(&node, &name, None).await.unwrap() == bytes);
                let (spared, failed) = (disks[0].files(), disks[1].files());
                let segments =
                    |files: &[(String, u64)]| files.iter().filter(|(name, _)| name.starts_with("seg")).count();
                assert!(segments(&spared) > segments(&failed), "{operation:?} did not fail");
                node.close().await.unwrap();
            }
        })
        .unwrap();
}

#[test]
#[should_panic(expected = "a writer that failed is dropped")]
fn a_write_that_was_broken_off_is_never_committed() {
    run(13, |disk| async move {
        let node = open(vec![disk]).await;
        let mut writer = node.create(path("/file"), PutOptions::default()).unwrap();
        assert!(writer.write(&random_bytes(13, 8 << 20)).now_or_never().is_none(), "the upload fits its window");
        let _ = writer.finish().await;
    });
}

#[test]
fn a_flipped_bit_in_an_unsealed_row_costs_one_block_and_not_the_row() {
    run(9, |disk| async move {
        let node = open(vec![disk.clone()]).await;
        let bytes = random_bytes(9, 1 << 20);
        put(&node, "/file", &bytes).await;
        // The segment stays open, as a crash would leave it.
        let (segment, _) = disk.files().into_iter().find(|(name, _)| name.starts_with("segments/")).unwrap();
        assert!(disk.corrupt(&segment, 1 << 19, 0));
        let node = open(vec![disk]).await;
        let (mut intact, mut damaged) = (0, 0);
        for start in (0..1u64 << 20).step_by(CHUNK_BYTES_MIN) {
            match get(&node, "/file", Some(start..start + 1)).await {
                Ok(read) => {
                    assert_eq!(read, bytes[start as usize..][..1]);
                    intact += 1;
                }
                Err(FileReadError::Damaged { .. }) => damaged += 1,
                Err(other) => panic!("{other}"),
            }
        }
        assert!(damaged > 0 && damaged <= CHUNK_BYTES_MAX / CHUNK_BYTES_MIN + 1 && intact > 20, "{damaged} {intact}");
    });
}

#[test]
fn what_was_stored_again_after_damage_is_found_after_a_restart() {
    const PIECE_BYTES: u64 = 8 << 20;
    let small = |disk: SimDisk| NodeOptions {
        piece_bytes: PIECE_BYTES,
        ..NodeOptions::new(vec![disk], Arc::new(KeyRing::generate(1, [7; 32])))
    };
    // The second copy may lie in a segment with a lower or a higher number than the first, which a footer still lists.
    for seed in 20..36 {
        run(seed, move |disk| async move {
            let node = Node::open(small(disk.clone())).await.unwrap().0;
            let bytes = random_bytes(seed, 1 << 20);
            put(&node, "/filler", &random_bytes(seed + 100, 1 << 20)).await;
            put(&node, "/first", &bytes).await;
            let is_sealed = |(name, length): &(String, u64)| name.starts_with("segments/") && *length < PIECE_BYTES;
            for filler in 0..20 {
                if disk.files().iter().any(is_sealed) {
                    break;
                }
                put(&node, &format!("/filler{filler}"), &random_bytes(seed + 200 + filler, 1 << 20)).await;
            }
            for (segment, length) in disk.files().into_iter().filter(is_sealed) {
                for offset in (8192..length - (64 << 10)).step_by(CHUNK_BYTES_MIN) {
                    disk.corrupt(&segment, offset, 0);
                }
            }
            for start in (0..1 << 20).step_by(CHUNK_BYTES_MIN).chain([(1 << 20) - 1]) {
                let _ = get(&node, "/first", Some(start..start + 1)).await;
            }
            put(&node, "/second", &bytes).await;
            let node = Node::open(small(disk)).await.unwrap().0;
            for name in ["/first", "/second"] {
                assert!(get(&node, name, None).await.unwrap() == bytes, "{name}");
            }
        });
    }
}

/// Starts a node of two cores with small segments, which takes a checkpoint of the index once `after` chunks are new.
async fn open_two(disk: SimDisk, after: u64) -> (Vec<Node<SimDisk>>, node::OpenReport) {
    let options = || NodeOptions {
        piece_bytes: 8 << 20,
        checkpoint_after_chunks: after,
        ..NodeOptions::new(vec![disk.clone()], Arc::new(KeyRing::generate(1, [7; 32])))
    };
    Node::open_cores(options, 2).await.unwrap()
}

/// Waits until `taken` checkpoints of the index were taken since the start.
async fn wait_for_checkpoints(node: &Node<SimDisk>, taken: u64) {
    while node.stats().await.unwrap().index_checkpoints < taken {
        runtime::sleep(Duration::from_millis(1)).await;
    }
}

#[test]
fn a_checkpoint_covers_no_segment_that_a_slower_core_opens_afterwards() {
    run(40, |disk| async move {
        let (nodes, _) = open_two(disk.clone(), 500).await;
        // One core fills segments while the other opens none, so that its next ones have lower numbers.
        put(&nodes[1], "/fast", &random_bytes(40, 60 << 20)).await;
        wait_for_checkpoints(&nodes[0], 1).await;
        put(&nodes[0], "/slow", &random_bytes(41, 16 << 20)).await;
        let stats = nodes[0].stats().await.unwrap();
        assert_eq!(stats.index_checkpoints, 1, "what was written last is in no checkpoint");
        let (nodes, report) = open_two(disk, 500).await;
        assert!(report.checkpoint_chunks > 0);
        let recovered = nodes[0].stats().await.unwrap();
        assert_eq!((recovered.store.chunks, recovered.store.unique_bytes), (stats.store.chunks, 76 << 20));
    });
}

#[test]
fn a_segment_that_could_not_be_sealed_is_counted_once() {
    run(42, |disk| async move {
        let (nodes, _) = open_two(disk.clone(), 1).await;
        let sealed = |disk: &SimDisk| {
            let files = disk.files().into_iter();
            files.filter(|(name, length)| name.starts_with("segments/") && *length < 8 << 20).count()
        };
        assert_eq!(sealed(&disk), 0);
        // A footer is cut to its length after it was written; the segments of rows are not.
        disk.fail_nth(Operation::SetLen, 0);
        put(&nodes[1], "/file", &random_bytes(42, 40 << 20)).await;
        wait_for_checkpoints(&nodes[0], 2).await;
        let stats = nodes[0].stats().await.unwrap();
        let (nodes, report) = open_two(disk, 1).await;
        assert!(report.checkpoint_chunks > 0);
        let recovered = nodes[0].stats().await.unwrap();
        assert_eq!((recovered.store.chunks, recovered.store.unique_bytes), (stats.store.chunks, 40 << 20));
    });
}

#[test]
fn a_node_starts_on_a_disk_that_is_full_to_the_last_byte() {
    let mut simulation = Simulation::new(43);
    let disk = simulation.add_disk(DiskOptions::default());
    let first = disk.clone();
    let filled = async move {
        let node = open(vec![first]).await;
        for file in 0..8 {
            put(&node, &format!("/{file}"), b"short").await;
        }
    };
    simulation.run(filled).unwrap();
    let full = disk.clone();
    let fill = async move {
        let space = full.space().await.unwrap();
        full.resize(space.total_bytes - space.free_bytes);
    };
    simulation.run(fill).unwrap();
    for start in 0..20 {
        let disk = disk.clone();
        let started = async move {
            let node = open(vec![disk]).await;
            for file in 1..8 {
                assert_eq!(get(&node, &format!("/{file}"), None).await.unwrap(), b"short", "start {start}");
            }
            if start == 0 {
                node.remove(Target::Path(path("/0")), Removal::Single, None).await.unwrap();
            }
        };
        simulation.run(started).unwrap();
    }
}

#[test]
fn a_log_without_room_for_a_segment_is_a_full_disk_and_not_a_broken_log() {
    let mut simulation = Simulation::new(44);
    let disks: Vec<SimDisk> = (0..2).map(|_| simulation.add_disk(DiskOptions::default())).collect();
    simulation
        .run(async move {
            let node = open(disks.clone()).await;
            put(&node, "/file", b"short").await;
            // The metadata lies on the first disk, the data on the second, which has more space.
            let space = disks[0].space().await.unwrap();
            disks[0].resize(space.total_bytes - space.free_bytes);
            let change = AttributeChange { mode: Some(0o600), ..AttributeChange::default() };
            while node.set_attributes(Target::Path(path("/file")), change.clone(), None).await.is_ok() {}
            let files = disks[1].files();
            let mut writer = node.create(path("/large"), PutOptions::default()).unwrap();
            let written = async {
                writer.write(&random_bytes(44, 1 << 20)).await?;
                writer.finish().await
            };
            let error = written.await.unwrap_err();
            assert!(error.to_string().contains("no room for a new segment"), "{error}");
            assert_eq!(disks[1].files(), files, "what was made for the segment is gone again");
            disks[0].resize(space.total_bytes);
            put(&node, "/large", &random_bytes(44, 1 << 20)).await;
        })
        .unwrap();
}

#[test]
fn a_row_goes_to_the_last_segment_that_has_room_whoever_has_it() {
    let mut simulation = Simulation::new(45);
    // What is kept for metadata, its log, two segments that are kept for compaction, and room for one and half of another.
    let disk = simulation.add_disk(DiskOptions { capacity_bytes: (64 + 4 + 16 + 12) << 20, ..DiskOptions::default() });
    simulation
        .run(async move {
            let options = NodeOptions {
                piece_bytes: 8 << 20,
                ..NodeOptions::new(vec![disk.clone()], Arc::new(KeyRing::generate(1, [7; 32])))
            };
            let node = Node::open(options).await.unwrap().0;
            // Each row is wanted at once, so that both lanes have work.
            let puts = (0..6).map(|file| {
                let node = node.clone();
                async move { put(&node, &format!("/{file}"), &random_bytes(450 + file, 1 << 20)).await }
            });
            futures_util::future::join_all(puts).await;
            for file in 0..6 {
                assert!(get(&node, &format!("/{file}"), None).await.unwrap() == random_bytes(450 + file, 1 << 20));
            }
            // The segment that both share is full at last: that is an answer, not a wait.
            let mut writer = node.create(path("/more"), PutOptions::default()).unwrap();
            let written = async {
                writer.write(&random_bytes(460, 4 << 20)).await?;
                writer.finish().await
            };
            let error = written.await.unwrap_err().to_string();
            assert!(error.contains("no disk has"), "{error}");
            node.close().await.unwrap();
        })
        .unwrap();
}

#[test]
fn cores_that_want_segments_at_once_find_the_room_on_different_disks() {
    let mut simulation = Simulation::new(46);
    // Room for one segment of 8 MiB on each, and half of another, besides the three that are kept for compaction.
    let options = DiskOptions { capacity_bytes: (64 + 4 + 24 + 12) << 20, ..DiskOptions::default() };
    let disks: Vec<SimDisk> = (0..2).map(|_| simulation.add_disk(options)).collect();
    simulation
        .run(async move {
            let options = || NodeOptions {
                piece_bytes: 8 << 20,
                ..NodeOptions::new(disks.clone(), Arc::new(KeyRing::generate(1, [7; 32])))
            };
            let nodes = Node::open_cores(options, 2).await.unwrap().0;
            let puts = (0..2).map(|core| {
                let node = nodes[core].clone();
                async move { put(&node, &format!("/{core}"), &random_bytes(470 + core as u64, 1 << 20)).await }
            });
            futures_util::future::join_all(puts).await;
        })
        .unwrap();
}

#[test]
fn an_upload_that_goes_away_while_it_waits_for_room_leaves_nothing() {
    run(47, |disk| async move {
        let node = open(vec![disk]).await;
        let part = 512 << 10;
        // Half as much again as the queue holds, all handed over before any of it is durable.
        let mut uploads: Vec<_> = (0..ROW_QUEUE_BYTES_MAX * 3 / 2 / part)
            .map(|file| {
                let (node, name) = (node.clone(), format!("/{file}"));
                Box::pin(async move { put(&node, &name, &random_bytes(1000 + file as u64, part)).await })
            })
            .collect();
        for upload in &mut uploads {
            assert!(upload.as_mut().now_or_never().is_none());
        }
        for _ in 0..uploads.len() {
            runtime::yield_now().await;
        }
        let mut late = node.create(path("/late"), PutOptions::default()).unwrap();
        assert!(late.write(&random_bytes(999, part)).now_or_never().is_none(), "there is no room");
        drop(late);
        futures_util::future::join_all(uploads).await;
        node.close().await.unwrap();
        let stats = node.stats().await.unwrap();
        assert_eq!(stats.store.unique_bytes, stats.logical_bytes);
    });
}

#[test]
fn a_long_listing_is_whole_and_goes_on_where_it_ended() {
    run(48, |disk| async move {
        let node = open(vec![disk]).await;
        let names: Vec<String> = (0..1203).map(|file| format!("{file:04}")).collect();
        let puts = names.iter().map(|name| {
            let node = node.clone();
            async move { put(&node, &format!("/d/{name}"), b"x").await }
        });
        futures_util::future::join_all(puts).await;
        let directory = Target::Path(path("/d"));
        for limit in [1, 499, 500, 501, 1000, 1001, 1202, 1203, 1204, 10_000] {
            let page = node.list(directory.clone(), None, limit).await.unwrap();
            let listed: Vec<&str> = page.entries.iter().map(|entry| entry.inode.name.as_str()).collect();
            let whole = limit.min(names.len());
            assert_eq!(listed, names[..whole], "{limit}");
            assert_eq!(page.next_after.as_ref(), (whole < names.len()).then(|| &names[whole - 1]), "{limit}");
        }
    });
}
