//! What outlives the node in a seed, and what the node may answer because of the faults of the plan.

use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use node::{FileReadError, GcOptions, Node, NodeOptions, OpenReport};
use proto::limits::DISK_ANSWER_SECONDS_MAX;

use super::faults::Excuse;
use super::plan::Plan;
use super::round::{Phase, SNAPSHOT_UNDERWAY};
use super::tally::Tally;
use crate::invariants::Judge;
use crate::invariants::damage::Flipped;
use crate::invariants::nonces::{Seals, WatchedKeys};
use crate::invariants::reachable::Extent;
use crate::oracle::{Oracle, Violation, violation};
use crate::sim::faults::Happened;
use crate::sim::{DiskOptions, Operation, Random, SimDisk, Simulation, WatchedDisk};
use crate::workload::Client;
use crate::workload::remote::{self, Remote};

/// Completed operations of one kind before an injected error: at most two to this power.
const FAULT_AFTER_POWER_MAX: u64 = 11;
/// Bytes that others who use the same volume leave of it: from what a start needs, a new log and a record for each
/// segment that a crash left open, to what is below every reserve.
const SHARED_VOLUME_FREE_BYTES_MIN: u64 = 64 << 10;
const SHARED_VOLUME_FREE_BYTES_MAX: u64 = 256 << 10;
/// A slow operation takes at most two to less than this power of seconds longer: a minute.
const SLOW_SECONDS_POWER_MAX: u64 = 7;
/// For how long a disk is slow.
const SLOW_SPELL: Duration = Duration::from_secs(120);
/// For how long a disk does not answer, unless the process ends first: shorter and longer than the node waits for it.
const STALL_SECONDS_MAX: u64 = 2 * DISK_ANSWER_SECONDS_MAX;
/// Cores of a start, at most.
const CORES_MAX: u64 = 3;
/// Tries to hit a byte that holds data.
const FLIP_ATTEMPTS: usize = 20;

/// The path and version of each file, and which of its bytes were damaged.
pub type VersionsRead = BTreeMap<(String, u64), Option<Range<u64>>>;

/// Disks, keys, clients and the judge.
pub struct World {
    /// What the seed is about.
    pub plan: Plan,
    /// The judge.
    pub oracle: RefCell<Oracle>,
    /// The clients.
    pub clients: Vec<Client>,
    /// Where remote clients meet the node; none if there are none.
    pub remote: Option<Rc<Remote>>,
    /// What was done.
    pub tally: Tally,
    /// How often each promise was checked.
    pub judge: Judge,
    /// What went wrong.
    pub happened: Happened,
    /// Which bits were flipped.
    pub flipped: Flipped,
    /// Whether the node is being closed under its clients.
    pub closing: Cell<bool>,
    /// What the last full check read.
    pub read: RefCell<VersionsRead>,
    /// Operations that the clients of this start may still begin.
    pub operations_left: Cell<u64>,
    /// Paths that are being put, each with the number of its writers.
    pub writers: RefCell<BTreeMap<String, u64>>,
    pub(super) phase: Cell<Phase>,
    pub(super) faults_ended: Cell<bool>,
    pub(super) seals: Arc<Seals>,
    /// Whether a start ever succeeded: before, the disks may hold part of a node.
    pub(super) started: Cell<bool>,
    /// Digest of the metadata at the last clean close, until something may have changed it.
    pub(super) closed: Cell<Option<u128>>,
    /// The first core of the running node, to see what a crash meets.
    pub(super) watched: RefCell<Option<Node<WatchedDisk>>>,
    /// Starts that opened.
    pub(super) starts: Cell<u64>,
    /// A disk that is remembered as it was, and after how many starts.
    pub(super) remembered: Cell<Option<(usize, u64)>>,
    disks: Vec<SimDisk>,
}

