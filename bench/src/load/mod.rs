//! Load on a running server: `put`, `get`, `mixed` and `meta`.
//!
//! * [`pace`]: when operations are due. [`mod@drive`]: the threads that perform them. [`tally`]: what came of them.
//! * [`mod@objects`]: files written and read whole. [`names`]: metadata only.

mod drive;
mod names;
mod objects;
mod pace;
mod tally;

#[cfg(test)]
pub(crate) use names::SHARES;

use std::path::PathBuf;
use std::time::Duration;

use anyhow::bail;
use clap::ValueEnum;
use indicatif::ProgressBar;
use proto::limits::INLINE_BYTES_MAX;
use serde::Serialize;

use crate::data::{Kind, Source, files_below};
use crate::latency::Summary;
use crate::load::drive::{Phase, Script, Worker, drive};
use crate::load::names::Names;
use crate::load::objects::{Area, Mix, Objects};
use crate::load::pace::{Limit, Pace};
use crate::load::tally::{KindReport, Tally};
use crate::process::{Memory, own_cpu};
use crate::report::{Printed, Table, print, spinner};
use crate::server::{Server, ServerOptions};
use crate::units::{bytes, duration, human_bytes, human_time};
use crate::{Verdict, clock};

/// Connections that read files are prepared over.
const PREPARE_CONNECTIONS_MAX: usize = 16;
/// Number of the first operation of a warm-up, beyond those that are measured.
const WARMUP_FIRST: u64 = 1 << 48;

/// How much, how fast, and where.
#[derive(clap::Args, Clone, Debug)]
pub(crate) struct LoadOptions {
    /// Operations to measure; 1,000 if neither this nor --duration is given.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    count: Option<u64>,
    /// Measure for so long, such as 10s.
    #[arg(long, value_parser = duration, conflicts_with = "count")]
    duration: Option<Duration>,
    /// Run for so long before measuring.
    #[arg(long, value_parser = duration)]
    warmup: Option<Duration>,
    /// Connections, each with one request at a time.
    #[arg(long, default_value_t = 16, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=4096))]
    concurrency: u16,
    /// Open loop: so many operations start per second, ready or not, and latency counts from the intended start.
    ///
    /// Without it the loop is closed: a connection sends when its last answer is there.
    #[arg(long, value_name = "PER_SECOND", value_parser = rate)]
    rate: Option<f64>,
    /// Directory on the server to work in; it must not exist [default: /dfs-bench-TIME-PID].
    #[arg(long, value_name = "PATH")]
    prefix: Option<String>,
    /// Leave on the server what was written.
    #[arg(long)]
    keep: bool,
    /// Print JSON instead of a table.
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    server: ServerOptions,
}

/// What files hold.
#[derive(clap::Args, Clone, Debug)]
pub(crate) struct ContentOptions {
    /// Bytes of each file, such as 64KiB.
    #[arg(long, default_value = "1MiB", value_parser = bytes)]
    size: u64,
    /// `random` (unique, incompressible), `text` (unique, compressible about 2.5 to 1), or a directory whose files are
    /// used whole and in turn (--size is then ignored).
    #[arg(long, default_value = "random", value_name = "random|text|DIR")]
    data: String,
}

/// Options of `put`.
#[derive(clap::Args, Clone, Debug)]
pub(crate) struct PutOptions {
    #[command(flatten)]
    content: ContentOptions,
    #[command(flatten)]
    load: LoadOptions,
}

/// Options of `get`.
#[derive(clap::Args, Clone, Debug)]
pub(crate) struct GetOptions {
    #[command(flatten)]
    content: ContentOptions,
    /// Files that are written first, to be read in random order.
    #[arg(long, default_value_t = 256, value_parser = clap::value_parser!(u64).range(1..))]
    files: u64,
    #[command(flatten)]
    load: LoadOptions,
}

/// Options of `mixed`.
#[derive(clap::Args, Clone, Debug)]
pub(crate) struct MixedOptions {
    /// Share of the operations that read.
    #[arg(long, default_value_t = 70, value_name = "PERCENT", value_parser = clap::value_parser!(u8).range(0..=100))]
    read_percent: u8,
    #[command(flatten)]
    get: GetOptions,
}

/// Options of `meta`.
#[derive(clap::Args, Clone, Debug)]
pub(crate) struct MetaOptions {
    /// Bytes of each file, up to 4KiB so that they lie with the metadata.
    #[arg(long, default_value = "0", value_parser = bytes)]
    size: u64,
    #[command(flatten)]
    load: LoadOptions,
}

fn rate(text: &str) -> Result<f64, String> {
    let rate = text.parse().ok().filter(|rate: &f64| rate.is_finite() && *rate > 0.0);
    rate.ok_or_else(|| format!("{text:?} is not a number of operations per second above 0"))
}

