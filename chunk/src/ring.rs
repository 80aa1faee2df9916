//! The key ring: the numbered keys that wrap the keys on disk, and the text file that holds them.
//!
//! ```text
//!   # comment
//!   dfs-ring-key v1 <number> <64 hexadecimal digits>
//! ```
//!
//! The highest number is the current key: new headers are wrapped under it. Older keys stay in the file until nothing
//! on disk names them. To rotate, add a line with a higher number.
//!
//! Invariant: no message, `Debug` output or error of this module contains a key.

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use std::fmt;
use std::sync::Arc;

use proto::disk::{SEAL_TAG_BYTES, WRAPPED_KEY_BYTES};
use proto::port::{Cipher, KeyError, KeyProvider, WrappedKey};
use zeroize::Zeroizing;

use crate::seal;

/// Keys of one ring.
pub const RING_KEYS_MAX: usize = 1024;
const KEYWORD: &str = "dfs-ring-key";
const VERSION: &str = "v1";
const KEY_DIGITS: usize = 64;
const HEADING: &str = "\
# DFS ring keys. Without this file the data on the disks cannot be read: keep a copy elsewhere.
# With it and the disks anyone can read the data: keep it secret. The highest number is the current key.
";

/// Wiped when dropped; boxed, so that moving it leaves no copy behind.
type Key = Box<Zeroizing<[u8; 32]>>;

/// The ring keys of one node or cluster, by number. Wiped from memory when dropped, and never printed.
#[derive(Clone)]
pub struct KeyRing {
    /// Never empty.
    keys: BTreeMap<u32, Key>,
}

/// Why a key file or a key was refused.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RingError {
    /// Put a key into the file, or name the right file.
    #[error("the key file holds no key: a line '{KEYWORD} {VERSION} <number> <{KEY_DIGITS} hex digits>' is needed")]
    Empty,
    /// Mend this line of the key file.
    #[error("key file, line {line}: {problem}")]
    Line {
        /// The line, counted from 1.
        line: usize,
        /// What is wrong with it.
        problem: LineProblem,
    },
    /// Choose another number: a number names one key for ever.
    #[error("ring key {number} exists already")]
    NumberTaken {
        /// The number.
        number: u32,
    },
    /// Remove keys that nothing on disk names any more.
    #[error("a key ring holds at most {RING_KEYS_MAX} keys")]
    TooManyKeys,
}

/// What is wrong with a line of a key file.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum LineProblem {
    /// Remove the line or start it with `#`.
    #[error("expected '{KEYWORD} {VERSION} <number> <{KEY_DIGITS} hex digits>'")]
    NotAKey,
    /// Use the software that wrote the file.
    #[error("written in a newer format; this software understands {VERSION}")]
    UnknownVersion,
    /// Number the key with a decimal number below 2^32.
    #[error("the key's number is not a decimal number below 2^32")]
    BadNumber,
    /// Restore the line from a copy.
    #[error("the key does not have {KEY_DIGITS} hexadecimal digits")]
    BadKey,
    /// Remove one of the two lines: a number names one key for ever.
    #[error("an earlier line has the same number")]
    NumberTaken,
    /// Remove keys that nothing on disk names any more.
    #[error("more than {RING_KEYS_MAX} keys")]
    TooManyKeys,
}

impl KeyRing {
    /// Returns a ring of one key, made of 32 unpredictable `bytes` that the caller drew.
    #[must_use]
    pub fn generate(number: u32, bytes: [u8; 32]) -> KeyRing {
        KeyRing { keys: BTreeMap::from([(number, Box::new(Zeroizing::new(bytes)))]) }
    }

    /// Adds a key; it becomes the current one if its number is the highest.
    ///
    /// # Errors
    /// [`RingError::NumberTaken`], [`RingError::TooManyKeys`]; the ring is then unchanged.
    pub fn add(&mut self, number: u32, bytes: [u8; 32]) -> Result<(), RingError> {
        match insert(&mut self.keys, number, Box::new(Zeroizing::new(bytes))) {
            Ok(()) => Ok(()),
            Err(LineProblem::TooManyKeys) => Err(RingError::TooManyKeys),
            Err(_) => Err(RingError::NumberTaken { number }),
        }
    }

