//! A wire that does to messages whatever the port allows, and what real networks do.
//!
//! * A message takes virtual time; without a fault those from one peer to another arrive in order, as over TCP.
//! * Loss, duplication, reordering and delay meet single messages. Partitions (both ways, or one way), slow peers and
//!   half-open connections begin by chance and last for a while. See [`WireOptions`].
//! * A peer is a process: it is bound by [`SimNetwork::bind`], each time with a greater incarnation, and ends with its
//!   group of tasks. What it had received and not taken is lost then; what was in flight to or from it is lost or
//!   arrives, by the seed. A connection to a peer that came back may be half open: what is sent goes nowhere for a
//!   while, and nobody is told.
//! * What was sent to a peer and not yet received counts towards the bound of its sender's queue, so a peer that never
//!   reads costs bounded memory.
//! * Whatever goes wrong is counted when it happens, and is part of the trace.

mod link;
mod options;
#[cfg(test)]
mod tests;

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::future::poll_fn;
use std::rc::Rc;
use std::task::{Poll, Waker};
use std::time::Duration;

use bytes::Bytes;
use proto::checksum::checksum;
use proto::limits::WIRE_MESSAGE_BYTES_MAX;
use proto::port::{Incarnation, Peer, PeerId, Received, SendError, Wire};

use self::link::{Cut, Link};
use self::options::OUT_OF;
pub use self::options::WireOptions;
use super::executor::{Executor, Group};
use super::faults::{
    Happened, WIRE_DELAYED, WIRE_DUPLICATED, WIRE_HALF_OPEN, WIRE_LOST, WIRE_LOST_IN_CRASH, WIRE_OUTLIVED,
    WIRE_QUEUE_FULL, WIRE_REORDERED, WIRE_SLOWED,
};
use super::random::Random;

/// A message takes at least this long.
const LATENCY_NS_MIN: u64 = 20_000;
/// A message takes at most this long, if nothing is wrong.
const LATENCY_NS_MAX: u64 = 300_000;
/// What a delay adds at most.
const DELAY_NS_MAX: u64 = 150_000_000;
/// How far a message falls behind that may be overtaken, at most.
const REORDER_NS_MAX: u64 = 3_000_000;
/// Nanoseconds that one byte takes to a peer, and to one that is slow: 1 GB/s and 2 MB/s.
const BYTE_NS: u64 = 1;
const SLOW_BYTE_NS: u64 = 500;
/// How long partitions, slowness and half-open connections last.
const LASTS_NS_MIN: u64 = 1_000_000;
const LASTS_NS_MAX: u64 = 400_000_000;

/// Which messages a partition takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Partition {
    /// Those between the two peers.
    BothWays,
    /// Those from the first to the second.
    OneWay,
}

/// A simulated network. Clones are the same network; it outlives the processes that use it.
#[derive(Clone)]
pub struct SimNetwork(Rc<Network>);

struct Network {
    executor: Rc<Executor>,
    state: RefCell<State>,
}

struct State {
    random: Random,
    options: WireOptions,
    happened: Happened,
    peers: BTreeSet<PeerId>,
    /// Incarnations given to each peer.
    starts: BTreeMap<PeerId, u64>,
    ends: BTreeMap<PeerId, End>,
    links: BTreeMap<(PeerId, PeerId), Link>,
    slow_until_ns: BTreeMap<PeerId, u64>,
    flights: BTreeMap<u64, Flight>,
    sent: u64,
}

/// A process that is bound to a peer.
struct End {
    incarnation: Incarnation,
    group: Group,
    inbox: VecDeque<Received>,
    waker: Option<Waker>,
}

/// A message between sender and receiver.
struct Flight {
    from: Peer,
    to: PeerId,
    /// The start of the receiver that ran when it was sent.
    meant_for: Option<Incarnation>,
    /// Its place among the messages of its link.
    place: u64,
    message: Bytes,
}

