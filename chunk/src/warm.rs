//! ZSTD: compressing warm blocks, and decoding as much of one as is wanted.
//!
//! A payload is one Zstandard frame (RFC 8878) that says how many bytes it holds, without checksum (payloads are
//! authenticated) and without dictionary. Nothing outside the block is needed to decode it.
//!
//! Contexts are kept per thread, for making one costs more than a small block. Each is bounded: what a compressor takes
//! depends on its level and the block alone, and a decoder refuses windows longer than a block.

use std::cell::{Cell, RefCell};

use proto::disk::Codec;
use proto::limits::BLOCK_PLAIN_BYTES_MAX;
use zstd_safe::zstd_sys::ZSTD_EndDirective;
use zstd_safe::{CCtx, CParameter, DCtx, DParameter, InBuffer, OutBuffer, ResetDirective};

use crate::codec::{CodecError, is_gain};

/// The level at which the gain in space no longer costs much more time; see the measurements in RFC 8.
const LEVEL: i32 = 3;
/// A decoder refuses frames that refer back further: 2^20 bytes, a whole block.
const WINDOW_LOG_MAX: u32 = BLOCK_PLAIN_BYTES_MAX.ilog2();

/// How hard a compressor tries. Any setting gives payloads that every reader decodes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Effort {
    /// ZSTD's level, 1 to 19.
    pub level: i32,
    /// Whether a second pass looks for long matches anywhere in the block.
    pub is_long_distance: bool,
}

impl Default for Effort {
    fn default() -> Effort {
        Effort { level: LEVEL, is_long_distance: false }
    }
}

/// Compresses blocks, one after the other, each in steps: a whole block takes milliseconds.
pub struct BlockCompressor {
    context: CCtx<'static>,
    plain_bytes: usize,
    /// Room for the payload.
    payload: Vec<u8>,
    /// Bytes of it so far.
    written: usize,
}

impl BlockCompressor {
    /// Returns a compressor.
    ///
    /// # Panics
    /// If `effort` has a value that ZSTD does not know.
    #[must_use]
    pub fn new(effort: Effort) -> BlockCompressor {
        let mut context = CCtx::create();
        let settings = [
            CParameter::CompressionLevel(effort.level),
            CParameter::ContentSizeFlag(true),
            CParameter::ChecksumFlag(false),
            CParameter::DictIdFlag(false),
            CParameter::EnableLongDistanceMatching(effort.is_long_distance),
        ];
        for setting in settings {
            context.set_parameter(setting).expect("invariant: ZSTD knows the setting");
        }
        BlockCompressor { context, plain_bytes: 0, payload: Vec::new(), written: 0 }
    }

    /// Begins a block of `plain_bytes`. One that was begun and not ended is forgotten.
    ///
    /// # Panics
    /// If they exceed [`BLOCK_PLAIN_BYTES_MAX`].
    pub fn begin(&mut self, plain_bytes: usize) {
        assert!(plain_bytes <= BLOCK_PLAIN_BYTES_MAX, "invariant: a block holds at most 1 MiB of plain bytes");
        self.context.reset(ResetDirective::SessionOnly).expect("invariant: a session can always be ended");
        let pledged = self.context.set_pledged_src_size(Some(plain_bytes as u64));
        pledged.expect("invariant: a frame that has not begun can be given a length");
        self.plain_bytes = plain_bytes;
        self.payload.resize(self.payload.len().max(zstd_safe::compress_bound(plain_bytes)), 0);
        self.written = 0;
    }

    /// Takes the next bytes of the block.
    ///
    /// # Panics
    /// If they are more than it was begun with.
    pub fn push(&mut self, plain: &[u8]) {
        self.feed(plain, ZSTD_EndDirective::ZSTD_e_continue);
    }

    /// Ends the block, and returns its payload; `None` if the gain is too small.
    ///
    /// # Panics
    /// If it was given fewer bytes than it was begun with.
    pub fn end(&mut self) -> Option<Vec<u8>> {
        self.feed(&[], ZSTD_EndDirective::ZSTD_e_end);
        is_gain(self.plain_bytes, self.written).then(|| self.payload[..self.written].to_vec())
    }

