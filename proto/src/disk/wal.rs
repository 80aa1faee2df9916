//! The metadata write-ahead log: a stream of files, each a header sector and batches of sealed commands.
//!
//! ```text
//!   0       file header (512 bytes, padded to 4096)
//!   4096    batch: header (512), sealed commands; padded to 4096; the next batch follows
//! ```
//!
//! A sector is never rewritten, and one batch is in flight at a time. So an unreadable batch is a torn tail only if no
//! later batch of this file exists; otherwise the log is damaged and the node refuses to start. Every start opens a new
//! file with a new tag and key, so no nonce is used twice.

use zerocopy::little_endian::{U16, U32, U64};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

use super::{CIPHER_AES_256_GCM, FixedHeader, FormatError, HEADER_BYTES, WRAPPED_KEY_BYTES, require};
use crate::ids::{ClusterId, DeviceId, SegmentTag};
use crate::limits::WAL_BATCH_BYTES_MAX;

/// First sector of a WAL file; byte table in docs/FORMATS.md §wal.
#[derive(Clone, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct WalHeader {
    #[doc(hidden)]
    pub magic: [u8; 8],
    #[doc(hidden)]
    pub version: U32,
    #[doc(hidden)]
    pub header_bytes: U32,
    /// The cluster.
    pub cluster: ClusterId,
    /// The device that this file was written to.
    pub device: DeviceId,
    /// Place of this file in its stream, counted from 1.
    pub sequence: U64,
    /// The stream; 0 so far.
    pub stream: U32,
    /// Number of the ring key that wraps this file's key.
    pub ring_key: U32,
    /// Log sequence number of the first command.
    pub first_lsn: U64,
    /// Random tag that every batch of this file repeats.
    pub tag: SegmentTag,
    /// When the file was opened, in nanoseconds since the Unix epoch.
    pub created_unix_ns: U64,
    /// The cipher; only [`CIPHER_AES_256_GCM`] exists.
    pub cipher: U16,
    #[doc(hidden)]
    pub reserved_a: [u8; 2],
    /// Nonce of the wrapping, drawn at random.
    pub wrap_nonce: [u8; 12],
    /// The file's key under the ring key; associated data: sequence, tag and cluster.
    pub wrapped_key: [u8; WRAPPED_KEY_BYTES],
    #[doc(hidden)]
    pub reserved: [u8; 344],
    #[doc(hidden)]
    pub header_checksum: U64,
}

impl FixedHeader for WalHeader {
    const WHAT: &'static str = "WAL header";
    const MAGIC: [u8; 8] = *b"DFSWALOG";
    const VERSION: u32 = 1;

    fn check(&self) -> Result<(), FormatError> {
        require(self.cipher.get() == CIPHER_AES_256_GCM, Self::WHAT, "cipher")?;
        let reserved = self.reserved.iter().chain(&self.reserved_a);
        require(reserved.into_iter().all(|byte| *byte == 0), Self::WHAT, "reserved")
    }
}

impl WalHeader {
    /// Associated data of the key wrapping: sequence, tag, cluster.
    #[must_use]
    pub fn wrap_context(&self) -> [u8; 40] {
        super::wrap_context(self.sequence.get(), self.tag, self.cluster)
    }
}

/// Start of a batch; the sealed commands follow it.
///
/// The body is, for each command: virtual shard u32, command bytes u32, and the command; the whole is sealed once under
/// nonce (`WalBatch`, `first_lsn`), with [`WalBatchHeader::associated`] as associated data.
#[derive(Clone, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct WalBatchHeader {
    #[doc(hidden)]
    pub magic: [u8; 8],
    #[doc(hidden)]
    pub version: U32,
    #[doc(hidden)]
    pub header_bytes: U32,
    /// The file's tag.
    pub tag: SegmentTag,
    /// Log sequence number of the batch's first command.
    pub first_lsn: U64,
    /// Commands.
    pub commands: U32,
    /// Sealed bytes that follow this header.
    pub body_bytes: U32,
    /// XXH3-64 of them.
    pub body_checksum: U64,
    /// `header_checksum` of the batch before, or of the file header: batches form a chain.
    pub previous_checksum: U64,
    #[doc(hidden)]
    pub reserved: [u8; 440],
    #[doc(hidden)]
    pub header_checksum: U64,
}

impl FixedHeader for WalBatchHeader {
    const WHAT: &'static str = "WAL batch";
    const MAGIC: [u8; 8] = *b"DFSWBTCH";
    const VERSION: u32 = 1;

    fn check(&self) -> Result<(), FormatError> {
        require(self.commands.get() > 0, Self::WHAT, "commands")?;
        require((1..=WAL_BATCH_BYTES_MAX).contains(&(self.body_bytes.get() as usize)), Self::WHAT, "body_bytes")?;
        require(self.reserved.iter().all(|byte| *byte == 0), Self::WHAT, "reserved")
    }
}

impl WalBatchHeader {
    /// Associated data of the body: the first 504 bytes, with `body_checksum` as zero because it covers the seal's tag.
    #[must_use]
    pub fn associated(&self) -> [u8; HEADER_BYTES - 8] {
        super::associated(WalBatchHeader { body_checksum: 0.into(), ..self.clone() })
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing::{damage_is_detected, golden};
    use super::*;

    #[test]
    fn header_layout_is_frozen_and_damage_is_detected() {
        let mut header = WalHeader {
            cluster: ClusterId([1; 16]),
            device: DeviceId([2; 16]),
            sequence: 3.into(),
            stream: 4.into(),
            ring_key: 5.into(),
            first_lsn: 6.into(),
            tag: SegmentTag([7; 16]),
            created_unix_ns: 8.into(),
            cipher: CIPHER_AES_256_GCM.into(),
            wrap_nonce: [9; 12],
            wrapped_key: [10; WRAPPED_KEY_BYTES],
            ..WalHeader::blank()
        };
        header.finish();
        golden(&header, include_str!("../../golden/wal_header.hex"));
        damage_is_detected(&header);
    }

    #[test]
    fn batch_layout_is_frozen_and_damage_is_detected() {
        let mut batch = WalBatchHeader {
            tag: SegmentTag([1; 16]),
            first_lsn: 2.into(),
            commands: 3.into(),
            body_bytes: 4.into(),
            body_checksum: 5.into(),
            previous_checksum: 6.into(),
            ..WalBatchHeader::blank()
        };
        batch.finish();
        golden(&batch, include_str!("../../golden/wal_batch.hex"));
        damage_is_detected(&batch);
    }
}
