//! The embedded backend: the state in memory, a sealed write-ahead log, and snapshots, over one disk.
//!
//! ```text
//!   propose ─▶ queue ─▶ batch ─▶ one durable write ─▶ apply in order ─▶ answer
//!              ▲ gathers while the batch before it syncs
//!
//!   meta/wal-00-0000000000000003     batches; a new file, tag and key at every start and every snapshot
//!   meta/wal-00-0000000000000004
//!   meta/snapshot-0000000000001f40   the state after command 8,000; older logs and snapshots go once it is durable
//! ```
//!
//! Invariants:
//!
//! * Durable, then applied, then answered: nothing that a crash could take back is ever seen.
//! * One batch is in flight, by one task, which alone changes the state; views see whole commands.
//! * A failed write or sync of the log stops the backend for good: what the disk holds is unknown, nothing is written
//!   to that file again, and the next start decides by reading.
//! * A snapshot keeps old values of what changes before it gets there, and no more than [`SNAPSHOT_ASIDE_BYTES_MAX`] of
//!   them: then durable commands wait for it before they are applied.
//! * Log sequence numbers have no gaps. A new file names the first it will hold, which settles for ever where the file
//!   before it ended, whatever a torn write left behind that point.

mod commit;
mod error;
mod offline;
mod recovery;
mod snapshot;
#[cfg(test)]
mod tests;
mod wal;
mod window;

use std::cell::RefCell;
use std::collections::{BTreeMap, VecDeque};
use std::rc::Rc;
use std::sync::Arc;

use futures_channel::oneshot;
#[cfg(doc)]
use proto::limits::SNAPSHOT_ASIDE_BYTES_MAX;
use proto::limits::{
    COMMAND_BYTES_MAX, EVENT_WAITERS_MAX, VIRTUAL_SHARDS, WAL_QUEUE_BYTES_MAX, WAL_QUEUE_COMMANDS_MAX,
};
use proto::port::{Disk, KeyProvider, runtime};
use proto::{ClusterId, DeviceId, InodeId, Lsn, VirtualShard};

pub use self::error::{Damage, OpenError, ProposeError, SnapshotError};
pub use self::offline::{LogBatch, LogEnd, MetaFile, OfflineMeta, Remark, SnapshotFramePairs};
use self::wal::WalWriter;
use crate::command::{Command, Response};
use crate::keys;
use crate::state::State;
use crate::txn::KvTxn;
use crate::view::View;

/// Directory of the logs and snapshots.
const DIRECTORY: &str = "meta";

/// What a [`Solo`] is opened with.
#[derive(Clone)]
pub struct SoloOptions<D> {
    /// Where the logs and snapshots lie.
    pub disk: D,
    /// The cluster; files of another are refused.
    pub cluster: ClusterId,
    /// The device behind `disk`; files of another are refused.
    pub device: DeviceId,
    /// The core that writes this log.
    pub stream: u32,
    /// Wraps the keys of the files.
    pub keys: Arc<dyn KeyProvider>,
    /// Bytes of log after which a snapshot is taken by itself.
    pub snapshot_after_wal_bytes: u64,
    /// Bytes by which a file is reserved ahead if the disk has them; a multiple of 4 KiB.
    pub wal_reserve_bytes: u64,
    /// Whether this store was formatted before: finding nothing then means that it is lost, and is an error.
    pub must_exist: bool,
}

/// What waits in memory.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct MetaLoad {
    /// Commands that wait for a batch; up to [`WAL_QUEUE_COMMANDS_MAX`].
    pub queue_commands: u64,
    /// Their bytes; up to [`WAL_QUEUE_BYTES_MAX`].
    pub queue_bytes: u64,
    /// Bytes of old values that a running snapshot has yet to write; up to [`SNAPSHOT_ASIDE_BYTES_MAX`] and what one
    /// command changes.
    pub aside_bytes: u64,
}

/// The metadata service on its embedded log. Clones share it.
pub struct Solo<D: Disk>(Rc<Inner<D>>);

impl<D: Disk> Clone for Solo<D> {
    fn clone(&self) -> Solo<D> {
        Solo(Rc::clone(&self.0))
    }
}

struct Inner<D: Disk> {
    options: SoloOptions<D>,
    core: RefCell<Core<D::File>>,
}

