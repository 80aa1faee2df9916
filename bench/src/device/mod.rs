//! What a disk can do, through the engines that a store could be built on.
//!
//! * [`drive`]: the lanes, the offsets and the clock, the same for every engine.
//! * [`raw`]: our ring. [`executor`]: monoio's own files. glommio: a program of its own, see [`run_glommio`].

mod drive;
mod executor;
mod raw;

use std::fs::File;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::{Context, bail, ensure};
use clap::ValueEnum;
use proto::limits::SECTOR_BYTES;
use rustix::fs::{Advice, fadvise};
use serde::Serialize;

use crate::data::{Kind, generate};
use crate::device::drive::{Job, Outcome, Pattern};
use crate::report::{Printed, Table, print, spinner};
use crate::units::{bytes, duration, human_bytes, human_time};

/// Options of `device`.
#[derive(clap::Args, Clone, Debug)]
pub(crate) struct Options {
    /// Directory on the disk; a test file is made in it and removed again.
    #[arg(long, value_name = "DIR")]
    path: PathBuf,
    /// Engines to compare.
    #[arg(long, value_enum, value_delimiter = ',', default_value = "raw")]
    engine: Vec<Engine>,
    /// Access patterns.
    #[arg(long, value_enum, value_delimiter = ',', default_value = "rand-read,seq-read,seq-write,durable-write")]
    pattern: Vec<Pattern>,
    /// Bytes of one operation, multiples of 4KiB.
    #[arg(long, value_delimiter = ',', value_parser = bytes, default_value = "4KiB,64KiB,1MiB")]
    size: Vec<u64>,
    /// Operations in flight.
    #[arg(long, value_delimiter = ',', default_value = "1,16", value_parser = clap::value_parser!(u16).range(1..=4096))]
    depth: Vec<u16>,
    /// Time of each measurement.
    #[arg(long, value_parser = duration, default_value = "2s")]
    duration: Duration,
    /// Bytes of the test file; more than the memory of the disk's controller.
    #[arg(long, value_parser = bytes, default_value = "1GiB")]
    file_size: u64,
    /// Print JSON instead of a table.
    #[arg(long)]
    json: bool,
}

/// Who performs the operations.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum, Serialize)]
#[serde(rename_all = "lowercase")]
enum Engine {
    /// The storage ring of DFS: registered buffers and files, linked write and sync.
    Raw,
    /// monoio's own file I/O.
    Monoio,
    /// glommio's DMA files; built apart, and started from beside this program.
    Glommio,
}

impl ValueEnum for Pattern {
    fn value_variants<'a>() -> &'a [Pattern] {
        &[Pattern::SeqRead, Pattern::RandRead, Pattern::SeqWrite, Pattern::RandWrite, Pattern::DurableWrite]
    }

    fn to_possible_value(&self) -> Option<clap::builder::PossibleValue> {
        Some(clap::builder::PossibleValue::new(name(*self)))
    }
}

fn name(pattern: Pattern) -> &'static str {
    match pattern {
        Pattern::SeqRead => "seq-read",
        Pattern::RandRead => "rand-read",
        Pattern::SeqWrite => "seq-write",
        Pattern::RandWrite => "rand-write",
        Pattern::DurableWrite => "durable-write",
    }
}

#[derive(Debug, Serialize)]
struct Report {
    measurements: Vec<Measurement>,
}

#[derive(Debug, Serialize)]
struct Measurement {
    engine: Engine,
    pattern: Pattern,
    block_bytes: usize,
    depth: usize,
    #[serde(flatten)]
    outcome: Outcome,
}

/// Measures every combination of what was asked for.
pub(crate) fn run(options: &Options) -> anyhow::Result<()> {
    let mut jobs = Vec::new();
    let test_file = TestFile::make(&options.path, options.file_size)?;
    for pattern in &options.pattern {
        for size in &options.size {
            let block_bytes = usize::try_from(*size)?;
            ensure!(block_bytes > 0 && block_bytes.is_multiple_of(SECTOR_BYTES), "--size: multiples of 4KiB");
            ensure!(*size <= options.file_size, "--size {size} does not fit into --file-size");
            for depth in &options.depth {
                jobs.push(Job {
                    file: test_file.0.clone(),
                    file_bytes: options.file_size,
                    block_bytes,
                    depth: usize::from(*depth),
                    pattern: *pattern,
                    duration: options.duration,
                });
            }
        }
    }
    let mut measurements = Vec::new();
    let progress = spinner();
    for (done, job) in jobs.iter().enumerate() {
        progress.set_message(format!("{} of {} measurements: {}", done + 1, jobs.len(), name(job.pattern)));
        progress.tick();
        // Engines take turns, so that a slow moment of the machine hits all of them.
        for &engine in &options.engine {
            let outcome = match engine {
                Engine::Raw => raw::run(job),
                Engine::Monoio => executor::run(job),
                Engine::Glommio => run_glommio(job),
            };
            let Job { pattern, block_bytes, depth, .. } = *job;
            let outcome = outcome.with_context(|| format!("{engine:?}, {}", name(pattern)))?;
            measurements.push(Measurement { engine, pattern, block_bytes, depth, outcome });
        }
    }
    progress.finish_and_clear();
    print(&Report { measurements }, options.json)
}

