//! Row tables: what every block of a row holds and where it lies. Stored sealed in m+1 pieces, and again in the footer.

use super::block::{BLOCK_HEADER_BYTES, BlockEntry};
use super::{FormatError, Reader, require};
use crate::geometry::Geometry;
use crate::ids::SegmentId;
use crate::limits::{BLOCK_ALIGN_BYTES, ROW_BLOCKS_MAX, ROW_COLUMNS_MAX, SECTOR_BYTES, SEGMENT_PIECE_BYTES};
use crate::location::Location;

/// One block of a row.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TableBlock {
    /// The data column.
    pub column: u8,
    /// Byte offset of the block header in the segment file.
    pub offset: u32,
    /// Bytes of the block: header, sealed entry, sealed payload.
    pub block_bytes: u32,
    /// Its table entry.
    pub entry: BlockEntry,
}

impl TableBlock {
    /// Where chunk `ordinal` of this block lies.
    #[must_use]
    pub fn location(&self, segment: SegmentId, ordinal: u16) -> Location {
        let start = self.offset as usize % SECTOR_BYTES;
        let sectors = (start + self.block_bytes as usize).div_ceil(SECTOR_BYTES) as u16;
        Location { segment, column: self.column, offset: self.offset, sectors, ordinal }
    }
}

/// The blocks of one row, in the order of their block numbers.
///
/// ```text
///   0  blocks u32   4  per block: column u8, reserved [3], offset u32, block_bytes u32, block entry
/// ```
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RowTable {
    /// The blocks.
    pub blocks: Vec<TableBlock>,
}

impl RowTable {
    const WHAT: &'static str = "row table";

    /// Bytes that a block of `chunks` chunks takes in an encoded table.
    #[must_use]
    pub const fn block_bytes(chunks: usize) -> usize {
        12 + BlockEntry::encoded_bytes(chunks)
    }

    /// Bytes of this table, encoded.
    #[must_use]
    pub fn encoded_bytes(&self) -> usize {
        4 + self.blocks.iter().map(|block| Self::block_bytes(block.entry.chunks.len())).sum::<usize>()
    }

    /// Encodes the table.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(self.encoded_bytes());
        out.extend_from_slice(&(self.blocks.len() as u32).to_le_bytes());
        for block in &self.blocks {
            out.extend_from_slice(&[block.column, 0, 0, 0]);
            out.extend_from_slice(&block.offset.to_le_bytes());
            out.extend_from_slice(&block.block_bytes.to_le_bytes());
            out.extend_from_slice(&block.entry.encode());
        }
        out
    }

    /// Reads and checks a table that fills `bytes`.
    ///
    /// # Errors
    /// [`FormatError`].
    pub fn parse(bytes: &[u8]) -> Result<RowTable, FormatError> {
        let what = Self::WHAT;
        let mut reader = Reader { what, bytes };
        let count = reader.u32()? as usize;
        require((1..=ROW_BLOCKS_MAX).contains(&count), what, "blocks")?;
        let mut blocks = Vec::with_capacity(count.min(bytes.len() / Self::block_bytes(1) + 1));
        for _ in 0..count {
            let [column, reserved @ ..] = reader.array::<4>()?;
            require(usize::from(column) < ROW_COLUMNS_MAX && reserved == [0; 3], what, "column")?;
            let offset = reader.u32()?;
            let block_bytes = reader.u32()?;
            require((offset as usize).is_multiple_of(BLOCK_ALIGN_BYTES), what, "offset")?;
            require(u64::from(offset) + u64::from(block_bytes) <= SEGMENT_PIECE_BYTES, what, "offset")?;
            // A location has 11 bits for the sectors of one read. A block has a header, so it begins before the end.
            let possible = BLOCK_HEADER_BYTES..2046 * SECTOR_BYTES;
            require(possible.contains(&(block_bytes as usize)), what, "block_bytes")?;
            blocks.push(TableBlock { column, offset, block_bytes, entry: BlockEntry::read(&mut reader)? });
        }
        reader.finish()?;
        Ok(RowTable { blocks })
    }

    /// Whether every block lies in a data column of `geometry`.
    #[must_use]
    pub fn fits(&self, geometry: Geometry) -> bool {
        self.blocks.iter().all(|block| usize::from(block.column) < geometry.k())
    }
}

#[cfg(test)]
mod tests {
    use super::super::{ChunkEntry, Codec};
    use super::*;
    use crate::ids::{ChunkId, DomainId};
    use proptest::prelude::*;

    fn table(blocks: &[(u8, u16, u8)]) -> RowTable {
        let block = |&(column, offset, seed): &(u8, u16, u8)| TableBlock {
            column,
            offset: u32::from(offset) * 64,
            block_bytes: 4000,
            entry: BlockEntry {
                codec: Codec::Lz4,
                domain: DomainId(1),
                payload_bytes: 3000,
                chunks: vec![ChunkEntry { id: ChunkId([seed; 32]), plain_bytes: 70_000 }],
            },
        };
        RowTable { blocks: blocks.iter().map(block).collect() }
    }

    proptest! {
        #[test]
        fn tables_survive_encoding(blocks in prop::collection::vec((0u8..16, any::<u16>(), any::<u8>()), 1..20)) {
            let table = table(&blocks);
            let bytes = table.encode();
            prop_assert_eq!(bytes.len(), table.encoded_bytes());
            prop_assert_eq!(RowTable::parse(&bytes), Ok(table));
            for len in 0..bytes.len() {
                prop_assert!(RowTable::parse(&bytes[..len]).is_err());
            }
        }

        #[test]
        fn a_block_without_bytes_is_refused(block_bytes in 0u32..BLOCK_HEADER_BYTES as u32) {
            let mut table = table(&[(0, 1, 1)]);
            // At the very end of a piece, an offset that no location can hold.
            table.blocks[0].offset = SEGMENT_PIECE_BYTES as u32 - block_bytes.next_multiple_of(BLOCK_ALIGN_BYTES as u32);
            table.blocks[0].block_bytes = block_bytes;
            prop_assert!(RowTable::parse(&table.encode()).is_err());
        }

        #[test]
        fn parse_never_panics(bytes in prop::collection::vec(any::<u8>(), 0..400)) {
            let _ = RowTable::parse(&bytes);
        }
    }

    #[test]
    fn layout_is_frozen() {
        assert_eq!(table(&[(3, 5, 7)]).encode()[..16], *b"\x01\0\0\0\x03\0\0\0\x40\x01\0\0\xa0\x0f\0\0");
    }

    #[test]
    fn a_block_that_straddles_sectors_is_read_whole() {
        let location = table(&[(0, 63, 1)]).blocks[0].location(SegmentId(9), 0);
        assert_eq!((location.offset, location.sectors), (4032, 2));
    }
}
