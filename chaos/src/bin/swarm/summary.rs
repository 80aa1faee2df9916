//! What a person, or a script, is told.

use std::collections::BTreeMap;
use std::io::{IsTerminal, Write};
use std::time::{Duration, Instant};

use chaos::sim::faults::KINDS;

use crate::arguments::{Arguments, EXIT_FAILED, EXIT_FAULT_MISSING, EXIT_PASSED};
use crate::supervisor::Ended;

/// How often the line of progress changes on a terminal, and how often one is added elsewhere.
const TERMINAL_EVERY: Duration = Duration::from_millis(250);
const LOG_EVERY: Duration = Duration::from_secs(10);

/// How the counts of the checks of invariants begin; a seed tells them even if they are zero.
const CHECKS: &str = "checks: ";

/// What all workers have done.
#[derive(Default)]
pub(crate) struct Summary {
    seeds: u64,
    failed: Vec<u64>,
    counts: BTreeMap<String, u64>,
    faults: BTreeMap<String, u64>,
    /// Operations of the seed that had fewest.
    operations_min: Option<u64>,
    /// Whether whoever read along has gone.
    unheard: bool,
}

impl Summary {
    /// Adds a seed; a failure is told at once.
    pub(crate) fn add(&mut self, ended: Ended, arguments: &Arguments) {
        let Ended { seed, outcome } = ended;
        self.seeds += 1;
        match outcome {
            Ok(passed) => {
                if arguments.trace_hash {
                    self.tell(arguments, &format!("seed {seed} trace {}", passed.trace));
                }
                let operations = passed.counts.iter().find(|(name, _)| name == "operations").map(|(_, count)| *count);
                self.operations_min = self.operations_min.into_iter().chain(operations).min();
                for (sums, counts) in [(&mut self.counts, passed.counts), (&mut self.faults, passed.faults)] {
                    counts.into_iter().for_each(|(name, count)| *sums.entry(name).or_default() += count);
                }
            }
            Err(what) => {
                self.failed.push(seed);
                self.tell(arguments, &format!("seed {seed} FAILED: {what}\nreplay: {}\n", replay(arguments, seed)));
            }
        }
    }

    /// Prints at once: on stdout, unless that is for JSON.
    fn tell(&mut self, arguments: &Arguments, text: &str) {
        let (mut out, mut err) = (std::io::stdout(), std::io::stderr());
        let told = if arguments.json { writeln!(err, "{text}") } else { writeln!(out, "{text}") };
        self.unheard |= told.is_err();
    }

    /// Whether whoever read along has gone, as `head` does: there is nobody to go on for.
    pub(crate) fn is_unheard(&self) -> bool {
        self.unheard
    }

    /// Prints everything; returns the exit code.
    pub(crate) fn print(&self, arguments: &Arguments, elapsed: Duration) -> u8 {
        let missing: Vec<&str> = KINDS.iter().copied().filter(|kind| !self.faults.contains_key(*kind)).collect();
        let unchecked: Vec<&str> = self
            .counts
            .iter()
            .filter(|(_, count)| **count == 0)
            .map(|(name, _)| name.as_str())
            .filter(|name| name.starts_with(CHECKS))
            .collect();
        let missing = [missing, unchecked].concat();
        let text = match arguments.json {
            true => format!("{:#}\n", self.json(arguments, &missing, elapsed)),
            false => self.text(arguments, &missing, elapsed),
        };
        // The exit code tells those who have gone.
        std::io::stdout().write_all(text.as_bytes()).ok();
        if !self.failed.is_empty() {
            return EXIT_FAILED;
        }
        if arguments.require_all_faults && !missing.is_empty() { EXIT_FAULT_MISSING } else { EXIT_PASSED }
    }

    fn operations_mean(&self) -> f64 {
        let passed = self.seeds - self.failed.len() as u64;
        self.counts.get("operations").copied().unwrap_or(0) as f64 / passed.max(1) as f64
    }

