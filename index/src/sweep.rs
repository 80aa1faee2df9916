//! What garbage collection does with the index: marks what is alive, finds what is not, and takes it out.
//!
//! An entry is *stale* when its pin is two epochs old or older. A mark makes it look as if it had been pinned in the epoch
//! before, so that a mark needs no memory of its own and a cycle that is cut short has only kept garbage for longer.
//!
//! A walk over the stale entries goes on while others come and go. It follows the groups of each partition, and a split
//! moves entries only to a new group at the end, which is still to come: an entry that is there during the whole walk is
//! looked at.

use proto::planted::{self, Bug};
use proto::{ChunkId, Location};

use crate::index::{Coverage, Index, Lookup};

/// Age from which an entry is stale.
pub const STALE_AGE: u8 = 2;

/// Age from which an entry is condemned.
fn condemned_age() -> u8 {
    STALE_AGE - u8::from(planted::is(Bug::FreedBeforeGrace))
}

/// How far a walk over the stale entries has come; the default is its beginning.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct StaleCursor {
    shard: usize,
    group: usize,
}

impl Index {
    /// Whether absence may be believed.
    #[must_use]
    pub fn coverage(&self) -> Coverage {
        self.coverage
    }

    /// The epoch in which entries are pinned now.
    #[must_use]
    pub fn epoch(&self) -> u64 {
        self.epoch
    }

    /// Notes that a chunk is referred to: it is not stale in this epoch, and looks as if it had been pinned in the one
    /// before unless it was pinned in this. Returns whether it is known.
    pub fn mark(&mut self, id: &ChunkId) -> bool {
        let Some(at) = self.find(id) else { return false };
        let before = self.epoch.wrapping_sub(1);
        let rest = self.buckets.rest_mut(at);
        if rest.known().pin.age_at(self.epoch) >= STALE_AGE {
            rest.set_pin(crate::slot::Pin::at(before));
        }
        true
    }

    /// Returns where the stale entries among the next ones lie, and where to go on; `None` at the end.
    ///
    /// Looks at whole groups until it has seen `entries_max` entries; one more group has 416 of them, apart from chance.
    #[must_use]
    pub fn stale(&self, from: StaleCursor, entries_max: usize) -> (Vec<Location>, Option<StaleCursor>) {
        let (mut stale, mut seen) = (Vec::new(), 0);
        let mut at = from;
        while at.shard < self.partitions.len() {
            let groups = self.partitions[at.shard].as_ref().map_or(0, |partition| partition.groups());
            while at.group < groups {
                if seen >= entries_max {
                    return (stale, Some(at));
                }
                let partition = self.partitions[at.shard].as_ref().expect("invariant: it has groups");
                for known in partition.group_entries(&self.buckets, at.group).map(|slot| slot.rest.known()) {
                    seen += 1;
                    if known.pin.age_at(self.epoch) >= condemned_age() {
                        stale.push(known.place.in_segment(self.segments.segment(known.segment)));
                    }
                }
                at.group += 1;
            }
            at = StaleCursor { shard: at.shard + 1, group: 0 };
        }
        (stale, None)
    }

    /// Removes a chunk if `location` is what the index knows of it and its entry is still stale. Returns whether it was.
    pub fn condemn(&mut self, id: &ChunkId, location: Location) -> bool {
        self.pin_age(id).is_some_and(|age| age >= condemned_age()) && self.remove(id, location)
    }

