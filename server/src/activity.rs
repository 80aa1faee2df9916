//! What one connection is doing, and when it has done nothing for too long.
//!
//! The socket ([`crate::wire`]), the requests and their responses note what happens; the connection asks for the next
//! [`Deadline`]. Times are those of `proto::port::runtime::monotonic`.
//!
//! ```text
//!   no request ─── first byte of a head ───▶ reading a head ─── whole ───▶ requests, until the last response is gone
//!    IDLE_SECONDS_MAX                         HEAD_SECONDS_MAX               PACE_BYTES_MIN in each PACE_SECONDS that
//!                                             (HTTP/1; HTTP/2 stays idle)    it does not take what it is sent
//! ```
//!
//! Request bodies have a [`Pace`] of their own, because a slow one still gets an answer.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::rc::Rc;
use std::time::Duration;

use proto::limits::{HEAD_SECONDS_MAX, IDLE_SECONDS_MAX};
use proto::port::runtime;

use crate::admission::ConnectionId;
use crate::pace::Pace;

/// Why a connection is ended by the server.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Ending {
    /// Nothing was asked for a while: it is closed in good order.
    Idle,
    /// The head of a request did not come to its end.
    SlowHead,
    /// The client did not take what it was sent.
    SlowReader,
}

/// When a connection ends, unless something happens before.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Deadline {
    pub(crate) at: Duration,
    pub(crate) ending: Ending,
}

/// See the module.
pub(crate) struct Activity {
    pub(crate) id: ConnectionId,
    /// Whether it speaks HTTP/2, whose connections have bytes to exchange between requests.
    is_http2: Cell<bool>,
    /// When the last request ended, the last blocked write went on, or the connection came.
    idle_since: Cell<Duration>,
    /// When the first byte came of a head that is not whole yet.
    head_since: Cell<Option<Duration>>,
    /// Requests from their heads to the ends of their responses: how the client takes each (HTTP/2).
    requests: RefCell<BTreeMap<u64, Pace>>,
    next_request: Cell<u64>,
    /// How the client takes what is written to the socket.
    writes: Cell<Pace>,
}

/// A request on a connection, until it is dropped with its response.
pub(crate) struct Serving {
    activity: Rc<Activity>,
    number: u64,
}

impl Activity {
    /// A connection that just came.
    pub(crate) fn new(id: ConnectionId) -> Activity {
        Activity {
            id,
            is_http2: Cell::new(false),
            idle_since: Cell::new(runtime::monotonic()),
            head_since: Cell::new(None),
            requests: RefCell::default(),
            next_request: Cell::new(0),
            writes: Cell::default(),
        }
    }

    /// The client speaks HTTP/2.
    pub(crate) fn speaks_http2(&self) {
        self.is_http2.set(true);
        self.head_since.set(None);
    }

    /// Bytes came.
    pub(crate) fn received(&self) {
        if !self.is_http2.get() && self.head_since.get().is_none() && self.requests.borrow().is_empty() {
            self.head_since.set(Some(runtime::monotonic()));
        }
    }

    /// The socket takes nothing more for now.
    pub(crate) fn write_blocked(&self) {
        let mut writes = self.writes.get();
        if writes.deadline().is_none() {
            writes.wait(runtime::monotonic());
            self.writes.set(writes);
        }
    }

    /// The socket took `bytes`.
    pub(crate) fn written(&self, bytes: usize) {
        let mut writes = self.writes.get();
        if writes.deadline().is_some() {
            let now = runtime::monotonic();
            writes.moved(now, bytes);
            self.writes.set(writes);
            self.idle_since.set(now);
        }
    }

    /// The head of a request is whole.
    pub(crate) fn begin(self: &Rc<Self>) -> Serving {
        let number = self.next_request.get();
        self.next_request.set(number + 1);
        self.head_since.set(None);
        self.requests.borrow_mut().insert(number, Pace::default());
        Serving { activity: self.clone(), number }
    }

