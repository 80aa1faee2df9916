//! Clients over a wire: that they meet everything they are there for.

use std::collections::BTreeMap;

use chaos::harness::{Settings, run_seed};
use chaos::sim::faults::KINDS;

/// Seeds that are run at most; one in three has remote clients.
const SEEDS: u64 = 60;
/// What must have happened to remote clients.
const WANTED: [&str; 4] = [
    "remote answers",
    "remote calls without an answer",
    "remote calls cut off by a restart",
    "remote requests made anew",
];

#[test]
fn remote_clients_lose_calls_to_the_wire_and_to_restarts_and_the_judge_agrees_with_what_they_are_told() {
    let mut happened: BTreeMap<String, u64> = BTreeMap::new();
    let wanted = || WANTED.iter().chain(KINDS.iter().filter(|kind| kind.starts_with("wire: ")));
    for seed in 30_000..30_000 + SEEDS {
        let report = run_seed(seed, Settings::default());
        assert_eq!(report.failure, None, "seed {seed}");
        let faults = report.faults.into_iter().map(|(kind, times)| (kind.to_owned(), times));
        report.counts.into_iter().chain(faults).for_each(|(name, times)| *happened.entry(name).or_default() += times);
        if wanted().all(|name| happened.get(*name).is_some_and(|times| *times > 0)) {
            return;
        }
    }
    let missing: Vec<_> = wanted().filter(|name| !happened.contains_key(**name)).collect();
    panic!("in {SEEDS} seeds nothing of this happened: {missing:?}");
}
