//! Throughput of each stage between stream and row, on chunks of 64 KiB.
fn main() {}
