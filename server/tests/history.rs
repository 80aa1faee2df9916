//! Versions, remembered requests and change events, against a real `dfsd`.

mod daemon;

use std::io::{BufRead, BufReader, Write};
use std::net::TcpStream;

use daemon::{Answer, Dfsd, connect, noise, read_answer};
use serde_json::Value;

/// A `dfsd` on a fresh directory.
fn fresh() -> (tempfile::TempDir, Dfsd) {
    let dir = tempfile::tempdir().unwrap();
    let dfsd = Dfsd::start(&dir.path().join("data"));
    (dir, dfsd)
}

/// The same on one core, whose metrics are those of the whole.
fn fresh_on_one_core() -> (tempfile::TempDir, Dfsd) {
    let dir = tempfile::tempdir().unwrap();
    let dfsd = Dfsd::start_with(&dir.path().join("data"), &["--cores", "1"]);
    (dir, dfsd)
}

fn numbers(list: &Value) -> Vec<u64> {
    list["versions"].as_array().unwrap().iter().map(|version| version["version"].as_u64().unwrap()).collect()
}

#[test]
fn earlier_versions_are_listed_read_and_brought_back() {
    let (dir, dfsd) = fresh();
    let bodies = [noise(1, 300_000), b"two".to_vec(), noise(3, 200_000)];
    let mut made = Vec::new();
    for (number, body) in bodies.iter().enumerate() {
        let (mtime, mode) = (format!("{}000000000", number + 1), format!("60{number}"));
        let headers =
            [("x-dfs-mtime-ns", mtime.as_str()), ("x-dfs-mode", &mode), ("x-meta-of", &mode), ("content-type", "a/b")];
        let headers = if number == 1 { &headers[..3] } else { &headers[..] };
        made.push(dfsd.send("PUT", "/api/v1/fs/d/f", headers, body).json());
    }
    let logical_bytes = || dfsd.get("/api/v1/stats").json()["logical_bytes"].as_u64().unwrap();
    assert_eq!(logical_bytes(), 500_003);

    let list = dfsd.get("/api/v1/fs/d/f?versions").expect(200).json();
    assert_eq!((numbers(&list), list["path"].as_str(), list.get("next_after")), (vec![3, 2, 1], Some("/d/f"), None));
    for (listed, made) in list["versions"].as_array().unwrap().iter().rev().zip(&made) {
        assert_eq!(listed, made, "as it was when it was committed");
    }
    let page = dfsd.get("/api/v1/fs/d/f?versions&limit=2").expect(200).json();
    assert_eq!((numbers(&page), page["next_after"].as_u64()), (vec![3, 2], Some(2)));
    let page = dfsd.get("/api/v1/fs/d/f?versions&limit=2&after=2").expect(200).json();
    assert_eq!((numbers(&page), page.get("next_after")), (vec![1], None));

    let by_id = format!("/api/v1/files/{}", made[0]["id"].as_str().unwrap());
    for target in ["/api/v1/fs/d/f", &by_id] {
        for (number, body) in bodies.iter().enumerate() {
            let at = format!("{target}?version={}", number + 1);
            let got = dfsd.get(&at).expect(200);
            assert!(got.body == *body, "{at}");
            assert_eq!(got.header("etag"), made[number]["etag"].as_str().unwrap());
            assert_eq!(got.header("x-meta-of"), format!("60{number}"));
            assert_eq!(got.header("content-type"), if number == 1 { "application/octet-stream" } else { "a/b" });
            let head = dfsd.call("HEAD", &at, &[]).expect(200);
            assert_eq!(head.header("content-length"), body.len().to_string());
            let known = dfsd.call("GET", &at, &[("if-none-match", got.header("etag"))]);
            assert_eq!(known.status, 304);
            assert_eq!(dfsd.get(&format!("{at}&stat")).expect(200).json(), made[number]);
        }
    }
    let part = dfsd.call("GET", "/api/v1/fs/d/f?version=1", &[("range", "bytes=299990-")]).expect(206);
    assert!(part.body == bodies[0][299_990..]);
    for (target, status, code) in [
        ("/api/v1/fs/d/f?version=4", 404, "no_such_version"),
        ("/api/v1/fs/d/f?version=0", 400, "bad_query"),
        ("/api/v1/fs/d?versions", 409, "not_a_file"),
        ("/api/v1/fs/d?version=1", 409, "not_a_file"),
        ("/api/v1/fs/none?versions", 404, "not_found"),
        ("/api/v1/fs/d/f?versions&stat=x", 400, "bad_query"),
    ] {
        dfsd.get(target).refused(status, code);
    }

    let restore =
        |query: &str, headers: &[(&str, &str)]| dfsd.call("POST", &format!("/api/v1/fs/d/f?{query}"), headers);
    let etag = |number: usize| made[number]["etag"].as_str().unwrap();
    restore("restore=9", &[]).refused(404, "no_such_version");
    restore("restore=1&rename_to=/x", &[]).refused(400, "bad_query");
    restore("restore=1", &[("if-match", etag(0))]).refused(412, "precondition_failed");
    let once = [("if-match", etag(2)), ("x-dfs-client", "00000000000000aa"), ("x-dfs-sequence", "1")];
    let restored = restore("restore=1", &once).expect(200);
    assert_eq!(restore("restore=1", &once).expect(200).json(), restored.json(), "once");
    let entry = restored.json();
    assert_eq!((entry["version"].as_u64(), entry["mode"].as_u64()), (Some(4), Some(0o600)));
    assert_eq!(entry["modified_at"], made[0]["modified_at"]);
    assert_ne!(restored.header("etag"), etag(0), "it is a version of its own");
    dfsd.call("POST", "/api/v1/fs/none?restore=1", &[("if-match", "*")]).refused(404, "not_found");

    // Renames keep the versions, a restart does, and removal takes them all.
    dfsd.call("POST", "/api/v1/fs/d/f?rename_to=/g", &[]).expect(200);
    dfsd.kill();
    let dfsd = Dfsd::start(&dir.path().join("data"));
    assert_eq!(numbers(&dfsd.get("/api/v1/fs/g?versions").json()), [4, 3, 2, 1]);
    for (version, body) in [(4, &bodies[0]), (2, &bodies[1]), (1, &bodies[0])] {
        assert!(dfsd.get(&format!("/api/v1/fs/g?version={version}")).expect(200).body == *body);
    }
    assert_eq!(dfsd.get("/api/v1/stats").json()["unique_bytes"].as_u64(), Some(500_003), "no data was copied");
    dfsd.call("DELETE", "/api/v1/fs/g", &[]).expect(204);
    dfsd.get("/api/v1/fs/g?versions").refused(404, "not_found");
    dfsd.get(&format!("{by_id}?version=1")).refused(404, "not_found");
    assert_eq!(dfsd.get("/api/v1/stats").json()["logical_bytes"].as_u64(), Some(0));
}

