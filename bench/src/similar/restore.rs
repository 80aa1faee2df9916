//! What a reader of one file reads and decodes, with a cache of decoded blocks; and one who wants single chunks, without.

use std::collections::{BTreeSet, VecDeque};

use anyhow::ensure;
use chunk::{decode_chunk, decode_upto};
use proto::limits::BLOCK_ALIGN_BYTES;
use serde::Serialize;

use super::hot::Hot;
use super::layout::Layout;
use crate::data::Random;
use crate::process::own_cpu;

/// One file, restored.
#[derive(Debug, Serialize)]
pub(super) struct Restore {
    pub(super) bytes: u64,
    /// Distinct blocks.
    pub(super) blocks: usize,
    /// Blocks read, some of them more than once.
    pub(super) reads: u64,
    /// Their stored bytes.
    pub(super) read_bytes: u64,
    pub(super) decoded_bytes: u64,
    /// Of CPU time, from memory.
    pub(super) bytes_per_s: f64,
    /// The same for the chunks as ingested.
    pub(super) hot_bytes_per_s: f64,
}

/// Chunks read in random order.
#[derive(Debug, Serialize)]
pub(super) struct RandomReads {
    /// Decoded for one chunk, on the average.
    pub(super) decoded_bytes: u64,
    /// CPU time of one chunk, from memory.
    pub(super) seconds: f64,
}

/// Chunks that are read in random order.
const RANDOM_READS: u64 = 4000;

/// Reads chunks of the file with these chunks in random order, each by itself.
pub(super) fn random_reads(layout: &Layout, manifest: &[u32]) -> anyhow::Result<RandomReads> {
    let mut random = Random::new(1);
    let (mut decoded_bytes, mut seconds) = (0, 0.0);
    for _ in 0..RANDOM_READS {
        let number = manifest[random.below(manifest.len() as u64) as usize];
        let (block, ordinal) = layout.places[number as usize];
        let (entry, payload) = &layout.blocks[block];
        let begun = own_cpu();
        let plain = decode_chunk(entry, payload, ordinal)?;
        seconds += (own_cpu() - begun).as_secs_f64();
        let range = entry.range(ordinal).expect("invariant: the chunk was laid there");
        ensure!(plain.len() == range.len(), "chunk {number} did not come back");
        decoded_bytes += range.end as u64;
    }
    Ok(RandomReads { decoded_bytes: decoded_bytes / RANDOM_READS, seconds: seconds / RANDOM_READS as f64 })
}

/// Blocks decoded last, up to some chunk, the one used longest ago first.
struct Cache {
    blocks: VecDeque<(usize, Vec<u8>)>,
    bytes: usize,
    bytes_max: usize,
}

impl Cache {
    /// Takes out a block.
    fn take(&mut self, block: usize) -> Option<Vec<u8>> {
        let at = self.blocks.iter().position(|cached| cached.0 == block)?;
        let (_, plain) = self.blocks.remove(at)?;
        self.bytes -= plain.len();
        Some(plain)
    }

    fn put(&mut self, block: usize, plain: Vec<u8>) {
        self.bytes += plain.len();
        self.blocks.push_back((block, plain));
        while self.bytes > self.bytes_max
            && let Some((_, oldest)) = self.blocks.pop_front()
        {
            self.bytes -= oldest.len();
        }
    }
}

/// Reads the file with these chunks, and compares every one with what was stored.
pub(super) fn restore(
    hot: &Hot,
    layout: &Layout,
    manifest: &[u32],
    ahead: usize,
    cache_bytes_max: usize,
) -> anyhow::Result<Restore> {
    let (mut reads, mut read_bytes, mut decoded_bytes, mut bytes) = (0, 0, 0, 0);
    let (mut seconds, mut hot_seconds) = (0.0, 0.0);
    let mut touched = BTreeSet::new();
    let mut cache = Cache { blocks: VecDeque::new(), bytes: 0, bytes_max: cache_bytes_max };
    let place = |number: &u32| layout.places[*number as usize];
    for (at, number) in manifest.iter().enumerate() {
        let begun = own_cpu();
        let (block, ordinal) = place(number);
        let (entry, payload) = &layout.blocks[block];
        let range = entry.range(ordinal).expect("invariant: the chunk was laid there");
        touched.insert(block);
        let plain = match cache.take(block) {
            Some(plain) if plain.len() >= range.end => plain,
            _ => {
                // As far as the chunks that are wanted next.
                let wanted = manifest[at..].iter().take(ahead.max(1)).map(place);
                let last = wanted.filter(|place| place.0 == block).map(|place| place.1).max().unwrap_or(ordinal);
                let plain = decode_upto(entry, payload, last)?;
                reads += 1;
                let sealed_bytes = chunk::block_bytes(entry.chunks.len(), payload.len());
                read_bytes += sealed_bytes.next_multiple_of(BLOCK_ALIGN_BYTES) as u64;
                decoded_bytes += plain.len() as u64;
                plain
            }
        };
        let decoded = own_cpu();
        let original = hot.chunks[*number as usize].plain();
        hot_seconds += (own_cpu() - decoded).as_secs_f64();
        seconds += (decoded - begun).as_secs_f64();
        ensure!(plain[range] == original, "chunk {number} did not come back");
        bytes += original.len() as u64;
        cache.put(block, plain);
    }
    let per_s = |seconds: f64| bytes as f64 / seconds.max(f64::MIN_POSITIVE);
    let (bytes_per_s, hot_bytes_per_s) = (per_s(seconds), per_s(hot_seconds));
    Ok(Restore { bytes, blocks: touched.len(), reads, read_bytes, decoded_bytes, bytes_per_s, hot_bytes_per_s })
}
