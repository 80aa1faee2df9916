//! The sending end of one mailbox: room for a call, the line for it, the push.
//!
//! The count of calls begun is the sender's own; the count of calls done is the receiver's, an atomic that only grows.
//! Their difference is what is under way, so neither side ever takes back what it said, and a caller that is dropped
//! has nothing to return.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering, fence};
use std::task::{Context, Poll, Waker};

use futures_util::task::AtomicWaker;
use proto::limits::MAILBOX_CALLS_MAX;
use rtrb::Producer;

use super::{Bell, Call};

/// The sending end of the mailbox between one core and another.
pub(super) struct Outbox<S: 'static> {
    ring: RefCell<Producer<Call<S>>>,
    bell: Arc<Bell>,
    begun: Cell<u64>,
    /// The most calls that were under way at once.
    underway_max: Cell<u64>,
    progress: Arc<Progress>,
    /// Callers that wait for room, by ticket. Only the first listens to `progress`.
    line: RefCell<BTreeMap<u64, Waker>>,
    next_ticket: Cell<u64>,
}

/// What the receiver tells the sender.
#[derive(Default)]
struct Progress {
    done: AtomicU64,
    /// The first in line.
    first: AtomicWaker,
}

/// One call under way. It gives its room back when it is dropped, which is when the call has run or never will.
pub(super) struct Underway(Arc<Progress>);

impl Drop for Underway {
    fn drop(&mut self) {
        // Release: the call's place in the ring was freed before.
        self.0.done.fetch_add(1, Ordering::Release);
        self.0.first.wake();
    }
}

impl<S: 'static> Outbox<S> {
    pub(super) fn new(ring: Producer<Call<S>>, bell: Arc<Bell>) -> Outbox<S> {
        Outbox {
            ring: RefCell::new(ring),
            bell,
            begun: Cell::new(0),
            underway_max: Cell::new(0),
            progress: Arc::default(),
            line: RefCell::default(),
            next_ticket: Cell::new(0),
        }
    }

    /// Completes when there is room for a call and it is the caller's turn: create the call and push it at once.
    pub(super) fn room(&self) -> Room<'_, S> {
        Room { outbox: self, ticket: None }
    }

    /// The mark that the next call carries.
    pub(super) fn underway(&self) -> Underway {
        Underway(self.progress.clone())
    }

    /// Sends a call that carries its [`Outbox::underway`].
    pub(super) fn push(&self, call: Call<S>) {
        assert!(self.has_room(), "invariant: a call is pushed when there is room");
        self.begun.set(self.begun.get() + 1);
        self.underway_max.set(self.underway_max.get().max(self.calls_underway()));
        assert!(self.ring.borrow_mut().push(call).is_ok(), "invariant: room means a free place in the ring");
        // Pairs with the fence of a dropped inbox: either it sees this call and drops it, or this sees that it is gone.
        fence(Ordering::SeqCst);
        assert!(!self.bell.gone.load(Ordering::Relaxed), "invariant: a core answers until all cores have finished");
        self.bell.inbox.wake();
    }

    /// The most calls that were under way at once.
    pub(super) fn underway_max(&self) -> u64 {
        self.underway_max.get()
    }

    fn calls_underway(&self) -> u64 {
        self.begun.get() - self.progress.done.load(Ordering::Acquire)
    }

    fn has_room(&self) -> bool {
        self.calls_underway() < MAILBOX_CALLS_MAX as u64
    }

    fn wake_first(&self) {
        let first = self.line.borrow().first_key_value().map(|(_, waker)| waker.clone());
        if let Some(waker) = first {
            waker.wake();
        }
    }
}

/// Completes with room for one call. Dropping it before gives up the place in line.
pub(super) struct Room<'a, S: 'static> {
    outbox: &'a Outbox<S>,
    ticket: Option<u64>,
}

impl<S> Future for Room<'_, S> {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        let outbox = self.outbox;
        let first = outbox.line.borrow().first_key_value().map(|(ticket, _)| *ticket);
        if first == self.ticket {
            let has_room = outbox.has_room() || {
                outbox.progress.first.register(cx.waker());
                outbox.has_room()
            };
            if has_room {
                // The next becomes the first, and must look for itself.
                self.leave_line();
                return Poll::Ready(());
            }
        }
        let ticket = *self.ticket.get_or_insert_with(|| {
            let ticket = outbox.next_ticket.get();
            outbox.next_ticket.set(ticket + 1);
            ticket
        });
        outbox.line.borrow_mut().insert(ticket, cx.waker().clone());
        Poll::Pending
    }
}

impl<S> Room<'_, S> {
    fn leave_line(&mut self) {
        if let Some(ticket) = self.ticket.take() {
            self.outbox.line.borrow_mut().remove(&ticket);
            self.outbox.wake_first();
        }
    }
}

impl<S> Drop for Room<'_, S> {
    fn drop(&mut self) {
        self.leave_line();
    }
}
