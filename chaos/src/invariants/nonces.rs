//! **No nonce is used twice.** A nonce that is spent twice under one key on different bytes gives both away, whatever
//! crashes, failures and restarts lie between.
//!
//! How: an observer on the sealing port. Every start of a seed gets its keys through one ring whose every use is
//! recorded: key, nonce, and a digest of what was sealed. Sealing the same bytes again under the same nonce gives nothing
//! away, and is not counted as a reuse.
//!
//! What it would miss: sealing that goes around the port, which the layers forbid.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};

use chunk::KeyRing;
use proto::checksum::digest;
use proto::disk::SEAL_TAG_BYTES;
use proto::port::{Cipher, KeyError, KeyProvider, OpenError, WrappedKey};

use super::Invariant;
use crate::harness::World;
use crate::oracle::Violation;

/// Digest of a key, and a nonce.
type Spent = (u128, [u8; 12]);

/// What was sealed so far, over all starts of a node.
#[derive(Default)]
pub struct Seals {
    /// Digest of the bytes and their associated data, by what was spent on them.
    sealed: Mutex<BTreeMap<Spent, u128>>,
    reused: Mutex<Option<String>>,
}

impl Seals {
    /// Seals so far.
    #[must_use]
    pub fn count(&self) -> u64 {
        self.sealed.lock().expect("invariant: no seal panics").len() as u64
    }

    /// The first reuse of a nonce.
    #[must_use]
    pub fn reused(&self) -> Option<String> {
        self.reused.lock().expect("invariant: no seal panics").clone()
    }

    fn record(&self, key: u128, nonce: &[u8; 12], associated: &[u8], bytes: &[u8]) {
        let input = [&(associated.len() as u64).to_le_bytes()[..], associated, bytes].concat();
        let before = self.sealed.lock().expect("invariant: no seal panics").insert((key, *nonce), digest(&input));
        if before.is_some_and(|before| before != digest(&input)) {
            let what = format!("nonce {nonce:02x?} was spent twice under one key on different bytes");
            self.reused.lock().expect("invariant: no seal panics").get_or_insert(what);
        }
    }
}

/// A key ring whose every use is watched.
pub struct WatchedKeys {
    ring: KeyRing,
    ring_digest: u128,
    seals: Arc<Seals>,
}

impl WatchedKeys {
    /// Returns a ring of one key.
    #[must_use]
    pub fn new(key: [u8; 32], seals: Arc<Seals>) -> WatchedKeys {
        WatchedKeys { ring: KeyRing::generate(1, key), ring_digest: digest(&key), seals }
    }
}

impl KeyProvider for WatchedKeys {
    fn wrap(&self, key: &[u8; 32], nonce: [u8; 12], context: &[u8]) -> WrappedKey {
        self.seals.record(self.ring_digest, &nonce, context, key);
        self.ring.wrap(key, nonce, context)
    }

    fn unwrap(&self, wrapped: &WrappedKey, context: &[u8]) -> Result<[u8; 32], KeyError> {
        self.ring.unwrap(wrapped, context)
    }

    fn cipher(&self, key: &[u8; 32]) -> Arc<dyn Cipher> {
        Arc::new(WatchedCipher { cipher: self.ring.cipher(key), key: digest(key), seals: self.seals.clone() })
    }
}

struct WatchedCipher {
    cipher: Arc<dyn Cipher>,
    key: u128,
    seals: Arc<Seals>,
}

impl Cipher for WatchedCipher {
    fn seal(&self, nonce: &[u8; 12], associated: &[u8], bytes: &mut [u8]) -> [u8; SEAL_TAG_BYTES] {
        self.seals.record(self.key, nonce, associated, bytes);
        self.cipher.seal(nonce, associated, bytes)
    }

    fn open<'a>(&self, nonce: &[u8; 12], associated: &[u8], sealed: &'a mut [u8]) -> Result<&'a mut [u8], OpenError> {
        self.cipher.open(nonce, associated, sealed)
    }
}

/// Checks all sealing so far.
///
/// # Errors
/// [`Violation`] at the first reuse.
pub fn check(world: &World) -> Result<(), Violation> {
    world.judge.count(Invariant::Nonces, 1);
    match world.seals().reused() {
        Some(reused) => Err(Violation(reused)),
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_other_bytes_under_a_spent_nonce_are_a_reuse() {
        let seals = Arc::new(Seals::default());
        let keys = WatchedKeys::new([1; 32], seals.clone());
        let seal =
            |key: u8, nonce: u8, bytes: &[u8]| keys.cipher(&[key; 32]).seal(&[nonce; 12], b"", &mut bytes.to_vec());
        seal(1, 1, b"a");
        seal(1, 1, b"a");
        seal(2, 1, b"b");
        seal(1, 2, b"b");
        assert_eq!((seals.count(), seals.reused()), (3, None));
        seal(1, 1, b"b");
        assert!(seals.reused().is_some());
    }
}
