//! Bytes of a client against the connection code of the server, over a node on a simulated disk.
//!
//! Nothing of the server is replaced but its socket: hyper, routes, paths, queries, ranges, conditions, idempotency keys,
//! bodies, timeouts. Time is simulated, so a client that says no more costs nothing. Every case has a node of its own.
//!
//! What must hold: the connection ends, no answer is an error of the server's own, and whoever comes next is served.

use std::cell::RefCell;
use std::io;
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use chaos::sim::{DiskOptions, SimDisk, Simulation};
use chunk::KeyRing;
use hyper::rt::{Read, ReadBufCursor, Write};
use net::mailbox::mailboxes;
use node::{Node, NodeOptions, PutOptions};
use proto::path::FsPath;
use proto::port::runtime::{self, LocalFuture};
use server::connection::serve_connection;
use server::{App, Peer, Token};

use crate::{Memory, Target};

const TOKEN: &str = "0123456789abcdef0123456789abcdef";
/// How long a client waits for an answer before it closes the connection: longer than any timeout of the server.
const PATIENCE: Duration = Duration::from_secs(600);

pub(super) fn targets() -> Vec<Target> {
    vec![Target {
        name: "http",
        run: http,
        corpus,
        // A node with its buffers, and what a request and an HTTP/2 connection may have.
        memory: Memory { fixed_bytes: 64 << 20, per_byte: 1024 },
        input_bytes_max: 8192,
        cases: 60,
    }]
}

/// A client that sends all it has to say, waits, and closes.
struct Client {
    /// What it sends, in pieces of `piece` bytes.
    says: Vec<u8>,
    piece: usize,
    at: usize,
    waiting: Option<LocalFuture<()>>,
    hears: Rc<RefCell<Vec<u8>>>,
}

impl Read for Client {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, mut out: ReadBufCursor<'_>) -> Poll<io::Result<()>> {
        let end = self.says.len().min(self.at + self.piece.min(out.remaining()));
        if self.at < end {
            out.put_slice(&self.says[self.at..end]);
            self.at = end;
            return Poll::Ready(Ok(()));
        }
        let waiting = self.waiting.get_or_insert_with(|| runtime::sleep(PATIENCE));
        waiting.as_mut().poll(cx).map(Ok)
    }
}

