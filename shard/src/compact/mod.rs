//! Compaction: live chunks move out of segments that are mostly dead, or were never regrouped, and whole segments are
//! freed.
//!
//! ```text
//!   victims   which segments                           entries at the owners, rows at the homes
//!   compact   survey ─▶ plan ─▶ write ─▶ read back ─▶ owners change the place     one round, see below
//!   (caller)  checkpoint of the index, FreeSegment in the log
//!   free      no owner names it ─▶ files removed, directories synced ─▶ every core forgets it
//! ```
//!
//! * `pick`: which segments are victims.
//! * [`plan`]: which chunks shall lie together: the seam to similarity; [`similar`]: by what they look like.
//! * `survey`: what of a victim is live, read and verified by its home, and sent to the core that regroups it.
//! * `mover`: the lane that moved chunks are written by, with segments of their own.
//! * `verify`: rows read back.
//! * `round`: one round over all cores.
//! * [`budget`]: how much of a core and its disks it may take.
//! * `free`: giving segments back.
//!
//! Invariants:
//!
//! * An owner changes an entry only if it still names the old place, and only after the row of the new one was read
//!   back and verified. The pin stays. A chunk that was condemned meanwhile stays condemned.
//! * A chunk that does not verify is not moved, and its segment is not emptied.
//! * A crash anywhere leaves further copies of chunks, and nothing else: a start finds both, the later answers, and a
//!   later round frees the earlier.
//! * Moved chunks never share a segment with new ones, so what was moved already is known after a restart, by the
//!   *generation* of its segment.
//!
//! Memory of a round: [`ROUND_CHUNKS_MAX`] records over all cores, the row tables of one segment on each, and
//! `PENDING_BYTES_MAX` of payload (see `mover`) on each. Disk: what is live in its victims, once more, until they are freed.

pub mod budget;
pub(crate) mod free;
mod mover;
pub(crate) mod pick;
pub mod plan;
mod round;
pub mod similar;
mod survey;
mod verify;

use std::collections::BTreeSet;
use std::sync::Arc;

use proto::limits::BLOCK_PLAIN_BYTES_MAX;
use proto::port::Disk;
use proto::{Generation, SegmentId};

pub use budget::{Budget, Pace};
pub use free::FreeError;
pub use plan::{Arrival, Grouping, Plan, Sketched};
pub use similar::Similar;

use crate::error::StoreError;
use crate::segment::SegmentLog;
use crate::store::Store;

/// Chunks that one round moves, whatever the number of victims: about 100 bytes of memory each.
pub const ROUND_CHUNKS_MAX: u64 = 128 << 10;
/// Bytes that one round writes, before redundancy: it needs as much room before its victims are freed.
pub const ROUND_BYTES_MAX: u64 = 4 << 30;
/// Rounds whose chunks, moved once, are moved again together: what is alike among them lies together then.
///
/// The chunks of one night, alone in a plan, find little that is alike. Eight nights in one plan shrink to less than half
/// of what they take night by night (RFC 8).
pub const RIPE_ROUNDS: usize = 8;
/// Plain bytes of a block, at most, whose chunks are read one by one: a quarter of the time for each, and less than half of
/// what similarity saves (RFC 8).
pub const RANDOM_BLOCK_PLAIN_BYTES: usize = 128 << 10;
/// Least part of a segment's files, in percent, that is live; below it the segment is a victim.
pub const LIVE_PERCENT_MIN: u8 = 70;
/// The same for segments of chunks that were moved twice already.
pub const LIVE_PERCENT_MIN_MOVED_TWICE: u8 = 30;

/// Which segments shall be victims.
#[derive(Clone, Debug, Default)]
pub struct Pick {
    /// Segments that stay: they hold pages of the current checkpoint of the index, or chunks that are referenced and
    /// not in the index.
    pub protected: Arc<BTreeSet<SegmentId>>,
    /// Whether segments stay whose rows no footer lists. While a chunk is missing they are not given back, for it may lie
    /// there.
    pub keep_unlisted: bool,
    /// What looking may take of this core.
    pub budget: Budget,
    /// Whether segments that clients' writes filled are victims however much of them is live, to be regrouped.
    pub regroup: Regroup,
}

/// Whether chunks that were never moved are moved to lie beside similar ones.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Regroup {
    /// Only what is moved anyhow.
    #[default]
    Victims,
    /// All that was never moved, but for segments of which compression saved nothing; and with it what was moved once, if
    /// several rounds left enough of that. By itself, and into smaller blocks, what was moved once and is read randomly
    /// since.
    Hot,
}

