//! The embedded backend over a disk that crashes, tears, fails and fills up.

use std::cell::Cell;
use std::future::Future;
use std::rc::Rc;
use std::sync::Arc;

use futures_util::future::join_all;
use proto::limits::{
    MANIFEST_PAGE_ENTRIES_MAX, SECTOR_BYTES, SNAPSHOT_ASIDE_BYTES_MAX, WAL_FILE_BYTES_TARGET, WAL_RESERVE_BYTES,
};
use proto::port::KeyError;
use proto::{ClusterId, DeviceId, DomainId, VersionNumber};

use super::*;
use crate::command::{Attributes, Condition, Content, Place, Session};
use crate::exec::exec;
use crate::manifest::ManifestEntry;
use crate::testing::{MemDisk, Rng, TestKeys, block_on, run_for};

const SHARD: VirtualShard = VirtualShard(3);

fn options(disk: &MemDisk) -> SoloOptions<MemDisk> {
    SoloOptions {
        disk: disk.clone(),
        cluster: ClusterId([1; 16]),
        device: DeviceId([2; 16]),
        stream: 0,
        keys: Arc::new(TestKeys(7)),
        snapshot_after_wal_bytes: u64::MAX / 4,
        wal_reserve_bytes: WAL_RESERVE_BYTES,
        must_exist: false,
    }
}

fn put(name: &str, bytes: &[u8]) -> Command {
    Command::CommitFile {
        at: Place::in_directory(InodeId::ROOT, name),
        content: Content::Inline(bytes.to_vec()),
        attributes: Attributes::default(),
        condition: Condition::Any,
        session: None,
        now_ns: 5,
        pin_epoch: 0,
    }
}

/// A command that the state machine refuses, of about `bytes` bytes.
fn padding(bytes: usize) -> Command {
    Command::MakeSymlink {
        at: Place::in_directory(InodeId::ROOT, "padding"),
        target: "x".repeat(bytes),
        attributes: Attributes::default(),
        session: None,
        now_ns: 5,
    }
}

impl Solo<MemDisk> {
    async fn put(&self, name: &str) -> Response {
        self.propose(SHARD, put(name, name.as_bytes())).await.expect("the log takes it")
    }

    fn names(&self) -> Vec<String> {
        self.view(|view| view.list(InodeId::ROOT, None, usize::MAX).into_iter().map(|(name, _)| name).collect())
    }
}

/// Opens the store on `disk` and hands it to `body`.
fn with_store<T: 'static, F: Future<Output = T>>(disk: &MemDisk, body: impl FnOnce(Solo<MemDisk>) -> F + 'static) -> T {
    let options = options(disk);
    block_on(async move {
        let solo = Solo::open(options).await.unwrap_or_else(|error| panic!("{error}"));
        body(solo).await
    })
}

fn open_error(options: SoloOptions<MemDisk>) -> OpenError {
    block_on(async move {
        match Solo::open(options).await {
            Ok(_) => panic!("the store should not open"),
            Err(error) => error,
        }
    })
}

/// The log files, oldest first.
fn wals(disk: &MemDisk) -> Vec<String> {
    disk.names().into_iter().filter(|name| name.contains("wal-")).collect()
}

fn snapshots(disk: &MemDisk) -> Vec<String> {
    disk.names().into_iter().filter(|name| name.contains("snapshot")).collect()
}

#[test]
fn a_restart_brings_back_the_same_bytes() {
    let disk = MemDisk::default();
    let (digest, lsn) = with_store(&disk, async |solo| {
        for name in ["b", "a", "c"] {
            assert!(matches!(solo.put(name).await, Response::Committed { created: true, .. }));
        }
        assert!(solo.wal_bytes() > 0);
        (solo.state_digest(), solo.last_applied())
    });
    assert_eq!(lsn, Lsn(4));
    for _ in 0..3 {
        let again = with_store(&disk, async |solo| {
            assert_eq!(solo.names(), ["a", "b", "c"]);
            (solo.state_digest(), solo.last_applied())
        });
        assert_eq!(again, (digest, lsn));
    }
    assert_eq!(wals(&disk).len(), 2, "starts without commands leave one empty log, not many");
}

