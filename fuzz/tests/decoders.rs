//! Every decoder has a target: one that has none fails here.
//!
//! A decoder is a function of the product, private ones included, whose name says that it makes sense of bytes or text,
//! and that takes them; and every fixed header of the disk. They are found by name, for Rust has no other mark of them:
//! so a decoder is called `parse`, `decode`, … (see [`VERBS`]).

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

use fuzz::target;

/// The crates whose sources are searched.
const CRATES: [&str; 12] =
    ["proto", "ec", "chunk", "index", "nvme", "net", "shard", "meta", "node", "server", "client", "tools"];
/// How the name of a decoder begins.
const VERBS: [&str; 7] = ["parse", "decode", "decompress", "import", "verify", "unpack", "open_"];
/// What it takes.
const TAKES: [&str; 5] = ["[u8]", "Vec<u8>", "&Bytes", "&str", "u128"];

/// Each decoder, and the target that hands it hostile bytes; or `FILE: TEST`, which tries all texts up to some length.
const COVERED: &[(&str, &str)] = &[
    ("chunk/src/block.rs decode_chunk", "block"),
    ("chunk/src/block.rs decode_upto", "block"),
    ("chunk/src/block.rs open_block", "block"),
    ("chunk/src/block.rs open_entry", "block"),
    ("chunk/src/block.rs parse_entry", "block"),
    ("chunk/src/block.rs parse_header", "block"),
    ("chunk/src/codec.rs decompress", "payload"),
    ("chunk/src/codec.rs decompress_start", "payload"),
    ("chunk/src/ring.rs parse", "key-file"),
    ("chunk/src/ring.rs parse_key", "key-file"),
    ("chunk/src/ring.rs parse_line", "key-file"),
    ("chunk/src/warm.rs decode_on", "payload"),
    ("chunk/src/warm.rs decompress_zstd", "payload"),
    ("client/src/time.rs parse_rfc3339_utc_ns", "text"),
    ("client/src/url.rs decode", "client"),
    ("index/src/checkpoint.rs import", "index-page"),
    ("meta/src/codec.rs decode", "pair"),
    ("meta/src/command.rs decode", "command"),
    ("meta/src/manifest.rs decode_page", "manifest-page"),
    ("meta/src/pair.rs decode", "pair"),
    ("meta/src/solo/recovery.rs parse_commands", "store"),
    ("meta/src/solo/snapshot.rs parse_file_name", "store"),
    ("meta/src/solo/snapshot.rs verify", "store"),
    ("meta/src/solo/wal.rs parse_file_name", "store"),
    ("net/src/rpc/frame.rs decode", "rpc"),
    ("node/src/inspect/segments.rs parse_name", "store"),
    ("proto/src/disk/block.rs parse", "block-header"),
    ("proto/src/disk/block.rs parse", "block-entry"),
    ("proto/src/disk/mod.rs parse", "superblock"),
    ("proto/src/disk/piece.rs PieceHeader", "piece-header"),
    ("proto/src/disk/segment.rs FooterHeader", "footer-header"),
    ("proto/src/disk/segment.rs SegmentHeader", "segment-header"),
    ("proto/src/disk/snapshot.rs SnapshotFrame", "snapshot-frame"),
    ("proto/src/disk/snapshot.rs SnapshotHeader", "snapshot-header"),
    ("proto/src/disk/superblock.rs Superblock", "superblock"),
    ("proto/src/disk/table.rs parse", "row-table"),
    ("proto/src/disk/wal.rs WalBatchHeader", "wal-batch-header"),
    ("proto/src/disk/wal.rs WalHeader", "wal-header"),
    ("proto/src/ids.rs parse", "text"),
    ("proto/src/location.rs unpack", "row-table"),
    ("proto/src/path.rs parse", "text"),
    ("server/src/rest/condition.rs parse", "http"),
    ("server/src/rest/date.rs parse_http_date", "http"),
    ("server/src/rest/headers.rs parsed", "http"),
    ("server/src/rest/query.rs parse", "http"),
    ("server/src/rest/range.rs parse", "http"),
    ("server/src/rest/retention.rs parse", "http"),
    ("server/src/rest/text.rs decode", "http"),
    ("shard/src/checkpoint.rs import", "index-page"),
    ("shard/src/compact/survey.rs decode", "block"),
    ("shard/src/examine.rs open_footer", "store"),
    ("shard/src/read.rs decode_at", "block"),
    ("shard/src/read.rs open_at", "block"),
    ("shard/src/recovery.rs parse_footer", "footer-body"),
    ("shard/src/row.rs open_table", "sealed-table"),
    ("shard/src/row.rs verify_piece", "piece"),
    ("tools/src/arguments.rs parse_pair", "tools/src/arguments.rs: every_short_pair_is_read_or_refused"),
    ("tools/src/retention.rs parse_duration", "tools/src/retention.rs: every_short_duration_is_read_or_refused"),
    ("tools/src/remote.rs parse", "tools/src/remote.rs: every_short_path_is_read_or_refused"),
];

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("the crate lies in the workspace").to_owned()
}

