//! What moving chunks promises, each as small runs of stores on a simulated disk.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::rc::Rc;
use std::sync::Arc;

use chaos::invariants::nonces::{Seals, WatchedKeys};
use chaos::sim::{Crash, DiskOptions, Outcome, Random, SimDisk, Simulation};
use chunk::DomainKey;
use futures_util::future::{join, join_all};
use net::mailbox::mailboxes;
use proto::disk::{BlockEntry, ChunkEntry};
use proto::port::runtime;
use proto::{ChunkId, ClusterId, DeviceId, DomainId, Generation, Geometry, Location, SegmentId};
use shard::compact::{Arrival, Budget, Compacted, Pick, Regroup, Similar};
use shard::recovery::{ListedSegment, ListedState};
use shard::row::CompressedBlock;
use shard::segment::{Member, SegmentOpened, piece_name};
use shard::{LogError, ReadError, SegmentLog, Store, StoreOptions, StoreStats, Stored};

const PIECE_BYTES: u64 = 1 << 20;

/// The segments that a log lists, durable at once.
#[derive(Clone, Default)]
struct Log(Rc<RefCell<BTreeMap<SegmentId, ListedSegment>>>);

impl Log {
    fn listed(&self) -> Vec<ListedSegment> {
        self.0.borrow().values().cloned().collect()
    }

    fn forget(&self, segment: SegmentId) {
        self.0.borrow_mut().remove(&segment);
    }
}

impl SegmentLog for Log {
    async fn opened(&self, opened: SegmentOpened) -> Result<(), LogError> {
        let SegmentOpened { segment: id, members, geometry, generation } = opened;
        let listed = ListedSegment { id, members, geometry, generation, state: ListedState::Open };
        assert!(self.0.borrow_mut().insert(id, listed).is_none(), "a segment was opened twice");
        Ok(())
    }

    async fn settled(&self) {}

    async fn sealed(&self, segment: SegmentId, footer_offsets: Vec<u64>) -> Result<(), LogError> {
        let mut listed = self.0.borrow_mut();
        listed.get_mut(&segment).expect("it was opened").state = ListedState::Sealed(footer_offsets);
        Ok(())
    }

    async fn reserve_bytes(&self) -> u64 {
        0
    }
}

type SimStore = Store<SimDisk, Log>;

/// A disk, what the log knows of it, and the starts so far.
struct Bench {
    simulation: Simulation,
    start: Start,
}

/// All that a start takes.
#[derive(Clone)]
struct Start {
    disk: SimDisk,
    log: Log,
    seals: Arc<Seals>,
    cores: usize,
    incarnations: Rc<RefCell<u64>>,
}

impl Bench {
    fn new(seed: u64, cores: usize) -> Bench {
        let mut simulation = Simulation::new(seed);
        let disk = simulation.add_disk(DiskOptions::default());
        let start =
            Start { disk, log: Log::default(), seals: Arc::default(), cores, incarnations: Rc::new(RefCell::new(0)) };
        Bench { simulation, start }
    }

    /// Starts the stores with what the log lists, and runs `main` to its end.
    fn run<T: 'static, F: Future<Output = T> + 'static>(
        &mut self,
        main: impl FnOnce(Start, Vec<SimStore>) -> F + 'static,
    ) -> T {
        let start = self.start.clone();
        let ran = self.simulation.run(async move {
            let stores = start.open(&start.log.listed()).await;
            main(start, stores).await
        });
        assert_eq!(self.start.seals.reused(), None);
        ran.expect("stores never hang")
    }
}

