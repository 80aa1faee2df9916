//! The command line.

use std::path::PathBuf;

use clap::Parser;

/// All seeds passed.
pub(crate) const EXIT_PASSED: u8 = 0;
/// Some seed failed.
pub(crate) const EXIT_FAILED: u8 = 1;
/// The command line makes no sense, or a worker does not start.
pub(crate) const EXIT_USAGE: u8 = 2;
/// All seeds passed, but they prove less than they should: some fault never happened, or some invariant was not checked.
pub(crate) const EXIT_FAULT_MISSING: u8 = 3;
/// A signal ended the run before all seeds were done; those that were passed.
pub(crate) const EXIT_INTERRUPTED: u8 = 130;

/// Seeds if neither a number nor a time is given.
pub(crate) const SEEDS_DEFAULT: u64 = 1000;

/// Run the real node on simulated disks, clocks and tasks, one whole life for each seed, and judge everything it says.
///
/// A seed decides everything that happens: what clients do, what fails, when the process is killed or the power goes.
/// The same seed gives the same run, so whatever fails is replayed by its number.
#[derive(Parser, Debug)]
#[command(
    name = "swarm",
    after_help = "\
Examples:
  swarm --seeds 10000                    seeds 0 to 9999, on all cores
  swarm --first-seed 4711 --seeds 1      replay one seed
  swarm --fresh --seconds 600            ten minutes of seeds that nobody has run before
  swarm --seeds-file chaos/seeds/failed.txt
                                         every seed that ever failed
  swarm --seeds 100 --twice              each seed in two processes: the same trace, byte for byte
  swarm --seeds 2000 --require-all-faults
                                         fail if some kind of fault never happened

Exit codes:
  0    all seeds passed
  1    some seed failed; each was printed with the command that replays it
  2    the command line makes no sense, or a worker process does not start
  3    all seeds passed, but with --require-all-faults some fault never happened, or some invariant was not checked
  130  interrupted (SIGINT, SIGTERM); what was done so far is printed, and all of it passed"
)]
pub(crate) struct Arguments {
    /// How many seeds [default: 1000, or as many as --seconds allows]
    #[arg(long)]
    pub(crate) seeds: Option<u64>,
    /// The first of them
    #[arg(long, default_value_t = 0, value_name = "SEED", conflicts_with_all = ["fresh", "seeds_file"])]
    pub(crate) first_seed: u64,
    /// Begin at a seed taken from the clock, and print it
    #[arg(long, conflicts_with = "seeds_file")]
    pub(crate) fresh: bool,
    /// Run the seeds of a file: one a line, anything may follow it; # begins a comment
    #[arg(long, value_name = "FILE", conflicts_with = "seeds")]
    pub(crate) seeds_file: Option<PathBuf>,
    /// Begin no seed after so many seconds
    #[arg(long, value_name = "N")]
    pub(crate) seconds: Option<u64>,
    /// Worker processes at a time [default: the number of cores]
    #[arg(long, value_name = "N")]
    pub(crate) jobs: Option<usize>,
    /// Run every seed in two processes and compare the hashes of their traces
    #[arg(long)]
    pub(crate) twice: bool,
    /// Print the hash of each seed's trace
    #[arg(long)]
    pub(crate) trace_hash: bool,
    /// Fail if some kind of fault never happened, or some invariant was never checked
    #[arg(long)]
    pub(crate) require_all_faults: bool,
    /// Print the summary as JSON on stdout; everything else goes to stderr
    #[arg(long)]
    pub(crate) json: bool,
    /// Kill a worker that takes longer over one seed, and report the seed as failed
    #[arg(long, default_value_t = 120, value_name = "SECONDS")]
    pub(crate) hang_seconds: u64,
    /// Take seeds on stdin and tell on stdout what came of them
    #[arg(long, hide = true)]
    pub(crate) worker: bool,
    #[cfg(feature = "planted-bugs")]
    #[command(flatten)]
    pub(crate) planted: crate::planted::PlantedArguments,
}

impl Arguments {
    /// Worker processes at a time.
    pub(crate) fn jobs(&self) -> usize {
        let cores = std::thread::available_parallelism().map_or(1, usize::from);
        self.jobs.unwrap_or(cores).max(1)
    }

    /// The name of the bug that is planted.
    #[cfg(feature = "planted-bugs")]
    pub(crate) fn bug(&self) -> Option<&'static str> {
        self.planted.bug.map(|bug| bug.name())
    }

    /// The name of the bug that is planted: this build has none.
    #[cfg(not(feature = "planted-bugs"))]
    pub(crate) fn bug(&self) -> Option<&'static str> {
        None
    }
}
