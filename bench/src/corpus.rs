//! A real tree in and out of a server: what it stores of it, how fast, at what cost, and whether every byte comes back.

use std::fs::File;
use std::io::{self, Read};
use std::path::PathBuf;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

use anyhow::{Context, ensure};
use proto::api::Stats;
use serde::Serialize;

use crate::Verdict;
use crate::clock::{time, unix_seconds};
use crate::data::{SourceFile, content_of, files_below};
use crate::http::{Answer, Body, Connection, Request, Sink};
use crate::process::{Memory, own_cpu};
use crate::report::{Printed, Table, print, spinner};
use crate::server::{Server, ServerOptions, fs_target};
use crate::units::human_bytes;

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
    passes: Vec<Pass>,
    server_memory: Option<Memory>,
    failures: Vec<String>,
}

/// One pass over all files.
#[derive(Debug, Serialize)]
struct Pass {
    pass: &'static str,
    seconds: f64,
    bytes_per_s: f64,
    client_cpu_s: f64,
    server_cpu_s: Option<f64>,
    server_cpu_s_per_gb: Option<f64>,
}

/// Stores the corpus, restores it, and compares.
pub(crate) fn run(options: &Options) -> anyhow::Result<Verdict> {
    let files = files_below(&options.directory)?;
    ensure!(!files.is_empty(), "there are no files below {}", options.directory.display());
    let logical_bytes = files.iter().map(|file| file.bytes).sum();
    let server = options.server.connect()?;
    let root = format!("/dfs-bench-corpus-{}-{}", unix_seconds(), std::process::id());
    let target = |area: &str, file: &SourceFile| fs_target(&format!("{root}/{area}/{}", file.name));

    let bench = Passes { server: &server, files: &files, concurrency: options.concurrency, logical_bytes };
    let before = server.stats()?;
    let mut passes = Vec::new();
    let mut failures = Vec::new();
    let ingest = |connection: &mut Connection, file: &SourceFile| store(connection, file, &target("first", file));
    bench.run("ingest", &ingest, &mut passes, &mut failures)?;
    let after = server.stats()?;
    if options.again {
        let ingest = |connection: &mut Connection, file: &SourceFile| store(connection, file, &target("again", file));
        bench.run("ingest again", &ingest, &mut passes, &mut failures)?;
    }
    let restore = |connection: &mut Connection, file: &SourceFile| restore(connection, file, &target("first", file));
    bench.run("restore, compared", &restore, &mut passes, &mut failures)?;
    let server_memory = server.memory()?;
    if !options.keep
        && let Err(error) = server.remove_tree(&root)
    {
        eprintln!("warning: {root} was not removed: {error:#}");
    }
    let report = report(files.len(), logical_bytes, (&before, &after), passes, server_memory, failures);
    server.finish()?;
    print(&report, options.json)?;
    Ok(if report.failures.is_empty() { Verdict::Good } else { Verdict::Failed })
}

fn report(
    files: usize,
    logical_bytes: u64,
    (before, after): (&Stats, &Stats),
    passes: Vec<Pass>,
    server_memory: Option<Memory>,
    failures: Vec<String>,
) -> Report {
    let unique_bytes = after.unique_bytes.saturating_sub(before.unique_bytes);
    let stored_bytes = after.stored_bytes.saturating_sub(before.stored_bytes);
    let ratio = |of: u64, to: u64| of as f64 / to.max(1) as f64;
    Report {
        files,
        logical_bytes,
        unique_bytes,
        stored_bytes,
        dedup_ratio: ratio(logical_bytes, unique_bytes),
        compression_ratio: ratio(unique_bytes, stored_bytes),
        reduction_ratio: ratio(logical_bytes, stored_bytes),
        passes,
        server_memory,
        failures,
    }
}

struct Passes<'a> {
    server: &'a Server,
    files: &'a [SourceFile],
    concurrency: u16,
    logical_bytes: u64,
}

impl Passes<'_> {
    /// Does `work` to every file, several at a time, and measures.
    fn run(
        &self,
        pass: &'static str,
        work: &(impl Fn(&mut Connection, &SourceFile) -> anyhow::Result<()> + Sync),
        passes: &mut Vec<Pass>,
        failures: &mut Vec<String>,
    ) -> anyhow::Result<()> {
        let (client_before, server_before) = (own_cpu(), self.server.cpu()?);
        let next = AtomicUsize::new(0);
        let progress = spinner();
        let failed = Mutex::new(std::mem::take(failures));
        let (seconds, ()) = time(|| {
            std::thread::scope(|scope| {
                for _ in 0..self.concurrency {
                    scope.spawn(|| {
                        let mut connection = self.server.connection();
                        while let Some(file) = self.files.get(next.fetch_add(1, Ordering::Relaxed)) {
                            progress.set_message(format!("{pass}: {}", file.name));
                            progress.tick();
                            if let Err(error) = work(&mut connection, file) {
                                let mut failed = failed.lock().expect("invariant: nobody panics with the lock");
                                failed.push(format!("{pass}: {}: {error:#}", file.name));
                            }
                        }
                    });
                }
            });
        });
        progress.finish_and_clear();
        *failures = failed.into_inner().expect("invariant: nobody panics with the lock");
        let gb = self.logical_bytes as f64 / 1e9;
        let server_cpu = self.server.cpu()?.zip(server_before).map(|(after, before)| (after - before).as_secs_f64());
        passes.push(Pass {
            pass,
            seconds,
            bytes_per_s: self.logical_bytes as f64 / seconds,
            client_cpu_s: (own_cpu() - client_before).as_secs_f64(),
            server_cpu_s: server_cpu,
            server_cpu_s_per_gb: server_cpu.map(|seconds| seconds / gb),
        });
        Ok(())
    }
}

fn store(connection: &mut Connection, file: &SourceFile, target: &str) -> anyhow::Result<()> {
    let mut content = content_of(file)?;
    let body: &mut dyn Body = &mut content;
    let answer = connection.call(Request { method: "PUT", target, body: Some(body) }, Sink::Discard)?;
    accepted(&answer)
}

fn accepted(answer: &Answer) -> anyhow::Result<()> {
    let code = answer.code.as_deref().unwrap_or_default();
    ensure!(answer.is_success(), "the server answered {} {code}", answer.status);
    Ok(())
}

/// Reads a file back and compares it with the original, byte for byte, as it arrives.
fn restore(connection: &mut Connection, file: &SourceFile, target: &str) -> anyhow::Result<()> {
    let mut original = File::open(&file.path).with_context(|| file.path.display().to_string())?;
    let mut expected = Vec::new();
    let mut compared_bytes = 0;
    let mut compare = |bytes: &[u8]| {
        expected.resize(bytes.len(), 0);
        original.read_exact(&mut expected)?;
        if expected != bytes {
            let what = format!("differs in the {} bytes from byte {compared_bytes} on", bytes.len());
            return Err(io::Error::new(io::ErrorKind::InvalidData, what));
        }
        compared_bytes += bytes.len() as u64;
        Ok(())
    };
    let answer = connection.call(Request { method: "GET", target, body: None }, Sink::Read(&mut compare))?;
    accepted(&answer)?;
    ensure!(answer.body_bytes == file.bytes, "{} of {} bytes came back", answer.body_bytes, file.bytes);
    Ok(())
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
            "dedup {:.2} × compression {:.2} = {:.2} logical:stored\n\n",
            self.dedup_ratio, self.compression_ratio, self.reduction_ratio
        );
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
        words += &table.to_string();
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
