//! The simulator, tested: seeds are run with one known bug at a time until they find it.
//!
//! A bug is *found* by a seed that fails with it and passes without it. Each has a bound of seeds, three times of what was
//! measured or more, so that workload and faults may change; a bug that is not found within its bound shows that they,
//! or the invariants, do not reach it any more.

use std::collections::VecDeque;
use std::fmt;
use std::sync::Mutex;
use std::thread::Scope;
use std::time::Duration;

use proto::planted::Bug;

use crate::arguments::{Arguments, EXIT_FAILED, EXIT_PASSED};
use crate::supervisor::Worker;

/// A reason is shown in lines of so many characters at most, and with a further line if it is shorter than this.
const REASON_LINE_CHARS_MAX: usize = 120;
const REASON_BYTES_MIN: usize = 80;
/// Seeds within which most bugs are found.
const SEEDS_MAX: u64 = 30;

/// Seeds within which a bug must be found, from seed 0 on.
fn seeds_max(bug: Bug) -> u64 {
    match bug {
        Bug::ForgottenWaiter | Bug::IgnoredWriteError | Bug::StopAtBadRow => 60,
        Bug::FooterUnchecked | Bug::UnsettledCovered | Bug::UnsyncedLogTail => 120,
        Bug::LogChecksumSkipped | Bug::SmearedSnapshot => 120,
        Bug::CountedTwice => 160,
        // Of a row the header must arrive, and its payload not.
        Bug::TornPieceBelieved => 400,
        _ => SEEDS_MAX,
    }
}

/// What the command line says of planted bugs.
#[derive(clap::Args, Debug)]
pub(crate) struct PlantedArguments {
    /// Plant this bug in the code under test
    #[arg(long, value_name = "NAME", value_parser = parse)]
    pub(crate) bug: Option<Bug>,
    /// Print which bugs can be planted
    #[arg(long)]
    list_bugs: bool,
    /// Fail unless every bug, or the one given, is found within its bound of seeds
    #[arg(long)]
    prove_bugs: bool,
    /// Seeds within which a bug must be found, instead of its own bound
    #[arg(long, value_name = "SEEDS", requires = "prove_bugs")]
    within: Option<u64>,
}

fn parse(name: &str) -> Result<Bug, String> {
    let found = Bug::ALL.iter().find(|bug| bug.name() == name);
    found.copied().ok_or_else(|| "there is no such bug; --list-bugs names all".to_owned())
}

/// Lists or proves, if that was asked for; returns the exit code.
///
/// Errors: workers do not start.
pub(crate) fn run(arguments: &Arguments) -> Result<Option<u8>, String> {
    let PlantedArguments { bug, list_bugs, prove_bugs, within } = &arguments.planted;
    let bugs = bug.as_ref().map_or(Bug::ALL, std::slice::from_ref);
    if *list_bugs {
        bugs.iter().for_each(|bug| println!("{:<24} {}", bug.name(), bug.description()));
        return Ok(Some(EXIT_PASSED));
    }
    if !prove_bugs {
        return Ok(None);
    }
    println!("{:<24} seeds until it was found, and by what", "bug");
    let waiting: Mutex<VecDeque<Bug>> = Mutex::new(bugs.iter().copied().collect());
    let found = std::thread::scope(|scope| {
        let job = || {
            let mut found = 0;
            let next = || waiting.lock().expect("no thread panicked").pop_front();
            while let Some(bug) = next() {
                let seeds_max = within.unwrap_or(seeds_max(bug));
                let verdict = search(scope, arguments, bug, seeds_max)?;
                println!("{:<24} {verdict}", bug.name());
                found += usize::from(matches!(verdict, Verdict::Found { .. }));
            }
            Ok(found)
        };
        let jobs: Vec<_> = (0..arguments.jobs()).map(|_| scope.spawn(job)).collect();
        let found = jobs.into_iter().map(|job| job.join().expect("no job panics"));
        found.sum::<Result<usize, String>>()
    })?;
    println!("{found} of {} bugs were found", bugs.len());
    Ok(Some(if found == bugs.len() { EXIT_PASSED } else { EXIT_FAILED }))
}

/// What came of the search for a bug.
enum Verdict {
    /// So many seeds were run; the last failed with the bug and passed without it.
    Found { seeds: u64, seeds_max: u64, reason: String },
    /// No seed failed that passes without the bug.
    NotFound { seeds_max: u64 },
}

impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Verdict::Found { seeds, seeds_max, reason } => write!(f, "{seeds:>4} of {seeds_max:>4}  {reason}"),
            Verdict::NotFound { seeds_max } => write!(f, "none of {seeds_max:>4}  NOT FOUND"),
        }
    }
}

/// Runs seeds with `bug` until one fails.
///
/// Errors: the worker does not start.
fn search<'scope>(
    scope: &'scope Scope<'scope, '_>,
    arguments: &Arguments,
    bug: Bug,
    seeds_max: u64,
) -> Result<Verdict, String> {
    let limit = Duration::from_secs(arguments.hang_seconds);
    let start = |bug| Worker::start(scope, bug).map_err(|error| format!("a worker process: {error}"));
    let mut with = start(Some(bug.name()))?;
    for seed in 0..seeds_max {
        let Err(failure) = with.run(seed, limit) else { continue };
        if start(None)?.run(seed, limit).is_ok() {
            return Ok(Verdict::Found { seeds: seed + 1, seeds_max, reason: reason(&failure) });
        }
        println!("{:<24} seed {seed} fails without it as well, and proves nothing", bug.name());
        with = start(Some(bug.name()))?;
    }
    Ok(Verdict::NotFound { seeds_max })
}

/// What a failure begins with, in one line.
fn reason(failure: &str) -> String {
    let mut reason = String::new();
    for line in failure.lines().map(str::trim).filter(|line| !line.is_empty()) {
        if reason.len() >= REASON_BYTES_MIN {
            break;
        }
        reason.push_str(if reason.is_empty() { "" } else { " " });
        reason.extend(line.chars().take(REASON_LINE_CHARS_MAX));
    }
    reason
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_distinct_and_lead_back_to_their_bugs() {
        for bug in Bug::ALL {
            let name = bug.name();
            assert_eq!(parse(name), Ok(*bug));
            assert!(name.bytes().all(|byte| byte.is_ascii_lowercase() || byte == b'-'), "{name}");
            assert!(bug.description().ends_with('.'), "{name}");
        }
        parse("no-such-bug").expect_err("there is none");
    }

    #[test]
    fn a_reason_takes_in_what_a_panic_said_and_is_short() {
        assert_eq!(reason("panicked at a.rs:1:2:\ninvariant: b"), "panicked at a.rs:1:2: invariant: b");
        assert_eq!(reason("\n/f is\n  wrong\n"), "/f is wrong");
        let long = reason(&format!("{}\nlast events:", "x".repeat(1000)));
        assert_eq!(long.len(), REASON_LINE_CHARS_MAX);
    }
}
