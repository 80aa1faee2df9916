//! One seed: a node that is started, used, crashed and started again, and judged throughout.
//!
//! ```text
//!   seed ─▶ plan: disks, clients, faults
//!        ─▶ rounds: open ─▶ check everything ─▶ clients ─▶ close or not        a crash may cut this off anywhere
//!        ─▶ end: faults stop; open, check everything, close; open, check everything
//! ```
//!
//! A start that opens is checked before it is used, so what a crash left is seen whole. A violation, a panic of the
//! code under test, a deadlock and a run without end all fail the seed.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::ops::Range;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use node::fsck::CheckOptions;
use node::{FileReadError, Node, NodeOptions, OpenReport};
use proto::limits::MANIFEST_PAGE_ENTRIES_MAX;
use proto::port::runtime;

use crate::invariants::nonces::{Seals, WatchedKeys};
use crate::invariants::reachable::Extent;
use crate::invariants::{self, Closed, Judge, fsck, nonces};
use crate::oracle::{Oracle, Violation, violation};
use crate::sim::{Crash, DiskOptions, Lie, Operation, Outcome, Random, SimDisk, Simulation, completion};
use crate::verify;
use crate::workload::{self, Client};

/// Bytes of one piece of a segment: small, so that a run fills several.
const PIECE_BYTES: u64 = 8 << 20;
/// Crash points lie around two to some power of steps: opening takes tens to hundreds, a whole start some thousands.
const CRASH_STEPS_POWER_MIN: u64 = 4;
const CRASH_STEPS_POWER_MAX: u64 = 12;
/// How long after the clients begin a node may be closed under them.
const CLOSE_AFTER_MAX: Duration = Duration::from_millis(60);
/// Completed operations of one kind before an injected error, at most.
const FAULT_AFTER_MAX: u64 = 120;
/// Cores of a start, at most.
const CORES_MAX: u64 = 3;
/// One crash in so many is followed by an offline check.
const QUICK_CHECK_ONE_IN: u64 = 3;
/// Tries to hit a byte that holds data.
const FLIP_ATTEMPTS: usize = 20;

/// What goes wrong besides crashes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Fault {
    /// Nothing.
    None,
    /// Bits of segment files flip at rest.
    Rot,
    /// The disks are small.
    Full,
    /// Operations fail.
    Io,
}

/// How seeds are run.
#[derive(Clone, Copy, Debug, Default)]
pub struct Settings {
    /// What the disks lie about; the harness must notice.
    pub lie: Lie,
}

/// What came of a seed.
#[derive(Clone, Debug, Default)]
pub struct Report {
    /// The seed.
    pub seed: u64,
    /// What went wrong, with the last events.
    pub failure: Option<String>,
    /// Counts by name, for the summary.
    pub counts: BTreeMap<String, u64>,
    /// Hash over everything that happened.
    pub trace_hash: u64,
    /// Events in it.
    pub events: u64,
}

/// Counters of a seed.
#[derive(Default)]
pub struct Tally {
    /// Actions that clients took, reads included.
    pub operations: Cell<u64>,
    /// Changes that were answered.
    pub answered: Cell<u64>,
    others: RefCell<BTreeMap<String, u64>>,
}

impl Tally {
    /// Counts one more of something.
    pub fn count(&self, what: &str) {
        self.add(what, 1);
    }

    /// Counts some more of something.
    pub fn add(&self, what: &str, more: u64) {
        *self.others.borrow_mut().entry(what.to_owned()).or_default() += more;
    }
}

/// The path and version of each file, and which of its bytes were damaged.
pub type VersionsRead = BTreeMap<(String, u64), Option<Range<u64>>>;

