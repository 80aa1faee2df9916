//! One HTTP/1.1 connection of a load generator.
//!
//! It shares the machine with what it measures, so it does little: blocking sockets, one system call for the head and
//! the first bytes of a body, and bodies of answers that nobody looks at are dropped by the kernel without a copy
//! (`MSG_TRUNC`). It speaks what `dfsd` speaks, `Content-Length` on every body, and nothing more.

use std::io::{self, IoSlice, Read, Write};
use std::net::{SocketAddr, TcpStream, ToSocketAddrs};
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use rustix::net::RecvFlags;

use crate::clock;

/// Longest silence of the server that is waited for.
const SILENCE_MAX: Duration = Duration::from_secs(60);
/// Longest wait for a connection.
const CONNECT_MAX: Duration = Duration::from_secs(5);
/// A connection that was idle for longer is opened anew: the server may be closing it at this moment.
const IDLE_MAX: Duration = Duration::from_secs(5);
/// Bodies above it wait for `100 Continue`, so that a refusal is seen and not lost with a reset connection.
const EXPECT_ABOVE_BYTES: u64 = 1 << 20;
/// Longest head of an answer.
const HEAD_BYTES_MAX: usize = 64 << 10;
/// Most headers of an answer.
const HEADERS_MAX: usize = 64;
/// Bytes that one system call reads or drops.
const READ_BYTES: usize = 256 << 10;
/// Longest body of an error.
const ERROR_BYTES_MAX: u64 = 64 << 10;

/// Where to connect, and as whom.
#[derive(Debug)]
pub(crate) struct Endpoint {
    address: SocketAddr,
    authority: String,
    token: Option<String>,
}

impl Endpoint {
    /// Reads `http://HOST:PORT`.
    pub(crate) fn new(url: &str, token: Option<String>) -> anyhow::Result<Endpoint> {
        let authority = url.strip_prefix("http://").map(|rest| rest.trim_end_matches('/'));
        let Some(authority) = authority.filter(|authority| !authority.is_empty() && !authority.contains('/')) else {
            bail!("{url:?} is not an endpoint: write it as http://HOST:PORT");
        };
        let with_port = if authority.contains(':') { authority.to_owned() } else { format!("{authority}:80") };
        let mut addresses = with_port.to_socket_addrs().with_context(|| format!("cannot resolve {authority}"))?;
        let address = addresses.next().with_context(|| format!("{authority} has no address"))?;
        Ok(Endpoint { address, authority: authority.to_owned(), token })
    }
}

impl std::fmt::Display for Endpoint {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "http://{}", self.authority)
    }
}

/// The body of a request, window by window.
pub(crate) trait Body {
    /// Bytes in all.
    fn bytes(&self) -> u64;
    /// The next bytes; never empty before all of them were given.
    fn next(&mut self) -> io::Result<&[u8]>;
}

/// One request.
pub(crate) struct Request<'a> {
    pub(crate) method: &'static str,
    /// Path and query, percent-encoded.
    pub(crate) target: &'a str,
    pub(crate) body: Option<&'a mut dyn Body>,
}

/// What becomes of the body of a successful answer.
pub(crate) enum Sink<'a> {
    /// Counted and dropped.
    Discard,
    /// Handed over piece by piece; an error ends the call.
    Read(&'a mut dyn FnMut(&[u8]) -> io::Result<()>),
}

/// What the server answered.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    /// Bytes of the body, all of which arrived.
    pub(crate) body_bytes: u64,
    pub(crate) retry_after: Option<Duration>,
    /// The `code` of an error.
    pub(crate) code: Option<String>,
}

impl Answer {
    pub(crate) fn is_success(&self) -> bool {
        (200..300).contains(&self.status)
    }
}

/// Why there is no answer.
#[derive(Debug)]
pub(crate) enum CallError {
    /// The connection could not be made, broke, or carried something that is no answer.
    Lost(io::Error),
    /// The request's own body, or who looked at the answer's, failed.
    Local(io::Error),
}

impl std::fmt::Display for CallError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            CallError::Lost(error) => write!(f, "the connection was lost: {error}"),
            CallError::Local(error) => write!(f, "{error}"),
        }
    }
}

impl std::error::Error for CallError {}

