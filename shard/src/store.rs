//! The chunk store of one core among the cores of its node: is this chunk here, store it, read it.
//!
//! ```text
//!   put    ids ─▶ [by owner] claim ─▶ candidate: confirm in the row's table
//!                                  ─▶ underway: wait for its writer
//!                                  ─▶ ours: compress ─▶ queue ─▶ row durable ─▶ [by owner] insert
//!   read   location ─▶ segment (known here, or asked of its home) ─▶ one I/O on this core's own queues
//! ```
//!
//! A chunk's *owner* is the core that was dealt its virtual shard; it has the index entry. A segment's *home* is the core
//! that appends to it, or was dealt it at the start; it has the rows. Both follow from the id alone. Only ids and row
//! tables cross cores.

use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, BTreeSet};
use std::rc::Rc;
use std::sync::Arc;

use ec::Code;
use futures_channel::oneshot;
use futures_util::future::{Either, join_all, select};
use net::mailbox::{Cores, MailboxEnd};
use proto::limits::{GONE_SEGMENTS_MAX, SEGMENT_PIECE_BYTES, SEGMENTS_OPEN_MAX};
use proto::port::{Disk, KeyProvider, runtime};
use proto::{ChunkId, ClusterId, CoreId, Geometry, Location, SegmentId, VirtualShard};

use crate::blocks::DecodedBlocks;
use crate::checkpoint::new_owner;
use crate::error::{ReadError, StoreError};
use crate::files::SegmentFiles;
use crate::known::KnownChunks;
use crate::lease::Leases;
use crate::owner::{Claim, DurableChunk, Owner, Wanted, at_least_nothing};
use crate::recent::Recent;
use crate::room::Reserved;
use crate::row::CompressedBlock;
use crate::segment::{HomeSegment, Member, Segment, SegmentLog};
use crate::writer::{RowWriter, start_lanes};

/// Smallest piece: room for the longest row and its footer. A row is cut at an eighth of a piece.
pub const SEGMENT_PIECE_BYTES_MIN: u64 = 256 << 10;

/// How long to wait for a chunk that somebody else is writing before his row is hurried again: he may not have queued
/// the chunk yet when he was hurried first.
const HURRY_AGAIN_AFTER: std::time::Duration = std::time::Duration::from_millis(20);

/// How a store is opened.
pub struct StoreOptions<D, L> {
    /// The devices.
    pub members: Vec<Member<D>>,
    /// The cluster.
    pub cluster: ClusterId,
    /// Geometry of new segments; at most as many columns as devices.
    pub geometry: Geometry,
    /// The ring keys.
    pub keys: Arc<dyn KeyProvider>,
    /// Where openings and seals are recorded.
    pub log: L,
    /// The incarnation of this start: durable on a majority of the devices, and never used before.
    pub incarnation: u64,
    /// Bytes reserved for one piece of a new segment; from [`SEGMENT_PIECE_BYTES_MIN`] to
    /// [`SEGMENT_PIECE_BYTES`].
    pub piece_bytes: u64,
    /// The epoch of garbage collection that the metadata has: everything that the start enters is pinned at it.
    pub epoch: u64,
    /// What is spoken for on each device; one for all cores of a node.
    pub reserved: Arc<Reserved>,
}

/// What came of a chunk that was put.
pub enum Stored {
    /// Durable at this location; all 32 bytes of the id were compared.
    Durable(Location),
    /// On its way: wait with [`Store::settle`].
    Underway(Underway),
}

/// What came of chunks that were put together.
pub struct StoredBatch {
    /// Each of them, in order.
    pub chunks: Vec<Stored>,
    /// The lowest epoch at which an owner answered for one of them; the highest there is for none.
    pub pin_epoch: u64,
}

/// A chunk that is being written.
pub struct Underway {
    pub(crate) writer: CoreId,
    pub(crate) durable: oneshot::Receiver<Result<Location, StoreError>>,
    /// Bytes that wait in memory because of this call; 0 if somebody else writes the chunk.
    pub waiting_bytes: usize,
}

/// What a store holds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct StoreStats {
    /// Distinct chunks.
    pub chunks: u64,
    /// Their plain bytes.
    pub unique_bytes: u64,
    /// Their bytes after compression.
    pub stored_bytes: u64,
    /// Bytes that the compression of those saves that share a block with others.
    pub similarity_bytes: u64,
    /// Bytes of the segment files.
    pub file_bytes: u64,
    /// Those of them that were written to parity columns.
    pub parity_bytes: u64,
    /// Those of them that are reserved for rows to come.
    pub reserved_bytes: u64,
    /// Segments, open and sealed.
    pub segments: u64,
    /// Bytes of memory that the index takes.
    pub index_memory_bytes: u64,
    /// Duplicates that were confirmed in a row table that was at hand.
    pub tables_at_hand: u64,
    /// Row tables that had to be read to confirm duplicates.
    pub tables_read: u64,
}

