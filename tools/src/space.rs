//! `dfs df`: where the space went, as a table whose bars follow one another.
//!
//! ```text
//!   logical     ██████████    what clients wrote
//!   duplicates     ░░░░░░░    what was saved, from the right to the left …
//!   stored      ███           … down to what is left,
//!   dead           █          and what the disks hold besides, from there to the right
//!   on disk     ████
//! ```

use std::ops::Range;

use proto::api::Stats;

use crate::context::Context;
use crate::failure::Failure;
use crate::output::human_bytes;

/// Cells of the longest bar.
const BAR_CELLS: u64 = 30;

/// Shows it; all numbers as JSON.
pub(crate) fn show(context: &Context) -> Result<(), Failure> {
    let stats = context.client.stats().map_err(|error| Failure::remote("/api/v1/stats", error))?;
    if context.output.json {
        context.output.result(&stats, String::new)
    } else {
        // What was asked for is shown also when quiet.
        context.output.line(&table(&stats))
    }
}

/// One line: what it is of `bytes`, and where on the common scale they lie.
struct Part {
    name: &'static str,
    sign: &'static str,
    place: Range<u64>,
    cell: char,
    note: &'static str,
}

impl Part {
    fn bytes(&self) -> u64 {
        self.place.end - self.place.start
    }

    fn line(&self, logical_bytes: u64, scale_bytes: u64) -> String {
        let Part { name, sign, note, .. } = self;
        let bytes = self.bytes();
        #[expect(clippy::cast_precision_loss, reason = "a share is shown with one decimal")]
        let share = match logical_bytes {
            0 => "-".to_owned(),
            all => format!("{:.1} %", bytes as f64 * 100.0 / all as f64),
        };
        let bar = bar(&self.place, scale_bytes, self.cell);
        let sign = if bytes == 0 { "" } else { sign };
        format!("{name:<13}{:>12} {share:>9}  {bar}  {note}", format!("{sign}{}", human_bytes(bytes)))
    }
}

/// `place` on a scale of `scale_bytes`, always of the same width; whatever is there has a cell at least.
fn bar(place: &Range<u64>, scale_bytes: u64, cell: char) -> String {
    let cells = |bytes: u64| {
        let cells = u128::from(bytes) * u128::from(BAR_CELLS) / u128::from(scale_bytes.max(1));
        cells.min(u128::from(BAR_CELLS)) as usize
    };
    let width = BAR_CELLS as usize;
    let (mut from, mut to) = (cells(place.start), cells(place.end));
    if from == to && !place.is_empty() {
        (from, to) = (from.min(width - 1), from.min(width - 1) + 1);
    }
    [(' ', from), (cell, to - from), (' ', width - to)]
        .into_iter()
        .flat_map(|(cell, count)| std::iter::repeat_n(cell, count))
        .collect()
}

/// The parts in order. Unless it is `always` shown, a part of nothing is left out.
fn parts(stats: &Stats) -> Vec<Part> {
    const SAVED: char = '░';
    const THERE: char = '█';
    let mut parts = Vec::new();
    let mut at = 0;
    let mut grow = |name, sign, bytes: u64, note| {
        let place = at..at + bytes;
        at = place.end;
        parts.push(Part { name, sign, place, cell: THERE, note });
    };
    grow("logical", "", stats.logical_bytes, "all versions of all files, as they were written");
    if stats.unreferenced_bytes > 0 {
        grow("unreferenced", "+", stats.unreferenced_bytes, "of no file: removed, and not collected yet");
    }
    let mut shrink = |name, bytes: u64, note| {
        let place = at.saturating_sub(bytes)..at;
        at = place.start;
        parts.push(Part { name, sign: "-", place, cell: SAVED, note });
    };
    shrink("duplicates", stats.duplicate_bytes, "saved: equal chunks are stored once");
    shrink("compression", stats.compression_bytes, "saved: chunks are compressed, each by itself");
    shrink("similarity", stats.similarity_bytes, "saved: chunks are compressed together with similar ones");
    at = 0;
    let mut grow = |name, sign, bytes: u64, note| {
        let place = at..at + bytes;
        at = place.end;
        parts.push(Part { name, sign, place, cell: THERE, note });
    };
    grow("stored", "", stats.stored_bytes, "what is left of it");
    grow("dead", "+", stats.dead_bytes, "removed and not compacted yet; headers, tables, padding");
    grow("redundancy", "+", stats.redundancy_bytes, "parity that survives the loss of disks");
    grow("reserved", "+", stats.reserved_bytes, "in open segments, for what comes next");
    grow("metadata", "+", stats.metadata_bytes, "names, manifests, their log and its snapshots");
    parts.push(Part { name: "on disk", sign: "", place: 0..stats.raw_bytes, cell: THERE, note: "all of it" });
    parts
}

