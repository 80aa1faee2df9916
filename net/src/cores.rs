//! The cores of one node: a thread each, which begin together and end together.
//!
//! ```text
//!   set up every core ─▶ mains run ─▶ the last main ended, or one failed ─▶ all threads end
//!     one cannot: none begins          a core that is done goes on answering its mailbox
//! ```
//!
//! Invariants:
//! * No main begins before every core has its thread, its CPU and its executor.
//! * A core answers calls until the mains of all cores have ended, so the order in which they end does not matter.
//! * A core that fails ends the others where they stand, as a crash would, and its error is returned.
//! * A core that panics ends the process at once, in every build: the others would wait for its answers.
//! * What is still pending at the end is left to the kernel, not dropped. A task's last reference may be a waker that
//!   another core holds, and a task must not be dropped on a foreign thread.

use std::future::poll_fn;
use std::mem::ManuallyDrop;
use std::pin::pin;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::mpsc;
use std::task::Poll;
use std::thread;

use futures_util::future::{Either, select};
use futures_util::task::AtomicWaker;
use proto::CoreId;
use proto::port::runtime::yield_now;

use crate::mailbox::{Cores, MailboxEnd, mailboxes};
use crate::runtime::{Executor, RunError};

/// Stack of a core's thread, as much as the first thread of a process usually has.
const STACK_BYTES: usize = 8 << 20;

/// Runs `main` on as many cores as there are `inputs`, each with its input and its view of the others, until all have
/// ended. Core 0 is the calling thread; each core is pinned to the CPU given with its input, if any.
///
/// Returns the outputs by core. If a core's `main` returns an error, the mains of the others are dropped where they
/// stand, and that error is returned. If a core panics, the process aborts.
///
/// A main calls [`Cores::start`] before others can have answers from it. Its spawned tasks run on until all mains have
/// ended and are not dropped then, so the process should end soon after.
///
/// # Errors
/// [`RunError`] names the setting to change; no `main` has begun.
///
/// # Panics
/// If there are no `inputs`, or inside another executor.
pub fn run_cores<S, I, T, E>(
    inputs: Vec<(Option<usize>, I)>,
    main: impl AsyncFn(Cores<S>, I) -> Result<T, E> + Sync,
) -> Result<Result<Vec<T>, E>, RunError>
where
    S: 'static,
    I: Send,
    T: Send,
    E: Send,
{
    let ending = Ending::new(inputs.len());
    let (main, ending) = (&main, &ending);
    let mut parts = mailboxes(inputs.len()).into_iter().zip(inputs);
    let (first_end, (first_cpu, first_input)) = parts.next().expect("invariant: a node has a core");
    thread::scope(|scope| {
        let (ready, all_ready) = mpsc::channel();
        let mut begin = Vec::new();
        let mut threads = Vec::new();
        for (end, (cpu, input)) in parts {
            let core = end.me();
            let (begins, may_begin) = mpsc::channel::<()>();
            let ready = ready.clone();
            let run = move || {
                let (set_up, executor) = match Executor::new(cpu) {
                    Ok(executor) => (Ok(()), Some(executor)),
                    Err(error) => (Err(error), None),
                };
                let _ = ready.send(set_up);
                // Nobody sends if a core could not be set up.
                may_begin.recv().ok()?;
                run_core(executor?, end, input, main, ending)
            };
            let builder = thread::Builder::new().name(format!("core-{core}")).stack_size(STACK_BYTES);
            threads.push(builder.spawn_scoped(scope, run).map_err(|source| RunError::Thread { core, source })?);
            begin.push(begins);
        }
        drop(ready);
        let executor = Executor::new(first_cpu)?;
        for _ in &threads {
            all_ready.recv().expect("invariant: every core reports")?;
        }
        for begins in begin {
            begins.send(()).expect("invariant: a core that was set up waits to begin");
        }
        let first = run_core(executor, first_end, first_input, main, ending);
        let others = threads.into_iter().map(|thread| thread.join().expect("invariant: a panic ends the process"));
        // All are joined before an error is picked out.
        let outputs: Vec<Option<Result<T, E>>> = std::iter::once(first).chain(others).collect();
        if ending.failed.load(Ordering::Relaxed) {
            let error = outputs.into_iter().flatten().find_map(Result::err);
            return Ok(Err(error.expect("invariant: the core that failed has an error")));
        }
        Ok(outputs.into_iter().map(|output| output.expect("invariant: no core failed, so none was stopped")).collect())
    })
}

/// Runs one core to the end of all; `None` if another core's failure stopped it.
fn run_core<S, I, T, E>(
    mut executor: Executor,
    end: MailboxEnd<S>,
    input: I,
    main: &impl AsyncFn(Cores<S>, I) -> Result<T, E>,
    ending: &Ending,
) -> Option<Result<T, E>>
where
    S: 'static,
{
    let me = end.me();
    // Never dropped: an inbox that main did not start is as pending as one that it did.
    let cores = ManuallyDrop::new(end.open());
    let _guard = PanicGuard(me);
    let output = executor.block_on(async {
        let output = match select(pin!(main(Cores::clone(&cores), input)), pin!(ending.failure(me))).await {
            Either::Left((output, _)) => Some(output),
            Either::Right(((), _)) => None,
        };
        ending.end_main(matches!(output, Some(Err(_))));
        ending.all_mains(me).await;
        // The kernel closes what main closed.
        yield_now().await;
        output
    });
    executor.abandon();
    output
}

/// What the cores tell each other about their end.
struct Ending {
    mains: AtomicUsize,
    failed: AtomicBool,
    cores: Vec<AtomicWaker>,
}

impl Ending {
    fn new(cores: usize) -> Ending {
        let wakers = (0..cores).map(|_| AtomicWaker::new()).collect();
        Ending { mains: AtomicUsize::new(cores), failed: AtomicBool::new(false), cores: wakers }
    }

    fn end_main(&self, failed: bool) {
        if failed {
            self.failed.store(true, Ordering::Relaxed);
        }
        let was_last = self.mains.fetch_sub(1, Ordering::Relaxed) == 1;
        if failed || was_last {
            // Waking publishes what was stored before.
            self.cores.iter().for_each(AtomicWaker::wake);
        }
    }

    /// Completes when a core failed.
    async fn failure(&self, me: CoreId) {
        self.until(me, || self.failed.load(Ordering::Relaxed)).await;
    }

    /// Completes when the mains of all cores have ended.
    async fn all_mains(&self, me: CoreId) {
        self.until(me, || self.mains.load(Ordering::Relaxed) == 0).await;
    }

    /// One waker for each core is enough: only its main task waits here.
    async fn until(&self, me: CoreId, done: impl Fn() -> bool) {
        poll_fn(|cx| {
            self.cores[usize::from(me.0)].register(cx.waker());
            if done() { Poll::Ready(()) } else { Poll::Pending }
        })
        .await;
    }
}

/// Ends the process when its core panics, before the core's executor is dropped.
struct PanicGuard(CoreId);

impl Drop for PanicGuard {
    fn drop(&mut self) {
        if thread::panicking() {
            eprintln!("fatal: core {} panicked, and the others cannot do without it", self.0);
            std::process::abort();
        }
    }
}
