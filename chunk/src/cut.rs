//! Cutting a stream into chunks at places that its content chooses.
//!
//! Invariant: where a stream is cut depends on its bytes and on nothing else, in particular not on how it arrived.
//! Two equal files cut by two clients at two times have the same chunks, or they do not deduplicate.
//!
//! Every chunker has a number, which is recorded for each dedup domain. A number is for ever: another size or another
//! normalisation is another number.

use fastcdc::v2020;
use proto::limits::{CHUNK_BYTES_AVG, CHUNK_BYTES_MAX, CHUNK_BYTES_MIN};

/// Number of a chunker, as stored with a dedup domain.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ChunkerId(pub u32);

impl ChunkerId {
    /// FastCDC, 2020 edition, 32/64/128 KiB, normalisation level 1, without a seed.
    pub const FASTCDC_64_KIB: ChunkerId = ChunkerId(1);

    /// FastCDC as above with 256/1,024/4,096 bytes: for tests of very many chunks, never for users' data.
    ///
    /// Numbers from 2^31 on are kept for tests.
    pub const FASTCDC_1_KIB_FOR_TESTS: ChunkerId = ChunkerId((1 << 31) + 1);
}

/// What follows the bytes at hand.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum InputEnd {
    /// More bytes may follow.
    MoreFollows,
    /// These are the last bytes of the stream.
    Last,
}

/// Decides where chunks end.
pub trait Chunker {
    /// The number under which this chunker is recorded.
    fn id(&self) -> ChunkerId;

    /// Bytes of the longest chunk; with as many bytes at hand a cut is always found.
    fn bytes_max(&self) -> usize;

    /// Returns the length of the first chunk of `data`.
    ///
    /// `None` if there is no chunk yet: `data` is empty, or more may follow and it is shorter than
    /// [`Chunker::bytes_max`]. Otherwise the length is at least 1 and at most `data.len()`.
    /// Cost: one table lookup per byte past the shortest chunk, no allocation.
    fn cut(&self, data: &[u8], end: InputEnd) -> Option<usize>;
}

/// Returns the chunker with number `id`; `None` if this version does not know it.
#[must_use]
pub fn chunker(id: ChunkerId) -> Option<Box<dyn Chunker>> {
    match id {
        ChunkerId::FASTCDC_64_KIB => Some(Box::new(FASTCDC_64_KIB)),
        ChunkerId::FASTCDC_1_KIB_FOR_TESTS => Some(Box::new(FASTCDC_1_KIB_FOR_TESTS)),
        _ => None,
    }
}

/// FastCDC, 2020 edition, normalisation level 1.
///
/// Source: Xia et al., "The Design of Fast Content-Defined Chunking for Data Deduplication Based Storage Systems",
/// IEEE TPDS 31(9), 2020; gear table and masks of the `fastcdc` crate, frozen in docs/FORMATS.md §chunkers.
struct FastCdc {
    id: ChunkerId,
    bytes_min: usize,
    bytes_avg: usize,
    bytes_max: usize,
    /// Up to the average size a cut needs the zero bits of this mask: one more than the average has bits.
    mask_small: u64,
    /// Behind it, of this one: one less.
    mask_large: u64,
}

const FASTCDC_64_KIB: FastCdc = FastCdc {
    id: ChunkerId::FASTCDC_64_KIB,
    bytes_min: CHUNK_BYTES_MIN,
    bytes_avg: CHUNK_BYTES_AVG,
    bytes_max: CHUNK_BYTES_MAX,
    mask_small: 0x0000_d907_0353_7000,
    mask_large: 0x0000_d90f_0353_0000,
};

const FASTCDC_1_KIB_FOR_TESTS: FastCdc = FastCdc {
    id: ChunkerId::FASTCDC_1_KIB_FOR_TESTS,
    bytes_min: 256,
    bytes_avg: 1024,
    bytes_max: 4096,
    mask_small: 0x0000_d900_0353_0000,
    mask_large: 0x0000_0190_0035_3000,
};

impl Chunker for FastCdc {
    fn id(&self) -> ChunkerId {
        self.id
    }

    fn bytes_max(&self) -> usize {
        self.bytes_max
    }

    fn cut(&self, data: &[u8], end: InputEnd) -> Option<usize> {
        if data.is_empty() || (end == InputEnd::MoreFollows && data.len() < self.bytes_max) {
            return None;
        }
        let (_, length) = v2020::cut(
            data,
            self.bytes_min,
            self.bytes_avg,
            self.bytes_max,
            self.mask_small,
            self.mask_large,
            self.mask_small << 1,
            self.mask_large << 1,
        );
        assert!(
            length <= self.bytes_max && (length >= self.bytes_min || length == data.len()),
            "invariant: a cut is within its bounds"
        );
        Some(length)
    }
}

#[cfg(test)]
pub(crate) mod testing {
    /// Bytes that look random and are the same on every machine: SplitMix64 from `seed`.
    pub(crate) fn noise(seed: u64, len: usize) -> Vec<u8> {
        let mut state = seed;
        let mut out = Vec::with_capacity(len + 8);
        while out.len() < len {
            state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
            let mut z = state;
            z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
            z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
            out.extend_from_slice(&(z ^ (z >> 31)).to_le_bytes());
        }
        out.truncate(len);
        out
    }
}

