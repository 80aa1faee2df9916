//! The harness finds what it is there to find.

use std::fs;

use fuzz::harness::{Fault, Run, judge};
use fuzz::{Memory, Target};

/// A target with what is planted in `run`.
fn planted(name: &'static str, run: fn(&[u8])) -> Target {
    let memory = Memory { fixed_bytes: 1 << 20, per_byte: 16 };
    Target { name, run, corpus: || vec![vec![0; 64]], memory, input_bytes_max: 128, cases: 0 }
}

/// Believes a length.
fn believes(input: &[u8]) {
    if let Some(length) = input.first_chunk() {
        let bytes = u32::from_le_bytes(*length) as usize;
        std::hint::black_box(Vec::<u8>::with_capacity(bytes));
    }
}

/// Believes that there are as many bytes as the second says.
fn overruns(input: &[u8]) {
    if let [_, count, rest @ ..] = input {
        std::hint::black_box(&rest[..usize::from(*count)]);
    }
}

#[test]
fn a_believed_length_is_found_and_its_input_is_kept_and_fails_again() {
    for (name, run) in [("believes", believes as fn(&[u8])), ("overruns", overruns)] {
        let target = planted(name, run);
        let directory = tempfile::tempdir().unwrap();
        let found = |seed| Run::begin(&target, seed, directory.path()).unwrap().go_on(20_000).unwrap_err();
        let failure = found(3);
        let input = fs::read(&failure.input).unwrap();
        assert_eq!(judge(&target, &input), Err(failure.fault.clone()), "{name}");
        assert_eq!(found(3).input, failure.input, "the same seed finds the same input");
        assert!(failure.to_string().contains(&format!("--replay {} {name}", failure.input.display())));
        match failure.fault {
            Fault::Allocated { bytes, bytes_max } => assert!(name == "believes" && bytes > bytes_max),
            Fault::Panicked(message) => assert!(name == "overruns" && message.contains("range end"), "{message}"),
        }
    }
}

#[test]
fn a_case_is_named_before_it_is_run() {
    static DIRECTORY: std::sync::OnceLock<std::path::PathBuf> = std::sync::OnceLock::new();
    /// As a hang or an abort would leave it.
    fn looks(_: &[u8]) {
        let named = fs::read_to_string(DIRECTORY.get().unwrap().join("looks.under-way")).unwrap();
        assert!(named.is_empty() || named.starts_with("--seed 9 --case "), "{named:?}");
    }
    let directory = tempfile::tempdir().unwrap();
    DIRECTORY.get_or_init(|| directory.path().to_owned());
    let target = planted("looks", looks);
    let mut run = Run::begin(&target, 9, directory.path()).unwrap();
    run.go_on(3).unwrap();
    let named = fs::read_to_string(directory.path().join("looks.under-way")).unwrap();
    assert_eq!(named.trim_end(), "--seed 9 --case 2");
    drop(run);
    assert_eq!(fs::read_dir(directory.path()).unwrap().count(), 0, "nothing is left of what passed");
}
