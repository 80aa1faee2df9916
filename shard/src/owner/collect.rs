//! What garbage collection and compaction ask of an owner.

use std::collections::BTreeSet;

use index::Lookup;
use proto::{ChunkId, Location, SegmentId};

use super::{DurableChunk, Owner, Volume};

/// A chunk that was moved.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Moved {
    pub(crate) id: ChunkId,
    pub(crate) from: Location,
    pub(crate) to: Location,
    pub(crate) plain_bytes: u32,
    pub(crate) stored_before: u32,
    pub(crate) stored_after: u32,
    pub(crate) was_shared: bool,
    pub(crate) is_shared: bool,
}

/// What a copy of a chunk is to the index.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Standing {
    /// The index names it.
    Live,
    /// The index names another copy.
    Copy(Location),
    /// The index does not know the chunk.
    Dead,
}

impl Owner {
    /// Marks chunks that something refers to; returns the places in `ids` of those that the index does not know.
    pub(crate) fn mark(&mut self, ids: &[ChunkId]) -> Vec<usize> {
        ids.iter().enumerate().filter(|(_, id)| !self.index.mark(id)).map(|(place, _)| place).collect()
    }

    /// Pins chunks for somebody who refers to them already; returns where each of them answers, and the epoch.
    pub(crate) fn pin(&mut self, ids: &[ChunkId]) -> (u64, Vec<Option<Location>>) {
        let mut pin = |id: &ChunkId| match self.index.lookup_and_pin(id) {
            Lookup::Found(location) => Some(location).filter(|location| self.doubted.get(id) != Some(location)),
            Lookup::Absent | Lookup::Unknown => None,
        };
        let found = ids.iter().map(&mut pin).collect();
        (self.index.epoch(), found)
    }

    /// Enters a chunk again that something refers to, after the table of its row was read; returns whether the index
    /// knows it now.
    pub(crate) fn reenter(&mut self, chunk: &DurableChunk) -> bool {
        if self.index.mark(&chunk.id) {
            return true;
        }
        self.index.insert(&chunk.id, chunk.location);
        if self.known(&chunk.id).is_none() {
            return false;
        }
        if !self.counted_in.contains_key(&chunk.id) {
            *self.counted_with(chunk.location.segment) += Volume::of(chunk);
        }
        self.changes += 1;
        true
    }

    /// Takes those of the chunks out of the index that are still stale, and that it still names at these places.
    pub(crate) fn condemn(&mut self, chunks: &[DurableChunk]) -> Volume {
        let mut condemned = Volume::default();
        for chunk in chunks {
            if !self.index.condemn(&chunk.id, chunk.location) {
                continue;
            }
            let counted_in = self.counted_in.remove(&chunk.id).unwrap_or(chunk.location.segment);
            let counted_with = self.counted_with(counted_in);
            *counted_with = counted_with.without(Volume::of(chunk));
            // What is dead has no copies that anybody needs.
            self.other_copies.remove(&chunk.id);
            self.doubted.remove(&chunk.id);
            self.changes += 1;
            self.departures += 1;
            condemned += Volume::of(chunk);
        }
        condemned
    }

    /// What a copy of a chunk at `here` is to the index.
    pub(crate) fn standing(&self, id: &ChunkId, here: Location) -> Standing {
        match self.known(id) {
            Some(location) if location == here => Standing::Live,
            Some(location) => Standing::Copy(location),
            None => Standing::Dead,
        }
    }

    /// Changes the place of a chunk, if it still lies where it was moved from; returns whether it did.
    ///
    /// The pin stays. A chunk that was condemned meanwhile is not entered again: its new copy is garbage. The old copy is not
    /// remembered, for the new one was verified; so was the old one, which ends any doubt about it.
    pub(crate) fn relocate(&mut self, chunk: &Moved) -> bool {
        if !self.index.relocate(&chunk.id, chunk.from, chunk.to) {
            return false;
        }
        let old = Volume::of_chunk(chunk.plain_bytes, chunk.stored_before, chunk.was_shared);
        let new = Volume::of_chunk(chunk.plain_bytes, chunk.stored_after, chunk.is_shared);
        let counted_in = self.counted_in.remove(&chunk.id).unwrap_or(chunk.from.segment);
        let before = self.counted_with(counted_in);
        *before = before.without(old);
        *self.volumes.entry(chunk.to.segment).or_default() += new;
        self.doubted.remove(&chunk.id);
        self.changes += 1;
        self.departures += 1;
        true
    }

    /// Whether an entry or a remembered copy lies in `segment`.
    pub(crate) fn names(&self, segment: SegmentId) -> bool {
        self.index.chunks_in(segment) > 0 || self.other_copies.values().flatten().any(|copy| copy.segment == segment)
    }

    /// Those of `segments`, ascending, that no entry names, in which no copy is remembered and nothing is counted.
    pub(crate) fn unused(&self, segments: &[SegmentId]) -> Vec<SegmentId> {
        let copies = self.other_copies.values().flatten().map(|copy| copy.segment);
        let remembered: BTreeSet<SegmentId> = copies.chain(self.counted_in.values().copied()).collect();
        let unused = |segment: &SegmentId| self.index.chunks_in(*segment) == 0 && !remembered.contains(segment);
        segments.iter().copied().filter(unused).collect()
    }

    /// A segment is gone; nothing here names it.
    pub(crate) fn forget_segment(&mut self, segment: SegmentId) {
        self.volumes.remove(&segment);
    }
}