/// A connection, opened when it is first used and whenever it was lost.
pub(crate) struct Connection {
    endpoint: Arc<Endpoint>,
    stream: Option<(TcpStream, Instant)>,
    head: Vec<u8>,
    /// What was received and not used yet: `input[used..filled]`.
    input: Vec<u8>,
    used: usize,
    filled: usize,
}

/// The head of an answer.
struct Head {
    status: u16,
    body_bytes: u64,
    retry_after: Option<Duration>,
    closes: bool,
}

impl Connection {
    pub(crate) fn new(endpoint: Arc<Endpoint>) -> Connection {
        Connection { endpoint, stream: None, head: Vec::new(), input: vec![0; READ_BYTES], used: 0, filled: 0 }
    }

    /// Sends a request and waits for the whole answer.
    ///
    /// Errors: [`CallError`]; the next call then uses a new connection.
    pub(crate) fn call(&mut self, request: Request<'_>, sink: Sink<'_>) -> Result<Answer, CallError> {
        let mut stream = self.connected().map_err(CallError::Lost)?;
        let head = self.exchange(&mut stream, request)?;
        let mut kept = Vec::new();
        let is_success = (200..300).contains(&head.status);
        match sink {
            _ if head.body_bytes == 0 => {}
            Sink::Discard if is_success => self.discard(&mut stream, head.body_bytes).map_err(CallError::Lost)?,
            Sink::Read(look) if is_success => self.read(&mut stream, head.body_bytes, look)?,
            _ if head.body_bytes > ERROR_BYTES_MAX => {
                return Err(CallError::Lost(malformed("the body of the error is too long")));
            }
            _ => {
                let mut keep = |bytes: &[u8]| {
                    kept.extend_from_slice(bytes);
                    Ok(())
                };
                self.read(&mut stream, head.body_bytes, &mut keep)?;
            }
        }
        if !head.closes {
            self.stream = Some((stream, clock::now()));
        }
        let error = serde_json::from_slice::<proto::api::ErrorBody>(&kept).ok();
        Ok(Answer {
            status: head.status,
            body_bytes: head.body_bytes,
            retry_after: head.retry_after,
            code: error.map(|body| body.error.code),
        })
    }

    /// Sends a request and returns the body of its answer.
    ///
    /// Errors: no answer, or one that is not a success.
    pub(crate) fn fetch(&mut self, method: &'static str, target: &str) -> anyhow::Result<Vec<u8>> {
        let mut body = Vec::new();
        let mut keep = |bytes: &[u8]| {
            body.extend_from_slice(bytes);
            Ok(())
        };
        let answer = self.call(Request { method, target, body: None }, Sink::Read(&mut keep));
        let answer = answer.with_context(|| format!("{method} {target}"))?;
        if !answer.is_success() {
            bail!("{method} {target} was answered {} {}", answer.status, answer.code.unwrap_or_default());
        }
        Ok(body)
    }

