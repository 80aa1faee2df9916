//! Each fault on plain files.

use std::collections::BTreeSet;
use std::fs::{self, File, OpenOptions};
use std::io::ErrorKind;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::Path;
use std::sync::mpsc::channel;
use std::time::{Duration, Instant};

use chaos::faultfs::{Effect, Fault, Operation, Survival};
use chaos::sim::Random;
use rustix::fs::{FallocateFlags, FlockOperation, OFlags, fallocate, flock};

use crate::mount;

const PAGE: usize = 4096;
const CAPACITY: u64 = 64 << 20;
/// Longer than anything here takes on a busy machine.
const LONG: Duration = Duration::from_secs(30);

fn io(operation: Operation, after: u64) -> Fault {
    Fault { operation, after, times: 1, effect: Effect::Io }
}

fn sync_dir(path: &Path) {
    File::open(path).unwrap().sync_all().unwrap();
}

#[test]
fn without_faults_it_is_a_file_system() {
    let Some(mounted) = mount(CAPACITY) else { return };
    let path = mounted.fs.path();
    fs::create_dir_all(path.join("a/b")).unwrap();
    let bytes: Vec<u8> = (0..3_000_000).map(|at: u32| (at / 7) as u8).collect();
    fs::write(path.join("a/b/tmp"), &bytes).unwrap();
    fs::rename(path.join("a/b/tmp"), path.join("a/b/file")).unwrap();
    assert!(fs::read(path.join("a/b/file")).unwrap() == bytes);
    for number in 0..300 {
        fs::write(path.join(format!("a/{number:03}")), [number as u8]).unwrap();
    }
    let listed = fs::read_dir(path.join("a")).unwrap().map(|entry| entry.unwrap().file_name());
    assert_eq!(listed.collect::<BTreeSet<_>>().len(), 301, "all of a long directory");
    assert_eq!(fs::remove_dir(path.join("a/b")).unwrap_err().kind(), ErrorKind::DirectoryNotEmpty);
    fs::hard_link(path.join("a/b/file"), path.join("a/linked")).unwrap();
    fs::remove_file(path.join("a/b/file")).unwrap();
    assert!(fs::read(path.join("a/linked")).unwrap() == bytes);
    fs::remove_dir(path.join("a/b")).unwrap();
    assert_eq!(fs::metadata(path.join("a/b")).unwrap_err().kind(), ErrorKind::NotFound);

    let file = File::create(path.join("holes")).unwrap();
    fallocate(&file, FallocateFlags::empty(), 0, 10 * PAGE as u64).unwrap();
    assert_eq!(file.metadata().unwrap().len(), 10 * PAGE as u64);
    file.write_all_at(&[7; 3 * PAGE], 0).unwrap();
    fallocate(&file, FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE, PAGE as u64, PAGE as u64).unwrap();
    let held = fs::read(path.join("holes")).unwrap();
    assert!(held.len() == 10 * PAGE && held[..PAGE] == [7; PAGE] && held[PAGE..2 * PAGE] == [0; PAGE]);
    file.set_len(5).unwrap();
    assert_eq!(fs::read(path.join("holes")).unwrap(), [7; 5]);
    flock(&file, FlockOperation::NonBlockingLockExclusive).unwrap();
    let other = File::open(path.join("holes")).unwrap();
    flock(&other, FlockOperation::NonBlockingLockExclusive).expect_err("it is locked");

    let mut direct = OpenOptions::new();
    direct.write(true).create_new(true).custom_flags(OFlags::DIRECT.bits().cast_signed());
    direct.open(path.join("direct")).expect("O_DIRECT is understood");
    mounted.fs.unmount().unwrap();
}

#[test]
fn the_nth_operation_of_a_kind_fails_and_its_neighbours_do_not() {
    let Some(mounted) = mount(CAPACITY) else { return };
    let path = mounted.fs.path().join("f");
    let file = File::create_new(&path).unwrap();
    mounted.fs.inject(io(Operation::Write, 2));
    let written: Vec<bool> =
        (0..5).map(|page| file.write_all_at(&[page; PAGE], u64::from(page) * 4096).is_ok()).collect();
    assert_eq!(written, [true, true, false, true, true]);
    let held = fs::read(&path).unwrap();
    let firsts: Vec<u8> = held.chunks(PAGE).map(|page| page[0]).collect();
    assert_eq!(firsts, [0, 1, 0, 3, 4], "the failed one left nothing");

    for operation in [Operation::Read, Operation::Sync, Operation::Open, Operation::Remove, Operation::Create] {
        mounted.fs.inject(io(operation, 0));
        let attempt = || match operation {
            Operation::Read => file_read(&path),
            Operation::Sync => file.sync_data(),
            Operation::Open => File::open(&path).map(drop),
            Operation::Remove => fs::remove_file(&path),
            _ => File::create_new(path.with_extension("new")).map(drop),
        };
        let error = attempt().expect_err("it was told to fail");
        assert_eq!(error.raw_os_error(), Some(rustix::io::Errno::IO.raw_os_error()), "{operation:?}");
        attempt().unwrap_or_else(|error| panic!("{operation:?} fails once: {error}"));
        if operation == Operation::Remove {
            fs::write(&path, b"again").unwrap();
        }
    }
    assert_eq!(mounted.fs.struck(), 6);
}

