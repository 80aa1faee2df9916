//! Who is served now, who waits for it, and who is told to come back.
//!
//! ```text
//!   enter ─▶ room for this connection? ──yes──▶ served ─▶ Slot ─▶ dropped: the next one's turn
//!               │ no
//!               ▼
//!            waiting, a line for each connection ──too long, or too many──▶ Overloaded (429)
//! ```
//!
//! Fair between connections, not between requests: whoever has least is served next, and of those whoever waits longest
//! for its turn; no connection takes more than half of the slots; and when too many wait, the longest line gives up its
//! newest. So a connection with a hundred requests delays one with a single request by no more than one of them, and
//! neither those that come back at once nor those that are new pass one that waits.
//!
//! Invariant: while a slot is free, only connections that have their full share wait.

use std::cell::RefCell;
use std::collections::{BTreeMap, VecDeque};
use std::rc::Rc;
use std::time::Duration;

use futures_channel::oneshot;
use futures_util::future::{Either, select};
use proto::limits::{ADMISSION_WAIT_SECONDS_MAX, ADMISSION_WAITING_MAX};
use proto::port::runtime;

/// A connection, as far as fairness is concerned; a number that this core uses once.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct ConnectionId(pub(crate) u64);

/// Come back later.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Overloaded;

/// What a connection has.
#[derive(Default)]
struct Line {
    served: usize,
    waiting: VecDeque<Waiting>,
    /// When it had its last turn; smaller is longer ago.
    turn: u64,
}

impl Line {
    /// Since when it waits for its turn: since its last one, or since it came if that is later. Because of the latter, a
    /// line may be forgotten when it is idle: whoever comes back came after its last turn. `None` if it does not wait.
    fn waits_since(&self) -> Option<u64> {
        self.waiting.front().map(|first| first.ticket.max(self.turn))
    }
}

struct Waiting {
    ticket: u64,
    /// Dropped to send the request away.
    grant: oneshot::Sender<Slot>,
}

#[derive(Default)]
struct State {
    served: usize,
    waiting: usize,
    /// Connections that are served or wait.
    lines: BTreeMap<ConnectionId, Line>,
    /// Counts turns and tickets.
    counter: u64,
}

struct Inner {
    served_max: usize,
    state: RefCell<State>,
}

/// See the module. Handles are cheap to clone.
#[derive(Clone)]
pub(crate) struct Admission(Rc<Inner>);

/// The right to be served; given back when dropped.
pub(crate) struct Slot {
    admission: Admission,
    connection: ConnectionId,
}

/// A place in a line; left when dropped.
struct Place<'a> {
    admission: &'a Admission,
    connection: ConnectionId,
    ticket: u64,
}

impl Admission {
    /// Serves up to `served_max` at a time.
    ///
    /// # Panics
    /// If that is below 2: half of it is the share of one connection.
    pub(crate) fn new(served_max: usize) -> Admission {
        assert!(served_max >= 2, "invariant: a connection's share is at least one");
        Admission(Rc::new(Inner { served_max, state: RefCell::default() }))
    }

    /// Waits for its turn.
    ///
    /// # Errors
    /// [`Overloaded`] if too many wait, or its turn does not come soon.
    pub(crate) async fn enter(&self, connection: ConnectionId) -> Result<Slot, Overloaded> {
        let (ticket, granted) = {
            let mut state = self.0.state.borrow_mut();
            let served = state.lines.get(&connection).map_or(0, |line| line.served);
            if state.served < self.0.served_max && served < self.share() {
                state.serve(connection);
                return Ok(Slot { admission: self.clone(), connection });
            }
            state.queue(connection)?
        };
        let _place = Place { admission: self, connection, ticket };
        let longest = runtime::sleep(Duration::from_secs(ADMISSION_WAIT_SECONDS_MAX));
        match select(granted, longest).await {
            Either::Left((Ok(slot), _)) => Ok(slot),
            Either::Left((Err(oneshot::Canceled), _)) | Either::Right(_) => Err(Overloaded),
        }
    }

    /// Slots that one connection may have of `served_max`.
    pub(crate) const fn share_of(served_max: usize) -> usize {
        served_max / 2
    }

    fn share(&self) -> usize {
        Admission::share_of(self.0.served_max)
    }

    /// Being served.
    pub(crate) fn served(&self) -> usize {
        self.0.state.borrow().served
    }

    /// Waiting.
    pub(crate) fn waiting(&self) -> usize {
        self.0.state.borrow().waiting
    }

