//! The state of the solo backend: an ordered map in memory, and the snapshot that is being taken of it.
//!
//! A snapshot does not stop writes. All keys below its place are written already; a change of a key that is not saves
//! the old value aside first, so that the snapshot shows the state of the moment it began:
//!
//! ```text
//!   map      a  b' c  d' -  f   g (new)
//!   aside          |  d  e      g: absent      ← old values of keys that the snapshot has not reached
//!   place ─────────┘
//! ```
//!
//! What lies aside is bounded by whoever changes the state: see [`State::must_wait_for_snapshot`].

mod leaf;
#[cfg(test)]
mod measure;
mod pairs;
#[cfg(test)]
mod tests;

use std::cmp::Ordering;
use std::collections::BTreeMap;

use proto::checksum::digest;
use proto::limits::SNAPSHOT_ASIDE_BYTES_MAX;
use proto::planted::{self, Bug};

use self::pairs::{Filling, Pairs};
use crate::keys::KeyRange;
use crate::txn::KvTxn;

/// What a pair aside takes besides its bytes: its place in the B-tree, and two allocations.
const ASIDE_OVERHEAD_BYTES: usize = 112;

/// All keys and values.
#[derive(Default)]
pub(crate) struct State {
    pairs: Pairs,
    snapshot: Option<Snapshot>,
}

/// How far a snapshot has got.
struct Snapshot {
    /// First key that it has not visited; `None` once it has visited all.
    next: Option<Vec<u8>>,
    /// What keys from `next` on held when it began, if they changed since; `None`: nothing.
    aside: BTreeMap<Vec<u8>, Option<Vec<u8>>>,
    /// Bytes of memory of `aside`, near enough.
    aside_bytes: usize,
}

/// Consecutive pairs of a snapshot, encoded: for each, key bytes u32, value bytes u32, key, value.
#[derive(Debug, Default)]
pub(crate) struct SnapshotRun {
    pub(crate) pairs: u32,
    pub(crate) body: Vec<u8>,
}

impl SnapshotRun {
    /// Appends a pair. Returns whether it fits.
    fn push(&mut self, key: &[u8], value: &[u8], body_bytes_max: usize) -> bool {
        let bytes = 8 + key.len() + value.len();
        assert!(bytes <= body_bytes_max, "invariant: a pair of {bytes} bytes fits a frame");
        if self.body.len() + bytes > body_bytes_max {
            return false;
        }
        self.pairs += 1;
        self.body.extend_from_slice(&(key.len() as u32).to_le_bytes());
        self.body.extend_from_slice(&(value.len() as u32).to_le_bytes());
        self.body.extend_from_slice(key);
        self.body.extend_from_slice(value);
        true
    }
}

/// Bytes that a pair takes aside.
fn pair_aside_bytes(key: &[u8], old: Option<&[u8]>) -> usize {
    ASIDE_OVERHEAD_BYTES + key.len() + old.map_or(0, <[u8]>::len)
}

impl State {
    /// Bytes of all keys and values.
    pub(crate) fn bytes(&self) -> u64 {
        self.pairs.bytes()
    }

    /// Bytes of memory that all of it takes, without what the allocator loses.
    pub(crate) fn memory_bytes(&self) -> u64 {
        self.pairs.memory_bytes() + self.aside_bytes() as u64
    }

    /// Bytes of memory that old values take which the running snapshot has yet to write, near enough.
    pub(crate) fn aside_bytes(&self) -> usize {
        self.snapshot.as_ref().map_or(0, |snapshot| snapshot.aside_bytes)
    }

    /// Digest of all keys and values.
    pub(crate) fn digest(&self) -> u128 {
        let mut sum = 0u128;
        let mut bytes = Vec::new();
        let mut cursor = self.pairs.cursor(&[]);
        while let Some((key, value)) = cursor.pair() {
            bytes.clear();
            bytes.extend_from_slice(&sum.to_le_bytes());
            bytes.extend_from_slice(&(key.len() as u32).to_le_bytes());
            bytes.extend_from_slice(key);
            bytes.extend_from_slice(value);
            sum = digest(&bytes);
            cursor.advance();
        }
        sum
    }

