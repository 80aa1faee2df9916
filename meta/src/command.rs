//! What the state machine is asked, and what it answers.
//!
//! A command carries everything that its effect depends on besides the state: the time, ids, keys and the client's
//! place in its exactly-once window. The log stores commands, so their encoding is a format: golden bytes in the tests
//! freeze it.

#![allow(missing_docs, reason = "rkyv derives public resolvers whose fields it leaves undocumented")]

use proto::disk::{FormatError, WRAPPED_KEY_BYTES};
use proto::{DeviceId, DomainId, InodeId, SegmentId, VersionNumber};
use rkyv::with::Map;
use rkyv::{Archive, Deserialize, Serialize};

use crate::codec::{self, DeviceIdDef, DomainIdDef, InodeIdDef, SegmentIdDef, Stored, VersionNumberDef};
use crate::manifest::ManifestEntry;
use crate::record::IndexCheckpoint;
use crate::retention::Retention;

/// One change of the metadata.
#[derive(Clone, Debug, PartialEq, Eq, Archive, Serialize, Deserialize)]
pub enum Command {
    /// Makes the root directory: the first command of a store, proposed by [`crate::Solo::open`].
    /// Answers `Made`, or `AlreadyExists`.
    Format {
        /// When, in nanoseconds since the Unix epoch.
        now_ns: u64,
    },
    /// Registers a dedup domain. Answers `Domain`, also when the very same domain is there already; `AlreadyExists` if
    /// it is there with another key or chunker.
    CreateDomain {
        /// The domain.
        #[rkyv(with = DomainIdDef)]
        domain: DomainId,
        /// Number of the chunker that cuts its files.
        chunker: u32,
        /// Number of the ring key that wraps the domain's key.
        ring_key: u32,
        /// Nonce of the wrapping.
        wrap_nonce: [u8; 12],
        /// The domain's key under the ring key.
        wrapped_key: [u8; WRAPPED_KEY_BYTES],
    },
    /// Creates a file or adds a version to one. Answers `Committed`.
    CommitFile {
        /// The name.
        at: Place,
        /// The bytes.
        content: Content,
        /// Attributes of the file.
        attributes: Attributes,
        /// What must hold for the name now.
        condition: Condition,
        /// Exactly-once.
        session: Option<Session>,
        /// Now, in nanoseconds since the Unix epoch.
        now_ns: u64,
        /// Oldest garbage-collection epoch at which a chunk of the content was pinned.
        pin_epoch: u64,
    },
    /// Makes a directory. Answers `Made`, or `AlreadyExists` whatever has the name.
    MakeDirectory {
        /// The name.
        at: Place,
        /// Attributes of the directory; parents that are made on the way get the defaults.
        attributes: Attributes,
        /// Exactly-once.
        session: Option<Session>,
        /// Now, in nanoseconds since the Unix epoch.
        now_ns: u64,
    },
    /// Makes a symlink. Answers `Made`, or `AlreadyExists` whatever has the name.
    MakeSymlink {
        /// The name.
        at: Place,
        /// Where it points; not interpreted.
        target: String,
        /// Attributes of the symlink.
        attributes: Attributes,
        /// Exactly-once.
        session: Option<Session>,
        /// Now, in nanoseconds since the Unix epoch.
        now_ns: u64,
    },
    /// Removes a file with all its versions, a symlink, or an empty directory. Answers `Unlinked`.
    Unlink {
        /// The directory.
        #[rkyv(with = InodeIdDef)]
        parent: InodeId,
        /// The name in it.
        name: String,
        /// Only if the name still stands for this inode; otherwise `Stale`.
        #[rkyv(with = Map<InodeIdDef>)]
        inode: Option<InodeId>,
        /// What must hold for it now.
        condition: Condition,
        /// Exactly-once.
        session: Option<Session>,
        /// Now, in nanoseconds since the Unix epoch.
        now_ns: u64,
    },
    /// Moves a name, within a directory or across directories. Answers `Renamed`.
    ///
    /// A directory never moves into itself or below (`IntoItself`). An existing file or symlink is replaced by a file
    /// or symlink, and an empty directory by a directory, if `replace` is set.
    Rename {
        /// The name it leaves; directories on the way to it are walked, none is made.
        from: Place,
        /// Where it goes.
        to: Place,
        /// Whether what has the name is replaced; otherwise `AlreadyExists`.
        replace: bool,
        /// Exactly-once.
        session: Option<Session>,
        /// Now, in nanoseconds since the Unix epoch.
        now_ns: u64,
    },
    /// Changes the attributes that are given. Answers `Changed`.
    SetAttributes {
        /// The file, directory or symlink.
        #[rkyv(with = InodeIdDef)]
        inode: InodeId,
        /// What must hold for it now.
        condition: Condition,
        /// Unix permission bits.
        mode: Option<u32>,
        /// Modification time in nanoseconds since the Unix epoch.
        mtime_ns: Option<u64>,
        /// Where a symlink points; `NotASymlink` for others.
        symlink_target: Option<String>,
        /// Media type of a file; `NotAFile` for others.
        content_type: Option<String>,
        /// Replaces all user metadata.
        user_metadata: Option<Vec<(String, String)>>,
        /// Exactly-once.
        session: Option<Session>,
        /// Now, in nanoseconds since the Unix epoch.
        now_ns: u64,
    },
    /// Makes an earlier version of a file its next one, with the attributes that it had; no data is copied. Answers
    /// `Committed`.
    ///
    /// It needs no pin of its own: the version that it refers to is retained, and so are its chunks.
    Restore {
        /// The name; directories on the way to it are walked, none is made.
        at: Place,
        /// The version to bring back; `NoSuchVersion` if the file never had one of this number, `VersionExpired` if it
        /// was let go.
        #[rkyv(with = VersionNumberDef)]
        version: VersionNumber,
        /// What must hold for the name now.
        condition: Condition,
        /// Exactly-once.
        session: Option<Session>,
        /// Now, in nanoseconds since the Unix epoch.
        now_ns: u64,
    },
    /// Lists a segment before its first row is written: recovery believes rows of listed segments only.
    /// Answers `Segment`, or `AlreadyExists`: segment ids are never reused.
    OpenSegment {
        /// The segment.
        #[rkyv(with = SegmentIdDef)]
        segment: SegmentId,
        /// The device of each column, data first.
        #[rkyv(with = Map<DeviceIdDef>)]
        members: Vec<DeviceId>,
        /// Data columns.
        k: u8,
        /// Parity columns.
        m: u8,
        /// The stream of the log that lists it; 0 so far.
        stream: u32,
        /// How often compaction moved what it will hold; 0 for what clients' writes fill.
        generation: u8,
        /// Now, in nanoseconds since the Unix epoch.
        now_ns: u64,
    },
    /// Notes that a segment takes no more rows. Answers `Segment`, also when it is repeated with the same offsets.
    SealSegment {
        /// The segment.
        #[rkyv(with = SegmentIdDef)]
        segment: SegmentId,
        /// Byte offset of the footer in each column; empty if none was written.
        footer_offsets: Vec<u64>,
    },
    /// Notes that a sealed segment holds nothing that is needed: its files may be removed. Answers `Segment`, also when
    /// it is repeated; `SegmentInUse` if rows may still be appended to it.
    FreeSegment {
        /// The segment.
        #[rkyv(with = SegmentIdDef)]
        segment: SegmentId,
    },
    /// Replaces the checkpoint of the chunk index by one whose pages are durable. Answers `Checkpoint`.
    CheckpointIndex {
        /// The checkpoint.
        checkpoint: IndexCheckpoint,
    },
    /// Removes one name below a directory that is being removed with all that is in it, unless that request was answered
    /// already: `Answered`. Answers `Unlinked`.
    ///
    /// Its sender may have lost the answer and sent the request again. What came to the path since is not for it.
    UnlinkBelow {
        /// The directory that the name is in.
        #[rkyv(with = InodeIdDef)]
        parent: InodeId,
        /// The name in it.
        name: String,
        /// Only if the name still stands for this inode; otherwise `Stale`.
        #[rkyv(with = InodeIdDef)]
        inode: InodeId,
        /// The request.
        part_of: Session,
        /// Now, in nanoseconds since the Unix epoch.
        now_ns: u64,
    },
    /// Sets or clears the retention of a directory: which earlier versions stay of the files below it. Answers
    /// `Changed`; `NotADirectory` for others.
    SetRetention {
        /// The directory.
        #[rkyv(with = InodeIdDef)]
        directory: InodeId,
        /// Its own retention; `None` for that of the directory that it is in. `InvalidRetention` if a rule keeps
        /// nothing.
        retention: Option<Retention>,
        /// What must hold for it now.
        condition: Condition,
        /// Exactly-once.
        session: Option<Session>,
        /// Now, in nanoseconds since the Unix epoch.
        now_ns: u64,
    },
    /// Lets the earlier versions of a file go that its retention does not keep, oldest first, at most
    /// [`proto::limits::EXPIRE_VERSIONS_MAX`] of them. Answers `Expired`, also when there is no such file (any more).
    ///
    /// What goes is decided when the command is applied, so nothing that happened since it was proposed can be undone
    /// by it: neither a longer retention, nor a move to another directory, nor a version that was restored.
    ExpireVersions {
        /// The file.
        #[rkyv(with = InodeIdDef)]
        inode: InodeId,
        /// Now, in nanoseconds since the Unix epoch.
        now_ns: u64,
    },
    /// Begins the next cycle of garbage collection: from now on commits are refused whose chunks were pinned before the
    /// epoch that was the current one until now. Answers `Epoch`, also when it is repeated; `WrongEpoch` if this is
    /// neither the current epoch nor the next.
    RaiseEpoch {
        /// The next epoch.
        epoch: u64,
    },
    /// Forgets a segment whose files are gone for good. Answers `Segment`; `SegmentInUse` unless it was freed.
    ForgetSegment {
        /// The segment.
        #[rkyv(with = SegmentIdDef)]
        segment: SegmentId,
    },
}

