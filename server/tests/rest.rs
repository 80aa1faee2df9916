//! The REST interface, call by call, against a real `dfsd`.

#![allow(clippy::disallowed_methods, reason = "a process test runs a real dfsd in real time")]

mod daemon;

use std::io::{BufReader, Write};

use daemon::{Dfsd, connect, noise, read_answer, request};

/// A `dfsd` on a fresh directory.
fn fresh() -> (tempfile::TempDir, Dfsd) {
    let dir = tempfile::tempdir().unwrap();
    let dfsd = Dfsd::start(&dir.path().join("data"));
    (dir, dfsd)
}

#[test]
fn nothing_but_health_is_answered_without_the_token() {
    let (_dir, dfsd) = fresh();
    dfsd.put("/api/v1/fs/a", b"secret");
    let call =
        |method: &str, target: &str, headers: &[(&str, &str)]| request(dfsd.address, method, target, headers, b"");
    let right = format!("Bearer {}", dfsd.token);
    let wrong = format!("Bearer {}", "0".repeat(dfsd.token.len()));
    for target in ["/api/v1/fs/a", "/api/v1/fs/", "/api/v1/stats", "/api/v1/files", "/anything"] {
        for headers in [
            &[][..],
            &[("authorization", wrong.as_str())],
            &[("authorization", dfsd.token.as_str())],
            &[("authorization", right.as_str()), ("authorization", wrong.as_str())],
        ] {
            let answer = call("GET", target, headers);
            answer.refused(401, "unauthorized");
            assert_eq!(answer.header("www-authenticate"), "Bearer");
        }
    }
    call("DELETE", "/api/v1/fs/a", &[]).refused(401, "unauthorized");
    call("GET", "/api/v1/fs/a", &[("authorization", right.as_str())]).expect(200);
    assert_eq!(call("GET", "/healthz", &[]).expect(200).text(), "alive\n");
    assert_eq!(call("GET", "/readyz", &[]).expect(200).text(), "ready\n");
    call("GET", "/metrics", &[]).expect(200);
    call("POST", "/healthz", &[]).refused(405, "method_not_allowed");
}

#[test]
fn a_file_is_stored_versioned_read_and_removed() {
    let (_dir, dfsd) = fresh();
    let (one, two) = (noise(1, 300_000), b"second".to_vec());
    let made = dfsd.put("/api/v1/fs/docs/r%C3%A9sum%C3%A9%20x.pdf", &one).expect(201);
    let entry = made.json();
    assert_eq!((entry["path"].as_str(), entry["kind"].as_str()), (Some("/docs/résumé x.pdf"), Some("file")));
    assert_eq!((entry["version"].as_u64(), entry["size"].as_u64()), (Some(1), Some(300_000)));
    assert!(entry["created_at"].as_str().unwrap().ends_with('Z'));
    let by_id = format!("/api/v1/files/{}", entry["id"].as_str().unwrap());
    assert_eq!(made.header("location"), by_id);
    for target in ["/api/v1/fs/docs/r%C3%A9sum%C3%A9%20x.pdf", &by_id] {
        let got = dfsd.get(target).expect(200);
        assert!(got.body == one, "{target}");
        let head = dfsd.call("HEAD", target, &[]).expect(200);
        let without_date = |headers: &std::collections::BTreeMap<String, String>| {
            let kept = headers.iter().filter(|(name, _)| *name != "date");
            kept.map(|(name, value)| (name.clone(), value.clone())).collect::<Vec<_>>()
        };
        assert_eq!(without_date(&head.headers), without_date(&got.headers));
        assert_eq!(got.header("etag"), entry["etag"].as_str().unwrap());
        assert_eq!((got.header("x-dfs-kind"), got.header("x-dfs-version")), ("file", "1"));
        assert_eq!((got.header("accept-ranges"), got.header("x-dfs-mode")), ("bytes", "644"));
        assert!(got.header("last-modified").ends_with(" GMT"));
        assert_eq!(dfsd.get(&format!("{target}?stat")).expect(200).json(), entry);
    }

    let replaced = dfsd.put("/api/v1/fs/docs/r%C3%A9sum%C3%A9%20x.pdf", &two).expect(200);
    assert_eq!((replaced.json()["version"].as_u64(), &replaced.json()["id"]), (Some(2), &entry["id"]));
    assert_ne!(replaced.header("etag"), made.header("etag"));
    assert_eq!(dfsd.get(&by_id).expect(200).body, two);

    let path = ("x-file-path", "/docs/r%C3%A9sum%C3%A9%20x.pdf");
    let posted = dfsd.send("POST", "/api/v1/files", &[path], b"third").expect(201);
    assert_eq!(posted.json()["version"].as_u64(), Some(3));
    let other = dfsd.send("POST", "/api/v1/files", &[("x-file-path", "/new/one")], b"").expect(201);
    assert_eq!((other.json()["version"].as_u64(), other.json()["size"].as_u64()), (Some(1), Some(0)));

    dfsd.call("DELETE", &by_id, &[]).expect(204);
    dfsd.call("DELETE", &by_id, &[]).refused(404, "not_found");
    dfsd.get(&by_id).refused(404, "not_found");
    dfsd.get("/api/v1/fs/docs/r%C3%A9sum%C3%A9%20x.pdf").refused(404, "not_found");
    dfsd.call("DELETE", "/api/v1/fs/new/one", &[]).expect(204);
}

