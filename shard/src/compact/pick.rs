//! Which segments are worth rewriting.
//!
//! First by the entries that name a segment, which costs nothing but asking; what may be a victim is looked at again by
//! the bytes of its live chunks, for which its rows are read. Live is measured against the bytes of the files, with
//! redundancy: so many narrow rows, whose headers and padding weigh, make a victim too. A chunk is moved for that twice at
//! most: segments of the last generation are measured against what they hold.
//!
//! What is to be regrouped comes after what is mostly dead, which gives back more than it takes, and from the last written
//! to the first, so that a round holds what was written at about the same time.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet};
use std::rc::Rc;

use proto::port::Disk;
use proto::{CoreId, Generation, SegmentId};

use super::{
    LIVE_PERCENT_MIN, LIVE_PERCENT_MIN_MOVED_TWICE, MoveKind, Pick, RIPE_ROUNDS, ROUND_CHUNKS_MAX, Regroup, Victim,
};
use crate::blocks::SegmentReads;
use crate::open::durable_chunks;
use crate::owner::{DurableChunk, Standing};
use crate::segment::SegmentLog;
use crate::store::Inner;

/// Segments that are asked about in one call.
const SEGMENTS_ASKED_MAX: usize = 1024;
/// Chunks that are asked about in one call.
const CHUNKS_ASKED_MAX: usize = 1024;
/// By how many percent a segment of average chunks may be fuller than a victim and still be looked at by its bytes.
const GUESS_MARGIN_PERCENT: u64 = 20;
/// What compression must have saved of a segment, in percent, for it to be regrouped.
const GAIN_PERCENT_MIN: u64 = 5;
/// Part of a segment's greatest length, in percent, from which on it counts as filled.
const FULL_PERCENT: u64 = 90;

/// Bytes of a segment.
#[derive(Clone, Copy, Debug, Default)]
struct Weighed {
    /// Stored bytes of live chunks.
    live_bytes: u64,
    /// Stored bytes of all chunks.
    all_bytes: u64,
}

/// What compression saved of a segment.
#[derive(Clone, Copy, Debug, Default)]
struct Gain {
    plain_bytes: u64,
    stored_bytes: u64,
}

impl Gain {
    fn add(&mut self, chunk: &DurableChunk) {
        self.plain_bytes += u64::from(chunk.plain_bytes);
        self.stored_bytes += u64::from(chunk.stored_bytes);
    }

    fn is_worth_it(self) -> bool {
        self.stored_bytes * 100 <= self.plain_bytes * (100 - GAIN_PERCENT_MIN)
    }
}

pub(super) async fn victims<D: Disk, L: SegmentLog>(inner: &Rc<Inner<D, L>>, pick: &Pick) -> Vec<Victim> {
    let mut candidates = Vec::new();
    for core in inner.cores() {
        candidates.append(&mut inner.peers.ask(core, |inner: &Inner<D, L>| inner.settled_segments()).await);
    }
    candidates.retain(|candidate| !pick.protected.contains(&candidate.segment));
    for batch in candidates.chunks_mut(SEGMENTS_ASKED_MAX) {
        let ids: Vec<SegmentId> = batch.iter().map(|candidate| candidate.segment).collect();
        for core in inner.cores() {
            let ids = ids.clone();
            let counts = inner.peers.ask(core, move |inner: &Inner<D, L>| inner.chunks_in(&ids)).await;
            batch.iter_mut().zip(counts).for_each(|(candidate, count)| candidate.live_chunks += count);
        }
    }
    if pick.regroup == Regroup::Hot {
        let reads = inner.take_reads().await;
        for candidate in candidates.iter_mut().filter(|candidate| candidate.generation == Generation::HOT.moved()) {
            candidate.kind.is_read_randomly = reads.get(&candidate.segment).is_some_and(SegmentReads::are_random);
        }
    }
    let full_bytes = inner.options.piece_bytes * inner.options.geometry.columns() as u64;
    let ripe = match pick.regroup {
        Regroup::Victims => BTreeSet::new(),
        Regroup::Hot => ripe(&candidates, full_bytes, RIPE_ROUNDS * inner.peers.count()),
    };
    let (chunks, stored_bytes) = inner.totals().await;
    let (mut victims, mut regrouped) = (Vec::new(), Vec::new());
    for mut candidate in candidates {
        let chunk_bytes = stored_bytes / chunks.max(1);
        candidate.live_bytes = candidate.live_chunks * chunk_bytes;
        let is_hot = pick.regroup == Regroup::Hot
            && candidate.generation == Generation::HOT
            && candidate.live_chunks > 0
            && inner.is_compressed(candidate.segment).await;
        let is_ripe = ripe.contains(&candidate.segment);
        if candidate.live_chunks > 0 && (is_hot || is_ripe || candidate.kind.is_read_randomly) {
            if is_hot && !ripe.is_empty() {
                candidate.kind.to = Generation::LAST;
            }
            regrouped.push(candidate);
            continue;
        }
        let geometry = inner.options.geometry;
        let with_parity = |bytes: u64| bytes * geometry.columns() as u64 / geometry.k() as u64;
        let is_below = |bytes: u64, of: u64, percent: u64| bytes * 100 < of * percent;
        let min = u64::from(LIVE_PERCENT_MIN);
        let may_be = is_below(with_parity(candidate.live_bytes), candidate.file_bytes, min + GUESS_MARGIN_PERCENT);
        let is_victim = if candidate.live_chunks == 0 {
            true
        } else if may_be {
            let id = candidate.segment;
            let weigh = move |inner: Rc<Inner<D, L>>| async move { inner.weigh(id).await };
            // What cannot be read cannot be moved.
            let Some(weighed) = inner.peers.call(inner.home_of(id), weigh).await else { continue };
            candidate.live_bytes = weighed.live_bytes;
            if candidate.generation >= Generation::LAST {
                is_below(weighed.live_bytes, weighed.all_bytes, u64::from(LIVE_PERCENT_MIN_MOVED_TWICE))
            } else {
                is_below(with_parity(weighed.live_bytes), candidate.file_bytes, min)
            }
        } else {
            false
        };
        if is_victim {
            victims.push(candidate);
        }
    }
    // By parts of a thousand, so that equals stay in the order of their numbers.
    victims.sort_by_key(|victim| victim.live_bytes * 1000 / victim.file_bytes.max(1));
    regrouped.sort_by_key(|victim| Reverse(victim.segment));
    victims.append(&mut regrouped);
    victims
}

