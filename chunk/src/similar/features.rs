//! Super-features: a sketch of a chunk that survives small changes.
//!
//! A gear hash rolls over the chunk; where its upper bits are zero, a sample is taken. So samples follow the content, not
//! the offset, and an inserted byte changes only those within 64 bytes. Each sample falls into one of `BINS` bins by
//! some of its bits, and the least of each bin stays: two chunks agree in a bin with the probability that a random sample
//! of one is in the other (one-permutation min-hash). A *super-feature* combines `BINS_PER_SUPER` bins, so that one in
//! common means that the chunks are alike; there are [`SUPERS`] of them, so that alike chunks rarely have none.
//!
//! Invariant: the features of given bytes never change, for cores route by them. Table and constants are frozen by test.
//!
//! Source: Zou et al., "Odess: Speeding up Resemblance Detection for Deduplication Storage", USENIX ATC 2021 (sampling);
//! Li, Owen, Zhang, "One Permutation Hashing", NIPS 2012.

/// Super-features of a chunk.
pub const SUPERS: usize = 6;
/// Bins that make one super-feature.
const BINS_PER_SUPER: usize = 2;
/// Bins of a sketch.
const BINS: usize = SUPERS * BINS_PER_SUPER;
/// One position in 2^this is sampled.
const SAMPLE_BITS: u32 = 7;
/// A hash below it is a sample.
const SAMPLED_BELOW: u64 = 1 << (64 - SAMPLE_BITS);
/// Parts of a chunk over which hashes roll at the same time.
const LANES: usize = 4;
/// Bytes that a gear hash depends on.
const HASH_BYTES: usize = 64;
/// What an empty bin holds.
const EMPTY: u32 = u32::MAX;

/// The sketch of one chunk, 28 bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Features {
    /// Super-features; 0 where the chunk gave none.
    supers: [u32; SUPERS],
    /// The least sample of all.
    least: u32,
}

impl Features {
    fn of(bins: [u32; BINS]) -> Features {
        let mut supers = [0; SUPERS];
        for (number, (value, bins)) in supers.iter_mut().zip(bins.chunks(BINS_PER_SUPER)).enumerate() {
            if bins.iter().all(|bin| *bin != EMPTY) {
                let sum = bins.iter().fold(number as u64 + 1, |sum, bin| mix(sum ^ (u64::from(*bin) << 8)));
                *value = (sum as u32).max(1);
            }
        }
        Features { supers, least: bins.into_iter().min().unwrap_or(EMPTY) }
    }

    /// The super-features that there are.
    pub(super) fn supers(&self) -> impl Iterator<Item = u32> {
        self.supers.into_iter().filter(|value| *value != 0)
    }

    /// The core, below `cores`, that regroups this chunk: alike chunks mostly have the same one.
    ///
    /// # Panics
    /// If there are no cores.
    #[must_use]
    pub fn owner(&self, cores: u16) -> u16 {
        assert!(cores > 0, "invariant: a node has cores");
        let spread = mix(u64::from(self.least)) >> 32;
        ((spread * u64::from(cores)) >> 32) as u16
    }
}

/// Returns the features of a chunk.
///
/// Cost: one table lookup per byte and a few multiplications per 128 bytes; no allocation.
#[must_use]
pub fn features(plain: &[u8]) -> Features {
    let mut bins = Bins([EMPTY; BINS]);
    // Four lanes side by side keep the processor busy while each waits for its last sum. All but the first begin early, with
    // the bytes that their first hash depends on.
    let lane = plain.len() / LANES;
    let (head, tail) = plain.split_at(lane * LANES);
    let [first, second, third, fourth] = std::array::from_fn(|number| &head[number * lane..(number + 1) * lane]);
    let mut hashes: [u64; LANES] = std::array::from_fn(|number| {
        let start = number * lane;
        plain[start.saturating_sub(HASH_BYTES)..start].iter().fold(0, |hash, byte| roll(hash, *byte))
    });
    for (((a, b), c), d) in first.iter().zip(second).zip(third).zip(fourth) {
        hashes = [roll(hashes[0], *a), roll(hashes[1], *b), roll(hashes[2], *c), roll(hashes[3], *d)];
        // One branch for all: few bytes are sampled.
        if hashes.into_iter().fold(u64::MAX, u64::min) < SAMPLED_BELOW {
            hashes.into_iter().filter(|hash| *hash < SAMPLED_BELOW).for_each(|hash| bins.add(hash));
        }
    }
    let mut last = hashes[LANES - 1];
    for byte in tail {
        last = roll(last, *byte);
        if last < SAMPLED_BELOW {
            bins.add(last);
        }
    }
    Features::of(bins.0)
}