/// A file full of data that is not in the page cache; removed when dropped.
struct TestFile(PathBuf);

impl TestFile {
    fn make(directory: &Path, bytes: u64) -> anyhow::Result<TestFile> {
        const BLOCK_BYTES: usize = 1 << 20;
        let file = TestFile(directory.join(format!("dfs-bench-{}", std::process::id())));
        let fill = || {
            let mut out = File::create_new(&file.0)?;
            let block = generate(Kind::Random, 1, BLOCK_BYTES);
            let mut rest = bytes;
            while rest > 0 {
                let taken = rest.min(BLOCK_BYTES as u64);
                out.write_all(&block[..taken as usize])?;
                rest -= taken;
            }
            out.sync_all()?;
            fadvise(&out, 0, None, Advice::DontNeed)?;
            anyhow::Ok(())
        };
        fill().with_context(|| format!("cannot make a test file in {}", directory.display()))?;
        Ok(file)
    }
}

impl Drop for TestFile {
    fn drop(&mut self) {
        if let Err(error) = std::fs::remove_file(&self.0) {
            eprintln!("warning: {} was not removed: {error}", self.0.display());
        }
    }
}

/// Name of the program with the glommio engine.
const GLOMMIO: &str = "dfs-bench-glommio";

/// Hands `job` to the program with the glommio engine.
///
/// It is built apart because one of glommio's dependencies is under a licence that DFS does not ship, and because
/// eighty more crates in everybody's build are a high price for a comparison that few make.
fn run_glommio(job: &Job) -> anyhow::Result<Outcome> {
    let program = std::env::current_exe().context("cannot find this program")?.with_file_name(GLOMMIO);
    if !program.is_file() {
        bail!(
            "the glommio engine is built apart, and {} is not there: run\n  cargo build --release --manifest-path \
             bench/glommio/Cargo.toml --target-dir DIR\nand copy DIR/release/{GLOMMIO} there",
            program.display()
        );
    }
    let output = Command::new(&program)
        .arg(serde_json::to_string(job)?)
        .stderr(Stdio::inherit())
        .output()
        .with_context(|| format!("cannot start {}", program.display()))?;
    ensure!(output.status.success(), "{} failed: {}", program.display(), output.status);
    serde_json::from_slice(&output.stdout).with_context(|| format!("{} is of another version", program.display()))
}

impl Printed for Report {
    fn words(&self) -> String {
        let header = ["pattern", "size", "depth", "engine", "ops/s", "MB/s", "p50", "p99", "p99.9", "max", "CPU/op"];
        let mut table = Table::new(&header);
        for Measurement { engine, pattern, block_bytes, depth, outcome } in &self.measurements {
            let per_second = outcome.operations as f64 / outcome.seconds;
            table.row([
                name(*pattern).to_owned(),
                human_bytes(*block_bytes as u64),
                depth.to_string(),
                format!("{engine:?}").to_lowercase(),
                format!("{per_second:.0}"),
                format!("{:.1}", per_second * *block_bytes as f64 / 1e6),
                human_time(outcome.p50_s),
                human_time(outcome.p99_s),
                human_time(outcome.p99_9_s),
                human_time(outcome.max_s),
                human_time(outcome.cpu_seconds / outcome.operations.max(1) as f64),
            ]);
        }
        table.to_string()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn engines_perform_every_pattern_and_the_test_file_goes() {
        let dir = tempfile::tempdir_in(std::env::current_dir().unwrap()).unwrap();
        let file = TestFile::make(dir.path(), 1 << 20).unwrap();
        for pattern in Pattern::value_variants() {
            let job = Job {
                file: file.0.clone(),
                file_bytes: 1 << 20,
                block_bytes: 64 << 10,
                depth: 3,
                pattern: *pattern,
                duration: Duration::from_millis(20),
            };
            for outcome in [raw::run(&job).unwrap(), executor::run(&job).unwrap()] {
                assert!(outcome.operations >= 3, "{pattern:?}: {outcome:?}");
                assert!(outcome.p50_s > 0.0 && outcome.p50_s <= outcome.max_s, "{pattern:?}: {outcome:?}");
            }
        }
        let left = || std::fs::read_dir(dir.path()).unwrap().count();
        assert_eq!(left(), 1);
        drop(file);
        assert_eq!(left(), 0);
    }
}
