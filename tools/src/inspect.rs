//! `dfs inspect`: shows what `node::inspect` answers, as lines and tables or as JSON.

use clap::{Args, Subcommand};
use node::inspect::{Pairs, Question, Value};
use proto::SegmentId;

use crate::offline::{Data, EXIT_CLEAN, EXIT_DAMAGED, refuse};
use crate::output::{Output, printable};

#[derive(Args, Clone, Debug)]
pub(crate) struct InspectOptions {
    #[command(subcommand)]
    structure: Structure,
}

#[derive(Clone, Debug, Subcommand)]
enum Structure {
    /// The superblock of each directory, every copy.
    Superblock {
        #[command(flatten)]
        data: Data,
    },
    /// All segments in brief, or one: headers, footers, and what lies between.
    Segment {
        #[command(flatten)]
        data: Data,
        /// The segment: 16 hexadecimal digits, as in the names of its files.
        #[arg(value_parser = segment_id)]
        segment: Option<SegmentId>,
    },
    /// One row: its pieces, its table, every block and the ids of its chunks.
    Row {
        #[command(flatten)]
        data: Data,
        /// The segment: 16 hexadecimal digits, as in the names of its files.
        #[arg(value_parser = segment_id)]
        segment: SegmentId,
        /// The row, counted from 1.
        row: u64,
    },
    /// The metadata logs in brief, or one with each batch and command.
    Wal {
        #[command(flatten)]
        data: Data,
        /// The file, such as wal-00-0000000000000003.
        file: Option<String>,
    },
    /// The metadata snapshots: frames, and how many pairs there are of each kind.
    Snapshot {
        #[command(flatten)]
        data: Data,
        /// The file, such as snapshot-0000000000001f40.
        file: Option<String>,
        /// Show every pair, decoded. Takes memory for all of them.
        #[arg(long)]
        keys: bool,
    },
}

fn segment_id(text: &str) -> Result<SegmentId, String> {
    let digits = text.split('.').next().unwrap_or(text);
    u64::from_str_radix(digits, 16).map(SegmentId).map_err(|_| "expected up to 16 hexadecimal digits".to_owned())
}

/// Shows, and returns the exit code.
pub(crate) fn run(output: Output, options: InspectOptions) -> u8 {
    let (data, question) = match options.structure {
        Structure::Superblock { data } => (data, Question::Superblock),
        Structure::Segment { data, segment: None } => (data, Question::Segments),
        Structure::Segment { data, segment: Some(segment) } => (data, Question::Segment(segment)),
        Structure::Row { data, segment, row } => (data, Question::Row { segment, row }),
        Structure::Wal { data, file } => (data, Question::Wal(file)),
        Structure::Snapshot { data, file, keys } => {
            (data, Question::Snapshot { file, pairs: if keys { Pairs::Shown } else { Pairs::Counted } })
        }
    };
    let directories = match data.claim() {
        Ok(directories) => directories,
        Err(error) => return refuse(output, &error),
    };
    let value = match directories.inspect(&question) {
        Ok(value) => value,
        Err(error) => return refuse(output, &error),
    };
    // What was asked for is shown also when quiet.
    let shown = Output { quiet: false, ..output }.result(&value, || {
        let mut text = String::new();
        write_value(&mut text, &value, 0);
        text.trim_end().to_owned()
    });
    match shown {
        Err(failure) => {
            failure.report(output.json);
            failure.exit_code()
        }
        Ok(()) if value.tells_of_damage() => EXIT_DAMAGED,
        Ok(()) => EXIT_CLEAN,
    }
}

/// Spaces that each level is moved to the right.
const INDENT: usize = 2;

fn write_value(text: &mut String, value: &Value, indent: usize) {
    match value {
        Value::Fields(fields) => write_fields(text, fields, indent),
        Value::List(values) => write_list(text, values, indent),
        scalar => text.push_str(&format!("{:indent$}{}\n", "", cell(scalar))),
    }
}

