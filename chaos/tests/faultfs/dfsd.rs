//! The fault file system under a real `dfsd`, which reaches it through io_uring and O_DIRECT.

use std::path::PathBuf;

use chaos::faultfs::{Effect, Fault, Loss, Operation, Survival};
use chaos::nemesis::content::{Content, Texture};
use chaos::nemesis::daemon::{Daemon, Site};
use chaos::sim::Random;
use client::{Attributes, Client, ClientError, Upload};
use proto::path::FsPath;
use tempfile::TempDir;

use crate::binary::binary;
use crate::{Mounted, mount};

const CAPACITY: u64 = 1 << 30;
/// Files of one batch: inline, one chunk, several.
const BYTES: [u64; 4] = [100, 4097, 70_000, 900_000];
/// More requests than any of these faults lets pass.
const ATTEMPTS_MAX: u64 = 200;

/// A server on a fault file system.
struct Server {
    mounted: Mounted,
    site: Site,
    _log: TempDir,
}

impl Server {
    fn new() -> Option<Server> {
        let mounted = mount(CAPACITY)?;
        let log = tempfile::tempdir().unwrap();
        let data: PathBuf = mounted.fs.path().join("data");
        let site = Site::new(&binary("dfsd"), &data, &log.path().join("log"));
        Some(Server { mounted, site, _log: log })
    }

    fn serve(&self) -> (Daemon, Client) {
        let daemon = self.site.serve().unwrap_or_else(|error| panic!("{error}\n{}", self.site.log_tail()));
        (daemon, self.site.hasty_client().unwrap())
    }

    fn kill(&self, daemon: Daemon) {
        daemon.kill(|| self.mounted.fs.clear_faults()).unwrap();
    }
}

fn content(number: u64) -> Content {
    Content { seed: number, bytes: BYTES[(number % 4) as usize] + number, texture: Texture::Unique }
}

fn path(number: u64) -> FsPath {
    FsPath::parse(&format!("/files/{number}")).unwrap()
}

fn put(client: &Client, number: u64) -> Result<(), ClientError> {
    let content = content(number);
    let source = &mut content.source();
    client.put(&path(number), Upload::rewindable(source, content.bytes), &Attributes::default()).map(drop)
}

/// Which of the files are there; their bytes must be right.
fn present(client: &Client, numbers: std::ops::Range<u64>) -> Vec<u64> {
    let is_there = |number: &u64| match client.get(&path(*number), None) {
        Ok(mut download) => {
            let content = content(*number);
            content.compare(0, content.bytes, &mut download).unwrap_or_else(|error| panic!("file {number}: {error}"));
            true
        }
        Err(error) if error.is_not_found() => false,
        Err(error) => panic!("file {number}: {error:?}"),
    };
    numbers.filter(is_there).collect()
}

#[test]
fn acknowledged_files_survive_power_losses_byte_for_byte() {
    let Some(server) = Server::new() else { return };
    let (mut random, mut lost, mut acknowledged) = (Random::new(11), Loss::default(), 0);
    for batch in 0..8 {
        let (daemon, client) = server.serve();
        assert_eq!(present(&client, 0..acknowledged).len() as u64, acknowledged, "batch {batch}");
        (acknowledged..acknowledged + 12).for_each(|number| put(&client, number).unwrap());
        acknowledged += 12;
        server.kill(daemon);
        let loss = server.mounted.fs.lose_power(Survival::draw(&mut random), &mut random);
        (lost.pages, lost.names) = (lost.pages + loss.pages, lost.names + loss.names);
    }
    let (daemon, client) = server.serve();
    assert_eq!(present(&client, 0..acknowledged).len() as u64, acknowledged);
    daemon.stop().unwrap();
    assert!(lost.pages > 0, "power losses that take nothing prove nothing: {lost:?}");
}

#[test]
fn a_disk_that_lies_about_syncs_is_found_out() {
    let Some(server) = Server::new() else { return };
    let (daemon, client) = server.serve();
    put(&client, 0).unwrap();
    daemon.stop().unwrap();
    let (daemon, client) = server.serve();
    server.mounted.fs.lie_about_syncs(true);
    (1..9).for_each(|number| put(&client, number).unwrap());
    server.kill(daemon);
    server.mounted.fs.lose_power(Survival::Nothing, &mut Random::new(1));
    server.mounted.fs.lie_about_syncs(false);
    let (daemon, client) = server.serve();
    assert_eq!(present(&client, 0..9), [0], "only what was synced in truth is left");
    daemon.stop().unwrap();
}

/// Puts files under a fault until one is refused; whatever was acknowledged is there after a restart.
fn survives(operation: Operation, effect: Effect) {
    let Some(server) = Server::new() else { return };
    let (daemon, client) = server.serve();
    (0..4).for_each(|number| put(&client, number).unwrap());
    server.mounted.fs.inject(Fault { operation, after: 3, times: u64::MAX, effect });
    let refused = (4..ATTEMPTS_MAX).find_map(|number| put(&client, number).err().map(|error| (number, error)));
    let Some((number, error)) = refused else { panic!("{operation:?} fails, and {ATTEMPTS_MAX} puts do not notice") };
    match &error {
        ClientError::Api { status: 503, detail, .. } => {
            assert!(matches!(detail.code.as_str(), "device_failed" | "poisoned"), "a clear error: {error:?}");
        }
        other => panic!("not a clear error: {other:?}"),
    }
    let acknowledged = present_or_refused(&client, number);
    server.kill(daemon);
    let (daemon, client) = server.serve();
    let found = present(&client, 0..number + 1);
    assert!(
        found.starts_with(&Vec::from_iter(0..number)),
        "{acknowledged} read under the fault; {found:?} of {number}"
    );
    put(&client, 1000).expect("it serves again");
    daemon.stop().unwrap();
}

/// How many files read well under a fault: others may be refused, none may be wrong.
fn present_or_refused(client: &Client, numbers: u64) -> usize {
    let reads_well = |number: &u64| match client.get(&path(*number), None) {
        Ok(mut download) => match content(*number).compare(0, content(*number).bytes, &mut download) {
            Ok(()) => true,
            Err(error) => ClientError::from_io(error).map(|_| false).expect("no wrong bytes"),
        },
        Err(_) => false,
    };
    (0..numbers).filter(reads_well).count()
}

#[test]
fn failing_writes_are_refused_clearly_and_over_after_a_restart() {
    survives(Operation::Write, Effect::Io);
}

#[test]
fn failing_syncs_are_refused_clearly_and_over_after_a_restart() {
    survives(Operation::Sync, Effect::Io);
}

#[test]
fn torn_writes_are_refused_clearly_and_leave_nothing_half() {
    survives(Operation::Write, Effect::Torn);
}

#[test]
fn a_disk_that_never_answers_holds_nothing_back_that_was_acknowledged() {
    let Some(server) = Server::new() else { return };
    let (daemon, client) = server.serve();
    (0..8).for_each(|number| put(&client, number).unwrap());
    server.mounted.fs.inject(Fault { operation: Operation::Sync, after: 0, times: u64::MAX, effect: Effect::Hang });
    std::thread::scope(|scope| {
        let hanging = scope.spawn(|| put(&client, 8));
        while server.mounted.fs.struck() == 0 {
            std::thread::yield_now();
        }
        daemon.kill(|| server.mounted.fs.clear_faults()).unwrap();
        hanging.join().unwrap().expect_err("it was never answered");
    });
    server.mounted.fs.lose_power(Survival::Nothing, &mut Random::new(1));
    let (daemon, client) = server.serve();
    assert_eq!(present(&client, 0..8).len(), 8);
    daemon.stop().unwrap();
}
