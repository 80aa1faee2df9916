//! Formatting and recovery: from data directories to a node that serves.
//!
//! Order, so that a crash anywhere is harmless: superblocks → incarnation raised on every device → metadata recovered →
//! segments recovered and those left open listed as sealed → files that no log lists removed → serve.

use std::rc::Rc;
use std::sync::Arc;

use chunk::{ChunkerId, DomainKey, chunker};
use futures_util::{StreamExt, TryStreamExt, stream};
use meta::{Command, SegmentState, Solo, SoloOptions};
use proto::disk::{FixedHeader, GEOMETRY_CODE_CAUCHY, PieceHeader, SUPERBLOCK_HAS_METADATA, Superblock};
use proto::limits::{MANIFEST_PAGE_ENTRIES_MAX, SECTOR_BYTES, SEGMENT_PIECE_BYTES};
use proto::port::{AlignedBuf, Disk, DiskFile, KeyProvider, runtime};
use proto::{ClusterId, DeviceId, Geometry};
use shard::recovery::{ListedSegment, ListedState, RecoveredSegment, recover_segment};
use shard::segment::{Member, SEGMENT_DIR, piece_name};
use shard::{Store, StoreOptions, superblock};

use crate::error::{ChangeError, OpenError};
use crate::{DEFAULT_DOMAIN, Domain, GROUP, Inner, MetaLog, Node};

/// The chunker of new dedup domains.
const DEFAULT_CHUNKER: ChunkerId = ChunkerId(1);
/// Segments that are recovered at the same time.
const RECOVERIES_INFLIGHT_MAX: usize = 8;
/// Directory of the metadata log and its snapshots.
const META_DIR: &str = "meta";

/// How a node is opened.
pub struct NodeOptions<D> {
    /// The devices, in any order; exactly those that the node was formatted with.
    pub disks: Vec<D>,
    /// The ring keys.
    pub keys: Arc<dyn KeyProvider>,
    /// Bytes of one piece of a new segment; smaller in simulation.
    pub piece_bytes: u64,
    /// Bytes of metadata log after which a snapshot is taken.
    pub snapshot_after_wal_bytes: u64,
    /// Entries of one manifest page; fewer in simulation, so that small files have deep trees.
    pub manifest_page_entries: usize,
}

impl<D> NodeOptions<D> {
    /// The options of a production node.
    #[must_use]
    pub fn new(disks: Vec<D>, keys: Arc<dyn KeyProvider>) -> NodeOptions<D> {
        NodeOptions {
            disks,
            keys,
            piece_bytes: SEGMENT_PIECE_BYTES,
            snapshot_after_wal_bytes: 64 << 20,
            manifest_page_entries: MANIFEST_PAGE_ENTRIES_MAX,
        }
    }
}

/// What happened while the node was opened.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct OpenReport {
    /// Whether the devices were formatted now.
    pub formatted: bool,
    /// The incarnation of this start.
    pub incarnation: u64,
    /// Segments recovered.
    pub segments: usize,
    /// Chunks indexed.
    pub chunks: u64,
    /// What an operator should know.
    pub warnings: Vec<String>,
}

impl<D: Disk> Node<D> {
    /// Formats blank devices or recovers formatted ones.
    ///
    /// Errors: [`OpenError`].
    pub async fn open(options: NodeOptions<D>) -> Result<(Node<D>, OpenReport), OpenError> {
        let mut report = OpenReport::default();
        let (members, superblock) = claim_devices(&options.disks, options.piece_bytes, &mut report).await?;
        let cluster = superblock.cluster;
        let geometry = superblock.geometry().expect("invariant: a parsed superblock has a geometry");
        if geometry != Geometry::SINGLE {
            let what = format!("they were formatted as {geometry}, which needs a cluster; a single node is 1+0");
            return Err(OpenError::Mismatch { what });
        }
        let solo = SoloOptions {
            disk: members[0].disk.clone(),
            cluster,
            device: members[0].device,
            stream: 0,
            keys: options.keys.clone(),
            snapshot_after_wal_bytes: options.snapshot_after_wal_bytes,
            must_exist: superblock.flags.get() & SUPERBLOCK_HAS_METADATA != 0,
        };
        let meta = Solo::open(solo).await?;
        mark_metadata(&members[0].disk, superblock).await?;
        let domain = open_domain(&meta, &*options.keys, cluster).await?;
        let recovered = recover_segments(&meta, &members, cluster, &*options.keys, &mut report).await?;
        remove_unlisted(&members, &recovered, &mut report).await?;
        let store_options = StoreOptions {
            members,
            cluster,
            geometry,
            keys: options.keys,
            log: MetaLog(meta.clone()),
            incarnation: report.incarnation,
            piece_bytes: options.piece_bytes,
        };
        report.segments = recovered.len();
        let store = Store::open(store_options, recovered);
        report.chunks = store.stats().chunks;
        Ok((
            Node(Rc::new(Inner {
                cluster,
                disks: options.disks,
                meta,
                store,
                domain,
                manifest_page_entries: options.manifest_page_entries,
            })),
            report,
        ))
    }
}

