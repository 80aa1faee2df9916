//! One round over all cores: see the picture in the module above.
//!
//! Chunks do not cross between cores: each core reads what it regroups with its own ring. What crosses are records of
//! them, once, as owned values.

use std::rc::Rc;

use futures_channel::oneshot;
use futures_util::future::join_all;
use proto::port::{Disk, runtime};
use proto::{CoreId, Generation, Geometry};

use super::budget::{Budget, Pace};
use super::mover::{Written, write};
use super::plan::Grouping;
use super::survey::{Record, Surveyed, survey};
use super::{Compacted, MoveKind, ROUND_BYTES_MAX, ROUND_CHUNKS_MAX, Victim};
use crate::error::SegmentError;
use crate::room::Room;
use crate::segment::SegmentLog;
use crate::store::Inner;

pub(super) async fn compact<D: Disk, L: SegmentLog, G: Grouping>(
    inner: &Rc<Inner<D, L>>,
    victims: Vec<Victim>,
    grouping: G,
    budget: &Budget,
) -> Compacted {
    let options = &inner.options;
    let room = inner.room().await;
    // Where there is no room for a segment of each core, some of them write for all.
    let writers = (room.own + room.shared).clamp(1, inner.peers.count() as u64);
    let limits = Limits::of(room, writers, segment_bytes(options.piece_bytes, options.geometry));
    let (round, left, kind) = choose(victims, &limits);
    let mut compacted = Compacted { left, ..Compacted::default() };
    if round.is_empty() && !compacted.left.is_empty() {
        let need_bytes = options.piece_bytes + options.log.reserve_bytes().await;
        compacted.stopped = Some(SegmentError::NoSpace { need_bytes }.into());
        return compacted;
    }
    options.reserved.keep_for_round(limits.segments_beyond(&round, room, writers) * options.piece_bytes);
    let writers = writers as usize;
    let surveyed = survey_all(inner, &round, &grouping, writers, budget).await;
    let mut cleared = Vec::new();
    for found in &surveyed {
        compacted.read_bytes += found.read_bytes;
        compacted.unreadable_chunks += found.unreadable_chunks;
        cleared.extend(found.is_clear.then_some(found.segment));
    }
    if !budget.is_stopped() {
        let writes = deal(writers, surveyed).into_iter().zip(inner.cores()).map(|(records, core)| {
            let (grouping, budget) = (grouping.clone(), budget.clone());
            on_core(inner, core, move |inner| write(inner, records, kind, grouping, budget))
        });
        join_all(writes).await.into_iter().for_each(|written| compacted.add(written));
    }
    options.reserved.keep_for_round(0);
    for segment in cleared {
        if !inner.is_named(segment).await {
            compacted.emptied.push(segment);
        }
    }
    compacted
}

/// Bytes that surely fit into a segment: the last row may not fill it, and each row has a head.
fn segment_bytes(piece_bytes: u64, geometry: Geometry) -> u64 {
    piece_bytes * geometry.k() as u64 / 8 * 7
}

/// How much a round may write: one that runs out of room has emptied nothing and taken the room of the next.
#[derive(Clone, Copy, Debug)]
struct Limits {
    segment_bytes: u64,
    /// Whether there is any room.
    has_room: bool,
    /// Of victims that give back more than they take.
    bytes: u64,
    /// Of those that are only regrouped: what clients leave to compaction is not for them.
    regrouped_bytes: u64,
}

impl Limits {
    fn of(room: Room, writers: u64, segment_bytes: u64) -> Limits {
        // However chunks are dealt to the writers, each leaves one segment that is not full at most.
        let bytes = |segments: u64| {
            let full = (segments + 1).saturating_sub(writers);
            full.saturating_mul(segment_bytes).min(ROUND_BYTES_MAX)
        };
        let all = room.own + room.shared;
        Limits { segment_bytes, has_room: all > 0, bytes: bytes(all), regrouped_bytes: bytes(room.shared) }
    }

    /// Segments that the round may open besides those that clients leave to it.
    fn segments_beyond(&self, round: &[Victim], room: Room, writers: u64) -> u64 {
        let bytes: u64 = round.iter().map(|victim| victim.rewritten_bytes).sum();
        if bytes == 0 {
            return 0;
        }
        (bytes.div_ceil(self.segment_bytes) + writers - 1).saturating_sub(room.own).min(room.shared)
    }
}

