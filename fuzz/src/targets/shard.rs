//! `shard`: pieces, row tables, footers.

use std::sync::Arc;

use proto::disk::{
    FixedHeader, GEOMETRY_CODE_CAUCHY, NonceKind, PIECE_CARRIES_TABLE, PieceColumn, PieceHeader, head_bytes, nonce,
};
use proto::port::Cipher;
use proto::{DeviceId, Geometry, RowNumber, SegmentTag};
use shard::recovery::parse_footer;
use shard::row::{open_table, table_of, verify_piece};
use zerocopy::IntoBytes;

use super::Parts;
use super::disk::table;
use crate::{Memory, Target, repair};

const TAG: SegmentTag = SegmentTag([8; 16]);
const ROW: RowNumber = RowNumber(5);

pub(super) fn targets() -> Vec<Target> {
    vec![
        Target {
            name: "piece",
            run: piece,
            corpus: || vec![a_piece(3000, true), a_piece(40_000, true), a_piece(100, false)],
            memory: Memory { fixed_bytes: 64 << 10, per_byte: 4 },
            input_bytes_max: 48 << 10,
            cases: 6_000,
        },
        Target {
            name: "sealed-table",
            run: sealed_table,
            corpus: || vec![table(&[1]).encode(), table(&[2, 1]).encode()],
            memory: Memory { fixed_bytes: 1 << 20, per_byte: 16 },
            input_bytes_max: 4096,
            cases: 6_000,
        },
        Target {
            name: "footer-body",
            run: footer_body,
            corpus: || vec![footer(&[]), footer(&[1]), footer(&[1, 2, 1])],
            memory: Memory { fixed_bytes: 1 << 20, per_byte: 16 },
            input_bytes_max: 8192,
            cases: 20_000,
        },
    ]
}

fn cipher() -> Arc<dyn Cipher> {
    chunk::cipher(&[9; 32])
}

fn seal(plain: &[u8]) -> Vec<u8> {
    let mut bytes = plain.to_vec();
    let tag = cipher().seal(&nonce(NonceKind::RowTable, ROW.0, 0), &TAG.0, &mut bytes);
    bytes.extend_from_slice(&tag);
    bytes
}

/// A piece of a row of one column.
fn a_piece(payload_bytes: usize, carries_table: bool) -> Vec<u8> {
    let table = if carries_table { seal(&table(&[1]).encode()) } else { Vec::new() };
    let mut columns = [PieceColumn::default(); proto::limits::ROW_COLUMNS_MAX];
    columns[0] = PieceColumn {
        offset_sectors: 1.into(),
        payload_bytes: (payload_bytes as u32).into(),
        payload_checksum: 0.into(),
    };
    let head = head_bytes(payload_bytes, table.len());
    let header = PieceHeader {
        segment: 7.into(),
        tag: TAG,
        device: DeviceId([3; 16]),
        row: ROW.0.into(),
        k: 1,
        geometry_code: GEOMETRY_CODE_CAUCHY.into(),
        flags: (if carries_table { PIECE_CARRIES_TABLE } else { 0 }).into(),
        table_bytes: (table.len() as u32).into(),
        head_bytes: (head as u32).into(),
        blocks: 1.into(),
        columns,
        ..PieceHeader::blank()
    };
    let mut bytes = vec![b'p'; head + payload_bytes];
    bytes[..header.as_bytes().len()].copy_from_slice(header.as_bytes());
    let table_at = header.as_bytes().len() + payload_bytes.div_ceil(proto::limits::PAYLOAD_CHECKSUM_BYTES) * 8;
    bytes[table_at..table_at + table.len()].copy_from_slice(&table);
    repair::piece(&mut bytes);
    assert!(verify_piece(&bytes).is_some(), "the corpus is valid");
    bytes
}

fn piece(input: &[u8]) {
    look(input);
    let mut repaired = input.to_vec();
    repair::piece(&mut repaired);
    look(&repaired);
}

fn look(bytes: &[u8]) {
    if let Some(piece) = verify_piece(bytes) {
        assert_eq!(PieceHeader::parse(bytes).as_ref(), Ok(&piece.header));
        assert_eq!(table_of(&piece.header, bytes), piece.sealed_table);
        let geometry = piece.header.geometry().expect("a parsed header has a geometry");
        if let Some(sealed) = piece.sealed_table {
            let _ = open_table(&*cipher(), piece.header.tag, RowNumber(piece.header.row.get()), geometry, sealed);
        }
    }
    // The header alone may be whole.
    if let Ok(header) = PieceHeader::parse(bytes) {
        let _ = table_of(&header, bytes);
    }
}

fn sealed_table(input: &[u8]) {
    assert_eq!(open_table(&*cipher(), TAG, ROW, Geometry::WIDE, input.to_vec()), None, "nothing opens by chance");
    if let Some(table) = open_table(&*cipher(), TAG, ROW, Geometry::WIDE, seal(input)) {
        assert!(table.encode() == input && table.fits(Geometry::WIDE));
    }
}

/// A footer with a row for each of these numbers of blocks: the number of rows, and the body.
fn footer(rows: &[usize]) -> Vec<u8> {
    let mut out = (rows.len() as u32).to_le_bytes().to_vec();
    for (row, blocks) in rows.iter().enumerate() {
        let table = table(&vec![1; *blocks]).encode();
        out.extend_from_slice(&(row as u64 + 1).to_le_bytes());
        out.extend_from_slice(&1u32.to_le_bytes());
        out.extend([0u32, 1, 4000].iter().flat_map(|word| word.to_le_bytes()));
        out.extend_from_slice(&(table.len() as u32).to_le_bytes());
        out.extend_from_slice(&table);
    }
    out
}

fn footer_body(input: &[u8]) {
    let mut parts = Parts(input);
    let count = parts.number(4) as u32;
    for geometry in [Geometry::SINGLE, Geometry::WIDE] {
        let Some(rows) = parse_footer(parts.0, count, geometry) else { continue };
        assert_eq!(rows.len(), count as usize);
        let mut encoded = Vec::new();
        for (place, table) in &rows {
            encoded.extend_from_slice(&place.row.0.to_le_bytes());
            encoded.extend_from_slice(&(place.pieces.len() as u32).to_le_bytes());
            for piece in &place.pieces {
                let words = [u32::from(piece.column), piece.offset_sectors, piece.payload_bytes];
                encoded.extend(words.iter().flat_map(|word| word.to_le_bytes()));
            }
            encoded.extend_from_slice(&(table.encoded_bytes() as u32).to_le_bytes());
            encoded.extend_from_slice(&table.encode());
        }
        assert!(encoded == parts.0, "what was parsed is what was there");
    }
}
