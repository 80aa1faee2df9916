//! Segments that nothing names: settled by a checkpoint, freed in the log, removed from the devices, forgotten.
//!
//! ```text
//!   checkpoint ─▶ FreeSegment durable ─▶ all cores forget it ─▶ files removed, directories synced ─▶ ForgetSegment
//! ```
//!
//! A crash after the second step leaves a segment that the metadata lists as freed: the next start, or the next cycle,
//! goes on from there.

use std::collections::BTreeSet;
use std::sync::Arc;

use futures_util::future::try_join_all;
use meta::Command;
use proto::limits::FREE_BATCH_SEGMENTS_MAX;
use proto::port::Disk;
use proto::{DeviceId, SegmentId};
use shard::compact::{FreeError, Pace};
use shard::segment::remove_files;
use shard::{Member, UnusedSegment};

use super::cycle::Abort;
use super::mark::Marks;
use super::status::Phase;
use super::{Collector, Work};
use crate::checkpoint::{self, Turn};

/// What was freed.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Freed {
    pub(super) segments: u64,
    pub(super) bytes: u64,
}

impl std::ops::AddAssign for Freed {
    fn add_assign(&mut self, other: Freed) {
        self.segments += other.segments;
        self.bytes += other.bytes;
    }
}

impl<D: Disk> Collector<D> {
    /// Frees the segments that nothing names, but for those that `marks` protects. `has_changed` says that chunks were condemned
    /// or moved: then the index is settled even if there is no such segment, so that the next start finds them so.
    pub(super) async fn free(
        &self,
        turn: &Turn<'_>,
        marks: &Marks<'_, D>,
        has_changed: bool,
        pace: &mut Pace,
    ) -> Result<Freed, Abort> {
        self.desk.note(|status| status.phase = Phase::Free);
        // Those of a checkpoint that is being taken would be in segments that nothing names yet: whoever has the turn knows
        // all pages.
        // A checkpoint that cannot be read is replaced, whatever lies where.
        let old_pages = self.page_segments().await.ok();
        let mut unused = self.node.store.unused_segments().await;
        unused.retain(|unused| !marks.protect(unused));
        let is_page = |unused: &UnusedSegment| old_pages.as_ref().is_some_and(|pages| pages.contains(&unused.segment));
        if !has_changed && old_pages.is_some() && unused.iter().all(is_page) {
            return Ok(Freed::default());
        }
        // From here on no checkpoint counts or names what is freed, even if a crash comes.
        if checkpoint::take(&self.node, turn).await.is_err() {
            if self.desk.budget.is_stopped() {
                return Err(Abort::Closing);
            }
            checkpoint::give_up(&self.node, turn).await?;
        }
        let pages = self.page_segments().await?;
        // What became unused since may be counted by this checkpoint.
        let still = self.node.store.unused_segments().await;
        unused.retain(|unused| !pages.contains(&unused.segment) && still.contains(unused));
        let mut freed = Freed::default();
        for batch in unused.chunks(FREE_BATCH_SEGMENTS_MAX) {
            self.free_batch(batch).await?;
            freed.segments += batch.len() as u64;
            freed.bytes += batch.iter().map(|unused| unused.file_bytes).sum::<u64>();
            pace.step().await;
        }
        Ok(freed)
    }

    async fn free_batch(&self, batch: &[UnusedSegment]) -> Result<(), Abort> {
        let work = self.desk.work.lock().await;
        if *work == Work::Over {
            return Err(Abort::Closing);
        }
        let free = |unused: &UnusedSegment| self.propose(Command::FreeSegment { segment: unused.segment });
        try_join_all(batch.iter().map(free)).await?;
        for unused in batch {
            self.let_go(unused.segment).await?;
            self.propose(Command::ForgetSegment { segment: unused.segment }).await?;
        }
        drop(work);
        Ok(())
    }

    /// Has all cores forget a segment that the log says is freed, and removes its files; nothing if they have forgotten it.
    async fn let_go(&self, segment: SegmentId) -> Result<(), Abort> {
        match self.node.store.free(segment).await {
            Ok(_) => Ok(()),
            Err(FreeError::Device { source, .. }) => Err(Abort::Remove(source)),
            Err(FreeError::InUse(segment)) => Err(Abort::InUse(segment)),
        }
    }

    /// Removes what an earlier cycle left of segments that it had freed.
    ///
    /// It comes before the mark, which may find a chunk again in one of them.
    pub(super) async fn finish_freeing(&self) -> Result<(), Abort> {
        let work = self.desk.work.lock().await;
        if *work == Work::Over {
            return Err(Abort::Closing);
        }
        for (segment, members) in self.meta.view(|view| view.freed_segments()) {
            let member = |device: DeviceId| Some(Member { device, disk: self.node.disk(device)? });
            let Some(members) = members.into_iter().map(member).collect::<Option<Vec<Member<D>>>>() else { continue };
            // Of a batch that was cut short the cores know some still.
            self.let_go(segment).await?;
            let removed = remove_files(segment, &members).await;
            removed.map_err(|(_, error)| Abort::Remove(Arc::new(error)))?;
            self.propose(Command::ForgetSegment { segment }).await?;
        }
        drop(work);
        Ok(())
    }

    /// Where the pages of the last checkpoint lie.
    pub(super) async fn page_segments(&self) -> Result<BTreeSet<SegmentId>, Abort> {
        checkpoint::page_segments(&self.node).await.map_err(Abort::CheckpointUnreadable)
    }
}
