//! Runs seeds of the simulator by the thousand, in worker processes, and reports those that fail.
//!
//! ```text
//!   main ── prints progress, failures, the summary
//!    │  ▲ what came of each seed
//!    ▼  │
//!   one thread for each job ── takes the next seed, hands it to its worker process, waits for what came of it
//!                                a worker that dies (a panic aborts in release builds) or hangs costs only its seed
//! ```

mod arguments;
#[cfg(feature = "planted-bugs")]
mod planted;
mod seeds;
mod summary;
mod supervisor;
mod worker;

use std::process::ExitCode;

use clap::Parser;

use self::arguments::Arguments;
#[cfg(not(feature = "planted-bugs"))]
use self::supervisor::run;

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    if arguments.worker {
        #[cfg(feature = "planted-bugs")]
        let _planted = arguments.planted.bug.map(proto::planted::plant);
        return worker::serve();
    }
    match run(&arguments) {
        Ok(code) => ExitCode::from(code),
        Err(error) => {
            eprintln!("swarm: {error}");
            ExitCode::from(arguments::EXIT_USAGE)
        }
    }
}

/// Runs seeds, or does what else was asked for; returns the exit code.
#[cfg(feature = "planted-bugs")]
fn run(arguments: &Arguments) -> Result<u8, String> {
    planted::run(arguments)?.map_or_else(|| supervisor::run(arguments), Ok)
}