impl Start {
    async fn open(&self, listed: &[ListedSegment]) -> Vec<SimStore> {
        *self.incarnations.borrow_mut() += 1;
        let device = DeviceId([9; 16]);
        let store = |end| {
            let keys = Arc::new(WatchedKeys::new([7; 32], self.seals.clone()));
            let options = StoreOptions {
                members: vec![Member { device, disk: self.disk.clone() }],
                cluster: ClusterId([1; 16]),
                geometry: Geometry::SINGLE,
                keys,
                log: self.log.clone(),
                incarnation: *self.incarnations.borrow(),
                piece_bytes: PIECE_BYTES,
                epoch: 1,
                reserved: Arc::default(),
            };
            Store::open(options, end)
        };
        let stores: Vec<SimStore> = mailboxes(self.cores).into_iter().map(store).collect();
        for store in &stores {
            let recovered = store.recover(listed, |_| false).await.expect("it recovers");
            assert_eq!(recovered.warnings, Vec::<String>::new());
        }
        join_all(stores.iter().map(Store::count_copies)).await;
        stores.iter().for_each(Store::complete);
        stores
    }

    /// Compacts all that is worth it, and frees what that emptied.
    async fn collect(&self, store: &SimStore, pick: &Pick) -> Compacted {
        let mut sum = Compacted::default();
        let mut victims = store.victims(pick).await;
        while !victims.is_empty() {
            let done = store.compact(victims, Arrival, &Budget::new(100)).await;
            for segment in &done.emptied {
                self.log.forget(*segment);
                store.free(*segment).await.expect("it is empty");
                assert_eq!(self.disk.peek(&piece_name(*segment, 0), 0, 1), None, "its file is gone");
            }
            sum.emptied.extend(done.emptied);
            sum.moved_chunks += done.moved_chunks;
            sum.read_bytes += done.read_bytes;
            sum.unreadable_chunks += done.unreadable_chunks;
            sum.stopped = sum.stopped.or(done.stopped);
            victims = if sum.stopped.is_some() { Vec::new() } else { done.left };
        }
        sum
    }
}

/// A stored chunk.
#[derive(Clone)]
struct Chunk {
    id: ChunkId,
    plain: Vec<u8>,
    hint: Location,
}

/// Half of each is noise: it compresses, but not away.
fn plain(seed: u64, bytes: usize) -> Vec<u8> {
    let mut plain = vec![0; bytes];
    Random::new(seed).fill(&mut plain[..bytes / 2]);
    plain
}

fn id_of(plain: &[u8]) -> ChunkId {
    DomainKey::new([3; 32]).chunk_id(plain)
}

/// Stores chunks in rows of `at_once`.
async fn put(store: &SimStore, plains: Vec<Vec<u8>>, at_once: usize) -> Vec<Chunk> {
    let mut chunks = Vec::new();
    for plains in plains.chunks(at_once) {
        let ids: Vec<ChunkId> = plains.iter().map(|plain| id_of(plain)).collect();
        let (made, of) = (plains.to_vec(), ids.clone());
        let block = move |number: usize| {
            let plain: &Vec<u8> = &made[number];
            let (codec, payload) = chunk::compress(plain);
            let chunks = vec![ChunkEntry { id: of[number], plain_bytes: plain.len() as u32 }];
            let entry = BlockEntry { codec, domain: DomainId(1), payload_bytes: payload.len() as u32, chunks };
            CompressedBlock { entry, payload: payload.into_owned() }
        };
        for ((stored, id), plain) in store.put(ids.clone(), block).await.chunks.into_iter().zip(ids).zip(plains) {
            let hint = match stored {
                Stored::Durable(location) => location,
                Stored::Underway(underway) => store.settle(underway).await.expect("it is stored"),
            };
            chunks.push(Chunk { id, plain: plain.clone(), hint });
        }
    }
    chunks
}

/// Every chunk is read at its first place from every core.
async fn assert_readable(stores: &[SimStore], chunks: &[Chunk]) {
    for store in stores {
        for chunk in chunks {
            assert!(store.read(&chunk.id, chunk.hint).await.expect("it is read") == chunk.plain);
        }
    }
}

