//! `dfs retention`, as a user runs it, against a real `dfsd`.

#[path = "../../server/tests/daemon/mod.rs"]
mod daemon;

use std::process::{Command, Output};

use daemon::{Dfsd, binary::binary};
use serde_json::{Value, json};

/// Runs `dfs`, which must end with `code`, and returns what it printed there.
fn ended(dfsd: &Dfsd, code: i32, arguments: &[&str]) -> String {
    let mut command = Command::new(binary("dfs"));
    command.args(arguments).env_clear();
    command.env("DFS_ENDPOINT", format!("http://{}", dfsd.address)).env("DFS_TOKEN", &dfsd.token);
    let Output { status, stdout, stderr } = command.output().unwrap();
    assert_eq!(status.code(), Some(code), "{arguments:?}: {}", String::from_utf8_lossy(&stderr));
    String::from_utf8(if code == 0 { stdout } else { stderr }).unwrap()
}

#[test]
fn a_retention_is_set_shown_and_cleared() {
    let dir = tempfile::tempdir().unwrap();
    let dfsd = Dfsd::start(&dir.path().join("data"));
    for body in [b"1", b"2", b"3"] {
        dfsd.put("/api/v1/fs/docs/f", body);
    }
    let shown = |path: &str| ended(&dfsd, 0, &["retention", "get", path]);
    assert_eq!(shown("/docs"), "/docs: keeps every version (nothing is set here or above)\n");
    assert_eq!(
        ended(&dfsd, 0, &["retention", "set", "/", "--keep", "2", "--keep-for", "30d"]),
        "/: keeps the newest 2 versions, and each for 30 days after it was replaced (set here)\n"
    );
    assert_eq!(
        shown("/docs/f"),
        "/docs/f: keeps the newest 2 versions, and each for 30 days after it was replaced (set on /)\n"
    );
    let lines = ended(&dfsd, 0, &["versions", "/docs/f"]);
    let kept: Vec<bool> = lines.lines().map(|line| line.contains("  kept until 20")).collect();
    assert_eq!(kept, [false, false, true], "{lines}");
    ended(&dfsd, 0, &["retention", "set", "/docs", "--keep", "1"]);
    let lines = ended(&dfsd, 0, &["versions", "/docs/f"]);
    let gone: Vec<bool> = lines.lines().map(|line| line.ends_with("  no longer kept")).collect();
    assert_eq!(gone, [false, true, true], "{lines}");
    ended(&dfsd, 0, &["retention", "set", "/docs", "--keep-everything"]);
    assert_eq!(shown("/docs/f"), "/docs/f: keeps every version (set on /docs)\n");
    let info: Value = serde_json::from_str(&ended(&dfsd, 0, &["retention", "clear", "/docs", "--json"])).unwrap();
    let in_force = json!({"keep": 2, "keep_for_seconds": 2_592_000});
    assert_eq!(info, json!({"path": "/docs", "in_force": in_force, "from": "/"}));
}

#[test]
fn what_cannot_be_meant_is_refused_with_what_to_do() {
    let dir = tempfile::tempdir().unwrap();
    let dfsd = Dfsd::start(&dir.path().join("data"));
    dfsd.put("/api/v1/fs/f", b"1");
    let set = |code, arguments: &[&str]| ended(&dfsd, code, &[&["retention", "set", "/"], arguments].concat());
    assert!(set(2, &[]).contains("--keep-everything"));
    assert!(set(2, &["--keep", "0"]).contains("0 is not in"));
    assert!(set(2, &["--keep-for", "30"]).contains("90m, 36h, 30d, 12w"));
    assert!(set(2, &["--keep-for", "99999999999999w"]).contains("at most"));
    set(2, &["--keep", "2", "--keep-everything"]);
    let refusal = ended(&dfsd, 6, &["retention", "set", "/f", "--keep", "2"]);
    assert!(refusal.contains("a retention belongs to a directory"), "{refusal}");
    ended(&dfsd, 3, &["retention", "get", "/none"]);
    ended(&dfsd, 3, &["retention", "clear", "/none"]);
}
