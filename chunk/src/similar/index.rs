//! Where the planner looks super-features up: a table of fixed size.
//!
//! Buckets of [`WAYS`] entries, the last used first. A full bucket forgets the one that was used longest ago: that costs
//! a match, never a mistake. A key may rarely belong to another feature; then chunks that are not alike lie together,
//! which costs a little space.

/// Entries of one bucket.
const WAYS: usize = 4;

#[derive(Clone, Copy)]
struct Entry {
    /// The super-feature; 0 in an entry that is free.
    key: u32,
    chunk: u32,
}

/// Which chunk had a super-feature last.
pub(super) struct MatchIndex {
    entries: Vec<Entry>,
    bucket_bits: u32,
}

impl MatchIndex {
    /// Returns an index of `entries_max` entries, rounded up to a power of two.
    pub(super) fn new(entries_max: usize) -> MatchIndex {
        let buckets = entries_max.div_ceil(WAYS).next_power_of_two();
        MatchIndex { entries: vec![Entry { key: 0, chunk: 0 }; buckets * WAYS], bucket_bits: buckets.ilog2() }
    }

    /// Enters `chunk` under `key`, and returns the chunk that was there.
    ///
    /// Panics: if the key is 0.
    pub(super) fn replace(&mut self, key: u32, chunk: u32) -> Option<u32> {
        assert!(key != 0, "invariant: 0 marks a free entry");
        // The key is a hash; another multiplication takes the bucket from all of its bits.
        let spread = u64::from(key.wrapping_mul(0x9e37_79b1));
        let bucket = ((spread << self.bucket_bits) >> 32) as usize * WAYS;
        let ways = &mut self.entries[bucket..bucket + WAYS];
        let found = ways.iter().position(|entry| entry.key == key);
        let old = found.map(|way| ways[way].chunk);
        ways[..=found.unwrap_or(WAYS - 1)].rotate_right(1);
        ways[0] = Entry { key, chunk };
        old
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_chunk_under_a_key_is_found() {
        let mut index = MatchIndex::new(4096);
        for round in 0..3 {
            for key in 1..200 {
                let old = index.replace(key * 77_777, round * 1000 + key);
                assert_eq!(old, (round > 0).then(|| (round - 1) * 1000 + key));
            }
        }
    }

    #[test]
    fn a_full_bucket_forgets_what_was_used_longest_ago() {
        let mut index = MatchIndex::new(WAYS);
        (1..=4).for_each(|key| assert_eq!(index.replace(key, key), None));
        assert_eq!(index.replace(1, 10), Some(1));
        assert_eq!(index.replace(5, 5), None);
        assert_eq!(index.replace(2, 20), None, "it was used longest ago when 5 came");
        assert_eq!(index.replace(1, 11), Some(10));
    }

    #[test]
    fn memory_is_taken_once() {
        let mut index = MatchIndex::new(1000);
        assert!((1..100_000).all(|key| index.replace(key, key).is_none()));
        assert_eq!(index.entries.len(), 1024);
    }
}