/// What does not depend on the number of segments.
fn volume(stats: StoreStats) -> (u64, u64, u64, u64) {
    (stats.chunks, stats.unique_bytes, stats.stored_bytes, stats.similarity_bytes)
}

/// Fills a store with `count` chunks of `bytes` each in rows of `at_once`, and closes it.
fn fill(bench: &mut Bench, count: u64, bytes: usize, at_once: usize) -> Vec<Chunk> {
    bench.run(move |_, stores| async move {
        // Whoever accepts a connection writes.
        let mut chunks = Vec::new();
        for (number, store) in stores.iter().enumerate() {
            let mine = (0..count).filter(|seed| *seed as usize % stores.len() == number);
            chunks.extend(put(store, mine.map(|seed| plain(seed, bytes)).collect(), at_once).await);
        }
        stores[0].close().await;
        chunks
    })
}

#[test]
fn narrow_rows_become_wide_and_chunks_are_found_where_they_went() {
    for cores in 1..=3 {
        let mut bench = Bench::new(cores as u64, cores);
        let chunks = fill(&mut bench, 120, 9_000, 1);
        let before = chunks.clone();
        let after = bench.run(move |start, stores| async move {
            let chunks = before;
            // Every core has the old files open.
            assert_readable(&stores, &chunks).await;
            let stats = stores[0].stats().await;
            let done = start.collect(&stores[0], &Pick::default()).await;
            assert_eq!((done.moved_chunks, done.unreadable_chunks), (120, 0), "{cores} cores");
            assert!(done.stopped.is_none());
            let wide = stores[0].stats().await;
            assert_eq!((wide.chunks, wide.unique_bytes), (stats.chunks, stats.unique_bytes));
            assert!(wide.file_bytes * 10 < stats.file_bytes * 7, "{} of {}", wide.file_bytes, stats.file_bytes);
            assert_eq!(start.disk.used_bytes(), wide.file_bytes, "nobody holds what was freed");
            assert_readable(&stores, &chunks).await;
            assert!(stores[0].load().await.decoded_blocks_bytes > 0, "blocks have several chunks");
            assert_eq!((stats.similarity_bytes, wide.similarity_bytes), (0, wide.unique_bytes - wide.stored_bytes));
            assert_eq!(stores[0].victims(&Pick::default()).await, [], "once is enough");
            stores[0].close().await;
            volume(wide)
        });
        bench.run(move |start, stores| async move {
            assert!(start.log.listed().iter().all(|listed| listed.generation == Generation(1)));
            assert_eq!(volume(stores[0].stats().await), after);
            assert_readable(&stores, &chunks).await;
        });
    }
}

#[test]
fn a_start_between_moving_and_freeing_counts_each_chunk_once() {
    for cores in 1..=2 {
        let mut bench = Bench::new(10 + cores as u64, cores);
        let chunks = fill(&mut bench, 100, 9_000, 1);
        let moved = bench.run(|_, stores| async move {
            let victims = stores[0].victims(&Pick::default()).await;
            let done = stores[0].compact(victims.clone(), Arrival, &Budget::new(50)).await;
            assert_eq!((done.moved_chunks, done.emptied.len()), (100, victims.len()));
            volume(stores[0].stats().await)
        });
        bench.run(move |start, stores| async move {
            assert_eq!(volume(stores[0].stats().await), moved);
            assert_readable(&stores, &chunks).await;
            let done = start.collect(&stores[0], &Pick::default()).await;
            assert_eq!((done.moved_chunks, done.unreadable_chunks), (0, 0), "the later copies answer");
            assert!(!done.emptied.is_empty() && done.read_bytes == 0);
            assert_eq!(volume(stores[0].stats().await), moved);
            assert_readable(&stores, &chunks).await;
        });
    }
}

