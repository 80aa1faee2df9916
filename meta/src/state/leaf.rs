//! A leaf of the state: consecutive pairs in one buffer, each key without what it shares with the one before it.
//!
//! ```text
//!   pair   shared varint │ suffix bytes varint │ value bytes varint │ suffix │ value
//!   key    the first `shared` bytes of the key before it, then the suffix
//! ```
//!
//! Invariants:
//!
//! * Keys ascend strictly.
//! * `shared` counts all bytes that a key has in common with the one before it, and is 0 for the first. So a search
//!   needs no key in full: see [`Leaf::find`].

use std::ops::Range;

/// A buffer is as large as its pairs, up to this: leaves in the middle of a split take no more memory than full ones.
const SLACK_BYTES: usize = 128;
/// Bytes that the three numbers in front of a pair take at most: each is below 2^32.
pub(super) const HEAD_BYTES_MAX: usize = 3 * 5;

/// Consecutive pairs.
#[derive(Clone, Default)]
pub(super) struct Leaf {
    bytes: Vec<u8>,
}

/// Where a pair lies in its leaf.
#[derive(Clone, Copy)]
struct Pair {
    start: usize,
    shared: usize,
    suffix: usize,
    value: usize,
    end: usize,
}

/// Where a key is, or would be.
struct Spot {
    /// Bytes that the key has in common with the one before it.
    shared: usize,
    /// The first pair whose key is not below, and what the key has in common with it; `None` beyond the last.
    pair: Option<(Pair, usize)>,
    /// Whether it is the key's own.
    found: bool,
}

/// What [`Leaf::put`] did.
pub(super) struct Put {
    /// Bytes of the value that was replaced, if there was one.
    pub(super) replaced: Option<usize>,
    /// Where the pair begins.
    pub(super) start: usize,
}

/// The numbers in front of a pair, encoded.
struct Head {
    bytes: [u8; HEAD_BYTES_MAX],
    len: usize,
}

impl Head {
    fn new(shared: usize, suffix_bytes: usize, value_bytes: usize) -> Head {
        let mut head = Head { bytes: [0; HEAD_BYTES_MAX], len: 0 };
        for number in [shared, suffix_bytes, value_bytes] {
            let mut rest = u32::try_from(number).expect("invariant: a pair is far below 4 GiB");
            while rest >= 0x80 {
                head.bytes[head.len] = rest as u8 | 0x80;
                head.len += 1;
                rest >>= 7;
            }
            head.bytes[head.len] = rest as u8;
            head.len += 1;
        }
        head
    }

    fn as_slice(&self) -> &[u8] {
        &self.bytes[..self.len]
    }
}

/// Bytes that `a` and `b` begin with alike.
pub(super) fn common(a: &[u8], b: &[u8]) -> usize {
    let (a_words, _) = a.as_chunks::<8>();
    let (b_words, _) = b.as_chunks::<8>();
    let words = a_words.iter().zip(b_words).take_while(|(a, b)| a == b).count();
    let (a_rest, b_rest) = (&a[8 * words..], &b[8 * words..]);
    8 * words + a_rest.iter().zip(b_rest).take_while(|(a, b)| a == b).count()
}

fn number(bytes: &[u8], at: &mut usize) -> usize {
    let mut number = 0;
    let mut shift = 0;
    loop {
        let byte = bytes[*at];
        *at += 1;
        number |= usize::from(byte & 0x7f) << shift;
        if byte < 0x80 {
            return number;
        }
        shift += 7;
    }
}

/// Returns the pair at `start` of a leaf's bytes; `None` at their end.
///
/// Searches spend their time here. Nearly always, each of the three numbers takes one byte.
#[inline(always)]
fn pair_at(bytes: &[u8], start: usize) -> Option<Pair> {
    let (shared, suffix_bytes, value_bytes, suffix) = match bytes[start..] {
        [] => return None,
        [shared, suffix, value, ..] if (shared | suffix | value) < 0x80 => {
            (usize::from(shared), usize::from(suffix), usize::from(value), start + 3)
        }
        _ => long_head(bytes, start),
    };
    let value = suffix + suffix_bytes;
    Some(Pair { start, shared, suffix, value, end: value + value_bytes })
}

/// The numbers in front of the pair at `start`, and where they end.
#[inline(never)]
fn long_head(bytes: &[u8], start: usize) -> (usize, usize, usize, usize) {
    let mut at = start;
    let shared = number(bytes, &mut at);
    (shared, number(bytes, &mut at), number(bytes, &mut at), at)
}

