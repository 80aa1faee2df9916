//! Retentions for all files, set while clients work.

use std::cell::Cell;
use std::rc::Rc;
use std::time::Duration;

use node::{Condition, Node, Retention, Target};
use proto::path::FsPath;
use proto::port::runtime;

use super::perform::{Outcome, refused};
use crate::harness::World;
use crate::oracle::{Violation, violation};
use crate::sim::{Random, WatchedDisk};

/// The pause before a retention is set is at most two to this power of nanoseconds: from none to as long as many
/// operations take.
const PAUSE_NS_POWER_MAX: u64 = 25;
/// Retentions that are set in one start, at most.
const RETENTIONS_MAX: u64 = 3;
/// A retention keeps so many versions at most: fewer than the files that are put most have.
const KEEP_MAX: u64 = 4;

/// Sets retentions some times, unless the clients end before.
///
/// # Errors
/// [`Violation`] if one is refused without a reason.
pub async fn retain(
    world: Rc<World>,
    nodes: Vec<Node<WatchedDisk>>,
    mut random: Random,
    clients_ended: Rc<Cell<bool>>,
) -> Result<(), Violation> {
    for _ in 0..random.below(RETENTIONS_MAX + 1) {
        let power = random.below(PAUSE_NS_POWER_MAX);
        runtime::sleep(Duration::from_nanos(random.below(1 << power))).await;
        if clients_ended.get() || world.closing.get() {
            break;
        }
        // Sometimes every version stays, with a retention that says so or without any.
        let keep = random.chance(4, 5).then(|| random.between(1, KEEP_MAX) as u32);
        let retention = (keep.is_some() || random.chance(1, 2)).then_some(Retention { keep, keep_for_ns: None });
        let before = world.oracle.borrow_mut().call_retention(keep)?;
        let root = Target::Path(FsPath::root());
        match random.pick(&nodes).set_retention(root, retention, Condition::Any, None).await {
            Ok(_) => {
                world.tally.count("retentions set");
                world.oracle.borrow_mut().saw_retention(keep)?;
            }
            Err(error) => match refused(error) {
                Outcome::TurnedDown(error) => {
                    world.oracle.borrow_mut().refuse_retention(before)?;
                    world.tolerate_refusal(&error)?;
                }
                Outcome::Open(error) => return world.tolerate_refusal(&error),
                other => return Err(violation!("the retention {retention:?} for all files: {other:?}")),
            },
        }
    }
    Ok(())
}
