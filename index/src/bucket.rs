//! Buckets of 32 slots, and the memory they come from.
//!
//! ```text
//!   0   fingerprint [2] × 32       one cache line: a miss reads nothing else of the bucket
//!  64   rest [18] × 32             nine cache lines
//! ```
//!
//! Buckets of all partitions of a core come from one set of pages, so growth needs no copy and leaves no holes: the
//! slack is part of one page. Pages are never given back; buckets that a group no longer needs serve the next.

use crate::key::Tag;
use crate::slot::{Rest, Slot};

/// Slots of one bucket.
pub(crate) const SLOTS: usize = 32;
/// Fingerprints in a word.
const LANES: usize = 4;
const WORDS: usize = SLOTS / LANES;
/// Buckets of one page: 20 KiB.
const PAGE_BUCKETS: usize = 32;

/// See the module.
#[derive(Clone, Debug)]
#[repr(C, align(64))]
pub(crate) struct Bucket {
    fingerprints: [u64; WORDS],
    rests: [Rest; SLOTS],
}

const _: () = assert!(size_of::<Bucket>() == 640);

impl Bucket {
    const EMPTY: Bucket = Bucket { fingerprints: [0; WORDS], rests: [Rest::EMPTY; SLOTS] };

    /// The slots whose fingerprint is `fingerprint`.
    ///
    /// Compares four at a time in plain 64-bit arithmetic, which the compiler turns into vectors: a zero lane of the
    /// difference is one in which neither the addition carries into the top bit nor the top bit is set.
    fn with_fingerprint(&self, fingerprint: u16) -> Candidates {
        const LOW: u64 = 0x7fff_7fff_7fff_7fff;
        let wanted = u64::from(fingerprint) * 0x0001_0001_0001_0001;
        let mut found = 0;
        for (word, fingerprints) in self.fingerprints.iter().enumerate() {
            let differs = fingerprints ^ wanted;
            let equal = !(((differs & LOW) + LOW) | differs | LOW);
            found |= equal >> (15 - word);
        }
        Candidates(found)
    }

    pub(crate) fn find(&self, tag: Tag) -> Option<usize> {
        self.with_fingerprint(tag.fingerprint).find(|slot| self.rests[*slot].matches(tag))
    }

    /// Puts an entry into an empty slot; `false` if there is none.
    pub(crate) fn put(&mut self, entry: &Slot) -> bool {
        let Some(slot) = self.with_fingerprint(0).find(|slot| self.rests[*slot].is_empty()) else { return false };
        self.fingerprints[slot / LANES] |= u64::from(entry.fingerprint) << (slot % LANES * 16);
        self.rests[slot] = entry.rest;
        true
    }

    pub(crate) fn clear(&mut self, slot: usize) {
        self.fingerprints[slot / LANES] &= !(0xffff << (slot % LANES * 16));
        self.rests[slot] = Rest::EMPTY;
    }

    pub(crate) fn entries(&self) -> impl Iterator<Item = Slot> {
        let fingerprint = |slot: usize| (self.fingerprints[slot / LANES] >> (slot % LANES * 16)) as u16;
        let slots = self.rests.iter().enumerate().filter(|(_, rest)| !rest.is_empty());
        slots.map(move |(slot, rest)| Slot { fingerprint: fingerprint(slot), rest: *rest })
    }
}

/// Slots, as bits: bit 16 · lane + word.
struct Candidates(u64);

impl Iterator for Candidates {
    type Item = usize;

    fn next(&mut self) -> Option<usize> {
        if self.0 == 0 {
            return None;
        }
        let bit = self.0.trailing_zeros() as usize;
        self.0 &= self.0 - 1;
        Some(bit % 16 * LANES + bit / 16)
    }
}

/// Number of a bucket of this core.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct BucketNumber(u32);

impl BucketNumber {
    pub(crate) const NONE: BucketNumber = BucketNumber(u32::MAX);
}

/// Where an entry lies, until the index is changed.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Found {
    pub(crate) bucket: BucketNumber,
    pub(crate) slot: usize,
}

/// The buckets of one core.
#[derive(Debug, Default)]
pub(crate) struct Buckets {
    pages: Vec<Box<[Bucket]>>,
    /// Buckets ever taken; those behind them in the last page were never used.
    taken: usize,
    free: Vec<BucketNumber>,
    /// Entries that a group is being rebuilt with; kept for the next time.
    moving: Vec<Slot>,
}