/// What outlives the node: disks, keys, clients and the judge.
pub struct World {
    /// What may go wrong.
    pub fault: Fault,
    /// The judge.
    pub oracle: RefCell<Oracle>,
    /// The clients.
    pub clients: Vec<Client>,
    /// What happened.
    pub tally: Tally,
    /// How often each promise was checked.
    pub judge: Judge,
    /// Whether the node is being closed under its clients.
    pub closing: Cell<bool>,
    phase: Cell<Phase>,
    faults_ended: Cell<bool>,
    disks: Vec<SimDisk>,
    capacity_bytes: u64,
    key: [u8; 32],
    seals: Arc<Seals>,
    snapshot_after_wal_bytes: u64,
    checkpoint_after_chunks: u64,
    /// Entries of a manifest page; few, so that small files have trees.
    pub manifest_page_entries: usize,
    /// What the last full check read.
    pub read: RefCell<VersionsRead>,
    /// Whether a start ever succeeded: before, the disks may hold part of a node.
    started: Cell<bool>,
    /// Digest of the metadata at the last clean close, until something may have changed it.
    closed: Cell<Option<u128>>,
}

impl World {
    /// A change was turned down or left open: that needs a reason.
    ///
    /// # Errors
    /// [`Violation`] if there is none.
    pub fn tolerate_refusal(&self, error: &str) -> Result<(), Violation> {
        if self.closing.get() {
            self.tally.count("refused while closing");
            return Ok(());
        }
        match self.fault {
            Fault::Full => self.tally.count("refused for want of space"),
            Fault::Io => self.tally.count("refused for an I/O error"),
            Fault::None | Fault::Rot => return Err(violation!("nothing went wrong, yet: {error}")),
        }
        Ok(())
    }

    /// A read of `range` of a file failed: that needs a reason.
    ///
    /// # Errors
    /// [`Violation`] if there is none, or the message names another file or range.
    pub fn tolerate_read_error(&self, at: &str, range: &Range<u64>, error: &FileReadError) -> Result<(), Violation> {
        let (path, bad, fault) = match error {
            FileReadError::Damaged { path, range, .. } => (path, range, Fault::Rot),
            FileReadError::Device { path, range, .. } => (path, range, Fault::Io),
            FileReadError::Refused(refused) => return Err(violation!("{at} was open, yet: {refused}")),
        };
        let overlaps = bad.start < range.end && range.start < bad.end;
        if path != at || !overlaps || self.fault != fault {
            return Err(violation!("a read of {at} bytes {range:?}: {error}"));
        }
        self.tally.count(if fault == Fault::Rot { "damaged reads" } else { "failed reads" });
        Ok(())
    }

    /// What the seed is about, for messages.
    fn about(&self) -> String {
        let files = |disk: &SimDisk| format!("\n  {:?}", disk.files());
        let (fault, clients) = (self.fault, self.clients.len());
        let disks: String = self.disks.iter().map(files).collect();
        format!("fault {fault:?}, {clients} clients, disks of {} bytes with these files:{disks}", self.capacity_bytes)
    }