#[test]
fn a_store_that_was_formatted_before_is_not_made_anew() {
    let disk = MemDisk::default();
    let expecting = SoloOptions { must_exist: true, ..options(&disk) };
    for _ in 0..2 {
        assert!(matches!(open_error(expecting.clone()), OpenError::Lost));
    }
    with_store(&disk, async |solo| solo.put("f").await);
    assert!(block_on(async { Solo::open(expecting).await.is_ok() }));
}

#[test]
fn what_was_answered_is_seen_and_survives_power_loss() {
    let disk = MemDisk::default();
    with_store(&disk, async |solo| {
        let Response::Committed { inode, .. } = solo.put("f").await else { panic!() };
        let content = solo.view(|view| view.content(inode, VersionNumber(1)));
        assert_eq!(content, Some(Content::Inline(b"f".to_vec())));
    });
    for seed in 0..20 {
        let disk = disk.copy();
        disk.crash(&mut Rng(seed));
        with_store(&disk, async |solo| assert_eq!(solo.names(), ["f"]));
    }
}

#[test]
fn concurrent_commands_share_a_sync() {
    let disk = MemDisk::default();
    let syncs = disk.clone();
    with_store(&disk, async move |solo| {
        let before = syncs.syncs();
        let names: Vec<String> = (0..200).map(|number| format!("{number:03}")).collect();
        join_all(names.iter().map(|name| solo.put(name))).await;
        assert_eq!(solo.names(), names);
        assert!(syncs.syncs() - before <= 2, "{} syncs", syncs.syncs() - before);
    });
}

#[test]
fn a_full_queue_and_a_large_command_are_refused() {
    let disk = MemDisk::default();
    with_store(&disk, async |solo| {
        let too_large = solo.propose(SHARD, padding(COMMAND_BYTES_MAX)).await;
        assert!(matches!(too_large, Err(ProposeError::TooLarge { .. })));
        let many = WAL_QUEUE_COMMANDS_MAX + 10;
        let answers = join_all((0..many).map(|_| solo.propose(SHARD, put("f", b"")))).await;
        let busy = answers.iter().filter(|answer| **answer == Err(ProposeError::Busy)).count();
        assert_eq!(busy, 10);
        let large = WAL_QUEUE_BYTES_MAX / (COMMAND_BYTES_MAX - 1000) + 1;
        let answers = join_all((0..large).map(|_| solo.propose(SHARD, padding(COMMAND_BYTES_MAX - 1000)))).await;
        assert_eq!(answers.last(), Some(&Err(ProposeError::Busy)));
        assert!(answers[..large - 1].iter().all(Result::is_ok));
        solo.put("after").await;
    });
}

#[test]
fn watchers_are_woken_by_the_next_command_and_bounded() {
    let disk = MemDisk::default();
    with_store(&disk, async |solo| {
        let mut watchers: Vec<_> = (0..EVENT_WAITERS_MAX).map(|_| solo.watch().unwrap()).collect();
        assert_eq!(solo.watch().err(), Some(ProposeError::Busy));
        watchers.pop();
        let mut last = solo.watch().expect("one that went away makes room");
        assert_eq!(last.try_recv(), Ok(None));
        solo.put("f").await;
        assert_eq!(last.try_recv(), Ok(Some(())));
        assert!(watchers.iter_mut().all(|watcher| watcher.try_recv() == Ok(Some(()))));
        assert!(solo.watch().is_ok());
    });
}

#[test]
fn a_command_is_carried_out_although_its_caller_went_away() {
    let disk = MemDisk::default();
    with_store(&disk, async |solo| {
        let mut abandoned = Box::pin(solo.propose(SHARD, put("f", b"")));
        assert!(futures_util::poll!(&mut abandoned).is_pending());
        drop(abandoned);
        solo.put("g").await;
        assert_eq!(solo.names(), ["f", "g"]);
    });
}

#[test]
fn exactly_once_holds_across_a_restart() {
    let disk = MemDisk::default();
    let command = Command::Unlink {
        parent: InodeId::ROOT,
        name: "f".into(),
        inode: None,
        condition: Condition::Any,
        session: Some(Session::Numbered { client: 1, sequence: 1, acked_below: 0 }),
        now_ns: 6,
    };
    let again = command.clone();
    let first = with_store(&disk, async move |solo| {
        solo.put("f").await;
        solo.propose(SHARD, command).await.unwrap()
    });
    assert!(matches!(first, Response::Unlinked { .. }));
    let second = with_store(&disk, async move |solo| solo.propose(SHARD, again).await.unwrap());
    assert_eq!(second, first);
}

