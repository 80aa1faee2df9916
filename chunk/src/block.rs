//! The stored unit, sealed and opened.
//!
//! ```text
//!   0    header, clear             lengths, row, block number            32 bytes
//!   32   table entry, sealed       nonce (BlockEntry, row, block)        associated data: the header
//!   ..   payload, sealed           nonce (Payload, row, block)           associated data: the table entry in plain
//! ```
//!
//! The chain of associated data ties the three together: a header, an entry or a payload of another block does not
//! open here. Opening proves that the block is what was sealed under this key at this row and number; whether it is the
//! block that was looked for shows in the chunk ids of its entry.
//!
//! Invariant: one (row, block number) is sealed once under one key.

use proto::RowNumber;
use proto::disk::{BLOCK_HEADER_BYTES, BlockEntry, BlockHeader, Codec, FormatError, NonceKind, SEAL_TAG_BYTES, nonce};
use proto::port::Cipher;

use crate::codec::{CodecError, decompress_start};

/// A block before sealing.
#[derive(Clone, Copy, Debug)]
pub struct PlainBlock<'a> {
    /// The row. It is consumed by sealing, also when the row is never written.
    pub row: RowNumber,
    /// Number of the block within its row, below 2^24.
    pub block: u32,
    /// What the block holds.
    pub entry: &'a BlockEntry,
    /// The compressed bytes, `entry.payload_bytes` of them.
    pub payload: &'a [u8],
}

/// A block after opening.
#[derive(Debug)]
pub struct OpenedBlock<'a> {
    /// Where the block was sealed.
    pub header: BlockHeader,
    /// What it holds.
    pub entry: BlockEntry,
    /// Its compressed bytes; see [`decode_chunk`].
    pub payload: &'a [u8],
}

/// Why bytes did not open as a block.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BlockError {
    /// No block starts here. `BadMagic` at a location from a hint: the hint is stale, ask the index. Otherwise the
    /// sector is damaged: rebuild the column.
    #[error("{0}")]
    Header(FormatError),
    /// Read `need` bytes from where the block starts.
    #[error("the block has {need} bytes and {have} were read")]
    Truncated {
        /// Bytes at hand.
        have: usize,
        /// Bytes of the block.
        need: usize,
    },
    /// The table entry is damaged, or the block belongs to another segment: ask the index, or rebuild the column.
    #[error("the table entry of block {block} of row {row} does not open")]
    EntryDamaged {
        /// The row that the header names.
        row: RowNumber,
        /// The block that the header names.
        block: u32,
    },
    /// The payload is damaged: rebuild the column.
    #[error("the payload of block {block} of row {row} does not open")]
    PayloadDamaged {
        /// The row that the header names.
        row: RowNumber,
        /// The block that the header names.
        block: u32,
    },
    /// The entry is authentic but makes no sense: a newer or broken version wrote it. Report it; rebuilding yields the
    /// same.
    #[error("{0}")]
    Entry(FormatError),
}

/// Why a chunk was not taken out of an opened block.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum DecodeError {
    /// The location is stale: ask the index.
    #[error("chunk {ordinal} was asked for in a block of {chunks}")]
    NoSuchChunk {
        /// The chunk asked for.
        ordinal: usize,
        /// Chunks of the block.
        chunks: usize,
    },
    /// A newer or broken version wrote the block: report it, and read another copy.
    #[error(transparent)]
    Codec(#[from] CodecError),
}

/// Bytes of a sealed block of `chunks` chunks and `payload_bytes` compressed bytes.
#[must_use]
pub const fn block_bytes(chunks: usize, payload_bytes: usize) -> usize {
    BLOCK_HEADER_BYTES + BlockEntry::encoded_bytes(chunks) + SEAL_TAG_BYTES + payload_bytes + SEAL_TAG_BYTES
}

