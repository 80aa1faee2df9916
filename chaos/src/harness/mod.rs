//! One seed: a node that is started, used, crashed and started again, and judged throughout.
//!
//! ```text
//!   seed ─▶ plan: disks, sizes, clients, faults
//!        ─▶ rounds: open ─▶ check everything ─▶ clients ─▶ close or not        a crash may cut this off anywhere
//!             until clients have done a thousand operations
//!        ─▶ end: faults stop; open, check everything, close; open, check everything
//! ```
//!
//! A start that opens is checked before it is used, so what a crash left is seen whole. A violation, a panic of the
//! code under test, a deadlock and a run without end all fail the seed.
//!
//! * [`plan`]: what is drawn before anything happens.
//! * [`faults`]: what goes wrong besides crashes, and what each of it excuses.
//! * [`world`]: what outlives the node.
//! * `round`: one start of the node.
//! * [`tally`]: counts of what was done.

pub mod faults;
pub mod plan;
mod rest;
mod round;
pub mod tally;
pub mod world;

use std::collections::BTreeMap;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::rc::Rc;

use node::fsck::CheckOptions;

use self::faults::Excuse;
use self::plan::Plan;
use self::round::{Close, Start, round, run};
pub use self::world::{VersionsRead, World};
use crate::invariants::fsck;
use crate::oracle::Violation;
use crate::sim::{Lie, Simulation};

/// Operations that the clients of a seed begin at least, over all its starts.
pub const OPERATIONS_MIN: u64 = 1000;
/// Starts of a seed before the last ones, at least: a seed is about restarts too.
const ROUNDS_MIN: u64 = 3;
/// The same, at most: a node that hardly ever serves ends the seed.
const ROUNDS_MAX: u64 = 100;

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
    /// What was done, by name.
    pub counts: BTreeMap<String, u64>,
    /// How often each fault of [`crate::sim::faults::KINDS`] happened; those that did not are missing.
    pub faults: BTreeMap<&'static str, u64>,
    /// Hash over everything that happened.
    pub trace_hash: u64,
    /// Events in it.
    pub events: u64,
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
    let about = || world.as_ref().map(|world| world.about()).unwrap_or_default();
    let mut report = Report {
        seed,
        failure: failure.map(|what| format!("{what}\nthe seed: {}\nlast events:\n{}", about(), tail.tail())),
        faults: simulation.happened().counts(),
        trace_hash: simulation.trace_hash(),
        events: simulation.trace_events(),
        ..Report::default()
    };
    if let Some(world) = world {
        report.counts = world.tally.counts();
        let checks = world.judge.counts();
        report.counts.extend(checks.map(|(promise, checks)| (format!("checks: {}", promise.name()), checks)));
        report.counts.insert("bytes sent again".to_owned(), world.oracle.borrow().sent_again_bytes());
        report.counts.insert("seals".to_owned(), world.seals().count());
        report.counts.insert(format!("seeds with faults: {}", world.plan.faults), 1);
        report.counts.insert(format!("seeds of scale: {:?}", world.plan.scale).to_lowercase(), 1);
    }
    report.counts.insert("steps".to_owned(), simulation.steps());
    report
}

fn message(panic: &(dyn std::any::Any + Send)) -> String {
    let text = panic.downcast_ref::<String>().map(String::as_str).or_else(|| panic.downcast_ref::<&str>().copied());
    format!("panic: {}", text.unwrap_or("of unknown kind"))
}

fn judge(simulation: &mut Simulation, settings: Settings, shared: &mut Option<Rc<World>>) -> Result<(), Violation> {
    let mut random = simulation.fork_random();
    let plan = Plan::draw(&mut random, settings);
    let world = World::new(simulation, plan);
    *shared = Some(world.clone());
    let rounds_min = random.between(ROUNDS_MIN, 2 * ROUNDS_MIN);
    for done in 0..ROUNDS_MAX {
        if done >= rounds_min && world.tally.operations.get() >= OPERATIONS_MIN {
            break;
        }
        round(simulation, &world, &mut random)?;
    }
    world.clear_faults();
    // What the first of them changes, the second finds.
    for is_first in [true, false] {
        let last = Start {
            random: random.fork(),
            operations: 0,
            close: Close::AtEnd,
            checks_dedup: is_first && !world.excuses(Excuse::SecondCopy),
            expires: is_first && world.plan.retains,
            quick_check: false,
        };
        run(simulation, &world, None, last)?;
    }
    fsck::check(simulation, &world, CheckOptions::Full)?;
    world.count_files();
    Ok(())
}
