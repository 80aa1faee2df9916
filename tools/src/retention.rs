//! `dfs retention`: which earlier versions of the files below a directory stay.

use clap::{Args, Subcommand};
use proto::api::{Retention, RetentionInfo};

use crate::context::Context;
use crate::failure::Failure;
use crate::output::printable;
use crate::remote::Remote;

/// Units of a duration, the longest first.
const UNITS: [(char, u64, &str); 5] =
    [('w', 604_800, "week"), ('d', 86_400, "day"), ('h', 3_600, "hour"), ('m', 60, "minute"), ('s', 1, "second")];
/// The longest duration that the server takes: 64 bits of nanoseconds.
const DURATION_SECONDS_MAX: u64 = u64::MAX / 1_000_000_000;

/// What to do with the retention of a path.
#[derive(Debug, Subcommand)]
pub(crate) enum RetentionCommand {
    /// Show what holds for a path, and where that comes from.
    Get {
        /// Directory, or a file in one.
        #[arg(default_value = "/")]
        remote: String,
    },
    /// Set the retention of a directory, in place of the one that it has.
    Set {
        /// Directory.
        remote: String,
        #[command(flatten)]
        rules: Rules,
    },
    /// Forget the retention of a directory, so that the one of the directory above it holds.
    Clear {
        /// Directory.
        remote: String,
    },
}

/// At least one of them.
#[derive(Debug, Args)]
#[group(required = true, multiple = true)]
pub(crate) struct Rules {
    /// Keep the newest N versions of each file; the current one counts.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    keep: Option<u32>,
    /// Keep each version for so long after the next one replaced it: 90m, 36h, 30d, 12w.
    #[arg(long, value_name = "DURATION", value_parser = parse_duration)]
    keep_for: Option<u64>,
    /// Keep every version, whatever the directory above says.
    #[arg(long, conflicts_with_all = ["keep", "keep_for"])]
    keep_everything: bool,
}

/// Carries out `command`.
pub(crate) fn run(context: &Context, command: RetentionCommand) -> Result<(), Failure> {
    let client = &context.client;
    let (path, info) = match command {
        RetentionCommand::Get { remote } => {
            let path = Remote::parse(&remote)?.path;
            let info = client.retention(&path);
            (path, info)
        }
        RetentionCommand::Set { remote, rules: Rules { keep, keep_for, keep_everything } } => {
            let path = Remote::parse(&remote)?.path;
            let info = client.set_retention(&path, &Retention { keep, keep_for_seconds: keep_for, keep_everything });
            (path, info)
        }
        RetentionCommand::Clear { remote } => {
            let path = Remote::parse(&remote)?.path;
            let info = client.clear_retention(&path);
            (path, info)
        }
    };
    let info = info.map_err(|error| {
        let hint = "a retention belongs to a directory, and holds for all files below it";
        Failure::remote(&path, error).hinted_if("not_a_directory", hint)
    })?;
    if context.output.json {
        return context.output.result(&info, String::new);
    }
    context.output.line(&printable(&in_words(&info)).replace('\n', "\\n"))
}

/// What holds for a path, and why.
pub(crate) fn in_words(info: &RetentionInfo) -> String {
    let why = match &info.from {
        None => "nothing is set here or above".to_owned(),
        Some(from) if *from == info.path => "set here".to_owned(),
        Some(from) => format!("set on {from}"),
    };
    format!("{}: {} ({why})", info.path, rules_in_words(&info.in_force))
}

fn rules_in_words(rules: &Retention) -> String {
    let newest = rules.keep.map(|keep| match keep {
        1 => "the current version".to_owned(),
        _ => format!("the newest {keep} versions"),
    });
    let recent = rules.keep_for_seconds.map(|seconds| format!("each for {} after it was replaced", duration(seconds)));
    match (newest, recent) {
        (None, None) => "keeps every version".to_owned(),
        (Some(newest), Some(recent)) => format!("keeps {newest}, and {recent}"),
        (Some(only), None) | (None, Some(only)) => format!("keeps {only}"),
    }
}

