//! What `fsck` and `inspect` share: they read data directories themselves, while no server does.

use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Args, Subcommand};
use node::offline::{ClaimError, Directories};
use proto::api::{ErrorBody, ErrorDetail};

use crate::fsck::{self, FsckOptions};
use crate::inspect::{self, InspectOptions};
use crate::output::{Output, printable};

/// Nothing is wrong.
pub(crate) const EXIT_CLEAN: u8 = 0;
/// Something is damaged, yet nothing is lost.
pub(crate) const EXIT_WARNINGS: u8 = 1;
/// Bytes are lost, or the node does not start.
pub(crate) const EXIT_DAMAGED: u8 = 4;
/// It could not be found out.
pub(crate) const EXIT_NOT_CHECKED: u8 = 8;

/// Commands that need no server.
#[derive(Debug, Subcommand)]
pub(crate) enum Offline {
    /// Check data directories: every structure, every chunk, every byte of every file. Changes nothing.
    ///
    /// The server must be stopped; the command holds the directories' locks meanwhile. Problems come as `damage`
    /// (bytes of a file cannot be read, or the server does not start), `warning` (something is damaged, but every file
    /// reads in full) and `info` (left by a crash, and harmless); each with what it means and which file it costs.
    ///
    /// Exit codes, as of fsck(8): 0 clean or `info` only, 1 warnings, 4 damage, 8 could not be checked.
    #[command(after_help = "Examples:\n  dfs fsck --data /srv/dfs\n  dfs fsck --data /srv/dfs --quick\n  \
                            dfs fsck --data /srv/dfs --json | jq '.problems[] | select(.severity == \"damage\")'")]
    Fsck(FsckOptions),
    /// Show single structures of data directories: what they say, and why they are refused if they are.
    ///
    /// The server must be stopped. No content of files and no key is shown.
    ///
    /// Exit codes: 0 shown, 4 shown and damaged, 8 could not be shown.
    #[command(
        after_help = "Examples:\n  dfs inspect superblock --data /srv/dfs\n  dfs inspect segment --data /srv/dfs\n  \
                            dfs inspect row --data /srv/dfs 0000000001000001 7\n  \
                            dfs inspect wal --data /srv/dfs wal-00-0000000000000003 --json"
    )]
    Inspect(InspectOptions),
}

/// Where the data is.
#[derive(Args, Clone, Debug)]
pub(crate) struct Data {
    /// Data directory, as `dfsd serve` names it; repeat it for a node with several, with the same one first.
    #[arg(long, required = true, value_name = "DIR")]
    pub(crate) data: Vec<PathBuf>,
    /// The key file [default: DIR/keys in the first data directory].
    #[arg(long, value_name = "FILE")]
    pub(crate) key_file: Option<PathBuf>,
}

impl Data {
    /// Claims the directories for reading.
    pub(crate) fn claim(&self) -> Result<Directories, ClaimError> {
        Directories::claim(&self.data, self.key_file.as_deref())
    }
}

/// Carries out `command`.
pub(crate) fn run(output: Output, command: Offline) -> ExitCode {
    ExitCode::from(match command {
        Offline::Fsck(options) => fsck::run(output, &options),
        Offline::Inspect(options) => inspect::run(output, options),
    })
}

/// Tells why nothing could be found out.
pub(crate) fn refuse(output: Output, error: &impl std::error::Error) -> u8 {
    if output.json {
        let error = ErrorDetail { code: "not_checked".to_owned(), message: error.to_string(), retryable: false };
        let body = serde_json::to_string(&ErrorBody { error });
        eprintln!("{}", body.expect("invariant: strings and flags are always JSON"));
    } else {
        eprintln!("dfs: {}", printable(&error.to_string()));
    }
    EXIT_NOT_CHECKED
}
