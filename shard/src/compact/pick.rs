//! Which segments are worth rewriting.
//!
//! First by the entries that name a segment and the average of the chunks that it holds; what may be a victim is looked at
//! again by the bytes of its live chunks, for which its rows are read. Live is measured against the bytes of the files, with
//! redundancy: so many narrow rows, whose headers and padding weigh, make a victim too. A chunk is moved for that twice at
//! most: segments of the last generation are measured against what they hold.
//!
//! What is to be regrouped comes after what is mostly dead, which gives back more than it takes, and from the last written
//! to the first, so that a round holds what was written at about the same time.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet};
use std::rc::Rc;

use proto::port::Disk;
use proto::{CoreId, Generation, Location, SegmentId};

use super::budget::Pace;
use super::{
    LIVE_PERCENT_MIN, LIVE_PERCENT_MIN_MOVED_TWICE, MoveKind, Pick, RIPE_ROUNDS, ROUND_CHUNKS_MAX, Regroup, Victim,
};
use crate::blocks::SegmentReads;
use crate::open::durable_chunks;
use crate::owner::{DurableChunk, Standing, Volume};
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
/// What a chunk takes besides its payload at most: in its block, in the tables of its row, and for alignment.
const CHUNK_OVERHEAD_BYTES: u64 = 128;
/// How many times as much chunks may take in the smaller blocks for random reads (RFC 8).
const RANDOM_GROWTH: u64 = 3;
/// Part of a segment's greatest length, in percent, from which on it counts as filled.
const FULL_PERCENT: u64 = 90;

/// Bytes of a segment.
#[derive(Clone, Copy, Debug, Default)]
struct Weighed {
    /// Stored bytes of live chunks.
    live_bytes: u64,
    /// Stored bytes of all chunks.
    all_bytes: u64,
    /// See [`Victim::rewritten_bytes`].
    rewritten_bytes: u64,
}

impl Weighed {
    /// Adds the chunks of a row, in its order, with what they are to the index.
    fn add(&mut self, row: &[(DurableChunk, Standing)]) {
        let block_of = |chunk: &DurableChunk| Location { ordinal: 0, ..chunk.location };
        for block in row.chunk_by(|one, next| block_of(&one.0) == block_of(&next.0)) {
            let live = block.iter().filter(|(_, standing)| *standing == Standing::Live);
            let (mut chunks, mut live_bytes, mut plain_bytes) = (0, 0, 0);
            for (chunk, _) in live {
                chunks += 1;
                live_bytes += u64::from(chunk.stored_bytes);
                plain_bytes += u64::from(chunk.plain_bytes);
            }
            let payload_bytes: u64 = block.iter().map(|(chunk, _)| u64::from(chunk.stored_bytes)).sum();
            self.all_bytes += payload_bytes;
            self.live_bytes += live_bytes;
            self.rewritten_bytes += payload_bytes.min(plain_bytes) + chunks * CHUNK_OVERHEAD_BYTES;
        }
    }
}

pub(super) async fn victims<D: Disk, L: SegmentLog>(inner: &Rc<Inner<D, L>>, pick: &Pick) -> Vec<Victim> {
    let mut pace = Pace::new(&pick.budget);
    let mut candidates = candidates(inner, pick).await;
    let Some(hot) = guess(inner, pick, &mut candidates, &mut pace).await else { return Vec::new() };
    let full_bytes = inner.options.piece_bytes * inner.options.geometry.columns() as u64;
    let ripe = match pick.regroup {
        Regroup::Victims => BTreeSet::new(),
        Regroup::Hot => ripe(&candidates, &hot, full_bytes, RIPE_ROUNDS * inner.peers.count()),
    };
    let (mut victims, mut regrouped) = (Vec::new(), Vec::new());
    for mut candidate in candidates {
        let is_hot = hot.contains(&candidate.segment);
        if is_hot && !ripe.is_empty() {
            candidate.kind.to = Generation::LAST;
        }
        // What cannot be read cannot be moved.
        let Some(is_victim) = is_mostly_dead(inner, &mut candidate, &mut pace).await else { continue };
        if is_victim {
            candidate.is_mostly_dead = true;
            victims.push(candidate);
        } else if is_hot || ripe.contains(&candidate.segment) || candidate.kind.is_read_randomly {
            regrouped.push(candidate);
        }
    }
    // By parts of a thousand, so that equals stay in the order of their numbers.
    victims.sort_by_key(|victim| victim.live_bytes * 1000 / victim.file_bytes.max(1));
    regrouped.sort_by_key(|victim| Reverse(victim.segment));
    victims.append(&mut regrouped);
    victims
}

