//! Bodies: of responses as they are sent, of requests as they arrive. Neither is ever held in whole.

use std::future::Future;
use std::pin::{Pin, pin};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::Bytes;
use futures_util::stream::LocalBoxStream;
use http_body_util::BodyExt;
use hyper::body::{Body, Frame, Incoming, SizeHint};
use proto::port::runtime;

use super::error::ApiError;
use crate::metrics::Observation;

/// A request body that delivers nothing for so long is given up.
const BODY_SILENCE_MAX: Duration = Duration::from_secs(60);
/// Bytes of a refused upload that are read and dropped, so that a client that is still sending sees the refusal
/// instead of a broken connection.
const REFUSED_BYTES_MAX: u64 = 1 << 20;
/// How long a refused upload may keep silent.
const REFUSED_SILENCE_MAX: Duration = Duration::from_secs(1);

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

/// The body of a response.
pub struct ResponseBody {
    content: Content,
    observation: Option<Observation>,
}

impl ResponseBody {
    /// No bytes.
    pub(crate) fn empty() -> ResponseBody {
        ResponseBody { content: Content::Empty, observation: None }
    }

    /// These bytes.
    pub(crate) fn whole(bytes: impl Into<Bytes>) -> ResponseBody {
        ResponseBody { content: Content::Whole(bytes.into()), observation: None }
    }

    /// The `bytes` bytes that `stream` delivers.
    pub(crate) fn file(stream: FileStream, bytes: u64) -> ResponseBody {
        ResponseBody { content: Content::File { stream, left: bytes }, observation: None }
    }

    /// What `stream` delivers, however much that is.
    pub(crate) fn open(stream: FileStream) -> ResponseBody {
        ResponseBody { content: Content::Open(stream), observation: None }
    }

    /// Has the request measured until this body is gone.
    pub(crate) fn observed(mut self, observation: Observation) -> ResponseBody {
        self.observation = Some(observation);
        self
    }

    /// Bytes that are still to be sent; `None` if nobody knows.
    pub(crate) fn len(&self) -> Option<u64> {
        match &self.content {
            Content::Empty => Some(0),
            Content::Whole(bytes) => Some(bytes.len() as u64),
            Content::Open(_) => None,
            Content::File { left, .. } => Some(*left),
        }
    }
}

impl Body for ResponseBody {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        let this = self.get_mut();
        let next = match &mut this.content {
            Content::Empty => None,
            Content::Whole(bytes) => {
                let bytes = std::mem::take(bytes);
                this.content = Content::Empty;
                (!bytes.is_empty()).then_some(Ok(bytes))
            }
            Content::Open(stream) => ready!(stream.as_mut().poll_next(cx)),
            Content::File { left: 0, .. } => None,
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
        if let (Some(Ok(bytes)), Some(observation)) = (&next, &this.observation) {
            observation.sent(bytes.len());
        }
        if let Some(Err(_)) = next {
            this.content = Content::Empty;
        }
        Poll::Ready(next.map(|next| next.map(Frame::data)))
    }

    fn is_end_stream(&self) -> bool {
        self.len() == Some(0)
    }

    fn size_hint(&self) -> SizeHint {
        self.len().map_or_else(SizeHint::default, SizeHint::with_exact)
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
/// 400 `incomplete_body` if the client broke off, 408 `timeout` if it fell silent.
pub(crate) async fn next_bytes(body: &mut Incoming) -> Result<Option<Bytes>, ApiError> {
    loop {
        match within(BODY_SILENCE_MAX, body.frame()).await {
            None => return Err(ApiError::timeout(BODY_SILENCE_MAX)),
            Some(None) => return Ok(None),
            Some(Some(Err(error))) => return Err(ApiError::incomplete_body(&error)),
            // Trailers carry nothing that we know.
            Some(Some(Ok(frame))) => {
                if let Ok(bytes) = frame.into_data() {
                    return Ok(Some(bytes));
                }
            }
        }
    }
}

/// Reads a short body whole.
///
/// # Errors
/// 413 `too_large` beyond `bytes_max`, and those of [`next_bytes`].
pub(crate) async fn read_short(body: &mut Incoming, bytes_max: usize, what: &str) -> Result<Vec<u8>, ApiError> {
    let too_large = || ApiError::too_large(format!("{what} takes at most {bytes_max} bytes"));
    // What is announced to be too long is refused before it is sent.
    if body.size_hint().lower() > bytes_max as u64 {
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
pub(crate) async fn discard(body: &mut Incoming) {
    let mut left = REFUSED_BYTES_MAX;
    while let Some(Some(Ok(frame))) = within(REFUSED_SILENCE_MAX, body.frame()).await {
        let bytes = frame.data_ref().map_or(0, |bytes| bytes.len() as u64);
        match left.checked_sub(bytes) {
            Some(rest) => left = rest,
            None => return,
        }
    }
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
