//! One start of the node: opened, checked, used, and ended by a close, a crash or neither.

use std::cell::Cell;
use std::rc::Rc;
use std::time::Duration;

use node::fsck::CheckOptions;
use proto::port::runtime;

use super::OPERATIONS_MIN;
use super::faults::{Excuse, Fault};
use super::rest;
use super::world::World;
use crate::invariants::{self, Closed, fsck, nonces, retention};
use crate::oracle::{Violation, violation};
use crate::sim::{Crash, CrashPoint, Outcome, Random, Simulation, completion, faults};
use crate::{verify, workload};

/// Crash points lie around two to some power of steps: opening takes tens to hundreds, an operation some tens.
const CRASH_STEPS_POWER_MIN: u64 = 4;
const CRASH_STEPS_POWER_MAX: u64 = 15;
/// Or around two to some power of nanoseconds: an operation of a disk takes some tens of microseconds or more.
const CRASH_NS_POWER_MIN: u64 = 14;
const CRASH_NS_POWER_MAX: u64 = 28;
/// Operations of all clients in one start.
const ROUND_OPERATIONS_MIN: u64 = 10;
const ROUND_OPERATIONS_MAX: u64 = 500;
/// How long after the clients begin a node may be closed under them.
const CLOSE_AFTER_MAX: Duration = Duration::from_millis(200);
/// One crash in so many is followed by an offline check.
const QUICK_CHECK_ONE_IN: u64 = 3;
/// Where a snapshot lies while it is written.
pub(super) const SNAPSHOT_UNDERWAY: &str = "meta/snapshot.tmp";

/// One start of the node.
pub(super) struct Start {
    pub(super) random: Random,
    /// Operations of all its clients.
    pub(super) operations: u64,
    pub(super) close: Close,
    /// Whether the store-once check is made.
    pub(super) checks_dedup: bool,
    /// Whether all versions go, before the clients come, that no retention keeps.
    pub(super) expires: bool,
    /// Whether the disks are checked offline if a crash ends it.
    pub(super) quick_check: bool,
}

/// When the node is closed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Close {
    Never,
    AtEnd,
    UnderLoad,
}

/// What the node is at: where a crash meets it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Phase {
    Opening,
    Checking,
    Serving,
    Closing,
}

impl Phase {
    /// Name of a crash in this phase.
    fn crash(self) -> &'static str {
        match self {
            Phase::Opening => faults::CRASH_OPENING,
            Phase::Checking => faults::CRASH_CHECKING,
            Phase::Serving => faults::CRASH_SERVING,
            Phase::Closing => faults::CRASH_CLOSING,
        }
    }
}

/// One start, with faults and perhaps a crash.
pub(super) fn round(simulation: &mut Simulation, world: &Rc<World>, random: &mut Random) -> Result<(), Violation> {
    if world.plan.faults.has(Fault::Io) && random.chance(1, 2) {
        world.inject_error(random);
    }
    if world.plan.faults.has(Fault::Full) && world.started.get() {
        world.share_volumes(random);
    }
    if world.plan.faults.has(Fault::Rot) {
        (0..random.below(4)).for_each(|_| world.rot(random));
    }
    if world.plan.faults.has(Fault::Misdirected) && random.chance(1, 2) {
        world.misdirect(random);
    }
    if world.plan.faults.has(Fault::Stale) && random.chance(1, 2) {
        world.make_stale(random);
    }
    if world.plan.faults.has(Fault::Reverted) {
        rest::exchange(simulation, world, random)?;
    }
    if world.plan.faults.has(Fault::MetadataRot) && random.chance(1, 2) {
        rest::rot_metadata(simulation, world, random)?;
    }
    // A disk is either slow or does not answer.
    if world.plan.faults.has(Fault::Stalled) && random.chance(1, 2) {
        world.stall(random);
    } else if world.plan.faults.has(Fault::Slow) && random.chance(1, 2) {
        world.slow_down(random);
    }
    let close = match random.below(10) {
        0..=4 => Close::AtEnd,
        5 | 6 => Close::UnderLoad,
        _ => Close::Never,
    };
    let crash = random.chance(3, 4).then(|| {
        let point = if random.chance(1, 2) {
            let scale = 1 << random.between(CRASH_STEPS_POWER_MIN, CRASH_STEPS_POWER_MAX);
            CrashPoint::Steps(scale + random.below(scale))
        } else {
            let scale = 1 << random.between(CRASH_NS_POWER_MIN, CRASH_NS_POWER_MAX);
            CrashPoint::After(Duration::from_nanos(scale + random.below(scale)))
        };
        (point, if random.chance(1, 2) { Crash::Power } else { Crash::Process })
    });
    let quick_check = random.chance(1, QUICK_CHECK_ONE_IN);
    let left = OPERATIONS_MIN.saturating_sub(world.tally.operations.get());
    let operations = random.between(ROUND_OPERATIONS_MIN, ROUND_OPERATIONS_MAX).min(left.max(ROUND_OPERATIONS_MIN));
    let next = Start { random: random.fork(), operations, close, checks_dedup: false, expires: false, quick_check };
    run(simulation, world, crash, next)?;
    if random.chance(1, 4) {
        // The process had ended, one way or the other; now the power goes.
        world.happened.count(faults::POWER_LOSS_AT_REST);
        let lost = simulation.run_until(0, Crash::Power, async {});
        lost.map_err(|stuck| violation!("{stuck}"))?;
        world.judge.power_lost();
    }
    Ok(())
}

