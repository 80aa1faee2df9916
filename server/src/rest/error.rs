//! Every refusal, as a status and one JSON shape.
//!
//! The mapping from what the node says to what HTTP says is all here, so that it can be read as a table.

use std::fmt::Display;

use hyper::header::{ALLOW, CONTENT_RANGE, CONTENT_TYPE, HeaderName, HeaderValue, RETRY_AFTER, WWW_AUTHENTICATE};
use hyper::{Response, StatusCode};
use meta::{MetaError, ProposeError};
use node::{ChangeError, FileReadError, PutError};
use proto::api::{ErrorBody, ErrorDetail, header};
use proto::limits::{HEADERS_BYTES_MAX, HEADERS_MAX, PACE_BYTES_MIN, PACE_SECONDS, URI_BYTES_MAX};
use shard::{SegmentError, StoreError};

use super::body::ResponseBody;

/// Whether the same request may succeed later.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Retry {
    Never,
    Later,
}

/// A refused or failed request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct ApiError {
    pub(crate) status: StatusCode,
    /// Stable, machine-readable.
    pub(crate) code: &'static str,
    /// For people.
    pub(crate) message: String,
    retry: Retry,
    header: Option<(HeaderName, HeaderValue)>,
}

impl ApiError {
    fn new(status: StatusCode, code: &'static str, message: impl Into<String>) -> ApiError {
        ApiError { status, code, message: message.into(), retry: Retry::Never, header: None }
    }

    fn later(mut self) -> ApiError {
        self.retry = Retry::Later;
        self
    }

    fn with(mut self, name: HeaderName, value: &str) -> ApiError {
        self.header = Some((name, HeaderValue::from_str(value).expect("invariant: our own header values are legal")));
        self
    }

    /// Names the object in front of the message.
    pub(crate) fn about(mut self, object: impl Display) -> ApiError {
        self.message = format!("{object}: {}", self.message);
        self
    }

    pub(crate) fn bad_path(message: impl Into<String>) -> ApiError {
        ApiError::new(StatusCode::BAD_REQUEST, "bad_path", message)
    }

    pub(crate) fn bad_id() -> ApiError {
        ApiError::new(StatusCode::BAD_REQUEST, "bad_id", "a file id is a UUID of version 8, as in the field 'id'")
    }

    pub(crate) fn bad_query(message: impl Into<String>) -> ApiError {
        ApiError::new(StatusCode::BAD_REQUEST, "bad_query", message)
    }

    pub(crate) fn bad_header(name: &str, message: impl Display) -> ApiError {
        ApiError::new(StatusCode::BAD_REQUEST, "bad_header", format!("the header {name}: {message}"))
    }

    pub(crate) fn bad_body(message: impl Into<String>) -> ApiError {
        ApiError::new(StatusCode::BAD_REQUEST, "bad_body", message)
    }

    pub(crate) fn incomplete_body(error: &dyn Display) -> ApiError {
        let message = format!("the body broke off ({error}); nothing was stored");
        ApiError::new(StatusCode::BAD_REQUEST, "incomplete_body", message).later()
    }

    pub(crate) fn slow_body() -> ApiError {
        let message = format!(
            "less than {PACE_BYTES_MIN} bytes of the body came while the server waited {PACE_SECONDS} s for them; \
             nothing was stored; send it again without pausing for so long"
        );
        ApiError::new(StatusCode::REQUEST_TIMEOUT, "timeout", message).later()
    }

    pub(crate) fn unauthorized(message: &str) -> ApiError {
        ApiError::new(StatusCode::UNAUTHORIZED, "unauthorized", message).with(WWW_AUTHENTICATE, "Bearer")
    }

    pub(crate) fn no_such_call(path: &str) -> ApiError {
        let message = format!("there is no call {path}; files are under /api/v1/files and /api/v1/fs/PATH");
        ApiError::new(StatusCode::NOT_FOUND, "not_found", message)
    }

    pub(crate) fn method_not_allowed(allow: &str) -> ApiError {
        let message = format!("this call understands {allow}");
        ApiError::new(StatusCode::METHOD_NOT_ALLOWED, "method_not_allowed", message).with(ALLOW, allow)
    }

