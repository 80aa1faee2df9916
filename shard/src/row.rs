//! The layout of a row: which block goes to which column, parity, checksums, sealing. No I/O, no clock.
//!
//! ```text
//!   blocks ─▶ columns (whole blocks, least loaded first, the first populated column rotates with the row number)
//!          ─▶ one piece for each populated data column, m parity pieces over the payloads
//!          ─▶ headers that record every column, the same row digest in all
//! ```
//!
//! A column without blocks has no piece: parity counts it as zeros. Short columns are zero-padded in arithmetic only.

use chunk::seal_block;
use ec::Code;
use proto::checksum::checksum;
use proto::disk::{
    BlockEntry, FixedHeader, GEOMETRY_CODE_CAUCHY, HEADER_BYTES, NonceKind, PIECE_CARRIES_TABLE, PieceColumn,
    PieceHeader, RowTable, SEAL_TAG_BYTES, TableBlock, head_bytes, nonce,
};
use proto::limits::{BLOCK_ALIGN_BYTES, PAYLOAD_CHECKSUM_BYTES, ROW_COLUMNS_MAX, SECTOR_BYTES};
use proto::planted::{self, Bug};
use proto::port::{AlignedBuf, Cipher};
use proto::{DeviceId, Geometry, RowNumber, SegmentId, SegmentTag};
use zerocopy::IntoBytes;

/// A compressed block that waits for its row.
#[derive(Clone, Debug)]
pub struct CompressedBlock {
    /// Its table entry.
    pub entry: BlockEntry,
    /// The payload after compression.
    pub payload: Vec<u8>,
}

impl CompressedBlock {
    /// Bytes that the block takes in a column, alignment included.
    #[must_use]
    pub fn column_bytes(&self) -> usize {
        self.sealed_bytes().next_multiple_of(BLOCK_ALIGN_BYTES)
    }

    fn sealed_bytes(&self) -> usize {
        chunk::block_bytes(self.entry.chunks.len(), self.payload.len())
    }
}

/// The segment that a row is sealed for.
pub struct RowTarget<'a> {
    /// The segment.
    pub segment: SegmentId,
    /// Its tag.
    pub tag: SegmentTag,
    /// Its geometry.
    pub geometry: Geometry,
    /// The device of each column.
    pub devices: &'a [DeviceId],
    /// Where each column's next piece starts: byte offsets, multiples of 4096.
    pub cursors: &'a [u64],
    /// The row; the caller has consumed the number.
    pub row: RowNumber,
    /// Lends memory of the asked length for one piece; its contents do not matter.
    pub buffer: &'a dyn Fn(usize) -> AlignedBuf,
}

/// One column's piece, ready to write.
#[derive(Debug)]
pub struct Piece {
    /// The column.
    pub column: u8,
    /// Byte offset in the segment file.
    pub offset: u64,
    /// Header, checksums, table, payload; padded to 4096 with zeros.
    pub bytes: AlignedBuf,
}

/// A sealed row.
#[derive(Debug)]
pub struct SealedRow {
    /// Its pieces, one for each populated column.
    pub pieces: Vec<Piece>,
    /// Its table; block `i` is the `i`-th block given.
    pub table: RowTable,
    /// Where its pieces lie.
    pub place: RowPlace,
}

/// Where one row's pieces lie: what is kept in memory of each row.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RowPlace {
    /// The row.
    pub row: RowNumber,
    /// Its pieces, by column.
    pub pieces: Vec<PiecePlace>,
}

/// Where one piece lies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PiecePlace {
    /// The column.
    pub column: u8,
    /// Offset in the segment file, in sectors.
    pub offset_sectors: u32,
    /// Payload bytes.
    pub payload_bytes: u32,
}

impl RowPlace {
    /// Returns the places that a valid header records.
    #[must_use]
    pub fn of(header: &PieceHeader) -> RowPlace {
        let pieces = header.columns.iter().enumerate().filter(|(_, column)| column.payload_bytes.get() > 0);
        let place = |(index, column): (usize, &PieceColumn)| PiecePlace {
            column: index as u8,
            offset_sectors: column.offset_sectors.get(),
            payload_bytes: column.payload_bytes.get(),
        };
        RowPlace { row: RowNumber(header.row.get()), pieces: pieces.map(place).collect() }
    }
}