impl ContentOptions {
    fn source(&self) -> anyhow::Result<Source> {
        if let Ok(kind) = Kind::from_str(&self.data, false) {
            return Ok(Source::Made { kind, bytes: self.size });
        }
        let directory = PathBuf::from(&self.data);
        if !directory.is_dir() {
            bail!("--data {:?} is neither `random` nor `text` nor a directory", self.data);
        }
        let files = files_below(&directory)?;
        if files.is_empty() {
            bail!("there are no files below {}", directory.display());
        }
        Ok(Source::Files(files.into()))
    }
}

impl LoadOptions {
    fn phase(&self, kinds: usize) -> Phase {
        let limit = match (self.count, self.duration) {
            (_, Some(duration)) => Limit::Duration(duration),
            (count, None) => Limit::Count(count.unwrap_or(1_000)),
        };
        let pace = self.rate.map_or(Pace::Closed, |rate| Pace::Open { rate });
        Phase { pace, limit, first: 0, kinds }
    }

    fn root(&self) -> String {
        match &self.prefix {
            Some(prefix) => format!("/{}", prefix.trim_matches('/')),
            None => format!("/dfs-bench-{}-{}", clock::unix_seconds(), std::process::id()),
        }
    }
}

/// What a load did, for people and for programs.
#[derive(Debug, Serialize)]
struct LoadReport {
    command: &'static str,
    concurrency: u16,
    #[serde(skip_serializing_if = "Option::is_none")]
    rate: Option<f64>,
    seconds: f64,
    operations: u64,
    operations_per_s: f64,
    bytes: u64,
    bytes_per_s: f64,
    kinds: Vec<KindReport>,
    /// Of all kinds together.
    latency: Option<Summary>,
    /// The same, corrected for coordinated omission; in a closed loop only, for an open one omits nothing.
    latency_corrected: Option<Summary>,
    /// Answers 429.
    busy: u64,
    failures: std::collections::BTreeMap<String, u64>,
    client_cpu_s: f64,
    server_cpu_s: Option<f64>,
    server_memory: Option<Memory>,
}

/// Measures writes.
pub(crate) fn put(options: &PutOptions) -> anyhow::Result<Verdict> {
    let PutOptions { content, load } = options;
    objects("put", content, load, 0, 0)
}

/// Measures reads.
pub(crate) fn get(options: &GetOptions) -> anyhow::Result<Verdict> {
    let GetOptions { content, files, load } = options;
    objects("get", content, load, 100, *files)
}

/// Measures writes and reads together.
pub(crate) fn mixed(options: &MixedOptions) -> anyhow::Result<Verdict> {
    let GetOptions { content, files, load } = &options.get;
    objects("mixed", content, load, options.read_percent, *files)
}

fn objects(
    command: &'static str,
    content: &ContentOptions,
    load: &LoadOptions,
    read_percent: u8,
    files: u64,
) -> anyhow::Result<Verdict> {
    let source = content.source()?;
    let mix = Mix { root: load.root(), source, read_percent, readable: 0 };
    run(command, load, &objects::KINDS, &mix.root, |server, progress| {
        progress.set_message(format!("writing {files} files to read"));
        let script = |connection| Objects::new(mix.clone(), Area::Readable, connection);
        let mut writers = workers(server, files.min(PREPARE_CONNECTIONS_MAX as u64), script);
        let phase = Phase { pace: Pace::Closed, limit: Limit::Count(files), first: 0, kinds: objects::KINDS.len() };
        let (tally, _) = drive(&mut writers, phase, progress);
        if let Some((reason, count)) = tally.failures().first_key_value() {
            bail!("{count} of the files to read could not be written: {reason}");
        }
        let mix = Mix { readable: files, ..mix.clone() };
        let script = |connection| Objects::new(mix.clone(), Area::Other, connection);
        Ok(workers(server, u64::from(load.concurrency), script))
    })
}

/// Measures metadata alone.
pub(crate) fn meta(options: &MetaOptions) -> anyhow::Result<Verdict> {
    if options.size > INLINE_BYTES_MAX as u64 {
        bail!("--size {} is above {INLINE_BYTES_MAX}: such a file has chunks; measure it with `put`", options.size);
    }
    let source = Source::Made { kind: Kind::Random, bytes: options.size };
    let root = options.load.root();
    run("meta", &options.load, &names::KINDS, &root, |server, _| {
        let script = |connection| Names::new(&root, source.clone(), connection);
        Ok(workers(server, u64::from(options.load.concurrency), script))
    })
}

fn workers<S>(server: &Server, count: u64, script: impl Fn(u64) -> S) -> Vec<Worker<S>> {
    (0..count).map(|connection| Worker { connection: server.connection(), script: script(connection) }).collect()
}

