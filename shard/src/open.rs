//! New segments, and those that a start finds.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use futures_util::{StreamExt, stream};
use net::mailbox::Cores;
use proto::disk::RowTable;
use proto::port::Disk;
use proto::{ChunkId, CoreId, SegmentId};

use crate::error::{RecoverError, SegmentError, StoreError};
use crate::known::RowChunks;
use crate::owner::DurableChunk;
use crate::recovery::{ListedSegment, RecoveredSegment, recover_segment};
use crate::row::SealedRow;
use crate::segment::{HomeSegment, Member, OpenSegment, SegmentLog, SegmentSpec};
use crate::store::{Inner, Store};
use crate::writer::{RowSink, RowWriter};

/// Bytes of each device that data leaves free, so that metadata and deletes still work when it is full.
pub const METADATA_RESERVE_BYTES: u64 = 64 << 20;
/// Segments that are recovered at the same time.
const RECOVERIES_INFLIGHT_MAX: usize = 8;
/// Recovered chunks that are sent to their owners together.
const RECOVERED_BATCH_CHUNKS: usize = 8192;

/// What one core's recovery found.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Recovered {
    /// Segments of this home.
    pub segments: usize,
    /// What an operator should know.
    pub warnings: Vec<String>,
}

impl<D: Disk, L: SegmentLog> Store<D, L> {
    /// Recovers those of the `listed` segments whose home this core is, enters their chunks with the owners, and waits
    /// until the other cores have done the same: from then on absence may be believed.
    ///
    /// Cost: memory for the tables of a few segments, whatever their number.
    /// Errors: [`RecoverError`]; the node must not start without a segment, or acknowledged data would be missing.
    pub async fn recover(&self, listed: &[ListedSegment]) -> Result<Recovered, RecoverError> {
        let inner = self.inner();
        let options = &inner.options;
        let mine = listed.iter().filter(|listed| inner.home_of(listed.id) == inner.peers.me());
        let recoveries = mine.map(|listed| recover_segment(listed, &options.members, options.cluster, &*options.keys));
        let mut recoveries = stream::iter(recoveries).buffered(RECOVERIES_INFLIGHT_MAX);
        let mut report = Recovered::default();
        while let Some(recovered) = recoveries.next().await {
            report.segments += 1;
            inner.take(recovered?, &mut report).await?;
        }
        inner.tell_recovered().await;
        Ok(report)
    }
}

impl<D: Disk, L: SegmentLog> Inner<D, L> {
    /// Makes a recovered segment one of this home, and enters its chunks.
    async fn take(&self, recovered: RecoveredSegment, report: &mut Recovered) -> Result<(), RecoverError> {
        let RecoveredSegment { segment, rows, file_bytes, newly_sealed, mut warnings } = recovered;
        let id = segment.id;
        report.warnings.append(&mut warnings);
        if newly_sealed {
            let sealed = self.options.log.sealed(id, Vec::new()).await;
            sealed.map_err(|what| RecoverError::Log { segment: id, what })?;
        }
        let mut batches: BTreeMap<CoreId, Vec<DurableChunk>> = BTreeMap::new();
        let mut places = Vec::with_capacity(rows.len());
        for (place, table) in rows {
            places.push(place);
            for (owner, mut chunks) in self.by_owner(durable_chunks(id, &table), |chunk| chunk.id) {
                let batch = batches.entry(owner).or_default();
                batch.append(&mut chunks);
                if batch.len() >= RECOVERED_BATCH_CHUNKS {
                    self.enter_recovered(owner, std::mem::take(batch)).await;
                }
            }
        }
        for (owner, batch) in batches {
            self.enter_recovered(owner, batch).await;
        }
        let home = HomeSegment {
            segment: Arc::new(segment),
            rows: RefCell::new(places.into_iter().collect()),
            file_bytes: Cell::new(file_bytes),
        };
        self.home.borrow_mut().insert(id, Rc::new(home));
        Ok(())
    }

    async fn enter_recovered(&self, owner: CoreId, chunks: Vec<DurableChunk>) {
        self.peers.ask(owner, move |inner: &Inner<D, L>| inner.owner.borrow_mut().recover(&chunks)).await;
    }