impl Leaf {
    /// Bytes of the encoded pairs.
    pub(super) fn len(&self) -> usize {
        self.bytes.len()
    }

    /// Bytes of memory that the buffer takes.
    pub(super) fn capacity(&self) -> usize {
        self.bytes.capacity()
    }

    /// The value of `key`.
    pub(super) fn get(&self, key: &[u8]) -> Option<&[u8]> {
        let spot = self.find(key);
        let (pair, _) = spot.pair?;
        spot.found.then(|| &self.bytes[pair.value..pair.end])
    }

    /// Sets the value of `key`.
    pub(super) fn put(&mut self, key: &[u8], value: &[u8]) -> Put {
        let Spot { shared, pair, found } = self.find(key);
        let Some((pair, common)) = pair else {
            let start = self.len();
            self.push(shared, key, value);
            return Put { replaced: None, start };
        };
        let start = pair.start;
        if found {
            let replaced = pair.end - pair.value;
            if replaced == value.len() {
                self.bytes[pair.value..pair.end].copy_from_slice(value);
            } else {
                let head = Head::new(pair.shared, key.len() - pair.shared, value.len());
                self.splice(start..pair.end, &[head.as_slice(), &key[pair.shared..], value]);
            }
            return Put { replaced: Some(replaced), start };
        }
        // What the next key has in common with the new one beyond the one before both leaves its suffix.
        let head = Head::new(shared, key.len() - shared, value.len());
        let moved = common - pair.shared;
        let next_head = Head::new(common, pair.value - pair.suffix - moved, pair.end - pair.value);
        let parts = [head.as_slice(), &key[shared..], value, next_head.as_slice()];
        self.splice(start..pair.suffix + moved, &parts);
        Put { replaced: None, start }
    }

    /// Removes `key`. Returns the bytes of its value, if it was there.
    pub(super) fn remove(&mut self, key: &[u8]) -> Option<usize> {
        let Spot { pair: Some((pair, _)), found: true, .. } = self.find(key) else { return None };
        match pair_at(&self.bytes, pair.end) {
            // What the next key shared with this one, but does not with the one before, comes back into its suffix.
            Some(next) => {
                let shared = next.shared.min(pair.shared);
                let back = &key[shared..next.shared];
                let head = Head::new(shared, back.len() + next.value - next.suffix, next.end - next.value);
                self.splice(pair.start..next.suffix, &[head.as_slice(), back]);
            }
            None => self.splice(pair.start..pair.end, &[]),
        }
        Some(pair.end - pair.value)
    }

    /// Appends a pair whose key is above all others and has `shared` bytes in common with the last.
    pub(super) fn push(&mut self, shared: usize, key: &[u8], value: &[u8]) {
        let end = self.len();
        let head = Head::new(shared, key.len() - shared, value.len());
        self.splice(end..end, &[head.as_slice(), &key[shared..], value]);
    }

    /// Returns where the pairs are best divided after one at `start` was put; `None` for one pair alone.
    ///
    /// If the new pair is the last, before it: who appends leaves full leaves behind. Else nearest to the middle.
    pub(super) fn split_point(&self, start: usize) -> Option<usize> {
        let mut best = None;
        let mut at = 0;
        while let Some(pair) = pair_at(&self.bytes, at) {
            if pair.start == start && start > 0 && pair.end == self.len() {
                return Some(start);
            }
            at = pair.end;
            let distance = at.abs_diff(self.len() / 2);
            if at < self.len() && best.is_none_or(|(nearest, _)| distance < nearest) {
                best = Some((distance, at));
            }
        }
        best.map(|(_, at)| at)
    }

    /// Takes the pairs from `at` on. Returns them and a key that divides: above all that stay, not above those that go.
    pub(super) fn split_off(&mut self, at: usize) -> (Box<[u8]>, Leaf) {
        let pair = pair_at(&self.bytes, at).expect("invariant: a leaf is divided before a pair");
        let mut walk = self.walk();
        while walk.at <= at {
            walk.next();
        }
        let mut right = Leaf::default();
        let head = Head::new(0, walk.key.len(), pair.end - pair.value);
        right.splice(0..0, &[head.as_slice(), &walk.key, &self.bytes[pair.value..]]);
        let fence = walk.key[..=pair.shared].into();
        self.splice(at..self.len(), &[]);
        (fence, right)
    }

    /// Appends the pairs of `right`, all of which are above.
    pub(super) fn append(&mut self, right: &Leaf) {
        let Some(first) = pair_at(&right.bytes, 0) else { return };
        let mut walk = self.walk();
        while walk.next().is_some() {}
        let last = walk.key;
        let key = &right.bytes[first.suffix..first.value];
        let shared = common(&last, key);
        let head = Head::new(shared, key.len() - shared, first.end - first.value);
        let end = self.len();
        self.splice(end..end, &[head.as_slice(), &key[shared..], &right.bytes[first.value..]]);
    }

