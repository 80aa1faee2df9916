//! AES-256-GCM by RustCrypto's `aes-gcm`.

use aes_gcm::aead::inout::InOutBuf;
use aes_gcm::{AeadInOut, Aes256Gcm, KeyInit};
use proto::disk::SEAL_TAG_BYTES;
use proto::port::{Cipher, OpenError};

/// AES-256-GCM in pure Rust, with the CPU's AES instructions where it has them. The key is wiped when dropped.
pub struct PortableCipher(Aes256Gcm);

impl PortableCipher {
    /// Returns the cipher under `key`.
    #[must_use]
    pub fn new(key: &[u8; 32]) -> PortableCipher {
        PortableCipher(Aes256Gcm::new(key.into()))
    }
}

impl Cipher for PortableCipher {
    fn seal(&self, nonce: &[u8; 12], associated: &[u8], bytes: &mut [u8]) -> [u8; SEAL_TAG_BYTES] {
        self.0
            .encrypt_inout_detached(nonce.into(), associated, InOutBuf::from(bytes))
            .expect("invariant: what is sealed is far below the 64 GiB of GCM")
            .into()
    }

    fn open<'a>(&self, nonce: &[u8; 12], associated: &[u8], sealed: &'a mut [u8]) -> Result<&'a mut [u8], OpenError> {
        let len = sealed.len().checked_sub(SEAL_TAG_BYTES).ok_or(OpenError)?;
        let (bytes, tag) = sealed.split_at_mut(len);
        let tag: &[u8; SEAL_TAG_BYTES] = (&*tag).try_into().expect("invariant: split off as 16 bytes");
        self.0
            .decrypt_inout_detached(nonce.into(), associated, InOutBuf::from(&mut *bytes), tag.into())
            .map_err(|_| OpenError)?;
        Ok(bytes)
    }
}
