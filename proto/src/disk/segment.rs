//! Segments: one file per column, a header in its first sector, rows of pieces after it, and a footer once sealed.
//!
//! ```text
//!   0        header (512 bytes, padded to 4096)
//!   4096     piece, piece, …           each starts on a 4096-byte boundary
//!   sealed:  footer header (512) and sealed row tables; the file is cut after them
//! ```
//!
//! A segment has a random tag and a random key of its own. After a crash it takes no more appends, so no nonce can be
//! used twice: new rows go to a new segment.

use zerocopy::little_endian::{U16, U32, U64};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

use super::{CIPHER_AES_256_GCM, FixedHeader, FormatError, GEOMETRY_CODE_CAUCHY, WRAPPED_KEY_BYTES, require};
use crate::geometry::Geometry;
use crate::ids::{ClusterId, DeviceId, SegmentTag};

/// First sector of a segment piece; byte table in docs/FORMATS.md §segment.
#[derive(Clone, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct SegmentHeader {
    #[doc(hidden)]
    pub magic: [u8; 8],
    #[doc(hidden)]
    pub version: U32,
    #[doc(hidden)]
    pub header_bytes: U32,
    /// The segment.
    pub segment: U64,
    /// Random tag that every piece of this segment repeats.
    pub tag: SegmentTag,
    /// The cluster.
    pub cluster: ClusterId,
    /// The device that this piece was written to.
    pub device: DeviceId,
    /// The placement group; 0 on a single node.
    pub placement_group: U32,
    /// Which column of the segment this file is.
    pub column: u8,
    /// Data columns.
    pub k: u8,
    /// Parity columns.
    pub m: u8,
    #[doc(hidden)]
    pub reserved_a: u8,
    /// The erasure code; only [`GEOMETRY_CODE_CAUCHY`] exists.
    pub geometry_code: U16,
    /// The cipher; only [`CIPHER_AES_256_GCM`] exists.
    pub cipher: U16,
    /// Number of the ring key that wraps this segment's key.
    pub ring_key: U32,
    /// When the segment was opened, in nanoseconds since the Unix epoch.
    pub created_unix_ns: U64,
    /// Bytes reserved for this piece.
    pub piece_bytes: U64,
    /// Nonce of the wrapping, drawn at random.
    pub wrap_nonce: [u8; 12],
    #[doc(hidden)]
    pub reserved_b: [u8; 4],
    /// The segment's key under the ring key, AES-256-GCM; associated data: segment, tag and cluster.
    pub wrapped_key: [u8; WRAPPED_KEY_BYTES],
    #[doc(hidden)]
    pub reserved: [u8; 336],
    #[doc(hidden)]
    pub header_checksum: U64,
}

impl FixedHeader for SegmentHeader {
    const WHAT: &'static str = "segment header";
    const MAGIC: [u8; 8] = *b"DFSSEGMT";
    const VERSION: u32 = 1;

    fn check(&self) -> Result<(), FormatError> {
        let geometry =
            Geometry::new(self.k, self.m).ok_or(FormatError::Field { what: Self::WHAT, field: "geometry" })?;
        require(self.geometry_code.get() == GEOMETRY_CODE_CAUCHY, Self::WHAT, "geometry_code")?;
        require(self.cipher.get() == CIPHER_AES_256_GCM, Self::WHAT, "cipher")?;
        require(usize::from(self.column) < geometry.columns(), Self::WHAT, "column")?;
        let reserved = self.reserved.iter().chain(&self.reserved_b).chain([&self.reserved_a]);
        require(reserved.into_iter().all(|byte| *byte == 0), Self::WHAT, "reserved")
    }
}

impl SegmentHeader {
    /// Associated data of the key wrapping: segment, tag, cluster.
    #[must_use]
    pub fn wrap_context(&self) -> [u8; 40] {
        super::wrap_context(self.segment.get(), self.tag, self.cluster)
    }
}

/// Start of a sealed segment's footer; the sealed row tables follow it.
///
/// The body is, for each row:
///
/// ```text
///   row u64   pieces u32   per piece: column u32, offset_sectors u32, payload_bytes u32   table_bytes u32   table
/// ```
///
/// The whole is sealed once under nonce (Footer, `nonce_row`); associated data: the segment's tag.
#[derive(Clone, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct FooterHeader {
    #[doc(hidden)]
    pub magic: [u8; 8],
    #[doc(hidden)]
    pub version: U32,
    #[doc(hidden)]
    pub header_bytes: U32,
    /// The segment.
    pub segment: U64,
    /// The segment's tag.
    pub tag: SegmentTag,
    /// The device of this piece.
    pub device: DeviceId,
    /// Row number consumed as the nonce of the body.
    pub nonce_row: U64,
    /// Rows described.
    pub rows: U32,
    /// Blocks described.
    pub blocks: U32,
    /// Sealed bytes that follow this header.
    pub body_bytes: U64,
    /// XXH3-64 of them.
    pub body_checksum: U64,
    #[doc(hidden)]
    pub reserved: [u8; 416],
    #[doc(hidden)]
    pub header_checksum: U64,
}

impl FixedHeader for FooterHeader {
    const WHAT: &'static str = "segment footer";
    const MAGIC: [u8; 8] = *b"DFSFOOTR";
    const VERSION: u32 = 1;

    fn check(&self) -> Result<(), FormatError> {
        require(self.body_bytes.get() <= crate::limits::SEGMENT_PIECE_BYTES, Self::WHAT, "body_bytes")?;
        require(self.reserved.iter().all(|byte| *byte == 0), Self::WHAT, "reserved")
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing::{damage_is_detected, golden};
    use super::*;

    #[test]
    fn header_layout_is_frozen_and_damage_is_detected() {
        let mut header = SegmentHeader {
            segment: 0x0101.into(),
            tag: SegmentTag([2; 16]),
            cluster: ClusterId([3; 16]),
            device: DeviceId([4; 16]),
            placement_group: 5.into(),
            column: 6,
            k: 6,
            m: 3,
            geometry_code: GEOMETRY_CODE_CAUCHY.into(),
            cipher: CIPHER_AES_256_GCM.into(),
            ring_key: 7.into(),
            created_unix_ns: 8.into(),
            piece_bytes: (64 << 20).into(),
            wrap_nonce: [9; 12],
            wrapped_key: [10; WRAPPED_KEY_BYTES],
            ..SegmentHeader::blank()
        };
        header.finish();
        golden(&header, include_str!("../../golden/segment_header.hex"));
        damage_is_detected(&header);
    }

    #[test]
    fn footer_layout_is_frozen_and_damage_is_detected() {
        let mut footer = FooterHeader {
            segment: 0x0101.into(),
            tag: SegmentTag([2; 16]),
            device: DeviceId([3; 16]),
            nonce_row: 4.into(),
            rows: 5.into(),
            blocks: 6.into(),
            body_bytes: 7.into(),
            body_checksum: 8.into(),
            ..FooterHeader::blank()
        };
        footer.finish();
        golden(&footer, include_str!("../../golden/segment_footer.hex"));
        damage_is_detected(&footer);
    }
}
