//! Metadata snapshots: all keys and values at one LSN, in sealed frames.
//!
//! ```text
//!   0       header (512 bytes, padded to 4096); written last, so that an unfinished snapshot has none
//!   4096    frame: header (512), sealed pairs; padded to 4096; the next frame follows
//! ```
//!
//! A snapshot is written under a temporary name and renamed once durable.

use zerocopy::little_endian::{U16, U32, U64};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

use super::{CIPHER_AES_256_GCM, FixedHeader, FormatError, HEADER_BYTES, WRAPPED_KEY_BYTES, require};
use crate::ids::{ClusterId, SegmentTag};

/// First sector of a snapshot file; byte table in docs/FORMATS.md §snapshot.
#[derive(Clone, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct SnapshotHeader {
    #[doc(hidden)]
    pub magic: [u8; 8],
    #[doc(hidden)]
    pub version: U32,
    #[doc(hidden)]
    pub header_bytes: U32,
    /// The cluster.
    pub cluster: ClusterId,
    /// Random tag that every frame repeats.
    pub tag: SegmentTag,
    /// Every command up to this log sequence number is contained, and none after.
    pub last_lsn: U64,
    /// The WAL file from which replay goes on.
    pub wal_sequence: U64,
    /// Frames.
    pub frames: U64,
    /// Key-value pairs.
    pub pairs: U64,
    /// Number of the ring key that wraps this file's key.
    pub ring_key: U32,
    /// The cipher; only [`CIPHER_AES_256_GCM`] exists.
    pub cipher: U16,
    #[doc(hidden)]
    pub reserved_a: [u8; 2],
    /// When the snapshot was taken, in nanoseconds since the Unix epoch.
    pub created_unix_ns: U64,
    /// Nonce of the wrapping, drawn at random.
    pub wrap_nonce: [u8; 12],
    #[doc(hidden)]
    pub reserved_b: [u8; 4],
    /// The file's key under the ring key; associated data: `last_lsn`, tag and cluster.
    pub wrapped_key: [u8; WRAPPED_KEY_BYTES],
    #[doc(hidden)]
    pub reserved: [u8; 344],
    #[doc(hidden)]
    pub header_checksum: U64,
}

impl FixedHeader for SnapshotHeader {
    const WHAT: &'static str = "snapshot header";
    const MAGIC: [u8; 8] = *b"DFSSNAPS";
    const VERSION: u32 = 1;

    fn check(&self) -> Result<(), FormatError> {
        require(self.cipher.get() == CIPHER_AES_256_GCM, Self::WHAT, "cipher")?;
        let reserved = self.reserved.iter().chain(&self.reserved_a).chain(&self.reserved_b);
        require(reserved.into_iter().all(|byte| *byte == 0), Self::WHAT, "reserved")
    }
}

impl SnapshotHeader {
    /// Associated data of the key wrapping: last LSN, tag, cluster.
    #[must_use]
    pub fn wrap_context(&self) -> [u8; 40] {
        super::wrap_context(self.last_lsn.get(), self.tag, self.cluster)
    }
}

/// Start of a frame; the sealed pairs follow it.
///
/// The body is, for each pair: key bytes u32, value bytes u32, key, value; sealed under nonce (`SnapshotFrame`, `index`)
/// with [`SnapshotFrame::associated`] as associated data.
#[derive(Clone, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct SnapshotFrame {
    #[doc(hidden)]
    pub magic: [u8; 8],
    #[doc(hidden)]
    pub version: U32,
    #[doc(hidden)]
    pub header_bytes: U32,
    /// The file's tag.
    pub tag: SegmentTag,
    /// Place of this frame, counted from 0.
    pub index: U64,
    /// Pairs.
    pub pairs: U32,
    /// Sealed bytes that follow this header.
    pub body_bytes: U32,
    /// XXH3-64 of them.
    pub body_checksum: U64,
    #[doc(hidden)]
    pub reserved: [u8; 448],
    #[doc(hidden)]
    pub header_checksum: U64,
}

impl FixedHeader for SnapshotFrame {
    const WHAT: &'static str = "snapshot frame";
    const MAGIC: [u8; 8] = *b"DFSSFRAM";
    const VERSION: u32 = 1;

    fn check(&self) -> Result<(), FormatError> {
        require(self.reserved.iter().all(|byte| *byte == 0), Self::WHAT, "reserved")
    }
}

impl SnapshotFrame {
    /// Associated data of the body: the first 504 bytes, with `body_checksum` as zero because it covers the seal's tag.
    #[must_use]
    pub fn associated(&self) -> [u8; HEADER_BYTES - 8] {
        super::associated(SnapshotFrame { body_checksum: 0.into(), ..self.clone() })
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing::{damage_is_detected, golden};
    use super::*;

    #[test]
    fn header_layout_is_frozen_and_damage_is_detected() {
        let mut header = SnapshotHeader {
            cluster: ClusterId([1; 16]),
            tag: SegmentTag([2; 16]),
            last_lsn: 3.into(),
            wal_sequence: 4.into(),
            frames: 5.into(),
            pairs: 6.into(),
            ring_key: 7.into(),
            cipher: CIPHER_AES_256_GCM.into(),
            created_unix_ns: 8.into(),
            wrap_nonce: [9; 12],
            wrapped_key: [10; WRAPPED_KEY_BYTES],
            ..SnapshotHeader::blank()
        };
        header.finish();
        golden(&header, include_str!("../../golden/snapshot_header.hex"));
        damage_is_detected(&header);
    }

    #[test]
    fn frame_layout_is_frozen_and_damage_is_detected() {
        let mut frame = SnapshotFrame {
            tag: SegmentTag([1; 16]),
            index: 2.into(),
            pairs: 3.into(),
            body_bytes: 4.into(),
            body_checksum: 5.into(),
            ..SnapshotFrame::blank()
        };
        frame.finish();
        golden(&frame, include_str!("../../golden/snapshot_frame.hex"));
        damage_is_detected(&frame);
    }
}
