//! The `dfs` command, run as a user runs it, against a server in this process.

mod binary;
#[path = "../../client/tests/stub/mod.rs"]
#[allow(dead_code, reason = "the client's tests use the rest of it")]
mod stub;

use std::collections::BTreeMap;
use std::fs;
use std::io::Write;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use binary::binary;
use proto::api::{Entry, Kind};
use serde_json::Value;
use stub::{Fault, Stub, TOKEN};
use tempfile::TempDir;

fn command(stub: &Stub, arguments: &[&str]) -> Command {
    let mut command = Command::new(binary("dfs"));
    command.args(arguments).env_clear().env("DFS_ENDPOINT", &stub.endpoint).env("DFS_TOKEN", TOKEN);
    command
}

fn dfs(stub: &Stub, arguments: &[&str]) -> Output {
    command(stub, arguments).stdin(Stdio::null()).output().unwrap()
}

/// Runs `dfs`, which must succeed, and returns what it printed.
fn done(stub: &Stub, arguments: &[&str]) -> String {
    let output = dfs(stub, arguments);
    assert!(output.status.success(), "{arguments:?}: {}", text(&output.stderr));
    text(&output.stdout)
}

/// Runs `dfs`, which must fail with `code`, and returns its complaint.
fn failed(stub: &Stub, code: i32, arguments: &[&str]) -> String {
    let output = dfs(stub, arguments);
    assert_eq!(output.status.code(), Some(code), "{arguments:?}: {}", text(&output.stderr));
    text(&output.stderr)
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8(bytes.to_vec()).unwrap()
}

fn shown(path: &Path) -> &str {
    path.to_str().unwrap()
}

/// Sets mode and modification time of a file or directory.
fn set(path: &Path, mode: u32, mtime_ns: u64) {
    let file = fs::File::open(path).unwrap();
    file.set_modified(std::time::UNIX_EPOCH + std::time::Duration::from_nanos(mtime_ns)).unwrap();
    fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
}

/// Everything about a tree that must survive a round trip.
fn picture(root: &Path) -> BTreeMap<PathBuf, (u32, i128, Vec<u8>)> {
    let mut seen = BTreeMap::new();
    let mut pending = vec![root.to_owned()];
    while let Some(path) = pending.pop() {
        let metadata = fs::symlink_metadata(&path).unwrap();
        let content = if metadata.is_symlink() {
            fs::read_link(&path).unwrap().as_os_str().as_bytes().to_vec()
        } else if metadata.is_dir() {
            pending.extend(fs::read_dir(&path).unwrap().map(|entry| entry.unwrap().path()));
            Vec::new()
        } else {
            fs::read(&path).unwrap()
        };
        let mtime_ns = i128::from(metadata.mtime()) * 1_000_000_000 + i128::from(metadata.mtime_nsec());
        let relative = path.strip_prefix(root).unwrap().to_owned();
        seen.insert(relative, (metadata.mode(), mtime_ns, content));
    }
    seen
}

/// A tree with one of everything that is kept.
fn sample() -> TempDir {
    let root = tempfile::tempdir().unwrap();
    let at = |name: &str| root.path().join(name);
    fs::create_dir_all(at("docs/deep er/ü")).unwrap();
    fs::create_dir(at("empty")).unwrap();
    fs::write(at("docs/a ?#%.txt"), "alpha").unwrap();
    fs::write(at("docs/deep er/ü/big"), vec![7; 1 << 20]).unwrap();
    fs::write(at("nothing"), "").unwrap();
    symlink("docs/a ?#%.txt", at("link")).unwrap();
    symlink("/nowhere/ü", at("docs/dangling")).unwrap();
    symlink("docs", at("directory link")).unwrap();
    for (number, name) in ["docs/a ?#%.txt", "docs/deep er/ü/big", "nothing"].iter().enumerate() {
        set(&at(name), 0o640, 1_600_000_000_000_000_001 + number as u64);
    }
    for (number, name) in ["docs/deep er/ü", "docs/deep er", "docs", "empty", ""].iter().enumerate() {
        set(&at(name), 0o751, 1_500_000_000_123_456_789 + number as u64);
    }
    root
}

