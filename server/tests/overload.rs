//! More than the server can serve: some are told to come back, and everybody else is served as before.

mod daemon;

use std::io::{BufReader, Read, Write};
use std::net::TcpStream;

use daemon::{Dfsd, connect, read_answer};
use proto::limits::{CONNECTIONS_MAX, HEAD_SECONDS_MAX, UPLOADS_INFLIGHT_MAX};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

/// A `dfsd` on one core: the maxima are those of a core.
fn fresh() -> (tempfile::TempDir, Dfsd) {
    let dir = tempfile::tempdir().unwrap();
    let dfsd = Dfsd::start_with(&dir.path().join("data"), &["--cores", "1"]);
    (dir, dfsd)
}

#[test]
fn uploads_beyond_the_maximum_wait_and_are_then_told_to_come_back() {
    let (_dir, dfsd) = fresh();
    let begin = |at: usize| dfsd.begin_upload(&format!("/api/v1/fs/f{at}"), "content-length: 5000\r\n");
    let mut served: Vec<TcpStream> = (0..UPLOADS_INFLIGHT_MAX).map(begin).collect();
    dfsd.await_metric("dfs_uploads_in_flight", UPLOADS_INFLIGHT_MAX as u64);

    let mut late = begin(UPLOADS_INFLIGHT_MAX);
    dfsd.await_metric("dfs_uploads_waiting", 1);
    // Metadata, short files and downloads need no upload's place.
    dfsd.put("/api/v1/fs/short", b"short").expect(201);
    assert_eq!(dfsd.get("/api/v1/fs/short").expect(200).body, b"short");
    dfsd.call("PUT", "/api/v1/fs/dir?type=directory", &[]).expect(201);
    dfsd.call("DELETE", "/api/v1/fs/dir", &[]).expect(204);
    // As soon as one ends, the next is served.
    let mut first = served.pop().unwrap();
    first.write_all(&[1; 5000]).unwrap();
    read_answer(&mut BufReader::new(first), "PUT").expect(201);
    dfsd.await_metric("dfs_uploads_waiting", 0);
    late.write_all(&[2; 5000]).unwrap();
    served.push(begin(1000));
    read_answer(&mut BufReader::new(late), "PUT").expect(201);
    dfsd.await_metric("dfs_uploads_in_flight", UPLOADS_INFLIGHT_MAX as u64);

    // One that waits too long is told when to come back, and leaves nothing.
    let turned_away = read_answer(&mut BufReader::new(begin(2000)), "PUT");
    turned_away.refused(429, "busy");
    assert_eq!(turned_away.header("retry-after"), "1");
    dfsd.get("/api/v1/fs/f2000").refused(404, "not_found");
    drop(served);
    dfsd.await_metric("dfs_uploads_in_flight", 0);
    dfsd.put("/api/v1/fs/after", &[3; 5000]).expect(201);
}

#[test]
fn a_connection_too_many_is_told_to_come_back() {
    let limit = getrlimit(Resource::Nofile);
    setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, maximum: limit.maximum }).unwrap();
    let (_dir, dfsd) = fresh();
    let mut asking = connect(dfsd.address);
    let mut idle: Vec<TcpStream> = (1..CONNECTIONS_MAX).map(|_| connect(dfsd.address)).collect();
    // Connections are accepted in order, so all of those count when this one is answered.
    let refused = dfsd.get("/api/v1/fs");
    refused.refused(429, "busy");
    assert_eq!((refused.header("retry-after"), refused.header("connection")), ("1", "close"));
    // Those that are in are served, and make room.
    asking.write_all(b"GET /healthz HTTP/1.1\r\nhost: dfs\r\n\r\n").unwrap();
    assert_eq!(read_answer(&mut BufReader::new(asking.try_clone().unwrap()), "GET").expect(200).text(), "alive\n");
    idle.truncate(10);
    while dfsd.get("/api/v1/fs").status != 200 {}
    drop(asking);
}

#[test]
fn slow_heads_are_closed_while_others_are_served() {
    let (_dir, dfsd) = fresh();
    let slow: Vec<TcpStream> = (0..200)
        .map(|_| {
            let mut stream = connect(dfsd.address);
            stream.write_all(b"GET /healthz HTTP/1.1\r\nhost: d").unwrap();
            stream
        })
        .collect();
    dfsd.put("/api/v1/fs/a", b"served").expect(201);
    for mut stream in slow {
        let mut said = Vec::new();
        // Closed, or reset because it was closed with bytes unread.
        let _ = stream.read_to_end(&mut said);
        assert!(said.is_empty(), "closed within {HEAD_SECONDS_MAX} s and without an answer");
    }
    dfsd.await_metric("dfs_connections_ended_total{reason=\"slow_head\"}", 200);
    assert_eq!(dfsd.get("/api/v1/fs/a").expect(200).body, b"served");
}