/// Runs one start to its end, or until `crash` after so many steps.
pub(super) fn run(
    simulation: &mut Simulation,
    world: &Rc<World>,
    crash: Option<(CrashPoint, Crash)>,
    next: Start,
) -> Result<(), Violation> {
    let (point, how) = crash.unwrap_or((CrashPoint::Never, Crash::Process));
    let quick_check = next.quick_check;
    world.closing.set(false);
    world.phase.set(Phase::Opening);
    world.writers.borrow_mut().clear();
    let main = start(world.clone(), next);
    let ended = simulation.run_until_watched(point, how, main, || count_crash(world, how));
    world.watched.take();
    match ended.map_err(|stuck| violation!("{stuck}"))? {
        Outcome::Finished(ended) => ended?,
        Outcome::Crashed => {
            if how == Crash::Power {
                world.judge.power_lost();
            }
            if world.started.get() && quick_check && !world.excuses(Excuse::NoQuickCheck) {
                let options =
                    if simulation.steps().is_multiple_of(2) { CheckOptions::Full } else { CheckOptions::Quick };
                fsck::check(simulation, world, options)?;
            }
        }
    }
    world.remote.as_ref().map_or(Ok(()), |remote| remote.check())?;
    world.oracle.borrow_mut().crash()?;
    nonces::check(world)
}

/// Counts what a crash meets, a moment before it takes anything away.
fn count_crash(world: &World, how: Crash) {
    let phase = world.phase.get();
    world.happened.count(phase.crash());
    world.happened.count(match how {
        Crash::Process => faults::PROCESS_CRASH,
        Crash::Power => faults::POWER_LOSS,
    });
    // While the node opens, it may be one that an earlier crash left behind.
    let names = || world.disks().iter().flat_map(|disk| disk.files());
    if phase != Phase::Opening && names().any(|(name, _)| name == SNAPSHOT_UNDERWAY) {
        world.happened.count(faults::CRASH_IN_SNAPSHOT);
    }
    if world.watched.borrow().as_ref().is_some_and(node::Node::takes_index_checkpoint) {
        world.happened.count(faults::CRASH_IN_CHECKPOINT);
    }
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
    world.starts.set(world.starts.get() + 1);
    let node = &nodes[0];
    world.watched.replace(Some(node.clone()));
    world.phase.set(Phase::Checking);
    if let Some(digest) = world.closed.take() {
        if !world.excuses(Excuse::Amendment) && node.metadata_digest().await != digest {
            return Err(violation!("the metadata differs from that at the clean close before"));
        }
        if !world.excuses(Excuse::Warning) && !report.warnings.is_empty() {
            return Err(violation!("warnings after a clean close: {:?}", report.warnings));
        }
    }
    let core = random.pick(&nodes).clone();
    verify::everything(&world, &core, random).await?;
    if start.expires {
        retention::pass(&world, &core).await?;
    }
    if start.checks_dedup {
        verify::stores_once(&world, &nodes, random).await?;
    }
    world.phase.set(Phase::Serving);
    world.operations_left.set(start.operations);
    let mut clients = Vec::new();
    let remote = world.remote.clone().map(|remote| {
        let server = workload::remote::serve(world.clone(), remote.clone(), nodes.clone(), random.fork());
        remote.begin_round();
        (remote, server)
    });
    for number in 0..world.direct_clients() {
        let (ended, end) = completion::completion();
        let run = workload::run(world.clone(), nodes.clone(), number, random.fork());
        runtime::spawn(async move { ended.complete(run.await) });
        clients.push(end);
    }
    let clients_ended = Rc::new(Cell::new(false));
    let collector = world.plan.collects.then(|| {
        let (ended, end) = completion::completion();
        let run = workload::collect(world.clone(), nodes.clone(), random.fork(), clients_ended.clone());
        runtime::spawn(async move { ended.complete(run.await) });
        end
    });
    let retainer = world.plan.retains.then(|| {
        let (ended, end) = completion::completion();
        let run = workload::retain(world.clone(), nodes.clone(), random.fork(), clients_ended.clone());
        runtime::spawn(async move { ended.complete(run.await) });
        end
    });
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
    if let Some((remote, server)) = remote {
        remote.end_round().await;
        server.close().await;
    }
    clients_ended.set(true);
    for end in [collector, retainer].into_iter().flatten() {
        end.await?;
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
