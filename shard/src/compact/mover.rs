//! The lane that moved chunks are written by, and the making of their blocks.
//!
//! It is there only while a round writes. Its segments hold moved chunks alone, all of one generation; the last is sealed
//! at the end. A row counts once it was read back, and then its chunks' owners learn of it, before anything else goes on:
//! so a sealed segment holds no chunk that its owner is yet to hear of.
//!
//! A block is compressed chunk by chunk, and decoded again to see that it can be: steps of a tenth to a third of a
//! millisecond. Each is followed by a pause as long as the budget wants, so others are late by that much at most.

use std::cell::RefCell;
use std::collections::btree_map::Entry;
use std::collections::{BTreeMap, VecDeque};
use std::rc::Rc;

use chunk::warm::BlockDecoder;
use ec::Code;
use futures_util::future::join_all;
use futures_util::{StreamExt, stream};
use proto::disk::{BlockEntry, ChunkEntry, Codec};
use proto::port::{Disk, runtime};
use proto::{ChunkId, CoreId, Generation, Location};

use super::MoveKind;
use super::budget::{Budget, Pace};
use super::plan::{Compressor, Grouping, Plan, Sketched};
use super::survey::Record;
use super::verify::verify_row;
use crate::error::{SegmentError, StoreError};
use crate::known::RowChunks;
use crate::open::durable_chunks;
use crate::owner::Moved;
use crate::row::{CompressedBlock, SealedRow};
use crate::segment::{HomeSegment, OpenSegment, SegmentLog};
use crate::store::Inner;
use crate::writer::{RowSink, RowWriter, start_lanes};

/// Payload that waits for its row on one core.
pub(super) const PENDING_BYTES_MAX: usize = 4 << 20;
/// Chunks of one block: its entry stays small beside the smallest piece.
const BLOCK_CHUNKS_MOVED_MAX: usize = 512;
/// Chunks of one block that are read ahead.
const READ_AHEAD_CHUNKS: usize = 4;
/// Chunks that are planned before others have their turn.
const PLANNED_AT_ONCE: usize = 1024;

/// What one core wrote in a round.
#[derive(Debug, Default)]
pub(super) struct Written {
    pub(super) moved_chunks: u64,
    pub(super) moved_plain_bytes: u64,
    pub(super) stored_bytes_before: u64,
    pub(super) stored_bytes_after: u64,
    pub(super) read_bytes: u64,
    pub(super) written_bytes: u64,
    pub(super) unreadable_chunks: u64,
    pub(super) stopped: Option<StoreError>,
}

/// Where a chunk that is on its way lies until it has arrived.
#[derive(Clone, Copy, Debug)]
struct Old {
    from: Location,
    stored_bytes: u32,
    is_shared: bool,
}

/// The lane of one core in one round.
struct Mover<D: Disk, L: SegmentLog> {
    inner: Rc<Inner<D, L>>,
    writer: RowWriter,
    generation: Generation,
    moving: RefCell<BTreeMap<ChunkId, Old>>,
    written: RefCell<Written>,
}

impl<D: Disk, L: SegmentLog> RowSink<D> for Mover<D, L> {
    fn writer(&self) -> &RowWriter {
        &self.writer
    }

    async fn open_segment(&self) -> Result<OpenSegment<D>, SegmentError> {
        self.inner.open_segment_of_round(self.generation).await
    }

    async fn seal(&self, segment: OpenSegment<D>) {
        self.inner.seal(segment).await;
    }

    async fn row_durable(&self, home: &HomeSegment, row: &SealedRow) -> Result<(), StoreError> {
        let read_bytes = verify_row(&self.inner, home, row).await?;
        let segment = home.segment.id;
        let moved = |chunk: crate::owner::DurableChunk| {
            let old = self.moving.borrow_mut().remove(&chunk.id).expect("invariant: the mover writes what it moves");
            Moved {
                id: chunk.id,
                from: old.from,
                to: chunk.location,
                plain_bytes: chunk.plain_bytes,
                stored_before: old.stored_bytes,
                stored_after: chunk.stored_bytes,
                was_shared: old.is_shared,
                is_shared: chunk.is_shared,
            }
        };
        let moved: Vec<Moved> = durable_chunks(segment, &row.table).map(moved).collect();
        let relocate = |(owner, moved): (CoreId, Vec<Moved>)| {
            let relocate = move |inner: &Inner<D, L>| {
                let mut owner = inner.owner.borrow_mut();
                moved.into_iter().filter(|moved| owner.relocate(moved)).collect::<Vec<_>>()
            };
            self.inner.peers.ask(owner, relocate)
        };
        let batches = self.inner.by_owner(moved, |moved| moved.id);
        let relocated = join_all(batches.into_iter().map(relocate)).await;
        self.inner.known.borrow_mut().keep(RowChunks::of(segment, row.place.row, &row.table));
        let mut written = self.written.borrow_mut();
        written.read_bytes += read_bytes;
        written.written_bytes += row.place.pieces.iter().map(|piece| u64::from(piece.payload_bytes)).sum::<u64>();
        for moved in relocated.iter().flatten() {
            written.moved_chunks += 1;
            written.moved_plain_bytes += u64::from(moved.plain_bytes);
            written.stored_bytes_before += u64::from(moved.stored_before);
            written.stored_bytes_after += u64::from(moved.stored_after);
        }
        Ok(())
    }