#[test]
fn a_key_makes_a_request_happen_once_across_a_restart() {
    let (dir, dfsd) = fresh();
    let keyed = |key: &'static str| [("idempotency-key", key)];
    let put = |dfsd: &Dfsd, key, body: &[u8]| dfsd.send("PUT", "/api/v1/fs/f", &keyed(key), body);
    let large = noise(7, 300_000);
    let first = put(&dfsd, "\"k 1\"", &large).expect(201).json();
    put(&dfsd, "k2", b"two").expect(200);
    assert_eq!(put(&dfsd, "\"k 1\"", &large).expect(201).json()["etag"], first["etag"]);
    put(&dfsd, "\"k 1\"", b"another body").refused(422, "idempotency_key_reused");
    dfsd.send("PUT", "/api/v1/fs/g", &keyed("k2"), b"two").refused(422, "idempotency_key_reused");
    let typed = [("idempotency-key", "k2"), ("x-meta-a", "b")];
    dfsd.send("PUT", "/api/v1/fs/f", &typed, b"two").refused(422, "idempotency_key_reused");
    let once = [("idempotency-key", "k3"), ("if-none-match", "*")];
    dfsd.send("PUT", "/api/v1/fs/new", &once, b"new").expect(201);
    let call = |dfsd: &Dfsd, method: &str, target: &str, key| dfsd.call(method, target, &keyed(key));
    let everything = |dfsd: &Dfsd| {
        dfsd.send("PUT", "/api/v1/fs/new", &once, b"new").expect(201);
        call(dfsd, "PUT", "/api/v1/fs/d/e?type=directory", "k4").expect(201);
        dfsd.send("PUT", "/api/v1/fs/l?type=symlink", &keyed("k5"), b"target").expect(201);
        call(dfsd, "POST", "/api/v1/fs/new?rename_to=/newer", "k6").expect(200);
        dfsd.call("PATCH", "/api/v1/fs/d", &[("idempotency-key", "k7"), ("x-dfs-mode", "700")]).expect(200);
        call(dfsd, "POST", "/api/v1/fs/f?restore=1", "k8").expect(200);
        call(dfsd, "DELETE", "/api/v1/fs/d?recursive=true", "k9").expect(204);
        call(dfsd, "DELETE", "/api/v1/fs/none", "k10").refused(404, "not_found");
    };
    everything(&dfsd);
    dfsd.kill();
    let dfsd = Dfsd::start(&dir.path().join("data"));
    let events = || dfsd.get("/api/v1/events?since=now").json()["cursor"].clone();
    let before = events();
    dfsd.send("PUT", "/api/v1/fs/l?type=symlink", &keyed("k5"), b"other").refused(422, "idempotency_key_reused");
    assert_eq!(put(&dfsd, "\"k 1\"", &large).expect(201).json()["etag"], first["etag"]);
    everything(&dfsd);
    assert_eq!(events(), before, "nothing was done twice");
    assert_eq!(dfsd.get("/api/v1/fs/f?stat").json()["version"].as_u64(), Some(3));

    let long = "k".repeat(256);
    for bad in ["", "\u{fc}", long.as_str()] {
        dfsd.send("PUT", "/api/v1/fs/x", &[("idempotency-key", bad)], b"").refused(400, "bad_header");
    }
    let both = [("idempotency-key", "k"), ("x-dfs-client", "0000000000000001"), ("x-dfs-sequence", "1")];
    dfsd.send("PUT", "/api/v1/fs/x", &both, b"").refused(400, "bad_header");
}