/// Splits `victims` into those of this round, whose chunks are moved in the same way and have room, and those left.
fn choose(victims: Vec<Victim>, limits: &Limits) -> (Vec<Victim>, Vec<Victim>, MoveKind) {
    let first = victims.iter().find(|victim| victim.live_chunks > 0);
    let kind = first.map_or(MoveKind::from(Generation::LAST), |victim| victim.kind);
    let (mut round, mut left): (Vec<Victim>, Vec<Victim>) = (Vec::new(), Vec::new());
    let (mut chunks, mut bytes) = (0, 0);
    for victim in victims {
        let (more, more_bytes) = (chunks + victim.live_chunks, bytes + victim.rewritten_bytes);
        let max = if victim.is_mostly_dead { limits.bytes } else { limits.regrouped_bytes };
        // What is left of one segment fits into one.
        let is_first = chunks == 0 && victim.is_mostly_dead && limits.has_room;
        let fits = more_bytes <= max && (more <= ROUND_CHUNKS_MAX || chunks == 0) || is_first;
        // What is dead goes with any round.
        let goes_along = victim.live_chunks == 0 || victim.kind == kind && fits;
        if goes_along {
            (chunks, bytes) = (more, more_bytes);
            round.push(victim);
        } else {
            left.push(victim);
        }
    }
    (round, left, kind)
}

/// Surveys the segments of a round, those of each home one after the other.
async fn survey_all<D: Disk, L: SegmentLog, G: Grouping>(
    inner: &Rc<Inner<D, L>>,
    round: &[Victim],
    grouping: &G,
    writers: usize,
    budget: &Budget,
) -> Vec<Surveyed<G::Sketch>> {
    let surveys = inner.cores().map(|core| {
        let ids = round.iter().map(|victim| victim.segment).filter(|segment| inner.home_of(*segment) == core);
        let (ids, grouping, budget) = (ids.collect::<Vec<_>>(), grouping.clone(), budget.clone());
        on_core(inner, core, move |inner| async move {
            let mut pace = Pace::new(&budget);
            let mut surveyed = Vec::with_capacity(ids.len());
            for id in ids {
                surveyed.push(survey(&inner, id, &grouping, writers, &mut pace).await);
            }
            surveyed
        })
    });
    join_all(surveys).await.into_iter().flatten().collect()
}

/// Deals records to the cores that regroup them, each from the last written to the first.
fn deal<S>(cores: usize, mut surveyed: Vec<Surveyed<S>>) -> Vec<Vec<Record<S>>> {
    let mut dealt: Vec<Vec<Record<S>>> = (0..cores).map(|_| Vec::new()).collect();
    surveyed.sort_by_key(|found| std::cmp::Reverse(found.segment));
    for found in surveyed {
        for (records, of_core) in dealt.iter_mut().zip(found.records) {
            records.extend(of_core.into_iter().rev());
        }
    }
    dealt
}

/// Runs `work` as a task of a core to its end. It takes long, so it holds no room in a mailbox meanwhile.
#[expect(clippy::async_yields_async, reason = "the call ends when the work has begun; the caller awaits its result")]
async fn on_core<D: Disk, L: SegmentLog, T: Send + 'static, Fut: Future<Output = T> + 'static>(
    inner: &Inner<D, L>,
    core: CoreId,
    work: impl FnOnce(Rc<Inner<D, L>>) -> Fut + Send + 'static,
) -> T {
    let start = move |inner: Rc<Inner<D, L>>| async move {
        let (done, result) = oneshot::channel();
        runtime::spawn(async move {
            // Whoever went away does not matter.
            let _ = done.send(work(inner).await);
        });
        result
    };
    inner.peers.call(core, start).await.await.expect("invariant: a task runs to its end")
}

