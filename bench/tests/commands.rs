//! The commands as a user runs them: real processes, a real server, small amounts.

use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use serde_json::Value;

/// The directory with the programs of this build.
///
/// Panics unless `DFS_BIN_DIR` names it: a process test that found none would prove nothing.
fn programs() -> PathBuf {
    let hint = "set DFS_BIN_DIR to the directory of the built binaries, or run `make test`, which does it";
    let directory = PathBuf::from(std::env::var_os("DFS_BIN_DIR").unwrap_or_else(|| panic!("DFS_BIN_DIR: {hint}")));
    for program in ["dfs-bench", "dfsd"] {
        assert!(directory.join(program).is_file(), "{program} is not in {}: {hint}", directory.display());
    }
    directory
}

fn run(arguments: &[&str]) -> Output {
    let mut command = Command::new(programs().join("dfs-bench"));
    // Settings of whoever runs the tests are not the tests'.
    for name in ["DFS_ENDPOINT", "DFS_TOKEN", "DFS_TOKEN_FILE"] {
        command.env_remove(name);
    }
    command.args(arguments).output().unwrap()
}

/// Runs a command that must succeed; returns its JSON.
fn measured(arguments: &[&str]) -> Value {
    let output = run(&[arguments, &["--json"]].concat());
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{arguments:?}: {stderr}{}", String::from_utf8_lossy(&output.stdout));
    serde_json::from_slice(&output.stdout).unwrap_or_else(|error| panic!("{error}: {stderr}"))
}

fn text(path: &Path) -> &str {
    path.to_str().unwrap()
}

/// Bytes that look random; the same for the same seed.
fn noise(seed: u64, len: usize) -> Vec<u8> {
    let mut state = seed;
    let mut byte = || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 56) as u8
    };
    (0..len).map(|_| byte()).collect()
}

#[test]
fn a_corpus_is_stored_once_and_comes_back() {
    let dir = tempfile::tempdir().unwrap();
    let corpus = dir.path().join("corpus");
    std::fs::create_dir_all(corpus.join("a b/ü")).unwrap();
    let big = noise(1, 3 << 20);
    std::fs::write(corpus.join("one"), &big).unwrap();
    std::fs::write(corpus.join("a b/ü/two?#%"), &big).unwrap();
    std::fs::write(corpus.join("a b/small"), b"inline").unwrap();
    std::fs::write(corpus.join("empty"), b"").unwrap();
    let data = dir.path().join("data");
    let report = measured(&["corpus", text(&corpus), "--serve", text(&data), "--again"]);
    assert_eq!((&report["files"], &report["logical_bytes"]), (&Value::from(4), &Value::from((6 << 20) + 6)));
    // Both large files may be in flight at once, so some chunks may be stored twice, but never all.
    let ratio = report["reduction_ratio"].as_f64().unwrap();
    assert!((1.5..2.1).contains(&ratio), "{report}");
    let passes: Vec<&str> =
        report["passes"].as_array().unwrap().iter().map(|pass| pass["pass"].as_str().unwrap()).collect();
    assert_eq!(passes, ["ingest", "ingest again", "restore, compared"]);
    assert!(report["passes"][0]["server_cpu_s"].is_number() && report["server_memory"].is_object(), "{report}");
    assert_eq!(report["failures"], Value::Array(Vec::new()));
}