/// What a payload of `payload_bytes` and a table of `table_bytes` take on disk, padded to sectors.
#[must_use]
pub fn piece_bytes(payload_bytes: usize, table_bytes: usize) -> usize {
    (head_bytes(payload_bytes, table_bytes) + payload_bytes).next_multiple_of(SECTOR_BYTES)
}

/// Lays out and seals one row.
///
/// Shapes: at least one block → 1 to k data pieces and m parity pieces.
/// Cost: one encryption and one copy per byte, k·m multiply-adds per byte when m > 0.
///
/// # Panics
/// If there is no block, or a cursor is not on a sector: the writer guarantees both.
#[must_use]
pub fn seal_row(target: &RowTarget<'_>, code: &Code, cipher: &dyn Cipher, blocks: &[CompressedBlock]) -> SealedRow {
    assert!(!blocks.is_empty(), "invariant: a row has a block");
    let layout = Layout::of(target, blocks);
    let mut pieces: Vec<AlignedBuf> = layout
        .payload_bytes
        .iter()
        .zip(&layout.heads)
        .map(|(payload, head)| if *payload > 0 { (target.buffer)(head + payload) } else { AlignedBuf::zeroed(0) })
        .collect();
    let table = seal_blocks(target, &layout, cipher, blocks, &mut pieces);
    add_parities(target.geometry, &layout, code, &mut pieces);
    let sealed_table = seal_table(target, &layout, cipher, &table);
    let columns = describe_columns(target, &layout, &pieces);
    let mut place = None;
    let mut finished = Vec::with_capacity(pieces.len());
    for (column, mut bytes) in pieces.into_iter().enumerate().filter(|(_, bytes)| !bytes.is_empty()) {
        let header = finish_head(target, &layout, column, columns, &sealed_table, &mut bytes);
        place.get_or_insert_with(|| RowPlace::of(&header));
        bytes.pad_to_sector();
        finished.push(Piece { column: column as u8, offset: target.cursors[column], bytes });
    }
    SealedRow { pieces: finished, table, place: place.expect("invariant: a row has a piece") }
}

/// Which block goes where, and how long everything is.
struct Layout {
    /// The data column of each block.
    columns_of: Vec<usize>,
    /// Payload bytes of each column; 0 for one without a piece.
    payload_bytes: Vec<usize>,
    /// Where each column's payload starts in its piece.
    heads: Vec<usize>,
    /// Sealed bytes of the row table.
    table_bytes: usize,
    /// The data column that carries the table beside the parities.
    table_column: usize,
    blocks: usize,
}

impl Layout {
    fn of(target: &RowTarget<'_>, blocks: &[CompressedBlock]) -> Layout {
        let geometry = target.geometry;
        let columns_of = assign_columns(geometry, target.row, blocks);
        let mut payload_bytes = vec![0usize; geometry.k()];
        for (block, column) in blocks.iter().zip(&columns_of) {
            payload_bytes[*column] += block.column_bytes();
        }
        let row_bytes = payload_bytes.iter().copied().max().unwrap_or(0);
        payload_bytes.resize(geometry.columns(), row_bytes);
        let chunks = blocks.iter().map(|block| block.entry.chunks.len());
        let table_bytes = 4 + chunks.map(RowTable::block_bytes).sum::<usize>() + SEAL_TAG_BYTES;
        let table_column = payload_bytes.iter().position(|bytes| *bytes > 0).expect("invariant: a column is populated");
        let mut layout =
            Layout { columns_of, payload_bytes, heads: Vec::new(), table_bytes, table_column, blocks: blocks.len() };
        layout.heads = (0..geometry.columns())
            .map(|column| {
                let table_bytes = if layout.carries_table(geometry, column) { table_bytes } else { 0 };
                head_bytes(layout.payload_bytes[column], table_bytes)
            })
            .collect();
        layout
    }

    fn carries_table(&self, geometry: Geometry, column: usize) -> bool {
        column == self.table_column || column >= geometry.k()
    }
}