/// What the chunks of a round have in common.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MoveKind {
    /// The generation to which they are moved.
    pub to: Generation,
    /// Whether they are read one by one: their blocks hold at most [`RANDOM_BLOCK_PLAIN_BYTES`].
    pub is_read_randomly: bool,
}

impl MoveKind {
    /// To the next generation, to be read on and on.
    #[must_use]
    pub fn from(generation: Generation) -> MoveKind {
        MoveKind { to: generation.moved(), is_read_randomly: false }
    }

    /// Plain bytes of a block, at most.
    fn block_plain_bytes(self) -> usize {
        if self.is_read_randomly { RANDOM_BLOCK_PLAIN_BYTES } else { BLOCK_PLAIN_BYTES_MAX }
    }
}

/// A segment worth rewriting.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Victim {
    /// The segment.
    pub segment: SegmentId,
    /// How often its chunks were moved.
    pub generation: Generation,
    /// How they shall be moved.
    pub kind: MoveKind,
    /// Bytes of its files on all devices: what freeing it gives back.
    pub file_bytes: u64,
    /// Chunks that the index finds there.
    pub live_chunks: u64,
    /// Their stored bytes, before redundancy.
    pub live_bytes: u64,
    /// What moving them writes at most, before redundancy: chunks that shared a block with dead ones may need as much as
    /// the block.
    pub rewritten_bytes: u64,
    /// Whether it is emptied for what is dead in it, and not only regrouped.
    pub is_mostly_dead: bool,
}

/// What a round did.
#[derive(Clone, Debug, Default)]
pub struct Compacted {
    /// Victims that hold no chunk that the index or a memory of copies names. Free them after a checkpoint of the index
    /// has become durable.
    pub emptied: Vec<SegmentId>,
    /// Victims that were not looked at: the round was full or stopped. Free what was emptied, then compact these.
    pub left: Vec<Victim>,
    /// Chunks that lie elsewhere now.
    pub moved_chunks: u64,
    /// Their plain bytes.
    pub moved_plain_bytes: u64,
    /// Their stored bytes before.
    pub stored_bytes_before: u64,
    /// Their stored bytes now.
    pub stored_bytes_after: u64,
    /// Bytes read, with what was read back.
    pub read_bytes: u64,
    /// Bytes of rows written.
    pub written_bytes: u64,
    /// Live chunks that could not be read or verified: they stay, and so do their segments.
    pub unreadable_chunks: u64,
    /// Why it ended early: no space, or a device that failed. What was moved is kept.
    pub stopped: Option<StoreError>,
}

impl<D: Disk, L: SegmentLog> Store<D, L> {
    /// Segments of all cores that are worth rewriting, the emptiest first. Only sealed, settled segments are.
    ///
    /// Cost: a footer for each segment that may be a victim, the first time after a start that it is looked at.
    pub async fn victims(&self, pick: &Pick) -> Vec<Victim> {
        pick::victims(self.inner(), pick).await
    }

    /// Moves what is live in the first of `victims`, as many as one round may, to new segments.
    ///
    /// Before: the index of all cores is complete, and no other compaction runs. Nothing in `victims` is in
    /// [`Pick::protected`].
    /// After: of each segment in [`Compacted::emptied`] nothing is named by an index entry, and nothing will be, unless
    /// the caller enters a chunk there again. New rows are durable and verified, and their segments sealed. Chunks were
    /// moved only if an owner still knew them.
    /// It yields as `budget` says, and ends early, with what was moved kept, when told to or when there is no space.
    /// Dropping the future leaves work under way on other cores: stop it through the budget instead.
    pub async fn compact<G: Grouping>(&self, victims: Vec<Victim>, grouping: G, budget: &Budget) -> Compacted {
        round::compact(self.inner(), victims, grouping, budget).await
    }

    /// Removes the files of a segment of whichever home on all devices, makes that durable, and has all cores forget it.
    ///
    /// Before: the log says that the segment is freed, and no checkpoint of the index counts or names it.
    /// After: its bytes are free but for files that a read still has open. A read at an old place there is told
    /// [`crate::ReadError::Stale`] and asks the chunk's owner. A segment that is not known any more was freed before.
    /// Returns the bytes of its files.
    ///
    /// Errors: [`FreeError`]. Unless it says `InUse`, the segment is forgotten all the same, and what is left of its
    /// files is removed by the next start.
    pub async fn free(&self, segment: SegmentId) -> Result<u64, FreeError> {
        free::free(self.inner(), segment).await
    }
}