    /// Forgets all pairs, and keeps the buffer.
    pub(super) fn clear(&mut self) {
        self.bytes.clear();
    }

    /// Walks over the pairs from the first.
    pub(super) fn walk(&self) -> Walk<'_> {
        Walk { bytes: &self.bytes, at: 0, key: Vec::new() }
    }

    /// Finds `key`.
    ///
    /// `shared` is what `key` has in common with the pair before, which is below it. A pair that shares more with that
    /// one differs from `key` where that one does, so it is below too; one that shares less rises above both where it
    /// leaves them. Only one that shares the same is compared, from there on.
    fn find(&self, key: &[u8]) -> Spot {
        let mut shared = 0;
        let mut at = 0;
        while let Some(pair) = pair_at(&self.bytes, at) {
            if pair.shared < shared {
                return Spot { shared, pair: Some((pair, pair.shared)), found: false };
            }
            if pair.shared == shared {
                let (suffix, rest) = (&self.bytes[pair.suffix..pair.value], &key[shared..]);
                let alike = common(suffix, rest);
                // They end or differ here.
                let (byte, wanted) = (suffix.get(alike), rest.get(alike));
                if byte >= wanted {
                    let found = byte.is_none() && wanted.is_none();
                    return Spot { shared, pair: Some((pair, shared + alike)), found };
                }
                shared += alike;
            }
            at = pair.end;
        }
        Spot { shared, pair: None, found: false }
    }

    /// Replaces the bytes of `old` by `parts`.
    fn splice(&mut self, old: Range<usize>, parts: &[&[u8]]) {
        let len = self.bytes.len();
        let room: usize = parts.iter().map(|part| part.len()).sum();
        let new_len = len - old.len() + room;
        if new_len > self.bytes.capacity() {
            self.bytes.reserve_exact(new_len.next_multiple_of(SLACK_BYTES) - len);
        }
        if new_len > len {
            self.bytes.resize(new_len, 0);
        }
        self.bytes.copy_within(old.end..len, old.start + room);
        self.bytes.truncate(new_len);
        if self.bytes.capacity() - new_len > 2 * SLACK_BYTES {
            self.bytes.shrink_to(new_len.next_multiple_of(SLACK_BYTES));
        }
        let mut at = old.start;
        for part in parts {
            self.bytes[at..at + part.len()].copy_from_slice(part);
            at += part.len();
        }
    }
}

/// A walk over the pairs of a leaf.
pub(super) struct Walk<'a> {
    bytes: &'a [u8],
    at: usize,
    /// Key of the pair that was returned last.
    key: Vec<u8>,
}

impl<'a> Walk<'a> {
    /// Goes to the next pair and returns its value.
    pub(super) fn next(&mut self) -> Option<&'a [u8]> {
        let pair = pair_at(self.bytes, self.at)?;
        self.key.truncate(pair.shared);
        self.key.extend_from_slice(&self.bytes[pair.suffix..pair.value]);
        self.at = pair.end;
        Some(&self.bytes[pair.value..pair.end])
    }

    /// Key of the pair that was returned last.
    pub(super) fn key(&self) -> &[u8] {
        &self.key
    }

    /// Goes on with the first pair of `leaf`, in the same buffer for keys.
    pub(super) fn enter(&mut self, leaf: &'a Leaf) {
        self.bytes = &leaf.bytes;
        self.at = 0;
    }
}

#[cfg(test)]
impl Leaf {
    /// Checks the invariants, and that all keys are at or above `from` and below `to`.
    pub(super) fn check(&self, from: &[u8], to: Option<&[u8]>) {
        let mut last: Option<Vec<u8>> = None;
        let mut at = 0;
        let mut walk = self.walk();
        while walk.next().is_some() {
            let key = walk.key();
            assert!(key >= from && to.is_none_or(|to| key < to), "a key outside of its leaf");
            let pair = pair_at(&self.bytes, at).unwrap();
            let shared = last.as_deref().map_or(0, |last| common(last, key));
            assert_eq!(pair.shared, shared, "a prefix that is not all that is shared");
            assert!(last.as_deref().is_none_or(|last| last < key), "keys out of order");
            last = Some(key.to_vec());
            at = pair.end;
        }
        assert!(self.capacity() - self.len() <= 2 * SLACK_BYTES, "a buffer that is too large");
    }
}