/// Reads all superblocks, formats blank devices, and raises the incarnation on every device.
///
/// Returns the members in the order they were formatted in, and the first one's superblock.
async fn claim_devices<D: Disk>(
    disks: &[D],
    piece_bytes: u64,
    report: &mut OpenReport,
) -> Result<(Vec<Member<D>>, Superblock), OpenError> {
    if disks.is_empty() {
        return Err(OpenError::Mismatch { what: "none was given".to_owned() });
    }
    let mut found = Vec::with_capacity(disks.len());
    for (place, disk) in disks.iter().enumerate() {
        let loaded = superblock::load(disk).await;
        found.push(loaded.map_err(|source| OpenError::Superblock { directory: place + 1, source })?);
    }
    // Formatting leaves incarnation 0; only a node that never started may have blank directories among its own.
    let started = found.iter().flatten().any(|superblock| superblock.incarnation.get() > 0);
    if !started {
        // Superblocks that a crash left may differ, or not be durable yet under their names: all are written again.
        report.formatted = true;
        found = format_devices(disks, piece_bytes).await?.into_iter().map(Some).collect();
    } else if let Some(blank) = found.iter().position(Option::is_none) {
        let what = format!("directory {} is blank, the others hold a node that has run without it", blank + 1);
        return Err(OpenError::Mismatch { what });
    }
    let mut devices: Vec<(Superblock, D)> = found.into_iter().flatten().zip(disks.iter().cloned()).collect();
    devices.sort_by_key(|(superblock, _)| superblock.device_ordinal.get());
    let first = devices[0].0.clone();
    for (ordinal, (superblock, _)) in devices.iter().enumerate() {
        if superblock.cluster != first.cluster {
            let what = format!("they belong to the nodes {} and {}", first.cluster, superblock.cluster);
            return Err(OpenError::Mismatch { what });
        }
        let complete = usize::from(superblock.device_count.get()) == devices.len();
        if !complete || usize::from(superblock.device_ordinal.get()) != ordinal {
            let what = format!("{} were given, the node has {}", devices.len(), superblock.device_count.get());
            return Err(OpenError::Mismatch { what });
        }
    }
    let newest = devices.iter().map(|(superblock, _)| superblock.incarnation.get()).max().unwrap_or(0);
    report.incarnation = newest + 1;
    for (superblock, disk) in &mut devices {
        superblock.incarnation = report.incarnation.into();
        superblock.sequence += 1;
        let stored = superblock::store(disk, superblock).await;
        let directory = usize::from(superblock.device_ordinal.get()) + 1;
        stored.map_err(|source| OpenError::Device { directory, source })?;
    }
    let first = devices[0].0.clone();
    let members = devices.into_iter().map(|(superblock, disk)| Member { device: superblock.device, disk }).collect();
    Ok((members, first))
}

/// Notes on the first device that the node's metadata was made, so that its loss is never taken for a new node.
async fn mark_metadata<D: Disk>(disk: &D, mut superblock: Superblock) -> Result<(), OpenError> {
    if superblock.flags.get() & SUPERBLOCK_HAS_METADATA == 0 {
        superblock.flags = SUPERBLOCK_HAS_METADATA.into();
        superblock.sequence += 1;
        let stored = superblock::store(disk, &mut superblock).await;
        stored.map_err(|source| OpenError::Device { directory: 1, source })?;
    }
    Ok(())
}

/// Writes first superblocks to devices that hold nothing of a node.
async fn format_devices<D: Disk>(disks: &[D], piece_bytes: u64) -> Result<Vec<Superblock>, OpenError> {
    for (place, disk) in disks.iter().enumerate() {
        for directory in [META_DIR, SEGMENT_DIR] {
            let names = disk.list(directory).await;
            let names = names.map_err(|source| OpenError::Device { directory: place + 1, source })?;
            if !names.is_empty() {
                return Err(OpenError::NoSuperblock { directory: place + 1 });
            }
        }
    }
    let cluster = ClusterId(runtime::random());
    let mut superblocks = Vec::with_capacity(disks.len());
    for (ordinal, disk) in disks.iter().enumerate() {
        let mut superblock = Superblock {
            sequence: 1.into(),
            cluster,
            device: DeviceId(runtime::random()),
            created_unix_ns: runtime::unix_ns().into(),
            k: Geometry::SINGLE.k() as u8,
            m: Geometry::SINGLE.m() as u8,
            geometry_code: GEOMETRY_CODE_CAUCHY.into(),
            device_ordinal: (ordinal as u16).into(),
            device_count: (disks.len() as u16).into(),
            piece_bytes: piece_bytes.into(),
            ..Superblock::blank()
        };
        let stored = superblock::store(disk, &mut superblock).await;
        stored.map_err(|source| OpenError::Device { directory: ordinal + 1, source })?;
        superblocks.push(superblock);
    }
    Ok(superblocks)
}