    /// Where a chunk lies, if it is known.
    #[must_use]
    pub fn location_of(&self, id: &ChunkId) -> Option<Location> {
        match self.lookup(id) {
            Lookup::Found(location) => Some(location),
            Lookup::Absent | Lookup::Unknown => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proto::limits::VIRTUAL_SHARDS;
    use proto::{SegmentId, VirtualShard};
    use std::collections::BTreeSet;

    fn id(number: u32) -> ChunkId {
        let mut id = ChunkId([0; 32]);
        for (at, bytes) in id.0.chunks_mut(4).enumerate() {
            bytes.copy_from_slice(&number.wrapping_mul(0x9e37_79b9).rotate_left(at as u32 * 5).to_be_bytes());
        }
        id.0[20..24].copy_from_slice(&number.to_be_bytes());
        id.0[5..9].copy_from_slice(&number.to_be_bytes());
        id
    }

    fn location(number: u32) -> Location {
        let segment = SegmentId(u64::from(number / 1000));
        Location { segment, column: 0, offset: number % 1000 * 64, sectors: 1, ordinal: 0 }
    }

    fn index() -> Index {
        let mut index = Index::new((0..VIRTUAL_SHARDS as u8).map(VirtualShard));
        index.set_epoch(1);
        index
    }

    fn all_stale(index: &Index) -> BTreeSet<Location> {
        let (stale, end) = index.stale(StaleCursor::default(), usize::MAX);
        assert_eq!(end, None);
        stale.into_iter().collect()
    }

    #[test]
    fn what_is_neither_pinned_nor_marked_is_stale_in_the_next_epoch_but_one() {
        let mut index = index();
        (0..4).for_each(|number| index.insert(&id(number), location(number)));
        index.set_epoch(2);
        assert_eq!(all_stale(&index), BTreeSet::new());
        index.set_epoch(3);
        assert!(index.mark(&id(1)) && !index.mark(&id(9)));
        assert_eq!(index.lookup_and_pin(&id(2)), Lookup::Found(location(2)));
        assert_eq!(all_stale(&index), [location(0), location(3)].into());
        assert_eq!((index.pin_age(&id(1)), index.pin_age(&id(2))), (Some(1), Some(0)));
        assert!(index.mark(&id(2)));
        assert_eq!(index.pin_age(&id(2)), Some(0), "a mark never takes a pin back");
        index.set_epoch(4);
        assert_eq!(all_stale(&index), [location(0), location(1), location(3)].into(), "a mark counts for one cycle");
    }

    #[test]
    fn only_what_is_still_stale_and_still_there_is_condemned() {
        let mut index = index();
        (0..3).for_each(|number| index.insert(&id(number), location(number)));
        index.set_epoch(3);
        let stale = all_stale(&index);
        assert_eq!(stale.len(), 3);
        let _ = index.lookup_and_pin(&id(0));
        assert!(!index.condemn(&id(0), location(0)), "somebody was told of it meanwhile");
        assert!(!index.condemn(&id(1), location(2)), "another place");
        assert!(index.condemn(&id(1), location(1)));
        assert!(!index.condemn(&id(1), location(1)));
        assert_eq!((index.chunks(), index.chunks_in(SegmentId(0)), index.chunks_in(SegmentId(7))), (2, 2, 0));
    }

    #[test]
    fn a_walk_in_steps_meets_every_entry_that_stays_whatever_comes_and_goes() {
        let mut index = index();
        let kept: BTreeSet<Location> = (0..20_000).map(location).collect();
        (0..30_000).for_each(|number| index.insert(&id(number), location(number)));
        index.set_epoch(3);
        let (mut seen, mut cursor) = (BTreeSet::new(), Some(StaleCursor::default()));
        let (mut leaving, mut coming, mut steps) = (20_000..30_000, 30_000..90_000, 0);
        while let Some(from) = cursor {
            let (stale, next) = index.stale(from, 500);
            seen.extend(stale);
            cursor = next;
            steps += 1;
            for number in leaving.by_ref().take(200) {
                assert!(index.remove(&id(number), location(number)));
            }
            coming.by_ref().take(1_000).for_each(|number| index.insert(&id(number), location(number)));
        }
        assert!(steps > 40, "{steps} steps of 500 of 30,000 entries");
        assert!(kept.is_subset(&seen));
        assert!(seen.iter().all(|seen| *seen < location(30_000)), "what came meanwhile is not stale");
    }
}
