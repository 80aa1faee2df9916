//! What ingest would have stored: each distinct chunk once, compressed alone, in the order in which it came.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::Read;
use std::path::Path;

use anyhow::Context;
use chunk::similar::{Features, features};
use chunk::{ChunkerId, DomainKey, InputEnd, block_bytes, chunker, compress, decompress};
use proto::ChunkId;
use proto::disk::{Codec, HEADER_BYTES, RowTable, SEAL_TAG_BYTES};
use proto::limits::{BLOCK_ALIGN_BYTES, PAYLOAD_CHECKSUM_BYTES, ROW_PAYLOAD_BYTES_TARGET, SECTOR_BYTES};

use crate::process::own_cpu;

/// Bytes of an entry of a manifest: id, length, location.
const MANIFEST_ENTRY_BYTES: u64 = 56;
/// Bytes that are read of a file at once.
const READ_BYTES: usize = 4 << 20;

/// A distinct chunk.
pub(crate) struct HotChunk {
    pub(super) id: ChunkId,
    pub(crate) plain_bytes: u32,
    codec: Codec,
    payload: Vec<u8>,
    /// `None` of what is incompressible.
    pub(crate) features: Option<Features>,
}

impl HotChunk {
    /// The bytes of the chunk.
    pub(crate) fn plain(&self) -> Vec<u8> {
        decompress(self.codec, &self.payload, self.plain_bytes as usize).expect("invariant: we compressed it")
    }
}

/// Everything that was ingested, in memory.
#[derive(Default)]
pub(crate) struct Hot {
    /// In the order in which they were written.
    pub(crate) chunks: Vec<HotChunk>,
    known: BTreeMap<ChunkId, u32>,
    /// Of each file, the numbers of its chunks.
    pub(super) manifests: Vec<Vec<u32>>,
    pub(super) logical_bytes: u64,
    pub(crate) unique_bytes: u64,
    /// CPU time of decoding every chunk once.
    pub(super) decode_seconds: f64,
    /// CPU time of the features alone.
    pub(super) features_seconds: f64,
}

impl Hot {
    /// Stores a file.
    pub(crate) fn store(&mut self, path: &Path) -> anyhow::Result<()> {
        let mut file = File::open(path).with_context(|| path.display().to_string())?;
        let chunker = chunker(ChunkerId::FASTCDC_64_KIB).expect("invariant: the default chunker exists");
        let key = DomainKey::new([7; 32]);
        let (mut manifest, mut pending) = (Vec::new(), Vec::new());
        loop {
            let read = (&mut file).take(READ_BYTES as u64).read_to_end(&mut pending)?;
            let end = if read == 0 { InputEnd::Last } else { InputEnd::MoreFollows };
            let mut rest = &pending[..];
            while let Some(bytes) = chunker.cut(rest, end) {
                let (plain, after) = rest.split_at(bytes);
                rest = after;
                manifest.push(self.add(key.chunk_id(plain), plain));
            }
            if read == 0 {
                break;
            }
            let done = pending.len() - rest.len();
            pending.drain(..done);
        }
        self.manifests.push(manifest);
        Ok(())
    }

    fn add(&mut self, id: ChunkId, plain: &[u8]) -> u32 {
        self.logical_bytes += plain.len() as u64;
        let next = self.chunks.len() as u32;
        let number = *self.known.entry(id).or_insert(next);
        if number == next {
            self.unique_bytes += plain.len() as u64;
            let (codec, payload) = compress(plain);
            let (plain_bytes, payload) = (plain.len() as u32, payload.into_owned());
            self.chunks.push(HotChunk { id, plain_bytes, codec, payload, features: None });
        }
        number
    }

    /// Computes the features of all chunks.
    pub(crate) fn sketch(&mut self) {
        for chunk in &mut self.chunks {
            let begun = own_cpu();
            let plain = chunk.plain();
            let decoded = own_cpu();
            chunk.features = (!chunk::is_incompressible(&plain)).then(|| features(&plain));
            self.decode_seconds += (decoded - begun).as_secs_f64();
            self.features_seconds += (own_cpu() - decoded).as_secs_f64();
        }
    }

    /// CPU time of decoding every chunk and taking its features.
    pub(super) fn sketch_seconds(&self) -> f64 {
        self.decode_seconds + self.features_seconds
    }

    /// Bytes of the lists of chunks.
    pub(super) fn manifest_bytes(&self) -> u64 {
        self.manifests.iter().map(|manifest| manifest.len() as u64 * MANIFEST_ENTRY_BYTES).sum()
    }

    /// Bytes of all rows and manifests.
    pub(super) fn stored_bytes(&self) -> u64 {
        let mut rows = Rows::default();
        self.chunks.iter().for_each(|chunk| rows.add(1, chunk.payload.len()));
        rows.bytes() + self.manifest_bytes()
    }
}

/// Counts the bytes of rows, before redundancy: one piece, with everything around its blocks.
#[derive(Default)]
pub(super) struct Rows {
    whole_bytes: u64,
    payload_bytes: usize,
    table_bytes: usize,
}

impl Rows {
    /// Adds a block.
    pub(super) fn add(&mut self, chunks: usize, payload_bytes: usize) {
        self.payload_bytes += block_bytes(chunks, payload_bytes).next_multiple_of(BLOCK_ALIGN_BYTES);
        self.table_bytes += RowTable::block_bytes(chunks);
        if self.payload_bytes >= ROW_PAYLOAD_BYTES_TARGET {
            self.whole_bytes = self.bytes();
            (self.payload_bytes, self.table_bytes) = (0, 0);
        }
    }

    /// Bytes so far.
    pub(super) fn bytes(&self) -> u64 {
        if self.payload_bytes == 0 {
            return self.whole_bytes;
        }
        let checksums = self.payload_bytes.div_ceil(PAYLOAD_CHECKSUM_BYTES) * 8;
        let head = HEADER_BYTES + checksums + RowTable::default().encoded_bytes() + self.table_bytes + SEAL_TAG_BYTES;
        let piece = head.next_multiple_of(BLOCK_ALIGN_BYTES) + self.payload_bytes;
        self.whole_bytes + piece.next_multiple_of(SECTOR_BYTES) as u64
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_row_counts_its_header_its_table_and_its_padding() {
        let mut rows = Rows::default();
        assert_eq!(rows.bytes(), 0);
        rows.add(1, 1000);
        assert_eq!(rows.bytes(), 4096);
        for _ in 0..1000 {
            rows.add(2, 4000);
        }
        let blocks = 1000 * (block_bytes(2, 4000).next_multiple_of(64) + RowTable::block_bytes(2)) as u64;
        assert!(rows.bytes() > blocks && rows.bytes() < blocks + blocks / 200, "{} {blocks}", rows.bytes());
    }
}