#[test]
fn a_failed_write_stops_the_log_for_good() {
    let disk = MemDisk::default();
    let broken = disk.clone();
    with_store(&disk, async move |solo| {
        solo.put("a").await;
        broken.fail_after(0);
        let lost = solo.propose(SHARD, put("b", b"")).await;
        assert!(matches!(lost, Err(ProposeError::Poisoned { .. })), "{lost:?}");
        let bytes = broken.bytes("meta/wal-00-0000000000000001");
        let later = solo.propose(SHARD, put("c", b"")).await;
        assert_eq!(later, lost);
        assert_eq!(solo.snapshot().await, Err(SnapshotError::Stopped));
        assert_eq!(solo.close().await, Err(SnapshotError::Stopped));
        assert!(broken.bytes("meta/wal-00-0000000000000001") == bytes, "nothing is written any more");
        assert_eq!(solo.names(), ["a"], "reads go on, and see durable commands only");
    });
    with_store(&disk.copy(), async |solo| assert_eq!(solo.names(), ["a"]));
}

#[test]
fn a_full_disk_refuses_commands_until_there_is_room() {
    let disk = MemDisk::default();
    let full = disk.clone();
    with_store(&disk, async move |solo| {
        full.set_full(true);
        let mut refused = 0;
        for _ in 0..20 {
            match solo.propose(SHARD, padding(1_000_000)).await {
                Ok(_) => assert_eq!(refused, 0, "room does not come back by itself"),
                Err(error) => {
                    assert_eq!(error, ProposeError::StorageFull);
                    refused += 1;
                }
            }
        }
        assert!(refused > 0);
        assert!(matches!(solo.snapshot().await, Err(SnapshotError::Device { .. })));
        assert_eq!(solo.snapshot_failures(), 1);
        full.set_full(false);
        solo.put("a").await;
        solo.snapshot().await.unwrap();
        solo.put("b").await;
    });
    with_store(&disk, async |solo| assert_eq!(solo.names(), ["a", "b"]));
}

#[test]
fn a_long_log_goes_on_in_a_new_file() {
    let disk = MemDisk::default();
    let command_bytes = 1_000_000;
    let commands = WAL_FILE_BYTES_TARGET as usize / command_bytes + 3;
    let digest = with_store(&disk, async move |solo| {
        for _ in 0..commands {
            solo.propose(SHARD, padding(command_bytes)).await.unwrap();
        }
        solo.put("last").await;
        solo.state_digest()
    });
    assert_eq!(wals(&disk).len(), 2);
    with_store(&disk, async move |solo| assert_eq!(solo.state_digest(), digest));
}

/// A store with `a`, then `b` in a batch of its own. Returns the disk and where in its log the last batch lies.
fn two_batches() -> (MemDisk, String, std::ops::Range<usize>) {
    let disk = MemDisk::default();
    with_store(&disk, async |solo| {
        solo.put("a").await;
        solo.put("b").await;
    });
    let name = wals(&disk)[0].clone();
    let end = disk.bytes(&name).len();
    (disk, name, end - SECTOR_BYTES..end)
}

#[test]
fn a_torn_tail_leaves_exactly_what_was_answered() {
    let (disk, name, last) = two_batches();
    let bytes = disk.bytes(&name);
    let used = last.start + bytes[last.clone()].iter().rposition(|byte| *byte != 0).unwrap() + 1;
    for cut in last.start..used {
        let torn = disk.copy();
        torn.edit(&name, |bytes| bytes[cut..].fill(0));
        with_store(&torn, async |solo| {
            assert_eq!(solo.names(), ["a"]);
            solo.put("c").await;
        });
        // What is left of the torn tail is no longer at the end of the log.
        if cut % 16 == 0 {
            with_store(&torn, async |solo| assert_eq!(solo.names(), ["a", "c"]));
        }

        let garbled = disk.copy();
        garbled.edit(&name, |bytes| bytes[cut] ^= 0x40);
        with_store(&garbled, async |solo| assert_eq!(solo.names(), ["a"]));
    }
    for len in [last.start, last.start + SECTOR_BYTES] {
        let short = disk.copy();
        short.edit(&name, |bytes| bytes.truncate(len));
        let expected: &[&str] = if len == last.start { &["a"] } else { &["a", "b"] };
        let names = with_store(&short, async |solo| solo.names());
        assert_eq!(names, expected);
    }
}

