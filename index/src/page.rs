//! Index checkpoint pages: a part of one partition as bytes. The layout is in docs/FORMATS.md, "Index checkpoint".
//!
//! ```text
//!   0  magic "DFSINDEX"   8  version u32   12  virtual shard u32   16  rkyv: the segments and the entries
//! ```
//!
//! Keys are whole in a page: it does not depend on how many groups the table had, and any index can take it. A page is
//! stored sealed, like a chunk, which proves its bytes; what is checked here is that those bytes are a page.

use proto::disk::FormatError;
use proto::limits::{BLOCK_PLAIN_BYTES_MAX, VIRTUAL_SHARDS};
use proto::{SegmentId, VirtualShard};
use rkyv::rancor::Error;
use rkyv::{Archive, Serialize};

use crate::key::Key;
use crate::segments::SegmentNumber;
use crate::slot::{PLACE_BITS, Place};

/// Bytes of the longest page: it is stored as one block.
pub const PAGE_BYTES_MAX: usize = BLOCK_PLAIN_BYTES_MAX;
/// The least that a page may be limited to.
pub const PAGE_BYTES_MIN: usize = 4 << 10;

/// Why a page was not imported; nothing of it was.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PageError {
    /// The bytes are no page that this version understands. Go on without it: its chunks are found in their segments.
    #[error(transparent)]
    Format(#[from] FormatError),
    /// The page belongs to a virtual shard of another core: give it to that core.
    #[error("{WHAT}: virtual shard {} belongs to another core", .0.0)]
    NotOwned(VirtualShard),
}

const WHAT: &str = "index checkpoint page";
const MAGIC: [u8; 8] = *b"DFSINDEX";
const VERSION: u32 = 1;
const HEAD_BYTES: usize = 16;
/// Bytes of two archived lists: a relative pointer and a length each.
const LISTS_BYTES: usize = 16;
const SEGMENT_BYTES: usize = 8;
const ENTRY_BYTES: usize = 20;
/// Segments of one page: an entry has 15 bits for the ordinal of its segment.
const SEGMENTS_MAX: usize = 1 << (64 - PLACE_BITS);

#[derive(Archive, Serialize)]
struct Body {
    segments: Vec<u64>,
    entries: Vec<Entry>,
}

#[derive(Archive, Serialize)]
struct Entry {
    /// 90 bits.
    key: [u8; 12],
    /// Place 49 bits, then the ordinal of the segment.
    place: u64,
}

/// Returns the virtual shard whose entries a page holds, so that it can be given to the owner. Only the head is checked.
///
/// # Errors
/// [`FormatError`] if the bytes are no page of this version.
pub fn page_shard(page: &[u8]) -> Result<VirtualShard, FormatError> {
    let Some((head, _)) = page.split_at_checked(HEAD_BYTES) else {
        return Err(FormatError::TooShort { what: WHAT, have: page.len(), need: HEAD_BYTES });
    };
    if head[..8] != MAGIC {
        return Err(FormatError::BadMagic { what: WHAT });
    }
    let word = |at: usize| u32::from_le_bytes(head[at..at + 4].try_into().expect("four bytes"));
    if word(8) != VERSION {
        return Err(FormatError::UnknownVersion { what: WHAT, wrote: word(8), understood: VERSION });
    }
    require(word(12) < VIRTUAL_SHARDS as u32, "virtual shard")?;
    Ok(VirtualShard(word(12) as u8))
}

fn require(ok: bool, field: &'static str) -> Result<(), FormatError> {
    if ok { Ok(()) } else { Err(FormatError::Field { what: WHAT, field }) }
}

/// A page that is being written.
pub(crate) struct PageWriter {
    shard: VirtualShard,
    bytes_max: usize,
    body: Body,
    /// For each segment number its ordinal in the page, or `u16::MAX`.
    ordinals: Vec<u16>,
}

impl PageWriter {
    /// Begins a page of up to `bytes_max`; every segment number is below `numbers_end`.
    pub(crate) fn new(shard: VirtualShard, bytes_max: usize, numbers_end: usize) -> PageWriter {
        assert!((PAGE_BYTES_MIN..=PAGE_BYTES_MAX).contains(&bytes_max), "invariant: a page is stored as one block");
        let body = Body { segments: Vec::new(), entries: Vec::with_capacity(bytes_max / ENTRY_BYTES) };
        PageWriter { shard, bytes_max, body, ordinals: vec![u16::MAX; numbers_end] }
    }

    /// Entries that fit, even if each is in a segment that the page has not named yet.
    pub(crate) fn room(&self) -> usize {
        let bytes =
            HEAD_BYTES + self.body.segments.len() * SEGMENT_BYTES + self.body.entries.len() * ENTRY_BYTES + LISTS_BYTES;
        let by_bytes = (self.bytes_max - bytes) / (SEGMENT_BYTES + ENTRY_BYTES);
        by_bytes.min(SEGMENTS_MAX - self.body.segments.len())
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.body.entries.is_empty()
    }

    /// Adds an entry, for which there is room.
    pub(crate) fn push(&mut self, key: Key, place: Place, number: SegmentNumber, segment: SegmentId) {
        let ordinal = &mut self.ordinals[number.0 as usize];
        if *ordinal == u16::MAX {
            *ordinal = self.body.segments.len() as u16;
            self.body.segments.push(segment.0);
        }
        let place = u64::from(*ordinal) << PLACE_BITS | place.bits();
        self.body.entries.push(Entry { key: key.to_bytes(), place });
    }

