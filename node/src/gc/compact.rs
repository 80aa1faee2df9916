//! Compaction in a cycle: rounds, each of which is settled and gives its victims back before the next begins.

use std::sync::Arc;

use proto::port::Disk;
use shard::StoreError;
use shard::compact::{Compacted, Pace, Pick, Regroup, Similar, Victim};

use super::cycle::Abort;
use super::free::Freed;
use super::mark::Marks;
use super::status::Phase;
use super::{Collector, Work};
use crate::checkpoint::Turn;

/// What was moved.
#[derive(Clone, Debug, Default)]
pub(super) struct Moved {
    pub(super) chunks: u64,
    pub(super) plain_bytes: u64,
    pub(super) stored_bytes_before: u64,
    pub(super) stored_bytes_after: u64,
    pub(super) unreadable: u64,
    /// Why not all that was worth it was moved. The next cycle goes on.
    pub(super) stopped: Option<StoreError>,
}

impl Moved {
    fn add(&mut self, round: Compacted) {
        self.chunks += round.moved_chunks;
        self.plain_bytes += round.moved_plain_bytes;
        self.stored_bytes_before += round.stored_bytes_before;
        self.stored_bytes_after += round.stored_bytes_after;
        self.unreadable += round.unreadable_chunks;
        self.stopped = round.stopped;
    }
}

impl<D: Disk> Collector<D> {
    /// Moves what is live in segments that are mostly dead, and what was never laid beside what is alike; and frees those
    /// segments.
    pub(super) async fn compact(
        &self,
        turn: &Turn<'_>,
        marks: &Marks<'_, D>,
        pace: &mut Pace,
    ) -> Result<(Moved, Freed), Abort> {
        let (mut moved, mut freed) = (Moved::default(), Freed::default());
        // Victims were sealed before, and pages go to segments that are open: no later page lies in one.
        let pages = self.page_segments().await?;
        let stay = Arc::new(marks.protected.union(&pages).copied().collect());
        let pick = Pick {
            protected: stay,
            keep_unlisted: marks.missing > 0,
            budget: self.desk.budget.clone(),
            regroup: Regroup::Hot,
        };
        self.desk.note(|status| status.phase = Phase::Compact);
        let mut victims = self.node.store.victims(&pick).await;
        while !victims.is_empty() && moved.stopped.is_none() {
            self.desk.note(|status| status.phase = Phase::Compact);
            let (round, left) = self.round(victims).await?;
            let has_moved = round.moved_chunks > 0;
            moved.add(round);
            victims = left;
            let space = self.free(turn, marks, has_moved, pace).await?;
            freed += space;
            let moved = moved.clone();
            self.desk.note(|status| (status.rewritten_bytes, status.phase) = (moved.plain_bytes, Phase::Compact));
        }
        Ok((moved, freed))
    }

    async fn round(&self, victims: Vec<Victim>) -> Result<(Compacted, Vec<Victim>), Abort> {
        let work = self.desk.work.lock().await;
        if *work == Work::Over {
            return Err(Abort::Closing);
        }
        let mut round = self.node.store.compact(victims, Similar, &self.desk.budget).await;
        drop(work);
        let left = std::mem::take(&mut round.left);
        Ok((round, left))
    }
}
