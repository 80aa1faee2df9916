//! Which sectors of a file the device has given away: preallocation takes space but holds no bytes.

use std::ops::Range;

/// A set of sectors, one bit each.
#[derive(Clone, Debug, Default)]
pub(super) struct Allocation {
    words: Vec<u64>,
}

impl Allocation {
    /// Sectors of the set.
    pub(super) fn sectors(&self) -> u64 {
        self.words.iter().map(|word| u64::from(word.count_ones())).sum()
    }

    /// Sectors of `range` outside the set.
    pub(super) fn missing(&self, range: Range<u64>) -> u64 {
        let len = range.end.saturating_sub(range.start);
        let taken: u32 = self.masks(range).map(|(index, mask)| (self.words[index] & mask).count_ones()).sum();
        len - u64::from(taken)
    }

    /// Adds `range`.
    pub(super) fn take(&mut self, range: Range<u64>) {
        let words = range.end.div_ceil(64) as usize;
        if words > self.words.len() && !range.is_empty() {
            self.words.resize(words, 0);
        }
        for (index, mask) in self.masks(range) {
            self.words[index] |= mask;
        }
    }

    /// Removes `range`.
    pub(super) fn give_back(&mut self, range: Range<u64>) {
        for (index, mask) in self.masks(range) {
            self.words[index] &= !mask;
        }
    }

    /// The words that `range` touches, each with the bits it covers.
    fn masks(&self, range: Range<u64>) -> impl Iterator<Item = (usize, u64)> + use<> {
        let end = range.end.min(self.words.len() as u64 * 64);
        let start = range.start.min(end);
        // An empty range touches no word, also when it lies inside one.
        let words = if start == end { 0..0 } else { start / 64..end.div_ceil(64) };
        words.map(move |word| {
            let low = start.max(word * 64) - word * 64;
            let high = end.min(word * 64 + 64) - word * 64;
            (word as usize, (u64::MAX >> (64 - (high - low))) << low)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sim::random::Random;
    use std::collections::BTreeSet;

    #[test]
    fn it_behaves_like_a_set_of_numbers() {
        let mut random = Random::new(5);
        let (mut bits, mut model) = (Allocation::default(), BTreeSet::new());
        for _ in 0..2000 {
            let start = random.below(300);
            let range = start..start + random.below(150);
            assert_eq!(bits.missing(range.clone()), range.clone().filter(|one| !model.contains(one)).count() as u64);
            if random.chance(1, 2) {
                bits.take(range.clone());
                model.extend(range);
            } else {
                bits.give_back(range.clone());
                model.retain(|one| !range.contains(one));
            }
            assert_eq!(bits.sectors(), model.len() as u64);
        }
        bits.give_back(0..u64::MAX);
        assert_eq!(bits.sectors(), 0);
    }
}