/// Opens the default dedup domain, creating it on a fresh store. Its key never leaves the metadata unwrapped.
async fn open_domain<D: Disk>(meta: &Solo<D>, keys: &dyn KeyProvider, cluster: ClusterId) -> Result<Domain, OpenError> {
    let id = DEFAULT_DOMAIN;
    let context = [&b"dedup domain"[..], &id.0.to_le_bytes(), &cluster.0].concat();
    if meta.view(|view| view.domain(id)).is_none() {
        let key: [u8; 32] = runtime::random();
        let wrapped = keys.wrap(&key, runtime::random(), &context);
        let command = Command::CreateDomain {
            domain: id,
            chunker: DEFAULT_CHUNKER.0,
            ring_key: wrapped.ring_key,
            wrap_nonce: wrapped.nonce,
            wrapped_key: wrapped.wrapped,
        };
        meta.propose(GROUP, command).await.map_err(ChangeError::from)?;
    }
    let record = meta.view(|view| view.domain(id)).expect("invariant: the domain was just created");
    let key = keys.unwrap(&record.key(), &context)?;
    let chunker = chunker(ChunkerId(record.chunker)).ok_or(OpenError::UnknownChunker(record.chunker))?;
    Ok(Domain { id, key: DomainKey::new(key), chunker })
}

/// Recovers every listed segment and lists those that were open as sealed.
async fn recover_segments<D: Disk>(
    meta: &Solo<D>,
    members: &[Member<D>],
    cluster: ClusterId,
    keys: &dyn KeyProvider,
    report: &mut OpenReport,
) -> Result<Vec<RecoveredSegment>, OpenError> {
    let mut listed = Vec::new();
    for record in meta.view(|view| view.segments()) {
        let state = match record.state {
            SegmentState::Open => ListedState::Open,
            SegmentState::Sealed { footer_offsets } => ListedState::Sealed(footer_offsets),
            SegmentState::Freed => continue,
        };
        let geometry = Geometry::new(record.k, record.m).expect("invariant: the log lists possible geometries");
        listed.push(ListedSegment { id: record.segment, members: record.members, geometry, state });
    }
    let recoveries = listed.iter().map(|listed| recover_segment(listed, members, cluster, keys));
    let mut recovered: Vec<RecoveredSegment> =
        stream::iter(recoveries).buffered(RECOVERIES_INFLIGHT_MAX).try_collect().await?;
    for segment in &mut recovered {
        if segment.newly_sealed {
            let command = Command::SealSegment { segment: segment.segment.id, footer_offsets: Vec::new() };
            meta.propose(GROUP, command).await.map_err(ChangeError::from)?;
        }
        report.warnings.append(&mut segment.warnings);
    }
    Ok(recovered)
}

/// Removes segment files that no log lists: left by a crash between their creation and their listing.
///
/// A file with a row in it is kept and reported, for such a file is never made by a crash.
async fn remove_unlisted<D: Disk>(
    members: &[Member<D>],
    recovered: &[RecoveredSegment],
    report: &mut OpenReport,
) -> Result<(), OpenError> {
    for (place, member) in members.iter().enumerate() {
        let failed = |source| OpenError::Device { directory: place + 1, source };
        let listed = |segment: &RecoveredSegment| {
            let columns = segment.segment.members.iter().enumerate();
            let here = columns.filter(|(_, device)| **device == member.device);
            here.map(|(column, _)| piece_name(segment.segment.id, column)).collect::<Vec<_>>()
        };
        let listed: std::collections::BTreeSet<String> = recovered.iter().flat_map(listed).collect();
        for name in member.disk.list(SEGMENT_DIR).await.map_err(failed)? {
            let name = format!("{SEGMENT_DIR}/{name}");
            if listed.contains(&name) {
                continue;
            }
            let file = member.disk.open(&name).await.map_err(failed)?;
            let (read, first_row) = file.read_at(AlignedBuf::zeroed(SECTOR_BYTES), SECTOR_BYTES as u64).await;
            if read.map_err(failed)? == SECTOR_BYTES && PieceHeader::parse(&first_row).is_ok() {
                let warning = format!("{name} holds rows but is not listed in the metadata; it was left alone");
                report.warnings.push(warning);
                continue;
            }
            drop(file);
            member.disk.remove(&name).await.map_err(failed)?;
        }
    }
    Ok(())
}
