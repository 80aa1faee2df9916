//! A full disk: uploads are refused, nothing acknowledged is lost, tidying up works, and service returns with space: with
//! that which others give back, and with that of files that are removed, however they lie.
//!
//! The disks are real file systems of 480 and 640 MiB, a tmpfs and an ext4 on a loop device. Mounting them takes the privilege
//! to do so; where it is missing the tests say that they were skipped, and with `DFS_REQUIRE_MOUNTS` set they fail.

#![allow(clippy::disallowed_methods, reason = "a process test runs a real dfsd in real time")]

mod daemon;

use std::collections::BTreeMap;
use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use daemon::{Dfsd, noise};

const DISK_BYTES: u64 = 640 << 20;
/// Of the disk that is filled again and again.
const SMALL_DISK_BYTES: u64 = 480 << 20;
const FILE_BYTES: usize = 3 << 20;
/// What other software leaves: two segments, two that are kept for compaction, and what is kept for metadata.
const ROOM_BYTES: u64 = 344 << 20;
/// Less than what adding files to the metadata must leave free.
const SCARCE_BYTES: u64 = 16 << 20;
const UPLOADERS: u64 = 4;
/// Refusals after which an uploader takes the disk for full.
const REFUSALS: u32 = 8;
/// Changes of metadata that take three sectors of the log each, together more than [`SCARCE_BYTES`].
const CHANGES: u64 = 2000;

/// A mounted file system; unmounted when dropped.
struct Mount {
    path: PathBuf,
    _dir: tempfile::TempDir,
}

impl Drop for Mount {
    fn drop(&mut self) {
        // Nothing of the test uses it any more; lazily, so that a failed test leaves nothing behind either.
        let _ = Command::new("umount").arg("-l").arg(&self.path).status();
    }
}

fn run(command: &mut Command) -> Result<(), String> {
    let output = command.stdin(Stdio::null()).output().map_err(|error| format!("{command:?}: {error}"))?;
    if output.status.success() {
        return Ok(());
    }
    Err(format!("{command:?}: {}", String::from_utf8_lossy(&output.stderr).trim()))
}

/// Mounts what `mount` says, or says that the test is skipped.
fn mount(mount: impl FnOnce(&Path, &Path) -> Result<(), String>) -> Option<Mount> {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("mount");
    std::fs::create_dir(&path).unwrap();
    match mount(dir.path(), &path) {
        Ok(()) => Some(Mount { path, _dir: dir }),
        Err(reason) if std::env::var_os("DFS_REQUIRE_MOUNTS").is_some() => panic!("{reason}"),
        Err(reason) => {
            eprintln!(
                "SKIPPED, nothing was tested: {reason}; run as root, in a place where file systems can be mounted"
            );
            None
        }
    }
}

/// Writes a file that takes `bytes` of the disk.
fn write_ballast(path: &Path, bytes: u64) {
    let file = File::create(path).unwrap();
    rustix::fs::fallocate(&file, rustix::fs::FallocateFlags::empty(), 0, bytes).unwrap();
}

fn free_bytes(path: &Path) -> u64 {
    let stat = rustix::fs::statvfs(path).unwrap();
    stat.f_bavail * stat.f_frsize
}

/// Uploads files from several clients, each from the number `first` on, until all are refused; returns the seeds of what was
/// acknowledged, by name.
fn fill(dfsd: &Dfsd, first: u64) -> BTreeMap<String, u64> {
    std::thread::scope(|scope| {
        let upload = |uploader: u64| {
            let (mut acknowledged, mut refusals) = (Vec::new(), 0);
            for number in first.. {
                let (name, seed) = (format!("f{uploader}-{number}"), uploader * 1000 + number);
                let answer = dfsd.send("PUT", &format!("/api/v1/fs/full/{name}"), &[], &noise(seed, FILE_BYTES));
                if answer.status == 201 {
                    acknowledged.push((name, seed));
                    continue;
                }
                let message = answer.refused(507, "no_space");
                assert!(message.contains("free"), "it says what to do: {message}");
                // Another core, to which the next connection may go, may have room in an open segment.
                refusals += 1;
                if refusals == REFUSALS {
                    return acknowledged;
                }
            }
            unreachable!("the disk is finite")
        };
        let uploaders: Vec<_> = (0..UPLOADERS).map(|uploader| scope.spawn(move || upload(uploader))).collect();
        uploaders.into_iter().flat_map(|uploader| uploader.join().unwrap()).collect()
    })
}