impl SimNetwork {
    pub(crate) fn new(executor: Rc<Executor>, options: WireOptions, random: Random, happened: Happened) -> SimNetwork {
        let state = State {
            random,
            options,
            happened,
            peers: BTreeSet::new(),
            starts: BTreeMap::new(),
            ends: BTreeMap::new(),
            links: BTreeMap::new(),
            slow_until_ns: BTreeMap::new(),
            flights: BTreeMap::new(),
            sent: 0,
        };
        SimNetwork(Rc::new(Network { executor, state: RefCell::new(state) }))
    }

    /// Makes a number known, before its first process is bound to it.
    pub fn add_peer(&self, peer: PeerId) {
        self.0.state.borrow_mut().peers.insert(peer);
    }

    /// Binds the calling process to `peer`. A process that was bound to it gets and sends nothing any more.
    #[must_use]
    pub fn bind(&self, peer: PeerId) -> SimWire {
        let mut state = self.0.state.borrow_mut();
        let now_ns = self.now_ns();
        state.peers.insert(peer);
        state.end_process(peer);
        let incarnation = {
            let starts = state.starts.entry(peer).or_default();
            *starts += 1;
            Incarnation(*starts)
        };
        let group = self.0.executor.current_group();
        state.ends.insert(peer, End { incarnation, group, inbox: VecDeque::new(), waker: None });
        self.0.executor.record("wire.bind", peer.0, incarnation.0);
        if incarnation.0 > 1 {
            let State { links, random, options, .. } = &mut *state;
            for (_, link) in links.iter_mut().filter(|((_, to), _)| *to == peer) {
                if random.chance(options.half_open, OUT_OF) {
                    link.half_open_until_ns = now_ns + lasting(random);
                }
            }
        }
        SimWire { network: self.clone(), me: Peer { id: peer, incarnation } }
    }

    /// Parts two peers for `duration`.
    pub fn part(&self, from: PeerId, to: PeerId, how: Partition, duration: Duration) {
        let until_ns = self.now_ns() + duration.as_nanos() as u64;
        self.0.state.borrow_mut().part(from, to, how, until_ns);
    }

    /// Lets a peer take bytes slowly for `duration`.
    pub fn slow(&self, peer: PeerId, duration: Duration) {
        let until_ns = self.now_ns() + duration.as_nanos() as u64;
        self.0.state.borrow_mut().slow_until_ns.insert(peer, until_ns);
    }

    /// Ends what goes wrong, and lets nothing more go wrong. What was lost stays lost.
    pub fn heal(&self) {
        let mut state = self.0.state.borrow_mut();
        state.options = WireOptions::default();
        state.slow_until_ns.clear();
        state.links.values_mut().for_each(Link::heal);
    }

    /// Bytes that were sent and neither received nor lost.
    #[must_use]
    pub fn queued_bytes(&self) -> usize {
        self.0.state.borrow().links.values().map(|link| link.queued_bytes).sum()
    }

    /// The processes of `group` are gone, and with them what they had not taken.
    pub(crate) fn group_ended(&self, group: Group) {
        let mut state = self.0.state.borrow_mut();
        let ended: Vec<PeerId> = state.ends.iter().filter(|(_, end)| end.group == group).map(|(id, _)| *id).collect();
        ended.into_iter().for_each(|peer| state.end_process(peer));
    }

    fn now_ns(&self) -> u64 {
        self.0.executor.now().as_nanos() as u64
    }

