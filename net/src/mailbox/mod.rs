//! Calls between the cores of one node, bounded and without locks.
//!
//! ```text
//!        core 0                                            core 1
//!   ask ─▶ Outbox to 1 ─▶ ring of MAILBOX_CALLS_MAX ─▶ Inbox ─▶ its service
//!    ▲      room, or wait in line                        │
//!    └───────────────── oneshot ◀────────────────────────┘
//! ```
//!
//! Between each ordered pair of cores lies one single-producer, single-consumer ring of closures. They run on the core
//! that owns the service, one task at a time, so the service needs no lock; only what is `Send` crosses.
//!
//! Invariants:
//! * A call is *under way* from its push until it has run, whether or not somebody still waits for its answer. At most
//!   [`MAILBOX_CALLS_MAX`] calls of a pair are, so a push finds a free place and
//!   callers beyond wait: that is the back-pressure. They wait in line, first come first served; the line is made of the
//!   callers themselves.
//! * The calls of a pair begin in the order in which they were pushed. Different pairs take turns.
//! * A core answers a bounded number of calls, then lets its other tasks run.
//! * Dropping a caller before its push takes it out of the line. Dropped later, it only misses the answer: the call runs
//!   on the other core all the same, and its room returns when it has.
//! * No time and no randomness: under a deterministic executor the same schedule gives the same calls.
//!
//! Rules for callers:
//! * A call that serves another core holds its room until it returns. It must not wait, even through others, for room in
//!   the same direction of the same pair, or a full mailbox waits for itself; and it must not wait for the outside world
//!   (a long poll, a slow client), or it takes room from those who would be quick.
//! * A call to the own core runs within its caller, and ends with it.
//!
//! When a core goes: a closure that panics takes its core down, for no executor of ours catches panics, and
//! [`run_cores`](crate::run_cores) then ends the process; under the simulator the whole run fails. A call to a core that
//! no longer answers panics rather than waits for ever; the first message is the cause. `run_cores` keeps every core answering until the last has
//! finished, so an orderly end never meets this.
//!
//! Who owns what: a started inbox is a task that owns the service; a service may own a [`Cores`], which refers back to
//! it only weakly. So all memory goes with the tasks and the handles, in whatever order they are dropped.

mod inbox;
mod outbox;
#[cfg(test)]
mod tests;

use std::cell::{Cell, OnceCell};
use std::future::Future;
use std::rc::{Rc, Weak};
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use futures_channel::oneshot;
use futures_util::task::AtomicWaker;
use proto::CoreId;
use proto::limits::MAILBOX_CALLS_MAX;
use proto::port::runtime::spawn;
use rtrb::RingBuffer;

use inbox::Inbox;
use outbox::Outbox;

/// What travels: runs on the owner of the service and answers by itself.
type Call<S> = Box<dyn FnOnce(&Rc<S>) + Send>;

/// What wakes the inbox of one core.
#[derive(Default)]
struct Bell {
    inbox: AtomicWaker,
    /// The inbox was dropped: nobody will answer.
    gone: AtomicBool,
}

/// One core's ends of all its mailboxes; send it to the core's thread and open it there.
pub struct MailboxEnd<S: 'static> {
    me: CoreId,
    /// By target; none to itself.
    outboxes: Vec<Option<Outbox<S>>>,
    inbox: Inbox<S>,
}

/// Returns the ends of the mailboxes between `cores` cores; the end at index i is for core i.
///
/// Memory: 16 bytes × [`MAILBOX_CALLS_MAX`] for each ordered pair.
///
/// # Panics
/// If `cores` is 0 or above 65,535.
#[must_use]
pub fn mailboxes<S: 'static>(cores: usize) -> Vec<MailboxEnd<S>> {
    let count = u16::try_from(cores).expect("invariant: a core's number has 16 bits");
    assert!(count > 0, "invariant: a node has a core");
    let bells: Vec<Arc<Bell>> = (0..cores).map(|_| Arc::default()).collect();
    let mut ends: Vec<MailboxEnd<S>> = bells
        .iter()
        .zip(0..count)
        .map(|(bell, number)| MailboxEnd {
            me: CoreId(number),
            outboxes: Vec::with_capacity(cores),
            inbox: Inbox::new(bell.clone()),
        })
        .collect();
    for from in 0..cores {
        for (to, bell) in bells.iter().enumerate() {
            let outbox = (from != to).then(|| {
                let (producer, consumer) = RingBuffer::new(MAILBOX_CALLS_MAX);
                ends[to].inbox.add(consumer);
                Outbox::new(producer, bell.clone())
            });
            ends[from].outboxes.push(outbox);
        }
    }
    ends
}

