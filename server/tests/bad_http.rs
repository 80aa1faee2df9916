//! Bad HTTP, byte by byte over raw sockets: every mistake gets a refusal or a closed connection, never a file, and the
//! server serves the next client as if nothing had been.

mod daemon;

use std::io::{BufReader, Read, Write};
use std::net::Shutdown;

use daemon::{Answer, Dfsd, connect, noise, read_answer};

/// What the server makes of a head that it cannot parse: an answer without a body, or none.
const CLOSED: u16 = 0;

/// What a client does after it has sent what it has.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Then {
    /// It waits for answers.
    Wait,
    /// It says that no more comes, in the middle of what the server expects.
    EndSending,
}
use Then::{EndSending, Wait};

/// A `dfsd`, and a file that no request of these tests may change.
struct Server {
    _dir: tempfile::TempDir,
    dfsd: Dfsd,
}

impl Server {
    fn start() -> Server {
        let dir = tempfile::tempdir().unwrap();
        let dfsd = Dfsd::start(&dir.path().join("data"));
        dfsd.put("/api/v1/fs/kept", b"kept").expect(201);
        Server { _dir: dir, dfsd }
    }

    /// `PUT /api/v1/fs/x` with the token and `headers`, each with its line end; others may follow on the connection.
    fn put(&self, headers: &str) -> Vec<u8> {
        let token = &self.dfsd.token;
        format!("PUT /api/v1/fs/x HTTP/1.1\r\nhost: dfs\r\nauthorization: Bearer {token}\r\n{headers}\r\n").into_bytes()
    }

    /// `GET` of `target` with the token and `headers`, each with its line end; the last on its connection.
    fn get(&self, target: &str, headers: &str) -> Vec<u8> {
        let token = &self.dfsd.token;
        let head = format!("GET {target} HTTP/1.1\r\nhost: dfs\r\nauthorization: Bearer {token}\r\n");
        format!("{head}connection: close\r\n{headers}\r\n").into_bytes()
    }

    /// Sends `bytes` as they are, and returns all answers until the server closes the connection.
    fn answers(&self, bytes: &[u8], then: Then) -> Vec<Answer> {
        let stream = connect(self.dfsd.address);
        // The server may close before everything is sent.
        let _ = (&stream).write_all(bytes);
        if then == Then::EndSending {
            let _ = stream.shutdown(Shutdown::Write);
        }
        let mut reader = BufReader::new(stream);
        let mut answers = Vec::new();
        loop {
            match read_answer(&mut reader, "GET") {
                Answer { status: CLOSED, .. } => return answers,
                answer => answers.push(answer),
            }
        }
    }

    /// The only answer to `bytes`; `None` if the connection just closes.
    fn answer(&self, bytes: &[u8], then: Then) -> Option<Answer> {
        let mut answers = self.answers(bytes, then);
        assert!(answers.len() <= 1, "one request, {} answers", answers.len());
        answers.pop()
    }

    /// Insists that what was sent left no trace and harmed nobody.
    fn assert_unharmed(&self, what: &str) {
        self.dfsd.await_metric("dfs_requests_in_flight", 1);
        let listed = self.dfsd.get("/api/v1/fs").expect(200).json();
        let names: Vec<_> = listed["entries"].as_array().unwrap().iter().map(|entry| &entry["path"]).collect();
        assert_eq!(names, ["/kept"], "{what}");
        assert_eq!(self.dfsd.get("/api/v1/fs/kept").expect(200).body, b"kept", "{what}");
    }
}

/// A status, or that there is none.
fn status(answer: Option<&Answer>) -> u16 {
    answer.map_or(CLOSED, |answer| answer.status)
}

