//! Calls between peers over any [`Wire`]: a request, and one answer or a reason why there is none.
//!
//! ```text
//!        caller                                                        server
//!   call ─▶ slot, number ─▶ request ───── lost, late, twice ─────▶ new?  execute ─▶ keep the answer ─┐
//!     ▲        │ no answer for a while: the same request again ──▶ seen? the answer that was kept ───┤
//!     └── matched by slot, number and the server's start ◀───────────────── answer ◀─────────────────┘
//! ```
//!
//! Invariants:
//! * Every call ends, at the latest when its caller's patience does: so is a peer noticed that is half open or gone.
//! * A call has a slot, at most [`RPC_SLOTS`] of a peer are taken, and a slot's calls have rising numbers. So both sides
//!   know what is new, repeated or late with one entry per slot. (The sessions of NFSv4.1, RFC 8881 section 2.10.6.)
//! * A request names the start of the server that it is for, and another start refuses it. So a call is executed at
//!   most once, also when the server restarts between two tries: the caller is then told [`CallError::Restarted`].
//!   The bound to this is [`RPC_CLIENTS_MAX`](proto::limits::RPC_CLIENTS_MAX): of a caller that a server had to forget,
//!   a late repetition counts as new.
//! * Nothing grows with what peers do: slots, the line for them, answers kept, calls executed have named maxima.
//!
//! *Exactly once is the caller's business.* A call that ended without an answer may have been executed, which
//! [`CallError::fate`] tells. Whoever calls again makes a new call, and must name what it asks for by a key of its own
//! that the service knows again, such as the sessions of `meta`, or ask for what may happen twice.
//!
//! Time and chance come from `proto::port::runtime`, so the same code runs under the simulator.

mod caller;
mod error;
mod frame;
mod server;

use std::cell::{Cell, RefCell};
use std::future::Future;
use std::pin::pin;
use std::rc::Rc;
use std::time::Duration;

use bytes::Bytes;
use futures_channel::oneshot;
use futures_util::future::{Either, select};
use proto::limits::{RPC_RETRY_MS_MAX, RPC_RETRY_MS_MIN, RPC_SLOTS};
use proto::port::runtime::{monotonic, random, sleep, spawn, yield_now};
use proto::port::{LocalFuture, Peer, PeerId, Received, SendError, Wire};

use self::caller::{Callers, Lease, News};
pub use self::error::{CallError, Fate};
pub use self::frame::RPC_BODY_BYTES_MAX;
use self::frame::{CallNumber, Content, Frame, Refusal};
use self::server::{Server, Verdict};

/// Messages that are taken before other tasks have their turn.
const RECEIVE_BATCH: usize = 32;

/// What happened at one end since it was opened.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct EndpointCounts {
    /// Calls that were made.
    pub calls: u64,
    /// Requests that were sent again.
    pub retries: u64,
    /// Messages that the wire did not take.
    pub unsent: u64,
    /// Calls that were executed for others.
    pub executed: u64,
    /// Requests that were answered from memory.
    pub repeated: u64,
    /// Requests and answers for which nobody waited any more.
    pub late: u64,
    /// Requests that were refused.
    pub refused: u64,
    /// Messages that were no frames.
    pub damaged: u64,
}

/// What a server does with a request: the peer, the request, and the answer in time.
type Service = Box<dyn Fn(Peer, Bytes) -> LocalFuture<Bytes>>;

/// One end of a wire, for calls in both directions. Cheap to clone.
pub struct Endpoint<W: Wire>(Rc<Inner<W>>);

struct Inner<W: Wire> {
    wire: W,
    callers: Rc<Callers>,
    server: RefCell<Server>,
    service: Option<Service>,
    /// Who waits for the last call that is executed.
    closing: RefCell<Vec<oneshot::Sender<()>>>,
    counts: Cell<EndpointCounts>,
}

impl<W: Wire> Clone for Endpoint<W> {
    fn clone(&self) -> Self {
        Endpoint(self.0.clone())
    }
}

impl<W: Wire> Endpoint<W> {
    /// Opens an end that calls others and refuses to be called. A task receives until the runtime ends.
    #[must_use]
    pub fn open(wire: W) -> Endpoint<W> {
        Self::start(wire, None)
    }

