//! The durable byte layouts. `docs/FORMATS.md` has the same tables for people; golden bytes in the tests freeze them.
//!
//! Every fixed header is 512 bytes, little-endian, and starts and ends alike:
//!
//! ```text
//!   0  magic [8]   8  version u32   12  header_bytes u32 (512)   …   504  header_checksum u64 (XXH3-64 of 0..504)
//! ```
//!
//! Reserved bytes are written as zeros and checked on reading, so that a later version may give them a meaning that
//! an older reader cannot miss. What a header describes is authenticated by AES-GCM, not by its checksum.

mod block;
mod piece;
mod segment;
mod snapshot;
mod superblock;
mod table;
mod wal;

pub use block::{BLOCK_HEADER_BYTES, BlockEntry, BlockHeader, ChunkEntry, Codec};
pub use piece::{PIECE_CARRIES_TABLE, PieceColumn, PieceHeader, head_bytes};
pub use segment::{FooterHeader, SegmentHeader};
pub use snapshot::{SnapshotFrame, SnapshotHeader};
pub use superblock::{SUPERBLOCK_COPIES, SUPERBLOCK_FILE_BYTES, SUPERBLOCK_HAS_METADATA, Superblock};
pub use table::{RowTable, TableBlock};
pub use wal::{WalBatchHeader, WalHeader};

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

use crate::checksum::checksum;
use crate::ids::{ClusterId, SegmentTag};

/// Bytes of every fixed header.
pub const HEADER_BYTES: usize = 512;
/// The frozen Cauchy matrix over GF(2^8), polynomial 0x11D; see docs/FORMATS.md §geometry.
pub const GEOMETRY_CODE_CAUCHY: u16 = 1;
/// AES-256-GCM with a 96-bit nonce and a 128-bit tag.
pub const CIPHER_AES_256_GCM: u16 = 1;
/// Bytes that sealing adds: the authentication tag.
pub const SEAL_TAG_BYTES: usize = 16;
/// Bytes of a wrapped 256-bit key.
pub const WRAPPED_KEY_BYTES: usize = 32 + SEAL_TAG_BYTES;

/// What a nonce is spent on: the top byte of the nonce's last four, so that the kinds can never collide under one key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum NonceKind {
    /// A block's payload.
    Payload = 0,
    /// The table entry in front of a block.
    BlockEntry = 1,
    /// The table of a row.
    RowTable = 2,
    /// The footer of a sealed segment.
    Footer = 3,
    /// A batch of the metadata WAL.
    WalBatch = 4,
    /// A frame of a metadata snapshot.
    SnapshotFrame = 5,
}

/// Builds the 96-bit nonce of item `minor` (a block, below 2^24) of `major` (a row, an LSN, a frame).
///
/// ```text
///   0  major u64 LE   8  minor, low 24 bits LE   11  kind
/// ```
///
/// # Panics
/// If `minor` needs more than 24 bits.
#[must_use]
pub fn nonce(kind: NonceKind, major: u64, minor: u32) -> [u8; 12] {
    assert!(minor < 1 << 24, "invariant: a nonce has 24 bits for the block");
    let mut nonce = [0; 12];
    nonce[..8].copy_from_slice(&major.to_le_bytes());
    nonce[8..].copy_from_slice(&(minor | (kind as u32) << 24).to_le_bytes());
    nonce
}

/// Why bytes are not the structure they should be.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum FormatError {
    /// The bytes end early: a torn write or the wrong place.
    #[error("{what}: {have} bytes where {need} are needed")]
    TooShort {
        /// Which structure.
        what: &'static str,
        /// Bytes present.
        have: usize,
        /// Bytes needed.
        need: usize,
    },
    /// The bytes are something else.
    #[error("{what}: not found here (the magic number is missing)")]
    BadMagic {
        /// Which structure.
        what: &'static str,
    },
    /// Written by a newer or unknown version: use the software that wrote it.
    #[error("{what}: written as format version {wrote}; this software understands version {understood}")]
    UnknownVersion {
        /// Which structure.
        what: &'static str,
        /// The version found.
        wrote: u32,
        /// The version this software reads.
        understood: u32,
    },
    /// The bytes were damaged.
    #[error("{what}: checksum mismatch")]
    Checksum {
        /// Which structure.
        what: &'static str,
    },
    /// A field holds what this version never writes.
    #[error("{what}: field {field} is out of range")]
    Field {
        /// Which structure.
        what: &'static str,
        /// Which field.
        field: &'static str,
    },
}

/// A 512-byte header with the common first and last fields.
///
/// Fill in a `blank()` one and [`FixedHeader::finish`] it; magic, version, lengths, checksum and reserve are public
/// only so that struct update syntax works, and `finish` and `check` look after them.
pub trait FixedHeader: FromBytes + IntoBytes + Immutable + KnownLayout + Sized {
    /// Name in messages.
    const WHAT: &'static str;
    /// First eight bytes.
    const MAGIC: [u8; 8];
    /// Format version that this software writes and reads.
    const VERSION: u32;

    /// Returns a zeroed header, to be filled in and finished.
    #[must_use]
    fn blank() -> Self {
        Self::new_zeroed()
    }

    /// Checks the fields that have a meaning of their own; called after the checksum matched.
    ///
    /// # Errors
    /// [`FormatError::Field`] names the field.
    fn check(&self) -> Result<(), FormatError>;

