//! How scattered a version of a file lies: what a disk meets that reads it from its first byte to its last.
//!
//! A *fragment* is a run of chunks, in the order of the file, each of which lies where reading goes on: in the block of the
//! one before, or in the same segment behind it, over a gap of [`GAP_BYTES_MAX`] at most. Backups that share most of their
//! chunks with earlier ones are read from where those lie, so their fragments grow in number until compaction.

use meta::ManifestEntry;
use proto::limits::SECTOR_BYTES;
use proto::port::Disk;
use proto::{ChunkId, Location};

use crate::error::FileReadError;
use crate::manifest::location_of;
use crate::read::FileReader;

/// Between two rows lie headers and tables, and chunks that another upload wrote meanwhile. So much is read along at the
/// cost of a seek, or less.
const GAP_BYTES_MAX: u64 = 128 << 10;
/// Chunks whose owners are asked together.
const ASKED_CHUNKS_MAX: usize = 1024;

/// How scattered a version of a file lies.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Fragments {
    /// Its chunks; 0 if it lies inline with the metadata.
    pub chunks: u64,
    /// Runs of chunks that follow one another on a disk.
    pub fragments: u64,
}

impl<D: Disk> FileReader<D> {
    /// Counts the fragments of what the reader has not read yet.
    ///
    /// Cost: the pages of the manifest, and the owners of all chunks are asked; no chunk is read.
    /// Errors: a page of the manifest that cannot be read.
    pub async fn fragments(mut self) -> Result<Fragments, FileReadError> {
        let mut count = Counter::default();
        let mut asked: Vec<ManifestEntry> = Vec::new();
        loop {
            let entry = self.next_entry().await?;
            let is_last = entry.is_none();
            asked.extend(entry);
            if asked.len() == ASKED_CHUNKS_MAX || is_last {
                let ids = asked.iter().map(|entry| ChunkId(entry.id)).collect();
                let known = self.node().0.store.locations(ids).await;
                for (entry, known) in asked.drain(..).zip(known) {
                    count.add(known.unwrap_or_else(|| location_of(&entry)));
                }
            }
            if is_last {
                return Ok(count.sum);
            }
        }
    }
}

/// Counts as chunks come.
#[derive(Debug, Default)]
struct Counter {
    last: Option<Location>,
    sum: Fragments,
}

impl Counter {
    fn add(&mut self, next: Location) {
        self.sum.chunks += 1;
        self.sum.fragments += u64::from(!self.last.is_some_and(|last| follows(last, next)));
        self.last = Some(next);
    }
}

/// Whether reading goes on from `last` to `next`. Columns are written side by side, so only offsets matter.
fn follows(last: Location, next: Location) -> bool {
    let is_same_block = (last.column, last.offset) == (next.column, next.offset);
    let (from, to) = (u64::from(last.offset), u64::from(next.offset));
    let end = (from / SECTOR_BYTES as u64 + u64::from(last.sectors)) * SECTOR_BYTES as u64;
    last.segment == next.segment && (is_same_block || (from..=end + GAP_BYTES_MAX).contains(&to))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proto::SegmentId;

    const KIB: u32 = 1 << 10;

    fn at(segment: u64, offset: u32, ordinal: u16) -> Location {
        Location { segment: SegmentId(segment), column: 0, offset, sectors: 16, ordinal }
    }

    fn fragments(places: &[Location]) -> u64 {
        let mut count = Counter::default();
        places.iter().for_each(|place| count.add(*place));
        assert_eq!(count.sum.chunks, places.len() as u64);
        count.sum.fragments
    }

    #[test]
    fn chunks_that_follow_one_another_are_one_fragment() {
        assert_eq!(fragments(&[]), 0);
        assert_eq!(fragments(&[at(1, 64, 0), at(1, 60 * KIB, 0), at(1, 64 * KIB, 0)]), 1, "side by side");
        assert_eq!(fragments(&[at(1, 64, 0), at(1, 192 * KIB, 0)]), 1, "over a gap");
        assert_eq!(fragments(&[at(1, 64, 3), at(1, 64, 1), at(1, 64, 7)]), 1, "a block is read once");
    }

    #[test]
    fn another_segment_a_step_back_and_a_long_step_begin_a_fragment() {
        assert_eq!(fragments(&[at(1, 64, 0), at(2, 64 * KIB, 0), at(1, 64 * KIB, 0)]), 3);
        assert_eq!(fragments(&[at(1, 64 * KIB, 0), at(1, 64, 0)]), 2);
        assert_eq!(fragments(&[at(1, 64, 0), at(1, 192 * KIB + 64, 0)]), 2);
    }
}