/// All that changes. Borrowed for moments, never across an await.
struct Core<F> {
    state: State,
    last_applied: Lsn,
    queue: VecDeque<Queued>,
    queue_bytes: usize,
    load_max: MetaLoad,
    /// The log; with the committer while that runs.
    writer: Option<WalWriter<F>>,
    /// Whether the committer runs.
    committing: bool,
    /// Told when the committer has nothing left to do.
    idle_waiters: Vec<oneshot::Sender<()>>,
    /// Told when more was applied.
    watchers: Vec<oneshot::Sender<()>>,
    stopped: Option<ProposeError>,
    snapshots: Snapshots,
    files: Files,
}

impl<F> Core<F> {
    fn note_load(&mut self) {
        let load = &mut self.load_max;
        load.queue_commands = load.queue_commands.max(self.queue.len() as u64);
        load.queue_bytes = load.queue_bytes.max(self.queue_bytes as u64);
        load.aside_bytes = load.aside_bytes.max(self.state.aside_bytes() as u64);
    }
}

/// A command on its way into the log.
struct Queued {
    shard: VirtualShard,
    command: Command,
    bytes: Vec<u8>,
    answer: oneshot::Sender<Result<Response, ProposeError>>,
}

/// How snapshots are getting on.
#[derive(Default)]
struct Snapshots {
    /// Last command that the newest durable snapshot contains.
    durable: Option<Lsn>,
    running: bool,
    /// A snapshot that waits for the committer to give it a moment between batches.
    start: Option<oneshot::Sender<Result<snapshot::Start, SnapshotError>>>,
    /// Told how the running snapshot ends.
    waiters: Vec<oneshot::Sender<Result<(), SnapshotError>>>,
    /// The committer, while it waits for the running snapshot to make progress or to end.
    progress: Option<oneshot::Sender<()>>,
    /// Bytes of log that are in no snapshot.
    wal_bytes: u64,
    /// Those of them that the running snapshot contains.
    covered_wal_bytes: u64,
    /// Bytes of log at which the next snapshot is taken.
    due_at_wal_bytes: u64,
    failures: u64,
}

/// Bytes on the disk, by log sequence and by last command of a snapshot.
#[derive(Default)]
struct Files {
    wals: BTreeMap<u64, u64>,
    snapshots: BTreeMap<u64, u64>,
}

impl<D: Disk> Solo<D> {
    /// Brings back the state from the newest snapshot and the logs after it, and opens a new log. A store without any
    /// is formatted: it gets a root directory.
    ///
    /// A crash at any moment of this leaves a store that opens.
    ///
    /// # Errors
    /// [`OpenError`] says which file is at fault and what to do. Nothing that could still be of use was changed.
    pub async fn open(options: SoloOptions<D>) -> Result<Solo<D>, OpenError> {
        let core = recovery::recover(&options).await?;
        let solo = Solo(Rc::new(Inner { options, core: RefCell::new(core) }));
        if !solo.0.core.borrow().state.has_root() {
            let format = Command::Format { now_ns: runtime::unix_ns() };
            let response = solo.propose(VirtualShard(0), format).await.map_err(OpenError::Format)?;
            assert_eq!(response, Response::Made { inode: InodeId::ROOT }, "invariant: there was no root");
        }
        Ok(solo)
    }

    /// Makes `command` durable, applies it and returns its answer. Concurrent commands share a sync.
    ///
    /// The command is carried out even if the returned future is dropped after its first poll.
    ///
    /// # Errors
    /// [`ProposeError`] says whether to retry. A command that was applied but failed is a [`Response::Failed`].
    ///
    /// # Panics
    /// If `shard` is no virtual shard.
    pub async fn propose(&self, shard: VirtualShard, command: Command) -> Result<Response, ProposeError> {
        assert!(usize::from(shard.0) < VIRTUAL_SHARDS, "invariant: a virtual shard is below {VIRTUAL_SHARDS}");
        let bytes = command.encode();
        if bytes.len() > COMMAND_BYTES_MAX {
            return Err(ProposeError::TooLarge { bytes: bytes.len() });
        }
        let (answer, answered) = oneshot::channel();
        {
            let mut core = self.0.core.borrow_mut();
            if let Some(stopped) = &core.stopped {
                return Err(stopped.clone());
            }
            if core.queue.len() >= WAL_QUEUE_COMMANDS_MAX || core.queue_bytes + bytes.len() > WAL_QUEUE_BYTES_MAX {
                return Err(ProposeError::Busy);
            }
            core.queue_bytes += bytes.len();
            core.queue.push_back(Queued { shard, command, bytes, answer });
            core.note_load();
        }
        commit::wake(&self.0);
        // The committer answers everybody unless the whole runtime goes away.
        answered.await.unwrap_or(Err(ProposeError::Closed))
    }

