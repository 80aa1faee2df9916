//! JSON shapes of the REST interface, shared by the server and its clients.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::limits::CONTENT_TYPE_BYTES_MAX;

/// Media type of a file that was stored without one.
pub const DEFAULT_CONTENT_TYPE: &str = "application/octet-stream";

/// Whether `text` can be the media type of a file: `type/subtype`, then anything that is printable ASCII, so that it can
/// end no header.
#[must_use]
pub fn is_content_type(text: &str) -> bool {
    let token = |text: &str| {
        !text.is_empty() && text.bytes().all(|b| b.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&b))
    };
    let essence = text.split_once(';').map_or(text, |(essence, _)| essence).trim_end_matches([' ', '\t']);
    let is_essence = essence.split_once('/').is_some_and(|(major, minor)| token(major) && token(minor));
    is_essence && text.len() <= CONTENT_TYPE_BYTES_MAX && text.bytes().all(|b| b == b' ' || b.is_ascii_graphic())
}

/// What kind of object a name stands for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Kind {
    /// Bytes.
    File,
    /// Names.
    Directory,
    /// A target that clients resolve.
    Symlink,
}

/// How garbage collection goes.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Gc {
    /// The current epoch; each cycle raises it.
    pub epoch: u64,
    /// What the running cycle is doing: `idle`, `expire`, `mark`, `lease`, `sweep`, `free` or
    /// `compact`.
    pub phase: String,
    /// References that it has followed.
    pub marked: u64,
    /// Plain bytes of the chunks that it has moved.
    pub rewritten_bytes: u64,
    /// Runs begun since the start of the server.
    pub runs_begun: u64,
    /// Runs that have ended: run n is done once this is n or more.
    pub runs_ended: u64,
    /// Cycles that went to their end, since the start of the server.
    pub cycles: u64,
    /// Cycles that ended early.
    pub aborted: u64,
    /// Why the last cycle ended early; absent if it did not.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub abort: Option<String>,
    /// What the last cycle did that went to its end.
    pub last: GcCycle,
    /// What all cycles did since the start of the server.
    pub total: GcCycle,
}

/// What one cycle of garbage collection did, or several together.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct GcCycle {
    /// Versions that no retention kept any longer.
    pub expired_versions: u64,
    /// References that were followed.
    pub marked: u64,
    /// References that led nowhere.
    pub missing: u64,
    /// Chunks that nothing referred to any more.
    pub condemned_chunks: u64,
    /// Their bytes after compression.
    pub condemned_bytes: u64,
    /// Garbage that stays, because no readable row table confirms it.
    pub kept_chunks: u64,
    /// Segments whose files were removed.
    pub freed_segments: u64,
    /// Bytes of those files.
    pub freed_bytes: u64,
    /// Chunks that were moved, out of segments that are mostly dead or to lie beside what is alike.
    pub rewritten_chunks: u64,
    /// Their plain bytes.
    pub rewritten_bytes: u64,
    /// Their bytes after compression, where they were.
    pub rewritten_from_bytes: u64,
    /// Their bytes after compression, where they are now.
    pub rewritten_to_bytes: u64,
    /// Chunks that were to be moved and could not be read.
    pub unreadable_chunks: u64,
    /// Why not all was moved that was worth it; absent if all was. The next cycle goes on.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub stopped: Option<String>,
}

/// A run of the collection that was asked for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct GcRun {
    /// Its number, to be compared with [`Gc::runs_ended`].
    pub run: u64,
}

/// A file, directory or symlink, as every call reports it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Entry {
    /// Public id: a UUID version 8 that stays the same across renames and versions.
    pub id: String,
    /// Absolute path.
    pub path: String,
    /// What it is.
    pub kind: Kind,
    /// Version of the content, counted from 1; 0 for directories and symlinks.
    pub version: u64,
    /// Bytes of the current version.
    pub size: u64,
    /// Strong entity tag, with its quotes; changes with every version.
    pub etag: String,
    /// RFC 3339, UTC: when this version was committed (for directories: when they were made).
    pub created_at: String,
    /// RFC 3339, UTC: modification time, the client's own if it sent one.
    pub modified_at: String,
    /// Unix permission bits.
    pub mode: u32,
    /// Where a symlink points.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub symlink_target: Option<String>,
    /// Media type of a file; absent if it is [`DEFAULT_CONTENT_TYPE`].
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub content_type: Option<String>,
    /// User metadata; empty if there is none.
    #[serde(default)]
    pub metadata: BTreeMap<String, String>,
}