    fn connected(&mut self) -> io::Result<TcpStream> {
        (self.used, self.filled) = (0, 0);
        if let Some((stream, last_used)) = self.stream.take()
            && last_used.elapsed() < IDLE_MAX
        {
            return Ok(stream);
        }
        let stream = TcpStream::connect_timeout(&self.endpoint.address, CONNECT_MAX)?;
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(SILENCE_MAX))?;
        stream.set_write_timeout(Some(SILENCE_MAX))?;
        Ok(stream)
    }

    /// Sends the request, as far as the server takes it, and receives the head of the answer.
    fn exchange(&mut self, stream: &mut TcpStream, request: Request<'_>) -> Result<Head, CallError> {
        let body_bytes = request.body.as_ref().map(|body| body.bytes());
        let expects = body_bytes.is_some_and(|bytes| bytes > EXPECT_ABOVE_BYTES);
        self.write_head(&request, body_bytes, expects);
        let Some(body) = request.body else {
            stream.write_all(&self.head).map_err(CallError::Lost)?;
            return self.final_head(stream).map_err(CallError::Lost);
        };
        if expects {
            stream.write_all(&self.head).map_err(CallError::Lost)?;
            self.head.clear();
            let head = self.receive_head(stream).map_err(CallError::Lost)?;
            if head.status != 100 {
                // Refused: the server will not read the body, nor anything after it on this connection.
                return Ok(Head { closes: true, ..head });
            }
        }
        let mut rest = body.bytes();
        let mut sent = Ok(());
        while rest > 0 && sent.is_ok() {
            let window = body.next().map_err(CallError::Local)?;
            assert!(!window.is_empty() && window.len() as u64 <= rest, "invariant: a body has the bytes it announces");
            rest -= window.len() as u64;
            sent = write_both(stream, &self.head, window);
            self.head.clear();
        }
        if sent.is_ok() && !self.head.is_empty() {
            sent = stream.write_all(&self.head);
        }
        // A server that refuses may answer early and close; the answer says more than the broken pipe.
        let head = self.final_head(stream).map_err(|error| CallError::Lost(sent.as_ref().err().map_or(error, copy)))?;
        Ok(Head { closes: head.closes || sent.is_err(), ..head })
    }

    fn write_head(&mut self, request: &Request<'_>, body_bytes: Option<u64>, expects: bool) {
        self.head.clear();
        let head = &mut self.head;
        // Writing into memory cannot fail.
        let _ = write!(head, "{} {} HTTP/1.1\r\nhost: {}\r\n", request.method, request.target, self.endpoint.authority);
        if let Some(token) = &self.endpoint.token {
            let _ = write!(head, "authorization: Bearer {token}\r\n");
        }
        if let Some(bytes) = body_bytes {
            let _ = write!(head, "content-length: {bytes}\r\n");
        }
        if expects {
            head.extend_from_slice(b"expect: 100-continue\r\n");
        }
        head.extend_from_slice(b"\r\n");
    }

    /// Receives heads until one is final.
    fn final_head(&mut self, stream: &mut TcpStream) -> io::Result<Head> {
        loop {
            let head = self.receive_head(stream)?;
            if head.status >= 200 {
                return Ok(head);
            }
        }
    }

    fn receive_head(&mut self, stream: &mut TcpStream) -> io::Result<Head> {
        loop {
            if let Some((bytes, head)) = parse_head(&self.input[self.used..self.filled])? {
                self.used += bytes;
                return Ok(head);
            }
            if self.filled - self.used >= HEAD_BYTES_MAX {
                return Err(malformed("the head of the answer is too long"));
            }
            self.input.copy_within(self.used..self.filled, 0);
            (self.used, self.filled) = (0, self.filled - self.used);
            match stream.read(&mut self.input[self.filled..])? {
                0 => return Err(io::ErrorKind::UnexpectedEof.into()),
                bytes => self.filled += bytes,
            }
        }
    }

    /// Hands `bytes` of a body to `look`.
    fn read(
        &mut self,
        stream: &mut TcpStream,
        bytes: u64,
        look: &mut dyn FnMut(&[u8]) -> io::Result<()>,
    ) -> Result<(), CallError> {
        let mut rest = bytes;
        while rest > 0 {
            if self.used == self.filled {
                let wanted = self.input.len().min(usize::try_from(rest).unwrap_or(usize::MAX));
                self.used = 0;
                self.filled = stream.read(&mut self.input[..wanted]).map_err(CallError::Lost)?;
            }
            let available = &self.input[self.used..self.filled];
            if available.is_empty() {
                return Err(CallError::Lost(io::ErrorKind::UnexpectedEof.into()));
            }
            let taken = available.len().min(usize::try_from(rest).unwrap_or(usize::MAX));
            look(&available[..taken]).map_err(CallError::Local)?;
            self.used += taken;
            rest -= taken as u64;
        }
        Ok(())
    }

    /// Drops `bytes` of a body: in the kernel, without a copy.
    fn discard(&mut self, stream: &mut TcpStream, bytes: u64) -> io::Result<()> {
        let at_hand = (self.filled - self.used).min(usize::try_from(bytes).unwrap_or(usize::MAX));
        self.used += at_hand;
        let mut rest = bytes - at_hand as u64;
        while rest > 0 {
            let wanted = self.input.len().min(usize::try_from(rest).unwrap_or(usize::MAX));
            // For TCP the flag drops up to `wanted` bytes and leaves the buffer as it is.
            match rustix::net::recv(&*stream, &mut self.input[..wanted], RecvFlags::TRUNC | RecvFlags::WAITALL) {
                Ok((_, 0)) => return Err(io::ErrorKind::UnexpectedEof.into()),
                Ok((_, dropped)) => rest -= dropped as u64,
                Err(rustix::io::Errno::INTR) => {}
                Err(error) => return Err(error.into()),
            }
        }
        Ok(())
    }
}