    async fn row_failed(&self, ids: Vec<ChunkId>, _error: &StoreError) {
        let mut moving = self.moving.borrow_mut();
        for id in &ids {
            moving.remove(id);
        }
    }
}

/// Regroups `records`, which come from the last written to the first, and writes them to segments of their own.
pub(super) async fn write<D: Disk, L: SegmentLog, G: Grouping>(
    inner: Rc<Inner<D, L>>,
    records: Vec<Record<G::Sketch>>,
    kind: MoveKind,
    grouping: G,
    budget: Budget,
) -> Written {
    let options = &inner.options;
    let block_plain_bytes = kind.block_plain_bytes().min(options.piece_bytes as usize / 2);
    let mut plan = grouping.plan(block_plain_bytes);
    for (number, record) in records.iter().enumerate() {
        plan.push(Sketched { domain: record.domain, plain_bytes: record.plain_bytes, sketch: record.sketch });
        if (number + 1).is_multiple_of(PLANNED_AT_ONCE) {
            runtime::yield_now().await;
        }
    }
    let groups = plan.finish();
    let mover = Rc::new(Mover {
        inner: inner.clone(),
        writer: RowWriter::new(options.piece_bytes),
        generation: kind.to,
        moving: RefCell::default(),
        written: RefCell::default(),
    });
    let code = Code::new(options.geometry.k(), options.geometry.m()).expect("invariant: a geometry has a code");
    start_lanes::<D>(&mover, &Rc::new(code), 1);
    let mut compressor = grouping.compressor();
    let mut pace = Pace::new(&budget);
    let mut pending = VecDeque::new();
    let mut pending_bytes = 0;
    let mut stopped = None;
    'groups: for group in &groups {
        for part in group.chunks(BLOCK_CHUNKS_MOVED_MAX) {
            let part: Vec<&Record<_>> = part.iter().map(|number| &records[*number as usize]).collect();
            if pace.is_stopped() || stopped.is_some() {
                break 'groups;
            }
            let Some(block) = mover.make_block(&part, &mut compressor, &mut pace).await else { continue };
            let bytes = block.column_bytes();
            pending.push_back((bytes, mover.writer.push(block).expect("invariant: the mover closes at the end")));
            pending_bytes += bytes;
            while pending_bytes > PENDING_BYTES_MAX
                && let Some((bytes, durable)) = pending.pop_front()
            {
                pending_bytes -= bytes;
                stopped = stopped.or(durable.await.unwrap_or(Err(StoreError::Closing)).err());
            }
        }
    }
    mover.writer.close().await;
    for (_, durable) in pending {
        stopped = stopped.or(durable.await.unwrap_or(Err(StoreError::Closing)).err());
    }
    let written = mover.written.take();
    Written { stopped, ..written }
}

impl<D: Disk, L: SegmentLog> Mover<D, L> {
    /// Reads chunks again and makes one block of them; `None` if none could be read.
    async fn make_block<S>(
        &self,
        chunks: &[&Record<S>],
        compressor: &mut impl Compressor,
        pace: &mut Pace,
    ) -> Option<CompressedBlock> {
        let reads: Vec<_> = chunks.iter().map(|chunk| self.inner.read_at(&chunk.id, chunk.from)).collect();
        let mut reads = stream::iter(reads).buffered(READ_AHEAD_CHUNKS);
        let (mut entries, mut plains): (Vec<ChunkEntry>, Vec<Vec<u8>>) = (Vec::new(), Vec::new());
        for chunk in chunks {
            let read = reads.next().await.expect("invariant: a read for each chunk");
            pace.step().await;
            self.written.borrow_mut().read_bytes += u64::from(chunk.stored_bytes);
            let Some(plain) = read.ok().filter(|plain| plain.len() == chunk.plain_bytes as usize) else {
                self.written.borrow_mut().unreadable_chunks += 1;
                continue;
            };
            let old = Old { from: chunk.from, stored_bytes: chunk.stored_bytes, is_shared: chunk.is_shared };
            match self.moving.borrow_mut().entry(chunk.id) {
                Entry::Vacant(vacant) => vacant.insert(old),
                // Two victims had it, one of which could not be read for a moment: once is enough.
                Entry::Occupied(_) => continue,
            };
            entries.push(ChunkEntry { id: chunk.id, plain_bytes: chunk.plain_bytes });
            plains.push(plain);
        }
        drop(reads);
        let domain = chunks.first().filter(|_| !entries.is_empty())?.domain;
        assert!(chunks.iter().all(|chunk| chunk.domain == domain), "invariant: a group is of one domain");
        let plain: Vec<&[u8]> = plains.iter().map(Vec::as_slice).collect();
        compressor.begin(&plain);
        for chunk in &plain {
            compressor.push(chunk);
            pace.step().await;
        }
        let compressed = compressor.end();
        pace.step().await;
        let (codec, payload) = compressed.unwrap_or_else(|| (Codec::None, plain.concat()));
        let mut decoder = BlockDecoder::new(codec, &payload, plain.iter().map(|chunk| chunk.len()).sum());
        for chunk in plain {
            let decoded = decoder.next(chunk.len()).expect("invariant: what is compressed can be decompressed");
            assert!(decoded == chunk, "invariant: what is decompressed is what was compressed");
            pace.step().await;
        }
        drop(decoder);
        let entry = BlockEntry { codec, domain, payload_bytes: payload.len() as u32, chunks: entries };
        Some(CompressedBlock { entry, payload })
    }
}
