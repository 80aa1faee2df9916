//! A worker process: runs the seeds that it is given, one after the other.
//!
//! In: a seed a line. Out, for each: `count NUMBER NAME` and `fault NUMBER NAME` lines, then `passed HASH EVENTS`. A seed
//! that fails ends the worker: what went wrong is on stderr, for a panic would end it in the same way.

use std::io::{BufRead, Write};
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use chaos::harness::{Settings, run_seed};
use chaos::sim::Tracer;
use signal_hook::consts::{SIGINT, SIGTERM};

/// Serves until stdin ends.
pub(crate) fn serve() -> ExitCode {
    // A signal to the whole group is the supervisor's to answer: the seed at hand is finished.
    for signal in [SIGINT, SIGTERM] {
        signal_hook::flag::register(signal, Arc::new(AtomicBool::new(false))).expect("a handler for a plain signal");
    }
    std::panic::set_hook(Box::new(|panic| {
        let tail = Tracer::published().map(|tracer| tracer.tail()).unwrap_or_default();
        eprintln!("{panic}\nlast events:\n{tail}");
    }));
    for line in std::io::stdin().lock().lines() {
        let Some(seed) = line.ok().and_then(|line| line.parse().ok()) else { break };
        let report = run_seed(seed, Settings::default());
        if let Some(failure) = &report.failure {
            eprintln!("{failure}");
            return ExitCode::FAILURE;
        }
        let mut lines = String::new();
        report.counts.iter().for_each(|(name, count)| lines += &format!("count {count} {name}\n"));
        report.faults.iter().for_each(|(name, count)| lines += &format!("fault {count} {name}\n"));
        lines += &format!("passed {:016x} {}\n", report.trace_hash, report.events);
        let mut out = std::io::stdout().lock();
        if out.write_all(lines.as_bytes()).and_then(|()| out.flush()).is_err() {
            // The supervisor is gone.
            break;
        }
    }
    ExitCode::SUCCESS
}
