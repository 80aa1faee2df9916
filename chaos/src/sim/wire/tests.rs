use super::*;
use crate::sim::faults::{WIRE_PARTED, WIRE_PARTED_ONE_WAY};
use crate::sim::{Crash, Outcome, Simulation};
use proto::limits::WIRE_QUEUE_BYTES_MAX;
use proto::port::runtime;
use std::cell::Cell;

const A: PeerId = PeerId(1);
const B: PeerId = PeerId(2);
const MESSAGES: u64 = 400;
/// Longer than anything is under way.
const LONG: Duration = Duration::from_secs(10);

fn numbered(number: u64) -> Bytes {
    Bytes::copy_from_slice(&number.to_le_bytes())
}

fn number(received: &Received) -> u64 {
    u64::from_le_bytes(received.message[..].try_into().expect("eight bytes"))
}

/// Receives for ever; returns what came so far, and when.
fn listen(wire: SimWire) -> Rc<RefCell<Vec<(u64, Duration)>>> {
    let log = Rc::new(RefCell::new(Vec::new()));
    let heard = log.clone();
    runtime::spawn(async move {
        loop {
            let received = wire.receive().await;
            heard.borrow_mut().push((number(&received), runtime::monotonic()));
        }
    });
    log
}

fn numbers(log: &Rc<RefCell<Vec<(u64, Duration)>>>) -> Vec<u64> {
    log.borrow().iter().map(|(number, _)| *number).collect()
}

/// Sends numbered messages from A to B; returns what B received, and the network.
fn flood(seed: u64, options: WireOptions, messages: u64) -> (Vec<u64>, SimNetwork, u64) {
    let mut simulation = Simulation::new(seed);
    let network = simulation.add_network(options);
    let sending = network.clone();
    let received = simulation.run(async move {
        let (a, log) = (sending.bind(A), listen(sending.bind(B)));
        for number in 0..messages {
            a.send(B, numbered(number)).unwrap();
            runtime::sleep(Duration::from_micros(100)).await;
        }
        runtime::sleep(LONG).await;
        numbers(&log)
    });
    (received.unwrap(), network, simulation.trace_hash())
}

fn count(network: &SimNetwork, kind: &str) -> u64 {
    network.0.state.borrow().happened.counts().get(kind).copied().unwrap_or(0)
}

#[test]
fn messages_arrive_once_and_in_order_if_nothing_is_wrong() {
    let (received, network, _) = flood(1, WireOptions::default(), MESSAGES);
    assert_eq!(received, (0..MESSAGES).collect::<Vec<_>>());
    assert_eq!(network.0.state.borrow().happened.counts(), BTreeMap::new());
    assert_eq!(network.queued_bytes(), 0);
}

#[test]
fn the_same_seed_gives_the_same_trace() {
    let run = |seed| {
        let mut random = Random::new(seed);
        let (received, network, trace) = flood(seed, WireOptions::draw(&mut random), MESSAGES);
        (received, network.0.state.borrow().happened.counts(), trace)
    };
    assert_eq!(run(7), run(7));
    assert_ne!(run(7), run(8));
}

#[test]
fn lost_messages_are_counted_and_the_others_arrive() {
    let (received, network, _) = flood(1, WireOptions { lose: 1_000, ..WireOptions::default() }, MESSAGES);
    assert_eq!(received.len() as u64 + count(&network, WIRE_LOST), MESSAGES);
    assert!((10..100).contains(&count(&network, WIRE_LOST)));
    assert!(received.is_sorted());
}

#[test]
fn duplicated_messages_arrive_twice() {
    let (received, network, _) = flood(1, WireOptions { duplicate: 1_000, ..WireOptions::default() }, MESSAGES);
    assert_eq!(received.len() as u64, MESSAGES + count(&network, WIRE_DUPLICATED));
    assert!((10..100).contains(&count(&network, WIRE_DUPLICATED)));
}

#[test]
fn reordered_messages_are_overtaken_and_all_arrive() {
    let (mut received, network, _) = flood(1, WireOptions { reorder: 1_000, ..WireOptions::default() }, MESSAGES);
    assert!(!received.is_sorted());
    assert!(count(&network, WIRE_REORDERED) > 10);
    received.sort_unstable();
    assert_eq!(received, (0..MESSAGES).collect::<Vec<_>>());
}

