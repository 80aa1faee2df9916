//! Formatting and recovery: from data directories to a node that serves.
//!
//! Order, so that a crash anywhere is harmless: superblocks → incarnation raised on the first device → metadata recovered
//! → files of freed segments, and those that no log lists, removed → incarnation raised on the others → on every core: its segments recovered and those
//! left open listed as sealed → serve.
//!
//! The order also shows a device that comes back as it once was. No crash leaves the first device, which has the
//! metadata, behind another; and none leaves another behind the last start that made a segment. Such a device is refused
//! before it, or the metadata, is changed in any way that matters.
//!
//! The first core does what is to be done once and hands a [`StartPlan`] to all.

use std::cell::Cell;
use std::collections::BTreeSet;
use std::rc::Rc;
use std::sync::Arc;

use chunk::{ChunkerId, DomainKey, chunker};
use futures_util::future::try_join_all;
use futures_util::lock::Mutex;
use meta::{Command, IndexCheckpoint, SegmentRecord, SegmentState, Solo, SoloOptions};
use net::mailbox::{MailboxEnd, mailboxes};
use proto::disk::{FixedHeader, GEOMETRY_CODE_CAUCHY, PieceHeader, SUPERBLOCK_HAS_METADATA, Superblock};
use proto::limits::{CORES_MAX, MANIFEST_PAGE_ENTRIES_MAX, SECTOR_BYTES, SEGMENT_PIECE_BYTES, WAL_RESERVE_BYTES};
use proto::planted::{self, Bug};
use proto::port::{AlignedBuf, Disk, DiskFile, KeyProvider, runtime};
use proto::{ClusterId, DeviceId, DomainId, Generation, Geometry, SegmentId};
use shard::recovery::{ListedSegment, ListedState};
use shard::segment::{Member, SEGMENT_DIR, piece_name, remove_files};
use shard::{Recovered, Reserved, Store, StoreOptions, Volume, superblock};

use crate::checkpoint::{self, Cover};
use crate::error::{ChangeError, OpenError};
use crate::gc::{Collector, GcOptions};
use crate::{DEFAULT_DOMAIN, Domain, GROUP, Inner, MetaLog, NAMESPACE_CORE, Namespace, Node};

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
    /// Bytes by which a file of the metadata log is reserved ahead; fewer in simulation.
    pub wal_reserve_bytes: u64,
    /// Entries of one manifest page; fewer in simulation, so that small files have deep trees.
    pub manifest_page_entries: usize,
    /// New chunks after which a checkpoint of the index is taken, unless the index is much larger; fewer in simulation.
    pub checkpoint_after_chunks: u64,
    /// When garbage is collected by itself, and what that may cost.
    pub gc: GcOptions,
    /// The chunker of a dedup domain that is made now; an existing one keeps its own for ever.
    pub chunker: ChunkerId,
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
            wal_reserve_bytes: WAL_RESERVE_BYTES,
            manifest_page_entries: MANIFEST_PAGE_ENTRIES_MAX,
            checkpoint_after_chunks: 64 << 10,
            gc: GcOptions::default(),
            chunker: ChunkerId::FASTCDC_64_KIB,
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
    /// Those of them that the checkpoint of the index had; the others were read in their segments.
    pub checkpoint_chunks: u64,
    /// What an operator should know.
    pub warnings: Vec<String>,
}

/// What happened while one core was started.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Started {
    /// Segments recovered.
    pub segments: usize,
    /// Chunks of the whole node that the checkpoint of the index had; the first core tells.
    pub checkpoint_chunks: u64,
    /// What an operator should know.
    pub warnings: Vec<String>,
}

/// One core's ends of the mailboxes between the cores of a node; send it to the core's thread.
pub struct CoreEnds<D: Disk> {
    names: MailboxEnd<Namespace<D>>,
    stores: MailboxEnd<shard::store::Inner<D, MetaLog<D>>>,
}

