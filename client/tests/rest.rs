//! The client against a server that fails in every way a network can.

#[allow(dead_code, reason = "the tests of `dfs` use the rest of it")]
mod stub;

use std::io::{Cursor, Read};
use std::time::Duration;

use client::{Attributes, ByteRange, Client, ClientError, ClientOptions, Existing, Removal, RetryPolicy, Upload};
use proto::api::{Entry, Kind};
use proto::path::FsPath;
use stub::{Fault, Stub, TOKEN};

fn options(stub: &Stub) -> ClientOptions {
    ClientOptions {
        endpoint: stub.endpoint.clone(),
        token: Some(TOKEN.to_owned()),
        retry: RetryPolicy { attempts_max: 3, backoff_min: Duration::ZERO, backoff_max: Duration::ZERO },
        ..ClientOptions::default()
    }
}

fn connect(stub: &Stub) -> Client {
    Client::new(options(stub)).unwrap()
}

fn path(text: &str) -> FsPath {
    FsPath::parse(text).unwrap()
}

fn put(client: &Client, name: &str, content: &[u8]) -> Result<Entry, ClientError> {
    let mut reader = Cursor::new(content);
    client.put(&path(name), Upload::rewindable(&mut reader, content.len() as u64), &Attributes::default())
}

fn get(client: &Client, name: &str, range: Option<ByteRange>) -> Result<Vec<u8>, ClientError> {
    let mut content = Vec::new();
    let mut download = client.get(&path(name), range)?;
    download.read_to_end(&mut content).map_err(|error| ClientError::from_io(error).unwrap())?;
    Ok(content)
}

/// Bytes that repeat nowhere near.
fn noise(length: usize) -> Vec<u8> {
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    let next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        (state >> 32) as u8
    };
    std::iter::repeat_with(next).take(length).collect()
}

#[test]
fn every_length_round_trips() {
    let stub = Stub::start();
    let client = connect(&stub);
    for length in [0, 1, 4096, (64 << 10) - 1, 64 << 10, 3 << 20] {
        let content = noise(length);
        let entry = put(&client, "/a dir/ü?#%25+.bin", &content).unwrap();
        assert_eq!(entry.size, length as u64);
        assert_eq!(get(&client, "/a dir/ü?#%25+.bin", None).unwrap(), content, "{length} bytes");
        assert_eq!(stub.object("/a dir/ü?#%25+.bin").unwrap().content, content);
    }
    assert_eq!(stub.connections(), 1, "calls in a row share one connection");
}

#[test]
fn a_stream_of_unknown_length_is_sent_chunked() {
    let stub = Stub::start();
    let client = connect(&stub);
    let content = noise(1 << 20);
    let mut reader = &content[..];
    client.put(&path("/s"), Upload::stream(&mut reader, None), &Attributes::default()).unwrap();
    assert_eq!(stub.object("/s").unwrap().content, content);
    assert_eq!(stub.requests("PUT")[0].headers["transfer-encoding"], "chunked");
}

#[test]
fn attributes_and_metadata_travel_both_ways() {
    let stub = Stub::start();
    let client = connect(&stub);
    let attributes = Attributes {
        mode: Some(0o4751),
        mtime_ns: Some(1_700_000_000_123_456_789),
        content_type: Some("text/plain".to_owned()),
        metadata: [("note".to_owned(), "naïve; 100 %".to_owned())].into(),
    };
    let mut empty = std::io::empty();
    client.put(&path("/f"), Upload::rewindable(&mut empty, 0), &attributes).unwrap();
    for head in [client.head(&path("/f")).unwrap(), client.get(&path("/f"), None).unwrap().head().clone()] {
        assert_eq!((head.kind, head.mode, head.mtime_ns), (Kind::File, attributes.mode, attributes.mtime_ns));
        assert_eq!(head.metadata, attributes.metadata);
    }
    assert_eq!(stub.requests("PUT")[0].headers["content-type"], "text/plain");
    let change = Attributes { mode: Some(0o600), ..Attributes::default() };
    let entry = client.set_attributes(&path("/f"), &change).unwrap();
    assert_eq!((entry.mode, entry.metadata), (0o600, attributes.metadata));
}