impl std::ops::AddAssign for StoreStats {
    fn add_assign(&mut self, other: StoreStats) {
        self.chunks += other.chunks;
        // A core may have less than nothing of what a checkpoint counts for all: see `Owner`.
        self.unique_bytes = self.unique_bytes.wrapping_add(other.unique_bytes);
        self.stored_bytes = self.stored_bytes.wrapping_add(other.stored_bytes);
        self.similarity_bytes = self.similarity_bytes.wrapping_add(other.similarity_bytes);
        self.file_bytes += other.file_bytes;
        self.parity_bytes += other.parity_bytes;
        self.reserved_bytes += other.reserved_bytes;
        self.segments += other.segments;
        self.index_memory_bytes += other.index_memory_bytes;
        self.tables_at_hand += other.tables_at_hand;
        self.tables_read += other.tables_read;
    }
}

/// What the stores' queues and tables of bounded size hold; of several cores the most that one of them does.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct StoreLoad {
    /// Chunks that somebody claimed and has neither stored nor given up yet: the sum of all cores.
    pub claims: u64,
    /// Bytes that waited for their rows at most; up to [`proto::limits::ROW_QUEUE_BYTES_MAX`] and what those who had
    /// room brought at once.
    pub row_queue_bytes_max: u64,
    /// Bytes of row tables that are kept; up to [`proto::limits::ROW_TABLES_CACHED_BYTES_MAX`].
    pub row_tables_bytes: u64,
    /// Bytes of decoded blocks that are kept; up to [`proto::limits::DECODED_BLOCKS_BYTES_MAX`].
    pub decoded_blocks_bytes: u64,
    /// Segment files that are open; up to [`proto::limits::SEGMENT_FILES_OPEN_MAX`].
    pub segment_files_open: u64,
    /// Chunks that are remembered because of damage; up to [`crate::DAMAGED_CHUNKS_MAX`].
    pub damaged_chunks: u64,
    /// Calls that were under way to one other core; up to [`proto::limits::MAILBOX_CALLS_MAX`].
    pub calls_underway_max: u64,
}

impl StoreLoad {
    fn merge(self, other: StoreLoad) -> StoreLoad {
        StoreLoad {
            claims: self.claims + other.claims,
            row_queue_bytes_max: self.row_queue_bytes_max.max(other.row_queue_bytes_max),
            row_tables_bytes: self.row_tables_bytes.max(other.row_tables_bytes),
            decoded_blocks_bytes: self.decoded_blocks_bytes.max(other.decoded_blocks_bytes),
            segment_files_open: self.segment_files_open.max(other.segment_files_open),
            damaged_chunks: self.damaged_chunks.max(other.damaged_chunks),
            calls_underway_max: self.calls_underway_max.max(other.calls_underway_max),
        }
    }
}

/// One core's store, as its peers see it too: the service behind the mailboxes of a node's stores.
pub struct Inner<D: Disk, L: SegmentLog> {
    pub(crate) options: StoreOptions<D, L>,
    pub(crate) peers: Cores<Inner<D, L>>,
    pub(crate) files: SegmentFiles<D>,
    /// Segments whose home this core is.
    pub(crate) home: RefCell<BTreeMap<SegmentId, Rc<HomeSegment>>>,
    /// Segments of other homes that were read here.
    pub(crate) foreign: RefCell<BTreeMap<SegmentId, Arc<Segment>>>,
    pub(crate) owner: RefCell<Owner>,
    pub(crate) known: RefCell<KnownChunks>,
    pub(crate) blocks: Rc<RefCell<DecodedBlocks>>,
    /// Segments that were freed, as far as is remembered.
    pub(crate) gone: RefCell<Recent<SegmentId, ()>>,
    /// All cores have recovered their segments.
    pub(crate) is_complete: Cell<bool>,
    pub(crate) writer: RowWriter,
    pub(crate) leases: Rc<Leases>,
    /// Counter of the next segment: those of one core differ by the number of cores.
    pub(crate) next_segment: Cell<u64>,
    /// Segments that have their number and are not in `home` yet.
    pub(crate) opening: RefCell<BTreeSet<SegmentId>>,
    pub(crate) tables_at_hand: Cell<u64>,
    pub(crate) tables_read: Cell<u64>,
}

/// See the module. Handles are cheap to clone.
pub struct Store<D: Disk, L: SegmentLog> {
    inner: Rc<Inner<D, L>>,
}