    fn feed(&mut self, plain: &[u8], directive: ZSTD_EndDirective) {
        let mut input = InBuffer::around(plain);
        loop {
            let mut output = OutBuffer::around_pos(&mut self.payload[..], self.written);
            let left = self.context.compress_stream2(&mut output, &mut input, directive);
            let left = left.expect("invariant: a block has as many bytes as it was begun with");
            self.written = output.pos();
            let is_fed = input.pos() == plain.len();
            if is_fed && (left == 0 || matches!(directive, ZSTD_EndDirective::ZSTD_e_continue)) {
                return;
            }
        }
    }

    /// Compresses the chunks of one block, laid one after the other, and says how.
    ///
    /// Returns them as they are, under [`Codec::None`], if the gain is too small.
    ///
    /// # Panics
    /// If they exceed [`BLOCK_PLAIN_BYTES_MAX`].
    #[must_use]
    pub fn compress(&mut self, chunks: &[&[u8]]) -> (Codec, Vec<u8>) {
        self.begin(chunks.iter().map(|chunk| chunk.len()).sum());
        chunks.iter().for_each(|chunk| self.push(chunk));
        self.end().map_or_else(|| (Codec::None, chunks.concat()), |payload| (Codec::Zstd, payload))
    }
}

/// Decodes the payload of one block in steps.
pub struct BlockDecoder<'a> {
    codec: Codec,
    payload: &'a [u8],
    plain_bytes: usize,
    /// All of the plain bytes, where the codec gives them at once only.
    whole: Option<Vec<u8>>,
    /// `None` once it was given back.
    context: Option<DCtx<'static>>,
    /// Plain bytes given.
    given: usize,
    /// Bytes of the payload used.
    used: usize,
}

impl<'a> BlockDecoder<'a> {
    /// Returns a decoder of a payload of exactly `plain_bytes` bytes.
    #[must_use]
    pub fn new(codec: Codec, payload: &'a [u8], plain_bytes: usize) -> BlockDecoder<'a> {
        let mut context = STEPPING.take().unwrap_or_else(decoder);
        context.reset(ResetDirective::SessionOnly).expect("invariant: a session can always be ended");
        BlockDecoder { codec, payload, plain_bytes, whole: None, context: Some(context), given: 0, used: 0 }
    }

    /// Decodes the next `bytes` bytes.
    ///
    /// # Errors
    /// [`CodecError`], as [`crate::decompress`].
    pub fn next(&mut self, bytes: usize) -> Result<Vec<u8>, CodecError> {
        let damaged = CodecError::Damaged { plain_bytes: self.plain_bytes };
        if self.given == 0 && self.codec == Codec::Zstd {
            check_length(self.payload, self.plain_bytes)?;
        }
        let range = self.given..self.given + bytes;
        if range.end > self.plain_bytes {
            return Err(damaged);
        }
        self.given = range.end;
        if self.codec == Codec::Zstd {
            let mut plain = vec![0; bytes];
            let context = self.context.as_mut().expect("invariant: it is there until the end");
            self.used += decode_on(context, &self.payload[self.used..], &mut plain).ok_or(damaged)?;
            return Ok(plain);
        }
        if self.whole.is_none() {
            self.whole = Some(crate::decompress(self.codec, self.payload, self.plain_bytes)?);
        }
        let whole = self.whole.as_ref().expect("invariant: it was decoded above");
        Ok(whole[range].to_vec())
    }
}

impl Drop for BlockDecoder<'_> {
    fn drop(&mut self) {
        STEPPING.set(self.context.take());
    }
}

thread_local! {
    /// The context of the last decoder that worked in steps.
    static STEPPING: Cell<Option<DCtx<'static>>> = const { Cell::new(None) };
    static COMPRESSOR: RefCell<BlockCompressor> = RefCell::new(BlockCompressor::new(Effort::default()));
    static DECODER: RefCell<DCtx<'static>> = RefCell::new(decoder());
}

/// Compresses the chunks of one warm block, laid one after the other, and says how: [`Codec::Zstd`], or [`Codec::None`]
/// if the gain is too small.
///
/// # Panics
/// If they exceed [`BLOCK_PLAIN_BYTES_MAX`].
#[must_use]
pub fn compress_block(chunks: &[&[u8]]) -> (Codec, Vec<u8>) {
    COMPRESSOR.with_borrow_mut(|compressor| compressor.compress(chunks))
}

fn decoder() -> DCtx<'static> {
    let mut context = DCtx::create();
    let limit = DParameter::WindowLogMax(WINDOW_LOG_MAX);
    context.set_parameter(limit).expect("invariant: ZSTD knows windows of this size");
    context
}

