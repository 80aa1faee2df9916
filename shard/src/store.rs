//! One core's chunk store: is this chunk here, store it, read it.

use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, BTreeSet};
use std::rc::Rc;
use std::sync::Arc;

use ec::Code;
use index::{Coverage, Index, Lookup};
use proto::disk::{FixedHeader, PieceHeader, RowTable};
use proto::limits::{ROW_TABLES_CACHED_BYTES_MAX, SECTOR_BYTES, SEGMENT_PIECE_BYTES};
use proto::port::{Disk, DiskFile, KeyProvider};
use proto::{ChunkId, ClusterId, Geometry, Location, RowNumber, SegmentId};

use crate::error::{ReadError, SegmentError};
use crate::files::SegmentFiles;
use crate::recent::Recent;
use crate::recovery::RecoveredSegment;
use crate::row::{CompressedBlock, RowPlace, SealedRow, open_table};
use crate::segment::{Member, OpenSegment, Segment, SegmentLog, SegmentSpec};
use crate::writer::{Durable, RowSink, RowWriter};

/// Bytes of each device that data leaves free, so that metadata and deletes still work when it is full.
pub const METADATA_RESERVE_BYTES: u64 = 64 << 20;

/// Smallest piece: room for the longest row and its footer.
pub const SEGMENT_PIECE_BYTES_MIN: u64 = 8 << 20;

/// Chunks of which further copies are remembered. More are never needed but by a disk that rots away.
const OTHER_COPIES_MAX: usize = 65_536;

/// Bytes that the first read of a row table fetches; enough for the tables of rows of ordinary chunks.
const TABLE_READ_BYTES: usize = 16 << 10;

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
}

/// Answer to "is this chunk here?".
pub enum Stored {
    /// Durable at this location; all 32 bytes of the id were compared.
    Durable(Location),
    /// Being written by somebody else: wait for it.
    Underway(Durable),
    /// To be written by the caller.
    Missing,
}

/// What the store holds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct StoreStats {
    /// Distinct chunks.
    pub chunks: u64,
    /// Their plain bytes.
    pub unique_bytes: u64,
    /// Their bytes after compression.
    pub stored_bytes: u64,
    /// Bytes of the segment files.
    pub file_bytes: u64,
    /// Segments, open and sealed.
    pub segments: u64,
    /// Bytes of memory that the index takes.
    pub index_memory_bytes: u64,
}

struct Inner<D: Disk, L> {
    options: StoreOptions<D, L>,
    files: SegmentFiles<D>,
    segments: RefCell<BTreeMap<SegmentId, Rc<Segment>>>,
    index: RefCell<Index>,
    /// Chunks that are stored more than once, because a copy could not be confirmed when they came again.
    other_copies: RefCell<BTreeMap<ChunkId, BTreeSet<Location>>>,
    tables: RefCell<Recent<(SegmentId, RowNumber), Rc<RowTable>>>,
    next_segment: Cell<u64>,
    unique_bytes: Cell<u64>,
    stored_bytes: Cell<u64>,
}

/// See the module. Handles are cheap to clone.
pub struct Store<D: Disk, L: SegmentLog> {
    inner: Rc<Inner<D, L>>,
    writer: Rc<RowWriter>,
}

impl<D: Disk, L: SegmentLog> Clone for Store<D, L> {
    fn clone(&self) -> Self {
        Store { inner: self.inner.clone(), writer: self.writer.clone() }
    }
}

