//! JSON shapes of the REST interface, shared by the server and its clients.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

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

/// Where the space went.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Stats {
    /// Bytes of all retained versions of all files, as clients wrote them.
    pub logical_bytes: u64,
    /// Plain bytes of distinct chunks, and of inline files.
    pub unique_bytes: u64,
    /// The same after compression, before redundancy.
    pub stored_bytes: u64,
    /// Bytes taken on the disks, everything included: redundancy, headers, logs, preallocation.
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
    /// Version of the content that a response carries.
    pub const VERSION: &str = "x-dfs-version";
    /// Kind of the object that a response describes.
    pub const KIND: &str = "x-dfs-kind";
    /// Public id of the object that a response describes.
    pub const FILE_ID: &str = "x-dfs-id";
}
