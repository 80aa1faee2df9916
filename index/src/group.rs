//! A group: up to 13 buckets that a few hundred entries share.
//!
//! An entry lies in its home bucket, or, if that was full, in the next of the group that had room, around the end. A
//! bucket that an entry had to pass is marked `overflowed`, and only from such a bucket a search goes on. So a miss
//! usually ends after the fingerprints of one bucket.
//!
//! A group grows by one bucket when all of its buckets are nearly full, and then lays its entries out anew; that costs
//! a few hundred moves of 20 bytes within some kilobytes. Buckets differ in fill by chance, groups much less: that is
//! why a group can be filled to 31/32 and needs no other overflow area.

use crate::bucket::{BucketNumber, Buckets, Found, SLOTS};
use crate::key::Tag;
use crate::slot::Slot;

/// Buckets of one group.
pub(crate) const BUCKETS_MAX: usize = 13;
/// Entries of one group.
pub(crate) const ENTRIES_MAX: usize = BUCKETS_MAX * SLOTS;
/// Entries for each bucket at which a group grows.
const FILL: usize = 31;
/// Removals after which a group is laid out anew: that clears stale `overflowed` marks and gives empty buckets back.
const REMOVALS_MAX: u8 = 32;
/// No further group in the chain.
pub(crate) const CHAIN_END: u32 = u32::MAX;

/// See the module. One cache line.
#[derive(Clone, Debug)]
#[repr(C, align(64))]
pub(crate) struct Group {
    list: [BucketNumber; BUCKETS_MAX],
    /// The extra group that takes what this one cannot hold; see `partition`.
    pub(crate) next: u32,
    entries: u16,
    /// One bit for each bucket that an entry passed because it was full.
    overflowed: u16,
    buckets: u8,
    removals: u8,
}

const _: () = assert!(size_of::<Group>() == 64 && ENTRIES_MAX <= u16::MAX as usize);

impl Group {
    pub(crate) const EMPTY: Group = Group {
        list: [BucketNumber::NONE; BUCKETS_MAX],
        next: CHAIN_END,
        entries: 0,
        overflowed: 0,
        buckets: 0,
        removals: 0,
    };

    fn list(&self) -> &[BucketNumber] {
        &self.list[..usize::from(self.buckets)]
    }

    /// The first bucket to look into.
    fn home(&self, home: u32) -> usize {
        ((u64::from(home) * u64::from(self.buckets)) >> 32) as usize
    }

    /// The bucket to look into after `at`.
    fn following(&self, at: usize) -> usize {
        if at + 1 == usize::from(self.buckets) { 0 } else { at + 1 }
    }

    pub(crate) fn has(&self, bucket: BucketNumber) -> bool {
        self.list().contains(&bucket)
    }

    pub(crate) fn find(&self, buckets: &Buckets, tag: Tag) -> Option<Found> {
        let mut at = self.home(tag.home());
        for _ in 0..self.buckets {
            let bucket = self.list[at];
            if let Some(slot) = buckets.get(bucket).find(tag) {
                return Some(Found { bucket, slot });
            }
            if self.overflowed & 1 << at == 0 {
                break;
            }
            at = self.following(at);
        }
        None
    }

    /// Adds an entry whose tag is not here; `false` if the group can hold no more.
    pub(crate) fn add(&mut self, buckets: &mut Buckets, entry: &Slot) -> bool {
        if usize::from(self.entries) == ENTRIES_MAX {
            return false;
        }
        self.make_room(buckets, 1);
        self.place(buckets, entry);
        true
    }

    /// Takes the buckets that `more` entries will need, up to the limit.
    pub(crate) fn make_room(&mut self, buckets: &mut Buckets, more: usize) {
        let entries = (usize::from(self.entries) + more).min(ENTRIES_MAX);
        if buckets_for(entries) > usize::from(self.buckets) {
            self.lay_out_for(entries, buckets);
        }
    }

    pub(crate) fn remove(&mut self, buckets: &mut Buckets, at: Found) {
        buckets.get_mut(at.bucket).clear(at.slot);
        self.entries -= 1;
        self.removals += 1;
        if self.removals == REMOVALS_MAX {
            self.lay_out_for(usize::from(self.entries), buckets);
        }
    }

    /// Moves all entries to `moving`.
    pub(crate) fn drain(&mut self, buckets: &mut Buckets, moving: &mut Vec<Slot>) {
        for bucket in self.list() {
            buckets.drain(*bucket, moving);
        }
        (self.entries, self.overflowed, self.removals) = (0, 0, 0);
    }

    /// Gives an empty group the buckets that `entries` need.
    pub(crate) fn resize_for(&mut self, entries: usize, buckets: &mut Buckets) {
        assert_eq!(self.entries, 0, "invariant: only an empty group changes its buckets");
        let want = buckets_for(entries);
        while usize::from(self.buckets) < want {
            self.list[usize::from(self.buckets)] = buckets.take();
            self.buckets += 1;
        }
        while usize::from(self.buckets) > want {
            self.buckets -= 1;
            buckets.give_back(self.list[usize::from(self.buckets)]);
        }
    }

    pub(crate) fn entries(&self, buckets: &Buckets) -> impl Iterator<Item = Slot> {
        self.list().iter().flat_map(|bucket| buckets.get(*bucket).entries())
    }

    /// Lays the group out anew, with the buckets that `entries` need.
    fn lay_out_for(&mut self, entries: usize, buckets: &mut Buckets) {
        let mut moving = buckets.lend_moving();
        self.drain(buckets, &mut moving);
        self.resize_for(entries, buckets);
        for entry in &moving {
            self.place(buckets, entry);
        }
        buckets.put_moving_back(moving);
    }

    /// Puts an entry into the first bucket with room; there is one.
    fn place(&mut self, buckets: &mut Buckets, entry: &Slot) {
        let mut at = self.home(entry.home());
        while !buckets.get_mut(self.list[at]).put(entry) {
            self.overflowed |= 1 << at;
            at = self.following(at);
        }
        self.entries += 1;
    }
}

/// Buckets of a group of `entries`: as many as [`FILL`] asks for, up to the limit, which may be filled to the last slot.
fn buckets_for(entries: usize) -> usize {
    assert!(entries <= ENTRIES_MAX, "invariant: a group holds what its buckets hold");
    entries.div_ceil(FILL).min(BUCKETS_MAX)
}
