//! An ordered map of byte keys and values that takes little more memory than they do: leaves of a few KiB (see
//! [`Leaf`]) under a B-tree of the keys that divide them.
//!
//! Invariants:
//!
//! * A leaf holds the keys from its fence up to the next one's. The first fence is the empty key, so that every key has
//!   a leaf, and that leaf may be empty; no other is.
//! * A leaf of more than one pair takes at most [`LEAF_BYTES_MAX`]. A value larger than that has a leaf for itself.

use std::collections::{BTreeMap, btree_map};
use std::ops::Bound;

use super::leaf::{HEAD_BYTES_MAX, Leaf, Walk, common};

/// Encoded bytes of a leaf's pairs. Larger leaves save little memory, and are searched and moved more slowly.
const LEAF_BYTES_MAX: usize = 4096;
/// A leaf that shrinks below this is merged with a neighbour, if there is one small enough.
const LEAF_BYTES_MIN: usize = LEAF_BYTES_MAX / 4;
/// Encoded bytes of a merged leaf: some way from where it would be divided again.
const MERGED_BYTES_MAX: usize = LEAF_BYTES_MAX / 4 * 3;
/// What a leaf takes besides its pairs and its fence: its place in the B-tree, at the usual fill, and two allocations.
const LEAF_OVERHEAD_BYTES: usize = 96;

/// All keys and values.
pub(super) struct Pairs {
    /// By fence.
    leaves: BTreeMap<Box<[u8]>, Leaf>,
    /// Bytes of all keys and values.
    bytes: u64,
}

impl Default for Pairs {
    fn default() -> Pairs {
        Pairs { leaves: BTreeMap::from([(Box::default(), Leaf::default())]), bytes: 0 }
    }
}

impl Pairs {
    /// Bytes of all keys and values.
    pub(super) fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Bytes of memory, without what the allocator loses. Cost: a walk over the leaves.
    pub(super) fn memory_bytes(&self) -> u64 {
        let leaves = self.leaves.iter();
        leaves.map(|(fence, leaf)| (fence.len() + leaf.capacity() + LEAF_OVERHEAD_BYTES) as u64).sum()
    }

    /// The value of `key`.
    pub(super) fn get(&self, key: &[u8]) -> Option<&[u8]> {
        let (_, leaf) = self.leaves.range::<[u8], _>(up_to(key)).next_back().expect("invariant: every key has a leaf");
        leaf.get(key)
    }

    /// Sets the value of `key`.
    pub(super) fn put(&mut self, key: &[u8], value: &[u8]) {
        let (_, leaf) =
            self.leaves.range_mut::<[u8], _>(up_to(key)).next_back().expect("invariant: every key has a leaf");
        let put = leaf.put(key, value);
        self.bytes += value.len() as u64;
        match put.replaced {
            Some(replaced) => self.bytes -= replaced as u64,
            None => self.bytes += key.len() as u64,
        }
        if leaf.len() > LEAF_BYTES_MAX {
            let mut divided = Vec::new();
            divide(leaf, put.start, &mut divided);
            self.leaves.extend(divided);
        }
    }

    /// Removes `key`, if it is there.
    pub(super) fn delete(&mut self, key: &[u8]) {
        let (fence, leaf) =
            self.leaves.range_mut::<[u8], _>(up_to(key)).next_back().expect("invariant: every key has a leaf");
        let Some(removed) = leaf.remove(key) else { return };
        self.bytes -= (key.len() + removed) as u64;
        if leaf.len() < LEAF_BYTES_MIN {
            let fence = fence.clone();
            self.merge(&fence);
        }
    }

    /// A cursor at the first key at or above `from`.
    pub(super) fn cursor(&self, from: &[u8]) -> Cursor<'_> {
        let mut leaves = self.leaves.range::<[u8], _>(up_to(from));
        let (fence, leaf) = leaves.next_back().expect("invariant: every key has a leaf");
        let rest = self.leaves.range::<[u8], _>((Bound::Excluded(&**fence), Bound::Unbounded));
        let mut cursor = Cursor { rest, walk: leaf.walk(), value: None };
        cursor.advance();
        while cursor.pair().is_some_and(|(key, _)| key < from) {
            cursor.advance();
        }
        cursor
    }

    /// Merges the leaf at `fence` with a neighbour, if the two are small, or one of them is empty.
    fn merge(&mut self, fence: &[u8]) {
        let left = self.leaves.range::<[u8], _>((Bound::Unbounded, Bound::Excluded(fence))).next_back();
        let right = self.leaves.range::<[u8], _>((Bound::Excluded(fence), Bound::Unbounded)).next();
        let bytes = self.leaves[fence].len();
        let fits = |leaf: &Leaf| bytes == 0 || leaf.len() == 0 || bytes + leaf.len() <= MERGED_BYTES_MAX;
        let (left, right) = (left.filter(|(_, leaf)| fits(leaf)), right.filter(|(_, leaf)| fits(leaf)));
        let (left, right): (Box<[u8]>, Box<[u8]>) = match (left, right) {
            (Some((left, _)), _) => (left.clone(), fence.into()),
            (None, Some((right, _))) => (fence.into(), right.clone()),
            (None, None) => return,
        };
        let right = self.leaves.remove(&right).expect("invariant: it was just seen");
        self.leaves.get_mut(&left).expect("invariant: it was just seen").append(&right);
    }
}