/// A line for each plain field; nested ones follow under their names.
fn write_fields(text: &mut String, fields: &[(&'static str, Value)], indent: usize) {
    let width = fields.iter().filter(|(_, value)| is_scalar(value)).map(|(name, _)| name.len()).max().unwrap_or(0);
    for (name, value) in fields {
        if is_scalar(value) {
            text.push_str(&format!("{:indent$}{name:width$}  {}\n", "", cell(value)));
        } else if matches!(value, Value::List(values) if values.is_empty()) {
            text.push_str(&format!("{:indent$}{name}: none\n", ""));
        } else {
            text.push_str(&format!("{:indent$}{name}:\n", ""));
            write_value(text, value, indent + INDENT);
        }
    }
}

/// A table if every item is plain, otherwise one item after the other.
fn write_list(text: &mut String, values: &[Value], indent: usize) {
    let rows: Option<Vec<&[(&'static str, Value)]>> = values.iter().map(plain_fields).collect();
    let Some(rows) = rows else {
        for (number, value) in values.iter().enumerate() {
            if number > 0 {
                text.push('\n');
            }
            write_value(text, value, indent);
        }
        return;
    };
    let mut names: Vec<&'static str> = Vec::new();
    for (name, _) in rows.iter().copied().flatten() {
        if !names.contains(name) {
            names.push(name);
        }
    }
    let find = |row: &[(&'static str, Value)], name| {
        row.iter().find(|(found, _)| *found == name).map_or("-".to_owned(), |(_, value)| cell(value))
    };
    let cells: Vec<Vec<String>> = rows.iter().map(|row| names.iter().map(|name| find(row, *name)).collect()).collect();
    let width = |column: usize| cells.iter().map(|row| row[column].chars().count()).max().unwrap_or(0);
    let widths: Vec<usize> = names.iter().enumerate().map(|(column, name)| width(column).max(name.len())).collect();
    let mut line = |cells: &mut dyn Iterator<Item = &str>| {
        let padded: String = cells.zip(&widths).map(|(cell, width)| format!("{cell:width$}  ")).collect();
        text.push_str(&format!("{:indent$}{}\n", "", padded.trim_end()));
    };
    line(&mut names.iter().copied());
    for row in &cells {
        line(&mut row.iter().map(String::as_str));
    }
}

/// The fields of a value that has nothing nested in it.
fn plain_fields(value: &Value) -> Option<&[(&'static str, Value)]> {
    match value {
        Value::Fields(fields) if fields.iter().all(|(_, value)| is_scalar(value)) => Some(fields),
        _ => None,
    }
}

fn is_scalar(value: &Value) -> bool {
    match value {
        Value::Text(_) | Value::Number(_) | Value::Flag(_) => true,
        Value::List(_) | Value::Fields(_) => false,
    }
}

fn cell(value: &Value) -> String {
    match value {
        Value::Text(text) => printable(text).replace('\n', "\\n"),
        Value::Number(number) => number.to_string(),
        Value::Flag(flag) => if *flag { "yes" } else { "no" }.to_owned(),
        Value::List(_) | Value::Fields(_) => unreachable!("invariant: only plain values have cells"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn plain_items_become_a_table_and_nested_ones_follow_their_names() {
        let item = |a: u64, b: &str| Value::Fields(vec![("a", a.into()), ("longer", Value::Text(b.to_owned()))]);
        let value = Value::Fields(vec![
            ("file", Value::Text("x\n\u{1b}".to_owned())),
            ("items", Value::List(vec![item(1, "one"), Value::Fields(vec![("a", 22u64.into())])])),
            ("nothing", Value::List(Vec::new())),
        ]);
        let mut text = String::new();
        write_value(&mut text, &value, 0);
        let expected = "file  x\\n\\u{1b}\nitems:\n  a   longer\n  1   one\n  22  -\nnothing: none\n";
        assert_eq!(text, expected);
        assert!(!value.tells_of_damage());
        let damaged = Value::List(vec![Value::Fields(vec![("damage", Value::Text(String::new()))])]);
        assert!(damaged.tells_of_damage());
    }
}
