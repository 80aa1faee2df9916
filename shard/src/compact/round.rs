//! One round over all cores: see the picture in the module above.
//!
//! Chunks do not cross between cores: each core reads what it regroups with its own ring. What crosses are records of
//! them, once, as owned values.

use std::rc::Rc;

use futures_channel::oneshot;
use futures_util::future::join_all;
use proto::port::{Disk, runtime};
use proto::{CoreId, Generation};

use super::budget::{Budget, Pace};
use super::mover::{Written, write};
use super::plan::Grouping;
use super::survey::{Record, Surveyed, survey};
use super::{Compacted, MoveKind, ROUND_CHUNKS_MAX, ROUND_LIVE_BYTES_MAX, Victim};
use crate::segment::SegmentLog;
use crate::store::Inner;

pub(super) async fn compact<D: Disk, L: SegmentLog, G: Grouping>(
    inner: &Rc<Inner<D, L>>,
    victims: Vec<Victim>,
    grouping: G,
    budget: &Budget,
) -> Compacted {
    let (round, left, kind) = choose(victims);
    let mut compacted = Compacted { left, ..Compacted::default() };
    let surveyed = survey_all(inner, &round, &grouping, budget).await;
    let mut cleared = Vec::new();
    for found in &surveyed {
        compacted.read_bytes += found.read_bytes;
        compacted.unreadable_chunks += found.unreadable_chunks;
        cleared.extend(found.is_clear.then_some(found.segment));
    }
    if !budget.is_stopped() {
        let writes = deal(inner.peers.count(), surveyed).into_iter().zip(inner.cores()).map(|(records, core)| {
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

/// Splits `victims` into those of this round, whose chunks are moved in the same way, and those left.
fn choose(victims: Vec<Victim>) -> (Vec<Victim>, Vec<Victim>, MoveKind) {
    let first = victims.iter().find(|victim| victim.live_chunks > 0);
    let kind = first.map_or(MoveKind::from(Generation::LAST), |victim| victim.kind);
    let (mut round, mut left): (Vec<Victim>, Vec<Victim>) = (Vec::new(), Vec::new());
    let (mut chunks, mut bytes) = (0, 0);
    for victim in victims {
        let (more, more_bytes) = (chunks + victim.live_chunks, bytes + victim.live_bytes);
        let is_in_bounds = more <= ROUND_CHUNKS_MAX && more_bytes <= ROUND_LIVE_BYTES_MAX;
        // What is dead goes with any round.
        let goes_along = victim.live_chunks == 0 || victim.kind == kind;
        if goes_along && (is_in_bounds || round.is_empty()) {
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
    budget: &Budget,
) -> Vec<Surveyed<G::Sketch>> {
    let surveys = inner.cores().map(|core| {
        let ids = round.iter().map(|victim| victim.segment).filter(|segment| inner.home_of(*segment) == core);
        let (ids, grouping, budget) = (ids.collect::<Vec<_>>(), grouping.clone(), budget.clone());
        on_core(inner, core, move |inner| async move {
            let mut pace = Pace::new(&budget);
            let mut surveyed = Vec::with_capacity(ids.len());
            for id in ids {
                surveyed.push(survey(&inner, id, &grouping, &mut pace).await);
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
    fn a_round_is_of_one_kind_and_bounded() {
        let third = ROUND_CHUNKS_MAX / 3;
        let victims = [(1, 0, third), (2, 1, third), (3, 0, third + 9), (4, 0, third), (5, 1, 0), (6, 0, 1)];
        let mut victims = victims.map(|(id, of, live)| victim(id, of, live)).to_vec();
        let (round, left, kind) = choose(victims.clone());
        let ids = |victims: &[Victim]| victims.iter().map(|victim| victim.segment.0).collect::<Vec<_>>();
        assert_eq!((ids(&round), ids(&left), kind.to), (vec![1, 3, 5, 6], vec![2, 4], Generation(1)));
        victims[5].kind.is_read_randomly = true;
        assert_eq!(ids(&choose(victims).0), [1, 3, 5], "other blocks");
        let (round, left, kind) = choose(vec![victim(1, 2, ROUND_CHUNKS_MAX * 2), victim(2, 2, 1)]);
        assert_eq!((ids(&round), ids(&left), kind.to), (vec![1], vec![2], Generation::LAST), "one at least");
    }
}