#[test]
fn ranges_of_a_file_are_sent() {
    let (_dir, dfsd) = fresh();
    let bytes = noise(2, 1_000_003);
    dfsd.put("/api/v1/fs/f", &bytes);
    dfsd.put("/api/v1/fs/small", b"0123456789");
    dfsd.put("/api/v1/fs/empty", b"");
    let range = |target: &str, range: &str| dfsd.call("GET", target, &[("range", range)]);
    for (asked, expected) in [
        ("bytes=0-0", 0..1),
        ("bytes=100000-899999", 100_000..900_000),
        ("bytes=999999-", 999_999..1_000_003),
        ("bytes=-5", 999_998..1_000_003),
        ("bytes=1000000-99999999", 1_000_000..1_000_003),
    ] {
        let part = range("/api/v1/fs/f", asked).expect(206);
        assert!(part.body == bytes[expected.clone()], "{asked}");
        let named = format!("bytes {}-{}/1000003", expected.start, expected.end - 1);
        assert_eq!(part.header("content-range"), named);
    }
    assert_eq!(range("/api/v1/fs/small", "bytes=3-5").expect(206).body, b"345");
    for ignored in ["bytes=0-1,4-5", "bytes=5-4", "lines=1-2", "nonsense"] {
        assert_eq!(range("/api/v1/fs/small", ignored).expect(200).body, b"0123456789", "{ignored}");
    }
    let beyond = range("/api/v1/fs/f", "bytes=1000003-");
    beyond.refused(416, "range_not_satisfiable");
    assert_eq!(beyond.header("content-range"), "bytes */1000003");
    range("/api/v1/fs/empty", "bytes=0-").refused(416, "range_not_satisfiable");
    assert_eq!(range("/api/v1/fs/empty", "bytes=-1").expect(200).body, b"");
    let head = dfsd.call("HEAD", "/api/v1/fs/f", &[("range", "bytes=0-9")]).expect(200);
    assert_eq!(head.header("content-length"), "1000003");

    let etag = dfsd.call("HEAD", "/api/v1/fs/small", &[]).header("etag").to_owned();
    let if_range = |tag: &str| dfsd.call("GET", "/api/v1/fs/small", &[("range", "bytes=8-"), ("if-range", tag)]).body;
    assert_eq!((if_range(&etag), if_range("\"other\"")), (b"89".to_vec(), b"0123456789".to_vec()));
}

