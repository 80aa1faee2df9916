//! The index of one core; see the crate.

use proto::limits::VIRTUAL_SHARDS;
use proto::{ChunkId, Location, SegmentId, VirtualShard};

use crate::bucket::{Buckets, Found};
use crate::key::Key;
use crate::partition::Partition;
use crate::segments::SegmentNumbers;
use crate::slot::{Known, Pin, Place};

/// What the index knows of a chunk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Lookup {
    /// Probably here; confirm the id in the row's table.
    Found(Location),
    /// Not stored, as far as a complete index knows.
    Absent,
    /// Not found, but the index is incomplete: never a reason to free data or to call a read lost.
    Unknown,
}

/// Whether every durable chunk has been inserted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Coverage {
    /// Recovery is still inserting.
    Partial,
    /// All segments are in.
    Complete,
}

/// The index partitions of one core.
///
/// It has partitions for the virtual shards that its core owns. To ask it about any other id is a broken invariant of
/// the caller's routing, and every function that takes an id or a shard panics then: an answer would be `Absent` for a
/// chunk that is there.
///
/// # Pins
/// The garbage collector must not condemn a chunk that somebody was told about since its cycle began. So each entry
/// keeps the low two bits of the epoch in which it was last *pinned*: inserted, imported, or found by
/// [`Index::lookup_and_pin`]. [`Index::pin_age`] tells how many epochs ago that was, modulo 4.
///
/// An age is never higher than the truth, whatever the collector does: an age of 2 or 3 proves that the entry was not
/// pinned in this epoch or the one before. It may be lower than the truth, because a mark that nobody touches looks
/// new again after four epochs. That keeps garbage, but never frees data. A collector whose cycle raises the epoch by
/// one, and then sweeps every entry of age 2 or more (condemns it, or has found it alive and may pin it anew), meets
/// each mark at its true age.
#[derive(Debug)]
pub struct Index {
    /// By virtual shard; `None` where the core does not own it.
    pub(crate) partitions: Vec<Option<Partition>>,
    pub(crate) buckets: Buckets,
    pub(crate) segments: SegmentNumbers,
    pub(crate) coverage: Coverage,
    pub(crate) epoch: u64,
}

impl Index {
    /// Returns an empty index of the shards `owned`, in epoch 0, that answers `Unknown` until [`Index::set_coverage`].
    ///
    /// # Panics
    /// If there is no such virtual shard.
    #[must_use]
    pub fn new(owned: impl IntoIterator<Item = VirtualShard>) -> Index {
        let mut partitions: Vec<_> = (0..VIRTUAL_SHARDS).map(|_| None).collect();
        for shard in owned {
            let place = partitions.get_mut(usize::from(shard.0)).expect("invariant: a virtual shard of this node");
            *place = Some(Partition::new());
        }
        Index {
            partitions,
            buckets: Buckets::default(),
            segments: SegmentNumbers::default(),
            coverage: Coverage::Partial,
            epoch: 0,
        }
    }

    /// Says whether absence may be believed.
    pub fn set_coverage(&mut self, coverage: Coverage) {
        self.coverage = coverage;
    }

    /// Says which epoch of the garbage collector it is: what is pinned from now on is pinned in `epoch`.
    ///
    /// # Panics
    /// If `epoch` is lower than before: epochs are only raised.
    pub fn set_epoch(&mut self, epoch: u64) {
        assert!(epoch >= self.epoch, "invariant: epochs are only raised");
        self.epoch = epoch;
    }

    /// Looks a chunk up.
    #[must_use]
    pub fn lookup(&self, id: &ChunkId) -> Lookup {
        self.answer(self.find(id))
    }

    /// Looks a chunk up for somebody who may refer to it; an entry that is found is pinned at the current epoch.
    pub fn lookup_and_pin(&mut self, id: &ChunkId) -> Lookup {
        let found = self.find(id);
        if let Some(at) = found {
            self.buckets.rest_mut(at).set_pin(Pin::at(self.epoch));
        }
        self.answer(found)
    }

