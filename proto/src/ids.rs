//! Names of things. Each is a newtype, so that a row number is never mistaken for a segment.

use std::fmt;

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

/// Defines a `u64` newtype with hexadecimal or decimal display.
macro_rules! number {
    ($(#[$doc:meta])* $name:ident, $format:literal) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
        pub struct $name(pub u64);

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, $format, self.0)
            }
        }
    };
}

/// Defines a newtype over random or hashed bytes, shown in hexadecimal.
macro_rules! bytes {
    ($(#[$doc:meta])* $name:ident, $len:literal) => {
        $(#[$doc])*
        #[derive(
            Clone, Copy, Default, PartialEq, Eq, Hash, PartialOrd, Ord, FromBytes, IntoBytes, Immutable, KnownLayout,
        )]
        #[repr(transparent)]
        pub struct $name(pub [u8; $len]);

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, concat!(stringify!($name), "({})"), self)
            }
        }
    };
}

bytes!(
    /// A chunk's name: BLAKE3, keyed with its dedup domain's key, of exactly the bytes the server received.
    ChunkId,
    32
);
bytes!(
    /// One cluster (or one single node), drawn at random when it is formatted.
    ClusterId,
    16
);
bytes!(
    /// One data directory or disk, drawn at random when it is formatted.
    DeviceId,
    16
);
bytes!(
    /// Random tag of one segment: recovery accepts only pieces that carry it.
    SegmentTag,
    16
);
number!(
    /// Place of a metadata command in its log, counted from 1.
    Lsn,
    "{}"
);
number!(
    /// Number of a row within its segment; consumed when sealing begins and never reused.
    RowNumber,
    "{}"
);
number!(
    /// Version of a file's content, counted from 1.
    VersionNumber,
    "{}"
);
number!(
    /// A dedup domain: chunks deduplicate only within one. A tenant has one; 0 is the first tenant's.
    DomainId,
    "{}"
);
number!(
    /// A file or directory: slot 14 bits | counter 50 bits. Inode 1 is the root directory.
    InodeId,
    "{:016x}"
);
number!(
    /// A segment: incarnation 40 bits | counter 24 bits; never reused.
    ///
    /// The incarnation is raised and made durable on a majority of the node's disks before the first segment of a
    /// start is opened, so a crash can never hand out a number twice.
    SegmentId,
    "{:016x}"
);

/// How often the chunks of a segment were moved by compaction: its segments hold nothing else.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Generation(pub u8);

impl Generation {
    /// What clients' writes fill: it was never moved.
    pub const HOT: Generation = Generation(0);
    /// Chunks of this generation were moved as often as space alone is worth.
    pub const LAST: Generation = Generation(2);

    /// The generation of what is moved out of this one.
    #[must_use]
    pub fn moved(self) -> Generation {
        Generation((self.0 + 1).min(Self::LAST.0))
    }
}

impl DomainId {
    /// No tenant's: the pages of checkpoints of the chunk index, which are no chunks of the index themselves.
    pub const CHECKPOINTS: DomainId = DomainId(u64::MAX);
}

impl InodeId {
    /// The root directory.
    pub const ROOT: InodeId = InodeId(1);
    const COUNTER_BITS: u32 = 50;

    /// Returns the inode `counter` of metadata slot `slot`.
    ///
    /// # Panics
    /// If `slot` needs more than 14 bits or `counter` more than 50.
    #[must_use]
    pub fn new(slot: u16, counter: u64) -> InodeId {
        assert!(slot < 1 << 14, "invariant: a metadata slot has 14 bits");
        assert!(counter < 1 << Self::COUNTER_BITS, "invariant: an inode counter has 50 bits");
        InodeId(u64::from(slot) << Self::COUNTER_BITS | counter)
    }

    /// The metadata slot that owns this inode.
    #[must_use]
    pub fn slot(self) -> u16 {
        (self.0 >> Self::COUNTER_BITS) as u16
    }
}

impl SegmentId {
    const COUNTER_BITS: u32 = 24;
    /// Segments of one incarnation.
    pub const COUNTER_MAX: u64 = (1 << Self::COUNTER_BITS) - 1;

    /// Returns segment `counter` of `incarnation`.
    ///
    /// # Panics
    /// If `incarnation` needs more than 40 bits or `counter` more than 24.
    #[must_use]
    pub fn new(incarnation: u64, counter: u64) -> SegmentId {
        assert!(incarnation < 1 << 40, "invariant: an incarnation has 40 bits");
        assert!(counter <= Self::COUNTER_MAX, "invariant: a segment counter has 24 bits");
        SegmentId(incarnation << Self::COUNTER_BITS | counter)
    }

    /// The incarnation that opened this segment.
    #[must_use]
    pub fn incarnation(self) -> u64 {
        self.0 >> Self::COUNTER_BITS
    }

    /// Which of its incarnation's segments this is.
    #[must_use]
    pub fn counter(self) -> u64 {
        self.0 & Self::COUNTER_MAX
    }
}

