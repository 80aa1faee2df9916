//! What can go wrong, one enum per operation; each variant says what the caller should do.

use std::ops::Range;

use meta::{MetaError, ProposeError};
use proto::port::KeyError;
use shard::superblock::SuperblockError;
use shard::{ReadError, RecoverError, StoreError};

/// The node did not start. Nothing was changed, except that blank directories may have been formatted.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// A data directory cannot be read or written.
    #[error("data directory {directory}: {source}")]
    Device {
        /// Its place among those given, counted from 1.
        directory: usize,
        /// What the device said.
        source: std::io::Error,
    },
    /// A data directory is damaged or not ours.
    #[error("data directory {directory}: {source}")]
    Superblock {
        /// Its place among those given, counted from 1.
        directory: usize,
        /// What is wrong.
        source: SuperblockError,
    },
    /// The directory has data but no superblock: give another directory, or restore the superblock.
    #[error("data directory {directory} has files of a node but no superblock; it was not touched")]
    NoSuperblock {
        /// Its place among those given, counted from 1.
        directory: usize,
    },
    /// The directories do not belong together. Give exactly those that the node was formatted with.
    #[error("the data directories do not belong together: {what}")]
    Mismatch {
        /// Which one is wrong, and how.
        what: String,
    },
    /// A data directory is older than the others: an old copy, or a disk that forgot what it had made durable. Starting
    /// with it would lose acknowledged changes. Give the right one, or bring its files back.
    #[error("data directory {directory} is older than the others: {what}")]
    Stale {
        /// Its place among those given, counted from 1.
        directory: usize,
        /// How that is known.
        what: String,
    },
    /// The metadata could not be recovered.
    #[error("metadata: {0}")]
    Meta(#[from] meta::OpenError),
    /// The metadata log took no further command.
    #[error("metadata: {0}")]
    Log(#[from] ChangeError),
    /// A segment could not be recovered.
    #[error("{0}")]
    Segment(#[from] RecoverError),
    /// The key of the dedup domain cannot be unwrapped: use the key file that the data was written with.
    #[error("the dedup domain's key cannot be unwrapped: {0}")]
    Key(#[from] KeyError),
    /// The data was cut by newer software.
    #[error("the dedup domain uses chunker {0}, which this software does not know")]
    UnknownChunker(u32),
}

/// A change of the namespace did not happen, or is not known to have happened.
#[derive(Debug, thiserror::Error)]
pub enum ChangeError {
    /// The namespace refused it; nothing was changed.
    #[error(transparent)]
    Refused(#[from] MetaError),
    /// The metadata log did not confirm it. `Busy` means nothing was changed; otherwise the change may show up or not
    /// after the restart that is now needed.
    #[error(transparent)]
    Log(#[from] ProposeError),
    /// The disk of the metadata is nearly full: nothing was changed. What gives space back, or takes none, still works.
    #[error(
        "the disk of the metadata has {free_bytes} bytes left, and {need_bytes} are kept for removing and changing \
             files; remove files, or free space on the disk"
    )]
    NoSpace {
        /// Bytes that are free.
        free_bytes: u64,
        /// Bytes that must be.
        need_bytes: u64,
    },
    /// The root directory has no name to change.
    #[error("the root directory cannot be replaced, moved or removed")]
    Root,
}

/// A file was not written. Nothing of it is visible.
#[derive(Debug, thiserror::Error)]
pub enum PutError {
    /// The chunks could not be stored.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The commit was refused or not confirmed.
    #[error(transparent)]
    Change(#[from] ChangeError),
    /// Garbage collection went on while the upload lasted, and something that it relied on is not there any more or cannot
    /// be read: send it again.
    #[error("stored data that this upload relied on was collected or cannot be read; send it again")]
    Gone,
}

/// A file was not read.
#[derive(Debug, thiserror::Error)]
pub enum FileReadError {
    /// Look again: there is no such file, or it is a directory.
    #[error(transparent)]
    Refused(#[from] MetaError),
    /// Bytes did not verify, and no other copy is known. Restore the file from a copy of your own.
    #[error("{path} is damaged in bytes {}-{}: {source}", range.start, range.end.saturating_sub(1))]
    Damaged {
        /// The file.
        path: String,
        /// The bytes that cannot be read.
        range: Range<u64>,
        /// What did not verify.
        source: ReadError,
    },
    /// A device failed; try again, and check the disk.
    #[error("{path} bytes {}-{} cannot be read now: {source}", range.start, range.end.saturating_sub(1))]
    Device {
        /// The file.
        path: String,
        /// The bytes that cannot be read.
        range: Range<u64>,
        /// What the device said.
        source: ReadError,
    },
}
