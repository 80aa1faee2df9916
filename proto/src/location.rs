//! Where a chunk lies: the hint that manifests and the index carry.

use crate::ids::SegmentId;
use crate::limits::{BLOCK_ALIGN_BYTES, SECTOR_BYTES};

/// The place of one chunk, packed into 113 bits.
///
/// ```text
/// bit 0        12         23             43        49                  113
/// | ordinal 12 | sectors 11 | offset/64 20 | column 6 | segment 64      |
/// ```
///
/// A location is a hint: the block found there proves itself by its table entry. A mismatch means "stale, ask the
/// index", never corruption.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Location {
    /// The segment.
    pub segment: SegmentId,
    /// The column of the segment, below 64.
    pub column: u8,
    /// Byte offset in the piece of the block's table entry; a multiple of 64, below 64 MiB.
    pub offset: u32,
    /// 4 KiB sectors that one read needs, counted from the sector that holds `offset`; below 2,048.
    pub sectors: u16,
    /// Which chunk of the block; below 4,096.
    pub ordinal: u16,
}

impl Location {
    /// Packs the location into the low 113 bits.
    ///
    /// # Panics
    /// If a field is out of its range: locations are made by the row layout only, which keeps them in range.
    #[must_use]
    pub fn pack(self) -> u128 {
        assert!(self.column < 1 << 6, "invariant: a column has 6 bits");
        assert!((self.offset as usize).is_multiple_of(BLOCK_ALIGN_BYTES), "invariant: blocks are aligned");
        assert!(self.offset < 64 << 20, "invariant: a piece has 64 MiB");
        assert!(self.sectors < 1 << 11, "invariant: a sector count has 11 bits");
        assert!(self.ordinal < 1 << 12, "invariant: a chunk ordinal has 12 bits");
        u128::from(self.ordinal)
            | u128::from(self.sectors) << 12
            | u128::from(self.offset / BLOCK_ALIGN_BYTES as u32) << 23
            | u128::from(self.column) << 43
            | u128::from(self.segment.0) << 49
    }

    /// Unpacks a location; `None` if bits above 113 are set, as no location of ours has.
    #[must_use]
    pub fn unpack(bits: u128) -> Option<Location> {
        if bits >> 113 != 0 {
            return None;
        }
        Some(Location {
            ordinal: (bits & 0xfff) as u16,
            sectors: (bits >> 12 & 0x7ff) as u16,
            offset: (bits >> 23 & 0xf_ffff) as u32 * BLOCK_ALIGN_BYTES as u32,
            column: (bits >> 43 & 0x3f) as u8,
            segment: SegmentId((bits >> 49) as u64),
        })
    }

    /// The sector-aligned byte offset at which one read of this block starts.
    #[must_use]
    pub fn read_offset(self) -> u64 {
        u64::from(self.offset) / SECTOR_BYTES as u64 * SECTOR_BYTES as u64
    }

    /// The bytes that one read of this block fetches.
    #[must_use]
    pub fn read_bytes(self) -> usize {
        usize::from(self.sectors) * SECTOR_BYTES
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn locations_survive_packing(segment: u64, column in 0u8..64, offset in 0u32..1 << 20, sectors in 0u16..1 << 11, ordinal in 0u16..1 << 12) {
            let location = Location { segment: SegmentId(segment), column, offset: offset * 64, sectors, ordinal };
            prop_assert_eq!(Location::unpack(location.pack()), Some(location));
        }
    }

    #[test]
    fn location_layout_is_frozen() {
        let location = Location {
            segment: SegmentId(0x1122_3344_5566_7788),
            column: 5,
            offset: 0x40_0040,
            sectors: 33,
            ordinal: 7,
        };
        assert_eq!(location.pack(), 0x2244_6688_aacc_ef10_2880_0082_1007);
        assert_eq!(Location::unpack(1 << 113), None);
        assert_eq!(location.read_offset(), 0x40_0000);
    }
}
