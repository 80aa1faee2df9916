//! What a core owns of the chunk index: where chunks lie, and which of them somebody is writing.
//!
//! ```text
//!   claim ─▶ Candidate   known: the asker confirms it in the row's table, and asks again if it cannot
//!         ─▶ Underway    somebody writes it: wait for him
//!         ─▶ Yours       nobody has it: write it, then `insert` or `abandon`, or all who ask for it wait for ever
//! ```
//!
//! Everything here is synchronous and owned by one core: the others ask through mailboxes.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Bound;

use futures_channel::oneshot;
use index::{Coverage, Index, Lookup};
use proto::planted::{self, Bug};
use proto::{ChunkId, CoreId, Location, SegmentId};

use crate::error::StoreError;

/// Chunks of which further copies are remembered. More are never needed but by a disk that rots away.
pub const OTHER_COPIES_MAX: usize = 65_536;

/// A question for a chunk's owner.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Wanted {
    pub(crate) id: ChunkId,
    /// Where the owner said it lies, and it could not be confirmed.
    pub(crate) disbelieved: Option<Location>,
}

/// The owner's answer.
#[derive(Debug)]
pub(crate) enum Claim {
    Candidate(Location),
    Underway { writer: CoreId, durable: oneshot::Receiver<Result<Location, StoreError>> },
    Yours,
}

/// A chunk that has become durable.
#[derive(Clone, Copy, Debug)]
pub(crate) struct DurableChunk {
    pub(crate) id: ChunkId,
    pub(crate) location: Location,
    pub(crate) plain_bytes: u32,
    /// Its part of the bytes of its block after compression.
    pub(crate) stored_bytes: u32,
    /// Whether its block holds other chunks as well.
    pub(crate) is_shared: bool,
}

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

/// A recovered copy that a later one took the place of. It was taken off as if it were stored like the later one, because
/// how it is stored is not known here.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Displaced {
    pub(crate) id: ChunkId,
    pub(crate) location: Location,
    taken: Volume,
}

/// How much the owners know of.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Volume {
    /// Distinct chunks.
    pub chunks: u64,
    /// Their plain bytes.
    pub plain_bytes: u64,
    /// Their bytes after compression.
    pub stored_bytes: u64,
    /// Bytes that the compression of those saves that share a block with others.
    pub similarity_bytes: u64,
}

impl Volume {
    pub(crate) fn of(chunk: &DurableChunk) -> Volume {
        Volume::of_chunk(chunk.plain_bytes, chunk.stored_bytes, chunk.is_shared)
    }

    /// What one chunk counts.
    #[must_use]
    pub fn of_chunk(plain_bytes: u32, stored_bytes: u32, is_shared: bool) -> Volume {
        let (plain_bytes, stored_bytes) = (u64::from(plain_bytes), u64::from(stored_bytes));
        let similarity_bytes = if is_shared { plain_bytes.wrapping_sub(stored_bytes) } else { 0 };
        Volume { chunks: 1, plain_bytes, stored_bytes, similarity_bytes }
    }

    fn without(self, other: Volume) -> Volume {
        Volume {
            chunks: self.chunks.wrapping_sub(other.chunks),
            plain_bytes: self.plain_bytes.wrapping_sub(other.plain_bytes),
            stored_bytes: self.stored_bytes.wrapping_sub(other.stored_bytes),
            similarity_bytes: self.similarity_bytes.wrapping_sub(other.similarity_bytes),
        }
    }
}

/// A sum of volumes, some of which were less than nothing; 0 if damage beyond what is remembered made it so.
pub(crate) fn at_least_nothing(sum: u64) -> u64 {
    u64::try_from(sum as i64).unwrap_or(0)
}

impl std::ops::AddAssign for Volume {
    fn add_assign(&mut self, other: Volume) {
        self.chunks = self.chunks.wrapping_add(other.chunks);
        self.plain_bytes = self.plain_bytes.wrapping_add(other.plain_bytes);
        self.stored_bytes = self.stored_bytes.wrapping_add(other.stored_bytes);
        self.similarity_bytes = self.similarity_bytes.wrapping_add(other.similarity_bytes);
    }
}

