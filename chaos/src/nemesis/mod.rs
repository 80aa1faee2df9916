//! A real `dfsd` under everything that happens to real servers, judged by the oracle of the simulator.
//!
//! ```text
//!   cargo run --release -p chaos --bin nemesis -- --minutes 15 [--seed 4711] [--faults kill,power,eio]
//! ```
//!
//! Several clients change, read and remove files over HTTP, and garbage is collected all the time; meanwhile the process is killed, stopped and paused, its disk
//! (a [`faultfs`]) fails, fills up, tears, hangs and loses power, and its clock jumps. After every fault:
//!
//! * everything that was acknowledged is there, with the right bytes, attributes and version;
//! * what was under way happened wholly or not at all, what was refused did not happen, and nothing else is visible;
//! * listings are ordered, and the counters agree with what is visible;
//! * versions are there that the retention keeps, and the others go with the next collection of garbage;
//! * a client that repeats its requests across all of it sees each one happen exactly once;
//! * the process serves again, and has never crashed by itself.
//!
//! What happens in one round:
//!
//! ```text
//!   clients at work ─▶ some acknowledgements ─▶ fault ─▶ clients gone ─▶ recovery, perhaps interrupted ─▶ verify
//! ```
//!
//! A store ends with everything removed and collected: then its space has come back.
//!
//! One seed decides what the clients do and which faults come when. How they interleave is the machine's, so the same
//! seed is the same plan, not the same run: what is found here is told apart with the simulator.
//!
//! A reading guide: [`content`], bytes that follow from a seed; [`daemon`], the process; `court`, the oracle for many
//! threads; `speech`, its words in those of HTTP; `writer`, a client; `keeper`, who sets
//! retentions and has garbage collected; `clock`; `verify`, the full check; `round`, one
//! round; [`report`]. A run is here.
//!
//! [`faultfs`]: crate::faultfs

mod clock;
pub mod content;
mod court;
pub mod daemon;
mod fault;
mod keeper;
pub mod report;
mod round;
mod speech;
mod verify;
mod writer;

use std::collections::BTreeMap;
use std::hash::{BuildHasher, Hasher, RandomState};
use std::io;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use self::clock::Clock;
use self::daemon::Site;
pub use self::fault::FaultKind;
use self::report::Report;
use self::round::Stage;
use crate::faultfs::{self, FaultFs};
use crate::oracle::Violation;
use crate::sim::Random;

/// What a fault file system holds at most. It is memory.
const DISK_BYTES: u64 = 3 << 30;
/// A store that leaves less than this is given up for an empty one.
const DISK_FREE_BYTES_MIN: u64 = 3 << 29;
/// A store that has seen so many rounds is given up as well: old ones are big ones, and new ones are cut short too.
const ROUNDS_MAX: u64 = 60;

#[expect(clippy::disallowed_methods, reason = "real processes are measured in real time")]
fn now() -> Instant {
    Instant::now()
}

#[expect(clippy::disallowed_methods, reason = "real processes take real time")]
fn wait(time: Duration) {
    std::thread::sleep(time);
}

/// A number that differs from run to run.
#[must_use]
pub fn any_number() -> u64 {
    RandomState::new().build_hasher().finish()
}

/// What to do.
#[derive(Clone, Debug)]
pub struct Options {
    /// Of every choice.
    pub seed: u64,
    /// How long; the round under way is finished, and there is one at least.
    pub time: Duration,
    /// An existing directory for everything.
    pub directory: PathBuf,
    /// The program `dfsd`.
    pub dfsd: PathBuf,
    /// Kinds of fault; at least one.
    pub faults: Vec<FaultKind>,
    /// Whether the disk lies about syncs: a run that does not fail then would prove nothing.
    pub disk_lies: bool,
    /// Told of each round.
    pub progress: fn(&str),
}