    /// Starts a snapshot of this moment.
    ///
    /// # Panics
    /// If one is being taken.
    pub(crate) fn begin_snapshot(&mut self) {
        assert!(self.snapshot.is_none(), "invariant: one snapshot at a time");
        self.snapshot = Some(Snapshot { next: Some(Vec::new()), aside: BTreeMap::new(), aside_bytes: 0 });
    }

    /// Whether so much lies aside that the state must not change before the snapshot has made progress.
    pub(crate) fn must_wait_for_snapshot(&self) -> bool {
        self.aside_bytes() >= SNAPSHOT_ASIDE_BYTES_MAX
    }

    /// Returns the next pairs of the snapshot, up to `body_bytes_max` of them encoded; no pairs: it is complete.
    ///
    /// # Panics
    /// If none was started, or one pair alone is larger: limits on commands keep every value far below a frame.
    pub(crate) fn next_run(&mut self, body_bytes_max: usize) -> SnapshotRun {
        let snapshot = self.snapshot.as_mut().expect("invariant: a snapshot was started");
        let mut run = SnapshotRun::default();
        let Some(from) = snapshot.next.take() else { return run };
        let mut live = self.pairs.cursor(&from);
        let mut aside = snapshot.aside.range(from..).peekable();
        let next = loop {
            // A key that is in both changed since: what was set aside is what the snapshot shows.
            let (order, key, value) = match (live.pair(), aside.peek()) {
                (None, None) => break None,
                (Some((key, value)), None) => (Ordering::Less, key, Some(value)),
                (None, Some((key, old))) => (Ordering::Greater, key.as_slice(), old.as_deref()),
                (Some((key, value)), Some((changed, old))) => match key.cmp(changed) {
                    Ordering::Less => (Ordering::Less, key, Some(value)),
                    order => (order, changed.as_slice(), old.as_deref()),
                },
            };
            if let Some(value) = value
                && !run.push(key, value, body_bytes_max)
            {
                break Some(key.to_vec());
            }
            if order != Ordering::Greater {
                live.advance();
            }
            if order != Ordering::Less {
                aside.next();
            }
        };
        while let Some(first) = snapshot.aside.first_entry()
            && next.as_ref().is_none_or(|next| first.key() < next)
        {
            let (key, old) = first.remove_entry();
            snapshot.aside_bytes -= pair_aside_bytes(&key, old.as_deref());
        }
        snapshot.next = next;
        run
    }

    /// Ends the snapshot, complete or given up.
    pub(crate) fn end_snapshot(&mut self) {
        self.snapshot = None;
    }

    /// Keeps what `key` holds, if a snapshot has yet to visit it.
    fn set_aside(&mut self, key: &[u8]) {
        if let Some(Snapshot { next: Some(next), aside, aside_bytes }) = &mut self.snapshot
            && key >= next.as_slice()
            && !aside.contains_key(key)
            && !planted::is(Bug::SmearedSnapshot)
        {
            let old = self.pairs.get(key);
            *aside_bytes += pair_aside_bytes(key, old);
            aside.insert(key.to_vec(), old.map(<[u8]>::to_vec));
        }
    }
}

impl KvTxn for State {
    fn get(&self, key: &[u8]) -> Option<&[u8]> {
        self.pairs.get(key)
    }

    fn put(&mut self, key: Vec<u8>, value: Vec<u8>) {
        self.set_aside(&key);
        self.pairs.put(&key, &value);
    }

    fn delete(&mut self, key: &[u8]) {
        self.set_aside(key);
        self.pairs.delete(key);
    }

    fn range(&self, range: &KeyRange) -> impl Iterator<Item = (Vec<u8>, &[u8])> {
        let mut cursor = self.pairs.cursor(&range.from);
        std::iter::from_fn(move || {
            let (key, value) = cursor.pair().filter(|(key, _)| *key < range.to.as_slice())?;
            let key = key.to_vec();
            cursor.advance();
            Some((key, value))
        })
    }
}

/// A state that is being loaded from a snapshot.
#[derive(Default)]
pub(crate) struct Loading(Filling);

impl Loading {
    /// Adds a pair. Returns whether it follows all others.
    pub(crate) fn append(&mut self, key: &[u8], value: &[u8]) -> bool {
        self.0.push(key, value)
    }

    /// The state.
    pub(crate) fn finish(self) -> State {
        State { pairs: self.0.finish(), snapshot: None }
    }
}