#[test]
fn a_key_in_use_is_told_so() {
    let (_dir, dfsd) = fresh_on_one_core();
    let head = "idempotency-key: k\r\ncontent-length: 3\r\nexpect: 100-continue\r\n";
    let first = dfsd.begin_upload("/api/v1/fs/f", head);
    let mut reader = BufReader::new(first.try_clone().unwrap());
    assert_eq!(read_answer(&mut reader, "PUT").status, 100);
    let second = dfsd.send("PUT", "/api/v1/fs/f", &[("idempotency-key", "k")], b"abc");
    second.refused(409, "idempotency_key_in_use");
    assert_eq!(second.header("retry-after"), "1");
    (&first).write_all(b"abc").unwrap();
    let first = read_answer(&mut reader, "PUT").expect(201).json();
    assert_eq!(dfsd.send("PUT", "/api/v1/fs/f", &[("idempotency-key", "k")], b"abc").expect(201).json(), first);
}

/// What happened to which path, and the cursor after it.
fn told(page: &Value) -> (Vec<String>, String) {
    let line = |event: &Value| {
        let from = event["from"].as_str().map_or(String::new(), |from| format!("{from} "));
        format!("{} {from}{} {}", event["event"].as_str().unwrap(), event["path"].as_str().unwrap(), event["version"])
    };
    let events = page["events"].as_array().unwrap();
    (events.iter().map(line).collect(), page["cursor"].as_str().unwrap().to_owned())
}