/// Why a run could not even begin.
#[derive(Debug, thiserror::Error)]
pub enum NemesisError {
    /// Correct the path, or build it: `cargo build --release -p server`.
    #[error("there is no dfsd at {0}: build it with `cargo build --release -p server`, or name it with --dfsd")]
    NoServer(PathBuf),
    /// Name more kinds, or run where they are permitted.
    #[error("none of the faults asked for is possible here: {0}")]
    NoFaults(String),
    /// The directory cannot be used.
    #[error("{path}: {source}", path = .path.display())]
    Directory {
        /// Which one.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
}

/// What a store lives on.
struct Ground {
    site: Site,
    disk: Option<FaultFs>,
    clock: Option<Clock>,
}

/// Runs until the time is over or something is wrong.
///
/// # Errors
/// [`NemesisError`] if it cannot begin; what is found later is in the report.
pub fn run(options: &Options) -> Result<Report, NemesisError> {
    if !options.dfsd.is_file() {
        return Err(NemesisError::NoServer(options.dfsd.clone()));
    }
    let (faults, skipped) = permitted(options)?;
    if faults.is_empty() {
        let reasons: Vec<&str> = skipped.values().map(String::as_str).collect();
        return Err(NemesisError::NoFaults(reasons.join("; ")));
    }
    let asked = options.faults.clone();
    let mut report = Report { seed: options.seed, asked, skipped, ..Report::default() };
    let mut random = Random::new(options.seed);
    let start = now();
    while report.violation.is_none() && (report.stores == 0 || start.elapsed() < options.time) {
        let mut ground = prepare(options, &faults)?;
        report.stores += 1;
        let found = live(options, &faults, &mut ground, &mut random.fork(), start, &mut report);
        report.disk_faults += ground.disk.as_ref().map_or(0, FaultFs::struck);
        if let Err(Violation(what)) = found {
            report.violation = Some(format!("{what}\nthe end of the log of dfsd:\n{}", ground.site.log_tail()));
            report.kept = Some(keep(options, ground));
        }
    }
    report.took = start.elapsed();
    Ok(report)
}

/// Which of the faults are possible here, and why the others are not.
fn permitted(options: &Options) -> Result<(Vec<FaultKind>, BTreeMap<FaultKind, String>), NemesisError> {
    let mount_point = mount_point(options)?;
    let fuse = faultfs::mount(&mount_point, DISK_BYTES).err().map(|error| format!("FUSE: {error}"));
    let no_clock = Clock::new(&options.directory).is_none();
    let (mut faults, mut skipped) = (Vec::new(), BTreeMap::new());
    for kind in options.faults.iter().copied() {
        let reason = match (&fuse, kind) {
            (Some(reason), kind) if kind.needs_fuse() => Some(reason.clone()),
            (_, FaultKind::Clock) if no_clock => Some("libfaketime is missing; see tools/install-deps.sh".to_owned()),
            _ => None,
        };
        match reason {
            Some(reason) => drop(skipped.insert(kind, reason)),
            None => faults.push(kind),
        }
    }
    Ok((faults, skipped))
}

fn mount_point(options: &Options) -> Result<PathBuf, NemesisError> {
    let path = options.directory.join("disk");
    match std::fs::create_dir_all(&path) {
        Ok(()) => Ok(path),
        Err(source) => Err(NemesisError::Directory { path, source }),
    }
}

/// An empty store to be.
fn prepare(options: &Options, faults: &[FaultKind]) -> Result<Ground, NemesisError> {
    let disk_path = mount_point(options)?;
    let failed = |source| NemesisError::Directory { path: disk_path.clone(), source };
    let disk = match faults.iter().any(|kind| kind.needs_fuse()) {
        true => {
            let disk = faultfs::mount(&disk_path, DISK_BYTES).map_err(failed)?;
            disk.lie_about_syncs(options.disk_lies);
            Some(disk)
        }
        false => {
            let data = disk_path.join("data");
            match std::fs::remove_dir_all(&data) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(failed(error)),
                _ => None,
            }
        }
    };
    let clock = if faults.contains(&FaultKind::Clock) { Clock::new(&options.directory) } else { None };
    let environment = clock.as_ref().map_or(Ok(Vec::new()), Clock::environment).map_err(failed)?;
    let site = Site::new(&options.dfsd, &disk_path.join("data"), &options.directory.join("log"));
    Ok(Ground { site: site.with_environment(environment), disk, clock })
}

/// The life of one store, round by round.
fn live(
    options: &Options,
    faults: &[FaultKind],
    ground: &mut Ground,
    random: &mut Random,
    start: Instant,
    report: &mut Report,
) -> Result<(), Violation> {
    let rounds = random.between(ROUNDS_MAX / 4, ROUNDS_MAX);
    let mut stage = Stage::new(ground, faults, random.fork());
    for round in 0..rounds {
        let kind = *random.pick(faults);
        let line = stage.round(kind, report)?;
        let seconds = start.elapsed().as_secs();
        (options.progress)(&format!("{seconds:>5} s  store {} round {round:>2}  {line}", report.stores));
        if start.elapsed() >= options.time || stage.free_bytes().is_some_and(|free| free < DISK_FREE_BYTES_MIN) {
            break;
        }
    }
    stage.close(report)
}

/// Copies what is on the disk to where it stays.
fn keep(options: &Options, ground: Ground) -> PathBuf {
    if let Some(disk) = &ground.disk {
        disk.clear_faults();
        disk.set_capacity(u64::MAX);
        let kept = options.directory.join("kept");
        if let Err(error) = copy(disk.path(), &kept) {
            eprintln!("warning: the data cannot be kept in {}: {error}", kept.display());
        }
    }
    options.directory.clone()
}

fn copy(from: &Path, to: &Path) -> io::Result<()> {
    std::fs::create_dir_all(to)?;
    for entry in std::fs::read_dir(from)? {
        let entry = entry?;
        let to = to.join(entry.file_name());
        if entry.file_type()?.is_dir() {
            copy(&entry.path(), &to)?;
        } else {
            std::fs::copy(entry.path(), to)?;
        }
    }
    Ok(())
}
