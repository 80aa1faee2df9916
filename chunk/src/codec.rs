//! Compressing a block's plain bytes, or finding out cheaply that it is no use.
//!
//! Much of what people store is compressed already. A probe counts the byte values of a small sample: where all 256 are
//! about equally common, LZ4 would find nothing and is not tried. The probe looks at value counts only, so incompressible
//! bytes that repeat within one block are stored plain; repeats are the business of deduplication.

use std::borrow::Cow;

use lz4_flex::block;
use proto::disk::Codec;
use proto::limits::BLOCK_PLAIN_BYTES_MAX;

use crate::warm::decompress_zstd;

/// Compression must save at least this fraction (1/16) of the plain bytes, or the block is stored plain: below it, the
/// time of every later read costs more than the space is worth.
const GAIN_FRACTION_MIN: usize = 16;
/// Below this LZ4 is as quick as the probe.
const PROBE_PLAIN_BYTES_MIN: usize = 4 << 10;
/// Windows of a sample, spread evenly over the plain bytes.
const PROBE_WINDOWS: usize = 64;
/// Bytes of one window.
const PROBE_WINDOW_BYTES: usize = 16;
/// Bytes of a sample.
const PROBE_BYTES: usize = PROBE_WINDOWS * PROBE_WINDOW_BYTES;
/// The sum of the squared counts of a sample below which the bytes count as incompressible.
///
/// Uniformly random bytes give n + n(n-1)/256 = 5,116 with a standard deviation of 90, and deflated ones the same. Base64
/// gives 17,000; of source text and machine code no 64 KiB measured gave less than 23,000. The bound lies seven
/// deviations above random.
const PROBE_COLLISIONS_MAX: u32 = 5_750;

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

/// Whether a sample of `plain` has all byte values about equally often.
///
/// Benchmarks call it by itself; [`compress`] is what everyone else wants.
#[must_use]
pub fn is_incompressible(plain: &[u8]) -> bool {
    if plain.len() < PROBE_PLAIN_BYTES_MIN {
        return false;
    }
    let stride = plain.len() / PROBE_WINDOWS;
    let mut counts = [0u16; 256];
    for window in 0..PROBE_WINDOWS {
        // Steps of the golden ratio within each stride: records of a fixed size are not always met at the same field.
        let jitter = (((window * 0x9e37) & 0xffff) * (stride - PROBE_WINDOW_BYTES)) >> 16;
        let start = window * stride + jitter;
        for byte in &plain[start..start + PROBE_WINDOW_BYTES] {
            counts[usize::from(*byte)] += 1;
        }
    }
    let collisions: u32 = counts.iter().map(|count| u32::from(*count) * u32::from(*count)).sum();
    debug_assert!(collisions >= (PROBE_BYTES * PROBE_BYTES / 256) as u32, "invariant: no spread is below uniform");
    collisions <= PROBE_COLLISIONS_MAX
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
    fn the_probe_lets_noise_through_rarely_and_never_stops_what_compresses() {
        let stopped = (0..1000).filter(|seed| is_incompressible(&noise(*seed, 64 << 10))).count();
        assert!(stopped >= 999, "{stopped} of 1000");
        // A tenth of zeros in noise, spread in pages or in single fields: worth compressing by our own measure.
        let mut pages = noise(1, 64 << 10);
        pages.chunks_mut(4096).step_by(8).for_each(|page| page.fill(0));
        assert!(!is_incompressible(&pages));
        let mut fields = noise(2, 64 << 10);
        fields.chunks_mut(64).for_each(|record| record[..8].fill(0));
        assert!(!is_incompressible(&fields));
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