/// Seals `plain` into `out`.
///
/// Shapes: `out` has exactly [`block_bytes`] bytes, whose contents do not matter.
/// Cost: one copy and one pass of AES-GCM over the payload.
///
/// # Panics
/// If the entry does not describe the payload or exceeds a limit of the format: it could never be read again.
pub fn seal_block(cipher: &dyn Cipher, plain: PlainBlock<'_>, out: &mut [u8]) {
    let PlainBlock { row, block, entry, payload } = plain;
    let encoded = entry.encode();
    assert_eq!(entry.payload_bytes as usize, payload.len(), "invariant: an entry names the length of its payload");
    let header = BlockHeader {
        entry_bytes: (encoded.len() + SEAL_TAG_BYTES) as u32,
        payload_bytes: (payload.len() + SEAL_TAG_BYTES) as u32,
        block,
        row: row.0,
    };
    let head = header.encode();
    assert_eq!(BlockHeader::parse(&head), Ok(header), "invariant: what is sealed can be read");
    assert_eq!(BlockEntry::parse(&encoded).as_ref(), Ok(entry), "invariant: what is sealed can be read");

    assert_eq!(out.len(), header.block_bytes(), "invariant: a block is sealed into room of its size");
    let (out_head, body) = out.split_at_mut(BLOCK_HEADER_BYTES);
    let (out_entry, out_payload) = body.split_at_mut(header.entry_bytes as usize);
    out_head.copy_from_slice(&head);
    seal_into(cipher, &nonce(NonceKind::BlockEntry, row.0, block), &head, &encoded, out_entry);
    seal_into(cipher, &nonce(NonceKind::Payload, row.0, block), &encoded, payload, out_payload);
}

fn seal_into(cipher: &dyn Cipher, nonce: &[u8; 12], associated: &[u8], plain: &[u8], out: &mut [u8]) {
    let (text, tag) = out.split_at_mut(plain.len());
    text.copy_from_slice(plain);
    tag.copy_from_slice(&cipher.seal(nonce, associated, text));
}

/// Opens the block at the start of `bytes`, in place; bytes behind it are not touched.
///
/// Cost: one pass of AES-GCM, no copy of the payload.
///
/// # Errors
/// [`BlockError`]; `bytes` are then partly decrypted and must be read again before anything else is tried.
pub fn open_block<'a>(cipher: &dyn Cipher, bytes: &'a mut [u8]) -> Result<OpenedBlock<'a>, BlockError> {
    let header = parse_header(bytes)?;
    let row = RowNumber(header.row);
    let (have, need) = (bytes.len(), header.block_bytes());
    let bytes = bytes.get_mut(..need).ok_or(BlockError::Truncated { have, need })?;
    let (head, body) = bytes.split_at_mut(BLOCK_HEADER_BYTES);
    let (entry, payload) = body.split_at_mut(header.entry_bytes as usize);

    let plain_entry = cipher
        .open(&nonce(NonceKind::BlockEntry, header.row, header.block), head, entry)
        .map_err(|_| BlockError::EntryDamaged { row, block: header.block })?;
    let entry = parse_entry(&header, plain_entry)?;
    let payload = cipher
        .open(&nonce(NonceKind::Payload, header.row, header.block), plain_entry, payload)
        .map_err(|_| BlockError::PayloadDamaged { row, block: header.block })?;
    assert_eq!(payload.len(), entry.payload_bytes as usize, "invariant: parse_entry compared the lengths");
    Ok(OpenedBlock { header, entry, payload })
}

/// Opens only the table entry of the block at the start of `bytes`, which need not hold the payload.
///
/// # Errors
/// [`BlockError`], never [`BlockError::PayloadDamaged`].
pub fn open_entry(cipher: &dyn Cipher, bytes: &[u8]) -> Result<(BlockHeader, BlockEntry), BlockError> {
    let header = parse_header(bytes)?;
    let (have, need) = (bytes.len(), BLOCK_HEADER_BYTES + header.entry_bytes as usize);
    let bytes = bytes.get(..need).ok_or(BlockError::Truncated { have, need })?;
    let (head, sealed) = bytes.split_at(BLOCK_HEADER_BYTES);
    let mut sealed = sealed.to_vec();
    let plain = cipher
        .open(&nonce(NonceKind::BlockEntry, header.row, header.block), head, &mut sealed)
        .map_err(|_| BlockError::EntryDamaged { row: RowNumber(header.row), block: header.block })?;
    let entry = parse_entry(&header, plain)?;
    Ok((header, entry))
}

