//! Recovery of one segment that the metadata lists: what it holds, believed only as far as it proves itself.
//!
//! * A sealed segment with a footer is read from its footer: one read.
//! * Any other segment is scanned: every 4 KiB past a bad piece is probed, and only pieces with this segment's tag and
//!   this device's id count. The files are synced first, so that what was believed cannot vanish afterwards, then cut
//!   where nothing but zeros follows; the segment takes no more appends.
//! * A row counts only if every one of its pieces was found with the same row digest.

use std::collections::BTreeMap;
use std::sync::Arc;

use proto::checksum::checksum;
use proto::disk::{FixedHeader, FooterHeader, HEADER_BYTES, NonceKind, PieceHeader, RowTable, SegmentHeader, nonce};
use proto::limits::{SECTOR_BYTES, SEGMENT_PIECE_BYTES};
use proto::planted::{self, Bug};
use proto::port::{AlignedBuf, Cipher, Disk, DiskFile, KeyProvider, WrappedKey};
use proto::{ClusterId, DeviceId, Generation, Geometry, RowNumber, SegmentId};

use crate::error::RecoverError;
use crate::row::{PiecePlace, RowPlace, open_table, verify_piece};
use crate::segment::{Member, Segment, piece_name};

/// Bytes that the scan reads at once.
const WINDOW_BYTES: usize = 1 << 20;
/// A sector that holds nothing: most of what a scan of an open segment meets, so it is compared as a whole.
const ZEROS: [u8; SECTOR_BYTES] = [0; SECTOR_BYTES];

/// Scans of a column that contradict each other, before the device is called faulty.
const SCANS_MAX: usize = 3;

/// What the metadata says of a segment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ListedSegment {
    /// The segment.
    pub id: SegmentId,
    /// The device of each column.
    pub members: Vec<DeviceId>,
    /// Its geometry.
    pub geometry: Geometry,
    /// How often what it holds was moved.
    pub generation: Generation,
    /// Whether appends may have been under way when the node stopped.
    pub state: ListedState,
}

/// How a segment was left.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ListedState {
    /// Open: a row may be half written.
    Open,
    /// Sealed; the offset of each column's footer, or none if it was sealed by recovery.
    Sealed(Vec<u64>),
}

/// A segment as recovery found it.
#[derive(Debug)]
pub struct RecoveredSegment {
    /// The segment.
    pub segment: Segment,
    /// Its rows, in the order of their numbers; `None` if they were not asked for.
    pub rows: Option<Vec<(RowPlace, RowTable)>>,
    /// Bytes of its files on all devices.
    pub file_bytes: u64,
    /// Those of them in the files of parity columns.
    pub parity_bytes: u64,
    /// Whether the metadata should now list it as sealed without footer.
    pub newly_sealed: bool,
    /// What an operator should know: a footer that did not verify, rows that were incomplete.
    pub warnings: Vec<String>,
}

/// How much of a segment is read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Depth {
    /// What reading its blocks takes: a checkpoint of the index has the chunks. An open segment is read in whole.
    Header,
    /// All its rows as well.
    Rows,
}

