//! A value that an event hands to a task.

use std::cell::RefCell;
use std::future::Future;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, Waker};

/// The task's end: completes once the event's end was given a value.
pub(crate) struct Completion<T>(Rc<Slot<T>>);

/// The event's end. Dropped without a value, the task waits for ever, as for an operation of a killed process.
pub(crate) struct Completer<T>(Rc<Slot<T>>);

struct Slot<T> {
    value: RefCell<Option<T>>,
    waker: RefCell<Option<Waker>>,
}

pub(crate) fn completion<T>() -> (Completer<T>, Completion<T>) {
    let slot = Rc::new(Slot { value: RefCell::new(None), waker: RefCell::new(None) });
    (Completer(slot.clone()), Completion(slot))
}

impl<T> Completer<T> {
    pub(crate) fn complete(self, value: T) {
        self.0.value.replace(Some(value));
        if let Some(waker) = self.0.waker.take() {
            waker.wake();
        }
    }
}

impl<T> Future for Completion<T> {
    type Output = T;

    fn poll(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<T> {
        if let Some(value) = self.0.value.take() {
            return Poll::Ready(value);
        }
        self.0.waker.replace(Some(context.waker().clone()));
        Poll::Pending
    }
}
