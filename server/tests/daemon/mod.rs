//! A running `dfsd` and a small HTTP/1.1 client.
//!
//! The client shares no code with the server, and never takes a short answer for a whole one.

#![allow(clippy::disallowed_methods, reason = "a process test runs a real dfsd in real time")]
// Each test program uses its own part of this.
#![allow(dead_code)]

#[path = "../../../tools/tests/binary/mod.rs"]
pub(crate) mod binary;

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::Duration;

use binary::binary;
use rustix::process::{Pid, Signal, kill_process};

/// Longest silence that a test waits for.
const SILENCE_MAX: Duration = Duration::from_secs(60);

/// A `dfsd` of this test; killed when dropped.
pub(crate) struct Dfsd {
    child: Child,
    pub(crate) address: SocketAddr,
    pub(crate) token: String,
    pub(crate) ready_line: String,
    data: PathBuf,
}

/// A command line of `dfsd serve` over `data`, on a free port.
pub(crate) fn serve(data: &Path) -> Command {
    serve_on("127.0.0.1:0".parse().unwrap(), data)
}

/// A command line of `dfsd serve` over `data`.
pub(crate) fn serve_on(address: SocketAddr, data: &Path) -> Command {
    let mut command = Command::new(binary("dfsd"));
    command.arg("serve").arg("--listen").arg(address.to_string()).arg("--data").arg(data);
    command.stdin(Stdio::null()).stdout(Stdio::piped());
    command
}

impl Dfsd {
    /// Starts on `data` and waits until it serves. What it says on standard error goes to `data` with `.log` appended.
    pub(crate) fn start(data: &Path) -> Dfsd {
        Dfsd::start_with(data, &[])
    }

    /// The same with further arguments.
    pub(crate) fn start_with(data: &Path, arguments: &[&str]) -> Dfsd {
        Dfsd::start_saying_to(data, arguments, File::create(log_of(data)).unwrap())
    }

    /// The same; what it says on standard error goes to `log`.
    pub(crate) fn start_saying_to(data: &Path, arguments: &[&str], log: File) -> Dfsd {
        let mut child = serve(data).args(arguments).stderr(log).spawn().unwrap();
        let mut ready_line = String::new();
        BufReader::new(child.stdout.take().unwrap()).read_line(&mut ready_line).unwrap();
        let said = || std::fs::read_to_string(log_of(data)).unwrap_or_default();
        let rest = ready_line.strip_prefix("dfsd ready: http://").unwrap_or_else(|| panic!("not ready: {}", said()));
        let address = rest.split(' ').next().unwrap().parse().unwrap();
        let token = std::fs::read_to_string(data.join("root-token")).unwrap().trim().to_owned();
        Dfsd { child, address, token, ready_line: ready_line.trim_end().to_owned(), data: data.to_owned() }
    }

    pub(crate) fn signal(&self, signal: Signal) {
        kill_process(Pid::from_child(&self.child), signal).unwrap();
    }

    /// Waits for its end.
    pub(crate) fn wait(mut self) -> ExitStatus {
        self.child.wait().unwrap()
    }

    /// Asks it to stop, and waits.
    pub(crate) fn stop(self) -> ExitStatus {
        self.signal(Signal::TERM);
        self.wait()
    }

    /// Kills it where it is.
    pub(crate) fn kill(self) {
        self.signal(Signal::KILL);
        self.wait();
    }

    /// What it has said on standard error.
    pub(crate) fn log(&self) -> String {
        std::fs::read_to_string(log_of(&self.data)).unwrap()
    }

    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Most memory that it ever had, in bytes.
    pub(crate) fn memory_bytes_max(&self) -> u64 {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.pid())).unwrap();
        let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap();
        line.trim().trim_end_matches(" kB").parse::<u64>().unwrap() << 10
    }

    /// A request with the token and without a body.
    pub(crate) fn call(&self, method: &str, target: &str, headers: &[(&str, &str)]) -> Answer {
        self.send(method, target, headers, b"")
    }

    /// A request with the token.
    pub(crate) fn send(&self, method: &str, target: &str, headers: &[(&str, &str)], body: &[u8]) -> Answer {
        let authorization = format!("Bearer {}", self.token);
        let headers = [&[("authorization", authorization.as_str())], headers].concat();
        request(self.address, method, target, &headers, body)
    }

    pub(crate) fn get(&self, target: &str) -> Answer {
        self.call("GET", target, &[])
    }

    /// Stores a file and insists that it was acknowledged.
    pub(crate) fn put(&self, target: &str, body: &[u8]) -> Answer {
        let answer = self.send("PUT", target, &[], body);
        assert!(matches!(answer.status, 200 | 201), "{target}: {} {}", answer.status, answer.text());
        answer
    }

    /// Collects garbage at once and waits until that is done; returns the status afterwards.
    pub(crate) fn collect_now(&self) -> serde_json::Value {
        let run = self.send("POST", "/api/v1/gc/run?now", &[], b"").expect(202).json()["run"].as_u64().unwrap();
        loop {
            let status = self.get("/api/v1/gc").json();
            if status["runs_ended"].as_u64() >= Some(run) {
                return status;
            }
            std::thread::sleep(std::time::Duration::from_millis(10));
        }
    }

    /// Opens a connection and sends the head of an upload, with the token.
    pub(crate) fn begin_upload(&self, target: &str, headers: &str) -> TcpStream {
        let mut stream = connect(self.address);
        let token = &self.token;
        let head = format!("PUT {target} HTTP/1.1\r\nhost: dfs\r\nauthorization: Bearer {token}\r\n{headers}\r\n");
        stream.write_all(head.as_bytes()).unwrap();
        stream
    }

    /// Waits until the value of a metric without labels is `value`.
    pub(crate) fn await_metric(&self, name: &str, value: u64) {
        let line = format!("{name} {value}");
        while !request(self.address, "GET", "/metrics", &[], b"").text().lines().any(|found| found == line) {}
    }
}

