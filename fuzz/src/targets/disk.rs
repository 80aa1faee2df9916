//! `proto::disk`: the fixed headers, block headers, block entries, row tables.

use proto::disk::{
    BlockEntry, BlockHeader, ChunkEntry, Codec, FixedHeader, FooterHeader, HEADER_BYTES, PieceHeader, RowTable,
    SegmentHeader, SnapshotFrame, SnapshotHeader, Superblock, TableBlock, WalBatchHeader, WalHeader,
};
use proto::{ChunkId, DomainId, Geometry, Location, SegmentId};

use super::golden;
use crate::{Memory, Target, repair};

/// A header is parsed in place; an error message is all that is allocated.
const HEADER_MEMORY: Memory = Memory { fixed_bytes: 16 << 10, per_byte: 0 };
/// Entries in memory are a little larger than encoded; a list is made for the number that its length allows.
const TABLE_MEMORY: Memory = Memory { fixed_bytes: 1 << 20, per_byte: 16 };

pub(super) fn targets() -> Vec<Target> {
    let header =
        |name, run, corpus| Target { name, run, corpus, memory: HEADER_MEMORY, input_bytes_max: 600, cases: 20_000 };
    vec![
        header(
            "superblock",
            |bytes| fixed::<Superblock>(bytes, |_| (), |it| _ = it.geometry()),
            || vec![golden(include_str!("../../../proto/golden/superblock.hex"))],
        ),
        header(
            "segment-header",
            |bytes| fixed::<SegmentHeader>(bytes, |_| (), |it| _ = it.wrap_context()),
            || vec![golden(include_str!("../../../proto/golden/segment_header.hex"))],
        ),
        header(
            "piece-header",
            |bytes| fixed(bytes, |it: &mut PieceHeader| it.row_digest = it.digest().into(), use_piece),
            || vec![golden(include_str!("../../../proto/golden/piece_header.hex"))],
        ),
        header(
            "footer-header",
            |bytes| fixed::<FooterHeader>(bytes, |_| (), |_| ()),
            || vec![golden(include_str!("../../../proto/golden/segment_footer.hex"))],
        ),
        header(
            "wal-header",
            |bytes| fixed::<WalHeader>(bytes, |_| (), |it| _ = it.wrap_context()),
            || vec![golden(include_str!("../../../proto/golden/wal_header.hex"))],
        ),
        header(
            "wal-batch-header",
            |bytes| fixed::<WalBatchHeader>(bytes, |_| (), |it| _ = it.associated()),
            || vec![golden(include_str!("../../../proto/golden/wal_batch.hex"))],
        ),
        header(
            "snapshot-header",
            |bytes| fixed::<SnapshotHeader>(bytes, |_| (), |it| _ = it.wrap_context()),
            || vec![golden(include_str!("../../../proto/golden/snapshot_header.hex"))],
        ),
        header(
            "snapshot-frame",
            |bytes| fixed::<SnapshotFrame>(bytes, |_| (), |it| _ = it.associated()),
            || vec![golden(include_str!("../../../proto/golden/snapshot_frame.hex"))],
        ),
        header("block-header", block_header, || {
            let header = BlockHeader { entry_bytes: 76, payload_bytes: 70_000, block: 3, row: 9 };
            vec![header.encode().to_vec()]
        }),
        Target {
            name: "block-entry",
            run: block_entry,
            corpus: || vec![entry(1).encode(), entry(3).encode()],
            memory: TABLE_MEMORY,
            input_bytes_max: 4096,
            cases: 20_000,
        },
        Target {
            name: "row-table",
            run: row_table,
            corpus: || vec![table(&[1]).encode(), table(&[1, 4, 2]).encode()],
            memory: TABLE_MEMORY,
            input_bytes_max: 4096,
            cases: 20_000,
        },
    ]
}

/// Parses a header as it is, and with its checksum made right.
fn fixed<H: FixedHeader>(bytes: &[u8], amend: impl FnOnce(&mut H), use_it: impl Fn(&H)) {
    if let Ok(header) = H::parse(bytes) {
        assert!(header.as_bytes() == &bytes[..HEADER_BYTES], "what was parsed is what was there");
        use_it(&header);
    }
    let repaired = repair::header(bytes, amend);
    if let Ok(header) = H::parse(repaired.as_bytes()) {
        assert!(header.as_bytes() == repaired.as_bytes(), "what was parsed is what was there");
        use_it(&header);
    }
}

fn use_piece(header: &PieceHeader) {
    assert!(header.geometry().is_some_and(|geometry| usize::from(header.column) < geometry.columns()));
    assert!(header.payload_bytes() > 0 && header.head_bytes.get() as usize >= HEADER_BYTES);
    let _ = header.carries_table();
}

fn block_header(bytes: &[u8]) {
    let parse = |bytes: &[u8]| {
        let Ok(header) = BlockHeader::parse(bytes) else { return };
        assert_eq!(header.encode()[..], bytes[..header.encode().len()]);
        assert!(header.block_bytes() < 2 << 20, "a block is read in one piece");
    };
    parse(bytes);
    // Encoding makes the checksum right.
    if let Some(&[_, _, _, _, e0, e1, e2, e3, p0, p1, p2, p3, b0, b1, b2, b3]) = bytes.first_chunk::<16>() {
        let row = bytes.get(16..24).map_or(0, |row| u64::from_le_bytes(row.try_into().expect("eight bytes")));
        let header = BlockHeader {
            entry_bytes: u32::from_le_bytes([e0, e1, e2, e3]),
            payload_bytes: u32::from_le_bytes([p0, p1, p2, p3]),
            block: u32::from_le_bytes([b0, b1, b2, b3]),
            row,
        };
        parse(&header.encode());
    }
}

fn block_entry(bytes: &[u8]) {
    let Ok(entry) = BlockEntry::parse(bytes) else { return };
    assert_eq!(entry.encode(), bytes);
    assert!(entry.plain_bytes() <= proto::limits::BLOCK_PLAIN_BYTES_MAX);
}

fn row_table(bytes: &[u8]) {
    let Ok(table) = RowTable::parse(bytes) else { return };
    assert_eq!(table.encode(), bytes);
    assert_eq!(table.encoded_bytes(), bytes.len());
    let _ = table.fits(Geometry::WIDE);
    for block in &table.blocks {
        let ordinal = block.entry.chunks.len() as u16 - 1;
        let location = block.location(SegmentId(u64::MAX), ordinal);
        assert_eq!(Location::unpack(location.pack()), Some(location), "where a chunk lies can be written down");
        let read = location.read_offset() as usize..location.read_offset() as usize + location.read_bytes();
        let block = block.offset as usize..block.offset as usize + block.block_bytes as usize;
        assert!(read.start <= block.start && block.end <= read.end, "one read brings the whole block");
    }
}

/// An entry of some chunks.
pub(super) fn entry(chunks: usize) -> BlockEntry {
    let chunk = |number| ChunkEntry { id: ChunkId([number as u8; 32]), plain_bytes: 1000 };
    let chunks = (0..chunks).map(chunk).collect();
    BlockEntry { codec: Codec::Lz4, domain: DomainId(1), payload_bytes: 500, chunks }
}

/// A table with a block for each of these numbers of chunks.
pub(super) fn table(blocks: &[usize]) -> RowTable {
    let block = |(number, chunks): (usize, &usize)| TableBlock {
        column: number as u8,
        offset: 4096 + 6400 * number as u32,
        block_bytes: 6000,
        entry: entry(*chunks),
    };
    RowTable { blocks: blocks.iter().enumerate().map(block).collect() }
}
