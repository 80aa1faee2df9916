//! What every engine does to the test file, and how it is measured: the same for all, so that they can be compared.
//!
//! This file is also compiled into the program with the glommio engine (`bench/glommio`), so it imports nothing of this
//! crate.

use std::cell::Cell;
use std::io;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use futures_util::future::join_all;
use hdrhistogram::Histogram;
use rustix::time::{ClockId, clock_gettime};
use serde::{Deserialize, Serialize};

/// What is done to the test file, and where.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Pattern {
    /// Reads of consecutive blocks.
    SeqRead,
    /// Reads of blocks anywhere.
    RandRead,
    /// Writes of consecutive blocks.
    SeqWrite,
    /// Writes of blocks anywhere.
    RandWrite,
    /// Writes of consecutive blocks, each durable (fdatasync) before it counts as done: what a store does.
    DurableWrite,
}

impl Pattern {
    fn is_random(self) -> bool {
        matches!(self, Pattern::RandRead | Pattern::RandWrite)
    }

    fn is_read(self) -> bool {
        matches!(self, Pattern::SeqRead | Pattern::RandRead)
    }
}

/// One measurement.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Job {
    /// The test file; it exists and has `file_bytes`.
    pub(crate) file: PathBuf,
    pub(crate) file_bytes: u64,
    pub(crate) block_bytes: usize,
    /// Operations in flight.
    pub(crate) depth: usize,
    pub(crate) pattern: Pattern,
    pub(crate) duration: Duration,
}

/// What was measured.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Outcome {
    pub(crate) operations: u64,
    pub(crate) seconds: f64,
    /// CPU time of the process, kernel threads that work for it included.
    pub(crate) cpu_seconds: f64,
    pub(crate) p50_s: f64,
    pub(crate) p99_s: f64,
    pub(crate) p99_9_s: f64,
    pub(crate) max_s: f64,
}

/// The test file as an engine opens it, for direct I/O.
pub(crate) trait BlockFile {
    /// Memory of one operation.
    type Buffer;

    /// Memory for a block.
    fn buffer(&self, bytes: usize) -> Self::Buffer;
    /// Reads a block.
    async fn read(&self, buffer: Self::Buffer, offset: u64) -> io::Result<Self::Buffer>;
    /// Writes a block.
    async fn write(&self, buffer: Self::Buffer, offset: u64) -> io::Result<Self::Buffer>;
    /// Writes a block and makes it durable.
    async fn write_durable(&self, buffer: Self::Buffer, offset: u64) -> io::Result<Self::Buffer>;
}

/// Runs `job` on `file`: `depth` lanes, each with one operation in flight, until the time is over.
///
/// Errors: the first that an operation met.
pub(crate) async fn drive<F: BlockFile>(file: &F, job: &Job) -> io::Result<Outcome> {
    let blocks = job.file_bytes / job.block_bytes as u64;
    assert!(blocks > 0 && job.depth > 0, "invariant: the file holds a block");
    let next = Cell::new(0);
    let (start, cpu_start) = (now(), cpu());
    let deadline = start + job.duration;
    let next_block = |random: &mut u64| {
        if job.pattern.is_random() { draw(random) % blocks } else { next.replace(next.get() + 1) % blocks }
    };
    let lanes = (0..job.depth).map(async |lane| {
        let mut latencies = new_histogram();
        let mut buffer = file.buffer(job.block_bytes);
        let mut random = lane as u64;
        let mut begun = now();
        while begun < deadline {
            let offset = next_block(&mut random) * job.block_bytes as u64;
            buffer = match job.pattern {
                Pattern::DurableWrite => file.write_durable(buffer, offset).await?,
                pattern if pattern.is_read() => file.read(buffer, offset).await?,
                _ => file.write(buffer, offset).await?,
            };
            let done = now();
            latencies.saturating_record((done - begun).as_nanos() as u64);
            begun = done;
        }
        io::Result::Ok(latencies)
    });
    let mut latencies = new_histogram();
    for lane in join_all(lanes).await {
        latencies.add(lane?).expect("invariant: all recordings have the same bounds");
    }
    let at = |quantile: f64| latencies.value_at_quantile(quantile) as f64 / 1e9;
    Ok(Outcome {
        operations: latencies.len(),
        seconds: start.elapsed().as_secs_f64(),
        cpu_seconds: (cpu() - cpu_start).as_secs_f64(),
        p50_s: at(0.5),
        p99_s: at(0.99),
        p99_9_s: at(0.999),
        max_s: latencies.max() as f64 / 1e9,
    })
}

/// Latencies of 1 µs to an hour, to three digits.
fn new_histogram() -> Histogram<u64> {
    Histogram::new_with_bounds(1_000, 3_600_000_000_000, 3).expect("invariant: the bounds are sound")
}

#[expect(clippy::disallowed_methods, reason = "a benchmark measures real time")]
fn now() -> Instant {
    Instant::now()
}

fn cpu() -> Duration {
    let time = clock_gettime(ClockId::ProcessCPUTime);
    Duration::new(time.tv_sec.unsigned_abs(), time.tv_nsec as u32)
}

/// SplitMix64.
fn draw(state: &mut u64) -> u64 {
    *state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let mut z = *state;
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}
