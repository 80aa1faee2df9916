//! One request with its retries.
//!
//! Why a retry is harmless: reads change nothing, and everything else carries a `(client, sequence)` pair that stays
//! the same over all attempts of one call. Uploads of [`EXPECT_CONTINUE_BYTES`] or more, and those of unknown length,
//! ask before they send (`Expect: 100-continue`), so that a refusal arrives as an answer instead of a broken pipe.

use std::io::{self, Read};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use proto::api::{ErrorBody, ErrorDetail};
use ureq::http::{Method, Request, Response, StatusCode, Uri};
use ureq::{Agent, Body, SendBody, Timeout};

use crate::session::{Sessions, random};
use crate::{ClientError, ClientOptions, RetryPolicy, Upload};

/// Uploads from this size on wait for the server's go-ahead.
const EXPECT_CONTINUE_BYTES: u64 = 64 << 10;
/// Longest error answer that is read.
const ERROR_BYTES_MAX: u64 = 64 << 10;
/// Longest JSON answer that is read: a page of a listing with the longest of names.
const JSON_BYTES_MAX: u64 = 64 << 20;

/// One request, independent of how often it is attempted.
#[derive(Debug)]
pub(crate) struct Call {
    pub(crate) method: Method,
    /// Path and query, encoded.
    pub(crate) target: String,
    pub(crate) headers: Vec<(String, String)>,
}

/// The connections to one server.
#[derive(Clone, Debug)]
pub(crate) struct Transport {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    agent: Agent,
    endpoint: String,
    authorization: Option<String>,
    retry: RetryPolicy,
    sessions: Sessions,
    /// Whether the server has answered anything yet. Before that, a refused connection is a wrong address or a server
    /// that was never started, which waiting does not cure; afterwards it is a restart, which waiting does.
    answered: AtomicBool,
}

impl Transport {
    pub(crate) fn new(options: ClientOptions) -> Result<Transport, ClientError> {
        let endpoint = check_endpoint(&options.endpoint)?;
        let authorization = match options.token {
            Some(token) if token.is_empty() || !token.bytes().all(|b| b.is_ascii_graphic()) => {
                return Err(ClientError::Token);
            }
            Some(token) => Some(format!("Bearer {token}")),
            None => None,
        };
        let config = Agent::config_builder()
            .http_status_as_error(false)
            .max_redirects(0)
            .proxy(None)
            .user_agent(concat!("dfs/", env!("CARGO_PKG_VERSION")))
            .timeout_connect(Some(options.connect_timeout))
            .timeout_resolve(Some(options.connect_timeout))
            .timeout_per_read(Some(options.idle_timeout))
            .timeout_per_write(Some(options.idle_timeout))
            .max_idle_connections(options.idle_connections_max)
            .max_idle_connections_per_host(options.idle_connections_max)
            .build();
        assert!(options.retry.attempts_max >= 1, "a request has at least one attempt");
        let inner = Inner {
            agent: config.new_agent(),
            endpoint,
            authorization,
            retry: options.retry,
            sessions: Sessions::default(),
            answered: AtomicBool::new(false),
        };
        Ok(Transport { inner: Arc::new(inner) })
    }

    pub(crate) fn retry(&self) -> RetryPolicy {
        self.inner.retry
    }

    pub(crate) fn sessions(&self) -> &Sessions {
        &self.inner.sessions
    }

    /// Sends `call` until it is answered, refused for good, or out of attempts.
    pub(crate) fn exchange(
        &self,
        call: &Call,
        mut upload: Option<&mut Upload<'_>>,
    ) -> Result<Response<Body>, ClientError> {
        let mut attempt = 1;
        loop {
            let error = match self.attempt(call, upload.as_deref_mut()) {
                Ok(response) => return Ok(response),
                Err(error) => error,
            };
            if attempt >= self.inner.retry.attempts_max || !self.worth_repeating(&error) {
                return Err(error);
            }
            if let Some(upload) = upload.as_deref_mut()
                && !upload.rewind()?
            {
                return Err(error);
            }
            pause(self.inner.retry.backoff(attempt));
            attempt += 1;
        }
    }

