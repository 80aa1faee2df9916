//! The command line.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, Parser, Subcommand};
use node::GcOptions;
use proto::limits::CORES_MAX;

/// The DFS daemon: stores files deduplicated, compressed and encrypted, and serves them over HTTP.
#[derive(Debug, Parser)]
#[command(
    name = "dfsd",
    version,
    after_help = "Example:\n  dfsd serve --data /srv/dfs\n\n`dfsd serve --help` explains every option."
)]
pub(crate) struct Cli {
    #[command(subcommand)]
    pub(crate) command: Command,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Serve the files of one or more data directories
    Serve(ServeOptions),
}

const SERVE_HELP: &str = "\
The first start formats the data directories, makes a key file, and writes the token that every call presents:

  dfsd serve --data /srv/dfs
  curl -H \"Authorization: Bearer $(cat /srv/dfs/root-token)\" -T report.pdf \\
       http://127.0.0.1:7400/api/v1/fs/documents/report.pdf

`dfsd ready: ...` on standard output says that it serves; progress and warnings go to standard error. SIGTERM and
SIGINT let requests under way finish (at most 8 seconds) and stop; a second signal stops at once. Whatever was
acknowledged survives any way of stopping.

Exit status: 0 stopped as asked, 1 could not start or serve, 2 wrong options.";

#[derive(Args, Clone, Debug)]
#[command(after_long_help = SERVE_HELP)]
pub(crate) struct ServeOptions {
    /// Data directory; repeat it to use several
    ///
    /// Put each on its own disk, on ext4 or XFS. A directory that does not exist is created. Later starts need exactly
    /// the same directories, in any order but with the same one first.
    #[arg(long, required = true, value_name = "DIR")]
    pub(crate) data: Vec<PathBuf>,

    /// Address and port to serve on; port 0 takes a free one
    ///
    /// The protocol is plain HTTP with a bearer token: keep it on a loopback address, or behind a proxy that speaks
    /// TLS.
    #[arg(long, default_value = "127.0.0.1:7400", value_name = "ADDRESS:PORT", value_parser = address)]
    pub(crate) listen: SocketAddr,

    /// How many cores serve, or which: `all`, a number, or a list of CPUs to pin to, such as `0-3`
    ///
    /// `all` takes as many as this process may use. A number leaves the choice of CPUs to the kernel. A list has commas
    /// or ranges (`0,2`, `4-7`; one CPU is written `3-3`) and pins one thread to each. The number may change from start
    /// to start.
    #[arg(long, default_value = "all", value_name = "all|N|LIST", value_parser = cores)]
    pub(crate) cores: CoreChoice,

    /// The key file; made on the first start [default: DIR/keys in the first data directory]
    ///
    /// Without it the data cannot be read, and whoever has it together with the disks can read the data. Keep it on
    /// another device than the data, and a copy elsewhere.
    #[arg(long, value_name = "FILE")]
    pub(crate) key_file: Option<PathBuf>,

    /// Seconds between two collections of garbage; 0 leaves them to `dfs gc run`
    ///
    /// One begins sooner when much was removed, and none where nothing changed.
    #[arg(long, default_value_t = 3600, value_name = "SECONDS")]
    pub(crate) gc_interval: u32,

    /// Percent of one core that a collection may take
    #[arg(long, default_value_t = 20, value_name = "PERCENT", value_parser = clap::value_parser!(u8).range(1..=100))]
    pub(crate) gc_budget: u8,
}

impl ServeOptions {
    /// When garbage is collected.
    pub(crate) fn gc(&self) -> GcOptions {
        GcOptions {
            automatic: self.gc_interval > 0,
            interval: Duration::from_secs(self.gc_interval.into()),
            budget_percent: self.gc_budget,
        }
    }
}

/// Which cores serve.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum CoreChoice {
    /// One for each CPU that this process may use.
    All,
    /// So many, wherever the kernel likes.
    Count(usize),
    /// One on each of these CPUs.
    Pinned(Vec<usize>),
}

impl CoreChoice {
    /// The CPU of each core; `None`: wherever the kernel likes.
    pub(crate) fn pins(&self) -> std::io::Result<Vec<Option<usize>>> {
        Ok(match self {
            CoreChoice::All => vec![None; net::cpus()?.len().clamp(1, CORES_MAX)],
            CoreChoice::Count(count) => vec![None; *count],
            CoreChoice::Pinned(cpus) => cpus.iter().copied().map(Some).collect(),
        })
    }
}

