//! The full check of a node at rest: superblocks, metadata, segments, and every byte of every file. Nothing is written.
//!
//! ```text
//!   devices   superblocks: four copies each, one node                         devices.rs
//!   names     snapshot and logs replay; the namespace contradicts itself nowhere   names.rs
//!   segments  headers, footers, rows, blocks; chunks named again from bytes   segments.rs ─▶ chunks.rs: what is there
//!   content   every entry of every manifest leads to a chunk that is there    content.rs
//! ```
//!
//! The same code checks directories of an operator (through [`crate::offline`], on several threads) and simulated disks
//! ([`check`]). Problems say what is damaged, and, where it costs a file, which bytes of which version of which path.
//!
//! Memory: the metadata, as a running node has it; 24 bytes for each stored chunk, twice that while the segments' lists
//! are joined; one row and the tables of one segment for each segment under way; at most [`PROBLEMS_KEPT_MAX`] problems.

mod chunks;
mod content;
pub(crate) mod devices;
mod names;
mod problem;
mod segments;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use chunk::DomainKey;
use meta::{OfflineMeta, OpenError, Pair, Remark, SegmentRecord, SegmentState, SoloOptions};
use proto::disk::{FixedHeader, PieceHeader, SUPERBLOCK_HAS_METADATA};
use proto::limits::SECTOR_BYTES;
use proto::port::{AlignedBuf, Disk, DiskFile, KeyProvider};
use proto::{ClusterId, DomainId, Generation, Geometry};
use shard::examine::Depth;
use shard::recovery::{ListedSegment, ListedState};
use shard::segment::{SEGMENT_DIR, piece_name};

pub use problem::{PROBLEMS_KEPT_MAX, Problem, ProblemKind, Report, Severity, Totals};
pub use segments::{SegmentChecker, SegmentFindings};

use crate::DEFAULT_DOMAIN;
use chunks::ChunkSet;
use content::ContentCheck;
use devices::Device;
use names::ChunkedVersion;

/// How much is read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CheckOptions {
    /// Everything: each block is opened, each chunk decoded and named again.
    Full,
    /// Only what describes the data: a damaged block goes unnoticed.
    Quick,
}

/// How far a check has got.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Progress {
    /// The segments come next: so many bytes of files.
    Segments {
        /// Their bytes.
        bytes: u64,
    },
    /// So many bytes more of them were looked at.
    Read {
        /// Bytes since the last call.
        bytes: u64,
    },
    /// The manifests come next.
    Files,
}

/// Checks a node, one segment after the other.
pub async fn check<D: Disk>(disks: Vec<D>, keys: Arc<dyn KeyProvider>, options: CheckOptions) -> Report {
    let mut check = Check::begin(disks.clone(), keys.clone(), options).await;
    let work = check.work();
    let checker = work.checker(disks, keys);
    let mut found = Vec::with_capacity(work.segments().len());
    for segment in work.segments() {
        found.push(checker.check(segment, &|_| ()).await);
    }
    check.add(found);
    check.finish().await
}

/// A check under way: [`Check::begin`], each segment of [`Check::work`] on any thread, [`Check::add`],
/// [`Check::finish`].
pub struct Check<D: Disk> {
    devices: Vec<Device<D>>,
    keys: Arc<dyn KeyProvider>,
    depth: Depth,
    meta: Option<OfflineMeta<D>>,
    /// Whether the metadata was read to its end.
    meta_is_whole: bool,
    listed: Vec<ListedSegment>,
    segment_bytes: u64,
    domains: BTreeMap<DomainId, DomainKey>,
    versions: Vec<ChunkedVersion>,
    chunks: ChunkSet,
    unknown_domains: BTreeSet<DomainId>,
    report: Report,
}

/// The segments to check and what that needs; may be sent to other threads.
pub struct Work {
    /// Superblocks by directory, with the place of the directory among those given.
    devices: Vec<Device<usize>>,
    segments: Vec<ListedSegment>,
    cluster: ClusterId,
    domains: BTreeMap<DomainId, DomainKey>,
    depth: Depth,
}

impl Work {
    /// The segments, ascending.
    #[must_use]
    pub fn segments(&self) -> &[ListedSegment] {
        &self.segments
    }

