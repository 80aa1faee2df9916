//! The node: the path of a write and the path of a read, over the ports and without HTTP.
//!
//! A reading guide, in the order of a byte's life:
//!
//! * [`open`]: format or recover the devices, the metadata and the segments.
//! * [`mod@write`]: stream → cut → id → lookup → compress → row → durable → manifest → commit → acknowledged.
//! * [`manifest`]: the list of a file's chunks; long ones are trees of stored pages.
//! * [`read`]: manifest → location → block → verified bytes.
//! * [`namespace`]: stat, list, make, move, remove.
//!
//! Invariants:
//!
//! * An acknowledged write is on the medium: its rows, then its metadata command, were synced in this order.
//! * What is read back is verified or it is an error that names file and range, never wrong bytes.
//! * One request holds at most [`proto::limits::REQUEST_BYTES_MAX`], whatever the size of the file.

pub mod error;
pub mod info;
pub mod manifest;
pub mod namespace;
pub mod open;
pub mod read;
pub mod write;

use std::rc::Rc;
use std::time::Duration;

use chunk::{Chunker, DomainKey};
use meta::{Command, Response, Solo};
use proto::port::{Disk, runtime};
use proto::{ClusterId, DomainId, VirtualShard};
use shard::segment::{SegmentLog, SegmentOpened};
use shard::{Store, StoreStats};

pub use error::{ChangeError, FileReadError, OpenError, PutError};
pub use info::FileInfo;
pub use meta::{Attributes, Condition, ProposeError, Session, SnapshotError};
pub use namespace::{ListPage, Removal, Target};
pub use open::{NodeOptions, OpenReport};
pub use read::{ByteRange, FileReader};
pub use write::{FileWriter, PutOptions};

/// The dedup domain of a node with one tenant.
pub const DEFAULT_DOMAIN: DomainId = DomainId(0);

/// All metadata of a single node lives in one group.
const GROUP: VirtualShard = VirtualShard(0);

struct Inner<D: Disk> {
    cluster: ClusterId,
    disks: Vec<D>,
    meta: Solo<D>,
    store: Store<D, MetaLog<D>>,
    domain: Domain,
    manifest_page_entries: usize,
}

/// A dedup domain, opened.
struct Domain {
    id: DomainId,
    key: DomainKey,
    chunker: Box<dyn Chunker>,
}

/// One core's node. Handles are cheap to clone.
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
    /// Bytes of the devices.
    pub capacity_bytes: u64,
    /// Bytes of the devices that are free.
    pub free_bytes: u64,
}

impl<D: Disk> Node<D> {
    /// The cluster that this node formatted.
    #[must_use]
    pub fn cluster(&self) -> ClusterId {
        self.0.cluster
    }

    /// What the node holds.
    ///
    /// Errors: a device that does not tell its free space.
    pub async fn stats(&self) -> std::io::Result<NodeStats> {
        let counters = self.0.meta.view(|view| view.counters());
        let mut stats = NodeStats {
            logical_bytes: counters.logical_bytes,
            inline_bytes: counters.inline_bytes,
            files: counters.files,
            directories: counters.directories,
            symlinks: counters.symlinks,
            store: self.0.store.stats(),
            metadata_bytes: self.0.meta.raw_bytes(),
            ..NodeStats::default()
        };
        for disk in &self.0.disks {
            let space = disk.space().await?;
            stats.capacity_bytes += space.total_bytes;
            stats.free_bytes += space.free_bytes;
        }
        Ok(stats)
    }

    /// Why no change is taken any more, if the metadata log has failed or the node was closed.
    #[must_use]
    pub fn stopped(&self) -> Option<ProposeError> {
        self.0.meta.stopped()
    }

    /// A digest of all metadata: equal states have equal digests.
    #[must_use]
    pub fn metadata_digest(&self) -> u128 {
        self.0.meta.state_digest()
    }

    /// Writes what is queued, seals the open segments and snapshots the metadata, so that the next start is quick.
    ///
    /// Nothing acknowledged depends on it. Errors: the last snapshot was not taken, and the next start replays the log.
    pub async fn close(&self) -> Result<(), SnapshotError> {
        self.0.store.close().await;
        self.0.meta.close().await
    }

    /// Proposes a change and returns what came of it once it is durable.
    async fn propose(&self, command: Command) -> Result<Response, ChangeError> {
        match self.0.meta.propose(GROUP, command).await? {
            Response::Failed(refused) => Err(ChangeError::Refused(refused)),
            done => Ok(done),
        }
    }
}

/// How long a segment's command waits before it tries a full metadata queue again.
const BUSY_PAUSE: Duration = Duration::from_millis(10);

/// The metadata log as the segments see it.
struct MetaLog<D: Disk>(Solo<D>);

impl<D: Disk> MetaLog<D> {
    async fn record(&self, command: Command) -> Result<(), String> {
        let answer = loop {
            match self.0.propose(GROUP, command.clone()).await {
                // A row and all who wait for it depend on this command: it is not one to be sent away.
                Err(ProposeError::Busy) => runtime::sleep(BUSY_PAUSE).await,
                answer => break answer,
            }
        };
        match answer {
            Ok(Response::Failed(refused)) => Err(refused.to_string()),
            Ok(_) => Ok(()),
            Err(error) => Err(error.to_string()),
        }
    }
}

impl<D: Disk> SegmentLog for MetaLog<D> {
    async fn opened(&self, opened: SegmentOpened) -> Result<(), String> {
        self.record(Command::OpenSegment {
            segment: opened.segment,
            members: opened.members,
            k: opened.geometry.k() as u8,
            m: opened.geometry.m() as u8,
            stream: 0,
            now_ns: runtime::unix_ns(),
        })
        .await
    }

    async fn sealed(&self, segment: proto::SegmentId, footer_offsets: Vec<u64>) -> Result<(), String> {
        self.record(Command::SealSegment { segment, footer_offsets }).await
    }
}