    /// Epochs since a chunk was last pinned, 0 to 3: at most the truth, see [`Index`]. `None` if it is not known.
    #[must_use]
    pub fn pin_age(&self, id: &ChunkId) -> Option<u8> {
        self.find(id).map(|at| self.buckets.rest(at).known().pin.age_at(self.epoch))
    }

    /// Records where a durable chunk lies, pinned at the current epoch; an entry of the same id is replaced.
    ///
    /// A core whose chunks lie in 2^22 - 1 segments (256 TiB if they are full) records none of further ones: a missing
    /// entry costs a duplicate.
    ///
    /// # Panics
    /// If the location is out of its ranges.
    pub fn insert(&mut self, id: &ChunkId, location: Location) {
        let place = Place::of(location);
        let found = self.find(id);
        let Some(segment) = self.segments.take(location.segment) else { return };
        let known = Known { place, segment, pin: Pin::at(self.epoch) };
        match found {
            Some(at) => {
                let rest = self.buckets.rest_mut(at);
                let before = rest.known().segment;
                rest.set_known(known);
                self.segments.release(before);
            }
            None => owned(&mut self.partitions, id.virtual_shard()).add(&mut self.buckets, Key::of(id), known),
        }
    }

    /// Changes where a chunk lies, if `from` is what the index knows of it; its pin stays.
    ///
    /// Returns whether it did: not for a chunk that is gone or lies elsewhere, nor without a number for the segment, see
    /// [`Index::insert`].
    ///
    /// # Panics
    /// If `to` is out of its ranges.
    pub fn relocate(&mut self, id: &ChunkId, from: Location, to: Location) -> bool {
        let place = Place::of(to);
        let Some(at) = self.find(id).filter(|at| self.location(*at) == from) else { return false };
        let Some(segment) = self.segments.take(to.segment) else { return false };
        let rest = self.buckets.rest_mut(at);
        let before = rest.known();
        rest.set_known(Known { place, segment, pin: before.pin });
        self.segments.release(before.segment);
        true
    }

    /// Chunks that the index finds in a segment.
    #[must_use]
    pub fn chunks_in(&self, segment: SegmentId) -> u64 {
        u64::from(self.segments.users(segment))
    }

    /// Forgets a chunk, if `location` is what the index knows of it: a block that failed verification stops answering.
    ///
    /// Returns whether an entry was removed.
    pub fn remove(&mut self, id: &ChunkId, location: Location) -> bool {
        let Some(at) = self.find(id) else { return false };
        if self.location(at) != location {
            return false;
        }
        let segment = self.buckets.rest(at).known().segment;
        owned(&mut self.partitions, id.virtual_shard()).remove(&mut self.buckets, Key::of(id), at);
        self.segments.release(segment);
        true
    }

    /// Chunks known.
    #[must_use]
    pub fn chunks(&self) -> u64 {
        self.partitions.iter().flatten().map(|partition| partition.len() as u64).sum()
    }

    /// Bytes of memory that the index has allocated, to the byte.
    #[must_use]
    pub fn memory_bytes(&self) -> usize {
        self.partitions.capacity() * size_of::<Option<Partition>>()
            + self.partitions.iter().flatten().map(Partition::memory_bytes).sum::<usize>()
            + self.buckets.memory_bytes()
            + self.segments.memory_bytes()
    }

    /// The epoch of pins made now.
    pub(crate) fn pin_now(&self) -> Pin {
        Pin::at(self.epoch)
    }

    /// The partition of `shard`.
    pub(crate) fn partition(&self, shard: VirtualShard) -> &Partition {
        let partition = self.partitions.get(usize::from(shard.0)).and_then(Option::as_ref);
        partition.expect("invariant: a core is asked about its own virtual shards only")
    }

    pub(crate) fn find(&self, id: &ChunkId) -> Option<Found> {
        self.partition(id.virtual_shard()).find(&self.buckets, Key::of(id))
    }

    fn location(&self, at: Found) -> Location {
        let known = self.buckets.rest(at).known();
        known.place.in_segment(self.segments.segment(known.segment))
    }

