//! A real tree in and out of a server: what it stores of it, how fast, at what cost, and whether every byte comes back.
//!
//! ```text
//!   for each data set    store ─▶ [store again] ─▶ restore ─▶ [collect ─▶ restore]
//!   [half]               remove every second file ─▶ collect        beside: a fresh server with the rest ─▶ collect
//! ```
//!
//! A data set is what lies below one entry of the directory; its space is what came with it, so a later set is charged
//! only with what earlier ones do not have.

mod half;
mod html;
mod passes;
mod space;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use anyhow::{Context, ensure};
use serde::Serialize;

pub(crate) use passes::{Pass, collect, restore, store};

use crate::Verdict;
use crate::clock::unix_seconds;
use crate::data::{SourceFile, files_below};
use crate::http::Connection;
use crate::process::Memory;
use crate::report::{Printed, Table, print};
use crate::server::{Server, ServerOptions, fs_target};
use crate::units::human_bytes;
use half::Half;
use passes::over;
use space::{CELL_NAMES, Space};

/// Failures that are told one by one.
const FAILURES_TOLD_MAX: usize = 20;

/// Options of `corpus`.
#[derive(clap::Args, Clone, Debug)]
pub(crate) struct Options {
    /// Directory whose files are stored and restored.
    directory: PathBuf,
    /// Files in flight.
    #[arg(long, default_value_t = 4, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=1024))]
    concurrency: u16,
    /// Store everything a second time under another name: what duplicates cost.
    #[arg(long)]
    again: bool,
    /// Have garbage collected after each data set (`dfs gc run --now`), which compresses similar data together: what
    /// that saves, what it costs, and how fast everything comes back then.
    #[arg(long)]
    collect: bool,
    /// At the end remove every second file, collect, and compare with a fresh server that has only the rest; it gets a
    /// data directory of its own, named as the other with .rest appended.
    #[arg(long, requires_all = ["collect", "serve"], conflicts_with_all = ["again", "keep"])]
    half: bool,
    /// Draw where the space went into this file, as a page for a browser.
    #[arg(long, value_name = "FILE")]
    html: Option<PathBuf>,
    /// Leave the files on the server.
    #[arg(long)]
    keep: bool,
    /// Print JSON instead of a table.
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    server: ServerOptions,
}

#[derive(Debug, Serialize)]
struct Report {
    files: usize,
    logical_bytes: u64,
    /// Plain bytes of distinct chunks that the first ingest added.
    unique_bytes: u64,
    /// The same after compression.
    stored_bytes: u64,
    dedup_ratio: f64,
    compression_ratio: f64,
    /// Logical to stored.
    reduction_ratio: f64,
    /// The same after the collection, if there was one.
    collected_ratio: Option<f64>,
    /// Over all data sets.
    passes: Vec<Pass>,
    sets: Vec<Set>,
    half: Option<Half>,
    server_memory: Option<Memory>,
    failures: Vec<String>,
}

/// One data set.
#[derive(Debug, Serialize)]
struct Set {
    name: String,
    files: usize,
    /// As it was stored.
    space: Space,
    /// After the collection.
    collected: Option<Space>,
    passes: Vec<Pass>,
}

/// Stores the corpus, restores it, and compares.
pub(crate) fn run(options: &Options) -> anyhow::Result<Verdict> {
    let files = files_below(&options.directory)?;
    ensure!(!files.is_empty(), "there are no files below {}", options.directory.display());
    let server = options.server.connect()?;
    let root = format!("/dfs-bench-corpus-{}-{}", unix_seconds(), std::process::id());
    let mut failures = Vec::new();
    let mut sets = Vec::new();
    for (name, files) in data_sets(&options.directory, &files) {
        sets.push(measure(options, &server, &root, name, &files, &mut failures)?);
    }
    let half = if options.half { Some(half::measure(options, &server, &root, &files, &mut failures)?) } else { None };
    let server_memory = server.memory()?;
    if !options.keep
        && let Err(error) = server.remove_tree(&root)
    {
        eprintln!("warning: {root} was not removed: {error:#}");
    }
    server.finish()?;
    let report = Report { half, server_memory, failures, ..Report::of(files.len(), sets) };
    if let Some(path) = &options.html {
        std::fs::write(path, html::page(&report)).with_context(|| format!("cannot write {}", path.display()))?;
    }
    print(&report, options.json)?;
    Ok(if report.failures.is_empty() { Verdict::Good } else { Verdict::Failed })
}