    /// Returns a checker that reads `disks`, which are those that the check began with, in the same order.
    #[must_use]
    pub fn checker<D: Disk>(&self, disks: Vec<D>, keys: Arc<dyn KeyProvider>) -> SegmentChecker<D> {
        let devices = self.devices.iter().map(|device| Device {
            directory: device.directory,
            superblock: device.superblock.clone(),
            disk: disks[device.disk].clone(),
        });
        SegmentChecker {
            devices: devices.collect(),
            cluster: self.cluster,
            keys,
            domains: self.domains.clone(),
            depth: self.depth,
        }
    }
}

impl<D: Disk> Check<D> {
    /// Checks superblocks and metadata.
    pub async fn begin(disks: Vec<D>, keys: Arc<dyn KeyProvider>, options: CheckOptions) -> Check<D> {
        let mut report = Report::default();
        let devices = devices::check(&disks, &mut report).await;
        let depth = match options {
            CheckOptions::Full => Depth::Payloads,
            CheckOptions::Quick => Depth::Heads,
        };
        let mut check = Check {
            devices,
            keys,
            depth,
            meta: None,
            meta_is_whole: false,
            listed: Vec::new(),
            segment_bytes: 0,
            domains: BTreeMap::new(),
            versions: Vec::new(),
            chunks: ChunkSet::default(),
            unknown_domains: BTreeSet::new(),
            report,
        };
        check.read_metadata().await;
        check.list_segments().await;
        check
    }

    /// What is to be done segment by segment.
    #[must_use]
    pub fn work(&self) -> Work {
        let placed = |device: &Device<D>| Device {
            directory: device.directory,
            superblock: device.superblock.clone(),
            disk: device.directory - 1,
        };
        Work {
            devices: self.devices.iter().map(placed).collect(),
            segments: self.listed.clone(),
            cluster: self.cluster(),
            domains: self.domains.clone(),
            depth: self.depth,
        }
    }

    /// Bytes of the segment files.
    #[must_use]
    pub fn segment_bytes(&self) -> u64 {
        self.segment_bytes
    }

    /// Takes in what the checks of all segments found, in any order.
    pub fn add(&mut self, mut found: Vec<SegmentFindings>) {
        found.sort_unstable_by_key(SegmentFindings::segment);
        self.chunks.reserve(found.iter().map(|findings| findings.chunks.len()).sum());
        for findings in found {
            let segment = findings.segment();
            let SegmentFindings { problems, chunks, totals, unknown_domains, .. } = findings;
            problems.into_iter().for_each(|problem| self.report.add(problem));
            self.chunks.add(segment, chunks);
            self.unknown_domains.extend(unknown_domains);
            let sum = &mut self.report.totals;
            sum.segments += 1;
            sum.bytes_read += totals.bytes_read;
            sum.rows += totals.rows;
            sum.blocks += totals.blocks;
            sum.chunks += totals.chunks;
            sum.plain_bytes += totals.plain_bytes;
        }
    }

    /// Checks what needs to know all segments: files that none lists, and the manifests.
    pub async fn finish(mut self) -> Report {
        for domain in &self.unknown_domains {
            let detail = format!("domain {domain} has no key in the metadata");
            self.report.add(Problem::new(ProblemKind::DomainUnknown, detail));
        }
        self.check_unlisted().await;
        let Some(meta) = &self.meta else { return self.report };
        self.chunks.seal();
        let distinct = self.chunks.distinct();
        let totals = &mut self.report.totals;
        totals.distinct_chunks = distinct.chunks;
        totals.distinct_plain_bytes = distinct.plain_bytes;
        totals.distinct_stored_bytes = distinct.stored_bytes;
        totals.distinct_similarity_bytes = distinct.similarity_bytes;
        let checker = SegmentChecker {
            devices: self.devices.clone(),
            cluster: self.cluster(),
            keys: self.keys.clone(),
            domains: self.domains.clone(),
            depth: self.depth,
        };
        let members = self.listed.iter().map(|listed| (listed.id, &listed.members[..])).collect();
        let mut content = ContentCheck::new(&checker, members, &self.chunks);
        content.check(meta, &self.versions, &mut self.report).await;
        content.check_checkpoint(meta, &mut self.report).await;
        self.report
    }

    fn cluster(&self) -> ClusterId {
        self.devices.first().map_or(ClusterId::default(), |device| device.superblock.cluster)
    }