impl<D: Disk, L: SegmentLog> Store<D, L> {
    /// Opens a store over the segments that recovery found, and starts writing lanes.
    ///
    /// # Panics
    /// If the geometry needs more columns than there are devices: the node checks it when it formats.
    #[must_use]
    pub fn open(options: StoreOptions<D, L>, recovered: Vec<RecoveredSegment>) -> Store<D, L> {
        let geometry = options.geometry;
        assert!(geometry.columns() <= options.members.len(), "invariant: a device for each column");
        let possible = SEGMENT_PIECE_BYTES_MIN..=SEGMENT_PIECE_BYTES;
        assert!(possible.contains(&options.piece_bytes), "invariant: a piece holds a row, and offsets have 26 bits");
        let code = Code::new(geometry.k(), geometry.m()).expect("invariant: a geometry has a code");
        let inner = Rc::new(Inner {
            files: SegmentFiles::new(&options.members),
            options,
            segments: RefCell::default(),
            index: RefCell::new(Index::new()),
            other_copies: RefCell::default(),
            tables: RefCell::new(Recent::new(ROW_TABLES_CACHED_BYTES_MAX)),
            next_segment: Cell::new(1),
            unique_bytes: Cell::new(0),
            stored_bytes: Cell::new(0),
        });
        for segment in recovered {
            for table in &segment.tables {
                inner.index_row(segment.segment.id, table);
            }
            inner.segments.borrow_mut().insert(segment.segment.id, Rc::new(segment.segment));
        }
        inner.index.borrow_mut().set_coverage(Coverage::Complete);
        let writer = Rc::new(RowWriter::default());
        writer.start::<D>(&inner, &Rc::new(code));
        Store { inner, writer }
    }

    /// Says whether the chunk is here, after waiting for room to write it if it is not.
    ///
    /// Between this answer and [`Store::write`] there must be no await, or two writers store the chunk twice.
    pub async fn lookup(&self, id: &ChunkId) -> Stored {
        self.writer.wait_for_room().await;
        let candidate = self.inner.index.borrow().lookup(id);
        if let Lookup::Found(location) = candidate
            && self.inner.confirm(id, location).await
        {
            return Stored::Durable(location);
        }
        self.writer.underway(id).map_or(Stored::Missing, Stored::Underway)
    }

    /// Queues a block of one chunk that [`Store::lookup`] called missing.
    pub fn write(&self, block: CompressedBlock) -> Durable {
        self.writer.push(block)
    }

    /// Has everything queued so far written at once: call it before waiting for a [`Durable`].
    pub fn hurry(&self) {
        self.writer.hurry();
    }

    /// Reads a chunk: at its location hint, or where the index knows it.
    ///
    /// Shapes: returns the chunk's plain bytes, verified.
    /// Errors: [`ReadError::Corrupt`] rather than wrong bytes, ever.
    pub async fn read(&self, id: &ChunkId, hint: Location) -> Result<Vec<u8>, ReadError> {
        let mut error = match self.inner.read_or_forget(id, hint).await {
            Ok(plain) => return Ok(plain),
            Err(error) => error,
        };
        let mut tried = vec![hint];
        while let Some(location) = self.inner.next_copy(id, &tried) {
            match self.inner.read_or_forget(id, location).await {
                Ok(plain) => {
                    self.inner.index.borrow_mut().insert(id, location);
                    return Ok(plain);
                }
                Err(other) => error = other,
            }
            tried.push(location);
        }
        Err(error)
    }

    /// What the store holds.
    #[must_use]
    pub fn stats(&self) -> StoreStats {
        let segments = self.inner.segments.borrow();
        let index = self.inner.index.borrow();
        StoreStats {
            chunks: index.chunks(),
            unique_bytes: self.inner.unique_bytes.get(),
            stored_bytes: self.inner.stored_bytes.get(),
            file_bytes: segments.values().map(|segment| segment.file_bytes.get()).sum(),
            segments: segments.len() as u64,
            index_memory_bytes: index.memory_bytes() as u64,
        }
    }

    /// Writes what is queued and seals the open segments, so that the next start reads footers instead of scanning.
    pub async fn close(&self) {
        self.writer.close().await;
    }
}