    /// Reads a key file.
    ///
    /// # Errors
    /// [`RingError`] names the first line to mend, without quoting it.
    pub fn parse(text: &str) -> Result<KeyRing, RingError> {
        let mut keys = BTreeMap::new();
        for (index, line) in text.lines().enumerate() {
            let line = line.trim();
            if line.is_empty() || line.starts_with('#') {
                continue;
            }
            parse_line(line)
                .and_then(|(number, key)| insert(&mut keys, number, key))
                .map_err(|problem| RingError::Line { line: index + 1, problem })?;
        }
        if keys.is_empty() { Err(RingError::Empty) } else { Ok(KeyRing { keys }) }
    }

    /// Returns the text of the key file, to be written where only its owner can read it.
    #[must_use]
    pub fn to_text(&self) -> Zeroizing<String> {
        let line_bytes_max = KEYWORD.len() + VERSION.len() + 10 + KEY_DIGITS + 4;
        // Large enough from the start: a string that grows leaves copies of itself behind.
        let capacity = HEADING.len() + self.keys.len() * line_bytes_max;
        let mut text = Zeroizing::new(String::with_capacity(capacity));
        text.push_str(HEADING);
        for (number, key) in &self.keys {
            text.push_str(&format!("{KEYWORD} {VERSION} {number} "));
            for byte in key.iter() {
                for digit in [byte >> 4, byte & 0xf] {
                    text.push(char::from(b"0123456789abcdef"[usize::from(digit)]));
                }
            }
            text.push('\n');
        }
        assert!(text.len() <= capacity, "invariant: the text fits what was reserved for it");
        text
    }

    /// The number of the current key.
    #[must_use]
    pub fn current(&self) -> u32 {
        *self.current_key().0
    }

    fn current_key(&self) -> (&u32, &Key) {
        self.keys.last_key_value().expect("invariant: a ring holds a key")
    }
}

fn parse_line(line: &str) -> Result<(u32, Key), LineProblem> {
    let mut words = line.split_whitespace();
    if words.next() != Some(KEYWORD) {
        return Err(LineProblem::NotAKey);
    }
    match words.next() {
        Some(VERSION) => {}
        Some(word) if word.starts_with('v') => return Err(LineProblem::UnknownVersion),
        _ => return Err(LineProblem::NotAKey),
    }
    let (Some(number), Some(digits), None) = (words.next(), words.next(), words.next()) else {
        return Err(LineProblem::NotAKey);
    };
    // `parse` alone would accept a sign.
    let number = if number.starts_with('+') { Err(LineProblem::BadNumber) } else { Ok(number) };
    let number = number?.parse().map_err(|_| LineProblem::BadNumber)?;
    Ok((number, parse_key(digits).ok_or(LineProblem::BadKey)?))
}

fn parse_key(digits: &str) -> Option<Key> {
    if digits.len() != KEY_DIGITS {
        return None;
    }
    let mut key = Box::new(Zeroizing::new([0; 32]));
    let digit = |byte: u8| char::from(byte).to_digit(16).map(|value| value as u8);
    for (byte, pair) in key.iter_mut().zip(digits.as_bytes().chunks_exact(2)) {
        *byte = digit(pair[0])? << 4 | digit(pair[1])?;
    }
    Some(key)
}

fn insert(keys: &mut BTreeMap<u32, Key>, number: u32, key: Key) -> Result<(), LineProblem> {
    if keys.len() == RING_KEYS_MAX {
        return Err(LineProblem::TooManyKeys);
    }
    match keys.entry(number) {
        Entry::Vacant(vacant) => {
            vacant.insert(key);
            Ok(())
        }
        Entry::Occupied(_) => Err(LineProblem::NumberTaken),
    }
}

