//! How a client reaches its server, and how patient it is.

use std::fmt;
use std::time::Duration;

/// Where `dfsd` listens unless told otherwise.
pub const DEFAULT_ENDPOINT: &str = "http://127.0.0.1:7400";

/// How a client reaches its server, and how patient it is.
#[derive(Clone)]
pub struct ClientOptions {
    /// `http://HOST:PORT`.
    pub endpoint: String,
    /// Bearer token; a server answers 401 without one.
    pub token: Option<String>,
    /// Longest wait for a connection.
    pub connect_timeout: Duration,
    /// Longest wait for the next byte in either direction; bounds silence, not the length of a transfer.
    pub idle_timeout: Duration,
    /// What happens after a lost connection or a retryable error.
    pub retry: RetryPolicy,
    /// Connections kept open between calls; as many as there are threads that use the client.
    pub idle_connections_max: usize,
}

/// Bounded retries with exponential, jittered waits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RetryPolicy {
    /// Attempts of one request, the first included; at least 1.
    pub attempts_max: u32,
    /// Wait before the second attempt; doubles with every further one.
    pub backoff_min: Duration,
    /// Longest wait between two attempts.
    pub backoff_max: Duration,
}

impl Default for RetryPolicy {
    /// Bridges a restart of the server of six seconds at least, thirteen at most.
    fn default() -> RetryPolicy {
        RetryPolicy { attempts_max: 12, backoff_min: Duration::from_millis(50), backoff_max: Duration::from_secs(2) }
    }
}

impl RetryPolicy {
    /// Longest wait after `attempt` (counted from 1) has failed.
    #[must_use]
    pub fn backoff(&self, attempt: u32) -> Duration {
        let doublings = attempt.saturating_sub(1).min(16);
        self.backoff_min.saturating_mul(1 << doublings).min(self.backoff_max)
    }
}

impl Default for ClientOptions {
    fn default() -> ClientOptions {
        ClientOptions {
            endpoint: DEFAULT_ENDPOINT.to_owned(),
            token: None,
            connect_timeout: Duration::from_secs(5),
            idle_timeout: Duration::from_secs(60),
            retry: RetryPolicy::default(),
            idle_connections_max: 16,
        }
    }
}

impl fmt::Debug for ClientOptions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ClientOptions")
            .field("endpoint", &self.endpoint)
            .field("token", &self.token.as_ref().map(|_| "(hidden)"))
            .field("connect_timeout", &self.connect_timeout)
            .field("idle_timeout", &self.idle_timeout)
            .field("retry", &self.retry)
            .field("idle_connections_max", &self.idle_connections_max)
            .finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn backoff_doubles_up_to_its_bound() {
        let policy = RetryPolicy::default();
        assert_eq!(policy.backoff(1), Duration::from_millis(50));
        assert_eq!(policy.backoff(2), Duration::from_millis(100));
        assert_eq!(policy.backoff(u32::MAX), policy.backoff_max);
        let longest: Duration = (1..policy.attempts_max).map(|attempt| policy.backoff(attempt)).sum();
        assert_eq!(longest, Duration::from_millis(13_150));
    }

    #[test]
    fn the_token_is_never_printed() {
        let options = ClientOptions { token: Some("s3cret".into()), ..ClientOptions::default() };
        assert!(!format!("{options:?}").contains("s3cret"));
    }
}
