//! The disk port on a real file system.

mod common;

use std::io::ErrorKind;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use common::on_core;
use futures_util::future::join_all;
use nvme::{BufferClass, Ring, RingDisk, RingOptions};
use proto::port::{AlignedBuf, Disk, DiskFile};

const SECTOR: usize = 4096;

/// Runs `test` on a fresh disk over a ring with `options`.
fn on_disk(options: RingOptions, test: impl AsyncFnOnce(RingDisk, &Path)) {
    on_core(async {
        let dir = tempfile::tempdir().unwrap();
        let ring = Ring::new(options).unwrap();
        let disk = RingDisk::open(&ring, dir.path()).unwrap();
        test(disk, dir.path()).await;
    });
}

/// `sectors` sectors, each filled with a byte that depends on its place and on `salt`.
fn pattern(disk: &RingDisk, sectors: usize, salt: usize) -> AlignedBuf {
    let mut buf = disk.buffer(sectors * SECTOR);
    for (index, sector) in buf.chunks_mut(SECTOR).enumerate() {
        sector.fill((index * 7 + salt) as u8);
    }
    buf
}

#[test]
fn bytes_come_back_through_registered_and_plain_memory() {
    on_disk(RingOptions::default(), async |disk, dir| {
        for (index, sectors) in [1, 3, 32, 256, 2048, 2500].into_iter().enumerate() {
            let name = format!("file{index}");
            let file = disk.create(&name, 0).await.unwrap();
            let written = pattern(&disk, sectors, index);
            assert_eq!(written.registered_slot().is_some(), written.len() <= 6 << 20);
            let expected = written.to_vec();
            let (result, buf) = file.write_at(written, SECTOR as u64).await;
            result.unwrap();
            assert_eq!(buf[..], expected[..], "the buffer comes back as it was");
            file.sync().await.unwrap();
            assert_eq!(std::fs::read(dir.join(&name)).unwrap()[SECTOR..], expected[..]);
            let again = disk.open(&name).await.unwrap();
            let (result, buf) = again.read_at(disk.buffer(expected.len()), SECTOR as u64).await;
            assert_eq!(result.unwrap(), expected.len());
            assert_eq!(buf[..], expected[..]);
        }
        assert!(disk.is_direct(), "this test is about direct I/O: run it on a file system that has it");
    });
}

#[test]
fn a_durable_write_is_in_the_file() {
    on_disk(RingOptions::default(), async |disk, dir| {
        let file = disk.create("wal", 1 << 20).await.unwrap();
        for index in 0..4 {
            let (result, _) = file.write_durable_at(pattern(&disk, 2, index), (index * 2 * SECTOR) as u64).await;
            result.unwrap();
        }
        let (result, _) = file.write_durable_at(AlignedBuf::zeroed(0), 0).await;
        result.unwrap();
        let found = std::fs::read(dir.join("wal")).unwrap();
        assert_eq!(found.len(), 1 << 20);
        for index in 0..4 {
            assert_eq!(found[index * 2 * SECTOR..][..2 * SECTOR], pattern(&disk, 2, index)[..]);
        }
    });
}

#[test]
fn reads_are_short_only_at_the_end() {
    on_disk(RingOptions::default(), async |disk, dir| {
        let file = disk.create("file", 0).await.unwrap();
        file.write_at(pattern(&disk, 3, 0), 0).await.0.unwrap();
        let (result, buf) = file.read_at(disk.buffer(8 * SECTOR), SECTOR as u64).await;
        assert_eq!(result.unwrap(), 2 * SECTOR);
        assert_eq!(buf[..2 * SECTOR], pattern(&disk, 3, 0)[SECTOR..]);
        assert_eq!(file.read_at(disk.buffer(SECTOR), 3 * SECTOR as u64).await.0.unwrap(), 0);
        assert_eq!(file.read_at(disk.buffer(SECTOR), 1 << 40).await.0.unwrap(), 0);
        // A length that is not ours: damage that a reader must survive.
        std::fs::write(dir.join("torn"), [5; 5000]).unwrap();
        let torn = disk.open("torn").await.unwrap();
        let (result, buf) = torn.read_at(disk.buffer(2 * SECTOR), 0).await;
        assert_eq!(result.unwrap(), 5000);
        assert!(buf[..5000].iter().all(|byte| *byte == 5));
    });
}

