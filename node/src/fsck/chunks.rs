//! Which chunks are there, and where: 24 bytes for each, sorted, so that the memory of a check is known beforehand.
//!
//! ```text
//!   0   the chunk's id, hashed: two of n chunks are mistaken with a chance of n / 2^64
//!   8   segment's place in the list 25 | standing 1 | column 6 | offset/64 20 | ordinal 12
//!  16   plain bytes
//!  20   stored bytes 31: its part of those of its block after compression | in a block of several chunks 1
//! ```

use proto::checksum::checksum;
use proto::limits::BLOCK_ALIGN_BYTES;
use proto::{ChunkId, Location, SegmentId};
use shard::Volume;

/// Segments that a check can tell apart: 2 PiB of them.
pub(crate) const SEGMENTS_MAX: usize = 1 << 25;

/// How a chunk can be found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Standing {
    /// By its id: a start puts it into the index.
    Indexed,
    /// Only by who knows where it lies.
    HintOnly,
}

/// One stored chunk.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Entry {
    id: [u32; 2],
    place: [u32; 2],
    plain_bytes: u32,
    stored: u32,
}

/// The bit of an entry that says that its block holds several chunks.
const IS_SHARED: u32 = 1 << 31;
const _: () = assert!(proto::limits::BLOCK_PLAIN_BYTES_MAX < IS_SHARED as usize);
const _: () = assert!(size_of::<Entry>() == 24);

/// How long a chunk is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct ChunkBytes {
    /// As it was stored.
    pub(crate) plain_bytes: u32,
    /// Its part of its block after compression.
    pub(crate) stored_bytes: u32,
    /// Whether its block holds other chunks as well.
    pub(crate) is_shared: bool,
}

/// Chunks of one segment, as its check found them.
#[derive(Debug, Default)]
pub(crate) struct SegmentChunks(Vec<Entry>);

impl SegmentChunks {
    /// Notes a chunk; of its location all but the segment counts.
    pub(crate) fn add(&mut self, id: &ChunkId, bytes: ChunkBytes, location: Location, standing: Standing) {
        let ChunkBytes { plain_bytes, stored_bytes, is_shared } = bytes;
        self.0.push(Entry {
            id: words(hash(id)),
            place: words(place(location, standing, 0)),
            plain_bytes,
            stored: stored_bytes | if is_shared { IS_SHARED } else { 0 },
        });
    }

    /// Chunks so far.
    pub(crate) fn len(&self) -> usize {
        self.0.len()
    }

    /// Gives back what was reserved for more.
    pub(crate) fn finish(&mut self) {
        self.0.shrink_to_fit();
    }
}

/// All chunks.
#[derive(Debug, Default)]
pub(crate) struct ChunkSet {
    entries: Vec<Entry>,
    /// Ascending.
    segments: Vec<SegmentId>,
}

/// What is known of a chunk that a manifest names.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Known {
    /// It lies where the manifest says.
    AtHint {
        /// Its plain bytes.
        plain_bytes: u32,
        /// How else it can be found.
        standing: Standing,
    },
    /// It lies elsewhere, and the index knows where.
    Elsewhere {
        /// Its plain bytes.
        plain_bytes: u32,
        /// Where.
        location: Location,
    },
}

impl ChunkSet {
    /// Makes room for exactly so many chunks more.
    pub(crate) fn reserve(&mut self, chunks: usize) {
        self.entries.reserve_exact(chunks);
    }

    /// Takes the chunks of the next segment, in ascending order of segments.
    ///
    /// # Panics
    /// If there are more than [`SEGMENTS_MAX`], or they do not ascend.
    pub(crate) fn add(&mut self, segment: SegmentId, chunks: SegmentChunks) {
        assert!(self.segments.last().is_none_or(|last| *last < segment), "invariant: segments come in order");
        assert!(self.segments.len() < SEGMENTS_MAX, "invariant: a check has fewer than 2^25 segments");
        let number = (self.segments.len() as u64) << 39;
        self.segments.push(segment);
        let numbered = |entry: Entry| Entry {
            place: words(u64::from(entry.place[0]) << 32 | u64::from(entry.place[1]) | number),
            ..entry
        };
        self.entries.extend(chunks.0.into_iter().map(numbered));
    }

    /// Sorts the chunks; lookups come after.
    pub(crate) fn seal(&mut self) {
        self.entries.sort_unstable();
    }

    /// What the index of a start holds: each chunk once, however often it is stored, at the last of its places. Lookups
    /// come after [`Self::seal`], and so does this.
    pub(crate) fn distinct(&self) -> Volume {
        let mut sum = Volume::default();
        let mut last = None;
        let is_indexed = |entry: &&Entry| standing(u64::from(entry.place[0]) << 32) == Standing::Indexed;
        for entry in self.entries.iter().rev().filter(is_indexed) {
            if last.replace(entry.id) != Some(entry.id) {
                let is_shared = entry.stored & IS_SHARED != 0;
                sum += Volume::of_chunk(entry.plain_bytes, entry.stored & !IS_SHARED, is_shared);
            }
        }
        sum
    }

