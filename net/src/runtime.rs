//! The real runtime: one thread, one monoio executor, and the kernel's clocks and random numbers.
//!
//! Two habits of the executor shape this file:
//! * It reads wakes from other threads, and its timers, only when its queue of ready tasks is empty. A task that wakes
//!   itself keeps the queue filled and starves them. Yielding therefore waits for a descriptor that is always ready:
//!   the task leaves the queue and comes back after one look at the kernel, some microseconds later. A zero sleep of
//!   the executor's own would do as well, but its timers tick in milliseconds.
//! * Its timer keeps the waker of the first poll, so a sleep that is first polled by one task and then awaited by
//!   another would never wake the second. Ours is started anew when its waker changes.

use std::future::Future;
use std::io;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, Waker};
use std::time::{Duration, Instant, SystemTime};

use monoio::time::TimeDriver;
use monoio::{IoUringDriver, RuntimeBuilder};
use proto::CoreId;
use proto::port::runtime::{Clock, Entered, Entropy, LocalFuture, Spawn, enter};
use rustix::thread::CpuSet;

/// Entries of the executor's submission queue (sockets, wakes, timers). A full one is submitted early.
const QUEUE_ENTRIES: u32 = 1024;

/// Why a core could not start. Each message names the setting to change.
#[derive(Debug, thiserror::Error)]
pub enum RunError {
    /// The administrator switched io_uring off; switch it on.
    #[error(
        "io_uring is switched off by kernel.io_uring_disabled={value}: \
         set sysctl kernel.io_uring_disabled=0 (sysctl -w kernel.io_uring_disabled=0)"
    )]
    IoUringDisabled {
        /// 1: only for privileged processes and the group in `kernel.io_uring_group`; 2: for nobody.
        value: u32,
    },
    /// A sandbox refuses the system calls; allow them in its profile.
    #[error(
        "io_uring is forbidden for this process: its seccomp profile (the default one of container runtimes does so) \
         must allow io_uring_setup, io_uring_enter and io_uring_register, \
         for example with --security-opt seccomp=PROFILE.json"
    )]
    IoUringForbidden,
    /// The kernel has no io_uring; run a newer one.
    #[error("the kernel is too old: it lacks io_uring; Linux 5.11 or newer is needed")]
    KernelTooOld,
    /// The limit of locked memory is too low for the queues (recent kernels count them); raise it.
    #[error(
        "the limit of locked memory is too low for io_uring's queues: \
         set LimitMEMLOCK=infinity in the systemd unit, or raise `ulimit -l`"
    )]
    LockedMemory,
    /// The executor could not be set up for another reason, such as the limit of open files.
    #[error("the executor could not be set up: {source}")]
    Executor {
        /// The kernel's reason.
        source: io::Error,
    },
    /// The thread could not be pinned; choose a CPU that this process may use.
    #[error("the thread could not be pinned to CPU {cpu}: {source}")]
    Pin {
        /// The CPU asked for.
        cpu: usize,
        /// The kernel's reason.
        source: io::Error,
    },
    /// The limit of threads is too low; raise it.
    #[error(
        "the thread of core {core} could not be started: {source}; \
         raise TasksMax in the systemd unit, `ulimit -u`, or the container's limit of processes"
    )]
    Thread {
        /// The core that has no thread.
        core: CoreId,
        /// The kernel's reason.
        source: io::Error,
    },
}

/// Names the cause of a failed executor set-up from its error and the value of `kernel.io_uring_disabled`.
fn classify(source: io::Error, disabled: Option<u32>) -> RunError {
    match (source.raw_os_error(), disabled) {
        (Some(libc::EPERM), Some(value)) if value != 0 => RunError::IoUringDisabled { value },
        // A kernel that has the setting has io_uring: some sandboxes answer ENOSYS for calls they refuse.
        (Some(libc::EPERM | libc::EACCES), _) | (Some(libc::ENOSYS), Some(_)) => RunError::IoUringForbidden,
        (Some(libc::ENOSYS), None) => RunError::KernelTooOld,
        (Some(libc::ENOMEM), _) => RunError::LockedMemory,
        _ => RunError::Executor { source },
    }
}