#[test]
fn a_tree_comes_back_as_it_went() {
    let stub = Stub::start();
    stub.state.lock().unwrap().page = 2;
    let (source, target) = (sample(), tempfile::tempdir().unwrap());
    let copy = target.path().join("copy");
    let summary = done(&stub, &["put", "-r", "--json", shown(source.path()), "/tree"]);
    let summary: Value = serde_json::from_str(&summary).unwrap();
    assert_eq!((&summary["files"], &summary["directories"], &summary["symlinks"]), (&3.into(), &5.into(), &3.into()));
    assert_eq!(summary["bytes"], (1 << 20) + 5);
    done(&stub, &["get", "-r", "/tree", shown(&copy)]);
    assert_eq!(picture(&copy), picture(source.path()));

    // Again, onto what is there, after changes of every kind.
    fs::write(source.path().join("nothing"), "something").unwrap();
    fs::remove_file(source.path().join("link")).unwrap();
    symlink("empty", source.path().join("link")).unwrap();
    done(&stub, &["put", "-r", shown(source.path()), "/tree"]);
    done(&stub, &["get", "-r", "/tree", shown(&copy)]);
    assert_eq!(picture(&copy), picture(source.path()));

    // Into a directory, under the tree's own name.
    done(&stub, &["get", "-r", "/tree", &format!("{}/", shown(target.path()))]);
    assert_eq!(picture(&target.path().join("tree")), picture(source.path()));
}

#[test]
fn a_file_goes_into_a_directory_under_its_own_name() {
    let stub = Stub::start();
    let local = sample();
    let file = local.path().join("docs/a ?#%.txt");
    assert_eq!(done(&stub, &["put", shown(&file), "/new/"]), "stored /new/a ?#%.txt: 5 B, version 1\n");
    assert_eq!(done(&stub, &["put", shown(&file), "/new"]), "stored /new/a ?#%.txt: 5 B, version 2\n");
    assert_eq!(done(&stub, &["put", shown(&file), "new/other"]), "stored /new/other: 5 B, version 1\n");
    let target = tempfile::tempdir().unwrap();
    done(&stub, &["get", "/new/other", shown(target.path())]);
    done(&stub, &["get", "/new/other", shown(&target.path().join("third"))]);
    for name in ["other", "third"] {
        let metadata = fs::metadata(target.path().join(name)).unwrap();
        assert_eq!((metadata.mode() & 0o7777, metadata.mtime_nsec()), (0o640, 1), "{name}");
    }
    assert_eq!(fs::read_dir(target.path()).unwrap().count(), 2);
}

#[test]
fn standard_input_and_output_are_streamed() {
    let stub = Stub::start();
    let content = vec![42; 300_000];
    let mut child = command(&stub, &["put", "-", "/stream", "--meta", "Source=pipe"])
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .spawn()
        .unwrap();
    child.stdin.take().unwrap().write_all(&content).unwrap();
    assert!(child.wait().unwrap().success());
    let object = stub.object("/stream").unwrap();
    assert_eq!((&object.content, object.metadata["source"].as_str()), (&content, "pipe"));
    let output = dfs(&stub, &["get", "/stream", "-"]);
    assert!(output.status.success());
    assert_eq!(output.stdout, content);
    failed(&stub, 2, &["put", "-", "/"]);
}

#[test]
fn sockets_and_pipes_are_skipped_with_a_warning() {
    let stub = Stub::start();
    let local = sample();
    let socket = local.path().join("docs/socket");
    let _listener = std::os::unix::net::UnixListener::bind(&socket).unwrap();
    let output = dfs(&stub, &["put", "-r", shown(local.path()), "/tree"]);
    assert!(output.status.success());
    assert!(text(&output.stderr).contains(&format!("skipped {}", shown(&socket))), "{}", text(&output.stderr));
    assert_eq!(stub.object("/tree/docs/socket"), None);
    failed(&stub, 6, &["put", "/dev/null", "/null"]);
    failed(&stub, 6, &["get", "/tree/nothing", "/dev/null"]);
}

#[test]
fn a_name_that_is_not_utf8_is_named_and_the_rest_is_stored() {
    let stub = Stub::start();
    let local = sample();
    fs::write(local.path().join(std::ffi::OsStr::from_bytes(b"bad\xff")), "x").unwrap();
    let complaint = failed(&stub, 1, &["put", "-r", shown(local.path()), "/tree"]);
    assert!(complaint.contains("bad\u{fffd}: the name is not UTF-8"), "{complaint}");
    assert!(complaint.contains("1 of 12 could not be transferred"), "{complaint}");
    assert!(stub.object("/tree/nothing").is_some());
}

#[test]
fn one_failing_file_does_not_stop_its_tree() {
    let stub = Stub::start();
    let local = sample();
    done(&stub, &["mkdir", "-p", "/tree/nothing"]);
    let output = dfs(&stub, &["put", "-r", "--json", shown(local.path()), "/tree"]);
    assert_eq!(output.status.code(), Some(1));
    let summary: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!((&summary["files"], summary["failed"].as_array().unwrap().len()), (&2.into(), 1));
    assert!(summary["failed"][0]["message"].as_str().unwrap().starts_with("/tree/nothing: "));
    let error: Value = serde_json::from_slice(&output.stderr).unwrap();
    assert_eq!((&error["error"]["code"], &error["error"]["retryable"]), (&"partial".into(), &false.into()));
}