impl<D: Disk, L: SegmentLog> Clone for Store<D, L> {
    fn clone(&self) -> Self {
        Store { inner: self.inner.clone() }
    }
}

impl<D: Disk, L: SegmentLog> Store<D, L> {
    /// Opens the store of one core and starts its writing lanes. Its peers may ask from now on; it knows no chunk and
    /// no segment until [`Store::recover`].
    ///
    /// # Panics
    /// If the geometry needs more columns than there are devices: the node checks it when it formats.
    #[must_use]
    pub fn open(options: StoreOptions<D, L>, end: MailboxEnd<Inner<D, L>>) -> Store<D, L> {
        let geometry = options.geometry;
        assert!(geometry.columns() <= options.members.len(), "invariant: a device for each column");
        let possible = SEGMENT_PIECE_BYTES_MIN..=SEGMENT_PIECE_BYTES;
        assert!(possible.contains(&options.piece_bytes), "invariant: a piece holds a row, and offsets have 26 bits");
        let code = Code::new(geometry.k(), geometry.m()).expect("invariant: a geometry has a code");
        let peers = end.open();
        let inner = Rc::new(Inner {
            files: SegmentFiles::new(&options.members),
            home: RefCell::default(),
            foreign: RefCell::default(),
            owner: RefCell::new(new_owner(peers.me(), peers.count(), options.epoch)),
            known: RefCell::default(),
            blocks: Rc::default(),
            gone: RefCell::new(Recent::new(GONE_SEGMENTS_MAX)),
            is_complete: Cell::new(false),
            writer: RowWriter::new(options.piece_bytes),
            leases: Rc::default(),
            next_segment: Cell::new(u64::from(peers.me().0) + peers.count() as u64),
            opening: RefCell::default(),
            tables_at_hand: Cell::new(0),
            tables_read: Cell::new(0),
            peers,
            options,
        });
        inner.peers.start(inner.clone());
        start_lanes::<D>(&inner, &Rc::new(code), SEGMENTS_OPEN_MAX);
        Store { inner }
    }

    pub(crate) fn inner(&self) -> &Rc<Inner<D, L>> {
        &self.inner
    }

    /// Stores those of the chunks `ids` that are not here yet, after waiting for room. `block` makes the block of the
    /// chunk at a place of `ids`; it is asked for missing chunks only.
    ///
    /// Once there was room it runs to its end even if the returned future is dropped: others may already wait for what
    /// was claimed. Before, nothing is kept of it, so that no crowd of callers who went away gathers at a slow disk.
    pub async fn put(&self, ids: Vec<ChunkId>, block: impl FnMut(usize) -> CompressedBlock + 'static) -> StoredBatch {
        self.inner.writer.wait_for_room().await;
        let (done, stored) = oneshot::channel();
        let inner = self.inner.clone();
        runtime::spawn(async move {
            // Whoever went away does not matter.
            let _ = done.send(inner.put(&ids, block).await);
        });
        stored.await.expect("invariant: a task runs to its end")
    }

    /// Waits until a chunk is durable, having its row written at once.
    ///
    /// Errors: its writer's.
    pub async fn settle(&self, underway: Underway) -> Result<Location, StoreError> {
        let Underway { writer, mut durable, .. } = underway;
        if let Ok(Some(written)) = durable.try_recv() {
            return written;
        }
        loop {
            self.inner.peers.ask(writer, |inner: &Inner<D, L>| inner.writer.hurry()).await;
            match select(durable, runtime::sleep(HURRY_AGAIN_AFTER)).await {
                Either::Left((written, _)) => return written.unwrap_or(Err(StoreError::Closing)),
                Either::Right(((), waiting)) => durable = waiting,
            }
        }
    }

    /// Reads a chunk: at its location hint, or where its owner knows it.
    ///
    /// Shapes: returns the chunk's plain bytes, verified.
    /// Errors: [`ReadError::Corrupt`] rather than wrong bytes, ever.
    pub async fn read(&self, id: &ChunkId, hint: Location) -> Result<Vec<u8>, ReadError> {
        self.inner.read(id, hint).await
    }

    /// Where chunks lie now, in the order of `ids`; `None` for one that the index does not know. Nothing is pinned.
    pub async fn locations(&self, ids: Vec<ChunkId>) -> Vec<Option<Location>> {
        let inner = &self.inner;
        let mut locations = vec![None; ids.len()];
        for (owner, batch) in inner.by_owner(ids.into_iter().enumerate(), |(_, id)| *id) {
            let (places, ids): (Vec<usize>, Vec<ChunkId>) = batch.into_iter().unzip();
            let ask = move |inner: &Inner<D, L>| {
                let owner = inner.owner.borrow();
                ids.iter().map(|id| owner.known(id)).collect::<Vec<_>>()
            };
            for (place, known) in places.into_iter().zip(inner.peers.ask(owner, ask).await) {
                locations[place] = known;
            }
        }
        locations
    }

