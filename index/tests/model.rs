//! The index against a plain map, at sizes at which groups split, chain and shrink.

use std::collections::BTreeMap;

use index::{
    Coverage, ExportCursor, ImportStats, Index, Lookup, PAGE_BYTES_MAX, PAGE_BYTES_MIN, PageError, page_shard,
};
use proptest::prelude::*;
use proto::disk::FormatError;
use proto::{ChunkId, Location, SegmentId, VirtualShard};

fn location(segment: u64, offset: u32) -> Location {
    Location { segment: SegmentId(segment), column: 3, offset: offset * 64, sectors: 17, ordinal: 5 }
}

/// A stream of numbers (SplitMix64).
struct Rng(u64);

impl Rng {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    fn below(&mut self, end: u64) -> u64 {
        self.next() % end
    }
}

/// How the ids of a test are spread over the index.
#[derive(Clone, Copy, Debug)]
enum Spread {
    /// As keyed hashes are.
    Uniform,
    /// All in one group, as only somebody with the key could make them.
    OneGroup,
    /// All in one bucket, with one fingerprint.
    OneBucket,
}

/// Id `number` of virtual shard 0.
fn id(spread: Spread, number: u64) -> ChunkId {
    let mut id = ChunkId::default();
    let (low, high) = (Rng(number).next(), Rng(!number).next());
    match spread {
        Spread::Uniform => {
            id.0[3..11].copy_from_slice(&low.to_le_bytes());
            id.0[11..15].copy_from_slice(&high.to_le_bytes()[..4]);
        }
        Spread::OneGroup => id.0[8..14].copy_from_slice(&low.to_le_bytes()[..6]),
        // Bits of the key above those of any group, and below those of the home.
        Spread::OneBucket => id.0[5..8].copy_from_slice(&(number as u32).to_le_bytes()[..3]),
    }
    assert_eq!(id.virtual_shard(), VirtualShard(0));
    id
}

/// Inserts, replaces and removes ids below `ids` in an index and in a map.
struct Both {
    index: Index,
    model: BTreeMap<ChunkId, Location>,
    spread: Spread,
    ids: u64,
    rng: Rng,
}

impl Both {
    fn new(spread: Spread, ids: u64, seed: u64) -> Both {
        Both { index: complete_index(), model: BTreeMap::new(), spread, ids, rng: Rng(seed) }
    }

    /// One change: a removal with a chance of `removals` in 100.
    fn step(&mut self, removals: u64) {
        let id = id(self.spread, self.rng.below(self.ids));
        if self.rng.below(100) < removals {
            if let Some(known) = self.model.remove(&id) {
                assert!(self.index.remove(&id, known));
            }
        } else {
            let location = location(self.rng.below(50), self.rng.below(1 << 20) as u32);
            self.index.insert(&id, location);
            self.model.insert(id, location);
        }
    }

    /// Asserts that `index`, this one or a copy, knows what the map knows.
    fn agree(&self, index: &Index) {
        assert_eq!(index.chunks(), self.model.len() as u64);
        for number in 0..self.ids {
            let id = id(self.spread, number);
            let expected = self.model.get(&id).map_or(Lookup::Absent, |known| Lookup::Found(*known));
            assert_eq!(index.lookup(&id), expected, "id {number}");
        }
    }
}

/// All pages of a walk; `between` runs after each.
fn walk(both: &mut Both, page_bytes_max: usize, mut between: impl FnMut(&mut Both)) -> Vec<Vec<u8>> {
    let mut pages = Vec::new();
    let mut cursor = Some(ExportCursor::default());
    while let Some(from) = cursor {
        let (page, next) = both.index.export(VirtualShard(0), from, page_bytes_max);
        assert!(page.len() <= page_bytes_max);
        assert_eq!(page_shard(&page), Ok(VirtualShard(0)));
        pages.push(page);
        cursor = next;
        between(both);
    }
    pages
}

fn complete_index() -> Index {
    let mut index = Index::new([VirtualShard(0)]);
    index.set_coverage(Coverage::Complete);
    index
}

#[test]
fn index_agrees_with_a_map_while_it_grows_and_shrinks() {
    for (spread, ids) in [(Spread::Uniform, 20_000), (Spread::OneGroup, 2_000), (Spread::OneBucket, 2_000)] {
        let mut both = Both::new(spread, ids, 7);
        for removals in [10, 95, 50, 10, 100] {
            for _ in 0..ids * 2 {
                both.step(removals);
            }
            both.agree(&both.index);
        }
    }
}

#[test]
fn removals_and_inserts_in_balance_do_not_grow_the_index() {
    let mut index = Index::new([VirtualShard(0)]);
    let chunks = 30_000u64;
    for number in 0..chunks {
        index.insert(&id(Spread::Uniform, number), location(number / 1000, number as u32));
    }
    let grown = index.memory_bytes();
    // Segment by segment leaves and another comes, as under compaction.
    for number in 0..chunks * 5 {
        assert!(index.remove(&id(Spread::Uniform, number), location(number / 1000, number as u32 % (1 << 20))));
        let new = number + chunks;
        index.insert(&id(Spread::Uniform, new), location(new / 1000, new as u32 % (1 << 20)));
    }
    assert_eq!(index.chunks(), chunks);
    assert!(index.memory_bytes() <= grown + grown / 10, "{grown} bytes became {}", index.memory_bytes());
}

