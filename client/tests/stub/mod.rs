//! A `dfsd` for tests: keeps files in memory, speaks the REST interface, and fails on demand.
//!
//! It shares no code with the client: it reads HTTP, percent-encoding and attributes on its own, so that a mistake on
//! one side is not repeated on the other.

use std::collections::{BTreeMap, VecDeque};
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};

use proto::api::{Entry, ErrorBody, ErrorDetail, Kind, Listing, Stats};

/// The token that the stub accepts.
pub(crate) const TOKEN: &str = "correct-horse";

/// What the stub does wrong with one request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Fault {
    /// Closes the connection without acting.
    DropBefore,
    /// Acts, then closes the connection without an answer.
    DropAfter,
    /// Answers 503, retryable, without acting.
    Busy,
    /// Sends only so many bytes of the body, then closes the connection.
    CutBody(usize),
    /// Answers these raw bytes.
    Raw(String),
    /// Appends to this local file, then acts.
    Append(std::path::PathBuf),
    /// Acts on this change before it answers a download whose body is cut.
    ReplaceContent(Vec<u8>),
}

/// An object of the namespace.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Object {
    pub(crate) kind: Kind,
    pub(crate) content: Vec<u8>,
    pub(crate) version: u64,
    pub(crate) mode: u32,
    pub(crate) mtime_ns: u64,
    pub(crate) metadata: BTreeMap<String, String>,
}

/// One request as it arrived.
#[derive(Clone, Debug)]
pub(crate) struct Request {
    pub(crate) method: String,
    pub(crate) path: String,
    pub(crate) query: BTreeMap<String, String>,
    pub(crate) headers: BTreeMap<String, String>,
    pub(crate) body: Vec<u8>,
}

struct Answer {
    status: u16,
    headers: Vec<(String, String)>,
    body: Vec<u8>,
}

#[derive(Default)]
pub(crate) struct State {
    /// By path, `/` excluded.
    pub(crate) objects: BTreeMap<String, Object>,
    /// Every request that arrived in whole.
    pub(crate) log: Vec<Request>,
    /// Answers of the exactly-once window.
    answers: BTreeMap<(String, String), (u16, Vec<u8>)>,
    faults: BTreeMap<String, VecDeque<Fault>>,
    clock: u64,
    /// Entries per page at most.
    pub(crate) page: usize,
    /// Names to smuggle into the listing of the root.
    pub(crate) smuggled: Vec<Entry>,
    connections: usize,
}

pub(crate) struct Stub {
    pub(crate) state: Arc<Mutex<State>>,
    pub(crate) endpoint: String,
    address: SocketAddr,
    stop: Arc<AtomicBool>,
}

impl Stub {
    #[expect(clippy::disallowed_methods, reason = "a test server runs on real threads")]
    pub(crate) fn start() -> Stub {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let state = Arc::new(Mutex::new(State { page: 1000, ..State::default() }));
        let stop = Arc::new(AtomicBool::new(false));
        let (shared, stopped) = (state.clone(), stop.clone());
        std::thread::spawn(move || {
            for connection in listener.incoming() {
                if stopped.load(Ordering::SeqCst) {
                    return;
                }
                let shared = shared.clone();
                shared.lock().unwrap().connections += 1;
                // A client that closes its connection ends the thread with an error, as it should.
                std::thread::spawn(move || drop(serve(connection.unwrap(), &shared)));
            }
        });
        Stub { state, endpoint: format!("http://{address}"), address, stop }
    }

    /// Lets the next request with `method` run into `fault`, after the faults already queued for it.
    pub(crate) fn fail(&self, method: &str, fault: Fault) {
        self.state.lock().unwrap().faults.entry(method.to_owned()).or_default().push_back(fault);
    }

    pub(crate) fn object(&self, path: &str) -> Option<Object> {
        self.state.lock().unwrap().objects.get(path).cloned()
    }

    pub(crate) fn connections(&self) -> usize {
        self.state.lock().unwrap().connections
    }

    pub(crate) fn requests(&self, method: &str) -> Vec<Request> {
        self.state.lock().unwrap().log.iter().filter(|request| request.method == method).cloned().collect()
    }
}

impl Drop for Stub {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::SeqCst);
        drop(TcpStream::connect(self.address));
    }
}