#[test]
fn damage_before_the_end_is_refused_and_nothing_is_changed() {
    let (disk, name, last) = two_batches();
    let middle = last.start - SECTOR_BYTES;
    for at in (middle..middle + 600).step_by(7) {
        let damaged = disk.copy();
        damaged.edit(&name, |bytes| bytes[at] ^= 1);
        let before = damaged.names();
        match open_error(options(&damaged)) {
            OpenError::Corrupt { file, offset, .. } => assert_eq!((file, offset), (name.clone(), middle as u64)),
            other => panic!("{other}"),
        }
        assert_eq!(damaged.names(), before);
    }
    // A whole sector that is gone is damage too, if a later batch is there.
    let holed = disk.copy();
    holed.edit(&name, |bytes| bytes[middle..last.start].fill(0));
    assert!(matches!(open_error(options(&holed)), OpenError::Corrupt { .. }));
}

#[test]
fn damage_at_the_end_of_a_file_that_another_follows_is_refused() {
    let (disk, name, last) = two_batches();
    with_store(&disk, async |solo| solo.put("c").await);
    disk.edit(&name, |bytes| bytes[last.start + 520] ^= 1);
    match open_error(options(&disk)) {
        OpenError::Corrupt { file, offset, .. } => assert_eq!((file, offset), (name, last.start as u64)),
        other => panic!("{other}"),
    }
}

#[test]
fn a_file_whose_creation_was_not_finished_is_passed_over() {
    let (disk, ..) = two_batches();
    for (sequence, contents) in [(2, vec![]), (7, vec![0; SECTOR_BYTES]), (9, vec![0xff; SECTOR_BYTES * 3])] {
        block_on({
            let disk = disk.clone();
            async move {
                use proto::port::Disk;
                disk.create(&wal::file_name(0, sequence), 0).await.unwrap();
            }
        });
        disk.edit(&wal::file_name(0, sequence), |bytes| *bytes = contents);
    }
    let kept = disk.copy();
    with_store(&disk, async |solo| {
        assert_eq!(solo.names(), ["a", "b"]);
        solo.put("c").await;
    });
    assert_eq!(wals(&disk), ["meta/wal-00-0000000000000001", "meta/wal-00-000000000000000a"]);
    // A crash before they were removed leaves them in the middle.
    for name in wals(&disk) {
        let bytes = disk.bytes(&name);
        if !kept.names().contains(&name) {
            block_on({
                let (kept, name) = (kept.clone(), name.clone());
                async move {
                    use proto::port::Disk;
                    kept.create(&name, 0).await.unwrap();
                }
            });
        }
        kept.edit(&name, |old| *old = bytes);
    }
    assert_eq!(wals(&kept).len(), 5);
    with_store(&kept, async |solo| assert_eq!(solo.names(), ["a", "b", "c"]));
}

#[test]
fn a_damaged_file_header_with_batches_behind_it_is_refused() {
    let (disk, name, _) = two_batches();
    disk.edit(&name, |bytes| bytes[40] ^= 1);
    match open_error(options(&disk)) {
        OpenError::Corrupt { file, offset, .. } => assert_eq!((file, offset), (name, 0)),
        other => panic!("{other}"),
    }
}

#[test]
fn a_missing_log_is_refused() {
    let disk = MemDisk::default();
    for name in ["a", "b", "c"] {
        with_store(&disk, async move |solo| solo.put(name).await);
    }
    let names = wals(&disk);
    assert_eq!(names.len(), 3);
    for name in &names[..2] {
        let lost = disk.copy();
        lost.lose(name);
        assert!(matches!(open_error(options(&lost)), OpenError::Corrupt { .. }), "without {name}");
    }
    with_store(&disk, async |solo| solo.snapshot().await.unwrap());
    let lost = disk.copy();
    wals(&disk).iter().for_each(|name| lost.lose(name));
    assert!(matches!(open_error(options(&lost)), OpenError::Corrupt { what: Damage::LogMissing, .. }));
    let lost = disk.copy();
    snapshots(&disk).iter().for_each(|name| lost.lose(name));
    assert!(matches!(open_error(options(&lost)), OpenError::Corrupt { what: Damage::Gap { .. }, .. }));
}