/// Recovers one listed segment.
///
/// Errors: [`RecoverError`]; the node must not start without it, or acknowledged data would silently be missing.
pub async fn recover_segment<D: Disk>(
    listed: &ListedSegment,
    members: &[Member<D>],
    cluster: ClusterId,
    keys: &dyn KeyProvider,
    depth: Depth,
) -> Result<RecoveredSegment, RecoverError> {
    let id = listed.id;
    let mut columns = Vec::with_capacity(listed.members.len());
    for (column, device) in listed.members.iter().enumerate() {
        let missing = RecoverError::MissingDevice { device: *device, segment: id };
        let member = members.iter().find(|member| member.device == *device).ok_or(missing)?;
        let failed = |source| RecoverError::Device { device: *device, segment: id, source: Arc::new(source) };
        let file = member.disk.open(&piece_name(id, column)).await.map_err(failed)?;
        let bytes = file.len().await.map_err(failed)?;
        columns.push(Column { column: column as u8, device: *device, file, bytes });
    }
    let (header, cipher) = read_header(listed, &columns[0], cluster, keys).await?;
    let segment = Segment {
        id,
        tag: header.tag,
        geometry: listed.geometry,
        generation: listed.generation,
        members: listed.members.clone(),
        cipher,
    };
    let (file_bytes, parity_bytes) = sums(listed.geometry, columns.iter().map(|column| column.bytes));
    let (newly_sealed, warnings) = (false, Vec::new());
    let mut recovered = RecoveredSegment { segment, rows: None, file_bytes, parity_bytes, newly_sealed, warnings };
    if depth == Depth::Header && listed.state != ListedState::Open {
        return Ok(recovered);
    }
    if let ListedState::Sealed(offsets) = &listed.state
        && !offsets.is_empty()
    {
        for (column, offset) in columns.iter().zip(offsets) {
            if let Some(rows) = read_footer(&recovered.segment, column, *offset).await {
                recovered.rows = Some(rows);
                return Ok(recovered);
            }
        }
        if planted::is(Bug::FooterUnchecked) {
            recovered.rows = Some(Vec::new());
            return Ok(recovered);
        }
        recovered.warnings.push(format!("segment {id}: the footer does not verify; scanned instead"));
    }
    let open = listed.state == ListedState::Open;
    let mut ends = Vec::with_capacity(columns.len());
    let mut pieces: BTreeMap<(RowNumber, u128), FoundRow> = BTreeMap::new();
    for column in &columns {
        let failed = |source| RecoverError::Device { device: column.device, segment: id, source: Arc::new(source) };
        if open {
            column.file.sync().await.map_err(failed)?;
        }
        let Scanned { pieces: found, end } = scan_surely(&recovered.segment, column).await.map_err(failed)?;
        if open {
            column.file.set_len(end).await.map_err(failed)?;
            column.file.sync().await.map_err(failed)?;
            ends.push(end);
        }
        for piece in found {
            let key = (RowNumber(piece.header.row.get()), piece.header.row_digest.get());
            let row = pieces.entry(key).or_insert_with(|| FoundRow {
                place: RowPlace::of(&piece.header),
                found: 0,
                table: None,
            });
            row.found += 1;
            row.table = row.table.take().or(piece.sealed_table);
        }
    }
    let mut rows = Vec::new();
    for ((number, _), row) in pieces {
        let geometry = recovered.segment.geometry;
        let open_table =
            |sealed| open_table(&*recovered.segment.cipher, recovered.segment.tag, number, geometry, sealed);
        match row.table.and_then(open_table) {
            Some(table) if row.found == row.place.pieces.len() => rows.push((row.place, table)),
            _ => recovered.warnings.push(format!("segment {id}: row {number} is incomplete and was left out")),
        }
    }
    if open {
        recovered.newly_sealed = true;
        (recovered.file_bytes, recovered.parity_bytes) = sums(listed.geometry, ends);
    }
    recovered.rows = Some(rows);
    Ok(recovered)
}

/// Bytes of all columns' files, and of those of the parity columns among them.
pub(crate) fn sums(geometry: Geometry, column_bytes: impl IntoIterator<Item = u64>) -> (u64, u64) {
    let add =
        |(all, parity), (column, bytes)| (all + bytes, if column < geometry.k() { parity } else { parity + bytes });
    column_bytes.into_iter().enumerate().fold((0, 0), add)
}

/// One column's file.
struct Column<F> {
    column: u8,
    device: DeviceId,
    file: F,
    bytes: u64,
}

struct FoundRow {
    place: RowPlace,
    found: usize,
    table: Option<Vec<u8>>,
}

/// Reads and checks the header of one column and unwraps the segment's key.
async fn read_header<F: DiskFile>(
    listed: &ListedSegment,
    column: &Column<F>,
    cluster: ClusterId,
    keys: &dyn KeyProvider,
) -> Result<(SegmentHeader, Arc<dyn Cipher>), RecoverError> {
    let segment = listed.id;
    let (read, buf) = column.file.read_at(AlignedBuf::zeroed(SECTOR_BYTES), 0).await;
    read.map_err(|source| RecoverError::Device { device: column.device, segment, source: Arc::new(source) })?;
    let header = SegmentHeader::parse(&buf).map_err(|source| RecoverError::Header { segment, source })?;
    let ours = header.segment.get() == segment.0
        && header.cluster == cluster
        && header.device == column.device
        && header.column == column.column
        && Geometry::new(header.k, header.m) == Some(listed.geometry);
    if !ours {
        let source = proto::disk::FormatError::Field { what: "segment header", field: "identity" };
        return Err(RecoverError::Header { segment, source });
    }
    let wrapped = WrappedKey { ring_key: header.ring_key.get(), nonce: header.wrap_nonce, wrapped: header.wrapped_key };
    let key = keys.unwrap(&wrapped, &header.wrap_context()).map_err(|source| RecoverError::Key { segment, source })?;
    Ok((header, keys.cipher(&key)))
}