/// Segments of chunks that were moved once and shall be moved again beside the hot ones: the last written that fit one
/// round with those, if at least `rounds_min` of them were not filled. Each round leaves one such on each core, so that
/// many rounds made them.
fn ripe(candidates: &[Victim], full_bytes: u64, rounds_min: usize) -> BTreeSet<SegmentId> {
    let of = |generation| candidates.iter().filter(move |segment| segment.generation == generation);
    let mut chunks: u64 = of(Generation::HOT).map(|segment| segment.live_chunks).sum();
    let moved_once = of(Generation::HOT.moved());
    let moved_once = moved_once.filter(|segment| segment.live_chunks > 0 && !segment.kind.is_read_randomly);
    let mut moved_once: Vec<&Victim> = moved_once.collect();
    moved_once.sort_by_key(|segment| Reverse(segment.segment));
    let fits = |segment: &&&Victim| {
        chunks += segment.live_chunks;
        chunks <= ROUND_CHUNKS_MAX
    };
    let fitting: Vec<&Victim> = moved_once.iter().take_while(fits).copied().collect();
    let rounds = fitting.iter().filter(|segment| segment.file_bytes * 100 < full_bytes * FULL_PERCENT).count();
    if rounds < rounds_min { BTreeSet::new() } else { fitting.iter().map(|segment| segment.segment).collect() }
}

impl<D: Disk, L: SegmentLog> Inner<D, L> {
    fn settled_segments(&self) -> Vec<Victim> {
        let home = self.home.borrow();
        let settled = home.values().filter(|home| home.settled.get());
        let victim = |home: &Rc<crate::segment::HomeSegment>| Victim {
            segment: home.segment.id,
            generation: home.segment.generation,
            kind: MoveKind::from(home.segment.generation),
            file_bytes: home.file_bytes.get(),
            live_chunks: 0,
            live_bytes: 0,
        };
        settled.map(victim).collect()
    }

    fn chunks_in(&self, segments: &[SegmentId]) -> Vec<u64> {
        let owner = self.owner.borrow();
        segments.iter().map(|segment| owner.index.chunks_in(*segment)).collect()
    }

    /// How the segments of moved chunks were read, on all cores together.
    async fn take_reads(&self) -> BTreeMap<SegmentId, SegmentReads> {
        let mut sum: BTreeMap<SegmentId, SegmentReads> = BTreeMap::new();
        for core in self.cores() {
            let reads = self.peers.ask(core, |inner: &Inner<D, L>| inner.blocks.borrow_mut().take_reads()).await;
            reads.into_iter().for_each(|(segment, reads)| *sum.entry(segment).or_default() += reads);
        }
        sum
    }