#[test]
fn heads_beyond_the_limits_are_refused() {
    let server = Server::start();
    let long_name = |bytes: usize| format!("/api/v1/fs/{}", "n".repeat(bytes));
    let many = |count: usize| (0..count).map(|at| format!("x-a-{at}: 1\r\n")).collect::<String>();
    for (what, request, expected, code) in [
        ("a long name", server.get(&long_name(256), ""), 400, "bad_path"),
        ("a long path", server.get(&format!("/api/v1/fs{}", "/n".repeat(2049)), ""), 400, "bad_path"),
        ("a long target", server.get(&long_name(40_000), ""), 414, "uri_too_long"),
        ("a long query", server.get(&format!("/api/v1/fs/a?cursor={}", "a".repeat(40_000)), ""), 414, "uri_too_long"),
        ("a large header", server.get("/", &format!("x-a: {}\r\n", "a".repeat(65 << 10))), 431, "headers_too_large"),
        ("many headers", server.get("/", &many(200)), 431, "headers_too_large"),
        (
            "much metadata",
            server.put(&format!("x-meta-a: {}\r\ncontent-length: 0\r\nconnection: close\r\n", "a".repeat(9000))),
            413,
            "too_large",
        ),
        ("no host", b"GET /api/v1/fs/kept HTTP/1.1\r\nconnection: close\r\n\r\n".to_vec(), 400, "bad_header"),
        ("two hosts", server.get("/api/v1/fs/kept", "host: other\r\n"), 400, "bad_header"),
    ] {
        let answer = server.answer(&request, Wait).unwrap_or_else(|| panic!("{what}: no answer"));
        let message = answer.refused(expected, code);
        assert!(message.len() > 20, "{what}: it says what to do: {message}");
        server.assert_unharmed(what);
    }
    // Beyond what is parsed at all, hyper answers by itself.
    for (what, request, expected) in [
        ("a huge target", server.get(&long_name(70_000), ""), 414),
        ("a huge header", server.get("/", &format!("x-a: {}\r\n", "a".repeat(200 << 10))), 431),
        ("headers without end", server.get("/", &many(20_000)), 431),
    ] {
        let answer = server.answer(&request, Wait);
        assert_eq!(status(answer.as_ref()), expected, "{what}");
        server.assert_unharmed(what);
    }
}