#[test]
fn lengths_grow_with_zeros_and_shrink() {
    on_disk(RingOptions::default(), async |disk, _| {
        let file = disk.create("file", 4 * SECTOR as u64).await.unwrap();
        assert_eq!(file.len().await.unwrap(), 4 * SECTOR as u64);
        let (result, buf) = file.read_at(pattern(&disk, 4, 3), 0).await;
        assert_eq!(result.unwrap(), 4 * SECTOR);
        assert!(buf.iter().all(|byte| *byte == 0), "preallocated bytes read as zeros");
        file.write_at(pattern(&disk, 4, 9), 0).await.0.unwrap();
        file.set_len(SECTOR as u64).await.unwrap();
        assert_eq!(file.len().await.unwrap(), SECTOR as u64);
        file.set_len(3 * SECTOR as u64).await.unwrap();
        let (result, buf) = file.read_at(disk.buffer(4 * SECTOR), 0).await;
        assert_eq!(result.unwrap(), 3 * SECTOR);
        assert_eq!(buf[..SECTOR], pattern(&disk, 1, 9)[..]);
        assert!(buf[SECTOR..3 * SECTOR].iter().all(|byte| *byte == 0), "cut bytes do not come back");
    });
}

#[test]
fn a_punched_hole_reads_zeros_and_frees_space() {
    on_disk(RingOptions::default(), async |disk, dir| {
        use std::os::unix::fs::MetadataExt;
        let file = disk.create("file", 0).await.unwrap();
        file.write_durable_at(pattern(&disk, 256, 1), 0).await.0.unwrap();
        let blocks = || std::fs::metadata(dir.join("file")).unwrap().blocks();
        let before = blocks();
        file.punch(64 * SECTOR as u64, 128 * SECTOR as u64).await.unwrap();
        file.punch(0, 0).await.unwrap();
        file.sync().await.unwrap();
        assert!(before - blocks() >= 128 * 8, "{before} to {} blocks of 512 bytes", blocks());
        assert_eq!(file.len().await.unwrap(), 256 * SECTOR as u64);
        let (result, buf) = file.read_at(disk.buffer(256 * SECTOR), 0).await;
        assert_eq!(result.unwrap(), 256 * SECTOR);
        let expected = pattern(&disk, 256, 1);
        assert_eq!(buf[..64 * SECTOR], expected[..64 * SECTOR]);
        assert!(buf[64 * SECTOR..192 * SECTOR].iter().all(|byte| *byte == 0));
        assert_eq!(buf[192 * SECTOR..], expected[192 * SECTOR..]);
    });
}

#[test]
fn many_more_operations_than_the_queue_takes_all_complete() {
    let buffers = vec![BufferClass { bytes: 16 << 10, count: 3 }];
    on_disk(RingOptions { operations_max: 4, files_max: 2, buffers }, async |disk, _| {
        let files = join_all((0..5).map(async |index| disk.create(&format!("f{index}"), 0).await.unwrap())).await;
        let write = async |index: usize| {
            let file = &files[index % files.len()];
            let (buf, offset) = (pattern(&disk, 1 + index % 6, index), (index * 8 * SECTOR) as u64);
            let (result, _) = match index % 3 {
                0 => file.write_durable_at(buf, offset).await,
                _ => file.write_at(buf, offset).await,
            };
            result.unwrap();
        };
        join_all((0..300).map(write)).await;
        let read = async |index: usize| {
            let expected = pattern(&disk, 1 + index % 6, index).to_vec();
            let file = &files[index % files.len()];
            let (result, buf) = file.read_at(disk.buffer(expected.len()), (index * 8 * SECTOR) as u64).await;
            assert_eq!(result.unwrap(), expected.len());
            assert_eq!(buf[..], expected[..], "operation {index}");
        };
        join_all((0..300).map(read)).await;
    });
}

#[test]
fn names_are_created_listed_renamed_and_removed() {
    on_disk(RingOptions::default(), async |disk, dir| {
        assert_eq!(disk.list("no/such/dir").await.unwrap(), [""; 0]);
        for name in ["a/b/two", "a/b/one", "a/b/c/three", "top"] {
            disk.create(name, 0).await.unwrap();
        }
        disk.sync_dir("a/b").await.unwrap();
        disk.sync_dir("").await.unwrap();
        assert_eq!(disk.list("a/b").await.unwrap(), ["one", "two"]);
        assert_eq!(disk.list("").await.unwrap(), ["top"]);
        let mode = |name: &str| std::fs::metadata(dir.join(name)).unwrap().permissions().mode() & 0o777;
        assert_eq!((mode("a/b/one"), mode("a"), mode("a/b")), (0o600, 0o700, 0o700));

        assert_eq!(disk.create("top", 0).await.err().unwrap().kind(), ErrorKind::AlreadyExists);
        assert_eq!(disk.open("a/b/four").await.err().unwrap().kind(), ErrorKind::NotFound);
        assert_eq!(disk.remove("a/b/four").await.unwrap_err().kind(), ErrorKind::NotFound);
        assert_eq!(disk.create("../outside", 0).await.err().unwrap().kind(), ErrorKind::InvalidInput);
        assert_eq!(disk.sync_dir("..").await.unwrap_err().kind(), ErrorKind::InvalidInput);

        let one = disk.open("a/b/one").await.unwrap();
        one.write_at(pattern(&disk, 1, 8), 0).await.0.unwrap();
        disk.rename("a/b/one", "a/b/two").await.unwrap();
        assert_eq!(disk.list("a/b").await.unwrap(), ["two"]);
        assert_eq!(std::fs::read(dir.join("a/b/two")).unwrap(), pattern(&disk, 1, 8)[..]);
        disk.remove("a/b/two").await.unwrap();
        assert_eq!(one.len().await.unwrap(), SECTOR as u64, "an open file outlives its name");
        assert_eq!(disk.list("a/b").await.unwrap(), [""; 0]);

        let space = disk.space().await.unwrap();
        assert!(space.total_bytes >= space.free_bytes && space.free_bytes > 0);
    });
}