#[test]
fn a_collected_corpus_comes_back_and_is_drawn_and_its_half_is_compared_with_a_fresh_one() {
    let dir = tempfile::tempdir().unwrap();
    let corpus = dir.path().join("corpus");
    for (set, seeds) in [("media", 0..2), ("versions", 2..6)] {
        std::fs::create_dir_all(corpus.join(set)).unwrap();
        seeds.for_each(|seed| std::fs::write(corpus.join(set).join(seed.to_string()), noise(seed, 900_000)).unwrap());
    }
    let (data, html) = (dir.path().join("data"), dir.path().join("space.html"));
    let more = ["--serve", text(&data), "--cores", "2", "--collect", "--half", "--html", text(&html)];
    let report = measured(&[&["corpus", text(&corpus)], &more[..]].concat());
    let sets = report["sets"].as_array().unwrap();
    assert_eq!(sets.iter().map(|set| set["name"].as_str().unwrap()).collect::<Vec<_>>(), ["media", "versions"]);
    for set in sets {
        let space = &set["collected"];
        let number = |name: &str| space[name].as_u64().unwrap();
        let saved = ["duplicate_bytes", "compression_bytes", "similarity_bytes"].map(number).iter().sum::<u64>();
        assert_eq!(number("logical_bytes"), saved + number("stored_bytes"), "{report}");
    }
    assert!(report["collected_ratio"].is_number(), "{report}");
    let half = &report["half"];
    assert_eq!((&half["kept_files"], &half["kept_logical_bytes"]), (&Value::from(3), &Value::from(2_700_000)));
    assert_eq!(half["before"]["stored_bytes"], Value::from(5_400_000), "{report}");
    assert_eq!(
        (&half["stored_ratio"], &report["failures"]),
        (&Value::from(1.0), &Value::Array(Vec::new())),
        "{report}"
    );
    assert!(std::fs::read_to_string(&html).unwrap().contains("All data sets"));
}

#[test]
fn fragments_and_speeds_of_versions_are_told_before_and_after_a_collection() {
    let dir = tempfile::tempdir().unwrap();
    let versions = dir.path().join("versions");
    std::fs::create_dir(&versions).unwrap();
    let mut bytes = noise(9, 3 << 20);
    for version in 0..3 {
        bytes[version << 20..][..200_000].fill(version as u8);
        std::fs::write(versions.join(version.to_string()), &bytes).unwrap();
    }
    let data = dir.path().join("data");
    let report = measured(&["fragmentation", text(&versions), "--serve", text(&data), "--rounds", "1"]);
    let told = report["versions"].as_array().unwrap();
    assert_eq!(told.len(), 3, "{report}");
    for version in told {
        assert!(version["chunks"].as_u64() > Some(16) && version["before"]["fragments"].as_u64() > Some(0), "{report}");
        assert!(version["collected"]["cold_bytes_per_s"].is_number(), "{report}");
    }
    assert!(report["newest_to_oldest"]["warm"].is_number() && report["collection"]["oldest"]["cold"].is_number());
    assert_eq!(report["failures"], Value::Array(Vec::new()));
}

#[test]
fn alike_files_shrink_together_and_come_back() {
    let dir = tempfile::tempdir().unwrap();
    for version in 0..4 {
        let mut bytes = noise(7, 1 << 20);
        // Compressible on its own by less than a half, so that the rest is what the versions have in common.
        bytes.iter_mut().for_each(|byte| *byte &= 0x1f);
        bytes[version * 200_000..][..50_000].fill(b'x');
        std::fs::write(dir.path().join(version.to_string()), bytes).unwrap();
    }
    let report = measured(&["similar", text(dir.path()), "--cores", "1,2", "--ahead", "4"]);
    assert_eq!((&report["files"], &report["logical_bytes"]), (&Value::from(4), &Value::from(4 << 20)));
    let hot_ratio = report["hot_ratio"].as_f64().unwrap();
    for layout in report["layouts"].as_array().unwrap() {
        assert!(layout["ratio"].as_f64().unwrap() > 1.3 * hot_ratio, "{report}");
        assert_eq!(layout["newest"]["bytes"], 1 << 20, "{report}");
        assert!(layout["newest"]["decoded_bytes"].as_u64().unwrap() >= 1 << 20, "{report}");
    }
}

