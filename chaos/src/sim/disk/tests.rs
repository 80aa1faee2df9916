use super::*;
use crate::sim::{Outcome, Simulation};
use proto::port::runtime;
use std::cell::Cell;
use std::collections::BTreeSet;

const SECTOR: u64 = SECTOR_BYTES as u64;

fn filled(sectors: usize, byte: u8) -> AlignedBuf {
    AlignedBuf::copy_of(&vec![byte; sectors * SECTOR_BYTES])
}

async fn first_byte(disk: &SimDisk, name: &str, sector: u64) -> Option<u8> {
    let file = disk.open(name).await.ok()?;
    let (read, buf) = file.read_at(disk.buffer(SECTOR_BYTES), sector * SECTOR).await;
    (read.unwrap() == SECTOR_BYTES).then(|| buf[0])
}

/// What a writer forgets.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Forgets {
    Nothing,
    Sync,
    SyncDir,
}

/// A log writer that acknowledges each record after it should be durable; a start finds what is there and goes on.
async fn append_records(disk: SimDisk, acknowledged: Rc<Cell<u64>>, forgets: Forgets) {
    let file = match disk.open("log/0").await {
        Ok(file) => file,
        Err(_) => {
            let file = disk.create("log/0", 16 * SECTOR).await.unwrap();
            file.sync().await.unwrap();
            if forgets != Forgets::SyncDir {
                disk.sync_dir("log").await.unwrap();
            }
            file
        }
    };
    for record in acknowledged.get()..16 {
        file.write_at(filled(1, record as u8 + 1), record * SECTOR).await.0.unwrap();
        if forgets != Forgets::Sync {
            file.sync().await.unwrap();
        }
        acknowledged.set(record + 1);
    }
}

/// Seeds of `0..seeds` in which an acknowledged record was lost.
fn seeds_losing(seeds: u64, crash: Crash, forgets: Forgets) -> Vec<u64> {
    let loses = |seed: &u64| {
        let mut simulation = Simulation::new(*seed);
        let disk = simulation.add_disk(DiskOptions::default());
        let acknowledged = Rc::new(Cell::new(0));
        let mut random = simulation.fork_random();
        for _ in 0..3 {
            let writer = append_records(disk.clone(), acknowledged.clone(), forgets);
            simulation.run_until(random.below(60), crash, writer).unwrap();
            let (disk, records) = (disk.clone(), acknowledged.get());
            let lost = simulation.run(async move {
                for record in 0..records {
                    if first_byte(&disk, "log/0", record).await != Some(record as u8 + 1) {
                        return true;
                    }
                }
                false
            });
            if lost.unwrap() {
                return true;
            }
        }
        false
    };
    (0..seeds).filter(loses).collect()
}

#[test]
fn a_writer_that_syncs_never_loses() {
    assert_eq!(seeds_losing(300, Crash::Power, Forgets::Nothing), Vec::<u64>::new());
    assert_eq!(seeds_losing(100, Crash::Process, Forgets::Nothing), Vec::<u64>::new());
}

#[test]
fn a_writer_that_forgets_a_sync_is_caught() {
    assert!(seeds_losing(50, Crash::Power, Forgets::Sync).len() > 10);
    assert!(seeds_losing(50, Crash::Power, Forgets::SyncDir).len() > 10);
}

#[test]
fn a_killed_process_loses_nothing_that_completed() {
    assert_eq!(seeds_losing(100, Crash::Process, Forgets::Sync), Vec::<u64>::new());
    assert_eq!(seeds_losing(100, Crash::Process, Forgets::SyncDir), Vec::<u64>::new());
}

#[test]
fn what_a_killed_process_left_unsynced_still_dies_with_the_power() {
    let lost = (0..50).filter(|seed| {
        let mut simulation = Simulation::new(*seed);
        let disk = simulation.add_disk(DiskOptions::default());
        let writing = disk.clone();
        simulation
            .run(async move {
                let file = writing.create("a", SECTOR).await.unwrap();
                file.sync().await.unwrap();
                writing.sync_dir("").await.unwrap();
                file.write_at(filled(1, 7), 0).await.0.unwrap();
            })
            .unwrap();
        let reading = disk.clone();
        assert_eq!(simulation.run(async move { first_byte(&reading, "a", 0).await }), Ok(Some(7)));
        simulation.run_until(0, Crash::Power, async {}).unwrap();
        simulation.run(async move { first_byte(&disk, "a", 0).await }).unwrap() == Some(0)
    });
    assert!(lost.count() > 5);
}