fn table(stats: &Stats) -> String {
    let parts = parts(stats);
    let scale_bytes = parts.iter().map(|part| part.place.end).max().unwrap_or(0);
    let mut lines: Vec<String> =
        parts.iter().map(|part| part.line(stats.logical_bytes, scale_bytes).trim_end().to_owned()).collect();
    lines.push(String::new());
    #[expect(clippy::cast_precision_loss, reason = "a ratio is shown with two decimals")]
    let to_disk = if stats.raw_bytes == 0 { 1.0 } else { stats.logical_bytes as f64 / stats.raw_bytes as f64 };
    let ratio = |ratio: f64| format!("{ratio:.2} : 1");
    for (name, value, note) in [
        ("ratio", ratio(stats.reduction_ratio), "logical to stored, which is the product of"),
        ("  dedup", ratio(stats.dedup_ratio), "logical to unique"),
        ("  compress", ratio(stats.compression_ratio), "unique to stored, by compression and similarity"),
        ("disk ratio", ratio(to_disk), "logical to on disk"),
        ("free", human_bytes(stats.free_bytes), ""),
        ("capacity", human_bytes(stats.capacity_bytes), ""),
        ("files", stats.files.to_string(), ""),
        ("dirs", stats.directories.to_string(), "the top one included"),
        ("chunks", stats.chunks.to_string(), "each stored once"),
    ] {
        lines.push(format!("{name:<13}{value:>12}  {note}").trim_end().to_owned());
    }
    lines.join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn stats() -> Stats {
        Stats {
            logical_bytes: 3 << 30,
            duplicate_bytes: 2 << 30,
            unique_bytes: 1 << 30,
            compression_bytes: 256 << 20,
            similarity_bytes: 512 << 20,
            stored_bytes: 256 << 20,
            dead_bytes: 100 << 20,
            reserved_bytes: 128 << 20,
            metadata_bytes: 28 << 20,
            raw_bytes: 512 << 20,
            dedup_ratio: 3.0,
            compression_ratio: 4.0,
            reduction_ratio: 12.0,
            ..Stats::default()
        }
    }

    #[test]
    fn bars_follow_one_another_down_to_what_is_stored() {
        let table = table(&stats());
        let line = |name: &str| table.lines().find(|line| line.starts_with(name)).unwrap_or_else(|| panic!("{table}"));
        let bar = |name: &str| line(name).chars().skip(37).take(BAR_CELLS as usize).collect::<String>();
        assert_eq!(bar("logical"), "█".repeat(30));
        assert_eq!(bar("duplicates"), format!("{}{}", " ".repeat(10), "░".repeat(20)));
        assert_eq!(bar("compression"), format!("{}{}{}", " ".repeat(7), "░".repeat(3), " ".repeat(20)));
        assert_eq!(bar("similarity").trim_end(), format!("{}{}", " ".repeat(2), "░".repeat(5)));
        assert_eq!(bar("stored").trim_end(), "██");
        assert_eq!(bar("redundancy").trim(), "", "there is none");
        assert_eq!(bar("on disk").trim_end(), "█████");
        assert!(line("duplicates").contains("    -2.0 GiB    66.7 %"), "{table}");
        assert!(table.contains("ratio           12.00 : 1  logical to stored"), "{table}");
        assert!(!table.contains("unreferenced"), "{table}");
    }

    #[test]
    fn garbage_shows_and_so_does_an_empty_server() {
        let garbage = Stats { unreferenced_bytes: 1 << 20, unique_bytes: 1 << 20, ..Stats::default() };
        assert!(table(&garbage).contains("unreferenced     +1.0 MiB         -  █"), "{}", table(&garbage));
        let empty = table(&Stats::default());
        assert!(empty.starts_with("logical               0 B         -  ") && !empty.contains('█'), "{empty}");
    }

    #[test]
    fn the_smallest_part_has_a_cell_and_none_leaves_the_scale() {
        for (place, expected) in [(0..1, 0), (999..1000, 29), (1000..1001, 29), (500..501, 15)] {
            let bar = bar(&place, 1000, '█');
            assert_eq!(
                (bar.chars().count(), bar.chars().position(|cell| cell == '█')),
                (30, Some(expected)),
                "{place:?}"
            );
        }
    }
}