/// All segments that may be victims, with the number of their live chunks.
async fn candidates<D: Disk, L: SegmentLog>(inner: &Rc<Inner<D, L>>, pick: &Pick) -> Vec<Victim> {
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
    candidates
}

/// Guesses the live bytes of the candidates, and takes those out that cannot be read or shall stay; returns those of the
/// others whose chunks were never moved and are worth it, `None` if it was told to stop.
async fn guess<D: Disk, L: SegmentLog>(
    inner: &Rc<Inner<D, L>>,
    pick: &Pick,
    candidates: &mut Vec<Victim>,
    pace: &mut Pace,
) -> Option<BTreeSet<SegmentId>> {
    let (mut hot, mut unmoved) = (BTreeSet::new(), BTreeSet::new());
    for candidate in candidates.iter_mut().filter(|candidate| candidate.live_chunks > 0) {
        if pace.is_stopped() {
            return None;
        }
        let content = inner.content(candidate.segment).await;
        let Some((content, _)) = content.filter(|(_, has_footer)| *has_footer || !pick.keep_unlisted) else {
            unmoved.insert(candidate.segment);
            continue;
        };
        pace.step().await;
        let growth = if candidate.kind.is_read_randomly { RANDOM_GROWTH } else { 1 };
        candidate.rewritten_bytes = content.stored_bytes * growth + candidate.live_chunks * CHUNK_OVERHEAD_BYTES;
        candidate.live_bytes = candidate.live_chunks * (content.stored_bytes / content.chunks.max(1));
        let may_shrink = content.stored_bytes * 100 <= content.plain_bytes * (100 - GAIN_PERCENT_MIN);
        if pick.regroup == Regroup::Hot && candidate.generation == Generation::HOT && may_shrink {
            hot.insert(candidate.segment);
        }
    }
    candidates.retain(|candidate| !unmoved.contains(&candidate.segment));
    Some(hot)
}

/// Whether so little of a segment is live that it is worth being emptied for that; if it may be, its live bytes are known
/// then. `None` if it cannot be read.
async fn is_mostly_dead<D: Disk, L: SegmentLog>(
    inner: &Rc<Inner<D, L>>,
    candidate: &mut Victim,
    pace: &mut Pace,
) -> Option<bool> {
    if candidate.live_chunks == 0 {
        return Some(true);
    }
    let geometry = inner.options.geometry;
    let with_parity = |bytes: u64| bytes * geometry.columns() as u64 / geometry.k() as u64;
    let is_below = |bytes: u64, of: u64, percent: u64| bytes * 100 < of * percent;
    let min = u64::from(LIVE_PERCENT_MIN);
    if !is_below(with_parity(candidate.live_bytes), candidate.file_bytes, min + GUESS_MARGIN_PERCENT) {
        return Some(false);
    }
    let id = candidate.segment;
    let weigh = move |inner: Rc<Inner<D, L>>| async move { inner.weigh(id).await };
    let weighed = inner.peers.call(inner.home_of(id), weigh).await?;
    pace.step().await;
    (candidate.live_bytes, candidate.rewritten_bytes) = (weighed.live_bytes, weighed.rewritten_bytes);
    Some(if candidate.generation >= Generation::LAST {
        is_below(weighed.live_bytes, weighed.all_bytes, u64::from(LIVE_PERCENT_MIN_MOVED_TWICE))
    } else {
        is_below(with_parity(weighed.live_bytes), candidate.file_bytes, min)
    })
}