    /// Opens the node on some number of cores, which may differ from that of the start before.
    async fn open(&self, random: &mut Random) -> Result<(Vec<Node<SimDisk>>, OpenReport), node::OpenError> {
        let mut disks = self.disks.clone();
        // Data directories may be given in any order.
        let first = random.below(disks.len() as u64) as usize;
        disks.rotate_left(first);
        let cores = random.between(1, CORES_MAX) as usize;
        self.tally.count(&format!("starts on {cores} cores"));
        Node::open_cores(|| self.options(disks.clone()), cores).await
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

    /// The ring keys.
    #[must_use]
    pub fn keys(&self) -> Arc<WatchedKeys> {
        Arc::new(WatchedKeys::new(self.key, self.seals.clone()))
    }

    fn options(&self, disks: Vec<SimDisk>) -> NodeOptions<SimDisk> {
        NodeOptions {
            piece_bytes: PIECE_BYTES,
            snapshot_after_wal_bytes: self.snapshot_after_wal_bytes,
            checkpoint_after_chunks: self.checkpoint_after_chunks,
            manifest_page_entries: self.manifest_page_entries,
            ..NodeOptions::new(disks, self.keys())
        }
    }

    /// Ends what goes wrong: errors stop, and full disks are enlarged.
    fn clear_faults(&self) {
        for disk in &self.disks {
            disk.clear_faults();
            disk.resize(DiskOptions::default().capacity_bytes);
        }
    }

    /// The node did not open: that needs a reason.
    fn tolerate_failed_start(&self, error: &node::OpenError) -> Result<(), Violation> {
        let tolerated = match self.fault {
            Fault::Io => true,
            // A start gives back before it takes.
            Fault::None | Fault::Rot | Fault::Full => false,
        };
        if !tolerated || self.faults_ended.get() {
            return Err(violation!("the node does not open: {error}"));
        }
        self.tally.count("failed starts");
        Ok(())
    }

    /// Counts what the disks show of the node's inner life.
    fn count_files(&self) {
        let mut others = self.tally.others.borrow_mut();
        for (name, _) in self.disks.iter().flat_map(SimDisk::files) {
            let what = if let Some(sequence) = name.strip_prefix("meta/wal-00-") {
                let begun = others.entry("metadata logs begun".to_owned()).or_default();
                *begun = u64::from_str_radix(sequence, 16).unwrap_or(0).max(*begun);
                continue;
            } else if name.starts_with("meta/snapshot-") {
                "snapshots at the end"
            } else if name.starts_with("segments/") {
                "segments at the end"
            } else {
                continue;
            };
            *others.entry(what.to_owned()).or_default() += 1;
        }
    }

    /// Makes one later operation of one disk fail.
    fn inject_error(&self, random: &mut Random) {
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
        random.pick(&self.disks).fail_nth(kind, random.below(FAULT_AFTER_MAX));
        self.tally.count("I/O errors armed");
    }

    /// Flips a bit of a row or footer of some segment.
    fn rot(&self, random: &mut Random) {
        let disk = random.pick(&self.disks);
        let files: Vec<(String, u64)> =
            disk.files().into_iter().filter(|(name, _)| name.starts_with("segments/")).collect();
        for _ in 0..FLIP_ATTEMPTS {
            if files.is_empty() {
                return;
            }
            let (name, len) = random.pick(&files);
            // A segment without its header does not open at all, so the header's sector is left alone.
            if *len > 4096 && disk.corrupt(name, random.between(4096, len - 1), random.below(8) as u8) {
                self.tally.count("bits flipped");
                return;
            }
        }
    }
}

/// One start of the node.
struct Start {
    random: Random,
    operations: u64,
    close: Close,
    /// Whether the store-once check is made.
    checks_dedup: bool,
    /// Whether the disks are checked offline if a crash ends it.
    quick_check: bool,
}

/// When the node is closed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Close {
    Never,
    AtEnd,
    UnderLoad,
}

/// What the node is at: where a crash meets it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    Opening,
    Checking,
    Serving,
    Closing,
}

/// Opens the node, checks it, uses it, and perhaps closes it.
async fn start(world: Rc<World>, mut start: Start) -> Result<(), Violation> {
    let random = &mut start.random;
    let (nodes, report) = match world.open(random).await {
        Ok(opened) => opened,
        Err(error) => return world.tolerate_failed_start(&error),
    };
    world.tally.count("starts");
    if report.checkpoint_chunks > 0 {
        world.tally.count("starts from an index checkpoint");
    }
    if report.warnings.iter().any(|warning| warning.contains("passed over")) {
        world.tally.count("index checkpoints passed over");
    }
    world.started.set(true);
    let node = &nodes[0];
    world.phase.set(Phase::Checking);
    if let Some(digest) = world.closed.take() {
        // A seal that a device refused is made up for by the next start.
        if world.fault != Fault::Io && node.metadata_digest().await != digest {
            return Err(violation!("the metadata differs from that at the clean close before"));
        }
        if world.fault == Fault::None && !report.warnings.is_empty() {
            return Err(violation!("warnings after a clean close: {:?}", report.warnings));
        }
    }
    let core = random.pick(&nodes).clone();
    verify::everything(&world, &core, random).await?;
    if start.checks_dedup {
        verify::stores_once(&world, &nodes, random).await?;
    }
    world.phase.set(Phase::Serving);
    let mut clients = Vec::new();
    for number in 0..world.clients.len() {
        let (ended, end) = completion::completion();
        let run = workload::run(world.clone(), nodes.clone(), number, random.fork(), start.operations);
        runtime::spawn(async move { ended.complete(run.await) });
        clients.push(end);
    }
    let mut closed = None;
    if start.close == Close::UnderLoad {
        let after = Duration::from_nanos(random.below(CLOSE_AFTER_MAX.as_nanos() as u64));
        runtime::sleep(after).await;
        world.phase.set(Phase::Closing);
        world.closing.set(true);
        closed = Some(node.close().await);
    }
    for client in clients {
        client.await?;
    }
    if start.close == Close::AtEnd {
        world.phase.set(Phase::Closing);
        closed = Some(node.close().await);
    }
    let was_closed = if matches!(closed, Some(Ok(()))) { Closed::Clean } else { Closed::No };
    match closed {
        Some(Ok(())) => {
            world.tally.count("clean closes");
            world.closed.set(Some(node.metadata_digest().await));
        }
        Some(Err(error)) => world.tolerate_refusal(&format!("close: {error}"))?,
        None => {}
    }
    // A disk that does not tell its free space was armed to fail.
    if let Ok(stats) = node.stats().await {
        world.tally.add("index checkpoints taken", stats.index_checkpoints);
        world.tally.add("index checkpoints failed", stats.index_checkpoints_failed);
    }
    invariants::served(&world, &nodes, was_closed).await
}

