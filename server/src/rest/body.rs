//! Bodies: of responses as they are sent, of requests as they arrive. Neither is ever held in whole.

use std::future::Future;
use std::pin::{Pin, pin};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::Bytes;
use futures_util::stream::LocalBoxStream;
use http_body_util::BodyExt;
use hyper::Version;
use hyper::body::{Body, Frame, Incoming, SizeHint};
use proto::limits::PACE_BYTES_MIN;
use proto::port::runtime;

use super::error::ApiError;
use crate::activity::Serving;
use crate::admission::Slot;
use crate::metrics::Observation;
use crate::pace::Pace;

/// Bytes of a refused upload that are read and dropped, so that a client that is still sending sees the refusal
/// instead of a broken connection.
const REFUSED_BYTES_MAX: u64 = 1 << 20;
/// How long a refused upload may keep silent.
const REFUSED_SILENCE_MAX: Duration = Duration::from_secs(1);
/// How long all of that may take.
const REFUSED_DURATION_MAX: Duration = Duration::from_secs(5);
/// Bytes that are handed to an HTTP/2 stream at once: one frame, and the least that a client must take in time. What is
/// handed over stays in memory until the client opens its window. (HTTP/1 has only the socket, which is watched itself.)
const HTTP2_FRAME_BYTES: usize = PACE_BYTES_MIN as usize;

/// The bytes of a file, in order.
pub(crate) type FileStream = LocalBoxStream<'static, Result<Bytes, BodyError>>;

/// Why a body broke off after its head was sent: the connection is then closed, so that no client takes what it has
/// for all.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct BodyError(pub(crate) String);

enum Content {
    Empty,
    Whole(Bytes),
    /// Whatever comes.
    Open(FileStream),
    /// Exactly `left` more bytes.
    File {
        stream: FileStream,
        left: u64,
    },
}

/// What a request holds until its response is gone.
pub(crate) struct Held {
    pub(crate) observation: Observation,
    pub(crate) serving: Serving,
    /// Its right to be served, if it needed one; only ever dropped.
    #[expect(dead_code, reason = "it is held, not used")]
    pub(crate) slot: Option<Slot>,
    pub(crate) version: Version,
}

/// The body of a response.
pub struct ResponseBody {
    content: Content,
    /// What the content delivered and is not handed over yet.
    next: Bytes,
    /// Bytes handed to an HTTP/2 stream last.
    handed_over: usize,
    held: Option<Held>,
}

impl ResponseBody {
    fn new(content: Content) -> ResponseBody {
        ResponseBody { content, next: Bytes::new(), handed_over: 0, held: None }
    }

    /// No bytes.
    pub(crate) fn empty() -> ResponseBody {
        ResponseBody::new(Content::Empty)
    }

    /// These bytes.
    pub(crate) fn whole(bytes: impl Into<Bytes>) -> ResponseBody {
        ResponseBody::new(Content::Whole(bytes.into()))
    }

    /// The `bytes` bytes that `stream` delivers.
    pub(crate) fn file(stream: FileStream, bytes: u64) -> ResponseBody {
        ResponseBody::new(Content::File { stream, left: bytes })
    }

    /// What `stream` delivers, however much that is.
    pub(crate) fn open(stream: FileStream) -> ResponseBody {
        ResponseBody::new(Content::Open(stream))
    }

    /// Has what the request holds given back when this body is gone.
    pub(crate) fn holding(mut self, held: Held) -> ResponseBody {
        self.held = Some(held);
        self
    }

    /// Bytes that are still to be sent; `None` if nobody knows.
    pub(crate) fn len(&self) -> Option<u64> {
        let left = match &self.content {
            Content::Empty => 0,
            Content::Whole(bytes) => bytes.len() as u64,
            Content::Open(_) => return None,
            Content::File { left, .. } => *left,
        };
        Some(left + self.next.len() as u64)
    }

    /// The next bytes, as they come; `None` at the end.
    fn poll_content(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Bytes, BodyError>>> {
        let next = match &mut self.content {
            Content::Empty | Content::File { left: 0, .. } => None,
            Content::Whole(bytes) => {
                let bytes = std::mem::take(bytes);
                self.content = Content::Empty;
                (!bytes.is_empty()).then_some(Ok(bytes))
            }
            Content::Open(stream) => ready!(stream.as_mut().poll_next(cx)),
            Content::File { stream, left } => match ready!(stream.as_mut().poll_next(cx)) {
                Some(Ok(bytes)) => {
                    let rest = left.checked_sub(bytes.len() as u64);
                    *left = rest.expect("invariant: a reader delivers no more than its range");
                    Some(Ok(bytes))
                }
                Some(Err(error)) => Some(Err(error)),
                None => Some(Err(BodyError(format!("the file ended {left} bytes early")))),
            },
        };
        if let Some(Err(_)) = next {
            self.content = Content::Empty;
        }
        Poll::Ready(next)
    }
}

impl Body for ResponseBody {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        let this = self.get_mut();
        // Being asked for more means that what went before was taken.
        let taken = std::mem::take(&mut this.handed_over);
        if let Some(held) = this.held.as_ref().filter(|_| taken > 0) {
            held.serving.taken(taken);
        }
        if this.next.is_empty() {
            this.next = match ready!(this.poll_content(cx)) {
                None => return Poll::Ready(None),
                Some(Err(error)) => return Poll::Ready(Some(Err(error))),
                Some(Ok(bytes)) => bytes,
            };
        }
        let is_http2 = this.held.as_ref().is_some_and(|held| held.version == Version::HTTP_2);
        let most = if is_http2 { HTTP2_FRAME_BYTES } else { usize::MAX };
        let bytes = this.next.split_to(this.next.len().min(most));
        if let Some(held) = &this.held {
            held.observation.sent(bytes.len());
            if is_http2 {
                this.handed_over = bytes.len();
                held.serving.handed_over();
            }
        }
        Poll::Ready(Some(Ok(Frame::data(bytes))))
    }