impl<D: Disk, L: SegmentLog> Inner<D, L> {
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
        if free.iter().any(|(free, _)| free.0 < need_bytes + METADATA_RESERVE_BYTES) {
            return Err(SegmentError::NoSpace { need_bytes });
        }
        let members: Vec<Member<D>> = free.iter().map(|(_, place)| candidates[*place].clone()).collect();
        let counter = self.next_segment.get();
        if counter > SegmentId::COUNTER_MAX {
            return Err(SegmentError::NumbersSpent);
        }
        self.next_segment.set(counter + 1);
        let spec = SegmentSpec {
            id: SegmentId::new(options.incarnation, counter),
            cluster: options.cluster,
            geometry: options.geometry,
            piece_bytes: options.piece_bytes,
            keys: &*options.keys,
        };
        OpenSegment::create(spec, &members, &options.log).await
    }

    /// Enters a durable row's chunks. Of two copies the later one answers, because a chunk is stored again only if the
    /// earlier one could not be confirmed; it is counted once.
    fn index_row(&self, segment: SegmentId, table: &RowTable) {
        let mut index = self.index.borrow_mut();
        for block in &table.blocks {
            let mut fresh = false;
            for (ordinal, chunk) in block.entry.chunks.iter().enumerate() {
                let location = block.location(segment, ordinal as u16);
                match index.lookup(&chunk.id) {
                    Lookup::Found(known) => self.remember_copy(chunk.id, known),
                    Lookup::Absent | Lookup::Unknown => {
                        fresh = true;
                        self.unique_bytes.set(self.unique_bytes.get() + u64::from(chunk.plain_bytes));
                    }
                }
                index.insert(&chunk.id, location);
            }
            if fresh {
                self.stored_bytes.set(self.stored_bytes.get() + u64::from(block.entry.payload_bytes));
            }
        }
    }

    fn segment(&self, id: SegmentId) -> Result<Rc<Segment>, ReadError> {
        self.segments.borrow().get(&id).cloned().ok_or(ReadError::Stale(id))
    }

    /// Reads `bytes` bytes at sector-aligned `offset` of a segment file; fewer at its end.
    async fn read_piece(
        &self,
        segment: &Segment,
        column: u8,
        offset: u64,
        bytes: usize,
    ) -> Result<proto::port::AlignedBuf, ReadError> {
        let device = *segment.members.get(usize::from(column)).ok_or(ReadError::Stale(segment.id))?;
        let failed = |source| ReadError::Device { device, segment: segment.id, source: Arc::new(source) };
        let file = self.files.file(segment.id, column, device).await.map_err(failed)?;
        let disk = self.files.disk(device).expect("invariant: an open file has a device");
        let (read, mut buf) = file.read_at(disk.buffer(bytes), offset).await;
        buf.set_len(read.map_err(failed)?);
        Ok(buf)
    }

    /// Reads a chunk; a block that fails verification stops answering duplicates at once.
    /// Keeps the place of a copy that the index no longer names. After a restart nobody knows which of two copies was
    /// the damaged one, so both must be found.
    fn remember_copy(&self, id: ChunkId, location: Location) {
        let mut copies = self.other_copies.borrow_mut();
        if copies.len() < OTHER_COPIES_MAX || copies.contains_key(&id) {
            copies.entry(id).or_default().insert(location);
        }
    }

    /// Where else a chunk may lie: where the index says, then where copies lay before.
    fn next_copy(&self, id: &ChunkId, tried: &[Location]) -> Option<Location> {
        let indexed = match self.index.borrow().lookup(id) {
            Lookup::Found(location) => Some(location),
            Lookup::Absent | Lookup::Unknown => None,
        };
        let copies = self.other_copies.borrow();
        let mut candidates = indexed.into_iter().chain(copies.get(id).into_iter().flatten().copied());
        candidates.find(|location| !tried.contains(location))
    }

    async fn read_or_forget(&self, id: &ChunkId, location: Location) -> Result<Vec<u8>, ReadError> {
        let read = self.read_at(id, location).await;
        if matches!(read, Err(ReadError::Corrupt { .. })) {
            self.index.borrow_mut().remove(id, location);
        }
        read
    }

    async fn read_at(&self, id: &ChunkId, location: Location) -> Result<Vec<u8>, ReadError> {
        let corrupt = |what: &str| ReadError::Corrupt { location, what: what.to_owned() };
        let segment = self.segment(location.segment)?;
        let mut buf = self.read_piece(&segment, location.column, location.read_offset(), location.read_bytes()).await?;
        let start = location.offset as usize % SECTOR_BYTES;
        let bytes = buf.get_mut(start..).ok_or_else(|| corrupt("the block lies beyond the end of the segment"))?;
        let block = chunk::open_block(&*segment.cipher, bytes).map_err(|error| corrupt(&error.to_string()))?;
        let ordinal = usize::from(location.ordinal);
        let found = block.entry.chunks.get(ordinal).ok_or_else(|| corrupt("the block has fewer chunks"))?;
        if found.id != *id {
            return Err(corrupt("the block holds another chunk"));
        }
        chunk::decode_chunk(&block.entry, block.payload, ordinal).map_err(|error| corrupt(&error.to_string()))
    }

    /// Whether the row's table names exactly this chunk at this location.
    ///
    /// A table that cannot be read confirms nothing: the caller stores the chunk again, which is always safe.
    async fn confirm(&self, id: &ChunkId, location: Location) -> bool {
        let Ok(segment) = self.segment(location.segment) else { return false };
        let Some(place) = row_of(&segment, location) else { return false };
        let cached = self.tables.borrow_mut().get(&(segment.id, place.row)).cloned();
        let table = match cached {
            Some(table) => table,
            None => {
                let Ok(Some(table)) = self.read_table(&segment, &place).await else { return false };
                self.keep_table(segment.id, place.row, table)
            }
        };
        let here =
            |block: &&proto::disk::TableBlock| block.column == location.column && block.offset == location.offset;
        let block = table.blocks.iter().find(here);
        block
            .and_then(|block| block.entry.chunks.get(usize::from(location.ordinal)))
            .is_some_and(|chunk| chunk.id == *id)
    }

    fn keep_table(&self, segment: SegmentId, row: RowNumber, table: RowTable) -> Rc<RowTable> {
        let cost = table.encoded_bytes();
        let table = Rc::new(table);
        self.tables.borrow_mut().insert((segment, row), table.clone(), cost);
        table
    }

    /// Reads a row's table from its first piece.
    async fn read_table(&self, segment: &Segment, place: &RowPlace) -> Result<Option<RowTable>, ReadError> {
        let piece = place.pieces[0];
        let offset = u64::from(piece.offset_sectors) * SECTOR_BYTES as u64;
        let mut buf = self.read_piece(segment, piece.column, offset, TABLE_READ_BYTES).await?;
        let header = PieceHeader::parse(&buf).ok().filter(|header| {
            header.tag == segment.tag && header.row.get() == place.row.0 && header.column == piece.column
        });
        let Some(header) = header else { return Ok(None) };
        let head_bytes = header.head_bytes.get() as usize;
        if head_bytes > buf.len() {
            let bytes = head_bytes.next_multiple_of(SECTOR_BYTES);
            buf = self.read_piece(segment, piece.column, offset, bytes).await?;
        }
        let Some(sealed) = crate::row::table_of(&header, &buf) else { return Ok(None) };
        Ok(open_table(&*segment.cipher, segment.tag, place.row, segment.geometry, sealed))
    }
}

