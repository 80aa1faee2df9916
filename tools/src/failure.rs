//! What can go wrong: its words, its exit code, its JSON.

use std::io;
use std::path::PathBuf;

use client::ClientError;
use proto::api::{ErrorBody, ErrorDetail};
use proto::path::PathError;

use crate::output::printable;

/// The command was not carried out.
const EXIT_FAILED: u8 = 1;
/// The arguments make no sense.
pub(crate) const EXIT_USAGE: u8 = 2;
/// Nothing has that name.
const EXIT_NOT_FOUND: u8 = 3;
/// The token was not accepted.
const EXIT_UNAUTHORIZED: u8 = 4;
/// No server answered.
const EXIT_UNREACHABLE: u8 = 5;
/// Something with that name is in the way, or is of another kind.
const EXIT_CONFLICT: u8 = 6;
/// The same command may succeed later.
const EXIT_RETRYABLE: u8 = 7;

/// What the server calls a request to replace, move or remove the root directory, whatever the token.
const CODE_ROOT: &str = "root";

/// Why a command, or one file of it, failed.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Failure {
    /// Correct the command line.
    #[error("{0}")]
    Usage(String),
    /// Correct the remote path.
    #[error("the remote path {path:?} is not usable: {source}")]
    RemotePath { path: String, source: PathError },
    /// The server, or the way to it; see the variants of [`ClientError`].
    #[error("{}: {source}", path)]
    Remote { path: String, source: ClientError },
    /// The same, where no remote path is concerned.
    #[error(transparent)]
    Client(ClientError),
    /// Another one, with what to type instead.
    #[error("{failure} ({hint})")]
    Hinted { failure: Box<Failure>, hint: &'static str },
    /// The local file system refused.
    #[error("cannot {action} {}: {source}", path.display())]
    Local { action: &'static str, path: PathBuf, source: io::Error },
    /// Rename the local file.
    #[error("{}: the name is not UTF-8, which DFS requires; rename it", path.display())]
    NotUtf8 { path: PathBuf },
    /// Put the file again when nobody writes to it.
    #[error("{} changed while it was being read; what was stored may mix old and new, so put it again", path.display())]
    Changed { path: PathBuf },
    /// Name another local target.
    #[error("{} exists and is not a regular file; name another target, or '-' for standard output", path.display())]
    SpecialTarget { path: PathBuf },
    /// Use `-r`, or name a file.
    #[error("{}: {reason}", path.display())]
    WrongLocalKind { path: PathBuf, reason: &'static str },
    /// Some files of a tree failed; they were reported one by one.
    #[error("{failed} of {total} could not be transferred; the rest was. Run the same command again to complete it")]
    Partial { failed: usize, total: usize },
    /// A tree was given up because every further file would fail alike; the cause was reported.
    #[error("gave up after {done} of the tree: {cause}")]
    GivenUp { done: usize, cause: Box<Failure> },
    /// Remove the cause and run it again.
    #[error("the collection of garbage ended early, and removed nothing in that cycle: {why}")]
    Collection { why: String },
    /// What was garbage is not all gone. Remove the cause and run it again.
    #[error("compaction was not finished: {why}")]
    Unfinished { why: String },
    /// Nobody reads the output any more, or it cannot be written.
    #[error("cannot write to standard output: {0}")]
    Output(io::Error),
}

impl Failure {
    /// A failure of a call about `path`, which is named in front unless the words name it already or it is beside the
    /// point.
    pub(crate) fn remote(path: impl ToString, source: ClientError) -> Failure {
        match source {
            ClientError::Unreachable { .. }
            | ClientError::Unauthorized { .. }
            | ClientError::Endpoint { .. }
            | ClientError::Token
            | ClientError::MetadataName { .. }
            | ClientError::ContentType { .. }
            | ClientError::WrongKind { .. }
            | ClientError::Replaced { .. } => Failure::Client(source),
            ClientError::Api { ref detail, .. } if detail.message.contains(&path.to_string()) => {
                Failure::Client(source)
            }
            source => Failure::Remote { path: path.to_string(), source },
        }
    }

    /// A failure of the local file system.
    pub(crate) fn local(action: &'static str, path: impl Into<PathBuf>, source: impl Into<io::Error>) -> Failure {
        Failure::Local { action, path: path.into(), source: source.into() }
    }

    /// Adds what to type instead.
    pub(crate) fn hinted(self, hint: &'static str) -> Failure {
        Failure::Hinted { failure: Box::new(self), hint }
    }

    /// Adds what to type instead, if the code is `code`.
    pub(crate) fn hinted_if(self, code: &str, hint: &'static str) -> Failure {
        if self.code() == code { self.hinted(hint) } else { self }
    }

    fn client_error(&self) -> Option<&ClientError> {
        match self {
            Failure::Remote { source, .. } | Failure::Client(source) => Some(source),
            Failure::Hinted { failure, .. } => failure.client_error(),
            _ => None,
        }
    }

    /// Whether every further file of a tree would fail in the same way.
    pub(crate) fn concerns_all(&self) -> bool {
        let concerns_all = |error: &ClientError| {
            matches!(
                error,
                ClientError::Unreachable { .. } | ClientError::Unauthorized { .. } | ClientError::Interrupted { .. }
            )
        };
        self.client_error().is_some_and(concerns_all)
    }

    /// Stable, machine-readable code.
    pub(crate) fn code(&self) -> &str {
        match self {
            Failure::Usage(_) => "usage",
            Failure::RemotePath { .. } => "invalid_path",
            Failure::Remote { source, .. } | Failure::Client(source) => source.code(),
            Failure::Hinted { failure, .. } => failure.code(),
            Failure::Local { source, .. } if source.kind() == io::ErrorKind::NotFound => "local_not_found",
            Failure::Local { .. } => "local_io",
            Failure::NotUtf8 { .. } => "local_name_not_utf8",
            Failure::Changed { .. } => "source_changed",
            Failure::SpecialTarget { .. } | Failure::WrongLocalKind { .. } => "local_wrong_kind",
            Failure::Partial { .. } => "partial",
            Failure::GivenUp { cause, .. } => cause.code(),
            Failure::Collection { .. } => "collection_aborted",
            Failure::Unfinished { .. } => "compaction_unfinished",
            Failure::Output(_) => "output",
        }
    }

    /// Whether the same command may succeed later.
    pub(crate) fn is_retryable(&self) -> bool {
        match self {
            Failure::Changed { .. } => true,
            Failure::GivenUp { cause, .. } => cause.is_retryable(),
            other => other.client_error().is_some_and(ClientError::is_retryable),
        }
    }

    /// Documented in the help of `dfs`.
    pub(crate) fn exit_code(&self) -> u8 {
        match self {
            Failure::Usage(_) | Failure::RemotePath { .. } => EXIT_USAGE,
            Failure::Local { source, .. } if source.kind() == io::ErrorKind::NotFound => EXIT_NOT_FOUND,
            Failure::SpecialTarget { .. } | Failure::WrongLocalKind { .. } => EXIT_CONFLICT,
            Failure::GivenUp { cause, .. } => cause.exit_code(),
            Failure::Hinted { failure, .. } => failure.exit_code(),
            // As of `dfs ls | head`: the reader has seen what it wanted.
            Failure::Output(error) if error.kind() == io::ErrorKind::BrokenPipe => 0,
            other => match other.client_error() {
                Some(
                    ClientError::Endpoint { .. }
                    | ClientError::Token
                    | ClientError::MetadataName { .. }
                    | ClientError::ContentType { .. },
                ) => EXIT_USAGE,
                Some(ClientError::Unauthorized { .. }) => EXIT_UNAUTHORIZED,
                Some(ClientError::Unreachable { .. }) => EXIT_UNREACHABLE,
                Some(ClientError::WrongKind { .. }) => EXIT_CONFLICT,
                Some(ClientError::Api { status: 404, .. }) => EXIT_NOT_FOUND,
                // Of a proxy before the server: the server itself has no permissions, only things that nobody may do.
                Some(ClientError::Api { status: 403, detail }) if detail.code != CODE_ROOT => EXIT_UNAUTHORIZED,
                Some(ClientError::Api { status: 409 | 412, .. }) => EXIT_CONFLICT,
                Some(error) if error.is_retryable() => EXIT_RETRYABLE,
                _ => EXIT_FAILED,
            },
        }
    }

    /// The JSON of this failure.
    pub(crate) fn detail(&self) -> ErrorDetail {
        ErrorDetail { code: self.code().to_owned(), message: self.to_string(), retryable: self.is_retryable() }
    }

    /// Tells it on stderr.
    pub(crate) fn report(&self, json: bool) {
        if self.exit_code() == 0 {
            return;
        }
        if json {
            let body = ErrorBody { error: self.detail() };
            eprintln!("{}", serde_json::to_string(&body).expect("invariant: strings and flags are always JSON"));
        } else {
            eprintln!("dfs: {}", printable(&self.to_string()));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refused(status: u16, code: &str) -> Failure {
        let detail = ErrorDetail { code: code.to_owned(), message: "no".to_owned(), retryable: false };
        Failure::remote("/", ClientError::Api { status, detail })
    }

    #[test]
    fn what_no_token_may_do_does_not_blame_the_token() {
        assert_eq!(refused(403, "root").exit_code(), EXIT_FAILED);
        assert_eq!(refused(403, "root").hinted("an aside").exit_code(), EXIT_FAILED);
        assert_eq!(refused(403, "forbidden").exit_code(), EXIT_UNAUTHORIZED);
        let unauthorized = ClientError::Unauthorized { endpoint: "http://dfs".to_owned(), message: "no".to_owned() };
        assert_eq!(Failure::remote("/", unauthorized).exit_code(), EXIT_UNAUTHORIZED);
    }
}