/// Seals every block straight behind its predecessor of the same column.
fn seal_blocks(
    target: &RowTarget<'_>,
    layout: &Layout,
    cipher: &dyn Cipher,
    blocks: &[CompressedBlock],
    pieces: &mut [AlignedBuf],
) -> RowTable {
    let mut ends = layout.heads.clone();
    let mut table = RowTable::default();
    for (number, (block, column)) in blocks.iter().zip(&layout.columns_of).enumerate() {
        let start = ends[*column];
        let room = &mut pieces[*column][start..start + block.column_bytes()];
        let (sealed, padding) = room.split_at_mut(block.sealed_bytes());
        let plain =
            chunk::PlainBlock { row: target.row, block: number as u32, entry: &block.entry, payload: &block.payload };
        seal_block(cipher, plain, sealed);
        padding.fill(0);
        ends[*column] += block.column_bytes();
        table.blocks.push(TableBlock {
            column: *column as u8,
            offset: (target.cursors[*column] as usize + start) as u32,
            block_bytes: block.sealed_bytes() as u32,
            entry: block.entry.clone(),
        });
    }
    table
}

/// Computes the parity columns over the data columns.
fn add_parities(geometry: Geometry, layout: &Layout, code: &Code, pieces: &mut [AlignedBuf]) {
    if geometry.m() == 0 {
        return;
    }
    let (data, parities) = pieces.split_at_mut(geometry.k());
    let data: Vec<&[u8]> =
        data.iter().zip(&layout.heads).map(|(piece, head)| piece.get(*head..).unwrap_or(&[])).collect();
    let mut outputs: Vec<&mut [u8]> =
        parities.iter_mut().zip(&layout.heads[geometry.k()..]).map(|(piece, head)| &mut piece[*head..]).collect();
    code.encode(&data, &mut outputs).expect("invariant: no column is longer than its row");
}

fn seal_table(target: &RowTarget<'_>, layout: &Layout, cipher: &dyn Cipher, table: &RowTable) -> Vec<u8> {
    let mut sealed = table.encode();
    let tag = cipher.seal(&nonce(NonceKind::RowTable, target.row.0, 0), &target.tag.0, &mut sealed);
    sealed.extend_from_slice(&tag);
    assert_eq!(sealed.len(), layout.table_bytes, "invariant: the table has the size it was laid out with");
    sealed
}

/// What every piece of the row records of all its columns.
fn describe_columns(target: &RowTarget<'_>, layout: &Layout, pieces: &[AlignedBuf]) -> [PieceColumn; ROW_COLUMNS_MAX] {
    let mut columns = [PieceColumn::default(); ROW_COLUMNS_MAX];
    for (column, piece) in pieces.iter().enumerate().filter(|(_, piece)| !piece.is_empty()) {
        columns[column] = PieceColumn {
            offset_sectors: ((target.cursors[column] / SECTOR_BYTES as u64) as u32).into(),
            payload_bytes: (layout.payload_bytes[column] as u32).into(),
            payload_checksum: checksum(&piece[layout.heads[column]..]).into(),
        };
    }
    columns
}

/// Writes what stands before a piece's payload: header, payload checksums, table.
fn finish_head(
    target: &RowTarget<'_>,
    layout: &Layout,
    column: usize,
    columns: [PieceColumn; ROW_COLUMNS_MAX],
    sealed_table: &[u8],
    piece: &mut AlignedBuf,
) -> PieceHeader {
    let geometry = target.geometry;
    let (head, payload) = piece.split_at_mut(layout.heads[column]);
    head.fill(0);
    for (at, part) in payload.chunks(PAYLOAD_CHECKSUM_BYTES).enumerate() {
        head[HEADER_BYTES + at * 8..][..8].copy_from_slice(&checksum(part).to_le_bytes());
    }
    let carries_table = layout.carries_table(geometry, column);
    if carries_table {
        let at = HEADER_BYTES + payload.len().div_ceil(PAYLOAD_CHECKSUM_BYTES) * 8;
        head[at..at + sealed_table.len()].copy_from_slice(sealed_table);
    }
    let mut header = PieceHeader {
        segment: target.segment.0.into(),
        tag: target.tag,
        device: target.devices[column],
        row: target.row.0.into(),
        column: column as u8,
        k: geometry.k() as u8,
        m: geometry.m() as u8,
        geometry_code: GEOMETRY_CODE_CAUCHY.into(),
        flags: if carries_table { PIECE_CARRIES_TABLE } else { 0 }.into(),
        table_bytes: (layout.table_bytes as u32).into(),
        head_bytes: (layout.heads[column] as u32).into(),
        body_checksum: checksum(&head[HEADER_BYTES..]).into(),
        blocks: (layout.blocks as u32).into(),
        columns,
        ..PieceHeader::blank()
    };
    header.row_digest = header.digest().into();
    header.finish();
    head[..HEADER_BYTES].copy_from_slice(header.as_bytes());
    header
}