    /// Tells all cores that this one has entered everything, and waits until all have.
    async fn tell_recovered(&self) {
        let peers: &Cores<Inner<D, L>> = &self.peers;
        for core in 0..peers.count() {
            peers.ask(CoreId(core as u16), Inner::peer_recovered).await;
        }
        self.recovery.until(|| (self.recovered.get() == self.peers.count()).then_some(())).await;
    }

    fn peer_recovered(&self) {
        self.recovered.set(self.recovered.get() + 1);
        if self.recovered.get() == self.peers.count() {
            self.owner.borrow_mut().complete();
            self.recovery.wake();
        }
    }

    /// Opens a segment on those of `candidates` that have most space.
    async fn open_segment_on(&self, candidates: &[Member<D>]) -> Result<OpenSegment<D>, SegmentError> {
        let options = &self.options;
        let need_bytes = options.piece_bytes;
        let mut free = Vec::with_capacity(candidates.len());
        for (place, member) in candidates.iter().enumerate() {
            let space = member.disk.space().await;
            let space =
                space.map_err(|source| SegmentError::Device { device: member.device, source: Arc::new(source) })?;
            free.push((std::cmp::Reverse(space.free_bytes), place));
        }
        free.sort_unstable();
        free.truncate(options.geometry.columns());
        // What other cores are about to reserve may or may not be in the free bytes yet.
        let reserving = options.reserving_bytes.load(Ordering::SeqCst);
        if free.iter().any(|(free, _)| free.0 < reserving + METADATA_RESERVE_BYTES) {
            return Err(SegmentError::NoSpace { need_bytes });
        }
        let members: Vec<Member<D>> = free.iter().map(|(_, place)| candidates[*place].clone()).collect();
        let counter = self.next_segment.get();
        if counter > SegmentId::COUNTER_MAX {
            return Err(SegmentError::NumbersSpent);
        }
        self.next_segment.set(counter + self.peers.count() as u64);
        let spec = SegmentSpec {
            id: SegmentId::new(options.incarnation, counter),
            cluster: options.cluster,
            geometry: options.geometry,
            piece_bytes: options.piece_bytes,
            keys: &*options.keys,
        };
        OpenSegment::create(spec, &members, &options.log).await
    }

    /// Opens a segment on the devices that still serve, as long as they are enough.
    async fn open_segment_somewhere(&self) -> Result<OpenSegment<D>, SegmentError> {
        let mut candidates: Vec<Member<D>> = self.options.members.clone();
        loop {
            let error = match self.open_segment_on(&candidates).await {
                Ok(open) => {
                    self.home.borrow_mut().insert(open.home.segment.id, open.home.clone());
                    return Ok(open);
                }
                Err(error) => error,
            };
            let SegmentError::Device { device, .. } = &error else { return Err(error) };
            candidates.retain(|member| member.device != *device);
            if candidates.len() < self.options.geometry.columns() {
                return Err(error);
            }
        }
    }
}

impl<D: Disk, L: SegmentLog> RowSink<D> for Inner<D, L> {
    type Log = L;

    fn writer(&self) -> &RowWriter {
        &self.writer
    }

    async fn open_segment(&self) -> Result<OpenSegment<D>, SegmentError> {
        let need_bytes = self.options.piece_bytes;
        self.options.reserving_bytes.fetch_add(need_bytes, Ordering::SeqCst);
        let opened = self.open_segment_somewhere().await;
        self.options.reserving_bytes.fetch_sub(need_bytes, Ordering::SeqCst);
        opened
    }

    fn log(&self) -> &L {
        &self.options.log
    }

    async fn row_durable(&self, home: &HomeSegment, row: &SealedRow) {
        let segment = home.segment.id;
        self.known.borrow_mut().keep(RowChunks::of(segment, row.place.row, &row.table));
        self.insert(durable_chunks(segment, &row.table).collect()).await;
    }

    async fn row_failed(&self, ids: Vec<ChunkId>, error: &StoreError) {
        self.abandon(ids, error).await;
    }
}

/// The chunks of a durable row.
fn durable_chunks(segment: SegmentId, table: &RowTable) -> impl Iterator<Item = DurableChunk> + '_ {
    table.blocks.iter().flat_map(move |block| {
        block.entry.chunks.iter().enumerate().map(move |(ordinal, chunk)| DurableChunk {
            id: chunk.id,
            location: block.location(segment, ordinal as u16),
            plain_bytes: chunk.plain_bytes,
            stored_bytes: if ordinal == 0 { block.entry.payload_bytes } else { 0 },
        })
    })
}