/// One page of a directory, ordered by name (bytewise).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Listing {
    /// The directory.
    pub path: String,
    /// Its entries.
    pub entries: Vec<Entry>,
    /// Pass as `cursor` for the next page; absent on the last.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub next_cursor: Option<String>,
}

/// One version of a file.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct VersionEntry {
    /// The file as it was while this was the current version; only `id` and `path` are those of now.
    #[serde(flatten)]
    pub entry: Entry,
    /// RFC 3339, UTC: from when on the retention lets it go, but never before those that are older. Absent for the
    /// current version, as long as no further version comes, and if no rule looks at the clock.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub expires_at: Option<String>,
    /// Whether no rule keeps it now: the next pass takes it.
    #[serde(skip_serializing_if = "is_false", default)]
    pub expired: bool,
}

/// Which earlier versions stay: each as long as one of the rules keeps it. Either `keep_everything`, or at least one of
/// the others.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Retention {
    /// Keeps the newest versions, the current one among them; at least 1.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub keep: Option<u32>,
    /// Keeps a version until so many seconds after the next one was committed; at least 1.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub keep_for_seconds: Option<u64>,
    /// Keeps every version.
    #[serde(skip_serializing_if = "is_false", default)]
    pub keep_everything: bool,
}

/// The retention of an object.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RetentionInfo {
    /// The object.
    pub path: String,
    /// Its own, if it is a directory that has one.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub own: Option<Retention>,
    /// What holds for the versions of a file, or of the files in a directory.
    pub in_force: Retention,
    /// Path of the directory that this comes from; absent if nothing was set.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub from: Option<String>,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde asks so")]
fn is_false(flag: &bool) -> bool {
    !flag
}

/// One page of the versions of a file, newest first.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct VersionList {
    /// The file.
    pub path: String,
    /// Its versions.
    pub versions: Vec<VersionEntry>,
    /// Pass as `after` for the next page; absent on the last.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub next_after: Option<u64>,
}

/// How scattered a version of a file lies on the disks.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct FragmentInfo {
    /// The file.
    pub path: String,
    /// The version.
    pub version: u64,
    /// Its bytes.
    pub size: u64,
    /// Its chunks; 0 if it lies inline with the metadata.
    pub chunks: u64,
    /// Runs of chunks that follow one another on a disk: what reading it from end to end has to go to.
    pub fragments: u64,
}

/// What happened to an object.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum EventKind {
    /// It is new.
    Create,
    /// A file has a new version.
    Commit,
    /// It has another path.
    Rename,
    /// It is gone.
    Delete,
    /// It has other attributes.
    Attributes,
    /// A file has a new version with the content of an earlier one.
    Restore,
}

/// One change of the namespace.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Event {
    /// Its place in the order of all changes; pass as `since` to go on after it.
    pub cursor: String,
    /// What happened.
    pub event: EventKind,
    /// Public id of the object.
    pub id: String,
    /// What it is.
    pub kind: Kind,
    /// Absolute path after the change, or before it was deleted.
    pub path: String,
    /// Absolute path before a rename.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub from: Option<String>,
    /// Version of a file after the change, or before it was deleted; 0 for directories and symlinks.
    pub version: u64,
    /// The version that a restore brought back.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub restored_version: Option<u64>,
    /// RFC 3339, UTC.
    pub at: String,
}

/// Changes of the namespace, in the order in which they were made.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct EventPage {
    /// The changes.
    pub events: Vec<Event>,
    /// Pass as `since` for what comes next.
    pub cursor: String,
}