    /// Whether waiting may cure `error`.
    pub(crate) fn worth_repeating(&self, error: &ClientError) -> bool {
        match error {
            ClientError::Unreachable { .. } => self.inner.answered.load(Ordering::Relaxed),
            ClientError::Interrupted { .. } => true,
            ClientError::Api { detail, .. } => detail.retryable,
            _ => false,
        }
    }

    fn attempt(&self, call: &Call, upload: Option<&mut Upload<'_>>) -> Result<Response<Body>, ClientError> {
        let mut request =
            Request::builder().method(call.method.clone()).uri(format!("{}{}", self.inner.endpoint, call.target));
        if let Some(authorization) = &self.inner.authorization {
            request = request.header("authorization", authorization);
        }
        for (name, value) in &call.headers {
            request = request.header(name, value);
        }
        let built = |e: ureq::http::Error| self.protocol(format!("the request cannot be written: {e}"));
        let result = match upload {
            Some(upload) => {
                if let Some(size) = upload.size() {
                    request = request.header("content-length", size);
                }
                if upload.size().is_none_or(|size| size >= EXPECT_CONTINUE_BYTES) {
                    request = request.header("expect", "100-continue");
                }
                let result = self.inner.agent.run(request.body(SendBody::from_reader(upload)).map_err(built)?);
                if let Some(fault) = upload.take_fault() {
                    return Err(fault);
                }
                result
            }
            None if matches!(call.method, Method::GET | Method::HEAD | Method::DELETE) => {
                self.inner.agent.run(request.body(()).map_err(built)?)
            }
            None => self.inner.agent.run(request.body(&[] as &[u8]).map_err(built)?),
        };
        let response = result.map_err(|error| self.classify(error))?;
        self.inner.answered.store(true, Ordering::Relaxed);
        if response.status().is_success() { Ok(response) } else { Err(self.refusal(response)) }
    }

    /// Turns an answer that is not a success into an error.
    fn refusal(&self, response: Response<Body>) -> ClientError {
        let status = response.status();
        if !(status.is_client_error() || status.is_server_error()) {
            return self.protocol(format!("status {status}"));
        }
        let mut body = Vec::new();
        if let Err(error) = response.into_body().into_reader().take(ERROR_BYTES_MAX).read_to_end(&mut body) {
            return self.lost(error);
        }
        let detail = match serde_json::from_slice::<ErrorBody>(&body) {
            Ok(body) => body.error,
            Err(_) => detail_of_status(status),
        };
        if status == StatusCode::UNAUTHORIZED {
            return ClientError::Unauthorized { endpoint: self.inner.endpoint.clone(), message: detail.message };
        }
        ClientError::Api { status: status.as_u16(), detail }
    }

    /// Reads a JSON answer.
    ///
    /// A body that breaks off is an error of its own ([`ClientError::Interrupted`]); the caller may repeat the call.
    pub(crate) fn json<T: serde::de::DeserializeOwned>(&self, response: Response<Body>) -> Result<T, ClientError> {
        let mut body = Vec::new();
        let mut reader = response.into_body().into_reader().take(JSON_BYTES_MAX);
        reader.read_to_end(&mut body).map_err(|error| self.lost(error))?;
        serde_json::from_slice(&body).map_err(|error| self.protocol(format!("its JSON cannot be read: {error}")))
    }

    /// Sends `call` and reads its JSON answer, repeating both if the answer breaks off.
    pub(crate) fn exchange_json<T: serde::de::DeserializeOwned>(
        &self,
        call: &Call,
        mut upload: Option<&mut Upload<'_>>,
    ) -> Result<T, ClientError> {
        let mut attempt = 1;
        loop {
            let error = match self.json(self.exchange(call, upload.as_deref_mut())?) {
                Ok(answer) => return Ok(answer),
                Err(error @ ClientError::Interrupted { .. }) if attempt < self.inner.retry.attempts_max => error,
                Err(error) => return Err(error),
            };
            if let Some(upload) = upload.as_deref_mut()
                && !upload.rewind()?
            {
                return Err(error);
            }
            pause(self.inner.retry.backoff(attempt));
            attempt += 1;
        }
    }

    pub(crate) fn protocol(&self, reason: impl Into<String>) -> ClientError {
        ClientError::Protocol { endpoint: self.inner.endpoint.clone(), reason: reason.into() }
    }

    pub(crate) fn lost(&self, source: io::Error) -> ClientError {
        ClientError::Interrupted { endpoint: self.inner.endpoint.clone(), source }
    }