    /// Gives free slots to those whose turn it is.
    fn grant(&self) {
        loop {
            let next = {
                let mut state = self.0.state.borrow_mut();
                if state.served < self.0.served_max { state.next(self.share()) } else { None }
            };
            let Some((connection, waiting)) = next else { return };
            // A slot that nobody takes any more comes back by being dropped.
            let _ = waiting.grant.send(Slot { admission: self.clone(), connection });
        }
    }
}

impl State {
    fn tick(&mut self) -> u64 {
        self.counter += 1;
        self.counter
    }

    /// Counts one more of a connection's requests as served.
    fn serve(&mut self, connection: ConnectionId) {
        let turn = self.tick();
        self.served += 1;
        let line = self.lines.entry(connection).or_default();
        line.served += 1;
        line.turn = turn;
    }

    /// Puts a request at the end of its connection's line.
    fn queue(&mut self, connection: ConnectionId) -> Result<(u64, oneshot::Receiver<Slot>), Overloaded> {
        if self.waiting == ADMISSION_WAITING_MAX {
            let own = self.lines.get(&connection).map_or(0, |line| line.waiting.len());
            let longest = self.lines.values_mut().max_by_key(|line| line.waiting.len());
            let longest = longest.filter(|line| line.waiting.len() > own + 1).ok_or(Overloaded)?;
            longest.waiting.pop_back();
            self.waiting -= 1;
        }
        let ticket = self.tick();
        let (grant, granted) = oneshot::channel();
        self.lines.entry(connection).or_default().waiting.push_back(Waiting { ticket, grant });
        self.waiting += 1;
        Ok((ticket, granted))
    }

    /// Takes the request whose turn it is out of its line and counts it as served.
    fn next(&mut self, share: usize) -> Option<(ConnectionId, Waiting)> {
        let eligible = self.lines.iter_mut().filter(|(_, line)| line.served < share);
        let waiting =
            eligible.filter_map(|(connection, line)| Some((line.served, line.waits_since()?, connection, line)));
        let (_, _, connection, line) = waiting.min_by_key(|(served, since, ..)| (*served, *since))?;
        let (connection, waiting) = (*connection, line.waiting.pop_front()?);
        self.waiting -= 1;
        self.serve(connection);
        Some((connection, waiting))
    }

    /// Forgets a connection that has nothing here.
    fn forget_if_idle(&mut self, connection: ConnectionId) {
        if self.lines.get(&connection).is_some_and(|line| line.served == 0 && line.waiting.is_empty()) {
            self.lines.remove(&connection);
        }
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        {
            let mut state = self.admission.0.state.borrow_mut();
            state.served -= 1;
            let line = state.lines.get_mut(&self.connection).expect("invariant: a served connection has a line");
            line.served -= 1;
            state.forget_if_idle(self.connection);
        }
        self.admission.grant();
    }
}