fn parse_header(bytes: &[u8]) -> Result<BlockHeader, BlockError> {
    BlockHeader::parse(bytes).map_err(|error| match error {
        FormatError::TooShort { need, .. } => BlockError::Truncated { have: bytes.len(), need },
        error => BlockError::Header(error),
    })
}

fn parse_entry(header: &BlockHeader, plain: &[u8]) -> Result<BlockEntry, BlockError> {
    let entry = BlockEntry::parse(plain).map_err(BlockError::Entry)?;
    if entry.payload_bytes as usize + SEAL_TAG_BYTES != header.payload_bytes as usize {
        return Err(BlockError::Entry(FormatError::Field { what: "block entry", field: "payload_bytes" }));
    }
    Ok(entry)
}

/// Decompresses an opened block and returns its chunk number `ordinal`.
///
/// Cost: as [`decode_upto`], and a move of the chunk to the front. Whoever wants several chunks decodes once, up to the
/// last.
///
/// # Errors
/// [`DecodeError`].
pub fn decode_chunk(entry: &BlockEntry, payload: &[u8], ordinal: usize) -> Result<Vec<u8>, DecodeError> {
    let range = entry.range(ordinal).ok_or(DecodeError::NoSuchChunk { ordinal, chunks: entry.chunks.len() })?;
    if entry.codec == Codec::None && payload.len() == entry.plain_bytes() {
        return Ok(payload[range].to_vec());
    }
    let mut plain = decode_upto(entry, payload, ordinal)?;
    plain.drain(..range.start);
    Ok(plain)
}