/// Segments of chunks that were moved once and shall be moved again beside the hot ones: the last written that fit one
/// round with those, if at least `rounds_min` of them were not filled. Each round leaves one such on each core, so that
/// many rounds made them.
fn ripe(candidates: &[Victim], hot: &BTreeSet<SegmentId>, full_bytes: u64, rounds_min: usize) -> BTreeSet<SegmentId> {
    let beside = candidates.iter().filter(|segment| hot.contains(&segment.segment));
    let mut chunks: u64 = beside.map(|segment| segment.live_chunks).sum();
    let moved_once = candidates.iter().filter(|segment| segment.generation == Generation::HOT.moved());
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
            rewritten_bytes: 0,
            is_mostly_dead: false,
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

    /// All that a segment holds, dead or alive, read once after a start, and whether a footer lists it. `None` if it cannot
    /// be read.
    async fn content(&self, segment: SegmentId) -> Option<(Volume, bool)> {
        let look = move |inner: Rc<Inner<D, L>>| async move {
            let home = inner.home.borrow().get(&segment).cloned()?;
            if home.content.get().is_none() {
                let mut content = Volume::default();
                for (_, table) in inner.read_rows(&home).await.ok()? {
                    durable_chunks(segment, &table).for_each(|chunk| content += Volume::of(&chunk));
                }
                home.content.set(Some(content));
            }
            Some((home.content.get()?, home.has_footer()))
        };
        self.peers.call(self.home_of(segment), look).await
    }

    /// Adds up the chunks of a segment of this home; `None` if its rows cannot be read.
    async fn weigh(&self, segment: SegmentId) -> Option<Weighed> {
        let home = self.home.borrow().get(&segment)?.clone();
        let mut weighed = Weighed::default();
        for (_, table) in self.read_rows(&home).await.ok()? {
            let chunks: Vec<DurableChunk> = durable_chunks(segment, &table).collect();
            let standings = self.standings(&chunks).await;
            weighed.add(&chunks.into_iter().zip(standings).collect::<Vec<_>>());
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
            rewritten_bytes: live_chunks,
            is_mostly_dead: false,
        }
    }

    #[test]
    fn what_is_left_of_a_block_may_need_as_much_as_the_block() {
        let chunk = |offset, ordinal, plain_bytes, stored_bytes| {
            let location = Location { segment: SegmentId(1), column: 0, offset, sectors: 1, ordinal };
            DurableChunk { id: proto::ChunkId([1; 32]), location, plain_bytes, stored_bytes, is_shared: true }
        };
        let mut weighed = Weighed::default();
        weighed.add(&[
            (chunk(64, 0, 1000, 100), Standing::Live),
            (chunk(64, 1, 4000, 400), Standing::Dead),
            (chunk(128, 0, 60, 50), Standing::Live),
            (chunk(128, 1, 500, 250), Standing::Copy(chunk(64, 0, 1, 1).location)),
            (chunk(192, 0, 9, 8), Standing::Dead),
        ]);
        assert_eq!((weighed.live_bytes, weighed.all_bytes), (150, 808));
        assert_eq!(weighed.rewritten_bytes, 500 + 60 + 2 * CHUNK_OVERHEAD_BYTES);
    }

    #[test]
    fn what_many_rounds_moved_once_is_ripe_but_for_what_no_round_can_hold() {
        let mut segments = vec![segment(1, 0, 10, 100), segment(2, 2, 10, 10), segment(3, 1, 10, 100)];
        segments.extend((4..12).map(|id| segment(id, 1, 10, 10)));
        let hot = [SegmentId(1)].into();
        let ids = |ripe: BTreeSet<SegmentId>| ripe.into_iter().map(|segment| segment.0).collect::<Vec<_>>();
        assert_eq!(ids(ripe(&segments, &hot, 100, 8)), (3..12).collect::<Vec<_>>());
        assert_eq!(ids(ripe(&segments, &hot, 100, 9)), [0; 0], "a filled segment is no round");
        segments[4].kind.is_read_randomly = true;
        assert_eq!(ids(ripe(&segments, &hot, 100, 8)), [0; 0], "what is read randomly is moved by itself");
        segments[4].kind.is_read_randomly = false;
        segments[0].live_chunks = ROUND_CHUNKS_MAX - 80;
        assert_eq!(ids(ripe(&segments, &hot, 100, 8)), (4..12).collect::<Vec<_>>(), "the last written that fit");
        segments[0].live_chunks += 1;
        assert_eq!(ids(ripe(&segments, &hot, 100, 8)), [0; 0], "too few of them fit");
    }
}
