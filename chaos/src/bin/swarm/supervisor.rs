//! Worker processes, and what is heard of them.

use std::io::{BufRead, BufReader, Read, Write};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{self, Receiver, RecvTimeoutError, Sender};
use std::thread::Scope;
use std::time::{Duration, Instant};

use signal_hook::consts::{SIGINT, SIGTERM};

use crate::arguments::{Arguments, EXIT_INTERRUPTED};
use crate::seeds::Seeds;
use crate::summary::{Progress, Summary};

/// How often signals are looked for.
const TICK: Duration = Duration::from_millis(200);
/// A seed makes and drops many small objects at a time: more of each size than glibc keeps at hand by itself. Other
/// allocators ignore this.
const ALLOCATOR_OPTIONS: &str = "glibc.malloc.tcache_count=127";

/// What came of a seed.
pub(crate) struct Ended {
    pub(crate) seed: u64,
    pub(crate) outcome: Result<Passed, String>,
}

/// A seed that passed.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Passed {
    pub(crate) counts: Vec<(String, u64)>,
    pub(crate) faults: Vec<(String, u64)>,
    /// Hash and number of the events.
    pub(crate) trace: String,
}

/// Runs all seeds; returns the exit code.
///
/// Errors: workers do not start, or there are no seeds.
#[expect(clippy::disallowed_methods, reason = "the supervisor measures real time")]
pub(crate) fn run(arguments: &Arguments) -> Result<u8, String> {
    let started = Instant::now();
    let seeds = Seeds::of(arguments, started)?;
    let interrupted = interrupted()?;
    let mut summary = Summary::default();
    std::thread::scope(|scope| {
        let (tell, ended) = mpsc::channel();
        for _ in 0..arguments.jobs() {
            let (tell, seeds) = (tell.clone(), &seeds);
            scope.spawn(move || run_job(scope, arguments, seeds, &tell));
        }
        drop(tell);
        let mut progress = Progress::new(started, seeds.total);
        loop {
            match ended.recv_timeout(TICK) {
                Ok(ended) => {
                    progress.clear();
                    summary.add(ended?, arguments);
                }
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => break,
            }
            progress.show(&summary, Instant::now());
            if interrupted.load(Ordering::Relaxed) || summary.is_unheard() {
                seeds.stop();
            }
        }
        progress.clear();
        Ok::<(), String>(())
    })?;
    let code = summary.print(arguments, started.elapsed());
    let cut_off = interrupted.load(Ordering::Relaxed) && code == crate::arguments::EXIT_PASSED;
    Ok(if cut_off { EXIT_INTERRUPTED } else { code })
}

/// Becomes true with the first signal; the second ends the process at once.
fn interrupted() -> Result<Arc<AtomicBool>, String> {
    let interrupted = Arc::new(AtomicBool::new(false));
    for signal in [SIGINT, SIGTERM] {
        let code = i32::from(EXIT_INTERRUPTED);
        signal_hook::flag::register_conditional_shutdown(signal, code, interrupted.clone())
            .and_then(|_| signal_hook::flag::register(signal, interrupted.clone()))
            .map_err(|error| format!("signal {signal}: {error}"))?;
    }
    Ok(interrupted)
}

/// Takes seeds for as long as there are any.
fn run_job<'scope>(
    scope: &'scope Scope<'scope, '_>,
    arguments: &Arguments,
    seeds: &Seeds,
    tell: &Sender<Result<Ended, String>>,
) {
    let limit = Duration::from_secs(arguments.hang_seconds);
    let mut workers = [None, None];
    while let Some(seed) = seeds.next() {
        let mut run = |worker: usize| run_seed(scope, arguments.bug(), &mut workers[worker], seed, limit);
        let outcome = run(0).and_then(|first| match first {
            // In another process: whatever differs there must not reach the trace.
            Ok(first) if arguments.twice => Ok(run(1)?.and_then(|second| match first == second {
                true => Ok(first),
                false => Err(format!("two runs differ:\n  {}\n  {}", first.trace, second.trace)),
            })),
            first => Ok(first),
        });
        let failed = outcome.is_err();
        if failed {
            seeds.stop();
        }
        if tell.send(outcome.map(|outcome| Ended { seed, outcome })).is_err() || failed {
            break;
        }
    }
}