#[test]
fn files_of_others_and_wrong_keys_are_refused() {
    let (disk, ..) = two_batches();
    let foreign = [
        SoloOptions { cluster: ClusterId([9; 16]), ..options(&disk) },
        SoloOptions { device: DeviceId([9; 16]), ..options(&disk) },
        SoloOptions { stream: 1, ..options(&disk) },
    ];
    for options in foreign {
        assert!(matches!(open_error(options), OpenError::Foreign { .. }));
    }
    let wrong = || SoloOptions { keys: Arc::new(TestKeys(8)), ..options(&disk) };
    assert!(matches!(open_error(wrong()), OpenError::Key { source: KeyError::WrongKey { number: 1 }, .. }));
    with_store(&disk, async |solo| solo.close().await.unwrap());
    assert!(matches!(open_error(wrong()), OpenError::Key { file, .. } if file.contains("snapshot")));
}

#[test]
fn a_snapshot_replaces_the_log_before_it() {
    let disk = MemDisk::default();
    let digest = with_store(&disk, async |solo| {
        solo.put("a").await;
        solo.snapshot().await.unwrap();
        assert_eq!(solo.wal_bytes(), 0);
        solo.snapshot().await.unwrap();
        solo.put("b").await;
        solo.put("c").await;
        solo.close().await.unwrap();
        assert_eq!(solo.propose(SHARD, put("d", b"")).await, Err(ProposeError::Closed));
        solo.state_digest()
    });
    assert_eq!(snapshots(&disk), ["meta/snapshot-0000000000000004"]);
    assert_eq!(wals(&disk).len(), 1);
    with_store(&disk, async move |solo| {
        assert_eq!(solo.state_digest(), digest);
        assert_eq!(solo.last_applied(), Lsn(4));
        assert_eq!(solo.raw_bytes() % SECTOR_BYTES as u64, 0);
        solo.put("d").await;
    });
    with_store(&disk, async |solo| assert_eq!(solo.names(), ["a", "b", "c", "d"]));
}

#[test]
fn a_damaged_snapshot_is_refused_unless_the_logs_make_up_for_it() {
    let disk = MemDisk::default();
    with_store(&disk, async |solo| {
        solo.put("a").await;
        solo.put("b").await;
    });
    let before = disk.copy();
    with_store(&disk, async |solo| solo.snapshot().await.unwrap());
    let name = snapshots(&disk)[0].clone();
    let len = disk.bytes(&name).len();
    assert!(len >= 2 * SECTOR_BYTES);
    for at in (0..512).chain(SECTOR_BYTES..SECTOR_BYTES + 600).step_by(11) {
        let damaged = disk.copy();
        damaged.edit(&name, |bytes| bytes[at] ^= 1);
        match open_error(options(&damaged)) {
            OpenError::Corrupt { file, .. } => assert_eq!(file, name),
            other => panic!("{other}"),
        }
        // With the logs that it replaced still there, as after a crash before they were removed, nothing is lost.
        for wal in wals(&before) {
            let bytes = before.bytes(&wal);
            block_on({
                let (damaged, wal) = (damaged.clone(), wal.clone());
                async move {
                    use proto::port::Disk;
                    damaged.create(&wal, 0).await.unwrap();
                }
            });
            damaged.edit(&wal, |old| *old = bytes);
        }
        with_store(&damaged, async |solo| {
            assert_eq!(solo.names(), ["a", "b"]);
            solo.put("c").await;
            solo.snapshot().await.unwrap();
        });
        assert_eq!(snapshots(&damaged).len(), 1, "the damaged one is gone");
    }
}