    /// Fills in magic, version, length and checksum.
    fn finish(&mut self) {
        let bytes = self.as_mut_bytes();
        assert_eq!(bytes.len(), HEADER_BYTES, "invariant: fixed headers have 512 bytes");
        bytes[..8].copy_from_slice(&Self::MAGIC);
        bytes[8..12].copy_from_slice(&Self::VERSION.to_le_bytes());
        bytes[12..16].copy_from_slice(&(HEADER_BYTES as u32).to_le_bytes());
        let sum = checksum(&bytes[..HEADER_BYTES - 8]);
        bytes[HEADER_BYTES - 8..].copy_from_slice(&sum.to_le_bytes());
    }

    /// Reads and checks a header from the first 512 of `bytes`.
    ///
    /// # Errors
    /// [`FormatError`]; nothing is believed before the checksum matched, except the version.
    fn parse(bytes: &[u8]) -> Result<Self, FormatError> {
        let what = Self::WHAT;
        let Some(bytes) = bytes.get(..HEADER_BYTES) else {
            return Err(FormatError::TooShort { what, have: bytes.len(), need: HEADER_BYTES });
        };
        if bytes[..8] != Self::MAGIC {
            return Err(FormatError::BadMagic { what });
        }
        let wrote = u32_at(bytes, 8);
        let sum = u64::from_le_bytes(bytes[HEADER_BYTES - 8..].try_into().expect("eight bytes"));
        let intact = checksum(&bytes[..HEADER_BYTES - 8]) == sum;
        // A damaged version field must not send an operator looking for newer software.
        if wrote != Self::VERSION && intact {
            return Err(FormatError::UnknownVersion { what, wrote, understood: Self::VERSION });
        }
        if !intact {
            return Err(FormatError::Checksum { what });
        }
        if u32_at(bytes, 12) as usize != HEADER_BYTES {
            return Err(FormatError::Field { what, field: "header_bytes" });
        }
        let header = Self::read_from_bytes(bytes).map_err(|_| FormatError::Field { what, field: "layout" })?;
        header.check()?;
        Ok(header)
    }
}

/// The finished header without its checksum: what the seal of its body authenticates.
fn associated<H: FixedHeader>(mut header: H) -> [u8; HEADER_BYTES - 8] {
    header.finish();
    header.as_bytes()[..HEADER_BYTES - 8].try_into().expect("a header has 512 bytes")
}

/// Associated data of a wrapped key: what it belongs to, so that it opens nowhere else.
///
/// ```text
///   0  number u64 (segment, WAL sequence, last LSN)   8  tag [16]   24  cluster [16]
/// ```
fn wrap_context(number: u64, tag: SegmentTag, cluster: ClusterId) -> [u8; 40] {
    let mut context = [0; 40];
    context[..8].copy_from_slice(&number.to_le_bytes());
    context[8..24].copy_from_slice(&tag.0);
    context[24..].copy_from_slice(&cluster.0);
    context
}

/// Returns an error naming `field` unless `ok`.
fn require(ok: bool, what: &'static str, field: &'static str) -> Result<(), FormatError> {
    if ok { Ok(()) } else { Err(FormatError::Field { what, field }) }
}

/// Reads a little-endian `u32` that is known to be inside `bytes`.
fn u32_at(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes(bytes[at..at + 4].try_into().expect("four bytes"))
}

/// Takes bytes off the front of a variable-length body, checking the length each time.
struct Reader<'a> {
    what: &'static str,
    bytes: &'a [u8],
}

impl<'a> Reader<'a> {
    fn take(&mut self, len: usize) -> Result<&'a [u8], FormatError> {
        let (head, tail) = self.bytes.split_at_checked(len).ok_or(FormatError::TooShort {
            what: self.what,
            have: self.bytes.len(),
            need: len,
        })?;
        self.bytes = tail;
        Ok(head)
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N], FormatError> {
        Ok(self.take(N)?.try_into().expect("take returned N bytes"))
    }

    fn u32(&mut self) -> Result<u32, FormatError> {
        Ok(u32::from_le_bytes(self.array()?))
    }

    fn u64(&mut self) -> Result<u64, FormatError> {
        Ok(u64::from_le_bytes(self.array()?))
    }

    fn finish(self) -> Result<(), FormatError> {
        require(self.bytes.is_empty(), self.what, "length")
    }
}

#[cfg(test)]
pub(crate) mod testing {
    use super::*;

    /// Every truncation and every single bit flip of a valid header must be refused.
    pub(crate) fn damage_is_detected<H: FixedHeader + PartialEq + std::fmt::Debug>(header: &H) {
        let bytes = header.as_bytes().to_vec();
        assert_eq!(&H::parse(&bytes).expect("the undamaged header parses"), header);
        for len in 0..bytes.len() {
            assert!(H::parse(&bytes[..len]).is_err(), "truncation to {len} bytes");
        }
        for bit in 0..bytes.len() * 8 {
            let mut damaged = bytes.clone();
            damaged[bit / 8] ^= 1 << (bit % 8);
            assert!(H::parse(&damaged).is_err(), "flip of bit {bit}");
        }
    }

    /// Freezes a layout: `dump` is the golden header, whose fields hold distinct values, 16 bytes a line in hexadecimal.
    pub(crate) fn golden<H: FixedHeader>(header: &H, dump: &str) {
        let hex = |bytes: &[u8]| bytes.iter().map(|byte| format!("{byte:02x}")).collect::<String>();
        let lines: Vec<String> = header.as_bytes().chunks(16).map(hex).collect();
        assert_eq!(lines, dump.lines().collect::<Vec<_>>(), "{} changed its layout:\n{}", H::WHAT, lines.join("\n"));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nonce_layout_is_frozen() {
        assert_eq!(
            nonce(NonceKind::RowTable, 0x1122_3344_5566_7788, 0x99_aabb),
            [0x88, 0x77, 0x66, 0x55, 0x44, 0x33, 0x22, 0x11, 0xbb, 0xaa, 0x99, 2]
        );
    }
}