    /// What the stores of all cores hold.
    ///
    /// Files are counted after chunks, which come after their files: so no chunk is counted without its file, unless it
    /// was moved in between.
    pub async fn stats(&self) -> StoreStats {
        let owned = self.ask_all(|inner: &Inner<D, L>| inner.owned_stats()).await;
        let at_home = self.ask_all(|inner: &Inner<D, L>| inner.home_stats()).await;
        let mut sum = StoreStats::default();
        owned.into_iter().chain(at_home).for_each(|stats| sum += stats);
        sum.unique_bytes = at_least_nothing(sum.unique_bytes);
        sum.stored_bytes = at_least_nothing(sum.stored_bytes);
        sum.similarity_bytes = at_least_nothing(sum.similarity_bytes);
        sum
    }

    /// How full the queues and tables of all cores are.
    pub async fn load(&self) -> StoreLoad {
        let peers = &self.inner.peers;
        let mut load = StoreLoad::default();
        for core in 0..peers.count() {
            load = load.merge(peers.ask(CoreId(core as u16), |inner: &Inner<D, L>| inner.load()).await);
        }
        load
    }

    /// Has the stores of all cores write what is queued and seal their open segments, so that the next start reads
    /// footers instead of scanning.
    pub async fn close(&self) {
        let peers = &self.inner.peers;
        let close =
            |core| peers.call(CoreId(core as u16), |inner: Rc<Inner<D, L>>| async move { inner.writer.close().await });
        join_all((0..peers.count()).map(close)).await;
    }
}

/// The core that owns a virtual shard among `cores`.
pub(crate) fn owner_of(shard: VirtualShard, cores: usize) -> CoreId {
    CoreId((usize::from(shard.0) % cores) as u16)
}

impl<D: Disk, L: SegmentLog> Inner<D, L> {
    /// The core that has a chunk's index entry.
    pub(crate) fn owner_of(&self, id: &ChunkId) -> CoreId {
        owner_of(id.virtual_shard(), self.peers.count())
    }

    /// The core that has a segment's rows.
    pub(crate) fn home_of(&self, segment: SegmentId) -> CoreId {
        CoreId((segment.counter() % self.peers.count() as u64) as u16)
    }

    async fn put(&self, ids: &[ChunkId], mut block: impl FnMut(usize) -> CompressedBlock) -> StoredBatch {
        let me = self.peers.me();
        let mut pin_epoch = u64::MAX;
        let mut stored: Vec<Option<Stored>> = ids.iter().map(|_| None).collect();
        let mut places: Vec<usize> = (0..ids.len()).collect();
        let mut wanted: Vec<Wanted> = ids.iter().map(|id| Wanted { id: *id, disbelieved: None }).collect();
        let mut refused = Vec::new();
        while !wanted.is_empty() {
            let mut candidates = Vec::new();
            let (epoch, claims) = self.claim(&wanted).await;
            pin_epoch = pin_epoch.min(epoch);
            for ((place, wanted), claim) in places.into_iter().zip(wanted).zip(claims) {
                stored[place] = match claim {
                    Claim::Candidate(location) => {
                        candidates.push((place, wanted.id, location));
                        None
                    }
                    Claim::Underway { writer, durable } => {
                        Some(Stored::Underway(Underway { writer, durable, waiting_bytes: 0 }))
                    }
                    Claim::Yours => {
                        let block = block(place);
                        assert_eq!(block.entry.chunks.len(), 1, "invariant: at ingest a block holds one chunk");
                        let waiting_bytes = block.column_bytes();
                        let durable = self.writer.push(block).unwrap_or_else(|| {
                            refused.push(wanted.id);
                            let (tell, durable) = oneshot::channel();
                            let _ = tell.send(Err(StoreError::Closing));
                            durable
                        });
                        Some(Stored::Underway(Underway { writer: me, durable, waiting_bytes }))
                    }
                };
            }
            (places, wanted) = (Vec::new(), Vec::new());
            for (place, id, location) in candidates {
                if self.confirm(&id, location).await {
                    stored[place] = Some(Stored::Durable(location));
                } else {
                    places.push(place);
                    wanted.push(Wanted { id, disbelieved: Some(location) });
                }
            }
        }
        if !refused.is_empty() {
            self.abandon(refused, &StoreError::Closing).await;
        }
        let answered = |stored: Option<Stored>| stored.expect("invariant: every chunk was answered for");
        StoredBatch { chunks: stored.into_iter().map(answered).collect(), pin_epoch }
    }

