//! Nanoseconds per operation of the index, beside a plain hash table of 24-byte entries with the same bits.
//!
//! `cargo bench -p index`; `INDEX_CHUNKS` sets the number of chunks, 10 million by default. Both tables are measured
//! in turns, and what is counted is the time on a processor, so that a busy machine disturbs little.

#![expect(
    clippy::disallowed_methods,
    reason = "a benchmark is asked by its environment, and asks the kernel what it used"
)]

use std::hint::black_box;

use hashbrown::HashTable;
use index::{Coverage, ExportCursor, Index, Lookup, PAGE_BYTES_MAX};
use proto::limits::VIRTUAL_SHARDS;
use proto::{ChunkId, Location, SegmentId, VirtualShard};

const ROUNDS: usize = 5;
const LOOKUPS: u64 = 2_000_000;
const SEGMENT_CHUNKS: u64 = 1024;

fn mix(number: u64) -> u64 {
    let mut z = number.wrapping_mul(0x9e37_79b9_7f4a_7c15);
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

fn id(number: u64) -> ChunkId {
    let mut id = ChunkId::default();
    id.0[..8].copy_from_slice(&mix(number * 2).to_le_bytes());
    id.0[8..16].copy_from_slice(&mix(number * 2 + 1).to_le_bytes());
    id
}

fn location(number: u64) -> Location {
    let offset = (number % SEGMENT_CHUNKS) as u32 * (64 << 10);
    Location { segment: SegmentId::new(1, number / SEGMENT_CHUNKS), column: 0, offset, sectors: 17, ordinal: 0 }
}

/// One table for each virtual shard, of entries of 24 bytes.
struct Plain {
    partitions: Vec<HashTable<([u8; 12], [u32; 3])>>,
}

impl Plain {
    fn new() -> Plain {
        Plain { partitions: (0..VIRTUAL_SHARDS).map(|_| HashTable::new()).collect() }
    }

    fn tag(id: &ChunkId) -> [u8; 12] {
        id.0[3..15].try_into().expect("twelve bytes")
    }

    fn hash(tag: &[u8; 12]) -> u64 {
        u64::from_le_bytes(tag[4..].try_into().expect("eight bytes"))
    }

    fn insert(&mut self, id: &ChunkId, location: Location) {
        let tag = Plain::tag(id);
        let place = location.pack() as u64;
        let value = (tag, [location.segment.0 as u32, place as u32, (place >> 32) as u32 & 0x1ffff]);
        let table = &mut self.partitions[usize::from(id.virtual_shard().0)];
        match table.find_mut(Plain::hash(&tag), |known| known.0 == tag) {
            Some(known) => *known = value,
            None => {
                table.insert_unique(Plain::hash(&tag), value, |known| Plain::hash(&known.0));
            }
        }
    }

    fn lookup(&self, id: &ChunkId) -> Option<Location> {
        let tag = Plain::tag(id);
        let table = &self.partitions[usize::from(id.virtual_shard().0)];
        let known = table.find(Plain::hash(&tag), |known| known.0 == tag)?;
        let place = u128::from(known.1[1]) | u128::from(known.1[2]) << 32;
        Location::unpack(place | (1u128 << 24 | u128::from(known.1[0])) << 49)
    }

    fn memory_bytes(&self) -> usize {
        self.partitions.iter().map(HashTable::allocation_size).sum()
    }
}

/// Nanoseconds that this thread has spent on a processor.
fn cpu_ns() -> f64 {
    let schedstat = std::fs::read_to_string("/proc/thread-self/schedstat").expect("a kernel with schedstat");
    schedstat.split(' ').next().and_then(|ns| ns.parse().ok()).expect("nanoseconds")
}

/// Nanoseconds of each of `count` calls.
fn ns_each(count: u64, call: impl FnMut(u64)) -> f64 {
    let begin = cpu_ns();
    (0..count).for_each(call);
    (cpu_ns() - begin) / count as f64
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

fn rss_bytes() -> usize {
    let pages = std::fs::read_to_string("/proc/self/statm").expect("statm of this process");
    pages.split(' ').nth(1).and_then(|pages| pages.parse::<usize>().ok()).expect("a number of pages") * 4096
}

fn main() {
    let chunks: u64 = std::env::var("INDEX_CHUNKS").map_or(10_000_000, |chunks| chunks.parse().expect("a number"));
    let shards = || (0..VIRTUAL_SHARDS as u8).map(VirtualShard);

    let before = rss_bytes();
    let mut index = Index::new(shards());
    let insert = ns_each(chunks, |number| index.insert(&id(number), location(number)));
    let resident = (rss_bytes() - before) as f64 / chunks as f64;
    index.set_coverage(Coverage::Complete);
    let mut plain = Plain::new();
    let plain_insert = ns_each(chunks, |number| plain.insert(&id(number), location(number)));
    let bytes = |bytes: usize| bytes as f64 / chunks as f64;
    println!("{chunks} chunks                     index     plain");
    println!("bytes per chunk            {:9.2} {:9.2}", bytes(index.memory_bytes()), bytes(plain.memory_bytes()));
    println!("resident bytes per chunk   {resident:9.2}");
    println!("insert, growing, ns        {insert:9.1} {plain_insert:9.1}");

    let mut results: [[Vec<f64>; 2]; 3] = Default::default();
    for round in 0..ROUNDS as u64 {
        let known = |number: u64| id(mix(number + round * LOOKUPS) % chunks);
        let unknown = |number: u64| id(chunks + number + round * LOOKUPS);
        results[0][0]
            .push(ns_each(LOOKUPS, |number| assert!(matches!(index.lookup(&known(number)), Lookup::Found(_)))));
        results[0][1].push(ns_each(LOOKUPS, |number| assert!(plain.lookup(&known(number)).is_some())));
        results[1][0].push(ns_each(LOOKUPS, |number| assert_eq!(index.lookup(&unknown(number)), Lookup::Absent)));
        results[1][1].push(ns_each(LOOKUPS, |number| assert!(plain.lookup(&unknown(number)).is_none())));
        let make = |number: u64| {
            black_box(known(number));
        };
        results[2][0].push(ns_each(LOOKUPS, make));
        results[2][1].push(ns_each(LOOKUPS, make));
    }
    for (what, [index, plain]) in ["lookup hit, ns", "lookup miss, ns", "making an id alone, ns"].iter().zip(results) {
        println!("{what:26} {:9.1} {:9.1}", median(index), median(plain));
    }
    drop(plain);

    let begin = cpu_ns();
    let mut pages = Vec::new();
    for shard in shards() {
        let mut cursor = Some(ExportCursor::default());
        while let Some(from) = cursor {
            let (page, next) = index.export(shard, from, PAGE_BYTES_MAX);
            pages.push(page);
            cursor = next;
        }
    }
    let export = (cpu_ns() - begin) / chunks as f64;
    let page_bytes: usize = pages.iter().map(Vec::len).sum();
    drop(index);
    let begin = cpu_ns();
    let mut index = Index::new(shards());
    for page in &pages {
        index.import(page, |_| true).expect("our own page");
    }
    let import = (cpu_ns() - begin) / chunks as f64;
    assert_eq!(index.chunks(), chunks);
    println!("export, ns per chunk       {export:9.1}");
    println!("import, ns per chunk       {import:9.1}");
    println!("page bytes per chunk       {:9.2}   in {} pages", bytes(page_bytes), pages.len());
    println!("bytes per chunk, imported  {:9.2}", bytes(index.memory_bytes()));
}
