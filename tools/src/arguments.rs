//! What can be asked for, and the help that teaches it.

use std::ffi::OsString;
use std::path::PathBuf;

use clap::parser::ValueSource;
use clap::{Args, CommandFactory, FromArgMatches, Parser, Subcommand};
use client::DEFAULT_ENDPOINT;

use crate::offline::Offline;
use crate::retention::RetentionCommand;

/// Shown under the list of commands.
const TWO_MINUTES: &str = "\
In two minutes:
  dfsd serve --data ./data &                   start a server
  export DFS_TOKEN_FILE=./data/root-token      it wrote this on its first start
  dfs put report.pdf /documents/               store a file (directories are made on the way)
  dfs ls -l /documents                         see it
  dfs get /documents/report.pdf copy.pdf       fetch it
  dfs put -r ./photos /photos                  store a whole tree: modes, times and symlinks included
  dfs versions /documents/report.pdf           see what was overwritten; `dfs restore` brings it back
  dfs retention set /documents --keep 10       keep the newest ten versions of each file there
  dfs df                                       see what deduplication and compression saved
  dfs gc run --now                             give back the space of what was removed

Remote paths start at '/'. Exit codes: 0 done, 1 failed, 2 wrong usage, 3 not found, 4 token not accepted,
5 server unreachable, 6 conflict (exists, not empty, wrong kind), 7 interrupted or busy: the same command may succeed.
`fsck` and `inspect` read data directories while the server is stopped; their help names their own exit codes.";

/// Stores, fetches and lists files of a DFS server.
#[derive(Debug, Parser)]
#[command(name = "dfs", version, after_help = TWO_MINUTES)]
pub(crate) struct Arguments {
    #[command(flatten)]
    pub(crate) global: Global,
    #[command(subcommand)]
    pub(crate) command: Command,
}

impl Arguments {
    /// Reads a command line, whose first word names the program, and the environment.
    pub(crate) fn read(line: impl IntoIterator<Item = OsString>) -> Result<Arguments, clap::Error> {
        let mut definition = Arguments::command();
        let matches = definition.try_get_matches_from_mut(line)?;
        let mut arguments = Arguments::from_arg_matches(&matches).map_err(|error| error.format(&mut definition))?;
        arguments.global.prefer_options(|id| matches.value_source(id));
        Ok(arguments)
    }
}

/// Flags that every command takes.
#[derive(Debug, Args)]
#[command(next_help_heading = "Options of every command")]
pub(crate) struct Global {
    /// Where dfsd listens.
    #[arg(long, global = true, env = "DFS_ENDPOINT", default_value = DEFAULT_ENDPOINT, value_name = "URL")]
    pub(crate) endpoint: String,
    /// Access token. Other users of this machine may see it in the list of processes: prefer --token-file.
    #[arg(long, global = true, env = "DFS_TOKEN", hide_env_values = true, value_name = "TOKEN")]
    pub(crate) token: Option<String>,
    /// File that holds the access token, such as DATA/root-token of the server. --token wins over it; an option wins
    /// over a variable.
    #[arg(long, global = true, env = "DFS_TOKEN_FILE", value_name = "FILE")]
    pub(crate) token_file: Option<PathBuf>,
    /// Print results as one JSON document on stdout, errors as {"error":{code,message,retryable}} on stderr.
    #[arg(long, global = true)]
    pub(crate) json: bool,
    /// Print errors only.
    #[arg(short, long, global = true)]
    pub(crate) quiet: bool,
}

impl Global {
    /// Forgets a token of the environment where the command line names a file.
    fn prefer_options(&mut self, source: impl Fn(&str) -> Option<ValueSource>) {
        if source("token_file") == Some(ValueSource::CommandLine) && source("token") == Some(ValueSource::EnvVariable) {
            self.token = None;
        }
    }
}