#[test]
fn a_change_whose_answer_was_lost_happens_once() {
    let stub = Stub::start();
    let client = connect(&stub);
    stub.fail("PUT", Fault::DropAfter);
    assert_eq!(put(&client, "/f", b"x").unwrap().version, 1);
    stub.fail("POST", Fault::DropAfter);
    client.rename(&path("/f"), &path("/g"), Existing::Keep).unwrap();
    stub.fail("DELETE", Fault::DropAfter);
    client.remove(&path("/g"), Removal::Single).unwrap();
    for method in ["PUT", "POST", "DELETE"] {
        let requests = stub.requests(method);
        assert_eq!(requests.len(), 2, "{method} was repeated");
        for name in ["x-dfs-client", "x-dfs-sequence"] {
            assert_eq!(requests[0].headers[name], requests[1].headers[name], "{method} repeats its {name}");
        }
        assert_eq!(requests[0].body, requests[1].body, "{method} repeats its body");
    }
    let sequences: Vec<_> =
        ["PUT", "POST", "DELETE"].map(|method| stub.requests(method)[0].headers["x-dfs-sequence"].clone()).into();
    assert_eq!(sequences, ["1", "2", "3"]);
}

#[test]
fn a_busy_server_is_asked_again() {
    let stub = Stub::start();
    let client = connect(&stub);
    stub.fail("PUT", Fault::Busy);
    stub.fail("PUT", Fault::DropBefore);
    put(&client, "/f", &noise(1 << 20)).unwrap();
    assert_eq!(stub.object("/f").unwrap().content, noise(1 << 20));
}

#[test]
fn retries_are_bounded() {
    let stub = Stub::start();
    let client = connect(&stub);
    for _ in 0..3 {
        stub.fail("PUT", Fault::Busy);
    }
    let error = put(&client, "/f", b"x").unwrap_err();
    assert!(matches!(&error, ClientError::Api { status: 503, .. }), "{error}");
    assert!(error.is_retryable());
    assert_eq!(stub.requests("PUT").len(), 3);
}

#[test]
fn a_stream_that_was_partly_sent_is_not_sent_again() {
    let stub = Stub::start();
    let client = connect(&stub);
    stub.fail("PUT", Fault::DropBefore);
    let mut reader = &b"streamed"[..];
    let error = client.put(&path("/s"), Upload::stream(&mut reader, None), &Attributes::default()).unwrap_err();
    assert!(matches!(error, ClientError::Interrupted { .. }), "{error}");
    assert_eq!(stub.requests("PUT").len(), 1);
    assert_eq!(stub.object("/s"), None);
}

#[test]
fn a_source_that_shrinks_or_fails_commits_nothing() {
    let stub = Stub::start();
    let client = connect(&stub);
    for size in [10, 1 << 20] {
        let mut reader = Cursor::new(b"short");
        let error = client.put(&path("/f"), Upload::rewindable(&mut reader, size), &Attributes::default()).unwrap_err();
        assert!(matches!(error, ClientError::SourceShort { seen: 5, .. }), "{error}");
    }
    assert_eq!(stub.object("/f"), None);
}

#[test]
fn a_broken_download_goes_on_where_it_broke() {
    let stub = Stub::start();
    let client = connect(&stub);
    let content = noise(1 << 20);
    put(&client, "/f", &content).unwrap();
    for cut in [1 << 19, 3] {
        stub.fail("GET", Fault::CutBody(cut));
    }
    assert_eq!(get(&client, "/f", None).unwrap(), content);
    let ranges: Vec<_> = stub.requests("GET").iter().map(|request| request.headers.get("range").cloned()).collect();
    assert_eq!(ranges, [None, Some("bytes=524288-1048575".into()), Some("bytes=524291-1048575".into())]);
}

#[test]
fn a_download_never_mixes_two_versions() {
    let stub = Stub::start();
    let client = connect(&stub);
    put(&client, "/f", &[1; 1000]).unwrap();
    stub.fail("GET", Fault::CutBody(10));
    stub.fail("GET", Fault::ReplaceContent(vec![2; 1000]));
    let error = get(&client, "/f", None).unwrap_err();
    assert!(matches!(error, ClientError::Replaced { .. }), "{error}");
}

#[test]
fn a_download_that_keeps_breaking_fails() {
    let stub = Stub::start();
    let client = connect(&stub);
    put(&client, "/f", &[1; 1000]).unwrap();
    for _ in 0..3 {
        stub.fail("GET", Fault::CutBody(0));
    }
    let error = get(&client, "/f", None).unwrap_err();
    assert!(matches!(error, ClientError::Interrupted { .. }), "{error}");
}

#[test]
fn ranges_are_delivered_exactly() {
    let stub = Stub::start();
    let client = connect(&stub);
    let content = noise(1000);
    put(&client, "/f", &content).unwrap();
    let range = |start, end| get(&client, "/f", Some(ByteRange { start, end }));
    assert_eq!(range(10, Some(20)).unwrap(), content[10..20]);
    assert_eq!(range(990, None).unwrap(), content[990..]);
    assert_eq!(range(990, Some(5000)).unwrap(), content[990..]);
    assert!(matches!(range(1000, None), Err(ClientError::Api { status: 416, .. })));
}