/// A chunk that is being written.
#[derive(Debug)]
struct Underway {
    writer: CoreId,
    waiting: Vec<oneshot::Sender<Result<Location, StoreError>>>,
}

/// See the module.
#[derive(Debug)]
pub(crate) struct Owner {
    pub(crate) index: Index,
    underway: BTreeMap<ChunkId, Underway>,
    /// Chunks that are stored more than once, because a copy could not be confirmed when they came again.
    other_copies: BTreeMap<ChunkId, BTreeSet<Location>>,
    /// Chunks whose copy, at the place that the index names, did not verify. It stays in the index, as a start would
    /// find it in its segment: so a checkpoint's pages hold every chunk that its volume counts.
    doubted: BTreeMap<ChunkId, Location>,
    /// Chunks that are not counted where the index names them, if it does, but in these segments.
    counted_in: BTreeMap<ChunkId, SegmentId>,
    /// See [`Displaced`]; empty but during recovery.
    displaced: Vec<Displaced>,
    /// By the segment that the index names for them: all segments whose chunks were entered one by one.
    volumes: BTreeMap<SegmentId, Volume>,
    /// Entries that came or went since the start.
    changes: u64,
    /// Those of them that left the place where they were.
    departures: u64,
    /// Copies that a loaded checkpoint names and that were taken off what it counts; empty but during recovery.
    superseded: BTreeSet<Location>,
    /// In segments that the checkpoint which was loaded at the start covered. One core has it for all, and the others
    /// take from it: only their sum, modulo 2^64, means something.
    covered: Volume,
}

impl Owner {
    pub(crate) fn new(index: Index) -> Owner {
        Owner {
            index,
            underway: BTreeMap::new(),
            other_copies: BTreeMap::new(),
            doubted: BTreeMap::new(),
            counted_in: BTreeMap::new(),
            displaced: Vec::new(),
            volumes: BTreeMap::new(),
            changes: 0,
            departures: 0,
            superseded: BTreeSet::new(),
            covered: Volume::default(),
        }
    }

    /// Entries that came or went since the start.
    pub(crate) fn changes(&self) -> u64 {
        self.changes
    }

    /// Those of them that left the place where they were.
    pub(crate) fn departures(&self) -> u64 {
        self.departures
    }

    /// Chunks that somebody claimed and has neither inserted nor abandoned.
    pub(crate) fn claims(&self) -> usize {
        self.underway.len()
    }

    /// Chunks that are remembered because of damage: the longest of the lists.
    pub(crate) fn damaged(&self) -> usize {
        self.other_copies.len().max(self.doubted.len()).max(self.counted_in.len())
    }

    /// Answers for each chunk, in order; `asker` writes those that are his. All of them are pinned at the epoch that is
    /// returned, or will be at a later one when they are inserted.
    pub(crate) fn claim(&mut self, asker: CoreId, wanted: &[Wanted]) -> (u64, Vec<Claim>) {
        let claims = wanted.iter().map(|wanted| self.claim_one(asker, wanted)).collect();
        (self.index.epoch(), claims)
    }

    fn claim_one(&mut self, asker: CoreId, wanted: &Wanted) -> Claim {
        if let Some(underway) = self.underway.get_mut(&wanted.id) {
            let (tell, durable) = oneshot::channel();
            underway.waiting.push(tell);
            return Claim::Underway { writer: underway.writer, durable };
        }
        let found = if planted::is(Bug::LostPin) {
            self.index.lookup(&wanted.id)
        } else {
            self.index.lookup_and_pin(&wanted.id)
        };
        match found {
            Lookup::Found(location)
                if wanted.disbelieved != Some(location) && self.doubted.get(&wanted.id) != Some(&location) =>
            {
                Claim::Candidate(location)
            }
            // An incomplete index costs a duplicate, no more.
            Lookup::Found(_) | Lookup::Absent | Lookup::Unknown => {
                self.underway.insert(wanted.id, Underway { writer: asker, waiting: Vec::new() });
                Claim::Yours
            }
        }
    }

