//! Looking at one column's file of a segment, whatever its state: for checks and inspection. Nothing is written.
//!
//! Recovery asks what may be believed; this asks what is there. So it goes on behind damage, names what it meets, and
//! leaves it to the caller what that means.
//!
//! ```text
//!   header │ piece │ piece │ gap (damage, or zeros) │ piece │ footer │ gap
//!            ▲ Column::next(offset) returns what begins there, and where it ends
//! ```

use std::io;
use std::sync::Arc;

use chunk::{BlockError, OpenedBlock};
use proto::checksum::checksum;
use proto::disk::{
    BLOCK_HEADER_BYTES, BlockHeader, FixedHeader, FooterHeader, FormatError, HEADER_BYTES, NonceKind, PieceHeader,
    RowTable, SegmentHeader, nonce,
};
use proto::limits::{BLOCK_ALIGN_BYTES, PAYLOAD_CHECKSUM_BYTES, SECTOR_BYTES, SEGMENT_PIECE_BYTES};
use proto::port::{AlignedBuf, Cipher, Disk, DiskFile, KeyError, KeyProvider, WrappedKey};
use proto::{ClusterId, DeviceId, Geometry, RowNumber, SegmentId, SegmentTag};

use crate::recovery::parse_footer;
use crate::row::{RowPlace, open_table, table_of};
use crate::segment::piece_name;

/// Bytes that are read at once while nothing is found.
const WINDOW_BYTES: usize = 1 << 20;
/// What a reserved sector reads as.
const ZEROS: [u8; SECTOR_BYTES] = [0; SECTOR_BYTES];

/// Which file this should be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Expected {
    /// The segment.
    pub segment: SegmentId,
    /// The column.
    pub column: u8,
    /// The cluster.
    pub cluster: ClusterId,
    /// The device that it lies on.
    pub device: DeviceId,
}

/// Why a file cannot be looked into.
#[derive(Debug, thiserror::Error)]
pub enum ColumnError {
    /// The file is missing, or the device failed.
    #[error("{0}")]
    Device(#[from] io::Error),
    /// The header is damaged, or of another version.
    #[error("{0}")]
    Header(#[from] FormatError),
    /// The header belongs to another file: it was moved, or the metadata is another node's.
    #[error("segment header: field {field} belongs to another file")]
    Foreign {
        /// What differs.
        field: &'static str,
    },
    /// The key file does not fit.
    #[error("{0}")]
    Key(#[from] KeyError),
}

/// One column's file, opened.
pub struct Column<D: Disk> {
    /// Its header.
    pub header: SegmentHeader,
    /// Its length in bytes.
    pub bytes: u64,
    disk: D,
    file: D::File,
    cipher: Arc<dyn Cipher>,
    geometry: Geometry,
    /// The window of the last search.
    window: AlignedBuf,
    window_start: u64,
}

/// What lies in a file, from one offset to another.
pub enum Extent {
    /// A piece whose header is whole.
    Piece(Box<Piece>),
    /// Something that begins with a footer header of this segment.
    Footer {
        /// Where it begins, in bytes.
        offset: u64,
        /// Where it ends, in bytes.
        end: u64,
    },
    /// Neither: zeros, damage, or both.
    Gap {
        /// Where it begins, in bytes.
        offset: u64,
        /// Where it ends, in bytes.
        end: u64,
        /// Whether anything in it is not zero.
        used: bool,
    },
}

/// One piece, checked as far as was asked for.
pub struct Piece {
    /// Where it begins, in bytes.
    pub offset: u64,
    /// Where the next one would begin, in bytes; beyond the file if it was cut.
    pub end: u64,
    /// Its header.
    pub header: PieceHeader,
    /// The row table, if this piece carries it and it opens.
    pub table: Option<RowTable>,
    /// What is wrong with what stands before the payload, if anything is.
    pub head_fault: Option<&'static str>,
    /// What is wrong with the payload; empty if it was not read.
    pub payload_faults: Vec<PayloadFault>,
    /// The piece as far as it was read.
    bytes: AlignedBuf,
}

/// What is wrong with a payload.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PayloadFault {
    /// The file ends before it.
    Cut,
    /// This part of 16 KiB does not match its checksum.
    Part(u32),
    /// Every part matches, yet the whole does not.
    Whole,
}

/// How much of each piece is read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Depth {
    /// Headers and tables.
    Heads,
    /// All of it.
    Payloads,
}

/// A footer that verified.
#[derive(Debug)]
pub struct Footer {
    /// Its header.
    pub header: FooterHeader,
    /// The rows it describes, in the order of their numbers.
    pub rows: Vec<(RowPlace, RowTable)>,
}

impl<D: Disk> Column<D> {
    /// Opens a file and checks its header.
    ///
    /// Errors: [`ColumnError`].
    pub async fn open(disk: &D, expected: Expected, keys: &dyn KeyProvider) -> Result<Column<D>, ColumnError> {
        let file = disk.open(&piece_name(expected.segment, usize::from(expected.column))).await?;
        let bytes = file.len().await?;
        let (read, mut buf) = file.read_at(AlignedBuf::zeroed(SECTOR_BYTES), 0).await;
        buf.set_len(read?);
        let header = SegmentHeader::parse(&buf)?;
        let same = [
            ("segment", header.segment.get() == expected.segment.0),
            ("cluster", header.cluster == expected.cluster),
            ("device", header.device == expected.device),
            ("column", header.column == expected.column),
        ];
        if let Some((field, _)) = same.into_iter().find(|(_, same)| !same) {
            return Err(ColumnError::Foreign { field });
        }
        let geometry = Geometry::new(header.k, header.m).expect("invariant: a parsed header has a geometry");
        let (ring_key, nonce, wrapped) = (header.ring_key.get(), header.wrap_nonce, header.wrapped_key);
        let key = keys.unwrap(&WrappedKey { ring_key, nonce, wrapped }, &header.wrap_context())?;
        let (disk, cipher) = (disk.clone(), keys.cipher(&key));
        let window = AlignedBuf::zeroed(0);
        Ok(Column { header, bytes, disk, file, cipher, geometry, window, window_start: 0 })
    }