#[test]
fn a_tree_is_given_up_when_every_file_would_fail() {
    let stub = Stub::start();
    let refusal = "HTTP/1.1 401 Unauthorized\r\ncontent-length: 0\r\n\r\n";
    stub.fail("PUT", Fault::Raw(refusal.to_owned()));
    let complaint = failed(&stub, 4, &["put", "-r", "--jobs", "1", shown(sample().path()), "/tree"]);
    assert!(complaint.contains("gave up") && complaint.contains("--token-file"), "{complaint}");
    assert_eq!(stub.requests("PUT").len(), 1);
}

#[test]
fn a_file_that_changes_while_it_is_read_is_reported() {
    let stub = Stub::start();
    let local = sample();
    let file = local.path().join("nothing");
    stub.fail("PUT", Fault::Append(file.clone()));
    let complaint = failed(&stub, 1, &["put", shown(&file), "/f"]);
    assert!(complaint.contains("changed while it was being read"), "{complaint}");
}

#[test]
fn a_failed_download_leaves_the_old_file_alone() {
    let stub = Stub::start();
    let local = sample();
    done(&stub, &["put", shown(&local.path().join("docs/deep er/ü/big")), "/f"]);
    let target = tempfile::tempdir().unwrap();
    fs::write(target.path().join("f"), "old").unwrap();
    stub.fail("GET", Fault::CutBody(1000));
    stub.fail("GET", Fault::ReplaceContent(vec![8; 1 << 20]));
    let complaint = failed(&stub, 7, &["get", "/f", shown(&target.path().join("f"))]);
    assert!(complaint.contains("replaced"), "{complaint}");
    assert_eq!(fs::read(target.path().join("f")).unwrap(), b"old");
    assert_eq!(fs::read_dir(target.path()).unwrap().count(), 1);
}

#[test]
fn a_hostile_server_cannot_write_outside_of_the_target() {
    let stub = Stub::start();
    let directory = tempfile::tempdir().unwrap();
    let (target, outside) = (directory.path().join("target"), directory.path().join("outside"));
    fs::create_dir(&outside).unwrap();
    done(&stub, &["mkdir", "/z"]);
    for smuggled in ["/../outside/f", "/zz/../../outside/f", "/..", "//"] {
        let entry = Entry { path: smuggled.to_owned(), kind: Kind::File, ..honest_entry() };
        stub.state.lock().unwrap().smuggled = vec![entry];
        failed(&stub, 1, &["get", "-r", "/", shown(&target)]);
    }
    stub.state.lock().unwrap().smuggled.clear();

    // A link where the tree has a directory: what belongs below it must not pass through.
    symlink(&outside, target.join("d")).unwrap();
    done(&stub, &["put", shown(&sample().path().join("nothing")), "/d/f"]);
    let complaint = failed(&stub, 1, &["get", "-r", "/", shown(&target)]);
    assert!(complaint.contains("target/d"), "{complaint}");
    assert_eq!(fs::read_dir(&outside).unwrap().count(), 0);
    assert_eq!(fs::read_dir(directory.path()).unwrap().count(), 2);
}

fn honest_entry() -> Entry {
    Entry {
        id: String::new(),
        path: String::new(),
        kind: Kind::File,
        version: 1,
        size: 0,
        etag: "\"1\"".to_owned(),
        created_at: "1970-01-01T00:00:00Z".to_owned(),
        modified_at: "1970-01-01T00:00:00Z".to_owned(),
        mode: 0o644,
        symlink_target: None,
        content_type: None,
        metadata: BTreeMap::new(),
    }
}

#[test]
fn set_user_id_is_not_restored() {
    let stub = Stub::start();
    let local = sample();
    let file = local.path().join("nothing");
    set(&file, 0o6755, 0);
    done(&stub, &["put", shown(&file), "/f"]);
    assert_eq!(stub.object("/f").unwrap().mode, 0o6755);
    done(&stub, &["get", "/f", shown(&local.path().join("g"))]);
    assert_eq!(fs::metadata(local.path().join("g")).unwrap().mode() & 0o7777, 0o755);
}

