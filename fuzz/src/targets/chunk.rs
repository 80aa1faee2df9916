//! `chunk`: sealed blocks, payloads, the key file.

use std::sync::Arc;

use chunk::{
    KeyRing, block_bytes, compress, compress_block, decode_chunk, decode_upto, decompress, open_block, open_entry,
};
use proto::disk::{BlockEntry, BlockHeader, ChunkEntry, Codec, NonceKind, SEAL_TAG_BYTES, nonce};
use proto::limits::BLOCK_PLAIN_BYTES_MAX;
use proto::port::Cipher;
use proto::{ChunkId, DomainId};

use super::{Parts, counted, disk};
use crate::{Memory, Target};

pub(super) fn targets() -> Vec<Target> {
    vec![
        Target {
            name: "block",
            run: block,
            corpus: || vec![plain_block(&[b'x'; 3000]), plain_block(b"short"), plain_block(&[])],
            // A block's plain bytes, once and again for the chunk taken out.
            memory: Memory { fixed_bytes: 3 * BLOCK_PLAIN_BYTES_MAX, per_byte: 16 },
            input_bytes_max: 8192,
            cases: 6_000,
        },
        Target {
            name: "payload",
            run: payload,
            corpus: || {
                let text = b"a line of text, and another line of text\n".repeat(20);
                let (_, packed) = compress(&text);
                vec![
                    [&[1], &(text.len() as u32).to_le_bytes()[..], &packed].concat(),
                    [&[0], &5u32.to_le_bytes()[..], b"plain"].concat(),
                    [&[2], &(text.len() as u32).to_le_bytes()[..], &compress_block(&[&text]).1].concat(),
                ]
            },
            memory: Memory { fixed_bytes: 2 * BLOCK_PLAIN_BYTES_MAX, per_byte: 300 },
            input_bytes_max: 8192,
            cases: 6_000,
        },
        Target {
            name: "key-file",
            run: key_file,
            corpus: || {
                let mut ring = KeyRing::generate(1, [7; 32]);
                let one = ring.to_text().as_bytes().to_vec();
                ring.add(4_000_000_000, [0xab; 32]).expect("the number is free");
                vec![one, ring.to_text().as_bytes().to_vec()]
            },
            memory: Memory { fixed_bytes: 64 << 10, per_byte: 16 },
            input_bytes_max: 2048,
            cases: 10_000,
        },
    ]
}

fn cipher() -> Arc<dyn Cipher> {
    chunk::cipher(&[9; 32])
}

/// A block that is not sealed yet: how many bytes its header leaves out or adds, the entry, the payload.
fn plain_block(plain: &[u8]) -> Vec<u8> {
    let (codec, payload) = compress(plain);
    let chunks = vec![ChunkEntry { id: ChunkId([1; 32]), plain_bytes: plain.len() as u32 }];
    let entry = BlockEntry { codec, domain: DomainId(1), payload_bytes: payload.len() as u32, chunks };
    [&[0, 0][..], &counted(&entry.encode()), &payload].concat()
}

/// Seals an entry and a payload, whatever they are, under a header that is right or nearly so, and opens them again.
fn block(input: &[u8]) {
    let mut raw = input.to_vec();
    assert!(open_block(&*cipher(), &mut raw).is_err(), "only who has the key makes a block");
    let mut parts = Parts(input);
    let (entry_off, payload_off) = (parts.number(1) as u8 as i8, parts.number(1) as u8 as i8);
    let entry_bytes = parts.number(2) as usize;
    let (entry, payload) = (parts.bytes(entry_bytes), parts.0);
    let off = |bytes: usize, off: i8| ((bytes + SEAL_TAG_BYTES) as u32).wrapping_add_signed(off.into());
    let header = BlockHeader {
        entry_bytes: off(entry.len(), entry_off),
        payload_bytes: off(payload.len(), payload_off),
        block: 2,
        row: 77,
    };
    let head = header.encode();
    let sealed_entry = sealed(NonceKind::BlockEntry, &head, entry);
    let mut whole = [&head[..], &sealed_entry, &sealed(NonceKind::Payload, entry, payload)].concat();
    let alone = open_entry(&*cipher(), &whole);
    let Ok(opened) = open_block(&*cipher(), &mut whole) else { return };
    assert_eq!(alone, Ok((opened.header, opened.entry.clone())), "both ways of opening agree");
    assert_eq!((opened.entry.encode(), opened.payload), (entry.to_vec(), payload));
    assert_eq!(block_bytes(opened.entry.chunks.len(), payload.len()), header.block_bytes());
    for ordinal in [0, opened.entry.chunks.len() - 1, opened.entry.chunks.len()] {
        if let Ok(chunk) = decode_chunk(&opened.entry, opened.payload, ordinal) {
            assert_eq!(chunk.len(), opened.entry.chunks[ordinal].plain_bytes as usize);
        }
    }
}

/// Seals as blocks are sealed.
fn sealed(kind: NonceKind, associated: &[u8], plain: &[u8]) -> Vec<u8> {
    let mut bytes = plain.to_vec();
    let tag = cipher().seal(&nonce(kind, 77, 2), associated, &mut bytes);
    bytes.extend_from_slice(&tag);
    bytes
}

fn payload(input: &[u8]) {
    let mut parts = Parts(input);
    let codec = Codec::from_number((parts.number(1) % 3) as u8).expect("three codecs exist");
    let plain_bytes = parts.number(4) as usize;
    if let Ok(plain) = decompress(codec, parts.0, plain_bytes) {
        assert_eq!(plain.len(), plain_bytes);
    }
    let (hot_codec, hot) = compress(parts.0);
    let (warm_codec, warm) = compress_block(&[parts.0]);
    for (codec, packed) in [(codec, parts.0), (hot_codec, &hot[..]), (warm_codec, &warm[..])] {
        // Lengths of chunks that the payload does not have.
        let mut entry = disk::entry(3);
        (entry.codec, entry.payload_bytes) = (codec, packed.len() as u32);
        for ordinal in 0..4 {
            if let Ok(chunk) = decode_chunk(&entry, packed, ordinal) {
                assert_eq!(chunk.len(), 1000);
            }
            if let Ok(start) = decode_upto(&entry, packed, ordinal) {
                assert_eq!(start.len(), 1000 * (ordinal + 1));
            }
        }
    }
    for (codec, packed) in [(hot_codec, &hot[..]), (warm_codec, &warm[..])] {
        assert_eq!(decompress(codec, packed, parts.0.len()).as_deref(), Ok(parts.0), "what is compressed comes back");
    }
}

fn key_file(input: &[u8]) {
    let Ok(text) = str::from_utf8(input) else { return };
    let Ok(ring) = KeyRing::parse(text) else { return };
    let again = KeyRing::parse(&ring.to_text()).expect("what is written is read");
    assert_eq!((again.current(), again.to_text()), (ring.current(), ring.to_text()));
}
