//! The bound on operations in flight: a counting semaphore of one thread, first come first served.
//!
//! Invariant: nobody overtakes a waiter, so a stream of small reads cannot starve a large write.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll, Waker};

/// A counting semaphore.
pub(crate) struct Permits {
    free: Cell<usize>,
    total: usize,
    next_ticket: Cell<u64>,
    waiting: RefCell<BTreeMap<u64, Waker>>,
}

impl Permits {
    pub(crate) fn new(total: usize) -> Permits {
        assert!(total > 0, "invariant: something may be in flight");
        Permits { free: Cell::new(total), total, next_ticket: Cell::new(0), waiting: RefCell::default() }
    }

    /// Takes one permit; whoever takes it gives it back with [`Permits::release`].
    pub(crate) fn acquire(&self) -> Acquire<'_> {
        Acquire { permits: self, ticket: None }
    }

    /// Gives one permit back.
    pub(crate) fn release(&self) {
        let free = self.free.get() + 1;
        assert!(free <= self.total, "invariant: a permit is given back once");
        self.free.set(free);
        self.wake_first();
    }

    /// Tells the first in line if there is a permit for it.
    fn wake_first(&self) {
        if self.free.get() > 0 {
            let first = self.waiting.borrow().first_key_value().map(|(_, waker)| waker.clone());
            if let Some(waker) = first {
                waker.wake();
            }
        }
    }
}

/// Completes with a permit taken. Dropping it before gives up the place in line.
pub(crate) struct Acquire<'a> {
    permits: &'a Permits,
    ticket: Option<u64>,
}

impl Future for Acquire<'_> {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        let permits = self.permits;
        let mut waiting = permits.waiting.borrow_mut();
        let first = waiting.first_key_value().map(|(ticket, _)| *ticket);
        if permits.free.get() > 0 && first == self.ticket {
            if let Some(ticket) = self.ticket.take() {
                waiting.remove(&ticket);
            }
            drop(waiting);
            permits.free.set(permits.free.get() - 1);
            permits.wake_first();
            return Poll::Ready(());
        }
        let ticket = *self.ticket.get_or_insert_with(|| {
            let ticket = permits.next_ticket.get();
            permits.next_ticket.set(ticket + 1);
            ticket
        });
        waiting.insert(ticket, cx.waker().clone());
        Poll::Pending
    }
}

impl Drop for Acquire<'_> {
    fn drop(&mut self) {
        if let Some(ticket) = self.ticket.take() {
            self.permits.waiting.borrow_mut().remove(&ticket);
            // The wake that was meant for this place goes to the next in line.
            self.permits.wake_first();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures_util::task::noop_waker_ref;
    use std::sync::Arc;
    use std::sync::atomic::{AtomicUsize, Ordering};

    struct Wakes(AtomicUsize);
    impl std::task::Wake for Wakes {
        fn wake(self: Arc<Self>) {
            self.0.fetch_add(1, Ordering::Relaxed);
        }
    }

    fn poll(acquire: &mut Acquire<'_>) -> bool {
        Pin::new(acquire).poll(&mut Context::from_waker(noop_waker_ref())).is_ready()
    }

    #[test]
    fn nobody_overtakes_a_waiter() {
        let permits = Permits::new(1);
        assert!(poll(&mut permits.acquire()));
        let (mut first, mut second) = (permits.acquire(), permits.acquire());
        assert!(!poll(&mut first) && !poll(&mut second));
        permits.release();
        assert!(!poll(&mut second), "the permit belongs to the first in line");
        assert!(!poll(&mut permits.acquire()), "a newcomer queues behind");
        assert!(poll(&mut first));
        assert!(!poll(&mut second));
        permits.release();
        assert!(poll(&mut second));
    }

    #[test]
    fn a_waiter_that_gives_up_passes_its_wake_on() {
        let permits = Permits::new(1);
        assert!(poll(&mut permits.acquire()));
        let mut first = permits.acquire();
        assert!(!poll(&mut first));
        let wakes = Arc::new(Wakes(AtomicUsize::new(0)));
        let waker = Waker::from(wakes.clone());
        let mut second = permits.acquire();
        assert!(Pin::new(&mut second).poll(&mut Context::from_waker(&waker)).is_pending());
        permits.release();
        drop(first);
        assert_eq!(wakes.0.load(Ordering::Relaxed), 1);
        assert!(poll(&mut second));
    }
}
