//! Garbage collection while clients work: one cycle, or as many as it takes, at random moments.

use std::cell::Cell;
use std::rc::Rc;
use std::time::Duration;

use node::{Collect, CycleReport, Node};
use proto::port::runtime;

use crate::harness::World;
use crate::oracle::Violation;
use crate::sim::{Random, WatchedDisk};

/// The pause before a run is at most two to this power of nanoseconds: from none to as long as many operations take.
const PAUSE_NS_POWER_MAX: u64 = 25;
/// Runs in one start, at most: a disk may keep the clients waiting for minutes.
const RUNS_MAX: u64 = 12;

/// Collects garbage some times, unless the clients end before.
///
/// # Errors
/// [`Violation`] if a cycle ended early without a reason.
pub async fn collect(
    world: Rc<World>,
    nodes: Vec<Node<WatchedDisk>>,
    mut random: Random,
    clients_ended: Rc<Cell<bool>>,
) -> Result<(), Violation> {
    for _ in 0..random.between(1, RUNS_MAX) {
        if clients_ended.get() || world.closing.get() {
            break;
        }
        let power = random.below(PAUSE_NS_POWER_MAX);
        runtime::sleep(Duration::from_nanos(random.below(1 << power))).await;
        let how = if random.chance(1, 4) { Collect::Now } else { Collect::Once };
        match random.pick(&nodes).collect(how).await {
            Ok(report) => count(&world, &report),
            Err(why) => {
                world.tally.count("collections that ended early");
                world.tolerate_unread(&format!("collection: {why}"))?;
            }
        }
    }
    Ok(())
}

fn count(world: &World, report: &CycleReport) {
    world.tally.count("collections");
    world.tally.add("versions expired", report.expired_versions);
    world.tally.add("chunks condemned", report.condemned_chunks);
    world.tally.add("segments freed", report.freed_segments);
    world.tally.add("chunks moved", report.rewritten_chunks);
    world.tally.add("chunks that could not be moved", report.unreadable);
    world.tally.add("references without a chunk", report.missing);
    world.tally.add("stale chunks kept", report.kept);
}