    /// When the connection ends if nothing happens; `None` while a request is served as it should be.
    pub(crate) fn deadline(&self) -> Option<Deadline> {
        let requests = self.requests.borrow();
        let readers = requests.values().chain([&self.writes.get()]).filter_map(Pace::deadline).min();
        let slow_reader = readers.map(|at| Deadline { at, ending: Ending::SlowReader });
        if slow_reader.is_some() || !requests.is_empty() {
            return slow_reader;
        }
        Some(match self.head_since.get() {
            Some(since) => Deadline { at: since + Duration::from_secs(HEAD_SECONDS_MAX), ending: Ending::SlowHead },
            None => {
                let at = self.idle_since.get() + Duration::from_secs(IDLE_SECONDS_MAX);
                Deadline { at, ending: Ending::Idle }
            }
        })
    }
}

impl Serving {
    /// The connection that asked.
    pub(crate) fn connection(&self) -> ConnectionId {
        self.activity.id
    }

    fn with_pace(&self, change: impl FnOnce(&mut Pace)) {
        let mut requests = self.activity.requests.borrow_mut();
        change(requests.get_mut(&self.number).expect("invariant: a request is listed until it is dropped"));
    }

    /// Bytes of the response were handed to its stream: from now on the client is waited for.
    pub(crate) fn handed_over(&self) {
        self.with_pace(|pace| pace.wait(runtime::monotonic()));
    }

    /// More bytes of the response are wanted, because `bytes` of it were taken.
    pub(crate) fn taken(&self, bytes: usize) {
        self.with_pace(|pace| pace.moved(runtime::monotonic(), bytes));
    }
}

impl Drop for Serving {
    fn drop(&mut self) {
        self.activity.requests.borrow_mut().remove(&self.number);
        self.activity.idle_since.set(runtime::monotonic());
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing;

    const SECOND: Duration = Duration::from_secs(1);

    fn ending(activity: &Activity) -> Option<(Ending, u64)> {
        let left = |deadline: Deadline| (deadline.at - runtime::monotonic()).as_secs();
        activity.deadline().map(|deadline| (deadline.ending, left(deadline)))
    }

    #[test]
    fn each_phase_of_a_connection_has_its_deadline() {
        testing::run(async || {
            let activity = Rc::new(Activity::new(ConnectionId(1)));
            assert_eq!(ending(&activity), Some((Ending::Idle, 60)));
            runtime::sleep(5 * SECOND).await;
            activity.received();
            assert_eq!(ending(&activity), Some((Ending::SlowHead, 10)));
            runtime::sleep(5 * SECOND).await;
            activity.received();
            assert_eq!(ending(&activity), Some((Ending::SlowHead, 5)), "more bytes of a head do not prolong it");
            let serving = activity.begin();
            assert_eq!(ending(&activity), None);
            activity.received();
            runtime::sleep(100 * SECOND).await;
            assert_eq!(ending(&activity), None, "the server may take its time");
            serving.handed_over();
            assert_eq!(ending(&activity), Some((Ending::SlowReader, 60)));
            runtime::sleep(20 * SECOND).await;
            serving.taken(100);
            assert_eq!(ending(&activity), None);
            serving.handed_over();
            assert_eq!(ending(&activity), Some((Ending::SlowReader, 40)));
            drop(serving);
            assert_eq!(ending(&activity), Some((Ending::Idle, 60)));
        });
    }

    #[test]
    fn a_blocked_socket_counts_also_after_the_response_was_handed_over() {
        testing::run(async || {
            let activity = Rc::new(Activity::new(ConnectionId(1)));
            drop(activity.begin());
            activity.write_blocked();
            runtime::sleep(59 * SECOND).await;
            assert_eq!(ending(&activity), Some((Ending::SlowReader, 1)));
            activity.written(1);
            assert_eq!(ending(&activity), Some((Ending::Idle, 60)));
            activity.write_blocked();
            assert_eq!(ending(&activity), Some((Ending::SlowReader, 1)), "one byte a minute is not enough");
        });
    }

    #[test]
    fn http2_exchanges_bytes_between_requests() {
        testing::run(async || {
            let activity = Rc::new(Activity::new(ConnectionId(1)));
            activity.received();
            activity.speaks_http2();
            activity.received();
            assert_eq!(ending(&activity), Some((Ending::Idle, 60)));
        });
    }
}