    fn send(&self, from: Peer, to: PeerId, message: Bytes) -> Result<(), SendError> {
        if message.len() > WIRE_MESSAGE_BYTES_MAX {
            return Err(SendError::TooLong { bytes: message.len() });
        }
        let now_ns = self.now_ns();
        let mut state = self.0.state.borrow_mut();
        if !state.peers.contains(&to) {
            return Err(SendError::UnknownPeer { to });
        }
        let bound = state.ends.get(&from.id).is_some_and(|end| end.incarnation == from.incarnation);
        if !bound || self.0.executor.is_dying() {
            // The world never hears of it.
            return Ok(());
        }
        self.0.executor.record("wire.send", to.0, checksum(&message));
        let queued_bytes = state.link(from.id, to).queued_bytes;
        if queued_bytes > 0 && queued_bytes + message.len() > state.options.queue_bytes {
            state.count(WIRE_QUEUE_FULL);
            return Err(SendError::QueueFull { to });
        }
        state.begin_faults(from.id, to, now_ns);
        if let Some(fault) = state.loses(from.id, to, now_ns) {
            state.count(fault);
            self.0.executor.record("wire.lose", to.0, message.len() as u64);
            return Ok(());
        }
        let mut copies = 1;
        if state.hits(|options| options.duplicate)
            && state.link(from.id, to).queued_bytes + 2 * message.len() <= state.options.queue_bytes
        {
            state.count(WIRE_DUPLICATED);
            copies = 2;
        }
        for _ in 0..copies {
            let due_ns = state.due_ns(from.id, to, now_ns, message.len());
            let meant_for = state.ends.get(&to).map(|end| end.incarnation);
            let link = state.link(from.id, to);
            link.queued_bytes += message.len();
            link.sent += 1;
            let flight = Flight { from, to, meant_for, place: link.sent, message: message.clone() };
            state.sent += 1;
            let number = state.sent;
            state.flights.insert(number, flight);
            let network = self.clone();
            self.0.executor.schedule(Duration::from_nanos(due_ns - now_ns), move || network.arrive(number));
        }
        Ok(())
    }

    fn arrive(&self, number: u64) {
        let now_ns = self.now_ns();
        let waker = {
            let mut state = self.0.state.borrow_mut();
            // A crash may have taken it.
            let Some(flight) = state.flights.remove(&number) else { return };
            state.arrive(flight, now_ns)
        };
        if let Some(waker) = waker {
            waker.wake();
        }
    }
}

impl State {
    fn count(&self, what: &'static str) {
        self.happened.count(what);
    }

    fn hits(&mut self, rate: impl Fn(&WireOptions) -> u64) -> bool {
        let rate = rate(&self.options);
        self.random.chance(rate, OUT_OF)
    }

    fn link(&mut self, from: PeerId, to: PeerId) -> &mut Link {
        self.links.entry((from, to)).or_default()
    }

    fn part(&mut self, from: PeerId, to: PeerId, how: Partition, until_ns: u64) {
        self.link(from, to).cut = Cut { until_ns, how };
        if how == Partition::BothWays {
            self.link(to, from).cut = Cut { until_ns, how };
        }
    }

    /// Begins what lasts for a while.
    fn begin_faults(&mut self, from: PeerId, to: PeerId, now_ns: u64) {
        if self.hits(|options| options.part) {
            let until_ns = now_ns + lasting(&mut self.random);
            self.part(from, to, Partition::BothWays, until_ns);
        }
        if self.hits(|options| options.part_one_way) {
            let until_ns = now_ns + lasting(&mut self.random);
            let (from, to) = if self.random.chance(1, 2) { (from, to) } else { (to, from) };
            self.part(from, to, Partition::OneWay, until_ns);
        }
        if self.hits(|options| options.slow) {
            let until_ns = now_ns + lasting(&mut self.random);
            self.slow_until_ns.insert(to, until_ns);
        }
    }

