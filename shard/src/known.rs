//! Chunks whose 32-byte ids were read in a row's table lately: what confirms that a candidate of the index is a duplicate.
//!
//! A table is read once and brings all chunks of its row: what was written together comes again together, so a stream
//! of duplicates costs one read for each row.

use std::collections::BTreeMap;

use proto::disk::RowTable;
use proto::limits::ROW_TABLES_CACHED_BYTES_MAX;
use proto::{ChunkId, Location, RowNumber, SegmentId};

use crate::recent::Recent;

/// Memory that one chunk takes here: its id and place, twice with what a B-tree adds.
const CHUNK_BYTES: usize = 192;

/// The chunks of one row.
#[derive(Clone, Debug)]
pub(crate) struct RowChunks {
    pub(crate) segment: SegmentId,
    pub(crate) row: RowNumber,
    pub(crate) chunks: Vec<(ChunkId, Location)>,
}

impl RowChunks {
    pub(crate) fn of(segment: SegmentId, row: RowNumber, table: &RowTable) -> RowChunks {
        let chunks = table.blocks.iter().flat_map(|block| {
            let chunks = block.entry.chunks.iter().enumerate();
            chunks.map(move |(ordinal, chunk)| (chunk.id, block.location(segment, ordinal as u16)))
        });
        RowChunks { segment, row, chunks: chunks.collect() }
    }
}

/// See the module.
#[derive(Debug)]
pub(crate) struct KnownChunks {
    rows: Recent<(SegmentId, RowNumber), RowChunks>,
    places: BTreeMap<ChunkId, (Location, RowNumber)>,
}

impl Default for KnownChunks {
    fn default() -> Self {
        KnownChunks { rows: Recent::new(ROW_TABLES_CACHED_BYTES_MAX), places: BTreeMap::new() }
    }
}

impl KnownChunks {
    /// Whether a table that was read lately has exactly this chunk at this place.
    pub(crate) fn confirm(&mut self, id: &ChunkId, location: Location) -> bool {
        match self.places.get(id) {
            Some((place, row)) if *place == location => self.rows.get(&(location.segment, *row)).is_some(),
            _ => false,
        }
    }

    /// Bytes of memory, near enough.
    pub(crate) fn memory_bytes(&self) -> usize {
        self.rows.cost()
    }

    /// Forgets the rows of a segment.
    pub(crate) fn forget(&mut self, segment: SegmentId) {
        for gone in self.rows.take_range((segment, RowNumber(0))..=(segment, RowNumber(u64::MAX))) {
            self.forget_places(gone);
        }
    }

    fn forget_places(&mut self, gone: RowChunks) {
        for (id, location) in gone.chunks {
            if self.places.get(&id).is_some_and(|(place, _)| *place == location) {
                self.places.remove(&id);
            }
        }
    }

    /// Keeps the chunks of a row; rows that were not used for longest leave.
    pub(crate) fn keep(&mut self, row: RowChunks) {
        for (id, location) in &row.chunks {
            self.places.insert(*id, (*location, row.row));
        }
        let cost = row.chunks.len() * CHUNK_BYTES;
        let key = (row.segment, row.row);
        for gone in self.rows.insert(key, row, cost) {
            if (gone.segment, gone.row) != key {
                self.forget_places(gone);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(number: u64, ids: std::ops::Range<u32>) -> RowChunks {
        let place =
            |ordinal: u32| Location { segment: SegmentId(7), column: 0, offset: ordinal * 64, sectors: 1, ordinal: 0 };
        let chunk = |number: u32| {
            let mut id = ChunkId([0; 32]);
            id.0[..4].copy_from_slice(&number.to_be_bytes());
            (id, place(number))
        };
        RowChunks { segment: SegmentId(7), row: RowNumber(number), chunks: ids.map(chunk).collect() }
    }

    #[test]
    fn a_chunk_is_confirmed_only_at_its_place_and_while_its_row_stays() {
        let mut known = KnownChunks::default();
        let first = row(1, 0..3);
        known.keep(first.clone());
        let (id, place) = first.chunks[1];
        assert!(known.confirm(&id, place));
        assert!(!known.confirm(&id, first.chunks[2].1), "another place");
        assert!(!known.confirm(&row(9, 9..10).chunks[0].0, place), "another chunk");
        known.forget(SegmentId(6));
        assert!(known.confirm(&id, place));
        known.forget(SegmentId(7));
        assert!(!known.confirm(&id, place));
        known.keep(first.clone());
        // Rows that together exceed the bound, each much smaller than it.
        let chunks = (ROW_TABLES_CACHED_BYTES_MAX / CHUNK_BYTES / 4) as u32;
        for number in 2..8u32 {
            known.keep(row(u64::from(number), number * chunks..(number + 1) * chunks));
        }
        assert!(!known.confirm(&id, place));
        assert!(known.places.len() <= ROW_TABLES_CACHED_BYTES_MAX / CHUNK_BYTES);
    }
}