fn diagnose(source: io::Error) -> RunError {
    let setting = std::fs::read_to_string("/proc/sys/kernel/io_uring_disabled").ok();
    classify(source, setting.and_then(|text| text.trim().parse().ok()))
}

/// Turns this thread into a core: pins it to `cpu`, enters a runtime, and runs `main` and all that it spawns until
/// `main` ends.
///
/// # Errors
/// [`RunError`] names the setting to change.
///
/// # Panics
/// Inside another executor.
pub fn run<F, T>(cpu: Option<usize>, main: F) -> Result<T, RunError>
where
    F: AsyncFnOnce() -> T,
{
    let mut executor = Executor::new(cpu)?;
    Ok(executor.block_on(main()))
}

/// A thread's executor, entered as its runtime.
pub(crate) struct Executor {
    // Dropped first: tasks that are dropped with it may still ask for the time.
    tasks: monoio::Runtime<TimeDriver<IoUringDriver>>,
    entered: Entered,
}

impl Executor {
    /// Pins this thread to `cpu`, if any, and makes it a core.
    pub(crate) fn new(cpu: Option<usize>) -> Result<Executor, RunError> {
        if let Some(cpu) = cpu {
            pin(cpu).map_err(|source| RunError::Pin { cpu, source })?;
        }
        let builder = RuntimeBuilder::<IoUringDriver>::new().with_entries(QUEUE_ENTRIES).enable_timer();
        let mut tasks = builder.build().map_err(diagnose)?;
        let runtime = tasks.block_on(async { MonoioRuntime::new() }).map_err(diagnose)?;
        Ok(Executor { tasks, entered: enter(Rc::new(runtime)) })
    }

    /// Runs `main`, and all that is spawned, until `main` ends.
    pub(crate) fn block_on<T>(&mut self, main: impl Future<Output = T>) -> T {
        self.tasks.block_on(main)
    }

    /// Leaves the runtime; tasks that are still pending are never dropped.
    pub(crate) fn abandon(self) {
        std::mem::forget(self.tasks);
        drop(self.entered);
    }
}

fn pin(cpu: usize) -> io::Result<()> {
    if cpu >= CpuSet::MAX_CPU {
        return Err(io::ErrorKind::InvalidInput.into());
    }
    let mut set = CpuSet::new();
    set.set(cpu);
    Ok(rustix::thread::sched_setaffinity(None, &set)?)
}

/// The CPUs that this thread may run on, ascending.
///
/// # Errors
/// The kernel's own.
pub fn cpus() -> io::Result<Vec<usize>> {
    let set = rustix::thread::sched_getaffinity(None)?;
    Ok((0..CpuSet::MAX_CPU).filter(|cpu| set.is_set(*cpu)).collect())
}

/// The kernel's clocks and random numbers, and tasks on the executor of this thread.
pub struct MonoioRuntime {
    start: Instant,
    /// One end of a socket pair whose other end is closed: always ready to read.
    ready: Rc<monoio::net::UnixStream>,
}

impl MonoioRuntime {
    /// Returns the runtime of this thread; call it on an executor with timers.
    ///
    /// # Errors
    /// The limit of open files.
    pub fn new() -> io::Result<MonoioRuntime> {
        let (ready, _) = std::os::unix::net::UnixStream::pair()?;
        Ok(MonoioRuntime { start: now(), ready: Rc::new(monoio::net::UnixStream::from_std(ready)?) })
    }
}

#[expect(clippy::disallowed_methods, reason = "this is what the clock port is bound to")]
fn now() -> Instant {
    Instant::now()
}

impl Clock for MonoioRuntime {
    fn monotonic(&self) -> Duration {
        now().duration_since(self.start)
    }

    fn unix_ns(&self) -> u64 {
        #[expect(clippy::disallowed_methods, reason = "this is what the clock port is bound to")]
        let now = SystemTime::now();
        // A clock before 1970 or after 2554 is not set; zero is as good a time as any.
        now.duration_since(SystemTime::UNIX_EPOCH).map_or(0, |since| u64::try_from(since.as_nanos()).unwrap_or(0))
    }