fn file_read(path: &Path) -> std::io::Result<()> {
    File::open(path)?.read_exact_at(&mut [0], 0)
}

#[test]
fn a_torn_write_arrives_in_part_and_fails() {
    let Some(mounted) = mount(CAPACITY) else { return };
    let path = mounted.fs.path().join("f");
    let file = File::create(&path).unwrap();
    file.write_all_at(&[1; 32 * PAGE], 0).unwrap();
    mounted.fs.inject(Fault { operation: Operation::Write, after: 0, times: 1, effect: Effect::Torn });
    file.write_all_at(&[2; 32 * PAGE], 0).expect_err("it tore");
    let held = fs::read(&path).unwrap();
    let new = held.chunks(PAGE).filter(|page| page[0] == 2).count();
    assert!((1..32).contains(&new), "{new} of 32 pages arrived");
}

#[test]
fn a_full_disk_refuses_and_takes_again_what_fits() {
    let Some(mounted) = mount(CAPACITY) else { return };
    let file = File::create(mounted.fs.path().join("f")).unwrap();
    fallocate(&file, FallocateFlags::empty(), 0, CAPACITY / 2).unwrap();
    mounted.fs.set_capacity(CAPACITY / 2);
    assert_eq!(rustix::fs::statvfs(mounted.fs.path()).unwrap().f_bavail, 0);
    file.write_all_at(&[1; PAGE], 0).expect("space was reserved");
    let error = file.write_all_at(&[1; PAGE], CAPACITY).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::StorageFull);
    mounted.fs.set_capacity(CAPACITY);
    file.write_all_at(&[1; PAGE], CAPACITY).unwrap();
}

#[test]
fn slow_operations_end_late_and_hanging_ones_when_they_are_released() {
    let Some(mounted) = mount(CAPACITY) else { return };
    let file = File::create(mounted.fs.path().join("f")).unwrap();
    let delay = Duration::from_millis(300);
    mounted.fs.inject(Fault { operation: Operation::Sync, after: 0, times: 1, effect: Effect::Slow(delay) });
    #[expect(clippy::disallowed_methods, reason = "a slow operation takes real time")]
    let start = Instant::now();
    file.sync_data().unwrap();
    assert!(start.elapsed() >= delay);

    mounted.fs.inject(Fault { operation: Operation::Write, after: 0, times: 1, effect: Effect::Hang });
    let (sender, answered) = channel();
    std::thread::scope(|scope| {
        scope.spawn(move || sender.send(file.write_all_at(&[1; PAGE], 0)));
        answered.recv_timeout(delay).expect_err("it hangs");
        fs::write(mounted.fs.path().join("other"), b"goes on").expect("others do not");
        assert_eq!(mounted.fs.release(), 1);
        answered.recv_timeout(LONG).expect("released").expect_err("released with an error");
    });
}

#[test]
fn a_power_loss_takes_what_was_not_synced_and_nothing_else() {
    let Some(mounted) = mount(CAPACITY) else { return };
    let path = mounted.fs.path();
    let mut kept = BTreeSet::new();
    for seed in 0..60 {
        let synced = File::create(path.join("synced")).unwrap();
        synced.write_all_at(&[1; 4 * PAGE], 0).unwrap();
        synced.sync_all().unwrap();
        sync_dir(path);
        synced.write_all_at(&[2; 8 * PAGE], 0).unwrap();
        fs::write(path.join("unsynced"), b"bytes").unwrap();
        let mut random = Random::new(seed);
        mounted.fs.lose_power(Survival::draw(&mut random), &mut random);
        synced.write_all_at(&[3; PAGE], 0).expect_err("what was open before is of no use");
        let held = fs::read(path.join("synced")).unwrap();
        assert!(held.len() >= 4 * PAGE && held.iter().all(|byte| *byte <= 2), "seed {seed}");
        assert!(held[..4 * PAGE].iter().all(|byte| *byte >= 1), "seed {seed}: synced bytes are there or newer");
        kept.insert((held.len() > 4 * PAGE, held.contains(&2), path.join("unsynced").exists()));
        let _ = fs::remove_file(path.join("unsynced"));
        sync_dir(path);
    }
    assert!(kept.len() >= 5, "lengths, pages and names fare apart: {kept:?}");
}

#[test]
fn a_lying_sync_covers_nothing() {
    let Some(mounted) = mount(CAPACITY) else { return };
    let path = mounted.fs.path();
    mounted.fs.lie_about_syncs(true);
    let file = File::create(path.join("f")).unwrap();
    file.write_all_at(&[1; PAGE], 0).unwrap();
    file.sync_all().unwrap();
    sync_dir(path);
    mounted.fs.lose_power(Survival::Nothing, &mut Random::new(1));
    assert!(!path.join("f").exists());
}

#[test]
fn it_unmounts_also_while_somebody_uses_it() {
    let Some(mounted) = mount(CAPACITY) else { return };
    let path = mounted.fs.path().to_owned();
    let file = File::create(path.join("f")).unwrap();
    mounted.fs.unmount().unwrap();
    file.write_all_at(&[1; PAGE], 0).expect_err("it is gone");
    assert_eq!(fs::read_dir(&path).unwrap().count(), 0, "the directory below shows again");
}
