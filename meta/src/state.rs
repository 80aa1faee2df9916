//! The state of the solo backend: an ordered map in memory, and the cursor of a snapshot that is being taken of it.
//!
//! A snapshot does not stop writes. All keys below the cursor's place are written already; a change of a key that is
//! not saves the old value aside first, so that the snapshot shows the state of the moment it began:
//!
//! ```text
//!   map      a  b' c  d' -  f   g (new)
//!   aside          |  d  e      g: absent      ← old values of keys that the cursor has not reached
//!   cursor ────────┘
//! ```

use std::collections::BTreeMap;
use std::ops::Bound;

use proto::checksum::digest;

use crate::keys::KeyRange;
use crate::txn::KvTxn;

/// All keys and values.
#[derive(Default)]
pub(crate) struct State {
    pairs: BTreeMap<Vec<u8>, Vec<u8>>,
    /// Bytes of all keys and values.
    bytes: u64,
    snapshot: Option<Cursor>,
}

/// Where a snapshot has got to.
struct Cursor {
    /// First key that the snapshot has not visited; `None` once it has visited all.
    next: Option<Vec<u8>>,
    /// What keys from `next` on held when the snapshot began, if they changed since; `None`: nothing.
    aside: BTreeMap<Vec<u8>, Option<Vec<u8>>>,
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

impl State {
    /// Bytes of all keys and values.
    pub(crate) fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Digest of all keys and values.
    pub(crate) fn digest(&self) -> u128 {
        let mut sum = 0u128;
        let mut pair = Vec::new();
        for (key, value) in &self.pairs {
            pair.clear();
            pair.extend_from_slice(&sum.to_le_bytes());
            pair.extend_from_slice(&(key.len() as u32).to_le_bytes());
            pair.extend_from_slice(key);
            pair.extend_from_slice(value);
            sum = digest(&pair);
        }
        sum
    }

    /// Adds a pair of a snapshot that is being loaded. Returns whether it follows all others.
    pub(crate) fn append(&mut self, key: &[u8], value: &[u8]) -> bool {
        if self.pairs.last_key_value().is_some_and(|(last, _)| last.as_slice() >= key) {
            return false;
        }
        self.bytes += (key.len() + value.len()) as u64;
        self.pairs.insert(key.to_vec(), value.to_vec());
        true
    }

    /// Starts a snapshot of this moment.
    ///
    /// # Panics
    /// If one is being taken.
    pub(crate) fn begin_snapshot(&mut self) {
        assert!(self.snapshot.is_none(), "invariant: one snapshot at a time");
        self.snapshot = Some(Cursor { next: Some(Vec::new()), aside: BTreeMap::new() });
    }

    /// Returns the next pairs of the snapshot, up to `body_bytes_max` of them encoded; no pairs: it is complete.
    ///
    /// # Panics
    /// If none was started, or one pair alone is larger: limits on commands keep every value far below a frame.
    pub(crate) fn next_run(&mut self, body_bytes_max: usize) -> SnapshotRun {
        let cursor = self.snapshot.as_mut().expect("invariant: a snapshot was started");
        let mut run = SnapshotRun::default();
        let Some(from) = cursor.next.take() else { return run };
        let from = (Bound::Included(from.as_slice()), Bound::Unbounded);
        let mut live = self.pairs.range::<[u8], _>(from).peekable();
        let mut aside = cursor.aside.range::<[u8], _>(from).peekable();
        let next = loop {
            // A key that is in both changed since: what was set aside is what the snapshot shows.
            let (key, value) = match (live.peek().copied(), aside.peek().copied()) {
                (None, None) => break None,
                (Some((key, value)), None) => (key, Some(value)),
                (Some((key, value)), Some((changed, _))) if key < changed => (key, Some(value)),
                (_, Some((key, old))) => (key, old.as_ref()),
            };
            if let Some(value) = value
                && !run.push(key, value, body_bytes_max)
            {
                break Some(key.clone());
            }
            live.next_if(|(live, _)| *live == key);
            aside.next_if(|(aside, _)| *aside == key);
        };
        match &next {
            Some(next) => cursor.aside = cursor.aside.split_off(next),
            None => cursor.aside.clear(),
        }
        cursor.next = next;
        run
    }

    /// Ends the snapshot, complete or given up.
    pub(crate) fn end_snapshot(&mut self) {
        self.snapshot = None;
    }

