//! The fault file system: each fault on plain files, then under a real `dfsd`.
//!
//! Mounting takes `/dev/fuse` and the privilege to mount; where they are missing the tests say that they were skipped,
//! and with `DFS_REQUIRE_MOUNTS` set they fail.

#[path = "../../../tools/tests/binary/mod.rs"]
mod binary;
mod dfsd;
mod plain;

use chaos::faultfs::{self, FaultFs};
use tempfile::TempDir;

/// A fault file system on a directory of its own. The order of the fields is that of their end.
struct Mounted {
    fs: FaultFs,
    _directory: TempDir,
}

/// Mounts, or says that the test is skipped.
fn mount(capacity_bytes: u64) -> Option<Mounted> {
    let directory = tempfile::tempdir().unwrap();
    match faultfs::mount(directory.path(), capacity_bytes) {
        Ok(fs) => Some(Mounted { fs, _directory: directory }),
        Err(reason) if std::env::var_os("DFS_REQUIRE_MOUNTS").is_some() => panic!("FUSE: {reason}"),
        Err(reason) => {
            eprintln!("SKIPPED, nothing was tested: FUSE: {reason}; run as root, where /dev/fuse can be opened");
            None
        }
    }
}