    /// Its geometry.
    #[must_use]
    pub fn geometry(&self) -> Geometry {
        self.geometry
    }

    /// What begins at `offset`, a multiple of 4 KiB; `None` at the end of the file.
    ///
    /// Errors: the device's own.
    pub async fn next(&mut self, offset: u64, depth: Depth) -> io::Result<Option<Extent>> {
        if offset >= self.bytes {
            return Ok(None);
        }
        if let Some(header) = self.piece_at(offset).await? {
            let piece = self.read_piece(offset, header, depth).await?;
            return Ok(Some(Extent::Piece(Box::new(piece))));
        }
        if let Some(end) = self.footer_at(offset).await? {
            return Ok(Some(Extent::Footer { offset, end }));
        }
        let (mut end, mut used) = (offset, false);
        while end < self.bytes {
            let sector = self.sector(end).await?;
            used |= sector != &ZEROS[..sector.len()];
            end += SECTOR_BYTES as u64;
            if end < self.bytes && (self.piece_at(end).await?.is_some() || self.footer_at(end).await?.is_some()) {
                break;
            }
        }
        Ok(Some(Extent::Gap { offset, end: end.min(self.bytes), used }))
    }

    /// Reads and opens the footer at `offset`; otherwise says what is wrong with it.
    ///
    /// Errors: the device's own.
    pub async fn footer(&self, offset: u64) -> io::Result<Result<Footer, String>> {
        let plausible = offset.is_multiple_of(SECTOR_BYTES as u64) && offset < self.bytes;
        if !plausible || self.bytes - offset > SEGMENT_PIECE_BYTES {
            return Ok(Err("it would lie outside of the file".to_owned()));
        }
        let mut buf = self.read(offset, (self.bytes - offset) as usize).await?;
        Ok(self.open_footer(&mut buf))
    }