/// A name to be made: where, and which parents are made on the way.
#[derive(Clone, Debug, PartialEq, Eq, Archive, Serialize, Deserialize)]
pub struct Place {
    /// An existing directory.
    #[rkyv(with = InodeIdDef)]
    pub parent: InodeId,
    /// Directories below `parent`, in order: existing ones are walked, missing ones are made, and anything else among
    /// them is `NotADirectory`.
    pub make_dirs: Vec<String>,
    /// The name in the last of them.
    pub name: String,
}

impl Place {
    /// The place `name` directly in `parent`.
    #[must_use]
    pub fn in_directory(parent: InodeId, name: impl Into<String>) -> Place {
        Place { parent, make_dirs: Vec::new(), name: name.into() }
    }
}

/// The bytes of a version.
#[derive(Clone, Debug, PartialEq, Eq, Archive, Serialize, Deserialize)]
pub enum Content {
    /// The bytes themselves, at most [`proto::limits::INLINE_BYTES_MAX`]; also the empty file.
    Inline(Vec<u8>),
    /// Stored chunks.
    Chunks {
        /// Plain bytes; the sum over the entries.
        size: u64,
        /// Dedup domain of all chunks.
        #[rkyv(with = DomainIdDef)]
        domain: DomainId,
        /// Levels of manifest pages between the entries and the chunks.
        depth: u8,
        /// 1 to [`proto::limits::MANIFEST_PAGE_ENTRIES_MAX`] entries. Depth 0: chunks in order; depth d: ids of stored
        /// pages of depth d-1.
        entries: Vec<ManifestEntry>,
    },
}

