//! The node: the path of a write and the path of a read, over the ports and without HTTP.
//!
//! A reading guide, in the order of a byte's life:
//!
//! * [`open`]: format or recover the devices, the metadata and the segments.
//! * [`mod@write`]: stream → cut → id → lookup → compress → row → durable → manifest → commit → acknowledged.
//! * [`manifest`]: the list of a file's chunks; long ones are trees of stored pages.
//! * [`read`]: manifest → location → block → verified bytes.
//! * `checkpoint`: pages of the chunk index, so that a start need not read all segments.
//! * [`gc`]: what nothing refers to any more is found, and its space given back.
//! * [`namespace`]: stat, list, make, move, remove, commit; [`versions`] of files; `calls`: the same from any core.
//! * [`retention`]: which versions stay, and letting the others go.
//! * [`events`]: every change of the namespace, for who watches.
//! * [`fsck`], [`inspect`] and [`offline`]: looking at what lies on the devices while nobody serves them.
//! * [`room`]: what still works when a disk fills up.
//!
//! A node has one [`Node`] on each of its cores. Each cuts, stores and reads on its own queues; chunks are found through
//! the cores that own them (see [`shard::store`]), and names on the one core that has the [`Namespace`].
//!
//! Invariants:
//!
//! * An acknowledged write is on the medium: its rows, then its metadata command, were synced in this order.
//! * What is read back is verified or it is an error that names file and range, never wrong bytes.
//! * One request holds at most [`proto::limits::REQUEST_BYTES_MAX`], whatever the size of the file.

mod barrier;
mod calls;
mod checkpoint;
pub mod error;
pub mod events;
mod fragments;
pub mod fsck;
pub mod gc;
pub mod info;
pub mod inspect;
pub mod manifest;
pub mod namespace;
pub mod offline;
pub mod open;
pub mod read;
pub mod retention;
pub mod room;
pub mod versions;
pub mod write;

use std::cell::Cell;
use std::rc::Rc;
use std::time::Duration;

use chunk::{Chunker, DomainKey};
use futures_util::lock::Mutex;
use meta::{Command, MetaLoad, Response};
use net::mailbox::Cores;
use proto::port::{Disk, runtime};
use proto::{ClusterId, CoreId, DeviceId, DomainId, VirtualShard};
use shard::segment::{SegmentLog, SegmentOpened};
pub use shard::{DAMAGED_CHUNKS_MAX, ReadError};
use shard::{LogError, Store, StoreLoad, StoreStats};

pub use error::{ChangeError, FileReadError, OpenError, PutError};
pub use events::{EventInfo, EventPage, EventQuery, EventsError, Since};
pub use fragments::Fragments;
pub use gc::{Collect, CycleReport, GcOptions, GcStatus, RunOutcome};
pub use info::FileInfo;
pub use meta::{Attributes, Condition, ProposeError, Retention, Session, SnapshotError};
pub use namespace::{ListPage, Namespace, Removal, Target};
pub use open::{CoreEnds, NodeOptions, OpenReport, StartPlan, Started};
pub use read::{ByteRange, FileReader};
pub use retention::{Expired, RetentionInfo};
pub use room::ADDING_RESERVE_BYTES;
pub use shard::METADATA_RESERVE_BYTES;
pub use versions::{VersionInfo, VersionPage};
pub use write::{FileWriter, PutOptions};

/// The dedup domain of a node with one tenant.
pub const DEFAULT_DOMAIN: DomainId = DomainId(0);

/// All metadata of a single node lives in one group.
const GROUP: VirtualShard = VirtualShard(0);
/// The core that was dealt this group.
const NAMESPACE_CORE: CoreId = CoreId(0);