/// How many files of a tree are in flight.
#[derive(Clone, Copy, Debug, Args)]
pub(crate) struct Jobs {
    /// Files of a tree that are transferred at the same time.
    #[arg(short, long, default_value_t = 8, value_name = "N", value_parser = clap::value_parser!(u8).range(1..=64))]
    pub(crate) jobs: u8,
}

/// All commands.
#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    #[command(flatten)]
    Remote(RemoteCommand),
    #[command(flatten)]
    Offline(Offline),
}

/// What to do about garbage collection.
#[derive(Clone, Copy, Debug, Subcommand)]
pub(crate) enum GcCommand {
    /// Show what the running and the last cycles did.
    Status,
    /// Begin a cycle; if one is under way, another one follows it.
    ///
    /// A cycle lets go what no retention keeps, finds what nothing refers to, moves what is alive out of segments that are
    /// mostly dead, and gives those back.
    Run {
        /// Do at full speed all that there is to do, and wait until it is done: what is garbage now is gone, and what was
        /// written is compacted.
        #[arg(long)]
        now: bool,
    },
}

/// Commands that ask a server.
#[derive(Debug, Subcommand)]
pub(crate) enum RemoteCommand {
    /// Store a file, a tree (-r), or standard input (-).
    ///
    /// A REMOTE that is a directory, or ends in '/', receives the file under its own name. With -r, LOCAL's contents
    /// become REMOTE, so that repeating the command updates it; REMOTE/ receives the tree under LOCAL's own name.
    /// Modes, modification times (from 1970 on) and symlinks are kept. Nothing is followed out of a tree; sockets, pipes and devices
    /// are skipped with a warning.
    #[command(after_help = "Examples:\n  dfs put report.pdf /documents/\n  dfs put -r ./photos /photos\n  \
                            pg_dump shop | dfs put - /backups/shop.sql")]
    Put {
        /// File or directory to store; '-' for standard input.
        local: PathBuf,
        /// Where to.
        remote: String,
        /// Store a whole directory.
        #[arg(short, long)]
        recursive: bool,
        /// User metadata of the file; may be repeated.
        #[arg(long = "meta", value_name = "NAME=VALUE", value_parser = parse_pair, conflicts_with = "recursive")]
        metadata: Vec<(String, String)>,
        /// Media type of the file, such as text/plain.
        #[arg(long = "type", value_name = "TYPE", conflicts_with = "recursive")]
        content_type: Option<String>,
        #[command(flatten)]
        jobs: Jobs,
    },
    /// Fetch a file, a tree (-r), or print a file (-).
    ///
    /// A LOCAL that is a directory, or ends in '/', receives the file under its own name. With -r, REMOTE's contents
    /// become LOCAL, so that repeating the command updates it; LOCAL/ receives the tree under REMOTE's own name. A file
    /// appears under its final name only when it is whole. Set-user-id and set-group-id bits of files are not restored,
    /// because owners are not kept.
    #[command(after_help = "Examples:\n  dfs get /documents/report.pdf .\n  dfs get -r /photos ./photos\n  \
                            dfs get /backups/shop.sql - | psql shop\n  \
                            dfs get --version 3 /documents/report.pdf old.pdf")]
    Get {
        /// What to fetch.
        remote: String,
        /// Where to; '-' for standard output.
        local: PathBuf,
        /// Fetch a whole directory.
        #[arg(short, long)]
        recursive: bool,
        /// Fetch this version of the file, as `dfs versions` numbers them.
        #[arg(long, value_name = "N", conflicts_with = "recursive", value_parser = clap::value_parser!(u64).range(1..))]
        version: Option<u64>,
        #[command(flatten)]
        jobs: Jobs,
    },
    /// List a directory, ordered by name.
    ///
    /// With -l: mode, size, modification time (UTC), name, and where a symlink points.
    #[command(after_help = "Examples:\n  dfs ls\n  dfs ls -l /documents\n  \
                            dfs ls --json /documents | jq '.entries[].size'")]
    Ls {
        /// Directory, or anything else to show by itself.
        #[arg(default_value = "/")]
        remote: String,
        /// Show mode, size, time and target.
        #[arg(short, long)]
        long: bool,
    },
    /// Show everything that is known about one path.
    #[command(after_help = "Examples:\n  dfs stat /documents/report.pdf\n  dfs stat --fragments /backups/nightly.tar")]
    Stat {
        /// File, directory or symlink; symlinks are not followed.
        remote: String,
        /// Of a file, also count its chunks, and the fragments in which they lie on the disks: runs that are read
        /// without going elsewhere. The server walks the list of all its chunks for that.
        #[arg(long)]
        fragments: bool,
    },
    /// List the versions of a file, newest first.
    ///
    /// Every write keeps the version before it; those that a retention does not keep for ever say until when (`dfs
    /// retention`). Removing a file, or replacing it by a rename, removes them all.
    #[command(after_help = "Examples:\n  dfs versions /documents/report.pdf\n  \
                            dfs versions --json /documents/report.pdf | jq '.versions[].version'")]
    Versions {
        /// File.
        remote: String,
        /// Count the fragments of each version, as `dfs stat --fragments` does.
        #[arg(long)]
        fragments: bool,
    },
    /// Make an earlier version of a file the next one.
    ///
    /// It comes back with the mode, times and metadata that it had. The versions in between are kept.
    #[command(after_help = "Example:\n  dfs restore /documents/report.pdf --version 3")]
    Restore {
        /// File.
        remote: String,
        /// The version to bring back, as `dfs versions` numbers them.
        #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
        version: u64,
    },
    /// Say which earlier versions stay: `get`, `set` or `clear` the retention of a directory.
    ///
    /// It holds for all files below the directory, down to directories that have their own. An earlier version stays as
    /// long as one of the rules keeps it; without rules, every version stays. The current version always stays. What is
    /// no longer kept goes with the next garbage collection, the oldest first, and nothing brings it back.
    #[command(after_help = "Examples:\n  dfs retention get /backups/shop.sql\n  \
                            dfs retention set /backups --keep 10 --keep-for 30d\n  \
                            dfs retention set /backups/yearly --keep-everything\n  \
                            dfs retention clear /backups")]
    Retention {
        #[command(subcommand)]
        command: RetentionCommand,
    },
    /// Show what was changed, oldest first.
    ///
    /// Shows the changes that the server still remembers; with --since, those after a cursor; with --follow, those to
    /// come as well, until it is interrupted. Each line: cursor, time (UTC), change, path. With --json, each line is one
    /// JSON document.
    #[command(after_help = "Examples:\n  dfs events\n  dfs events --follow --prefix /documents\n  \
                            dfs events --follow --since now --json | jq .path")]
    Events {
        /// Start after this cursor, or at 'now' or 'oldest'.
        #[arg(long, value_name = "CURSOR", default_value = "oldest")]
        since: String,
        /// Go on with the changes to come.
        #[arg(short, long)]
        follow: bool,
        /// Only changes of this path and of what is below it.
        #[arg(long, value_name = "REMOTE")]
        prefix: Option<String>,
    },
    /// Remove files and directories.
    #[command(after_help = "Examples:\n  dfs rm /documents/report.pdf\n  dfs rm -r /photos")]
    Rm {
        /// What to remove.
        #[arg(required = true)]
        remote: Vec<String>,
        /// Remove directories with everything below them.
        #[arg(short, long)]
        recursive: bool,
    },
    /// Rename or move a file or directory.
    ///
    /// A TO that is a directory, or ends in '/', receives FROM under its own name.
    #[command(after_help = "Examples:\n  dfs mv /inbox/scan.pdf /documents/contract.pdf\n  \
                            dfs mv --replace /report.tmp /report.pdf")]
    Mv {
        /// What to rename.
        from: String,
        /// Its new path.
        to: String,
        /// Replace what has the new name, atomically.
        #[arg(long)]
        replace: bool,
    },
    /// Make directories.
    #[command(after_help = "Examples:\n  dfs mkdir /documents\n  dfs mkdir -p /photos/2026/may")]
    Mkdir {
        /// Directories to make.
        #[arg(required = true)]
        remote: Vec<String>,
        /// Make missing parents too, and accept a directory that exists.
        #[arg(short, long)]
        parents: bool,
    },
    /// Show where the space went: what was saved by what, what the disks hold besides, and what is free.
    ///
    /// From what clients wrote, over all versions, take away duplicates (equal chunks are stored once), compression
    /// (chunks by themselves) and similarity (chunks compressed together with similar ones, which garbage collection
    /// does): what is left is stored. With what is dead (removed and not compacted yet, headers, padding), redundancy
    /// (parity), what is reserved for the next writes, and metadata, it is on the disks. The numbers add up exactly.
    #[command(after_help = "Examples:\n  dfs df\n  dfs df --json | jq .reduction_ratio\n\n\
                            Much that is dead or unreferenced comes back with `dfs gc run --now`.")]
    Df,
    /// See how garbage collection goes, or have it run.
    ///
    /// Space of what was removed comes back by itself after a while, and what was written is laid beside what is similar, so
    /// that both take less; this is for who wants it now.
    #[command(subcommand, after_help = "Examples:\n  dfs gc status\n  dfs gc run --now")]
    Gc(GcCommand),
}