#[test]
fn a_loaded_index_is_the_saved_one() {
    for (spread, ids) in [(Spread::Uniform, 60_000), (Spread::OneGroup, 3_000)] {
        let mut both = Both::new(spread, ids, 11);
        (0..ids).for_each(|_| both.step(5));
        for page_bytes_max in [PAGE_BYTES_MIN, PAGE_BYTES_MAX] {
            let mut loaded = complete_index();
            let mut added = 0;
            for page in walk(&mut both, page_bytes_max, |_| ()) {
                let stats = loaded.import(&page, |_| true).unwrap();
                assert_eq!((stats.known, stats.skipped), (0, 0), "a walk over a quiet index has no duplicates");
                added += stats.added;
            }
            assert_eq!(added, both.index.chunks());
            both.agree(&loaded);
        }
    }
}

#[test]
fn an_empty_partition_has_one_empty_page() {
    let (page, next) = complete_index().export(VirtualShard(0), ExportCursor::default(), PAGE_BYTES_MIN);
    assert_eq!(next, None);
    assert_eq!(complete_index().import(&page, |_| true), Ok(ImportStats::default()));
}

#[test]
fn an_import_leaves_known_chunks_and_refused_segments_alone() {
    let (one, two, three) = (id(Spread::Uniform, 1), id(Spread::Uniform, 2), id(Spread::Uniform, 3));
    let mut saved = complete_index();
    saved.insert(&one, location(1, 1));
    saved.insert(&two, location(2, 2));
    saved.insert(&three, location(3, 3));
    let (page, _) = saved.export(VirtualShard(0), ExportCursor::default(), PAGE_BYTES_MIN);

    let mut index = complete_index();
    index.set_epoch(9);
    index.insert(&one, location(7, 7));
    index.set_epoch(10);
    let stats = index.import(&page, |segment| segment != SegmentId(2));
    assert_eq!(stats, Ok(ImportStats { added: 1, known: 1, elsewhere: vec![location(1, 1)], skipped: 1 }));
    let again = index.import(&page, |segment| segment == SegmentId(3)).unwrap();
    assert_eq!((again.known, again.elsewhere), (1, vec![]), "a page may come twice");
    assert_eq!(index.lookup(&one), Lookup::Found(location(7, 7)));
    assert_eq!(index.lookup(&two), Lookup::Absent);
    assert_eq!(index.lookup(&three), Lookup::Found(location(3, 3)));
    assert_eq!((index.pin_age(&one), index.pin_age(&three)), (Some(1), Some(0)), "a start counts as new ownership");
}

#[test]
fn another_cores_page_is_refused() {
    let (page, _) = complete_index().export(VirtualShard(0), ExportCursor::default(), PAGE_BYTES_MIN);
    let mut other = Index::new([VirtualShard(1)]);
    assert_eq!(other.import(&page, |_| true), Err(PageError::NotOwned(VirtualShard(0))));
}

#[test]
fn a_damaged_page_changes_nothing_or_adds_no_more_than_it_names() {
    let mut both = Both::new(Spread::Uniform, 40, 3);
    (0..60).for_each(|_| both.step(0));
    let entries = both.index.chunks();
    let page = walk(&mut both, PAGE_BYTES_MAX, |_| ()).remove(0);
    for len in 0..page.len() {
        let mut index = complete_index();
        assert!(matches!(index.import(&page[..len], |_| true), Err(PageError::Format(_))), "truncation to {len}");
        assert_eq!(index.chunks(), 0);
    }
    for bit in 0..page.len() * 8 {
        let mut damaged = page.clone();
        damaged[bit / 8] ^= 1 << (bit % 8);
        let mut index = complete_index();
        match index.import(&damaged, |_| true) {
            Ok(stats) => {
                assert_eq!(stats.added + stats.known, entries, "flip of bit {bit}");
                assert_eq!(index.chunks(), stats.added);
            }
            Err(PageError::NotOwned(shard)) => assert_ne!(shard, VirtualShard(0)),
            Err(PageError::Format(error)) => {
                assert!(!matches!(error, FormatError::Checksum { .. }), "a page has none of its own");
                assert_eq!(index.chunks(), 0);
            }
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    #[test]
    fn a_walk_misses_nothing_that_stays(seed: u64, uniform: bool, first in 0u64..4_000, steps in 0u64..400, removals in 0u64..60) {
        let (spread, ids) = if uniform { (Spread::Uniform, 20_000) } else { (Spread::OneGroup, 2_000) };
        let mut both = Both::new(spread, ids, seed);
        (0..first).for_each(|_| both.step(0));
        // What is there all the time with one location, and what is there at some time.
        let mut stays = both.model.clone();
        let mut ever: BTreeMap<ChunkId, Vec<Location>> = BTreeMap::new();
        let mut note = |model: &BTreeMap<ChunkId, Location>| {
            for (id, location) in model {
                let known = ever.entry(*id).or_default();
                if !known.contains(location) {
                    known.push(*location);
                }
            }
        };
        note(&both.model);
        let pages = walk(&mut both, PAGE_BYTES_MIN, |both| {
            // A change now and then, so that the walk comes to its end.
            for _ in 0..steps.min(both.rng.below(400)) {
                both.step(removals);
            }
            stays.retain(|id, location| both.model.get(id) == Some(location));
            note(&both.model);
        });
        let mut loaded = complete_index();
        for page in pages {
            prop_assert!(loaded.import(&page, |_| true).is_ok());
        }
        for number in 0..ids {
            let id = id(spread, number);
            match loaded.lookup(&id) {
                Lookup::Found(location) => prop_assert!(ever[&id].contains(&location), "id {number}"),
                _ => prop_assert!(!stays.contains_key(&id), "id {number} was there all the time"),
            }
        }
    }
}
