//! Measurements behind docs/rfcs/0005-metadata-memory.md. In release, one at a time, a process each:
//!
//! ```text
//! cargo nextest run --release -p meta --run-ignored only --no-capture measure
//! ```

#![expect(clippy::disallowed_methods, reason = "the kernel says what memory and time were used")]

use std::collections::BTreeMap;
use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use futures_util::future::join_all;
use proto::checksum::checksum;
use proto::limits::SNAPSHOT_FRAME_BYTES_MAX;
use proto::{ClusterId, DeviceId, DomainId, InodeId, VirtualShard};

use super::State;
use crate::command::{Attributes, Command, Condition, Content, Place, Response};
use crate::exec::exec;
use crate::keys::KeyRange;
use crate::manifest::ManifestEntry;
use crate::solo::{Solo, SoloOptions};
use crate::testing::{MemDisk, TestKeys, block_on};
use crate::txn::KvTxn;

const FILES: u64 = 1_000_000;

/// What a file holds.
#[derive(Clone, Copy, Debug)]
enum Kind {
    Empty,
    OneChunk,
    Inline100,
}

/// In which order names are made.
#[derive(Clone, Copy, Debug)]
enum Names {
    Ascending,
    Scattered,
}

/// A name of 20 bytes.
fn name(names: Names, number: u64) -> String {
    match names {
        Names::Ascending => format!("file-{number:011}.dat"),
        Names::Scattered => format!("{:016x}.dat", checksum(&number.to_le_bytes())),
    }
}

fn create(names: Names, kind: Kind, number: u64) -> Command {
    let content = match kind {
        Kind::Empty => Content::Inline(Vec::new()),
        Kind::Inline100 => Content::Inline(vec![number as u8; 100]),
        Kind::OneChunk => {
            let id: [u8; 32] = std::array::from_fn(|at| checksum(&[number as u8, at as u8]) as u8);
            let entry = ManifestEntry { id, bytes: 65_536, location: u128::from(number) << 60 };
            Content::Chunks { size: 65_536, domain: DomainId(0), depth: 0, entries: vec![entry] }
        }
    };
    Command::CommitFile {
        at: Place::in_directory(InodeId::ROOT, name(names, number)),
        content,
        attributes: Attributes {
            owner: 7,
            mtime_ns: Some(1_700_000_000_000_000_000 + number),
            ..Attributes::default()
        },
        condition: Condition::Any,
        session: None,
        now_ns: 1_700_000_000_000_000_000 + number,
        pin_epoch: 0,
    }
}

fn formatted() -> State {
    let mut state = State::default();
    exec(&Command::Format { now_ns: 1 }, &mut state);
    exec(&registration(), &mut state);
    state
}

/// The domain of all chunks.
fn registration() -> Command {
    Command::CreateDomain { domain: DomainId(0), chunker: 1, ring_key: 2, wrap_nonce: [3; 12], wrapped_key: [4; 48] }
}

/// Bytes of memory that the process has.
fn resident_bytes() -> u64 {
    let statm = std::fs::read_to_string("/proc/self/statm").expect("Linux has it");
    statm.split(' ').nth(1).and_then(|pages| pages.parse::<u64>().ok()).expect("a number of pages") * 4096
}

/// Time that the thread has had a core, to a few milliseconds. A clock on the wall would measure what else runs.
fn cpu_time() -> Duration {
    let schedstat = std::fs::read_to_string("/proc/thread-self/schedstat").expect("Linux has it");
    let running_ns = schedstat.split(' ').next().and_then(|number| number.parse().ok());
    Duration::from_nanos(running_ns.expect("a number of nanoseconds"))
}

fn timed<T>(work: impl FnOnce() -> T) -> (T, Duration) {
    let start = cpu_time();
    let value = work();
    (value, cpu_time() - start)
}

async fn timed_async<T>(work: impl Future<Output = T>) -> (T, Duration) {
    let start = cpu_time();
    let value = work.await;
    (value, cpu_time() - start)
}

fn measure_bytes_per_file(kind: Kind, names: Names) {
    let before = resident_bytes();
    let mut state = formatted();
    let ((), took) = timed(|| {
        for number in 0..FILES {
            let response = exec(&create(names, kind, number), &mut state);
            assert!(matches!(response, Response::Committed { .. }));
        }
    });
    let resident = resident_bytes() - before;
    let mut by_kind: BTreeMap<char, (usize, usize)> = BTreeMap::new();
    for (key, value) in state.range(&KeyRange { from: vec![0], to: vec![u8::MAX] }) {
        let sums = by_kind.entry(char::from(key[0])).or_default();
        *sums = (sums.0 + key.len(), sums.1 + value.len());
    }
    let per_file = |bytes: u64| bytes as f64 / FILES as f64;
    println!(
        "{kind:?}, {names:?}: resident {:.1} B/file, keys and values {:.1} B/file, {:.0} files/s",
        per_file(resident),
        per_file(state.bytes()),
        FILES as f64 / took.as_secs_f64(),
    );
    for (letter, (keys, values)) in by_kind {
        println!(
            "    {letter}: keys {:.1} B/file, values {:.1} B/file",
            per_file(keys as u64),
            per_file(values as u64)
        );
    }
}

