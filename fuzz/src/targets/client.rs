//! What a server answers, against the client: heads, JSON, listings, bodies, and downloads that break off and go on.
//!
//! The server is a thread on the loopback address that gives each connection one of the answers of the input, whatever
//! it was asked, and closes it.

use std::cell::RefCell;
use std::io::{Cursor, Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::mpsc;
use std::time::Duration;

use client::{Attributes, ByteRange, Client, ClientOptions, RetryPolicy, Upload, Watch};
use proto::path::FsPath;

use crate::{Memory, Target};

/// Connections of one case, at most: a listing asks for page after page.
const CONNECTIONS_MAX: usize = 8;
/// What stands between two answers of an input.
const SEPARATOR: u8 = 0xf8;
/// Bytes of a request that are read; ours are shorter.
const REQUEST_BYTES_MAX: usize = 16 << 10;
/// Longest wait for bytes that do not come; nothing needs it, for every answer ends with its connection.
const TIMEOUT: Duration = Duration::from_secs(20);

pub(super) fn targets() -> Vec<Target> {
    vec![Target {
        name: "client",
        run,
        corpus,
        memory: Memory { fixed_bytes: 4 << 20, per_byte: 400 },
        input_bytes_max: 4096,
        cases: 500,
    }]
}

/// The server's end.
struct Server {
    answers: mpsc::Sender<Vec<Vec<u8>>>,
    client: Client,
}

thread_local! {
    static SERVER: RefCell<Option<Server>> = const { RefCell::new(None) };
}

fn start() -> Server {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a loopback port is free");
    let address = listener.local_addr().expect("a bound socket has an address");
    let (answers, cases) = mpsc::channel::<Vec<Vec<u8>>>();
    serve(listener, cases);
    let options = ClientOptions {
        endpoint: format!("http://{address}"),
        connect_timeout: TIMEOUT,
        idle_timeout: TIMEOUT,
        retry: RetryPolicy { attempts_max: 3, backoff_min: Duration::ZERO, backoff_max: Duration::ZERO },
        idle_connections_max: 0,
        ..ClientOptions::default()
    };
    Server { answers, client: Client::new(options).expect("the endpoint is legal") }
}

#[expect(clippy::disallowed_methods, reason = "the server of the case runs beside the client, which blocks")]
fn serve(listener: TcpListener, cases: mpsc::Receiver<Vec<Vec<u8>>>) {
    std::thread::spawn(move || {
        let mut left = Vec::new().into_iter();
        for stream in listener.incoming() {
            let Ok(stream) = stream else { return };
            // The answers of a new case came before its first connection.
            while let Ok(answers) = cases.try_recv() {
                left = answers.into_iter();
            }
            if let Some(answer) = left.next() {
                let _ = give(&stream, &answer);
            }
        }
    });
}

/// Reads a request as far as its head, then answers.
fn give(mut stream: &TcpStream, answer: &[u8]) -> std::io::Result<()> {
    let mut request = Vec::new();
    let mut piece = [0; 4096];
    while !request.windows(4).any(|end| end == b"\r\n\r\n") && request.len() < REQUEST_BYTES_MAX {
        match stream.read(&mut piece)? {
            0 => return Ok(()),
            read => request.extend_from_slice(&piece[..read]),
        }
    }
    stream.write_all(answer)?;
    stream.shutdown(Shutdown::Write)?;
    // What the client still sends is taken, so that the answer is not lost to a reset.
    while stream.read(&mut piece).is_ok_and(|read| read > 0) {}
    Ok(())
}

fn run(input: &[u8]) {
    let (which, answers) = input.split_first().map_or((0, &[][..]), |(which, answers)| (*which, answers));
    let answers = answers.split(|byte| *byte == SEPARATOR).take(CONNECTIONS_MAX).map(<[u8]>::to_vec).collect();
    let client = SERVER.with(|server| {
        let mut server = server.borrow_mut();
        let server = server.get_or_insert_with(start);
        server.answers.send(answers).expect("the server runs as long as the program");
        server.client.clone()
    });
    call(&client, which);
}

fn call(client: &Client, which: u8) {
    let path = FsPath::parse("/d").expect("a path of ours is legal");
    match which % 8 {
        0 => drop(client.stat(&path)),
        1 => drop(client.head(&path)),
        2 => {
            let mut last = String::new();
            for child in client.list(&path) {
                let Ok(child) = child else { return };
                assert!(child.name > last && !child.name.contains('/') && child.name != "..");
                last = child.name;
            }
        }
        3 => download(client, &path, None),
        4 => download(client, &path, Some(ByteRange { start: 2, end: Some(9) })),
        5 => {
            let watch = Watch { since: "now".to_owned(), below: None, wait: Duration::ZERO };
            drop(client.events(&watch));
        }
        6 => {
            let mut content = Cursor::new(b"hello");
            drop(client.put(&path, Upload::rewindable(&mut content, 5), &Attributes::default()));
        }
        _ => drop((client.versions(&path, None), client.retention(&path), client.stats())),
    }
}

/// Reads all that is promised, or to an error: never more, and never less in silence.
fn download(client: &Client, path: &FsPath, range: Option<ByteRange>) {
    let Ok(mut download) = client.get(path, range) else { return };
    let promised = download.remaining();
    let mut read = 0;
    let mut piece = [0; 512];
    loop {
        match download.read(&mut piece) {
            Ok(0) => break assert_eq!(read, promised, "an end is where it was promised"),
            Ok(more) => read += more as u64,
            Err(_) => break,
        }
        assert!(read <= promised && download.remaining() == promised - read);
    }
}

fn corpus() -> Vec<Vec<u8>> {
    let entry = r#"{"id":"x","path":"/d","kind":"file","version":1,"size":2,"etag":"\"e\"","created_at":"2026-11-22T12:55:50Z","modified_at":"2026-11-22T12:55:50Z","mode":420}"#;
    let page = |names: &[&str], next: &str| {
        let entries: Vec<String> = names.iter().map(|name| entry.replace("/d", &format!("/d/{name}"))).collect();
        format!(r#"{{"path":"/d","entries":[{}]{next}}}"#, entries.join(","))
    };
    let whole = |status: &str, headers: &str, body: &str| {
        format!("HTTP/1.1 {status}\r\n{headers}content-length: {}\r\n\r\n{body}", body.len()).into_bytes()
    };
    let file = "x-dfs-kind: file\r\nx-dfs-version: 1\r\netag: \"e\"\r\nx-dfs-mode: 644\r\nx-dfs-mtime-ns: 5\r\n\
                x-dfs-id: x\r\nx-meta-a: %20b\r\ncontent-type: a/b\r\n";
    let directory = "x-dfs-kind: directory\r\ncontent-type: application/json\r\n";
    let broken = format!("HTTP/1.1 200 OK\r\n{file}content-length: 12\r\n\r\nhello");
    let rest = format!("{file}content-range: bytes 5-11/12\r\n");
    let chunked = format!("HTTP/1.1 200 OK\r\n{directory}transfer-encoding: chunked\r\n\r\n2\r\n{{}}\r\n0\r\n\r\n");
    let refusal = r#"{"error":{"code":"busy","message":"m","retryable":true}}"#;
    let case = |which: u8, answers: &[Vec<u8>]| [&[which][..], &answers.join(&SEPARATOR)].concat();
    vec![
        case(0, &[whole("200 OK", "", entry)]),
        case(1, &[whole("200 OK", file, "")]),
        case(
            2,
            &[
                whole("200 OK", directory, &page(&["a", "b"], r#","next_cursor":"b""#)),
                whole("200 OK", directory, &page(&["c"], "")),
            ],
        ),
        case(2, &[chunked.into_bytes()]),
        case(3, &[broken.into_bytes(), whole("206 Partial Content", &rest, " world!")]),
        case(4, &[whole("206 Partial Content", &format!("{file}content-range: bytes 2-8/12\r\n"), "llo wor")]),
        case(5, &[whole("200 OK", "", r#"{"events":[],"cursor":"1"}"#)]),
        case(6, &[whole("429 Too Many Requests", "retry-after: 1\r\n", refusal), whole("201 Created", "", entry)]),
        case(
            7,
            &[
                whole("200 OK", "", r#"{"path":"/d","versions":[]}"#),
                b"HTTP/1.1 301 Moved\r\nlocation: /\r\n\r\n".to_vec(),
            ],
        ),
    ]
}
