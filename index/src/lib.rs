//! The chunk index of one core: from a chunk's id to where it lies.
//!
//! The index is derived: everything in it can be rebuilt from the segments, and for a writer a missing entry costs no
//! more than a duplicate. It is therefore never written to disk here and never the last word: ids are truncated to
//! 102 bits (6 of them implied by the partition), so a candidate is an answer only after all 32 bytes matched in the
//! row's table.
//!
//! * [`Index`]: one partition for each virtual shard, and the numbering of segments.
//! * [`Lookup`]: `Found`, `Absent`, or `Unknown` while the index is still being filled.

mod entry;
mod partition;
mod segments;

use proto::limits::VIRTUAL_SHARDS;
use proto::{ChunkId, Location};

use entry::Entry;
use partition::Partition;
use segments::SegmentNumbers;

/// What the index knows of a chunk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Lookup {
    /// Probably here; confirm the id in the row's table.
    Found(Location),
    /// Not stored, as far as a complete index knows.
    Absent,
    /// Not found, but the index is incomplete: never a reason to free data or to call a read lost.
    Unknown,
}

/// Whether every durable chunk has been inserted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Coverage {
    /// Recovery is still inserting.
    Partial,
    /// All segments are in.
    Complete,
}

/// The index partitions of one core.
#[derive(Debug)]
pub struct Index {
    partitions: Vec<Partition>,
    segments: SegmentNumbers,
    coverage: Coverage,
}

impl Default for Index {
    fn default() -> Self {
        Index {
            partitions: (0..VIRTUAL_SHARDS).map(|_| Partition::default()).collect(),
            segments: SegmentNumbers::default(),
            coverage: Coverage::Partial,
        }
    }
}

impl Index {
    /// Returns an empty index that answers `Unknown` until [`Index::set_coverage`].
    #[must_use]
    pub fn new() -> Index {
        Index::default()
    }

    /// Says whether absence may be believed.
    pub fn set_coverage(&mut self, coverage: Coverage) {
        self.coverage = coverage;
    }

    /// Looks a chunk up.
    #[must_use]
    pub fn lookup(&self, id: &ChunkId) -> Lookup {
        let found = self.partitions[usize::from(id.virtual_shard().0)].get(id);
        match (found, self.coverage) {
            (Some(entry), _) => Lookup::Found(entry.location(&self.segments)),
            (None, Coverage::Complete) => Lookup::Absent,
            (None, Coverage::Partial) => Lookup::Unknown,
        }
    }

    /// Records where a durable chunk lies; an entry of the same id is replaced.
    ///
    /// # Panics
    /// If the location is out of its ranges, or 2^32 segments were seen.
    pub fn insert(&mut self, id: &ChunkId, location: Location) {
        let entry = Entry::new(id, location, &mut self.segments);
        self.partitions[usize::from(id.virtual_shard().0)].insert(entry);
    }

    /// Forgets a chunk, if `location` is what the index knows of it: a block that failed verification stops answering.
    ///
    /// Returns whether an entry was removed.
    pub fn remove(&mut self, id: &ChunkId, location: Location) -> bool {
        if self.lookup(id) != Lookup::Found(location) {
            return false;
        }
        self.partitions[usize::from(id.virtual_shard().0)].remove(id)
    }

    /// Chunks known.
    #[must_use]
    pub fn chunks(&self) -> u64 {
        self.partitions.iter().map(|partition| partition.len() as u64).sum()
    }

    /// Bytes of memory that the tables take.
    #[must_use]
    pub fn memory_bytes(&self) -> usize {
        self.partitions.iter().map(Partition::memory_bytes).sum::<usize>() + self.segments.memory_bytes()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use proto::SegmentId;
    use std::collections::BTreeMap;

    fn location(segment: u64, offset: u32) -> Location {
        Location { segment: SegmentId(segment), column: 3, offset: offset * 64, sectors: 17, ordinal: 5 }
    }

    #[test]
    fn absence_is_believed_only_once_complete() {
        let mut index = Index::new();
        assert_eq!(index.lookup(&ChunkId([1; 32])), Lookup::Unknown);
        index.set_coverage(Coverage::Complete);
        assert_eq!(index.lookup(&ChunkId([1; 32])), Lookup::Absent);
    }

    #[test]
    fn removal_needs_the_location_that_is_known() {
        let mut index = Index::new();
        let id = ChunkId([7; 32]);
        index.insert(&id, location(1, 1));
        assert!(!index.remove(&id, location(1, 2)));
        assert!(index.remove(&id, location(1, 1)));
        assert_eq!(index.chunks(), 0);
    }

    proptest! {
        #[test]
        fn index_agrees_with_a_map(steps in prop::collection::vec((any::<[u8; 2]>(), 0u64..5, 0u32..1 << 20, any::<bool>()), 0..200)) {
            let mut index = Index::new();
            index.set_coverage(Coverage::Complete);
            let mut model = BTreeMap::new();
            for (seed, segment, offset, insert) in steps {
                let mut id = ChunkId([seed[0]; 32]);
                id.0[9] = seed[1];
                if insert {
                    index.insert(&id, location(segment, offset));
                    model.insert(id, location(segment, offset));
                } else if let Some(known) = model.remove(&id) {
                    prop_assert!(index.remove(&id, known));
                }
            }
            prop_assert_eq!(index.chunks(), model.len() as u64);
            for (id, location) in model {
                prop_assert_eq!(index.lookup(&id), Lookup::Found(location));
            }
        }
    }
}
