//! AES-256-GCM by AWS-LC.

use aws_lc_rs::aead::{AES_256_GCM, Aad, LessSafeKey, Nonce, UnboundKey};
use proto::disk::SEAL_TAG_BYTES;
use proto::port::{Cipher, OpenError};

/// AES-256-GCM by AWS-LC, with assembly for the CPU at hand. AWS-LC wipes its copy of the key when dropped.
pub struct AwsLcCipher(LessSafeKey);

impl AwsLcCipher {
    /// Returns the cipher under `key`.
    ///
    /// # Panics
    /// If memory is exhausted.
    #[must_use]
    pub fn new(key: &[u8; 32]) -> AwsLcCipher {
        let key = UnboundKey::new(&AES_256_GCM, key).expect("invariant: a key of 32 bytes fits AES-256");
        AwsLcCipher(LessSafeKey::new(key))
    }
}

impl Cipher for AwsLcCipher {
    fn seal(&self, nonce: &[u8; 12], associated: &[u8], bytes: &mut [u8]) -> [u8; SEAL_TAG_BYTES] {
        let tag = self
            .0
            .seal_in_place_separate_tag(Nonce::from(nonce), Aad::from(associated), bytes)
            .expect("invariant: what is sealed is far below the 64 GiB of GCM");
        tag.as_ref().try_into().expect("invariant: a GCM tag has 16 bytes")
    }

    fn open<'a>(&self, nonce: &[u8; 12], associated: &[u8], sealed: &'a mut [u8]) -> Result<&'a mut [u8], OpenError> {
        self.0.open_in_place(Nonce::from(nonce), Aad::from(associated), sealed).map_err(|_| OpenError)
    }
}