    pub(crate) fn precondition_failed(message: impl Into<String>) -> ApiError {
        ApiError::new(StatusCode::PRECONDITION_FAILED, "precondition_failed", message)
    }

    pub(crate) fn idempotency_key_in_use() -> ApiError {
        let message = "the first request under this idempotency key is not answered yet; send this one again later";
        ApiError::new(StatusCode::CONFLICT, "idempotency_key_in_use", message).later().with(RETRY_AFTER, "1")
    }

    pub(crate) fn cursor_gone(message: impl Display, oldest: u64) -> ApiError {
        let oldest_cursor = HeaderName::from_static(header::OLDEST_CURSOR);
        let message = format!("{message}; look at the tree again, and go on at 'now' or 'oldest'");
        ApiError::new(StatusCode::GONE, "cursor_gone", message).with(oldest_cursor, &oldest.to_string())
    }

    pub(crate) fn too_large(message: impl Into<String>) -> ApiError {
        ApiError::new(StatusCode::PAYLOAD_TOO_LARGE, "too_large", message)
    }

    pub(crate) fn uri_too_long() -> ApiError {
        let message = format!("the target of the request has more than {URI_BYTES_MAX} bytes; shorten path or query");
        ApiError::new(StatusCode::URI_TOO_LONG, "uri_too_long", message)
    }

    pub(crate) fn headers_too_large() -> ApiError {
        let message = format!("send at most {HEADERS_MAX} headers of {HEADERS_BYTES_MAX} bytes together");
        ApiError::new(StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE, "headers_too_large", message)
    }

    pub(crate) fn unsupported_encoding() -> ApiError {
        let message = "files are stored as they are sent; send the body without Content-Encoding";
        ApiError::new(StatusCode::UNSUPPORTED_MEDIA_TYPE, "unsupported_encoding", message)
    }

    pub(crate) fn unsatisfiable(size: u64) -> ApiError {
        let message = format!("the file has {size} bytes, and none of those that were asked for");
        ApiError::new(StatusCode::RANGE_NOT_SATISFIABLE, "range_not_satisfiable", message)
            .with(CONTENT_RANGE, &format!("bytes */{size}"))
    }

    fn come_back(message: &str) -> ApiError {
        ApiError::new(StatusCode::TOO_MANY_REQUESTS, "busy", message).later().with(RETRY_AFTER, "1")
    }

    pub(crate) fn busy() -> ApiError {
        ApiError::come_back("the server has as many requests as it can serve; wait a second and send it again")
    }

    pub(crate) fn too_many_connections() -> ApiError {
        ApiError::come_back(
            "the server has as many connections as it can serve; wait a second and connect again, or use fewer of them",
        )
    }

    pub(crate) fn no_space(message: impl Display) -> ApiError {
        ApiError::new(StatusCode::INSUFFICIENT_STORAGE, "no_space", message.to_string())
    }

    pub(crate) fn closing() -> ApiError {
        let message = "the server is shutting down; send the request again when it is back";
        ApiError::new(StatusCode::SERVICE_UNAVAILABLE, "closing", message).later().with(RETRY_AFTER, "5")
    }

    pub(crate) fn poisoned(message: impl Display) -> ApiError {
        let message = format!("{message}; changes are refused until the server is restarted");
        ApiError::new(StatusCode::SERVICE_UNAVAILABLE, "poisoned", message).later().with(RETRY_AFTER, "30")
    }

    fn device(message: impl Display) -> ApiError {
        ApiError::new(StatusCode::SERVICE_UNAVAILABLE, "device_failed", message.to_string()).later()
    }

    pub(crate) fn internal(message: impl Display) -> ApiError {
        ApiError::new(StatusCode::INTERNAL_SERVER_ERROR, "internal", message.to_string())
    }

    /// Whether this says that the metadata log takes no more changes.
    pub(crate) fn is_poisoned(&self) -> bool {
        self.code == "poisoned"
    }

    /// The response that carries it.
    pub(crate) fn into_response(self) -> Response<ResponseBody> {
        let (code, message) = (self.code.to_owned(), self.message);
        let body = ErrorBody { error: ErrorDetail { code, message, retryable: self.retry == Retry::Later } };
        let mut text = serde_json::to_vec(&body).expect("invariant: an error is JSON");
        text.push(b'\n');
        let mut response = Response::new(ResponseBody::whole(text));
        *response.status_mut() = self.status;
        response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
        if let Some((name, value)) = self.header {
            response.headers_mut().insert(name, value);
        }
        response
    }
}

