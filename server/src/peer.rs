//! What the cores of one server ask of each other.

use std::future::Future;

use crate::drain::{Drain, Moment};

/// One core, as the others see it.
#[derive(Default)]
pub struct Peer {
    drain: Drain,
    over: Moment,
}

impl Peer {
    /// A core that serves.
    #[must_use]
    pub fn new() -> Peer {
        Peer::default()
    }

    /// How far this core has stopped.
    #[must_use]
    pub fn drain(&self) -> &Drain {
        &self.drain
    }

    /// Lets the core's thread end: the node is closed.
    pub fn end(&self) {
        self.over.come();
    }

    /// Completes once the thread may end.
    pub fn over(&self) -> impl Future<Output = ()> + Unpin + use<> {
        self.over.wait()
    }
}
