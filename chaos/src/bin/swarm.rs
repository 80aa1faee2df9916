//! Runs seeds by the thousand, in worker processes of its own, and reports those that fail.
//!
//! A worker that dies (a panic aborts in release builds) costs the seed it was at, which is reported with what it wrote
//! last; another worker goes on behind it.

use std::collections::BTreeMap;
use std::io::Write;
use std::process::{Command, ExitCode, Stdio};
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};

use chaos::harness::{Settings, run_seed};
use chaos::sim::Tracer;
use clap::Parser;

/// Seeds that one worker process runs.
const WORKER_SEEDS: u64 = 50;

/// Run the simulator over many seeds.
#[derive(Parser)]
struct Arguments {
    /// How many seeds.
    #[arg(long, default_value_t = 1000)]
    seeds: u64,
    /// The first of them.
    #[arg(long, default_value_t = 0)]
    first_seed: u64,
    /// Worker processes at a time.
    #[arg(long, default_value_t = 2)]
    jobs: u64,
    /// Run the seeds in this process and report in lines for the supervisor.
    #[arg(long, hide = true)]
    worker: bool,
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    if arguments.worker { work(&arguments) } else { supervise(&arguments) }
}

/// Runs seeds one by one. Lines: `seed N`, then `count NAME N` and `done`, or `failed` and what went wrong on stderr.
fn work(arguments: &Arguments) -> ExitCode {
    std::panic::set_hook(Box::new(|panic| {
        let tail = Tracer::published().map(|tracer| tracer.tail()).unwrap_or_default();
        eprintln!("{panic}\nlast events:\n{tail}");
    }));
    let mut out = std::io::stdout().lock();
    for seed in arguments.first_seed..arguments.first_seed + arguments.seeds {
        writeln!(out, "seed {seed}").expect("the supervisor listens");
        let report = run_seed(seed, Settings::default());
        for (name, count) in &report.counts {
            writeln!(out, "count {count} {name}").expect("the supervisor listens");
        }
        if let Some(failure) = &report.failure {
            eprintln!("{failure}");
            return ExitCode::FAILURE;
        }
        writeln!(out, "done").expect("the supervisor listens");
    }
    ExitCode::SUCCESS
}

/// What all workers have done.
#[derive(Default)]
struct Summary {
    seeds: u64,
    failed: Vec<u64>,
    counts: BTreeMap<String, u64>,
}

#[expect(clippy::disallowed_methods, reason = "the supervisor measures real time")]
fn supervise(arguments: &Arguments) -> ExitCode {
    let started = std::time::Instant::now();
    let next = AtomicU64::new(arguments.first_seed);
    let end = arguments.first_seed + arguments.seeds;
    let summary = Mutex::new(Summary::default());
    std::thread::scope(|scope| {
        for _ in 0..arguments.jobs.max(1) {
            scope.spawn(|| {
                loop {
                    let first = next.fetch_add(WORKER_SEEDS, Ordering::Relaxed);
                    if first >= end {
                        break;
                    }
                    run_range(first, end.min(first + WORKER_SEEDS), &summary);
                }
            });
        }
    });
    let summary = summary.into_inner().expect("no thread panicked");
    let seconds = started.elapsed().as_secs_f64();
    println!("{} seeds in {seconds:.1} s, {:.1} seeds/s", summary.seeds, summary.seeds as f64 / seconds);
    for (name, count) in &summary.counts {
        println!("{count:>12} {name}");
    }
    if summary.failed.is_empty() {
        return ExitCode::SUCCESS;
    }
    println!("{} FAILED: {:?}", summary.failed.len(), summary.failed);
    ExitCode::FAILURE
}

/// Runs `first..end` in as many worker processes as it takes.
fn run_range(mut first: u64, end: u64, summary: &Mutex<Summary>) {
    while first < end {
        let program = std::env::current_exe().expect("the path of this program");
        let range = ["--first-seed".to_owned(), first.to_string(), "--seeds".to_owned(), (end - first).to_string()];
        let worker = Command::new(program).arg("--worker").args(range).stdin(Stdio::null()).output();
        let worker = worker.expect("a worker process starts");
        let mut summary = summary.lock().expect("no thread panicked");
        let mut last = first;
        for line in String::from_utf8_lossy(&worker.stdout).lines() {
            match line.split_once(' ') {
                Some(("seed", seed)) => last = seed.parse().unwrap_or(last),
                Some(("count", rest)) => {
                    let (count, name) = rest.split_once(' ').unwrap_or(("0", rest));
                    *summary.counts.entry(name.to_owned()).or_default() += count.parse::<u64>().unwrap_or(0);
                }
                _ => summary.seeds += u64::from(line == "done"),
            }
        }
        if worker.status.success() {
            return;
        }
        summary.seeds += 1;
        summary.failed.push(last);
        println!("seed {last} FAILED ({}):", worker.status);
        println!("{}", String::from_utf8_lossy(&worker.stderr));
        println!("replay: cargo run --release -p chaos --bin swarm -- --first-seed {last} --seeds 1\n");
        first = last + 1;
    }
}