/// Decompresses an opened block up to the end of its chunk number `last`, and returns the chunks, one after the other;
/// [`BlockEntry::range`] says where each lies.
///
/// Cost: ZSTD decodes no further than that; the other codecs decode the whole block. Allocates at most the plain bytes of
/// the block.
///
/// # Errors
/// [`DecodeError`].
pub fn decode_upto(entry: &BlockEntry, payload: &[u8], last: usize) -> Result<Vec<u8>, DecodeError> {
    let range = entry.range(last).ok_or(DecodeError::NoSuchChunk { ordinal: last, chunks: entry.chunks.len() })?;
    Ok(decompress_start(entry.codec, payload, entry.plain_bytes(), range.end)?)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::codec::compress;
    use crate::cut::testing::noise;
    use crate::id::DomainKey;
    use crate::seal;
    use proptest::prelude::*;
    use proto::disk::ChunkEntry;
    use proto::limits::BLOCK_PLAIN_BYTES_MAX;
    use proto::{ChunkId, DomainId};
    use std::borrow::Cow;
    use std::sync::Arc;

    const ROW: RowNumber = RowNumber(0x0102_0304_0506);
    const BLOCK: u32 = 0x0708;

    fn cipher() -> Arc<dyn Cipher> {
        seal::cipher(&[7; 32])
    }

    /// An entry for `chunks` and their payload.
    fn prepared(chunks: &[Vec<u8>]) -> (BlockEntry, Vec<u8>) {
        let plain = chunks.concat();
        let (codec, payload) = compress(&plain);
        let key = DomainKey::new([1; 32]);
        let chunk = |bytes: &Vec<u8>| ChunkEntry { id: key.chunk_id(bytes), plain_bytes: bytes.len() as u32 };
        let chunks = chunks.iter().map(chunk).collect();
        let entry = BlockEntry { codec, domain: DomainId(3), payload_bytes: payload.len() as u32, chunks };
        (entry, payload.into_owned())
    }

    fn sealed(row: RowNumber, block: u32, chunks: &[Vec<u8>]) -> Vec<u8> {
        let (entry, payload) = prepared(chunks);
        let mut out = vec![0xee; block_bytes(chunks.len(), payload.len())];
        seal_block(&*cipher(), PlainBlock { row, block, entry: &entry, payload: &payload }, &mut out);
        out
    }

    fn chunk_lists() -> impl Strategy<Value = Vec<Vec<u8>>> {
        let chunk = prop_oneof![
            (any::<u64>(), 0usize..5000).prop_map(|(seed, len)| noise(seed, len)),
            (any::<u8>(), 0usize..9000).prop_map(|(byte, len)| vec![byte; len]),
        ];
        prop::collection::vec(chunk, 1..6)
    }

    proptest! {
        #[test]
        fn blocks_come_back(chunks in chunk_lists(), row: u64, block in 0u32..1 << 24, before in 0usize..9, behind in 0usize..9) {
            let (entry, payload) = prepared(&chunks);
            let mut out = vec![0xee; before];
            out.extend(sealed(RowNumber(row), block, &chunks));
            prop_assert_eq!(out.len() - before, block_bytes(chunks.len(), payload.len()));
            out.resize(out.len() + behind, 0xdd);

            let (header, opened_entry) = open_entry(&*cipher(), &out[before..]).unwrap();
            prop_assert_eq!((header.row, header.block, &opened_entry), (row, block, &entry));
            let opened = open_block(&*cipher(), &mut out[before..]).unwrap();
            prop_assert_eq!((opened.header, &opened.entry, opened.payload), (header, &entry, &payload[..]));
            for (ordinal, chunk) in chunks.iter().enumerate() {
                prop_assert_eq!(&decode_chunk(&opened.entry, opened.payload, ordinal).unwrap(), chunk);
            }
            let ordinal = chunks.len();
            let error = DecodeError::NoSuchChunk { ordinal, chunks: ordinal };
            prop_assert_eq!(decode_chunk(&opened.entry, opened.payload, ordinal), Err(error));
        }

        #[test]
        fn arbitrary_bytes_do_not_open(mut bytes in prop::collection::vec(any::<u8>(), 0..300)) {
            prop_assert!(open_entry(&*cipher(), &bytes).is_err());
            prop_assert!(open_block(&*cipher(), &mut bytes).is_err());
        }

        #[test]
        fn a_hostile_entry_with_a_hostile_payload_gives_an_error_or_the_claimed_length(
            payload in prop::collection::vec(any::<u8>(), 0..200),
            lengths in prop::collection::vec(0u32..2000, 1..4),
            codec in prop_oneof![Just(Codec::None), Just(Codec::Lz4)],
        ) {
            let chunks = lengths.iter().map(|plain_bytes| ChunkEntry { id: ChunkId::default(), plain_bytes: *plain_bytes });
            let entry = BlockEntry { codec, domain: DomainId(0), payload_bytes: payload.len() as u32, chunks: chunks.collect() };
            for (ordinal, length) in lengths.iter().enumerate() {
                if let Ok(chunk) = decode_chunk(&entry, &payload, ordinal) {
                    prop_assert_eq!(chunk.len(), *length as usize);
                }
            }
        }
    }

    #[test]
    fn every_flipped_bit_and_every_truncation_is_detected() {
        for chunks in [vec![noise(1, 90)], vec![vec![b'x'; 3000], noise(2, 40)]] {
            let whole = sealed(ROW, BLOCK, &chunks);
            let entry_end = whole.len() - prepared(&chunks).1.len() - SEAL_TAG_BYTES;
            for bit in 0..whole.len() * 8 {
                let mut damaged = whole.clone();
                damaged[bit / 8] ^= 1 << (bit % 8);
                assert_eq!(open_entry(&*cipher(), &damaged).is_err(), bit / 8 < entry_end, "flip of bit {bit}");
                assert!(open_block(&*cipher(), &mut damaged).is_err(), "flip of bit {bit}");
            }
            for len in 0..whole.len() {
                assert_eq!(open_entry(&*cipher(), &whole[..len]).is_err(), len < entry_end, "truncation to {len}");
                let error = open_block(&*cipher(), &mut whole[..len].to_vec()).unwrap_err();
                assert!(matches!(error, BlockError::Truncated { have, .. } if have == len), "truncation to {len}");
            }
        }
    }

    #[test]
    fn a_block_does_not_open_under_another_row_or_number() {
        let whole = sealed(ROW, BLOCK, &[noise(1, 90)]);
        let header = BlockHeader::parse(&whole).unwrap();
        for moved in [
            BlockHeader { row: header.row + 1, ..header },
            BlockHeader { block: header.block + 1, ..header },
            BlockHeader { row: u64::from(header.block), block: header.row as u32 & 0xff_ffff, ..header },
        ] {
            let mut bytes = whole.clone();
            bytes[..BLOCK_HEADER_BYTES].copy_from_slice(&moved.encode());
            let error = BlockError::EntryDamaged { row: RowNumber(moved.row), block: moved.block };
            assert_eq!(open_entry(&*cipher(), &bytes), Err(error.clone()));
            assert_eq!(open_block(&*cipher(), &mut bytes).unwrap_err(), error);
        }
    }

    #[test]
    fn parts_of_different_blocks_do_not_combine() {
        // Two versions of a block under one nonce, which never happens; even so their parts must not mix.
        let (one, other) = (sealed(ROW, BLOCK, &[noise(1, 90)]), sealed(ROW, BLOCK, &[noise(2, 90)]));
        let payload_at = one.len() - 90 - SEAL_TAG_BYTES;
        let mut mixed = [&one[..payload_at], &other[payload_at..]].concat();
        assert_eq!(
            open_block(&*cipher(), &mut mixed).unwrap_err(),
            BlockError::PayloadDamaged { row: ROW, block: BLOCK }
        );
    }

    #[test]
    fn a_block_of_another_segment_does_not_open() {
        let other_key = seal::cipher(&[8; 32]);
        let mut whole = sealed(ROW, BLOCK, &[noise(1, 90)]);
        let error = BlockError::EntryDamaged { row: ROW, block: BLOCK };
        assert_eq!(open_block(&*other_key, &mut whole).unwrap_err(), error);
    }

    #[test]
    fn the_largest_block_comes_back() {
        for plain in [noise(1, BLOCK_PLAIN_BYTES_MAX), vec![0; BLOCK_PLAIN_BYTES_MAX]] {
            let mut whole = sealed(ROW, BLOCK, std::slice::from_ref(&plain));
            let opened = open_block(&*cipher(), &mut whole).unwrap();
            assert!(decode_chunk(&opened.entry, opened.payload, 0).unwrap() == plain);
        }
    }

    #[test]
    #[should_panic(expected = "an entry names the length of its payload")]
    fn an_entry_for_another_payload_is_never_sealed() {
        let (entry, _) = prepared(&[noise(1, 90)]);
        seal_block(&*cipher(), PlainBlock { row: ROW, block: BLOCK, entry: &entry, payload: b"short" }, &mut []);
    }

    #[test]
    fn sealed_bytes_are_frozen() {
        let entry = BlockEntry {
            codec: Codec::None,
            domain: DomainId(3),
            payload_bytes: 4,
            chunks: vec![ChunkEntry { id: ChunkId([1; 32]), plain_bytes: 4 }],
        };
        let mut out = vec![0; block_bytes(1, 4)];
        seal_block(&*cipher(), PlainBlock { row: ROW, block: BLOCK, entry: &entry, payload: b"DFS!" }, &mut out);
        let hex: String = out.iter().map(|byte| format!("{byte:02x}")).collect();
        let lines: Vec<Cow<'_, str>> = hex.as_bytes().chunks(64).map(String::from_utf8_lossy).collect();
        assert_eq!(
            lines,
            [
                "44424b314c00000014000000080700000605040302010000f75d700c1de54455",
                "dad74def7c65f45b382ffd0defa5082626e3bfe6eec96e7e8ee33b2f6060d5cc",
                "384d8428085bd49b5d5f81b80e7358c319f05ffccf957d19953ab0064ab4f995",
                "bd42ae85183df905ce06c3b349229f96ae1c5f9dd1f4526103ad1c91ad183bf9",
            ]
        );
    }
}