    /// Asks the owners; answers in the order of `wanted`, with the lowest epoch of an owner.
    async fn claim(&self, wanted: &[Wanted]) -> (u64, Vec<Claim>) {
        let asker = self.peers.me();
        let batches = self.by_owner(wanted.iter().copied().enumerate(), |(_, wanted)| wanted.id);
        let ask = |(owner, batch): (CoreId, Vec<(usize, Wanted)>)| async move {
            let (places, wanted): (Vec<usize>, Vec<Wanted>) = batch.into_iter().unzip();
            let claims =
                self.peers.ask(owner, move |inner: &Inner<D, L>| inner.owner.borrow_mut().claim(asker, &wanted));
            (places, claims.await)
        };
        let mut claims: Vec<Option<Claim>> = wanted.iter().map(|_| None).collect();
        let mut lowest = u64::MAX;
        for (places, (epoch, answers)) in join_all(batches.into_iter().map(ask)).await {
            lowest = lowest.min(epoch);
            for (place, answer) in places.into_iter().zip(answers) {
                claims[place] = Some(answer);
            }
        }
        let answered = |claim: Option<Claim>| claim.expect("invariant: an owner answers for every chunk");
        (lowest, claims.into_iter().map(answered).collect())
    }

    /// Tells the owners that chunks are durable.
    pub(crate) async fn insert(&self, chunks: Vec<DurableChunk>) {
        let batches = self.by_owner(chunks, |chunk| chunk.id);
        let insert = |(owner, chunks): (CoreId, Vec<DurableChunk>)| {
            self.peers.ask(owner, move |inner: &Inner<D, L>| inner.owner.borrow_mut().insert(&chunks))
        };
        join_all(batches.into_iter().map(insert)).await;
    }

    /// Tells the owners that claimed chunks were not written.
    pub(crate) async fn abandon(&self, ids: Vec<ChunkId>, error: &StoreError) {
        let batches = self.by_owner(ids, |id| *id);
        let abandon = |(owner, ids): (CoreId, Vec<ChunkId>)| {
            let error = error.clone();
            self.peers.ask(owner, move |inner: &Inner<D, L>| inner.owner.borrow_mut().abandon(&ids, &error))
        };
        join_all(batches.into_iter().map(abandon)).await;
    }

    /// Splits `items` by the owners of their ids, keeping the order.
    pub(crate) fn by_owner<T>(
        &self,
        items: impl IntoIterator<Item = T>,
        id: impl Fn(&T) -> ChunkId,
    ) -> BTreeMap<CoreId, Vec<T>> {
        let mut batches: BTreeMap<CoreId, Vec<T>> = BTreeMap::new();
        for item in items {
            batches.entry(self.owner_of(&id(&item))).or_default().push(item);
        }
        batches
    }

    fn load(&self) -> StoreLoad {
        let owner = self.owner.borrow();
        StoreLoad {
            claims: owner.claims() as u64,
            row_queue_bytes_max: self.writer.waiting_bytes_max() as u64,
            row_tables_bytes: self.known.borrow().memory_bytes() as u64,
            decoded_blocks_bytes: self.blocks.borrow().memory_bytes() as u64,
            segment_files_open: self.files.open_files() as u64,
            damaged_chunks: owner.damaged() as u64,
            calls_underway_max: self.peers.calls_underway_max(),
        }
    }

    fn owned_stats(&self) -> StoreStats {
        let owner = self.owner.borrow();
        let volume = owner.volume(|_| true);
        StoreStats {
            chunks: owner.index.chunks(),
            unique_bytes: volume.plain_bytes,
            stored_bytes: volume.stored_bytes,
            similarity_bytes: volume.similarity_bytes,
            index_memory_bytes: owner.index.memory_bytes() as u64,
            ..StoreStats::default()
        }
    }

    fn home_stats(&self) -> StoreStats {
        let home = self.home.borrow();
        let sum = |bytes: fn(&HomeSegment) -> u64| home.values().map(|segment| bytes(segment)).sum();
        StoreStats {
            file_bytes: sum(|segment| segment.file_bytes.get()),
            parity_bytes: sum(|segment| segment.parity_bytes.get()),
            reserved_bytes: sum(|segment| segment.reserved_bytes.get()),
            segments: home.len() as u64,
            tables_at_hand: self.tables_at_hand.get(),
            tables_read: self.tables_read.get(),
            ..StoreStats::default()
        }
    }
}