impl Write for Client {
    fn poll_write(self: Pin<&mut Self>, _: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        self.hears.borrow_mut().extend_from_slice(bytes);
        Poll::Ready(Ok(bytes.len()))
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}

/// Serves one connection to its end and returns what the client heard.
async fn converse(app: &App<SimDisk>, says: Vec<u8>, piece: usize) -> Vec<u8> {
    let hears = Rc::new(RefCell::new(Vec::new()));
    let client = Client { says, piece, at: 0, waiting: None, hears: hears.clone() };
    serve_connection(app.clone(), client).await;
    hears.take()
}

async fn put(node: &Node<SimDisk>, name: &str, bytes: &[u8]) {
    let path = FsPath::parse(name).expect("a path of ours is legal");
    let mut writer = node.create(path, PutOptions::default()).expect("the options are legal");
    writer.write(bytes).await.expect("the disk is healthy");
    writer.finish().await.expect("the disk is healthy");
}

async fn serve(disk: SimDisk, input: Vec<u8>) {
    let keys = Arc::new(KeyRing::generate(1, [7; 32]));
    let options =
        NodeOptions { piece_bytes: 1 << 20, wal_reserve_bytes: 64 << 10, ..NodeOptions::new(vec![disk], keys) };
    let (node, _) = Node::open(options).await.expect("a blank disk is formatted");
    put(&node, "/kept", b"kept").await;
    put(&node, "/d/large", &[b'x'; 10_000]).await;
    let cores = mailboxes(1).pop().expect("one core").open();
    let peer = Rc::new(Peer::new());
    cores.start(peer.clone());
    let app = App::new(node, 1, Token::new(TOKEN).expect("the token is long enough"), cores, peer);

    let (piece, says) = input.split_first().map_or((0, &[][..]), |(piece, says)| (usize::from(*piece), says));
    let heard = converse(&app, says.to_vec(), if piece == 0 { usize::MAX } else { piece }).await;
    let is_http2 = says.starts_with(b"PRI ");
    if !is_http2 {
        answers(&heard);
    }
    let whole = converse(&app, request("PUT /api/v1/fs/after", "content-length: 5\r\n", b"after"), usize::MAX).await;
    let status = answers(&whole).first().copied();
    assert!(status.is_some_and(|status| status < 500), "who comes next is served: {}", whole.escape_ascii());
}

/// The statuses of the answers that begin a line.
fn answers(heard: &[u8]) -> Vec<u16> {
    let text = String::from_utf8_lossy(heard);
    assert!(heard.is_empty() || text.starts_with("HTTP/1."), "an answer is HTTP: {text}");
    let statuses = text.lines().filter_map(|line| line.strip_prefix("HTTP/1.1 ").or(line.strip_prefix("HTTP/1.0 ")));
    let statuses: Vec<u16> = statuses.filter_map(|rest| rest.get(..3)?.parse().ok()).collect();
    assert!(!statuses.contains(&500), "a client made the server fail: {text}");
    statuses
}

fn http(input: &[u8]) {
    let mut simulation = Simulation::new(1);
    let disk = simulation.add_disk(DiskOptions::default());
    simulation.run(serve(disk, input.to_vec())).unwrap_or_else(|stuck| panic!("{stuck}"));
}

/// A request that closes its connection.
fn request(line: &str, headers: &str, body: &[u8]) -> Vec<u8> {
    let head =
        format!("{line} HTTP/1.1\r\nhost: dfs\r\nauthorization: Bearer {TOKEN}\r\nconnection: close\r\n{headers}\r\n");
    [head.as_bytes(), body].concat()
}

fn corpus() -> Vec<Vec<u8>> {
    let chunked = b"5;name=value\r\nhello\r\n0\r\nx-trailer: 1\r\n\r\n";
    let mut requests: Vec<Vec<u8>> = [
        ("GET /api/v1/fs/kept", "range: bytes=1-2\r\nif-range: \"x\"\r\n", &b""[..]),
        ("GET /api/v1/fs/d/large?version=1", "range: bytes=-5\r\nif-none-match: W/\"a\", \"b\"\r\n", b""),
        ("HEAD /api/v1/fs/kept", "if-modified-since: Sun, 06 Nov 1994 08:49:37 GMT\r\n", b""),
        ("GET /api/v1/fs/d?limit=1&cursor=a%20b", "", b""),
        ("GET /api/v1/fs/kept?stat", "", b""),
        ("GET /api/v1/fs/kept?versions&after=7", "", b""),
        ("GET /api/v1/events?since=oldest&wait=1&prefix=%2Fd", "", b""),
        ("GET /api/v1/stats", "", b""),
        ("GET /metrics", "", b""),
        ("GET /readyz", "", b""),
        ("GET /api/v1/files/0123abcd-4567-8901-8abc-def012345678", "", b""),
        ("PUT /api/v1/fs/a/b%20c", "content-length: 5\r\nx-meta-colour: gr%C3%BCn\r\nx-dfs-mode: 644\r\n", b"hello"),
        ("PUT /api/v1/fs/a", "transfer-encoding: chunked\r\nidempotency-key: once\r\n", chunked),
        (
            "PUT /api/v1/fs/a",
            "content-length: 1\r\nif-match: \"e\"\r\nx-dfs-mtime-ns: 12\r\ncontent-type: a/b\r\n",
            b"x",
        ),
        ("PUT /api/v1/fs/a", "expect: 100-continue\r\ncontent-length: 3\r\nif-none-match: *\r\n", b"abc"),
        ("PUT /api/v1/fs/l?type=symlink", "content-length: 6\r\n", b"d/file"),
        ("PUT /api/v1/fs/new/?type=directory", "content-length: 0\r\n", b""),
        ("PUT /api/v1/fs/d?retention", "content-length: 33\r\n", br#"{"keep":3,"keep_for_seconds":90 }"#),
        ("GET /api/v1/fs/d?retention", "", b""),
        ("POST /api/v1/files", "x-file-path: /p/%71\r\ncontent-length: 2\r\n", b"hi"),
        ("POST /api/v1/fs/kept?rename_to=%2Fmoved&replace=true", "content-length: 0\r\n", b""),
        ("POST /api/v1/fs/kept?restore=1", "x-dfs-client: 0123456789abcdef\r\nx-dfs-sequence: 1\r\n", b""),
        ("PATCH /api/v1/fs/kept", "x-dfs-mode: 7777\r\ncontent-length: 0\r\n", b""),
        ("DELETE /api/v1/fs/d?recursive=true", "if-unmodified-since: Sun Nov  6 08:49:37 1994\r\n", b""),
    ]
    .into_iter()
    .map(|(line, headers, body)| [&[0][..], &request(line, headers, body)].concat())
    .collect();
    // Two requests in a row, byte by byte.
    let row = request("GET /api/v1/fs/kept", "", b"");
    let first = String::from_utf8_lossy(&row).replace("connection: close\r\n", "");
    requests.push([&[1][..], first.as_bytes(), &row].concat());
    requests.extend(http2().into_iter().map(|frames| [&[0][..], &frames].concat()));
    requests
}

/// Conversations in HTTP/2.
fn http2() -> Vec<Vec<u8>> {
    let frame = |kind: u8, flags: u8, stream: u8, payload: &[u8]| {
        [&[0, 0, payload.len() as u8, kind, flags, 0, 0, 0, stream][..], payload].concat()
    };
    // Literal header fields without indexing: a length and a text each.
    let literal = |name: &str, value: &str| {
        [&[0, name.len() as u8][..], name.as_bytes(), &[value.len() as u8], value.as_bytes()].concat()
    };
    let head = |method: &str, path: &str| {
        [
            literal(":method", method),
            literal(":scheme", "http"),
            literal(":path", path),
            literal(":authority", "dfs"),
            literal("authorization", &format!("Bearer {TOKEN}")),
        ]
        .concat()
    };
    let preface = [&b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"[..], &frame(4, 0, 0, &[])].concat();
    let get = frame(1, 5, 1, &head("GET", "/api/v1/fs/kept"));
    let put = [frame(1, 4, 3, &head("PUT", "/api/v1/fs/a")), frame(0, 1, 3, b"hello")].concat();
    let others = [
        frame(8, 0, 0, &[0, 0, 1, 0]),
        frame(6, 0, 0, &[7; 8]),
        frame(4, 0, 0, &[0, 4, 0, 0, 0, 1]),
        frame(3, 0, 1, &[0, 0, 0, 8]),
        frame(7, 0, 0, &[0; 8]),
    ];
    vec![[&preface[..], &get, &put].concat(), [&preface[..], &get, &others.concat()].concat()]
}
