//! Versions that share data, restored: newer ones are read from where older ones put their chunks, until compaction.

use std::path::PathBuf;

use anyhow::ensure;
use serde::Serialize;

use crate::Verdict;
use crate::clock::{time, unix_seconds};
use crate::corpus::{Pass, collect, restore, store};
use crate::data::{SourceFile, files_below};
use crate::http::{Request, Sink};
use crate::report::{Printed, Table, median, print, spinner};
use crate::server::{Server, ServerOptions, fs_target};
use crate::units::human_bytes;

/// Options of `fragmentation`.
#[derive(clap::Args, Clone, Debug)]
pub(crate) struct Options {
    /// Directory of the versions.
    directory: PathBuf,
    /// How often each version is restored; the median counts.
    #[arg(long, default_value_t = 3, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=1000))]
    rounds: u16,
    /// Do not collect garbage and restore again.
    #[arg(long)]
    no_collect: bool,
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
    /// From the oldest to the newest.
    versions: Vec<Version>,
    fragments_per_file: f64,
    /// Speed of the newest to that of the oldest.
    newest_to_oldest: Ratio,
    collection: Option<Collection>,
    failures: Vec<String>,
}

#[derive(Debug, Serialize)]
struct Collection {
    #[serde(flatten)]
    pass: Pass,
    fragments_per_file: f64,
    /// Speed of the newest version after the collection to that before.
    newest: Ratio,
    /// The same for the oldest.
    oldest: Ratio,
}

#[derive(Debug, Serialize)]
struct Version {
    name: String,
    bytes: u64,
    chunks: u64,
    before: State,
    collected: Option<State>,
}

/// How a version lies, and comes back.
#[derive(Clone, Copy, Debug, Serialize)]
struct State {
    fragments: u64,
    /// Right after a start, with nothing cached; `None` if the server is not ours to start.
    cold_bytes_per_s: Option<f64>,
    /// Once more.
    warm_bytes_per_s: f64,
}

/// One speed to another, with nothing cached and with what is.
#[derive(Clone, Copy, Debug, Serialize)]
struct Ratio {
    cold: Option<f64>,
    warm: f64,
}

impl Ratio {
    fn of(of: &State, to: &State) -> Ratio {
        let cold = of.cold_bytes_per_s.zip(to.cold_bytes_per_s).map(|(of, to)| of / to);
        Ratio { cold, warm: of.warm_bytes_per_s / to.warm_bytes_per_s }
    }

    fn words(self) -> String {
        let cold = self.cold.map_or(String::new(), |cold| format!("{cold:.2} cold, "));
        format!("{cold}{:.2} warm", self.warm)
    }
}

/// Stores the versions one after the other, and restores them.
pub(crate) fn run(options: &Options) -> anyhow::Result<Verdict> {
    let files = files_below(&options.directory)?;
    ensure!(!files.is_empty(), "there are no files below {}", options.directory.display());
    let mut server = options.server.connect()?;
    let root = format!("/dfs-bench-fragmentation-{}-{}", unix_seconds(), std::process::id());
    let target = |file: &SourceFile| fs_target(&format!("{root}/{}", file.name));
    for file in &files {
        store(&mut server.connection(), file, &target(file))?;
    }
    let unique_bytes = server.stats()?.unique_bytes;
    let mut failures = Vec::new();
    let mut versions = Vec::new();
    let before;
    (server, before) = restore_all(options, server, &files, &target, &mut failures)?;
    for (file, state) in files.iter().zip(before) {
        let chunks = server.fragments(&target(file))?.chunks;
        versions.push(Version { name: file.name.clone(), bytes: file.bytes, chunks, before: state, collected: None });
    }
    let mut collection = None;
    if !options.no_collect {
        let pass = collect("collect", &server, unique_bytes)?;
        let after;
        (server, after) = restore_all(options, server, &files, &target, &mut failures)?;
        versions.iter_mut().zip(after).for_each(|(version, state)| version.collected = Some(state));
        collection = Some(pass);
    }
    if !options.keep
        && let Err(error) = server.remove_tree(&root)
    {
        eprintln!("warning: {root} was not removed: {error:#}");
    }
    server.finish()?;
    let report = Report::of(versions, collection, failures);
    print(&report, options.json)?;
    Ok(if report.failures.is_empty() { Verdict::Good } else { Verdict::Failed })
}

