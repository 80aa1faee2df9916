//! A `dfsd` of several cores, and one whose number of cores changes between starts.

#![allow(clippy::disallowed_methods, reason = "a process test runs a real dfsd in real time")]

mod daemon;

use daemon::{Dfsd, noise};

/// Length of each file: some chunks.
const FILE_BYTES: usize = 700_000;

fn path(number: u64) -> String {
    format!("/api/v1/fs/tree/{number}")
}

fn unique_bytes(dfsd: &Dfsd) -> u64 {
    dfsd.get("/api/v1/stats").json()["unique_bytes"].as_u64().unwrap()
}

#[test]
fn the_number_of_cores_may_change_from_start_to_start() {
    let dir = tempfile::tempdir().unwrap();
    let data = dir.path().join("data");
    let mut files = 0;
    for (start, cores) in ["1", "2", "1", "3", "2"].into_iter().enumerate() {
        let dfsd = Dfsd::start_with(&data, &["--cores", cores]);
        assert!(dfsd.ready_line.contains(&format!(" {cores} cores,")), "{}", dfsd.ready_line);
        for number in 0..files {
            let read = dfsd.get(&path(number)).expect(200);
            assert!(read.body == noise(number, FILE_BYTES), "{} at start {start}", path(number));
        }
        let before = unique_bytes(&dfsd);
        for number in 0..files {
            dfsd.put(&format!("/api/v1/fs/again/{start}/{number}"), &noise(number, FILE_BYTES));
        }
        assert_eq!(unique_bytes(&dfsd), before, "what earlier starts stored is found by any number of cores");
        // Each on a connection of its own: they fall to the cores as the kernel likes.
        for _ in 0..6 {
            dfsd.put(&path(files), &noise(files, FILE_BYTES));
            files += 1;
        }
        assert_eq!(unique_bytes(&dfsd), before + 6 * FILE_BYTES as u64);
        if start % 2 == 0 {
            assert_eq!(dfsd.stop().code(), Some(0));
        } else {
            dfsd.kill();
        }
    }
}

#[test]
fn what_one_core_stored_another_reads_and_does_not_store_again() {
    let dir = tempfile::tempdir().unwrap();
    let dfsd = Dfsd::start_with(&dir.path().join("data"), &["--cores", "2"]);
    let content = noise(1, FILE_BYTES);
    // The kernel deals connections to cores by their ports; of 32, all on one core is once in 2^31.
    std::thread::scope(|scope| {
        for number in 0..32 {
            let (dfsd, content) = (&dfsd, &content);
            let put_and_read = move || {
                dfsd.put(&path(number), content);
                assert!(dfsd.get(&path(number)).expect(200).body == *content);
            };
            std::thread::Builder::new().spawn_scoped(scope, put_and_read).unwrap();
        }
    });
    let stats = dfsd.get("/api/v1/stats").json();
    assert_eq!(stats["unique_bytes"].as_u64(), Some(FILE_BYTES as u64), "{stats}");
    assert_eq!(stats["logical_bytes"].as_u64(), Some(32 * FILE_BYTES as u64), "{stats}");
    let listed = dfsd.get("/api/v1/fs/tree").json();
    assert_eq!(listed["entries"].as_array().map(Vec::len), Some(32));
}
