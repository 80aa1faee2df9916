//! What the keys lead to. Each value is a version byte and rkyv; see [`crate::keys`] for who has which.

#![allow(missing_docs, reason = "rkyv derives public resolvers whose fields it leaves undocumented")]

use proto::api::{DEFAULT_CONTENT_TYPE, Kind};
use proto::disk::{FormatError, WRAPPED_KEY_BYTES};
use proto::port::WrappedKey;
use proto::{DeviceId, DomainId, InodeId, SegmentId, VersionNumber};
use rkyv::with::Map;
use rkyv::{Archive, Deserialize, Serialize};

use crate::codec::{DeviceIdDef, DomainIdDef, InodeIdDef, KindDef, SegmentIdDef, Stored, VersionNumberDef, access};
use crate::command::{Content, Response};
use crate::keys::{self, KeyKind};
use crate::retention::Retention;

/// A file, directory or symlink, whatever its name.
#[derive(Clone, Debug, PartialEq, Eq, Archive, Serialize, Deserialize)]
pub struct Inode {
    /// Its number, never reused.
    #[rkyv(with = InodeIdDef)]
    pub inode: InodeId,
    /// What it is.
    #[rkyv(with = KindDef)]
    pub kind: Kind,
    /// The directory that it is in; the root is in itself.
    #[rkyv(with = InodeIdDef)]
    pub parent: InodeId,
    /// Its name there; empty for the root.
    pub name: String,
    /// Unix permission bits.
    pub mode: u32,
    /// The principal that owns it.
    pub owner: u64,
    /// Names that lead here; always 1 so far.
    pub nlink: u32,
    /// When it was made, in nanoseconds since the Unix epoch.
    pub created_ns: u64,
    /// When the current version was committed, in nanoseconds since the Unix epoch; as `created_ns` for directories
    /// and symlinks.
    pub committed_ns: u64,
    /// Modification time in nanoseconds since the Unix epoch: the client's own, or when a directory last changed.
    pub mtime_ns: u64,
    /// Current version of a file, counted from 1; 0 for directories and symlinks.
    #[rkyv(with = VersionNumberDef)]
    pub version: VersionNumber,
    /// Plain bytes of the current version.
    pub size: u64,
    /// What only objects of its kind have.
    pub detail: Detail,
    /// User metadata, in the order it was given.
    pub user_metadata: Vec<(String, String)>,
}

/// What only objects of one kind have; one field, because no object has two of them.
#[derive(Clone, Debug, Default, PartialEq, Eq, Archive, Serialize, Deserialize)]
pub enum Detail {
    /// Nothing.
    #[default]
    None,
    /// Media type of the current version of a file; the default type is not kept.
    ContentType(String),
    /// Where a symlink points.
    Target(String),
}

impl Detail {
    /// The detail of a file with this media type.
    pub(crate) fn of_file(content_type: Option<&str>) -> Detail {
        match content_type {
            None | Some(DEFAULT_CONTENT_TYPE) => Detail::None,
            Some(content_type) => Detail::ContentType(content_type.to_owned()),
        }
    }
}

impl Inode {
    /// Media type of a file; `None` for the default type.
    #[must_use]
    pub fn content_type(&self) -> Option<&str> {
        match &self.detail {
            Detail::ContentType(content_type) => Some(content_type),
            Detail::None | Detail::Target(_) => None,
        }
    }

    /// Where a symlink points.
    #[must_use]
    pub fn symlink_target(&self) -> Option<&str> {
        match &self.detail {
            Detail::Target(target) => Some(target),
            Detail::None | Detail::ContentType(_) => None,
        }
    }

    /// What is kept of the current version when another takes its place.
    pub(crate) fn past(&self) -> Past {
        Past {
            committed_ns: self.committed_ns,
            mtime_ns: self.mtime_ns,
            size: self.size,
            mode: self.mode,
            content_type: self.content_type().map(str::to_owned),
            user_metadata: self.user_metadata.clone(),
        }
    }
}

/// What the inode of a file said while an earlier version was the current one. The current version has none: files
/// that were written once cost nothing.
#[derive(Clone, Debug, PartialEq, Eq, Archive, Serialize, Deserialize)]
pub struct Past {
    /// When it was committed, in nanoseconds since the Unix epoch.
    pub committed_ns: u64,
    /// Its modification time in nanoseconds since the Unix epoch.
    pub mtime_ns: u64,
    /// Its plain bytes.
    pub size: u64,
    /// Its Unix permission bits.
    pub mode: u32,
    /// Its media type; `None` for the default type.
    pub content_type: Option<String>,
    /// Its user metadata.
    pub user_metadata: Vec<(String, String)>,
}

/// One name of a directory.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Archive, Serialize, Deserialize)]
pub(crate) struct Name {
    #[rkyv(with = InodeIdDef)]
    pub(crate) inode: InodeId,
    #[rkyv(with = KindDef)]
    pub(crate) kind: Kind,
    /// The directory's version with which the name came.
    pub(crate) generation: u64,
}