impl World {
    /// Makes the world of `plan`, with blank disks.
    #[must_use]
    pub fn new(simulation: &mut Simulation, plan: Plan) -> Rc<World> {
        let remote = (plan.remote_clients > 0).then(|| {
            let network = simulation.add_network(plan.wire);
            Rc::new(Remote::new(network, plan.remote_clients as usize))
        });
        let world = Rc::new(World {
            remote,
            oracle: RefCell::new(Oracle::new(plan.scale.chunker())),
            clients: (0..plan.clients).map(Client::new).collect(),
            tally: Tally::default(),
            judge: Judge::default(),
            happened: simulation.happened(),
            flipped: Flipped::default(),
            closing: Cell::new(false),
            read: RefCell::default(),
            operations_left: Cell::new(0),
            writers: RefCell::default(),
            phase: Cell::new(Phase::Opening),
            faults_ended: Cell::new(false),
            seals: Arc::default(),
            started: Cell::new(false),
            closed: Cell::new(None),
            watched: RefCell::default(),
            starts: Cell::new(0),
            remembered: Cell::new(None),
            disks: (0..plan.disks).map(|_| simulation.add_disk(plan.disk)).collect(),
            plan,
        });
        if let Some(remote) = &world.remote {
            for number in world.direct_clients()..world.clients.len() {
                let random = simulation.fork_random();
                simulation.start_beside(remote::run(world.clone(), remote.clone(), number, random));
            }
        }
        world
    }

    /// Clients that call the node directly: the first ones.
    #[must_use]
    pub fn direct_clients(&self) -> usize {
        (self.plan.clients - self.plan.remote_clients) as usize
    }

    /// Whether client `number` reaches the node over the wire.
    #[must_use]
    pub fn is_remote(&self, number: u64) -> bool {
        number >= self.direct_clients() as u64
    }

    /// Takes one of the operations that clients may still begin; `false` if there is none.
    pub fn begin_operation(&self) -> bool {
        let left = self.operations_left.get();
        self.operations_left.set(left.saturating_sub(1));
        left > 0
    }

    /// Whether the faults of the seed excuse this.
    #[must_use]
    pub fn excuses(&self, excuse: Excuse) -> bool {
        self.plan.faults.excuse(excuse)
    }

    /// A change was turned down or left open: that needs a reason.
    ///
    /// # Errors
    /// [`Violation`] if there is none.
    pub fn tolerate_refusal(&self, error: &str) -> Result<(), Violation> {
        if self.closing.get() {
            self.tally.count("refused while closing");
            return Ok(());
        }
        if !self.excuses(Excuse::Refusal) {
            return Err(violation!("nothing went wrong, yet: {error}"));
        }
        self.tally.count("refused for a fault");
        Ok(())
    }

    /// Something was given up that would have read what is stored: that needs a reason.
    ///
    /// # Errors
    /// [`Violation`] if there is none.
    pub fn tolerate_unread(&self, why: &str) -> Result<(), Violation> {
        let reads = [Excuse::DamagedRead, Excuse::PassingDamage, Excuse::FailedRead];
        if reads.into_iter().any(|excuse| self.excuses(excuse)) {
            return Ok(());
        }
        self.tolerate_refusal(why)
    }

    /// A read of `range` of a file failed: that needs a reason.
    ///
    /// # Errors
    /// [`Violation`] if there is none, or the message names another file or range.
    pub fn tolerate_read_error(&self, at: &str, range: &Range<u64>, error: &FileReadError) -> Result<(), Violation> {
        let (path, bad, excuse, count) = match error {
            FileReadError::Damaged { path, range, .. } if self.excuses(Excuse::DamagedRead) => {
                (path, range, Excuse::DamagedRead, "damaged reads")
            }
            FileReadError::Damaged { path, range, .. } => (path, range, Excuse::PassingDamage, "misread reads"),
            FileReadError::Device { path, range, .. } => (path, range, Excuse::FailedRead, "failed reads"),
            FileReadError::Refused(refused) => return Err(violation!("{at} was open, yet: {refused}")),
        };
        let overlaps = bad.start < range.end && range.start < bad.end;
        let passed = excuse == Excuse::PassingDamage && self.faults_ended.get();
        if path != at || !overlaps || !self.excuses(excuse) || passed {
            return Err(violation!("a read of {at} bytes {range:?}: {error}"));
        }
        self.tally.count(count);
        Ok(())
    }

