//! Calls over a wire on which everything goes wrong, to a server that is killed and comes back.
//!
//! The service notes what it executes. Each call carries a number of its own, so the test knows of every call whether
//! it was executed, how often, and whether its caller was told the truth.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::rc::Rc;
use std::time::Duration;

use bytes::Bytes;
use chaos::sim::faults::{KINDS, WIRE_QUEUE_FULL};
use chaos::sim::{Crash, Random, SimNetwork, SimWire, Simulation, WireOptions};
use net::rpc::{CallError, Endpoint, EndpointCounts, Fate, RPC_BODY_BYTES_MAX};
use proto::limits::{RPC_EXECUTING_MAX, RPC_SLOTS, RPC_WAITING_MAX, WIRE_QUEUE_BYTES_MAX};
use proto::port::{PeerId, Wire, runtime};

const SERVER: PeerId = PeerId(1);
const CALLERS: u64 = 3;
/// Calls of each caller, and how many of them are made side by side.
const CALLS: u64 = 40;
const LANES: u64 = 4;
const SEEDS: u64 = 150;
/// The executor's timers and polls are this late at most, together, when a call ends.
const LATE_MAX: Duration = Duration::from_millis(5);

/// What the service executed and what the callers were told.
#[derive(Default)]
struct Log {
    executed: RefCell<BTreeMap<u64, u64>>,
    told: RefCell<BTreeMap<u64, Result<(), CallError>>>,
    ended: Cell<u64>,
}

fn numbered(number: u64) -> Bytes {
    Bytes::copy_from_slice(&number.to_le_bytes())
}

fn number_in(bytes: &Bytes) -> u64 {
    u64::from_le_bytes(bytes[..8].try_into().expect("eight bytes"))
}

/// Answers with what was asked, after a while.
fn serve(wire: SimWire, log: Rc<Log>, mut random: Random) -> Endpoint<SimWire> {
    let next = RefCell::new(move || Duration::from_micros(random.below(30_000)));
    Endpoint::serve(wire, move |_, request| {
        *log.executed.borrow_mut().entry(number_in(&request)).or_default() += 1;
        let takes = (next.borrow_mut())();
        async move {
            runtime::sleep(takes).await;
            request
        }
    })
}

/// Makes calls until all have ended.
async fn call_all(network: SimNetwork, caller: u64, log: Rc<Log>, mut random: Random) {
    let endpoint = Endpoint::open(network.bind(PeerId(100 + caller)));
    for lane in 0..LANES {
        let (endpoint, log, mut random) = (endpoint.clone(), log.clone(), random.fork());
        runtime::spawn(async move {
            for call in 0..CALLS / LANES {
                let number = (caller * LANES + lane) * CALLS + call;
                let patience = Duration::from_micros(random.between(100, 300_000));
                let begun = runtime::monotonic();
                let told = endpoint.call(SERVER, numbered(number), patience).await;
                let took = runtime::monotonic() - begun;
                assert!(took <= patience + LATE_MAX, "a patience of {patience:?} took {took:?}: {told:?}");
                let told = told.map(|answer| assert_eq!(answer, numbered(number), "an answer to another call"));
                assert!(log.told.borrow_mut().insert(number, told).is_none());
                log.ended.set(log.ended.get() + 1);
            }
        });
    }
}

/// Runs a seed; returns the log, what went wrong on the wire, and the trace.
fn run(seed: u64) -> (Rc<Log>, BTreeMap<&'static str, u64>, u64) {
    let mut simulation = Simulation::new(seed);
    let mut random = simulation.fork_random();
    let network = simulation.add_network(WireOptions::draw(&mut random));
    network.add_peer(SERVER);
    let log = Rc::new(Log::default());
    for caller in 0..CALLERS {
        simulation.start_beside(call_all(network.clone(), caller, log.clone(), random.fork()));
    }
    for _ in 0..random.between(0, 4) {
        let (network, log, served) = (network.clone(), log.clone(), random.fork());
        let until_killed = async move {
            let _endpoint = serve(network.bind(SERVER), log, served);
            loop {
                runtime::sleep(Duration::from_millis(1)).await;
            }
        };
        simulation.run_until(random.between(20, 2_000), Crash::Process, until_killed).unwrap();
    }
    let (at, last, served) = (network.clone(), log.clone(), random.fork());
    let to_the_end = async move {
        let endpoint = serve(at.bind(SERVER), last.clone(), served);
        while last.ended.get() < CALLERS * CALLS {
            runtime::sleep(Duration::from_millis(10)).await;
        }
        endpoint.close().await;
    };
    simulation.run(to_the_end).expect("every call ends");
    (log, simulation.happened().counts(), simulation.trace_hash())
}

