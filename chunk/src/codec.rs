//! Compressing a block's plain bytes, if it is of use.
//!
//! The rule: what the probe finds incompressible is stored plain; anything else is compressed, and stored plain if that
//! saves too little. RFC 9 has what this costs and saves, and what further probes and a trained model would.

use std::borrow::Cow;

use lz4_flex::block;
use proto::disk::Codec;
use proto::limits::BLOCK_PLAIN_BYTES_MAX;

use crate::probe::is_incompressible;
use crate::warm::decompress_zstd;

/// Compression must save at least this fraction (1/16) of the plain bytes, or the block is stored plain: below it, the
/// time of every later read costs more than the space is worth.
const GAIN_FRACTION_MIN: usize = 16;
/// Why a payload was not decompressed. The bytes are authenticated before, so all of these mean that a broken or newer
/// version wrote them: report the block, and read another copy.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CodecError {
    /// The block claims more than a block may hold.
    #[error("a block of {plain_bytes} plain bytes exceeds {BLOCK_PLAIN_BYTES_MAX}")]
    TooLong {
        /// Plain bytes claimed.
        plain_bytes: usize,
    },
    /// The payload is not of its codec, or yields another number of bytes than claimed.
    #[error("the payload does not decompress to {plain_bytes} bytes")]
    Damaged {
        /// Plain bytes claimed.
        plain_bytes: usize,
    },
}

/// Compresses the plain bytes of one block, and says how.
///
/// Returns `plain` itself under [`Codec::None`] when the probe finds it incompressible or the gain is too small.
///
/// # Panics
/// If `plain` exceeds [`BLOCK_PLAIN_BYTES_MAX`].
#[must_use]
pub fn compress(plain: &[u8]) -> (Codec, Cow<'_, [u8]>) {
    assert!(plain.len() <= BLOCK_PLAIN_BYTES_MAX, "invariant: a block holds at most 1 MiB of plain bytes");
    if !is_incompressible(plain) {
        let compressed = block::compress(plain);
        if is_gain(plain.len(), compressed.len()) {
            return (Codec::Lz4, Cow::Owned(compressed));
        }
    }
    (Codec::None, Cow::Borrowed(plain))
}

/// Whether compression to `compressed_bytes` saves enough to be worth decoding.
pub(crate) fn is_gain(plain_bytes: usize, compressed_bytes: usize) -> bool {
    compressed_bytes + plain_bytes.div_ceil(GAIN_FRACTION_MIN) <= plain_bytes && plain_bytes > 0
}

/// Decompresses a payload to exactly `plain_bytes` bytes.
///
/// Cost: one allocation of `plain_bytes`, which is at most [`BLOCK_PLAIN_BYTES_MAX`] whatever the payload says.
///
/// # Errors
/// [`CodecError`]; hostile bytes give an error or wrong plain bytes of the right length, never more.
pub fn decompress(codec: Codec, payload: &[u8], plain_bytes: usize) -> Result<Vec<u8>, CodecError> {
    decompress_start(codec, payload, plain_bytes, plain_bytes)
}