impl<D: Disk> CoreEnds<D> {
    /// Returns the ends for each of `cores` cores.
    ///
    /// # Panics
    /// If `cores` is 0 or above [`CORES_MAX`].
    #[must_use]
    pub fn new(cores: usize) -> Vec<CoreEnds<D>> {
        assert!((1..=CORES_MAX).contains(&cores), "invariant: each core is dealt a virtual shard");
        let ends = mailboxes(cores).into_iter().zip(mailboxes(cores));
        ends.map(|(names, stores)| CoreEnds { names, stores }).collect()
    }
}

/// What the first core has found out, and every core needs to start.
#[derive(Clone)]
pub struct StartPlan {
    cluster: ClusterId,
    geometry: Geometry,
    /// The devices, and where each is among those given.
    devices: Vec<(DeviceId, usize)>,
    incarnation: u64,
    domain_key: [u8; 32],
    chunker: ChunkerId,
    segments: Arc<[ListedSegment]>,
    checkpoint: Option<Arc<IndexCheckpoint>>,
    /// Of garbage collection.
    epoch: u64,
    reserved: Arc<Reserved>,
}

impl<D: Disk> Node<D> {
    /// Formats blank devices or recovers formatted ones, and starts a node of one core.
    ///
    /// Errors: [`OpenError`].
    pub async fn open(options: NodeOptions<D>) -> Result<(Node<D>, OpenReport), OpenError> {
        let (namespace, plan, mut report) = prepare(&options).await?;
        let ends = CoreEnds::new(1).pop().expect("invariant: one core has one end");
        let (node, started) = Node::start(options, plan, Some(namespace), ends).await?;
        report.add(started);
        report.chunks = node.0.store.stats().await.chunks;
        Ok((node, report))
    }

    /// Starts one core of a node and waits for the others.
    ///
    /// The first core brings the `namespace`. All cores are given the same devices in the same order.
    /// Errors: [`OpenError`]; the others then wait for ever, and the caller must end them.
    pub async fn start(
        options: NodeOptions<D>,
        plan: StartPlan,
        namespace: Option<Namespace<D>>,
        ends: CoreEnds<D>,
    ) -> Result<(Node<D>, Started), OpenError> {
        let names = ends.names.open();
        assert_eq!(namespace.is_some(), names.me() == NAMESPACE_CORE, "invariant: one core has the namespace");
        let mut desk = None;
        if let Some(namespace) = namespace {
            desk = Some((namespace.meta.clone(), namespace.gc.clone()));
            names.start(Rc::new(namespace));
        }
        let member =
            |(device, place): &(DeviceId, usize)| Member { device: *device, disk: options.disks[*place].clone() };
        let store_options = StoreOptions {
            members: plan.devices.iter().map(member).collect(),
            cluster: plan.cluster,
            geometry: plan.geometry,
            keys: options.keys,
            log: MetaLog(names.clone()),
            incarnation: plan.incarnation,
            piece_bytes: options.piece_bytes,
            epoch: plan.epoch,
            reserved: plan.reserved.clone(),
        };
        let store = Store::open(store_options, ends.stores);
        let chunker = chunker(plan.chunker).ok_or(OpenError::UnknownChunker(plan.chunker.0))?;
        let inner = Rc::new(Inner {
            cluster: plan.cluster,
            devices: plan.devices.clone(),
            disks: options.disks,
            names,
            store,
            domain: Domain { id: DEFAULT_DOMAIN, key: DomainKey::new(plan.domain_key), chunker },
            manifest_page_entries: options.manifest_page_entries,
            checkpoint_after_chunks: options.checkpoint_after_chunks,
            takes_checkpoint: Cell::new(false),
            checkpointing: Mutex::new(()),
            checkpoint_changes: Cell::new(0),
        });
        let started = recover(&inner, &plan).await?;
        if let Some((meta, desk)) = desk {
            runtime::spawn(checkpoint::keep_taking(inner.clone()));
            let collector = Collector { node: inner.clone(), meta, desk, options: options.gc };
            runtime::spawn(collector.keep_collecting());
        }
        Ok((Node(inner), started))
    }

