//! `dfs-bench`: how fast DFS and its parts are on this machine.
//!
//! On a server:
//! * [`load`]: `put`, `get`, `mixed`, `meta` in a closed or open loop. [`corpus`]: a real tree in and out.
//! * [`fragmentation`]: how versions that share data come back, before and after compaction.
//! * [`server`]: the server under load. [`http`]: a connection to it. [`latency`]: what was measured, without lies.
//!
//! Parts alone:
//! * [`pipeline`]: the in-memory stages of a write. [`similar`]: what warm blocks save and cost. [`codec`]: how to choose the
//!   codec of a block. [`device`]: disks and engines. [`fill`]: very many chunks.
//!
//! Beside them: [`data`], reproducible input; [`clock`] and [`process`], time and what it cost; [`report`], tables and
//! JSON; [`units`], sizes and durations as people write them.

mod clock;
mod codec;
mod corpus;
mod data;
mod device;
mod fill;
mod fragmentation;
mod http;
mod latency;
mod load;
mod pipeline;
mod process;
mod report;
mod server;
mod similar;
mod units;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

/// Shown under the list of commands.
const HELP: &str = "\
With a server of its own, stopped afterwards (its data directory stays; remove it yourself):
  dfs-bench put --serve /mnt/disk/scratch --size 64KiB --duration 10s --concurrency 32
  dfs-bench corpus ./backups --serve /mnt/disk/scratch

With a running server:
  export DFS_TOKEN_FILE=/srv/dfs/root-token
  dfs-bench mixed --size 1MiB --duration 30s --rate 200 --pid $(pidof dfsd)

Parts alone:
  dfs-bench pipeline
  dfs-bench device --path /mnt/disk

Results go to standard output, progress to standard error. Machines are noisy: ratios of one run mean more than absolute
numbers of two. Exit codes: 0 every operation succeeded, 1 some failed or the run could not be made, 2 wrong usage.";