#[test]
fn what_is_dead_is_freed_unread() {
    let mut bench = Bench::new(20, 2);
    fill(&mut bench, 60, 50_000, 20);
    bench.run(|start, stores| async move {
        // As if all had been condemned.
        for store in &stores {
            store.reset();
            store.complete();
        }
        let protected = start.log.listed()[0].id;
        let pick = Pick { protected: Arc::new([protected].into()), ..Pick::default() };
        let done = start.collect(&stores[0], &pick).await;
        assert_eq!((done.moved_chunks, done.read_bytes), (0, 0));
        assert_eq!(start.log.listed().iter().map(|listed| listed.id).collect::<Vec<_>>(), [protected]);
        start.collect(&stores[0], &Pick::default()).await;
        assert_eq!((start.log.listed(), stores[0].stats().await.file_bytes), (Vec::new(), 0));
        assert_eq!(start.disk.used_bytes() / PIECE_BYTES, 0);
    });
}

#[test]
fn a_half_dead_segment_gives_up_what_lives_and_is_freed() {
    let mut bench = Bench::new(30, 2);
    let chunks = fill(&mut bench, 40, 40_000, 10);
    let (hints, all) = (chunks.clone(), volume_of(&mut bench));
    // A start that knows nothing stores every other chunk again: the later copies answer, the earlier are dead.
    bench
        .simulation
        .run({
            let (start, again) =
                (bench.start.clone(), chunks.iter().step_by(2).map(|chunk| chunk.plain.clone()).collect());
            async move {
                let stores = start.open(&[]).await;
                put(&stores[1], again, 10).await;
                stores[0].close().await;
            }
        })
        .expect("stores never hang");
    bench.run(move |start, stores| async move {
        assert_eq!(volume(stores[0].stats().await), all);
        let old: Vec<SegmentId> = hints.iter().map(|chunk| chunk.hint.segment).collect();
        let victims = stores[0].victims(&Pick::default()).await;
        assert!(old.iter().all(|segment| victims.iter().any(|victim| victim.segment == *segment)));
        let done = start.collect(&stores[0], &Pick::default()).await;
        assert_eq!((done.moved_chunks, done.unreadable_chunks), (20, 0));
        assert!(old.iter().all(|segment| done.emptied.contains(segment)));
        assert_readable(&stores, &hints).await;
    });
}

/// What a start counts.
fn volume_of(bench: &mut Bench) -> (u64, u64, u64, u64) {
    bench.run(|_, stores| async move { volume(stores[0].stats().await) })
}

#[test]
fn hot_segments_are_regrouped_once_when_asked_for() {
    let mut bench = Bench::new(40, 2);
    let chunks = fill(&mut bench, 60, 50_000, 30);
    bench.run(move |start, stores| async move {
        assert_eq!(stores[0].victims(&Pick::default()).await, [], "they are full");
        let regroup = Pick { regroup: Regroup::Hot, ..Pick::default() };
        assert_eq!(start.collect(&stores[1], &regroup).await.moved_chunks, 60);
        assert_eq!(stores[0].victims(&regroup).await, []);
        assert_readable(&stores, &chunks).await;
    });
}

#[test]
fn alike_chunks_shrink_together_and_incompressible_ones_stay_as_they_are() {
    for cores in 1..=2 {
        let mut bench = Bench::new(45 + cores as u64, cores);
        bench.run(move |_, stores| async move {
            let version = |number: u64| {
                let mut plain = plain(1, 60_000);
                plain[..500].copy_from_slice(&self::plain(number, 1_000)[..500]);
                plain
            };
            let mut noise = vec![0; 60_000];
            Random::new(3).fill(&mut noise);
            let plains = (0..20).map(version).chain([noise]).collect();
            let chunks = put(&stores[0], plains, 7).await;
            stores[0].close().await;
            let regroup = Pick { regroup: Regroup::Hot, ..Pick::default() };
            let done = stores[0].compact(stores[0].victims(&regroup).await, Similar, &Budget::new(100)).await;
            assert_eq!(done.moved_chunks, 21);
            let (before, after) = (done.stored_bytes_before - 60_000, done.stored_bytes_after - 60_000);
            assert!(after * 3 < before, "{cores} cores: {before} to {after}");
            assert_readable(&stores, &chunks).await;
        });
    }
}

