//! What a chunk is called: BLAKE3 of its bytes, keyed with its dedup domain's key.
//!
//! The key keeps one domain from learning what another stores: without it nobody can tell which bytes an id names.

use std::fmt;

use proto::ChunkId;
use zeroize::Zeroizing;

/// The secret that names the chunks of one dedup domain. Wiped from memory when dropped, and never printed.
#[derive(Clone)]
pub struct DomainKey(Zeroizing<[u8; 32]>);

impl DomainKey {
    /// Returns the domain key with these bytes.
    #[must_use]
    pub fn new(bytes: [u8; 32]) -> DomainKey {
        DomainKey(Zeroizing::new(bytes))
    }

    /// Returns the id of the chunk that consists of `bytes`.
    #[must_use]
    pub fn chunk_id(&self, bytes: &[u8]) -> ChunkId {
        ChunkId(*blake3::keyed_hash(&self.0, bytes).as_bytes())
    }
}

impl fmt::Debug for DomainKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("DomainKey(secret)")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_are_keyed_blake3() {
        // The first of the official test vectors: key as printed there, no input.
        let key = DomainKey::new(*b"whats the Elvish word for friend");
        let empty = "92b2b75604ed3c761f9d6f62392c8a9227ad0ea3f09573e783f1498a4ed60d26";
        assert_eq!(key.chunk_id(b"").to_string(), empty);
    }

    #[test]
    fn domains_name_the_same_bytes_differently() {
        let (one, other) = (DomainKey::new([1; 32]), DomainKey::new([2; 32]));
        assert_ne!(one.chunk_id(b"bytes"), other.chunk_id(b"bytes"));
        assert_ne!(one.chunk_id(b"bytes"), one.chunk_id(b"byte"));
    }

    #[test]
    fn printing_a_key_does_not_show_it() {
        let shown = format!("{:?}", DomainKey::new([0xab; 32]));
        assert_eq!(shown, "DomainKey(secret)");
    }
}