impl ChunkId {
    /// The index slot: the first 20 bits of the id.
    #[must_use]
    pub fn slot(&self) -> u32 {
        u32::from(self.0[0]) << 12 | u32::from(self.0[1]) << 4 | u32::from(self.0[2]) >> 4
    }

    /// The virtual shard that owns this id's index entry on a single node.
    #[must_use]
    pub fn virtual_shard(&self) -> VirtualShard {
        VirtualShard((self.slot() % crate::limits::VIRTUAL_SHARDS as u32) as u8)
    }
}

/// An index partition and namespace group; dealt to a core at start.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct VirtualShard(pub u8);

/// A core of a node, counted from 0. How many there are may change between starts.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct CoreId(pub u16);

impl fmt::Display for CoreId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0)
    }
}

/// The public id of a file: a UUID version 8 (RFC 9562) that carries the inode and 58 bits of the cluster id.
///
/// ```text
/// bits   0-47  inode, high 48 bits        bits  64-65  variant 0b10
/// bits  48-51  version 8                  bits  66-81  inode, low 16 bits
/// bits  52-63  cluster id, first 12 bits  bits 82-127  cluster id, next 46 bits
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct FileId(u128);

impl FileId {
    const VERSION: u128 = 0x8 << 76;
    const VARIANT: u128 = 0b10 << 62;
    const CLUSTER_MASK: u128 = (0xfff << 64) | ((1 << 46) - 1);

    /// Returns the public id of `inode` in `cluster`.
    #[must_use]
    pub fn new(cluster: ClusterId, inode: InodeId) -> FileId {
        let ino = u128::from(inode.0);
        FileId(ino >> 16 << 80 | Self::VERSION | Self::VARIANT | (ino & 0xffff) << 46 | Self::cluster_bits(cluster))
    }

    /// Returns the inode, or `None` if this id was given out by another cluster.
    #[must_use]
    pub fn inode(self, cluster: ClusterId) -> Option<InodeId> {
        if self.0 & Self::CLUSTER_MASK != Self::cluster_bits(cluster) {
            return None;
        }
        Some(InodeId(((self.0 >> 80) << 16 | (self.0 >> 46) & 0xffff) as u64))
    }

    /// Parses the canonical text form; `None` if it is not a UUID of version 8.
    #[must_use]
    pub fn parse(text: &str) -> Option<FileId> {
        let groups: Vec<&str> = text.split('-').collect();
        if groups.iter().map(|group| group.len()).ne([8, 4, 4, 4, 12])
            || !text.bytes().all(|byte| byte == b'-' || byte.is_ascii_hexdigit())
        {
            return None;
        }
        let bits = u128::from_str_radix(&groups.concat(), 16).ok()?;
        (bits & (0xf << 76) == Self::VERSION && bits & (0b11 << 62) == Self::VARIANT).then_some(FileId(bits))
    }

    fn cluster_bits(cluster: ClusterId) -> u128 {
        let bits = u128::from_be_bytes(cluster.0) >> 70;
        (bits >> 46) << 64 | bits & ((1 << 46) - 1)
    }
}

impl fmt::Display for FileId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let hex = format!("{:032x}", self.0);
        write!(f, "{}-{}-{}-{}-{}", &hex[..8], &hex[8..12], &hex[12..16], &hex[16..20], &hex[20..])
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn file_id_layout_is_frozen() {
        let cluster = ClusterId(*b"0123456789abcdef");
        let id = FileId::new(cluster, InodeId(0x1122_3344_5566_7788));
        assert_eq!(id.to_string(), "11223344-5566-8303-9de2-04c8ccd0d4d8");
        assert_eq!(FileId::parse("11223344-5566-4303-9de2-04c8ccd0d4d8"), None, "version 4 is not ours");
    }

    proptest! {
        #[test]
        fn file_id_carries_its_inode(cluster: [u8; 16], other: [u8; 16], inode: u64) {
            let id = FileId::new(ClusterId(cluster), InodeId(inode));
            prop_assert_eq!(FileId::parse(&id.to_string()), Some(id));
            prop_assert_eq!(id.inode(ClusterId(cluster)), Some(InodeId(inode)));
            if cluster[..7] != other[..7] {
                prop_assert_eq!(id.inode(ClusterId(other)), None);
            }
        }

        #[test]
        fn parse_never_panics(text in ".{0,40}") {
            let _ = FileId::parse(&text);
        }

        #[test]
        fn segment_and_inode_ids_split_back(incarnation in 0u64..1 << 40, counter in 0u64..1 << 24, slot in 0u16..1 << 14) {
            prop_assert_eq!(SegmentId::new(incarnation, counter).incarnation(), incarnation);
            prop_assert_eq!(InodeId::new(slot, counter).slot(), slot);
        }
    }

    #[test]
    fn index_slot_is_the_first_twenty_bits() {
        let mut id = ChunkId::default();
        id.0[..3].copy_from_slice(&[0xab, 0xcd, 0xef]);
        assert_eq!(id.slot(), 0xabcde);
        assert_eq!(id.virtual_shard(), VirtualShard(0x1e));
    }
}