#[test]
fn a_durable_write_needs_no_further_sync() {
    for seed in 0..100 {
        let mut simulation = Simulation::new(seed);
        let disk = simulation.add_disk(DiskOptions::default());
        let writing = disk.clone();
        simulation
            .run(async move {
                let file = writing.create("a", 0).await.unwrap();
                writing.sync_dir("").await.unwrap();
                file.write_durable_at(filled(2, 7), SECTOR).await.0.unwrap();
            })
            .unwrap();
        simulation.run_until(0, Crash::Power, async {}).unwrap();
        let reading = disk.clone();
        let second = simulation.run(async move { first_byte(&reading, "a", 2).await });
        assert_eq!(second, Ok(Some(7)), "seed {seed}");
    }
}

#[test]
fn a_dropped_future_does_not_stop_its_operation() {
    let mut simulation = Simulation::new(4);
    let disk = simulation.add_disk(DiskOptions::default());
    let written = simulation.run(async move {
        let file = disk.create("a", SECTOR).await.unwrap();
        {
            let mut write = std::pin::pin!(file.write_at(filled(1, 9), 0));
            std::future::poll_fn(|context| std::task::Poll::Ready(write.as_mut().poll(context).is_pending())).await;
        }
        runtime::sleep(Duration::from_secs(1)).await;
        first_byte(&disk, "a", 0).await
    });
    assert_eq!(written, Ok(Some(9)));
}

#[test]
fn operations_complete_in_any_order() {
    let order = |seed| {
        let mut simulation = Simulation::new(seed);
        let disk = simulation.add_disk(DiskOptions::default());
        let order = Rc::new(RefCell::new(Vec::new()));
        let seen = order.clone();
        simulation
            .run(async move {
                let file = disk.create("a", 4 * SECTOR).await.unwrap();
                for sector in 0..4 {
                    let (file, seen) = (file.clone(), seen.clone());
                    runtime::spawn(async move {
                        file.write_at(filled(1, 1), sector * SECTOR).await.0.unwrap();
                        seen.borrow_mut().push(sector);
                    });
                }
                runtime::sleep(Duration::from_secs(1)).await;
            })
            .unwrap();
        order.take()
    };
    let orders: BTreeSet<Vec<u64>> = (0..300).map(order).collect();
    assert_eq!(orders.len(), 24);
}

#[test]
fn a_write_in_flight_may_leave_any_part() {
    let mut left = BTreeSet::new();
    for seed in 0..400 {
        let mut simulation = Simulation::new(seed);
        let disk = simulation.add_disk(DiskOptions { torn_sectors_max: 0, ..DiskOptions::default() });
        let writing = disk.clone();
        simulation
            .run(async move {
                let file = writing.create("a", 3 * SECTOR).await.unwrap();
                file.sync().await.unwrap();
                writing.sync_dir("").await.unwrap();
            })
            .unwrap();
        let writing = disk.clone();
        // Open issued, open completed, write issued: three steps in, it is in flight.
        let outcome = simulation.run_until(3, Crash::Process, async move {
            let file = writing.open("a").await.unwrap();
            file.write_durable_at(filled(3, 1), 0).await.0.unwrap();
        });
        assert_eq!(outcome, Ok(Outcome::Crashed), "seed {seed}");
        let bytes = simulation.run(async move {
            let file = disk.open("a").await.unwrap();
            let (read, buf) = file.read_at(disk.buffer(3 * SECTOR_BYTES), 0).await;
            assert_eq!(read.unwrap(), 3 * SECTOR_BYTES);
            buf.chunks(SECTOR_BYTES).map(|sector| sector[0]).collect::<Vec<u8>>()
        });
        left.insert(bytes.unwrap());
    }
    assert_eq!(left.len(), 8, "{left:?}");
}