    fn is_end_stream(&self) -> bool {
        self.len() == Some(0)
    }

    fn size_hint(&self) -> SizeHint {
        self.len().map_or_else(SizeHint::default, SizeHint::with_exact)
    }
}

/// The body of a request, and how fast its client sends it.
pub(crate) struct RequestBody {
    incoming: Incoming,
    pace: Pace,
}

impl RequestBody {
    pub(crate) fn new(incoming: Incoming) -> RequestBody {
        RequestBody { incoming, pace: Pace::default() }
    }

    /// Whether nothing more of it comes. Chunks of HTTP/1.1 never tell.
    pub(crate) fn is_at_end(&self) -> bool {
        self.incoming.is_end_stream()
    }
}

/// Completes with `None` if `future` takes longer than `longest`. A future that is ready at once costs no timer.
async fn within<T>(longest: Duration, future: impl Future<Output = T>) -> Option<T> {
    let mut future = pin!(future);
    let mut timeout = None;
    std::future::poll_fn(|cx| {
        if let Poll::Ready(done) = future.as_mut().poll(cx) {
            return Poll::Ready(Some(done));
        }
        let timeout = timeout.get_or_insert_with(|| runtime::sleep(longest));
        timeout.as_mut().poll(cx).map(|()| None)
    })
    .await
}

/// Returns the next bytes of a request body; `None` at its end.
///
/// # Errors
/// 400 `incomplete_body` if the client broke off, 408 `timeout` if it sends next to nothing.
pub(crate) async fn next_bytes(body: &mut RequestBody) -> Result<Option<Bytes>, ApiError> {
    loop {
        let start = runtime::monotonic();
        body.pace.wait(start);
        let patience = body.pace.deadline().expect("invariant: it is waited for").saturating_sub(start);
        let frame = within(patience, body.incoming.frame()).await.ok_or_else(ApiError::slow_body)?;
        // Trailers carry nothing that we know.
        let bytes = match frame {
            None => return Ok(None),
            Some(Err(error)) => return Err(ApiError::incomplete_body(&error)),
            Some(Ok(frame)) => frame.into_data().unwrap_or_default(),
        };
        body.pace.moved(runtime::monotonic(), bytes.len());
        if !bytes.is_empty() {
            return Ok(Some(bytes));
        }
    }
}

/// Reads a short body whole.
///
/// # Errors
/// 413 `too_large` beyond `bytes_max`, and those of [`next_bytes`].
pub(crate) async fn read_short(body: &mut RequestBody, bytes_max: usize, what: &str) -> Result<Vec<u8>, ApiError> {
    let too_large = || ApiError::too_large(format!("{what} takes at most {bytes_max} bytes"));
    // What is announced to be too long is refused before it is sent.
    if body.incoming.size_hint().lower() > bytes_max as u64 {
        return Err(too_large());
    }
    let mut whole = Vec::new();
    while let Some(bytes) = next_bytes(body).await? {
        if bytes.len() > bytes_max - whole.len() {
            return Err(too_large());
        }
        whole.extend_from_slice(&bytes);
    }
    Ok(whole)
}

/// Reads and drops the rest of a refused body, within bounds.
pub(crate) async fn discard(body: &mut RequestBody) {
    let discarding = async {
        let mut left = REFUSED_BYTES_MAX;
        while let Some(Some(Ok(frame))) = within(REFUSED_SILENCE_MAX, body.incoming.frame()).await {
            let bytes = frame.data_ref().map_or(0, |bytes| bytes.len() as u64);
            match left.checked_sub(bytes) {
                Some(rest) => left = rest,
                None => return,
            }
        }
    };
    within(REFUSED_DURATION_MAX, discarding).await;
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures_util::{FutureExt, StreamExt, stream};

    fn collect(body: ResponseBody) -> Result<Vec<u8>, BodyError> {
        let collected = body.collect().now_or_never().expect("nothing waits here");
        collected.map(|collected| collected.to_bytes().to_vec())
    }

    fn parts(parts: Vec<Result<Bytes, BodyError>>) -> FileStream {
        stream::iter(parts).boxed_local()
    }

    #[test]
    fn a_file_is_sent_in_whole() {
        let stream = parts(vec![Ok(Bytes::from_static(b"abc")), Ok(Bytes::from_static(b"de"))]);
        let body = ResponseBody::file(stream, 5);
        assert_eq!(body.size_hint().exact(), Some(5));
        assert_eq!(collect(body).unwrap(), b"abcde");
        assert_eq!(collect(ResponseBody::whole("xyz")).unwrap(), b"xyz");
        assert!(ResponseBody::empty().is_end_stream() && ResponseBody::whole("").is_end_stream());
    }

    #[test]
    fn an_open_stream_ends_when_it_does() {
        let body = ResponseBody::open(parts(vec![Ok(Bytes::from_static(b"abc")), Ok(Bytes::from_static(b"de"))]));
        assert!(!body.is_end_stream() && body.size_hint().exact().is_none());
        assert_eq!(collect(body).unwrap(), b"abcde");
    }

    #[test]
    fn a_short_file_is_an_error_and_not_an_end() {
        let error = collect(ResponseBody::file(parts(vec![Ok(Bytes::from_static(b"abc"))]), 5)).unwrap_err();
        assert_eq!(error.to_string(), "the file ended 2 bytes early");
        let damaged = parts(vec![Ok(Bytes::from_static(b"abc")), Err(BodyError("damaged".to_owned()))]);
        assert_eq!(collect(ResponseBody::file(damaged, 5)).unwrap_err().to_string(), "damaged");
    }
}