    /// Chunks of all cores, and their stored bytes.
    async fn totals(&self) -> (u64, u64) {
        let (mut chunks, mut stored_bytes) = (0, 0u64);
        for core in self.cores() {
            let ask = |inner: &Inner<D, L>| {
                let owner = inner.owner.borrow();
                (owner.index.chunks(), owner.volume(|_| true).stored_bytes)
            };
            let (more, bytes) = self.peers.ask(core, ask).await;
            (chunks, stored_bytes) = (chunks + more, stored_bytes.wrapping_add(bytes));
        }
        (chunks, crate::owner::at_least_nothing(stored_bytes))
    }

    /// Whether compression shrank what a segment holds: else compaction would win nothing either. One that cannot be read
    /// counts as incompressible.
    async fn is_compressed(&self, segment: SegmentId) -> bool {
        let look = move |inner: Rc<Inner<D, L>>| async move {
            let Some(home) = inner.home.borrow().get(&segment).cloned() else { return false };
            if home.is_compressed.get().is_none() {
                let Ok(rows) = inner.read_rows(&home).await else { return false };
                let mut gain = Gain::default();
                rows.iter().flat_map(|(_, table)| durable_chunks(segment, table)).for_each(|chunk| gain.add(&chunk));
                home.is_compressed.set(Some(gain.is_worth_it()));
            }
            home.is_compressed.get() == Some(true)
        };
        self.peers.call(self.home_of(segment), look).await
    }

    /// Adds up the chunks of a segment of this home; `None` if its rows cannot be read.
    async fn weigh(&self, segment: SegmentId) -> Option<Weighed> {
        let home = self.home.borrow().get(&segment)?.clone();
        let mut weighed = Weighed::default();
        for (_, table) in self.read_rows(&home).await.ok()? {
            let chunks: Vec<DurableChunk> = durable_chunks(segment, &table).collect();
            for (chunk, standing) in chunks.iter().zip(self.standings(&chunks).await) {
                weighed.all_bytes += u64::from(chunk.stored_bytes);
                weighed.live_bytes += if standing == Standing::Live { u64::from(chunk.stored_bytes) } else { 0 };
            }
        }
        Some(weighed)
    }

    /// Asks the owners what copies of chunks are to the index; answers in the order of `chunks`.
    pub(super) async fn standings(&self, chunks: &[DurableChunk]) -> Vec<Standing> {
        let mut standings = vec![Standing::Dead; chunks.len()];
        let asked = chunks.iter().enumerate().map(|(place, chunk)| (place, chunk.id, chunk.location));
        let by_owner: Vec<(CoreId, Vec<_>)> = self.by_owner(asked, |(_, id, _)| *id).into_iter().collect();
        for (owner, asked) in by_owner {
            for batch in asked.chunks(CHUNKS_ASKED_MAX) {
                let batch = batch.to_vec();
                let ask = move |inner: &Inner<D, L>| {
                    let owner = inner.owner.borrow();
                    let answer = |(place, id, location): &(usize, _, _)| (*place, owner.standing(id, *location));
                    batch.iter().map(answer).collect::<Vec<_>>()
                };
                for (place, standing) in self.peers.ask(owner, ask).await {
                    standings[place] = standing;
                }
            }
        }
        standings
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn segment(id: u64, generation: u8, live_chunks: u64, file_bytes: u64) -> Victim {
        let (segment, generation) = (SegmentId(id), Generation(generation));
        Victim {
            segment,
            generation,
            kind: MoveKind::from(generation),
            file_bytes,
            live_chunks,
            live_bytes: live_chunks,
        }
    }

    #[test]
    fn what_many_rounds_moved_once_is_ripe_but_for_what_no_round_can_hold() {
        let mut segments = vec![segment(1, 0, 10, 100), segment(2, 2, 10, 10), segment(3, 1, 10, 100)];
        segments.extend((4..12).map(|id| segment(id, 1, 10, 10)));
        let ids = |ripe: BTreeSet<SegmentId>| ripe.into_iter().map(|segment| segment.0).collect::<Vec<_>>();
        assert_eq!(ids(ripe(&segments, 100, 8)), (3..12).collect::<Vec<_>>());
        assert_eq!(ids(ripe(&segments, 100, 9)), [0; 0], "a filled segment is no round");
        segments[4].kind.is_read_randomly = true;
        assert_eq!(ids(ripe(&segments, 100, 8)), [0; 0], "what is read randomly is moved by itself");
        segments[4].kind.is_read_randomly = false;
        segments[0].live_chunks = ROUND_CHUNKS_MAX - 80;
        assert_eq!(ids(ripe(&segments, 100, 8)), (4..12).collect::<Vec<_>>(), "the last written that fit");
        segments[0].live_chunks += 1;
        assert_eq!(ids(ripe(&segments, 100, 8)), [0; 0], "too few of them fit");
    }
}