fn serve(connection: TcpStream, state: &Mutex<State>) -> std::io::Result<()> {
    connection.set_nodelay(true)?;
    let mut reader = BufReader::new(connection.try_clone()?);
    let mut writer = connection;
    while let Some(request) = read_request(&mut reader, &mut writer)? {
        let fault = {
            let mut state = state.lock().unwrap();
            state.log.push(request.clone());
            state.faults.get_mut(&request.method).and_then(VecDeque::pop_front)
        };
        let mut cut = usize::MAX;
        match fault {
            Some(Fault::DropBefore) => return Ok(()),
            Some(Fault::Busy) => {
                write_answer(&mut writer, &request, &error(503, "busy", true), cut)?;
                continue;
            }
            Some(Fault::Raw(text)) => return writer.write_all(text.as_bytes()),
            Some(Fault::DropAfter) => {
                handle(&mut state.lock().unwrap(), &request);
                return Ok(());
            }
            Some(Fault::ReplaceContent(content)) => {
                let mut state = state.lock().unwrap();
                let object = state.objects.get_mut(&request.path).unwrap();
                object.content = content;
                object.version += 1;
            }
            Some(Fault::Append(path)) => {
                std::fs::OpenOptions::new().append(true).open(path).unwrap().write_all(b"more").unwrap();
            }
            Some(Fault::CutBody(bytes)) => cut = bytes,
            None => {}
        }
        let answer = handle(&mut state.lock().unwrap(), &request);
        write_answer(&mut writer, &request, &answer, cut)?;
        if cut < answer.body.len() {
            return Ok(());
        }
    }
    Ok(())
}

fn read_request(reader: &mut BufReader<TcpStream>, writer: &mut TcpStream) -> std::io::Result<Option<Request>> {
    let mut line = String::new();
    if reader.read_line(&mut line)? == 0 {
        return Ok(None);
    }
    let mut words = line.split_whitespace();
    let (method, target) = (words.next().unwrap().to_owned(), words.next().unwrap().to_owned());
    let mut headers = BTreeMap::new();
    loop {
        let mut line = String::new();
        reader.read_line(&mut line)?;
        let line = line.trim_end();
        if line.is_empty() {
            break;
        }
        let (name, value) = line.split_once(':').unwrap();
        headers.insert(name.to_ascii_lowercase(), value.trim().to_owned());
    }
    let authorized = headers.get("authorization") == Some(&format!("Bearer {TOKEN}"));
    if headers.contains_key("expect") {
        if !authorized {
            // The point of the header: the refusal comes before the body.
            let request = Request { method, path: String::new(), query: BTreeMap::new(), headers, body: Vec::new() };
            write_answer(writer, &request, &error(401, "unauthorized", false), usize::MAX)?;
            return Ok(None);
        }
        writer.write_all(b"HTTP/1.1 100 Continue\r\n\r\n")?;
    }
    let mut body = Vec::new();
    if let Some(length) = headers.get("content-length") {
        body.resize(length.parse().unwrap(), 0);
        reader.read_exact(&mut body)?;
    } else if headers.contains_key("transfer-encoding") {
        loop {
            let mut line = String::new();
            reader.read_line(&mut line)?;
            let length = usize::from_str_radix(line.trim(), 16).map_err(std::io::Error::other)?;
            let start = body.len();
            body.resize(start + length, 0);
            reader.read_exact(&mut body[start..])?;
            reader.read_line(&mut String::new())?;
            if length == 0 {
                break;
            }
        }
    }
    let (path, query) = target.split_once('?').unwrap_or((&target, ""));
    let query = query.split('&').filter(|pair| !pair.is_empty()).map(|pair| {
        let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
        (decode(name), decode(value))
    });
    let path = match path.strip_prefix("/api/v1/fs") {
        Some(path) => path.split('/').map(decode).collect::<Vec<_>>().join("/"),
        None => path.to_owned(),
    };
    Ok(Some(Request { method, path, query: query.collect(), headers, body }))
}

fn decode(text: &str) -> String {
    let mut bytes = Vec::new();
    let mut rest = text.as_bytes();
    while let Some((&first, tail)) = rest.split_first() {
        rest = tail;
        if first == b'%' {
            bytes.push(u8::from_str_radix(std::str::from_utf8(&tail[..2]).unwrap(), 16).unwrap());
            rest = &tail[2..];
        } else {
            bytes.push(first);
        }
    }
    String::from_utf8(bytes).unwrap()
}

fn write_answer(writer: &mut TcpStream, request: &Request, answer: &Answer, cut: usize) -> std::io::Result<()> {
    let mut text = format!("HTTP/1.1 {} Stub\r\n", answer.status);
    for (name, value) in &answer.headers {
        text.push_str(&format!("{name}: {value}\r\n"));
    }
    if answer.status != 204 {
        text.push_str(&format!("content-length: {}\r\n", answer.body.len()));
    }
    text.push_str("\r\n");
    writer.write_all(text.as_bytes())?;
    if request.method != "HEAD" {
        writer.write_all(&answer.body[..cut.min(answer.body.len())])?;
    }
    writer.flush()
}

fn error(status: u16, code: &str, retryable: bool) -> Answer {
    let error = ErrorDetail { code: code.to_owned(), message: format!("stub says {code}"), retryable };
    json(status, &ErrorBody { error })
}

