//! Clients that reach the node over a wire on which everything goes wrong, instead of calling it.
//!
//! ```text
//!   client (beside the node: survives its crashes)      node's process
//!     draws an action, encodes it                         decodes, carries out as a direct client would
//!     net::rpc over sim::wire ─── lost, late, twice ───▶   the judge sees call and answer here
//!     again under the same key after a deadline ◀───────   answer
//!     the answer must be one that the node gave
//! ```
//!
//! The judge sees each execution where a direct client would have called: between its beginning and its end on the
//! node. A request that is executed again, since its client lost patience, is one more operation under the same key, as
//! a repetition of a direct client is; one that a crash cuts off stays open until then. What is added here is that
//! clients repeat because they really got no answer, and that an answer reaches them as it was given.

mod client;
mod message;
mod server;

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::rc::Rc;

use bytes::Bytes;
use proto::port::PeerId;

pub use self::client::run;
pub use self::server::serve;
use crate::oracle::Violation;
use crate::sim::SimNetwork;
use crate::sim::completion::{Completer, completion};

/// Executions of requests of one client that may be under way at once. A disk that hangs would gather them otherwise,
/// and each that may or may not happen doubles the histories that the judge follows.
const UNDERWAY_MAX: usize = 2;
/// Executions of requests of one client that are dropped in one start, since nobody waits for the answer any more. Each
/// stays open until the node ends; further ones run to their end.
const DROPPED_MAX: usize = 3;

/// The node.
const NODE: PeerId = PeerId(0);

/// The peer of a client.
fn peer(client: usize) -> PeerId {
    PeerId(1 + client as u64)
}

/// Executions of one client's requests.
#[derive(Default)]
struct Executions {
    underway: usize,
    dropped: usize,
    /// Those that wait for one under way to end.
    waiting: Vec<Completer<()>>,
}

/// What remote clients and the node's side of the wire share with the harness.
pub struct Remote {
    /// The wire between them.
    pub network: SimNetwork,
    /// The first violation that a client or the server met.
    failure: RefCell<Option<Violation>>,
    /// Of each client the request that it makes now, and what the node answered to it so far.
    given: RefCell<BTreeMap<usize, (u64, Vec<Bytes>)>>,
    /// Rounds begun.
    rounds: Cell<u64>,
    /// Clients that are at work.
    busy: Cell<usize>,
    parked: RefCell<Vec<Completer<()>>>,
    /// Of each client, the executions in the present start.
    executions: RefCell<BTreeMap<usize, Executions>>,
    awaited: RefCell<Option<Completer<()>>>,
}

impl Remote {
    /// Makes the meeting place of `clients` clients, which are [`run`] then.
    #[must_use]
    pub fn new(network: SimNetwork, clients: usize) -> Remote {
        network.add_peer(NODE);
        Remote {
            network,
            failure: RefCell::default(),
            given: RefCell::default(),
            rounds: Cell::new(0),
            busy: Cell::new(clients),
            parked: RefCell::default(),
            executions: RefCell::default(),
            awaited: RefCell::default(),
        }
    }

    /// Lets the clients work, those too that are still at what an earlier round left.
    pub fn begin_round(&self) {
        self.rounds.set(self.rounds.get() + 1);
        self.executions.take();
        let parked = self.parked.take();
        self.busy.set(self.busy.get() + parked.len());
        parked.into_iter().for_each(|client| client.complete(()));
    }

    /// Waits until every client has done its part of the round.
    pub async fn end_round(&self) {
        while self.busy.get() > 0 {
            let (completer, completion) = completion();
            self.awaited.replace(Some(completer));
            completion.await;
        }
    }

    /// A client has done its part of a round; it goes on in the next.
    async fn next_round(&self, seen: u64) {
        if self.rounds.get() > seen {
            return;
        }
        let (completer, completion) = completion();
        self.parked.borrow_mut().push(completer);
        self.busy.set(self.busy.get() - 1);
        if self.busy.get() == 0
            && let Some(awaited) = self.awaited.take()
        {
            awaited.complete(());
        }
        completion.await;
    }

    /// Whether request `number` of `client` is to be executed: the client still waits for it, and the node did not leave it
    /// open already. That stays open until the node ends, and once more would be one more that may have happened.
    fn wants(&self, client: usize, number: u64) -> bool {
        let (given, left_open) = (self.given.borrow(), message::Response::Stops.encode());
        given.get(&client).is_some_and(|(current, answers)| *current == number && !answers.contains(&left_open))
    }

    /// Waits until the node may execute one more request of `client`.
    async fn permit(self: &Rc<Self>, client: usize) -> Permit {
        loop {
            let waited = {
                let mut all = self.executions.borrow_mut();
                let executions = all.entry(client).or_default();
                if executions.underway < UNDERWAY_MAX {
                    executions.underway += 1;
                    return Permit { remote: self.clone(), client, ended: false };
                }
                let (completer, completion) = completion();
                executions.waiting.push(completer);
                completion
            };
            waited.await;
        }
    }

    /// Whether one more execution for `client` may be dropped before its end.
    fn may_drop(&self, client: usize) -> bool {
        self.executions.borrow().get(&client).is_none_or(|executions| executions.dropped < DROPPED_MAX)
    }

    fn fail(&self, violation: Violation) {
        self.failure.borrow_mut().get_or_insert(violation);
    }

    /// What went wrong so far.
    ///
    /// # Errors
    /// The first [`Violation`] that a client or the server met.
    pub fn check(&self) -> Result<(), Violation> {
        self.failure.borrow_mut().take().map_or(Ok(()), Err)
    }
}

/// The right to execute a request of `client`.
struct Permit {
    remote: Rc<Remote>,
    client: usize,
    /// Whether it ran to its end.
    ended: bool,
}

impl Permit {
    /// The execution ended.
    fn end(mut self) {
        self.ended = true;
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        let mut all = self.remote.executions.borrow_mut();
        // The start that it belonged to may be over.
        let Some(executions) = all.get_mut(&self.client) else { return };
        executions.underway -= 1;
        executions.dropped += usize::from(!self.ended);
        executions.waiting.drain(..).for_each(|waiting| waiting.complete(()));
    }
}
