//! One target under libFuzzer: the one that `DFS_FUZZ_TARGET` names.

#![no_main]

use std::sync::OnceLock;

use fuzz::{Target, harness, target};
use libfuzzer_sys::fuzz_target;

static TARGET: OnceLock<Target> = OnceLock::new();

/// Finds the target, and writes its corpus where `DFS_FUZZ_CORPUS` says, for libFuzzer to start from.
fn begin() -> Target {
    let name = std::env::var("DFS_FUZZ_TARGET").expect("DFS_FUZZ_TARGET names a target");
    let target = target(&name).unwrap_or_else(|| panic!("there is no target {name:?}"));
    if let Some(directory) = std::env::var_os("DFS_FUZZ_CORPUS").map(std::path::PathBuf::from) {
        let kept = harness::regressions(&target).into_iter().map(|(_, input)| input);
        for (number, input) in (target.corpus)().into_iter().chain(kept).enumerate() {
            std::fs::write(directory.join(format!("ours-{number}")), input).expect("the corpus can be written");
        }
    }
    // What a target makes once for all its cases is none of the first one's.
    (target.run)(&[]);
    target
}

fuzz_target!(init: { TARGET.get_or_init(begin); }, |input: &[u8]| {
    let target = TARGET.get().expect("libFuzzer initialises first");
    if let Err(fault) = harness::judge(target, input) {
        panic!("{}: {fault}", target.name);
    }
});
