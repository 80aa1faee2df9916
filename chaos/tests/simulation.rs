//! Seeds of the simulator in CI, and the proof that the judge notices what it should.
//!
//! The seeds are split over several tests so that they run side by side. They are few, for this build is slow: `make
//! simulate` runs some hundreds more, optimised.

use chaos::harness::{OPERATIONS_MIN, Report, Settings, run_seed};
use chaos::sim::Lie;

/// Seeds of each test.
const SEEDS: u64 = 8;
/// Seeds within which a lying disk must be caught.
const CAUGHT_WITHIN: u64 = 60;

fn passes(seed: u64) -> Report {
    let report = run_seed(seed, Settings::default());
    if let Some(failure) = &report.failure {
        let replay = "cargo run --release -p chaos --bin swarm -- --seeds 1 --first-seed";
        panic!("seed {seed}: {failure}\nreplay: {replay} {seed}");
    }
    report
}

/// Defines tests that each run their own seeds.
macro_rules! seeds {
    ($($name:ident: $part:literal),* $(,)?) => {
        $(#[test]
        fn $name() {
            let operations = ($part * SEEDS..($part + 1) * SEEDS).map(|seed| passes(seed).counts["operations"]);
            let sum: u64 = operations.sum();
            assert!(sum >= SEEDS * OPERATIONS_MIN, "{sum} operations in {SEEDS} seeds");
        })*
    };
}

seeds!(
    node_keeps_its_promises_0: 0,
    node_keeps_its_promises_1: 1,
    node_keeps_its_promises_2: 2,
    node_keeps_its_promises_3: 3,
    node_keeps_its_promises_4: 4,
    node_keeps_its_promises_5: 5,
    node_keeps_its_promises_6: 6,
    node_keeps_its_promises_7: 7,
);

#[test]
fn the_same_seed_gives_the_same_run() {
    for seed in 10_000..10_004 {
        let (first, second) = (passes(seed), passes(seed));
        assert_eq!((first.trace_hash, first.events), (second.trace_hash, second.events), "seed {seed}");
        assert_eq!((first.counts, first.faults), (second.counts, second.faults), "seed {seed}");
        assert!(first.events > 100, "seed {seed} did something");
    }
}

/// Whether some seed fails on disks that lie like this, which passes on the same disks when they do not.
fn is_caught(lie: Lie) -> bool {
    let fails = |seed: &u64| run_seed(*seed, Settings { lie }).failure.is_some();
    let caught = (20_000..20_000 + CAUGHT_WITHIN).find(fails);
    caught.map(passes).is_some()
}

#[test]
fn a_disk_whose_sync_does_nothing_is_caught() {
    assert!(is_caught(Lie::Sync));
}

#[test]
fn a_disk_whose_durable_writes_are_not_is_caught() {
    assert!(is_caught(Lie::DurableWrite));
}
