//! A fixed number of cases of every target, drawn from one seed, so that every run is the same.
//!
//! An input that fails is written to the target directory, and the message names the command that hands it in again.
//! Mend the decoder, and keep the input in `regressions/TARGET/`: it is handed in first ever after.

use std::collections::BTreeSet;
use std::path::Path;

use fuzz::harness::Run;
use fuzz::{target, targets};

const SEED: u64 = 1;

fn passes(name: &str) {
    let target = target(name).expect("the target exists");
    let failures = Path::new(env!("CARGO_TARGET_TMPDIR"));
    let run = Run::begin(&target, SEED, failures).and_then(|mut run| run.go_on(target.cases));
    run.unwrap_or_else(|failure| panic!("{failure}"));
}

macro_rules! targets {
    ($($test:ident $name:literal;)*) => {
        $(#[test]
        fn $test() {
            passes($name);
        })*

        #[test]
        fn every_target_has_a_test() {
            let all = targets::all();
            let names: BTreeSet<&str> = all.iter().map(|target| target.name).collect();
            assert_eq!(names.len(), all.len(), "no two targets have one name");
            assert_eq!(names, BTreeSet::from([$($name),*]));
        }
    };
}

targets! {
    superblocks "superblock";
    segment_headers "segment-header";
    piece_headers "piece-header";
    footer_headers "footer-header";
    wal_headers "wal-header";
    wal_batch_headers "wal-batch-header";
    snapshot_headers "snapshot-header";
    snapshot_frames "snapshot-frame";
    block_headers "block-header";
    block_entries "block-entry";
    row_tables "row-table";
    blocks "block";
    payloads "payload";
    key_files "key-file";
    pieces "piece";
    sealed_tables "sealed-table";
    footer_bodies "footer-body";
    index_pages "index-page";
    single_commands "command";
    commands_in_a_row "commands";
    pairs "pair";
    manifest_pages "manifest-page";
    texts "text";
    json "json";
    answers_to_the_client "client";
    requests_to_the_server "http";
    calls "rpc";
    data_directories "store";
}