#[test]
fn snapshots_are_taken_by_themselves() {
    let disk = MemDisk::default();
    let options = SoloOptions { snapshot_after_wal_bytes: 20 * SECTOR_BYTES as u64, ..options(&disk) };
    block_on(async move {
        let solo = Solo::open(options).await.unwrap();
        for number in 0..100 {
            solo.put(&number.to_string()).await;
        }
        assert!(solo.wal_bytes() < 60 * SECTOR_BYTES as u64);
    });
    assert_eq!(snapshots(&disk).iter().filter(|name| !name.ends_with("tmp")).count(), 1);
    with_store(&disk, async |solo| assert_eq!(solo.names().len(), 100));
}

#[test]
fn a_snapshot_during_writes_shows_the_state_of_its_moment() {
    let disk = MemDisk::default();
    let mut expected = State::default();
    let command = |number: u64| {
        let mut command = put(&format!("{:03}", number * 37 % 400), &[number as u8; 4000]);
        if number % 5 == 4 {
            let name = format!("{:03}", number / 2 * 37 % 400);
            command = Command::Unlink {
                parent: InodeId::ROOT,
                name,
                inode: None,
                condition: Condition::Any,
                session: None,
                now_ns: number,
            };
        }
        command
    };
    let last = with_store(&disk, async move |solo| {
        for number in 0..500 {
            solo.propose(SHARD, command(number)).await.unwrap();
        }
        let writes = async {
            for number in 500..800 {
                solo.propose(SHARD, command(number)).await.unwrap();
            }
        };
        let (snapshot, ()) = futures_util::join!(solo.snapshot(), writes);
        snapshot.unwrap();
        solo.last_applied()
    });
    assert_eq!(last, Lsn(801));
    let name = snapshots(&disk)[0].clone();
    let at = snapshot::parse_file_name(name.strip_prefix("meta/").unwrap()).unwrap();
    assert!((501..801).contains(&at), "writes went on during the snapshot at {at}");
    let options = options(&disk);
    let loaded = block_on(async move { snapshot::load(&options, at).await.unwrap_or_else(|error| panic!("{error}")) });
    exec(&Command::Format { now_ns: 1_000_000_000 }, &mut expected);
    for number in 0..at - 1 {
        exec(&command(number), &mut expected);
    }
    assert_eq!(loaded.state.digest(), expected.digest());
    assert!(loaded.bytes > 1 << 20, "more than one frame");
}

#[test]
fn the_log_stays_short_under_steady_writes() {
    const COMMAND_BYTES: usize = 1_000_000;
    const SNAPSHOT_AFTER: u64 = 8 << 20;
    let disk = MemDisk::default();
    let options = SoloOptions { snapshot_after_wal_bytes: SNAPSHOT_AFTER, ..options(&disk) };
    let files = disk.clone();
    block_on(async move {
        let solo = Solo::open(options).await.unwrap();
        let mut longest = 0;
        for _ in 0..120 {
            solo.propose(SHARD, padding(COMMAND_BYTES)).await.unwrap();
            longest = longest.max(solo.raw_bytes());
            assert!(wals(&files).len() <= 3, "{:?}", wals(&files));
        }
        // The log before the snapshot, what came during it, and what each file reserves ahead.
        assert!(longest <= SNAPSHOT_AFTER + 2 * COMMAND_BYTES as u64 + 3 * WAL_RESERVE_BYTES, "{longest} bytes");
        assert_eq!(solo.snapshot_failures(), 0);
    });
}