impl Content {
    /// Plain bytes of the file.
    #[must_use]
    pub fn size(&self) -> u64 {
        match self {
            Content::Inline(bytes) => bytes.len() as u64,
            Content::Chunks { size, .. } => *size,
        }
    }

    /// Plain bytes that lie inline with the metadata.
    #[must_use]
    pub fn inline_bytes(&self) -> u64 {
        match self {
            Content::Inline(bytes) => bytes.len() as u64,
            Content::Chunks { .. } => 0,
        }
    }
}

/// Attributes of a new file, directory, symlink or version.
#[derive(Clone, Debug, Default, PartialEq, Eq, Archive, Serialize, Deserialize)]
pub struct Attributes {
    /// Unix permission bits; if absent, those of the version before, or the default of the kind.
    pub mode: Option<u32>,
    /// Modification time in nanoseconds since the Unix epoch; if absent, the time of the command.
    pub mtime_ns: Option<u64>,
    /// Media type of a file; if absent, [`proto::api::DEFAULT_CONTENT_TYPE`]. Only files have one.
    pub content_type: Option<String>,
    /// User metadata; replaces all that the version before had.
    pub user_metadata: Vec<(String, String)>,
    /// The principal that owns a new object; an existing file keeps its owner.
    pub owner: u64,
}