/// Measures DFS and its parts on this machine.
#[derive(Debug, Parser)]
#[command(name = "dfs-bench", version, after_help = HELP)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Write files: every one is new, and durable when it is answered.
    #[command(after_help = "Examples:\n  dfs-bench put --size 64KiB --count 10000 --concurrency 32\n  \
                            dfs-bench put --data text --size 16MiB --duration 10s --concurrency 4\n  \
                            dfs-bench put --size 4KiB --rate 2000 --duration 30s --warmup 5s")]
    Put(load::PutOptions),
    /// Read files in random order; they are written first, which is not measured.
    #[command(after_help = "Examples:\n  dfs-bench get --size 1MiB --files 500 --duration 10s\n  \
                            dfs-bench get --data ./photos --files 200 --count 1000")]
    Get(load::GetOptions),
    /// Read and write files together.
    #[command(after_help = "Example:\n  dfs-bench mixed --read-percent 90 --size 64KiB --rate 500 --duration 30s")]
    Mixed(load::MixedOptions),
    /// Make, look at, list, rename and remove small files: metadata alone.
    ///
    /// 20 % create, 45 % stat, 5 % list (100 entries), 10 % rename, 20 % delete; each connection in its own directory.
    #[command(after_help = "Example:\n  dfs-bench meta --duration 10s --concurrency 64")]
    Meta(load::MetaOptions),
    /// Store all files of a directory, restore them, compare every byte; tell ratios, speed and CPU time.
    #[command(after_help = "Examples:\n  dfs-bench corpus ./backups --serve /mnt/disk/scratch\n  \
                            dfs-bench corpus ./backups --again --pid $(pidof dfsd) --json\n  \
                            dfs-bench corpus ./backups --serve /mnt/disk/scratch --cores 2 --collect --half --html \
                            space.html")]
    Corpus(corpus::Options),
    /// Restore versions that were stored one after another: how fragmented each is, and how fast it comes back.
    ///
    /// The files of a directory, by name, are the versions, from the oldest to the newest. Each is restored several times,
    /// in turn with the others: right after a start (with --serve), and once more. Then garbage is collected, which
    /// regroups what is alike, and all are restored again.
    #[command(after_help = "Example:\n  dfs-bench fragmentation ./backups --serve /mnt/disk/scratch --cores 2")]
    Fragmentation(fragmentation::Options),
    /// Stages of a write in memory: cut, id, compress, seal, row, the whole chain, and the chain on several cores.
    ///
    /// The chain is compared with what its stages allow together, 1/Σ(1/stage), and several cores with one.
    #[command(after_help = "Examples:\n  dfs-bench pipeline\n  dfs-bench pipeline --data text --mib 256 --cores 4")]
    Pipeline(pipeline::Options),
    /// What similar chunks save in warm blocks, in memory: ratio, speed of each stage, what readers decode.
    #[command(after_help = "Examples:\n  dfs-bench similar ./backups\n  \
                            dfs-bench similar ./backups --cores 1,2 --block 256KiB,1MiB --level 1,3 --json")]
    Similar(similar::Options),
    /// How to choose the codec of a block: rules over cheap probes, a trained model, perfect knowledge.
    #[command(after_help = "Examples:\n  dfs-bench codec ./backups\n  \
                            dfs-bench codec ./backups --held-out /usr/lib ./photos --stage compaction")]
    Codec(codec::Options),
    /// What a disk can do: reads and writes at several sizes and depths, latency and CPU time per operation.
    #[command(after_help = "Examples:\n  dfs-bench device --path /mnt/disk\n  \
                            dfs-bench device --path /mnt/disk --engine raw,monoio --pattern rand-read --size 4KiB \
                            --depth 1,32,128")]
    Device(device::Options),
    /// Make a data directory of very many chunks with the real writer, or tell how long it takes to open.
    #[command(after_help = "Examples:\n  dfs-bench fill --data /mnt/disk/many --chunks 10000000\n  \
                            dfs-bench fill --data /mnt/disk/many --reopen\n  dfsd serve --data /mnt/disk/many")]
    Fill(fill::Options),
}

/// What came of a run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Verdict {
    /// Every operation succeeded.
    Good,
    /// Some failed; the report says which.
    Failed,
}

fn main() -> anyhow::Result<ExitCode> {
    let verdict = match Arguments::parse().command {
        Command::Put(options) => load::put(&options)?,
        Command::Get(options) => load::get(&options)?,
        Command::Mixed(options) => load::mixed(&options)?,
        Command::Meta(options) => load::meta(&options)?,
        Command::Corpus(options) => corpus::run(&options)?,
        Command::Fragmentation(options) => fragmentation::run(&options)?,
        Command::Pipeline(options) => pipeline::run(&options).map(|()| Verdict::Good)?,
        Command::Similar(options) => similar::run(&options).map(|()| Verdict::Good)?,
        Command::Codec(options) => codec::run(&options).map(|()| Verdict::Good)?,
        Command::Device(options) => device::run(&options).map(|()| Verdict::Good)?,
        Command::Fill(options) => fill::run(&options).map(|()| Verdict::Good)?,
    };
    Ok(match verdict {
        Verdict::Good => ExitCode::SUCCESS,
        Verdict::Failed => ExitCode::FAILURE,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    #[test]
    fn the_definition_is_consistent() {
        Arguments::command().debug_assert();
    }

    #[test]
    fn every_command_teaches_by_example() {
        for command in Arguments::command().get_subcommands() {
            let help = command.get_after_help().map(ToString::to_string).unwrap_or_default();
            assert!(help.contains(&format!("dfs-bench {}", command.get_name())), "{}", command.get_name());
        }
    }

    #[test]
    fn the_shares_that_help_tells_are_those_that_are_drawn() {
        assert_eq!(load::SHARES, [20, 45, 5, 10, 20]);
    }
}