/// The files by the first name of their paths; those that are in no directory below `directory` are one set, named as
/// itself.
fn data_sets(directory: &Path, files: &[SourceFile]) -> BTreeMap<String, Vec<SourceFile>> {
    let own = directory.canonicalize().ok().and_then(|path| Some(path.file_name()?.to_str()?.to_owned()));
    let own = own.unwrap_or_else(|| ".".to_owned());
    let mut sets: BTreeMap<String, Vec<SourceFile>> = BTreeMap::new();
    for file in files {
        let name = file.name.split_once('/').map_or(own.as_str(), |(first, _)| first);
        sets.entry(name.to_owned()).or_default().push(file.clone());
    }
    sets
}

/// Target of a file in an area of the server.
fn target(root: &str, area: &str, file: &SourceFile) -> String {
    fs_target(&format!("{root}/{area}/{}", file.name))
}

fn measure(
    options: &Options,
    server: &Server,
    root: &str,
    name: String,
    files: &[SourceFile],
    failures: &mut Vec<String>,
) -> anyhow::Result<Set> {
    let concurrency = options.concurrency;
    let store_in = |area: &'static str| {
        move |connection: &mut Connection, file: &SourceFile| store(connection, file, &target(root, area, file))
    };
    let restore =
        |connection: &mut Connection, file: &SourceFile| restore(connection, file, &target(root, "first", file));
    let before = server.stats()?;
    let mut passes = vec![over("ingest", server, files, concurrency, &store_in("first"), failures)?];
    let space = Space::between(&before, &server.stats()?);
    if options.again {
        passes.push(over("ingest again", server, files, concurrency, &store_in("again"), failures)?);
    }
    passes.push(over("restore, compared", server, files, concurrency, &restore, failures)?);
    let mut collected = None;
    if options.collect {
        passes.push(collect("collect", server, space.unique_bytes)?);
        collected = Some(Space::between(&before, &server.stats()?));
        passes.push(over("restore, collected", server, files, concurrency, &restore, failures)?);
    }
    Ok(Set { name, files: files.len(), space, collected, passes })
}

impl Report {
    fn of(files: usize, sets: Vec<Set>) -> Report {
        let total = sets.iter().map(|set| set.space).sum::<Space>();
        let collected = sets.iter().map(|set| set.collected).sum::<Option<Space>>();
        let mut passes: Vec<Pass> = Vec::new();
        for pass in sets.iter().flat_map(|set| &set.passes) {
            match passes.iter_mut().find(|sum| sum.pass == pass.pass) {
                Some(sum) => *sum = sum.joined(pass),
                None => passes.push(pass.clone()),
            }
        }
        let ratio = |of: u64, to: u64| of as f64 / to.max(1) as f64;
        Report {
            files,
            logical_bytes: total.logical_bytes,
            unique_bytes: total.unique_bytes,
            stored_bytes: total.stored_bytes,
            dedup_ratio: ratio(total.logical_bytes, total.unique_bytes),
            compression_ratio: ratio(total.unique_bytes, total.stored_bytes),
            reduction_ratio: total.ratio(),
            collected_ratio: collected.map(|space| space.ratio()),
            passes,
            sets,
            half: None,
            server_memory: None,
            failures: Vec::new(),
        }
    }