    /// What is known of chunk `id`, which a manifest says is at `hint`.
    pub(crate) fn find(&self, id: &ChunkId, hint: Location) -> Option<Known> {
        let id = words(hash(id));
        let start = self.entries.partition_point(|entry| entry.id < id);
        let copies = self.entries[start..].iter().take_while(|entry| entry.id == id);
        let mut elsewhere = None;
        for entry in copies {
            let (location, standing) = self.location(entry.place);
            let same = |a: Location, b: Location| Location { sectors: 0, ..a } == Location { sectors: 0, ..b };
            if same(location, hint) {
                return Some(Known::AtHint { plain_bytes: entry.plain_bytes, standing });
            }
            if standing == Standing::Indexed {
                elsewhere = Some(Known::Elsewhere { plain_bytes: entry.plain_bytes, location });
            }
        }
        elsewhere
    }

    fn location(&self, place: [u32; 2]) -> (Location, Standing) {
        let bits = u64::from(place[0]) << 32 | u64::from(place[1]);
        let standing = standing(bits);
        let location = Location {
            segment: self.segments[(bits >> 39) as usize],
            column: (bits >> 32 & 0x3f) as u8,
            offset: (bits >> 12 & 0xf_ffff) as u32 * BLOCK_ALIGN_BYTES as u32,
            sectors: 0,
            ordinal: (bits & 0xfff) as u16,
        };
        (location, standing)
    }
}

fn hash(id: &ChunkId) -> u64 {
    checksum(&id.0)
}

fn standing(place: u64) -> Standing {
    if place >> 38 & 1 == 1 { Standing::HintOnly } else { Standing::Indexed }
}

fn place(location: Location, standing: Standing, number: u64) -> u64 {
    number << 39
        | u64::from(standing == Standing::HintOnly) << 38
        | u64::from(location.column) << 32
        | u64::from(location.offset / BLOCK_ALIGN_BYTES as u32) << 12
        | u64::from(location.ordinal)
}

/// High word first, so that words compare like the number.
fn words(number: u64) -> [u32; 2] {
    [(number >> 32) as u32, number as u32]
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn location(segment: u64, offset: u32, ordinal: u16) -> Location {
        Location { segment: SegmentId(segment), column: 63, offset: offset * 64, sectors: 0, ordinal }
    }

    fn bytes(plain_bytes: u32) -> ChunkBytes {
        ChunkBytes { plain_bytes, stored_bytes: plain_bytes / 2, is_shared: plain_bytes == 100 }
    }

    #[test]
    fn what_a_start_finds_is_counted_once_however_often_it_is_stored() {
        let mut set = ChunkSet::default();
        for segment in [5, 9] {
            let mut found = SegmentChunks::default();
            found.add(&ChunkId([1; 32]), bytes(100), location(segment, 1, 0), Standing::Indexed);
            found.add(&ChunkId([segment as u8; 32]), bytes(10), location(segment, 2, 0), Standing::Indexed);
            found.add(&ChunkId([7; 32]), bytes(1000), location(segment, 3, 0), Standing::HintOnly);
            set.add(SegmentId(segment), found);
        }
        set.seal();
        assert_eq!(set.distinct(), Volume { chunks: 3, plain_bytes: 120, stored_bytes: 60, similarity_bytes: 50 });
    }

    #[test]
    fn a_chunk_is_known_at_its_hint_or_elsewhere_or_not_at_all() {
        let (here, there, lost) = (location(5, 0xf_ffff, 4095), location(9, 1, 0), location(9, 2, 0));
        let (one, other) = (ChunkId([1; 32]), ChunkId([2; 32]));
        let (mut first, mut second) = (SegmentChunks::default(), SegmentChunks::default());
        first.add(&one, bytes(100), here, Standing::Indexed);
        second.add(&other, bytes(200), there, Standing::HintOnly);
        let mut set = ChunkSet::default();
        set.add(SegmentId(5), first);
        set.add(SegmentId(9), second);
        set.seal();
        let at_hint = Known::AtHint { plain_bytes: 100, standing: Standing::Indexed };
        assert_eq!(set.find(&one, here), Some(at_hint));
        assert_eq!(set.find(&one, Location { sectors: 7, ..here }), Some(at_hint));
        assert_eq!(set.find(&one, lost), Some(Known::Elsewhere { plain_bytes: 100, location: here }));
        let hint_only = Known::AtHint { plain_bytes: 200, standing: Standing::HintOnly };
        assert_eq!(set.find(&other, there), Some(hint_only));
        assert_eq!(set.find(&other, lost), None);
        assert_eq!(set.find(&ChunkId([3; 32]), here), None);
    }

    proptest! {
        #[test]
        fn locations_come_back(chunks in prop::collection::btree_map(any::<[u8; 32]>(), (0u8..64, 0u32..1 << 20, 0u16..4096), 1..50)) {
            let mut found = SegmentChunks::default();
            for (id, (column, offset, ordinal)) in &chunks {
                let location = Location { column: *column, ..location(7, *offset, *ordinal) };
                found.add(&ChunkId(*id), bytes(u32::from(*ordinal)), location, Standing::Indexed);
            }
            let mut set = ChunkSet::default();
            set.add(SegmentId(3), SegmentChunks::default());
            set.add(SegmentId(7), found);
            set.seal();
            for (id, (column, offset, ordinal)) in chunks {
                let location = Location { column, ..location(7, offset, ordinal) };
                let expected = Known::Elsewhere { plain_bytes: ordinal.into(), location };
                prop_assert_eq!(set.find(&ChunkId(id), self::location(1, 0, 0)), Some(expected));
            }
        }
    }
}