/// What must hold for a name when the command is applied; otherwise `ConditionFailed`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Archive, Serialize, Deserialize)]
pub enum Condition {
    /// Anything.
    Any,
    /// Nothing has the name (`If-None-Match: *`).
    Absent,
    /// The name stands for this object at this version (`If-Match`).
    Match {
        /// The object.
        #[rkyv(with = InodeIdDef)]
        inode: InodeId,
        /// Its version.
        #[rkyv(with = VersionNumberDef)]
        version: VersionNumber,
    },
    /// Something has the name (`If-Match: *`).
    Exists,
}

impl Condition {
    /// Never holds: no object has this inode. Whoever proposes it asks for a remembered answer only.
    pub const NEVER: Condition = Condition::Match { inode: InodeId(0), version: VersionNumber(0) };

    /// Whether it holds for a name that stands for `current`, an object and its version.
    #[must_use]
    pub fn holds(self, current: Option<(InodeId, VersionNumber)>) -> bool {
        match self {
            Condition::Any => true,
            Condition::Absent => current.is_none(),
            Condition::Match { inode, version } => current == Some((inode, version)),
            Condition::Exists => current.is_some(),
        }
    }
}

/// How a request is known again when it is repeated.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Archive, Serialize, Deserialize)]
pub enum Session {
    /// By its place in its client's exactly-once window.
    Numbered {
        /// Random number of the client.
        client: u64,
        /// Number of the request; the same number again gets the first answer and changes nothing.
        sequence: u64,
        /// The client has the answers to all requests below this number.
        acked_below: u64,
    },
    /// By a key that its client chose for this request alone.
    Keyed {
        /// Digest of the principal and the key.
        key: [u8; 16],
        /// Digest of the request; `KeyReused` if another request had the key.
        fingerprint: [u8; 16],
    },
}

/// The answer to a command.
#[derive(Clone, Debug, PartialEq, Eq, Archive, Serialize, Deserialize)]
pub enum Response {
    /// A version was committed.
    Committed {
        /// The file.
        #[rkyv(with = InodeIdDef)]
        inode: InodeId,
        /// Its new version.
        #[rkyv(with = VersionNumberDef)]
        version: VersionNumber,
        /// Whether the file is new.
        created: bool,
    },
    /// A directory or symlink was made.
    Made {
        /// It.
        #[rkyv(with = InodeIdDef)]
        inode: InodeId,
    },
    /// A name and what it stood for were removed.
    Unlinked {
        /// What it stood for.
        #[rkyv(with = InodeIdDef)]
        inode: InodeId,
    },
    /// A name was moved.
    Renamed {
        /// What it stands for.
        #[rkyv(with = InodeIdDef)]
        inode: InodeId,
    },
    /// Attributes were changed.
    Changed,
    /// The domain is registered.
    Domain,
    /// The segment is in the state that was asked for.
    Segment,
    /// Nothing was changed.
    Failed(MetaError),
    /// The checkpoint is the one that the next start loads.
    Checkpoint,
    /// Earlier versions of a file were let go; fewer than [`proto::limits::EXPIRE_VERSIONS_MAX`] are all of them.
    Expired {
        /// Versions.
        versions: u64,
        /// Their plain bytes.
        bytes: u64,
    },
    /// The epoch is the current one.
    Epoch,
}