/// Where the space went.
///
/// ```text
///   logical + unreferenced − duplicate − compression − similarity = stored
///   stored + dead + redundancy + reserved + metadata              = raw
/// ```
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Stats {
    /// Bytes of all retained versions of all files, as clients wrote them.
    pub logical_bytes: u64,
    /// Saved by storing equal chunks once: `logical_bytes − unique_bytes`; 0 if that is negative.
    pub duplicate_bytes: u64,
    /// `unique_bytes − logical_bytes`; 0 if that is negative. So much, at least, is of no file: garbage that was not
    /// collected yet, and lists of chunks.
    pub unreferenced_bytes: u64,
    /// Plain bytes of distinct chunks, and of inline files.
    pub unique_bytes: u64,
    /// Saved by compressing chunks each by itself.
    pub compression_bytes: u64,
    /// Saved by compressing chunks together with similar ones: all that is saved of those that share a block.
    pub similarity_bytes: u64,
    /// What is left of the unique bytes, before redundancy.
    pub stored_bytes: u64,
    /// The rest of the data columns: what no entry of the index names, headers, tables, padding, checkpoints.
    pub dead_bytes: u64,
    /// What was written to parity columns.
    pub redundancy_bytes: u64,
    /// Reserved in open segments for what comes next.
    pub reserved_bytes: u64,
    /// Metadata logs, snapshots and superblocks, without the inline files in them, which are stored bytes.
    pub metadata_bytes: u64,
    /// Bytes taken on the disks, everything included.
    pub raw_bytes: u64,
    /// Distinct chunks.
    pub chunks: u64,
    /// Files.
    pub files: u64,
    /// Directories, the root included.
    pub directories: u64,
    /// `logical_bytes / unique_bytes`; 1 when empty.
    pub dedup_ratio: f64,
    /// `unique_bytes / stored_bytes`; 1 when empty.
    pub compression_ratio: f64,
    /// `logical_bytes / stored_bytes`; 1 when empty.
    pub reduction_ratio: f64,
    /// Bytes of the disks.
    pub capacity_bytes: u64,
    /// Bytes of the disks that are still free.
    pub free_bytes: u64,
}

/// The one shape of every error.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ErrorBody {
    /// The error.
    pub error: ErrorDetail,
}

/// What went wrong and what to do.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ErrorDetail {
    /// Stable, machine-readable: `not_found`, `already_exists`, `not_empty`, …
    pub code: String,
    /// For people: what happened, and what to do next.
    pub message: String,
    /// Whether the same request may succeed later.
    pub retryable: bool,
}

/// Request headers that carry attributes, and their spelling.
pub mod header {
    /// Path of the file to create, percent-encoded, for `POST /api/v1/files`.
    pub const FILE_PATH: &str = "x-file-path";
    /// Unix permission bits in octal, e.g. `644`.
    pub const MODE: &str = "x-dfs-mode";
    /// Modification time in nanoseconds since the Unix epoch.
    pub const MTIME_NS: &str = "x-dfs-mtime-ns";
    /// Prefix of user metadata: `X-Meta-Colour: blue` sets `colour`; the value is percent-encoded UTF-8.
    pub const USER_METADATA_PREFIX: &str = "x-meta-";
    /// Random number of a client (16 hex digits), for exactly-once with [`SEQUENCE`].
    pub const CLIENT: &str = "x-dfs-client";
    /// Number of a request of that client, decimal; the same number again returns the first answer.
    pub const SEQUENCE: &str = "x-dfs-sequence";
    /// Key under which a repetition of the request is known again, chosen by the client.
    pub const IDEMPOTENCY_KEY: &str = "idempotency-key";
    /// The oldest cursor from which changes can still be read, in the answer to one that is older.
    pub const OLDEST_CURSOR: &str = "x-dfs-oldest-cursor";
    /// Version of the content that a response carries.
    pub const VERSION: &str = "x-dfs-version";
    /// Kind of the object that a response describes.
    pub const KIND: &str = "x-dfs-kind";
    /// Public id of the object that a response describes.
    pub const FILE_ID: &str = "x-dfs-id";
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn media_types_can_end_no_header() {
        for text in ["text/plain", DEFAULT_CONTENT_TYPE, "text/html; charset=\"utf-8\"", "a/b;c", "image/svg+xml ;q=1"]
        {
            assert!(is_content_type(text), "{text}");
        }
        let long = format!("a/{}", "b".repeat(CONTENT_TYPE_BYTES_MAX));
        for text in ["", "text", "/", "a/", "/b", "a/b/c", "a b/c", "a/b\r\nx: y", "a/b;\n", "a/b;\0", "a/b;ü", &long]
        {
            assert!(!is_content_type(text), "{text:?}");
        }
        assert!(is_content_type(&long[..CONTENT_TYPE_BYTES_MAX]));
    }
}
