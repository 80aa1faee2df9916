//! One case: an input handed to a target, judged. Many cases: a run.
//!
//! A case fails if the target panics, or allocates more than it may. One that does not end, or takes the process with
//! it, cannot be judged from within: before each case its number is written to a file, which names it afterwards, and
//! whoever runs the harness sets the limit of time.

use std::fmt;
use std::fs::{self, File};
use std::io;
use std::os::unix::fs::FileExt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};

use chaos::sim::Random;
use proto::checksum::checksum;

use crate::allocation::peak_bytes;
use crate::{Target, mutate};

/// What went wrong with an input.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Fault {
    /// The target panicked: an assertion of ours or of the code under test.
    Panicked(String),
    /// The target allocated more than its limit for inputs of this length.
    Allocated {
        /// The most bytes that it had.
        bytes: usize,
        /// The most that it may have.
        bytes_max: usize,
    },
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Fault::Panicked(message) => write!(f, "panicked: {message}"),
            Fault::Allocated { bytes, bytes_max } => {
                write!(f, "allocated {bytes} bytes, and may have {bytes_max} for this input")
            }
        }
    }
}

/// Hands `input` to `target`.
///
/// # Errors
/// [`Fault`] if it breaks a rule.
pub fn judge(target: &Target, input: &[u8]) -> Result<(), Fault> {
    let mut outcome = Ok(());
    let bytes = peak_bytes(|| outcome = catch_unwind(AssertUnwindSafe(|| (target.run)(input))));
    if let Err(panic) = outcome {
        let text = panic.downcast_ref::<String>().cloned();
        let text = text.or_else(|| panic.downcast_ref::<&str>().map(|text| (*text).to_owned()));
        return Err(Fault::Panicked(text.unwrap_or_default()));
    }
    let bytes_max = target.memory.bytes_max(input.len());
    if bytes > bytes_max { Err(Fault::Allocated { bytes, bytes_max }) } else { Ok(()) }
}

/// A case that failed.
#[derive(Debug)]
pub struct Failure {
    /// The target.
    pub target: &'static str,
    /// What went wrong.
    pub fault: Fault,
    /// The file that holds the input.
    pub input: PathBuf,
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Failure { target, fault, input } = self;
        write!(f, "{target}: {fault}\n  again: cargo run -p fuzz -- --replay {} {target}", input.display())
    }
}

impl std::error::Error for Failure {}

/// The kept inputs of `target`: each failed once, and none may fail again.
#[must_use]
pub fn regressions(target: &Target) -> Vec<(PathBuf, Vec<u8>)> {
    let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("regressions").join(target.name);
    let Ok(files) = fs::read_dir(&directory) else { return Vec::new() };
    let mut paths: Vec<PathBuf> = files.map(|file| file.expect("the directory can be read").path()).collect();
    paths.sort();
    paths.into_iter().map(|path| (path.clone(), fs::read(path).expect("a kept input can be read"))).collect()
}

/// Cases of one target, drawn from one seed.
pub struct Run<'a> {
    target: &'a Target,
    seed: u64,
    corpus: Vec<Vec<u8>>,
    directory: &'a Path,
    /// Names the case under way.
    under_way: File,
    next: u64,
}

impl<'a> Run<'a> {
    /// Prepares a run whose failures are written to `directory`. Everything in the corpus, and every kept input, must
    /// pass before anything is drawn.
    ///
    /// # Errors
    /// [`Failure`] if one does not.
    ///
    /// # Panics
    /// If `directory` cannot be written to.
    pub fn begin(target: &'a Target, seed: u64, directory: &'a Path) -> Result<Run<'a>, Box<Failure>> {
        let usable = "the directory for failures can be written to";
        fs::create_dir_all(directory).expect(usable);
        let under_way = File::create(directory.join(format!("{}.under-way", target.name))).expect(usable);
        let corpus = (target.corpus)();
        // What a target makes once for all its cases is none of the first one's.
        let _ = catch_unwind(AssertUnwindSafe(|| (target.run)(&[])));
        let run = Run { target, seed, corpus, directory, under_way, next: 0 };
        for input in &run.corpus {
            run.case(input)?;
        }
        for (path, input) in regressions(target) {
            judge(target, &input).map_err(|fault| Failure { target: target.name, fault, input: path })?;
        }
        Ok(run)
    }

    /// Runs the next `cases` cases.
    ///
    /// # Errors
    /// [`Failure`]: the first that failed.
    ///
    /// # Panics
    /// If the directory cannot be written to any more.
    pub fn go_on(&mut self, cases: u64) -> Result<(), Box<Failure>> {
        for case in self.next..self.next + cases {
            let line = format!("--seed {} --case {case:<20}\n", self.seed);
            self.under_way.write_all_at(line.as_bytes(), 0).expect("the file of the case under way can be written");
            self.case(&self.input(case))?;
        }
        self.next += cases;
        Ok(())
    }

    /// The input of a case.
    #[must_use]
    pub fn input(&self, case: u64) -> Vec<u8> {
        let numbers = [checksum(self.target.name.as_bytes()), self.seed, case].map(u64::to_le_bytes).concat();
        mutate::draw(&mut Random::new(checksum(&numbers)), &self.corpus, self.target.input_bytes_max)
    }

    fn case(&self, input: &[u8]) -> Result<(), Box<Failure>> {
        let Err(fault) = judge(self.target, input) else { return Ok(()) };
        let path = keep(self.directory, self.target.name, input).expect("a failing input can be written");
        Err(Box::new(Failure { target: self.target.name, fault, input: path }))
    }
}

impl Drop for Run<'_> {
    fn drop(&mut self) {
        let _ = fs::remove_file(self.directory.join(format!("{}.under-way", self.target.name)));
    }
}

/// Writes an input to a file that is named after it.
fn keep(directory: &Path, target: &str, input: &[u8]) -> io::Result<PathBuf> {
    let path = directory.join(format!("{target}-{:016x}", checksum(input)));
    fs::write(&path, input)?;
    Ok(path)
}
