//! What can go wrong with a core's data, and what the caller should do.

use std::sync::Arc;

use proto::disk::FormatError;
use proto::port::KeyError;
use proto::{DeviceId, Location, SegmentId};

/// The metadata log did not record what happened to a segment.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum LogError {
    /// It has no room: nothing was recorded. Free space on its disk.
    #[error("no space is left for the metadata log")]
    NoSpace,
    /// For people. Whether it was recorded is decided by the next start.
    #[error("{0}")]
    Failed(String),
}

/// A segment could not be opened for appends.
#[derive(Clone, Debug, thiserror::Error)]
pub enum SegmentError {
    /// Free space or add a disk; nothing was written.
    #[error(
        "no disk has {need_bytes} free bytes, for a new segment and what is kept for metadata; free space on the disk"
    )]
    NoSpace {
        /// Bytes of one segment piece and of the reserve.
        need_bytes: u64,
    },
    /// The device failed; other devices still serve. Check the disk.
    #[error("device {device} failed at a new segment: {source}")]
    Device {
        /// The device.
        device: DeviceId,
        /// What it said.
        source: Arc<std::io::Error>,
    },
    /// Restart the node: a start has numbers for 2^24 segments, and this one has used them all.
    #[error("this start has used all its segment numbers; restart the node")]
    NumbersSpent,
    /// Free space on the disk of the metadata; nothing was written.
    #[error("the metadata log has no room for a new segment; free space on its disk")]
    LogFull,
    /// The metadata log did not take the segment: writes stop until the node restarts.
    #[error("the metadata log refused a new segment: {0}")]
    Log(String),
}

impl SegmentError {
    /// Whether there is no room for another segment, and all else is well.
    #[must_use]
    pub fn is_no_space(&self) -> bool {
        matches!(self, SegmentError::NoSpace { .. } | SegmentError::LogFull)
    }
}

/// A chunk was not stored. Nothing of it is visible; the same bytes may be sent again.
#[derive(Clone, Debug, thiserror::Error)]
pub enum StoreError {
    /// No segment could be opened.
    #[error(transparent)]
    Segment(#[from] SegmentError),
    /// A row's piece was not written; its segment is closed and the next row goes to another. Send again.
    #[error("device {device} failed while writing a row of segment {segment}: {source}")]
    Device {
        /// The device.
        device: DeviceId,
        /// The segment, now closed.
        segment: SegmentId,
        /// What the device said.
        source: Arc<std::io::Error>,
    },
    /// The store is shutting down; send to the node again once it is back.
    #[error("the node is shutting down")]
    Closing,
}

/// A block was not read.
#[derive(Clone, Debug, thiserror::Error)]
pub enum ReadError {
    /// The location names a segment that is gone: ask the index.
    #[error("segment {0} is not known here")]
    Stale(SegmentId),
    /// The bytes at the location are not the block they should be. Restore the file from another copy.
    #[error("segment {} column {} offset {}: {what}", location.segment, location.column, location.offset)]
    Corrupt {
        /// Where.
        location: Location,
        /// What did not match.
        what: String,
    },
    /// The device failed; the data may be intact. Check the disk and try again.
    #[error("device {device} failed while reading segment {segment}: {source}")]
    Device {
        /// The device.
        device: DeviceId,
        /// The segment.
        segment: SegmentId,
        /// What the device said.
        source: Arc<std::io::Error>,
    },
}

/// A segment that the metadata lists could not be recovered.
#[derive(Clone, Debug, thiserror::Error)]
pub enum RecoverError {
    /// The device failed.
    #[error("device {device} failed while recovering segment {segment}: {source}")]
    Device {
        /// The device.
        device: DeviceId,
        /// The segment.
        segment: SegmentId,
        /// What the device said.
        source: Arc<std::io::Error>,
    },
    /// The segment belongs to a device that is not here: start with all data directories.
    #[error("segment {segment} lies on device {device}, which is not among the data directories")]
    MissingDevice {
        /// The device.
        device: DeviceId,
        /// The segment.
        segment: SegmentId,
    },
    /// The segment's header is damaged or belongs elsewhere.
    #[error("segment {segment} has no usable header: {source}")]
    Header {
        /// The segment.
        segment: SegmentId,
        /// What is wrong.
        source: FormatError,
    },
    /// The metadata log did not take the news that the segment is sealed: start again.
    #[error("the metadata log refused to seal segment {segment}: {what}")]
    Log {
        /// The segment.
        segment: SegmentId,
        /// What the log said.
        what: LogError,
    },
    /// The segment's key could not be unwrapped: use the key file that the data was written with.
    #[error("the key of segment {segment} cannot be unwrapped: {source}")]
    Key {
        /// The segment.
        segment: SegmentId,
        /// Which ring key.
        source: KeyError,
    },
}
