//! ZSTD: compressing warm blocks, and decoding as much of one as is wanted.
//!
//! A payload is one Zstandard frame (RFC 8878) that says how many bytes it holds, without checksum (payloads are
//! authenticated) and without dictionary. Nothing outside the block is needed to decode it.
//!
//! Contexts are kept per thread, for making one costs more than a small block. Each is bounded: what a compressor takes
//! depends on its level and the block alone, and a decoder refuses windows longer than a block.

use std::cell::RefCell;

use proto::disk::Codec;
use proto::limits::BLOCK_PLAIN_BYTES_MAX;
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
    /// Binary logarithm of the entries of the hash table; the level's own if `None`.
    pub hash_log: Option<u32>,
    /// The same for the second table.
    pub chain_log: Option<u32>,
    /// Whether to look for long matches far back as well.
    pub is_long_distance: bool,
}

impl Default for Effort {
    fn default() -> Effort {
        Effort { level: LEVEL, hash_log: None, chain_log: None, is_long_distance: false }
    }
}

/// Compresses blocks, one after the other.
pub struct BlockCompressor {
    context: CCtx<'static>,
    plain: Vec<u8>,
}

impl BlockCompressor {
    /// Returns a compressor.
    ///
    /// # Panics
    /// If `effort` has a value that ZSTD does not know.
    #[must_use]
    pub fn new(effort: Effort) -> BlockCompressor {
        let mut context = CCtx::create();
        let logs = [effort.hash_log.map(CParameter::HashLog), effort.chain_log.map(CParameter::ChainLog)];
        let settings = [
            CParameter::CompressionLevel(effort.level),
            CParameter::ContentSizeFlag(true),
            CParameter::ChecksumFlag(false),
            CParameter::DictIdFlag(false),
            CParameter::EnableLongDistanceMatching(effort.is_long_distance),
        ];
        for setting in settings.into_iter().chain(logs.into_iter().flatten()) {
            context.set_parameter(setting).expect("invariant: ZSTD knows the setting");
        }
        BlockCompressor { context, plain: Vec::new() }
    }

    /// Compresses the chunks of one block, laid one after the other, and says how.
    ///
    /// Returns them as they are, under [`Codec::None`], if the gain is too small.
    ///
    /// # Panics
    /// If they exceed [`BLOCK_PLAIN_BYTES_MAX`].
    #[must_use]
    pub fn compress(&mut self, chunks: &[&[u8]]) -> (Codec, Vec<u8>) {
        let plain_bytes: usize = chunks.iter().map(|chunk| chunk.len()).sum();
        assert!(plain_bytes <= BLOCK_PLAIN_BYTES_MAX, "invariant: a block holds at most 1 MiB of plain bytes");
        self.plain.clear();
        chunks.iter().for_each(|chunk| self.plain.extend_from_slice(chunk));
        let mut payload = vec![0; zstd_safe::compress_bound(plain_bytes)];
        let written = self.context.compress2(&mut payload[..], &self.plain);
        let written = written.expect("invariant: there is room for the worst case");
        if !is_gain(plain_bytes, written) {
            return (Codec::None, self.plain.clone());
        }
        payload.truncate(written);
        payload.shrink_to_fit();
        (Codec::Zstd, payload)
    }
}

thread_local! {
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

/// Decodes the first `wanted_bytes` of a payload of `plain_bytes`.
pub(crate) fn decompress_zstd(payload: &[u8], plain_bytes: usize, wanted_bytes: usize) -> Result<Vec<u8>, CodecError> {
    assert!(wanted_bytes <= plain_bytes && plain_bytes <= BLOCK_PLAIN_BYTES_MAX, "invariant: callers check lengths");
    let damaged = CodecError::Damaged { plain_bytes };
    let claimed = zstd_safe::get_frame_content_size(payload).map_err(|_| damaged)?;
    if claimed != Some(plain_bytes as u64) {
        return Err(damaged);
    }
    let mut plain = vec![0; wanted_bytes];
    DECODER.with_borrow_mut(|context| {
        if wanted_bytes == plain_bytes {
            return match context.decompress(&mut plain[..], payload) {
                Ok(written) if written == plain_bytes => Ok(()),
                Ok(_) | Err(_) => Err(damaged),
            };
        }
        context.reset(ResetDirective::SessionOnly).expect("invariant: a session can always be ended");
        let mut input = InBuffer::around(payload);
        let mut output = OutBuffer::around(&mut plain[..]);
        while output.pos() < wanted_bytes {
            let before = (input.pos(), output.pos());
            let ended = context.decompress_stream(&mut output, &mut input).map_err(|_| damaged)? == 0;
            let is_stuck = before == (input.pos(), output.pos());
            if output.pos() < wanted_bytes && (ended || is_stuck) {
                return Err(damaged);
            }
        }
        Ok(())
    })?;
    Ok(plain)
}