    /// The node did not open: that needs a reason.
    pub(super) fn tolerate_failed_start(&self, error: &node::OpenError) -> Result<(), Violation> {
        if !self.excuses(Excuse::FailedStart) || self.faults_ended.get() {
            return Err(violation!("the node does not open: {error}"));
        }
        self.tally.count("failed starts");
        Ok(())
    }

    /// What the seed is about, for messages.
    pub(super) fn about(&self) -> String {
        let files = |disk: &SimDisk| format!("\n  {:?}", disk.files());
        let disks: String = self.disks.iter().map(files).collect();
        format!("{:#?}\ndisks with these files:{disks}", self.plan)
    }

    /// How much a full check reads.
    #[must_use]
    pub fn extent(&self) -> Extent {
        if self.faults_ended.get() { Extent::All } else { Extent::Sample }
    }

    /// What was sealed, in all starts.
    #[must_use]
    pub fn seals(&self) -> &Seals {
        &self.seals
    }

    /// The disks.
    #[must_use]
    pub fn disks(&self) -> &[SimDisk] {
        &self.disks
    }

    /// Names of all files on the disks.
    pub(crate) fn files(&self) -> BTreeSet<String> {
        self.disks.iter().flat_map(SimDisk::files).map(|(name, _)| name).collect()
    }

    /// The ring keys.
    #[must_use]
    pub fn keys(&self) -> Arc<WatchedKeys> {
        Arc::new(WatchedKeys::new(self.plan.key, self.seals.clone()))
    }

    /// Opens the node on some number of cores, which may differ from that of the start before.
    pub(super) async fn open(
        &self,
        random: &mut Random,
    ) -> Result<(Vec<Node<WatchedDisk>>, OpenReport), node::OpenError> {
        let mut disks = self.disks.clone();
        // Data directories may be given in any order.
        let first = random.below(disks.len() as u64) as usize;
        disks.rotate_left(first);
        let cores = random.between(1, CORES_MAX) as usize;
        self.tally.count(&format!("starts on {cores} cores"));
        Node::open_cores(|| self.options(disks.clone()), cores).await
    }

    /// A start that ends as soon as it has opened, or not.
    pub(super) fn open_alone(
        self: &Rc<Self>,
        simulation: &mut Simulation,
        random: &mut Random,
    ) -> Result<Result<(), node::OpenError>, Violation> {
        let (world, mut random) = (self.clone(), random.fork());
        let open = async move { world.open(&mut random).await.map(drop) };
        simulation.run(open).map_err(|stuck| violation!("{stuck}"))
    }

    fn options(&self, disks: Vec<SimDisk>) -> NodeOptions<WatchedDisk> {
        let disks = disks.into_iter().map(WatchedDisk::new).collect();
        let plan = &self.plan;
        NodeOptions {
            chunker: plan.scale.chunker(),
            piece_bytes: plan.piece_bytes,
            wal_reserve_bytes: plan.wal_reserve_bytes,
            snapshot_after_wal_bytes: plan.snapshot_after_wal_bytes,
            checkpoint_after_chunks: plan.checkpoint_after_chunks,
            manifest_page_entries: plan.manifest_page_entries,
            gc: GcOptions { automatic: false, ..GcOptions::default() },
            ..NodeOptions::new(disks, self.keys())
        }
    }

    /// Ends what goes wrong: errors stop, and full disks are enlarged.
    pub(super) fn clear_faults(&self) {
        for disk in &self.disks {
            disk.clear_faults();
            disk.resize(DiskOptions::default().capacity_bytes);
        }
        self.faults_ended.set(true);
        if let Some(remote) = &self.remote {
            remote.network.heal();
        }
    }