    /// Enters durable chunks and tells those who wait for them.
    ///
    /// Of two copies the later one answers, because a chunk is stored again only if the earlier one could not be
    /// confirmed; it is counted once.
    pub(crate) fn insert(&mut self, chunks: &[DurableChunk]) {
        for chunk in chunks {
            self.enter(chunk, chunk.location);
            for waiting in self.underway.remove(&chunk.id).into_iter().flat_map(|underway| underway.waiting) {
                // Whoever went away does not matter.
                let _ = waiting.send(Ok(chunk.location));
                if planted::is(Bug::ForgottenWaiter) {
                    break;
                }
            }
        }
    }

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

    /// Enters a chunk, of whose copies `answers` is to be the one that is found first.
    fn enter(&mut self, chunk: &DurableChunk, answers: Location) {
        self.volumes.entry(chunk.location.segment).or_default();
        let known = self.known(&chunk.id);
        for copy in known.iter().flat_map(|known| [*known, chunk.location]).filter(|copy| *copy != answers) {
            self.remember_copy(chunk.id, copy);
        }
        let counted_in = self.counted_in.remove(&chunk.id);
        if let Some(before) = counted_in.or(known.map(|known| known.segment))
            && !planted::is(Bug::CountedTwice)
        {
            let before = self.counted_with(before);
            *before = before.without(Volume::of(chunk));
        }
        *self.volumes.entry(answers.segment).or_default() += Volume::of(chunk);
        self.doubted.remove(&chunk.id);
        self.index.insert(&chunk.id, answers);
        self.changes += 1;
        self.departures += u64::from(known.is_some_and(|known| known != answers));
    }

    /// The writer of these chunks failed: whoever waits for them is told why, and the next to ask writes them.
    pub(crate) fn abandon(&mut self, ids: &[ChunkId], error: &StoreError) {
        for id in ids {
            for waiting in self.underway.remove(id).into_iter().flat_map(|underway| underway.waiting) {
                let _ = waiting.send(Err(error.clone()));
            }
        }
    }

    /// What is known in segments for which `covered` holds; those that a loaded checkpoint covered count always.
    pub(crate) fn volume(&self, covered: impl Fn(SegmentId) -> bool) -> Volume {
        let mut sum = self.covered;
        self.volumes.iter().filter(|(segment, _)| covered(**segment)).for_each(|(_, volume)| sum += *volume);
        sum
    }

