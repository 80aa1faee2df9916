//! `dfs versions`, `restore`, `events` and `get --version`, as a user runs them, against a real `dfsd`.

#[path = "../../server/tests/daemon/mod.rs"]
mod daemon;

use std::io::{BufRead, BufReader, Write};
use std::process::{Command, Output, Stdio};

use daemon::{Dfsd, binary::binary};
use serde_json::Value;

/// A `dfsd` on a fresh directory.
fn fresh() -> (tempfile::TempDir, Dfsd) {
    let dir = tempfile::tempdir().unwrap();
    let dfsd = Dfsd::start(&dir.path().join("data"));
    (dir, dfsd)
}

fn command(dfsd: &Dfsd, arguments: &[&str]) -> Command {
    let mut command = Command::new(binary("dfs"));
    command.args(arguments).env_clear();
    command.env("DFS_ENDPOINT", format!("http://{}", dfsd.address)).env("DFS_TOKEN", &dfsd.token);
    command
}

fn dfs(dfsd: &Dfsd, arguments: &[&str], input: &str) -> Output {
    let mut command = command(dfsd, arguments);
    let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    child.stdin.take().unwrap().write_all(input.as_bytes()).unwrap();
    child.wait_with_output().unwrap()
}

/// Runs `dfs`, which must end with `code`, and returns what it printed there.
fn ended(dfsd: &Dfsd, code: i32, arguments: &[&str]) -> String {
    let Output { status, stdout, stderr } = dfs(dfsd, arguments, "");
    assert_eq!(status.code(), Some(code), "{arguments:?}: {}", String::from_utf8_lossy(&stderr));
    String::from_utf8(if code == 0 { stdout } else { stderr }).unwrap()
}

fn put(dfsd: &Dfsd, path: &str, content: &str) {
    assert!(dfs(dfsd, &["put", "--type", "text/plain", "-", path], content).status.success());
}

#[test]
fn what_was_overwritten_is_listed_fetched_and_brought_back() {
    let (dir, dfsd) = fresh();
    for content in ["one", "the second", "3"] {
        put(&dfsd, "/docs/f", content);
    }
    let lines = ended(&dfsd, 0, &["versions", "/docs/f"]);
    let columns: Vec<Vec<&str>> = lines.lines().map(|line| line.split_whitespace().take(3).collect()).collect();
    assert_eq!(columns, [["3", "1", "B"], ["2", "10", "B"], ["1", "3", "B"]], "{lines}");
    let list: Value = serde_json::from_str(&ended(&dfsd, 0, &["versions", "--json", "/docs/f"])).unwrap();
    assert_eq!((list["path"].as_str(), list["versions"][1]["size"].as_u64()), (Some("/docs/f"), Some(10)));
    assert_eq!(ended(&dfsd, 0, &["get", "--version", "2", "/docs/f", "-"]), "the second");
    let local = dir.path().join("old");
    ended(&dfsd, 0, &["get", "--version", "1", "/docs/f", local.to_str().unwrap()]);
    assert_eq!(std::fs::read(&local).unwrap(), b"one");
    assert_eq!(
        ended(&dfsd, 0, &["restore", "/docs/f", "--version", "1"]),
        "restored version 1 of /docs/f as version 4\n"
    );
    assert_eq!(ended(&dfsd, 0, &["get", "/docs/f", "-"]), "one");
    assert!(ended(&dfsd, 0, &["stat", "/docs/f"]).contains("type      text/plain\n"));

    assert!(ended(&dfsd, 3, &["restore", "/docs/f", "--version", "9"]).contains("dfs versions"));
    ended(&dfsd, 3, &["get", "--version", "9", "/docs/f", "-"]);
    ended(&dfsd, 3, &["versions", "/none"]);
    ended(&dfsd, 6, &["versions", "/docs"]);
    ended(&dfsd, 2, &["restore", "/docs/f"]);
    ended(&dfsd, 2, &["get", "-r", "--version", "1", "/docs", "x"]);
    ended(&dfsd, 2, &["put", "--type", "text", "-", "/x"]);
}

#[test]
fn more_versions_than_a_page_has_are_all_listed() {
    let (_dir, dfsd) = fresh();
    for number in 0..1005 {
        dfsd.put("/api/v1/fs/f", number.to_string().as_bytes());
    }
    let lines = ended(&dfsd, 0, &["versions", "/f"]);
    let listed = lines.lines().map(|line| line.split_whitespace().next().unwrap().parse::<u32>().unwrap());
    assert!(listed.eq((1..=1005).rev()), "{lines}");
    let list: Value = serde_json::from_str(&ended(&dfsd, 0, &["versions", "--json", "/f"])).unwrap();
    assert_eq!(list["versions"].as_array().unwrap().len(), 1005);
}

#[test]
fn changes_are_shown_and_followed() {
    let (_dir, dfsd) = fresh();
    put(&dfsd, "/a/f", "1");
    put(&dfsd, "/b", "2");
    ended(&dfsd, 0, &["mv", "/a/f", "/a/g"]);
    let lines = ended(&dfsd, 0, &["events"]);
    let words = |line: &str| line.split_whitespace().map(str::to_owned).collect::<Vec<_>>();
    let told: Vec<Vec<String>> = lines.lines().map(|line| [&words(line)[..1], &words(line)[3..]].concat()).collect();
    let expected = ["1 create /a", "2 create /a/f", "3 create /b", "4 rename /a/f -> /a/g"];
    assert_eq!(told, expected.map(words), "{lines}");
    let lines = ended(&dfsd, 0, &["events", "--json", "--prefix", "/a", "--since", "2"]);
    let event: Value = serde_json::from_str(lines.trim()).unwrap();
    assert_eq!((event["event"].as_str(), event["from"].as_str()), (Some("rename"), Some("/a/f")));
    assert!(ended(&dfsd, 1, &["events", "--since", "99"]).contains("--since oldest"));
    ended(&dfsd, 1, &["events", "--since", "yesterday"]);

    let mut follower = command(&dfsd, &["events", "--follow", "--since", "4"]).stdout(Stdio::piped()).spawn().unwrap();
    let mut lines = BufReader::new(follower.stdout.take().unwrap()).lines();
    for name in ["x", "y"] {
        put(&dfsd, &format!("/{name}"), "");
        let line = lines.next().unwrap().unwrap();
        assert!(line.ends_with(&format!(" create     /{name}")), "{line}");
    }
    follower.kill().unwrap();
    follower.wait().unwrap();
}