#[test]
fn malformed_heads_are_refused() {
    let server = Server::start();
    let token = server.dfsd.token.clone();
    let head = |line: &str, rest: &str| {
        format!("{line}\r\nhost: dfs\r\nauthorization: Bearer {token}\r\nconnection: close\r\n{rest}\r\n").into_bytes()
    };
    let kept = "GET /api/v1/fs/kept HTTP/1.1";
    for (what, request, then, allowed) in [
        ("no HTTP", b"hello\r\n\r\n".to_vec(), EndSending, &[400, CLOSED][..]),
        ("nothing", Vec::new(), EndSending, &[CLOSED]),
        ("binary", noise(1, 5000), EndSending, &[400, CLOSED]),
        ("a TLS greeting", b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03".to_vec(), EndSending, &[400, CLOSED]),
        ("half a head", kept.as_bytes().to_vec(), EndSending, &[400, CLOSED]),
        ("a folded header", head(kept, "x-a: b\r\n c\r\n"), Wait, &[400]),
        ("a blank before the colon", head(kept, "x-a : b\r\n"), Wait, &[400]),
        ("a header without a name", head(kept, ": b\r\n"), Wait, &[400]),
        ("a NUL in a header", head(kept, "x-a: b\0c\r\n"), Wait, &[400]),
        ("a NUL in the target", head("GET /api/v1/fs/ke\0pt HTTP/1.1", ""), Wait, &[400]),
        ("a blank in the target", head("GET /api/v1/fs/ke pt HTTP/1.1", ""), Wait, &[400]),
        ("a relative target", head("GET api/v1/fs/kept HTTP/1.1", ""), Wait, &[400, 404]),
        ("an unknown version", head("GET /api/v1/fs/kept HTTP/3.0", ""), Wait, &[400]),
        ("an unknown method", head("BREW /api/v1/fs/x HTTP/1.1", ""), Wait, &[405]),
        ("a method in small letters", head("put /api/v1/fs/x HTTP/1.1", ""), Wait, &[405]),
        ("a tunnel", head("CONNECT example.org:443 HTTP/1.1", ""), Wait, &[404, 405]),
        ("all of the server", head("OPTIONS * HTTP/1.1", ""), Wait, &[404, 405]),
        (
            "another protocol",
            head("PUT /api/v1/fs/ HTTP/1.1", "upgrade: websocket\r\nconnection: upgrade\r\ncontent-length: 0\r\n"),
            Wait,
            &[409],
        ),
    ] {
        let answer = server.answer(&request, then);
        assert!(allowed.contains(&status(answer.as_ref())), "{what}: {answer:?}");
        server.assert_unharmed(what);
    }
    // RFC 9112 lets a server take a bare LF for a line end, and a target that names the server.
    let bare = format!("GET /api/v1/fs/kept HTTP/1.1\nhost: dfs\nconnection: close\nauthorization: Bearer {token}\n\n");
    assert_eq!(server.answer(bare.as_bytes(), Wait).unwrap().expect(200).body, b"kept");
    let absolute = head("GET http://elsewhere.example/api/v1/fs/kept HTTP/1.1", "");
    assert_eq!(server.answer(&absolute, Wait).unwrap().expect(200).body, b"kept");
}

#[test]
fn path_tricks_are_refused() {
    let server = Server::start();
    for target in [
        "/api/v1/fs/a%00b",
        "/api/v1/fs/a%0ab",
        "/api/v1/fs/a%7fb",
        "/api/v1/fs/%2e%2e",
        "/api/v1/fs/%2E%2e/kept",
        "/api/v1/fs/a/../kept",
        "/api/v1/fs/./kept",
        "/api/v1/fs/a%2f..%2fkept",
        "/api/v1/fs/a%2Fb",
        "/api/v1/fs/%ff",
        "/api/v1/fs/%c0%ae%c0%ae/kept",
        "/api/v1/fs/%ed%a0%80",
        "/api/v1/fs/a%",
        "/api/v1/fs/a%4",
        "/api/v1/fs/a%zz",
    ] {
        for method in ["GET", "PUT", "DELETE"] {
            server.dfsd.call(method, target, &[]).refused(400, "bad_path");
        }
        let named = target.trim_start_matches("/api/v1/fs");
        if !named.contains("%2F") {
            server.dfsd.send("POST", "/api/v1/files", &[("x-file-path", named)], b"x").refused(400, "bad_path");
        }
        server.assert_unharmed(target);
    }
    for target in ["/api/v1/../../etc/passwd", "//api/v1/fs/kept", "/api/v1/fs%2fkept", "/API/v1/fs/kept"] {
        server.dfsd.call("GET", target, &[]).refused(404, "not_found");
    }
}

#[test]
fn wild_ranges_never_break_anything() {
    let server = Server::start();
    let thousands = (0..5000).map(|at| format!("{at}-{at}")).collect::<Vec<_>>().join(",");
    for (range, expected, body) in [
        ("bytes=99999999999999999999-", 416, None),
        ("bytes=4-", 416, None),
        ("bytes=-0", 416, None),
        ("bytes=0-99999999999999999999", 206, Some("kept")),
        ("bytes=-99999999999999999999", 206, Some("kept")),
        ("bytes=3-1", 200, Some("kept")),
        ("bytes=--1", 200, Some("kept")),
        ("bytes=-1-", 200, Some("kept")),
        ("bytes=0x0-1", 200, Some("kept")),
        ("bytes=1-1,2-2", 200, Some("kept")),
        (&format!("bytes={thousands}"), 200, Some("kept")),
        ("bytes=1-1, ", 200, Some("kept")),
        ("=", 200, Some("kept")),
    ] {
        let answer = server.dfsd.call("GET", "/api/v1/fs/kept", &[("range", range)]);
        assert_eq!(answer.status, expected, "{range}");
        if let Some(body) = body {
            assert_eq!(answer.text(), body, "{range}");
        } else {
            assert_eq!(answer.header("content-range"), "bytes */4");
        }
    }
    server.assert_unharmed("ranges");
}

#[test]
fn wrong_lengths_and_smuggled_requests_make_nothing() {
    let server = Server::start();
    let smuggled = format!(
        "PUT /api/v1/fs/smuggled HTTP/1.1\r\nhost: dfs\r\nauthorization: Bearer {}\r\ncontent-length: 0\r\n\r\n",
        server.dfsd.token
    );
    let with = |headers: &str, body: &str| [server.put(headers), body.as_bytes().to_vec()].concat();
    for (what, request, allowed) in [
        ("two lengths", with("content-length: 1\r\ncontent-length: 2\r\n", "xx"), &[400, CLOSED][..]),
        ("a list of lengths", with("content-length: 1, 2\r\n", "xx"), &[400, CLOSED]),
        ("a negative length", with("content-length: -1\r\n", "x"), &[400, CLOSED]),
        ("a signed length", with("content-length: +1\r\n", "x"), &[400, CLOSED]),
        ("a length in hexadecimal", with("content-length: 0x1\r\n", "x"), &[400, CLOSED]),
        ("a length beyond 64 bits", with("content-length: 99999999999999999999\r\n", "x"), &[400, CLOSED]),
        ("the longest length", with("content-length: 18446744073709551615\r\n", "x"), &[400, 431, CLOSED]),
        ("a body that ends early", with("content-length: 100\r\n", "x"), &[400, CLOSED]),
        ("an encoding that is not chunked", with("transfer-encoding: gzip\r\n", "x"), &[400, CLOSED]),
        ("chunked, and then another", with("transfer-encoding: chunked, gzip\r\n", "0\r\n\r\n"), &[400, CLOSED]),
        ("a chunk of no size", with("transfer-encoding: chunked\r\n", "zz\r\nx\r\n0\r\n\r\n"), &[400, CLOSED]),
        ("a negative chunk", with("transfer-encoding: chunked\r\n", "-1\r\nx\r\n0\r\n\r\n"), &[400, CLOSED]),
        (
            "a chunk beyond 64 bits",
            with("transfer-encoding: chunked\r\n", "fffffffffffffffff\r\nx\r\n"),
            &[400, CLOSED],
        ),
        (
            "a chunk longer than it says",
            with("transfer-encoding: chunked\r\n", "1\r\nxyz\r\n0\r\n\r\n"),
            &[400, CLOSED],
        ),
        ("chunks without an end", with("transfer-encoding: chunked\r\n", "1\r\nx\r\n"), &[400, CLOSED]),
        (
            "an endless chunk extension",
            with("transfer-encoding: chunked\r\n", &format!("1;{}", "a".repeat(100_000))),
            &[400, CLOSED],
        ),
        (
            "endless trailers",
            with("transfer-encoding: chunked\r\n", &format!("0\r\n{}", "a: b\r\n".repeat(50_000))),
            &[400, CLOSED],
        ),
    ] {
        let answer = server.answer(&request, EndSending);
        assert!(allowed.contains(&status(answer.as_ref())), "{what}: {answer:?}");
        server.assert_unharmed(what);
    }

    // A length and chunks: the chunks count, and nothing that follows is taken for a request of its own.
    for (what, headers) in [
        ("length first", "content-length: 5\r\ntransfer-encoding: chunked\r\n"),
        ("length last", "transfer-encoding: chunked\r\ncontent-length: 5\r\n"),
        ("chunks alone", "transfer-encoding: chunked\r\n"),
    ] {
        let answers = server.answers(&with(headers, &format!("1\r\nx\r\n0\r\n\r\n{smuggled}")), Wait);
        assert_eq!(answers.len(), 1, "{what}: {answers:?}");
        assert_eq!((answers[0].status, answers[0].header("connection")), (201, "close"), "{what}");
        assert_eq!(server.dfsd.get("/api/v1/fs/x").body, b"x");
        server.dfsd.call("DELETE", "/api/v1/fs/x", &[]).expect(204);
        server.assert_unharmed(what);
    }
    // Bytes beyond a length are the next request, and are read as one.
    let answers = server.answers(&with("content-length: 1\r\n", "xyz\r\n\r\n"), Wait);
    assert_eq!(answers.iter().map(|answer| answer.status).collect::<Vec<_>>(), [201, 400]);
    server.dfsd.call("DELETE", "/api/v1/fs/x", &[]).expect(204);
    server.assert_unharmed("a longer body");
}

#[test]
fn an_answer_says_whether_another_request_may_follow() {
    let server = Server::start();
    for (what, headers, body, status, is_last) in [
        ("a refusal of nothing", "if-match: *\r\ncontent-length: 0\r\n", 0, 412, false),
        ("a refusal after the body", "if-match: *\r\ncontent-length: 5000\r\n", 5000, 412, false),
        ("a refusal of what is too much to read", "if-match: *\r\ncontent-length: 9000000\r\n", 2 << 20, 412, true),
        ("a refusal of what stays away", "if-match: *\r\ncontent-length: 5000\r\n", 4999, 412, true),
        ("a refusal before", "if-match: *\r\nexpect: 100-continue\r\ncontent-length: 5000\r\n", 0, 412, true),
        ("a file", "content-length: 5000\r\n", 5000, 201, false),
    ] {
        let stream = connect(server.dfsd.address);
        (&stream).write_all(&[server.put(headers), noise(9, body)].concat()).unwrap();
        let mut reader = BufReader::new(&stream);
        let answer = read_answer(&mut reader, "PUT").expect(status);
        let says = answer.headers.get("connection").map(String::as_str);
        assert_eq!(says, is_last.then_some("close"), "{what}");
        if is_last {
            assert_eq!(reader.read_to_end(&mut Vec::new()).unwrap(), 0, "{what}");
        } else {
            (&stream).write_all(&server.get("/api/v1/fs/kept", "")).unwrap();
            assert_eq!(read_answer(&mut reader, "GET").expect(200).body, b"kept", "{what}");
        }
    }
    server.dfsd.call("DELETE", "/api/v1/fs/x", &[]).expect(204);
    server.assert_unharmed("refusals");
}

#[test]
fn requests_in_a_row_are_answered_in_order() {
    let server = Server::start();
    let mut row = Vec::new();
    for range in ["0-0", "1-1", "2-2", "3-3"] {
        let last = String::from_utf8(server.get("/api/v1/fs/kept", &format!("range: bytes={range}\r\n"))).unwrap();
        row.extend(last.replace("connection: close\r\n", "").into_bytes());
    }
    let stream = connect(server.dfsd.address);
    (&stream).write_all(&row).unwrap();
    let mut reader = BufReader::new(stream);
    let bodies: Vec<String> = (0..4).map(|_| read_answer(&mut reader, "GET").expect(206).text()).collect();
    assert_eq!(bodies, ["k", "e", "p", "t"]);
}

#[test]
fn clients_that_vanish_leave_nothing() {
    let server = Server::start();
    let large = noise(7, 8 << 20);
    server.dfsd.put("/api/v1/fs/kept-large", &large).expect(201);
    for sent in [0, 1, 5000, 300_000, 5 << 20] {
        let mut stream = server.dfsd.begin_upload("/api/v1/fs/x", "content-length: 9000000\r\n");
        stream.write_all(&large[..sent]).unwrap();
        // Closing a socket with unread or undelivered bytes resets the connection.
        rustix::net::sockopt::set_socket_linger(&stream, Some(std::time::Duration::ZERO)).unwrap();
        drop(stream);
    }
    for read in [0, 1, 1000, 400_000] {
        let mut stream = connect(server.dfsd.address);
        stream.write_all(&server.get("/api/v1/fs/kept-large", "")).unwrap();
        stream.read_exact(&mut vec![0; read]).unwrap();
        drop(stream);
    }
    assert!(server.dfsd.get("/api/v1/fs/kept-large").expect(200).body == large);
    server.dfsd.call("DELETE", "/api/v1/fs/kept-large", &[]).expect(204);
    server.assert_unharmed("clients that vanish");
}

#[test]
fn http2_rubbish_ends_the_connection_alone() {
    const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
    const SETTINGS: &[u8] = &[0, 0, 0, 4, 0, 0, 0, 0, 0];
    let server = Server::start();
    let with_settings = |frames: &[u8]| [PREFACE, SETTINGS, frames].concat();
    let get = |stream: u8| [&[0, 0, 3, 1, 5, 0, 0, 0, stream][..], &[0x82, 0x86, 0x84]].concat();
    let reset = |stream: u8| [&[0, 0, 4, 3, 0, 0, 0, 0, stream][..], &[0, 0, 0, 8]].concat();
    let rapid: Vec<u8> = (0..127).flat_map(|at| [get(2 * at + 1), reset(2 * at + 1)].concat()).collect();
    let headers_only = [&[0, 0, 3, 1, 0, 0, 0, 0, 1][..], &[0x82, 0x86, 0x84]].concat();
    let continuation = [&[0, 0x40, 0, 9, 0, 0, 0, 0, 1][..], &[0; 0x4000]].concat();
    let flood = [headers_only, continuation.repeat(100)].concat();
    for (what, bytes) in [
        ("half a preface", PREFACE[..10].to_vec()),
        ("a preface that goes wrong", b"PRI * HTTP/2.0\r\n\r\nXX\r\n\r\n".to_vec()),
        ("rubbish instead of frames", [PREFACE, &noise(3, 5000)].concat()),
        ("a frame longer than agreed", with_settings(&[0xff, 0xff, 0xff, 0, 0, 0, 0, 0, 1])),
        ("data of no stream", with_settings(&[0, 0, 1, 0, 0, 0, 0, 0, 1, 7])),
        ("a head that does not decompress", with_settings(&[0, 0, 3, 1, 5, 0, 0, 0, 1, 0xff, 0xff, 0xff])),
        ("a window beyond its maximum", with_settings(&[0, 0, 4, 8, 0, 0, 0, 0, 0, 0x7f, 0xff, 0xff, 0xff])),
        ("streams reset as fast as they open", with_settings(&rapid)),
        ("a head without an end", with_settings(&flood)),
    ] {
        let stream = connect(server.dfsd.address);
        let _ = (&stream).write_all(&bytes);
        let _ = stream.shutdown(Shutdown::Write);
        // Whatever it says, it ends.
        let mut said = Vec::new();
        let _ = (&stream).take(1 << 20).read_to_end(&mut said);
        assert!(said.len() < 1 << 20, "{what}");
        server.assert_unharmed(what);
    }
}
