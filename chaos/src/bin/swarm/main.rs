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
mod seeds;
mod summary;
mod supervisor;
mod worker;

use std::process::ExitCode;

use clap::Parser;

use self::arguments::Arguments;

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    if arguments.worker {
        return worker::serve();
    }
    match supervisor::run(&arguments) {
        Ok(code) => ExitCode::from(code),
        Err(error) => {
            eprintln!("swarm: {error}");
            ExitCode::from(arguments::EXIT_USAGE)
        }
    }
}