    /// Keeps what `key` held, if a snapshot has yet to visit it.
    fn set_aside(&mut self, key: &[u8], old: Option<Vec<u8>>) {
        if let Some(Cursor { next: Some(next), aside }) = &mut self.snapshot
            && key >= next.as_slice()
            && !aside.contains_key(key)
        {
            aside.insert(key.to_vec(), old);
        }
    }
}

impl KvTxn for State {
    fn get(&self, key: &[u8]) -> Option<&[u8]> {
        self.pairs.get(key).map(Vec::as_slice)
    }

    fn put(&mut self, key: Vec<u8>, value: Vec<u8>) {
        self.bytes += (key.len() + value.len()) as u64;
        if let Some(held) = self.pairs.get_mut(&key) {
            let old = std::mem::replace(held, value);
            self.bytes -= (key.len() + old.len()) as u64;
            self.set_aside(&key, Some(old));
        } else {
            self.set_aside(&key, None);
            self.pairs.insert(key, value);
        }
    }

    fn delete(&mut self, key: &[u8]) {
        if let Some(old) = self.pairs.remove(key) {
            self.bytes -= (key.len() + old.len()) as u64;
            self.set_aside(key, Some(old));
        }
    }

    fn range(&self, range: &KeyRange) -> impl Iterator<Item = (&[u8], &[u8])> {
        let bounds = (Bound::Included(range.from.as_slice()), Bound::Excluded(range.to.as_slice()));
        self.pairs.range::<[u8], _>(bounds).map(|(key, value)| (key.as_slice(), value.as_slice()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// Reads back what a run encodes.
    fn pairs(run: &SnapshotRun) -> Vec<(Vec<u8>, Vec<u8>)> {
        let mut pairs = Vec::new();
        let mut rest = run.body.as_slice();
        while !rest.is_empty() {
            let word = |at: usize| u32::from_le_bytes(rest[at..at + 4].try_into().unwrap()) as usize;
            let (key, value) = (word(0), word(4));
            pairs.push((rest[8..8 + key].to_vec(), rest[8 + key..8 + key + value].to_vec()));
            rest = &rest[8 + key + value..];
        }
        assert_eq!(pairs.len(), run.pairs as usize);
        pairs
    }

    fn change(state: &mut State, key: u8, value: Option<u8>) {
        match value {
            Some(value) => state.put(vec![key], vec![value; usize::from(value % 5)]),
            None => state.delete(&[key]),
        }
    }

    proptest! {
        #[test]
        fn a_snapshot_shows_the_moment_it_began(
            before in prop::collection::vec((0u8..40, prop::option::of(any::<u8>())), 0..60),
            during in prop::collection::vec((0u8..40, prop::option::of(any::<u8>())), 0..120),
            changes_per_run in 0usize..6,
        ) {
            let mut state = State::default();
            for (key, value) in before {
                change(&mut state, key, value);
            }
            let expected: Vec<_> = state.pairs.clone().into_iter().collect();
            state.begin_snapshot();
            let mut during = during.into_iter();
            let mut seen = Vec::new();
            loop {
                let run = state.next_run(30);
                if run.pairs == 0 {
                    break;
                }
                prop_assert!(run.body.len() <= 30);
                seen.extend(pairs(&run));
                for (key, value) in during.by_ref().take(changes_per_run) {
                    change(&mut state, key, value);
                }
            }
            state.end_snapshot();
            prop_assert_eq!(seen, expected);
            let bytes: usize = state.pairs.iter().map(|(key, value)| key.len() + value.len()).sum();
            prop_assert_eq!(state.bytes(), bytes as u64);
        }
    }

    #[test]
    fn equal_states_have_equal_digests_whatever_their_history() {
        let (mut a, mut b) = (State::default(), State::default());
        a.put(vec![1], vec![2]);
        a.put(vec![3], vec![4]);
        b.put(vec![3], vec![9]);
        b.put(vec![5], vec![6]);
        b.put(vec![1], vec![2]);
        assert_ne!(a.digest(), b.digest());
        b.delete(&[5]);
        b.put(vec![3], vec![4]);
        assert_eq!(a.digest(), b.digest());
    }

    #[test]
    fn loading_takes_ascending_keys_only() {
        let mut state = State::default();
        assert!(state.append(&[1], &[1]));
        assert!(state.append(&[2], &[1]));
        assert!(!state.append(&[2], &[1]));
        assert!(!state.append(&[1], &[1]));
    }
}
