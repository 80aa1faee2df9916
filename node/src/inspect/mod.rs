//! Showing single structures of a node at rest: what they say, and why they are refused if they are. Nothing is written.
//!
//! * [`answer`]: a [`Question`] → a [`Value`]; [`Value::tells_of_damage`] says whether anything was refused.
//! * `segments`: segments and rows; `metadata`: logs and snapshots.
//!
//! No content of a file and no key is ever shown, only names, ids, sizes and places.

mod metadata;
mod segments;
mod value;

use std::sync::Arc;

use proto::SegmentId;
use proto::port::{Disk, KeyProvider};

pub use value::Value;

use crate::fsck::Report;
use crate::fsck::devices::{self, Device, read_copies};
use value::DAMAGE;

/// What is to be shown.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Question {
    /// The superblocks of all directories, every copy.
    Superblock,
    /// All segments: where they lie and what the metadata says of them.
    Segments,
    /// One segment: headers, footers, and what lies between.
    Segment(SegmentId),
    /// One row: its pieces, its table, every block.
    Row {
        /// The segment.
        segment: SegmentId,
        /// The row, counted from 1.
        row: u64,
    },
    /// Every log in brief, or the one of this file name with each command.
    Wal(Option<String>),
    /// Every snapshot in brief, or the one of this file name.
    Snapshot {
        /// The file.
        file: Option<String>,
        /// Whether each pair is shown; otherwise they are counted by kind.
        pairs: Pairs,
    },
}

/// Whether the pairs of a snapshot are shown.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pairs {
    /// How many there are of each kind.
    Counted,
    /// Each of them.
    Shown,
}

/// There is nothing to show.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum InspectError {
    /// Ask for something that is there.
    #[error("{0} is not here")]
    NotFound(String),
    /// Look at the superblocks: without one, nothing else can be told apart.
    #[error("no directory has a superblock that can be read: see `inspect superblock`")]
    NoSuperblock,
    /// Name the directory that the node was formatted with first.
    #[error("the directory that holds the metadata is not among those given")]
    NoMetadata,
    /// The device failed.
    #[error("{0}")]
    Device(String),
}

impl From<std::io::Error> for InspectError {
    fn from(error: std::io::Error) -> InspectError {
        InspectError::Device(error.to_string())
    }
}

/// What an answer is made from.
struct Source<D: Disk> {
    devices: Vec<Device<D>>,
    keys: Arc<dyn KeyProvider>,
}

/// Shows what `question` asks for.
///
/// Errors: [`InspectError`]. Damage is no error: it is shown.
pub async fn answer<D: Disk>(
    disks: Vec<D>,
    keys: Arc<dyn KeyProvider>,
    question: &Question,
) -> Result<Value, InspectError> {
    if *question == Question::Superblock {
        return superblocks(&disks).await;
    }
    let devices = devices::check(&disks, &mut Report::default()).await;
    if devices.is_empty() {
        return Err(InspectError::NoSuperblock);
    }
    let source = Source { devices, keys };
    match question {
        Question::Superblock => unreachable!("invariant: answered above"),
        Question::Segments => source.segments().await,
        Question::Segment(segment) => source.segment(*segment).await,
        Question::Row { segment, row } => source.row(*segment, *row).await,
        Question::Wal(file) => source.logs(file.as_deref()).await,
        Question::Snapshot { file, pairs } => source.snapshots(file.as_deref(), *pairs).await,
    }
}

async fn superblocks<D: Disk>(disks: &[D]) -> Result<Value, InspectError> {
    let mut directories = Vec::new();
    for (place, disk) in disks.iter().enumerate() {
        let Some(copies) = read_copies(disk).await? else {
            let missing = (DAMAGE, Value::text("there is no superblock, or it is all zeros"));
            directories.push(Value::Fields(vec![("directory", (place + 1).into()), missing]));
            continue;
        };
        for (copy, parsed) in copies.into_iter().enumerate() {
            let mut fields = vec![("directory", (place + 1).into()), ("copy", copy.into())];
            match parsed {
                Err(error) => fields.push((DAMAGE, Value::text(error))),
                Ok(superblock) => fields.extend([
                    ("sequence", superblock.sequence.get().into()),
                    ("cluster", Value::text(superblock.cluster)),
                    ("device", Value::text(superblock.device)),
                    ("ordinal", Value::from(u32::from(superblock.device_ordinal.get()))),
                    ("devices", Value::from(u32::from(superblock.device_count.get()))),
                    ("incarnation", superblock.incarnation.get().into()),
                    ("geometry", Value::Text(format!("{}+{}", superblock.k, superblock.m))),
                    ("piece_bytes", superblock.piece_bytes.get().into()),
                    ("has_metadata", Value::Flag(superblock.flags.get() != 0)),
                    ("created_unix_ns", superblock.created_unix_ns.get().into()),
                ]),
            }
            directories.push(Value::Fields(fields));
        }
    }
    Ok(Value::Fields(vec![("copies", Value::List(directories))]))
}