#[test]
fn a_full_disk_refuses_and_a_removed_file_makes_room() {
    let mut simulation = Simulation::new(1);
    let disk = simulation.add_disk(DiskOptions { capacity_bytes: 10 * SECTOR, ..DiskOptions::default() });
    simulation
        .run(async move {
            let full = |result: io::Result<()>| assert_eq!(result.unwrap_err().kind(), io::ErrorKind::StorageFull);
            let file = disk.create("a", 6 * SECTOR).await.unwrap();
            assert_eq!(disk.space().await.unwrap(), DiskSpace { total_bytes: 10 * SECTOR, free_bytes: 4 * SECTOR });
            full(disk.create("b", 5 * SECTOR).await.map(drop));
            file.write_at(filled(6, 1), 0).await.0.unwrap();
            assert_eq!(disk.space().await.unwrap().free_bytes, 4 * SECTOR, "a reservation is used, not added to");
            full(file.write_at(filled(5, 1), 6 * SECTOR).await.0);
            full(file.set_len(11 * SECTOR).await);
            file.punch(0, 2 * SECTOR).await.unwrap();
            assert_eq!(first_byte(&disk, "a", 1).await, Some(0));
            assert_eq!(file.len().await.unwrap(), 6 * SECTOR);
            assert_eq!(disk.space().await.unwrap().free_bytes, 6 * SECTOR);
            disk.remove("a").await.unwrap();
            assert_eq!(disk.space().await.unwrap().free_bytes, 6 * SECTOR, "an open file keeps its bytes");
            drop(file);
            assert_eq!(disk.space().await.unwrap().free_bytes, 10 * SECTOR);
        })
        .unwrap();
}

#[test]
fn injected_errors_hit_the_nth_operation() {
    let mut simulation = Simulation::new(1);
    let disk = simulation.add_disk(DiskOptions::default());
    simulation
        .run(async move {
            let file = disk.create("a", 4 * SECTOR).await.unwrap();
            disk.fail_nth(Operation::Write, 1);
            file.write_at(filled(1, 1), 0).await.0.unwrap();
            assert_eq!(file.write_durable_at(filled(1, 1), 0).await.0.unwrap_err().raw_os_error(), Some(5));
            file.write_at(filled(1, 1), 0).await.0.unwrap();
            disk.fail_nth(Operation::Sync, 0);
            assert!(file.sync().await.is_err());
            disk.fail_nth(Operation::Read, 0);
            assert!(file.read_at(disk.buffer(SECTOR_BYTES), 0).await.0.is_err());
        })
        .unwrap();
}

/// How often a fault has happened, on any disk.
fn happened(disk: &SimDisk, kind: &str) -> u64 {
    disk.0.medium.borrow().happened.counts().get(kind).copied().unwrap_or(0)
}

/// The first byte of every sector of every file.
async fn first_bytes(disk: &SimDisk) -> Vec<(String, Vec<u8>)> {
    let mut all = Vec::new();
    for (name, bytes) in disk.files() {
        let peeked = disk.peek(&name, 0, bytes as usize).unwrap();
        all.push((name, peeked.chunks(SECTOR_BYTES).map(|sector| sector[0]).collect()));
    }
    all
}

#[test]
fn a_misdirected_write_lands_elsewhere_in_scope_and_reports_success() {
    let mut hit = BTreeSet::new();
    for seed in 0..200 {
        let mut simulation = Simulation::new(seed);
        let disk = simulation.add_disk(DiskOptions::default());
        let writing = disk.clone();
        let before = [("other/a", 1), ("rows/a", 2), ("rows/b", 3)];
        simulation
            .run(async move {
                for (name, fill) in before {
                    let file = writing.create(name, 4 * SECTOR).await.unwrap();
                    file.write_durable_at(filled(4, fill), 0).await.0.unwrap();
                }
                writing.misdirect_nth("rows/", 1);
                let other = writing.open("other/a").await.unwrap();
                other.write_durable_at(filled(1, 1), 0).await.0.unwrap();
                let file = writing.open("rows/a").await.unwrap();
                for sector in [3, 2, 1] {
                    file.write_durable_at(filled(1, 9), sector * SECTOR).await.0.unwrap();
                }
            })
            .unwrap();
        assert_eq!(happened(&disk, kinds::WRITE_MISDIRECTED), 1);
        let after = simulation.run(async move { first_bytes(&disk).await }).unwrap();
        assert_eq!(after[0].1, [1; 4], "it is out of scope");
        assert_eq!(after[1].1[0], 2, "a first sector is spared");
        assert_eq!(after[2].1[0], 3);
        assert_ne!(after[1].1[2..], [9, 9], "its place keeps what was there, unless it is hit");
        hit.insert((after[1].1.clone(), after[2].1.clone()));
    }
    assert!(hit.len() >= 4, "{hit:?}");
}

