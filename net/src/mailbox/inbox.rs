//! The receiving end of all mailboxes of one core: one task that runs what arrives.

use std::future::poll_fn;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{Ordering, fence};
use std::task::{Context, Poll};

use proto::limits::MAILBOX_BATCH_CALLS_MAX;
use proto::port::runtime::yield_now;
use rtrb::Consumer;

use super::{Bell, Call};

/// The rings from all other cores to this one.
pub(super) struct Inbox<S: 'static> {
    rings: Vec<Consumer<Call<S>>>,
    /// The ring whose turn it is.
    turn: usize,
    bell: Arc<Bell>,
}

impl<S: 'static> Inbox<S> {
    pub(super) fn new(bell: Arc<Bell>) -> Inbox<S> {
        Inbox { rings: Vec::new(), turn: 0, bell }
    }

    pub(super) fn add(&mut self, ring: Consumer<Call<S>>) {
        self.rings.push(ring);
    }

    /// Runs all calls that arrive, for ever.
    pub(super) async fn answer(mut self, service: Rc<S>) {
        loop {
            poll_fn(|cx| self.poll_batch(&service, cx)).await;
            yield_now().await;
        }
    }

    /// Completes when it has run as many calls as one turn allows; waits when there are none.
    fn poll_batch(&mut self, service: &Rc<S>, cx: &mut Context<'_>) -> Poll<()> {
        for _ in 0..MAILBOX_BATCH_CALLS_MAX {
            let call = self.next().or_else(|| {
                // A call may have arrived before the bell was set; one more look finds it.
                self.bell.inbox.register(cx.waker());
                self.next()
            });
            match call {
                Some(call) => call(service),
                None => return Poll::Pending,
            }
        }
        Poll::Ready(())
    }

    /// The next call, from the rings in turn.
    fn next(&mut self) -> Option<Call<S>> {
        for _ in 0..self.rings.len() {
            let turn = self.turn;
            self.turn = (turn + 1) % self.rings.len();
            if let Ok(call) = self.rings[turn].pop() {
                return Some(call);
            }
        }
        None
    }
}

impl<S: 'static> Drop for Inbox<S> {
    fn drop(&mut self) {
        self.bell.gone.store(true, Ordering::Relaxed);
        // Pairs with the fence of a push.
        fence(Ordering::SeqCst);
        // Their callers learn that nobody will answer.
        while let Some(call) = self.next() {
            drop(call);
        }
    }
}