    fn classify(&self, error: ureq::Error) -> ClientError {
        use io::ErrorKind::{ConnectionRefused, HostUnreachable, NetworkDown, NetworkUnreachable};

        let endpoint = self.inner.endpoint.clone();
        match error {
            ureq::Error::HostNotFound => {
                let source = io::Error::new(io::ErrorKind::NotFound, "no such host");
                ClientError::Unreachable { endpoint, source }
            }
            ureq::Error::ConnectionFailed => {
                ClientError::Unreachable { endpoint, source: io::Error::other("no connection") }
            }
            ureq::Error::Timeout(Timeout::Connect | Timeout::Resolve) => {
                let source = io::Error::new(io::ErrorKind::TimedOut, "nothing answered in time");
                ClientError::Unreachable { endpoint, source }
            }
            ureq::Error::Io(source)
                if matches!(source.kind(), ConnectionRefused | HostUnreachable | NetworkUnreachable | NetworkDown) =>
            {
                ClientError::Unreachable { endpoint, source }
            }
            ureq::Error::Timeout(_) => {
                ClientError::Interrupted { endpoint, source: io::Error::new(io::ErrorKind::TimedOut, "it fell silent") }
            }
            ureq::Error::Io(source) => ClientError::Interrupted { endpoint, source },
            other => ClientError::Protocol { endpoint, reason: other.to_string() },
        }
    }
}

/// What a status says when the body says nothing.
fn detail_of_status(status: StatusCode) -> ErrorDetail {
    let (code, message) = match status.as_u16() {
        401 => ("unauthorized", "no valid token".to_owned()),
        403 => ("forbidden", "the token does not allow this".to_owned()),
        404 => ("not_found", "nothing has this name".to_owned()),
        _ => ("http_error", format!("the server answered {status} and nothing else")),
    };
    let retryable = matches!(status.as_u16(), 429 | 502 | 503 | 504);
    ErrorDetail { code: code.to_owned(), message, retryable }
}

/// Waits for up to `longest`, at least half of it: clients that failed together should not return together.
#[expect(clippy::disallowed_methods, reason = "a blocking client waits on its own thread; nothing here is simulated")]
pub(crate) fn pause(longest: Duration) {
    let half_ns = u64::try_from(longest.as_nanos() / 2).unwrap_or(u64::MAX / 2);
    std::thread::sleep(Duration::from_nanos(half_ns + random() % (half_ns + 1)));
}

/// Checks an endpoint and takes its trailing slash.
fn check_endpoint(text: &str) -> Result<String, ClientError> {
    let refuse = |reason| Err(ClientError::Endpoint { endpoint: text.to_owned(), reason });
    let Ok(uri) = text.parse::<Uri>() else { return refuse("it is not a URL") };
    match uri.scheme_str() {
        Some("http") => {}
        Some("https") => return refuse("this build speaks plain http only"),
        _ => return refuse("it does not start with http://"),
    }
    match uri.authority() {
        Some(authority) if authority.as_str().contains('@') => return refuse("a password in a URL is not used"),
        Some(authority) if !authority.host().is_empty() => {}
        _ => return refuse("it names no host"),
    }
    if uri.path() != "/" || uri.query().is_some() {
        return refuse("it has a path");
    }
    Ok(text.trim_end_matches('/').to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn endpoints_are_checked() {
        assert_eq!(check_endpoint("http://127.0.0.1:7400/").unwrap(), "http://127.0.0.1:7400");
        assert_eq!(check_endpoint("http://[::1]:7400").unwrap(), "http://[::1]:7400");
        for text in
            ["", "127.0.0.1:7400", "https://a", "http://", "http://a/b", "http://a?b", "http://u:p@a", "ftp://a"]
        {
            assert!(matches!(check_endpoint(text), Err(ClientError::Endpoint { .. })), "{text:?}");
        }
    }

    #[test]
    fn a_token_that_would_break_its_header_is_refused() {
        for token in ["", "a b", "a\r\nx: y", "ü"] {
            let options = ClientOptions { token: Some(token.to_owned()), ..ClientOptions::default() };
            assert!(matches!(Transport::new(options), Err(ClientError::Token)), "{token:?}");
        }
    }
}