/// All fences up to that of the leaf of `key`.
fn up_to(key: &[u8]) -> (Bound<&[u8]>, Bound<&[u8]>) {
    (Bound::Unbounded, Bound::Included(key))
}

/// Divides `leaf`, into which a pair was put at `start`, until every part is small enough or a single pair. All parts
/// but the first go to `divided`, with their fences.
fn divide(leaf: &mut Leaf, start: usize, divided: &mut Vec<(Box<[u8]>, Leaf)>) {
    if leaf.len() > LEAF_BYTES_MAX
        && let Some(at) = leaf.split_point(start)
    {
        let (fence, mut right) = leaf.split_off(at);
        divide(leaf, 0, divided);
        divide(&mut right, 0, divided);
        divided.push((fence, right));
    }
}

/// A place in the map, at a pair or beyond the last.
pub(super) struct Cursor<'a> {
    rest: btree_map::Range<'a, Box<[u8]>, Leaf>,
    walk: Walk<'a>,
    value: Option<&'a [u8]>,
}

impl<'a> Cursor<'a> {
    /// The pair that the cursor is at.
    pub(super) fn pair(&self) -> Option<(&[u8], &'a [u8])> {
        self.value.map(|value| (self.walk.key(), value))
    }

    /// Goes to the next pair.
    pub(super) fn advance(&mut self) {
        self.value = self.walk.next();
        while self.value.is_none() {
            let Some((_, leaf)) = self.rest.next() else { return };
            self.walk.enter(leaf);
            self.value = self.walk.next();
        }
    }
}

/// A map that is being filled in ascending order: full leaves, and no search.
#[derive(Default)]
pub(super) struct Filling {
    full: Vec<(Box<[u8]>, Leaf)>,
    fence: Box<[u8]>,
    leaf: Leaf,
    last: Option<Vec<u8>>,
    bytes: u64,
}

impl Filling {
    /// Adds a pair. Returns whether its key is above all others; if it is not, nothing was added.
    pub(super) fn push(&mut self, key: &[u8], value: &[u8]) -> bool {
        let mut shared = self.last.as_deref().map_or(0, |last| common(last, key));
        if self.last.as_deref().is_some_and(|last| last[shared..] >= key[shared..]) {
            return false;
        }
        let pair_bytes = HEAD_BYTES_MAX + key.len() - shared + value.len();
        if self.leaf.len() > 0 && self.leaf.len() + pair_bytes > LEAF_BYTES_MAX {
            // A copy is as large as its pairs, and what they were gathered in serves again.
            let leaf = self.leaf.clone();
            self.leaf.clear();
            self.full.push((std::mem::replace(&mut self.fence, key[..=shared].into()), leaf));
            shared = 0;
        }
        self.leaf.push(shared, key, value);
        let last = self.last.get_or_insert_default();
        last.clear();
        last.extend_from_slice(key);
        self.bytes += (key.len() + value.len()) as u64;
        true
    }

    /// The map.
    pub(super) fn finish(mut self) -> Pairs {
        self.full.push((self.fence, self.leaf));
        Pairs { leaves: self.full.into_iter().collect(), bytes: self.bytes }
    }
}

#[cfg(test)]
impl Pairs {
    /// Checks the invariants.
    pub(super) fn check(&self) {
        let fences: Vec<&[u8]> = self.leaves.keys().map(|fence| &**fence).collect();
        assert!(fences[0].is_empty(), "the first leaf has no lower bound");
        for (index, (fence, leaf)) in self.leaves.iter().enumerate() {
            leaf.check(fence, fences.get(index + 1).copied());
            assert!(leaf.len() > 0 || index == 0, "an empty leaf");
            assert!(leaf.len() <= LEAF_BYTES_MAX || leaf.split_point(0).is_none(), "a leaf that should be divided");
        }
    }
}