/// Why a command or lookup failed. Nothing was changed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error, Archive, Serialize, Deserialize)]
pub enum MetaError {
    /// Nothing has this name or inode (any more).
    #[error("not found")]
    NotFound,
    /// A component of the path is a file or symlink: choose another path.
    #[error("a part of the path is not a directory")]
    NotADirectory,
    /// The name stands for a directory: choose another name, or use the calls for directories.
    #[error("this is a directory")]
    IsADirectory,
    /// Something has the name already.
    #[error("the name is taken")]
    AlreadyExists,
    /// Remove what is in the directory first.
    #[error("the directory is not empty")]
    NotEmpty,
    /// The file is at another version than the caller expects: read it again, then decide.
    #[error("the file has changed: its version is {}", current.map_or("none".into(), |version| version.to_string()))]
    ConditionFailed {
        /// The current version; `None` if there is no such file.
        #[rkyv(with = Map<VersionNumberDef>)]
        current: Option<VersionNumber>,
    },
    /// A directory cannot be moved into itself or below: choose another destination.
    #[error("a directory cannot be moved into itself")]
    IntoItself,
    /// The request is older than what is remembered of its client; its outcome is unknown here. Look, then send a new
    /// request under a new number.
    #[error("the request is older than the window of remembered requests, which starts at {window_from}")]
    StaleSequence {
        /// Lowest number that is still accepted.
        window_from: u64,
    },
    /// Garbage collection may have passed the pins of this content: look its chunks up again and retry.
    #[error("the chunks were pinned before epoch {fence}: look them up again")]
    StaleEpoch {
        /// Oldest epoch that is still accepted.
        fence: u64,
    },
    /// A name that no path may have; see [`proto::path::check_name`].
    #[error("a name is not legal")]
    InvalidName,
    /// More than a named maximum: send less.
    #[error("more than the maximum of {0}")]
    TooLarge(Limit),
    /// The content contradicts itself: a defect of the caller.
    #[error("the entries of the content do not add up to its size")]
    InvalidContent,
    /// Only symlinks have a target.
    #[error("only a symlink has a target")]
    NotASymlink,
    /// Register the dedup domain first.
    #[error("no such dedup domain")]
    NoSuchDomain,
    /// The segment is not listed, or freed.
    #[error("no such segment")]
    NoSuchSegment,
    /// What the caller resolved has changed since: the parent is gone, or the name stands for something else. Resolve
    /// the path again; this answer is never remembered.
    #[error("the path has changed meanwhile")]
    Stale,
    /// Members, columns and footer offsets of the segment do not match.
    #[error("the segment's columns do not match its geometry")]
    InvalidGeometry,
    /// The file has no version of this number: list its versions.
    #[error("the file has no such version")]
    NoSuchVersion,
    /// Only files have versions and a media type.
    #[error("this is not a file")]
    NotAFile,
    /// A media type that no header can carry; see [`proto::api::is_content_type`].
    #[error("this is not a media type")]
    InvalidContentType,
    /// Another request had this key: send this one under a new key.
    #[error("another request was sent under the same key")]
    KeyReused,
    /// The request that this is a part of was answered: ask for that answer.
    #[error("the request was answered already")]
    Answered,
    /// The version was let go, and nothing brings it back; `oldest` is the oldest that is left.
    #[error(
        "this version is gone: the retention of its directory does not keep it any longer; the oldest version left is \
         {oldest}"
    )]
    VersionExpired {
        /// The oldest version of the file that is left.
        #[rkyv(with = VersionNumberDef)]
        oldest: VersionNumber,
    },
    /// Keep at least one version, or for some time.
    #[error("a retention keeps at least one version, and for longer than no time")]
    InvalidRetention,
    /// Epochs are raised one by one, and somebody else has raised this one: a defect of the caller.
    #[error("the epoch is {current}, and is raised by one at a time")]
    WrongEpoch {
        /// The current epoch.
        current: u64,
    },
    /// The segment may hold what is needed: seal it before it is freed, free it before it is forgotten.
    #[error("the segment is still in use")]
    SegmentInUse,
}

/// A named maximum that a command met.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Archive, Serialize, Deserialize)]
pub enum Limit {
    /// [`proto::limits::INLINE_BYTES_MAX`].
    InlineBytes,
    /// [`proto::limits::MANIFEST_PAGE_ENTRIES_MAX`].
    ManifestEntries,
    /// [`proto::limits::MANIFEST_DEPTH_MAX`].
    ManifestDepth,
    /// [`proto::limits::PATH_DEPTH_MAX`].
    PathDepth,
    /// [`proto::limits::SYMLINK_BYTES_MAX`].
    SymlinkBytes,
    /// [`proto::limits::USER_METADATA_BYTES_MAX`].
    UserMetadataBytes,
    /// [`proto::limits::USER_METADATA_PAIRS_MAX`].
    UserMetadataPairs,
    /// [`proto::limits::CONTENT_TYPE_BYTES_MAX`].
    ContentTypeBytes,
}