#[test]
fn conditions_hold_at_the_commit() {
    let (_dir, dfsd) = fresh();
    let put = |headers: &[(&str, &str)], body: &[u8]| dfsd.send("PUT", "/api/v1/fs/c", headers, body);
    put(&[("if-match", "\"1-1\"")], b"x").refused(412, "precondition_failed");
    let first = put(&[("if-none-match", "*")], b"one").expect(201).header("etag").to_owned();
    put(&[("if-none-match", "*")], b"two").refused(412, "precondition_failed");
    let second = put(&[("if-match", &first)], b"two").expect(200).header("etag").to_owned();
    for failing in [
        &[("if-match", first.as_str())][..],
        &[("if-match", "W/\"x\""), ("if-match", first.as_str())],
        &[("if-none-match", second.as_str())],
        &[("if-none-match", "\"x\", *")],
        &[("if-unmodified-since", "Sun, 06 Nov 1994 08:49:37 GMT")],
        &[("if-match", second.as_str()), ("if-none-match", second.as_str())],
    ] {
        let refused = put(failing, b"three");
        let malformed = failing[0].1.ends_with('*');
        refused
            .refused(if malformed { 400 } else { 412 }, if malformed { "bad_header" } else { "precondition_failed" });
    }
    assert_eq!(dfsd.get("/api/v1/fs/c").body, b"two");
    let third = put(&[("if-match", "*")], b"three").expect(200).header("etag").to_owned();
    let list = format!("\"x\", {third}");
    let fourth = put(&[("if-match", &list)], b"four").expect(200).header("etag").to_owned();
    let second = put(&[("if-none-match", &third)], b"two").expect(200).header("etag").to_owned();
    assert_ne!(fourth, second);
    dfsd.send("PUT", "/api/v1/fs/none", &[("if-match", "*")], b"x").refused(412, "precondition_failed");

    let get = |headers: &[(&str, &str)]| dfsd.call("GET", "/api/v1/fs/c", headers);
    let known = get(&[("if-none-match", &second)]);
    assert_eq!((known.status, known.header("etag")), (304, second.as_str()));
    get(&[("if-none-match", &first)]).expect(200);
    get(&[("if-match", &second)]).expect(200);
    get(&[("if-match", &first)]).refused(412, "precondition_failed");
    let modified = get(&[]).expect(200).header("last-modified").to_owned();
    assert_eq!(get(&[("if-modified-since", &modified)]).status, 304);
    assert_eq!(get(&[("if-modified-since", &modified), ("if-none-match", &first)]).status, 200, "tags win over dates");
    get(&[("if-unmodified-since", "Sun, 06 Nov 1994 08:49:37 GMT")]).refused(412, "precondition_failed");

    let patch = |tag: &str| dfsd.call("PATCH", "/api/v1/fs/c", &[("if-match", tag), ("x-dfs-mode", "600")]);
    patch(&first).refused(412, "precondition_failed");
    patch(&second).expect(200);
    let delete = |headers: &[(&str, &str)]| dfsd.call("DELETE", "/api/v1/fs/c", headers);
    delete(&[("if-match", &first)]).refused(412, "precondition_failed");
    delete(&[("if-none-match", "*")]).refused(412, "precondition_failed");
    get(&[]).expect(200);
    delete(&[("if-match", &second)]).expect(204);
    delete(&[("if-match", &second)]).refused(404, "not_found");
    dfsd.call("PUT", "/api/v1/fs/d/e?type=directory", &[]).expect(201);
    let tree = |tag: &str| dfsd.call("DELETE", "/api/v1/fs/d?recursive=true", &[("if-match", tag)]);
    tree(&second).refused(412, "precondition_failed");
    dfsd.get("/api/v1/fs/d/e").expect(200);
    tree("*").expect(204);
    dfsd.call("POST", "/api/v1/fs/x?rename_to=/y", &[("if-match", "*")]).refused(400, "bad_header");
}

#[test]
fn of_many_writers_of_one_version_exactly_one_wins() {
    const WRITERS: usize = 8;
    const WINS: u64 = 5;
    let (_dir, dfsd) = fresh();
    let first = dfsd.put("/api/v1/fs/c", b"0").header("etag").to_owned();
    let wins = std::sync::Mutex::new(Vec::new());
    std::thread::scope(|scope| {
        for writer in 0..WRITERS {
            let (dfsd, wins, mut etag) = (&dfsd, &wins, first.clone());
            scope.spawn(move || {
                let mut won = 0;
                while won < WINS {
                    let body = format!("{writer}.{won} after {etag}");
                    let answer = dfsd.send("PUT", "/api/v1/fs/c", &[("if-match", &etag)], body.as_bytes());
                    if answer.status == 200 {
                        won += 1;
                        let version = answer.json()["version"].as_u64().unwrap();
                        wins.lock().unwrap().push((version, etag.clone(), body));
                        etag = answer.header("etag").to_owned();
                    } else {
                        answer.refused(412, "precondition_failed");
                        etag = dfsd.call("HEAD", "/api/v1/fs/c", &[]).header("etag").to_owned();
                    }
                }
            });
        }
    });
    let mut wins = wins.into_inner().unwrap();
    wins.sort();
    let versions = 2..2 + WRITERS as u64 * WINS;
    assert!(wins.iter().map(|(version, ..)| *version).eq(versions), "one winner per version: {wins:?}");
    let mut before = first;
    for (version, etag, body) in wins {
        assert_eq!(etag, before, "version {version} follows the one that its writer saw");
        let kept = dfsd.get(&format!("/api/v1/fs/c?version={version}")).expect(200);
        assert_eq!(kept.text(), body);
        before = kept.header("etag").to_owned();
    }
}