/// A duration in the largest unit that measures it without a rest.
fn duration(seconds: u64) -> String {
    let unit = UNITS.iter().find(|(_, unit, _)| seconds.is_multiple_of(*unit));
    let (_, unit, name) = unit.expect("invariant: a second measures all");
    let count = seconds / unit;
    format!("{count} {name}{}", if count == 1 { "" } else { "s" })
}

/// Reads `90m`, `36h`, `30d`, `12w` as seconds.
fn parse_duration(text: &str) -> Result<u64, String> {
    let bad = || "write it as a number and one of s, m, h, d, w: 90m, 36h, 30d, 12w".to_owned();
    let letter = text.chars().last().ok_or_else(bad)?;
    let (_, unit, _) = UNITS.iter().find(|(unit, ..)| *unit == letter).ok_or_else(bad)?;
    let count = &text[..text.len() - 1];
    if count.is_empty() || !count.bytes().all(|byte| byte.is_ascii_digit()) {
        return Err(bad());
    }
    let seconds = count.parse::<u64>().ok().and_then(|count| count.checked_mul(*unit));
    match seconds {
        Some(0) => Err("it is at least one second".to_owned()),
        Some(seconds) if seconds <= DURATION_SECONDS_MAX => Ok(seconds),
        _ => Err("it is at most 30500w".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_short_duration_is_read_or_refused() {
        const CHARACTERS: [&str; 7] = ["0", "9", "h", "w", "-", "ü", ""];
        for number in 0..CHARACTERS.len().pow(5) {
            let digits = (0..5).map(|place| number / CHARACTERS.len().pow(place) % CHARACTERS.len());
            let text: String = digits.map(|digit| CHARACTERS[digit]).collect();
            let count = text
                .strip_suffix('h')
                .map(|count| (count, 3_600))
                .or(text.strip_suffix('w').map(|count| (count, 604_800)));
            let wanted =
                count.and_then(|(count, unit)| Some(count.parse::<u64>().ok()? * unit)).filter(|wanted| *wanted > 0);
            assert_eq!(parse_duration(&text).ok(), wanted, "{text:?}");
        }
    }

    #[test]
    fn durations_are_read_and_said_in_their_units() {
        for (text, seconds, words) in [
            ("1s", 1, "1 second"),
            ("90m", 5_400, "90 minutes"),
            ("60m", 3_600, "1 hour"),
            ("36h", 129_600, "36 hours"),
            ("30d", 2_592_000, "30 days"),
            ("14d", 1_209_600, "2 weeks"),
            ("30500w", 18_446_400_000, "30500 weeks"),
            ("18446744073s", DURATION_SECONDS_MAX, "18446744073 seconds"),
        ] {
            assert_eq!(parse_duration(text), Ok(seconds), "{text}");
            assert_eq!(duration(seconds), words);
        }
        for text in ["", "d", "30", "1.5d", "-1d", "+1d", "30 d", "1y", "0d", "30d ", "1ü", "30501w", "1D"] {
            assert!(parse_duration(text).is_err(), "{text:?}");
        }
        for text in ["18446744073709551616s", "18446744073709551615w", "18446744074s"] {
            assert!(parse_duration(text).unwrap_err().contains("at most"), "{text:?}");
        }
    }

    #[test]
    fn what_holds_is_said_with_its_reason() {
        let said = |keep, keep_for_seconds, from: Option<&str>| {
            let in_force = Retention { keep, keep_for_seconds, keep_everything: false };
            in_words(&RetentionInfo { path: "/a".to_owned(), own: None, in_force, from: from.map(str::to_owned) })
        };
        assert_eq!(said(None, None, None), "/a: keeps every version (nothing is set here or above)");
        assert_eq!(said(Some(1), None, Some("/a")), "/a: keeps the current version (set here)");
        assert_eq!(
            said(Some(3), Some(86_400), Some("/")),
            "/a: keeps the newest 3 versions, and each for 1 day after it was replaced (set on /)"
        );
    }
}
