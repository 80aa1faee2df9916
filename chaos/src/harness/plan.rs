//! What a seed is about, drawn before anything happens.
//!
//! Everything is small, so that a thousand operations fill segments, roll logs, take snapshots and reach every limit
//! within milliseconds. A few seeds have the sizes of production.

use chunk::ChunkerId;
use proto::limits::{MANIFEST_PAGE_ENTRIES_MAX, WAL_RESERVE_BYTES};

use super::Settings;
use super::faults::{Fault, Faults};
use crate::sim::{DiskOptions, Lie, Random, WireOptions};

/// Fewest entries of a page: the levels of a manifest hold the longest file in the smallest chunks.
const MANIFEST_PAGE_ENTRIES_MIN: usize = 4;
/// One seed in so many has chunks, files and segments as in production.
const PRODUCTION_ONE_IN: u64 = 50;
/// In one seed of so many, some or all clients are remote.
const REMOTE_ONE_IN: u64 = 3;
/// Bytes that a full disk has beyond a limit of the node, at most.
const FULL_ROOM_BYTES_MAX: u64 = 6 << 20;
/// Least bytes of a full disk: room for the first superblock, log and snapshot.
const FULL_BYTES_MIN: u64 = 1 << 20;

/// Sizes of chunks and files.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scale {
    /// Chunks of a KiB; files of a few.
    Small,
    /// Chunks of 64 KiB; files of megabytes.
    Production,
}

impl Scale {
    /// The chunker of a node of this scale.
    #[must_use]
    pub fn chunker(self) -> ChunkerId {
        match self {
            Scale::Small => ChunkerId::FASTCDC_1_KIB_FOR_TESTS,
            Scale::Production => ChunkerId::FASTCDC_64_KIB,
        }
    }
}

/// See the module.
#[derive(Clone, Debug)]
pub struct Plan {
    /// What goes wrong besides crashes.
    pub faults: Faults,
    /// Sizes of chunks and files.
    pub scale: Scale,
    /// Clients at a time.
    pub clients: u64,
    /// Those of them, the last ones, that reach the node over a wire.
    pub remote_clients: u64,
    /// The wire.
    pub wire: WireOptions,
    /// Entries of a manifest page; few, so that small files have trees.
    pub manifest_page_entries: usize,
    /// Disks of the node.
    pub disks: u64,
    /// What each of them is like.
    pub disk: DiskOptions,
    /// The ring key.
    pub key: [u8; 32],
    /// Bytes of a piece of a segment.
    pub piece_bytes: u64,
    /// Bytes that the metadata log reserves ahead.
    pub wal_reserve_bytes: u64,
    /// Bytes of the metadata log between snapshots.
    pub snapshot_after_wal_bytes: u64,
    /// Chunks between checkpoints of the index.
    pub checkpoint_after_chunks: u64,
    /// Whether garbage is collected.
    pub collects: bool,
    /// Whether a retention lets versions go, which only a collection does.
    pub retains: bool,
}

impl Plan {
    /// Draws a plan.
    #[must_use]
    pub fn draw(random: &mut Random, settings: Settings) -> Plan {
        let faults = match settings.lie {
            Lie::Nothing => Faults::draw(random),
            // What a lying disk breaks shall not be excused.
            Lie::Sync | Lie::DurableWrite => Faults::default(),
        };
        let scale = if random.chance(1, PRODUCTION_ONE_IN) { Scale::Production } else { Scale::Small };
        let (piece_bytes, wal_reserve_bytes) = match scale {
            Scale::Small => (*random.pick(&[256 << 10, 512 << 10]), *random.pick(&[4 << 10, 64 << 10, 256 << 10])),
            Scale::Production => (8 << 20, WAL_RESERVE_BYTES),
        };
        let capacity_bytes = match faults.has(Fault::Full) {
            true => full_disk_bytes(random) + wal_reserve_bytes,
            false => DiskOptions::default().capacity_bytes,
        };
        let mut key = [0; 32];
        random.fill(&mut key);
        let clients = random.between(1, 4);
        let collects = random.chance(1, 2);
        let remote_clients = if random.chance(1, REMOTE_ONE_IN) { random.between(1, clients) } else { 0 };
        Plan {
            faults,
            scale,
            clients,
            remote_clients,
            wire: WireOptions::draw(random),
            manifest_page_entries: *random.pick(&[MANIFEST_PAGE_ENTRIES_MIN, 8, MANIFEST_PAGE_ENTRIES_MAX]),
            disks: random.between(1, 3),
            disk: DiskOptions { capacity_bytes, lie: settings.lie, ..DiskOptions::default() },
            key,
            piece_bytes,
            wal_reserve_bytes,
            snapshot_after_wal_bytes: *random.pick(&[16 << 10, 64 << 10, 256 << 10, 64 << 20]),
            checkpoint_after_chunks: *random.pick(&[1, 8, 64, 64 << 10]),
            collects,
            retains: collects && random.chance(2, 3),
        }
    }
}

/// Bytes of a disk that fills up: at first, or when data, names or even the log find no room.
fn full_disk_bytes(random: &mut Random) -> u64 {
    let limit = *random.pick(&[FULL_BYTES_MIN, node::ADDING_RESERVE_BYTES, node::METADATA_RESERVE_BYTES]);
    limit + random.below(FULL_ROOM_BYTES_MAX)
}