/// A directory as such.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Archive, Serialize, Deserialize)]
pub(crate) struct Directory {
    /// Raised with every change of its names.
    pub(crate) version: u64,
    /// Fragments that its names are spread over; always 1 so far.
    pub(crate) fragments: u16,
    /// Names.
    pub(crate) entries: u64,
    /// Its own retention; without one, that of the directory that it is in.
    pub(crate) retention: Option<Retention>,
}

/// One version of a file.
#[derive(Clone, Debug, PartialEq, Eq, Archive, Serialize, Deserialize)]
pub(crate) struct Version {
    pub(crate) content: Content,
}

/// One change of the namespace, as watchers learn of it.
#[derive(Clone, Debug, PartialEq, Eq, Archive, Serialize, Deserialize)]
pub struct Event {
    /// What happened.
    pub change: Change,
    /// To which object.
    #[rkyv(with = InodeIdDef)]
    pub inode: InodeId,
    /// What it is.
    #[rkyv(with = KindDef)]
    pub kind: Kind,
    /// Version of a file after the change, or before it was deleted; 0 for directories and symlinks.
    #[rkyv(with = VersionNumberDef)]
    pub version: VersionNumber,
    /// When, in nanoseconds since the Unix epoch: the time of the command, which may run behind that of one before it.
    pub at_ns: u64,
    /// Absolute path after the change, or before the object was deleted. One of more than
    /// [`proto::limits::PATH_DEPTH_MAX`] names starts with `/..`, which no other path does, and has the last of them.
    pub path: String,
}

/// What happened to an object.
#[derive(Clone, Debug, PartialEq, Eq, Archive, Serialize, Deserialize)]
pub enum Change {
    /// It is new.
    Created,
    /// A file has a new version.
    Committed,
    /// It has another name; so has everything below a directory, without an event of its own.
    Renamed {
        /// Absolute path before.
        from: String,
    },
    /// It is gone, with all versions.
    Deleted,
    /// It has other attributes.
    Attributes,
    /// A file has a new version with the bytes and attributes of an earlier one.
    Restored {
        /// The earlier one.
        #[rkyv(with = VersionNumberDef)]
        version: VersionNumber,
    },
}

/// Which events there are: those from `oldest` on, before `next`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Archive, Serialize, Deserialize)]
pub(crate) struct EventClock {
    pub(crate) oldest: u64,
    pub(crate) next: u64,
    /// Bytes of their keys and values.
    pub(crate) bytes: u64,
}

impl Default for EventClock {
    fn default() -> EventClock {
        // Cursors are counted from 1: 0 lies before the first.
        EventClock { oldest: 1, next: 1, bytes: 0 }
    }
}

/// The exactly-once window of a client.
#[derive(Clone, Debug, PartialEq, Eq, Archive, Serialize, Deserialize)]
pub(crate) struct ClientWindow {
    /// When it was last used, on the session clock.
    pub(crate) touch: u64,
    /// Requests below this number are refused.
    pub(crate) window_from: u64,
    /// Remembered answers, ascending by number.
    pub(crate) results: Vec<(u64, Response)>,
}

/// The answer to a request that had a key.
#[derive(Clone, Debug, PartialEq, Eq, Archive, Serialize, Deserialize)]
pub(crate) struct Once {
    /// Digest of the request.
    pub(crate) fingerprint: [u8; 16],
    pub(crate) response: Response,
}

/// A key, in the order in which they were used.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Archive, Serialize, Deserialize)]
pub(crate) struct OnceKey(pub(crate) [u8; 16]);

/// Which keys are remembered: those from number `oldest` on, before `next`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Archive, Serialize, Deserialize)]
pub(crate) struct OnceClock {
    pub(crate) oldest: u64,
    pub(crate) next: u64,
}

/// Counts the uses of exactly-once windows.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Archive, Serialize, Deserialize)]
pub(crate) struct SessionClock {
    pub(crate) touches: u64,
    pub(crate) clients: u64,
}

/// A number of its own: a client, a counter, an epoch.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Archive, Serialize, Deserialize)]
pub(crate) struct Number(pub(crate) u64);

/// Totals, kept in the same apply as what they count.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Archive, Serialize, Deserialize)]
pub struct Counters {
    /// Plain bytes of all retained versions of all files.
    pub logical_bytes: u64,
    /// Those of them that lie inline with the metadata.
    pub inline_bytes: u64,
    /// Files.
    pub files: u64,
    /// Directories, the root included.
    pub directories: u64,
    /// Symlinks.
    pub symlinks: u64,
}

/// A segment that the log lists.
#[derive(Clone, Debug, PartialEq, Eq, Archive, Serialize, Deserialize)]
pub struct SegmentRecord {
    /// The segment.
    #[rkyv(with = SegmentIdDef)]
    pub segment: SegmentId,
    /// The device of each column, data first.
    #[rkyv(with = Map<DeviceIdDef>)]
    pub members: Vec<DeviceId>,
    /// Data columns.
    pub k: u8,
    /// Parity columns.
    pub m: u8,
    /// The stream of the log that lists it; 0 so far.
    pub stream: u32,
    /// When it was opened, in nanoseconds since the Unix epoch.
    pub opened_ns: u64,
    /// How often compaction moved what it holds; 0 for what clients' writes fill.
    pub generation: u8,
    /// What has become of it.
    pub state: SegmentState,
}

