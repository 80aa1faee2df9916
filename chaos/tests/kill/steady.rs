//! A client that lives through all kills: it repeats each request until it is answered.
//!
//! Because a repetition carries the sequence of the first attempt, every operation must succeed exactly once: a put
//! that were applied twice would skip a version, a rename or a removal would find nothing left to do.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use client::{Client, RetryPolicy};

use crate::actor::{Actor, send};
use crate::content::Random;

/// Outlasts every downtime of this test by far.
pub(crate) const PATIENCE: RetryPolicy =
    RetryPolicy { attempts_max: 400, backoff_min: Duration::from_millis(2), backoff_max: Duration::from_millis(100) };
/// How often it reads, per operation.
const READ_PERCENT: u64 = 25;

/// What it did.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Tally {
    pub(crate) operations: u64,
    /// Operations that were under way when the server was killed or stopped.
    pub(crate) across_kills: u64,
}

#[derive(Debug)]
struct State {
    actor: Actor,
    tally: Tally,
}

#[derive(Debug)]
struct Inner {
    /// Passed before each operation, so that whoever wants to see the state between two gets it.
    turnstile: Mutex<()>,
    state: Mutex<State>,
    stop: AtomicBool,
    kills: AtomicU64,
}

/// A patient client on its own thread; told to stop when dropped.
#[derive(Debug)]
pub(crate) struct Steady {
    inner: Arc<Inner>,
    thread: Option<JoinHandle<()>>,
}

/// The state while the client rests.
pub(crate) struct Resting<'a> {
    state: MutexGuard<'a, State>,
    _turnstile: MutexGuard<'a, ()>,
}

impl Resting<'_> {
    pub(crate) fn actor(&mut self) -> &mut Actor {
        &mut self.state.actor
    }
}

impl Steady {
    /// Starts. The client must have reached its server before, so that it takes a refused connection for a restart.
    pub(crate) fn start(name: &str, random: Random, client: Client) -> Steady {
        client.stats().expect("a server");
        let state = State { actor: Actor::new(name, random), tally: Tally::default() };
        let inner = Arc::new(Inner {
            turnstile: Mutex::new(()),
            state: Mutex::new(state),
            stop: AtomicBool::new(false),
            kills: AtomicU64::new(0),
        });
        let shared = inner.clone();
        let thread = std::thread::Builder::new().name(name.to_owned()).spawn(move || shared.run(&client));
        Steady { inner, thread: Some(thread.expect("a thread")) }
    }

    /// Tells it, for its tally, that the server goes away.
    pub(crate) fn kill(&self) {
        self.inner.kills.fetch_add(1, Ordering::Relaxed);
    }

    /// Waits for the operation under way, for which the server must be up, and holds the next one back.
    ///
    /// Panics if the client has failed.
    pub(crate) fn rest(&self) -> Resting<'_> {
        let turnstile = self.inner.turnstile.lock().unwrap_or_else(PoisonError::into_inner);
        let state = self.inner.state.lock().expect("the steady client has failed; see its message");
        Resting { state, _turnstile: turnstile }
    }

    /// Lets it end; the server must be up. Panics if the client has failed.
    pub(crate) fn finish(mut self) -> Tally {
        self.inner.stop.store(true, Ordering::Relaxed);
        let thread = self.thread.take().expect("invariant: joined once");
        thread.join().expect("the steady client has failed; see its message");
        self.rest().state.tally
    }
}

impl Drop for Steady {
    fn drop(&mut self) {
        self.inner.stop.store(true, Ordering::Relaxed);
    }
}

impl Inner {
    fn run(&self, client: &Client) {
        while !self.stop.load(Ordering::Relaxed) {
            drop(self.turnstile.lock());
            let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
            let kills = self.kills.load(Ordering::Relaxed);
            let operation = state.actor.choose();
            let answer = send(client, &operation).unwrap_or_else(|error| panic!("{operation:?}: {error:?}"));
            state.actor.acknowledge(&operation, answer.as_ref());
            state.tally.operations += 1;
            state.tally.across_kills += u64::from(self.kills.load(Ordering::Relaxed) != kills);
            if state.actor.random.percent(READ_PERCENT) {
                state.actor.read_something(client).unwrap_or_else(|error| panic!("a read: {error:?}"));
            }
        }
    }
}