#[test]
fn answers_without_a_length_are_refused() {
    let stub = Stub::start();
    let client = connect(&stub);
    stub.fail("GET", Fault::Raw("HTTP/1.1 200 OK\r\nx-dfs-kind: file\r\n\r\nhalf a fi".to_owned()));
    assert!(matches!(get(&client, "/f", None), Err(ClientError::Protocol { .. })));
}

#[test]
fn strangers_and_redirects_are_refused() {
    let stub = Stub::start();
    let client = connect(&stub);
    for text in [
        "HTTP/1.1 200 OK\r\ncontent-length: 6\r\n\r\n<html>",
        "HTTP/1.1 302 Found\r\nlocation: http://127.0.0.1:1/\r\ncontent-length: 0\r\n\r\n",
        "SSH-2.0-OpenSSH_9.6\r\n\r\n",
    ] {
        stub.fail("GET", Fault::Raw(text.to_owned()));
        let error = client.stat(&path("/f")).unwrap_err();
        assert!(matches!(error, ClientError::Protocol { .. }), "{text}: {error}");
    }
}

#[test]
fn a_wrong_token_is_told_before_the_body_is_sent() {
    let stub = Stub::start();
    let client = Client::new(ClientOptions { token: Some("wrong".into()), ..options(&stub) }).unwrap();
    for length in [1, 8 << 20] {
        let error = put(&client, "/f", &noise(length)).unwrap_err();
        assert!(matches!(&error, ClientError::Unauthorized { .. }), "{error}");
        assert!(error.to_string().contains("--token-file"), "{error}");
    }
    assert!(stub.requests("PUT").iter().all(|request| request.body.len() <= 1), "the long body stayed at home");
}

#[test]
fn a_server_that_never_ran_is_reported_at_once() {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let endpoint = format!("http://{}", listener.local_addr().unwrap());
    drop(listener);
    let client = Client::new(ClientOptions { endpoint, ..ClientOptions::default() }).unwrap();
    let error = client.stats().unwrap_err();
    assert!(matches!(error, ClientError::Unreachable { .. }), "{error}");
    assert!(error.to_string().contains("dfsd serve"), "{error}");
}

#[test]
fn listings_are_paged_and_ordered() {
    let stub = Stub::start();
    let client = connect(&stub);
    stub.state.lock().unwrap().page = 3;
    let names: Vec<String> = (0..10).map(|number| format!("name {number}")).collect();
    for name in &names {
        put(&client, &format!("/d/{name}"), b"x").unwrap();
    }
    let listed: Vec<String> = client.list(&path("/d")).map(|child| child.unwrap().name).collect();
    assert_eq!(listed, names);
    assert_eq!(stub.requests("GET").len(), 4);
    let errors: Vec<_> = client.list(&path("/d/name 1")).collect();
    assert!(matches!(errors[..], [Err(ClientError::WrongKind { .. })]));
}

#[test]
fn names_that_would_escape_or_repeat_are_refused() {
    let stub = Stub::start();
    let client = connect(&stub);
    let honest = put(&client, "/honest", b"x").unwrap();
    for smuggled in ["/../etc/passwd", "/zz/zzz", "/", "etc", "/..", "/honest", "/a\0"] {
        stub.state.lock().unwrap().smuggled = vec![Entry { path: smuggled.to_owned(), ..honest.clone() }];
        let children: Vec<_> = client.list(&FsPath::root()).collect();
        assert_eq!(children.len(), 2, "{smuggled}");
        assert!(matches!(children[1], Err(ClientError::Protocol { .. })), "{smuggled}");
    }
}

#[test]
fn kinds_are_told_apart() {
    let stub = Stub::start();
    let client = connect(&stub);
    client.make_directory(&path("/d"), &Attributes::default()).unwrap();
    client.make_symlink(&path("/l"), "d/ü", &Attributes::default()).unwrap();
    assert_eq!(client.stat(&path("/l")).unwrap().symlink_target.as_deref(), Some("d/ü"));
    assert!(matches!(get(&client, "/d", None), Err(ClientError::WrongKind { found: Kind::Directory, .. })));
    assert!(matches!(get(&client, "/l", None), Err(ClientError::WrongKind { found: Kind::Symlink, .. })));
    assert!(client.make_directory(&path("/d"), &Attributes::default()).unwrap_err().is_already_exists());
    assert!(client.stat(&path("/missing")).unwrap_err().is_not_found());
    assert_eq!(client.remove(&path("/d"), Removal::Tree).map_err(|error| error.to_string()), Ok(()));
}