/// Runs one seed.
#[must_use]
pub fn run_seed(seed: u64, settings: Settings) -> Report {
    let mut simulation = Simulation::new(seed);
    let tail = simulation.tracer();
    tail.publish();
    let mut world = None;
    let judged = catch_unwind(AssertUnwindSafe(|| judge(&mut simulation, settings, &mut world)));
    let failure = match judged {
        Ok(Ok(())) => None,
        Ok(Err(Violation(what))) => Some(what),
        Err(panic) => Some(message(&*panic)),
    };
    let about = world.as_ref().map(|world| world.about()).unwrap_or_default();
    let mut report = Report {
        seed,
        failure: failure.map(|what| format!("{what}\nthe seed: {about}\nlast events:\n{}", tail.tail())),
        trace_hash: simulation.trace_hash(),
        events: simulation.trace_events(),
        ..Report::default()
    };
    if let Some(world) = world {
        report.counts = world.tally.others.take();
        report.counts.insert("operations".to_owned(), world.tally.operations.get());
        report.counts.insert("answered changes".to_owned(), world.tally.answered.get());
        let checks = world.judge.counts();
        report.counts.extend(checks.map(|(promise, checks)| (format!("checks: {}", promise.name()), checks)));
        report.counts.insert("seals".to_owned(), world.seals.count());
        report.counts.insert(format!("seeds with fault {:?}", world.fault), 1);
    }
    report.counts.insert("steps".to_owned(), simulation.steps());
    report
}

fn message(panic: &(dyn std::any::Any + Send)) -> String {
    let text = panic.downcast_ref::<String>().map(String::as_str).or_else(|| panic.downcast_ref::<&str>().copied());
    format!("panic: {}", text.unwrap_or("of unknown kind"))
}

/// Draws what a seed is about.
fn plan(simulation: &mut Simulation, random: &mut Random, settings: Settings) -> World {
    let fault = match random.below(20) {
        _ if settings.lie != Lie::Nothing => Fault::None,
        0..=10 => Fault::None,
        11..=13 => Fault::Rot,
        14..=16 => Fault::Full,
        _ => Fault::Io,
    };
    let capacity_bytes = match fault {
        // From no room for a second metadata log to room for a handful of segments.
        Fault::Full => *random.pick(&[5, 9, 30, 40, 50, 72, 90, 110, 130]) << 20,
        _ => DiskOptions::default().capacity_bytes,
    };
    let disks = random.between(1, 3);
    let options = DiskOptions { capacity_bytes, lie: settings.lie, ..DiskOptions::default() };
    let disks: Vec<SimDisk> = (0..disks).map(|_| simulation.add_disk(options)).collect();
    let mut key = [0; 32];
    random.fill(&mut key);
    World {
        fault,
        oracle: RefCell::new(Oracle::new()),
        clients: (0..random.between(1, 4)).map(Client::new).collect(),
        tally: Tally::default(),
        judge: Judge::default(),
        closing: Cell::new(false),
        phase: Cell::new(Phase::Opening),
        faults_ended: Cell::new(false),
        disks,
        capacity_bytes,
        key,
        seals: Arc::default(),
        snapshot_after_wal_bytes: *random.pick(&[16 << 10, 64 << 10, 256 << 10, 64 << 20]),
        checkpoint_after_chunks: *random.pick(&[1, 8, 64, 64 << 10]),
        manifest_page_entries: *random.pick(&[3, 8, MANIFEST_PAGE_ENTRIES_MAX]),
        read: RefCell::default(),
        started: Cell::new(false),
        closed: Cell::new(None),
    }
}

