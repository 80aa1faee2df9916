//! One index entry: 24 bytes, a truncated id and a packed location.
//!
//! ```text
//!   0   id bits 24-119 [12]      the partition implies 6 of the first 20, so two ids are mistaken once in 2^102
//!  12   segment number u32       see `segments`
//!  16   column 6 | offset/64 20 | sectors 11 | ordinal 12, 49 bits of a u64
//! ```

use proto::{ChunkId, Location};

use crate::segments::SegmentNumbers;

/// Bits of a packed location below the segment.
const PLACE_BITS: u32 = 49;

/// See the module.
#[derive(Clone, Copy, Debug)]
#[repr(C)]
pub(crate) struct Entry {
    tag: [u8; 12],
    segment: u32,
    place: [u32; 2],
}

const _: () = assert!(size_of::<Entry>() == 24);

/// The part of an id that an entry keeps: none of the bits that chose the partition. Ids are keyed hashes, so any other
/// bits are as good as random.
fn tag(id: &ChunkId) -> [u8; 12] {
    id.0[3..15].try_into().expect("twelve bytes of thirty-two")
}

impl Entry {
    pub(crate) fn new(id: &ChunkId, location: Location, segments: &mut SegmentNumbers) -> Entry {
        let place = (location.pack() & ((1 << PLACE_BITS) - 1)) as u64;
        let segment = segments.number(location.segment);
        Entry { tag: tag(id), segment, place: [place as u32, (place >> 32) as u32] }
    }

    pub(crate) fn location(&self, segments: &SegmentNumbers) -> Location {
        let place = u128::from(self.place[0]) | u128::from(self.place[1]) << 32;
        Location::unpack(place | u128::from(segments.segment(self.segment).0) << PLACE_BITS)
            .expect("invariant: an entry holds what `pack` made")
    }

    /// Whether this entry may stand for `id`.
    pub(crate) fn matches(&self, other: &Entry) -> bool {
        self.tag == other.tag
    }

    pub(crate) fn matches_id(&self, id: &ChunkId) -> bool {
        self.tag == tag(id)
    }

    pub(crate) fn hash(&self) -> u64 {
        u64::from_le_bytes(self.tag[4..].try_into().expect("eight bytes of twelve"))
    }

    pub(crate) fn hash_of(id: &ChunkId) -> u64 {
        u64::from_le_bytes(id.0[7..15].try_into().expect("eight bytes of thirty-two"))
    }
}