struct Inner<D: Disk> {
    cluster: ClusterId,
    disks: Vec<D>,
    /// The devices, and where each is among the disks.
    devices: Vec<(DeviceId, usize)>,
    names: Cores<Namespace<D>>,
    store: Store<D, MetaLog<D>>,
    domain: Domain,
    manifest_page_entries: usize,
    checkpoint_after_chunks: u64,
    takes_checkpoint: Cell<bool>,
    /// Held by who takes a checkpoint.
    checkpointing: Mutex<()>,
    /// What had changed in the index when the last checkpoint was taken.
    checkpoint_changes: Cell<u64>,
}

impl<D: Disk> Inner<D> {
    /// The disk of a device.
    fn disk(&self, device: DeviceId) -> Option<D> {
        let (_, place) = self.devices.iter().find(|(known, _)| *known == device)?;
        Some(self.disks[*place].clone())
    }
}

/// A dedup domain, opened.
struct Domain {
    id: DomainId,
    key: DomainKey,
    chunker: Box<dyn Chunker>,
}

/// One core of a node. Handles are cheap to clone.
pub struct Node<D: Disk>(Rc<Inner<D>>);

impl<D: Disk> Clone for Node<D> {
    fn clone(&self) -> Self {
        Node(self.0.clone())
    }
}

/// What the node holds, counted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct NodeStats {
    /// Plain bytes of all retained versions of all files.
    pub logical_bytes: u64,
    /// Those of them that lie inline with the metadata.
    pub inline_bytes: u64,
    /// Files.
    pub files: u64,
    /// Directories, the root included.
    pub directories: u64,
    /// Symlinks.
    pub symlinks: u64,
    /// What the chunk store holds.
    pub store: StoreStats,
    /// Bytes of the metadata log and its snapshots.
    pub metadata_bytes: u64,
    /// Checkpoints of the chunk index that were taken since the start.
    pub index_checkpoints: u64,
    /// Those that failed; the next settled segment is a reason to try again.
    pub index_checkpoints_failed: u64,
    /// Bytes of the devices.
    pub capacity_bytes: u64,
    /// Bytes of the devices that are free.
    pub free_bytes: u64,
}

/// How full the queues and tables of bounded size are.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct NodeLoad {
    /// Those of the chunk stores.
    pub store: StoreLoad,
    /// Those of the metadata, at most since the start.
    pub metadata_max: MetaLoad,
    /// Calls about names that this core had under way; up to [`proto::limits::MAILBOX_CALLS_MAX`].
    pub name_calls_underway_max: u64,
    /// Change events that are retained; up to [`proto::limits::EVENTS_RETAINED_MAX`].
    pub events: u64,
    /// Their bytes; up to [`proto::limits::EVENTS_RETAINED_BYTES_MAX`].
    pub event_bytes: u64,
    /// Clients whose exactly-once windows are remembered; up to [`proto::limits::SESSION_CLIENTS_MAX`].
    pub session_clients: u64,
    /// Idempotency keys that are remembered; up to [`proto::limits::IDEMPOTENCY_KEYS_MAX`].
    pub idempotency_keys: u64,
}

impl<D: Disk> Node<D> {
    /// The cluster that this node formatted.
    #[must_use]
    pub fn cluster(&self) -> ClusterId {
        self.0.cluster
    }

    /// Whether a checkpoint of the chunk index is being taken by this core; only the first one takes them.
    #[must_use]
    pub fn takes_index_checkpoint(&self) -> bool {
        self.0.takes_checkpoint.get()
    }

    /// What the node holds.
    ///
    /// Errors: a device that does not tell its free space.
    pub async fn stats(&self) -> std::io::Result<NodeStats> {
        let ask = |names: &Namespace<D>| {
            (names.meta.view(|view| view.counters()), names.meta.raw_bytes(), names.checkpoints.get())
        };
        let (counters, metadata_bytes, checkpoints) = self.0.names.ask(NAMESPACE_CORE, ask).await;
        let mut stats = NodeStats {
            logical_bytes: counters.logical_bytes,
            inline_bytes: counters.inline_bytes,
            files: counters.files,
            directories: counters.directories,
            symlinks: counters.symlinks,
            store: self.0.store.stats().await,
            metadata_bytes,
            index_checkpoints: checkpoints.taken,
            index_checkpoints_failed: checkpoints.failed,
            ..NodeStats::default()
        };
        for disk in &self.0.disks {
            let space = disk.space().await?;
            stats.capacity_bytes += space.total_bytes;
            stats.free_bytes += space.free_bytes;
        }
        Ok(stats)
    }

