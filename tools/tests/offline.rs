//! `dfs fsck` and `dfs inspect`, run as an operator runs them, on what a real `dfsd` left behind.

mod binary;

use std::collections::BTreeMap;
use std::fs::{self, File, OpenOptions};
use std::io::{BufRead, BufReader, Write};
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};

use binary::binary;
use serde_json::Value;
use tempfile::TempDir;

/// A `dfsd` of this test; killed when dropped.
struct Dfsd {
    child: Child,
    endpoint: String,
    token_file: PathBuf,
}

impl Dfsd {
    fn start(data: &Path) -> Dfsd {
        let mut command = Command::new(binary("dfsd"));
        // With one core the first file lies in the first segment.
        command.args(["serve", "--cores", "1", "--listen", "127.0.0.1:0", "--data"]).arg(data);
        let mut child = command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::null()).spawn().unwrap();
        let mut ready = String::new();
        BufReader::new(child.stdout.take().unwrap()).read_line(&mut ready).unwrap();
        let endpoint = ready.split(' ').nth(2).unwrap_or_else(|| panic!("not ready: {ready:?}")).to_owned();
        Dfsd { child, endpoint, token_file: data.join("root-token") }
    }

    /// A `dfs` that talks to it.
    fn dfs(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(binary("dfs"));
        command.args(arguments).env_clear().env("DFS_ENDPOINT", &self.endpoint);
        command.env("DFS_TOKEN_FILE", &self.token_file);
        command
    }

    fn put(&self, remote: &str, bytes: &[u8]) {
        let mut child = self.dfs(&["-q", "put", "-", remote]).stdin(Stdio::piped()).spawn().unwrap();
        child.stdin.take().unwrap().write_all(bytes).unwrap();
        assert!(child.wait().unwrap().success(), "{remote}");
    }

    fn get(&self, remote: &str) -> Output {
        self.dfs(&["get", remote, "-"]).output().unwrap()
    }

    fn kill(self) {
        drop(self);
    }
}

impl Drop for Dfsd {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// `len` bytes that do not compress.
fn noise(seed: u64, len: usize) -> Vec<u8> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let mut word = move || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state.wrapping_mul(0x2545_f491_4f6c_dd1d)
    };
    let mut bytes: Vec<u8> = (0..len.div_ceil(8)).flat_map(|_| word().to_le_bytes()).collect();
    bytes.truncate(len);
    bytes
}

/// Runs an offline `dfs` with `data`; returns its exit code, standard output and standard error.
fn offline(data: &Path, arguments: &[&str]) -> (i32, String, String) {
    let mut command = Command::new(binary("dfs"));
    let output = command.args(arguments).arg("--data").arg(data).env_clear().output().unwrap();
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
    (output.status.code().unwrap(), text(output.stdout), text(output.stderr))
}

/// Runs an offline `dfs --json`; returns its exit code and what it printed.
fn json(data: &Path, arguments: &[&str]) -> (i32, Value) {
    let (code, stdout, stderr) = offline(data, &[&["--json"], arguments].concat());
    (code, serde_json::from_str(&stdout).unwrap_or_else(|error| panic!("{error}: {stdout} {stderr}")))
}

/// Every file below `directory`: its bytes, its length, when it was last changed.
fn everything(directory: &Path) -> BTreeMap<PathBuf, (Vec<u8>, i64, i64)> {
    let mut files = BTreeMap::new();
    let mut directories = vec![directory.to_owned()];
    while let Some(directory) = directories.pop() {
        for entry in fs::read_dir(directory).unwrap() {
            let path = entry.unwrap().path();
            let metadata = fs::metadata(&path).unwrap();
            let content = if metadata.is_dir() { Vec::new() } else { fs::read(&path).unwrap() };
            files.insert(path.clone(), (content, metadata.mtime(), metadata.mtime_nsec()));
            if metadata.is_dir() {
                directories.push(path);
            }
        }
    }
    files
}

/// A directory that a `dfsd` was killed in, with two files and an upload that was cut off.
fn killed() -> (TempDir, PathBuf) {
    let dir = tempfile::tempdir().unwrap();
    let data = dir.path().join("data");
    let dfsd = Dfsd::start(&data);
    dfsd.put("/docs/report", &noise(1, 300_000));
    dfsd.put("/docs/short", b"a few bytes");
    let mut upload = dfsd.dfs(&["-q", "put", "-", "/cut"]).stdin(Stdio::piped()).stderr(Stdio::null()).spawn().unwrap();
    // The server holds few megabytes of an upload: when this many have been taken, rows of it are on the disk.
    upload.stdin.as_mut().unwrap().write_all(&noise(2, 24 << 20)).unwrap();
    dfsd.kill();
    drop(upload.stdin.take());
    assert!(!upload.wait().unwrap().success());
    (dir, data)
}

/// The segment file and offset of the first block of the first file that was stored.
fn a_block(data: &Path) -> (PathBuf, u64) {
    let (_, segments) = json(data, &["inspect", "segment"]);
    for segment in segments["segments"].as_array().unwrap() {
        let id = segment["segment"].as_str().unwrap();
        let (code, row) = json(data, &["inspect", "row", id, "1"]);
        if code == 0 {
            let offset = row["table"][0]["offset"].as_u64().unwrap();
            return (data.join(segment["files"][0]["file"].as_str().unwrap()), offset);
        }
    }
    panic!("no segment has a row: {segments}");
}

fn flip(file: &Path, offset: u64) {
    let file = OpenOptions::new().read(true).write(true).open(file).unwrap();
    let mut byte = [0];
    file.read_exact_at(&mut byte, offset).unwrap();
    file.write_all_at(&[byte[0] ^ 1], offset).unwrap();
}