/// The limit on what a snapshot keeps is met by removing large manifests that it has yet to write.
#[test]
fn changes_beyond_what_a_snapshot_may_keep_wait_for_it() {
    const FILES: usize = 1300;
    let disk = MemDisk::default();
    let (before, kept) = with_store(&disk, async |solo| {
        let entries = vec![ManifestEntry { id: [7; 32], bytes: 1, location: 9 }; MANIFEST_PAGE_ENTRIES_MAX];
        let size = entries.len() as u64;
        let content = Content::Chunks { size, domain: DomainId(0), depth: 0, entries };
        let domain = Command::CreateDomain {
            domain: DomainId(0),
            chunker: 1,
            ring_key: 2,
            wrap_nonce: [3; 12],
            wrapped_key: [4; 48],
        };
        solo.propose(SHARD, domain).await.unwrap();
        let name = |number: usize| format!("{number:04}");
        for number in 0..FILES {
            // Not through the log, which is not what is tested.
            let Command::CommitFile { at, attributes, condition, .. } = put(&name(number), b"") else { unreachable!() };
            let content = content.clone();
            let command =
                Command::CommitFile { at, content, attributes, condition, session: None, now_ns: 5, pin_epoch: 0 };
            exec(&command, &mut solo.0.core.borrow_mut().state);
        }
        assert!(solo.state_bytes() > SNAPSHOT_ASIDE_BYTES_MAX as u64 + (4 << 20), "there is more than may be kept");
        let before = solo.state_digest();
        let most = Cell::new(0);
        let answered = Cell::new(0);
        let unlink = async |number: usize| {
            let unlink = Command::Unlink {
                parent: InodeId::ROOT,
                name: name(number),
                inode: None,
                condition: Condition::Any,
                session: None,
                now_ns: 6,
            };
            let answer = solo.propose(SHARD, unlink).await.unwrap();
            assert!(matches!(answer, Response::Unlinked { .. }));
            let core = solo.0.core.borrow();
            most.set(most.get().max(core.state.aside_bytes()));
            answered.set(answered.get() + usize::from(core.snapshots.running));
        };
        // The last that the snapshot comes to go first.
        let unlinks = join_all((0..FILES).rev().map(unlink));
        let (snapshot, _) = futures_util::join!(solo.snapshot(), unlinks);
        snapshot.unwrap();
        let one_command = 100_000;
        assert!(most.get() <= SNAPSHOT_ASIDE_BYTES_MAX + one_command, "{} bytes", most.get());
        assert!(most.get() >= SNAPSHOT_ASIDE_BYTES_MAX, "the limit was met: {} bytes", most.get());
        assert!(answered.get() > FILES / 2, "{} answers came during the snapshot", answered.get());
        assert_eq!(solo.names(), [""; 0]);
        (before, solo.last_applied())
    });
    let at = Lsn(kept.0 - FILES as u64);
    let options = options(&disk);
    let loaded =
        block_on(async move { snapshot::load(&options, at.0).await.unwrap_or_else(|error| panic!("{error}")) });
    assert_eq!(loaded.state.digest(), before, "the snapshot shows its moment");
}

/// Writers that put files until they are stopped, with snapshots in between. Names that were answered go to `answered`.
async fn work(options: SoloOptions<MemDisk>, answered: Rc<RefCell<Vec<String>>>, round: u64) {
    let solo = Solo::open(options).await.unwrap_or_else(|error| panic!("{error}"));
    let writer = |writer: u64| {
        let (solo, answered) = (solo.clone(), Rc::clone(&answered));
        async move {
            for number in 0..6 {
                let name = format!("{round}-{writer}-{number}");
                solo.put(&name).await;
                answered.borrow_mut().push(name);
                if (number + writer).is_multiple_of(4) {
                    solo.snapshot().await.unwrap();
                }
            }
        }
    };
    join_all((0..3).map(writer)).await;
}

#[test]
fn any_step_may_be_the_last_before_a_crash() {
    let mut rng = Rng(42);
    let mut steps = 0;
    loop {
        let disk = MemDisk::default();
        let answered = Rc::new(RefCell::new(Vec::new()));
        let finished = run_for(steps, steps as usize, work(options(&disk), Rc::clone(&answered), 0)).is_some();
        // Half of the time only the process dies; what it wrote stays in the cache, to be lost by the next crash.
        if steps % 2 == 0 {
            disk.crash(&mut rng);
        }
        // Recovery and the work after it crash too.
        for round in 1..3 {
            let limit = rng.below(120) as usize;
            run_for(steps, limit, work(options(&disk), Rc::clone(&answered), round));
            disk.crash(&mut rng);
        }
        let expected = answered.borrow().clone();
        let digest = with_store(&disk, async move |solo| {
            let names = solo.names();
            for name in &expected {
                assert!(names.contains(name), "{name} was answered and is lost after {steps} steps");
            }
            solo.state_digest()
        });
        disk.crash(&mut rng);
        with_store(&disk, async move |solo| assert_eq!(solo.state_digest(), digest, "after {steps} steps"));
        if finished {
            break;
        }
        steps += 1;
    }
    assert!(steps > 100, "the work takes {steps} steps");
}