#[test]
fn changes_are_told_in_order_and_from_any_cursor() {
    let (dir, dfsd) = fresh();
    let events = |dfsd: &Dfsd, query: &str| told(&dfsd.get(&format!("/api/v1/events?{query}")).expect(200).json());
    assert_eq!(events(&dfsd, "since=oldest"), (vec![], "0".to_owned()));
    let id = dfsd.put("/api/v1/fs/a/f", b"1").json()["id"].clone();
    dfsd.put("/api/v1/fs/a/f", b"2");
    dfsd.put("/api/v1/fs/ab", b"x");
    dfsd.call("POST", "/api/v1/fs/a/f?restore=1", &[]).expect(200);
    dfsd.call("POST", "/api/v1/fs/a/f?rename_to=/b/g", &[]).expect(200);
    dfsd.call("PATCH", "/api/v1/fs/b/g", &[("x-dfs-mode", "600")]).expect(200);
    dfsd.call("DELETE", "/api/v1/fs/b?recursive=true", &[]).expect(204);
    dfsd.send("PUT", "/api/v1/fs/ab", &[("if-match", "\"x\"")], b"y").refused(412, "precondition_failed");
    let all = [
        "create /a 0",
        "create /a/f 1",
        "commit /a/f 2",
        "create /ab 1",
        "restore /a/f 3",
        "create /b 0",
        "rename /a/f /b/g 3",
        "attributes /b/g 3",
        "delete /b/g 3",
        "delete /b 0",
    ];
    dfsd.kill();
    let dfsd = Dfsd::start(&dir.path().join("data"));
    assert_eq!(events(&dfsd, "since=oldest"), (all.map(str::to_owned).to_vec(), "10".to_owned()));
    assert_eq!(events(&dfsd, "since=3&limit=2"), (vec![all[3].to_owned(), all[4].to_owned()], "5".to_owned()));
    assert_eq!(events(&dfsd, ""), (vec![], "10".to_owned()), "from now on");
    let below: Vec<String> = [0, 1, 2, 4, 6].map(|at| all[at].to_owned()).to_vec();
    assert_eq!(events(&dfsd, "since=0&prefix=/a"), (below, "10".to_owned()), "/ab is not below /a");
    let restored = &dfsd.get("/api/v1/events?since=4&limit=1").json()["events"][0];
    assert_eq!((&restored["id"], restored["restored_version"].as_u64()), (&id, Some(1)));
    assert_eq!((restored["kind"].as_str(), restored["cursor"].as_str()), (Some("file"), Some("5")));

    let gone = dfsd.get("/api/v1/events?since=11");
    gone.refused(410, "cursor_gone");
    assert_eq!(gone.header("x-dfs-oldest-cursor"), "0");
    for bad in ["since=x", "since=-1", "limit=0", "limit=1001", "wait=61", "wait=x", "colour=blue"] {
        dfsd.get(&format!("/api/v1/events?{bad}")).refused(400, "bad_query");
    }
    dfsd.get("/api/v1/events?prefix=a").refused(400, "bad_path");
}

/// Sends a request whose answer comes later.
fn begin(dfsd: &Dfsd, target: &str, headers: &str) -> BufReader<TcpStream> {
    let mut stream = connect(dfsd.address);
    let token = &dfsd.token;
    let head = format!("GET {target} HTTP/1.1\r\nhost: dfs\r\nauthorization: Bearer {token}\r\n{headers}\r\n");
    stream.write_all(head.as_bytes()).unwrap();
    BufReader::new(stream)
}

#[test]
fn who_waits_is_woken_by_the_change() {
    let (_dir, dfsd) = fresh_on_one_core();
    let waiting: Vec<_> = (0..3).map(|_| begin(&dfsd, "/api/v1/events?since=0&wait=60&prefix=/b", "")).collect();
    // This request is one of those in flight.
    dfsd.await_metric("dfs_requests_in_flight", 1 + waiting.len() as u64);
    dfsd.put("/api/v1/fs/a", b"not asked for");
    dfsd.put("/api/v1/fs/b", b"x");
    for mut reader in waiting {
        let page = read_answer(&mut reader, "GET").expect(200).json();
        assert_eq!(told(&page), (vec!["create /b 1".to_owned()], "2".to_owned()));
    }
    // Nothing comes: the answer does when the wait is over.
    let page = dfsd.get("/api/v1/events?since=2&wait=1").expect(200).json();
    assert_eq!(told(&page), (vec![], "2".to_owned()));
}

#[test]
fn every_core_is_woken_by_a_change() {
    let dir = tempfile::tempdir().unwrap();
    let dfsd = Dfsd::start_with(&dir.path().join("data"), &["--cores", "2"]);
    // The kernel deals connections to cores by chance: of so many, both have some.
    let mut streams: Vec<_> =
        (0..32).map(|_| begin(&dfsd, "/api/v1/events?since=oldest", "accept: text/event-stream\r\n")).collect();
    let mut all: Vec<_> = streams.iter_mut().map(|reader| open_stream(reader).1).collect();
    for lines in &mut all {
        assert!(lines.any(|line| line == "id: 0"), "it has looked, and found nothing");
    }
    dfsd.put("/api/v1/fs/a", b"x");
    for lines in &mut all {
        let next = lines.find(|line| line.starts_with("id: "));
        assert_eq!(next.as_deref(), Some("id: 1"), "woken before the next heartbeat, which repeats the cursor");
    }
}