impl From<MetaError> for ApiError {
    fn from(error: MetaError) -> ApiError {
        let (status, code) = match &error {
            MetaError::NotFound => (StatusCode::NOT_FOUND, "not_found"),
            MetaError::NotADirectory => (StatusCode::CONFLICT, "not_a_directory"),
            MetaError::IsADirectory => (StatusCode::CONFLICT, "is_a_directory"),
            MetaError::AlreadyExists => (StatusCode::CONFLICT, "already_exists"),
            MetaError::NotEmpty => (StatusCode::CONFLICT, "not_empty"),
            MetaError::IntoItself => (StatusCode::CONFLICT, "into_itself"),
            MetaError::StaleSequence { .. } => (StatusCode::CONFLICT, "stale_sequence"),
            MetaError::NotASymlink => (StatusCode::CONFLICT, "not_a_symlink"),
            MetaError::NotAFile => (StatusCode::CONFLICT, "not_a_file"),
            MetaError::NoSuchVersion => (StatusCode::NOT_FOUND, "no_such_version"),
            MetaError::VersionExpired { .. } => (StatusCode::NOT_FOUND, "version_expired"),
            MetaError::InvalidRetention => (StatusCode::BAD_REQUEST, "bad_body"),
            MetaError::InvalidContentType => (StatusCode::BAD_REQUEST, "bad_header"),
            MetaError::KeyReused => (StatusCode::UNPROCESSABLE_ENTITY, "idempotency_key_reused"),
            MetaError::ConditionFailed { .. } => (StatusCode::PRECONDITION_FAILED, "precondition_failed"),
            MetaError::InvalidName => (StatusCode::BAD_REQUEST, "bad_path"),
            MetaError::TooLarge(_) => (StatusCode::PAYLOAD_TOO_LARGE, "too_large"),
            MetaError::Stale | MetaError::StaleEpoch { .. } => {
                return ApiError::new(StatusCode::SERVICE_UNAVAILABLE, "stale", error.to_string()).later();
            }
            _ => return ApiError::internal(error),
        };
        ApiError::new(status, code, error.to_string())
    }
}

impl From<ProposeError> for ApiError {
    fn from(error: ProposeError) -> ApiError {
        match error {
            ProposeError::Busy => ApiError::busy(),
            ProposeError::Closed => ApiError::closing(),
            ProposeError::StorageFull => ApiError::no_space(error),
            ProposeError::TooLarge { .. } => ApiError::internal(error),
            ProposeError::Poisoned { .. } => ApiError::poisoned(error),
        }
    }
}

impl From<ChangeError> for ApiError {
    fn from(error: ChangeError) -> ApiError {
        match error {
            ChangeError::Refused(error) => error.into(),
            ChangeError::Log(error) => error.into(),
            ChangeError::NoSpace { .. } => ApiError::no_space(error),
            ChangeError::Root => ApiError::new(StatusCode::FORBIDDEN, "root", error.to_string()),
        }
    }
}

impl From<StoreError> for ApiError {
    fn from(error: StoreError) -> ApiError {
        match &error {
            StoreError::Segment(SegmentError::NoSpace { .. } | SegmentError::LogFull) => ApiError::no_space(error),
            StoreError::Segment(SegmentError::Log(_) | SegmentError::NumbersSpent) => ApiError::poisoned(error),
            StoreError::Segment(SegmentError::Device { .. }) | StoreError::Device { .. } => ApiError::device(error),
            StoreError::Closing => ApiError::closing(),
        }
    }
}

impl From<PutError> for ApiError {
    fn from(error: PutError) -> ApiError {
        match error {
            PutError::Store(error) => error.into(),
            PutError::Change(error) => error.into(),
            gone @ PutError::Gone => ApiError::new(StatusCode::SERVICE_UNAVAILABLE, "stale", gone.to_string()).later(),
        }
    }
}