    fn json(&self, arguments: &Arguments, missing: &[&str], elapsed: Duration) -> serde_json::Value {
        serde_json::json!({
            "seeds": self.seeds,
            "seconds": elapsed.as_secs_f64(),
            "seeds_per_second": self.seeds as f64 / elapsed.as_secs_f64(),
            "operations_mean": self.operations_mean(),
            "operations_min": self.operations_min,
            "failed": self.failed,
            "replay": self.failed.iter().map(|seed| replay(arguments, *seed)).collect::<Vec<_>>(),
            "faults": self.faults,
            "missing": missing,
            "counts": self.counts,
        })
    }

    fn text(&self, arguments: &Arguments, missing: &[&str], elapsed: Duration) -> String {
        let seconds = elapsed.as_secs_f64();
        let (mean, min) = (self.operations_mean(), self.operations_min.unwrap_or(0));
        let mut lines = vec![
            format!("{} seeds in {seconds:.1} s, {:.1} seeds/s", self.seeds, self.seeds as f64 / seconds),
            format!("operations of a seed: {mean:.0} in the mean, {min} at least"),
            "what was done:".to_owned(),
        ];
        lines.extend(self.counts.iter().map(|(name, count)| format!("{count:>12} {name}")));
        lines.push("what went wrong, as it should:".to_owned());
        lines.extend(self.faults.iter().map(|(name, count)| format!("{count:>12} {name}")));
        lines.extend(missing.iter().map(|name| format!("       NEVER {name}")));
        if !self.failed.is_empty() {
            lines.push(format!("{} FAILED:", self.failed.len()));
            lines.extend(self.failed.iter().map(|seed| format!("  {}", replay(arguments, *seed))));
        }
        lines.join("\n") + "\n"
    }
}

/// The command that runs a seed again.
fn replay(arguments: &Arguments, seed: u64) -> String {
    let seed = format!("--first-seed {seed} --seeds 1");
    match arguments.bug() {
        None => format!("cargo run --release -p chaos --bin swarm -- {seed}"),
        Some(bug) => format!("cargo run --release -p chaos --features planted-bugs --bin swarm -- {seed} --bug {bug}"),
    }
}

/// A line on stderr that says how far the run is.
pub(crate) struct Progress {
    started: Instant,
    total: Option<u64>,
    shown: Instant,
    terminal: bool,
    /// Whether the line is on the screen.
    visible: bool,
}

impl Progress {
    /// Of a run that began at `started`, with `total` seeds unless time decides.
    pub(crate) fn new(started: Instant, total: Option<u64>) -> Progress {
        Progress { started, total, shown: started, terminal: std::io::stderr().is_terminal(), visible: false }
    }

    /// Shows how far the run is, from time to time.
    pub(crate) fn show(&mut self, summary: &Summary, now: Instant) {
        let every = if self.terminal { TERMINAL_EVERY } else { LOG_EVERY };
        if now - self.shown < every {
            return;
        }
        self.shown = now;
        let rate = summary.seeds as f64 / (now - self.started).as_secs_f64();
        let (seeds, failed) = (summary.seeds, summary.failed.len());
        let line = match self.total {
            Some(total) => {
                let left = total.saturating_sub(seeds) as f64 / rate.max(f64::MIN_POSITIVE);
                let left = if seeds == 0 { "?".to_owned() } else { format!("{left:.0}") };
                format!("{seeds} of {total} seeds, {rate:.1} seeds/s, {failed} failed, {left} s left")
            }
            None => format!("{seeds} seeds, {rate:.1} seeds/s, {failed} failed"),
        };
        if self.terminal {
            // Nothing is lost if nobody sees it.
            write!(std::io::stderr(), "\r\x1b[K{line}").ok();
            self.visible = true;
        } else {
            writeln!(std::io::stderr(), "{line}").ok();
        }
    }

    /// Takes the line off the screen, before something else is printed.
    pub(crate) fn clear(&mut self) {
        if std::mem::take(&mut self.visible) {
            write!(std::io::stderr(), "\r\x1b[K").ok();
        }
    }
}