/// Whether a frame says that it holds `plain_bytes`.
fn check_length(payload: &[u8], plain_bytes: usize) -> Result<(), CodecError> {
    match zstd_safe::get_frame_content_size(payload) {
        Ok(Some(claimed)) if claimed == plain_bytes as u64 => Ok(()),
        Ok(_) | Err(_) => Err(CodecError::Damaged { plain_bytes }),
    }
}

/// Decodes on from `payload` until `plain` is full; returns how much of `payload` that took, `None` if it is damaged.
fn decode_on(context: &mut DCtx<'_>, payload: &[u8], plain: &mut [u8]) -> Option<usize> {
    let wanted_bytes = plain.len();
    let mut input = InBuffer::around(payload);
    let mut output = OutBuffer::around(plain);
    while output.pos() < wanted_bytes {
        let before = (input.pos(), output.pos());
        let ended = context.decompress_stream(&mut output, &mut input).ok()? == 0;
        let is_stuck = before == (input.pos(), output.pos());
        if output.pos() < wanted_bytes && (ended || is_stuck) {
            return None;
        }
    }
    Some(input.pos())
}

/// Decodes the first `wanted_bytes` of a payload of `plain_bytes`.
pub(crate) fn decompress_zstd(payload: &[u8], plain_bytes: usize, wanted_bytes: usize) -> Result<Vec<u8>, CodecError> {
    assert!(wanted_bytes <= plain_bytes && plain_bytes <= BLOCK_PLAIN_BYTES_MAX, "invariant: callers check lengths");
    let damaged = CodecError::Damaged { plain_bytes };
    check_length(payload, plain_bytes)?;
    let mut plain = vec![0; wanted_bytes];
    DECODER.with_borrow_mut(|context| {
        if wanted_bytes == plain_bytes {
            return match context.decompress(&mut plain[..], payload) {
                Ok(written) if written == plain_bytes => Ok(()),
                Ok(_) | Err(_) => Err(damaged),
            };
        }
        context.reset(ResetDirective::SessionOnly).expect("invariant: a session can always be ended");
        decode_on(context, payload, &mut plain).map(|_| ()).ok_or(damaged)
    })?;
    Ok(plain)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::codec::{decompress, decompress_start};
    use crate::cut::testing::noise;
    use proptest::prelude::*;

    fn text(len: usize) -> Vec<u8> {
        include_bytes!("warm.rs").iter().copied().cycle().take(len).collect()
    }

    /// A frame with settings of its own.
    fn frame(plain: &[u8], settings: &[CParameter]) -> Vec<u8> {
        let mut context = CCtx::create();
        for setting in settings {
            context.set_parameter(*setting).unwrap();
        }
        let mut out = vec![0; zstd_safe::compress_bound(plain.len())];
        let written = context.compress2(&mut out[..], plain).unwrap();
        out.truncate(written);
        out
    }

    fn refused(payload: &[u8], plain_bytes: usize) {
        let damaged = Err(CodecError::Damaged { plain_bytes });
        assert_eq!(decompress(Codec::Zstd, payload, plain_bytes), damaged);
        assert_eq!(decompress_start(Codec::Zstd, payload, plain_bytes, plain_bytes / 2 + 1), damaged);
    }

    #[test]
    fn alike_chunks_cost_little_together() {
        let chunk = noise(1, 64 << 10);
        let mut other = chunk.clone();
        other[30_000..30_010].fill(b'!');
        let (codec, payload) = compress_block(&[&chunk, &other]);
        assert_eq!(codec, Codec::Zstd);
        assert!(payload.len() < chunk.len() + 1000, "{}", payload.len());
    }

    #[test]
    fn what_does_not_shrink_is_stored_plain() {
        let (one, other) = (noise(1, 9000), noise(2, 9000));
        assert_eq!(compress_block(&[&one, &other]), (Codec::None, [one, other].concat()));
        assert_eq!(compress_block(&[]), (Codec::None, Vec::new()));
    }

    #[test]
    fn a_context_that_was_used_gives_the_same_bytes_as_a_new_one() {
        let blocks = [text(300_000), noise(3, 50_000), text(1 << 20), text(10)];
        let mut used = BlockCompressor::new(Effort::default());
        for round in 0..2 {
            for block in &blocks {
                let fresh = BlockCompressor::new(Effort::default()).compress(&[block]);
                assert_eq!(used.compress(&[block]), fresh, "round {round}");
            }
        }
    }

    #[test]
    fn frames_of_the_first_writer_stay_readable() {
        let frame = include_bytes!("../testdata/block.zst");
        assert_eq!(decompress(Codec::Zstd, frame, 700).unwrap(), text_of_the_golden_frame());
    }

    fn text_of_the_golden_frame() -> Vec<u8> {
        b"what is written is read, ".repeat(28)
    }

    #[test]
    fn a_frame_that_says_another_length_or_none_is_refused() {
        let plain = text(5000);
        let (_, payload) = compress_block(&[&plain]);
        refused(&payload, 4999);
        refused(&payload, 5001);
        refused(&frame(&plain, &[CParameter::ContentSizeFlag(false)]), 5000);
        refused(&[], 1);
        refused(b"(\xb5/\xfd", 1);
    }

    #[test]
    fn a_window_longer_than_a_block_is_refused_before_memory_is_taken() {
        // Magic, descriptor (window descriptor, 4 bytes of content size), window of 2^30, 5,000 bytes, an empty block.
        let mut hostile = vec![0x28, 0xb5, 0x2f, 0xfd, 0b1000_0000, 20 << 3];
        hostile.extend_from_slice(&5000u32.to_le_bytes());
        hostile.extend_from_slice(&[1, 0, 0]);
        refused(&hostile, 5000);
    }

    #[test]
    fn contexts_take_little_memory() {
        let block = [text(512 << 10), noise(5, 512 << 10)].concat();
        let mut compressor = BlockCompressor::new(Effort::default());
        let (_, payload) = compressor.compress(&[&block]);
        assert!(compressor.context.sizeof() <= 3 << 20, "{}", compressor.context.sizeof());
        decompress_start(Codec::Zstd, &payload, block.len(), 700 << 10).unwrap();
        let decoder_bytes = DECODER.with_borrow(|decoder| decoder.sizeof());
        assert!(decoder_bytes <= 2 << 20, "{decoder_bytes}");
    }

    proptest! {
        #[test]
        fn every_start_of_a_block_comes_back(
            seed: u64, noise_len in 0usize..40_000, text_len in 1usize..200_000, level in 1i32..6, wanted: prop::sample::Index,
        ) {
            let chunks = [text(text_len), noise(seed, noise_len), text(text_len / 2)];
            let plain = chunks.concat();
            let chunks: Vec<&[u8]> = chunks.iter().map(|chunk| &chunk[..]).collect();
            let mut compressor = BlockCompressor::new(Effort { level, is_long_distance: seed.is_multiple_of(2) });
            let (codec, payload) = compressor.compress(&chunks);
            let wanted = wanted.index(plain.len() + 1);
            for wanted in [0, wanted, plain.len()] {
                prop_assert_eq!(decompress_start(codec, &payload, plain.len(), wanted).unwrap(), &plain[..wanted]);
            }
            let mut decoder = BlockDecoder::new(codec, &payload, plain.len());
            for chunk in chunks {
                prop_assert_eq!(decoder.next(chunk.len()).unwrap(), chunk);
            }
            prop_assert!(decoder.next(1).is_err());
        }

        #[test]
        fn a_frame_cut_short_is_refused(text_len in 500usize..50_000, cut: prop::sample::Index) {
            let plain = text(text_len);
            let payload = frame(&plain, &[]);
            let cut = &payload[..cut.index(payload.len())];
            prop_assert!(decompress(Codec::Zstd, cut, text_len).is_err());
            prop_assert!(BlockDecoder::new(Codec::Zstd, cut, text_len).next(text_len).is_err());
            prop_assert!(decompress_start(Codec::Zstd, cut, text_len, text_len - 1).is_err());
        }

        #[test]
        fn damage_gives_an_error_or_the_claimed_length(
            text_len in 100usize..50_000, changes in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..4),
            wanted: prop::sample::Index,
        ) {
            let mut payload = frame(&text(text_len), &[]);
            for (at, byte) in changes {
                let at = at.index(payload.len());
                payload[at] = byte;
            }
            for wanted in [wanted.index(text_len), text_len] {
                if let Ok(plain) = decompress_start(Codec::Zstd, &payload, text_len, wanted) {
                    prop_assert_eq!(plain.len(), wanted);
                }
            }
        }
    }
}
