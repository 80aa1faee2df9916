//! Reading: a chunk at its location, and the row tables that confirm duplicates.

use std::io::ErrorKind;
use std::rc::Rc;
use std::sync::Arc;

use chunk::OpenedBlock;
use proto::disk::{FixedHeader, PieceHeader, RowTable};
use proto::limits::SECTOR_BYTES;
use proto::port::{AlignedBuf, Disk, DiskFile};
use proto::{ChunkId, CoreId, Generation, Location, SegmentId};

use crate::blocks::{DecodedBlock, DecodedBlocks, Reader};
use crate::error::ReadError;
use crate::known::RowChunks;
use crate::row::{RowPlace, open_table, table_of};
use crate::segment::{Segment, SegmentLog};
use crate::store::Inner;

/// Bytes that the first read of a row table fetches; enough for the tables of rows of ordinary chunks.
const TABLE_READ_BYTES: usize = 16 << 10;

impl<D: Disk, L: SegmentLog> Inner<D, L> {
    /// Reads a chunk at its hint, or wherever else a copy is known.
    pub(crate) async fn read(self: &Rc<Self>, id: &ChunkId, hint: Location) -> Result<Vec<u8>, ReadError> {
        let owner = self.owner_of(id);
        let mut error = match self.read_or_forget(owner, id, hint).await {
            Ok(plain) => return Ok(plain),
            Err(error) => error,
        };
        let mut tried = vec![hint];
        loop {
            let (id, without) = (*id, tried.clone());
            let next = self.peers.ask(owner, move |inner: &Inner<D, L>| {
                let owner = inner.owner.borrow();
                owner.next_copy(&id, &without)
            });
            let Some(location) = next.await else { return Err(error) };
            match self.read_or_forget(owner, &id, location).await {
                Ok(plain) => {
                    let prefer = move |inner: &Inner<D, L>| inner.owner.borrow_mut().prefer(&id, location);
                    self.peers.ask(owner, prefer).await;
                    return Ok(plain);
                }
                Err(other) => error = other,
            }
            tried.push(location);
        }
    }

    /// Reads a chunk; a block that fails verification stops answering duplicates at once.
    async fn read_or_forget(
        self: &Rc<Self>,
        owner: CoreId,
        id: &ChunkId,
        location: Location,
    ) -> Result<Vec<u8>, ReadError> {
        let read = self.read_for(Reader::Client, id, location).await;
        if matches!(read, Err(ReadError::Corrupt { .. })) {
            let id = *id;
            let forget = move |inner: &Inner<D, L>| inner.owner.borrow_mut().forget(&id, location);
            self.peers.ask(owner, forget).await;
        }
        read
    }

    /// Reads a chunk at `location` and nowhere else, for the store itself.
    pub(crate) async fn read_at(self: &Rc<Self>, id: &ChunkId, location: Location) -> Result<Vec<u8>, ReadError> {
        self.read_for(Reader::Store, id, location).await
    }

    async fn read_for(self: &Rc<Self>, reader: Reader, id: &ChunkId, location: Location) -> Result<Vec<u8>, ReadError> {
        let segment = self.segment(location.segment).await?;
        let corrupt = |what: &str| ReadError::Corrupt { location, what: what.to_owned() };
        let ordinal = usize::from(location.ordinal);
        if segment.generation != Generation::HOT {
            let block = self.block(reader, segment, location).await?;
            let plain = block.chunk(id, ordinal).map_err(corrupt)?;
            if reader == Reader::Client {
                self.blocks.borrow_mut().handed(location.segment, plain.len());
            }
            return Ok(plain.to_vec());
        }
        let mut sectors = self.read_sectors(&segment, location).await?;
        let opened = open_at(&segment, location, &mut sectors)?;
        let found = opened.entry.chunks.get(ordinal).ok_or_else(|| corrupt("the block has fewer chunks"))?;
        if found.id != *id {
            return Err(corrupt("the block holds another chunk"));
        }
        chunk::decode_chunk(&opened.entry, opened.payload, ordinal).map_err(|error| corrupt(&error.to_string()))
    }

    /// The block at `location`, decoded whole.
    ///
    /// Whoever reads one chunk of it mostly wants others soon, or did a moment ago.
    async fn block(
        self: &Rc<Self>,
        reader: Reader,
        segment: Arc<Segment>,
        location: Location,
    ) -> Result<Rc<DecodedBlock>, ReadError> {
        let inner = self.clone();
        let read = async move {
            let mut sectors = inner.read_sectors(&segment, location).await?;
            decode_at(&segment, location, &mut sectors)
        };
        DecodedBlocks::block(&self.blocks, reader, location, read).await
    }

    /// Reads the sectors that hold the block at `location`.
    pub(crate) async fn read_sectors(&self, segment: &Segment, location: Location) -> Result<AlignedBuf, ReadError> {
        self.read_piece(segment, location.column, location.read_offset(), location.read_bytes()).await
    }

