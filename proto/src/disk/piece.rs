//! Pieces: one column of one row, appended to one segment file.
//!
//! ```text
//!   0               header (512 bytes): every column's place, length and checksum
//!   512             payload checksums: XXH3-64 of each 16 KiB of this piece's payload
//!   ..              sealed row table, in m+1 of the row's pieces (the first populated data column and all parities)
//!   head_bytes      payload: blocks (data columns) or parity over the payloads; a multiple of 64 from the header
//! ```
//!
//! Pieces combine only when their headers carry the same digest over all columns.

use zerocopy::little_endian::{U16, U32, U64, U128};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

use super::{FixedHeader, FormatError, GEOMETRY_CODE_CAUCHY, HEADER_BYTES, require};
use crate::checksum::digest;
use crate::geometry::Geometry;
use crate::ids::{DeviceId, SegmentTag};
use crate::limits::{BLOCK_ALIGN_BYTES, PAYLOAD_CHECKSUM_BYTES, ROW_COLUMNS_MAX, SEGMENT_PIECE_BYTES};

/// Flag: this piece carries the sealed row table.
pub const PIECE_CARRIES_TABLE: u16 = 1;

/// One column of a row, as every piece of the row records it. A column without payload has no piece.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct PieceColumn {
    /// Offset of the column's piece in its segment file, in sectors.
    pub offset_sectors: U32,
    /// Payload bytes of the column; 0 when it is not populated.
    pub payload_bytes: U32,
    /// XXH3-64 of the payload.
    pub payload_checksum: U64,
}

/// Start of a piece; byte table in docs/FORMATS.md §piece.
#[derive(Clone, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct PieceHeader {
    #[doc(hidden)]
    pub magic: [u8; 8],
    #[doc(hidden)]
    pub version: U32,
    #[doc(hidden)]
    pub header_bytes: U32,
    /// The segment.
    pub segment: U64,
    /// The segment's tag.
    pub tag: SegmentTag,
    /// The device of this piece.
    pub device: DeviceId,
    /// The row.
    pub row: U64,
    /// XXH3-128 over segment, tag, row, geometry, table length and [`PieceHeader::columns`]: the same in all pieces of
    /// the row.
    pub row_digest: U128,
    /// Which column this piece is.
    pub column: u8,
    /// Data columns.
    pub k: u8,
    /// Parity columns.
    pub m: u8,
    #[doc(hidden)]
    pub reserved_a: u8,
    /// The erasure code; only [`GEOMETRY_CODE_CAUCHY`] exists.
    pub geometry_code: U16,
    /// [`PIECE_CARRIES_TABLE`] or nothing.
    pub flags: U16,
    /// Sealed bytes of the row table, the same in all pieces of the row.
    pub table_bytes: U32,
    /// Header, payload checksums and table, padded to 64 bytes: where the payload starts.
    pub head_bytes: U32,
    /// XXH3-64 of the bytes between this header and the payload.
    pub body_checksum: U64,
    /// Blocks of the row.
    pub blocks: U32,
    #[doc(hidden)]
    pub reserved_b: U32,
    /// Pin epoch at which the row's chunks were looked up; 0 on a node without garbage collection.
    pub pin_epoch: U64,
    #[doc(hidden)]
    pub reserved_c: [u8; 16],
    /// Every column of the row, data first.
    pub columns: [PieceColumn; ROW_COLUMNS_MAX],
    #[doc(hidden)]
    pub reserved: [u8; 112],
    #[doc(hidden)]
    pub header_checksum: U64,
}

impl FixedHeader for PieceHeader {
    const WHAT: &'static str = "piece header";
    const MAGIC: [u8; 8] = *b"DFSPIECE";
    const VERSION: u32 = 1;