impl Drop for Place<'_> {
    fn drop(&mut self) {
        let mut state = self.admission.0.state.borrow_mut();
        if let Some(line) = state.lines.get_mut(&self.connection)
            && let Some(at) = line.waiting.iter().position(|waiting| waiting.ticket == self.ticket)
        {
            line.waiting.remove(at);
            state.waiting -= 1;
        }
        state.forget_if_idle(self.connection);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing;
    use futures_util::FutureExt;
    use futures_util::future::LocalBoxFuture;

    const GREEDY: ConnectionId = ConnectionId(1);
    const MODEST: ConnectionId = ConnectionId(2);

    type Entering = LocalBoxFuture<'static, Result<Slot, Overloaded>>;

    fn enter(admission: &Admission, connection: ConnectionId) -> Entering {
        let admission = admission.clone();
        async move { admission.enter(connection).await }.boxed_local()
    }

    /// Enters, and insists that it has to wait.
    fn wait(admission: &Admission, connection: ConnectionId) -> Entering {
        let mut entering = enter(admission, connection);
        assert!((&mut entering).now_or_never().is_none());
        entering
    }

    fn served(entering: &mut Entering) -> Option<Slot> {
        entering.now_or_never().map(|entered| entered.unwrap_or_else(|_| panic!("sent away")))
    }

    /// Fills all slots from connections 100, 101 and so on.
    fn full(slots: usize) -> (Admission, Vec<Slot>) {
        let admission = Admission::new(slots);
        let enter = |at| served(&mut enter(&admission, ConnectionId(100 + at as u64))).expect("there is room");
        let held = (0..slots).map(enter).collect();
        (admission, held)
    }

    #[test]
    fn one_connection_gets_half_of_the_slots_and_others_the_rest() {
        testing::run(async || {
            let admission = Admission::new(8);
            let slots: Vec<Slot> = (0..4).map(|_| served(&mut enter(&admission, GREEDY)).unwrap()).collect();
            let mut greedy = wait(&admission, GREEDY);
            let modest = served(&mut enter(&admission, MODEST)).expect("the other half is free");
            drop(modest);
            assert!(served(&mut greedy).is_none(), "a slot of another does not raise the share");
            drop(slots);
            assert!(served(&mut greedy).is_some());
            drop(greedy);
            assert!(admission.0.state.borrow().lines.is_empty(), "nothing is remembered of those who left");
        });
    }

    #[test]
    fn a_long_line_delays_another_connection_by_one_turn_at_most() {
        testing::run(async || {
            let (admission, mut held) = full(4);
            let mut greedy: Vec<Entering> = (0..100).map(|_| wait(&admission, GREEDY)).collect();
            let mut modest = wait(&admission, MODEST);
            held.truncate(2);
            let first = greedy.iter_mut().find_map(served);
            let modest_slot = served(&mut modest);
            assert!(first.is_some() && modest_slot.is_some(), "each connection got one of the two");
            drop(modest_slot);
            assert_eq!(admission.served(), 4, "what the modest one left went to the greedy one");
        });
    }

    #[test]
    fn connections_that_come_back_at_once_do_not_pass_one_that_waits() {
        testing::run(async || {
            const OLD: usize = 20;
            let (admission, held) = full(4);
            let young = ConnectionId(1000);
            let mut held: VecDeque<(ConnectionId, Slot)> =
                held.into_iter().map(|slot| (slot.connection, slot)).collect();
            let old = (1..=OLD as u64).map(ConnectionId);
            let mut waiting: Vec<_> = old.chain([young]).map(|id| (id, wait(&admission, id))).collect();
            let mut rounds = vec![0; 2];
            for round in &mut rounds {
                let mut turns = Vec::new();
                while !turns.contains(&young) {
                    let (left, slot) = held.pop_front().unwrap();
                    drop(slot);
                    waiting.push((left, wait(&admission, left)));
                    let next =
                        waiting.iter_mut().enumerate().find_map(|(at, (_, entering))| Some((at, served(entering)?)));
                    let (at, slot) = next.expect("a slot was free");
                    let (id, _) = waiting.remove(at);
                    assert!(!turns.contains(&id), "{id:?} had a second turn before the young one had its first");
                    turns.push(id);
                    held.push_back((id, slot));
                }
                *round = turns.len();
            }
            assert_eq!(rounds, [OLD + 1, held.len() + OLD + 1], "each connection had one turn");
        });
    }

    #[test]
    fn new_connections_do_not_pass_one_that_waits() {
        testing::run(async || {
            let admission = Admission::new(2);
            let first = served(&mut enter(&admission, GREEDY)).unwrap();
            let other = served(&mut enter(&admission, ConnectionId(100))).unwrap();
            let mut second = wait(&admission, GREEDY);
            let mut new: Vec<Entering> = (200..210).map(|id| wait(&admission, ConnectionId(id))).collect();
            drop(first);
            let _second = served(&mut second).expect("it came before them");
            assert!(new.iter_mut().all(|new| served(new).is_none()));
            drop(other);
            assert!(served(&mut new[0]).is_some());
        });
    }

    #[test]
    fn when_too_many_wait_the_longest_line_gives_up_its_newest() {
        testing::run(async || {
            let (admission, held) = full(2);
            let mut greedy: Vec<Entering> = (0..ADMISSION_WAITING_MAX).map(|_| wait(&admission, GREEDY)).collect();
            let refused = enter(&admission, GREEDY).now_or_never();
            assert!(matches!(refused, Some(Err(Overloaded))), "the longest line itself is sent away");
            let mut modest = wait(&admission, MODEST);
            let newest = greedy.pop().unwrap().now_or_never();
            assert!(matches!(newest, Some(Err(Overloaded))));
            assert_eq!(admission.waiting(), ADMISSION_WAITING_MAX);
            drop(held);
            assert!(served(&mut modest).is_some() && served(&mut greedy[0]).is_some());
        });
    }

    #[test]
    fn whoever_waits_too_long_is_sent_away_and_leaves_the_line() {
        testing::run(async || {
            let (admission, _held) = full(2);
            let start = runtime::monotonic();
            assert!(matches!(enter(&admission, MODEST).await, Err(Overloaded)));
            assert_eq!(runtime::monotonic() - start, Duration::from_secs(ADMISSION_WAIT_SECONDS_MAX));
            drop(wait(&admission, MODEST));
            assert_eq!(admission.waiting(), 0);
        });
    }
}