#[test]
fn a_stale_read_is_stale_once() {
    let mut simulation = Simulation::new(1);
    let disk = simulation.add_disk(DiskOptions::default());
    let counted = disk.clone();
    simulation
        .run(async move {
            let file = disk.create("a", SECTOR).await.unwrap();
            file.write_durable_at(filled(1, 1), 0).await.0.unwrap();
            file.write_durable_at(filled(1, 2), 0).await.0.unwrap();
            disk.stale_nth("a", 1);
            let mut seen = Vec::new();
            for _ in 0..4 {
                seen.push(first_byte(&disk, "a", 0).await);
            }
            assert_eq!(seen, [Some(2), Some(1), Some(2), Some(2)]);
        })
        .unwrap();
    assert_eq!(happened(&counted, kinds::READ_STALE), 1);
}

#[test]
fn a_slow_disk_answers_late() {
    let mut simulation = Simulation::new(1);
    let disk = simulation.add_disk(DiskOptions::default());
    let counted = disk.clone();
    let took = simulation.run(async move {
        let file = disk.create("a", SECTOR).await.unwrap();
        disk.slow_nth(0, Duration::from_secs(60), Duration::from_secs(30));
        let began = runtime::monotonic();
        while runtime::monotonic() - began < Duration::from_secs(60) {
            file.sync().await.unwrap();
        }
        let (slow, began) = (happened(&disk, kinds::OPERATION_SLOW), runtime::monotonic());
        file.sync().await.unwrap();
        (slow, runtime::monotonic() - began)
    });
    let (slow, after) = took.unwrap();
    assert!((2..100).contains(&slow), "{slow}");
    assert!(after < Duration::from_secs(1), "the spell is over: {after:?}");
    assert_eq!(happened(&counted, kinds::OPERATION_SLOW), slow);
}

#[test]
fn a_disk_that_stops_answering_answers_the_next_process() {
    let mut simulation = Simulation::new(1);
    let disk = simulation.add_disk(DiskOptions::default());
    let (writing, written) = (disk.clone(), Rc::new(Cell::new(0)));
    let counting = written.clone();
    let stuck = simulation.run(async move {
        let file = writing.create("a", 8 * SECTOR).await.unwrap();
        file.sync().await.unwrap();
        writing.sync_dir("").await.unwrap();
        writing.stall_nth(2, None);
        loop {
            file.write_durable_at(filled(1, 1), counting.get() * SECTOR).await.0.unwrap();
            counting.set(counting.get() + 1);
        }
    });
    assert!(matches!(stuck, Err(crate::sim::Stuck::Deadlock { .. })), "nothing else goes on in this world");
    assert_eq!((written.get(), happened(&disk, kinds::OPERATION_STALLED)), (2, 1));
    let reading = disk.clone();
    let read = simulation.run(async move { (first_byte(&reading, "a", 1).await, first_byte(&reading, "a", 7).await) });
    assert_eq!(read, Ok((Some(1), Some(0))));
}

#[test]
fn a_disk_that_stalls_for_a_while_loses_nothing() {
    let mut simulation = Simulation::new(1);
    let disk = simulation.add_disk(DiskOptions::default());
    let took = simulation.run(async move {
        let file = disk.create("a", SECTOR).await.unwrap();
        disk.stall_nth(0, Some(Duration::from_secs(300)));
        let began = runtime::monotonic();
        file.write_durable_at(filled(1, 5), 0).await.0.unwrap();
        assert_eq!(first_byte(&disk, "a", 0).await, Some(5));
        runtime::monotonic() - began
    });
    let took = took.unwrap();
    assert!(took >= Duration::from_secs(300) && took < Duration::from_secs(301), "{took:?}");
}

#[test]
fn a_reverted_disk_is_what_was_durable_when_it_was_remembered() {
    let mut simulation = Simulation::new(1);
    let disk = simulation.add_disk(DiskOptions::default());
    let write = |disk: SimDisk, name: &'static str, fill, synced| async move {
        let file = match disk.open(name).await {
            Ok(file) => file,
            Err(_) => disk.create(name, SECTOR).await.unwrap(),
        };
        file.write_at(filled(1, fill), 0).await.0.unwrap();
        if synced {
            file.sync().await.unwrap();
            disk.sync_dir("").await.unwrap();
        }
    };
    let shown = |disk: &SimDisk| {
        let byte = |(name, _): (String, u64)| (disk.peek(&name, 0, 1).unwrap()[0], name);
        disk.files().into_iter().map(byte).collect::<Vec<_>>()
    };
    assert!(!disk.revert(), "there is nothing to revert to");
    simulation.run(write(disk.clone(), "a", 1, true)).unwrap();
    simulation.run(write(disk.clone(), "a", 2, false)).unwrap();
    disk.remember();
    simulation.run(write(disk.clone(), "a", 3, true)).unwrap();
    simulation.run(write(disk.clone(), "b", 4, true)).unwrap();
    assert!(disk.revert());
    assert_eq!(shown(&disk), [(1, "a".to_owned())], "what was not synced is not in it");
    disk.restore();
    assert_eq!(shown(&disk), [(3, "a".to_owned()), (4, "b".to_owned())]);
    assert_eq!(happened(&disk, kinds::DISK_REVERTED), 1);
    assert!(!disk.revert(), "what was remembered is forgotten");
}

