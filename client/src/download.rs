//! The content of a file, streamed.
//!
//! Invariant: [`Download`] yields exactly the bytes of the asked range of exactly one version, or an error. A connection
//! that is lost on the way is opened again at the byte where it broke, provided that the entity tag is still the same.

use std::io::{self, Read};

use proto::api::Kind;
use proto::path::FsPath;
use ureq::BodyReader;
use ureq::http::{HeaderMap, Method, StatusCode};

use crate::client::read;
use crate::transport::pause;
use crate::url::fs_target;
use crate::{Client, ClientError, Head};

/// A part of a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ByteRange {
    /// First byte.
    pub start: u64,
    /// One past the last byte; `None` for the end of the file.
    pub end: Option<u64>,
}

/// The content of a file, or of a range of it, as a reader.
///
/// Its `io::Error`s carry a [`ClientError`]; take it out with [`ClientError::from_io`].
pub struct Download {
    client: Client,
    path: FsPath,
    /// `None` for the version that is current when the download is opened.
    version: Option<u64>,
    head: Head,
    /// The current answer; `None` when it was lost or is used up.
    body: Option<BodyReader<'static>>,
    next: u64,
    end: u64,
    /// Attempts since the last byte arrived.
    attempts: u32,
}

/// An open answer and the bytes it promises.
struct Opened {
    head: Head,
    body: BodyReader<'static>,
    start: u64,
    end: u64,
}

impl Download {
    pub(crate) fn open(
        client: Client,
        path: FsPath,
        version: Option<u64>,
        range: Option<ByteRange>,
    ) -> Result<Download, ClientError> {
        let opened = request(&client, &path, version, range)?;
        Ok(Download {
            client,
            path,
            version,
            head: opened.head,
            body: Some(opened.body),
            next: opened.start,
            end: opened.end,
            attempts: 0,
        })
    }

    /// What the answer says about the file.
    #[must_use]
    pub fn head(&self) -> &Head {
        &self.head
    }

    /// Bytes that are still to come.
    #[must_use]
    pub fn remaining(&self) -> u64 {
        self.end - self.next
    }

    /// Opens the rest after `error` lost the connection.
    fn resume(&mut self, error: ClientError) -> Result<(), ClientError> {
        let retry = self.client.transport().retry();
        self.attempts += 1;
        if self.attempts >= retry.attempts_max {
            return Err(error);
        }
        let Some(etag) = &self.head.etag else { return Err(error) };
        pause(retry.backoff(self.attempts));
        let rest = ByteRange { start: self.next, end: Some(self.end) };
        let opened = request(&self.client, &self.path, self.version, Some(rest))?;
        if opened.head.etag.as_ref() != Some(etag) {
            return Err(ClientError::Replaced { path: self.path.to_string() });
        }
        assert!(opened.start == self.next, "the range of an answer is checked when it is opened");
        if opened.end != self.end {
            return Err(self.client.transport().protocol("the same version has another length now"));
        }
        self.body = Some(opened.body);
        Ok(())
    }

    fn read_some(&mut self, buffer: &mut [u8]) -> Result<usize, ClientError> {
        if buffer.is_empty() {
            return Ok(0);
        }
        while self.next < self.end {
            let lost = match self.body.as_mut().map(|body| body.read(buffer)) {
                Some(Ok(read)) if read > 0 => {
                    let read_bytes = read as u64;
                    assert!(read_bytes <= self.end - self.next, "an answer is cut at the length it announced");
                    self.next += read_bytes;
                    self.attempts = 0;
                    if self.next == self.end {
                        self.finish();
                    }
                    return Ok(read);
                }
                Some(Ok(_)) => io::ErrorKind::UnexpectedEof.into(),
                Some(Err(error)) => error,
                None => io::ErrorKind::NotConnected.into(),
            };
            self.body = None;
            let lost = self.client.transport().lost(lost);
            self.resume(lost)?;
        }
        Ok(0)
    }

    /// Lets the connection serve the next call: that takes reading the end of the body, which is empty.
    fn finish(&mut self) {
        if let Some(mut body) = self.body.take() {
            // The promised bytes are here. A connection that fails now is merely not used again.
            let _ = body.read(&mut [0]);
        }
    }
}

impl Read for Download {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.read_some(buffer).map_err(io::Error::other)
    }
}

/// Asks for `range` of the file at `path` and checks that the answer holds just that.
fn request(
    client: &Client,
    path: &FsPath,
    version: Option<u64>,
    range: Option<ByteRange>,
) -> Result<Opened, ClientError> {
    let transport = client.transport();
    let version = version.map_or(String::new(), |version| format!("?version={version}"));
    let mut call = read(Method::GET, format!("{}{version}", fs_target(path)));
    if let Some(range) = range {
        let last = range.end.map_or(String::new(), |end| end.saturating_sub(1).to_string());
        call.headers.push(("range".to_owned(), format!("bytes={}-{last}", range.start)));
    }
    let response = transport.exchange(&call, None)?;
    let protocol = |reason: &str| transport.protocol(reason);
    let length = content_length(response.headers()).ok_or_else(|| protocol("a file without content-length"));
    let (start, end, size) = match (range, response.status()) {
        (None, StatusCode::OK) => {
            // A directory answers with a listing, whose length says nothing about a file.
            let size = length.as_ref().copied().unwrap_or(0);
            (0, size, size)
        }
        (Some(range), StatusCode::PARTIAL_CONTENT) => {
            let part = content_range(response.headers()).ok_or_else(|| protocol("a range without content-range"))?;
            if part.0 != range.start || range.end.is_some_and(|end| part.1 > end) {
                return Err(protocol("another range than was asked for"));
            }
            part
        }
        (_, status) => return Err(protocol(&format!("status {status} for a download"))),
    };
    let head = Head::read(response.headers(), size).map_err(|reason| transport.protocol(reason))?;
    if head.kind != Kind::File {
        return Err(Client::wrong_kind(path, head.kind, Kind::File));
    }
    if length? != end - start {
        return Err(protocol("content-length and content-range disagree"));
    }
    Ok(Opened { head, body: response.into_body().into_reader(), start, end })
}

fn content_length(headers: &HeaderMap) -> Option<u64> {
    headers.get("content-length")?.to_str().ok()?.parse().ok()
}

/// Reads `bytes FIRST-LAST/SIZE` into `(start, end, size)`.
fn content_range(headers: &HeaderMap) -> Option<(u64, u64, u64)> {
    let text = headers.get("content-range")?.to_str().ok()?.strip_prefix("bytes ")?;
    let (part, size) = text.split_once('/')?;
    let (first, last) = part.split_once('-')?;
    let (start, end, size) = (first.parse().ok()?, last.parse::<u64>().ok()?.checked_add(1)?, size.parse().ok()?);
    (start < end && end <= size).then_some((start, end, size))
}

#[cfg(test)]
mod tests {
    use ureq::http::HeaderValue;

    use super::*;

    fn range_of(text: &'static str) -> Option<(u64, u64, u64)> {
        content_range(&[(ureq::http::header::CONTENT_RANGE, HeaderValue::from_static(text))].into_iter().collect())
    }

    #[test]
    fn content_ranges_are_read_and_checked() {
        assert_eq!(range_of("bytes 0-9/10"), Some((0, 10, 10)));
        assert_eq!(range_of("bytes 5-5/10"), Some((5, 6, 10)));
        for text in
            ["bytes 5-4/10", "bytes 0-10/10", "bytes */10", "0-9/10", "bytes 0-18446744073709551615/10", "bytes 0-9/*"]
        {
            assert_eq!(range_of(text), None, "{text}");
        }
    }
}
