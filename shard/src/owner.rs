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

use futures_channel::oneshot;
use index::{Coverage, Index, Lookup};
use proto::{ChunkId, CoreId, Location, SegmentId};

use crate::error::StoreError;

/// Chunks of which further copies are remembered. More are never needed but by a disk that rots away.
const OTHER_COPIES_MAX: usize = 65_536;

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
    /// Bytes of its block after compression; 0 for all but the first chunk of a block.
    pub(crate) stored_bytes: u32,
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
}

impl Volume {
    fn of(chunk: &DurableChunk) -> Volume {
        Volume { chunks: 1, plain_bytes: u64::from(chunk.plain_bytes), stored_bytes: u64::from(chunk.stored_bytes) }
    }

    fn without(self, other: Volume) -> Volume {
        Volume {
            chunks: self.chunks.saturating_sub(other.chunks),
            plain_bytes: self.plain_bytes.saturating_sub(other.plain_bytes),
            stored_bytes: self.stored_bytes.saturating_sub(other.stored_bytes),
        }
    }
}

impl std::ops::AddAssign for Volume {
    fn add_assign(&mut self, other: Volume) {
        self.chunks += other.chunks;
        self.plain_bytes += other.plain_bytes;
        self.stored_bytes += other.stored_bytes;
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
    /// By the segment that the index names for them.
    volumes: BTreeMap<SegmentId, Volume>,
    /// In segments that the checkpoint which was loaded at the start covered.
    covered: Volume,
}

impl Owner {
    pub(crate) fn new(index: Index) -> Owner {
        Owner {
            index,
            underway: BTreeMap::new(),
            other_copies: BTreeMap::new(),
            volumes: BTreeMap::new(),
            covered: Volume::default(),
        }
    }

    /// Answers for each chunk, in order; `asker` writes those that are his.
    pub(crate) fn claim(&mut self, asker: CoreId, wanted: &[Wanted]) -> Vec<Claim> {
        wanted.iter().map(|wanted| self.claim_one(asker, wanted)).collect()
    }

    fn claim_one(&mut self, asker: CoreId, wanted: &Wanted) -> Claim {
        if let Some(underway) = self.underway.get_mut(&wanted.id) {
            let (tell, durable) = oneshot::channel();
            underway.waiting.push(tell);
            return Claim::Underway { writer: underway.writer, durable };
        }
        match self.index.lookup_and_pin(&wanted.id) {
            Lookup::Found(location) if wanted.disbelieved != Some(location) => Claim::Candidate(location),
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
            }
        }
    }

    /// Enters chunks that recovery found, in any order of their segments.
    pub(crate) fn recover(&mut self, chunks: &[DurableChunk]) {
        for chunk in chunks {
            let later = match self.index.lookup(&chunk.id) {
                Lookup::Found(known) => known.max(chunk.location),
                Lookup::Absent | Lookup::Unknown => chunk.location,
            };
            self.enter(chunk, later);
        }
    }

    /// Enters a chunk, of whose copies `answers` is to be the one that is found first.
    fn enter(&mut self, chunk: &DurableChunk, answers: Location) {
        match self.index.lookup(&chunk.id) {
            Lookup::Found(known) => {
                for copy in [known, chunk.location] {
                    if copy != answers {
                        self.remember_copy(chunk.id, copy);
                    }
                }
                if known.segment != answers.segment {
                    let before = self.volumes.get_mut(&known.segment).unwrap_or(&mut self.covered);
                    *before = before.without(Volume::of(chunk));
                    *self.volumes.entry(answers.segment).or_default() += Volume::of(chunk);
                }
            }
            Lookup::Absent | Lookup::Unknown => *self.volumes.entry(answers.segment).or_default() += Volume::of(chunk),
        }
        self.index.insert(&chunk.id, answers);
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

    /// Segments that hold one of several copies of a chunk.
    pub(crate) fn segments_of_copies(&self) -> BTreeSet<SegmentId> {
        let indexed = |id: &ChunkId| match self.index.lookup(id) {
            Lookup::Found(location) => Some(location),
            Lookup::Absent | Lookup::Unknown => None,
        };
        let copies = self.other_copies.iter().flat_map(|(id, copies)| copies.iter().copied().chain(indexed(id)));
        copies.map(|copy| copy.segment).collect()
    }

    /// Says that the index is complete.
    pub(crate) fn complete(&mut self) {
        self.index.set_coverage(Coverage::Complete);
    }

    /// A copy did not verify: it answers no more.
    pub(crate) fn forget(&mut self, id: &ChunkId, location: Location) {
        self.index.remove(id, location);
    }

    /// A copy verified where others did not: it answers from now on.
    pub(crate) fn prefer(&mut self, id: &ChunkId, location: Location) {
        self.index.insert(id, location);
    }

    /// Where else a chunk may lie: where the index says, then where copies lay before.
    pub(crate) fn next_copy(&self, id: &ChunkId, tried: &[Location]) -> Option<Location> {
        let indexed = match self.index.lookup(id) {
            Lookup::Found(location) => Some(location),
            Lookup::Absent | Lookup::Unknown => None,
        };
        let copies = self.other_copies.get(id).into_iter().flatten().copied();
        indexed.into_iter().chain(copies).find(|location| !tried.contains(location))
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
        owner
    }

    fn location(segment: u64) -> Location {
        Location { segment: SegmentId(segment), column: 0, offset: 64, sectors: 1, ordinal: 0 }
    }

    fn chunk(id: ChunkId, segment: u64) -> DurableChunk {
        DurableChunk { id, location: location(segment), plain_bytes: 10, stored_bytes: 5 }
    }

    fn ask(owner: &mut Owner, asker: CoreId, id: ChunkId, disbelieved: Option<Location>) -> Claim {
        owner.claim(asker, &[Wanted { id, disbelieved }]).pop().expect("one answer")
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
        let one = Volume { chunks: 1, plain_bytes: 10, stored_bytes: 5 };
        assert_eq!(owner.volume(|_| true), one, "two copies are one chunk");
        assert_eq!(owner.volume(|segment| segment == SegmentId(2)), one, "it counts where the index finds it");
        assert_eq!(owner.segments_of_copies(), [SegmentId(1), SegmentId(2)].into());
        assert_eq!(owner.next_copy(&id, &[location(2)]), Some(location(1)), "the other copy is remembered");
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
}
