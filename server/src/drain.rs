//! Stopping: first no new work, then no work at all.
//!
//! ```text
//!   serving ──drain()──▶ draining ──cut()──▶ cut
//!                        connections finish   connections are dropped
//!                        what they began      where they are
//! ```

use std::cell::{Cell, RefCell};
use std::future::Future;
use std::rc::Rc;

use futures_channel::oneshot;
use futures_util::FutureExt;
use futures_util::future::Shared;

/// A moment that comes once. Waiting for it is cheap to clone.
pub(crate) struct Moment {
    /// `None` once it has come.
    sender: RefCell<Option<oneshot::Sender<()>>>,
    receiver: Shared<oneshot::Receiver<()>>,
}

impl Default for Moment {
    fn default() -> Self {
        let (sender, receiver) = oneshot::channel();
        Moment { sender: RefCell::new(Some(sender)), receiver: receiver.shared() }
    }
}

impl Moment {
    pub(crate) fn come(&self) {
        // Whoever waits wakes up also when the sender is merely dropped.
        self.sender.borrow_mut().take();
    }

    fn has_come(&self) -> bool {
        self.sender.borrow().is_none()
    }

    pub(crate) fn wait(&self) -> impl Future<Output = ()> + Unpin + use<> {
        self.receiver.clone().map(|_| ())
    }
}

#[derive(Default)]
struct State {
    draining: Moment,
    cut: Moment,
    connections: Cell<usize>,
    /// Waits for a connection to close.
    closing: RefCell<Option<oneshot::Sender<()>>>,
}

/// How far a core has stopped. Handles are cheap to clone.
#[derive(Clone, Default)]
pub struct Drain(Rc<State>);

/// An open connection; closed when dropped.
pub struct Open(Rc<State>);

impl Drain {
    /// A core that serves.
    #[must_use]
    pub fn new() -> Drain {
        Drain::default()
    }

    /// Lets connections finish what they began and take nothing more.
    pub fn drain(&self) {
        self.0.draining.come();
    }

    /// Drops connections where they are.
    pub fn cut(&self) {
        self.0.draining.come();
        self.0.cut.come();
    }

    /// Whether no new work is taken.
    #[must_use]
    pub fn is_draining(&self) -> bool {
        self.0.draining.has_come()
    }

    /// Completes once no new work is taken.
    pub fn draining(&self) -> impl Future<Output = ()> + Unpin + use<> {
        self.0.draining.wait()
    }

    /// Completes once connections are to be dropped.
    pub fn is_cut(&self) -> impl Future<Output = ()> + Unpin + use<> {
        self.0.cut.wait()
    }

    /// Counts a connection until it is dropped.
    #[must_use]
    pub fn open(&self) -> Open {
        self.0.connections.set(self.0.connections.get() + 1);
        Open(self.0.clone())
    }

    /// Open connections.
    #[must_use]
    pub fn connections(&self) -> usize {
        self.0.connections.get()
    }

    /// Completes once no more than `connections` are open. One caller at a time waits.
    pub async fn at_most(&self, connections: usize) {
        while self.connections() > connections {
            let (sender, receiver) = oneshot::channel();
            *self.0.closing.borrow_mut() = Some(sender);
            // An error means the same: the sender is gone.
            let _ = receiver.await;
        }
    }
}

impl Drop for Open {
    fn drop(&mut self) {
        self.0.connections.set(self.0.connections.get() - 1);
        self.0.closing.borrow_mut().take();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waiting_starts_before_or_after_the_moment() {
        let drain = Drain::new();
        let (mut before, mut cut) = (drain.draining(), drain.is_cut());
        assert!((&mut before).now_or_never().is_none() && !drain.is_draining());
        drain.drain();
        assert!(before.now_or_never().is_some() && drain.draining().now_or_never().is_some() && drain.is_draining());
        assert!((&mut cut).now_or_never().is_none());
        drain.cut();
        assert!(cut.now_or_never().is_some());
    }

    #[test]
    fn a_wait_ends_when_enough_connections_closed() {
        let drain = Drain::new();
        assert!(drain.at_most(0).now_or_never().is_some());
        let (one, two, three) = (drain.open(), drain.open(), drain.open());
        let mut one_left = Box::pin(drain.at_most(1));
        assert!((&mut one_left).now_or_never().is_none());
        drop(one);
        assert!((&mut one_left).now_or_never().is_none());
        drop(two);
        assert!(one_left.now_or_never().is_some());
        let mut none_left = Box::pin(drain.at_most(0));
        assert!((&mut none_left).now_or_never().is_none());
        drop(three);
        assert!(none_left.now_or_never().is_some());
    }
}