/// Reads `NAME=VALUE`.
fn parse_pair(text: &str) -> Result<(String, String), String> {
    match text.split_once('=') {
        Some((name, value)) if !name.is_empty() => Ok((name.to_ascii_lowercase(), value.to_owned())),
        _ => Err("write it as NAME=VALUE".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_definition_is_consistent() {
        Arguments::command().debug_assert();
    }

    #[test]
    fn a_token_file_of_the_command_line_wins_over_a_token_of_the_environment() {
        use ValueSource::{CommandLine, EnvVariable};
        let token_of = |token, file| {
            let line = ["dfs", "--token", "secret", "--token-file", "file", "df"];
            let mut global = Arguments::read(line.map(OsString::from)).unwrap().global;
            global.prefer_options(|id| Some(if id == "token" { token } else { file }));
            global.token
        };
        assert_eq!(token_of(EnvVariable, CommandLine), None);
        for (token, file) in [(CommandLine, CommandLine), (CommandLine, EnvVariable), (EnvVariable, EnvVariable)] {
            assert_eq!(token_of(token, file).as_deref(), Some("secret"));
        }
    }

    #[test]
    fn the_source_of_a_global_option_is_known_wherever_it_stands() {
        for line in [["dfs", "--token-file", "file", "df"], ["dfs", "df", "--token-file", "file"]] {
            let matches = Arguments::command().try_get_matches_from(line).unwrap();
            assert_eq!(matches.value_source("token_file"), Some(ValueSource::CommandLine));
        }
    }

    #[test]
    fn every_short_pair_is_read_or_refused() {
        const CHARACTERS: [&str; 5] = ["=", "A", "ü", "\0", ""];
        for number in 0..CHARACTERS.len().pow(5) {
            let digits = (0..5).map(|place| number / CHARACTERS.len().pow(place) % CHARACTERS.len());
            let text: String = digits.map(|digit| CHARACTERS[digit]).collect();
            match parse_pair(&text) {
                Ok((name, value)) => assert_eq!(format!("{name}={value}").to_lowercase(), text.to_lowercase()),
                Err(_) => assert!(!text.contains('=') || text.starts_with('='), "{text:?}"),
            }
        }
    }

    #[test]
    fn every_command_teaches_by_example() {
        for command in Arguments::command().get_subcommands() {
            let help = command.get_after_help().map(ToString::to_string).unwrap_or_default();
            assert!(help.contains(&format!("dfs {}", command.get_name())), "{}", command.get_name());
        }
    }
}
