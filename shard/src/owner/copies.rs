//! Chunks that lie in more than one place.
//!
//! A chunk is stored again if its copy cannot be confirmed when it comes again, and after a crash in compaction both the old
//! and the new place are found. Of two copies nobody knows which will verify, so both are remembered until one was read;
//! the chunk is counted once.

use std::collections::BTreeSet;
use std::ops::Bound;

use proto::{ChunkId, Location, SegmentId};

use super::{DurableChunk, OTHER_COPIES_MAX, Owner, Volume};

/// A recovered copy that a later one took the place of. It was taken off as if it were stored like the later one, because
/// how it is stored is not known here.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Displaced {
    pub(crate) id: ChunkId,
    pub(crate) location: Location,
    taken: Volume,
}

impl Owner {
    /// Enters chunks that recovery found, in any order of their segments.
    pub(crate) fn recover(&mut self, chunks: &[DurableChunk]) {
        for chunk in chunks {
            let known = self.known(&chunk.id);
            let later = known.map_or(chunk.location, |known| known.max(chunk.location));
            if let Some(location) = known.filter(|known| *known < later && self.displaced.len() < OTHER_COPIES_MAX) {
                self.displaced.push(Displaced { id: chunk.id, location, taken: Volume::of(chunk) });
            }
            self.enter(chunk, later);
        }
    }

    /// Segments that hold one of several copies of a chunk, but for those that the loaded checkpoint covered: what is
    /// counted with it is not counted anew.
    pub(crate) fn segments_of_copies(&self) -> BTreeSet<SegmentId> {
        let copies = self.other_copies.iter().flat_map(|(id, copies)| copies.iter().copied().chain(self.known(id)));
        copies.map(|copy| copy.segment).filter(|segment| self.volumes.contains_key(segment)).collect()
    }

    /// Takes copies off what a loaded checkpoint counts: their chunks were found in the tail, where they were stored again
    /// since, or moved. They are remembered like others.
    ///
    /// Returns whether the index names another copy of each.
    pub(crate) fn supersede(&mut self, chunks: &[DurableChunk]) -> bool {
        for chunk in chunks {
            if self.known(&chunk.id).is_none_or(|known| known == chunk.location) {
                return false;
            }
            // An entry may be on two pages.
            if self.superseded.insert(chunk.location) {
                self.remember_copy(chunk.id, chunk.location);
                self.covered = self.covered.without(Volume::of(chunk));
            }
        }
        true
    }

    /// A copy did not verify: it answers no more.
    pub(crate) fn forget(&mut self, id: &ChunkId, location: Location) {
        if self.known(id) != Some(location) {
            return;
        }
        if self.doubted.len() < OTHER_COPIES_MAX || self.doubted.contains_key(id) {
            self.doubted.insert(*id, location);
        } else {
            self.index.remove(id, location);
            self.stay_counted_in(id, location.segment);
        }
    }

    /// A copy verified where others did not: it answers from now on.
    ///
    /// Meanwhile the chunk may have been condemned, or moved: a place that is neither the one that the index names nor
    /// that of a remembered copy is about to be freed.
    pub(crate) fn prefer(&mut self, id: &ChunkId, location: Location) {
        let Some(known) = self.known(id) else { return };
        if known == location {
            self.doubted.remove(id);
        } else if self.other_copies.get(id).is_some_and(|copies| copies.contains(&location)) {
            self.stay_counted_in(id, known.segment);
            self.remember_copy(*id, known);
            self.doubted.remove(id);
            self.index.insert(id, location);
            self.changes += 1;
            self.departures += 1;
        }
    }

    /// Remembers a further copy of a chunk that the index knows: the one that it names could not be read.
    pub(crate) fn keep_copy(&mut self, id: &ChunkId, location: Location) {
        if self.known(id).is_some_and(|known| known != location) {
            self.remember_copy(*id, location);
        }
    }

    /// Where else a chunk may lie: where the index says, then where copies lay before.
    pub(crate) fn next_copy(&self, id: &ChunkId, tried: &[Location]) -> Option<Location> {
        let copies = self.other_copies.get(id).into_iter().flatten().copied();
        self.known(id).into_iter().chain(copies).find(|location| !tried.contains(location))
    }

    /// Up to `limit` chunks after `after` of which other copies are remembered, with the place that answers for them.
    pub(crate) fn copied(&self, after: Option<ChunkId>, limit: usize) -> Vec<(ChunkId, Location)> {
        let from = after.map_or(Bound::Unbounded, Bound::Excluded);
        let remembered = self.other_copies.range((from, Bound::Unbounded));
        let named = remembered.filter_map(|(id, _)| Some((*id, self.known(id)?)));
        named.filter(|(id, location)| self.answers(id, *location)).take(limit).collect()
    }

    /// The copy that the index names was read and verified: the others are not needed.
    pub(crate) fn forget_copies(&mut self, chunk: &DurableChunk) {
        if !self.answers(&chunk.id, chunk.location) {
            return;
        }
        self.other_copies.remove(&chunk.id);
        if let Some(counted_in) = self.counted_in.remove(&chunk.id) {
            let before = self.counted_with(counted_in);
            *before = before.without(Volume::of(chunk));
            *self.counted_with(chunk.location.segment) += Volume::of(chunk);
        }
    }

    /// Forgets a further copy of a chunk, after the one that the index names was verified. If the chunk was counted with
    /// the copy, it is counted where the index names it from now on, as it was.
    pub(crate) fn drop_copy(&mut self, copy: &DurableChunk) {
        let (id, here) = (&copy.id, copy.location.segment);
        if let Some(copies) = self.other_copies.get_mut(id) {
            copies.remove(&copy.location);
            if copies.is_empty() {
                self.other_copies.remove(id);
            }
        }
        if self.counted_in.get(id) == Some(&here)
            && let Some(known) = self.known(id)
        {
            self.counted_in.remove(id);
            let before = self.counted_with(here);
            *before = before.without(Volume::of(copy));
            *self.counted_with(known.segment) += Volume::of(copy);
        }
    }

    /// Chunks that recovery counted as if they were stored like another copy: see [`Displaced`].
    pub(crate) fn take_displaced(&mut self) -> Vec<Displaced> {
        std::mem::take(&mut self.displaced)
    }

    /// Counts a displaced copy as it is stored.
    pub(crate) fn correct(&mut self, displaced: &Displaced, own: &DurableChunk) {
        *self.volumes.entry(displaced.location.segment).or_default() += displaced.taken.without(Volume::of(own));
    }

    /// Keeps the place of a copy that the index no longer names. After a restart nobody knows which of two copies was
    /// the damaged one, so both must be found.
    pub(super) fn remember_copy(&mut self, id: ChunkId, location: Location) {
        if self.other_copies.len() < OTHER_COPIES_MAX || self.other_copies.contains_key(&id) {
            self.other_copies.entry(id).or_default().insert(location);
        }
    }

    /// Notes where a chunk is counted before the index names another segment for it: its length is not known here.
    fn stay_counted_in(&mut self, id: &ChunkId, segment: SegmentId) {
        if self.counted_in.len() < OTHER_COPIES_MAX {
            self.counted_in.entry(*id).or_insert(segment);
        }
    }
}