    fn sleep(&self, duration: Duration) -> LocalFuture<()> {
        if duration.is_zero() {
            let ready = self.ready.clone();
            return Box::pin(async move {
                // Whether ready or refused for want of memory, the others had their turn.
                let _ = ready.readable(true).await;
            });
        }
        Box::pin(Sleep { inner: Box::pin(monoio::time::sleep(duration)), waker: None })
    }
}

/// A sleep of the executor that may move between tasks.
struct Sleep {
    inner: Pin<Box<monoio::time::Sleep>>,
    waker: Option<Waker>,
}

impl Future for Sleep {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        if self.waker.as_ref().is_some_and(|waker| !waker.will_wake(cx.waker())) {
            let deadline = self.inner.deadline();
            self.inner = Box::pin(monoio::time::sleep_until(deadline));
        }
        self.waker = Some(cx.waker().clone());
        self.inner.as_mut().poll(cx)
    }
}

impl Entropy for MonoioRuntime {
    /// Aborts the process if the kernel gives no random numbers: keys made of anything else are worthless.
    fn fill(&self, out: &mut [u8]) {
        let mut filled = 0;
        while filled < out.len() {
            match rustix::rand::getrandom(&mut out[filled..], rustix::rand::GetRandomFlags::empty()) {
                Ok(bytes) => filled += bytes,
                Err(rustix::io::Errno::INTR) => {}
                Err(error) => {
                    eprintln!("fatal: the kernel gives no random numbers (getrandom: {error})");
                    std::process::abort();
                }
            }
        }
    }
}

