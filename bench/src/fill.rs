//! A data directory with very many chunks, made by the real writer, and how long it then takes to open.
//!
//! The chunks are small (a chunker for tests), so that ten million of them fit a laptop. The directory is an ordinary
//! one: `dfsd serve` opens it with the key file that is made beside the data.

use std::cell::Cell;
use std::fs::{File, OpenOptions, TryLockError};
use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, anyhow, bail};
use chunk::{ChunkerId, KeyRing};
use futures_util::future::try_join_all;
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use node::{Node, NodeOptions, OpenReport, PutOptions};
use nvme::{Ring, RingDisk, RingOptions};
use proto::path::FsPath;
use proto::port::runtime;
use serde::Serialize;

use crate::clock;
use crate::data::{Kind, generate};
use crate::process::{memory_of, own_cpu};
use crate::report::{Printed, print};
use crate::units::{bytes, human_bytes, human_time};

/// Files that are written at the same time, so that one gathers chunks while another waits for its rows.
const WRITERS: u64 = 4;
/// Bytes that a writer makes at once.
const WINDOW_BYTES: usize = 256 << 10;
/// Bytes of one file, after which the next begins.
const FILE_BYTES: u64 = 256 << 20;

/// Options of `fill`.
#[derive(clap::Args, Clone, Debug)]
pub(crate) struct Options {
    /// Data directory; made if it is missing, and never one that a dfsd serves.
    #[arg(long, value_name = "DIR")]
    data: PathBuf,
    /// Distinct chunks that the directory shall hold at least; it gets a few thousand more, those under way.
    #[arg(long, default_value_t = 10_000_000, value_parser = clap::value_parser!(u64).range(1..))]
    chunks: u64,
    /// Size that a fresh directory cuts chunks at, on average: 1KiB (for tests only) or 64KiB (as dfsd does).
    ///
    /// A directory that exists keeps the size it was made with.
    #[arg(long, default_value = "1KiB", value_parser = chunker)]
    chunk_bytes: ChunkerId,
    /// End as kill -9 would: the next start has open segments and a log to replay.
    #[arg(long)]
    no_close: bool,
    /// Write nothing: open what is there, and tell how long it took and how much memory it holds.
    #[arg(long, conflicts_with_all = ["chunks", "chunk_bytes", "no_close"])]
    reopen: bool,
    /// Print JSON instead of words.
    #[arg(long)]
    json: bool,
}

fn chunker(text: &str) -> Result<ChunkerId, String> {
    match bytes(text)? {
        0x400 => Ok(ChunkerId::FASTCDC_1_KIB_FOR_TESTS),
        0x1_0000 => Ok(ChunkerId::FASTCDC_64_KIB),
        _ => Err("chunks are cut at 1KiB or at 64KiB".to_owned()),
    }
}

/// What is in a directory, and what the last step took.
#[derive(Debug, Serialize)]
struct Report {
    step: &'static str,
    seconds: f64,
    cpu_s: f64,
    chunks: u64,
    /// Chunks that this step added.
    chunks_added: u64,
    unique_bytes: u64,
    segments: u64,
    /// Bytes of the segment files and of the metadata.
    disk_bytes: u64,
    index_memory_bytes: u64,
    /// Resident after the step, the whole process.
    resident_bytes: u64,
    resident_bytes_max: u64,
}

/// Fills or opens.
pub(crate) fn run(options: &Options) -> anyhow::Result<()> {
    let _lock = claim(&options.data)?;
    let keys = keys(&options.data)?;
    net::run(None, async || {
        let cpu_before = own_cpu();
        let start = clock::now();
        let (node, _) = open(options, keys).await?;
        if options.reopen {
            let report = report("open", &node, 0, start.elapsed(), own_cpu() - cpu_before).await?;
            return print(&report, options.json);
        }
        let (cpu_before, start) = (own_cpu(), clock::now());
        let before = node.stats().await?.store.chunks;
        fill(&node, options.chunks).await?;
        let report = report("fill", &node, before, start.elapsed(), own_cpu() - cpu_before).await?;
        print(&report, options.json)?;
        if options.no_close {
            std::process::exit(0);
        }
        node.close().await.map_err(|error| anyhow!("{error}"))
    })?
}

/// Takes the data directory for this process, as `dfsd` does.
fn claim(data: &Path) -> anyhow::Result<File> {
    std::fs::create_dir_all(data).with_context(|| format!("cannot make {}", data.display()))?;
    let path = data.join("lock");
    let about = || format!("cannot lock {}", path.display());
    let lock = OpenOptions::new().write(true).create(true).truncate(false).open(&path).with_context(about)?;
    match lock.try_lock() {
        Ok(()) => Ok(lock),
        Err(TryLockError::WouldBlock) => bail!("{} is being served; stop that dfsd first", data.display()),
        Err(TryLockError::Error(error)) => Err(error).with_context(about),
    }
}