/// Decompresses the first `wanted_bytes` of a payload of exactly `plain_bytes` bytes.
///
/// Cost: ZSTD stops when it has them; LZ4 decodes everything.
///
/// # Errors
/// [`CodecError`], as [`decompress`]; damage behind what is wanted may go unnoticed.
///
/// # Panics
/// If more is wanted than there is.
pub(crate) fn decompress_start(
    codec: Codec,
    payload: &[u8],
    plain_bytes: usize,
    wanted_bytes: usize,
) -> Result<Vec<u8>, CodecError> {
    assert!(wanted_bytes <= plain_bytes, "invariant: a block has what is wanted of it");
    if plain_bytes > BLOCK_PLAIN_BYTES_MAX {
        return Err(CodecError::TooLong { plain_bytes });
    }
    let damaged = CodecError::Damaged { plain_bytes };
    match codec {
        Codec::None if payload.len() == plain_bytes => Ok(payload[..wanted_bytes].to_vec()),
        Codec::None => Err(damaged),
        Codec::Lz4 => {
            let mut plain = vec![0; plain_bytes];
            match block::decompress_into(payload, &mut plain) {
                Ok(written) if written == plain_bytes => {
                    plain.truncate(wanted_bytes);
                    Ok(plain)
                }
                Ok(_) | Err(_) => Err(damaged),
            }
        }
        Codec::Zstd => decompress_zstd(payload, plain_bytes, wanted_bytes),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cut::testing::noise;
    use proptest::prelude::*;

    fn text(len: usize) -> Vec<u8> {
        include_bytes!("codec.rs").iter().copied().cycle().take(len).collect()
    }

    #[test]
    fn text_is_compressed_and_noise_is_not() {
        for len in [100, 5000, 64 << 10, BLOCK_PLAIN_BYTES_MAX] {
            let noise = noise(len as u64, len);
            assert_eq!(compress(&noise), (Codec::None, Cow::Borrowed(&noise[..])));
        }
        for len in [2000, 5000, 64 << 10, BLOCK_PLAIN_BYTES_MAX] {
            let text = text(len);
            let (codec, payload) = compress(&text);
            assert_eq!(codec, Codec::Lz4);
            assert!(payload.len() <= len - len / 16);
        }
        assert_eq!(compress(b""), (Codec::None, Cow::Borrowed(&b""[..])));
    }

    #[test]
    fn a_gain_below_one_sixteenth_is_not_taken() {
        let gain = |zeros: usize| {
            let mut plain = noise(9, 4000);
            plain[..zeros].fill(0);
            compress(&plain).0
        };
        assert_eq!((gain(200), gain(400)), (Codec::None, Codec::Lz4));
    }

    #[test]
    fn oversized_claims_are_refused_before_memory_is_taken() {
        for codec in [Codec::None, Codec::Lz4] {
            for plain_bytes in [BLOCK_PLAIN_BYTES_MAX + 1, usize::MAX] {
                assert_eq!(decompress(codec, b"x", plain_bytes), Err(CodecError::TooLong { plain_bytes }));
            }
        }
    }

    proptest! {
        #[test]
        fn what_was_compressed_comes_back(seed: u64, noise_len in 0usize..9000, text_len in 0usize..9000, zeros in 0usize..9000) {
            let mut plain = noise(seed, noise_len);
            plain.extend(text(text_len));
            plain.extend(vec![0; zeros]);
            let (codec, payload) = compress(&plain);
            prop_assert!(payload.len() <= plain.len());
            prop_assert_eq!(decompress(codec, &payload, plain.len()).unwrap(), plain.clone());
            for wrong in [plain.len() + 1, plain.len().wrapping_sub(1)] {
                prop_assert!(decompress(codec, &payload, wrong).is_err());
            }
            for cut in [0, payload.len() / 2, payload.len().saturating_sub(1)].into_iter().filter(|cut| *cut < payload.len()) {
                prop_assert!(decompress(codec, &payload[..cut], plain.len()).is_err());
            }
        }

        #[test]
        fn hostile_payloads_give_an_error_or_the_claimed_length(payload in prop::collection::vec(any::<u8>(), 0..300), plain_bytes in 0usize..5000) {
            if let Ok(plain) = decompress(Codec::Lz4, &payload, plain_bytes) {
                prop_assert_eq!(plain.len(), plain_bytes);
            }
        }

        #[test]
        fn a_flipped_bit_never_changes_the_length(text_len in 100usize..3000, bit: prop::sample::Index) {
            let plain = text(text_len);
            let mut payload = block::compress(&plain);
            let bit = bit.index(payload.len() * 8);
            payload[bit / 8] ^= 1 << (bit % 8);
            if let Ok(damaged) = decompress(Codec::Lz4, &payload, text_len) {
                prop_assert_eq!(damaged.len(), text_len);
            }
        }
    }
}