/// The decoders of a source file: the names of functions, and of headers.
fn decoders(source: &str) -> Vec<&str> {
    let product = source.split("#[cfg(test)]\nmod ").next().expect("there is a first part");
    let functions = product.match_indices("fn ").filter_map(|(at, _)| {
        let is_word = product[..at].chars().next_back().is_none_or(char::is_whitespace);
        let signature = product[at + 3..].split(['{', ';']).next()?;
        let name = &signature[..signature.find(|c: char| !c.is_alphanumeric() && c != '_')?];
        let takes = signature.split("->").next()?;
        let found = is_word
            && VERBS.iter().any(|verb| name.starts_with(verb))
            && TAKES.iter().any(|bytes| takes.contains(bytes));
        found.then_some(name)
    });
    let headers = product.split("impl FixedHeader for ").skip(1).filter_map(|rest| rest.split_whitespace().next());
    functions.chain(headers).collect()
}

fn search(directory: &Path, found: &mut BTreeMap<String, usize>) {
    for file in fs::read_dir(directory).expect("sources can be read") {
        let path = file.expect("sources can be read").path();
        if path.is_dir() {
            search(&path, found);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            let file = path.strip_prefix(root()).expect("it lies below the root").display().to_string();
            for name in decoders(&fs::read_to_string(&path).expect("sources can be read")) {
                *found.entry(format!("{file} {name}")).or_default() += 1;
            }
        }
    }
}

#[test]
fn every_decoder_has_a_target() {
    let mut found = BTreeMap::new();
    CRATES.iter().for_each(|name| search(&root().join(name).join("src"), &mut found));
    let mut covered: BTreeMap<String, usize> = BTreeMap::new();
    COVERED.iter().for_each(|(decoder, _)| *covered.entry((*decoder).to_owned()).or_default() += 1);
    let names = |map: &BTreeMap<String, usize>| map.keys().cloned().collect::<BTreeSet<String>>();
    let without: Vec<String> = names(&found).difference(&names(&covered)).cloned().collect();
    assert!(without.is_empty(), "no target is named for {without:#?}");
    let gone: Vec<String> = names(&covered).difference(&names(&found)).cloned().collect();
    assert!(gone.is_empty(), "there is no such decoder any more: {gone:#?}");
    for (decoder, count) in found {
        assert!(covered[&decoder] >= count, "{decoder} stands there {count} times");
    }
}

#[test]
fn what_is_named_exists() {
    for (decoder, by) in COVERED {
        let exists = match by.split_once(": ") {
            Some((file, test)) => {
                fs::read_to_string(root().join(file)).is_ok_and(|source| source.contains(&format!("fn {test}()")))
            }
            None => target(by).is_some(),
        };
        assert!(exists, "{decoder}: there is no {by}");
    }
}

#[test]
fn a_decoder_is_known_by_its_name_and_what_it_takes() {
    let source = "impl FixedHeader for Added {}\n\
                  pub(crate) fn decode_added(\n    bytes: &[u8],\n) -> u8 { 0 }\n\
                  async fn open_file(id: u64) -> Vec<u8> {}\n\
                  fn open_text<T>(text: &str) -> T { todo() }\n\
                  #[cfg(test)]\nmod tests { fn parse_planted(bytes: &[u8]) {} }";
    assert_eq!(decoders(source), ["decode_added", "open_text", "Added"]);
}