/// Restores every version, in turn, so that what else the machine does falls on all alike. The first time every byte is
/// compared, which is not measured.
fn restore_all(
    options: &Options,
    mut server: Server,
    files: &[SourceFile],
    target: &impl Fn(&SourceFile) -> String,
    failures: &mut Vec<String>,
) -> anyhow::Result<(Server, Vec<State>)> {
    let progress = spinner();
    for file in files {
        progress.set_message(format!("compared: {}", file.name));
        if let Err(error) = restore(&mut server.connection(), file, &target(file)) {
            failures.push(format!("{}: {error:#}", file.name));
        }
    }
    let mut cold: Vec<Vec<f64>> = vec![Vec::new(); files.len()];
    let mut warm = cold.clone();
    for round in 1..=options.rounds {
        for (number, file) in files.iter().enumerate() {
            progress.set_message(format!("round {round}: {}", file.name));
            if options.server.serves() {
                server = options.server.restart(server)?;
                cold[number].push(speed(&server, file, &target(file))?);
            } else {
                speed(&server, file, &target(file))?;
            }
            warm[number].push(speed(&server, file, &target(file))?);
        }
    }
    progress.finish_and_clear();
    let mut states = Vec::with_capacity(files.len());
    for ((file, cold), warm) in files.iter().zip(cold).zip(warm) {
        let fragments = server.fragments(&target(file))?.fragments;
        let cold_bytes_per_s = (!cold.is_empty()).then(|| median(cold));
        states.push(State { fragments, cold_bytes_per_s, warm_bytes_per_s: median(warm) });
    }
    Ok((server, states))
}

/// Bytes per second of one restore.
fn speed(server: &Server, file: &SourceFile, target: &str) -> anyhow::Result<f64> {
    let mut connection = server.connection();
    let (seconds, answer) = time(|| connection.call(Request { method: "GET", target, body: None }, Sink::Discard));
    let answer = answer?;
    ensure!(answer.is_success() && answer.body_bytes == file.bytes, "{} was answered {answer:?}", file.name);
    Ok(file.bytes as f64 / seconds)
}

impl Report {
    fn of(versions: Vec<Version>, collection: Option<Pass>, failures: Vec<String>) -> Report {
        let (oldest, newest) = (&versions[0], &versions[versions.len() - 1]);
        let mean = |fragments: &dyn Fn(&Version) -> u64| {
            versions.iter().map(fragments).sum::<u64>() as f64 / versions.len() as f64
        };
        let after = |version: &Version| version.collected.expect("invariant: all versions were restored again");
        let collection = collection.map(|pass| Collection {
            pass,
            fragments_per_file: mean(&|version| after(version).fragments),
            newest: Ratio::of(&after(newest), &newest.before),
            oldest: Ratio::of(&after(oldest), &oldest.before),
        });
        Report {
            fragments_per_file: mean(&|version| version.before.fragments),
            newest_to_oldest: Ratio::of(&newest.before, &oldest.before),
            collection,
            versions,
            failures,
        }
    }
}

impl Printed for Report {
    fn words(&self) -> String {
        let mut table = Table::new(&[
            "version",
            "size",
            "chunks",
            "fragments",
            "cold MB/s",
            "warm MB/s",
            "after: fragments",
            "cold",
            "warm",
        ]);
        let mb = |speed: Option<f64>| speed.map_or("-".to_owned(), |speed| format!("{:.0}", speed / 1e6));
        for version in &self.versions {
            let collected = version.collected;
            table.row([
                version.name.clone(),
                human_bytes(version.bytes),
                version.chunks.to_string(),
                version.before.fragments.to_string(),
                mb(version.before.cold_bytes_per_s),
                mb(Some(version.before.warm_bytes_per_s)),
                collected.map_or("-".to_owned(), |state| state.fragments.to_string()),
                mb(collected.and_then(|state| state.cold_bytes_per_s)),
                mb(collected.map(|state| state.warm_bytes_per_s)),
            ]);
        }
        let mut words = format!(
            "{table}\n{:.0} fragments per file; newest to oldest: {}\n",
            self.fragments_per_file,
            self.newest_to_oldest.words()
        );
        if let Some(collection) = &self.collection {
            words += &format!(
                "after the collection ({:.2} s) {:.0} fragments per file; newest to before: {}; oldest to before: {}\n",
                collection.pass.seconds,
                collection.fragments_per_file,
                collection.newest.words(),
                collection.oldest.words()
            );
        }
        for failure in &self.failures {
            words += &format!("failed: {failure}\n");
        }
        words
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn version(fragments: u64, warm: f64, collected: Option<(u64, f64)>) -> Version {
        let state = |(fragments, warm)| State { fragments, cold_bytes_per_s: Some(warm / 2.0), warm_bytes_per_s: warm };
        let collected = collected.map(state);
        Version { name: "v".to_owned(), bytes: 9, chunks: 9, before: state((fragments, warm)), collected }
    }

    #[test]
    fn speeds_are_compared_with_the_oldest_and_with_those_before() {
        let pass = Pass {
            pass: "collect",
            bytes: 1,
            seconds: 1.0,
            bytes_per_s: 1.0,
            client_cpu_s: 0.0,
            server_cpu_s: None,
            server_cpu_s_per_gb: None,
        };
        let versions = vec![version(1, 400.0, Some((9, 100.0))), version(5, 300.0, Some((3, 270.0)))];
        let report = Report::of(versions, Some(pass), Vec::new());
        assert_eq!((report.newest_to_oldest.warm, report.newest_to_oldest.cold), (0.75, Some(0.75)));
        assert_eq!(report.fragments_per_file, 3.0);
        let collection = report.collection.unwrap();
        assert_eq!((collection.newest.warm, collection.oldest.warm, collection.fragments_per_file), (0.9, 0.25, 6.0));
    }
}
