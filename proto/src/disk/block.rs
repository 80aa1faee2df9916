//! Blocks: one or more whole chunks of one dedup domain, compressed and sealed together.
//!
//! ```text
//!   0     block header (32 bytes, clear): lengths and the nonce
//!   32    sealed table entry: codec, domain, and the id and length of every chunk
//!   ..    sealed payload; associated data: the plain table entry
//! ```
//!
//! A block starts on a multiple of 64 bytes, so that one read at a [`crate::Location`] brings all that is needed to
//! verify and decode it.

use std::ops::Range;

use super::{FormatError, Reader, SEAL_TAG_BYTES, require};
use crate::checksum::checksum;
use crate::ids::{ChunkId, DomainId};
use crate::limits::{BLOCK_CHUNKS_MAX, BLOCK_PLAIN_BYTES_MAX};

/// How a block's plain bytes were compressed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Codec {
    /// Not at all: the probe found nothing to gain.
    None = 0,
    /// LZ4 block format, without a size prefix.
    Lz4 = 1,
    /// One Zstandard frame (RFC 8878) with its content size, without checksum and without dictionary.
    Zstd = 2,
}

impl Codec {
    /// Returns the codec of a stored number; `None` for one this version does not know.
    #[must_use]
    pub fn from_number(number: u8) -> Option<Codec> {
        match number {
            0 => Some(Codec::None),
            1 => Some(Codec::Lz4),
            2 => Some(Codec::Zstd),
            _ => None,
        }
    }
}

/// Bytes of the clear block header.
pub const BLOCK_HEADER_BYTES: usize = 32;
const MAGIC: u32 = u32::from_le_bytes(*b"DBK1");

/// The clear start of a block.
///
/// ```text
///   0  magic "DBK1"   4  entry_bytes u32   8  payload_bytes u32   12  block u32   16  row u64   24  checksum u64
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BlockHeader {
    /// Sealed bytes of the table entry.
    pub entry_bytes: u32,
    /// Sealed bytes of the payload.
    pub payload_bytes: u32,
    /// Number of the block within its row: the low half of the nonce.
    pub block: u32,
    /// The row: the high half of the nonce.
    pub row: u64,
}

impl BlockHeader {
    const WHAT: &'static str = "block header";

    /// Encodes the header; its bytes are also the associated data of the sealed table entry.
    #[must_use]
    pub fn encode(&self) -> [u8; BLOCK_HEADER_BYTES] {
        let mut out = [0; BLOCK_HEADER_BYTES];
        out[..4].copy_from_slice(&MAGIC.to_le_bytes());
        out[4..8].copy_from_slice(&self.entry_bytes.to_le_bytes());
        out[8..12].copy_from_slice(&self.payload_bytes.to_le_bytes());
        out[12..16].copy_from_slice(&self.block.to_le_bytes());
        out[16..24].copy_from_slice(&self.row.to_le_bytes());
        let sum = checksum(&out[..24]);
        out[24..].copy_from_slice(&sum.to_le_bytes());
        out
    }

    /// Reads and checks the header at the start of `bytes`.
    ///
    /// # Errors
    /// [`FormatError`]; `BadMagic` at a stale location.
    pub fn parse(bytes: &[u8]) -> Result<BlockHeader, FormatError> {
        let mut reader = Reader { what: Self::WHAT, bytes };
        let head: [u8; BLOCK_HEADER_BYTES] = reader.array()?;
        let mut reader = Reader { what: Self::WHAT, bytes: &head };
        if reader.u32()? != MAGIC {
            return Err(FormatError::BadMagic { what: Self::WHAT });
        }
        let header = BlockHeader {
            entry_bytes: reader.u32()?,
            payload_bytes: reader.u32()?,
            block: reader.u32()?,
            row: reader.u64()?,
        };
        if reader.u64()? != checksum(&head[..24]) {
            return Err(FormatError::Checksum { what: Self::WHAT });
        }
        let entry_bytes_max = BlockEntry::encoded_bytes(BLOCK_CHUNKS_MAX) + SEAL_TAG_BYTES;
        require(header.entry_bytes as usize <= entry_bytes_max, Self::WHAT, "entry_bytes")?;
        require(header.payload_bytes as usize <= BLOCK_PLAIN_BYTES_MAX + SEAL_TAG_BYTES, Self::WHAT, "payload_bytes")?;
        require(header.block < 1 << 24, Self::WHAT, "block")?;
        Ok(header)
    }

    /// Bytes of the whole block: header, sealed entry, sealed payload.
    #[must_use]
    pub fn block_bytes(&self) -> usize {
        BLOCK_HEADER_BYTES + self.entry_bytes as usize + self.payload_bytes as usize
    }
}

