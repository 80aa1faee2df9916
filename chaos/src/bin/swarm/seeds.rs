//! Which seed comes next: shared among the jobs, so that none is idle while another has seeds left.

use std::path::Path;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use crate::arguments::{Arguments, SEEDS_DEFAULT};

/// Where the seeds come from.
enum Source {
    Range { next: u64, end: u64 },
    List(std::vec::IntoIter<u64>),
}

/// The seeds of a run.
pub(crate) struct Seeds {
    source: Mutex<Source>,
    /// No seed is begun after this.
    deadline: Option<Instant>,
    /// How many there are, unless time decides.
    pub(crate) total: Option<u64>,
    stopped: AtomicBool,
}

impl Seeds {
    /// The seeds that the arguments ask for; tells those that the clock chose.
    ///
    /// Errors: a file that is not there, or holds something else.
    pub(crate) fn of(arguments: &Arguments, started: Instant) -> Result<Seeds, String> {
        let (source, total) = match &arguments.seeds_file {
            Some(file) => {
                let seeds = read_seeds(file)?;
                let total = seeds.len() as u64;
                (Source::List(seeds.into_iter()), Some(total))
            }
            None => {
                let first = if arguments.fresh { seed_of_the_clock() } else { arguments.first_seed };
                if arguments.fresh {
                    eprintln!("first seed: {first}");
                }
                let total = arguments.seeds.or(arguments.seconds.is_none().then_some(SEEDS_DEFAULT));
                (Source::Range { next: first, end: total.map_or(u64::MAX, |total| first.saturating_add(total)) }, total)
            }
        };
        let deadline = arguments.seconds.map(|seconds| started + Duration::from_secs(seconds));
        Ok(Seeds { source: Mutex::new(source), deadline, total, stopped: AtomicBool::new(false) })
    }

    /// The next seed; `None` at the end.
    #[expect(clippy::disallowed_methods, reason = "a run is limited by real time")]
    pub(crate) fn next(&self) -> Option<u64> {
        let late = self.deadline.is_some_and(|deadline| Instant::now() >= deadline);
        if late || self.stopped.load(Ordering::Relaxed) {
            return None;
        }
        match &mut *self.source.lock().expect("invariant: nobody panics over a seed") {
            Source::Range { next, end } => (*next < *end).then(|| {
                *next += 1;
                *next - 1
            }),
            Source::List(seeds) => seeds.next(),
        }
    }

    /// Gives out no more.
    pub(crate) fn stop(&self) {
        self.stopped.store(true, Ordering::Relaxed);
    }
}

/// Milliseconds since 1970: short enough to type, and never the same twice.
#[expect(clippy::disallowed_methods, reason = "fresh seeds come from the clock")]
fn seed_of_the_clock() -> u64 {
    let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
    since.map_or(0, |since| since.as_millis() as u64)
}

fn read_seeds(file: &Path) -> Result<Vec<u64>, String> {
    let text = std::fs::read_to_string(file).map_err(|error| format!("{}: {error}", file.display()))?;
    parse_seeds(&text).map_err(|line| format!("{}: no seed in the line {line:?}", file.display()))
}

/// The first word of each line that is not empty or a comment. Errors: the first line without a number.
fn parse_seeds(text: &str) -> Result<Vec<u64>, String> {
    let lines = text.lines().map(str::trim).filter(|line| !line.is_empty() && !line.starts_with('#'));
    let seed = |line: &str| line.split_whitespace().next().and_then(|word| word.parse().ok());
    lines.map(|line| seed(line).ok_or_else(|| line.to_owned())).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_begin_with_a_seed_and_comments_are_passed_over() {
        assert_eq!(parse_seeds("# found\n\n12  a torn footer\n 7\n"), Ok(vec![12, 7]));
        assert_eq!(parse_seeds("1\nseed 2"), Err("seed 2".to_owned()));
    }
}