#[test]
fn a_failed_preallocation_leaves_no_file() {
    on_disk(RingOptions::default(), async |disk, _| {
        let error = disk.create("huge", 1 << 60).await.err().expect("no disk holds an exbibyte");
        assert!(matches!(error.kind(), ErrorKind::FileTooLarge | ErrorKind::StorageFull), "{error}");
        assert_eq!(disk.list("").await.unwrap(), [""; 0]);
    });
}

#[test]
fn errors_of_the_device_reach_the_caller() {
    on_disk(RingOptions::default(), async |disk, dir| {
        std::os::unix::fs::symlink("/dev/full", dir.join("full")).unwrap();
        let full = disk.open("full").await.unwrap();
        assert_eq!(full.write_at(pattern(&disk, 1, 0), 0).await.0.unwrap_err().kind(), ErrorKind::StorageFull);
        let (result, buf) = full.write_durable_at(pattern(&disk, 2, 5), 0).await;
        assert_eq!(result.unwrap_err().kind(), ErrorKind::StorageFull, "the write's error, not the sync's");
        assert_eq!(buf[..], pattern(&disk, 2, 5)[..]);
        // The device cannot be synced, so what was written to it was not durable.
        std::os::unix::fs::symlink("/dev/null", dir.join("null")).unwrap();
        let null = disk.open("null").await.unwrap();
        null.write_at(pattern(&disk, 1, 0), 0).await.0.unwrap();
        assert_eq!(null.write_durable_at(pattern(&disk, 1, 0), 0).await.0.unwrap_err().kind(), ErrorKind::InvalidInput);
        assert_eq!(null.sync().await.unwrap_err().kind(), ErrorKind::InvalidInput);
    });
}

#[test]
fn a_file_system_without_direct_io_is_read_through_the_page_cache() {
    on_core(async {
        let ring = Ring::new(RingOptions::default()).unwrap();
        let disk = RingDisk::open(&ring, Path::new("/proc/self")).unwrap();
        let file = disk.open("comm").await.unwrap();
        assert!(!disk.is_direct());
        let (result, buf) = file.read_at(disk.buffer(SECTOR), 0).await;
        let bytes = result.unwrap();
        assert_eq!(buf[..bytes], std::fs::read("/proc/self/comm").unwrap()[..]);
    });
}

#[test]
fn several_disks_share_one_ring() {
    on_core(async {
        let ring = Ring::new(RingOptions::default()).unwrap();
        let dirs = [tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap()];
        let disks = dirs.each_ref().map(|dir| RingDisk::open(&ring, dir.path()).unwrap());
        drop(ring);
        join_all(disks.iter().enumerate().map(async |(index, disk)| {
            let file = disk.create("same-name", 0).await.unwrap();
            file.write_durable_at(pattern(disk, 1, index), 0).await.0.unwrap();
        }))
        .await;
        for (index, dir) in dirs.iter().enumerate() {
            assert_eq!(std::fs::read(dir.path().join("same-name")).unwrap()[0], index as u8);
        }
    });
}

#[test]
fn an_idle_ring_uses_no_cpu() {
    on_disk(RingOptions::default(), async |disk, _| {
        let file = disk.create("file", 0).await.unwrap();
        file.write_durable_at(pattern(&disk, 1, 0), 0).await.0.unwrap();
        let cpu_ms = || {
            let time = rustix::time::clock_gettime(rustix::time::ClockId::ThreadCPUTime);
            time.tv_sec * 1000 + time.tv_nsec / 1_000_000
        };
        let before = cpu_ms();
        monoio::time::sleep(std::time::Duration::from_millis(500)).await;
        let used = cpu_ms() - before;
        assert!(used < 50, "{used} ms of CPU in 500 ms of nothing to do");
    });
}