    fn check(&self) -> Result<(), FormatError> {
        let what = Self::WHAT;
        let geometry = self.geometry().ok_or(FormatError::Field { what, field: "geometry" })?;
        require(self.geometry_code.get() == GEOMETRY_CODE_CAUCHY, what, "geometry_code")?;
        require(usize::from(self.column) < geometry.columns(), what, "column")?;
        require(self.flags.get() & !PIECE_CARRIES_TABLE == 0, what, "flags")?;
        require(self.payload_bytes() > 0, what, "columns")?;
        for (index, column) in self.columns.iter().enumerate() {
            let used = index < geometry.columns() || *column == PieceColumn::default();
            let end = (u64::from(column.offset_sectors.get()) << 12) + u64::from(column.payload_bytes.get());
            require(used && end <= SEGMENT_PIECE_BYTES, what, "columns")?;
        }
        let table_bytes = if self.carries_table() { self.table_bytes.get() as usize } else { 0 };
        require(table_bytes <= SEGMENT_PIECE_BYTES as usize, what, "table_bytes")?;
        require(self.head_bytes.get() as usize == head_bytes(self.payload_bytes(), table_bytes), what, "head_bytes")?;
        require(self.row_digest.get() == self.digest(), what, "row_digest")?;
        let reserved = self.reserved.iter().chain(&self.reserved_c).chain([&self.reserved_a]);
        require(reserved.into_iter().all(|byte| *byte == 0) && self.reserved_b.get() == 0, what, "reserved")
    }
}

impl PieceHeader {
    /// The row's geometry; `None` if the fields hold no possible one.
    #[must_use]
    pub fn geometry(&self) -> Option<Geometry> {
        Geometry::new(self.k, self.m)
    }

    /// Whether this piece carries the row table.
    #[must_use]
    pub fn carries_table(&self) -> bool {
        self.flags.get() & PIECE_CARRIES_TABLE != 0
    }

    /// Payload bytes of this piece.
    #[must_use]
    pub fn payload_bytes(&self) -> usize {
        self.columns[usize::from(self.column)].payload_bytes.get() as usize
    }

    /// The digest that [`PieceHeader::row_digest`] must hold.
    #[must_use]
    pub fn digest(&self) -> u128 {
        let mut input = Vec::with_capacity(40 + 256);
        input.extend_from_slice(self.segment.as_bytes());
        input.extend_from_slice(&self.tag.0);
        input.extend_from_slice(self.row.as_bytes());
        input.extend_from_slice(&[self.k, self.m]);
        input.extend_from_slice(self.geometry_code.as_bytes());
        input.extend_from_slice(self.table_bytes.as_bytes());
        input.extend_from_slice(self.columns.as_bytes());
        digest(&input)
    }
}

/// Where the payload of a piece starts, counted from its header.
///
/// Shapes: payload bytes and sealed table bytes (0 when this piece carries none) → a multiple of 64.
#[must_use]
pub fn head_bytes(payload_bytes: usize, table_bytes: usize) -> usize {
    (HEADER_BYTES + payload_bytes.div_ceil(PAYLOAD_CHECKSUM_BYTES) * 8 + table_bytes)
        .next_multiple_of(BLOCK_ALIGN_BYTES)
}

#[cfg(test)]
mod tests {
    use super::super::testing::{damage_is_detected, golden};
    use super::*;

    #[test]
    fn layout_is_frozen_and_damage_is_detected() {
        let mut columns = [PieceColumn::default(); ROW_COLUMNS_MAX];
        for (index, column) in columns.iter_mut().take(9).enumerate() {
            column.offset_sectors = (index as u32 + 1).into();
            column.payload_bytes = (20_000 + index as u32).into();
            column.payload_checksum = (0x0707 + index as u64).into();
        }
        let mut header = PieceHeader {
            segment: 0x0101.into(),
            tag: SegmentTag([2; 16]),
            device: DeviceId([3; 16]),
            row: 4.into(),
            column: 6,
            k: 6,
            m: 3,
            geometry_code: GEOMETRY_CODE_CAUCHY.into(),
            flags: PIECE_CARRIES_TABLE.into(),
            table_bytes: 100.into(),
            head_bytes: 640.into(),
            body_checksum: 5.into(),
            blocks: 6.into(),
            pin_epoch: 7.into(),
            columns,
            ..PieceHeader::blank()
        };
        header.row_digest = header.digest().into();
        header.finish();
        golden(&header, include_str!("../../golden/piece_header.hex"));
        damage_is_detected(&header);
    }
}