#[cfg(test)]
mod tests {
    use super::testing::noise;
    use super::*;
    use proptest::prelude::*;

    fn lengths(data: &[u8]) -> Vec<usize> {
        lengths_by(ChunkerId::FASTCDC_64_KIB, data)
    }

    fn lengths_by(id: ChunkerId, data: &[u8]) -> Vec<usize> {
        let chunker = chunker(id).unwrap();
        let mut rest = data;
        let mut lengths = Vec::new();
        while let Some(length) = chunker.cut(rest, InputEnd::Last) {
            lengths.push(length);
            rest = &rest[length..];
        }
        lengths
    }

    /// Cuts a stream that arrives in `parts`, holding back what is not yet decided.
    fn lengths_of_stream(data: &[u8], parts: &[usize]) -> Vec<usize> {
        let chunker = chunker(ChunkerId::FASTCDC_64_KIB).unwrap();
        let mut lengths = Vec::new();
        let (mut start, mut arrived) = (0, 0);
        let mut parts = parts.iter().cycle();
        while arrived < data.len() {
            arrived = data.len().min(arrived + parts.next().unwrap());
            while let Some(length) = chunker.cut(&data[start..arrived], InputEnd::MoreFollows) {
                lengths.push(length);
                start += length;
            }
        }
        while let Some(length) = chunker.cut(&data[start..], InputEnd::Last) {
            lengths.push(length);
            start += length;
        }
        lengths
    }

    #[test]
    fn cuts_are_frozen() {
        let expected =
            [69735, 45943, 64925, 67788, 68637, 50371, 101085, 100168, 79822, 94750, 68129, 37731, 77250, 65957, 56285];
        assert_eq!(lengths(&noise(1, 1 << 20)), expected);
        assert_eq!(lengths(&vec![0; 300_000]), [131_072, 131_072, 37_856]);
    }

    #[test]
    fn masks_are_those_of_level_one() {
        for FastCdc { bytes_avg, mask_small, mask_large, .. } in [FASTCDC_64_KIB, FASTCDC_1_KIB_FOR_TESTS] {
            assert_eq!((mask_small, mask_large), v2020::select_masks(bytes_avg, v2020::Normalization::Level1));
        }
    }

    #[test]
    fn tests_of_many_chunks_get_chunks_of_a_kibibyte() {
        let lengths = lengths_by(ChunkerId::FASTCDC_1_KIB_FOR_TESTS, &noise(4, 4 << 20));
        let (last, inner) = lengths.split_last().unwrap();
        assert!(*last <= 4096 && inner.iter().all(|length| (256..=4096).contains(length)));
        let average = (4 << 20) / lengths.len();
        assert!((900..1500).contains(&average), "{average}");
    }

    #[test]
    fn an_insertion_moves_only_the_cuts_around_it() {
        let data = noise(2, 4 << 20);
        let edited = [&data[..300_001], b"seven b", &data[300_001..]].concat();
        let ends = |data: &[u8]| {
            let mut end = 0;
            lengths(data)
                .into_iter()
                .map(|length| {
                    end += length;
                    data.len() - end
                })
                .collect::<Vec<_>>()
        };
        let (before, after) = (ends(&data), ends(&edited));
        let common = before.iter().filter(|end| after.contains(end)).count();
        assert!(before.len() - common <= 6, "{} of {} cuts moved", before.len() - common, before.len());
    }

    #[test]
    fn nothing_is_cut_before_it_is_decided() {
        let chunker = chunker(ChunkerId::FASTCDC_64_KIB).unwrap();
        assert_eq!(chunker.cut(&noise(3, CHUNK_BYTES_MAX - 1), InputEnd::MoreFollows), None);
        assert!(chunker.cut(&noise(3, CHUNK_BYTES_MAX), InputEnd::MoreFollows).is_some());
        assert_eq!(chunker.cut(b"", InputEnd::Last), None);
        assert_eq!(chunker.cut(b"x", InputEnd::Last), Some(1));
    }

    #[test]
    fn unknown_chunkers_are_refused() {
        assert!(chunker(ChunkerId(0)).is_none() && chunker(ChunkerId(2)).is_none());
        assert_eq!(chunker(ChunkerId(1)).unwrap().id(), ChunkerId(1));
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(48))]

        #[test]
        fn cuts_do_not_depend_on_how_the_bytes_arrived(
            seed: u64,
            len in 0usize..700_000,
            zeros in 0usize..200_000,
            parts in prop::collection::vec(prop_oneof![1000usize..9000, 60_000usize..300_000], 1..8),
        ) {
            let mut data = noise(seed, len);
            data.extend(std::iter::repeat_n(0, zeros));
            let whole = lengths(&data);
            prop_assert_eq!(whole.iter().sum::<usize>(), data.len());
            let inner = &whole[..whole.len().saturating_sub(1)];
            prop_assert!(inner.iter().all(|length| (CHUNK_BYTES_MIN..=CHUNK_BYTES_MAX).contains(length)));
            prop_assert_eq!(lengths_of_stream(&data, &parts), whole);
        }
    }
}
