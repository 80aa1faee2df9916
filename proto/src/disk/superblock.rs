//! The superblock: who this device is, and which incarnation the node last started with.
//!
//! File `superblock` in each data directory: four copies, one per sector. An update writes the copies in two halves
//! with a sync between, so a crash leaves at least two valid ones; the newest valid copy counts.

use zerocopy::little_endian::{U16, U32, U64};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

use super::{FixedHeader, FormatError, GEOMETRY_CODE_CAUCHY, require};
use crate::geometry::Geometry;
use crate::ids::{ClusterId, DeviceId};
use crate::limits::SECTOR_BYTES;

/// Copies of the superblock, one per sector.
pub const SUPERBLOCK_COPIES: usize = 4;
/// Flag: the node's metadata was made. A start that finds none has lost it, and must not begin anew.
pub const SUPERBLOCK_HAS_METADATA: u32 = 1;
/// Bytes of the superblock file.
pub const SUPERBLOCK_FILE_BYTES: usize = SUPERBLOCK_COPIES * SECTOR_BYTES;

/// See the module; byte table in docs/FORMATS.md §superblock.
#[derive(Clone, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct Superblock {
    #[doc(hidden)]
    pub magic: [u8; 8],
    #[doc(hidden)]
    pub version: U32,
    #[doc(hidden)]
    pub header_bytes: U32,
    /// Raised by every update; the newest valid copy counts.
    pub sequence: U64,
    /// The cluster this device belongs to.
    pub cluster: ClusterId,
    /// This device.
    pub device: DeviceId,
    /// Incarnation of the node's last start; segment ids of a start carry it.
    pub incarnation: U64,
    /// When the device was formatted, in nanoseconds since the Unix epoch.
    pub created_unix_ns: U64,
    /// Data columns of the node's default geometry.
    pub k: u8,
    /// Parity columns of the node's default geometry.
    pub m: u8,
    /// The erasure code; only [`GEOMETRY_CODE_CAUCHY`] exists.
    pub geometry_code: U16,
    /// Place of this device among the node's, counted from 0.
    pub device_ordinal: U16,
    /// Devices of the node.
    pub device_count: U16,
    /// Bytes of one segment piece.
    pub piece_bytes: U64,
    /// [`SUPERBLOCK_HAS_METADATA`] or nothing.
    pub flags: U32,
    #[doc(hidden)]
    pub reserved: [u8; 412],
    #[doc(hidden)]
    pub header_checksum: U64,
}

impl FixedHeader for Superblock {
    const WHAT: &'static str = "superblock";
    const MAGIC: [u8; 8] = *b"DFSSUPER";
    const VERSION: u32 = 1;

    fn check(&self) -> Result<(), FormatError> {
        require(self.geometry().is_some(), Self::WHAT, "geometry")?;
        require(self.geometry_code.get() == GEOMETRY_CODE_CAUCHY, Self::WHAT, "geometry_code")?;
        require(self.device_ordinal < self.device_count, Self::WHAT, "device_ordinal")?;
        require(self.incarnation.get() < 1 << 40, Self::WHAT, "incarnation")?;
        require(self.flags.get() & !SUPERBLOCK_HAS_METADATA == 0, Self::WHAT, "flags")?;
        require(self.reserved.iter().all(|byte| *byte == 0), Self::WHAT, "reserved")
    }
}

impl Superblock {
    /// The node's default geometry; `None` if the fields hold no possible one.
    #[must_use]
    pub fn geometry(&self) -> Option<Geometry> {
        Geometry::new(self.k, self.m)
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing::{damage_is_detected, golden};
    use super::*;

    #[test]
    fn layout_is_frozen_and_damage_is_detected() {
        let mut superblock = Superblock {
            sequence: 0x0101.into(),
            cluster: ClusterId([2; 16]),
            device: DeviceId([3; 16]),
            incarnation: 0x0404.into(),
            created_unix_ns: 0x0505.into(),
            k: 6,
            m: 3,
            geometry_code: GEOMETRY_CODE_CAUCHY.into(),
            device_ordinal: 7.into(),
            device_count: 9.into(),
            piece_bytes: (64 << 20).into(),
            flags: SUPERBLOCK_HAS_METADATA.into(),
            ..Superblock::blank()
        };
        superblock.finish();
        golden(&superblock, include_str!("../../golden/superblock.hex"));
        damage_is_detected(&superblock);
    }
}