/// One chunk of a block.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ChunkEntry {
    /// The chunk.
    pub id: ChunkId,
    /// Its plain bytes.
    pub plain_bytes: u32,
}

/// A block's table entry, in plain.
///
/// ```text
///   0  codec u8   1  reserved [3]   4  chunks u32   8  domain u64   16  payload_bytes u32   20  reserved [4]
///  24  per chunk: id [32], plain_bytes u32
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BlockEntry {
    /// Compression of the payload.
    pub codec: Codec,
    /// Dedup domain of all chunks.
    pub domain: DomainId,
    /// Payload bytes after compression, before sealing.
    pub payload_bytes: u32,
    /// The chunks in order; their plain bytes lie one after the other.
    pub chunks: Vec<ChunkEntry>,
}

impl BlockEntry {
    const WHAT: &'static str = "block entry";
    const FIXED_BYTES: usize = 24;
    const CHUNK_BYTES: usize = 36;

    /// Bytes of an encoded entry of `chunks` chunks.
    #[must_use]
    pub const fn encoded_bytes(chunks: usize) -> usize {
        Self::FIXED_BYTES + chunks * Self::CHUNK_BYTES
    }

    /// Plain bytes of all chunks.
    #[must_use]
    pub fn plain_bytes(&self) -> usize {
        self.chunks.iter().map(|chunk| chunk.plain_bytes as usize).sum()
    }

    /// Where chunk `ordinal` lies among the plain bytes; `None` if the block has no such chunk.
    #[must_use]
    pub fn range(&self, ordinal: usize) -> Option<Range<usize>> {
        let bytes = self.chunks.get(ordinal)?.plain_bytes as usize;
        let start = self.chunks[..ordinal].iter().map(|chunk| chunk.plain_bytes as usize).sum();
        Some(start..start + bytes)
    }

    /// The part of the payload that counts for chunk `ordinal`, in proportion to its plain bytes. Those of all chunks add
    /// up to the payload.
    ///
    /// # Panics
    /// If the block has no such chunk.
    #[must_use]
    pub fn stored_bytes(&self, ordinal: usize) -> u32 {
        let plain_bytes = |chunks: &[ChunkEntry]| chunks.iter().map(|chunk| u64::from(chunk.plain_bytes)).sum::<u64>();
        let all = plain_bytes(&self.chunks);
        let payload_bytes = u64::from(self.payload_bytes);
        // Of a block of empty chunks the first has it all.
        let upto = |end: usize| match (payload_bytes * plain_bytes(&self.chunks[..end])).checked_div(all) {
            Some(bytes) => bytes,
            None => payload_bytes * u64::from(end > 0),
        };
        (upto(ordinal + 1) - upto(ordinal)) as u32
    }

