//! **The offline check is clean after the run**, and after crashes in between: where nothing was damaged it reports
//! nothing but what a crash leaves, and damage it tells as readers met it ([`super::damage`]).
//!
//! How: `dfs fsck`'s own code on the simulated disks while nobody uses them: everything at the end of a seed; after
//! some crashes everything or only what describes the data, by turns. What it counts is the truth for [`super::counters`].
//!
//! What it would miss: what a crash leaves where devices fail, which is looked at only in the end.

use node::fsck::{self, CheckOptions, ProblemKind, Report, Severity};

use super::{Invariant, counters, damage};
use crate::harness::World;
use crate::harness::faults::Excuse;
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
    world.judge.count(Invariant::Fsck, 1);
    if world.excuses(Excuse::DamagedRead) {
        damage::check(world, &report)?;
    } else {
        is_clean(&report, world.excuses(Excuse::SpareSnapshot))?;
    }
    match options {
        CheckOptions::Full => counters::found_at_rest(world, &report.totals),
        // It looks at no payload, so it counts rows that a crash cut short and a start leaves out.
        CheckOptions::Quick => Ok(()),
    }
}

/// With `spare_snapshot` a snapshot that the start did not need may be damaged.
fn is_clean(report: &Report, spare_snapshot: bool) -> Result<(), Violation> {
    let tolerated = |kind: ProblemKind| spare_snapshot && kind == ProblemKind::SnapshotPassedOver;
    if report.counts.keys().any(|kind| kind.severity() > Severity::Info && !tolerated(*kind)) {
        return Err(violation!("nothing was damaged, yet the offline check reports:{}", shown(report)));
    }
    Ok(())
}

/// The first problems, for messages.
pub(super) fn shown(report: &Report) -> String {
    let problems = report.problems.iter().filter(|problem| problem.kind.severity() > Severity::Info);
    problems.take(PROBLEMS_SHOWN).map(|problem| format!("\n  {problem:?}")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use node::fsck::Problem;

    #[test]
    fn what_a_crash_leaves_is_clean_and_a_warning_is_not() {
        let mut report = Report::default();
        assert_eq!(is_clean(&report, false), Ok(()));
        report.add(Problem::new(ProblemKind::TornTail, ""));
        assert_eq!(is_clean(&report, false), Ok(()));
        report.add(Problem::new(ProblemKind::SnapshotPassedOver, "a snapshot"));
        is_clean(&report, false).expect_err("no snapshot was damaged");
        assert_eq!(is_clean(&report, true), Ok(()));
        report.add(Problem::new(ProblemKind::RowDamaged, "a row"));
        let Violation(what) = is_clean(&report, true).expect_err("a warning");
        assert!(what.contains("a row") && !what.contains("TornTail"), "{what}");
    }
}
