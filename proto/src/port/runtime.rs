//! Time, randomness and tasks, through the thread's current runtime.
//!
//! A thread-local rather than a parameter because libraries with static runtime traits (openraft) must reach it too.
//! Production enters a runtime once per core thread; the simulator enters a fresh one for each seed.

use std::cell::RefCell;
use std::future::Future;
use std::pin::Pin;
use std::rc::Rc;
use std::time::Duration;

/// A boxed future that stays on its thread.
pub type LocalFuture<T> = Pin<Box<dyn Future<Output = T>>>;

/// Time.
pub trait Clock {
    /// Time since some fixed point of this process; never goes back.
    fn monotonic(&self) -> Duration;
    /// Time since the Unix epoch in nanoseconds; may jump.
    fn unix_ns(&self) -> u64;
    /// Completes after at least `duration`.
    fn sleep(&self, duration: Duration) -> LocalFuture<()>;
}

/// Randomness fit for keys.
pub trait Entropy {
    /// Fills `out` with unpredictable bytes.
    fn fill(&self, out: &mut [u8]);
}

/// Tasks on this thread.
pub trait Spawn {
    /// Runs `task` to its end, concurrently with its spawner.
    fn spawn(&self, task: LocalFuture<()>);
}

/// All that a thread needs to run our code.
pub trait Runtime: Clock + Entropy + Spawn {}
impl<T: Clock + Entropy + Spawn> Runtime for T {}

thread_local! {
    static CURRENT: RefCell<Option<Rc<dyn Runtime>>> = const { RefCell::new(None) };
}

/// Restores the thread's former runtime when dropped.
#[must_use = "the runtime is left when this guard is dropped"]
pub struct Entered(Option<Rc<dyn Runtime>>);

impl Drop for Entered {
    fn drop(&mut self) {
        CURRENT.with(|current| current.replace(self.0.take()));
    }
}

/// Makes `runtime` the current one of this thread until the guard is dropped.
pub fn enter(runtime: Rc<dyn Runtime>) -> Entered {
    Entered(CURRENT.with(|current| current.replace(Some(runtime))))
}

/// The thread's runtime.
///
/// # Panics
/// If none was entered: a thread that runs our code enters one first.
fn current() -> Rc<dyn Runtime> {
    CURRENT.with(|current| current.borrow().clone()).expect("invariant: this thread entered a runtime")
}

/// Time since some fixed point of this process; never goes back.
#[must_use]
pub fn monotonic() -> Duration {
    current().monotonic()
}

/// Time since the Unix epoch in nanoseconds; may jump.
#[must_use]
pub fn unix_ns() -> u64 {
    current().unix_ns()
}

/// Completes after at least `duration`.
pub fn sleep(duration: Duration) -> LocalFuture<()> {
    current().sleep(duration)
}

/// Lets every other ready task of this thread run, and wakes from other threads arrive.
///
/// A zero sleep rather than an immediate wake: a task that wakes itself never lets the executor look at its queues.
pub fn yield_now() -> LocalFuture<()> {
    sleep(Duration::ZERO)
}

/// Runs `task` to its end, concurrently with the caller.
pub fn spawn(task: impl Future<Output = ()> + 'static) {
    current().spawn(Box::pin(task));
}

/// Returns `N` unpredictable bytes.
#[must_use]
pub fn random<const N: usize>() -> [u8; N] {
    let mut out = [0; N];
    current().fill(&mut out);
    out
}
