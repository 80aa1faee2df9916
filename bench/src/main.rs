//! `dfs-bench`: how fast the parts of DFS are on this machine.
//!
//! * [`pipeline`]: the in-memory stages of a write, each alone and the real chain.
//! * [`data`]: reproducible input.
//! * [`report`]: medians, as a table for people or as JSON.

mod data;
mod pipeline;
mod report;

use clap::{Parser, Subcommand};

/// Measures the parts of DFS on this machine.
///
/// Machines are noisy: every number is the median of interleaved rounds, and ratios of one run mean more than absolute
/// numbers of two.
#[derive(Parser)]
#[command(name = "dfs-bench", version)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Stages of a write in memory on one core: cut, id, compress, seal, row, and the whole chain.
    ///
    /// The chain is compared with what its stages allow together, 1/Σ(1/stage).
    ///
    /// Example: dfs-bench pipeline --data text --mib 64
    Pipeline(pipeline::Options),
}

fn main() -> anyhow::Result<()> {
    match Arguments::parse().command {
        Command::Pipeline(options) => pipeline::run(&options),
    }
}