#[test]
fn directories_are_listed_in_order_and_in_pages() {
    let (_dir, dfsd) = fresh();
    let names = ["a", "b%2Ftrick", "c d", "é", "zz", "~"];
    for name in ["zz", "a", "c%20d", "%C3%A9", "~", "b%252Ftrick"] {
        dfsd.put(&format!("/api/v1/fs/dir/{name}"), name.as_bytes());
    }
    let path = |entry: &serde_json::Value| entry["path"].as_str().unwrap().to_owned();
    let mut expected: Vec<String> = names.iter().map(|name| format!("/dir/{name}")).collect();
    expected.sort();
    for limit in [1, 2, 5, 6, 7] {
        let (mut seen, mut cursor) = (Vec::new(), String::new());
        loop {
            let page = dfsd.get(&format!("/api/v1/fs/dir?limit={limit}{cursor}")).expect(200);
            assert_eq!(page.header("x-dfs-kind"), "directory");
            let page = page.json();
            let entries = page["entries"].as_array().unwrap();
            assert!(entries.len() <= limit && !entries.is_empty());
            seen.extend(entries.iter().map(path));
            match page["next_cursor"].as_str() {
                Some(next) => cursor = format!("&cursor={next}"),
                None => break,
            }
        }
        assert_eq!(seen, expected, "limit {limit}");
    }
    assert_eq!(dfsd.get("/api/v1/fs").expect(200).json()["entries"].as_array().map(Vec::len), Some(1));
    let head = dfsd.call("HEAD", "/api/v1/fs/dir", &[]).expect(200);
    assert_eq!(head.header("content-length"), dfsd.get("/api/v1/fs/dir").header("content-length"));
    for bad in ["limit=0", "limit=10001", "limit=x", "cursor=x", "cursor=2e", "colour=blue"] {
        dfsd.get(&format!("/api/v1/fs/dir?{bad}")).refused(400, "bad_query");
    }
}

#[test]
fn directories_are_made_moved_and_removed() {
    let (_dir, dfsd) = fresh();
    let put = |target: &str| dfsd.call("PUT", target, &[]);
    let made = put("/api/v1/fs/a/b/c?type=directory").expect(201).json();
    assert_eq!((made["kind"].as_str(), made["mode"].as_u64()), (Some("directory"), Some(0o755)));
    put("/api/v1/fs/a/b?type=directory").refused(409, "already_exists");
    put("/api/v1/fs/a/b").refused(409, "is_a_directory");
    put("/api/v1/fs/?type=directory").refused(403, "root");
    put("/api/v1/fs/a?type=socket").refused(400, "bad_query");
    dfsd.send("PUT", "/api/v1/fs/x?type=directory", &[], b"body").refused(413, "too_large");
    dfsd.put("/api/v1/fs/a/f", b"file");
    put("/api/v1/fs/a/f/g").refused(409, "not_a_directory");
    dfsd.get("/api/v1/fs/a/f/g").refused(409, "not_a_directory");

    let post = |target: &str| dfsd.call("POST", target, &[]);
    let id = dfsd.get("/api/v1/fs/a/f?stat").json()["id"].clone();
    let moved = post("/api/v1/fs/a/f?rename_to=%2Fnew%2Fplace").expect(200).json();
    assert_eq!((moved["path"].as_str(), &moved["id"]), (Some("/new/place"), &id));
    dfsd.get("/api/v1/fs/a/f").refused(404, "not_found");
    assert_eq!(dfsd.get("/api/v1/fs/new/place").body, b"file");
    dfsd.put("/api/v1/fs/taken", b"old");
    post("/api/v1/fs/new/place?rename_to=/taken").refused(409, "already_exists");
    post("/api/v1/fs/new/place?rename_to=/taken&replace=true").expect(200);
    assert_eq!(dfsd.get("/api/v1/fs/taken").body, b"file");
    post("/api/v1/fs/a?rename_to=/a/b/d").refused(409, "into_itself");
    post("/api/v1/fs/gone?rename_to=/x").refused(404, "not_found");
    post("/api/v1/fs/a?rename_to=relative").refused(400, "bad_path");
    post("/api/v1/fs/a").refused(400, "bad_query");

    let delete = |target: &str| dfsd.call("DELETE", target, &[]);
    delete("/api/v1/fs/a").refused(409, "not_empty");
    delete("/api/v1/fs/a?recursive=false").refused(409, "not_empty");
    delete("/api/v1/fs/a?recursive=true").expect(204);
    dfsd.get("/api/v1/fs/a").refused(404, "not_found");
    delete("/api/v1/fs/new").expect(204);
    delete("/api/v1/fs/?recursive=true").refused(403, "root");
    dfsd.get("/api/v1/fs/taken").expect(200);
}