    /// Lets others who use the same volumes take or give back space: below every reserve of the node, or not at all.
    pub(super) fn share_volumes(&self, random: &mut Random) {
        let taken = random.chance(1, 3);
        for disk in &self.disks {
            let left = random.between(SHARED_VOLUME_FREE_BYTES_MIN, SHARED_VOLUME_FREE_BYTES_MAX);
            let least = disk.used_bytes() + left;
            disk.resize(if taken { least } else { least.max(self.plan.disk.capacity_bytes) });
        }
    }

    /// Makes one later operation of one disk fail.
    pub(super) fn inject_error(&self, random: &mut Random) {
        const KINDS: [Operation; 10] = [
            Operation::Write,
            Operation::Write,
            Operation::Write,
            Operation::Sync,
            Operation::SyncDir,
            Operation::Create,
            Operation::Open,
            Operation::Read,
            Operation::SetLen,
            Operation::Rename,
        ];
        let kind = *random.pick(&KINDS);
        let scale = 1 << random.below(FAULT_AFTER_POWER_MAX);
        random.pick(&self.disks).fail_nth(kind, random.below(scale));
    }

    /// Misdirects one later write of one disk.
    pub(super) fn misdirect(&self, random: &mut Random) {
        // A finished snapshot exists once: what lands there must not, for it is beyond what the node can mend.
        let scope = *random.pick(&["segments/", "segments/", SNAPSHOT_UNDERWAY, "superblock"]);
        let scale = 1 << random.below(FAULT_AFTER_POWER_MAX);
        random.pick(&self.disks).misdirect_nth(scope, random.below(scale));
    }

    /// Makes one later read of one disk stale.
    pub(super) fn make_stale(&self, random: &mut Random) {
        let scope = *random.pick(&["segments/", "meta/", "superblock", ""]);
        let scale = 1 << random.below(FAULT_AFTER_POWER_MAX);
        random.pick(&self.disks).stale_nth(scope, random.below(scale));
    }

    /// Makes one disk slow for a while, each operation by less than the node waits for it.
    pub(super) fn slow_down(&self, random: &mut Random) {
        let scale = 1 << random.below(FAULT_AFTER_POWER_MAX);
        let extra_max = Duration::from_secs(1 << random.below(SLOW_SECONDS_POWER_MAX));
        random.pick(&self.disks).slow_nth(random.below(scale), SLOW_SPELL, extra_max);
    }

    /// Makes one disk stop answering.
    pub(super) fn stall(&self, random: &mut Random) {
        let scale = 1 << random.below(FAULT_AFTER_POWER_MAX);
        let lasts = random.chance(1, 2).then(|| Duration::from_secs(random.between(1, STALL_SECONDS_MAX)));
        random.pick(&self.disks).stall_nth(random.below(scale), lasts);
    }

    /// Flips a bit of a row or footer of some segment.
    pub(super) fn rot(&self, random: &mut Random) {
        let disk = random.pick(&self.disks);
        let files: Vec<(String, u64)> =
            disk.files().into_iter().filter(|(name, _)| name.starts_with("segments/")).collect();
        for _ in 0..FLIP_ATTEMPTS {
            if files.is_empty() {
                return;
            }
            let (name, len) = random.pick(&files);
            // A segment without its header does not open at all, so the header's sector is left alone.
            if *len <= 4096 {
                continue;
            }
            let offset = random.between(4096, len - 1);
            if disk.corrupt(name, offset, random.below(8) as u8) {
                self.flipped.add(name, offset);
                return;
            }
        }
    }

    /// Counts what the disks show of the node's inner life.
    pub(super) fn count_files(&self) {
        for (name, _) in self.disks.iter().flat_map(SimDisk::files) {
            if let Some(sequence) = name.strip_prefix("meta/wal-00-") {
                self.tally.raise("metadata logs begun", u64::from_str_radix(sequence, 16).unwrap_or(0));
            } else if name.starts_with("meta/snapshot-") {
                self.tally.count("snapshots at the end");
            } else if name.starts_with("segments/") {
                self.tally.count("segments at the end");
            }
        }
    }
}