/// The next gear hash: a bit moves up with each byte, and is gone after [`HASH_BYTES`].
fn roll(hash: u64, byte: u8) -> u64 {
    (hash << 1).wrapping_add(GEAR[usize::from(byte)])
}

/// The least sample of each bin.
struct Bins([u32; BINS]);

impl Bins {
    fn add(&mut self, hash: u64) {
        let sample = mix(hash);
        let bin = ((sample >> 32) * BINS as u64) >> 32;
        let least = &mut self.0[bin as usize];
        *least = (*least).min(sample as u32);
    }
}

/// Spreads every bit over all others.
pub(super) const fn mix(value: u64) -> u64 {
    let value = (value ^ (value >> 32)).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    let value = (value ^ (value >> 29)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    value ^ (value >> 32)
}

/// 256 random numbers, by SplitMix64 from 0.
const GEAR: [u64; 256] = {
    let mut table = [0; 256];
    let mut at = 0;
    let mut state = 0u64;
    while at < 256 {
        state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let z = (state ^ (state >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        table[at] = z ^ (z >> 31);
        at += 1;
    }
    table
};

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cut::testing::noise;
    use proptest::prelude::*;

    /// The definition, one byte after the other.
    fn reference(plain: &[u8]) -> [u32; BINS] {
        let mut bins = Bins([EMPTY; BINS]);
        let mut hash = 0;
        for byte in plain {
            hash = roll(hash, *byte);
            if hash >> (64 - SAMPLE_BITS) == 0 {
                bins.add(hash);
            }
        }
        bins.0
    }

    fn in_common(one: &[u8], other: &[u8]) -> usize {
        let (one, other) = (features(one), features(other));
        one.supers.iter().zip(other.supers).filter(|(one, other)| **one != 0 && **one == *other).count()
    }

    #[test]
    fn features_are_frozen() {
        let bytes = noise(1, 100_000);
        let supers = [1_011_967_694, 2_238_036_684, 4_017_253_145, 2_349_278_547, 1_472_687_602, 695_405_718];
        assert_eq!(features(&bytes), Features { supers, least: 10_963_096 });
        // Too few samples for every bin.
        let supers = [2_068_418_911, 2_821_055_691, 2_350_124_194, 1_863_309_717, 0, 0];
        assert_eq!(features(&bytes[..3000]), Features { supers, least: 96_619_396 });
        assert_eq!(features(b""), Features { supers: [0; SUPERS], least: EMPTY });
    }

    #[test]
    fn a_changed_chunk_keeps_features_and_another_has_none_of_them() {
        let (mut kept, mut same_owner) = (0, 0);
        for seed in 0..100 {
            let chunk = noise(seed, 64 << 10);
            let mut changed = chunk.clone();
            changed.splice(20_000..20_000, *b"a line more");
            changed.drain(..700);
            kept += usize::from(in_common(&chunk, &changed) > 0);
            same_owner += usize::from(features(&chunk).owner(16) == features(&changed).owner(16));
            assert_eq!(in_common(&chunk, &noise(seed + 1000, 64 << 10)), 0, "seed {seed}");
        }
        assert!(kept == 100 && same_owner >= 95, "{kept}, {same_owner}");
    }

    #[test]
    fn owners_share_the_chunks_evenly() {
        let mut owned = [0; 7];
        (0..1400).for_each(|seed| owned[usize::from(features(&noise(seed, 8 << 10)).owner(7))] += 1);
        assert!(owned.iter().all(|count| (150..250).contains(count)), "{owned:?}");
        assert_eq!(features(b"short").owner(1), 0);
    }

    proptest! {
        #[test]
        fn two_halves_side_by_side_see_what_one_pass_sees(seed: u64, len in 0usize..5000, repeat in 1usize..4) {
            let plain = noise(seed, len).repeat(repeat);
            let reference = reference(&plain);
            prop_assert_eq!(features(&plain), Features::of(reference));
        }
    }
}