/// Runs one seed on a worker, which is started if there is none and given up if the seed fails.
///
/// Errors: the worker does not start.
fn run_seed<'scope>(
    scope: &'scope Scope<'scope, '_>,
    bug: Option<&str>,
    place: &mut Option<Worker>,
    seed: u64,
    limit: Duration,
) -> Result<Result<Passed, String>, String> {
    let mut worker = match place.take() {
        Some(worker) => worker,
        None => Worker::start(scope, bug).map_err(|error| format!("a worker process: {error}"))?,
    };
    let outcome = worker.run(seed, limit);
    if outcome.is_ok() {
        *place = Some(worker);
    }
    Ok(outcome)
}

/// A worker process.
pub(crate) struct Worker {
    process: Child,
    seeds: Option<ChildStdin>,
    lines: Receiver<String>,
    errors: Receiver<String>,
}

impl Worker {
    /// Starts a worker, with a bug in the code under test or without.
    pub(crate) fn start<'scope>(scope: &'scope Scope<'scope, '_>, bug: Option<&str>) -> std::io::Result<Worker> {
        let mut process = Command::new(std::env::current_exe()?)
            .env("GLIBC_TUNABLES", ALLOCATOR_OPTIONS)
            .arg("--worker")
            .args(bug.into_iter().flat_map(|bug| ["--bug", bug]))
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()?;
        let (out, mut err) = (process.stdout.take(), process.stderr.take());
        let (tell_line, lines) = mpsc::channel();
        let (tell_error, errors) = mpsc::channel();
        scope.spawn(move || {
            let lines = out.into_iter().flat_map(|out| BufReader::new(out).lines());
            // Whoever listened has given the worker up.
            lines.map_while(Result::ok).try_for_each(|line| tell_line.send(line)).ok();
        });
        scope.spawn(move || {
            let mut text = Vec::new();
            if let Some(err) = &mut err {
                // What was read before an error is what there is to tell.
                err.read_to_end(&mut text).ok();
            }
            tell_error.send(String::from_utf8_lossy(&text).into_owned()).ok();
        });
        Ok(Worker { seeds: process.stdin.take(), process, lines, errors })
    }

    /// Runs one seed. Errors: what went wrong; the worker is then of no more use.
    #[expect(clippy::disallowed_methods, reason = "a hang is measured in real time")]
    pub(crate) fn run(&mut self, seed: u64, limit: Duration) -> Result<Passed, String> {
        let deadline = Instant::now() + limit;
        if let Some(seeds) = &mut self.seeds {
            // A worker that died before is noticed below.
            writeln!(seeds, "{seed}").ok();
        }
        let mut passed = Passed::default();
        loop {
            let line = match self.lines.recv_timeout(deadline.saturating_duration_since(Instant::now())) {
                Ok(line) => line,
                Err(RecvTimeoutError::Disconnected) => return Err(self.last_words()),
                Err(RecvTimeoutError::Timeout) => {
                    self.process.kill().ok();
                    let words = self.last_words();
                    return Err(format!("it was not done after {} s and was killed\n{words}", limit.as_secs()));
                }
            };
            match line.split_once(' ') {
                Some(("count", rest)) => passed.counts.extend(parse_count(rest)),
                Some(("fault", rest)) => passed.faults.extend(parse_count(rest)),
                Some(("passed", trace)) => {
                    passed.trace = trace.to_owned();
                    return Ok(passed);
                }
                _ => return Err(format!("the worker says {line:?}")),
            }
        }
    }

    /// What a worker that ends, or was killed, wrote to stderr.
    fn last_words(&mut self) -> String {
        let errors = self.errors.recv().unwrap_or_default();
        match self.process.wait() {
            Ok(status) => format!("{}\nthe worker ended: {status}", errors.trim_end()),
            Err(error) => format!("{}\nthe worker: {error}", errors.trim_end()),
        }
    }
}

impl Drop for Worker {
    fn drop(&mut self) {
        // The end of its seeds ends it; if it failed it has ended already.
        self.seeds.take();
        self.process.wait().ok();
    }
}

/// Number and name.
fn parse_count(text: &str) -> Option<(String, u64)> {
    let (count, name) = text.split_once(' ')?;
    Some((name.to_owned(), count.parse().ok()?))
}