#[test]
fn every_load_runs_and_leaves_nothing_behind() {
    let dir = tempfile::tempdir().unwrap();
    let data = dir.path().join("data");
    let few = ["--serve", text(&data), "--count", "60", "--concurrency", "3"];
    for (command, more, kinds) in [
        ("put", &["--size", "8KiB", "--warmup", "50ms"][..], &["put"][..]),
        ("put", &["--size", "3MiB", "--data", "text"], &["put"]),
        ("get", &["--size", "100KiB", "--files", "7"], &["get"]),
        ("mixed", &["--size", "6KiB", "--files", "7", "--rate", "2000"], &["put", "get"]),
        ("meta", &[], &["create"]),
    ] {
        let report = measured(&[&[command], &few[..], more].concat());
        assert_eq!(report["operations"], 60, "{report}");
        assert!(report["failures"].as_object().unwrap().is_empty(), "{report}");
        let found: Vec<&str> =
            report["kinds"].as_array().unwrap().iter().map(|kind| kind["operation"].as_str().unwrap()).collect();
        assert!(kinds.iter().all(|kind| found.contains(kind)), "{command}: {found:?}");
        let is_closed = command != "mixed";
        assert_eq!(report["latency_corrected"].is_object(), is_closed, "{report}");
        assert!(report["client_cpu_s"].as_f64().unwrap() > 0.0 && report["server_cpu_s"].is_number(), "{report}");
    }
    let corpus = dir.path().join("corpus");
    std::fs::create_dir(&corpus).unwrap();
    std::fs::write(corpus.join("one"), noise(2, 10_000)).unwrap();
    let report = measured(&[&["get", "--data", text(&corpus), "--files", "3"], &few[..]].concat());
    assert_eq!(report["bytes"], 600_000);
    // Whatever the runs wrote is gone: the next one sees an empty root.
    let report = measured(&["put", "--serve", text(&data), "--count", "1", "--keep", "--prefix", "/kept"]);
    assert_eq!(report["operations"], 1);
}

#[test]
fn failed_operations_are_told_and_fail_the_run() {
    let dir = tempfile::tempdir().unwrap();
    let data = dir.path().join("data");
    // A file has the name that the load needs for a directory.
    measured(&["put", "--serve", text(&data), "--count", "1", "--size", "1", "--prefix", "/p", "--keep"]);
    let arguments = ["put", "--serve", text(&data), "--count", "3", "--prefix", "/p/w/0/0", "--json"];
    let output = run(&arguments);
    assert_eq!(output.status.code(), Some(1));
    let report: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(report["failures"]["409 not_a_directory"], 3, "{report}");
    assert_eq!(report["operations"], 0);
}

#[test]
fn a_server_that_is_not_there_is_named() {
    let output = run(&["put", "--url", "http://127.0.0.1:1", "--token", "x"]);
    assert_eq!(output.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&output.stderr).contains("http://127.0.0.1:1"));
    assert_eq!(run(&["put", "--size", "1 parsec"]).status.code(), Some(2));
}

#[test]
fn a_filled_directory_opens_again_and_serves() {
    let dir = tempfile::tempdir().unwrap();
    let data = dir.path().join("data");
    let fill = measured(&["fill", "--data", text(&data), "--chunks", "5000"]);
    let chunks = fill["chunks"].as_u64().unwrap();
    assert!(chunks >= 5_000 && fill["unique_bytes"].as_u64().unwrap() / chunks < 1_500, "{fill}");
    let opened = measured(&["fill", "--data", text(&data), "--reopen"]);
    assert_eq!(opened["chunks"], fill["chunks"], "{opened}");
    // As after kill -9, and a second run adds distinct chunks.
    let more = measured(&["fill", "--data", text(&data), "--chunks", "30000", "--no-close"]);
    assert!(more["chunks_added"].as_u64().unwrap() >= 30_000 - chunks, "{more}");
    let opened = measured(&["fill", "--data", text(&data), "--reopen"]);
    assert_eq!(opened["chunks"], more["chunks"], "{opened}");
    let served = measured(&["put", "--serve", text(&data), "--count", "2"]);
    assert_eq!(served["operations"], 2);
}
