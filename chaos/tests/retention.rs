//! Retention on a node: what a pass lets go, and what it must leave.

use std::sync::Arc;
use std::time::Duration;

use chaos::sim::{Crash, DiskOptions, Random, SimDisk, Simulation};
use chunk::KeyRing;
use meta::MetaError;
use node::{
    ChangeError, Condition, Expired, FileReadError, Node, NodeOptions, PutOptions, Removal, Retention, Session, Target,
};
use proto::VersionNumber;
use proto::path::FsPath;
use proto::port::runtime;

const HOUR: Duration = Duration::from_secs(3600);

fn path(text: &str) -> FsPath {
    FsPath::parse(text).unwrap()
}

fn at(text: &str) -> Target {
    Target::Path(path(text))
}

async fn open(disk: SimDisk) -> Node<SimDisk> {
    let keys = Arc::new(KeyRing::generate(1, [7; 32]));
    Node::open(NodeOptions::new(vec![disk], keys)).await.unwrap().0
}

async fn put(node: &Node<SimDisk>, name: &str, bytes: &[u8]) {
    let mut writer = node.create(path(name), PutOptions::default()).unwrap();
    writer.write(bytes).await.unwrap();
    writer.finish().await.unwrap();
}

async fn set(node: &Node<SimDisk>, directory: &str, retention: Option<Retention>) {
    node.set_retention(at(directory), retention, Condition::Any, None).await.unwrap();
}

async fn versions(node: &Node<SimDisk>, name: &str) -> Vec<u64> {
    let page = node.versions(at(name), None, 10_000).await.unwrap();
    page.versions.iter().map(|version| version.info.version().0).collect()
}

fn keep(versions: u32) -> Option<Retention> {
    Some(Retention { keep: Some(versions), keep_for_ns: None })
}

fn keep_for(duration: Duration) -> Option<Retention> {
    Some(Retention { keep: None, keep_for_ns: Some(duration.as_nanos() as u64) })
}

/// Runs `main` with a fresh disk.
fn run<T: 'static, F: Future<Output = T> + 'static>(seed: u64, main: impl FnOnce(SimDisk) -> F) -> T {
    let mut simulation = Simulation::new(seed);
    let disk = simulation.add_disk(DiskOptions::default());
    simulation.run(main(disk)).unwrap()
}

#[test]
fn a_pass_lets_go_what_no_retention_keeps_and_it_stays_gone() {
    // More files than one look takes, and they lie among each other.
    const FILES: usize = 200;
    run(1, |disk| async move {
        let node = open(disk.clone()).await;
        for round in 0..3 {
            for file in 0..FILES {
                for directory in ["newest", "recent", "all"] {
                    put(&node, &format!("/{directory}/{file}"), &[round; 10]).await;
                }
            }
        }
        set(&node, "/", keep_for(HOUR)).await;
        set(&node, "/newest", keep(1)).await;
        set(&node, "/all", Some(Retention::EVERYTHING)).await;
        let of = async |versions: u64| Expired { versions, bytes: 10 * versions, is_complete: true };
        assert_eq!(node.expire(u64::MAX).await.unwrap(), of(2 * FILES as u64).await);
        assert_eq!(node.expire(u64::MAX).await.unwrap(), of(0).await);
        runtime::sleep(HOUR).await;
        assert_eq!(node.expire(u64::MAX).await.unwrap(), of(2 * FILES as u64).await);
        let node = {
            node.close().await.unwrap();
            open(disk).await
        };
        for file in [0, FILES / 2, FILES - 1] {
            assert_eq!(versions(&node, &format!("/newest/{file}")).await, [3]);
            assert_eq!(versions(&node, &format!("/recent/{file}")).await, [3]);
            assert_eq!(versions(&node, &format!("/all/{file}")).await, [3, 2, 1]);
        }
        assert_eq!(node.stats().await.unwrap().logical_bytes, 10 * 5 * FILES as u64);
        let info = node.retention(at("/recent/0")).await.unwrap();
        assert_eq!((Some(info.in_force), info.own, info.from), (keep_for(HOUR), None, Some("/".to_owned())));
    });
}

#[test]
fn a_pass_ends_at_its_maximum_and_the_next_one_goes_on() {
    run(2, |disk| async move {
        let node = open(disk).await;
        // More versions than one command takes.
        for number in 0..600u32 {
            put(&node, "/f", &number.to_le_bytes()).await;
        }
        set(&node, "/", keep(10)).await;
        let first = node.expire(1).await.unwrap();
        assert!(!first.is_complete && (1..590).contains(&first.versions), "{first:?}");
        let rest = node.expire(u64::MAX).await.unwrap();
        assert_eq!((first.versions + rest.versions, rest.is_complete), (590, true));
        assert_eq!(versions(&node, "/f").await, (591..=600).rev().collect::<Vec<u64>>());
    });
}

