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

/// The node.
const NODE: PeerId = PeerId(0);

/// The peer of a client.
fn peer(client: usize) -> PeerId {
    PeerId(1 + client as u64)
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
    /// Of each client the executions under way, and those that wait for one of them to end.
    underway: RefCell<BTreeMap<usize, (usize, Vec<Completer<()>>)>>,
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
            underway: RefCell::default(),
            awaited: RefCell::default(),
        }
    }

    /// Lets the clients work, those too that are still at what an earlier round left.
    pub fn begin_round(&self) {
        self.rounds.set(self.rounds.get() + 1);
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

    /// Waits until the node may execute one more request of `client`.
    async fn permit(&self, client: usize) -> Permit<'_> {
        loop {
            let waited = {
                let mut underway = self.underway.borrow_mut();
                let (count, waiting) = underway.entry(client).or_default();
                if *count < UNDERWAY_MAX {
                    *count += 1;
                    return Permit { remote: self, client };
                }
                let (completer, completion) = completion();
                waiting.push(completer);
                completion
            };
            waited.await;
        }
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

/// A request of `client` that is being executed, until it ends or the node crashes.
struct Permit<'a> {
    remote: &'a Remote,
    client: usize,
}

impl Drop for Permit<'_> {
    fn drop(&mut self) {
        let mut underway = self.remote.underway.borrow_mut();
        let (count, waiting) = underway.get_mut(&self.client).expect("invariant: it was counted");
        *count -= 1;
        waiting.drain(..).for_each(|waiting| waiting.complete(()));
    }
}