impl std::fmt::Display for Limit {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        use proto::limits as max;
        match self {
            Limit::InlineBytes => write!(f, "{} inline bytes", max::INLINE_BYTES_MAX),
            Limit::ManifestEntries => write!(f, "{} manifest entries", max::MANIFEST_PAGE_ENTRIES_MAX),
            Limit::ManifestDepth => write!(f, "{} levels of manifest pages", max::MANIFEST_DEPTH_MAX),
            Limit::PathDepth => write!(f, "{} components of a path", max::PATH_DEPTH_MAX),
            Limit::SymlinkBytes => write!(f, "{} bytes of a symlink target", max::SYMLINK_BYTES_MAX),
            Limit::UserMetadataBytes => write!(f, "{} bytes of user metadata", max::USER_METADATA_BYTES_MAX),
            Limit::UserMetadataPairs => write!(f, "{} pairs of user metadata", max::USER_METADATA_PAIRS_MAX),
            Limit::ContentTypeBytes => write!(f, "{} bytes of a media type", max::CONTENT_TYPE_BYTES_MAX),
        }
    }
}

impl Stored for Command {
    const WHAT: &'static str = "metadata command";
}

impl Command {
    /// Encodes the command as the log stores it: a version byte, then rkyv.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        codec::encode(self)
    }

    /// Decodes a command of the log.
    ///
    /// # Errors
    /// [`FormatError`] if another version wrote it, or the bytes are no command.
    pub fn decode(bytes: &[u8]) -> Result<Command, FormatError> {
        codec::decode(bytes)
    }

    /// How the command is known again when it is repeated, if it is.
    #[must_use]
    pub fn session(&self) -> Option<Session> {
        match self {
            Command::CommitFile { session, .. }
            | Command::MakeDirectory { session, .. }
            | Command::MakeSymlink { session, .. }
            | Command::Unlink { session, .. }
            | Command::Rename { session, .. }
            | Command::SetAttributes { session, .. }
            | Command::Restore { session, .. }
            | Command::SetRetention { session, .. } => *session,
            Command::Format { .. }
            | Command::CreateDomain { .. }
            | Command::UnlinkBelow { .. }
            | Command::OpenSegment { .. }
            | Command::SealSegment { .. }
            | Command::FreeSegment { .. }
            | Command::CheckpointIndex { .. }
            | Command::ExpireVersions { .. }
            | Command::RaiseEpoch { .. }
            | Command::ForgetSegment { .. } => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// One command of each kind, each field with a value of its own.
    fn examples() -> Vec<Command> {
        let session = Some(Session::Numbered { client: 0x11, sequence: 0x12, acked_below: 0x13 });
        let keyed = Some(Session::Keyed { key: [0x14; 16], fingerprint: [0x15; 16] });
        let at = || Place { parent: InodeId(0x21), make_dirs: vec!["a long directory".into()], name: "name".into() };
        let attributes = || Attributes {
            mode: Some(0o640),
            mtime_ns: Some(0x31),
            content_type: Some("text/plain".into()),
            user_metadata: vec![("key".into(), "value".into())],
            owner: 0x32,
        };
        vec![
            Command::Format { now_ns: 0x41 },
            Command::CreateDomain {
                domain: DomainId(0x42),
                chunker: 0x43,
                ring_key: 0x44,
                wrap_nonce: [0x45; 12],
                wrapped_key: [0x46; 48],
            },
            Command::CommitFile {
                at: at(),
                content: Content::Chunks {
                    size: 0x51,
                    domain: DomainId(0x52),
                    depth: 1,
                    entries: vec![ManifestEntry { id: [0x53; 32], bytes: 0x51, location: 0x54 }],
                },
                attributes: attributes(),
                condition: Condition::Match { inode: InodeId(0x54), version: VersionNumber(0x55) },
                session,
                now_ns: 0x56,
                pin_epoch: 0x57,
            },
            Command::CommitFile {
                at: at(),
                content: Content::Inline(b"inline".to_vec()),
                attributes: Attributes::default(),
                condition: Condition::Absent,
                session: None,
                now_ns: 0x58,
                pin_epoch: 0x59,
            },
            Command::MakeDirectory { at: at(), attributes: attributes(), session, now_ns: 0x61 },
            Command::MakeSymlink { at: at(), target: "target".into(), attributes: attributes(), session, now_ns: 0x62 },
            Command::Unlink {
                parent: InodeId(0x63),
                name: "name".into(),
                inode: Some(InodeId(0x64)),
                condition: Condition::Exists,
                session: keyed,
                now_ns: 0x65,
            },
            Command::Rename {
                from: Place::in_directory(InodeId(0x66), "from"),
                to: at(),
                replace: true,
                session,
                now_ns: 0x67,
            },
            Command::SetAttributes {
                inode: InodeId(0x68),
                condition: Condition::Any,
                mode: Some(0x69),
                mtime_ns: Some(0x6a),
                symlink_target: Some("target".into()),
                content_type: Some("text/plain".into()),
                user_metadata: Some(vec![("key".into(), "value".into())]),
                session,
                now_ns: 0x6b,
            },
            Command::Restore {
                at: at(),
                version: VersionNumber(0x6c),
                condition: Condition::Any,
                session,
                now_ns: 0x6d,
            },
            Command::OpenSegment {
                segment: SegmentId(0x71),
                members: vec![DeviceId([0x72; 16]), DeviceId([0x73; 16])],
                k: 1,
                m: 1,
                stream: 0x74,
                generation: 1,
                now_ns: 0x75,
            },
            Command::SealSegment { segment: SegmentId(0x76), footer_offsets: vec![0x77, 0x78] },
            Command::FreeSegment { segment: SegmentId(0x79) },
            Command::CheckpointIndex {
                checkpoint: IndexCheckpoint {
                    end: SegmentId(0x7a),
                    except: vec![SegmentId(0x7b)],
                    chunks: 0x7c,
                    plain_bytes: 0x7d,
                    stored_bytes: 0x7e,
                    similarity_bytes: 0x7f,
                    content: Content::Inline(vec![0x7f]),
                },
            },
            Command::UnlinkBelow {
                parent: InodeId(0x81),
                name: "name".into(),
                inode: InodeId(0x82),
                part_of: Session::Keyed { key: [0x83; 16], fingerprint: [0x84; 16] },
                now_ns: 0x85,
            },
            Command::SetRetention {
                directory: InodeId(0x81),
                retention: Some(Retention { keep: Some(0x82), keep_for_ns: Some(0x83) }),
                condition: Condition::Exists,
                session,
                now_ns: 0x84,
            },
            Command::ExpireVersions { inode: InodeId(0x85), now_ns: 0x86 },
            Command::RaiseEpoch { epoch: 0x80 },
            Command::ForgetSegment { segment: SegmentId(0x81) },
        ]
    }

    #[test]
    fn encodings_are_frozen() {
        let mut all = Vec::new();
        for command in examples() {
            let bytes = command.encode();
            assert_eq!(Command::decode(&bytes).as_ref(), Ok(&command));
            all.extend_from_slice(&(bytes.len() as u32).to_le_bytes());
            all.extend_from_slice(&bytes);
        }
        crate::testing::golden("commands", &all, include_str!("../golden/commands.hex"));
    }

    #[test]
    fn another_version_is_named() {
        let mut bytes = Command::Format { now_ns: 1 }.encode();
        bytes[0] = 2;
        let what = "metadata command";
        assert_eq!(Command::decode(&bytes), Err(FormatError::UnknownVersion { what, wrote: 2, understood: 1 }));
        assert!(matches!(Command::decode(&[]), Err(FormatError::TooShort { .. })));
    }

    #[test]
    fn every_truncation_is_refused() {
        for command in examples() {
            let bytes = command.encode();
            for len in 0..bytes.len() {
                assert_ne!(Command::decode(&bytes[..len]).as_ref(), Ok(&command), "truncation to {len} bytes");
            }
        }
    }

    proptest! {
        #[test]
        fn decoding_damaged_commands_never_panics(example: prop::sample::Index, bit: prop::sample::Index, cut: prop::sample::Index) {
            let mut bytes = example.get(&examples()).encode();
            let bit = bit.index(bytes.len() * 8);
            bytes[bit / 8] ^= 1 << (bit % 8);
            let _ = Command::decode(&bytes);
            bytes.truncate(cut.index(bytes.len()));
            let _ = Command::decode(&bytes);
        }
    }
}