#[test]
fn what_was_let_go_is_not_read_and_not_restored_and_says_why() {
    run(3, |disk| async move {
        let node = open(disk).await;
        for round in 1..=3 {
            put(&node, "/d/f", &vec![round; 100_000]).await;
        }
        set(&node, "/d", keep(2)).await;
        // Still there until a pass comes.
        node.stat_version(at("/d/f"), VersionNumber(1)).await.unwrap();
        assert_eq!(node.expire(u64::MAX).await.unwrap().versions, 1);
        let expected = MetaError::VersionExpired { oldest: VersionNumber(2) };
        let old = VersionNumber(1);
        assert_eq!(node.stat_version(at("/d/f"), old).await.unwrap_err(), expected);
        let read = node.open_version(at("/d/f"), old).await;
        assert!(matches!(read, Err(FileReadError::Refused(error)) if error == expected));
        let restored = node.restore(path("/d/f"), old, Condition::Any, None).await;
        assert!(matches!(restored, Err(ChangeError::Refused(error)) if error == expected));
        let restored = node.restore(path("/d/f"), VersionNumber(2), Condition::Any, None).await.unwrap();
        assert_eq!(restored.version(), VersionNumber(4));
        // Version 2 goes; what was restored of it stays, with all its bytes.
        assert_eq!(node.expire(u64::MAX).await.unwrap().versions, 1);
        let mut reader = node.open_version(at("/d/f"), VersionNumber(4)).await.unwrap();
        let mut read = Vec::new();
        while let Some(bytes) = reader.next().await {
            read.extend_from_slice(&bytes.unwrap());
        }
        assert!(read == vec![2; 100_000]);
    });
}

#[test]
fn the_list_of_versions_says_until_when_each_is_kept() {
    run(4, |disk| async move {
        let node = open(disk).await;
        for round in 0..4 {
            put(&node, "/f", &[round]).await;
            runtime::sleep(HOUR).await;
        }
        let until = async |retention| {
            set(&node, "/", retention).await;
            let page = node.versions(at("/f"), None, 10).await.unwrap();
            let committed: Vec<u64> = page.versions.iter().map(|version| version.info.inode.committed_ns).collect();
            // In hours after the version was replaced; 0 if that does not matter.
            let hours = |(place, at): (usize, Option<u64>)| {
                at.map(|at| if at == 0 { 0 } else { (at - committed[place - 1]) / 3_600_000_000_000 })
            };
            page.versions.iter().map(|version| version.lets_go_at_ns).enumerate().map(hours).collect::<Vec<_>>()
        };
        assert_eq!(until(None).await, [None; 4]);
        assert_eq!(until(Some(Retention::EVERYTHING)).await, [None; 4]);
        assert_eq!(until(keep(2)).await, [None, None, Some(0), Some(0)]);
        assert_eq!(until(keep_for(5 * HOUR)).await, [None, Some(5), Some(5), Some(5)]);
        let both = Retention { keep: Some(3), ..keep_for(5 * HOUR).unwrap() };
        assert_eq!(until(Some(both)).await, [None, None, None, Some(5)]);
    });
}

#[test]
fn a_repeated_request_gets_its_answer_also_when_the_directory_is_gone() {
    run(5, |disk| async move {
        let node = open(disk).await;
        put(&node, "/d/f", b"1").await;
        let session = Some(Session::Numbered { client: 1, sequence: 1, acked_below: 0 });
        let once = async || node.set_retention(at("/d"), keep(1), Condition::Exists, session).await;
        let answer = once().await.unwrap();
        assert_eq!((answer.own, answer.from.as_deref()), (keep(1), Some("/d")));
        assert_eq!(once().await.unwrap(), answer);
        node.remove(at("/d"), Removal::Recursive, None).await.unwrap();
        assert_eq!(once().await.unwrap().own, keep(1));
        let other = node.set_retention(at("/d"), keep(1), Condition::Any, None).await;
        assert!(matches!(other, Err(ChangeError::Refused(MetaError::NotFound))));
    });
}

#[test]
fn a_pass_that_is_cut_off_anywhere_leaves_each_file_before_it_or_after() {
    const FILES: usize = 40;
    let name = |file: usize| format!("/d/{file}");
    let mut cut_between = 0;
    for seed in 0..30 {
        let mut simulation = Simulation::new(seed);
        let mut random = Random::new(seed);
        let disk = simulation.add_disk(DiskOptions::default());
        let first = disk.clone();
        let filled = simulation.run(async move {
            let node = open(first).await;
            for round in 0..4 {
                for file in 0..FILES {
                    put(&node, &name(file), &[round]).await;
                }
            }
            set(&node, "/d", keep(2)).await;
        });
        filled.unwrap();
        let crash = if random.chance(1, 2) { Crash::Process } else { Crash::Power };
        let again = disk.clone();
        let cut = simulation.run_until(random.between(1, 300), crash, async move {
            open(again).await.expire(u64::MAX).await.unwrap();
        });
        cut.unwrap();
        let left = simulation.run(async move {
            let node = open(disk).await;
            let mut left = Vec::new();
            for file in 0..FILES {
                left.push(versions(&node, &name(file)).await);
            }
            assert!(node.expire(u64::MAX).await.unwrap().is_complete);
            for file in 0..FILES {
                assert_eq!(versions(&node, &name(file)).await, [4, 3], "seed {seed}");
            }
            left
        });
        let left = left.unwrap();
        let after = left.iter().filter(|versions| **versions == [4, 3]).count();
        let before = left.iter().filter(|versions| **versions == [4, 3, 2, 1]).count();
        assert_eq!(after + before, FILES, "seed {seed}: {left:?}");
        cut_between += usize::from(after > 0 && before > 0);
    }
    assert!(cut_between > 0, "no pass was cut off between two files");
}