#[test]
fn every_call_ends_and_none_is_executed_twice_whatever_the_wire_does() {
    let mut happened: BTreeMap<&str, u64> = BTreeMap::new();
    let (mut answered, mut restarted, mut unknown, mut not_executed) = (0, 0, 0, 0);
    for seed in 0..SEEDS {
        let (log, counts, _) = run(seed);
        let (executed, told) = (log.executed.borrow(), log.told.borrow());
        assert_eq!(told.len() as u64, CALLERS * CALLS);
        for (number, told) in told.iter() {
            let times = executed.get(number).copied().unwrap_or(0);
            assert!(times <= 1, "seed {seed}: call {number} was executed {times} times");
            match told {
                Ok(()) => {
                    assert_eq!(times, 1, "seed {seed}: call {number} was answered");
                    answered += 1;
                }
                Err(error) if error.fate() == Fate::NotExecuted => {
                    assert_eq!(times, 0, "seed {seed}: call {number}: {error}");
                    not_executed += 1;
                }
                Err(CallError::Restarted { .. }) => restarted += 1,
                Err(_) => unknown += 1,
            }
        }
        counts.into_iter().for_each(|(kind, times)| *happened.entry(kind).or_default() += times);
    }
    let ends = [answered, restarted, unknown, not_executed];
    assert!(ends.iter().all(|times| *times > 0) && answered > SEEDS * CALLERS * CALLS / 2, "{ends:?}");
    let missing = |kind: &&&str| kind.starts_with("wire: ") && !happened.contains_key(**kind);
    // These messages are too small to fill a queue; others below are not.
    assert_eq!(KINDS.iter().filter(missing).collect::<Vec<_>>(), [&WIRE_QUEUE_FULL], "{happened:?}");
}

#[test]
fn the_same_seed_gives_the_same_run() {
    for seed in 1000..1006 {
        let (first, second) = (run(seed), run(seed));
        assert_eq!((first.1, first.2), (second.1, second.2));
        assert_eq!(*first.0.told.borrow(), *second.0.told.borrow());
    }
}

#[test]
fn a_good_wire_answers_every_call_the_first_time() {
    let mut simulation = Simulation::new(1);
    let network = simulation.add_network(WireOptions::default());
    let counts = simulation.run(async move {
        let server = Endpoint::serve(network.bind(SERVER), |_, request| async move { request });
        let caller = Endpoint::open(network.bind(PeerId(2)));
        for number in 0..50 {
            let answer = caller.call(SERVER, numbered(number), Duration::from_secs(1)).await;
            assert_eq!(answer, Ok(numbered(number)));
        }
        (caller.counts(), server.counts())
    });
    let none = EndpointCounts::default();
    let (caller, server) = counts.unwrap();
    assert_eq!(caller, EndpointCounts { calls: 50, ..none });
    assert_eq!(server, EndpointCounts { executed: 50, refused: 1, ..none }, "one hello");
}

#[test]
fn calls_beyond_the_slots_wait_in_line_and_beyond_the_line_are_refused() {
    let mut simulation = Simulation::new(1);
    let network = simulation.add_network(WireOptions::default());
    let peak = Rc::new(Cell::new((0usize, 0usize)));
    let counted = peak.clone();
    let told = simulation.run(async move {
        let _server = Endpoint::serve(network.bind(SERVER), move |_, request| {
            let counted = counted.clone();
            async move {
                let (now, most) = counted.get();
                counted.set((now + 1, most.max(now + 1)));
                runtime::sleep(Duration::from_millis(1)).await;
                let (now, most) = counted.get();
                counted.set((now - 1, most));
                request
            }
        });
        let caller = Endpoint::open(network.bind(PeerId(2)));
        let calls = (0..RPC_SLOTS + RPC_WAITING_MAX + 10)
            .map(|number| caller.call(SERVER, numbered(number as u64), Duration::from_secs(60)));
        futures_util::future::join_all(calls).await
    });
    let told = told.unwrap();
    assert_eq!(told.iter().filter(|told| **told == Err(CallError::Busy { to: SERVER })).count(), 10);
    assert_eq!(told.iter().filter(|told| told.is_ok()).count(), RPC_SLOTS + RPC_WAITING_MAX);
    assert_eq!(peak.get(), (0, RPC_SLOTS));
}

#[test]
fn a_call_that_is_dropped_gives_its_slot_back() {
    let mut simulation = Simulation::new(1);
    let network = simulation.add_network(WireOptions::default());
    let told = simulation.run(async move {
        let _server = Endpoint::serve(network.bind(SERVER), |_, request| async move { request });
        let caller = Endpoint::open(network.bind(PeerId(2)));
        for _ in 0..3 * RPC_SLOTS {
            let call = std::pin::pin!(caller.call(SERVER, numbered(1), Duration::from_secs(60)));
            let moment = runtime::sleep(Duration::from_nanos(1));
            drop(futures_util::future::select(call, moment).await);
        }
        caller.call(SERVER, numbered(2), Duration::from_secs(1)).await
    });
    assert_eq!(told, Ok(Ok(numbered(2))));
}

