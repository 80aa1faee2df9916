//! `dfsd`, the daemon: the REST interface bound to the real world.
//!
//! [`serve`] is the path of a start and a stop, top to bottom; the other files are its steps.

mod cli;
mod data_dir;
mod durable;
mod keys;
mod open_files;
mod serve;
mod token;

use std::process::ExitCode;

use clap::Parser;

fn main() -> ExitCode {
    let cli::Command::Serve(options) = cli::Cli::parse().command;
    match serve::serve(&options) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            server::report!("error: {}", explain(error.chain()));
            ExitCode::FAILURE
        }
    }
}

/// A whole chain of causes in one line, without repeating what an error says of its cause already.
fn explain<'a>(chain: impl Iterator<Item = &'a (dyn std::error::Error + 'static)>) -> String {
    let mut text = String::new();
    for cause in chain.map(ToString::to_string) {
        if text.contains(&cause) {
            continue;
        }
        if !text.is_empty() {
            text.push_str(": ");
        }
        text.push_str(&cause);
    }
    text
}

/// An error of the node, which may not leave its core, as one that may.
fn portable(error: &(dyn std::error::Error + 'static)) -> anyhow::Error {
    anyhow::Error::msg(explain(std::iter::successors(Some(error), |error| error.source())))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn causes_are_named_once() {
        let error = anyhow::anyhow!("no space").context("disk 1: no space").context("cannot start");
        assert_eq!(explain(error.chain()), "cannot start: disk 1: no space");
    }
}