#[test]
fn delayed_messages_hold_up_those_behind_them() {
    let (received, network, _) = flood(1, WireOptions { delay: 500, ..WireOptions::default() }, MESSAGES);
    assert!(count(&network, WIRE_DELAYED) > 5);
    assert_eq!(received, (0..MESSAGES).collect::<Vec<_>>());
}

#[test]
fn partitions_begin_and_heal_by_themselves() {
    for (options, kind) in [
        (WireOptions { part: 100, ..WireOptions::default() }, WIRE_PARTED),
        (WireOptions { part_one_way: 100, ..WireOptions::default() }, WIRE_PARTED_ONE_WAY),
    ] {
        let happened: Vec<(usize, u64)> = (0..20)
            .map(|seed| {
                let (received, network, _) = flood(seed, options, MESSAGES);
                assert_eq!(received.len() as u64 + count(&network, kind), MESSAGES);
                (received.len(), count(&network, kind))
            })
            .collect();
        let healed = happened.iter().filter(|(received, lost)| *lost > 0 && *received > 50).count();
        assert!(healed > 3, "{kind}: {happened:?}");
    }
}

/// Sends one message in each direction; returns which arrived: from A, from B.
fn exchange(parted: Option<Partition>) -> (bool, bool) {
    let mut simulation = Simulation::new(3);
    let network = simulation.add_network(WireOptions::default());
    let arrived = simulation.run(async move {
        let (a, b) = (network.bind(A), network.bind(B));
        if let Some(how) = parted {
            network.part(A, B, how, Duration::from_millis(100));
        }
        let (at_a, at_b) = (listen(a.clone()), listen(b.clone()));
        a.send(B, numbered(1)).unwrap();
        b.send(A, numbered(2)).unwrap();
        runtime::sleep(Duration::from_millis(50)).await;
        let arrived = (!at_b.borrow().is_empty(), !at_a.borrow().is_empty());
        runtime::sleep(Duration::from_millis(51)).await;
        a.send(B, numbered(3)).unwrap();
        b.send(A, numbered(4)).unwrap();
        runtime::sleep(Duration::from_millis(50)).await;
        assert_eq!((numbers(&at_b).last(), numbers(&at_a).last()), (Some(&3), Some(&4)), "it healed");
        arrived
    });
    arrived.unwrap()
}

#[test]
fn a_partition_takes_both_directions_or_one() {
    assert_eq!(exchange(None), (true, true));
    assert_eq!(exchange(Some(Partition::BothWays)), (false, false));
    assert_eq!(exchange(Some(Partition::OneWay)), (false, true));
}

#[test]
fn a_slow_peer_holds_up_what_is_sent_to_it_and_nobody_else() {
    let mut simulation = Simulation::new(1);
    let network = simulation.add_network(WireOptions::default());
    let at = network.clone();
    simulation
        .run(async move {
            let (a, b, c) = (at.bind(A), at.bind(B), at.bind(PeerId(3)));
            at.slow(B, LONG);
            a.send(B, Bytes::from(vec![0; 100_000])).unwrap();
            a.send(PeerId(3), Bytes::from(vec![0; 100_000])).unwrap();
            c.receive().await;
            assert!(runtime::monotonic() < Duration::from_millis(2));
            b.receive().await;
            assert!(runtime::monotonic() > Duration::from_nanos(100_000 * SLOW_BYTE_NS));
        })
        .unwrap();
    assert_eq!(network.0.state.borrow().happened.counts(), BTreeMap::from([(WIRE_SLOWED, 1)]));
}

#[test]
fn a_half_open_connection_takes_messages_into_nothing_until_it_is_noticed() {
    let mut simulation = Simulation::new(1);
    let network = simulation.add_network(WireOptions { half_open: OUT_OF, ..WireOptions::default() });
    let at = network.clone();
    let received = simulation.run(async move {
        let (a, first) = (at.bind(A), at.bind(B));
        a.send(B, numbered(0)).unwrap();
        assert_eq!(number(&first.receive().await), 0);
        let second = at.bind(B);
        assert!(second.me().incarnation > first.me().incarnation);
        let log = listen(second);
        for number in 1..1000 {
            a.send(B, numbered(number)).unwrap();
            runtime::sleep(Duration::from_millis(1)).await;
        }
        numbers(&log)
    });
    let received = received.unwrap();
    let lost = count(&network, WIRE_HALF_OPEN);
    assert!(lost > 0 && !received.is_empty());
    assert_eq!(received, (lost + 1..1000).collect::<Vec<_>>(), "first nothing arrives, then everything");
}