/// Prepares, warms up, measures, cleans up and reports.
fn run<S: Script>(
    command: &'static str,
    options: &LoadOptions,
    kinds: &[&'static str],
    root: &str,
    prepare: impl FnOnce(&Server, &ProgressBar) -> anyhow::Result<Vec<Worker<S>>>,
) -> anyhow::Result<Verdict> {
    let server = options.server.connect()?;
    let progress = spinner();
    let mut workers = prepare(&server, &progress)?;
    let phase = options.phase(kinds.len());
    if let Some(warmup) = options.warmup {
        drive(&mut workers, Phase { limit: Limit::Duration(warmup), first: WARMUP_FIRST, ..phase }, &progress);
    }
    let (client_before, server_before) = (own_cpu(), server.cpu()?);
    let (tally, seconds) = drive(&mut workers, phase, &progress);
    let client_cpu_s = (own_cpu() - client_before).as_secs_f64();
    let server_cpu_s = server.cpu()?.zip(server_before).map(|(after, before)| (after - before).as_secs_f64());
    let server_memory = server.memory()?;
    drop(workers);
    if !options.keep {
        progress.set_message("removing what was written");
        progress.tick();
        if let Err(error) = server.remove_tree(root) {
            // What was measured is worth more than a clean server.
            progress.suspend(|| eprintln!("warning: {root} was not removed: {error:#}"));
        }
    }
    progress.finish_and_clear();
    server.finish()?;
    let report = LoadReport {
        command,
        concurrency: options.concurrency,
        rate: options.rate,
        seconds,
        operations: tally.operations(),
        operations_per_s: tally.operations() as f64 / seconds,
        bytes: tally.bytes(),
        bytes_per_s: tally.bytes() as f64 / seconds,
        kinds: tally.reports(kinds, seconds),
        latency: tally.latencies().summary(),
        latency_corrected: match phase.pace {
            Pace::Closed => tally.latencies().corrected().summary(),
            Pace::Open { .. } => None,
        },
        busy: tally.busy(),
        failures: tally.failures().clone(),
        client_cpu_s,
        server_cpu_s,
        server_memory,
    };
    print(&report, options.json)?;
    Ok(verdict(&tally))
}

fn verdict(tally: &Tally) -> Verdict {
    if tally.failures().is_empty() { Verdict::Good } else { Verdict::Failed }
}

impl Printed for LoadReport {
    fn words(&self) -> String {
        let mut table = Table::new(&["operation", "count", "per s", "MB/s", "p50", "p90", "p99", "p99.9", "max"]);
        let mut row = |name: &str, counts: Option<(u64, u64)>, latency: &Option<Summary>| {
            let Some(latency) = latency else { return };
            let counts = counts.map_or_else(Default::default, |(operations, bytes)| {
                let per_second = operations as f64 / self.seconds;
                let mb_per_second = bytes as f64 / self.seconds / 1e6;
                [operations.to_string(), format!("{per_second:.1}"), format!("{mb_per_second:.1}")]
            });
            table.row([name.to_owned()].into_iter().chain(counts).chain(quantiles(latency)));
        };
        for kind in &self.kinds {
            row(kind.operation, Some((kind.operations, kind.bytes)), &kind.latency);
        }
        if self.kinds.len() > 1 {
            row("all", Some((self.operations, self.bytes)), &self.latency);
        }
        row("  corrected", None, &self.latency_corrected);
        let mut words = table.to_string();
        let pace = match self.rate {
            Some(rate) => format!("open loop at {rate}/s, latencies from the intended start"),
            None => "closed loop; `corrected` is what a steady pace would have seen".to_owned(),
        };
        words += &format!("\n{} connections, {:.1} s, {pace}\n", self.concurrency, self.seconds);
        words += &format!("CPU: client {:.2} s", self.client_cpu_s);
        if let Some(server_cpu_s) = self.server_cpu_s {
            let each = human_time(server_cpu_s / self.operations.max(1) as f64);
            words += &format!(", server {server_cpu_s:.2} s ({each} per operation");
            if self.bytes / self.operations.max(1) > INLINE_BYTES_MAX as u64 {
                words += &format!(", {:.2} s per GB", server_cpu_s / (self.bytes as f64 / 1e9));
            }
            words.push(')');
        }
        if let Some(memory) = self.server_memory {
            words += &format!("; server memory at most {}", human_bytes(memory.resident_bytes_max));
        }
        if self.busy > 0 {
            words += &format!("\n429 busy: {} answers", self.busy);
        }
        for (reason, count) in &self.failures {
            words += &format!("\nfailed: {count} × {reason}");
        }
        words
    }
}

fn quantiles(latency: &Summary) -> [String; 5] {
    [latency.p50_s, latency.p90_s, latency.p99_s, latency.p99_9_s, latency.max_s].map(human_time)
}