    /// Brings the metadata back and checks it.
    async fn read_metadata(&mut self) {
        let Some(options) = meta_options(&self.devices, &self.keys) else {
            if !self.devices.is_empty() {
                let detail = "the directory with the metadata is not here: files and segments were not checked";
                self.report.add(Problem::new(ProblemKind::DeviceMismatch, detail));
            }
            return;
        };
        let directory = self.devices[0].directory;
        let must_exist = options.must_exist;
        let mut meta = match OfflineMeta::open(options).await {
            Ok(meta) => meta,
            Err(error) => {
                self.report.add(meta_problem(directory, &error));
                return;
            }
        };
        match replay(&mut meta).await {
            Ok(()) => self.meta_is_whole = true,
            Err(error) => self.report.add(replay_problem(directory, &error)),
        }
        for remark in meta.remarks() {
            self.report.add(remark_problem(directory, remark));
        }
        self.report.totals.last_lsn = meta.last_lsn().0;
        if meta.has_root() {
            self.versions = names::check(&meta, &mut self.report);
            self.open_domains(&meta);
        } else if !must_exist {
            let detail = "the node was formatted and has never started";
            self.report.add(Problem::new(ProblemKind::MetadataLeftover, detail).in_file(directory, "meta"));
        }
        self.meta = Some(meta);
    }

    fn open_domains(&mut self, meta: &OfflineMeta<D>) {
        let cluster = self.cluster();
        meta.each_pair(|pair| {
            let Pair::Domain { key: domain, record } = pair else { return };
            match self.keys.unwrap(&record.key(), &crate::open::domain_context(domain, cluster)) {
                Ok(key) => {
                    // Pages of the chunk index are named with the key of the node's own domain.
                    if domain == DEFAULT_DOMAIN {
                        self.domains.insert(DomainId::CHECKPOINTS, DomainKey::new(key));
                    }
                    self.domains.insert(domain, DomainKey::new(key));
                }
                Err(error) => {
                    let detail = format!("domain {domain}: {error}");
                    self.report.add(Problem::new(ProblemKind::DomainLocked, detail));
                }
            }
        });
    }

    /// Takes the list of segments from the metadata, and adds up their files.
    async fn list_segments(&mut self) {
        let Some(meta) = &self.meta else { return };
        self.listed = meta.view().segments().into_iter().filter_map(listed).collect();
        for listed in &self.listed {
            for (column, device) in listed.members.iter().enumerate() {
                let Some(device) = self.devices.iter().find(|known| known.superblock.device == *device) else {
                    continue;
                };
                // What cannot be opened is reported when the segment is checked.
                if let Ok(file) = device.disk.open(&piece_name(listed.id, column)).await {
                    self.segment_bytes += file.len().await.unwrap_or(0);
                }
            }
        }
    }

    /// Looks at segment files that the metadata does not list.
    async fn check_unlisted(&mut self) {
        // Metadata that ends early does not know of the segments that came after.
        if !self.meta_is_whole {
            return;
        }
        for device in &self.devices {
            let here = self.listed.iter().flat_map(|listed| {
                let columns = listed.members.iter().enumerate();
                let ours = columns.filter(|(_, member)| **member == device.superblock.device);
                ours.map(|(column, _)| piece_name(listed.id, column))
            });
            let here: BTreeSet<String> = here.collect();
            let freed = self.meta.iter().flat_map(|meta| meta.view().segments());
            let freed: BTreeSet<String> = freed
                .filter(|record| record.state == SegmentState::Freed)
                .flat_map(|record| (0..record.members.len()).map(move |column| piece_name(record.segment, column)))
                .collect();
            let names = match device.disk.list(SEGMENT_DIR).await {
                Ok(names) => names,
                Err(error) => {
                    let problem = Problem::new(ProblemKind::DeviceFailed, error.to_string());
                    self.report.add(problem.in_file(device.directory, SEGMENT_DIR));
                    continue;
                }
            };
            for name in names.into_iter().map(|name| format!("{SEGMENT_DIR}/{name}")) {
                if here.contains(&name) {
                    continue;
                }
                let (kind, detail) = match has_row(&device.disk, &name).await {
                    Ok(_) if freed.contains(&name) => (ProblemKind::FileLeftover, "its segment was freed".to_owned()),
                    Ok(true) => (ProblemKind::FileUnlisted, "it holds rows".to_owned()),
                    Ok(false) => (ProblemKind::FileLeftover, "it holds no row".to_owned()),
                    Err(error) => (ProblemKind::DeviceFailed, error.to_string()),
                };
                self.report.add(Problem::new(kind, detail).in_file(device.directory, name));
            }
        }
    }
}