#[test]
fn the_short_commands_do_what_they_say() {
    let stub = Stub::start();
    let local = sample();
    done(&stub, &["put", "-r", shown(local.path()), "/tree"]);
    assert_eq!(done(&stub, &["ls", "/tree"]), "directory link\ndocs\nempty\nlink\nnothing\n");
    let long = done(&stub, &["ls", "-l", "/tree"]);
    let lines: Vec<_> = long.lines().collect();
    assert_eq!(lines[1], "drwxr-x--x          - 2017-07-14 02:40:00Z docs");
    assert!(lines[3].ends_with(" link -> docs/a ?#%.txt"), "{long}");
    assert_eq!(lines[4], "-rw-r-----        0 B 2020-09-13 12:26:40Z nothing");
    assert_eq!(done(&stub, &["ls", "/tree/nothing"]), "/tree/nothing\n");
    let listing: Value = serde_json::from_str(&done(&stub, &["ls", "--json", "/tree"])).unwrap();
    assert_eq!(listing["entries"][1]["path"], "/tree/docs");
    assert!(done(&stub, &["stat", "/tree/link"]).contains("target    docs/a ?#%.txt\n"));

    assert_eq!(done(&stub, &["mv", "/tree/nothing", "/tree/docs/"]), "renamed /tree/nothing to /tree/docs/nothing\n");
    let complaint = failed(&stub, 6, &["mv", "/tree/docs/nothing", "/tree/link"]);
    assert!(complaint.contains("--replace"), "{complaint}");
    done(&stub, &["mv", "--replace", "/tree/docs/nothing", "/tree/link"]);
    assert_eq!(stub.object("/tree/link").unwrap().kind, Kind::File);

    assert!(failed(&stub, 6, &["rm", "/tree"]).contains("-r"));
    assert_eq!(done(&stub, &["-q", "rm", "-r", "/tree"]), "");
    assert!(stub.state.lock().unwrap().objects.is_empty());
    failed(&stub, 2, &["rm", "-r", "/"]);

    assert!(failed(&stub, 3, &["mkdir", "/a/b"]).contains("-p"));
    assert_eq!(done(&stub, &["mkdir", "-p", "/a/b", "/c"]), "made /a/b\nmade /c\n");
    assert!(failed(&stub, 6, &["mkdir", "/c"]).contains("-p"));
    done(&stub, &["mkdir", "-p", "/c"]);
    assert!(done(&stub, &["df"]).contains("dedup          2.00 : 1"));
}

#[test]
fn exit_codes_tell_what_happened() {
    let stub = Stub::start();
    assert!(failed(&stub, 3, &["get", "/missing", "x"]).contains("/missing"));
    assert!(failed(&stub, 2, &["ls", "/../x"]).contains("'..'"));
    failed(&stub, 2, &["frobnicate"]);
    failed(&stub, 3, &["put", "/no/such/file", "/x"]);
    assert!(failed(&stub, 4, &["--token", "wrong", "ls"]).contains("--token-file"));
    assert!(failed(&stub, 5, &["--endpoint", "http://127.0.0.1:1", "ls"]).contains("dfsd serve"));
    done(&stub, &["mkdir", "/d"]);
    assert!(failed(&stub, 6, &["get", "/d", "x"]).contains("-r"));
    let error: Value = serde_json::from_str(&failed(&stub, 3, &["--json", "stat", "/missing"])).unwrap();
    assert_eq!((&error["error"]["code"], &error["error"]["retryable"]), (&"not_found".into(), &false.into()));
    let error: Value = serde_json::from_str(&failed(&stub, 2, &["--json", "put"])).unwrap();
    assert_eq!(error["error"]["code"], "usage");
}

#[test]
fn the_token_may_come_from_a_file() {
    let stub = Stub::start();
    let mut file = tempfile::NamedTempFile::new().unwrap();
    writeln!(file, "{TOKEN}").unwrap();
    let run = |arguments: &[&str]| command(&stub, arguments).env("DFS_TOKEN", "").output().unwrap().status.code();
    assert_eq!(run(&["--token-file", shown(file.path()), "ls"]), Some(0));
    assert_eq!(run(&["ls"]), Some(4));
    assert_eq!(run(&["--token-file", "/no/such/file", "ls"]), Some(3));
    // The option wins over the variable, which holds the right token here.
    failed(&stub, 3, &["--token-file", "/no/such/file", "ls"]);
    failed(&stub, 3, &["ls", "--token-file", "/no/such/file"]);
}

#[test]
fn help_shows_the_way_and_never_a_token() {
    let stub = Stub::start();
    let help = done(&stub, &["--help"]);
    assert!(help.contains("In two minutes") && help.contains("Exit codes") && !help.contains(TOKEN), "{help}");
}