impl Buckets {
    /// Hands out an empty bucket.
    pub(crate) fn take(&mut self) -> BucketNumber {
        if let Some(number) = self.free.pop() {
            return number;
        }
        if self.taken == self.pages.len() * PAGE_BUCKETS {
            self.pages.push(vec![Bucket::EMPTY; PAGE_BUCKETS].into_boxed_slice());
        }
        let number = u32::try_from(self.taken).expect("invariant: memory has fewer than 2^32 buckets");
        self.taken += 1;
        BucketNumber(number)
    }

    /// Takes back a bucket that is empty again.
    pub(crate) fn give_back(&mut self, number: BucketNumber) {
        self.free.push(number);
    }

    pub(crate) fn get(&self, number: BucketNumber) -> &Bucket {
        let number = number.0 as usize;
        &self.pages[number / PAGE_BUCKETS][number % PAGE_BUCKETS]
    }

    pub(crate) fn get_mut(&mut self, number: BucketNumber) -> &mut Bucket {
        let number = number.0 as usize;
        &mut self.pages[number / PAGE_BUCKETS][number % PAGE_BUCKETS]
    }

    /// The entry at `at`, which a search has just found.
    pub(crate) fn rest(&self, at: Found) -> &Rest {
        &self.get(at.bucket).rests[at.slot]
    }

    /// As [`Buckets::rest`].
    pub(crate) fn rest_mut(&mut self, at: Found) -> &mut Rest {
        &mut self.get_mut(at.bucket).rests[at.slot]
    }

    /// Moves all entries of a bucket to `moving`.
    pub(crate) fn drain(&mut self, number: BucketNumber, moving: &mut Vec<Slot>) {
        let bucket = self.get_mut(number);
        moving.extend(bucket.entries());
        *bucket = Bucket::EMPTY;
    }

    /// Lends the list of moving entries, which is empty; [`Buckets::put_moving_back`] ends the loan.
    pub(crate) fn lend_moving(&mut self) -> Vec<Slot> {
        std::mem::take(&mut self.moving)
    }

    pub(crate) fn put_moving_back(&mut self, mut moving: Vec<Slot>) {
        moving.clear();
        self.moving = moving;
    }

    pub(crate) fn memory_bytes(&self) -> usize {
        self.pages.len() * PAGE_BUCKETS * size_of::<Bucket>()
            + self.pages.capacity() * size_of::<Box<[Bucket]>>()
            + self.free.capacity() * size_of::<BucketNumber>()
            + self.moving.capacity() * size_of::<Slot>()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::segments::SegmentNumber;
    use crate::slot::{Known, Pin, Place};
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn a_bucket_finds_exactly_what_it_holds(fingerprints in prop::collection::vec(prop_oneof![0u16..4, 0x7ffeu16..0x8002, any::<u16>()], SLOTS), asked in prop_oneof![0u16..4, 0x7ffeu16..0x8002, any::<u16>()]) {
            let known = Known { place: Place::from_bits(1), segment: SegmentNumber(2), pin: Pin::default() };
            let mut bucket = Bucket::EMPTY;
            for (number, fingerprint) in fingerprints.iter().enumerate() {
                let tag = Tag { fingerprint: *fingerprint, low: number as u128 };
                prop_assert_eq!(bucket.find(tag), None);
                prop_assert!(bucket.put(&Slot::new(tag, known)));
                prop_assert_eq!(bucket.entries().count(), number + 1);
            }
            prop_assert!(!bucket.put(&Slot::new(Tag { fingerprint: asked, low: 99 }, known)), "it is full");
            let mut found: Vec<usize> = bucket.with_fingerprint(asked).collect();
            found.sort_unstable();
            let expected = fingerprints.iter().filter(|fingerprint| **fingerprint == asked).count();
            prop_assert_eq!(found.len(), expected);
            for (number, fingerprint) in fingerprints.iter().enumerate() {
                let tag = Tag { fingerprint: *fingerprint, low: number as u128 };
                let slot = bucket.find(tag);
                prop_assert!(slot.is_some());
                bucket.clear(slot.expect("just found"));
                prop_assert_eq!(bucket.find(tag), None);
            }
            prop_assert_eq!(bucket.entries().count(), 0);
        }
    }
}
