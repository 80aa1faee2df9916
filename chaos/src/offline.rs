//! The offline check on the simulated disks: it finds nothing where nothing was damaged, and what it calls lost is what
//! reads could not return.

use std::collections::BTreeMap;
use std::ops::Range;

use node::fsck::{self, CheckOptions, ProblemKind, Report, Severity};

use crate::harness::{Fault, World};
use crate::oracle::{Violation, violation};
use crate::sim::Simulation;

/// Problems that a message shows.
const PROBLEMS_SHOWN: usize = 5;

/// Checks the disks, which nobody uses.
///
/// With rot everything must have been read, and nothing changed, since the rot began to rest.
///
/// # Errors
/// [`Violation`] if the check and what happened contradict each other.
pub fn check(simulation: &mut Simulation, world: &World, options: CheckOptions) -> Result<(), Violation> {
    let checked = simulation.run(fsck::check(world.disks().to_vec(), world.keys(), options));
    let report = checked.map_err(|stuck| violation!("{stuck}"))?;
    world.tally.count(&format!("offline checks, {options:?}").to_lowercase());
    if world.fault == Fault::Rot {
        return compare(world, &report);
    }
    if report.worst() > Some(Severity::Info) {
        return Err(violation!("nothing was damaged, yet the offline check reports:{}", shown(&report)));
    }
    Ok(())
}

/// Compares what was lost with what was read.
fn compare(world: &World, report: &Report) -> Result<(), Violation> {
    let mut lost: BTreeMap<(&str, u64), Vec<Range<u64>>> = BTreeMap::new();
    for problem in report.problems.iter().filter(|problem| problem.kind == ProblemKind::DataLost) {
        let (Some(path), Some(version), Some(range)) = (&problem.path, problem.version, &problem.range) else {
            return Err(violation!("lost bytes of no file: {problem:?}"));
        };
        lost.entry((path, version)).or_default().push(range.clone());
    }
    for ((path, version), damaged) in &*world.read.borrow() {
        let lost = lost.get(&(path.as_str(), *version));
        let agree = match (damaged, lost) {
            (None, None) => true,
            (Some(damaged), Some(lost)) => lost.iter().any(|lost| lost.start < damaged.end && damaged.start < lost.end),
            _ => false,
        };
        if !agree {
            let shown = shown(report);
            return Err(violation!(
                "of {path} at {version} a read found {damaged:?} damaged, the offline check {lost:?}; it reports:{shown}"
            ));
        }
        world.tally.add("damaged versions that both found", u64::from(damaged.is_some()));
    }
    Ok(())
}

fn shown(report: &Report) -> String {
    let problems = report.problems.iter().filter(|problem| problem.kind.severity() > Severity::Info);
    problems.take(PROBLEMS_SHOWN).map(|problem| format!("\n  {problem:?}")).collect()
}
