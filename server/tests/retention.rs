//! Retention over REST, against a real `dfsd`.

#![allow(clippy::disallowed_methods, reason = "a process test runs a real dfsd in real time")]

mod daemon;

use daemon::{Answer, Dfsd};
use serde_json::{Value, json};

/// A `dfsd` on a fresh directory.
fn fresh() -> (tempfile::TempDir, Dfsd) {
    let dir = tempfile::tempdir().unwrap();
    let dfsd = Dfsd::start(&dir.path().join("data"));
    (dir, dfsd)
}

fn set(dfsd: &Dfsd, path: &str, headers: &[(&str, &str)], body: &str) -> Answer {
    dfsd.send("PUT", &format!("/api/v1/fs{path}?retention"), headers, body.as_bytes())
}

fn get(dfsd: &Dfsd, path: &str) -> Value {
    dfsd.get(&format!("/api/v1/fs{path}?retention")).expect(200).json()
}

#[test]
fn a_retention_holds_below_its_directory_and_survives_a_kill() {
    let (dir, dfsd) = fresh();
    let id = dfsd.put("/api/v1/fs/a/b/f", b"1").json()["id"].as_str().unwrap().to_owned();
    let nothing = json!({"path": "/a/b", "in_force": {"keep_everything": true}});
    assert_eq!(get(&dfsd, "/a/b"), nothing);
    let ten = json!({"keep": 10, "keep_for_seconds": 86_400});
    let answer = set(&dfsd, "/a", &[], r#"{"keep": 10, "keep_for_seconds": 86400}"#).expect(200).json();
    assert_eq!(answer, json!({"path": "/a", "own": ten, "in_force": ten, "from": "/a"}));
    dfsd.kill();
    let dfsd = Dfsd::start(&dir.path().join("data"));
    assert_eq!(get(&dfsd, "/a/b"), json!({"path": "/a/b", "in_force": ten, "from": "/a"}));
    assert_eq!(get(&dfsd, "/a/b/f"), json!({"path": "/a/b/f", "in_force": ten, "from": "/a"}));
    let by_id = dfsd.get(&format!("/api/v1/files/{id}?retention")).expect(200).json();
    assert_eq!(by_id, get(&dfsd, "/a/b/f"));
    set(&dfsd, "/a/b", &[], r#"{"keep_everything":true}"#).expect(200);
    let everything = json!({"keep_everything": true});
    assert_eq!(get(&dfsd, "/a/b/f"), json!({"path": "/a/b/f", "in_force": everything, "from": "/a/b"}));
    set(&dfsd, "/", &[], r#"{"keep":1}"#).expect(200);
    let cleared = dfsd.call("DELETE", "/api/v1/fs/a?retention", &[]).expect(200).json();
    assert_eq!(cleared, json!({"path": "/a", "in_force": {"keep": 1}, "from": "/"}));
    assert!(dfsd.get("/api/v1/fs/a/b/f").expect(200).body == b"1", "clearing removes nothing else");

    let events = dfsd.get("/api/v1/events?since=oldest").json();
    let told =
        events["events"].as_array().unwrap().iter().map(|event| (&event["event"], event["path"].as_str().unwrap()));
    let told: Vec<&str> = told.filter(|(event, _)| **event == "attributes").map(|(_, path)| path).collect();
    assert_eq!(told, ["/a", "/a/b", "/", "/a"]);
}

#[test]
fn what_makes_no_retention_is_refused_and_changes_nothing() {
    let (_dir, dfsd) = fresh();
    dfsd.put("/api/v1/fs/d/f", b"1");
    set(&dfsd, "/d", &[], r#"{"keep":7}"#).expect(200);
    let before = get(&dfsd, "/d");
    for body in ["", "{}", "10", r#"{"keep":0}"#, r#"{"keep":5,"keep_everything":true}"#, r#"{"keeps":5}"#] {
        set(&dfsd, "/d", &[], body).refused(400, "bad_body");
    }
    set(&dfsd, "/d", &[], &format!(r#"{{"keep":5{}}}"#, " ".repeat(5000))).refused(413, "too_large");
    set(&dfsd, "/d/f", &[], r#"{"keep":5}"#).refused(409, "not_a_directory");
    set(&dfsd, "/none", &[], r#"{"keep":5}"#).refused(404, "not_found");
    set(&dfsd, "/none", &[("if-match", "*")], r#"{"keep":5}"#).refused(404, "not_found");
    set(&dfsd, "/d", &[("if-none-match", "*")], r#"{"keep":5}"#).refused(412, "precondition_failed");
    dfsd.call("DELETE", "/api/v1/fs/d/f?retention", &[]).refused(409, "not_a_directory");
    dfsd.call("DELETE", "/api/v1/fs/d?retention&recursive=true", &[]).refused(400, "bad_query");
    dfsd.get("/api/v1/fs/d?retention&limit=1").refused(400, "bad_query");
    dfsd.get("/api/v1/fs/none?retention").refused(404, "not_found");
    dfsd.send("PUT", "/api/v1/fs/d?retention&type=file", &[], br#"{"keep":5}"#).refused(400, "bad_query");
    assert_eq!(get(&dfsd, "/d"), before);
    assert!(dfsd.get("/api/v1/fs/d/f").expect(200).body == b"1");
}

#[test]
fn a_repeated_request_sets_it_once() {
    let (_dir, dfsd) = fresh();
    dfsd.put("/api/v1/fs/d/f", b"1");
    let key = [("idempotency-key", "k1"), ("if-match", "*")];
    let first = set(&dfsd, "/d", &key, r#"{"keep":5}"#).expect(200).json();
    set(&dfsd, "/d", &[], r#"{"keep":6}"#).expect(200);
    set(&dfsd, "/d", &key, r#"{"keep":5}"#).expect(200);
    assert_eq!(get(&dfsd, "/d")["own"], json!({"keep": 6}), "the repetition has no effect; first: {first}");
    set(&dfsd, "/d", &key, r#"{"keep":7}"#).refused(422, "idempotency_key_reused");
}

#[test]
fn the_list_of_versions_says_what_is_no_longer_kept() {
    let (_dir, dfsd) = fresh();
    for body in [b"1", b"2", b"3"] {
        dfsd.put("/api/v1/fs/d/f", body);
    }
    let list = |what: &str| {
        let list = dfsd.get("/api/v1/fs/d/f?versions").expect(200).json();
        list["versions"].as_array().unwrap().iter().map(|version| version[what].clone()).collect::<Vec<Value>>()
    };
    assert_eq!(list("expires_at"), [Value::Null, Value::Null, Value::Null]);
    set(&dfsd, "/d", &[], r#"{"keep":2}"#).expect(200);
    assert_eq!(list("expired"), [Value::Null, Value::Null, json!(true)]);
    assert_eq!(list("expires_at"), [Value::Null, Value::Null, Value::Null], "no rule looks at the clock");
    set(&dfsd, "/d", &[], r#"{"keep_for_seconds":31536000}"#).expect(200);
    assert_eq!(list("expired"), [Value::Null, Value::Null, Value::Null]);
    let years = |time: &Value| time.as_str().unwrap()[..4].parse::<u32>().unwrap();
    assert!(years(&list("expires_at")[1]) > years(&list("created_at")[2]));
}

#[test]
fn versions_go_with_time_though_nothing_else_happens() {
    let dir = tempfile::tempdir().unwrap();
    let dfsd = Dfsd::start_with(&dir.path().join("data"), &["--gc-interval", "1"]);
    dfsd.put("/api/v1/fs/d/f", b"1");
    set(&dfsd, "/d", &[], r#"{"keep_for_seconds":4}"#).expect(200);
    dfsd.put("/api/v1/fs/d/f", b"2");
    let versions = || dfsd.get("/api/v1/fs/d/f?versions").expect(200).json()["versions"].as_array().unwrap().len();
    assert_eq!(versions(), 2);
    let waited = std::time::Instant::now();
    while versions() == 2 {
        assert!(waited.elapsed().as_secs() < 60, "{}", dfsd.get("/api/v1/gc").json());
        std::thread::sleep(std::time::Duration::from_millis(200));
    }
}