/// What has become of a segment.
#[derive(Clone, Debug, PartialEq, Eq, Archive, Serialize, Deserialize)]
pub enum SegmentState {
    /// Rows are being appended, or were when the node stopped.
    Open,
    /// It takes no more rows.
    Sealed {
        /// Byte offset of the footer in each column; empty if none was written.
        footer_offsets: Vec<u64>,
    },
    /// Nothing in it is needed: its files may be removed.
    Freed,
}

/// A dedup domain.
#[derive(Clone, Debug, PartialEq, Eq, Archive, Serialize, Deserialize)]
pub struct DomainRecord {
    /// The domain.
    #[rkyv(with = DomainIdDef)]
    pub domain: DomainId,
    /// Number of the chunker that cuts its files.
    pub chunker: u32,
    /// Number of the ring key that wraps the domain's key.
    pub ring_key: u32,
    /// Nonce of the wrapping.
    pub wrap_nonce: [u8; 12],
    /// The domain's key under the ring key.
    pub wrapped_key: [u8; WRAPPED_KEY_BYTES],
}

impl DomainRecord {
    /// The domain's key as a [`proto::port::KeyProvider`] unwraps it.
    #[must_use]
    pub fn key(&self) -> WrappedKey {
        WrappedKey { ring_key: self.ring_key, nonce: self.wrap_nonce, wrapped: self.wrapped_key }
    }
}

/// Where a checkpoint of the chunk index lies, and which segments it covers: those below `end` but for `except`.
#[derive(Clone, Debug, PartialEq, Eq, Archive, Serialize, Deserialize)]
pub struct IndexCheckpoint {
    /// Above every segment that it covers.
    #[rkyv(with = SegmentIdDef)]
    pub end: SegmentId,
    /// Segments below `end` that it does not cover, ascending.
    #[rkyv(with = Map<SegmentIdDef>)]
    pub except: Vec<SegmentId>,
    /// Distinct chunks in covered segments.
    pub chunks: u64,
    /// Their plain bytes.
    pub plain_bytes: u64,
    /// Their bytes after compression.
    pub stored_bytes: u64,
    /// Bytes that the compression of those saves that share a block with others.
    pub similarity_bytes: u64,
    /// Its pages.
    pub content: Content,
}

/// Names each record in messages.
macro_rules! stored {
    ($($record:ident: $what:literal),* $(,)?) => {
        $(impl Stored for $record {
            const WHAT: &'static str = $what;
        })*
    };
}

stored!(
    Inode: "inode", Name: "name", Directory: "directory", Version: "file version", Past: "earlier version",
    Event: "change event", EventClock: "event clock", ClientWindow: "client window", Once: "remembered answer",
    OnceKey: "remembered key", OnceClock: "clock of keys", SessionClock: "session clock", Number: "number",
    Counters: "counters", SegmentRecord: "segment record", DomainRecord: "domain record",
    IndexCheckpoint: "index checkpoint",
);

/// Checks a pair that comes from outside: that the key is one of ours and leads to a value of its kind.
///
/// Errors: [`FormatError`].
pub(crate) fn check_pair(key: &[u8], value: &[u8]) -> Result<(), FormatError> {
    match keys::kind(key).ok_or(FormatError::Field { what: "metadata pair", field: "key" })? {
        KeyKind::Name => {
            keys::name_of(key).ok_or(FormatError::Field { what: "metadata pair", field: "name" })?;
            access::<Name>(value).map(drop)
        }
        KeyKind::Directory => access::<Directory>(value).map(drop),
        KeyKind::Inode => access::<Inode>(value).map(drop),
        KeyKind::Version => access::<Version>(value).map(drop),
        KeyKind::Past => access::<Past>(value).map(drop),
        KeyKind::Event => access::<Event>(value).map(drop),
        KeyKind::EventClock => access::<EventClock>(value).map(drop),
        KeyKind::ClientWindow => access::<ClientWindow>(value).map(drop),
        KeyKind::Once => access::<Once>(value).map(drop),
        KeyKind::OnceOrder => access::<OnceKey>(value).map(drop),
        KeyKind::OnceClock => access::<OnceClock>(value).map(drop),
        KeyKind::Touch | KeyKind::SlotCounter | KeyKind::Fence => access::<Number>(value).map(drop),
        KeyKind::Segment => access::<SegmentRecord>(value).map(drop),
        KeyKind::Domain => access::<DomainRecord>(value).map(drop),
        KeyKind::Counters => access::<Counters>(value).map(drop),
        KeyKind::SessionClock => access::<SessionClock>(value).map(drop),
        KeyKind::IndexCheckpoint => access::<IndexCheckpoint>(value).map(drop),
    }
}