impl From<FileReadError> for ApiError {
    fn from(error: FileReadError) -> ApiError {
        match error {
            FileReadError::Refused(error) => error.into(),
            FileReadError::Damaged { .. } => {
                ApiError::new(StatusCode::INTERNAL_SERVER_ERROR, "damaged", error.to_string())
            }
            FileReadError::Device { .. } => ApiError::device(error),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures_util::FutureExt;
    use http_body_util::BodyExt;
    use proto::{Location, VersionNumber};
    use shard::ReadError;

    #[test]
    fn refusals_of_the_namespace_have_their_status() {
        let current = Some(VersionNumber(3));
        for (error, status, code) in [
            (MetaError::NotFound, 404, "not_found"),
            (MetaError::NotADirectory, 409, "not_a_directory"),
            (MetaError::IsADirectory, 409, "is_a_directory"),
            (MetaError::AlreadyExists, 409, "already_exists"),
            (MetaError::NotEmpty, 409, "not_empty"),
            (MetaError::IntoItself, 409, "into_itself"),
            (MetaError::ConditionFailed { current }, 412, "precondition_failed"),
            (MetaError::StaleSequence { window_from: 9 }, 409, "stale_sequence"),
            (MetaError::TooLarge(meta::Limit::SymlinkBytes), 413, "too_large"),
            (MetaError::InvalidName, 400, "bad_path"),
            (MetaError::NotAFile, 409, "not_a_file"),
            (MetaError::NoSuchVersion, 404, "no_such_version"),
            (MetaError::VersionExpired { oldest: VersionNumber(3) }, 404, "version_expired"),
            (MetaError::InvalidRetention, 400, "bad_body"),
            (MetaError::KeyReused, 422, "idempotency_key_reused"),
            (MetaError::InvalidContent, 500, "internal"),
        ] {
            let error = ApiError::from(ChangeError::Refused(error));
            assert_eq!((error.status.as_u16(), error.code, error.retry), (status, code, Retry::Never));
        }
        assert_eq!(ApiError::from(ChangeError::Root).status, StatusCode::FORBIDDEN);
    }

    #[test]
    fn failures_of_the_store_have_their_status() {
        let full = StoreError::Segment(SegmentError::NoSpace { need_bytes: 1 });
        let error = ApiError::from(PutError::Store(full));
        assert_eq!((error.status.as_u16(), error.code, error.retry), (507, "no_space", Retry::Never));
        assert_eq!(ApiError::from(StoreError::Segment(SegmentError::LogFull)).code, "no_space");
        let error = ApiError::from(StoreError::Segment(SegmentError::Log("disk".to_owned())));
        assert!(error.is_poisoned() && error.status.as_u16() == 503);
        assert_eq!(ApiError::from(StoreError::Closing).code, "closing");
    }

    #[test]
    fn damage_names_file_and_range() {
        let location = Location::unpack(0).unwrap();
        let source = ReadError::Corrupt { location, what: "checksum".to_owned() };
        let error = ApiError::from(FileReadError::Damaged { path: "/a".to_owned(), range: 5..10, source });
        assert_eq!((error.status.as_u16(), error.code, error.retry), (500, "damaged", Retry::Never));
        assert!(error.message.contains("/a is damaged in bytes 5-9"), "{}", error.message);
    }

    #[test]
    fn every_error_has_one_shape() {
        let response = ApiError::busy().about("/a").into_response();
        assert_eq!(
            (response.status().as_u16(), &response.headers()[RETRY_AFTER]),
            (429, &HeaderValue::from_static("1"))
        );
        let bytes = response.into_body().collect().now_or_never().unwrap().unwrap().to_bytes();
        let body: ErrorBody = serde_json::from_slice(&bytes).unwrap();
        assert_eq!((body.error.code.as_str(), body.error.retryable), ("busy", true));
        assert!(body.error.message.starts_with("/a: "));
        let unsatisfiable = ApiError::unsatisfiable(7).into_response();
        assert_eq!(unsatisfiable.headers()[CONTENT_RANGE], "bytes */7");
        assert_eq!(ApiError::unauthorized("x").into_response().headers()[WWW_AUTHENTICATE], "Bearer");
        assert_eq!(ApiError::method_not_allowed("GET, HEAD").into_response().headers()[ALLOW], "GET, HEAD");
    }
}
