//! What the index costs, counted by the allocator itself.
//!
//! The counts are of this process, so this file holds one test.

#![allow(unsafe_code, reason = "a global allocator cannot be written without")]

use std::alloc::{GlobalAlloc, Layout, System};
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};

use index::{Index, Lookup};
use proto::limits::VIRTUAL_SHARDS;
use proto::{ChunkId, Location, SegmentId, VirtualShard};

/// The system's allocator, with a count of the bytes that are allocated and of the most that ever were.
struct Counting;

static NOW: AtomicUsize = AtomicUsize::new(0);
static PEAK: AtomicUsize = AtomicUsize::new(0);

// SAFETY: every call is passed on unchanged; `realloc` is the default one, so old and new bytes count together.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        let now = NOW.fetch_add(layout.size(), Relaxed) + layout.size();
        PEAK.fetch_max(now, Relaxed);
        // SAFETY: the caller's promises are those that the system's allocator asks for.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, at: *mut u8, layout: Layout) {
        NOW.fetch_sub(layout.size(), Relaxed);
        // SAFETY: as above.
        unsafe { System.dealloc(at, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

const BYTES_PER_CHUNK_MAX: usize = 24;
const CHUNKS_MIN: usize = 100_000;
/// More than one round of splits.
const CHUNKS_MAX: usize = 210_000;
/// Chunks of 64 KiB in a segment of 64 MiB.
const SEGMENT_CHUNKS: u64 = 1024;

/// The `number`th of a stream of ids (SplitMix64), in a shard below `shards`.
fn id(number: u64, shards: u64) -> ChunkId {
    let word = |salt: u64| {
        let mut z = (number * 2 + salt).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    };
    let mut id = ChunkId::default();
    id.0[..8].copy_from_slice(&word(0).to_le_bytes());
    id.0[8..16].copy_from_slice(&word(1).to_le_bytes());
    // The shard's bits, chosen here so that an index of few shards can be filled.
    let shard = (u16::from(id.virtual_shard().0) % shards as u16) << 4;
    id.0[1] = id.0[1] & 0xfc | (shard >> 8) as u8;
    id.0[2] = id.0[2] & 0x0f | shard as u8;
    id
}

fn location(number: u64) -> Location {
    let offset = (number % SEGMENT_CHUNKS) as u32 * (64 << 10);
    Location { segment: SegmentId::new(1, number / SEGMENT_CHUNKS), column: 0, offset, sectors: 17, ordinal: 0 }
}

/// Grows an index of `shards` partitions. Returns the highest bytes per chunk, at peaks too.
fn grow(shards: usize) -> f64 {
    let before = NOW.load(Relaxed);
    let mut index = Index::new((0..shards as u8).map(VirtualShard));
    let mut worst: f64 = 0.0;
    for chunks in 1..=CHUNKS_MAX {
        let number = chunks as u64;
        PEAK.store(NOW.load(Relaxed), Relaxed);
        index.insert(&id(number, shards as u64), location(number));
        if chunks < CHUNKS_MIN {
            continue;
        }
        let peak = PEAK.load(Relaxed) - before;
        worst = worst.max(peak as f64 / chunks as f64);
        assert!(
            peak <= chunks * BYTES_PER_CHUNK_MAX,
            "{shards} shards, {chunks} chunks: {:.2} bytes each",
            peak as f64 / chunks as f64
        );
        if chunks % 1000 == 0 {
            assert_eq!(index.memory_bytes(), NOW.load(Relaxed) - before, "{shards} shards, {chunks} chunks");
        }
    }
    assert_eq!(index.chunks(), CHUNKS_MAX as u64);
    assert_eq!(index.lookup(&id(1, shards as u64)), Lookup::Found(location(1)));
    drop(index);
    assert_eq!(NOW.load(Relaxed), before, "all of it was the index");
    worst
}

#[test]
fn a_chunk_costs_at_most_24_bytes_at_every_size_and_memory_bytes_is_honest() {
    for shards in [VIRTUAL_SHARDS, 5, 1] {
        let worst = grow(shards);
        println!("{shards} shards: at most {worst:.2} bytes per chunk");
    }
}