fn assert_readable(dfsd: &Dfsd, files: &BTreeMap<String, u64>) {
    let listed = dfsd.get("/api/v1/fs/full").expect(200).json();
    let names = listed["entries"].as_array().unwrap().iter().map(|entry| entry["path"].as_str().unwrap().to_owned());
    let expected: Vec<String> = files.keys().map(|name| format!("/full/{name}")).collect();
    assert_eq!(names.collect::<Vec<_>>(), expected, "what was acknowledged is there, and nothing else");
    for (name, seed) in files {
        assert!(dfsd.get(&format!("/api/v1/fs/full/{name}")).expect(200).body == noise(*seed, FILE_BYTES), "{name}");
    }
}

/// Everything that this file claims, on the file system at `disk`.
fn survives_a_full_disk(disk: &Path) {
    let data = disk.join("data");
    let ballast = disk.join("ballast");
    write_ballast(&ballast, free_bytes(disk) - ROOM_BYTES);
    // Both segments that fit are those of one core; later starts serve on all.
    let dfsd = Dfsd::start_with(&data, &["--cores", "1"]);
    let mut files = fill(&dfsd, 0);
    assert!(files.len() > 10, "{} files fit", files.len());
    assert_readable(&dfsd, &files);

    // Short files and names still fit, and everything that tidies up works.
    dfsd.put("/api/v1/fs/full/note", b"short");
    dfsd.call("PUT", "/api/v1/fs/made?type=directory", &[]).expect(201);
    dfsd.call("PATCH", "/api/v1/fs/full/note", &[("x-dfs-mode", "600")]).expect(200);
    dfsd.call("POST", "/api/v1/fs/full/note?rename_to=/made/note", &[]).expect(200);
    let (removed, _) = files.pop_first().unwrap();
    dfsd.call("DELETE", &format!("/api/v1/fs/full/{removed}"), &[]).expect(204);

    // Somebody else takes most of the rest: nothing is added any more, but all else goes on.
    write_ballast(&disk.join("more"), free_bytes(disk) - SCARCE_BYTES);
    dfsd.send("PUT", "/api/v1/fs/full/short", &[], b"short").refused(507, "no_space");
    dfsd.call("PUT", "/api/v1/fs/other?type=directory", &[]).refused(507, "no_space");
    dfsd.call("PATCH", "/api/v1/fs/made/note", &[("x-dfs-mode", "640")]).expect(200);
    let (removed, _) = files.pop_first().unwrap();
    dfsd.call("DELETE", &format!("/api/v1/fs/full/{removed}"), &[]).expect(204);
    // More changes than there is room for in the log: it is cut as it grows.
    write_log(&dfsd, "made/note");
    dfsd.get("/readyz").expect(200);

    // Starts after a crash and after a stop find room.
    dfsd.kill();
    let dfsd = Dfsd::start(&data);
    assert_readable(&dfsd, &files);
    assert_eq!(dfsd.stop().code(), Some(0));
    let dfsd = Dfsd::start(&data);
    assert_eq!(dfsd.get("/api/v1/fs/made/note").expect(200).body, b"short");
    let (removed, _) = files.pop_first().unwrap();
    dfsd.call("DELETE", &format!("/api/v1/fs/full/{removed}"), &[]).expect(204);
    // The stop has given back what its segments had reserved; that goes as well.
    write_ballast(&disk.join("yet-more"), free_bytes(disk).saturating_sub(SCARCE_BYTES).max(4096));
    dfsd.send("PUT", "/api/v1/fs/full/f9", &[], &noise(9, FILE_BYTES)).refused(507, "no_space");

    // Space comes back, and with it the service.
    std::fs::remove_file(disk.join("yet-more")).unwrap();
    std::fs::remove_file(disk.join("more")).unwrap();
    std::fs::remove_file(&ballast).unwrap();
    dfsd.put("/api/v1/fs/full/f9", &noise(9, FILE_BYTES)).expect(201);
    dfsd.put("/api/v1/fs/short", b"short").expect(201);
    files.insert("f9".to_owned(), 9);
    assert_eq!(dfsd.stop().code(), Some(0));
    assert_readable(&Dfsd::start(&data), &files);
}

/// Changes a file's attributes again and again.
fn write_log(dfsd: &Dfsd, name: &str) {
    let note = "n".repeat(8000);
    for _ in 0..CHANGES {
        dfsd.call("PATCH", &format!("/api/v1/fs/{name}"), &[("x-meta-note", &note)]).expect(200);
    }
}

fn stored_bytes(dfsd: &Dfsd) -> u64 {
    dfsd.get("/api/v1/stats").expect(200).json()["stored_bytes"].as_u64().unwrap()
}