/// A process each: memory that another measurement freed would be counted for none.
macro_rules! measure_bytes_per_file {
    ($($test:ident: $kind:ident $names:ident),* $(,)?) => {
        $(#[test]
        #[ignore = "measures"]
        fn $test() {
            measure_bytes_per_file(Kind::$kind, Names::$names);
        })*
    };
}

measure_bytes_per_file! {
    measure_empty_files_ascending: Empty Ascending,
    measure_empty_files_scattered: Empty Scattered,
    measure_files_of_one_chunk_ascending: OneChunk Ascending,
    measure_files_of_one_chunk_scattered: OneChunk Scattered,
    measure_inline_files_ascending: Inline100 Ascending,
    measure_inline_files_scattered: Inline100 Scattered,
}

/// The whole backend over a disk in memory and a cipher that costs next to nothing: what is measured is this crate.
#[test]
#[ignore = "measures"]
fn measure_a_backend_of_a_million_files() {
    const AT_ONCE: u64 = 1000;
    let disk = MemDisk::default();
    let options = SoloOptions {
        disk: disk.clone(),
        cluster: ClusterId([1; 16]),
        device: DeviceId([2; 16]),
        stream: 0,
        keys: Arc::new(TestKeys(7)),
        snapshot_after_wal_bytes: u64::MAX / 4,
        wal_reserve_bytes: proto::limits::WAL_RESERVE_BYTES,
        must_exist: false,
    };
    let again = options.clone();
    let rate = |took: Duration, what: u64| what as f64 / took.as_secs_f64();
    block_on(async move {
        let solo = Solo::open(options).await.expect("a new store opens");
        solo.propose(VirtualShard(0), registration()).await.expect("the log takes it");
        let ((), took) = timed_async(async {
            for first in (0..FILES).step_by(AT_ONCE as usize) {
                let create = |number| solo.propose(VirtualShard(0), create(Names::Scattered, Kind::OneChunk, number));
                join_all((first..first + AT_ONCE).map(create)).await;
            }
        })
        .await;
        println!("create, {AT_ONCE} at once: {:.0} files/s", rate(took, FILES));
        println!("memory: {:.1} B/file", solo.memory_bytes() as f64 / FILES as f64);
        for limit in [1000, 10_000] {
            let mut after: Option<String> = None;
            let (listed, took) = timed(|| {
                let mut listed = 0;
                loop {
                    let page = solo.view(|view| view.list(InodeId::ROOT, after.as_deref(), limit));
                    listed += page.len() as u64;
                    match page.into_iter().last() {
                        Some((last, _)) => after = Some(last),
                        None => return listed,
                    }
                }
            });
            assert_eq!(listed, FILES);
            println!(
                "list, pages of {limit}: {:.0} names/s, {:?} a page",
                rate(took, FILES),
                took / (FILES as u32 / limit as u32)
            );
        }
        let (written, took) = timed_async(solo.snapshot()).await;
        written.expect("the disk takes it");
        println!("snapshot: {} MB written in {took:?}", solo.raw_bytes() / 1_000_000);
        solo.close().await.expect("the disk takes it");
    });
    block_on(async move {
        let (solo, took) = timed_async(Solo::open(again)).await;
        let solo = solo.unwrap_or_else(|error| panic!("{error}"));
        println!("start from the snapshot: {took:?}, {:.1} B/file", solo.memory_bytes() as f64 / FILES as f64);
    });
}

/// What a snapshot takes from the core that also serves commands, without disk and cipher: each run keeps others from the
/// state.
#[test]
#[ignore = "measures"]
fn measure_the_runs_of_a_snapshot() {
    let mut state = formatted();
    for number in 0..FILES {
        exec(&create(Names::Scattered, Kind::OneChunk, number), &mut state);
    }
    state.begin_snapshot();
    let (runs, took) = timed(|| {
        let mut runs = 0;
        while state.next_run(SNAPSHOT_FRAME_BYTES_MAX).pairs > 0 {
            runs += 1;
        }
        runs
    });
    println!("{runs} runs in {took:?}, {:?} each", took / runs);
}