    /// Starts a node whose `cores` cores share this thread, as the simulator has it. `options` is asked once for each.
    ///
    /// Errors: [`OpenError`].
    pub async fn open_cores(
        options: impl Fn() -> NodeOptions<D>,
        cores: usize,
    ) -> Result<(Vec<Node<D>>, OpenReport), OpenError> {
        let (namespace, plan, mut report) = prepare(&options()).await?;
        let mut namespace = Some(namespace);
        let start = |ends| Node::start(options(), plan.clone(), namespace.take(), ends);
        let started = try_join_all(CoreEnds::new(cores).into_iter().map(start)).await?;
        let mut nodes = Vec::with_capacity(cores);
        for (node, started) in started {
            report.add(started);
            nodes.push(node);
        }
        report.chunks = nodes[0].0.store.stats().await.chunks;
        Ok((nodes, report))
    }
}

/// Fills the index: from its last checkpoint and the tail, or from all segments. Ends once all cores have.
async fn recover<D: Disk>(node: &Inner<D>, plan: &StartPlan) -> Result<Started, OpenError> {
    let cores = node.names.count();
    let all = async |yes: bool| {
        let arrive = move |names: Rc<Namespace<D>>| async move { names.barrier.arrive(cores, yes).await };
        node.names.call(NAMESPACE_CORE, arrive).await
    };
    let store = &node.store;
    let mut checkpoint_chunks = 0;
    let mut recovered;
    if let Some(checkpoint) = &plan.checkpoint {
        let cover = Arc::new(Cover::of(checkpoint, &plan.segments));
        recovered = store.recover(&plan.segments, |segment| cover.has(segment)).await?;
        // The pages lie in segments of all homes.
        all(true).await;
        let loaded = checkpoint::load(node, checkpoint, &cover).await;
        if let Err(why) = &loaded {
            let warning = format!("the checkpoint of the chunk index was passed over, all segments are read: {why}");
            recovered.warnings.push(warning);
        }
        if all(loaded.is_ok()).await {
            if node.names.me() == NAMESPACE_CORE {
                checkpoint_chunks = checkpoint.chunks;
                store.add_volume(volume_of(checkpoint));
            }
        } else {
            store.reset();
            all(true).await;
            let again = store.recover(&plan.segments, |_| false).await?;
            recovered.warnings.extend(again.warnings);
        }
    } else {
        recovered = store.recover(&plan.segments, |_| false).await?;
    }
    all(true).await;
    store.count_copies().await;
    store.complete();
    all(true).await;
    let Recovered { segments, warnings } = recovered;
    Ok(Started { segments, checkpoint_chunks, warnings })
}

fn volume_of(checkpoint: &IndexCheckpoint) -> Volume {
    let IndexCheckpoint { chunks, plain_bytes, stored_bytes, similarity_bytes, .. } = *checkpoint;
    Volume { chunks, plain_bytes, stored_bytes, similarity_bytes }
}

impl OpenReport {
    /// Adds what the start of one core found.
    pub fn add(&mut self, started: Started) {
        self.segments += started.segments;
        self.checkpoint_chunks += started.checkpoint_chunks;
        self.warnings.extend(started.warnings);
    }
}

/// Does what is to be done once at a start: formats or claims the devices, and recovers the metadata.
///
/// Errors: [`OpenError`].
pub async fn prepare<D: Disk>(options: &NodeOptions<D>) -> Result<(Namespace<D>, StartPlan, OpenReport), OpenError> {
    let mut report = OpenReport::default();
    let mut claimed = find_devices(&options.disks, options.piece_bytes, &mut report).await?;
    raise_incarnation(&options.disks, &mut claimed[..1], report.incarnation).await?;
    let superblock = claimed[0].0.clone();
    let devices: Vec<(DeviceId, usize)> =
        claimed.iter().map(|(superblock, place)| (superblock.device, *place)).collect();
    let cluster = superblock.cluster;
    let geometry = superblock.geometry().expect("invariant: a parsed superblock has a geometry");
    if geometry != Geometry::SINGLE {
        let what = format!("they were formatted as {geometry}, which needs a cluster; a single node is 1+0");
        return Err(OpenError::Mismatch { what });
    }
    let (device, place) = devices[0];
    let disk = &options.disks[place];
    let solo = SoloOptions {
        disk: disk.clone(),
        cluster,
        device,
        stream: 0,
        keys: options.keys.clone(),
        snapshot_after_wal_bytes: options.snapshot_after_wal_bytes,
        wal_reserve_bytes: options.wal_reserve_bytes,
        must_exist: superblock.flags.get() & SUPERBLOCK_HAS_METADATA != 0,
    };
    let meta = Solo::open(solo).await?;
    mark_metadata(disk, superblock).await?;
    let (domain_key, chunker) = open_domain(&meta, &*options.keys, cluster, options.chunker).await?;
    check_fresh(&claimed[1..], &meta)?;
    remove_freed(&options.disks, &devices, &meta).await?;
    let segments = listed_segments(&meta);
    remove_unlisted(&options.disks, &devices, &segments).await?;
    raise_incarnation(&options.disks, &mut claimed[1..], report.incarnation).await?;
    let plan = StartPlan {
        cluster,
        geometry,
        devices,
        incarnation: report.incarnation,
        domain_key,
        chunker,
        segments: segments.into(),
        checkpoint: meta.view(|view| view.index_checkpoint()).map(Arc::new),
        epoch: meta.view(|view| view.epoch()),
        reserved: Arc::default(),
    };
    Ok((Namespace::new(meta, disk.clone(), cluster), plan, report))
}