#[test]
fn reads_go_on_while_chunks_move_and_their_segments_go() {
    for seed in 50..60 {
        let mut bench = Bench::new(seed, 2);
        let chunks = fill(&mut bench, 80, 20_000, 4);
        bench.run(move |start, stores| async move {
            let done = Rc::new(RefCell::new(false));
            let reads = async {
                let mut rounds = 0;
                while !*done.borrow() {
                    assert_readable(&stores, &chunks).await;
                    rounds += 1;
                }
                rounds
            };
            let moves = async {
                let pick = Pick { regroup: Regroup::Hot, ..Pick::default() };
                let moved = start.collect(&stores[1], &pick).await.moved_chunks;
                done.replace(true);
                moved
            };
            let (rounds, moved) = join(reads, moves).await;
            assert!(rounds > 0);
            assert_eq!(moved, 80);
            assert_readable(&stores, &chunks).await;
        });
    }
}

#[test]
fn a_crash_anywhere_loses_nothing_and_the_next_start_goes_on() {
    let mut crashes = 0;
    for seed in 0..60u64 {
        let mut bench = Bench::new(100 + seed, 1 + seed as usize % 2);
        let chunks = fill(&mut bench, 50, 30_000, 3);
        let all = volume_of(&mut bench);
        let start = bench.start.clone();
        let main = async move {
            let stores = start.open(&start.log.listed()).await;
            start.collect(&stores[0], &Pick { regroup: Regroup::Hot, ..Pick::default() }).await;
        };
        let outcome = bench.simulation.run_until(seed * 12, Crash::Power, main);
        crashes += u64::from(outcome.expect("stores never hang") == Outcome::Crashed);
        bench.run(move |start, stores| async move {
            let found = stores[0].stats().await;
            assert_eq!((found.chunks, found.unique_bytes), (all.0, all.1), "seed {seed}");
            assert_readable(&stores, &chunks).await;
            let done = start.collect(&stores[0], &Pick { regroup: Regroup::Hot, ..Pick::default() }).await;
            assert_eq!(done.unreadable_chunks, 0);
            assert_readable(&stores, &chunks).await;
            assert!(start.log.listed().iter().all(|listed| listed.generation != Generation::HOT), "seed {seed}");
        });
    }
    assert!(crashes > 40, "{crashes} crashes meet the work");
}

#[test]
fn without_space_what_was_moved_is_kept_and_nothing_is_lost() {
    let mut bench = Bench::new(70, 1);
    let chunks = fill(&mut bench, 200, 60_000, 20);
    bench.run(move |start, stores| async move {
        // Room for a segment or two of those that the round wants, with what it leaves to clients.
        start.disk.resize(start.disk.used_bytes() + 4 * PIECE_BYTES);
        let pick = Pick { regroup: Regroup::Hot, ..Pick::default() };
        let (mut victims, mut left, mut moved_chunks) = (stores[0].victims(&pick).await, Vec::new(), 0);
        loop {
            // No round begins that does not end.
            let done = stores[0].compact(victims, Arrival, &Budget::new(100)).await;
            assert!(done.stopped.is_none() || done.moved_chunks == 0, "{done:?}");
            moved_chunks += done.moved_chunks;
            left.extend(done.emptied);
            victims = done.left;
            if done.stopped.is_some() {
                break;
            }
        }
        assert!(moved_chunks > 0 && moved_chunks < 200, "{moved_chunks} moved, {} victims left", victims.len());
        assert_readable(&stores, &chunks).await;
        // What is empty may go, and then there is room again.
        loop {
            for segment in left {
                start.log.forget(segment);
                stores[0].free(segment).await.expect("it is empty");
            }
            let done = stores[0].compact(stores[0].victims(&pick).await, Arrival, &Budget::new(100)).await;
            if done.emptied.is_empty() {
                break;
            }
            left = done.emptied;
        }
        assert_readable(&stores, &chunks).await;
    });
}

