//! One cycle, step by step; the numbers are those of the RFC.

use std::sync::Arc;

use meta::{Command, ProposeError, Response};
use proto::port::{Disk, runtime};
use proto::{CoreId, SegmentId};
use shard::compact::Pace;
use shard::{ReadError, Swept};

use super::compact::Moved;
use super::status::{CycleReport, Phase};
use super::{Collector, mark};
use crate::checkpoint::CheckpointError;
use crate::error::ChangeError;
use crate::{BUSY_PAUSE, GROUP, Node};

/// Why a cycle ended early. Up to the sweep nothing was condemned; what was condemned and not freed is freed by a later
/// cycle.
#[derive(Debug, thiserror::Error)]
pub(super) enum Abort {
    /// The metadata log took no command: free space on its disk, or restart the node.
    #[error("the metadata log: {0}")]
    Log(#[from] ChangeError),
    /// The node is being closed.
    #[error("the node is shutting down")]
    Closing,
    /// The index does not know all chunks yet.
    #[error("the index is not complete")]
    Incomplete,
    /// What a page of a manifest refers to is unknown: bring it back, or remove the file that it belongs to.
    #[error("a manifest page cannot be read: {0}")]
    Unreadable(ReadError),
    /// More chunks are missing than can be watched over: check the disks.
    #[error("too many chunks are missing")]
    TooMuchMissing,
    /// No checkpoint of the index was taken, and the one before could not be given up.
    #[error("the checkpoint of the index: {0}")]
    Checkpoint(#[from] CheckpointError),
    /// The last checkpoint of the index cannot be read, so nobody knows which segments hold it.
    #[error("the list of the index's last checkpoint cannot be read: {0}")]
    CheckpointUnreadable(ReadError),
    /// A segment that the log lists as freed is named by the index: restart the node.
    #[error("segment {0} is freed and in use")]
    InUse(SegmentId),
    /// The files of freed segments were not removed: check the disk; the next cycle or start tries again.
    #[error("files were not removed: {0}")]
    Remove(Arc<std::io::Error>),
}

impl<D: Disk> Collector<D> {
    /// Runs one cycle, with or without compaction.
    pub(super) async fn cycle(&self, compacts: bool, pace: &mut Pace) -> Result<CycleReport, Abort> {
        self.finish_freeing().await?;
        self.desk.note(|status| status.phase = Phase::Expire);
        let expired = Node(self.node.clone()).expire(u64::MAX).await?;
        // 1, 2: whoever is answered from now on is answered in this epoch, and whoever was answered before the last one
        // and commits only now has to ask again.
        let epoch = self.meta.view(|view| view.epoch()) + 1;
        self.propose(Command::RaiseEpoch { epoch }).await?;
        self.node.store.set_epoch(epoch).await;
        // 3, 4
        let marks = mark::everything(self, pace).await?;
        // From here to the checkpoint that settles it nobody else takes one: it would count what goes meanwhile.
        let turn = self.node.checkpointing.lock().await;
        // 5
        let swept = self.sweep(pace).await?;
        // 7, 8: what is wholly dead makes room for what is moved.
        let mut freed = self.free(&turn, &marks, swept.condemned.chunks > 0, pace).await?;
        // 6, and 7 and 8 again for each round
        let mut moved = Moved::default();
        if compacts {
            let given_back;
            (moved, given_back) = self.compact(&turn, &marks, pace).await?;
            freed += given_back;
        }
        Ok(CycleReport {
            expired_versions: expired.versions,
            marked: marks.marked,
            missing: marks.missing,
            condemned_chunks: swept.condemned.chunks,
            condemned_bytes: swept.condemned.stored_bytes,
            kept: swept.kept,
            freed_segments: freed.segments,
            freed_bytes: freed.bytes,
            rewritten_chunks: moved.chunks,
            rewritten_bytes: moved.plain_bytes,
            rewritten_from_bytes: moved.stored_bytes_before,
            rewritten_to_bytes: moved.stored_bytes_after,
            unreadable: moved.unreadable,
            stopped: moved.stopped.map(|why| why.to_string()),
        })
    }

    /// Condemns what nothing has marked or pinned, at all owners.
    async fn sweep(&self, pace: &mut Pace) -> Result<Swept, Abort> {
        self.desk.note(|status| status.phase = Phase::Sweep);
        if !self.node.store.is_complete().await {
            return Err(Abort::Incomplete);
        }
        let mut swept = Swept::default();
        for core in (0..self.node.names.count() as u16).map(CoreId) {
            swept += self.node.store.sweep(core, async || pace.step().await).await;
        }
        self.node.store.verify_copies(async || pace.step().await).await;
        Ok(swept)
    }

    /// Makes a command durable; waits if the log is busy.
    pub(super) async fn propose(&self, command: Command) -> Result<(), ChangeError> {
        loop {
            match self.meta.propose(GROUP, command.clone()).await {
                Err(ProposeError::Busy) => runtime::sleep(BUSY_PAUSE).await,
                Ok(Response::Failed(refused)) => return Err(refused.into()),
                Ok(_) => return Ok(()),
                Err(error) => return Err(error.into()),
            }
        }
    }
}