impl Spawn for MonoioRuntime {
    fn spawn(&self, task: LocalFuture<()>) {
        // The handle only waits; dropping it leaves the task running.
        drop(monoio::spawn(task));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures_channel::oneshot;
    use futures_util::future::{Either, select};
    use futures_util::poll;
    use proto::port::runtime::{monotonic, random, sleep, spawn, unix_ns, yield_now};
    use std::cell::Cell;

    #[test]
    fn a_wake_from_another_thread_arrives_while_the_core_sleeps() {
        let (sender, receiver) = oneshot::channel();
        let (asleep, woken_by) = std::sync::mpsc::channel();
        std::thread::scope(|scope| {
            scope.spawn(move || {
                woken_by.recv().unwrap();
                sender.send(7).unwrap();
            });
            let got = run(None, async || {
                let mut receiver = receiver;
                assert!(poll!(&mut receiver).is_pending());
                asleep.send(()).unwrap();
                receiver.await.unwrap()
            });
            assert_eq!(got.unwrap(), 7);
        });
    }

    #[test]
    fn a_task_that_spins_with_yields_still_sees_wakes_from_other_threads_and_timers() {
        let (sender, receiver) = oneshot::channel();
        let (spinning, started) = std::sync::mpsc::channel();
        std::thread::scope(|scope| {
            scope.spawn(move || {
                started.recv().unwrap();
                sender.send(()).unwrap();
            });
            let spins = run(None, async || {
                let done = Rc::new(Cell::new(false));
                let spins = Rc::new(Cell::new(0_u64));
                for _ in 0..3 {
                    let (done, spins) = (done.clone(), spins.clone());
                    spawn(async move {
                        while !done.get() {
                            spins.set(spins.get() + 1);
                            yield_now().await;
                        }
                    });
                }
                yield_now().await;
                spinning.send(()).unwrap();
                receiver.await.unwrap();
                sleep(Duration::from_millis(3)).await;
                done.set(true);
                spins.get()
            });
            assert!(spins.unwrap() >= 3);
        });
    }

    #[test]
    fn a_yield_lets_every_ready_task_run_and_costs_no_timer_tick() {
        const YIELDS: u32 = 2000;
        run(None, async || {
            let ran = Rc::new(Cell::new(0));
            let start = monotonic();
            for round in 0..YIELDS {
                let ran = ran.clone();
                let counted = ran.clone();
                spawn(async move { counted.set(counted.get() + 1) });
                yield_now().await;
                assert_eq!(ran.get(), round + 1);
            }
            // A tick is a millisecond.
            let per_yield = (monotonic() - start) / YIELDS;
            assert!(per_yield < Duration::from_micros(500), "{per_yield:?} per yield");
        })
        .unwrap();
    }

    #[test]
    fn a_sleep_wakes_the_task_that_polled_it_last() {
        run(None, async || {
            let mut slept = sleep(Duration::from_millis(2));
            let mut noop = Context::from_waker(Waker::noop());
            assert!(slept.as_mut().poll(&mut noop).is_pending());
            let start = monotonic();
            let watchdog = sleep(Duration::from_secs(20));
            assert!(matches!(select(slept, watchdog).await, Either::Left(_)));
            assert!(monotonic() - start < Duration::from_secs(10));
        })
        .unwrap();
    }

    #[test]
    fn sleeps_last_at_least_as_long_as_asked() {
        run(None, async || {
            for ms in [1, 2, 5, 30] {
                let start = monotonic();
                sleep(Duration::from_millis(ms)).await;
                assert!(monotonic() - start >= Duration::from_millis(ms));
            }
        })
        .unwrap();
    }

    #[test]
    fn an_idle_core_uses_no_cpu() {
        run(None, async || {
            let cpu_ms = || {
                let time = rustix::time::clock_gettime(rustix::time::ClockId::ThreadCPUTime);
                time.tv_sec * 1000 + time.tv_nsec / 1_000_000
            };
            yield_now().await;
            let before = cpu_ms();
            sleep(Duration::from_millis(500)).await;
            let used = cpu_ms() - before;
            assert!(used < 50, "{used} ms of CPU in 500 ms of nothing to do");
        })
        .unwrap();
    }

    #[test]
    fn clocks_and_entropy_are_the_kernels() {
        run(None, async || {
            let (a, b) = (monotonic(), monotonic());
            assert!(a <= b);
            assert!(unix_ns() > 1_600_000_000_000_000_000);
            let keys: [[u8; 32]; 2] = [random(), random()];
            assert_ne!(keys[0], keys[1]);
            assert_ne!(keys[0], [0; 32]);
            assert_ne!(random::<600>()[300..], [0; 300], "also beyond what one system call gives");
        })
        .unwrap();
    }

    #[test]
    fn a_core_runs_on_its_cpu_and_an_impossible_cpu_is_refused() {
        let allowed = cpus().unwrap();
        let last = *allowed.last().unwrap();
        std::thread::scope(|scope| {
            let found = scope.spawn(|| run(Some(last), async || cpus().unwrap()).unwrap()).join().unwrap();
            assert_eq!(found, [last]);
            let refused = scope.spawn(|| run(Some(CpuSet::MAX_CPU - 1), async || ())).join().unwrap();
            assert!(matches!(refused, Err(RunError::Pin { .. })));
            let refused = scope.spawn(|| run(Some(usize::MAX), async || ())).join().unwrap();
            assert!(matches!(refused, Err(RunError::Pin { cpu: usize::MAX, .. })));
        });
    }

    #[test]
    fn a_missing_io_uring_names_its_remedy() {
        let error = |errno| io::Error::from_raw_os_error(errno);
        let disabled = classify(error(libc::EPERM), Some(2));
        assert!(disabled.to_string().contains("set sysctl kernel.io_uring_disabled=0"));
        assert!(classify(error(libc::EPERM), Some(0)).to_string().contains("seccomp"));
        assert!(matches!(classify(error(libc::ENOSYS), Some(0)), RunError::IoUringForbidden));
        assert!(matches!(classify(error(libc::ENOSYS), None), RunError::KernelTooOld));
        assert!(classify(error(libc::ENOMEM), Some(0)).to_string().contains("LimitMEMLOCK=infinity"));
        assert!(matches!(classify(error(libc::EMFILE), Some(0)), RunError::Executor { .. }));
    }
}
