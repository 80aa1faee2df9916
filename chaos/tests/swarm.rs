//! The process side of `swarm`: exit codes, what is printed, and workers that are compared, hang or die.
//!
//! What the seeds themselves prove is for `simulation.rs`; here each test runs as few as it can.

use std::io::Read;
use std::process::{Command, Output, Stdio};

fn swarm(arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_swarm"));
    command.args(arguments).stdin(Stdio::null());
    command
}

fn run(arguments: &[&str]) -> (i32, String, String) {
    let Output { status, stdout, stderr } = swarm(arguments).output().expect("swarm starts");
    let text = |bytes| String::from_utf8(bytes).expect("swarm prints UTF-8");
    (status.code().expect("swarm is not killed"), text(stdout), text(stderr))
}

#[test]
fn seeds_that_pass_end_with_zero_and_a_summary() {
    let (code, out, err) = run(&["--seeds", "2", "--jobs", "2", "--trace-hash"]);
    assert_eq!((code, err.as_str()), (0, ""), "{out}");
    assert!(out.contains("2 seeds in ") && out.contains(" bytes sent again\n"), "{out}");
    assert_eq!(out.matches(" trace ").count(), 2, "{out}");
    assert_eq!(out.matches("FAILED").count(), 0, "{out}");
}

#[test]
fn two_processes_give_a_seed_the_same_trace() {
    let (code, out, _) = run(&["--first-seed", "11", "--seeds", "1", "--twice", "--trace-hash"]);
    assert_eq!(code, 0, "{out}");
    let (_, again, _) = run(&["--first-seed", "11", "--seeds", "1", "--trace-hash"]);
    assert_eq!(out.lines().next(), again.lines().next(), "the hash is that of any run");
}

#[test]
fn a_worker_that_takes_too_long_is_killed_and_its_seed_is_reported_with_one_replay_command() {
    let (code, out, err) = run(&["--first-seed", "12", "--seeds", "1", "--jobs", "1", "--hang-seconds", "0"]);
    assert_eq!((code, err.as_str()), (1, ""), "{out}");
    assert!(out.starts_with("seed 12 FAILED: it was not done after 0 s and was killed\n"), "{out}");
    assert!(out.contains("the worker ended: signal: 9 (SIGKILL)"), "{out}");
    let replays: Vec<&str> = out.lines().filter(|line| line.starts_with("replay: ")).collect();
    assert_eq!(replays, ["replay: cargo run --release -p chaos --bin swarm -- --first-seed 12 --seeds 1"]);
}

#[test]
fn json_has_stdout_for_itself_and_names_the_seeds_that_failed() {
    let (code, out, err) = run(&["--first-seed", "12", "--seeds", "1", "--jobs", "1", "--hang-seconds", "0", "--json"]);
    assert_eq!(code, 1, "{err}");
    let summary: serde_json::Value = serde_json::from_str(&out).expect("nothing but JSON is on stdout");
    assert_eq!(summary["failed"], serde_json::json!([12]));
    assert!(err.starts_with("seed 12 FAILED"), "{err}");
}

#[test]
fn the_seeds_of_a_file_are_run_and_no_others() {
    let directory = tempfile::tempdir().expect("a directory");
    let file = directory.path().join("seeds.txt");
    std::fs::write(&file, "# two of them\n21 a reason\n\n23\n").expect("a file");
    let (code, out, _) = run(&["--seeds-file", file.to_str().expect("a path"), "--jobs", "1", "--trace-hash"]);
    assert_eq!(code, 0, "{out}");
    let seeds: Vec<&str> = out.lines().filter_map(|line| line.split_once(" trace ")).map(|(seed, _)| seed).collect();
    assert_eq!(seeds, ["seed 21", "seed 23"]);
}

#[test]
fn a_fault_that_never_happened_is_named_and_fails_the_run_that_requires_all() {
    let (code, out, _) = run(&["--seeds", "1", "--jobs", "1", "--require-all-faults"]);
    assert_eq!(code, 3, "{out}");
    assert!(out.contains("NEVER "), "{out}");
}

#[test]
fn a_command_line_without_sense_ends_with_two() {
    for arguments in
        [&["--seeds", "many"][..], &["--seeds-file", "there/is/no/such.txt"], &["--fresh", "--first-seed", "1"]]
    {
        let (code, out, err) = run(arguments);
        assert_eq!((code, out.as_str()), (2, ""), "{arguments:?}");
        assert!(!err.is_empty(), "{arguments:?}");
    }
}

#[test]
fn a_reader_who_goes_away_ends_the_run_quietly() {
    let mut running = swarm(&["--seeds", "1000000", "--jobs", "1", "--trace-hash"])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("swarm starts");
    // As `head -c 1` does.
    let mut out = running.stdout.take().expect("a pipe");
    out.read_exact(&mut [0]).expect("the first seed is told");
    drop(out);
    let Output { status, stderr, .. } = running.wait_with_output().expect("it ends, long before a million seeds");
    assert_eq!(status.code(), Some(0), "what was run passed");
    let err = String::from_utf8_lossy(&stderr);
    assert!(!err.contains("panicked"), "{err}");
}