#[test]
fn symlinks_keep_their_target() {
    let (_dir, dfsd) = fresh();
    let put = |target: &str, body: &[u8]| dfsd.send("PUT", target, &[], body);
    let made = put("/api/v1/fs/links/one?type=symlink", "../täget".as_bytes()).expect(201).json();
    assert_eq!((made["kind"].as_str(), made["symlink_target"].as_str()), (Some("symlink"), Some("../täget")));
    let got = dfsd.get("/api/v1/fs/links/one").expect(200);
    assert_eq!((got.text().as_str(), got.header("x-dfs-kind")), ("../täget", "symlink"));
    assert_eq!(dfsd.call("HEAD", "/api/v1/fs/links/one", &[]).header("content-length"), "9");
    put("/api/v1/fs/links/one?type=symlink", b"x").refused(409, "already_exists");
    put("/api/v1/fs/links/two?type=symlink", &[b'x'; 4096]).expect(201);
    put("/api/v1/fs/links/three?type=symlink", &[b'x'; 4097]).refused(413, "too_large");
    for bad in [&b""[..], b"\xff", b"a\0b"] {
        put("/api/v1/fs/links/three?type=symlink", bad).refused(400, "bad_body");
    }
    dfsd.get("/api/v1/fs/links/three").refused(404, "not_found");
}

#[test]
fn attributes_are_kept_and_changed() {
    let (_dir, dfsd) = fresh();
    let headers = [("x-dfs-mode", "0640"), ("x-dfs-mtime-ns", "784111777000000005"), ("x-meta-colour", "gr%C3%BCn%0A")];
    dfsd.send("PUT", "/api/v1/fs/f", &headers, b"x").expect(201);
    let got = dfsd.get("/api/v1/fs/f").expect(200);
    assert_eq!((got.header("x-dfs-mode"), got.header("x-dfs-mtime-ns")), ("640", "784111777000000005"));
    assert_eq!(got.header("last-modified"), "Sun, 06 Nov 1994 08:49:37 GMT");
    assert_eq!(got.header("x-meta-colour"), "gr%C3%BCn%0A");

    let patch = |headers: &[(&str, &str)]| dfsd.call("PATCH", "/api/v1/fs/f", headers);
    let changed = patch(&[("x-dfs-mode", "600")]).expect(200).json();
    assert_eq!((changed["mode"].as_u64(), changed["metadata"]["colour"].as_str()), (Some(0o600), Some("grün\n")));
    assert_eq!(changed["modified_at"].as_str(), Some("1994-11-06T08:49:37.000000005Z"));
    let changed = patch(&[("x-meta-shape", "round"), ("x-dfs-mtime-ns", "0")]).expect(200).json();
    assert_eq!((changed["metadata"]["shape"].as_str(), changed["metadata"].get("colour")), (Some("round"), None));
    assert_eq!(changed["version"].as_u64(), Some(1), "attributes are not content");
    patch(&[]).refused(400, "bad_header");
    patch(&[("content-type", "text")]).refused(400, "bad_header");
    patch(&[("x-dfs-mode", "9")]).refused(400, "bad_header");
    patch(&[("x-dfs-mtime-ns", "-1")]).refused(400, "bad_header");
    patch(&[("x-meta-big", &"x".repeat(9000))]).refused(413, "too_large");
    dfsd.call("PATCH", "/api/v1/fs/none", &[("x-dfs-mode", "600")]).refused(404, "not_found");
    dfsd.call("PATCH", "/api/v1/fs/", &[("content-type", "a/b")]).refused(409, "not_a_file");
    let directory = dfsd.call("PATCH", "/api/v1/fs/", &[("x-dfs-mode", "700")]).expect(200);
    assert_eq!(directory.json()["mode"].as_u64(), Some(0o700));
}

#[test]
fn a_media_type_is_kept_returned_and_changed() {
    let (_dir, dfsd) = fresh();
    let put = |kind: &[(&str, &str)]| dfsd.send("PUT", "/api/v1/fs/f", kind, b"x");
    let kind = || dfsd.call("HEAD", "/api/v1/fs/f", &[]).header("content-type").to_owned();
    assert_eq!(put(&[]).expect(201).json().get("content_type"), None);
    assert_eq!(kind(), "application/octet-stream");
    let typed = put(&[("content-type", "text/plain; charset=utf-8")]).expect(200).json();
    assert_eq!(typed["content_type"].as_str(), Some("text/plain; charset=utf-8"));
    assert_eq!(kind(), "text/plain; charset=utf-8");
    let patch = |kind: &str| dfsd.call("PATCH", "/api/v1/fs/f", &[("content-type", kind)]);
    patch("image/png").expect(200);
    assert_eq!(kind(), "image/png");
    assert_eq!(patch("application/octet-stream").expect(200).json().get("content_type"), None);
    put(&[("content-type", "image/png")]).expect(200);
    put(&[]).expect(200);
    assert_eq!(kind(), "application/octet-stream", "a new version is what its own request says");
    let long = format!("a/{}", "b".repeat(254));
    for bad in ["text", "", "a/b\tc", "a/\u{fc}", "text/plain\u{1}", &long] {
        let status = put(&[("content-type", bad)]).status;
        assert_eq!(status, 400, "{bad:?}");
    }
    dfsd.send("PUT", "/api/v1/fs/l?type=symlink", &[("content-type", "application/x-www-form-urlencoded")], b"f")
        .expect(201);
}