fn judge(simulation: &mut Simulation, settings: Settings, shared: &mut Option<Rc<World>>) -> Result<(), Violation> {
    let mut random = simulation.fork_random();
    let world = Rc::new(plan(simulation, &mut random, settings));
    *shared = Some(world.clone());
    for _ in 0..random.between(3, 7) {
        round(simulation, &world, &mut random)?;
    }
    world.clear_faults();
    world.faults_ended.set(true);
    for checks_dedup in [world.fault == Fault::None, false] {
        let last =
            Start { random: random.fork(), operations: 0, close: Close::AtEnd, checks_dedup, quick_check: false };
        run(simulation, &world, None, last)?;
    }
    fsck::check(simulation, &world, CheckOptions::Full)?;
    world.count_files();
    Ok(())
}

/// One start, with faults and perhaps a crash.
fn round(simulation: &mut Simulation, world: &Rc<World>, random: &mut Random) -> Result<(), Violation> {
    match world.fault {
        Fault::Io if random.chance(3, 4) => world.inject_error(random),
        Fault::Rot => (0..random.below(4)).for_each(|_| world.rot(random)),
        _ => {}
    }
    let close = match random.below(10) {
        0..=4 => Close::AtEnd,
        5 | 6 => Close::UnderLoad,
        _ => Close::Never,
    };
    let crash = random.chance(3, 4).then(|| {
        let scale = 1 << random.between(CRASH_STEPS_POWER_MIN, CRASH_STEPS_POWER_MAX);
        (scale + random.below(scale), if random.chance(1, 2) { Crash::Power } else { Crash::Process })
    });
    let quick_check = random.chance(1, QUICK_CHECK_ONE_IN);
    let next =
        Start { random: random.fork(), operations: random.between(3, 50), close, checks_dedup: false, quick_check };
    run(simulation, world, crash, next)?;
    if random.chance(1, 4) {
        // The process had ended, one way or the other; now the power goes.
        world.tally.count("power losses at rest");
        let lost = simulation.run_until(0, Crash::Power, async {});
        lost.map_err(|stuck| violation!("{stuck}"))?;
        world.judge.power_lost();
    }
    Ok(())
}

fn run(
    simulation: &mut Simulation,
    world: &Rc<World>,
    crash: Option<(u64, Crash)>,
    next: Start,
) -> Result<(), Violation> {
    let (steps, how) = crash.unwrap_or((u64::MAX, Crash::Process));
    let quick_check = next.quick_check;
    world.closing.set(false);
    world.phase.set(Phase::Opening);
    let main = start(world.clone(), next);
    match simulation.run_until(steps, how, main).map_err(|stuck| violation!("{stuck}"))? {
        Outcome::Finished(ended) => ended?,
        Outcome::Crashed => {
            world.tally.count(match how {
                Crash::Process => "process crashes",
                Crash::Power => "power losses",
            });
            world.tally.count(&format!("crashes while {:?}", world.phase.get()).to_lowercase());
            // Errors that are armed would meet the check, and rot may have come since the files were read.
            if world.started.get() && matches!(world.fault, Fault::None | Fault::Full) && quick_check {
                fsck::check(simulation, world, CheckOptions::Quick)?;
            }
        }
    }
    world.oracle.borrow_mut().crash()?;
    nonces::check(world)
}