#[test]
fn what_a_killed_server_leaves_is_clean_and_is_not_changed() {
    let (_dir, data) = killed();
    let before = everything(&data);
    for arguments in [&["fsck"][..], &["fsck", "--quick"], &["fsck", "--threads", "3"]] {
        let (code, report) = json(&data, arguments);
        assert_eq!(code, 0, "{report}");
        assert!(report["problems"].as_array().unwrap().iter().all(|problem| problem["severity"] == "info"));
        assert_eq!((&report["totals"]["files"], &report["totals"]["versions"]), (&2.into(), &2.into()));
        assert!(report["totals"]["chunks"].as_u64().unwrap() > 50, "rows of the upload are looked at: {report}");
    }
    let (code, words, _) = offline(&data, &["fsck"]);
    assert!(code == 0 && words.contains("2 files") && words.ends_with("clean\n"), "{words}");
    for structure in ["superblock", "segment", "wal", "snapshot"] {
        let (code, words, complaint) = offline(&data, &["inspect", structure]);
        assert!(code == 0 && !words.is_empty(), "{structure}: {complaint}");
        assert_eq!(json(&data, &["inspect", structure]).0, 0);
    }
    let (_, logs) = json(&data, &["inspect", "wal"]);
    let name = logs["logs"][0]["file"].as_str().unwrap();
    let (_, words, _) = offline(&data, &["inspect", "wal", name]);
    assert!(words.contains("CommitFile") && !words.contains("a few bytes"), "{words}");
    assert!(everything(&data) == before, "something was changed");

    let dfsd = Dfsd::start(&data);
    assert!(dfsd.get("/docs/report").stdout == noise(1, 300_000));
}

#[test]
fn a_served_directory_is_refused_naming_the_server() {
    let dir = tempfile::tempdir().unwrap();
    let data = dir.path().join("data");
    let dfsd = Dfsd::start(&data);
    for arguments in [&["fsck"][..], &["inspect", "superblock"]] {
        let (code, words, complaint) = offline(&data, arguments);
        assert_eq!((code, &words[..]), (8, ""));
        assert!(complaint.contains(&format!("process {}", dfsd.child.id())), "{complaint}");
    }
    dfsd.kill();
    // And a server does not start under a check.
    let lock = File::open(data.join("lock")).unwrap();
    lock.try_lock_shared().unwrap();
    assert_eq!(offline(&data, &["fsck"]).0, 0, "several may look at once");
    let mut command = Command::new(binary("dfsd"));
    let refused = command.args(["serve", "--listen", "127.0.0.1:0", "--data"]).arg(&data).output().unwrap();
    assert_eq!(refused.status.code(), Some(1));
}

#[test]
fn damage_is_told_with_the_file_that_it_costs_and_an_exit_code() {
    let (_dir, data) = killed();
    flip(&data.join("superblock"), 4096 + 40);
    let (code, report) = json(&data, &["fsck"]);
    assert_eq!((code, &report["worst"], &report["counts"]["superblock-copy"]), (1, &"warning".into(), &1.into()));

    let (file, offset) = a_block(&data);
    flip(&file, offset + 200);
    let (code, report) = json(&data, &["fsck"]);
    assert_eq!((code, &report["worst"]), (4, &"damage".into()));
    let problems = report["problems"].as_array().unwrap();
    let find =
        |code: &str| problems.iter().find(|problem| problem["code"] == code).unwrap_or_else(|| panic!("{report}"));
    let lost = find("data-lost");
    // In the last row of an open segment a block may as well have been cut short.
    let is_block = |problem: &&Value| {
        ["block-damaged", "row-unfinished"].contains(&problem["code"].as_str().unwrap()) && problem["offset"] == offset
    };
    let block = problems.iter().find(is_block).unwrap_or_else(|| panic!("{report}"));
    assert!(file.ends_with(block["file"].as_str().unwrap()));
    assert_eq!((&lost["path"], &lost["version"], &lost["range"][0]), (&"/docs/report".into(), &1.into(), &0.into()));
    let (_, words, _) = offline(&data, &["fsck"]);
    assert!(words.contains("damage: data-lost (1)") && words.contains("/docs/report version 1 bytes 0-"), "{words}");
    let (code, silent, complaint) = offline(&data, &["fsck", "-q"]);
    assert!(code == 4 && silent.is_empty() && complaint.contains("/docs/report"), "{complaint}");
    let id = file.file_name().unwrap().to_str().unwrap();
    assert_eq!(json(&data, &["inspect", "row", id, "1"]).0, 4);

    // What a reader is told agrees.
    let dfsd = Dfsd::start(&data);
    assert!(!dfsd.get("/docs/report").status.success());
    assert!(dfsd.get("/docs/short").stdout == b"a few bytes");
}

#[test]
fn what_cannot_be_checked_is_not_called_clean() {
    let dir = tempfile::tempdir().unwrap();
    let missing = dir.path().join("missing");
    assert_eq!(offline(&missing, &["fsck"]).0, 8);
    let (code, _, complaint) = offline(dir.path(), &["fsck"]);
    assert!(code == 8 && complaint.contains("no data directory"), "{complaint}");
    assert_eq!(offline(dir.path(), &["fsck", "--frobnicate"]).0, 2);

    let data = dir.path().join("data");
    Dfsd::start(&data).kill();
    let keys = dir.path().join("keys");
    fs::rename(data.join("keys"), &keys).unwrap();
    let (code, _, complaint) = offline(&data, &["fsck"]);
    assert!(code == 8 && complaint.contains("keys"), "{complaint}");
    assert_eq!(offline(&data, &["fsck", "--key-file", keys.to_str().unwrap()]).0, 0);
    assert_eq!(offline(&data, &["inspect", "segment", "ff"]).0, 8);
}