#[test]
fn a_peer_that_never_reads_costs_its_callers_bounded_memory_and_time() {
    let mut simulation = Simulation::new(1);
    let network = simulation.add_network(WireOptions::default());
    let at = network.clone();
    let caller_counts = simulation.run(async move {
        // A first start that says who it is, and a second that never reads.
        let first = Endpoint::serve(at.bind(SERVER), |_, request| async move { request });
        let caller = Endpoint::open(at.bind(PeerId(2)));
        caller.call(SERVER, numbered(0), Duration::from_secs(1)).await.unwrap();
        first.close().await;
        let _silent = at.bind(SERVER);
        let large = Bytes::from(vec![7; 1 << 20]);
        let calls = (0..100).map(|_| caller.call(SERVER, large.clone(), Duration::from_secs(20)));
        let all = futures_util::future::join_all(calls);
        let watch = async {
            for _ in 0..1_900 {
                assert!(at.queued_bytes() <= WIRE_QUEUE_BYTES_MAX);
                runtime::sleep(Duration::from_millis(10)).await;
            }
        };
        let (told, ()) = futures_util::future::join(all, watch).await;
        assert!(told.iter().all(|told| matches!(told, Err(CallError::NoAnswer { to: SERVER, .. }))));
        assert!(runtime::monotonic() < Duration::from_secs(22));
        caller.counts()
    });
    let counts = caller_counts.unwrap();
    assert!(counts.unsent > 100, "{counts:?}");
    assert!(simulation.happened().counts()[WIRE_QUEUE_FULL] > 100);
}

#[test]
fn a_server_executes_no_more_than_it_may_and_the_rest_comes_again() {
    let mut simulation = Simulation::new(1);
    let network = simulation.add_network(WireOptions::default());
    let peak = Rc::new(Cell::new((0usize, 0usize)));
    let counted = peak.clone();
    let callers = RPC_EXECUTING_MAX / RPC_SLOTS + 4;
    let ended = simulation.run(async move {
        let server = Endpoint::serve(network.bind(SERVER), move |_, request| {
            let counted = counted.clone();
            async move {
                let (now, most) = counted.get();
                counted.set((now + 1, most.max(now + 1)));
                runtime::sleep(Duration::from_millis(50)).await;
                let (now, most) = counted.get();
                counted.set((now - 1, most));
                request
            }
        });
        let ends: Vec<_> =
            (0..callers as u64).map(|caller| Endpoint::open(network.bind(PeerId(10 + caller)))).collect();
        let calls = ends.iter().flat_map(|end| {
            (0..RPC_SLOTS as u64).map(|number| end.call(SERVER, numbered(number), Duration::from_secs(60)))
        });
        let told = futures_util::future::join_all(calls).await;
        (told.iter().all(Result::is_ok), server.counts())
    });
    let (all_answered, counts) = ended.unwrap();
    assert!(all_answered);
    assert_eq!(peak.get(), (0, RPC_EXECUTING_MAX));
    assert!(counts.refused > callers as u64, "{counts:?}");
}

#[test]
fn messages_that_are_no_frames_change_nothing() {
    let mut simulation = Simulation::new(1);
    let network = simulation.add_network(WireOptions::default());
    let told = simulation.run(async move {
        let server = Endpoint::serve(network.bind(SERVER), |_, request| async move { request });
        let stranger = network.bind(PeerId(3));
        for bytes in [0, 1, 63, 64, 65, 4096] {
            stranger.send(SERVER, Bytes::from(vec![0xff; bytes])).unwrap();
        }
        let caller = Endpoint::open(network.bind(PeerId(2)));
        let told = caller.call(SERVER, numbered(1), Duration::from_secs(1)).await;
        assert_eq!(server.counts().damaged, 6);
        told
    });
    assert_eq!(told, Ok(Ok(numbered(1))));
}

#[test]
fn what_cannot_be_called_is_told_at_once() {
    let mut simulation = Simulation::new(1);
    let network = simulation.add_network(WireOptions::default());
    let told = simulation.run(async move {
        let caller = Endpoint::open(network.bind(PeerId(2)));
        let patience = Duration::from_secs(1);
        let longer = Bytes::from(vec![0; RPC_BODY_BYTES_MAX + 1]);
        let too_long = caller.call(SERVER, longer, patience).await;
        let unknown = caller.call(SERVER, numbered(0), patience).await;
        assert!(runtime::monotonic() < Duration::from_millis(1));
        (too_long, unknown)
    });
    let too_long = CallError::TooLong { bytes: RPC_BODY_BYTES_MAX + 1 };
    assert_eq!(told, Ok((Err(too_long), Err(CallError::UnknownPeer { to: SERVER }))));
}

#[test]
fn two_ends_call_each_other() {
    let mut simulation = Simulation::new(1);
    let network = simulation.add_network(WireOptions::default());
    let told = simulation.run(async move {
        let echo = |_, request| async move { request };
        let (a, b) = (Endpoint::serve(network.bind(PeerId(2)), echo), Endpoint::serve(network.bind(SERVER), echo));
        let patience = Duration::from_secs(1);
        let there = a.call(SERVER, numbered(1), patience);
        let back = b.call(PeerId(2), numbered(2), patience);
        futures_util::future::join(there, back).await
    });
    assert_eq!(told, Ok((Ok(numbered(1)), Ok(numbered(2)))));
}