    fn open_footer(&self, buf: &mut [u8]) -> Result<Footer, String> {
        let header = FooterHeader::parse(buf).map_err(|error| error.to_string())?;
        if !self.owns(header.segment.get(), header.tag, header.device) {
            return Err("it belongs to another file".to_owned());
        }
        // The header was checked: a body is no longer than a segment.
        let body = buf.get_mut(HEADER_BYTES..HEADER_BYTES + header.body_bytes.get() as usize);
        let body = body.ok_or("the file ends before it")?;
        if checksum(body) != header.body_checksum.get() {
            return Err("its body does not match its checksum".to_owned());
        }
        let nonce = nonce(NonceKind::Footer, header.nonce_row.get(), 0);
        let body = self.cipher.open(&nonce, &self.header.tag.0, body).map_err(|error| error.to_string())?;
        let rows = parse_footer(body, header.rows.get(), self.geometry).ok_or("its rows are impossible")?;
        Ok(Footer { header, rows })
    }

    /// Reads `bytes` bytes at `offset`, both of any alignment; fewer only at the end of the file.
    ///
    /// Errors: the device's own.
    pub async fn read_unaligned(&self, offset: u64, bytes: usize) -> io::Result<Vec<u8>> {
        let lead = (offset % SECTOR_BYTES as u64) as usize;
        let buf = self.read(offset - lead as u64, lead + bytes).await?;
        let end = buf.len().min(lead + bytes);
        Ok(buf.get(lead..end).unwrap_or(&[]).to_vec())
    }