/// Writes two slices in as few system calls as the kernel allows.
fn write_both(stream: &mut TcpStream, first: &[u8], second: &[u8]) -> io::Result<()> {
    let mut slices = [IoSlice::new(first), IoSlice::new(second)];
    let mut rest = &mut slices[..];
    IoSlice::advance_slices(&mut rest, 0);
    while !rest.is_empty() {
        match stream.write_vectored(rest) {
            Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
            Ok(bytes) => IoSlice::advance_slices(&mut rest, bytes),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

/// Reads the head at the start of `input`: its length and contents; `None` if it is not whole yet.
fn parse_head(input: &[u8]) -> io::Result<Option<(usize, Head)>> {
    let mut headers = [httparse::EMPTY_HEADER; HEADERS_MAX];
    let mut response = httparse::Response::new(&mut headers);
    let bytes = match response.parse(input) {
        Ok(httparse::Status::Complete(bytes)) => bytes,
        Ok(httparse::Status::Partial) => return Ok(None),
        Err(error) => return Err(malformed(&error.to_string())),
    };
    let status = response.code.ok_or_else(|| malformed("no status"))?;
    let text = |name: &str| {
        let header = response.headers.iter().find(|header| header.name.eq_ignore_ascii_case(name))?;
        std::str::from_utf8(header.value).ok()
    };
    let length = text("content-length").map(str::parse::<u64>).transpose().map_err(|_| malformed("a bad length"))?;
    if length.is_none() && status >= 200 && !matches!(status, 204 | 304) {
        return Err(malformed("the answer does not say how long it is"));
    }
    let head = Head {
        status,
        // Bodies follow neither interim answers nor these two, whatever they announce.
        body_bytes: if status < 200 || matches!(status, 204 | 304) { 0 } else { length.unwrap_or(0) },
        retry_after: text("retry-after").and_then(|seconds| seconds.parse().ok()).map(Duration::from_secs),
        closes: text("connection").is_some_and(|value| value.eq_ignore_ascii_case("close")),
    };
    Ok(Some((bytes, head)))
}

fn malformed(what: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, format!("not an answer of dfsd: {what}"))
}

/// `io::Error` cannot be cloned.
fn copy(error: &io::Error) -> io::Error {
    io::Error::new(error.kind(), error.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn heads_are_read_whole_and_nonsense_is_refused() {
        let head = b"HTTP/1.1 429 Too Many\r\nRetry-After: 2\r\nContent-Length: 5\r\nConnection: close\r\n\r\nrest";
        let (bytes, parsed) = parse_head(head).unwrap().unwrap();
        assert_eq!(&head[bytes..], b"rest");
        assert_eq!((parsed.status, parsed.body_bytes, parsed.closes), (429, 5, true));
        assert_eq!(parsed.retry_after, Some(Duration::from_secs(2)));
        for end in 0..bytes {
            assert!(parse_head(&head[..end]).unwrap().is_none(), "{end} bytes are no head");
        }
        let (_, parsed) = parse_head(b"HTTP/1.1 204 No Content\r\n\r\n").unwrap().unwrap();
        assert_eq!((parsed.body_bytes, parsed.closes), (0, false));
        for nonsense in ["HTTP/1.1 200 OK\r\n\r\n", "HTTP/1.1 200 OK\r\ncontent-length: x\r\n\r\n", "nonsense\r\n\r\n"]
        {
            assert!(parse_head(nonsense.as_bytes()).is_err(), "{nonsense:?}");
        }
    }

    #[test]
    fn endpoints_are_read_as_people_write_them() {
        for url in ["http://127.0.0.1:7400", "http://127.0.0.1:7400/"] {
            assert_eq!(Endpoint::new(url, None).unwrap().address.port(), 7400);
        }
        for url in ["127.0.0.1:7400", "https://127.0.0.1", "http://", "http://127.0.0.1:7400/api"] {
            assert!(Endpoint::new(url, None).is_err(), "{url}");
        }
    }
}