/// The row that holds `location`.
fn row_of(segment: &Segment, location: Location) -> Option<RowPlace> {
    let rows = segment.rows.borrow();
    let starts_before = |row: &&RowPlace| {
        let start = |piece: &&crate::row::PiecePlace| {
            piece.column == location.column && u64::from(piece.offset_sectors) << 12 <= u64::from(location.offset)
        };
        row.pieces.iter().find(start).is_some()
    };
    rows.iter().rev().find(starts_before).cloned()
}

impl<D: Disk, L: SegmentLog> RowSink<D> for Inner<D, L> {
    type Log = L;

    async fn open_segment(&self) -> Result<OpenSegment<D>, SegmentError> {
        let mut candidates: Vec<Member<D>> = self.options.members.clone();
        loop {
            let error = match self.open_segment_on(&candidates).await {
                Ok(open) => {
                    self.segments.borrow_mut().insert(open.segment.id, open.segment.clone());
                    return Ok(open);
                }
                Err(error) => error,
            };
            // The others still serve, as long as they are enough.
            let SegmentError::Device { device, .. } = &error else { return Err(error) };
            candidates.retain(|member| member.device != *device);
            if candidates.len() < self.options.geometry.columns() {
                return Err(error);
            }
        }
    }

    fn log(&self) -> &L {
        &self.options.log
    }

    fn row_durable(&self, segment: &Rc<Segment>, row: &SealedRow) {
        self.index_row(segment.id, &row.table);
        self.keep_table(segment.id, row.place.row, row.table.clone());
    }
}
