//! Finding out cheaply that a chunk is not worth compressing.
//!
//! Much of what people store is compressed already. The probe counts the byte values of a small sample: where all 256 are
//! about equally common, a codec would find nothing and is not tried. It looks at value counts only, so incompressible
//! bytes that repeat within one chunk pass for noise; repeats are the business of deduplication.

/// Below this LZ4 is as quick as the probe.
const PLAIN_BYTES_MIN: usize = 4 << 10;
/// Windows of a sample, spread evenly over the plain bytes.
const WINDOWS: usize = 64;
/// Bytes of one window.
const WINDOW_BYTES: usize = 16;
/// Bytes of a sample.
const SAMPLE_BYTES: usize = WINDOWS * WINDOW_BYTES;
/// The sum of the squared counts of a sample below which the bytes count as incompressible.
///
/// Uniformly random bytes give n + n(n-1)/256 = 5,116 with a standard deviation of 90, and deflated ones the same. Base64
/// gives 17,000; of source text and machine code no 64 KiB measured gave less than 23,000. The bound lies seven
/// deviations above random.
const COLLISIONS_MAX: u32 = 5_750;

/// Whether a sample of `plain` has all byte values about equally often.
///
/// Cost: a thousand bytes are looked at, whatever the length.
#[must_use]
pub fn is_incompressible(plain: &[u8]) -> bool {
    collisions(plain).is_some_and(|collisions| collisions <= COLLISIONS_MAX)
}

/// The sum of the squared counts of a sample of 1,024 bytes: 4,096 if all values are equally common, a million if all bytes
/// are equal. `None` if there are too few bytes to tell.
#[must_use]
pub fn collisions(plain: &[u8]) -> Option<u32> {
    if plain.len() < PLAIN_BYTES_MIN {
        return None;
    }
    let stride = plain.len() / WINDOWS;
    let mut counts = [0u16; 256];
    for window in 0..WINDOWS {
        // Steps of the golden ratio within each stride: records of a fixed size are not always met at the same field.
        let jitter = (((window * 0x9e37) & 0xffff) * (stride - WINDOW_BYTES)) >> 16;
        let start = window * stride + jitter;
        for byte in &plain[start..start + WINDOW_BYTES] {
            counts[usize::from(*byte)] += 1;
        }
    }
    let collisions: u32 = counts.iter().map(|count| u32::from(*count) * u32::from(*count)).sum();
    debug_assert!(collisions >= (SAMPLE_BYTES * SAMPLE_BYTES / 256) as u32, "invariant: no spread is below uniform");
    Some(collisions)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cut::testing::noise;

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
    fn what_is_too_short_to_tell_is_not_stopped() {
        assert_eq!(collisions(&[0; PLAIN_BYTES_MIN - 1]), None);
        assert_eq!(collisions(&[0; PLAIN_BYTES_MIN]), Some((SAMPLE_BYTES * SAMPLE_BYTES) as u32));
        assert!(!is_incompressible(&noise(1, PLAIN_BYTES_MIN - 1)) && is_incompressible(&noise(1, PLAIN_BYTES_MIN)));
    }
}
