//! A short run of nemesis, and proof that it would notice.
//!
//! `DFS_SEED` and `DFS_NEMESIS_SECONDS` repeat or lengthen the run; without FUSE it says which faults were skipped, and
//! with `DFS_REQUIRE_MOUNTS` set it fails.

#[path = "../../../tools/tests/binary/mod.rs"]
mod binary;
mod uploads;

use std::collections::BTreeSet;
use std::time::Duration;

use binary::binary;
use chaos::nemesis::{FaultKind, NemesisError, Options, any_number, run};
use tempfile::TempDir;

/// How long the run takes unless `DFS_NEMESIS_SECONDS` says otherwise.
const SECONDS: u64 = 60;

/// The number in the environment variable `name`, or else `default`.
fn number(name: &str, default: impl FnOnce() -> u64) -> u64 {
    match std::env::var(name) {
        Ok(text) => text.parse().unwrap_or_else(|_| panic!("{name} is {text:?}, not a number")),
        Err(_) => default(),
    }
}

/// The seed of a test, printed.
fn seed(test: &str) -> u64 {
    let seed = number("DFS_SEED", || any_number() >> 16);
    println!("{test}: DFS_SEED={seed}");
    seed
}

fn options(seed: u64, time: Duration, directory: &TempDir) -> Options {
    Options {
        seed,
        time,
        directory: directory.path().canonicalize().unwrap(),
        dfsd: binary("dfsd"),
        faults: FaultKind::ALL.to_vec(),
        disk_lies: false,
        progress: |line| println!("{line}"),
    }
}

#[test]
fn nothing_acknowledged_is_lost_whatever_happens_to_the_server() {
    let directory = tempfile::tempdir().unwrap();
    let seconds = number("DFS_NEMESIS_SECONDS", || SECONDS);
    let options = options(seed("nemesis"), Duration::from_secs(seconds), &directory);
    let report = run(&options).unwrap();
    println!("{report}");
    if report.violation.is_some() {
        panic!("kept in {}", directory.keep().display());
    }
    assert!(std::env::var_os("DFS_REQUIRE_MOUNTS").is_none() || report.skipped.is_empty(), "{:?}", report.skipped);
    // A run that met nothing proves nothing.
    let met: BTreeSet<FaultKind> = report.faults.keys().copied().collect();
    assert!(met.len() >= 4 && report.acknowledged > 0 && report.verified_files > 0, "{report}");
    assert!(report.open > 0 && report.interrupted_starts > 0, "{report}");
    assert!(report.collections > 0 && report.expired_files > 0 && report.space.0 > report.space.1, "{report}");
}

#[test]
fn a_disk_that_lies_about_syncs_is_a_violation() {
    let directory = tempfile::tempdir().unwrap();
    let honest = options(seed("lies"), Duration::from_secs(300), &directory);
    let report = match run(&Options { faults: vec![FaultKind::Power], disk_lies: true, ..honest }) {
        Err(NemesisError::NoFaults(reason)) if std::env::var_os("DFS_REQUIRE_MOUNTS").is_none() => {
            eprintln!("SKIPPED, nothing was tested: {reason}");
            return;
        }
        done => done.unwrap(),
    };
    assert!(report.violation.is_some(), "{report}");
    assert_eq!(report.kept.as_deref(), Some(&*directory.path().canonicalize().unwrap()));
}
