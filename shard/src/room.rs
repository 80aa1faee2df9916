//! Room for segments on disks that fill up.
//!
//! ```text
//!   free bytes of a device
//!   ───────────────────────────────────────────────────────────────────────────────────────────────▶ 0
//!     clients and, up to half of it, compaction │ compaction: one segment  │ one: what the │ metadata:
//!     while a round is under way                │ for each core            │ log grows     │ `reserve_bytes`
//! ```
//!
//! Compaction needs room before it gives any back. Without room of its own a disk that clients filled would stay full,
//! whatever they remove.

use std::sync::atomic::{AtomicU64, Ordering};

/// Bytes of each device that are spoken for, though they are free.
#[derive(Debug, Default)]
pub struct Reserved {
    /// Of segments that are being opened.
    pub(crate) opening_bytes: AtomicU64,
    /// Of those that the round of compaction under way is going to open, besides what clients always leave to it.
    pub(crate) round_bytes: AtomicU64,
}

impl Reserved {
    /// Keeps room for a round; 0 when it is over.
    pub(crate) fn keep_for_round(&self, bytes: u64) {
        self.round_bytes.store(bytes, Ordering::SeqCst);
    }

    /// The round has opened a segment.
    pub(crate) fn take_for_round(&self, bytes: u64) {
        let left = |kept: u64| Some(kept.saturating_sub(bytes));
        let _ = self.round_bytes.fetch_update(Ordering::SeqCst, Ordering::SeqCst, left);
    }
}

/// Segments that a round of compaction may open.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Room {
    /// In what clients leave to it.
    pub(crate) own: u64,
    /// Besides: half of what clients could open.
    pub(crate) shared: u64,
}

impl Room {
    /// Splits what is free: one for each core is compaction's, one is for what the log grows meanwhile.
    pub(crate) fn of(free_segments: u64, cores: u64) -> Room {
        Room { own: free_segments.min(cores), shared: free_segments.saturating_sub(cores + 1) / 2 }
    }
}