/// Reads a footer; `None` if it does not prove itself.
async fn read_footer<F: DiskFile>(
    segment: &Segment,
    column: &Column<F>,
    offset: u64,
) -> Option<Vec<(RowPlace, RowTable)>> {
    let footer_bytes = 1..=SEGMENT_PIECE_BYTES;
    if !offset.is_multiple_of(SECTOR_BYTES as u64) || !footer_bytes.contains(&column.bytes.saturating_sub(offset)) {
        return None;
    }
    let bytes = (column.bytes - offset) as usize;
    let (read, mut buf) = column.file.read_at(AlignedBuf::zeroed(bytes), offset).await;
    let header = FooterHeader::parse(buf.get(..read.ok()?)?).ok()?;
    let ours = header.segment.get() == segment.id.0 && header.tag == segment.tag && header.device == column.device;
    let body_end = HEADER_BYTES.checked_add(usize::try_from(header.body_bytes.get()).ok()?)?;
    let body = buf.get_mut(HEADER_BYTES..body_end)?;
    if !ours || checksum(body) != header.body_checksum.get() {
        return None;
    }
    let nonce = nonce(NonceKind::Footer, header.nonce_row.get(), 0);
    let body = segment.cipher.open(&nonce, &segment.tag.0, body).ok()?;
    parse_footer(body, header.rows.get(), segment.geometry)
}

/// Parses the plain body of a footer; the layout stands at [`FooterHeader`].
///
/// Returns `None` if it holds anything else than `rows` rows that a segment of this geometry can have.
#[must_use]
pub fn parse_footer(mut body: &[u8], rows: u32, geometry: Geometry) -> Option<Vec<(RowPlace, RowTable)>> {
    let mut take = |bytes: usize| {
        let (head, tail) = body.split_at_checked(bytes)?;
        body = tail;
        Some(head)
    };
    let u32_of = |bytes: &[u8]| u32::from_le_bytes(bytes.try_into().expect("four bytes"));
    let mut found = Vec::new();
    for _ in 0..rows {
        let row = RowNumber(u64::from_le_bytes(take(8)?.try_into().ok()?));
        let count = u32_of(take(4)?) as usize;
        let mut pieces = Vec::new();
        for _ in 0..count {
            let column = u8::try_from(u32_of(take(4)?)).ok()?;
            let piece = PiecePlace { column, offset_sectors: u32_of(take(4)?), payload_bytes: u32_of(take(4)?) };
            pieces.push(piece);
        }
        let plausible = (1..=geometry.columns()).contains(&count)
            && pieces.iter().all(|piece| usize::from(piece.column) < geometry.columns());
        let table_bytes = u32_of(take(4)?) as usize;
        let table = RowTable::parse(take(table_bytes)?).ok().filter(|table| plausible && table.fits(geometry))?;
        found.push((RowPlace { row, pieces }, table));
    }
    body.is_empty().then_some(found)
}

/// A piece that proved itself.
struct FoundPiece {
    header: PieceHeader,
    sealed_table: Option<Vec<u8>>,
}

/// What a scan found.
struct Scanned {
    pieces: Vec<FoundPiece>,
    /// Where the zeros begin that go on to the end of the file. What lies before may be a damaged row, whose intact
    /// blocks can still be read at the locations that manifests hold.
    end: u64,
}

/// Scans a column, again if a second look at where it ends contradicts the first: a device may once answer with the
/// zeros that were there before a row, and what is cut off is gone.
async fn scan_surely<F: DiskFile>(segment: &Segment, column: &Column<F>) -> std::io::Result<Scanned> {
    for _ in 0..SCANS_MAX {
        let scanned = scan(segment, column).await?;
        let (read, mut next) = column.file.read_at(AlignedBuf::zeroed(SECTOR_BYTES), scanned.end).await;
        let read = read?;
        // A part of a sector at the end of a file is none of ours.
        next.set_len(read - read % SECTOR_BYTES);
        if next.iter().all(|byte| *byte == 0) {
            return Ok(scanned);
        }
    }
    Err(std::io::Error::new(std::io::ErrorKind::InvalidData, "the disk answers differently every time"))
}

