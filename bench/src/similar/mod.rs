//! What warm blocks save of a real tree, and what they cost, without a server: the same library calls as compaction's.
//!
//! Files are stored in the order of their names, as nightly backups are: the first is the oldest version, the last the
//! newest. [`hot`]: what ingest would have stored. [`layout`]: that, planned and compressed again. [`restore`]: what a
//! reader of one file decodes. Nothing is sealed or written, but every byte of a row is counted.
//!
//! Speeds are of CPU time, for this runs on machines that do other things too.

pub(crate) mod hot;
mod layout;
mod restore;

use std::path::PathBuf;

use anyhow::ensure;
use serde::Serialize;

use crate::data::files_below;
use crate::report::{Printed, Table, print, spinner};
use crate::units::{bytes, human_bytes, human_time};
use hot::Hot;
use layout::{Layout, Settings};
use restore::{RandomReads, Restore};

/// Options of `similar`.
#[derive(clap::Args, Clone, Debug)]
pub(crate) struct Options {
    /// Directory whose files are stored, in the order of their names.
    directory: PathBuf,
    /// Cores over which chunks are routed.
    #[arg(long, default_value = "1,2,16", value_delimiter = ',', value_name = "N,...",
          value_parser = clap::value_parser!(u16).range(1..=64))]
    cores: Vec<u16>,
    /// Plain bytes of a block.
    #[arg(long, default_value = "1MiB", value_delimiter = ',', value_name = "SIZE,...", value_parser = bytes)]
    block: Vec<u64>,
    /// Level of ZSTD.
    #[arg(long, default_value = "3", value_delimiter = ',', value_name = "N,...",
          value_parser = clap::value_parser!(i32).range(1..=19))]
    level: Vec<i32>,
    /// Look for long matches anywhere in a block as well.
    #[arg(long)]
    long_distance: bool,
    /// Entries of the match index of each core.
    #[arg(long, default_value_t = chunk::similar::plan::MATCH_ENTRIES_MAX, value_name = "N")]
    match_entries: usize,
    /// Chunks that a reader knows it will want next.
    #[arg(long, default_value_t = 64, value_name = "N")]
    ahead: usize,
    /// Decoded bytes that a reader keeps.
    #[arg(long, default_value = "32MiB", value_name = "SIZE", value_parser = bytes)]
    cache: u64,
    /// Print JSON instead of a table.
    #[arg(long)]
    json: bool,
}

#[derive(Debug, Serialize)]
struct Report {
    files: usize,
    logical_bytes: u64,
    /// Plain bytes of distinct chunks.
    unique_bytes: u64,
    chunks: usize,
    /// Of them, those in which the probe found nothing to gain.
    incompressible_chunks: usize,
    /// Bytes of the lists of chunks, part of what is stored.
    manifest_bytes: u64,
    hot_stored_bytes: u64,
    /// Logical to stored, as ingested.
    hot_ratio: f64,
    lz4_decode_bytes_per_s: f64,
    features_bytes_per_s: f64,
    layouts: Vec<LayoutReport>,
}

#[derive(Debug, Serialize)]
struct LayoutReport {
    cores: u16,
    block_bytes: u64,
    level: i32,
    stored_bytes: u64,
    /// Logical to stored.
    ratio: f64,
    blocks: usize,
    plan_seconds: f64,
    compress_bytes_per_s: f64,
    /// Everything that rewriting takes of a core: decoding twice, features, plan, compression.
    rewrite_bytes_per_s: f64,
    oldest: Restore,
    newest: Restore,
    /// Single chunks of the newest file.
    random: RandomReads,
}