/// How the metadata of a node is read; `None` if the directory that holds it is not here.
pub(crate) fn meta_options<D: Disk>(devices: &[Device<D>], keys: &Arc<dyn KeyProvider>) -> Option<SoloOptions<D>> {
    let first = devices.first().filter(|device| device.superblock.device_ordinal.get() == 0)?;
    Some(SoloOptions {
        disk: first.disk.clone(),
        cluster: first.superblock.cluster,
        device: first.superblock.device,
        stream: 0,
        keys: keys.clone(),
        snapshot_after_wal_bytes: u64::MAX,
        wal_reserve_bytes: proto::limits::WAL_RESERVE_BYTES,
        must_exist: first.superblock.flags.get() & SUPERBLOCK_HAS_METADATA != 0,
    })
}

/// A record of the metadata as recovery takes it; `None` for what is freed or impossible, which is reported elsewhere.
pub(crate) fn listed(record: SegmentRecord) -> Option<ListedSegment> {
    let geometry = Geometry::new(record.k, record.m).filter(|found| found.columns() == record.members.len())?;
    let state = match record.state {
        SegmentState::Open => ListedState::Open,
        SegmentState::Sealed { footer_offsets } => ListedState::Sealed(footer_offsets),
        SegmentState::Freed => return None,
    };
    let generation = Generation(record.generation);
    Some(ListedSegment { id: record.segment, members: record.members, geometry, generation, state })
}

/// Whether a segment file that nobody lists begins with a row, as the node's start asks.
async fn has_row<D: Disk>(disk: &D, name: &str) -> std::io::Result<bool> {
    let file = disk.open(name).await?;
    let (read, mut first) = file.read_at(AlignedBuf::zeroed(SECTOR_BYTES), SECTOR_BYTES as u64).await;
    first.set_len(read?);
    Ok(PieceHeader::parse(&first).is_ok())
}

/// Why the log was not applied to its end.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ReplayError {
    /// The snapshot contradicts itself.
    #[error("the log was not read, because the snapshot that it goes on from contradicts itself")]
    BrokenSnapshot,
    /// The log is damaged.
    #[error(transparent)]
    Log(#[from] OpenError),
}

/// Applies the commands of the log. They may only meet a state that does not contradict itself, so that is asked first.
pub(crate) async fn replay<D: Disk>(meta: &mut OfflineMeta<D>) -> Result<(), ReplayError> {
    let mut before = Report::default();
    if meta.has_logs() && meta.has_root() {
        names::check(meta, &mut before);
    }
    if before.worst() == Some(Severity::Damage) {
        return Err(ReplayError::BrokenSnapshot);
    }
    Ok(meta.replay().await?)
}

fn replay_problem(directory: usize, error: &ReplayError) -> Problem {
    match error {
        ReplayError::Log(error) => meta_problem(directory, error),
        ReplayError::BrokenSnapshot => Problem::new(ProblemKind::MetadataDamaged, error.to_string()),
    }
}

fn meta_problem(directory: usize, error: &OpenError) -> Problem {
    let problem = |kind| Problem::new(kind, error.to_string());
    match error {
        OpenError::Corrupt { file, offset, what } => {
            Problem::new(ProblemKind::MetadataDamaged, what.to_string()).in_file(directory, file).at(*offset)
        }
        OpenError::Foreign { file, .. } | OpenError::Key { file, .. } => {
            problem(ProblemKind::MetadataDamaged).in_file(directory, file)
        }
        OpenError::Device { file, .. } => problem(ProblemKind::DeviceFailed).in_file(directory, file),
        OpenError::NoSpace { .. } => problem(ProblemKind::DeviceFailed).in_file(directory, "meta"),
        OpenError::Lost | OpenError::Format(_) => problem(ProblemKind::MetadataDamaged).in_file(directory, "meta"),
    }
}

fn remark_problem(directory: usize, remark: &Remark) -> Problem {
    let leftover =
        |file: &str, detail: &str| Problem::new(ProblemKind::MetadataLeftover, detail).in_file(directory, file);
    match remark {
        Remark::SnapshotPassedOver { file, offset, what } => {
            Problem::new(ProblemKind::SnapshotPassedOver, what.to_string()).in_file(directory, file).at(*offset)
        }
        Remark::EmptyLog { file } => leftover(file, "a log without a command"),
        Remark::Replaced { file } => leftover(file, "a newer snapshot holds what it holds"),
        Remark::Unfinished { file } => leftover(file, "a snapshot that was not finished"),
        Remark::TornTail { file, offset } => {
            Problem::new(ProblemKind::TornTail, "part of a batch").in_file(directory, file).at(*offset)
        }
    }
}