fn address(text: &str) -> Result<SocketAddr, String> {
    text.parse().map_err(|_| "expected an IP address and a port, such as 127.0.0.1:7400 or [::1]:7400".to_owned())
}

fn cores(text: &str) -> Result<CoreChoice, String> {
    let malformed = || "expected `all`, a number of cores, or a list of CPUs such as 0,2 or 4-7".to_owned();
    let number = |text: &str| text.trim().parse::<usize>().map_err(|_| malformed());
    let possible = |count: usize| match count {
        0 => Err("at least one core is needed".to_owned()),
        1..=CORES_MAX => Ok(()),
        _ => Err(format!("{count} cores were asked for; a node has at most {CORES_MAX}: run several nodes instead")),
    };
    if text == "all" {
        return Ok(CoreChoice::All);
    }
    if !text.contains([',', '-']) {
        let count = number(text)?;
        return possible(count).map(|()| CoreChoice::Count(count));
    }
    let mut cpus = std::collections::BTreeSet::new();
    for part in text.split(',').filter(|part| !part.trim().is_empty()) {
        let (first, last) = part.split_once('-').unwrap_or((part, part));
        let (first, last) = (number(first)?, number(last)?);
        if first > last || last > CPU_MAX {
            return Err(malformed());
        }
        cpus.extend(first..=last);
    }
    if cpus.is_empty() {
        return Err(malformed());
    }
    possible(cpus.len()).map(|()| CoreChoice::Pinned(cpus.into_iter().collect()))
}

/// Highest CPU that Linux can be built for, and then some.
const CPU_MAX: usize = 65_535;

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    #[test]
    fn the_definition_is_sound() {
        Cli::command().debug_assert();
    }

    #[test]
    fn cores_are_counted_or_listed() {
        assert_eq!((cores("all"), cores("1")), (Ok(CoreChoice::All), Ok(CoreChoice::Count(1))));
        assert_eq!(cores("64"), Ok(CoreChoice::Count(64)));
        for list in ["3-3", "3,", "3,3"] {
            assert_eq!(cores(list), Ok(CoreChoice::Pinned(vec![3])), "{list}");
        }
        assert_eq!(cores("0,4-6"), Ok(CoreChoice::Pinned(vec![0, 4, 5, 6])));
        for many in ["65", "0-64"] {
            assert!(cores(many).unwrap_err().contains("65 cores"), "{many}");
        }
        for wrong in ["", "0", "x", "3-1", "-", ",", "1-x", "-1", "0-99999999999", "ALL"] {
            assert!(cores(wrong).is_err(), "{wrong:?}");
        }
    }

    #[test]
    fn every_short_list_of_cores_is_read_or_refused() {
        const CHARACTERS: [&str; 8] = ["0", "9", ",", "-", " ", "+", "65536", ""];
        for number in 0..CHARACTERS.len().pow(5) {
            let digits = (0..5).map(|place| number / CHARACTERS.len().pow(place) % CHARACTERS.len());
            let text: String = digits.map(|digit| CHARACTERS[digit]).collect();
            match cores(&text) {
                Ok(CoreChoice::Count(count)) => assert!((1..=CORES_MAX).contains(&count), "{text:?}"),
                Ok(CoreChoice::Pinned(cpus)) => {
                    assert!(
                        (1..=CORES_MAX).contains(&cpus.len()) && cpus.iter().all(|cpu| *cpu <= CPU_MAX),
                        "{text:?}"
                    );
                }
                Ok(CoreChoice::All) => panic!("{text:?} is not `all`"),
                Err(message) => assert!(!message.is_empty()),
            }
        }
    }

    #[test]
    fn options_have_useful_defaults() {
        let Command::Serve(options) =
            Cli::try_parse_from(["dfsd", "serve", "--data", "a", "--data", "b"]).unwrap().command;
        assert_eq!(options.data, [PathBuf::from("a"), PathBuf::from("b")]);
        assert_eq!(options.gc(), GcOptions::default());
        assert_eq!((options.listen, options.cores), ("127.0.0.1:7400".parse().unwrap(), CoreChoice::All));
        let Command::Serve(never) =
            Cli::try_parse_from(["dfsd", "serve", "--data", "a", "--gc-interval", "0"]).unwrap().command;
        assert!(!never.gc().automatic);
        assert!(Cli::try_parse_from(["dfsd", "serve", "--data", "a", "--gc-budget", "0"]).is_err());
        assert!(Cli::try_parse_from(["dfsd", "serve"]).is_err());
        assert!(Cli::try_parse_from(["dfsd", "serve", "--data", "a", "--listen", "localhost"]).is_err());
    }
}