/// Gives each block a data column: whole blocks, least loaded column first, starting where the row number points.
fn assign_columns(geometry: Geometry, row: RowNumber, blocks: &[CompressedBlock]) -> Vec<usize> {
    let k = geometry.k();
    let first = (row.0 % k as u64) as usize;
    let mut load = vec![0usize; k];
    let assign = |block: &CompressedBlock| {
        let turn = (0..k).min_by_key(|turn| (load[(first + turn) % k], *turn)).expect("invariant: k > 0");
        let column = (first + turn) % k;
        load[column] += block.column_bytes();
        column
    };
    blocks.iter().map(assign).collect()
}

/// A piece read back, as far as it proves itself.
#[derive(Debug)]
pub struct VerifiedPiece {
    /// Its header.
    pub header: PieceHeader,
    /// The sealed row table, if this piece carries it.
    pub sealed_table: Option<Vec<u8>>,
}

/// Checks the piece at the start of `bytes`: header, payload checksums, table, and the whole payload.
///
/// Returns `None` if anything does not match: a torn or foreign piece.
#[must_use]
pub fn verify_piece(bytes: &[u8]) -> Option<VerifiedPiece> {
    let header = PieceHeader::parse(bytes).ok()?;
    let head = header.head_bytes.get() as usize;
    let payload = bytes.get(head..head + header.payload_bytes())?;
    let body = bytes.get(HEADER_BYTES..head)?;
    let column = header.columns[usize::from(header.column)];
    let intact = checksum(body) == header.body_checksum.get() && checksum(payload) == column.payload_checksum.get();
    if !intact && !planted::is(Bug::TornPieceBelieved) {
        return None;
    }
    let sealed_table = table_of(&header, bytes);
    Some(VerifiedPiece { header, sealed_table })
}

/// The sealed row table of the piece at the start of `bytes`, whose header was parsed from there.
///
/// Returns `None` if the piece carries none, `bytes` end before it, or the head is damaged.
#[must_use]
pub fn table_of(header: &PieceHeader, bytes: &[u8]) -> Option<Vec<u8>> {
    let body = bytes.get(HEADER_BYTES..header.head_bytes.get() as usize)?;
    if !header.carries_table() || checksum(body) != header.body_checksum.get() {
        return None;
    }
    let at = header.payload_bytes().div_ceil(PAYLOAD_CHECKSUM_BYTES) * 8;
    Some(body[at..at + header.table_bytes.get() as usize].to_vec())
}