    /// Counts what a loaded checkpoint covered.
    pub(crate) fn add_covered(&mut self, volume: Volume) {
        self.covered += volume;
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

    /// Says that the index is complete.
    pub(crate) fn complete(&mut self) {
        self.superseded.clear();
        self.index.set_coverage(Coverage::Complete);
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

    /// Where the index says that a chunk lies.
    pub(crate) fn known(&self, id: &ChunkId) -> Option<Location> {
        self.index.location_of(id)
    }

    /// Whether the copy at `location` answers: the index names it, and it was not found damaged.
    pub(crate) fn answers(&self, id: &ChunkId, location: Location) -> bool {
        self.known(id) == Some(location) && self.doubted.get(id) != Some(&location)
    }

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

    /// Those of `segments`, ascending, that no entry names, in which no copy is remembered and nothing is counted.
    pub(crate) fn unused(&self, segments: &[SegmentId]) -> Vec<SegmentId> {
        let copies = self.other_copies.values().flatten().map(|copy| copy.segment);
        let remembered: BTreeSet<SegmentId> = copies.chain(self.counted_in.values().copied()).collect();
        let unused = |segment: &SegmentId| self.index.chunks_in(*segment) == 0 && !remembered.contains(segment);
        segments.iter().copied().filter(unused).collect()
    }

    /// Where the chunks of a segment are counted.
    fn counted_with(&mut self, segment: SegmentId) -> &mut Volume {
        self.volumes.get_mut(&segment).unwrap_or(&mut self.covered)
    }

    /// Notes where a chunk is counted before the index names another segment for it: its length is not known here.
    fn stay_counted_in(&mut self, id: &ChunkId, segment: SegmentId) {
        if self.counted_in.len() < OTHER_COPIES_MAX {
            self.counted_in.entry(*id).or_insert(segment);
        }
    }

    /// Where else a chunk may lie: where the index says, then where copies lay before.
    pub(crate) fn next_copy(&self, id: &ChunkId, tried: &[Location]) -> Option<Location> {
        let copies = self.other_copies.get(id).into_iter().flatten().copied();
        self.known(id).into_iter().chain(copies).find(|location| !tried.contains(location))
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

    /// Whether an entry or a remembered copy lies in `segment`.
    pub(crate) fn names(&self, segment: SegmentId) -> bool {
        self.index.chunks_in(segment) > 0 || self.other_copies.values().flatten().any(|copy| copy.segment == segment)
    }

    /// A segment is gone; nothing here names it.
    pub(crate) fn forget_segment(&mut self, segment: SegmentId) {
        self.volumes.remove(&segment);
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
    fn remember_copy(&mut self, id: ChunkId, location: Location) {
        if self.other_copies.len() < OTHER_COPIES_MAX || self.other_copies.contains_key(&id) {
            self.other_copies.entry(id).or_default().insert(location);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proto::VirtualShard;

    const A: CoreId = CoreId(0);
    const B: CoreId = CoreId(1);

    fn owner() -> Owner {
        let mut owner = Owner::new(Index::new((0..64).map(VirtualShard)));
        owner.complete();
        owner.index.set_epoch(1);
        owner
    }

    fn location(segment: u64) -> Location {
        Location { segment: SegmentId(segment), column: 0, offset: 64, sectors: 1, ordinal: 0 }
    }

    fn chunk(id: ChunkId, segment: u64) -> DurableChunk {
        DurableChunk { id, location: location(segment), plain_bytes: 10, stored_bytes: 5, is_shared: false }
    }

    fn ask(owner: &mut Owner, asker: CoreId, id: ChunkId, disbelieved: Option<Location>) -> Claim {
        owner.claim(asker, &[Wanted { id, disbelieved }]).1.pop().expect("one answer")
    }

    #[test]
    fn one_asker_writes_and_the_others_wait_for_him() {
        let mut owner = owner();
        let id = ChunkId([1; 32]);
        assert!(matches!(ask(&mut owner, A, id, None), Claim::Yours));
        let Claim::Underway { writer, mut durable } = ask(&mut owner, B, id, None) else { panic!("not underway") };
        assert_eq!(writer, A);
        assert!(durable.try_recv().expect("the writer is there").is_none());
        owner.insert(&[chunk(id, 1)]);
        assert_eq!(durable.try_recv().expect("told").map(Result::ok), Some(Some(location(1))));
        assert!(matches!(ask(&mut owner, B, id, None), Claim::Candidate(at) if at == location(1)));
    }

    #[test]
    fn after_a_failure_the_next_asker_writes() {
        let mut owner = owner();
        let id = ChunkId([1; 32]);
        assert!(matches!(ask(&mut owner, A, id, None), Claim::Yours));
        let Claim::Underway { mut durable, .. } = ask(&mut owner, B, id, None) else { panic!("not underway") };
        owner.abandon(&[id], &StoreError::Closing);
        assert!(matches!(durable.try_recv(), Ok(Some(Err(StoreError::Closing)))));
        assert!(matches!(ask(&mut owner, B, id, None), Claim::Yours));
    }

    #[test]
    fn a_candidate_that_was_not_confirmed_is_written_again_once() {
        let mut owner = owner();
        let id = ChunkId([1; 32]);
        owner.insert(&[chunk(id, 1)]);
        assert!(matches!(ask(&mut owner, A, id, Some(location(1))), Claim::Yours));
        assert!(matches!(ask(&mut owner, B, id, Some(location(1))), Claim::Underway { .. }));
        owner.insert(&[chunk(id, 2)]);
        assert!(matches!(ask(&mut owner, B, id, Some(location(1))), Claim::Candidate(at) if at == location(2)));
        let one = Volume::of_chunk(10, 5, false);
        assert_eq!(owner.volume(|_| true), one, "two copies are one chunk");
        assert_eq!(owner.volume(|segment| segment == SegmentId(2)), one, "it counts where the index finds it");
        assert_eq!(owner.segments_of_copies(), [SegmentId(1), SegmentId(2)].into());
        assert_eq!(owner.next_copy(&id, &[location(2)]), Some(location(1)), "the other copy is remembered");
    }

    #[test]
    fn a_copy_that_did_not_verify_answers_no_more_and_stays_in_the_pages_that_count_it() {
        let id = ChunkId([1; 32]);
        let mut owner = owner();
        owner.insert(&[chunk(id, 1)]);
        owner.forget(&id, location(1));
        assert!(matches!(ask(&mut owner, A, id, None), Claim::Yours));
        assert_eq!(owner.volume(|_| true).chunks, owner.index.chunks());
    }

    #[test]
    fn no_checkpoint_covers_the_copy_that_another_one_stands_in_for() {
        let id = ChunkId([1; 32]);
        let mut owner = owner();
        owner.recover(&[chunk(id, 1), chunk(id, 2)]);
        owner.forget(&id, location(2));
        owner.prefer(&id, location(1));
        assert!(matches!(ask(&mut owner, A, id, None), Claim::Candidate(at) if at == location(1)));
        // It is counted in one of these, and the pages name the other.
        assert_eq!(owner.segments_of_copies(), [SegmentId(1), SegmentId(2)].into());
    }

    #[test]
    fn a_chunk_that_was_forgotten_and_came_again_is_counted_once() {
        let one = Volume::of_chunk(10, 5, false);
        let id = ChunkId([1; 32]);
        let mut owner = owner();
        owner.insert(&[chunk(id, 1)]);
        owner.forget(&id, location(1));
        assert_eq!(owner.volume(|_| true), one, "its bytes are still stored");
        owner.insert(&[chunk(id, 2)]);
        assert_eq!(owner.volume(|_| true), one);
    }

    #[test]
    fn what_a_loaded_checkpoint_counts_is_moved_and_not_counted_anew() {
        let one = Volume::of_chunk(10, 5, false);
        let id = ChunkId([1; 32]);
        // The checkpoint's volume is with one owner, its entries with others.
        let (mut first, mut owner) = (self::owner(), owner());
        first.add_covered(one);
        owner.index.insert(&id, location(1));
        owner.insert(&[chunk(id, 2)]);
        let mut sum = first.volume(|_| true);
        sum += owner.volume(|_| true);
        assert_eq!(sum, one);
        let mut covered = first.volume(|segment| segment == SegmentId(1));
        covered += owner.volume(|segment| segment == SegmentId(1));
        assert_eq!(covered, Volume::default());
        assert_eq!(owner.segments_of_copies(), [SegmentId(2)].into(), "the covered one stays covered");
    }

    #[test]
    fn of_recovered_copies_the_later_one_answers_whatever_came_first() {
        for order in [[1, 2], [2, 1]] {
            let mut owner = owner();
            let id = ChunkId([1; 32]);
            order.iter().for_each(|segment| owner.recover(&[chunk(id, *segment)]));
            assert_eq!(owner.next_copy(&id, &[]), Some(location(2)));
            assert_eq!(owner.next_copy(&id, &[location(2)]), Some(location(1)));
        }
    }

    fn moved(id: ChunkId, from: u64, to: u64) -> Moved {
        let (from, to) = (location(from), location(to));
        Moved { id, from, to, plain_bytes: 10, stored_before: 5, stored_after: 2, was_shared: false, is_shared: true }
    }

    #[test]
    fn a_moved_chunk_is_found_and_counted_where_it_went_and_waits_for_nobody() {
        let id = ChunkId([1; 32]);
        let mut owner = owner();
        owner.insert(&[chunk(id, 1)]);
        owner.forget(&id, location(1));
        assert!(owner.relocate(&moved(id, 1, 7)));
        assert!(matches!(ask(&mut owner, A, id, None), Claim::Candidate(at) if at == location(7)));
        let after = Volume { chunks: 1, plain_bytes: 10, stored_bytes: 2, similarity_bytes: 8 };
        assert_eq!((owner.volume(|_| true), owner.volume(|segment| segment == SegmentId(7))), (after, after));
        assert!(!owner.names(SegmentId(1)) && owner.names(SegmentId(7)));
        assert!(owner.segments_of_copies().is_empty(), "the old place is not remembered");
    }

    #[test]
    fn what_was_condemned_or_stored_again_meanwhile_is_not_moved() {
        let (dead, again) = (ChunkId([1; 32]), ChunkId([2; 32]));
        let mut owner = owner();
        owner.insert(&[chunk(dead, 1), chunk(again, 1)]);
        owner.index.remove(&dead, location(1));
        assert!(matches!(ask(&mut owner, A, again, Some(location(1))), Claim::Yours));
        owner.insert(&[chunk(again, 2)]);
        let before = owner.volume(|_| true);
        assert!(!owner.relocate(&moved(dead, 1, 7)) && !owner.relocate(&moved(again, 1, 7)));
        assert_eq!(owner.standing(&dead, location(7)), Standing::Dead);
        assert_eq!(owner.standing(&again, location(1)), Standing::Copy(location(2)));
        assert_eq!((owner.standing(&again, location(2)), owner.volume(|_| true)), (Standing::Live, before));
    }

    #[test]
    fn a_writer_that_waits_for_a_chunk_does_not_lose_it_to_a_move() {
        let id = ChunkId([1; 32]);
        let mut owner = owner();
        owner.insert(&[chunk(id, 1)]);
        // It could not be confirmed at its old place, which was being freed.
        assert!(matches!(ask(&mut owner, A, id, Some(location(1))), Claim::Yours));
        let Claim::Underway { mut durable, .. } = ask(&mut owner, B, id, None) else { panic!("not underway") };
        assert!(owner.relocate(&moved(id, 1, 7)));
        assert!(durable.try_recv().expect("the writer is there").is_none());
        owner.insert(&[chunk(id, 8)]);
        assert_eq!(durable.try_recv().expect("told").map(Result::ok), Some(Some(location(8))));
        assert_eq!(owner.next_copy(&id, &[location(8)]), Some(location(7)));
    }

    #[test]
    fn recovered_copies_of_unequal_length_are_counted_as_the_one_that_answers() {
        let id = ChunkId([1; 32]);
        let short = DurableChunk { stored_bytes: 2, is_shared: true, ..chunk(id, 7) };
        for order in [[chunk(id, 1), short], [short, chunk(id, 1)]] {
            let mut owner = owner();
            order.iter().for_each(|chunk| owner.recover(&[*chunk]));
            for displaced in owner.take_displaced() {
                assert_eq!(displaced.location, location(1));
                owner.correct(&displaced, &chunk(id, 1));
            }
            let all = owner.volume(|_| true);
            assert_eq!((all.stored_bytes, all.similarity_bytes), (2, 8));
            assert_eq!(owner.volume(|segment| segment == SegmentId(1)), Volume::default());
        }
    }

    #[test]
    fn a_condemned_chunk_is_counted_nowhere_and_is_written_by_the_next_who_asks() {
        let one = Volume::of_chunk(10, 5, false);
        let (dead, kept) = (ChunkId([1; 32]), ChunkId([2; 32]));
        // The first counts for all what the loaded checkpoint covered; the dead chunk's entry is with the other.
        let (mut first, mut owner) = (self::owner(), owner());
        first.add_covered(one);
        owner.index.insert(&dead, location(1));
        owner.insert(&[chunk(kept, 2)]);
        owner.index.set_epoch(3);
        assert_eq!(owner.mark(&[kept, ChunkId([9; 32])]), [1], "one is unknown");
        assert_eq!(owner.condemn(&[chunk(kept, 2), chunk(dead, 2)]), Volume::default(), "alive, and another place");
        assert_eq!(owner.condemn(&[chunk(dead, 1)]), one);
        let mut sum = first.volume(|_| true);
        sum += owner.volume(|_| true);
        assert_eq!(sum, one);
        assert_eq!(owner.unused(&[SegmentId(1), SegmentId(2)]), [SegmentId(1)]);
        assert!(matches!(ask(&mut owner, A, dead, None), Claim::Yours));
    }

    #[test]
    fn a_copy_that_a_checkpoint_has_of_what_the_tail_has_is_remembered_and_counted_no_more() {
        let one = Volume { chunks: 1, plain_bytes: 10, stored_bytes: 5, ..Volume::default() };
        let (again, other) = (ChunkId([1; 32]), ChunkId([2; 32]));
        let mut owner = owner();
        owner.recover(&[chunk(again, 7)]);
        owner.add_covered(one);
        // It is on two pages.
        let before = DurableChunk { stored_bytes: 9, ..chunk(again, 1) };
        owner.add_covered(Volume { stored_bytes: 9, ..one });
        assert!(owner.supersede(&[before]) && owner.supersede(&[before]));
        let mut sum = one;
        sum += one;
        assert_eq!((owner.volume(|_| true), owner.known(&again)), (sum, Some(location(7))));
        assert_eq!(owner.unused(&[SegmentId(1), SegmentId(7)]), []);
        assert!(!owner.supersede(&[chunk(other, 1)]), "nobody knows it");
        assert!(!owner.supersede(&[chunk(again, 7)]), "it is the copy of the tail");
    }

    #[test]
    fn a_segment_with_a_remembered_copy_is_used_until_the_named_copy_was_verified() {
        let one = Volume::of_chunk(10, 5, false);
        let id = ChunkId([1; 32]);
        let mut owner = owner();
        owner.recover(&[chunk(id, 1), chunk(id, 2)]);
        assert_eq!(owner.unused(&[SegmentId(1), SegmentId(2)]), []);
        assert_eq!(owner.copied(None, 9), [(id, location(2))]);
        owner.forget_copies(&chunk(id, 1));
        assert_eq!(owner.copied(None, 9).len(), 1, "that copy does not answer");
        owner.forget_copies(&chunk(id, 2));
        assert_eq!(owner.unused(&[SegmentId(1), SegmentId(2)]), [SegmentId(1)]);
        owner.forget_segment(SegmentId(1));
        assert_eq!(owner.volume(|_| true), one);
        assert_eq!(owner.copied(None, 9), []);
    }

    #[test]
    fn a_reader_that_comes_late_does_not_bring_back_what_was_condemned_or_moved() {
        let id = ChunkId([1; 32]);
        let mut owner = owner();
        owner.insert(&[chunk(id, 1)]);
        owner.index.insert(&id, location(2));
        owner.prefer(&id, location(1));
        assert_eq!(owner.known(&id), Some(location(2)));
        owner.index.set_epoch(3);
        owner.condemn(&[chunk(id, 2)]);
        owner.prefer(&id, location(2));
        assert_eq!(owner.known(&id), None);
    }

    #[test]
    fn a_copy_that_is_dropped_leaves_its_count_to_the_copy_that_answers() {
        let one = Volume::of_chunk(10, 5, false);
        let id = ChunkId([1; 32]);
        let mut owner = owner();
        owner.recover(&[chunk(id, 1), chunk(id, 2)]);
        owner.forget(&id, location(2));
        owner.prefer(&id, location(1));
        assert_eq!(owner.volume(|segment| segment == SegmentId(2)), one, "still counted where it did not verify");
        owner.drop_copy(&chunk(id, 2));
        assert_eq!(owner.volume(|segment| segment == SegmentId(1)), one);
        assert_eq!(owner.volume(|segment| segment == SegmentId(2)), Volume::default(), "no checkpoint counts it there");
        assert_eq!(owner.unused(&[SegmentId(1), SegmentId(2)]), [SegmentId(2)]);
        owner.drop_copy(&chunk(id, 2));
        assert_eq!(owner.volume(|_| true), one);
    }

    #[test]
    fn a_chunk_that_is_entered_again_is_counted_once() {
        let one = Volume::of_chunk(10, 5, false);
        let id = ChunkId([1; 32]);
        let mut owner = owner();
        assert!(owner.reenter(&chunk(id, 1)) && owner.reenter(&chunk(id, 1)));
        assert_eq!((owner.volume(|_| true), owner.index.chunks()), (one, 1));
    }
}
