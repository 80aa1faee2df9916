//! What happens to bytes between a stream and a row: cut, name, compress, seal; and the way back.
//!
//! ```text
//!   stream ─▶ cut ─▶ chunk ─▶ id (keyed BLAKE3) ─▶ … index: absent …
//!                      └────▶ codec (LZ4 or nothing) ─▶ block (AES-256-GCM) ─▶ row
//!   rows ─▶ chunks ─▶ similar: groups ─▶ warm (ZSTD) ─▶ blocks of many chunks ─▶ new rows
//! ```
//!
//! Read it in this order:
//!
//! * [`cut`]: where a stream is cut into chunks.
//! * [`id`]: what a chunk is called.
//! * [`probe`]: whether that is worth trying to compress.
//! * [`codec`]: how its bytes are compressed.
//! * [`similar`]: which chunks are alike, and shall lie together.
//! * [`warm`]: how they are compressed together.
//! * [`seal`]: AES-256-GCM behind [`proto::port::Cipher`], with one of two backends.
//! * [`ring`]: the key ring, a [`proto::port::KeyProvider`] over a key file.
//! * [`block`]: the stored unit, sealed and opened.
//!
//! Nothing here does I/O, reads a clock or draws random numbers: nonces and keys come from the caller.

#[cfg(not(any(feature = "aws-lc", feature = "portable")))]
compile_error!("chunk needs a sealing backend: enable the feature `aws-lc` or `portable`");

pub mod block;
pub mod codec;
pub mod cut;
pub mod id;
pub mod probe;
pub mod ring;
pub mod seal;
pub mod similar;
pub mod warm;

pub use block::{
    BlockError, DecodeError, OpenedBlock, PlainBlock, block_bytes, decode_chunk, decode_upto, open_block, open_entry,
    seal_block,
};
pub use codec::{CodecError, compress, decompress};
pub use cut::{Chunker, ChunkerId, InputEnd, chunker};
pub use id::DomainKey;
pub use probe::is_incompressible;
pub use ring::{KeyRing, RingError};
pub use seal::cipher;
pub use warm::compress_block;
