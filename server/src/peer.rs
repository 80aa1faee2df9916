//! One core of the server: what it counts and how far it has stopped. The cores ask each other for it.

use std::future::Future;
use std::ops::AddAssign;
use std::rc::Rc;

use proto::limits::{DOWNLOADS_INFLIGHT_MAX, UPLOADS_INFLIGHT_MAX};

use crate::admission::Admission;
use crate::drain::{Drain, Moment};
use crate::metrics::{Counts, Metrics};

/// One core, as the others see it.
pub struct Peer {
    pub(crate) drain: Drain,
    pub(crate) metrics: Rc<Metrics>,
    pub(crate) uploads: Admission,
    pub(crate) downloads: Admission,
    over: Moment,
}

/// How busy a core is, or several are.
#[derive(Clone, Default)]
pub(crate) struct Load {
    pub(crate) counts: Counts,
    pub(crate) connections: usize,
    pub(crate) uploads: Queue,
    pub(crate) downloads: Queue,
}

/// Requests of one kind.
#[derive(Clone, Copy, Default)]
pub(crate) struct Queue {
    pub(crate) served: usize,
    pub(crate) waiting: usize,
}

impl AddAssign for Queue {
    fn add_assign(&mut self, other: Queue) {
        self.served += other.served;
        self.waiting += other.waiting;
    }
}

impl AddAssign for Load {
    fn add_assign(&mut self, other: Load) {
        self.counts += other.counts;
        self.connections += other.connections;
        self.uploads += other.uploads;
        self.downloads += other.downloads;
    }
}

impl Default for Peer {
    fn default() -> Self {
        Peer {
            drain: Drain::new(),
            metrics: Rc::default(),
            uploads: Admission::new(UPLOADS_INFLIGHT_MAX),
            downloads: Admission::new(DOWNLOADS_INFLIGHT_MAX),
            over: Moment::default(),
        }
    }
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

    pub(crate) fn load(&self) -> Load {
        let queue = |of: &Admission| Queue { served: of.served(), waiting: of.waiting() };
        Load {
            counts: self.metrics.counts(),
            connections: self.drain.connections(),
            uploads: queue(&self.uploads),
            downloads: queue(&self.downloads),
        }
    }
}