    /// What takes a message that is sent now, if something does.
    fn loses(&mut self, from: PeerId, to: PeerId, now_ns: u64) -> Option<&'static str> {
        let link = self.link(from, to);
        if let Some(fault) = link.cut.takes(now_ns) {
            return Some(fault);
        }
        if now_ns < link.half_open_until_ns {
            return Some(WIRE_HALF_OPEN);
        }
        self.hits(|options| options.lose).then_some(WIRE_LOST)
    }

    /// When a message that is sent now arrives.
    fn due_ns(&mut self, from: PeerId, to: PeerId, now_ns: u64, bytes: usize) -> u64 {
        let slow = self.slow_until_ns.get(&to).is_some_and(|until_ns| now_ns < *until_ns);
        if slow {
            self.count(WIRE_SLOWED);
        }
        let byte_ns = if slow { SLOW_BYTE_NS } else { BYTE_NS };
        let mut latency_ns = self.random.between(LATENCY_NS_MIN, LATENCY_NS_MAX);
        if self.hits(|options| options.delay) {
            self.count(WIRE_DELAYED);
            latency_ns += self.random.below(DELAY_NS_MAX);
        }
        let behind_ns = if self.hits(|options| options.reorder) { self.random.below(REORDER_NS_MAX) } else { 0 };
        let link = self.link(from, to);
        link.free_at_ns = link.free_at_ns.max(now_ns) + bytes as u64 * byte_ns;
        let in_order_ns = (link.free_at_ns + latency_ns).max(link.last_due_ns);
        if behind_ns > 0 {
            // Those that follow need not wait for it.
            return in_order_ns + behind_ns;
        }
        link.last_due_ns = in_order_ns;
        in_order_ns
    }

    /// A message reaches the other side; returns whom to wake.
    fn arrive(&mut self, flight: Flight, now_ns: u64) -> Option<Waker> {
        let Flight { from, to, meant_for, place, message } = flight;
        let bytes = message.len();
        let running = self.ends.get(&to).map(|end| end.incarnation);
        let link = self.link(from.id, to);
        let lost = link.cut.takes(now_ns).or(running.is_none().then_some(WIRE_HALF_OPEN));
        if let Some(fault) = lost {
            link.queued_bytes -= bytes;
            self.count(fault);
            return None;
        }
        let overtaken = place < link.arrived;
        link.arrived = link.arrived.max(place);
        if overtaken {
            self.count(WIRE_REORDERED);
        }
        if meant_for != running {
            self.count(WIRE_OUTLIVED);
        }
        let end = self.ends.get_mut(&to).expect("invariant: it runs");
        end.inbox.push_back(Received { from, message });
        end.waker.take()
    }

    /// The process that is bound to `peer` is gone, if there is one.
    fn end_process(&mut self, peer: PeerId) {
        let Some(end) = self.ends.remove(&peer) else { return };
        for received in end.inbox {
            self.link(received.from.id, peer).queued_bytes -= received.message.len();
            self.count(WIRE_LOST_IN_CRASH);
        }
        let concerned = |flight: &Flight| flight.from.id == peer || flight.to == peer;
        let flights: Vec<u64> =
            self.flights.iter().filter(|(_, flight)| concerned(flight)).map(|(number, _)| *number).collect();
        for number in flights {
            if self.random.chance(1, 2) {
                let flight = self.flights.remove(&number).expect("invariant: it was just seen");
                self.link(flight.from.id, flight.to).queued_bytes -= flight.message.len();
                self.count(WIRE_LOST_IN_CRASH);
            }
        }
    }

    /// Takes the next message of a process that still is bound.
    fn take(&mut self, me: Peer, waker: &Waker) -> Option<Received> {
        let end = self.ends.get_mut(&me.id).filter(|end| end.incarnation == me.incarnation)?;
        let Some(received) = end.inbox.pop_front() else {
            end.waker = Some(waker.clone());
            return None;
        };
        self.link(received.from.id, me.id).queued_bytes -= received.message.len();
        Some(received)
    }
}

/// How long something lasts; short times are as likely as long ones.
fn lasting(random: &mut Random) -> u64 {
    let most_ns = random.between(LASTS_NS_MIN, LASTS_NS_MAX);
    random.between(LASTS_NS_MIN, most_ns)
}

/// The end of one process.
#[derive(Clone)]
pub struct SimWire {
    network: SimNetwork,
    me: Peer,
}

impl Wire for SimWire {
    fn me(&self) -> Peer {
        self.me
    }

    fn send(&self, to: PeerId, message: Bytes) -> Result<(), SendError> {
        self.network.send(self.me, to, message)
    }

    async fn receive(&self) -> Received {
        let network = &self.network.0;
        let received = poll_fn(|cx| match network.state.borrow_mut().take(self.me, cx.waker()) {
            Some(received) => Poll::Ready(received),
            None => Poll::Pending,
        })
        .await;
        network.executor.record("wire.receive", self.me.id.0, checksum(&received.message));
        received
    }
}