/// Reads all superblocks, formats blank devices, and decides the incarnation of this start.
///
/// Returns the devices in the order they were formatted in, each with its place in `disks`.
async fn find_devices<D: Disk>(
    disks: &[D],
    piece_bytes: u64,
    report: &mut OpenReport,
) -> Result<Vec<(Superblock, usize)>, OpenError> {
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
    let mut devices: Vec<(Superblock, usize)> = found.into_iter().flatten().zip(0..).collect();
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
    let last = devices.iter().map(|(superblock, _)| superblock.incarnation.get()).max().unwrap_or(0);
    if first.incarnation.get() < last {
        let what = format!("it was last started as number {}, another as number {last}", first.incarnation);
        return Err(OpenError::Stale { directory: devices[0].1 + 1, what });
    }
    report.incarnation = last + 1;
    Ok(devices)
}

/// Makes the incarnation of this start durable on `devices`, one after the other.
async fn raise_incarnation<D: Disk>(
    disks: &[D],
    devices: &mut [(Superblock, usize)],
    incarnation: u64,
) -> Result<(), OpenError> {
    for (superblock, place) in devices {
        if planted::is(Bug::UnraisedIncarnation) && superblock.incarnation.get() > 0 {
            continue;
        }
        superblock.incarnation = incarnation.into();
        superblock.sequence += 1;
        let stored = superblock::store(&disks[*place], superblock).await;
        stored.map_err(|source| OpenError::Device { directory: *place + 1, source })?;
    }
    Ok(())
}

