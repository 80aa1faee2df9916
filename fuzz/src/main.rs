//! Runs targets for some time, or a kept input again.

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use clap::Parser;
use fuzz::harness::{Run, judge};
use fuzz::{Target, target, targets};

/// Cases between two looks at the clock.
const BATCH_CASES: u64 = 16;

/// Hostile bytes for every decoder of DFS. The same seed draws the same inputs.
#[derive(Parser)]
#[command(name = "fuzz")]
struct Arguments {
    /// Targets; all of them if none is named.
    names: Vec<String>,
    /// First seed.
    #[arg(long, default_value_t = 0)]
    seed: u64,
    /// Seconds for each target.
    #[arg(long, default_value_t = 2)]
    seconds: u64,
    /// Where inputs that fail are written.
    #[arg(long, default_value = "target/fuzz")]
    failures: PathBuf,
    /// Hand this file to each named target instead.
    #[arg(long, value_name = "FILE", conflicts_with = "case")]
    replay: Option<PathBuf>,
    /// Run only this case of the seed: what FAILURES/TARGET.under-way says after a hang or an abort.
    #[arg(long)]
    case: Option<u64>,
    /// Name all targets.
    #[arg(long)]
    list: bool,
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let mut chosen = Vec::new();
    for name in &arguments.names {
        let Some(target) = target(name) else {
            eprintln!("error: there is no target {name:?}; --list names them");
            return ExitCode::from(2);
        };
        chosen.push(target);
    }
    if chosen.is_empty() {
        chosen = targets::all();
    }
    if arguments.list {
        chosen.iter().for_each(|target| println!("{}", target.name));
        return ExitCode::SUCCESS;
    }
    let mut failed = false;
    for target in &chosen {
        match run(target, &arguments) {
            Ok(done) => println!("{:18} {done}", target.name),
            Err(what) => {
                eprintln!("FAILED {what}");
                failed = true;
            }
        }
    }
    if failed { ExitCode::FAILURE } else { ExitCode::SUCCESS }
}

#[expect(clippy::disallowed_methods, reason = "how long to go on is the only thing that the clock decides")]
fn run(target: &Target, arguments: &Arguments) -> Result<String, String> {
    if let Some(file) = &arguments.replay {
        let input = std::fs::read(file).map_err(|error| format!("{}: {error}", file.display()))?;
        return judge(target, &input)
            .map(|()| "passed".to_owned())
            .map_err(|fault| format!("{}: {fault}", target.name));
    }
    let mut run = Run::begin(target, arguments.seed, &arguments.failures).map_err(|failure| failure.to_string())?;
    if let Some(case) = arguments.case {
        let input = run.input(case);
        return judge(target, &input)
            .map(|()| "passed".to_owned())
            .map_err(|fault| format!("{}: {fault}", target.name));
    }
    let (begun, mut cases) = (Instant::now(), 0);
    while begun.elapsed() < Duration::from_secs(arguments.seconds) {
        run.go_on(BATCH_CASES).map_err(|failure| failure.to_string())?;
        cases += BATCH_CASES;
    }
    Ok(format!("{cases} cases of seed {} passed", arguments.seed))
}
