//! Medians, as a table for people or as JSON.

use serde::Serialize;

/// One measured thing.
#[derive(Debug, Serialize)]
pub(crate) struct Row {
    /// What was measured.
    pub(crate) stage: &'static str,
    /// Median over the rounds.
    pub(crate) gb_per_s: f64,
    /// CPU nanoseconds per byte of input; one busy core, so the inverse.
    pub(crate) ns_per_byte: f64,
}

impl Row {
    /// Condenses the seconds that each round took for `bytes` bytes.
    pub(crate) fn new(stage: &'static str, bytes: usize, mut seconds: Vec<f64>) -> Row {
        seconds.sort_by(f64::total_cmp);
        let median = seconds[seconds.len() / 2];
        Row { stage, gb_per_s: bytes as f64 / median / 1e9, ns_per_byte: median / bytes as f64 * 1e9 }
    }
}

/// Prints rows as a table.
pub(crate) fn print_table(rows: &[Row]) {
    println!("{:<28} {:>8} {:>10}", "stage", "GB/s", "ns/byte");
    for row in rows {
        println!("{:<28} {:>8.2} {:>10.3}", row.stage, row.gb_per_s, row.ns_per_byte);
    }
}