    /// Encodes the entry.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(Self::encoded_bytes(self.chunks.len()));
        out.extend_from_slice(&[self.codec as u8, 0, 0, 0]);
        out.extend_from_slice(&(self.chunks.len() as u32).to_le_bytes());
        out.extend_from_slice(&self.domain.0.to_le_bytes());
        out.extend_from_slice(&self.payload_bytes.to_le_bytes());
        out.extend_from_slice(&[0; 4]);
        for chunk in &self.chunks {
            out.extend_from_slice(&chunk.id.0);
            out.extend_from_slice(&chunk.plain_bytes.to_le_bytes());
        }
        out
    }

    /// Reads and checks an entry that fills `bytes`.
    ///
    /// # Errors
    /// [`FormatError`].
    pub fn parse(bytes: &[u8]) -> Result<BlockEntry, FormatError> {
        let mut reader = Reader { what: Self::WHAT, bytes };
        let entry = Self::read(&mut reader)?;
        reader.finish()?;
        Ok(entry)
    }

    pub(super) fn read(reader: &mut Reader<'_>) -> Result<BlockEntry, FormatError> {
        let what = Self::WHAT;
        let [codec, reserved @ ..] = reader.array::<4>()?;
        let codec = Codec::from_number(codec).ok_or(FormatError::Field { what, field: "codec" })?;
        require(reserved == [0; 3], what, "reserved")?;
        let count = reader.u32()? as usize;
        require((1..=BLOCK_CHUNKS_MAX).contains(&count), what, "chunks")?;
        let domain = DomainId(reader.u64()?);
        let payload_bytes = reader.u32()?;
        require(payload_bytes as usize <= BLOCK_PLAIN_BYTES_MAX, what, "payload_bytes")?;
        require(reader.u32()? == 0, what, "reserved")?;
        let mut chunks = Vec::with_capacity(count);
        let mut plain_bytes = 0usize;
        for _ in 0..count {
            let chunk = ChunkEntry { id: ChunkId(reader.array()?), plain_bytes: reader.u32()? };
            plain_bytes = plain_bytes.saturating_add(chunk.plain_bytes as usize);
            chunks.push(chunk);
        }
        require(plain_bytes <= BLOCK_PLAIN_BYTES_MAX, what, "plain_bytes")?;
        require(codec != Codec::None || payload_bytes as usize == plain_bytes, what, "payload_bytes")?;
        Ok(BlockEntry { codec, domain, payload_bytes, chunks })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry() -> BlockEntry {
        let chunk = |seed: u8| ChunkEntry { id: ChunkId([seed; 32]), plain_bytes: 1000 + u32::from(seed) };
        BlockEntry { codec: Codec::Lz4, domain: DomainId(0x0203), payload_bytes: 777, chunks: vec![chunk(1), chunk(2)] }
    }

    #[test]
    fn header_layout_is_frozen_and_damage_is_detected() {
        let header = BlockHeader { entry_bytes: 0x11, payload_bytes: 0x22, block: 0x33, row: 0x44 };
        let bytes = header.encode();
        assert_eq!(bytes[..24], *b"DBK1\x11\0\0\0\x22\0\0\0\x33\0\0\0\x44\0\0\0\0\0\0\0");
        assert_eq!(BlockHeader::parse(&bytes), Ok(header));
        for len in 0..bytes.len() {
            assert!(BlockHeader::parse(&bytes[..len]).is_err());
        }
        for bit in 0..bytes.len() * 8 {
            let mut damaged = bytes;
            damaged[bit / 8] ^= 1 << (bit % 8);
            assert!(BlockHeader::parse(&damaged).is_err(), "bit {bit}");
        }
    }

    #[test]
    fn entry_layout_is_frozen_and_every_length_is_checked() {
        let bytes = entry().encode();
        assert_eq!(bytes[..24], *b"\x01\0\0\0\x02\0\0\0\x03\x02\0\0\0\0\0\0\x09\x03\0\0\0\0\0\0");
        assert_eq!(BlockEntry::parse(&bytes), Ok(entry()));
        for len in 0..bytes.len() {
            assert!(BlockEntry::parse(&bytes[..len]).is_err());
        }
        assert!(BlockEntry::parse(&[&bytes[..], &[0]].concat()).is_err());
    }

    #[test]
    fn codec_numbers_are_frozen() {
        let numbers: Vec<Option<Codec>> = (0..=255).map(Codec::from_number).collect();
        assert_eq!(numbers[..3], [Some(Codec::None), Some(Codec::Lz4), Some(Codec::Zstd)]);
        assert!(numbers[3..].iter().all(Option::is_none));
        for (number, codec) in numbers.iter().flatten().enumerate() {
            let entry = BlockEntry { codec: *codec, payload_bytes: 2003, ..entry() };
            assert_eq!(usize::from(entry.encode()[0]), number);
            assert_eq!(BlockEntry::parse(&entry.encode()), Ok(entry));
        }
    }

    #[test]
    fn the_stored_bytes_of_the_chunks_are_those_of_the_block() {
        for lengths in [&[1u32, 2, 3][..], &[0, 0], &[7], &[0, 5, 0], &[131_072, 1, 40_000, 99]] {
            for payload_bytes in [0u32, 1, 5, 777] {
                let chunk = |plain_bytes: &u32| ChunkEntry { id: ChunkId::default(), plain_bytes: *plain_bytes };
                let entry = BlockEntry { payload_bytes, chunks: lengths.iter().map(chunk).collect(), ..entry() };
                let parts: Vec<u32> = (0..lengths.len()).map(|ordinal| entry.stored_bytes(ordinal)).collect();
                assert_eq!(parts.iter().sum::<u32>(), payload_bytes, "{lengths:?}: {parts:?}");
            }
        }
        assert_eq!((entry().stored_bytes(0), entry().stored_bytes(1)), (388, 389));
    }

    #[test]
    fn an_entry_that_lies_about_lengths_is_refused() {
        let refused = |change: fn(&mut BlockEntry)| {
            let mut entry = entry();
            change(&mut entry);
            assert!(BlockEntry::parse(&entry.encode()).is_err());
        };
        refused(|entry| entry.chunks.clear());
        refused(|entry| entry.chunks[0].plain_bytes = u32::MAX);
        refused(|entry| entry.payload_bytes = u32::MAX);
        refused(|entry| entry.codec = Codec::None);
    }
}