fn json<T: serde::Serialize>(status: u16, value: &T) -> Answer {
    let headers = vec![("content-type".to_owned(), "application/json".to_owned())];
    Answer { status, headers, body: serde_json::to_vec(value).unwrap() }
}

/// Answers `request`, or repeats the first answer if it is a repetition.
fn handle(state: &mut State, request: &Request) -> Answer {
    if request.headers.get("authorization") != Some(&format!("Bearer {TOKEN}")) {
        return error(401, "unauthorized", false);
    }
    if matches!(request.method.as_str(), "GET" | "HEAD") {
        return answer_read(state, request);
    }
    let (Some(client), Some(sequence)) = (request.headers.get("x-dfs-client"), request.headers.get("x-dfs-sequence"))
    else {
        return error(400, "no_session", false);
    };
    assert!(client.len() == 16 && u64::from_str_radix(client, 16).is_ok() && sequence.parse::<u64>().is_ok());
    let key = (client.clone(), sequence.clone());
    if let Some((status, body)) = state.answers.get(&key) {
        return Answer { status: *status, headers: Vec::new(), body: body.clone() };
    }
    let answer = answer_change(state, request);
    state.answers.insert(key, (answer.status, answer.body.clone()));
    answer
}

fn entry_of(path: &str, object: &Object) -> Entry {
    let seconds = client::time::format_seconds_utc(object.mtime_ns).replace(' ', "T");
    let modified_at = format!("{}.{:09}Z", seconds.trim_end_matches('Z'), object.mtime_ns % 1_000_000_000);
    let is_symlink = object.kind == Kind::Symlink;
    Entry {
        id: "00000000-0000-8000-8000-000000000000".to_owned(),
        path: path.to_owned(),
        kind: object.kind,
        version: object.version,
        size: object.content.len() as u64,
        etag: format!("\"{}\"", object.version),
        created_at: modified_at.clone(),
        modified_at,
        mode: object.mode,
        content_type: None,
        symlink_target: is_symlink.then(|| String::from_utf8(object.content.clone()).unwrap()),
        metadata: object.metadata.clone(),
    }
}

fn root() -> Object {
    Object {
        kind: Kind::Directory,
        content: Vec::new(),
        version: 0,
        mode: 0o755,
        mtime_ns: 0,
        metadata: BTreeMap::new(),
    }
}

fn answer_read(state: &mut State, request: &Request) -> Answer {
    if request.path == "/api/v1/stats" {
        let stats =
            Stats { logical_bytes: 4096, unique_bytes: 2048, stored_bytes: 1024, raw_bytes: 8192, ..Stats::default() };
        return json(200, &Stats { dedup_ratio: 2.0, compression_ratio: 2.0, capacity_bytes: 1 << 40, ..stats });
    }
    let is_root = request.path == "/";
    let Some(object) = (if is_root { Some(root()) } else { state.objects.get(&request.path).cloned() }) else {
        return error(404, "not_found", false);
    };
    let entry = entry_of(&request.path, &object);
    if request.query.contains_key("stat") {
        return json(200, &entry);
    }
    if object.kind != Kind::Directory && !request.query.is_empty() {
        return error(400, "bad_query", false);
    }
    let mut answer = match object.kind {
        Kind::Directory if request.method == "GET" => list(state, request),
        _ => Answer { status: 200, headers: Vec::new(), body: object.content.clone() },
    };
    if let Some(range) = request.headers.get("range") {
        let (first, last) = range.strip_prefix("bytes=").unwrap().split_once('-').unwrap();
        let size = object.content.len();
        let first: usize = first.parse().unwrap();
        let end = last.parse::<usize>().map_or(size, |last| (last + 1).min(size));
        if first >= end {
            return error(416, "range_not_satisfiable", false);
        }
        answer.status = 206;
        answer.body = object.content[first..end].to_vec();
        answer.headers.push(("content-range".to_owned(), format!("bytes {first}-{}/{size}", end - 1)));
    }
    let kind = match object.kind {
        Kind::File => "file",
        Kind::Directory => "directory",
        Kind::Symlink => "symlink",
    };
    for (name, value) in [
        ("x-dfs-kind", kind.to_owned()),
        ("x-dfs-id", entry.id),
        ("x-dfs-version", entry.version.to_string()),
        ("x-dfs-mode", format!("{:o}", entry.mode)),
        ("x-dfs-mtime-ns", object.mtime_ns.to_string()),
        ("etag", entry.etag),
    ] {
        answer.headers.push((name.to_owned(), value));
    }
    for (name, value) in object.metadata {
        let encoded: String = value.bytes().map(|b| format!("%{b:02X}")).collect();
        answer.headers.push((format!("x-meta-{name}"), encoded));
    }
    answer
}

