//! Super-features: a sketch of a chunk that survives small changes.
//!
//! A gear hash rolls over the chunk; where its upper bits are zero, a sample is taken. So samples follow the content, not
//! the offset, and an inserted byte changes only those within 64 bytes. Each sample falls into one of [`BINS`] bins by
//! some of its bits, and the least of each bin stays: two chunks agree in a bin with the probability that a random sample
//! of one is in the other (one-permutation min-hash). A *super-feature* combines [`BINS_PER_SUPER`] bins, so that one in
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
const SAMPLE_BITS: u32 = 6;
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
/// Cost: one table lookup per byte and a few multiplications per 64 bytes; no allocation.
#[must_use]
pub fn features(plain: &[u8]) -> Features {
    let mut bins = [EMPTY; BINS];
    let mut hash = 0u64;
    for byte in plain {
        hash = (hash << 1).wrapping_add(GEAR[usize::from(*byte)]);
        if hash >> (64 - SAMPLE_BITS) == 0 {
            let sample = mix(hash);
            let bin = ((sample >> 32) * BINS as u64) >> 32;
            let least = &mut bins[bin as usize];
            *least = (*least).min(sample as u32);
        }
    }
    let mut supers = [0; SUPERS];
    for (number, (value, bins)) in supers.iter_mut().zip(bins.chunks(BINS_PER_SUPER)).enumerate() {
        if bins.iter().all(|bin| *bin != EMPTY) {
            let sum = bins.iter().fold(number as u64 + 1, |sum, bin| mix(sum ^ (u64::from(*bin) << 8)));
            *value = (sum as u32).max(1);
        }
    }
    Features { supers, least: bins.into_iter().min().unwrap_or(EMPTY) }
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
