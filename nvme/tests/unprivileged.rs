//! Without the right to lock memory everything works, from unregistered buffers.
//!
//! The test runs itself again as an unprivileged user with a low limit of locked memory.

mod common;

use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::CommandExt;
use std::process::Command;

use nvme::{Ring, RingDisk, RingOptions};
use proto::port::{Disk, DiskFile};
use rustix::process::{Resource, Rlimit};

/// Set in the process that plays the unprivileged server, to its data directory.
const DATA_DIR: &str = "NVME_TEST_UNPRIVILEGED_DATA_DIR";
/// The user `nobody`.
const NOBODY: u32 = 65534;

#[test]
fn an_unprivileged_server_works_without_registered_buffers() {
    if let Some(dir) = std::env::var_os(DATA_DIR) {
        return serve_unprivileged(dir.as_ref());
    }
    // The copy lies where the other user may reach it, unlike perhaps the build directory.
    let dir = tempfile::tempdir().unwrap();
    let program = dir.path().join("unprivileged");
    std::fs::copy(std::env::current_exe().unwrap(), &program).unwrap();
    std::fs::set_permissions(&program, PermissionsExt::from_mode(0o755)).unwrap();
    std::fs::set_permissions(dir.path(), PermissionsExt::from_mode(0o755)).unwrap();
    let data = dir.path().join("data");
    std::fs::create_dir(&data).unwrap();

    let mut command = Command::new(program);
    command.args(["--exact", "an_unprivileged_server_works_without_registered_buffers", "--nocapture"]);
    command.env(DATA_DIR, &data).current_dir("/");
    if rustix::process::geteuid().is_root() {
        std::os::unix::fs::chown(&data, Some(NOBODY), Some(NOBODY)).unwrap();
        command.uid(NOBODY).gid(NOBODY);
    }
    let output = command.output().unwrap();
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{errors}\n{}", String::from_utf8_lossy(&output.stdout));
    assert_eq!(errors.matches("LimitMEMLOCK=infinity").count(), 1, "one warning for two rings: {errors}");
    assert!(errors.contains("ulimit -l"), "{errors}");
    assert_eq!(std::fs::read(data.join("file")).unwrap(), [6; 1 << 20], "the other process did write");
}

fn serve_unprivileged(dir: &std::path::Path) {
    assert!(!rustix::process::geteuid().is_root());
    // Enough for the queues, which newer kernels count too, and far from enough for the buffers.
    let limit = Rlimit { current: Some(4 << 20), maximum: Some(4 << 20) };
    rustix::process::setrlimit(Resource::Memlock, limit).unwrap();
    common::on_core(async {
        let ring = Ring::new(RingOptions::default()).unwrap();
        let second = Ring::new(RingOptions::default()).unwrap();
        assert!(!ring.has_registered_buffers() && !second.has_registered_buffers());
        let disk = RingDisk::open(&ring, dir).unwrap();
        let file = disk.create("file", 1 << 20).await.unwrap();
        let mut buf = disk.buffer(1 << 20);
        assert_eq!(buf.registered_slot(), None);
        buf.fill(6);
        file.write_durable_at(buf, 0).await.0.unwrap();
        let (read, buf) = file.read_at(disk.buffer(1 << 20), 0).await;
        assert_eq!(read.unwrap(), 1 << 20);
        assert!(buf.iter().all(|byte| *byte == 6));
    });
}
