//! `dfs`: the command-line client.
//!
//! Read it in this order: `arguments` (what can be asked), `commands` (one file per group of commands), `upload` and
//! `download` (one file at a time, then whole trees), `history` (versions and changes), `local` (the only place that
//! touches the local file system by name), `failure` (what can go wrong, its exit code and its words), `offline` (the
//! commands that need no server).
//!
//! Invariants
//!
//! * Results go to stdout, everything else to stderr; `--json` makes both machine-readable.
//! * A local file appears under its final name whole and durable, or not at all.
//! * Inside a tree no symlink is ever followed, neither one that was there nor one that the server sent.
//! * One failing file does not stop its tree, but it is named at the end and the exit code says so.

mod arguments;
mod commands;
mod context;
mod download;
mod failure;
mod fsck;
mod gc;
mod history;
mod inspect;
mod local;
mod offline;
mod output;
mod pool;
mod progress;
mod remote;
mod report;
mod retention;
mod space;
mod upload;

use std::process::ExitCode;

use clap::error::ErrorKind;

use arguments::{Arguments, Command};
use context::Context;
use failure::Failure;
use output::Output;

fn main() -> ExitCode {
    let arguments = match Arguments::read(std::env::args_os()) {
        Ok(arguments) => arguments,
        Err(error) => return refuse_arguments(&error),
    };
    let json = arguments.global.json;
    let command = match arguments.command {
        Command::Remote(command) => command,
        Command::Offline(command) => return offline::run(Output { json, quiet: arguments.global.quiet }, command),
    };
    match Context::new(arguments.global).and_then(|context| commands::run(&context, command)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            failure.report(json);
            ExitCode::from(failure.exit_code())
        }
    }
}

/// Prints help where help was asked for, and says what is wrong with the arguments otherwise.
fn refuse_arguments(error: &clap::Error) -> ExitCode {
    let is_help = matches!(error.kind(), ErrorKind::DisplayHelp | ErrorKind::DisplayVersion);
    let json = std::env::args_os().any(|argument| argument == "--json");
    if json && !is_help {
        let failure = Failure::Usage(error.render().to_string().trim_end().to_owned());
        failure.report(json);
        return ExitCode::from(failure.exit_code());
    }
    // Nothing is left to be told to somebody whose terminal is gone.
    let _ = error.print();
    ExitCode::from(u8::try_from(error.exit_code()).unwrap_or(failure::EXIT_USAGE))
}
