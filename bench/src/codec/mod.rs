//! How to choose the codec of a block: fixed rules over cheap probes, a trained model, and perfect knowledge, by what they
//! leave and what they take of the processor.
//!
//! Every block is compressed in every way and each way is timed, so that any rule can be judged afterwards. `units`: the
//! blocks. `probes`: what may be known before. `rules`: who chooses. `tree`: the model.
//!
//! Times are of CPU time, with the rest of a block's path in them: bytes × CPU of a codec alone would be least for a rule
//! that compresses nothing.

mod probes;
mod rules;
mod tree;
mod units;

use std::collections::BTreeMap;
use std::path::PathBuf;

use serde::Serialize;

use crate::report::{Printed, Table, print, spinner};
use crate::units::{bytes, human_bytes};
use probes::FileType;
use rules::{Rule, best};
use tree::Tree;
use units::{Coding, Stage, Unit, codings, seal_seconds_per_byte, units};

/// Options of `codec`.
#[derive(clap::Args, Clone, Debug)]
pub(crate) struct Options {
    /// Directories of the first set of files.
    #[arg(required = true)]
    directories: Vec<PathBuf>,
    /// Directories of another set: a model is trained on each and judged on the other.
    #[arg(long, value_name = "DIRECTORY", num_args = 1..)]
    held_out: Vec<PathBuf>,
    /// Blocks of one chunk, as at ingest, or of similar chunks, as compaction makes them.
    #[arg(long, value_enum, default_value = "ingest")]
    stage: Stage,
    /// Distinct bytes of each set, from files in a random order that is always the same.
    #[arg(long, default_value = "512MiB", value_name = "SIZE", value_parser = bytes)]
    limit: u64,
    /// Print JSON instead of tables.
    #[arg(long)]
    json: bool,
}

#[derive(Debug, Serialize)]
struct Report {
    stage: Stage,
    codecs: Vec<String>,
    sets: Vec<SetReport>,
}

#[derive(Debug, Serialize)]
struct SetReport {
    set: &'static str,
    blocks: usize,
    plain_bytes: u64,
    types: Vec<TypeReport>,
    stopped: StoppedReport,
    rules: Vec<RuleReport>,
}

/// Blocks of files of one type.
#[derive(Debug, Serialize)]
struct TypeReport {
    file_type: FileType,
    plain_bytes: u64,
    /// Part of the plain bytes that the entropy probe stops.
    stopped: f64,
    codecs: Vec<CodecReport>,
}

#[derive(Debug, Serialize)]
struct CodecReport {
    /// Part of the plain bytes that is left.
    left: f64,
    bytes_per_s: f64,
}

/// What is spent on blocks that the entropy probe stops, in nanoseconds per plain byte.
#[derive(Debug, Serialize)]
struct StoppedReport {
    plain_bytes: u64,
    probe: f64,
    match_sample: f64,
    /// The whole call at ingest.
    compress: f64,
    /// A copy of the block, to compare.
    copy: f64,
    /// What is done with it before.
    path: f64,
    codecs: Vec<f64>,
}

#[derive(Debug, Serialize)]
struct RuleReport {
    rule: String,
    left: f64,
    /// Probes and codecs, nanoseconds per plain byte.
    codec_ns_per_byte: f64,
    /// The whole path of a block.
    path_ns_per_byte: f64,
    /// Bytes × CPU of the path, the rule in use being 1.
    product: f64,
}

/// Measures the sets, and judges all rules on each.
pub(crate) fn run(options: &Options) -> anyhow::Result<()> {
    let progress = spinner();
    progress.set_message("every block in every way");
    let seal = seal_seconds_per_byte();
    let known = units(&options.directories, options.stage, options.limit)?;
    let held_out = match &options.held_out[..] {
        [] => None,
        directories => Some(units(directories, options.stage, options.limit)?),
    };
    progress.finish_and_clear();
    let mut sets = Vec::new();
    match &held_out {
        None => sets.push(judge("the files", &known, None, options.stage, seal)),
        Some(held_out) => {
            sets.push(judge("the first set", &known, Some(held_out), options.stage, seal));
            sets.push(judge("the other set", held_out, Some(&known), options.stage, seal));
        }
    }
    let codecs = codings(options.stage).iter().map(|coding| coding.name()).collect();
    print(&Report { stage: options.stage, codecs, sets }, options.json)
}

/// The rule in use, all others, and a tree trained on `other`.
fn rules(units: &[Unit], other: Option<&[Unit]>, stage: Stage, seal: f64) -> Vec<Rule> {
    let in_use = match stage {
        Stage::Ingest => Rule::Entropy(1),
        Stage::Compaction => Rule::Entropy(2),
    };
    let mut rules = vec![in_use.clone()];
    let count = codings(stage).len();
    rules.extend((0..count).map(Rule::Always));
    rules.extend((1..count).map(Rule::Entropy));
    rules.extend((1..count).map(Rule::EntropyAndMatches));
    rules.extend((1..count).map(Rule::TypeAndEntropy));
    if stage == Stage::Ingest {
        rules.push(Rule::EntropyThenNext(1, 2));
        rules.push(Rule::WhereOtherGained(1, 3));
    }
    if let Some(other) = other {
        if stage == Stage::Ingest {
            rules.push(Tree::train(other, &in_use, 2, seal));
        }
        rules.push(Tree::train(other, &in_use, count, seal));
    }
    let reference = in_use.total(units, seal);
    rules.push(best(units, reference, seal, |seconds_per_byte| Rule::Perfect { seconds_per_byte }));
    rules
}