    fn answer(&self, found: Option<Found>) -> Lookup {
        match (found, self.coverage) {
            (Some(at), _) => Lookup::Found(self.location(at)),
            (None, Coverage::Complete) => Lookup::Absent,
            (None, Coverage::Partial) => Lookup::Unknown,
        }
    }
}

/// As [`Index::partition`], for changes.
fn owned(partitions: &mut [Option<Partition>], shard: VirtualShard) -> &mut Partition {
    let partition = partitions.get_mut(usize::from(shard.0)).and_then(Option::as_mut);
    partition.expect("invariant: a core is asked about its own virtual shards only")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn location(segment: u64, offset: u32) -> Location {
        Location { segment: SegmentId(segment), column: 3, offset: offset * 64, sectors: 17, ordinal: 5 }
    }

    fn every_shard() -> impl Iterator<Item = VirtualShard> {
        (0..VIRTUAL_SHARDS as u8).map(VirtualShard)
    }

    #[test]
    fn absence_is_believed_only_once_complete() {
        let mut index = Index::new(every_shard());
        assert_eq!(index.lookup(&ChunkId([1; 32])), Lookup::Unknown);
        index.set_coverage(Coverage::Complete);
        assert_eq!(index.lookup(&ChunkId([1; 32])), Lookup::Absent);
    }

    #[test]
    fn removal_needs_the_location_that_is_known() {
        let mut index = Index::new(every_shard());
        let id = ChunkId([7; 32]);
        index.insert(&id, location(1, 1));
        assert!(!index.remove(&id, location(1, 2)));
        assert!(!index.remove(&id, location(2, 1)));
        assert!(index.remove(&id, location(1, 1)));
        assert_eq!(index.chunks(), 0);
    }

    #[test]
    fn relocation_needs_the_location_that_is_known_and_keeps_the_pin() {
        let mut index = Index::new(every_shard());
        let id = ChunkId([7; 32]);
        index.set_epoch(1);
        index.insert(&id, location(1, 1));
        index.set_epoch(2);
        assert!(!index.relocate(&id, location(1, 2), location(3, 3)));
        assert!(!index.relocate(&ChunkId([8; 32]), location(1, 1), location(3, 3)));
        assert!(index.relocate(&id, location(1, 1), location(3, 3)));
        assert_eq!(index.lookup(&id), Lookup::Found(location(3, 3)));
        assert_eq!(index.pin_age(&id), Some(1));
        assert_eq!((index.chunks_in(SegmentId(1)), index.chunks_in(SegmentId(3))), (0, 1));
        assert!(index.remove(&id, location(3, 3)));
        assert!(!index.relocate(&id, location(3, 3), location(4, 4)), "what is gone stays gone");
        assert_eq!((index.chunks(), index.chunks_in(SegmentId(4))), (0, 0));
    }

    #[test]
    #[should_panic(expected = "its own virtual shards")]
    fn another_cores_id_is_refused() {
        let id = ChunkId([1; 32]);
        let index = Index::new(every_shard().filter(|shard| *shard != id.virtual_shard()));
        let _ = index.lookup(&id);
    }

    #[test]
    fn hits_and_inserts_pin_and_plain_lookups_do_not() {
        let mut index = Index::new(every_shard());
        let id = ChunkId([9; 32]);
        index.set_epoch(5);
        index.insert(&id, location(1, 1));
        index.set_epoch(7);
        assert_eq!(index.lookup(&id), Lookup::Found(location(1, 1)));
        assert_eq!(index.pin_age(&id), Some(2));
        assert_eq!(index.lookup_and_pin(&id), Lookup::Found(location(1, 1)));
        assert_eq!(index.pin_age(&id), Some(0));
        index.set_epoch(8);
        assert_eq!(index.pin_age(&id), Some(1));
        index.insert(&id, location(2, 1));
        assert_eq!(index.pin_age(&id), Some(0));
        assert_eq!(index.pin_age(&ChunkId([8; 32])), None);
    }
}