#[test]
fn mistakes_are_refused_in_one_shape() {
    let (_dir, dfsd) = fresh();
    for (method, target, status, code) in [
        ("GET", "/", 404, "not_found"),
        ("GET", "/api/v1/other", 404, "not_found"),
        ("GET", "/api/v1/fs/none", 404, "not_found"),
        ("GET", "/api/v1/files/none", 400, "bad_id"),
        ("GET", "/api/v1/files/11223344-5566-8303-9de2-04c8ccd0d4d8", 404, "not_found"),
        ("GET", "/api/v1/fs/a/../b", 400, "bad_path"),
        ("GET", "/api/v1/fs/%ff", 400, "bad_path"),
        ("GET", "/api/v1/fs/%2", 400, "bad_path"),
        ("PUT", "/api/v1/fs/a%00b", 400, "bad_path"),
        ("PUT", "/api/v1/fs/", 409, "is_a_directory"),
        ("PUT", "/api/v1/fs/a?typ=directory", 400, "bad_query"),
        ("POST", "/api/v1/files", 400, "bad_header"),
        ("DELETE", "/api/v1/fs/none", 404, "not_found"),
        ("GET", "/api/v1/files", 405, "method_not_allowed"),
        ("PUT", "/api/v1/stats", 405, "method_not_allowed"),
        ("POST", "/api/v1/events", 405, "method_not_allowed"),
        ("OPTIONS", "/api/v1/fs/a", 405, "method_not_allowed"),
        ("PATCH", "/api/v1/files/11223344-5566-8303-9de2-04c8ccd0d4d8", 405, "method_not_allowed"),
    ] {
        let answer = dfsd.call(method, target, &[]);
        answer.refused(status, code);
        assert_eq!(answer.headers.contains_key("allow"), status == 405, "{method} {target}");
        assert_eq!(answer.header("content-type"), "application/json");
    }
    let put = |headers: &[(&str, &str)]| dfsd.send("PUT", "/api/v1/fs/a", headers, b"x");
    put(&[("content-encoding", "gzip")]).refused(415, "unsupported_encoding");
    put(&[("content-range", "bytes 5-5/6")]).refused(400, "bad_header");
    put(&[("x-dfs-client", "0000000000000001")]).refused(400, "bad_header");
    put(&[("x-meta-a", "%ff")]).refused(400, "bad_header");
    let long = format!("/api/v1/fs/{}", "x".repeat(256));
    dfsd.call("PUT", &long, &[]).refused(400, "bad_path");
    dfsd.get("/api/v1/fs/a").refused(404, "not_found");
    assert_eq!(dfsd.get("/api/v1/fs/").json()["entries"].as_array().map(Vec::len), Some(0));
}

#[test]
fn a_repeated_request_gets_its_first_answer() {
    let (_dir, dfsd) = fresh();
    let numbered = |sequence: &'static str| [("x-dfs-client", "00000000deadbeef"), ("x-dfs-sequence", sequence)];
    let put = |sequence, body: &[u8]| dfsd.send("PUT", "/api/v1/fs/f", &numbered(sequence), body);
    let first = put("1", b"one").expect(201).json();
    assert_eq!(put("1", b"one").expect(201).json()["etag"], first["etag"]);
    assert_eq!(put("2", b"two").expect(200).json()["version"].as_u64(), Some(2));
    let once = [&numbered("3")[..], &[("if-none-match", "*")]].concat();
    dfsd.send("PUT", "/api/v1/fs/g", &once, b"new").expect(201);
    dfsd.send("PUT", "/api/v1/fs/g", &once, b"new").expect(201);
    let etag = dfsd.call("HEAD", "/api/v1/fs/g", &[]).header("etag").to_owned();
    let matched = [&numbered("4")[..], &[("if-match", etag.as_str())]].concat();
    dfsd.send("PUT", "/api/v1/fs/g", &matched, b"newer").expect(200);
    dfsd.send("PUT", "/api/v1/fs/g", &matched, b"newer").expect(200);
    assert_eq!(dfsd.get("/api/v1/fs/g?stat").json()["version"].as_u64(), Some(2));
    let call = |method: &str, target: &str, sequence| dfsd.call(method, target, &numbered(sequence));
    for _ in 0..2 {
        call("POST", "/api/v1/fs/g?rename_to=/h", "5").expect(200);
        call("PUT", "/api/v1/fs/d?type=directory", "6").expect(201);
        call("DELETE", "/api/v1/fs/f", "7").expect(204);
    }
    call("DELETE", "/api/v1/fs/f", "8").refused(404, "not_found");
    call("DELETE", "/api/v1/fs/h", "100").expect(204);
    put("9", b"late").refused(409, "stale_sequence");
}