fn list(state: &State, request: &Request) -> Answer {
    let prefix = if request.path == "/" { "/".to_owned() } else { format!("{}/", request.path) };
    let asked: usize = request.query.get("limit").map_or(1000, |limit| limit.parse().unwrap());
    let after = request.query.get("cursor").cloned().unwrap_or_default();
    let children = state.objects.iter().filter_map(|(path, object)| {
        let name = path.strip_prefix(&prefix)?;
        (!name.contains('/') && *name > *after).then(|| entry_of(path, object))
    });
    let mut entries: Vec<Entry> = children.collect();
    entries.sort_by(|a, b| a.path.cmp(&b.path));
    let limit = asked.min(state.page);
    let more = entries.len() > limit;
    entries.truncate(limit);
    let next_cursor = more.then(|| entries.last().unwrap().path[prefix.len()..].to_owned());
    if prefix == "/" && next_cursor.is_none() {
        entries.extend(state.smuggled.iter().cloned());
    }
    json(200, &Listing { path: request.path.clone(), entries, next_cursor })
}

fn make_parents(state: &mut State, path: &str) -> Result<(), Answer> {
    state.clock += 1;
    let clock = state.clock;
    for (at, _) in path.match_indices('/').filter(|&(at, _)| at > 0) {
        let parent = state.objects.entry(path[..at].to_owned()).or_insert_with(root);
        if parent.kind != Kind::Directory {
            return Err(error(409, "not_a_directory", false));
        }
    }
    // As in any file system, a new name changes the time of its directory.
    if let Some(at) = path.rfind('/').filter(|&at| at > 0) {
        state.objects.get_mut(&path[..at]).unwrap().mtime_ns = clock;
    }
    Ok(())
}

fn set_attributes(object: &mut Object, request: &Request) {
    if let Some(mode) = request.headers.get("x-dfs-mode") {
        object.mode = u32::from_str_radix(mode, 8).unwrap();
    }
    if let Some(mtime_ns) = request.headers.get("x-dfs-mtime-ns") {
        object.mtime_ns = mtime_ns.parse().unwrap();
    }
    for (name, value) in &request.headers {
        if let Some(name) = name.strip_prefix("x-meta-") {
            object.metadata.insert(name.to_owned(), decode(value));
        }
    }
}

fn answer_change(state: &mut State, request: &Request) -> Answer {
    let path = request.path.clone();
    let below = format!("{path}/");
    match request.method.as_str() {
        "PUT" => {
            let kind = match request.query.get("type").map(String::as_str) {
                Some("directory") => Kind::Directory,
                Some("symlink") => Kind::Symlink,
                _ => Kind::File,
            };
            let old = state.objects.get(&path).cloned();
            match &old {
                Some(_) if kind != Kind::File => return error(409, "already_exists", false),
                Some(old) if old.kind != Kind::File => return error(409, "wrong_kind", false),
                _ => {}
            }
            if let Err(answer) = make_parents(state, &path) {
                return answer;
            }
            let version = if kind == Kind::File { old.as_ref().map_or(1, |old| old.version + 1) } else { 0 };
            let mode = if kind == Kind::Directory { 0o755 } else { 0o644 };
            let mut object = old.clone().unwrap_or(Object { kind, mode, mtime_ns: state.clock, ..root() });
            object.version = version;
            object.content = request.body.clone();
            set_attributes(&mut object, request);
            let answer = json(if old.is_some() { 200 } else { 201 }, &entry_of(&path, &object));
            state.objects.insert(path, object);
            answer
        }
        "PATCH" => {
            let Some(object) = state.objects.get_mut(&path) else { return error(404, "not_found", false) };
            set_attributes(object, request);
            json(200, &entry_of(&path, object))
        }
        "DELETE" => {
            if !state.objects.contains_key(&path) {
                return error(404, "not_found", false);
            }
            let is_empty = !state.objects.keys().any(|key| key.starts_with(&below));
            if !is_empty && request.query.get("recursive").map(String::as_str) != Some("true") {
                return error(409, "not_empty", false);
            }
            state.objects.retain(|key, _| *key != path && !key.starts_with(&below));
            Answer { status: 204, headers: Vec::new(), body: Vec::new() }
        }
        "POST" => {
            let to = request.query["rename_to"].clone();
            if !state.objects.contains_key(&path) {
                return error(404, "not_found", false);
            }
            if state.objects.contains_key(&to) && request.query.get("replace").map(String::as_str) != Some("true") {
                return error(409, "already_exists", false);
            }
            let moved: Vec<String> =
                state.objects.keys().filter(|key| **key == path || key.starts_with(&below)).cloned().collect();
            for key in moved {
                let object = state.objects.remove(&key).unwrap();
                state.objects.insert(format!("{to}{}", &key[path.len()..]), object);
            }
            json(200, &entry_of(&to, &state.objects[&to]))
        }
        other => panic!("the client sent {other}"),
    }
}