/// Finds every intact piece of this segment in one column's file.
async fn scan<F: DiskFile>(segment: &Segment, column: &Column<F>) -> std::io::Result<Scanned> {
    let sector = SECTOR_BYTES as u64;
    let mut end = sector;
    let mut window = Window { file: &column.file, file_bytes: column.bytes, start: 0, bytes: AlignedBuf::zeroed(0) };
    let mut found = Vec::new();
    let mut offset = sector;
    while offset + sector <= column.bytes {
        let start = window.get(offset, SECTOR_BYTES).await?;
        if start != &ZEROS[..start.len()] {
            end = offset + sector;
        }
        let header = PieceHeader::parse(start).ok().filter(|header| {
            header.segment.get() == segment.id.0
                && header.tag == segment.tag
                && header.device == column.device
                && header.column == column.column
                && header.geometry() == Some(segment.geometry)
                && u64::from(header.columns[usize::from(column.column)].offset_sectors.get()) * sector == offset
        });
        let Some(header) = header else {
            if planted::is(Bug::StopAtBadRow) {
                break;
            }
            offset += sector;
            continue;
        };
        let bytes = (header.head_bytes.get() as usize + header.payload_bytes()).next_multiple_of(SECTOR_BYTES);
        if offset + bytes as u64 > column.bytes {
            offset += sector;
            continue;
        }
        match verify_piece(window.get(offset, bytes).await?) {
            Some(piece) => {
                offset += bytes as u64;
                end = offset;
                found.push(FoundPiece { header: piece.header, sealed_table: piece.sealed_table });
            }
            None => offset += sector,
        }
    }
    Ok(Scanned { pieces: found, end })
}

/// A part of a file in memory, moved forward as the scan goes.
struct Window<'a, F> {
    file: &'a F,
    file_bytes: u64,
    start: u64,
    bytes: AlignedBuf,
}

impl<F: DiskFile> Window<'_, F> {
    /// Returns up to `bytes` bytes at `offset`; fewer at the end of the file.
    async fn get(&mut self, offset: u64, bytes: usize) -> std::io::Result<&[u8]> {
        let held = offset >= self.start && offset + bytes as u64 <= self.start + self.bytes.len() as u64;
        if !held {
            let rest = self.file_bytes.saturating_sub(offset).next_multiple_of(SECTOR_BYTES as u64);
            let window_bytes = rest.min(WINDOW_BYTES as u64) as usize;
            let buf = AlignedBuf::zeroed(bytes.max(window_bytes));
            let (read, mut buf) = self.file.read_at(buf, offset).await;
            buf.set_len(read?);
            (self.start, self.bytes) = (offset, buf);
        }
        let at = (offset - self.start) as usize;
        let end = (at + bytes).min(self.bytes.len());
        Ok(self.bytes.get(at..end).unwrap_or(&[]))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::segment::encode_footer_row;
    use proto::disk::{BlockEntry, ChunkEntry, Codec, TableBlock};
    use proto::{ChunkId, DomainId};

    fn row(number: u64) -> (RowPlace, RowTable) {
        let piece = PiecePlace { column: 2, offset_sectors: 0x33, payload_bytes: 0x44 };
        let entry = BlockEntry {
            codec: Codec::Lz4,
            domain: DomainId(5),
            payload_bytes: 6,
            chunks: vec![ChunkEntry { id: ChunkId([7; 32]), plain_bytes: 8 }],
        };
        let block = TableBlock { column: 2, offset: 0x80, block_bytes: 0x90, entry };
        (RowPlace { row: RowNumber(number), pieces: vec![piece] }, RowTable { blocks: vec![block] })
    }

    fn body(rows: &[(RowPlace, RowTable)]) -> Vec<u8> {
        let mut body = Vec::new();
        for (place, table) in rows {
            encode_footer_row(&mut body, place, table);
        }
        body
    }

    #[test]
    fn footer_layout_is_frozen() {
        let body = body(&[row(1)]);
        let head = b"\x01\0\0\0\0\0\0\0\x01\0\0\0\x02\0\0\0\x33\0\0\0\x44\0\0\0\x4c\0\0\0";
        assert_eq!(body[..28], *head);
        assert_eq!(body[28..], row(1).1.encode());
    }

    #[test]
    fn footers_come_back_and_every_truncation_is_noticed() {
        let rows = [row(1), row(9)];
        let body = body(&rows);
        assert_eq!(parse_footer(&body, 2, Geometry::WIDE).as_deref(), Some(&rows[..]));
        for bytes in 0..body.len() {
            assert_eq!(parse_footer(&body[..bytes], 2, Geometry::WIDE), None);
        }
        assert_eq!(parse_footer(&body, 1, Geometry::WIDE), None, "bytes are left over");
        assert_eq!(parse_footer(&body, 3, Geometry::WIDE), None, "a row is missing");
        assert_eq!(parse_footer(&body, 2, Geometry::SINGLE), None, "a single disk has no column 2");
    }
}