fn judge(set: &'static str, units: &[Unit], other: Option<&Vec<Unit>>, stage: Stage, seal: f64) -> SetReport {
    let plain_bytes: f64 = units.iter().map(|unit| unit.plain_bytes).sum();
    let rules = rules(units, other.map(Vec::as_slice), stage, seal);
    let in_use = rules[0].total(units, seal).product();
    let judged = rules.iter().map(|rule| {
        let total = rule.total(units, seal);
        RuleReport {
            rule: rule.name(codings(stage)),
            left: total.bytes / plain_bytes,
            codec_ns_per_byte: total.codec_seconds / plain_bytes * 1e9,
            path_ns_per_byte: total.seconds / plain_bytes * 1e9,
            product: total.product() / in_use,
        }
    });
    let mut by_type: BTreeMap<FileType, Vec<&Unit>> = BTreeMap::new();
    units.iter().for_each(|unit| by_type.entry(unit.file_type).or_default().push(unit));
    SetReport {
        set,
        blocks: units.len(),
        plain_bytes: plain_bytes as u64,
        types: by_type.iter().map(|(file_type, units)| of_type(*file_type, units, stage)).collect(),
        stopped: stopped(units, stage),
        rules: judged.collect(),
    }
}

fn of_type(file_type: FileType, units: &[&Unit], stage: Stage) -> TypeReport {
    let sum = |value: &dyn Fn(&Unit) -> f64| units.iter().map(|unit| value(unit)).sum::<f64>();
    let plain_bytes = sum(&|unit| unit.plain_bytes);
    let codec = |place: usize| CodecReport {
        left: sum(&|unit| unit.codings[place].bytes) / plain_bytes,
        bytes_per_s: plain_bytes / sum(&|unit| unit.codings[place].seconds),
    };
    TypeReport {
        file_type,
        plain_bytes: plain_bytes as u64,
        stopped: sum(&|unit| if unit.is_stopped { unit.plain_bytes } else { 0.0 }) / plain_bytes,
        codecs: (1..codings(stage).len()).map(codec).collect(),
    }
}

fn stopped(units: &[Unit], stage: Stage) -> StoppedReport {
    let stopped = || units.iter().filter(|unit| unit.is_stopped);
    let plain_bytes: f64 = stopped().map(|unit| unit.plain_bytes).sum();
    let ns = |seconds: &dyn Fn(&Unit) -> f64| stopped().map(seconds).sum::<f64>() / plain_bytes.max(1.0) * 1e9;
    StoppedReport {
        plain_bytes: plain_bytes as u64,
        probe: ns(&|unit| unit.probe_seconds),
        match_sample: ns(&|unit| unit.repeats_seconds),
        compress: ns(&|unit| unit.compress_seconds),
        copy: ns(&|unit| unit.copy_seconds),
        path: ns(&|unit| unit.path_seconds),
        codecs: (1..codings(stage).len()).map(|place| ns(&|unit| unit.codings[place].seconds)).collect(),
    }
}

impl Printed for Report {
    fn words(&self) -> String {
        self.sets.iter().map(|set| set.words(self.stage)).collect::<Vec<_>>().join("\n")
    }
}

impl SetReport {
    fn words(&self, stage: Stage) -> String {
        let codecs = || codings(stage)[1..].iter().map(|coding: &Coding| coding.name());
        let header: Vec<String> = ["type", "plain", "stopped"]
            .map(str::to_owned)
            .into_iter()
            .chain(codecs().map(|codec| format!("{codec}: %, MB/s")))
            .collect();
        let mut types = Table::new(&header.iter().map(String::as_str).collect::<Vec<_>>());
        for of_type in &self.types {
            let cells = of_type
                .codecs
                .iter()
                .map(|codec| format!("{:.1} at {:>5.0}", codec.left * 100.0, codec.bytes_per_s / 1e6));
            let first = [
                of_type.file_type.name().to_owned(),
                human_bytes(of_type.plain_bytes),
                format!("{:.1} %", of_type.stopped * 100.0),
            ];
            types.row(first.into_iter().chain(cells));
        }
        let mut rules = Table::new(&["rule", "left %", "probes, codec ns/B", "path ns/B", "bytes × CPU"]);
        for rule in &self.rules {
            rules.row([
                rule.rule.clone(),
                format!("{:.2}", rule.left * 100.0),
                format!("{:.3}", rule.codec_ns_per_byte),
                format!("{:.3}", rule.path_ns_per_byte),
                format!("{:.3}", rule.product),
            ]);
        }
        let stopped = &self.stopped;
        let of_codecs: String = codecs().zip(&stopped.codecs).map(|(codec, ns)| format!(", {codec} {ns:.3}")).collect();
        format!(
            "{}: {} in {} blocks\n\n{types}\n{} stopped by the probe; ns per byte of it: probe {:.3}, match sample {:.3}, \
             compress() {:.3}, a copy {:.3}, the path before {:.3}{of_codecs}\n\nThe rule in use first:\n{rules}",
            self.set,
            human_bytes(self.plain_bytes),
            self.blocks,
            human_bytes(stopped.plain_bytes),
            stopped.probe,
            stopped.match_sample,
            stopped.compress,
            stopped.copy,
            stopped.path,
        )
    }
}
