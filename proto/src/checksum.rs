//! The one checksum of the on-disk formats: XXH3, 64 bits wide, seed 0.
//!
//! It guards against torn writes, bit rot and misdirection; authenticity comes from AES-GCM.
//! Source: xxHash specification 0.1.1, <https://github.com/Cyan4973/xxHash>.

/// Returns the XXH3-64 of `bytes`.
#[must_use]
pub fn checksum(bytes: &[u8]) -> u64 {
    xxhash_rust::xxh3::xxh3_64(bytes)
}

/// Returns the XXH3-128 of `bytes`, for digests that pieces are matched by.
#[must_use]
pub fn digest(bytes: &[u8]) -> u128 {
    xxhash_rust::xxh3::xxh3_128(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn checksum_is_frozen() {
        assert_eq!(checksum(b""), 0x2d06_8005_38d3_94c2);
        assert_eq!(checksum(b"DFS"), checksum(b"DFS"));
        assert_ne!(checksum(b"DFS"), checksum(b"DFT"));
        assert_eq!(digest(b""), 0x99aa_06d3_0147_98d8_6001_c324_468d_497f);
    }
}
