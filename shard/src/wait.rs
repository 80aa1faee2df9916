//! A list of tasks that wait for something to change, on one thread.

use std::cell::{Cell, RefCell};
use std::future::poll_fn;
use std::task::{Poll, Waker};

/// Wakes all waiters at each change; each looks at the state again for itself.
#[derive(Debug, Default)]
pub(crate) struct WaitList {
    wakers: RefCell<Vec<Waker>>,
}

impl WaitList {
    /// Wakes everybody who waits now.
    pub(crate) fn wake(&self) {
        for waker in self.wakers.take() {
            waker.wake();
        }
    }

    /// Completes once `ready` returns a value; `ready` is asked now and after each [`WaitList::wake`].
    pub(crate) async fn until<T>(&self, mut ready: impl FnMut() -> Option<T>) -> T {
        let registered = Cell::new(false);
        poll_fn(|context| match ready() {
            Some(value) => Poll::Ready(value),
            None => {
                self.wakers.borrow_mut().push(context.waker().clone());
                registered.set(true);
                Poll::Pending
            }
        })
        .await
    }
}
