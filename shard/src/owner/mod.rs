//! What a core owns of the chunk index: where chunks lie, and which of them somebody is writing.
//!
//! ```text
//!   claim ─▶ Candidate   known: the asker confirms it in the row's table, and asks again if it cannot
//!         ─▶ Underway    somebody writes it: wait for him
//!         ─▶ Yours       nobody has it: write it, then `insert` or `abandon`, or all who ask for it wait for ever
//! ```
//!
//! Everything here is synchronous and owned by one core: the others ask through mailboxes.
//!
//! * `collect`: what garbage collection and compaction ask.
//! * `copies`: chunks that lie in more than one place.
//! * `volume`: what chunks take, counted.

mod collect;
mod copies;
#[cfg(test)]
mod tests;
mod volume;

use std::collections::{BTreeMap, BTreeSet};

use futures_channel::oneshot;
use index::{Coverage, Index, Lookup};
use proto::planted::{self, Bug};
use proto::{ChunkId, CoreId, Location, SegmentId};

pub(crate) use collect::{Moved, Standing};
pub(crate) use copies::Displaced;
pub use volume::Volume;
pub(crate) use volume::at_least_nothing;

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

    /// Says that the index is complete.
    pub(crate) fn complete(&mut self) {
        self.superseded.clear();
        self.index.set_coverage(Coverage::Complete);
    }

    /// Where the index says that a chunk lies.
    pub(crate) fn known(&self, id: &ChunkId) -> Option<Location> {
        self.index.location_of(id)
    }

    /// Whether the copy at `location` answers: the index names it, and it was not found damaged.
    pub(crate) fn answers(&self, id: &ChunkId, location: Location) -> bool {
        self.known(id) == Some(location) && self.doubted.get(id) != Some(&location)
    }

    /// Where the chunks of a segment are counted.
    fn counted_with(&mut self, segment: SegmentId) -> &mut Volume {
        self.volumes.get_mut(&segment).unwrap_or(&mut self.covered)
    }
}