impl Drop for Dfsd {
    fn drop(&mut self) {
        // Fails when it has ended, which is just as well.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn log_of(data: &Path) -> PathBuf {
    data.with_extension("log")
}

pub(crate) fn connect(address: SocketAddr) -> TcpStream {
    let stream = TcpStream::connect(address).unwrap();
    stream.set_read_timeout(Some(SILENCE_MAX)).unwrap();
    stream.set_write_timeout(Some(SILENCE_MAX)).unwrap();
    stream
}

/// One answer.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    pub(crate) headers: BTreeMap<String, String>,
    pub(crate) body: Vec<u8>,
    /// Whether the body has the length that was announced.
    pub(crate) is_whole: bool,
}

impl Answer {
    pub(crate) fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    pub(crate) fn header(&self, name: &str) -> &str {
        self.headers.get(name).unwrap_or_else(|| panic!("no header {name} in {:?}", self.headers))
    }

    pub(crate) fn json(&self) -> serde_json::Value {
        serde_json::from_slice(&self.body).unwrap_or_else(|error| panic!("{error}: {}", self.text()))
    }

    /// Insists on a status and the code of an error; returns its message.
    pub(crate) fn refused(&self, status: u16, code: &str) -> String {
        let error = &self.json()["error"];
        assert_eq!((self.status, error["code"].as_str()), (status, Some(code)), "{}", self.text());
        assert!(error["retryable"].is_boolean());
        error["message"].as_str().unwrap().to_owned()
    }

    /// Insists on a status.
    pub(crate) fn expect(self, status: u16) -> Answer {
        assert_eq!(self.status, status, "{}", self.text());
        assert!(self.is_whole, "the body broke off");
        self
    }
}

/// Sends one request on its own connection.
pub(crate) fn request(
    address: SocketAddr,
    method: &str,
    target: &str,
    headers: &[(&str, &str)],
    body: &[u8],
) -> Answer {
    let mut stream = connect(address);
    let mut head = format!("{method} {target} HTTP/1.1\r\nhost: dfs\r\nconnection: close\r\n");
    for (name, value) in headers {
        head.push_str(&format!("{name}: {value}\r\n"));
    }
    if !body.is_empty() || matches!(method, "PUT" | "POST" | "PATCH") {
        head.push_str(&format!("content-length: {}\r\n", body.len()));
    }
    head.push_str("\r\n");
    stream.write_all(head.as_bytes()).unwrap();
    stream.write_all(body).unwrap();
    read_answer(&mut BufReader::new(stream), method)
}

/// Reads one answer to a request with `method`; status 0 if the connection closes without one.
pub(crate) fn read_answer(reader: &mut impl BufRead, method: &str) -> Answer {
    let mut line = String::new();
    if matches!(reader.read_line(&mut line), Ok(0) | Err(_)) {
        return Answer { status: 0, headers: BTreeMap::new(), body: Vec::new(), is_whole: false };
    }
    let status = line.split(' ').nth(1).unwrap_or_else(|| panic!("not an answer: {line:?}")).parse().unwrap();
    let mut headers = BTreeMap::new();
    loop {
        let mut line = String::new();
        reader.read_line(&mut line).unwrap();
        let Some((name, value)) = line.trim_end().split_once(": ") else { break };
        headers.insert(name.to_ascii_lowercase(), value.to_owned());
    }
    if method == "HEAD" || matches!(status, 100 | 204 | 304) {
        return Answer { status, headers, body: Vec::new(), is_whole: true };
    }
    let announced: u64 = headers["content-length"].parse().unwrap();
    let mut body = Vec::new();
    // A reset connection ends a body like any other early end.
    let _ = reader.take(announced).read_to_end(&mut body);
    let is_whole = body.len() as u64 == announced;
    Answer { status, headers, body, is_whole }
}

/// `len` bytes that do not compress and are the same for the same seed.
pub(crate) fn noise(seed: u64, len: usize) -> Vec<u8> {
    let mut state = seed.wrapping_mul(2).wrapping_add(0x9e37_79b9_7f4a_7c15);
    let mut word = move || {
        state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (state ^ state >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ mixed >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ mixed >> 31
    };
    let mut bytes: Vec<u8> = (0..len.div_ceil(8)).flat_map(|_| word().to_le_bytes()).collect();
    bytes.truncate(len);
    bytes
}
