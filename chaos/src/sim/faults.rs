//! Names of everything that the world does to a process, and counts of how often it did.
//!
//! A fault is counted when it *happens*, never when it is armed: an error that no operation met, or a power loss with
//! nothing to lose, proves nothing. A run over many seeds in which some name stays at zero tests less than it says.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::rc::Rc;

/// A process was killed.
pub const PROCESS_CRASH: &str = "crash of the process";
/// The power went while the process ran.
pub const POWER_LOSS: &str = "power loss";
/// The power went after the process had ended.
pub const POWER_LOSS_AT_REST: &str = "power loss at rest";
/// A crash while the node opened.
pub const CRASH_OPENING: &str = "crash while opening";
/// A crash while the node served nothing but the full check.
pub const CRASH_CHECKING: &str = "crash while checking";
/// A crash while the node served its clients.
pub const CRASH_SERVING: &str = "crash while serving";
/// A crash while the node was being closed.
pub const CRASH_CLOSING: &str = "crash while closing";
/// A crash while a snapshot of the metadata was half written.
pub const CRASH_IN_SNAPSHOT: &str = "crash while a snapshot is written";
/// A crash while a checkpoint of the chunk index was half written.
pub const CRASH_IN_CHECKPOINT: &str = "crash while an index checkpoint is written";
/// An operation under way at a crash was carried out in part, or wholly, though nobody heard of it.
pub const OPERATION_INTERRUPTED: &str = "disk operation interrupted";
/// A power loss took sectors that were written and not synced.
pub const SECTOR_LOST: &str = "un-synced sector lost";
/// A power loss left a sector half new and half old.
pub const SECTOR_TORN: &str = "sector torn";
/// A power loss took back a length that was not synced.
pub const LENGTH_LOST: &str = "un-synced length lost";
/// A power loss took back a create, a rename or a removal that was not synced.
pub const NAME_LOST: &str = "un-synced name lost";
/// A bit of a file flipped at rest.
pub const BIT_FLIPPED: &str = "bit flipped";
/// A disk had no room.
pub const DISK_FULL: &str = "disk full";
/// Reading failed.
pub const READ_FAILED: &str = "I/O error reading";
/// Writing failed, after any part of the sectors.
pub const WRITE_FAILED: &str = "I/O error writing";
/// A sync failed, and what it should have kept may be lost.
pub const SYNC_FAILED: &str = "I/O error syncing";
/// Changing a name or a length failed.
pub const NAMES_FAILED: &str = "I/O error in a directory or with a length";
/// A message was lost on its way.
pub const WIRE_LOST: &str = "wire: message lost";
/// A message arrived twice.
pub const WIRE_DUPLICATED: &str = "wire: message duplicated";
/// A message arrived before one that was sent earlier.
pub const WIRE_REORDERED: &str = "wire: message overtook another";
/// A message took far longer than usual.
pub const WIRE_DELAYED: &str = "wire: message delayed";
/// A message was lost since its two peers were parted.
pub const WIRE_PARTED: &str = "wire: message lost in a partition";
/// A message was lost since its direction was cut, while the other one worked.
pub const WIRE_PARTED_ONE_WAY: &str = "wire: message lost in a one-way partition";
/// A message waited for a peer that took bytes slowly.
pub const WIRE_SLOWED: &str = "wire: message held up by a slow peer";
/// A message went into a connection whose other end was gone.
pub const WIRE_HALF_OPEN: &str = "wire: message sent into a half-open connection";
/// A message was in flight when its sender or receiver ended, and was lost with it.
pub const WIRE_LOST_IN_CRASH: &str = "wire: message lost in a crash";
/// A message reached a later start of its receiver than the one that ran when it was sent.
pub const WIRE_OUTLIVED: &str = "wire: message outlived its receiver's crash";
/// A message was refused since its peer's queue was full.
pub const WIRE_QUEUE_FULL: &str = "wire: queue full";
/// A write landed elsewhere and reported success.
pub const WRITE_MISDIRECTED: &str = "write misdirected";
/// A read showed a sector as it was before its last change.
pub const READ_STALE: &str = "stale read";
/// A whole disk came back as it once was.
pub const DISK_REVERTED: &str = "disk reverted";
/// An operation took seconds.
pub const OPERATION_SLOW: &str = "disk operation slow";
/// An operation was not answered, for a long time or by the end of the process.
pub const OPERATION_STALLED: &str = "disk operation stalled";

/// All names. `swarm --require-all-faults` fails if one of them never happened.
pub const KINDS: &[&str] = &[
    PROCESS_CRASH,
    POWER_LOSS,
    POWER_LOSS_AT_REST,
    CRASH_OPENING,
    CRASH_CHECKING,
    CRASH_SERVING,
    CRASH_CLOSING,
    CRASH_IN_SNAPSHOT,
    CRASH_IN_CHECKPOINT,
    OPERATION_INTERRUPTED,
    SECTOR_LOST,
    SECTOR_TORN,
    LENGTH_LOST,
    NAME_LOST,
    BIT_FLIPPED,
    DISK_FULL,
    READ_FAILED,
    WRITE_FAILED,
    SYNC_FAILED,
    NAMES_FAILED,
    WIRE_LOST,
    WIRE_DUPLICATED,
    WIRE_REORDERED,
    WIRE_DELAYED,
    WIRE_PARTED,
    WIRE_PARTED_ONE_WAY,
    WIRE_SLOWED,
    WIRE_HALF_OPEN,
    WIRE_LOST_IN_CRASH,
    WIRE_OUTLIVED,
    WIRE_QUEUE_FULL,
    WRITE_MISDIRECTED,
    READ_STALE,
    DISK_REVERTED,
    OPERATION_SLOW,
    OPERATION_STALLED,
];

/// What happened in one simulation. Clones share the counts.
#[derive(Clone, Default)]
pub struct Happened(Rc<RefCell<BTreeMap<&'static str, u64>>>);

impl Happened {
    /// A fault happened.
    ///
    /// # Panics
    /// If the name is not one of [`KINDS`].
    pub fn count(&self, kind: &'static str) {
        self.add(kind, 1);
    }

    /// A fault happened so many times, perhaps not at all.
    ///
    /// # Panics
    /// If the name is not one of [`KINDS`].
    pub fn add(&self, kind: &'static str, times: u64) {
        assert!(KINDS.contains(&kind), "{kind:?} is missing in the table of all faults");
        if times > 0 {
            *self.0.borrow_mut().entry(kind).or_default() += times;
        }
    }

    /// How often each kind happened; those that did not are missing.
    #[must_use]
    pub fn counts(&self) -> BTreeMap<&'static str, u64> {
        self.0.borrow().clone()
    }
}