/// Checks that `devices`, whose incarnations were not raised yet, were there at every start that made a segment.
fn check_fresh<D: Disk>(devices: &[(Superblock, usize)], meta: &Solo<D>) -> Result<(), OpenError> {
    let made = meta.view(|view| view.segments()).into_iter().map(|record| record.segment.incarnation());
    let last = made.max().unwrap_or(0);
    match devices.iter().find(|(superblock, _)| superblock.incarnation.get() < last) {
        Some((superblock, place)) => {
            let what = format!("it was last started as number {}, the node as number {last}", superblock.incarnation);
            Err(OpenError::Stale { directory: *place + 1, what })
        }
        None => Ok(()),
    }
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

/// Associated data of a domain's wrapped key: what it belongs to, so that it opens nowhere else.
pub(crate) fn domain_context(domain: DomainId, cluster: ClusterId) -> Vec<u8> {
    [&b"dedup domain"[..], &domain.0.to_le_bytes(), &cluster.0].concat()
}

/// Returns the key and the chunker of the default dedup domain, which a fresh store has not yet. The key never leaves the
/// metadata unwrapped.
async fn open_domain<D: Disk>(
    meta: &Solo<D>,
    keys: &dyn KeyProvider,
    cluster: ClusterId,
    new_chunker: ChunkerId,
) -> Result<([u8; 32], ChunkerId), OpenError> {
    let id = DEFAULT_DOMAIN;
    let context = domain_context(id, cluster);
    if meta.view(|view| view.domain(id)).is_none() {
        let key: [u8; 32] = runtime::random();
        let wrapped = keys.wrap(&key, runtime::random(), &context);
        let command = Command::CreateDomain {
            domain: id,
            chunker: new_chunker.0,
            ring_key: wrapped.ring_key,
            wrap_nonce: wrapped.nonce,
            wrapped_key: wrapped.wrapped,
        };
        meta.propose(GROUP, command).await.map_err(ChangeError::from)?;
    }
    let record = meta.view(|view| view.domain(id)).expect("invariant: the domain was just created");
    Ok((keys.unwrap(&record.key(), &context)?, ChunkerId(record.chunker)))
}

/// The segments that the metadata lists and that were not freed.
fn listed_segments<D: Disk>(meta: &Solo<D>) -> Vec<ListedSegment> {
    let listed = |record: SegmentRecord| {
        let state = match record.state {
            SegmentState::Open => ListedState::Open,
            SegmentState::Sealed { footer_offsets } => ListedState::Sealed(footer_offsets),
            SegmentState::Freed => return None,
        };
        let geometry = Geometry::new(record.k, record.m).expect("invariant: the log lists possible geometries");
        let generation = Generation(record.generation);
        Some(ListedSegment { id: record.segment, members: record.members, geometry, generation, state })
    };
    meta.view(|view| view.segments()).into_iter().filter_map(listed).collect()
}

/// Removes the files of segments that were freed before the last stop.
///
/// They stay listed as freed until the first cycle of garbage collection: this start may yet be refused because a disk is
/// not the one that belongs here, and the files on that one must be known then.
async fn remove_freed<D: Disk>(disks: &[D], devices: &[(DeviceId, usize)], meta: &Solo<D>) -> Result<(), OpenError> {
    let place = |device| devices.iter().position(|(known, _)| *known == device);
    for (segment, members) in meta.view(|view| view.freed_segments()) {
        let member = |device| place(device).map(|place| Member { device, disk: disks[devices[place].1].clone() });
        let Some(members) = members.into_iter().map(member).collect::<Option<Vec<Member<D>>>>() else { continue };
        remove_files(segment, &members).await.map_err(|(device, source)| OpenError::Device {
            directory: place(device).map_or(0, |place| devices[place].1 + 1),
            source,
        })?;
    }
    Ok(())
}

/// Removes segment files that no log lists: left by a crash between their creation and their listing.
///
/// A file with a row of its own is never made by a crash: the metadata has forgotten it, and who knows what else.
async fn remove_unlisted<D: Disk>(
    disks: &[D],
    devices: &[(DeviceId, usize)],
    segments: &[ListedSegment],
) -> Result<(), OpenError> {
    for (number, (device, place)) in devices.iter().enumerate() {
        let disk = &disks[*place];
        let failed = |source| OpenError::Device { directory: number + 1, source };
        let listed = |segment: &ListedSegment| {
            let columns = segment.members.iter().enumerate();
            let here = columns.filter(|(_, member)| *member == device);
            here.map(|(column, _)| piece_name(segment.id, column)).collect::<Vec<_>>()
        };
        let listed: BTreeSet<String> = segments.iter().flat_map(listed).collect();
        for name in disk.list(SEGMENT_DIR).await.map_err(failed)? {
            let name = format!("{SEGMENT_DIR}/{name}");
            if listed.contains(&name) {
                continue;
            }
            let file = disk.open(&name).await.map_err(failed)?;
            let (read, first_row) = file.read_at(AlignedBuf::zeroed(SECTOR_BYTES), SECTOR_BYTES as u64).await;
            let whole = read.map_err(failed)? == SECTOR_BYTES;
            if let Some(row) = PieceHeader::parse(&first_row).ok().filter(|_| whole)
                && piece_name(SegmentId(row.segment.get()), usize::from(row.column)) == name
            {
                let what = format!("{name} in directory {} holds rows, and its metadata does not know it", place + 1);
                return Err(OpenError::Stale { directory: devices[0].1 + 1, what });
            }
            drop(file);
            disk.remove(&name).await.map_err(failed)?;
        }
    }
    Ok(())
}
