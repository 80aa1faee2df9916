//! What can go wrong, by what the caller should do about it.

use std::io;

use proto::api::{ErrorDetail, Kind};

use crate::DEFAULT_ENDPOINT;

/// Why a call failed.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// Correct the endpoint.
    #[error(
        "the endpoint {endpoint:?} cannot be used: {reason}; write it as http://HOST:PORT, e.g. {DEFAULT_ENDPOINT}"
    )]
    Endpoint {
        /// As given.
        endpoint: String,
        /// What is wrong with it.
        reason: &'static str,
    },
    /// Correct the token: it was empty or held characters that no token has.
    #[error(
        "the token is empty or holds spaces or control characters; use the contents of DATA/root-token as they are"
    )]
    Token,
    /// Rename the metadata key.
    #[error("the metadata name {name:?} cannot travel in a header; use a-z, 0-9, '-', '_' and '.' only")]
    MetadataName {
        /// As given.
        name: String,
    },
    /// Correct the media type.
    #[error("{content_type:?} is not a media type; write it like text/plain")]
    ContentType {
        /// As given.
        content_type: String,
    },
    /// Start the server, or name the right endpoint. Nothing was sent.
    #[error(
        "cannot reach dfsd at {endpoint}: {source}. Is it running? Start it with `dfsd serve --data DIR`, or name \
         another endpoint with --endpoint or DFS_ENDPOINT"
    )]
    Unreachable {
        /// Where.
        endpoint: String,
        /// Why.
        source: io::Error,
    },
    /// Pass the right token.
    #[error(
        "dfsd at {endpoint} did not accept the token ({message}). Pass --token-file DATA/root-token, or set \
         DFS_TOKEN_FILE or DFS_TOKEN"
    )]
    Unauthorized {
        /// Where.
        endpoint: String,
        /// The server's words.
        message: String,
    },
    /// The server refused, and says why and what to do; see [`ErrorDetail::retryable`].
    #[error("{}", detail.message)]
    Api {
        /// HTTP status.
        status: u16,
        /// The server's answer.
        detail: ErrorDetail,
    },
    /// The connection was lost and every allowed retry failed too. Repeat the call; a change may have happened.
    #[error("the connection to dfsd at {endpoint} was lost: {source}. Run the same command again")]
    Interrupted {
        /// Where.
        endpoint: String,
        /// Why.
        source: io::Error,
    },
    /// The caller's own reader failed; nothing was committed.
    #[error("cannot read what was to be uploaded: {0}")]
    Source(io::Error),
    /// The caller's reader ended before the promised length; nothing was committed.
    #[error("the source ended after {seen} of {promised} bytes: it shrank while it was being read")]
    SourceShort {
        /// Length that was announced.
        promised: u64,
        /// Bytes that came.
        seen: u64,
    },
    /// The file was replaced between two parts of a download. Start the download again.
    #[error("{path} was replaced while it was being downloaded; download it again")]
    Replaced {
        /// Remote path.
        path: String,
    },
    /// The path names something else than the call is for.
    #[error("{path} is a {}, not a {}", kind_name(*.found), kind_name(*.wanted))]
    WrongKind {
        /// Remote path.
        path: String,
        /// What it is.
        found: Kind,
        /// What the call needs.
        wanted: Kind,
    },
    /// The answer is not one that `dfsd` gives: check that the endpoint is a `dfsd` of a compatible version.
    #[error("{endpoint} gave an answer that dfsd would not give ({reason}); is the endpoint right?")]
    Protocol {
        /// Where.
        endpoint: String,
        /// What is wrong with it.
        reason: String,
    },
}

/// English name of `kind`.
fn kind_name(kind: Kind) -> &'static str {
    match kind {
        Kind::File => "file",
        Kind::Directory => "directory",
        Kind::Symlink => "symlink",
    }
}

impl ClientError {
    /// Whether the same call may succeed later without the caller changing anything.
    #[must_use]
    pub fn is_retryable(&self) -> bool {
        match self {
            ClientError::Unreachable { .. } | ClientError::Interrupted { .. } | ClientError::Replaced { .. } => true,
            ClientError::Api { detail, .. } => detail.retryable,
            _ => false,
        }
    }

    /// Stable, machine-readable code: the server's own, or one of this client's.
    #[must_use]
    pub fn code(&self) -> &str {
        match self {
            ClientError::Endpoint { .. } => "invalid_endpoint",
            ClientError::Token => "invalid_token",
            ClientError::MetadataName { .. } => "invalid_metadata",
            ClientError::ContentType { .. } => "invalid_content_type",
            ClientError::Unreachable { .. } => "unreachable",
            ClientError::Unauthorized { .. } => "unauthorized",
            ClientError::Api { detail, .. } => &detail.code,
            ClientError::Interrupted { .. } => "interrupted",
            ClientError::Source(_) => "source_failed",
            ClientError::SourceShort { .. } => "source_changed",
            ClientError::Replaced { .. } => "replaced",
            ClientError::WrongKind { found: Kind::Directory, .. } => "is_a_directory",
            ClientError::WrongKind { wanted: Kind::Directory, .. } => "not_a_directory",
            ClientError::WrongKind { .. } => "wrong_kind",
            ClientError::Protocol { .. } => "protocol",
        }
    }

    /// Whether the server said that nothing has this name.
    #[must_use]
    pub fn is_not_found(&self) -> bool {
        matches!(self, ClientError::Api { status: 404, .. })
    }

    /// Whether the server said that the name is taken.
    #[must_use]
    pub fn is_already_exists(&self) -> bool {
        matches!(self, ClientError::Api { detail, .. } if detail.code == "already_exists")
    }

    /// Takes the error of a [`crate::Download`] out of the `io::Error` that carried it through [`io::Read`].
    ///
    /// # Errors
    /// The `io::Error` itself, if it came from elsewhere.
    pub fn from_io(error: io::Error) -> Result<ClientError, io::Error> {
        error.downcast::<ClientError>()
    }
}
