//! `dfs fsck`: runs the check of `node::fsck` and tells what it found.

use std::collections::BTreeMap;
use std::time::Duration;

use clap::Args;
use indicatif::ProgressBar;
use node::fsck::{CheckOptions, Problem, ProblemKind, Progress, Report, Severity, Totals};
use node::offline::Effort;
use serde::Serialize;

use crate::offline::{Data, EXIT_CLEAN, EXIT_DAMAGED, EXIT_WARNINGS, refuse};
use crate::output::{Output, human_bytes, printable};
use crate::progress;

/// Threads that read segments when nobody says how many.
const THREADS_DEFAULT_MAX: usize = 8;

#[derive(Args, Clone, Debug)]
pub(crate) struct FsckOptions {
    #[command(flatten)]
    data: Data,
    /// Read only what describes the data, not the data: a damaged block goes unnoticed.
    #[arg(long)]
    quick: bool,
    /// Segments that are read at the same time, a thread for each [default: the CPUs of this machine, at most 8].
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u8).range(1..=64))]
    threads: Option<u8>,
}

/// Checks, tells, and returns the exit code.
pub(crate) fn run(output: Output, options: &FsckOptions) -> u8 {
    let directories = match options.data.claim() {
        Ok(directories) => directories,
        Err(error) => return refuse(output, &error),
    };
    let threads = options.threads.map_or_else(default_threads, usize::from);
    let depth = if options.quick { CheckOptions::Quick } else { CheckOptions::Full };
    let bar = progress::bar(output, "metadata", Some(0));
    let report = directories.check(Effort { options: depth, threads }, &|step| show(&bar, step));
    let elapsed = bar.elapsed();
    bar.finish_and_clear();
    let shown = output.result(&json(&report, depth, elapsed), || words(&report, elapsed));
    if output.quiet && !output.json {
        eprint!("{}", problems_text(&report, Severity::Warning));
    }
    match (shown, report.worst()) {
        (Err(failure), _) => {
            failure.report(output.json);
            failure.exit_code()
        }
        (Ok(()), None | Some(Severity::Info)) => EXIT_CLEAN,
        (Ok(()), Some(Severity::Warning)) => EXIT_WARNINGS,
        (Ok(()), Some(Severity::Damage)) => EXIT_DAMAGED,
    }
}

fn default_threads() -> usize {
    std::thread::available_parallelism().map_or(1, usize::from).min(THREADS_DEFAULT_MAX)
}

fn show(bar: &ProgressBar, step: Progress) {
    match step {
        Progress::Segments { bytes } => {
            bar.set_length(bytes);
            bar.set_message("segments");
        }
        Progress::Read { bytes } => bar.inc(bytes),
        Progress::Files => bar.set_message("files"),
    }
}

/// The report for people.
fn words(report: &Report, elapsed: Duration) -> String {
    let Totals { files, directories, symlinks, versions, segments, bytes_read, rows, blocks, chunks, .. } =
        report.totals;
    let seconds = elapsed.as_secs_f64();
    #[expect(clippy::cast_precision_loss, clippy::cast_possible_truncation, clippy::cast_sign_loss)]
    let rate = (bytes_read as f64 / seconds.max(0.001)) as u64;
    let verdict = match report.worst() {
        None | Some(Severity::Info) => "clean".to_owned(),
        Some(_) => format!("{} damage, {} warnings", report.count(Severity::Damage), report.count(Severity::Warning)),
    };
    let not_kept = match report.not_kept() {
        0 => String::new(),
        count => format!("{count} more problems were counted and are not shown\n"),
    };
    format!(
        "{}{not_kept}{files} files, {directories} directories, {symlinks} symlinks, {versions} versions: {} of them\n\
         {segments} segments, {rows} rows, {blocks} blocks, {chunks} chunks: {} in {seconds:.1} s ({}/s)\n{verdict}",
        problems_text(report, Severity::Info),
        human_bytes(report.totals.logical_bytes),
        human_bytes(bytes_read),
        human_bytes(rate),
    )
}

/// The problems from `least` on, the worst first, each kind under a line that says what it means.
fn problems_text(report: &Report, least: Severity) -> String {
    let mut kinds: Vec<(&ProblemKind, &u64)> = report.counts.iter().collect();
    kinds.sort_by_key(|(kind, _)| std::cmp::Reverse(kind.severity()));
    let mut text = String::new();
    for (kind, count) in kinds.into_iter().filter(|(kind, _)| kind.severity() >= least) {
        text.push_str(&format!("{}: {} ({count}): {}\n", kind.severity().name(), kind.code(), kind.meaning()));
        for problem in report.problems.iter().filter(|problem| problem.kind == *kind) {
            text.push_str(&format!("  {}\n", printable(&line(problem)).replace('\n', "\\n")));
        }
    }
    text
}

/// Where a problem is, and what it is.
fn line(problem: &Problem) -> String {
    let mut place = Vec::new();
    place.extend(problem.path.clone());
    place.extend(problem.version.map(|version| format!("version {version}")));
    place.extend(problem.range.as_ref().map(|range| format!("bytes {}-{}", range.start, range.end.saturating_sub(1))));
    place.extend(problem.directory.map(|directory| format!("directory {directory}")));
    place.extend(problem.file.clone());
    place.extend(problem.row.map(|row| format!("row {row}")));
    place.extend(problem.offset.map(|offset| format!("offset {offset}")));
    if place.is_empty() { problem.detail.clone() } else { format!("{}: {}", place.join(" "), problem.detail) }
}

#[derive(Serialize)]
struct JsonReport<'a> {
    worst: Option<&'static str>,
    depth: &'static str,
    counts: BTreeMap<&'static str, u64>,
    problems: Vec<JsonProblem<'a>>,
    problems_not_kept: u64,
    totals: Totals,
    seconds: f64,
}

#[derive(Serialize)]
struct JsonProblem<'a> {
    severity: &'static str,
    code: &'static str,
    meaning: &'static str,
    detail: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    directory: Option<usize>,
    #[serde(skip_serializing_if = "Option::is_none")]
    file: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    offset: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    segment: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    row: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    path: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    version: Option<u64>,
    /// First byte, and first byte behind.
    #[serde(skip_serializing_if = "Option::is_none")]
    range: Option<[u64; 2]>,
}

impl<'a> From<&'a Problem> for JsonProblem<'a> {
    fn from(problem: &'a Problem) -> JsonProblem<'a> {
        let Problem { kind, detail, directory, file, offset, segment, row, path, version, range } = problem;
        JsonProblem {
            severity: kind.severity().name(),
            code: kind.code(),
            meaning: kind.meaning(),
            detail,
            directory: *directory,
            file: file.as_deref(),
            offset: *offset,
            segment: segment.map(|segment| segment.to_string()),
            row: *row,
            path: path.as_deref(),
            version: *version,
            range: range.as_ref().map(|range| [range.start, range.end]),
        }
    }
}

/// The report for programs.
fn json(report: &Report, depth: CheckOptions, elapsed: Duration) -> JsonReport<'_> {
    JsonReport {
        worst: report.worst().map(Severity::name),
        depth: if depth == CheckOptions::Full { "full" } else { "quick" },
        counts: report.counts.iter().map(|(kind, count)| (kind.code(), *count)).collect(),
        problems: report.problems.iter().map(JsonProblem::from).collect(),
        problems_not_kept: report.not_kept(),
        totals: report.totals,
        seconds: elapsed.as_secs_f64(),
    }
}