    /// What is needed to read a segment, from its home the first time.
    pub(crate) async fn segment(&self, id: SegmentId) -> Result<Arc<Segment>, ReadError> {
        if self.gone.borrow_mut().get(&id).is_some() {
            return Err(ReadError::Stale(id));
        }
        if let Some(known) = self.foreign.borrow().get(&id) {
            return Ok(known.clone());
        }
        let home = self.home_of(id);
        let found = self.peers.ask(home, move |inner: &Inner<D, L>| inner.segment_here(id)).await;
        let Some(segment) = found else {
            // While homes recover their segments they know less than there is.
            if self.is_complete.get() {
                self.gone.borrow_mut().insert(id, (), 1);
            }
            return Err(ReadError::Stale(id));
        };
        // It may have been freed while the answer was on its way: nobody is to open a file of it any more.
        if self.gone.borrow_mut().get(&id).is_some() {
            return Err(ReadError::Stale(id));
        }
        if home != self.peers.me() {
            self.foreign.borrow_mut().insert(id, segment.clone());
        }
        Ok(segment)
    }

    fn segment_here(&self, id: SegmentId) -> Option<Arc<Segment>> {
        self.home.borrow().get(&id).map(|home| home.segment.clone())
    }

    /// Reads `bytes` bytes at sector-aligned `offset` of a segment file; fewer at its end.
    ///
    /// Errors: [`ReadError::Stale`] if the segment was freed meanwhile.
    pub(crate) async fn read_piece(
        &self,
        segment: &Segment,
        column: u8,
        offset: u64,
        bytes: usize,
    ) -> Result<AlignedBuf, ReadError> {
        let device = *segment.members.get(usize::from(column)).ok_or(ReadError::Stale(segment.id))?;
        let failed = |source| ReadError::Device { device, segment: segment.id, source: Arc::new(source) };
        let file = match self.files.file(segment.id, column, device).await {
            Err(error) if error.kind() == ErrorKind::NotFound && self.is_gone(segment.id).await => {
                return Err(ReadError::Stale(segment.id));
            }
            file => file.map_err(failed)?,
        };
        let disk = self.files.disk(device).expect("invariant: an open file has a device");
        let (read, mut buf) = file.read_at(disk.buffer(bytes), offset).await;
        buf.set_len(read.map_err(failed)?);
        Ok(buf)
    }

    /// Whether the home of a segment does not know it any more.
    async fn is_gone(&self, id: SegmentId) -> bool {
        self.peers.ask(self.home_of(id), move |inner: &Inner<D, L>| inner.segment_here(id)).await.is_none()
    }

    /// Whether a row's table names exactly this chunk at this location.
    ///
    /// A table that cannot be read confirms nothing: the caller stores the chunk again, which is always safe.
    pub(crate) async fn confirm(&self, id: &ChunkId, location: Location) -> bool {
        if self.known.borrow_mut().confirm(id, location) {
            self.tables_at_hand.set(self.tables_at_hand.get() + 1);
            return true;
        }
        let home = self.home_of(location.segment);
        let read = move |inner: Rc<Inner<D, L>>| async move { inner.row_chunks(location).await };
        let Some(row) = self.peers.call(home, read).await else { return false };
        self.tables_read.set(self.tables_read.get() + 1);
        let here = row.chunks.contains(&(*id, location));
        self.known.borrow_mut().keep(row);
        here
    }

    /// The chunks of the row that holds `location`, which lies in a segment of this home.
    async fn row_chunks(&self, location: Location) -> Option<RowChunks> {
        let home = self.home.borrow().get(&location.segment)?.clone();
        let place = self.row_place(&home, location).await?;
        let table = self.read_table(&home.segment, &place).await.ok()??;
        Some(RowChunks::of(home.segment.id, place.row, &table))
    }

    /// Reads a row's table from its first piece.
    pub(crate) async fn read_table(&self, segment: &Segment, place: &RowPlace) -> Result<Option<RowTable>, ReadError> {
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
        let Some(sealed) = table_of(&header, &buf) else { return Ok(None) };
        Ok(open_table(&*segment.cipher, segment.tag, place.row, segment.geometry, sealed))
    }
}

/// Opens the block at `location` in the sectors that were read for it.
pub(crate) fn open_at<'a>(
    segment: &Segment,
    location: Location,
    sectors: &'a mut [u8],
) -> Result<OpenedBlock<'a>, ReadError> {
    let corrupt = |what: &str| ReadError::Corrupt { location, what: what.to_owned() };
    let start = location.offset as usize % SECTOR_BYTES;
    let bytes = sectors.get_mut(start..).ok_or_else(|| corrupt("the block lies beyond the end of the segment"))?;
    chunk::open_block(&*segment.cipher, bytes).map_err(|error| corrupt(&error.to_string()))
}

/// Opens and decodes the block at `location` in the sectors that were read for it.
pub(crate) fn decode_at(segment: &Segment, location: Location, sectors: &mut [u8]) -> Result<DecodedBlock, ReadError> {
    let OpenedBlock { entry, payload, .. } = open_at(segment, location, sectors)?;
    let plain = chunk::decompress(entry.codec, payload, entry.plain_bytes());
    let plain = plain.map_err(|error| ReadError::Corrupt { location, what: error.to_string() })?;
    Ok(DecodedBlock { entry, plain })
}