#[test]
fn an_upload_that_breaks_off_leaves_nothing() {
    let (_dir, dfsd) = fresh();
    dfsd.put("/api/v1/fs/old", b"old");
    for (target, headers, part) in [
        ("/api/v1/fs/new", "content-length: 1000000\r\n", noise(3, 600_000)),
        ("/api/v1/fs/old", "content-length: 1000000\r\n", noise(4, 10)),
        ("/api/v1/fs/new", "transfer-encoding: chunked\r\n", b"5\r\nhello\r\n".to_vec()),
    ] {
        let mut stream = dfsd.begin_upload(target, headers);
        stream.write_all(&part).unwrap();
        drop(stream);
    }
    // This request is one of those in flight; the broken ones are gone.
    dfsd.await_metric("dfs_requests_in_flight", 1);
    dfsd.get("/api/v1/fs/new").refused(404, "not_found");
    assert_eq!(dfsd.get("/api/v1/fs/old").body, b"old");
    let whole = "transfer-encoding: chunked\r\nconnection: close\r\n";
    let mut stream = dfsd.begin_upload("/api/v1/fs/new", whole);
    stream.write_all(b"5\r\nhello\r\n3\r\n!!!\r\n0\r\n\r\n").unwrap();
    read_answer(&mut BufReader::new(stream), "PUT").expect(201);
    assert_eq!(dfsd.get("/api/v1/fs/new").body, b"hello!!!");
}

#[test]
fn a_refusal_comes_before_the_body_is_sent() {
    let (_dir, dfsd) = fresh();
    let mut stream = connect(dfsd.address);
    let head = "PUT /api/v1/fs/a HTTP/1.1\r\nhost: dfs\r\nexpect: 100-continue\r\ncontent-length: 99999999\r\n\r\n";
    stream.write_all(head.as_bytes()).unwrap();
    read_answer(&mut BufReader::new(stream), "PUT").refused(401, "unauthorized");
    let stream = dfsd.begin_upload("/api/v1/fs/a", "expect: 100-continue\r\ncontent-length: 3\r\n");
    let mut reader = BufReader::new(stream.try_clone().unwrap());
    assert_eq!(read_answer(&mut reader, "PUT").status, 100);
    (&stream).write_all(b"abc").unwrap();
    read_answer(&mut reader, "PUT").expect(201);
    dfsd.call("PUT", "/api/v1/fs/d?type=directory", &[]).expect(201);
    let metadata = format!("x-meta-big: {}", "x".repeat(9000));
    for (target, header, status, code) in [
        ("a", "if-none-match: *", 412, "precondition_failed"),
        ("a", "if-match: \"other\"", 412, "precondition_failed"),
        ("new", "if-match: *", 412, "precondition_failed"),
        ("new", &metadata, 413, "too_large"),
        ("new?type=symlink", "x-dfs-mode: 600", 413, "too_large"),
        ("d", "x-dfs-mode: 600", 409, "is_a_directory"),
        ("a/below", "x-dfs-mode: 600", 409, "not_a_directory"),
        ("new", "content-type: none", 400, "bad_header"),
    ] {
        let head = format!("{header}\r\nexpect: 100-continue\r\ncontent-length: 99999999\r\n");
        let stream = dfsd.begin_upload(&format!("/api/v1/fs/{target}"), &head);
        read_answer(&mut BufReader::new(stream), "PUT").refused(status, code);
    }
    // Refused without asking first: the answer is still there to read.
    dfsd.send("PUT", "/api/v1/fs/a", &[("if-none-match", "*")], &noise(5, 900_000)).refused(412, "precondition_failed");
}

#[test]
fn one_connection_serves_many_requests() {
    let (_dir, dfsd) = fresh();
    let stream = connect(dfsd.address);
    let mut reader = BufReader::new(stream.try_clone().unwrap());
    for round in 0..20 {
        let body = noise(round, 5000);
        let (token, len) = (&dfsd.token, body.len());
        let head = format!(
            "PUT /api/v1/fs/f HTTP/1.1\r\nhost: dfs\r\nauthorization: Bearer {token}\r\ncontent-length: {len}\r\n\r\n"
        );
        (&stream).write_all(head.as_bytes()).unwrap();
        (&stream).write_all(&body).unwrap();
        assert!(matches!(read_answer(&mut reader, "PUT").status, 200 | 201));
        let head = format!("GET /api/v1/fs/f HTTP/1.1\r\nhost: dfs\r\nauthorization: Bearer {token}\r\n\r\n");
        (&stream).write_all(head.as_bytes()).unwrap();
        assert!(read_answer(&mut reader, "GET").expect(200).body == body);
    }
}

