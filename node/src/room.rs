//! Room for the metadata on a disk that fills up.
//!
//! ```text
//!   free bytes of the disk of the metadata
//!   ──────────────────────────────────────▶ 0
//!      files, names        │ only what gives space back or takes none:  │ nothing
//!                          │ removals, attributes, renames              │
//!                    ADDING_RESERVE_BYTES + a snapshot             the log is full
//! ```
//!
//! Data stops earlier still, at [`METADATA_RESERVE_BYTES`] and a snapshot; what comes after it are files so short that
//! they lie with the metadata, and names.
//!
//! A removal takes space first: its command goes to the log, which gives space back only when a snapshot replaces it.
//! So when space is short a snapshot is taken as soon as it gains something, not when the log is long.

use meta::{Command, Solo};
use proto::port::{Disk, runtime};
use shard::METADATA_RESERVE_BYTES;

use crate::ChangeError;

/// Bytes that adding files and names leaves free on the disk of the metadata, besides those of a snapshot.
pub const ADDING_RESERVE_BYTES: u64 = 24 << 20;
/// Bytes of log that are worth a snapshot when space is short.
const WORTH_A_SNAPSHOT_BYTES: u64 = 4 << 20;

/// Bytes that data leaves free on every disk.
pub(crate) fn data_reserve_bytes<D: Disk>(meta: &Solo<D>) -> u64 {
    METADATA_RESERVE_BYTES + snapshot_bytes(meta)
}

/// Bytes that a snapshot takes at most: the state, and what its frames and the lengths of its pairs add.
fn snapshot_bytes<D: Disk>(meta: &Solo<D>) -> u64 {
    meta.state_bytes() + meta.state_bytes() / 8
}

/// Checks that there is room for `command`, and has the log cut if space is short.
///
/// Errors: [`ChangeError::NoSpace`]. A disk that does not tell its space is no reason to refuse: the log itself finds
/// out when it is full.
pub(crate) async fn check<D: Disk>(disk: &D, meta: &Solo<D>, command: &Command) -> Result<(), ChangeError> {
    let Ok(space) = disk.space().await else { return Ok(()) };
    let need_bytes = ADDING_RESERVE_BYTES + snapshot_bytes(meta);
    if space.free_bytes >= need_bytes {
        return Ok(());
    }
    if meta.wal_bytes() >= WORTH_A_SNAPSHOT_BYTES + snapshot_bytes(meta) {
        let meta = meta.clone();
        // One at a time is taken, however many ask; one that fails leaves the log as it is.
        runtime::spawn(async move { drop(meta.snapshot().await) });
    }
    if is_for_tidying_up(command) {
        return Ok(());
    }
    Err(ChangeError::NoSpace { free_bytes: space.free_bytes, need_bytes })
}

/// Whether a command gives space back, or takes next to none and is needed to tidy up.
fn is_for_tidying_up(command: &Command) -> bool {
    matches!(
        command,
        Command::Unlink { .. }
            | Command::UnlinkBelow { .. }
            | Command::Rename { .. }
            | Command::SetAttributes { .. }
            | Command::SetRetention { .. }
            | Command::ExpireVersions { .. }
            | Command::FreeSegment { .. }
            | Command::CheckpointIndex { .. }
            | Command::RaiseEpoch { .. }
            | Command::ForgetSegment { .. }
    )
}