#[test]
fn a_peer_that_is_gone_takes_messages_into_nothing() {
    let mut simulation = Simulation::new(1);
    let network = simulation.add_network(WireOptions::default());
    network.add_peer(B);
    let at = network.clone();
    simulation
        .run(async move {
            at.bind(A).send(B, numbered(0)).unwrap();
            runtime::sleep(LONG).await;
        })
        .unwrap();
    assert_eq!((count(&network, WIRE_HALF_OPEN), network.queued_bytes()), (1, 0));
}

#[test]
fn a_crash_loses_what_was_in_flight_or_lets_it_reach_the_next_start() {
    let mut totals = BTreeMap::new();
    for seed in 0..60 {
        let mut simulation = Simulation::new(seed);
        let network = simulation.add_network(WireOptions::default());
        network.add_peer(B);
        let sending = network.clone();
        simulation.start_beside(async move {
            let a = sending.bind(A);
            for number in 0.. {
                a.send(B, numbered(number)).unwrap();
                runtime::sleep(Duration::from_micros(30)).await;
            }
        });
        let at = network.clone();
        let never = async move {
            let _log = listen(at.bind(B));
            std::future::pending::<()>().await;
        };
        assert_eq!(simulation.run_until(100 + seed, Crash::Process, never), Ok(Outcome::Crashed));
        let at = network.clone();
        let next = async move {
            let b = at.bind(B);
            assert_eq!(b.me().incarnation, Incarnation(2));
            let received = b.receive().await;
            assert_eq!(received.from.id, A);
        };
        simulation.run(next).unwrap();
        for (kind, times) in network.0.state.borrow().happened.counts() {
            *totals.entry(kind).or_insert(0) += times;
        }
    }
    assert!(totals[WIRE_LOST_IN_CRASH] > 10 && totals[WIRE_OUTLIVED] > 10, "{totals:?}");
}

#[test]
fn a_peer_that_never_reads_costs_bounded_memory_and_holds_up_nobody_else() {
    let mut simulation = Simulation::new(1);
    let network = simulation.add_network(WireOptions::default());
    let at = network.clone();
    let refused = Rc::new(Cell::new(0));
    let counted = refused.clone();
    simulation
        .run(async move {
            let (a, _silent, c) = (at.bind(A), at.bind(B), at.bind(PeerId(3)));
            for number in 0..200 {
                match a.send(B, Bytes::from(vec![0; 1 << 20])) {
                    Err(error) => {
                        assert_eq!(error, SendError::QueueFull { to: B });
                        counted.set(counted.get() + 1);
                    }
                    Ok(()) => assert!(at.queued_bytes() <= WIRE_QUEUE_BYTES_MAX),
                }
                a.send(PeerId(3), numbered(number)).unwrap();
                assert_eq!(c.receive().await.message, numbered(number));
            }
        })
        .unwrap();
    assert_eq!(refused.get(), 200 - (WIRE_QUEUE_BYTES_MAX >> 20) as u64);
    assert_eq!(count(&network, WIRE_QUEUE_FULL), refused.get());
    assert_eq!(count(&network, WIRE_LOST_IN_CRASH), 200 - refused.get(), "gone with the process");
    assert_eq!(network.queued_bytes(), 0);
}

#[test]
fn what_nobody_can_take_is_refused() {
    let mut simulation = Simulation::new(1);
    let network = simulation.add_network(WireOptions::default());
    let refused = simulation.run(async move {
        let a = network.bind(A);
        let longest = Bytes::from(vec![0; WIRE_MESSAGE_BYTES_MAX]);
        a.send(A, longest).unwrap();
        let longer = Bytes::from(vec![0; WIRE_MESSAGE_BYTES_MAX + 1]);
        (a.send(A, longer), a.send(B, numbered(0)))
    });
    let too_long = SendError::TooLong { bytes: WIRE_MESSAGE_BYTES_MAX + 1 };
    assert_eq!(refused, Ok((Err(too_long), Err(SendError::UnknownPeer { to: B }))));
}