impl KeyProvider for KeyRing {
    fn wrap(&self, key: &[u8; 32], nonce: [u8; 12], context: &[u8]) -> WrappedKey {
        let (number, ring_key) = self.current_key();
        let mut wrapped = [0; WRAPPED_KEY_BYTES];
        let (bytes, tag) = wrapped.split_at_mut(WRAPPED_KEY_BYTES - SEAL_TAG_BYTES);
        bytes.copy_from_slice(key);
        tag.copy_from_slice(&seal::cipher(ring_key).seal(&nonce, context, bytes));
        WrappedKey { ring_key: *number, nonce, wrapped }
    }

    fn unwrap(&self, wrapped: &WrappedKey, context: &[u8]) -> Result<[u8; 32], KeyError> {
        let number = wrapped.ring_key;
        let ring_key = self.keys.get(&number).ok_or(KeyError::UnknownRingKey { number })?;
        let mut bytes = Zeroizing::new(wrapped.wrapped);
        let key = seal::cipher(ring_key)
            .open(&wrapped.nonce, context, bytes.as_mut_slice())
            .map_err(|_| KeyError::WrongKey { number })?;
        Ok((&*key).try_into().expect("invariant: 48 wrapped bytes hold 32"))
    }

    fn cipher(&self, key: &[u8; 32]) -> Arc<dyn Cipher> {
        seal::cipher(key)
    }
}