    pub(crate) fn finish(self) -> Vec<u8> {
        let body_bytes = self.body.segments.len() * SEGMENT_BYTES + self.body.entries.len() * ENTRY_BYTES;
        let mut page = Vec::with_capacity(HEAD_BYTES + body_bytes + LISTS_BYTES);
        page.extend_from_slice(&MAGIC);
        page.extend_from_slice(&VERSION.to_le_bytes());
        page.extend_from_slice(&u32::from(self.shard.0).to_le_bytes());
        let page = rkyv::api::high::to_bytes_in::<_, Error>(&self.body, page)
            .expect("invariant: encoding into memory cannot fail");
        assert!(page.len() <= self.bytes_max, "invariant: only what fits is added");
        page
    }
}

/// A page all of which was checked.
pub(crate) struct Page<'a> {
    pub(crate) shard: VirtualShard,
    body: &'a ArchivedBody,
}

impl<'a> Page<'a> {
    pub(crate) fn check(page: &'a [u8]) -> Result<Page<'a>, FormatError> {
        let shard = page_shard(page)?;
        require(page.len() <= PAGE_BYTES_MAX, "length")?;
        let archive = &page[HEAD_BYTES..];
        let body = rkyv::access::<ArchivedBody, Error>(archive)
            .map_err(|_| FormatError::Field { what: WHAT, field: "encoding" })?;
        let (segments, entries) = (body.segments.len(), body.entries.len());
        require(segments <= SEGMENTS_MAX, "segments")?;
        require(archive.len() == segments * SEGMENT_BYTES + entries * ENTRY_BYTES + LISTS_BYTES, "length")?;
        let well_formed = |entry: &ArchivedEntry| Key::from_bytes(entry.key).is_some() && entry.ordinal() < segments;
        require(body.entries.iter().all(well_formed), "entries")?;
        Ok(Page { shard, body })
    }

    pub(crate) fn segments(&self) -> impl Iterator<Item = SegmentId> {
        self.body.segments.iter().map(|segment| SegmentId(segment.to_native()))
    }

    pub(crate) fn len(&self) -> usize {
        self.body.entries.len()
    }

    /// Entry `number`: its key, its place, and which of the segments it is in.
    pub(crate) fn entry(&self, number: usize) -> (Key, Place, usize) {
        let entry = &self.body.entries[number];
        let key = Key::from_bytes(entry.key).expect("invariant: the entries were checked");
        (key, Place::from_bits(entry.place.to_native()), entry.ordinal())
    }
}

impl ArchivedEntry {
    fn ordinal(&self) -> usize {
        (self.place.to_native() >> PLACE_BITS) as usize
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use proto::{ChunkId, Location};

    fn small_page() -> Vec<u8> {
        let mut page = PageWriter::new(VirtualShard(0x2a), PAGE_BYTES_MAX, 9);
        for (seed, number) in [(1u8, 8u32), (2, 3), (3, 8)] {
            let segment = SegmentId(0x1122_3344_5566_7700 + u64::from(number));
            let location = Location { segment, column: 5, offset: 0x40_0040, sectors: 33, ordinal: seed.into() };
            let mut id = ChunkId::default();
            for (at, byte) in id.0.iter_mut().enumerate() {
                *byte = seed << 4 | at as u8;
            }
            page.push(Key::of(&id), Place::of(location), SegmentNumber(number), segment);
        }
        page.finish()
    }

    #[test]
    fn page_layout_is_frozen() {
        let hex = |bytes: &[u8]| bytes.iter().map(|byte| format!("{byte:02x}")).collect::<String>();
        let lines: Vec<String> = small_page().chunks(16).map(hex).collect();
        let golden = include_str!("../golden/page.hex");
        assert_eq!(lines, golden.lines().collect::<Vec<_>>(), "the page changed its layout:\n{}", lines.join("\n"));
    }

    #[test]
    fn truncated_pages_are_refused() {
        let page = small_page();
        assert_eq!(page_shard(&page), Ok(VirtualShard(0x2a)));
        for len in 0..page.len() {
            assert!(Page::check(&page[..len]).is_err(), "truncation to {len} bytes");
        }
        assert!(Page::check(&[page, vec![0]].concat()).is_err(), "a longer page");
    }

    #[test]
    fn flipped_bits_never_make_more_entries() {
        let page = small_page();
        for bit in 0..page.len() * 8 {
            let mut damaged = page.clone();
            damaged[bit / 8] ^= 1 << (bit % 8);
            match Page::check(&damaged) {
                Ok(page) => {
                    assert!(!(0..12 * 8).contains(&bit), "magic and version are checked");
                    assert_eq!((page.segments().count(), page.len()), (2, 3), "flip of bit {bit}");
                    assert!((0..page.len()).all(|number| page.entry(number).2 < 2));
                }
                Err(error) => assert!(!error.to_string().is_empty()),
            }
        }
    }

    #[test]
    fn pages_of_another_version_are_refused() {
        let mut page = small_page();
        page[8] = 2;
        let refused = FormatError::UnknownVersion { what: WHAT, wrote: 2, understood: 1 };
        assert_eq!(page_shard(&page), Err(refused));
    }

    proptest! {
        #[test]
        fn checking_never_panics(tail in prop::collection::vec(any::<u8>(), 0..300)) {
            let page = [&small_page()[..HEAD_BYTES], &tail].concat();
            if let Ok(page) = Page::check(&page) {
                prop_assert!((0..page.len()).all(|number| page.entry(number).2 < page.segments().count()));
            }
        }
    }
}