/// Opens a sealed row table.
///
/// Returns `None` if it does not verify or holds what no row of this geometry can.
#[must_use]
pub fn open_table(
    cipher: &dyn Cipher,
    tag: SegmentTag,
    row: RowNumber,
    geometry: Geometry,
    mut sealed: Vec<u8>,
) -> Option<RowTable> {
    let plain = cipher.open(&nonce(NonceKind::RowTable, row.0, 0), &tag.0, &mut sealed).ok()?;
    RowTable::parse(plain).ok().filter(|table| table.fits(geometry))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proto::disk::{ChunkEntry, Codec};
    use proto::{ChunkId, DomainId};

    fn block(seed: u8, bytes: usize) -> CompressedBlock {
        let chunks = vec![ChunkEntry { id: ChunkId([seed; 32]), plain_bytes: bytes as u32 }];
        let entry = BlockEntry { codec: Codec::None, domain: DomainId(1), payload_bytes: bytes as u32, chunks };
        CompressedBlock { entry, payload: vec![seed; bytes] }
    }

    fn seal(geometry: Geometry, row: u64, blocks: &[CompressedBlock]) -> SealedRow {
        let devices: Vec<DeviceId> = (0..geometry.columns()).map(|column| DeviceId([column as u8; 16])).collect();
        let cursors: Vec<u64> = (1..=geometry.columns() as u64).map(|column| column * 4096).collect();
        let target = RowTarget {
            segment: SegmentId(7),
            tag: SegmentTag([8; 16]),
            geometry,
            devices: &devices,
            cursors: &cursors,
            row: RowNumber(row),
            // What another row left in the memory must not show.
            buffer: &|bytes| {
                let mut buf = AlignedBuf::zeroed(bytes);
                buf.fill(0xa5);
                buf
            },
        };
        let code = Code::new(geometry.k(), geometry.m()).unwrap();
        seal_row(&target, &code, &*chunk::cipher(&[9; 32]), blocks)
    }

    /// Opens every block of the row from its pieces.
    fn open_all(row: &SealedRow) -> Vec<Vec<u8>> {
        let cipher = chunk::cipher(&[9; 32]);
        let open = |block: &TableBlock| {
            let piece = row.pieces.iter().find(|piece| piece.column == block.column).unwrap();
            let at = block.offset as usize - piece.offset as usize;
            let mut bytes = piece.bytes[at..at + block.block_bytes as usize].to_vec();
            let opened = chunk::open_block(&*cipher, &mut bytes).unwrap();
            assert_eq!(opened.entry, block.entry);
            opened.payload.to_vec()
        };
        row.table.blocks.iter().map(open).collect()
    }

    #[test]
    fn a_single_column_row_opens_block_by_block() {
        let blocks = [block(1, 70_000), block(2, 10), block(3, 33_000)];
        let row = seal(Geometry::SINGLE, 5, &blocks);
        assert_eq!(row.pieces.len(), 1);
        assert_eq!(row.pieces[0].bytes.len() % SECTOR_BYTES, 0);
        assert_eq!(open_all(&row), blocks.map(|block| block.payload));
        let verified = verify_piece(&row.pieces[0].bytes).unwrap();
        let sealed = verified.sealed_table.unwrap();
        let table = open_table(&*chunk::cipher(&[9; 32]), SegmentTag([8; 16]), RowNumber(5), Geometry::SINGLE, sealed);
        assert_eq!(table, Some(row.table));
        assert_eq!(RowPlace::of(&verified.header), row.place);
    }

    #[test]
    fn a_row_of_two_blocks_writes_two_data_columns_and_all_parities() {
        let row = seal(Geometry::WIDE, 4, &[block(1, 5000), block(2, 5000)]);
        let columns: Vec<u8> = row.pieces.iter().map(|piece| piece.column).collect();
        assert_eq!(columns, [4, 5, 6, 7, 8], "the populated columns rotate with the row number");
        let tables = row.pieces.iter().filter(|piece| verify_piece(&piece.bytes).unwrap().sealed_table.is_some());
        assert_eq!(tables.count(), 4, "the table stands in m+1 pieces");
    }

    #[test]
    fn any_three_lost_pieces_of_a_wide_row_are_rebuilt() {
        let blocks: Vec<CompressedBlock> = (1..20).map(|seed| block(seed, 1000 * usize::from(seed))).collect();
        let row = seal(Geometry::WIDE, 1, &blocks);
        assert_eq!(open_all(&row), blocks.iter().map(|block| block.payload.clone()).collect::<Vec<_>>());
        let header = verify_piece(&row.pieces[0].bytes).unwrap().header;
        let payload = |column: usize| -> &[u8] {
            let bytes = &row.pieces[column].bytes;
            let header = PieceHeader::parse(bytes).unwrap();
            &bytes[header.head_bytes.get() as usize..][..header.payload_bytes()]
        };
        let row_bytes = payload(8).len();
        let code = Code::new(6, 3).unwrap();
        for lost in [[0, 1, 2], [3, 5, 8], [0, 6, 7]] {
            let pieces: Vec<Option<&[u8]>> = (0..9).map(|c| (!lost.contains(&c)).then(|| payload(c))).collect();
            for column in lost {
                let rebuilt = code.reconstruct(&pieces, column, row_bytes).unwrap();
                let bytes = header.columns[column].payload_bytes.get() as usize;
                assert_eq!(&rebuilt[..bytes], payload(column));
                assert_eq!(checksum(&rebuilt[..bytes]), header.columns[column].payload_checksum.get());
            }
        }
    }

    #[test]
    fn a_damaged_piece_is_refused() {
        let row = seal(Geometry::SINGLE, 5, &[block(1, 6000)]);
        let bytes = &row.pieces[0].bytes;
        let head = PieceHeader::parse(bytes).unwrap();
        let used = head.head_bytes.get() as usize + head.payload_bytes();
        for at in 0..used {
            let mut damaged = bytes.to_vec();
            damaged[at] ^= 0x10;
            assert!(verify_piece(&damaged).is_none(), "byte {at}");
        }
        for sectors in 0..bytes.len() / SECTOR_BYTES {
            assert!(verify_piece(&bytes[..sectors * SECTOR_BYTES]).is_none());
        }
    }
}