    /// Reads the state. It holds durable commands only, each entirely.
    ///
    /// # Panics
    /// If `read` calls this backend again.
    pub fn view<R>(&self, read: impl FnOnce(&View<'_>) -> R) -> R {
        read(&View::new(&self.0.core.borrow().state))
    }

    /// Returns a future that ends once more was applied, or this backend is gone. Look at the state after this call,
    /// and nothing is missed.
    ///
    /// # Errors
    /// [`ProposeError::Busy`] if [`EVENT_WAITERS_MAX`] others wait.
    pub fn watch(&self) -> Result<oneshot::Receiver<()>, ProposeError> {
        let watchers = &mut self.0.core.borrow_mut().watchers;
        if watchers.len() >= EVENT_WAITERS_MAX {
            watchers.retain(|watcher| !watcher.is_canceled());
        }
        if watchers.len() >= EVENT_WAITERS_MAX {
            return Err(ProposeError::Busy);
        }
        let (tell, told) = oneshot::channel();
        watchers.push(tell);
        Ok(told)
    }

    /// Makes a snapshot of everything applied so far durable, and removes what it replaces. Commands go on meanwhile.
    ///
    /// # Errors
    /// [`SnapshotError`]; the log is whole and nothing is lost.
    pub async fn snapshot(&self) -> Result<(), SnapshotError> {
        let target = self.last_applied();
        while self.0.core.borrow().snapshots.durable.is_none_or(|durable| durable < target) {
            let ended = snapshot::start(&self.0);
            ended.await.unwrap_or(Err(SnapshotError::Stopped))?;
        }
        Ok(())
    }

    /// Refuses new commands, waits for those that are queued, and takes a last snapshot, so that the next start is
    /// quick. What was answered is durable in any case.
    ///
    /// # Errors
    /// [`SnapshotError`]; nothing is lost, the next start replays the log instead.
    pub async fn close(&self) -> Result<(), SnapshotError> {
        let idle = {
            let mut core = self.0.core.borrow_mut();
            core.stopped.get_or_insert(ProposeError::Closed);
            core.committing.then(|| {
                let (tell, idle) = oneshot::channel();
                core.idle_waiters.push(tell);
                idle
            })
        };
        if let Some(idle) = idle {
            idle.await.map_err(|_| SnapshotError::Stopped)?;
        }
        self.snapshot().await
    }

    /// How full the queue and the side of a running snapshot were at most, since the start.
    #[must_use]
    pub fn load_max(&self) -> MetaLoad {
        self.0.core.borrow().load_max
    }

    /// Bytes of log that a start would replay now.
    #[must_use]
    pub fn wal_bytes(&self) -> u64 {
        self.0.core.borrow().snapshots.wal_bytes
    }

    /// Bytes that logs and snapshots take on the disk, reserved space included.
    #[must_use]
    pub fn raw_bytes(&self) -> u64 {
        let core = self.0.core.borrow();
        core.files.wals.values().sum::<u64>() + core.files.snapshots.values().sum::<u64>()
    }

    /// Bytes of all keys and values.
    #[must_use]
    pub fn state_bytes(&self) -> u64 {
        self.0.core.borrow().state.bytes()
    }

    /// Bytes of memory that they take: shared prefixes of keys are held once, and a running snapshot keeps old values.
    /// What the allocator loses, up to a tenth, is not in it. Cost: a walk over all leaves, some 10 ns for each 4 KiB.
    #[must_use]
    pub fn memory_bytes(&self) -> u64 {
        self.0.core.borrow().state.memory_bytes()
    }

    /// Snapshots that failed since the start; the log grows until one succeeds.
    #[must_use]
    pub fn snapshot_failures(&self) -> u64 {
        self.0.core.borrow().snapshots.failures
    }

    /// Why no command is taken any more, if the log has failed or was closed.
    #[must_use]
    pub fn stopped(&self) -> Option<ProposeError> {
        self.0.core.borrow().stopped.clone()
    }

    /// The last command that was applied.
    #[must_use]
    pub fn last_applied(&self) -> Lsn {
        self.0.core.borrow().last_applied
    }

    /// Digest of the whole state: equal for equal histories, on any node.
    #[must_use]
    pub fn state_digest(&self) -> u128 {
        self.0.core.borrow().state.digest()
    }
}

impl State {
    /// Whether the store was formatted.
    fn has_root(&self) -> bool {
        self.get(&keys::inode(InodeId::ROOT)).is_some()
    }
}