#[test]
fn a_chunk_that_does_not_verify_stays_and_so_does_its_segment() {
    let mut bench = Bench::new(80, 2);
    let chunks = fill(&mut bench, 30, 40_000, 10);
    bench.run(move |start, stores| async move {
        let bad = &chunks[7];
        let name = piece_name(bad.hint.segment, 0);
        assert!(start.disk.corrupt(&name, u64::from(bad.hint.offset) + 5_000, 3));
        let done = start.collect(&stores[0], &Pick { regroup: Regroup::Hot, ..Pick::default() }).await;
        assert_eq!((done.moved_chunks, done.unreadable_chunks), (29, 1));
        assert!(!done.emptied.contains(&bad.hint.segment));
        let read = stores[1].read(&bad.id, bad.hint).await;
        assert!(matches!(read, Err(ReadError::Corrupt { .. })), "{read:?}");
        let whole: Vec<Chunk> = chunks.iter().filter(|chunk| chunk.id != bad.id).cloned().collect();
        assert_readable(&stores, &whole).await;
        assert!(start.disk.mend(&name, u64::from(bad.hint.offset) + 5_000, 3));
        assert_readable(&stores, &chunks).await;
    });
}

#[test]
fn a_row_that_was_written_elsewhere_is_not_believed() {
    let mut refused = 0;
    for seed in 0..12u64 {
        let mut bench = Bench::new(200 + seed, 1);
        let chunks = fill(&mut bench, 60, 40_000, 10);
        refused += bench.run(move |start, stores| async move {
            // The header of the first segment, or its first row: no row was believed before that it could hit.
            start.disk.misdirect_nth("segments/", seed % 2);
            let pick = Pick { regroup: Regroup::Hot, ..Pick::default() };
            let done = stores[0].compact(stores[0].victims(&pick).await, Arrival, &Budget::new(100)).await;
            for segment in &done.emptied {
                start.log.forget(*segment);
                stores[0].free(*segment).await.expect("it is empty");
            }
            for chunk in &chunks {
                // What was hit is damaged where it always was.
                let stayed = start.log.listed().iter().any(|listed| listed.id == chunk.hint.segment);
                let read = stores[0].read(&chunk.id, chunk.hint).await;
                assert!(read.is_ok_and(|plain| plain == chunk.plain) || stayed, "seed {seed}");
            }
            u64::from(done.stopped.is_some())
        });
    }
    assert!(refused > 6, "{refused} rounds met it");
}

#[test]
fn a_segment_in_use_is_not_freed() {
    let mut bench = Bench::new(90, 2);
    let chunks = fill(&mut bench, 10, 40_000, 10);
    bench.run(move |start, stores| async move {
        for listed in start.log.listed() {
            assert!(stores[0].free(listed.id).await.is_err());
        }
        assert_readable(&stores, &chunks).await;
    });
}

#[test]
fn a_budget_that_was_stopped_ends_the_work_and_loses_nothing() {
    let mut bench = Bench::new(95, 2);
    let chunks = fill(&mut bench, 40, 40_000, 10);
    bench.run(move |_, stores| async move {
        let budget = Budget::new(100);
        let pick = Pick { regroup: Regroup::Hot, ..Pick::default() };
        let victims = stores[0].victims(&pick).await;
        let count = victims.len();
        let stop = async {
            runtime::sleep(std::time::Duration::from_millis(3)).await;
            budget.stop();
        };
        let (done, ()) = join(stores[0].compact(victims, Arrival, &budget), stop).await;
        assert!(done.moved_chunks < 40 && done.emptied.len() < count, "{done:?}");
        assert_readable(&stores, &chunks).await;
    });
}