impl Compacted {
    fn add(&mut self, written: Written) {
        self.moved_chunks += written.moved_chunks;
        self.moved_plain_bytes += written.moved_plain_bytes;
        self.stored_bytes_before += written.stored_bytes_before;
        self.stored_bytes_after += written.stored_bytes_after;
        self.read_bytes += written.read_bytes;
        self.written_bytes += written.written_bytes;
        self.unreadable_chunks += written.unreadable_chunks;
        self.stopped = self.stopped.take().or(written.stopped);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proto::SegmentId;

    fn victim(segment: u64, generation: u8, live_chunks: u64) -> Victim {
        let generation = Generation(generation);
        let (segment, kind) = (SegmentId(segment), MoveKind::from(generation));
        let (live_bytes, rewritten_bytes) = (live_chunks, live_chunks);
        Victim {
            segment,
            generation,
            kind,
            file_bytes: 100,
            live_chunks,
            live_bytes,
            rewritten_bytes,
            is_mostly_dead: true,
        }
    }

    fn ids(victims: &[Victim]) -> Vec<u64> {
        victims.iter().map(|victim| victim.segment.0).collect()
    }

    const AMPLE: Limits =
        Limits { segment_bytes: 100, has_room: true, bytes: ROUND_BYTES_MAX, regrouped_bytes: ROUND_BYTES_MAX };

    #[test]
    fn whatever_core_chunks_are_dealt_to_a_round_has_room() {
        assert_eq!(segment_bytes(800, Geometry::new(6, 3).expect("legal")), 6 * 700);
        let bytes = |own, shared, writers| {
            let limits = Limits::of(Room { own, shared }, writers, 700);
            (limits.has_room, limits.bytes, limits.regrouped_bytes)
        };
        assert_eq!(bytes(0, 0, 1), (false, 0, 0));
        assert_eq!(bytes(1, 0, 1), (true, 700, 0));
        assert_eq!(bytes(2, 0, 2), (true, 700, 0), "all of it for either core");
        assert_eq!(bytes(2, 3, 2), (true, 4 * 700, 2 * 700));
        assert_eq!(bytes(2, u64::MAX / 2, 2), (true, ROUND_BYTES_MAX, ROUND_BYTES_MAX));
    }

    #[test]
    fn what_a_round_is_going_to_open_is_kept_for_it() {
        let (room, writers) = (Room { own: 2, shared: 9 }, 2);
        let limits = Limits::of(room, writers, 700);
        let beyond = |chunks| limits.segments_beyond(&[victim(1, 0, chunks)], room, writers);
        assert_eq!([beyond(0), beyond(700), beyond(701), beyond(99 * 700)], [0, 0, 1, 9]);
    }

    #[test]
    fn a_round_is_of_one_kind_and_bounded() {
        let third = ROUND_CHUNKS_MAX / 3;
        let victims = [(1, 0, third), (2, 1, third), (3, 0, third + 9), (4, 0, third), (5, 1, 0), (6, 0, 1)];
        let mut victims = victims.map(|(id, of, live)| victim(id, of, live)).to_vec();
        let (round, left, kind) = choose(victims.clone(), &AMPLE);
        assert_eq!((ids(&round), ids(&left), kind.to), (vec![1, 3, 5, 6], vec![2, 4], Generation(1)));
        victims[5].kind.is_read_randomly = true;
        assert_eq!(ids(&choose(victims, &AMPLE).0), [1, 3, 5], "other blocks");
        let (round, left, kind) = choose(vec![victim(1, 2, ROUND_CHUNKS_MAX * 2), victim(2, 2, 1)], &AMPLE);
        assert_eq!((ids(&round), ids(&left), kind.to), (vec![1], vec![2], Generation::LAST), "one at least");
    }

    #[test]
    fn a_round_takes_what_there_is_room_for() {
        let mut victims = [(1, 0, 0), (2, 0, 60), (3, 0, 50), (4, 0, 40)].map(|(id, of, live)| victim(id, of, live));
        let limits = Limits { bytes: 100, regrouped_bytes: 0, ..AMPLE };
        assert_eq!(ids(&choose(victims.to_vec(), &limits).0), [1, 2, 4]);
        let scarce = Limits { bytes: 50, ..limits };
        assert_eq!(ids(&choose(victims.to_vec(), &scarce).0), [1, 2], "what is left of one segment fits into one");
        let none = Limits { has_room: false, bytes: 0, ..limits };
        assert_eq!(ids(&choose(victims.to_vec(), &none).0), [1], "what is dead goes");
        victims[1].is_mostly_dead = false;
        assert_eq!(ids(&choose(victims.to_vec(), &limits).0), [1, 3, 4], "nothing is regrouped in the last room");
    }
}
