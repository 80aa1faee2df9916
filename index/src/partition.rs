//! One virtual shard's part of the index: groups that multiply one at a time.
//!
//! *Linear hashing.* With 2^L + p groups, the low L + 1 bits of a key name its group, or the low L bits if there is no
//! such group yet. A split turns group p into p and 2^L + p; it moves a few hundred entries, and the table never doubles.
//! Groups that were not split yet in a round hold twice as many entries as the others; they have more buckets, so
//! every group is about equally dense. Rounds are short, lest groups stay small: the first split comes when groups hold
//! [`SPLIT_FIRST`] entries on average, the last before they hold [`SPLIT_LAST`], and then there is none until they hold
//! as many again.
//!
//! *Skew.* Ids are keyed hashes, so a group does not get more than twice its mean, apart from chance in the order of
//! one in 10^6. If it does, by chance or because somebody with the domain's key made ids to that end, the rest goes to
//! a chain of extra groups. Lookups there slow down with the length of the chain; nothing is lost.

use crate::bucket::{Buckets, Found};
use crate::group::{CHAIN_END, ENTRIES_MAX, Group};
use crate::key::{IMPLIED_BITS, Key};
use crate::slot::{Known, Slot};

/// Mean entries of the groups that are not split yet, when the first and when the last of them is split.
const SPLIT_FIRST: usize = 280;
const SPLIT_LAST: usize = 330;
/// Groups of an empty partition; what a group's number implies of a key depends on it.
const GROUPS_MIN: usize = 1 << IMPLIED_BITS;

/// See the module.
#[derive(Debug)]
pub(crate) struct Partition {
    groups: Vec<Group>,
    /// Chained to groups that are full; once linked, a group keeps its chain.
    extra: Vec<Group>,
    entries: usize,
}

impl Partition {
    pub(crate) fn new() -> Partition {
        Partition { groups: vec![Group::EMPTY; GROUPS_MIN], extra: Vec::new(), entries: 0 }
    }

    /// Returns where the entry of `key` lies.
    pub(crate) fn find(&self, buckets: &Buckets, key: Key) -> Option<Found> {
        let tag = key.tag();
        self.chain(self.group_of(key)).find_map(|group| group.find(buckets, tag))
    }

    /// Adds an entry for a `key` that has none.
    pub(crate) fn add(&mut self, buckets: &mut Buckets, key: Key, known: Known) {
        let head = self.group_of(key);
        self.add_to(head, buckets, &Slot::new(key.tag(), known));
        self.entries += 1;
        let (begun_with, split) = self.round();
        if self.entries > SPLIT_FIRST * begun_with + (SPLIT_LAST - SPLIT_FIRST) * split {
            self.split(buckets);
        }
    }

    /// Removes the entry of `key`, which lies at `at`.
    pub(crate) fn remove(&mut self, buckets: &mut Buckets, key: Key, at: Found) {
        let head = self.group_of(key);
        let mut group = &mut self.groups[head];
        while !group.has(at.bucket) {
            let next = group.next as usize;
            group = &mut self.extra[next];
        }
        group.remove(buckets, at);
        self.entries -= 1;
    }

    pub(crate) fn len(&self) -> usize {
        self.entries
    }

    pub(crate) fn groups(&self) -> usize {
        self.groups.len()
    }

    /// Entries of one group, in no order.
    pub(crate) fn group_entries(&self, buckets: &Buckets, group: usize) -> impl Iterator<Item = Slot> {
        self.chain(group).flat_map(|group| group.entries(buckets))
    }

    pub(crate) fn memory_bytes(&self) -> usize {
        (self.groups.capacity() + self.extra.capacity()) * size_of::<Group>()
    }

    /// Gives a group the buckets that `more` entries will need, as far as it can have them.
    pub(crate) fn make_room(&mut self, buckets: &mut Buckets, group: usize, more: usize) {
        self.groups[group].make_room(buckets, more);
    }

    /// The group that holds `key`, if any does.
    pub(crate) fn group_of(&self, key: Key) -> usize {
        let mask = self.groups.len().next_power_of_two() - 1;
        let group = key.group_bits() & mask;
        if group < self.groups.len() { group } else { group & mask >> 1 }
    }

    /// A group and the extra groups behind it.
    fn chain(&self, head: usize) -> impl Iterator<Item = &Group> {
        std::iter::successors(self.groups.get(head), |group| self.extra.get(group.next as usize))
    }

    fn add_to(&mut self, head: usize, buckets: &mut Buckets, entry: &Slot) {
        let fresh = u32::try_from(self.extra.len()).expect("invariant: memory has fewer than 2^32 groups");
        let mut group = &mut self.groups[head];
        while !group.add(buckets, entry) {
            let mut next = group.next;
            if next == CHAIN_END {
                next = fresh;
                group.next = fresh;
                self.extra.push(Group::EMPTY);
            }
            group = &mut self.extra[next as usize];
        }
    }

    /// Groups when the round began, and how many of them are split.
    fn round(&self) -> (usize, usize) {
        let begun_with = 1 << self.groups.len().ilog2();
        (begun_with, self.groups.len() - begun_with)
    }

    /// Splits the next group in turn.
    fn split(&mut self, buckets: &mut Buckets) {
        let (begun_with, old) = self.round();
        let new = self.groups.len();
        let mut moving = buckets.lend_moving();
        let mut group = &mut self.groups[old];
        group.drain(buckets, &mut moving);
        while group.next != CHAIN_END {
            let next = group.next as usize;
            group = &mut self.extra[next];
            group.drain(buckets, &mut moving);
            group.resize_for(0, buckets);
        }
        if self.groups.len() == self.groups.capacity() {
            self.groups.reserve_exact(self.groups.len() / 16 + 1);
        }
        self.groups.push(Group::EMPTY);
        let goes = |entry: &Slot| Key::from_tag(entry.tag(), old).group_bits() & begun_with != 0;
        let leaving = moving.iter().filter(|entry| goes(entry)).count();
        self.groups[old].resize_for((moving.len() - leaving).min(ENTRIES_MAX), buckets);
        self.groups[new].resize_for(leaving.min(ENTRIES_MAX), buckets);
        for entry in &moving {
            self.add_to(if goes(entry) { new } else { old }, buckets, entry);
        }
        buckets.put_moving_back(moving);
    }
}
