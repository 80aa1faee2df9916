//! Pairs of the state, decoded: for checks and inspection, which look at everything that is stored.

use proto::api::Kind;
use proto::disk::FormatError;
use proto::{DomainId, InodeId, SegmentId, VersionNumber};

use crate::codec;
use crate::command::Content;
use crate::keys::{self, KeyKind};
use crate::record::{Counters, Directory, DomainRecord, Inode, Name, Number, SegmentRecord, Version};
use crate::retention::Retention;

/// One key and its value. Numbers of the key stand beside the record, which repeats them: they must agree.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Pair {
    /// A name of a directory.
    Name {
        /// The directory.
        directory: InodeId,
        /// The name in it.
        name: String,
        /// What it stands for.
        inode: InodeId,
        /// What kind of thing that is.
        kind: Kind,
    },
    /// A directory as such.
    Directory {
        /// The directory.
        directory: InodeId,
        /// Names that it says it has.
        entries: u64,
        /// Its own retention.
        retention: Option<Retention>,
    },
    /// A file, directory or symlink.
    Inode {
        /// Its number, as the key has it.
        key: InodeId,
        /// Its record.
        record: Box<Inode>,
    },
    /// A version of a file.
    Version {
        /// The file.
        inode: InodeId,
        /// The version.
        version: VersionNumber,
        /// Its bytes, or the chunks that they lie in.
        content: Content,
    },
    /// A segment.
    Segment {
        /// Its number, as the key has it.
        key: SegmentId,
        /// Its record.
        record: SegmentRecord,
    },
    /// A dedup domain.
    Domain {
        /// Its number, as the key has it.
        key: DomainId,
        /// Its record.
        record: DomainRecord,
    },
    /// Totals over the state.
    Counters(Counters),
    /// The inode counter of a metadata slot.
    SlotCounter {
        /// The slot.
        slot: u16,
        /// The next counter that it gives out.
        next: u64,
    },
    /// Anything else: exactly-once windows, the fence, what later versions add.
    Other {
        /// What kind of key it is.
        kind: String,
    },
}

impl Pair {
    /// Decodes a pair.
    ///
    /// # Errors
    /// [`FormatError`] if the key is none of ours, or the value is not of its kind.
    pub fn decode(key: &[u8], value: &[u8]) -> Result<Pair, FormatError> {
        let what = "metadata pair";
        let number = |at: usize| {
            let bytes = key.get(at..at + 8).ok_or(FormatError::TooShort { what, have: key.len(), need: at + 8 })?;
            Ok::<u64, FormatError>(u64::from_be_bytes(bytes.try_into().expect("eight bytes")))
        };
        Ok(match keys::kind(key).ok_or(FormatError::Field { what, field: "key" })? {
            KeyKind::Name => {
                let name = keys::name_of(key).ok_or(FormatError::Field { what, field: "name" })?.to_owned();
                let Name { inode, kind, .. } = codec::decode(value)?;
                Pair::Name { directory: InodeId(number(1)?), name, inode, kind }
            }
            KeyKind::Directory => {
                let Directory { entries, retention, .. } = codec::decode(value)?;
                Pair::Directory { directory: InodeId(number(1)?), entries, retention }
            }
            KeyKind::Inode => Pair::Inode { key: InodeId(number(1)?), record: Box::new(codec::decode(value)?) },
            KeyKind::Version => {
                let Version { content } = codec::decode(value)?;
                Pair::Version { inode: InodeId(number(1)?), version: VersionNumber(number(9)?), content }
            }
            KeyKind::Segment => Pair::Segment { key: SegmentId(number(1)?), record: codec::decode(value)? },
            KeyKind::Domain => Pair::Domain { key: DomainId(number(1)?), record: codec::decode(value)? },
            KeyKind::Counters => Pair::Counters(codec::decode(value)?),
            KeyKind::SlotCounter => {
                let Number(next) = codec::decode(value)?;
                Pair::SlotCounter { slot: u16::from_be_bytes([key[1], key[2]]), next }
            }
            other => Pair::Other { kind: format!("{other:?}") },
        })
    }
}