#[test]
fn http2_is_understood_by_prior_knowledge() {
    use std::io::Read;
    let (_dir, dfsd) = fresh();
    let mut stream = connect(dfsd.address);
    let frame = |kind: u8, flags: u8, id: u32, payload: &[u8]| {
        let mut frame = (payload.len() as u32).to_be_bytes()[1..].to_vec();
        frame.extend([kind, flags]);
        frame.extend(id.to_be_bytes());
        frame.extend(payload);
        frame
    };
    // From the static table: GET, http, and the path as a literal.
    let headers = [&[0x82, 0x86, 0x04, 8][..], b"/healthz"].concat();
    stream.write_all(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n").unwrap();
    stream.write_all(&[frame(4, 0, 0, b""), frame(1, 0x5, 1, &headers)].concat()).unwrap();
    let (mut status, mut body) = (None, Vec::new());
    loop {
        let mut head = [0; 9];
        stream.read_exact(&mut head).unwrap();
        let mut payload = vec![0; u32::from_be_bytes([0, head[0], head[1], head[2]]) as usize];
        stream.read_exact(&mut payload).unwrap();
        match head[3] {
            0 => body.extend(payload),
            1 => status = Some(payload[0]),
            _ => continue,
        }
        if head[4] & 1 == 1 {
            break;
        }
    }
    assert_eq!((status, body.as_slice()), (Some(0x88), &b"alive\n"[..]), "0x88 is :status 200");
}

#[test]
fn stats_and_metrics_tell_what_is_stored() {
    let (_dir, dfsd) = fresh();
    let empty = dfsd.get("/api/v1/stats").expect(200).json();
    assert_eq!((empty["files"].as_u64(), empty["directories"].as_u64()), (Some(0), Some(1)));
    assert_eq!((empty["dedup_ratio"].as_f64(), empty["compression_ratio"].as_f64()), (Some(1.0), Some(1.0)));
    let text: Vec<u8> = (0..200_000u32).flat_map(|number| format!("line {}\n", number / 7).into_bytes()).collect();
    dfsd.put("/api/v1/fs/one", &text);
    dfsd.put("/api/v1/fs/two", &text);
    dfsd.put("/api/v1/fs/tiny", b"tiny");
    let stats = dfsd.get("/api/v1/stats").expect(200).json();
    let number = |name: &str| stats[name].as_u64().unwrap();
    assert_eq!((number("logical_bytes"), number("files")), (2 * text.len() as u64 + 4, 3));
    assert_eq!(number("unique_bytes"), text.len() as u64 + 4, "the second copy costs nothing");
    assert!(number("stored_bytes") < number("unique_bytes") && number("raw_bytes") > number("stored_bytes"));
    assert!(number("chunks") > 1 && number("capacity_bytes") > number("free_bytes"));
    assert!((stats["dedup_ratio"].as_f64().unwrap() - 2.0).abs() < 0.01);
    assert!(stats["compression_ratio"].as_f64().unwrap() > 1.5);

    dfsd.get("/api/v1/fs/none");
    let page = request(dfsd.address, "GET", "/metrics", &[], b"").expect(200);
    assert!(page.header("content-type").starts_with("text/plain; version=0.0.4"));
    let text = page.text();
    for line in [
        "dfs_requests_total{method=\"PUT\",route=\"fs\",status=\"201\"} 3".to_owned(),
        "dfs_requests_total{method=\"GET\",route=\"fs\",status=\"404\"} 1".to_owned(),
        "dfs_request_duration_seconds_count{method=\"PUT\",route=\"fs\"} 3".to_owned(),
        format!("dfs_bytes_received_total {}", number("logical_bytes")),
        format!("dfs_logical_bytes {}", number("logical_bytes")),
        format!("dfs_chunks {}", number("chunks")),
        format!("dfs_saved_bytes{{by=\"duplicates\"}} {}", number("duplicate_bytes")),
        format!("dfs_disk_bytes{{for=\"dead\"}} {}", number("dead_bytes")),
        "dfs_files 3".to_owned(),
        "dfs_ready 1".to_owned(),
    ] {
        assert!(text.lines().any(|found| found == line), "{line} is not in\n{text}");
    }
}