    /// Opens an end that calls others and answers calls with `service`, each in a task of its own.
    ///
    /// An answer has at most [`RPC_BODY_BYTES_MAX`] bytes; a longer one panics.
    #[must_use]
    pub fn serve<F: Future<Output = Bytes> + 'static>(
        wire: W,
        service: impl Fn(Peer, Bytes) -> F + 'static,
    ) -> Endpoint<W> {
        Self::start(wire, Some(Box::new(move |from, request| Box::pin(service(from, request)))))
    }

    fn start(wire: W, service: Option<Service>) -> Endpoint<W> {
        let endpoint = Endpoint(Rc::new(Inner {
            wire,
            callers: Rc::default(),
            server: RefCell::default(),
            service,
            closing: RefCell::default(),
            counts: Cell::default(),
        }));
        spawn(endpoint.clone().receive());
        endpoint
    }

    /// Calls `to` and waits for the answer, at most for `patience`.
    ///
    /// Dropping the returned future ends the call as its deadline would; it may be executed all the same.
    /// Errors: [`CallError`].
    pub async fn call(&self, to: PeerId, request: Bytes, patience: Duration) -> Result<Bytes, CallError> {
        if request.len() > RPC_BODY_BYTES_MAX {
            return Err(CallError::TooLong { bytes: request.len() });
        }
        self.count(|counts| counts.calls += 1);
        let deadline = monotonic() + patience;
        let lease = match select(pin!(self.0.callers.lease(to)), sleep(patience)).await {
            Either::Left((lease, _)) => lease.ok_or(CallError::Busy { to })?,
            Either::Right(_) => return Err(CallError::NoAnswer { to, fate: Fate::NotExecuted }),
        };
        self.converse(to, &lease, request, deadline).await
    }

    /// Asks until there is an answer, a reason why there will be none, or no more time.
    async fn converse(
        &self,
        to: PeerId,
        lease: &Lease,
        request: Bytes,
        deadline: Duration,
    ) -> Result<Bytes, CallError> {
        let waiting = &lease.waiting;
        let mut pause_ms = RPC_RETRY_MS_MIN;
        // Laid out once it is known whom the request is for, and sent again as it is.
        let mut laid_out: Option<Bytes> = None;
        loop {
            if laid_out.is_none()
                && let Some(incarnation) = self.0.callers.incarnation(to)
            {
                let content = Content::Request(request.clone());
                laid_out = Some(Frame { to: Some(incarnation), call: lease.call, content }.encode());
                waiting.set_sent_to(incarnation);
            }
            let hello = || Frame { to: None, call: lease.call, content: Content::Hello }.encode();
            match self.0.wire.send(to, laid_out.clone().unwrap_or_else(hello)) {
                Ok(()) => {}
                Err(SendError::QueueFull { .. }) => self.count(|counts| counts.unsent += 1),
                Err(SendError::UnknownPeer { .. }) => return Err(CallError::UnknownPeer { to }),
                Err(error @ SendError::TooLong { .. }) => unreachable!("invariant: the length was checked: {error}"),
            }
            let retry_at = monotonic() + jittered(pause_ms);
            pause_ms = (pause_ms * 2).min(RPC_RETRY_MS_MAX);
            loop {
                let until = retry_at.min(deadline);
                let pause = sleep(until.saturating_sub(monotonic()));
                let Either::Left((news, _)) = select(pin!(waiting.next()), pause).await else { break };
                match news {
                    News::Answer(answer) => return Ok(answer),
                    News::Refused(Refusal::Forgotten) => return Err(CallError::Forgotten { to }),
                    // Not executed; the next try may find room.
                    News::Refused(Refusal::Busy) => {}
                    News::Refused(Refusal::NotMe) | News::Restarted => match waiting.sent_to() {
                        Some(asked) if self.0.callers.incarnation(to) > Some(asked) => {
                            return Err(CallError::Restarted { to });
                        }
                        Some(_) => {}
                        // Now it is known whom to ask.
                        None => break,
                    },
                }
            }
            if monotonic() >= deadline {
                let fate = if waiting.sent_to().is_some() { Fate::Unknown } else { Fate::NotExecuted };
                return Err(CallError::NoAnswer { to, fate });
            }
            if laid_out.is_some() {
                self.count(|counts| counts.retries += 1);
            }
        }
    }

    /// Executes no further call, and waits until those that have begun are answered.
    pub async fn close(&self) {
        self.0.server.borrow_mut().close();
        while self.0.server.borrow().executing() > 0 {
            let (done, wait) = oneshot::channel();
            self.0.closing.borrow_mut().push(done);
            // Woken, or the end is gone.
            let _ = wait.await;
        }
    }

    /// What happened so far.
    #[must_use]
    pub fn counts(&self) -> EndpointCounts {
        self.0.counts.get()
    }

    async fn receive(self) {
        loop {
            for _ in 0..RECEIVE_BATCH {
                let received = self.0.wire.receive().await;
                self.take(received);
            }
            yield_now().await;
        }
    }

    fn take(&self, received: Received) {
        let Received { from, message } = received;
        let Ok(Frame { to, call, content }) = Frame::decode(&message) else {
            return self.count(|counts| counts.damaged += 1);
        };
        self.0.callers.heard(from);
        let for_me = to == Some(self.0.wire.me().incarnation);
        let told = match content {
            Content::Hello => return self.refuse(from, call, Refusal::NotMe),
            Content::Request(_) if !for_me => return self.refuse(from, call, Refusal::NotMe),
            Content::Request(request) => return self.request(from, call, request),
            // For an earlier start of this end.
            Content::Answer(_) | Content::Refused(_) if !for_me => false,
            Content::Answer(answer) => self.0.callers.tell(from, call, News::Answer(answer)),
            Content::Refused(refusal) => self.0.callers.tell(from, call, News::Refused(refusal)),
        };
        if !told {
            self.count(|counts| counts.late += 1);
        }
    }

    fn request(&self, from: Peer, call: CallNumber, request: Bytes) {
        let Some(service) = &self.0.service else { return self.refuse(from, call, Refusal::Busy) };
        let verdict = self.0.server.borrow_mut().take(from, call);
        match verdict {
            Verdict::Execute => {
                self.count(|counts| counts.executed += 1);
                let (endpoint, work) = (self.clone(), service(from, request));
                spawn(async move { endpoint.finish(from, call, work.await) });
            }
            Verdict::Repeat(frame) => {
                self.count(|counts| counts.repeated += 1);
                self.send(from, frame);
            }
            Verdict::Refuse(refusal) => self.refuse(from, call, refusal),
            Verdict::Underway => self.count(|counts| counts.repeated += 1),
            Verdict::Late => self.count(|counts| counts.late += 1),
        }
    }

    fn finish(&self, from: Peer, call: CallNumber, answer: Bytes) {
        let frame = Frame { to: Some(from.incarnation), call, content: Content::Answer(answer) }.encode();
        let awaited = self.0.server.borrow_mut().finish(from, call, frame.clone());
        if awaited {
            self.send(from, frame);
        } else {
            self.count(|counts| counts.late += 1);
        }
        if self.0.server.borrow().executing() == 0 {
            for done in self.0.closing.take() {
                // Whoever closes may have stopped waiting.
                let _ = done.send(());
            }
        }
    }

    fn refuse(&self, from: Peer, call: CallNumber, refusal: Refusal) {
        self.count(|counts| counts.refused += 1);
        self.send(from, Frame { to: Some(from.incarnation), call, content: Content::Refused(refusal) }.encode());
    }

    /// Sends what the peer will ask for again if it does not arrive.
    fn send(&self, to: Peer, frame: Bytes) {
        if self.0.wire.send(to.id, frame).is_err() {
            self.count(|counts| counts.unsent += 1);
        }
    }

    fn count(&self, change: impl FnOnce(&mut EndpointCounts)) {
        let mut counts = self.0.counts.get();
        change(&mut counts);
        self.0.counts.set(counts);
    }
}

/// A pause of half of `pause_ms` to all of it, so that callers who lost the same peer do not come back together.
fn jittered(pause_ms: u64) -> Duration {
    let half_us = pause_ms * 500;
    Duration::from_micros(half_us + u64::from_le_bytes(random()) % (half_us + 1))
}

const _: () = assert!(RPC_SLOTS <= u16::MAX as usize, "a slot's number has 16 bits");
