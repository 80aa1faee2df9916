//! What can go wrong with the embedded log, and what to do about it.

use std::io;

use proto::Lsn;
use proto::disk::FormatError;
use proto::port::KeyError;

/// Why a command was not carried out.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ProposeError {
    /// Too much is queued: back off and retry.
    #[error("too many metadata commands are waiting; retry later")]
    Busy,
    /// The command is too large for the log: a defect of the caller, whose limits are lower.
    #[error("a metadata command of {bytes} bytes is above the maximum of {}", proto::limits::COMMAND_BYTES_MAX)]
    TooLarge {
        /// Bytes of the command.
        bytes: usize,
    },
    /// The disk has no room for the log: free space and retry. Nothing was written.
    #[error("no space is left for the metadata log")]
    StorageFull,
    /// A write or sync of the log failed. Whether the commands then in flight survive is decided by the next start;
    /// until then only reads are served.
    #[error("the metadata log {file} could not be written ({kind}): replace or repair the disk, then restart")]
    Poisoned {
        /// The file.
        file: String,
        /// What the device said.
        kind: io::ErrorKind,
    },
    /// The backend was closed.
    #[error("the metadata log is closed")]
    Closed,
}

/// Why a snapshot was not taken. The log is whole, and nothing is lost.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SnapshotError {
    /// Free space, or repair the disk; the next snapshot starts afresh.
    #[error("the metadata snapshot {file} could not be written ({kind})")]
    Device {
        /// The file.
        file: String,
        /// What the device said.
        kind: io::ErrorKind,
    },
    /// The log failed before; see [`ProposeError::Poisoned`].
    #[error("the metadata log has stopped")]
    Stopped,
}

/// Why a store could not be opened.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// What was durable once cannot be read back.
    #[error(
        "{file} is damaged at byte {offset}: {what}. Nothing was changed. Bring this file back from a copy of the \
         disk; going on without it would lose acknowledged changes"
    )]
    Corrupt {
        /// The file.
        file: String,
        /// Where in it.
        offset: u64,
        /// What is wrong.
        what: Damage,
    },
    /// The file belongs elsewhere: is this the right directory?
    #[error("{file} belongs to another {what}; is this the right data directory?")]
    Foreign {
        /// The file.
        file: String,
        /// What differs.
        what: &'static str,
    },
    /// The key file does not fit.
    #[error("{file} cannot be decrypted: {source}")]
    Key {
        /// The file.
        file: String,
        /// Which key is missing or wrong.
        source: KeyError,
    },
    /// The device failed.
    #[error("{file}: {source}")]
    Device {
        /// The file.
        file: String,
        /// What the device said.
        source: io::Error,
    },
    /// The disk has no room for the log of this start. Nothing that was acknowledged is lost.
    #[error("the disk of the metadata is full: free {need_bytes} bytes on it, and start again")]
    NoSpace {
        /// Bytes that suffice.
        need_bytes: u64,
    },
    /// The store was formatted before, and nothing of it is left.
    #[error("the metadata is gone: bring the directory `meta` back from a copy of the disk")]
    Lost,
    /// The new store's first command failed.
    #[error("the new metadata store could not be formatted: {0}")]
    Format(ProposeError),
}

/// What is wrong with a file.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Damage {
    /// A structure is damaged, or of a version that this software does not know.
    #[error("{0}")]
    Format(#[from] FormatError),
    /// The bytes are whole but do not decrypt: they were tampered with.
    #[error("the sealed bytes do not decrypt")]
    Seal,
    /// A batch does not follow the one before it.
    #[error("the chain of batches is broken")]
    Chain,
    /// Commands are missing between this file and what comes before it.
    #[error(
        "command {expected} should follow, but the file starts with {found}: a log or snapshot before it is missing"
    )]
    Gap {
        /// The command that should follow.
        expected: Lsn,
        /// The command that the file starts with.
        found: Lsn,
    },
    /// The log that goes on after the snapshot is missing.
    #[error("the log that follows this snapshot is missing")]
    LogMissing,
    /// The file's name and header contradict each other.
    #[error("the file's name does not match its header")]
    Name,
    /// The pairs of a snapshot are not those that its header counts, in order.
    #[error("the contents are incomplete or out of order")]
    Contents,
}