    /// Over all data sets: as they were stored, and after the collection.
    fn total(&self) -> (Space, Option<Space>) {
        (self.sets.iter().map(|set| set.space).sum(), self.sets.iter().map(|set| set.collected).sum())
    }

    fn space_table(&self) -> String {
        let header: Vec<&str> = ["data set", "logical"].into_iter().chain(CELL_NAMES).collect();
        let mut table = Table::new(&header);
        let mut row = |name: String, space: &Space| {
            table.row([name, human_bytes(space.logical_bytes)].into_iter().chain(space.cells()));
        };
        let (total, collected) = self.total();
        let sets = self.sets.iter().map(|set| (set.name.as_str(), set.space, set.collected));
        let all = (self.sets.len() > 1).then_some(("all", total, collected));
        for (name, space, collected) in sets.chain(all) {
            row(name.to_owned(), &space);
            if let Some(collected) = collected {
                row(format!("{name}, collected"), &collected);
            }
        }
        table.to_string()
    }

    fn passes_table(&self) -> String {
        let mut table = Table::new(&["pass", "seconds", "MB/s", "client CPU s", "server CPU s", "server CPU s/GB"]);
        let cpu = |seconds: Option<f64>| seconds.map_or("unknown".to_owned(), |seconds| format!("{seconds:.2}"));
        for pass in &self.passes {
            table.row([
                pass.pass.to_owned(),
                format!("{:.2}", pass.seconds),
                format!("{:.0}", pass.bytes_per_s / 1e6),
                format!("{:.2}", pass.client_cpu_s),
                cpu(pass.server_cpu_s),
                cpu(pass.server_cpu_s_per_gb),
            ]);
        }
        table.to_string()
    }
}

impl Printed for Report {
    fn words(&self) -> String {
        let mut words = format!(
            "{} files, {} logical, {} unique, {} stored\n",
            self.files,
            human_bytes(self.logical_bytes),
            human_bytes(self.unique_bytes),
            human_bytes(self.stored_bytes)
        );
        words += &format!(
            "dedup {:.2} × compression {:.2} = {:.2} logical:stored\n",
            self.dedup_ratio, self.compression_ratio, self.reduction_ratio
        );
        if let Some(ratio) = self.collected_ratio {
            words += &format!("after the collection {ratio:.2} logical:stored\n");
        }
        words += &format!("\n{}\n{}", self.space_table(), self.passes_table());
        if let Some(cpu_s_per_gb) =
            self.passes.iter().find(|pass| pass.pass == "collect").and_then(|pass| pass.server_cpu_s_per_gb)
        {
            let rate = 1e3 / cpu_s_per_gb.max(f64::MIN_POSITIVE);
            words += &format!("collecting took one core a second for {rate:.0} MB of unique bytes\n");
        }
        if let Some(half) = &self.half {
            words += &half.words();
        }
        if let Some(memory) = self.server_memory {
            words += &format!("server memory at most {}\n", human_bytes(memory.resident_bytes_max));
        }
        match self.failures.len() {
            0 => words += "every byte came back\n",
            count => words += &format!("{count} failures:\n"),
        }
        for failure in self.failures.iter().take(FAILURES_TOLD_MAX) {
            words += &format!("  {failure}\n");
        }
        words
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_lies_below_one_name_is_a_data_set() {
        let file = |name: &str| SourceFile { path: PathBuf::new(), name: name.to_owned(), bytes: 1 };
        let files = ["a/1", "a/b/2", "c", "d/3", "e"].map(file);
        let directory = tempfile::tempdir().unwrap();
        let own = directory.path().canonicalize().unwrap().file_name().unwrap().to_str().unwrap().to_owned();
        let sets = data_sets(directory.path(), &files);
        let counted: BTreeMap<&str, usize> = sets.iter().map(|(name, files)| (name.as_str(), files.len())).collect();
        assert_eq!(counted, [("a", 2), (own.as_str(), 2), ("d", 1)].into());
    }
}