    /// Opens the block at `offset`, or says why it does not open.
    ///
    /// Errors: the device's own.
    pub async fn with_block<T>(
        &self,
        offset: u32,
        look: impl FnOnce(Result<OpenedBlock<'_>, BlockError>) -> T,
    ) -> io::Result<T> {
        let head = self.read_unaligned(offset.into(), BLOCK_HEADER_BYTES).await?;
        let bytes = match BlockHeader::parse(&head) {
            Ok(header) => header.block_bytes(),
            Err(error) => return Ok(look(Err(BlockError::Header(error)))),
        };
        let mut block = self.read_unaligned(offset.into(), bytes).await?;
        Ok(look(chunk::open_block(&*self.cipher, &mut block)))
    }

    /// Opens every block of a piece whose payload was read, in order, and hands it to `look` with its offset in the
    /// file. Where a block header is damaged the search goes on at the next one of this row.
    pub fn each_block(&self, piece: &mut Piece, mut look: impl FnMut(u32, Result<OpenedBlock<'_>, BlockError>)) {
        let row = piece.header.row.get();
        let mut at = piece.header.head_bytes.get() as usize;
        let end = (at + piece.header.payload_bytes()).min(piece.bytes.len());
        let mut lost = false;
        while at < end {
            let offset = piece.offset as u32 + at as u32;
            let bytes = &mut piece.bytes[at..end];
            match BlockHeader::parse(bytes) {
                Ok(header) if header.row == row => {
                    lost = false;
                    look(offset, chunk::open_block(&*self.cipher, bytes));
                    at += header.block_bytes().next_multiple_of(BLOCK_ALIGN_BYTES);
                }
                other => {
                    let error = other.err().unwrap_or(FormatError::Field { what: "block header", field: "row" });
                    if !std::mem::replace(&mut lost, true) {
                        look(offset, Err(BlockError::Header(error)));
                    }
                    at += BLOCK_ALIGN_BYTES;
                }
            }
        }
    }

    fn owns(&self, segment: u64, tag: SegmentTag, device: DeviceId) -> bool {
        segment == self.header.segment.get() && tag == self.header.tag && device == self.header.device
    }

    /// The header of the piece of this file that begins at `offset`.
    async fn piece_at(&mut self, offset: u64) -> io::Result<Option<PieceHeader>> {
        let parsed = PieceHeader::parse(self.sector(offset).await?).ok();
        let ours = |header: &PieceHeader| {
            let place = header.columns[usize::from(header.column)];
            self.owns(header.segment.get(), header.tag, header.device)
                && header.column == self.header.column
                && header.geometry() == Some(self.geometry)
                && u64::from(place.offset_sectors.get()) * SECTOR_BYTES as u64 == offset
        };
        Ok(parsed.filter(ours))
    }

    /// Where the footer ends that begins at `offset`.
    async fn footer_at(&mut self, offset: u64) -> io::Result<Option<u64>> {
        let parsed = FooterHeader::parse(self.sector(offset).await?).ok();
        let ours = parsed.filter(|header| self.owns(header.segment.get(), header.tag, header.device));
        let bytes = |header: &FooterHeader| HEADER_BYTES as u64 + header.body_bytes.get();
        Ok(ours.map(|header| (offset + bytes(&header).next_multiple_of(SECTOR_BYTES as u64)).min(self.bytes)))
    }

    async fn read_piece(&self, offset: u64, header: PieceHeader, depth: Depth) -> io::Result<Piece> {
        let head = header.head_bytes.get() as usize;
        let payload = header.payload_bytes();
        let end = offset + ((head + payload) as u64).next_multiple_of(SECTOR_BYTES as u64);
        let bytes = self.read(offset, if depth == Depth::Heads { head } else { head + payload }).await?;
        let mut piece = Piece { offset, end, table: None, head_fault: None, payload_faults: Vec::new(), header, bytes };
        self.check_head(&mut piece);
        if self.bytes < offset + (head + payload) as u64 {
            piece.payload_faults.push(PayloadFault::Cut);
        } else if depth == Depth::Payloads {
            check_payload(&mut piece);
        }
        Ok(piece)
    }

    fn check_head(&self, piece: &mut Piece) {
        let header = &piece.header;
        let body = piece.bytes.get(HEADER_BYTES..header.head_bytes.get() as usize);
        if body.is_none_or(|body| checksum(body) != header.body_checksum.get()) {
            piece.head_fault = Some("the checksums and the table do not match their checksum");
        } else if let Some(sealed) = table_of(header, &piece.bytes) {
            let row = RowNumber(header.row.get());
            piece.table = open_table(&*self.cipher, self.header.tag, row, self.geometry, sealed);
            if piece.table.is_none() {
                piece.head_fault = Some("the row table does not open");
            }
        }
    }

    /// The sector at `offset`, through the window.
    async fn sector(&mut self, offset: u64) -> io::Result<&[u8]> {
        let held = self.window_start..self.window_start + self.window.len() as u64;
        if offset < held.start || offset + SECTOR_BYTES as u64 > held.end {
            // Sectors are asked for one by one only while nothing is found; a piece is then read for itself.
            let rest = self.bytes.saturating_sub(offset).max(SECTOR_BYTES as u64);
            let bytes = if offset == held.end { rest.min(WINDOW_BYTES as u64) as usize } else { SECTOR_BYTES };
            self.window = self.read(offset, bytes).await?;
            self.window_start = offset;
        }
        let at = (offset - self.window_start) as usize;
        let end = (at + SECTOR_BYTES).min(self.window.len());
        Ok(&self.window[at..end])
    }

    /// Reads whole sectors around `bytes` bytes at the sector `offset`; fewer only at the end of the file.
    async fn read(&self, offset: u64, bytes: usize) -> io::Result<AlignedBuf> {
        let (read, mut buf) = self.file.read_at(self.disk.buffer(bytes.next_multiple_of(SECTOR_BYTES)), offset).await;
        buf.set_len(read?);
        Ok(buf)
    }
}

/// Compares a payload with its checksums.
fn check_payload(piece: &mut Piece) {
    let head = piece.header.head_bytes.get() as usize;
    let payload = &piece.bytes[head..head + piece.header.payload_bytes()];
    if piece.head_fault.is_none() {
        let checksums = &piece.bytes[HEADER_BYTES..head];
        for (number, part) in payload.chunks(PAYLOAD_CHECKSUM_BYTES).enumerate() {
            let expected = checksums[number * 8..][..8].try_into().expect("eight bytes");
            if checksum(part) != u64::from_le_bytes(expected) {
                piece.payload_faults.push(PayloadFault::Part(number as u32));
            }
        }
    }
    let column = piece.header.columns[usize::from(piece.header.column)];
    if piece.payload_faults.is_empty() && checksum(payload) != column.payload_checksum.get() {
        piece.payload_faults.push(PayloadFault::Whole);
    }
}

impl Piece {
    /// Whether nothing is wrong with it, as far as it was read.
    #[must_use]
    pub fn is_intact(&self) -> bool {
        self.head_fault.is_none() && self.payload_faults.is_empty()
    }
}