impl<S: 'static> MailboxEnd<S> {
    /// The core whose end this is.
    #[must_use]
    pub fn me(&self) -> CoreId {
        self.me
    }

    /// Takes the end over on this thread. Calls may leave from now on, and are answered after [`Cores::start`].
    #[must_use]
    pub fn open(self) -> Cores<S> {
        let MailboxEnd { me, outboxes, inbox } = self;
        Cores(Rc::new(Inner { me, outboxes, inbox: Cell::new(Some(inbox)), service: OnceCell::new() }))
    }
}

/// The cores of this node, as one of them sees them. Cheap to clone.
pub struct Cores<S: 'static>(Rc<Inner<S>>);

struct Inner<S: 'static> {
    me: CoreId,
    outboxes: Vec<Option<Outbox<S>>>,
    /// Until it is started.
    inbox: Cell<Option<Inbox<S>>>,
    /// Weak, because the service may own its `Cores`.
    service: OnceCell<Weak<S>>,
}

impl<S: 'static> Clone for Cores<S> {
    fn clone(&self) -> Self {
        Cores(self.0.clone())
    }
}

impl<S: 'static> Cores<S> {
    /// Starts to answer with `service`, in a task of this core's runtime. Calls that came before are answered first.
    ///
    /// The task owns `service`, and runs until the runtime is dropped.
    ///
    /// # Panics
    /// If it was started before.
    pub fn start(&self, service: Rc<S>) {
        let inbox = self.0.inbox.take().expect("invariant: a core starts to answer once");
        assert!(self.0.service.set(Rc::downgrade(&service)).is_ok(), "invariant: a core has one service");
        spawn(inbox.answer(service));
    }

    /// This core.
    #[must_use]
    pub fn me(&self) -> CoreId {
        self.0.me
    }

    /// Cores of this node, this one included.
    #[must_use]
    pub fn count(&self) -> usize {
        self.0.outboxes.len()
    }

    /// The most calls from this core to another that were under way at once; at most [`MAILBOX_CALLS_MAX`].
    #[must_use]
    pub fn calls_underway_max(&self) -> u64 {
        self.0.outboxes.iter().flatten().map(Outbox::underway_max).max().unwrap_or(0)
    }

    /// Runs `f` on core `to` and returns what it returned; it should take microseconds, for it delays all that `to` does.
    ///
    /// On the own core `f` runs at once.
    ///
    /// # Panics
    /// If there is no core `to`, it no longer answers, or it is this one and was not started.
    pub async fn ask<T, F>(&self, to: CoreId, f: F) -> T
    where
        T: Send + 'static,
        F: FnOnce(&S) -> T + Send + 'static,
    {
        let Some(outbox) = self.outbox(to) else { return f(&self.own_service()) };
        outbox.room().await;
        let (reply, answer) = oneshot::channel();
        let underway = outbox.underway();
        outbox.push(Box::new(move |service: &Rc<S>| {
            let output = f(service);
            // Before the answer, so that whoever has it finds the room.
            drop(underway);
            // The caller may have stopped waiting.
            let _ = reply.send(output);
        }));
        answered(to, answer.await)
    }

    /// Runs what `f` returns as a task of core `to`, and returns its output.
    ///
    /// On the own core it runs within the caller. Elsewhere it goes on if the caller is dropped.
    ///
    /// # Panics
    /// If there is no core `to`, it no longer answers, or it is this one and was not started.
    pub async fn call<T, F, Fut>(&self, to: CoreId, f: F) -> T
    where
        T: Send + 'static,
        F: FnOnce(Rc<S>) -> Fut + Send + 'static,
        Fut: Future<Output = T> + 'static,
    {
        let Some(outbox) = self.outbox(to) else { return f(self.own_service()).await };
        outbox.room().await;
        let (reply, answer) = oneshot::channel();
        let underway = outbox.underway();
        outbox.push(Box::new(move |service: &Rc<S>| {
            let work = f(service.clone());
            spawn(async move {
                let output = work.await;
                drop(underway);
                let _ = reply.send(output);
            });
        }));
        answered(to, answer.await)
    }

    /// The way to `to`; none to this core itself.
    fn outbox(&self, to: CoreId) -> Option<&Outbox<S>> {
        let count = self.count();
        let outbox = self.0.outboxes.get(usize::from(to.0));
        outbox.unwrap_or_else(|| panic!("invariant: core {to} is one of {count}")).as_ref()
    }

    fn own_service(&self) -> Rc<S> {
        let service = self.0.service.get().expect("invariant: a core calls itself after it was started");
        service.upgrade().expect("invariant: a core that runs has its service")
    }
}

fn answered<T>(by: CoreId, answer: Result<T, oneshot::Canceled>) -> T {
    answer.unwrap_or_else(|_| panic!("invariant: core {by} answers until all cores have finished"))
}