impl fmt::Debug for KeyRing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "KeyRing(keys {:?}, secret)", self.keys.keys())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const KEY: &str = "000102030405060708090a0b0c0d0e0f101112131415161718191a1b1c1d1e1F";

    fn problem(text: &str) -> (usize, LineProblem) {
        match KeyRing::parse(text) {
            Err(RingError::Line { line, problem }) => (line, problem),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn key_file_format_is_frozen() {
        let ring = KeyRing::parse(&format!("# a comment\n\n  {KEYWORD} v1 7 {KEY}  \r\n")).unwrap();
        assert_eq!(ring.current(), 7);
        let text = ring.to_text();
        assert_eq!(text.strip_prefix(HEADING), Some(&*format!("dfs-ring-key v1 7 {}\n", KEY.to_lowercase())));
        let mut bytes = [0; 32];
        (0u8..).zip(&mut bytes).for_each(|(value, byte)| *byte = value);
        assert_eq!(*KeyRing::generate(7, bytes).to_text(), *text);
    }

    #[test]
    fn the_first_bad_line_is_named() {
        let good = format!("dfs-ring-key v1 1 {KEY}\n");
        for (line, expected) in [
            ("rubbish".to_owned(), LineProblem::NotAKey),
            ("dfs-ring-key".to_owned(), LineProblem::NotAKey),
            ("dfs-ring-key v1 2".to_owned(), LineProblem::NotAKey),
            (format!("dfs-ring-key v1 2 {KEY} 3"), LineProblem::NotAKey),
            (format!("dfs-ring-key v2 2 {KEY}"), LineProblem::UnknownVersion),
            (format!("dfs-ring-key v1 -2 {KEY}"), LineProblem::BadNumber),
            (format!("dfs-ring-key v1 +2 {KEY}"), LineProblem::BadNumber),
            (format!("dfs-ring-key v1 4294967296 {KEY}"), LineProblem::BadNumber),
            (format!("dfs-ring-key v1 2 {}", &KEY[1..]), LineProblem::BadKey),
            (format!("dfs-ring-key v1 2 +{}", &KEY[1..]), LineProblem::BadKey),
            (format!("dfs-ring-key v1 2 é{}", &KEY[2..]), LineProblem::BadKey),
            (format!("dfs-ring-key v1 01 {KEY}"), LineProblem::NumberTaken),
        ] {
            assert_eq!(problem(&format!("{good}# two\n{line}\n{good}")), (3, expected), "{line}");
        }
        assert_eq!(KeyRing::parse("# nothing\n\n").unwrap_err(), RingError::Empty);
    }

    #[test]
    fn a_ring_has_a_named_maximum() {
        let lines =
            |count: usize| (0..count).map(|number| format!("dfs-ring-key v1 {number} {KEY}\n")).collect::<String>();
        let mut ring = KeyRing::parse(&lines(RING_KEYS_MAX)).unwrap();
        assert_eq!(problem(&lines(RING_KEYS_MAX + 1)), (RING_KEYS_MAX + 1, LineProblem::TooManyKeys));
        assert_eq!(ring.add(u32::MAX, [0; 32]), Err(RingError::TooManyKeys));
    }

    #[test]
    fn neither_debug_nor_errors_show_a_key() {
        let secret = "abababababab";
        let ring = KeyRing::generate(3, [0xab; 32]);
        assert_eq!(format!("{ring:?}"), "KeyRing(keys [3], secret)");
        let error = KeyRing::parse(&format!("dfs-ring-key v1 3 {secret}")).unwrap_err();
        assert!(!format!("{error} {error:?}").contains(secret));
    }

    #[test]
    fn after_rotation_old_headers_open_and_new_ones_use_the_new_key() {
        let mut ring = KeyRing::generate(1, [1; 32]);
        let old = ring.wrap(&[9; 32], [5; 12], b"segment");
        ring.add(2, [2; 32]).unwrap();
        assert_eq!(ring.add(1, [3; 32]), Err(RingError::NumberTaken { number: 1 }));
        let new = ring.wrap(&[9; 32], [6; 12], b"segment");
        assert_eq!((old.ring_key, new.ring_key, ring.current()), (1, 2, 2));
        for wrapped in [&old, &new] {
            assert_eq!(ring.unwrap(wrapped, b"segment"), Ok([9; 32]));
        }
        let only_new = KeyRing::generate(2, [2; 32]);
        assert_eq!(only_new.unwrap(&old, b"segment"), Err(KeyError::UnknownRingKey { number: 1 }));
        let other = KeyRing::generate(2, [4; 32]);
        assert_eq!(other.unwrap(&new, b"segment"), Err(KeyError::WrongKey { number: 2 }));
    }

    proptest! {
        #[test]
        fn rings_survive_their_text(keys in prop::collection::btree_map(any::<u32>(), any::<[u8; 32]>(), 1..9)) {
            let mut numbered = keys.iter();
            let (number, bytes) = numbered.next().unwrap();
            let mut ring = KeyRing::generate(*number, *bytes);
            for (number, bytes) in numbered {
                ring.add(*number, *bytes).unwrap();
            }
            let back = KeyRing::parse(&ring.to_text()).unwrap();
            prop_assert_eq!(&*back.to_text(), &*ring.to_text());
            prop_assert_eq!(Some(&back.current()), keys.keys().last());
            let wrapped = ring.wrap(&[7; 32], [8; 12], b"context");
            prop_assert_eq!(back.unwrap(&wrapped, b"context"), Ok([7; 32]));
            prop_assert!(back.unwrap(&wrapped, b"another").is_err());
        }

        #[test]
        fn parse_never_panics(text in ".{0,200}", tail in "dfs-ring-key v1 [0-9]{0,12} \\PC{0,70}") {
            let _ = KeyRing::parse(&text);
            let _ = KeyRing::parse(&tail);
        }
    }

    #[test]
    fn every_flipped_bit_of_a_wrapped_key_is_detected() {
        let ring = KeyRing::generate(1, [1; 32]);
        let wrapped = ring.wrap(&[9; 32], [5; 12], b"segment");
        for bit in 0..WRAPPED_KEY_BYTES * 8 {
            let mut damaged = wrapped;
            damaged.wrapped[bit / 8] ^= 1 << (bit % 8);
            assert_eq!(ring.unwrap(&damaged, b"segment"), Err(KeyError::WrongKey { number: 1 }), "bit {bit}");
        }
    }
}