#[test]
fn faults_are_counted_when_they_happen() {
    let mut simulation = Simulation::new(3);
    let options = DiskOptions { capacity_bytes: 4 * SECTOR, ..DiskOptions::default() };
    let disk = simulation.add_disk(options);
    disk.fail_nth(Operation::Sync, 0);
    disk.misdirect_nth("", 100);
    disk.stale_nth("", 100);
    assert!(simulation.happened().counts().is_empty(), "what is armed has not happened");
    let writing = disk.clone();
    simulation
        .run(async move {
            let file = writing.create("a", 4 * SECTOR).await.unwrap();
            writing.sync_dir("").await.unwrap();
            assert!(file.sync().await.is_err());
            assert!(writing.create("b", SECTOR).await.is_err());
            file.sync().await.unwrap();
            file.write_at(filled(4, 1), 0).await.0.unwrap();
        })
        .unwrap();
    assert_eq!((happened(&disk, kinds::SYNC_FAILED), happened(&disk, kinds::DISK_FULL)), (1, 1));
    assert!(disk.corrupt("a", 5, 1) && disk.mend("a", 5, 1));
    assert_eq!(happened(&disk, kinds::BIT_FLIPPED), 1, "mending is no fault");
    for _ in 0..20 {
        let writing = disk.clone();
        let write = async move {
            let file = writing.open("a").await.unwrap();
            file.write_at(filled(4, 2), 0).await.0.unwrap();
            file.write_at(filled(4, 3), 0).await.0.unwrap();
        };
        simulation.run(write).unwrap();
        simulation.run_until(0, Crash::Power, async {}).unwrap();
    }
    assert!(happened(&disk, kinds::SECTOR_LOST) > 0 && happened(&disk, kinds::SECTOR_TORN) > 0);
}

#[test]
fn names_follow_the_contract_of_the_port() {
    let mut simulation = Simulation::new(1);
    let disk = simulation.add_disk(DiskOptions::default());
    let rotting = disk.clone();
    simulation
        .run(async move {
            let kind = |result: io::Result<()>| result.unwrap_err().kind();
            assert_eq!(disk.list("wal").await.unwrap(), Vec::<String>::new());
            let file = disk.create("wal/b", 0).await.unwrap();
            file.write_durable_at(filled(1, 4), 0).await.0.unwrap();
            disk.create("wal/a", 1).await.unwrap();
            disk.create("wal/old/c", 0).await.unwrap();
            assert_eq!(kind(disk.create("wal/a", 0).await.map(drop)), io::ErrorKind::AlreadyExists);
            assert_eq!(disk.list("wal").await.unwrap(), ["a", "b"]);
            disk.rename("wal/b", "wal/a").await.unwrap();
            assert_eq!(disk.list("wal").await.unwrap(), ["a"]);
            assert_eq!(first_byte(&disk, "wal/a", 0).await, Some(4));
            assert_eq!(kind(disk.remove("wal/b").await), io::ErrorKind::NotFound);
            assert_eq!(kind(disk.open("wal/b").await.map(drop)), io::ErrorKind::NotFound);
            let (read, buf) = file.read_at(disk.buffer(2 * SECTOR_BYTES), 0).await;
            assert_eq!((read.unwrap(), buf[SECTOR_BYTES]), (SECTOR_BYTES, GARBAGE), "short at the end of the file");
        })
        .unwrap();
    assert_eq!(rotting.files(), [("wal/a".to_owned(), SECTOR), ("wal/old/c".to_owned(), 0)]);
    assert!(rotting.corrupt("wal/a", 1, 0));
    assert!(!rotting.corrupt("wal/z", 1, 0));
}

#[test]
#[should_panic(expected = "direct I/O wants whole sectors")]
fn unaligned_writes_are_a_bug() {
    let mut simulation = Simulation::new(1);
    let disk = simulation.add_disk(DiskOptions::default());
    let write = async move {
        let file = disk.create("a", 0).await.unwrap();
        let _ = file.write_at(AlignedBuf::zeroed(100), 0).await;
    };
    simulation.run(write).unwrap();
}
