//! Where the space went: the parts add up to what the files take, whatever was done and however the server ended.

#![allow(clippy::disallowed_methods, reason = "a process test runs a real dfsd in real time")]

mod daemon;

use std::path::Path;

use daemon::{Dfsd, noise, request};
use serde_json::Value;

/// Bytes of all files that hold data or metadata.
fn bytes_below(directory: &Path) -> u64 {
    let mut sum = 0;
    for entry in std::fs::read_dir(directory).unwrap().map(Result::unwrap) {
        let metadata = entry.metadata().unwrap();
        sum += match entry.file_name().to_str().unwrap() {
            "keys" | "lock" | "root-token" => 0,
            _ if metadata.is_dir() => bytes_below(&entry.path()),
            _ => metadata.len(),
        };
    }
    sum
}

/// Times that the stats are asked for until they are those of the files: a start writes a little in the background.
const LOOKS_MAX: usize = 1000;

/// The stats, after they were compared with the files and with the metrics.
fn checked(dfsd: &Dfsd, data: &Path) -> Value {
    let ask = || dfsd.get("/api/v1/stats").expect(200).json();
    let settled = |stats: &Value| stats["raw_bytes"].as_u64() == Some(bytes_below(data));
    let stats = std::iter::repeat_with(ask).take(LOOKS_MAX).find(settled).unwrap_or_else(ask);
    let number = |name: &str| stats[name].as_u64().unwrap_or_else(|| panic!("{name}: {stats}"));
    let saved = ["duplicate_bytes", "compression_bytes", "similarity_bytes"].map(number).iter().sum::<u64>();
    let logical = number("logical_bytes") + number("unreferenced_bytes");
    assert_eq!(logical, saved + number("stored_bytes"), "{stats}");
    let parts = ["stored_bytes", "dead_bytes", "redundancy_bytes", "reserved_bytes", "metadata_bytes"].map(number);
    assert_eq!(parts.iter().sum::<u64>(), number("raw_bytes"), "{stats}");
    assert_eq!(number("raw_bytes"), bytes_below(data), "{stats}");
    let page = request(dfsd.address, "GET", "/metrics", &[], b"").expect(200).text();
    let metric = |family: &str| {
        let samples = page.lines().filter(|line| line.starts_with(&format!("{family}{{")));
        samples.map(|line| line.rsplit(' ').next().unwrap().parse::<u64>().unwrap()).sum::<u64>()
    };
    assert_eq!((metric("dfs_disk_bytes"), metric("dfs_saved_bytes")), (number("raw_bytes"), saved), "{page}");
    stats
}

#[test]
fn the_parts_add_up_to_the_files_after_writes_removals_collections_restarts_and_kills() {
    let dir = tempfile::tempdir().unwrap();
    let data = dir.path().join("data");
    let text: Vec<u8> = (0..300_000u32).flat_map(|number| format!("line {}\n", number / 7).into_bytes()).collect();
    let arguments = ["--cores", "2"];
    let mut dfsd = Dfsd::start_with(&data, &arguments);
    let empty = checked(&dfsd, &data);
    assert_eq!((&empty["stored_bytes"], &empty["dead_bytes"]), (&0.into(), &0.into()), "nothing was written");
    for round in 0..3u64 {
        dfsd.put(&format!("/api/v1/fs/{round}/text"), &[&text[..], &noise(round, 200_000)].concat());
        dfsd.put(&format!("/api/v1/fs/{round}/again"), &text);
        dfsd.put(&format!("/api/v1/fs/{round}/short"), b"inline");
        let stats = checked(&dfsd, &data);
        assert!(stats["duplicate_bytes"].as_u64() > Some(text.len() as u64 / 2) && stats["compression_bytes"] != 0);
        assert!(stats["reserved_bytes"].as_u64() > Some(1 << 20), "an open segment has room: {stats}");
        // What a restart or a crash leaves is counted from what lies there.
        if round == 1 {
            dfsd.kill();
        } else {
            assert_eq!(dfsd.stop().code(), Some(0));
        }
        dfsd = Dfsd::start_with(&data, &arguments);
        let counted =
            |stats: &Value| ["unique_bytes", "stored_bytes", "similarity_bytes"].map(|name| stats[name].clone());
        assert_eq!(counted(&checked(&dfsd, &data)), counted(&stats));
    }
    for round in 0..3 {
        dfsd.call("DELETE", &format!("/api/v1/fs/{round}?recursive=true"), &[]).expect(204);
    }
    let removed = checked(&dfsd, &data);
    assert_eq!(removed["unreferenced_bytes"], removed["unique_bytes"], "all of it is garbage");
    dfsd.collect_now();
    let collected = checked(&dfsd, &data);
    assert_eq!((&collected["stored_bytes"], &collected["unreferenced_bytes"]), (&0.into(), &0.into()), "{collected}");
    dfsd.kill();
    checked(&Dfsd::start_with(&data, &arguments), &data);
}

#[test]
fn fragments_are_counted_for_each_version() {
    let dir = tempfile::tempdir().unwrap();
    let dfsd = Dfsd::start_with(&dir.path().join("data"), &["--cores", "1"]);
    let first = noise(1, 4 << 20);
    dfsd.put("/api/v1/fs/file", &first);
    dfsd.put("/api/v1/fs/other", &noise(2, 16 << 20));
    // What is new lies behind the other file, far from what the versions share.
    let mut second = first.clone();
    second[1 << 20..][..600_000].copy_from_slice(&noise(3, 600_000));
    second[3 << 20..][..600_000].copy_from_slice(&noise(4, 600_000));
    dfsd.put("/api/v1/fs/file", &second);
    let count = |query: &str| dfsd.get(&format!("/api/v1/fs/{query}")).expect(200).json();
    let (old, new) = (count("file?fragments&version=1"), count("file?fragments"));
    assert_eq!((&old["version"], &old["size"], &new["version"]), (&1.into(), &(4 << 20).into(), &2.into()));
    assert!(old["chunks"].as_u64() > Some(32) && new["chunks"].as_u64() > Some(32), "{old} {new}");
    assert!(new["fragments"].as_u64() >= old["fragments"].as_u64().map(|old| old + 2), "{old} {new}");
    dfsd.put("/api/v1/fs/short", b"inline");
    assert_eq!((&count("short?fragments")["chunks"], &count("short?fragments")["fragments"]), (&0.into(), &0.into()));
    assert_eq!(dfsd.get("/api/v1/fs/?fragments").status, 409, "a directory");
    assert_eq!(dfsd.get("/api/v1/fs/file?fragments&version=9").status, 404);
    assert_eq!(dfsd.get("/api/v1/fs/file?fragments&limit=9").status, 400);
}