#[test]
fn whoever_waits_when_the_server_stops_is_told() {
    let (_dir, dfsd) = fresh_on_one_core();
    let mut waiting = begin(&dfsd, "/api/v1/events?wait=60", "");
    let mut streaming = begin(&dfsd, "/api/v1/events", "accept: text/event-stream\r\n");
    dfsd.await_metric("dfs_requests_in_flight", 3);
    dfsd.signal(rustix::process::Signal::TERM);
    read_answer(&mut waiting, "GET").refused(503, "closing");
    let (_, mut lines) = open_stream(&mut streaming);
    assert!(lines.any(|line| line == "0"), "the last chunk: the stream is whole");
    assert!(dfsd.wait().success());
}

/// Reads the head of a stream; returns its status line, and the lines that follow.
fn open_stream(reader: &mut BufReader<TcpStream>) -> (String, impl Iterator<Item = String>) {
    let mut lines = reader.lines().map(Result::unwrap);
    let status = lines.next().unwrap();
    assert!(lines.by_ref().take_while(|line| !line.is_empty()).any(|line| line == "content-type: text/event-stream"));
    (status, lines)
}

/// The next event of a stream: cursor, name, data.
fn next_event(lines: &mut impl Iterator<Item = String>) -> (String, String, Value) {
    let mut cursor = lines.by_ref().find_map(|line| Some(line.strip_prefix("id: ")?.to_owned())).unwrap();
    loop {
        let line = lines.next().unwrap();
        if let Some(id) = line.strip_prefix("id: ") {
            id.clone_into(&mut cursor);
        } else if let Some(name) = line.strip_prefix("event: ") {
            let data = lines.next().unwrap();
            return (cursor, name.to_owned(), serde_json::from_str(data.strip_prefix("data: ").unwrap()).unwrap());
        }
    }
}

#[test]
fn a_stream_goes_on_after_the_event_that_was_seen_last() {
    let (_dir, dfsd) = fresh_on_one_core();
    dfsd.put("/api/v1/fs/a", b"1");
    let accept = "accept: text/event-stream\r\n";
    let mut reader = begin(&dfsd, "/api/v1/events?since=oldest", accept);
    let (status, mut lines) = open_stream(&mut reader);
    assert_eq!(status, "HTTP/1.1 200 OK");
    let (cursor, name, data) = next_event(&mut lines);
    assert_eq!((cursor.as_str(), name.as_str(), data["path"].as_str()), ("1", "create", Some("/a")));
    dfsd.put("/api/v1/fs/a", b"2");
    let (cursor, name, data) = next_event(&mut lines);
    assert_eq!((cursor.as_str(), name.as_str(), data["version"].as_u64()), ("2", "commit", Some(2)));
    drop(lines);
    drop(reader);
    dfsd.call("DELETE", "/api/v1/fs/a", &[]).expect(204);
    let again = format!("{accept}last-event-id: 2\r\n");
    let mut reader = begin(&dfsd, "/api/v1/events?since=oldest", &again);
    let (_, mut lines) = open_stream(&mut reader);
    let (cursor, name, _) = next_event(&mut lines);
    assert_eq!((cursor.as_str(), name.as_str()), ("3", "delete"));
    let gone = dfsd.call("GET", "/api/v1/events", &[("accept", "text/event-stream"), ("last-event-id", "99")]);
    gone.refused(410, "cursor_gone");
    // Streams do not outlive their clients.
    drop(lines);
    drop(reader);
    dfsd.put("/api/v1/fs/b", b"");
    dfsd.await_metric("dfs_requests_in_flight", 1);
}

#[test]
fn watchers_never_take_the_place_of_other_requests() {
    let (_dir, dfsd) = fresh_on_one_core();
    let watchers: Vec<_> = (0..256).map(|_| begin(&dfsd, "/api/v1/events?wait=60", "")).collect();
    dfsd.await_metric("dfs_requests_in_flight", 257);
    let refused: Answer = dfsd.get("/api/v1/events?wait=60");
    refused.refused(429, "busy");
    assert_eq!(refused.header("retry-after"), "1");
    dfsd.get("/api/v1/events?since=oldest").expect(200);
    dfsd.put("/api/v1/fs/a", b"1");
    for mut reader in watchers {
        read_answer(&mut reader, "GET").expect(200);
    }
}
