//! Sets everything that happens to real servers on a real `dfsd`, and judges it by the oracle of the simulator.

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::Context;
use chaos::nemesis::{FaultKind, Options, any_number, run};
use clap::Parser;

/// A real dfsd under SIGKILL, SIGSTOP, a full disk, clock jumps, failing disks and power losses.
#[derive(Parser)]
#[command(version)]
struct Arguments {
    /// How long; the round under way is finished.
    #[arg(long, default_value_t = 5.0)]
    minutes: f64,
    /// Decides what clients do and which faults come when; drawn and printed if absent.
    #[arg(long)]
    seed: Option<u64>,
    /// Where data and logs lie; kept. A temporary directory if absent, kept only after a violation.
    #[arg(long, value_name = "DIR")]
    data: Option<PathBuf>,
    /// The server; if absent, the one in DFS_BIN_DIR, or else the one beside this program.
    #[arg(long, value_name = "FILE")]
    dfsd: Option<PathBuf>,
    /// Kinds of fault, separated by commas; all if absent.
    #[arg(long, value_delimiter = ',', default_values_t = FaultKind::ALL)]
    faults: Vec<FaultKind>,
    /// Print the report as JSON on standard output; progress goes to standard error in any case.
    #[arg(long)]
    json: bool,
}

fn main() -> anyhow::Result<ExitCode> {
    let arguments = Arguments::parse();
    let beside = || std::env::current_exe().map(|program| program.with_file_name("dfsd"));
    let dfsd = match (arguments.dfsd, std::env::var_os("DFS_BIN_DIR")) {
        (Some(dfsd), _) => dfsd,
        (None, Some(directory)) => PathBuf::from(directory).join("dfsd"),
        (None, None) => beside().context("where this program lies")?,
    };
    let directory = match arguments.data {
        Some(directory) => directory,
        None => std::env::temp_dir().join(format!("nemesis-{}", std::process::id())),
    };
    let is_ours = !directory.exists();
    std::fs::create_dir_all(&directory).with_context(|| format!("making {}", directory.display()))?;
    let directory = directory.canonicalize()?;
    let seed = arguments.seed.unwrap_or_else(|| any_number() >> 16);
    let time = Duration::try_from_secs_f64(60.0 * arguments.minutes).context("--minutes")?;
    eprintln!("nemesis: seed {seed}, {} minutes, in {}", arguments.minutes, directory.display());
    let progress: fn(&str) = |line| eprintln!("{line}");
    let faults = arguments.faults;
    let options = Options { seed, time, directory: directory.clone(), dfsd, faults, disk_lies: false, progress };
    let report = run(&options)?;
    if arguments.json {
        println!("{:#}", report.json());
    } else {
        println!("{report}");
    }
    if report.violation.is_some() {
        return Ok(ExitCode::FAILURE);
    }
    if is_ours {
        std::fs::remove_dir_all(&directory).with_context(|| format!("removing {}", directory.display()))?;
    }
    Ok(ExitCode::SUCCESS)
}
