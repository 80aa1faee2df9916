//! The oracle's words in those of HTTP, and back.

use client::{Attributes, Client, ClientError, Existing, Upload};
use node::Removal;
use proto::api::{Entry, Stats};
use proto::checksum::digest;
use proto::path::FsPath;

use super::content::Content;
use crate::oracle::model::{Action, Answer, AttributeChange, Refusal};
use crate::oracle::{Counted, Seen, Violation, violation};

/// What is known of an operation that was not acknowledged.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Fate {
    /// It was refused, as the interface says.
    Refused(Refusal),
    /// It never left, or was turned down for want of space or of a turn: it did not happen.
    DidNotHappen,
    /// It may or may not have happened.
    Open,
}

/// The path of a name that clients use, as a type that the client library takes.
pub(super) fn fs_path(path: &str) -> FsPath {
    FsPath::parse(path).expect("invariant: clients use legal paths")
}

fn attributes(change: &AttributeChange) -> Attributes {
    Attributes {
        mode: change.mode,
        mtime_ns: change.mtime_ns,
        content_type: None,
        metadata: change.user_metadata.iter().flatten().cloned().collect(),
    }
}

/// Sends `action`; returns what it was answered, with the entry that came with it.
pub(super) fn send(
    client: &Client,
    action: &Action,
    content: Option<Content>,
) -> Result<(Answer, Option<Entry>), ClientError> {
    let committed =
        |entry: Entry| (Answer::Committed { version: entry.version, created: entry.version == 1 }, Some(entry));
    match action {
        Action::Put { path, attributes: change, .. } => {
            let content = content.expect("invariant: a put has a content");
            let source = &mut content.source();
            client.put(&fs_path(path), Upload::rewindable(source, content.bytes), &attributes(change)).map(committed)
        }
        Action::Restore { path, version, .. } => client.restore(&fs_path(path), *version).map(committed),
        Action::MakeDirectory { path, attributes: change } => {
            client.make_directory(&fs_path(path), &attributes(change)).map(|entry| (Answer::Made, Some(entry)))
        }
        Action::MakeSymlink { path, target, attributes: change } => {
            client.make_symlink(&fs_path(path), target, &attributes(change)).map(|entry| (Answer::Made, Some(entry)))
        }
        Action::Rename { from, to, replace } => {
            let existing = if *replace { Existing::Replace } else { Existing::Keep };
            client.rename(&fs_path(from), &fs_path(to), existing).map(|entry| (Answer::Renamed, Some(entry)))
        }
        Action::Remove { path, how } => {
            let how = match how {
                Removal::Single => client::Removal::Single,
                Removal::Recursive => client::Removal::Tree,
            };
            client.remove(&fs_path(path), how).map(|()| (Answer::Removed, None))
        }
        Action::SetAttributes { path, change } => {
            client.set_attributes(&fs_path(path), &attributes(change)).map(|entry| (Answer::Changed, Some(entry)))
        }
    }
}

/// What `error` leaves of an operation.
///
/// # Errors
/// [`Violation`] if no fault explains it.
pub(super) fn fate(error: &ClientError) -> Result<Fate, Violation> {
    let detail = match error {
        ClientError::Unreachable { .. } => return Ok(Fate::DidNotHappen),
        // An answer that breaks off in its head is none that a server gives.
        ClientError::Interrupted { .. } | ClientError::Protocol { .. } => return Ok(Fate::Open),
        ClientError::Api { detail, .. } => detail,
        other => return Err(violation!("no fault explains {other:?}")),
    };
    Ok(match detail.code.as_str() {
        "not_found" => Fate::Refused(Refusal::NotFound),
        "not_a_directory" => Fate::Refused(Refusal::NotADirectory),
        "is_a_directory" => Fate::Refused(Refusal::IsADirectory),
        "already_exists" => Fate::Refused(Refusal::AlreadyExists),
        "not_empty" => Fate::Refused(Refusal::NotEmpty),
        "into_itself" => Fate::Refused(Refusal::IntoItself),
        "not_a_symlink" => Fate::Refused(Refusal::NotASymlink),
        "not_a_file" => Fate::Refused(Refusal::NotAFile),
        "no_such_version" => Fate::Refused(Refusal::NoSuchVersion),
        "version_expired" => Fate::Refused(Refusal::VersionExpired),
        "precondition_failed" => Fate::Refused(Refusal::ConditionFailedSomehow),
        "no_space" | "busy" => Fate::DidNotHappen,
        "closing" | "poisoned" | "device_failed" | "internal" | "stale" | "timeout" | "idempotency_key_in_use" => {
            Fate::Open
        }
        _ => return Err(violation!("no fault explains {error:?}")),
    })
}

/// An entry as the oracle compares it.
///
/// # Errors
/// [`Violation`] if it is malformed.
pub(super) fn seen(entry: &Entry) -> Result<Seen, Violation> {
    let malformed = || violation!("a malformed entry: {entry:?}");
    Ok(Seen {
        // An id stands for the inode: equal if and only if that is.
        inode: digest(entry.id.as_bytes()) as u64,
        kind: entry.kind,
        version: entry.version,
        size: entry.size,
        mode: entry.mode,
        mtime_ns: client::time::parse_rfc3339_utc_ns(&entry.modified_at).ok_or_else(malformed)?,
        user_metadata: entry.metadata.clone().into_iter().collect(),
        symlink_target: entry.symlink_target.clone(),
    })
}

/// Counters as the oracle compares them.
pub(super) fn counted(stats: &Stats) -> Counted {
    Counted {
        logical_bytes: stats.logical_bytes,
        inline_bytes: None,
        files: stats.files,
        directories: stats.directories,
        symlinks: None,
    }
}