/// Reads the key file where `dfsd` looks for it, or makes one for a directory that holds nothing yet.
fn keys(data: &Path) -> anyhow::Result<KeyRing> {
    let path = data.join("keys");
    let about = || path.display().to_string();
    if !path.try_exists().with_context(about)? {
        if data.join(shard::superblock::SUPERBLOCK_NAME).try_exists().with_context(about)? {
            bail!("{} holds data whose key file is elsewhere: fill another directory", data.display());
        }
        let mut secret = [0; 32];
        File::open("/dev/urandom").and_then(|mut random| std::io::Read::read_exact(&mut random, &mut secret))?;
        let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&path).with_context(about)?;
        file.write_all(KeyRing::generate(1, secret).to_text().as_bytes()).and_then(|()| file.sync_all())?;
    }
    KeyRing::parse(&std::fs::read_to_string(&path).with_context(about)?).with_context(about)
}

async fn open(options: &Options, keys: KeyRing) -> anyhow::Result<(Node<RingDisk>, OpenReport)> {
    let ring = Ring::new(RingOptions::default())?;
    let disk = RingDisk::open(&ring, &options.data)?;
    let node_options = NodeOptions { chunker: options.chunk_bytes, ..NodeOptions::new(vec![disk], Arc::new(keys)) };
    let (node, report) = Node::open(node_options).await.map_err(|error| anyhow!("{error}"))?;
    for warning in &report.warnings {
        eprintln!("warning: {warning}");
    }
    Ok((node, report))
}

/// Writes files until the node holds `chunks` chunks.
async fn fill(node: &Node<RingDisk>, chunks: u64) -> anyhow::Result<()> {
    let style = ProgressStyle::with_template("{bar:40} {human_pos} of {human_len} chunks, {per_sec}, {eta} left")
        .expect("invariant: the template is sound");
    let bar = ProgressBar::with_draw_target(Some(chunks), ProgressDrawTarget::stderr()).with_style(style);
    // Drawn afresh, so that a second run adds chunks and repeats none.
    let run: u64 = u64::from_le_bytes(runtime::random());
    let next = Cell::new(0);
    let write = async |_| {
        while node.stats().await?.store.chunks < chunks {
            let number = next.replace(next.get() + 1);
            write_file(node, &format!("/fill/{run:016x}/{number}"), run ^ number << 32, chunks, &bar).await?;
        }
        anyhow::Ok(())
    };
    try_join_all((0..WRITERS).map(write)).await?;
    bar.finish_and_clear();
    Ok(())
}

/// Writes one file, shorter than the others if the node holds `chunks` chunks before its end.
async fn write_file(
    node: &Node<RingDisk>,
    path: &str,
    seed: u64,
    chunks: u64,
    bar: &ProgressBar,
) -> anyhow::Result<()> {
    let path = FsPath::parse(path).map_err(|error| anyhow!("{error}"))?;
    let mut writer = node.create(path, PutOptions::default()).map_err(|error| anyhow!("{error}"))?;
    for window in 0..FILE_BYTES / WINDOW_BYTES as u64 {
        let stored = node.stats().await?.store.chunks;
        bar.set_position(stored);
        if stored >= chunks {
            break;
        }
        writer.write(&generate(Kind::Random, seed + window, WINDOW_BYTES)).await.map_err(|error| anyhow!("{error}"))?;
    }
    writer.finish().await.map_err(|error| anyhow!("{error}"))?;
    Ok(())
}

async fn report(
    step: &'static str,
    node: &Node<RingDisk>,
    chunks_before: u64,
    took: Duration,
    cpu: Duration,
) -> anyhow::Result<Report> {
    let stats = node.stats().await?;
    let memory = memory_of(std::process::id())?;
    Ok(Report {
        step,
        seconds: took.as_secs_f64(),
        cpu_s: cpu.as_secs_f64(),
        chunks: stats.store.chunks,
        chunks_added: stats.store.chunks - chunks_before,
        unique_bytes: stats.store.unique_bytes,
        segments: stats.store.segments,
        disk_bytes: stats.store.file_bytes + stats.metadata_bytes,
        index_memory_bytes: stats.store.index_memory_bytes,
        resident_bytes: memory.resident_bytes,
        resident_bytes_max: memory.resident_bytes_max,
    })
}

impl Printed for Report {
    fn words(&self) -> String {
        let per_chunk = |bytes: u64| bytes as f64 / self.chunks.max(1) as f64;
        let mut words = format!("{}: {}, CPU {}", self.step, human_time(self.seconds), human_time(self.cpu_s));
        if self.chunks_added > 0 && self.step == "fill" {
            let added = self.chunks_added as f64;
            words += &format!(", {} chunks added, {:.0} per second", self.chunks_added, added / self.seconds);
        }
        words += &format!(
            "\n{} chunks of {:.0} bytes on average, in {} segments\n",
            self.chunks,
            per_chunk(self.unique_bytes),
            self.segments
        );
        words += &format!("on disk: {}\n", human_bytes(self.disk_bytes));
        words += &format!(
            "memory: {} now ({:.1} bytes per chunk), {} at most; index {} ({:.1} bytes per chunk)\n",
            human_bytes(self.resident_bytes),
            per_chunk(self.resident_bytes),
            human_bytes(self.resident_bytes_max),
            human_bytes(self.index_memory_bytes),
            per_chunk(self.index_memory_bytes)
        );
        words
    }
}
