//! The sealing port: authenticated encryption, and the keys that wrap the keys on disk.
//!
//! Nonces are the caller's duty: [`crate::disk::nonce`] makes them from numbers that are never used twice.

use std::sync::Arc;

use crate::disk::{SEAL_TAG_BYTES, WRAPPED_KEY_BYTES};

/// The bytes did not open: wrong key, wrong place, or damaged.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("sealed bytes did not open: they are damaged, misplaced or under another key")]
pub struct OpenError;

/// AES-256-GCM under one key. Immutable, so that the cores of a node share it.
pub trait Cipher: Send + Sync {
    /// Encrypts `bytes` in place and returns the tag.
    fn seal(&self, nonce: &[u8; 12], associated: &[u8], bytes: &mut [u8]) -> [u8; SEAL_TAG_BYTES];

    /// Verifies and decrypts `sealed` (ciphertext, then tag) in place; returns the plain bytes.
    ///
    /// # Errors
    /// [`OpenError`] if they do not verify; the contents of `sealed` are then unspecified and must not be used.
    fn open<'a>(&self, nonce: &[u8; 12], associated: &[u8], sealed: &'a mut [u8]) -> Result<&'a mut [u8], OpenError>;
}

/// A key under a ring key, as headers store it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct WrappedKey {
    /// Number of the ring key.
    pub ring_key: u32,
    /// Nonce of the wrapping, drawn at random.
    pub nonce: [u8; 12],
    /// Ciphertext and tag.
    pub wrapped: [u8; WRAPPED_KEY_BYTES],
}

/// Why a key could not be unwrapped.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum KeyError {
    /// Add the missing key to the key file.
    #[error("ring key {number} is needed but not in the key file")]
    UnknownRingKey {
        /// The missing key.
        number: u32,
    },
    /// The key file holds another key under this number, or the header was tampered with.
    #[error("ring key {number} does not open this header: is it the right key file?")]
    WrongKey {
        /// The key that was tried.
        number: u32,
    },
}

/// Holder of the numbered ring keys (a key file; later PKCS#11).
pub trait KeyProvider: Send + Sync {
    /// Wraps `key` under the current ring key. `nonce` is random; `context` is authenticated.
    fn wrap(&self, key: &[u8; 32], nonce: [u8; 12], context: &[u8]) -> WrappedKey;

    /// Unwraps a key.
    ///
    /// # Errors
    /// [`KeyError`] says which ring key is missing or wrong.
    fn unwrap(&self, wrapped: &WrappedKey, context: &[u8]) -> Result<[u8; 32], KeyError>;

    /// Returns the cipher for `key`.
    fn cipher(&self, key: &[u8; 32]) -> Arc<dyn Cipher>;
}