    /// How full the queues and tables of bounded size are.
    pub async fn load(&self) -> NodeLoad {
        let ask = |names: &Namespace<D>| {
            let load = names.meta.view(|view| {
                let span = view.event_span();
                NodeLoad {
                    events: span.newest - span.oldest,
                    event_bytes: view.event_bytes(),
                    session_clients: view.session_clients(),
                    idempotency_keys: view.idempotency_keys(),
                    ..NodeLoad::default()
                }
            });
            NodeLoad { metadata_max: names.meta.load_max(), ..load }
        };
        let names = &self.0.names;
        let load = names.ask(NAMESPACE_CORE, ask).await;
        let (store, name_calls_underway_max) = (self.0.store.load().await, names.calls_underway_max());
        NodeLoad { store, name_calls_underway_max, ..load }
    }

    /// Has all cores write what is queued and seal their open segments, then snapshots the metadata, so that the next
    /// start is quick.
    ///
    /// Nothing acknowledged depends on it. Errors: the last snapshot was not taken, and the next start replays the log.
    pub async fn close(&self) -> Result<(), SnapshotError> {
        self.names(|names| async move { names.gc.close().await }).await;
        self.0.store.close().await;
        self.names(|names| async move { names.meta.close().await }).await
    }
}

/// How long a segment's command waits before it tries a full metadata queue again.
const BUSY_PAUSE: Duration = Duration::from_millis(10);

/// The metadata log as the segments see it.
pub struct MetaLog<D: Disk>(Cores<Namespace<D>>);

impl<D: Disk> MetaLog<D> {
    async fn record(&self, command: Command) -> Result<(), LogError> {
        let answer = loop {
            let command = command.clone();
            let propose = |names: Rc<Namespace<D>>| async move { names.meta.propose(GROUP, command).await };
            match self.0.call(NAMESPACE_CORE, propose).await {
                // A row and all who wait for it depend on this command: it is not one to be sent away.
                Err(ProposeError::Busy) => runtime::sleep(BUSY_PAUSE).await,
                answer => break answer,
            }
        };
        match answer {
            Ok(Response::Failed(refused)) => Err(LogError::Failed(refused.to_string())),
            Ok(_) => Ok(()),
            Err(ProposeError::StorageFull) => Err(LogError::NoSpace),
            Err(error) => Err(LogError::Failed(error.to_string())),
        }
    }
}

impl<D: Disk> SegmentLog for MetaLog<D> {
    async fn opened(&self, opened: SegmentOpened) -> Result<(), LogError> {
        self.record(Command::OpenSegment {
            segment: opened.segment,
            members: opened.members,
            k: opened.geometry.k() as u8,
            m: opened.geometry.m() as u8,
            stream: 0,
            generation: opened.generation.0,
            now_ns: runtime::unix_ns(),
        })
        .await
    }

    async fn settled(&self) {
        self.0.ask(NAMESPACE_CORE, |names: &Namespace<D>| names.segment_settled()).await;
    }

    async fn reserve_bytes(&self) -> u64 {
        self.0.ask(NAMESPACE_CORE, |names: &Namespace<D>| room::data_reserve_bytes(&names.meta)).await
    }

    async fn sealed(&self, segment: proto::SegmentId, footer_offsets: Vec<u64>) -> Result<(), LogError> {
        self.record(Command::SealSegment { segment, footer_offsets }).await
    }
}
