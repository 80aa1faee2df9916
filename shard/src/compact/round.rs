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
use super::{Compacted, MoveKind, ROUND_CHUNKS_MAX, ROUND_LIVE_BYTES_MAX, Victim};
use crate::error::SegmentError;
use crate::segment::SegmentLog;
use crate::store::Inner;

pub(super) async fn compact<D: Disk, L: SegmentLog, G: Grouping>(
    inner: &Rc<Inner<D, L>>,
    victims: Vec<Victim>,
    grouping: G,
    budget: &Budget,
) -> Compacted {
    let options = &inner.options;
    let room = inner.room_segments().await;
    // Where there is no room for a segment of each core, some of them write for all.
    let writers = usize::try_from(room).unwrap_or(usize::MAX).clamp(1, inner.peers.count());
    let (round, left, kind) = choose(victims, live_bytes_max(room, writers, options.piece_bytes, options.geometry));
    let mut compacted = Compacted { left, ..Compacted::default() };
    if round.is_empty() && !compacted.left.is_empty() {
        let need_bytes = options.piece_bytes + options.log.reserve_bytes().await;
        compacted.stopped = Some(SegmentError::NoSpace { need_bytes }.into());
        return compacted;
    }
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
    for segment in cleared {
        if !inner.is_named(segment).await {
            compacted.emptied.push(segment);
        }
    }
    compacted
}

/// Live bytes that `writers` can move into `room` segments, however they are dealt to them: a round that runs out of room
/// has emptied nothing and taken the room of the next.
fn live_bytes_max(room: u64, writers: usize, piece_bytes: u64, geometry: Geometry) -> u64 {
    // The last row of a segment may not fill it, and each row has a head.
    let segment_bytes = piece_bytes * geometry.k() as u64 / 8 * 7;
    (room + 1).saturating_sub(writers as u64).saturating_mul(segment_bytes).min(ROUND_LIVE_BYTES_MAX)
}

/// Splits `victims` into those of this round, whose chunks are moved in the same way and are `live_bytes_max` at most, and
/// those left.
fn choose(victims: Vec<Victim>, live_bytes_max: u64) -> (Vec<Victim>, Vec<Victim>, MoveKind) {
    let first = victims.iter().find(|victim| victim.live_chunks > 0);
    let kind = first.map_or(MoveKind::from(Generation::LAST), |victim| victim.kind);
    let (mut round, mut left): (Vec<Victim>, Vec<Victim>) = (Vec::new(), Vec::new());
    let (mut chunks, mut bytes) = (0, 0);
    for victim in victims {
        let (more, more_bytes) = (chunks + victim.live_chunks, bytes + victim.live_bytes);
        let has_room = more_bytes <= live_bytes_max && (more <= ROUND_CHUNKS_MAX || round.is_empty());
        // What is dead goes with any round.
        let goes_along = victim.live_chunks == 0 || victim.kind == kind;
        if goes_along && has_room {
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
        Victim { segment, generation, kind, file_bytes: 100, live_chunks, live_bytes: live_chunks }
    }

    #[test]
    fn whatever_core_chunks_are_dealt_to_a_round_has_room() {
        let one = Geometry::new(1, 0).expect("legal");
        let wide = Geometry::new(6, 3).expect("legal");
        assert_eq!(live_bytes_max(0, 1, 800, one), 0);
        assert_eq!(live_bytes_max(2, 2, 800, one), 700, "all of it for either core");
        assert_eq!(live_bytes_max(5, 2, 800, one), 4 * 700);
        assert_eq!(live_bytes_max(1, 1, 800, wide), 6 * 700);
        assert_eq!(live_bytes_max(u64::MAX - 1, 4, 800, wide), ROUND_LIVE_BYTES_MAX);
    }

    #[test]
    fn a_round_is_of_one_kind_and_bounded() {
        let third = ROUND_CHUNKS_MAX / 3;
        let victims = [(1, 0, third), (2, 1, third), (3, 0, third + 9), (4, 0, third), (5, 1, 0), (6, 0, 1)];
        let mut victims = victims.map(|(id, of, live)| victim(id, of, live)).to_vec();
        let (round, left, kind) = choose(victims.clone(), ROUND_LIVE_BYTES_MAX);
        let ids = |victims: &[Victim]| victims.iter().map(|victim| victim.segment.0).collect::<Vec<_>>();
        assert_eq!((ids(&round), ids(&left), kind.to), (vec![1, 3, 5, 6], vec![2, 4], Generation(1)));
        victims[5].kind.is_read_randomly = true;
        assert_eq!(ids(&choose(victims, ROUND_LIVE_BYTES_MAX).0), [1, 3, 5], "other blocks");
        let (round, left, kind) =
            choose(vec![victim(1, 2, ROUND_CHUNKS_MAX * 2), victim(2, 2, 1)], ROUND_LIVE_BYTES_MAX);
        assert_eq!((ids(&round), ids(&left), kind.to), (vec![1], vec![2], Generation::LAST), "one at least");
        let victims = [(1, 0, 0), (2, 0, 60), (3, 0, 50), (4, 0, 40)].map(|(id, of, live)| victim(id, of, live));
        assert_eq!(ids(&choose(victims.to_vec(), 100).0), [1, 2, 4], "as much as there is room for");
        assert_eq!(ids(&choose(victims.to_vec(), 0).0), [1], "without room what is dead goes");
    }
}
