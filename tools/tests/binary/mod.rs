//! Where process tests find the programs that they run.

use std::path::PathBuf;

/// The program `name` of this build.
///
/// Panics unless `DFS_BIN_DIR` names a directory that holds it: a process test that found none would prove nothing.
pub(crate) fn binary(name: &str) -> PathBuf {
    let hint = "set DFS_BIN_DIR to the directory of the built binaries, or run `make test`, which does it";
    let directory = std::env::var_os("DFS_BIN_DIR").unwrap_or_else(|| panic!("DFS_BIN_DIR is not set: {hint}"));
    let binary = PathBuf::from(directory).join(name);
    assert!(binary.is_file(), "{} does not exist: {hint}", binary.display());
    binary
}