/// Fills the disk at `disk` with files, removes every other one, and fills what that gives back.
fn gives_back_what_lies_between(disk: &Path) {
    let data = disk.join("data");
    for cores in ["1", "2"] {
        let dfsd = Dfsd::start_with(&data, &["--cores", cores]);
        let mut files = fill(&dfsd, 0);
        let filled = files.len();
        // The log takes of what is left, too.
        write_log(&dfsd, "full/f0-0");
        let removed: Vec<String> = files.keys().step_by(2).cloned().collect();
        for name in &removed {
            dfsd.call("DELETE", &format!("/api/v1/fs/full/{name}"), &[]).expect(204);
            files.remove(name);
        }
        let stored_before = stored_bytes(&dfsd);
        let gc = dfsd.collect_now();
        assert!(gc["abort"].is_null(), "{gc}");
        assert!(stored_bytes(&dfsd) < stored_before * 2 / 3, "{stored_before} before, {}: {gc}", stored_bytes(&dfsd));
        assert_readable(&dfsd, &files);
        let more = fill(&dfsd, 100);
        assert!(more.len() > filled / 4, "{} more files fit, {filled} did at first: {gc}", more.len());
        files.extend(more);
        assert_readable(&dfsd, &files);
        for name in files.keys() {
            dfsd.call("DELETE", &format!("/api/v1/fs/full/{name}"), &[]).expect(204);
        }
        dfsd.collect_now();
        assert_eq!(dfsd.stop().code(), Some(0));
    }
}

#[test]
fn a_full_tmpfs_gives_back_what_lies_between() {
    let size = format!("size={SMALL_DISK_BYTES}");
    let mounted = mount(|_, path| run(Command::new("mount").args(["-t", "tmpfs", "-o", &size, "dfs-test"]).arg(path)));
    let Some(mounted) = mounted else { return };
    gives_back_what_lies_between(&mounted.path);
}

#[test]
fn a_full_tmpfs_loses_nothing_and_recovers() {
    let size = format!("size={DISK_BYTES}");
    let mounted = mount(|_, path| run(Command::new("mount").args(["-t", "tmpfs", "-o", &size, "dfs-test"]).arg(path)));
    let Some(mounted) = mounted else { return };
    survives_a_full_disk(&mounted.path);
}

/// A file system that failed, as ext4 does with `errors=remount-ro`.
#[test]
fn what_can_be_read_still_is_when_the_file_system_turns_read_only() {
    let mounted = mount(|dir, path| {
        let image = dir.join("image");
        File::create(&image).unwrap().set_len(DISK_BYTES).unwrap();
        run(Command::new("mkfs.ext4").args(["-q", "-F", "-O", "^has_journal"]).arg(&image))?;
        run(Command::new("mount").args(["-o", "loop"]).arg(&image).arg(path))
    });
    let Some(mounted) = mounted else { return };
    let (data, log) = (mounted.path.join("data"), File::create("/dev/null").unwrap());
    let dfsd = Dfsd::start_saying_to(&data, &["--cores", "1"], log.try_clone().unwrap());
    let name = |number: u64| format!("/api/v1/fs/f{number}");
    (0..8).for_each(|number| drop(dfsd.put(&name(number), &noise(number, FILE_BYTES))));
    assert_eq!(dfsd.stop().code(), Some(0));
    // No segment is open for reading yet.
    let dfsd = Dfsd::start_saying_to(&data, &["--cores", "1"], log);
    run(Command::new("mount").args(["-o", "remount,abort"]).arg(&mounted.path)).unwrap();
    for number in 0..8 {
        assert!(dfsd.get(&name(number)).expect(200).body == noise(number, FILE_BYTES), "{number}");
    }
    let refused = dfsd.send("PUT", "/api/v1/fs/new", &[], &noise(99, FILE_BYTES));
    assert!(matches!(refused.status, 503 | 507), "{} {}", refused.status, refused.text());
}

#[test]
fn a_full_ext4_loses_nothing_and_recovers() {
    let mounted = mount(|dir, path| {
        let image = dir.join("image");
        File::create(&image).unwrap().set_len(DISK_BYTES).unwrap();
        run(Command::new("mkfs.ext4").args(["-q", "-F", "-m", "0"]).arg(&image))?;
        run(Command::new("mount").args(["-o", "loop"]).arg(&image).arg(path))
    });
    let Some(mounted) = mounted else { return };
    survives_a_full_disk(&mounted.path);
}