/// Stores the files of the directory in memory, lays them out, and reads the first and the last of them.
pub(crate) fn run(options: &Options) -> anyhow::Result<()> {
    for block in &options.block {
        let range = proto::limits::CHUNK_BYTES_MAX as u64..=proto::limits::BLOCK_PLAIN_BYTES_MAX as u64;
        ensure!(range.contains(block), "a block of {block} bytes: it has 128 KiB to 1 MiB");
    }
    let entries_max = chunk::similar::plan::MATCH_ENTRIES_MAX;
    ensure!(options.match_entries <= entries_max, "a match index has at most {entries_max} entries");
    let files = files_below(&options.directory)?;
    ensure!(!files.is_empty(), "there are no files below {}", options.directory.display());
    let progress = spinner();
    let mut hot = Hot::default();
    for file in &files {
        progress.set_message(file.name.clone());
        progress.tick();
        hot.store(&file.path)?;
    }
    hot.sketch();
    let manifest_bytes = hot.manifest_bytes();
    let hot_stored_bytes = hot.stored_bytes();
    let ratio = |stored: u64| hot.logical_bytes as f64 / stored.max(1) as f64;
    let per_s = |seconds: f64| hot.unique_bytes as f64 / seconds.max(f64::MIN_POSITIVE);
    let mut layouts = Vec::new();
    for &cores in &options.cores {
        for &block_bytes in &options.block {
            for &level in &options.level {
                progress.set_message(format!("{cores} cores, blocks of {}, level {level}", human_bytes(block_bytes)));
                progress.tick();
                let settings = Settings {
                    cores,
                    block_bytes: block_bytes as usize,
                    level,
                    is_long_distance: options.long_distance,
                    match_entries: options.match_entries,
                };
                let layout = Layout::new(&hot, settings);
                let reader =
                    |manifest| restore::restore(&hot, &layout, manifest, options.ahead, options.cache as usize);
                let stored_bytes = layout.stored_bytes + manifest_bytes;
                let seconds = hot.sketch_seconds() + hot.decode_seconds + layout.plan_seconds + layout.compress_seconds;
                layouts.push(LayoutReport {
                    cores,
                    block_bytes,
                    level,
                    stored_bytes,
                    ratio: ratio(stored_bytes),
                    blocks: layout.blocks.len(),
                    plan_seconds: layout.plan_seconds,
                    compress_bytes_per_s: per_s(layout.compress_seconds),
                    rewrite_bytes_per_s: per_s(seconds),
                    oldest: reader(hot.manifests.first().expect("invariant: there are files"))?,
                    newest: reader(hot.manifests.last().expect("invariant: there are files"))?,
                    random: restore::random_reads(&layout, hot.manifests.last().expect("invariant: there are files"))?,
                });
            }
        }
    }
    progress.finish_and_clear();
    let report = Report {
        files: files.len(),
        logical_bytes: hot.logical_bytes,
        unique_bytes: hot.unique_bytes,
        chunks: hot.chunks.len(),
        incompressible_chunks: hot.chunks.iter().filter(|chunk| chunk.features.is_none()).count(),
        manifest_bytes,
        hot_stored_bytes,
        hot_ratio: ratio(hot_stored_bytes),
        lz4_decode_bytes_per_s: per_s(hot.decode_seconds),
        features_bytes_per_s: per_s(hot.features_seconds),
        layouts,
    };
    print(&report, options.json)
}

impl Printed for Report {
    fn words(&self) -> String {
        let mut words = format!(
            "{} files, {} logical, {} unique in {} chunks, {} of them incompressible\n\
             as ingested: {} stored, ratio {:.2}; of everything stored, {} are lists of chunks\n\
             MB/s of one core: LZ4 decode {:.0}, features {:.0}\n\n",
            self.files,
            human_bytes(self.logical_bytes),
            human_bytes(self.unique_bytes),
            self.chunks,
            self.incompressible_chunks,
            human_bytes(self.hot_stored_bytes),
            self.hot_ratio,
            human_bytes(self.manifest_bytes),
            self.lz4_decode_bytes_per_s / 1e6,
            self.features_bytes_per_s / 1e6,
        );
        let header = ["cores", "block", "level", "ratio", "stored", "blocks", "plan s", "ZSTD MB/s", "rewrite MB/s"];
        let mut table = Table::new(&header);
        for layout in &self.layouts {
            table.row([
                layout.cores.to_string(),
                human_bytes(layout.block_bytes),
                layout.level.to_string(),
                format!("{:.2}", layout.ratio),
                human_bytes(layout.stored_bytes),
                layout.blocks.to_string(),
                format!("{:.3}", layout.plan_seconds),
                format!("{:.0}", layout.compress_bytes_per_s / 1e6),
                format!("{:.0}", layout.rewrite_bytes_per_s / 1e6),
            ]);
        }
        words += &format!("{table}\nRestored; times are those of the file's bytes, hot is LZ4 from memory:\n");
        let header =
            ["cores", "block", "level", "file", "blocks", "reads", "read times", "decoded times", "MB/s", "of hot"];
        let mut table = Table::new(&header);
        for layout in &self.layouts {
            for (file, restore) in [("oldest", &layout.oldest), ("newest", &layout.newest)] {
                table.row([
                    layout.cores.to_string(),
                    human_bytes(layout.block_bytes),
                    layout.level.to_string(),
                    file.to_owned(),
                    restore.blocks.to_string(),
                    restore.reads.to_string(),
                    format!("{:.2}", restore.read_bytes as f64 / restore.bytes.max(1) as f64),
                    format!("{:.2}", restore.decoded_bytes as f64 / restore.bytes.max(1) as f64),
                    format!("{:.0}", restore.bytes_per_s / 1e6),
                    format!("{:.2}", restore.bytes_per_s / restore.hot_bytes_per_s),
                ]);
            }
        }
        words += &format!("{table}\nSingle chunks of the newest file, in random order, nothing kept:\n");
        let mut table = Table::new(&["cores", "block", "level", "decoded", "CPU time"]);
        for layout in &self.layouts {
            table.row([
                layout.cores.to_string(),
                human_bytes(layout.block_bytes),
                layout.level.to_string(),
                human_bytes(layout.random.decoded_bytes),
                human_time(layout.random.seconds),
            ]);
        }
        words + &table.to_string()
    }
}
