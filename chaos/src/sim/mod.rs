//! The simulated world: one seed decides the order of tasks, the passing of time, keys, and what a crash leaves.
//!
//! ```text
//!   Simulation ── executor   tasks, timers, clocks, entropy      killed at a crash
//!        │
//!        ├─────── disks      what was synced, what was not       survive it
//!        └─────── networks   messages between processes          survive it
//! ```
//!
//! A test makes a [`Simulation`] from a seed, adds disks, and calls [`Simulation::run`] for a start of the process that
//! ends by itself or [`Simulation::run_until`] for one that is cut off after some number of steps; what the process
//! acknowledged meanwhile the test keeps outside, and compares after the next start.

pub(crate) mod completion;
pub mod disk;
pub mod executor;
pub mod faults;
pub mod random;
pub mod trace;
pub mod wire;

use std::cell::{Cell, RefCell};
use std::fmt;
use std::future::Future;
use std::rc::{Rc, Weak};
use std::time::Duration;

use proto::port::runtime;

pub use self::disk::{Crash, DiskOptions, Lie, Operation, SimDisk, SimFile, WatchedDisk};
use self::executor::{Executor, SimRuntime, Step};
use self::faults::Happened;
pub use self::random::Random;
pub use self::wire::{SimNetwork, SimWire, WireOptions};

/// Steps after which a run is taken for one that never ends.
const RUN_STEPS_MAX: u64 = 50_000_000;

/// How a run ended.
#[derive(Debug, PartialEq, Eq)]
pub enum Outcome<T> {
    /// The main future returned this; tasks that it left behind were killed as at a process's exit.
    Finished(T),
    /// The crash point was met first.
    Crashed,
}

/// When a run is cut off.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CrashPoint {
    /// After so many steps. Steps are taken by tasks, so this meets a process at work, wherever it yields.
    Steps(u64),
    /// After so much virtual time, most of which tasks spend waiting: this meets operations of disks under way.
    After(Duration),
    /// Never.
    Never,
}

/// The run can never end.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Stuck {
    /// Every task waits, and nothing will wake one.
    Deadlock {
        /// The tasks, one a line.
        tasks: String,
        /// The last events, one a line.
        trace: String,
    },
    /// It went on beyond every measure, perhaps without progress.
    Runaway {
        /// The tasks, one a line.
        tasks: String,
        /// The last events, one a line.
        trace: String,
    },
}

impl fmt::Display for Stuck {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (what, tasks, trace) = match self {
            Stuck::Deadlock { tasks, trace } => ("deadlock: nothing is ready and no event is due", tasks, trace),
            Stuck::Runaway { tasks, trace } => ("runaway: the run does not end", tasks, trace),
        };
        write!(f, "{what}\n{tasks}last events:\n{trace}")
    }
}

impl std::error::Error for Stuck {}

/// One seeded world.
pub struct Simulation {
    executor: Rc<Executor>,
    disks: Vec<SimDisk>,
    networks: Vec<SimNetwork>,
    random: Random,
    happened: Happened,
}

impl Simulation {
    /// Returns the world of `seed`, with no disks.
    #[must_use]
    pub fn new(seed: u64) -> Simulation {
        let mut random = Random::new(seed);
        Simulation {
            executor: Executor::new(random.fork()),
            disks: Vec::new(),
            networks: Vec::new(),
            random,
            happened: Happened::default(),
        }
    }

    /// Adds a disk; it outlives every run.
    pub fn add_disk(&mut self, options: DiskOptions) -> SimDisk {
        let disk = SimDisk::new(self.executor.clone(), options, self.random.fork(), self.happened.clone());
        self.disks.push(disk.clone());
        disk
    }

    /// Adds a network; it outlives every run.
    pub fn add_network(&mut self, options: WireOptions) -> SimNetwork {
        let network = SimNetwork::new(self.executor.clone(), options, self.random.fork(), self.happened.clone());
        self.networks.push(network.clone());
        network
    }

    /// Starts a process that goes on beside those of [`Simulation::run`], outlives their ends, and ends with the
    /// simulation. It takes its steps while they run.
    pub fn start_beside(&mut self, main: impl Future<Output = ()> + 'static) {
        let group = self.executor.start_group();
        self.executor.spawn_in(group, Box::pin(main));
    }

    /// A stream of numbers for the harness, apart from those of the world.
    pub fn fork_random(&mut self) -> Random {
        self.random.fork()
    }

    /// Runs `main`, the start of a process, to its end.
    ///
    /// # Errors
    /// [`Stuck`] if it cannot end.
    pub fn run<T: 'static>(&mut self, main: impl Future<Output = T> + 'static) -> Result<T, Stuck> {
        match self.run_until_watched(CrashPoint::Never, Crash::Process, main, || {})? {
            Outcome::Finished(value) => Ok(value),
            Outcome::Crashed => unreachable!("invariant: nothing cuts it off"),
        }
    }

    /// Runs `main`, the start of a process, to its end or until `steps` steps were taken; then `crash` ends it.
    ///
    /// # Errors
    /// [`Stuck`] if it can neither end nor go on.
    pub fn run_until<T: 'static>(
        &mut self,
        steps: u64,
        crash: Crash,
        main: impl Future<Output = T> + 'static,
    ) -> Result<Outcome<T>, Stuck> {
        self.run_until_watched(CrashPoint::Steps(steps), crash, main, || {})
    }

    /// Does the same with any crash point, and calls `met` when it is met, before anything is taken away.
    ///
    /// # Errors
    /// [`Stuck`] if it can neither end nor go on.
    pub fn run_until_watched<T: 'static>(
        &mut self,
        point: CrashPoint,
        crash: Crash,
        main: impl Future<Output = T> + 'static,
        met: impl FnOnce(),
    ) -> Result<Outcome<T>, Stuck> {
        let executor = self.executor.clone();
        let _entered = runtime::enter(Rc::new(SimRuntime(executor.clone())));
        let group = executor.start_group();
        let result = Rc::new(RefCell::new(None));
        let returned = result.clone();
        executor.spawn_in(group, Box::pin(async move { drop(returned.replace(Some(main.await))) }));

        let due = Rc::new(Cell::new(false));
        let alarm = match point {
            CrashPoint::After(time) => {
                let due = due.clone();
                Some(executor.schedule(time, move || due.set(true)))
            }
            CrashPoint::Steps(_) | CrashPoint::Never => None,
        };
        let mut taken = 0;
        let ended = loop {
            if let Some(value) = result.take() {
                break Ok((Outcome::Finished(value), Crash::Process));
            }
            if due.get() || point == CrashPoint::Steps(taken) {
                met();
                break Ok((Outcome::Crashed, crash));
            }
            taken += 1;
            let (tasks, trace) = match executor.step() {
                Step::Idle => (executor.tasks(), executor.trace(trace::Trace::tail)),
                _ if taken == RUN_STEPS_MAX => (executor.tasks(), executor.trace(trace::Trace::tail)),
                Step::Polled | Step::Fired => continue,
            };
            break Err(match taken {
                RUN_STEPS_MAX => Stuck::Runaway { tasks, trace },
                _ => Stuck::Deadlock { tasks, trace },
            });
        };
        alarm.into_iter().for_each(|alarm| executor.cancel(alarm));
        executor.kill(group);
        self.networks.iter().for_each(|network| network.group_ended(group));
        let (outcome, crash) = match ended {
            Ok((outcome, crash)) => (Ok(outcome), crash),
            Err(stuck) => (Err(stuck), Crash::Process),
        };
        self.disks.iter().for_each(|disk| disk.crash(crash));
        outcome
    }

    /// What went wrong so far, over all runs.
    #[must_use]
    pub fn happened(&self) -> Happened {
        self.happened.clone()
    }

    /// Steps taken so far, over all runs.
    #[must_use]
    pub fn steps(&self) -> u64 {
        self.executor.steps()
    }

    /// Hash over everything that happened so far; the same for every run of the same seed.
    #[must_use]
    pub fn trace_hash(&self) -> u64 {
        self.executor.trace(trace::Trace::hash)
    }

    /// Events so far; the same for every run of the same seed.
    #[must_use]
    pub fn trace_events(&self) -> u64 {
        self.executor.trace(trace::Trace::events)
    }

    /// A view of the last events, also from a panic hook.
    #[must_use]
    pub fn tracer(&self) -> Tracer {
        Tracer(Rc::downgrade(&self.executor))
    }
}

thread_local! {
    static PUBLISHED: RefCell<Option<Tracer>> = const { RefCell::new(None) };
}

/// Shows the last events of a simulation.
#[derive(Clone)]
pub struct Tracer(Weak<Executor>);

impl Tracer {
    /// The last events, oldest first, one a line; empty if the simulation is gone or in the midst of a step.
    #[must_use]
    pub fn tail(&self) -> String {
        self.0.upgrade().and_then(|executor| executor.try_trace_tail()).unwrap_or_default()
    }

    /// Makes this the one that [`Tracer::published`] returns on this thread.
    pub fn publish(&self) {
        PUBLISHED.with(|published| published.replace(Some(self.clone())));
    }

    /// The one published last on this thread.
    #[must_use]
    pub fn published() -> Option<Tracer> {
        PUBLISHED.with(|published| published.borrow().clone())
    }
}

impl Drop for Simulation {
    fn drop(&mut self) {
        self.executor.shut_down();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::future::poll_fn;
    use std::task::Poll;

    /// Three tasks that sleep and draw numbers; returns the order in which they did.
    async fn busy() -> Vec<u64> {
        let log = Rc::new(RefCell::new(Vec::new()));
        let (done, finished) = completion::completion();
        let done = Rc::new(Cell::new(Some(done)));
        for task in 0..3 {
            let (log, done) = (log.clone(), done.clone());
            runtime::spawn(async move {
                for _ in 0..10 {
                    runtime::yield_now().await;
                    runtime::sleep(Duration::from_nanos(u64::from(runtime::random::<1>()[0]))).await;
                    log.borrow_mut().push(task);
                }
                if log.borrow().len() == 30 {
                    done.take().expect("the last task comes once").complete(());
                }
            });
        }
        finished.await;
        log.take()
    }

    #[test]
    fn the_same_seed_gives_the_same_trace() {
        let run = |seed| {
            let mut simulation = Simulation::new(seed);
            let order = simulation.run(busy()).unwrap();
            (order, simulation.trace_hash(), simulation.steps())
        };
        let first: Vec<_> = (0..20).map(run).collect();
        assert_eq!((0..20).map(run).collect::<Vec<_>>(), first);
        let orders: std::collections::BTreeSet<_> = first.iter().map(|(order, ..)| order).collect();
        assert!(orders.len() > 10, "seeds meet different orders");
    }

    #[test]
    fn a_deadlock_is_reported_with_its_tasks() {
        let mut simulation = Simulation::new(1);
        let stuck = simulation.run(std::future::pending::<()>()).unwrap_err();
        let Stuck::Deadlock { tasks, trace } = stuck else { panic!("{stuck}") };
        assert!(tasks.contains("after 1 polls"), "{tasks}");
        assert!(trace.contains("poll"), "{trace}");
    }

    #[test]
    fn a_sleeper_does_not_count_as_a_deadlock_and_takes_no_real_time() {
        let mut simulation = Simulation::new(1);
        let slept = simulation.run(async {
            let before = runtime::monotonic();
            runtime::sleep(Duration::from_secs(86_400 * 365)).await;
            runtime::monotonic() - before
        });
        let slept = slept.unwrap();
        assert!(slept >= Duration::from_secs(86_400 * 365), "{slept:?}");
    }

    #[test]
    fn a_dropped_sleep_does_not_hold_up_time() {
        let mut simulation = Simulation::new(1);
        let stuck = simulation.run(async {
            let mut sleep = runtime::sleep(Duration::from_secs(1));
            poll_fn(|context| Poll::Ready(sleep.as_mut().poll(context).is_pending())).await;
            drop(sleep);
            std::future::pending::<()>().await;
        });
        assert!(matches!(stuck, Err(Stuck::Deadlock { .. })));
        assert!(simulation.executor.now() < Duration::from_millis(1));
    }

    #[test]
    fn a_crash_drops_every_task_at_any_await() {
        struct Alive(Rc<Cell<u32>>);
        impl Drop for Alive {
            fn drop(&mut self) {
                self.0.set(self.0.get() - 1);
                // A destructor of a killed process reaches nobody.
                runtime::spawn(async { panic!("a dead process spawned a task") });
            }
        }
        let mut reached = std::collections::BTreeSet::new();
        for steps in 0..60 {
            let mut simulation = Simulation::new(3);
            let (alive, progress) = (Rc::new(Cell::new(0)), Rc::new(Cell::new(0)));
            let (counted, progressed) = (alive.clone(), progress.clone());
            let outcome = simulation.run_until(steps, Crash::Power, async move {
                for _ in 0..3 {
                    counted.set(counted.get() + 1);
                    let (token, progressed) = (Alive(counted.clone()), progressed.clone());
                    runtime::spawn(async move {
                        let _token = token;
                        loop {
                            runtime::sleep(Duration::from_micros(1)).await;
                            progressed.set(progressed.get() + 1);
                        }
                    });
                }
                std::future::pending::<()>().await;
            });
            assert_eq!(outcome, Ok(Outcome::Crashed));
            assert_eq!(alive.get(), 0, "killed after {steps} steps");
            assert_eq!(simulation.steps(), steps);
            reached.insert(progress.get());
            simulation.run(async {}).unwrap();
        }
        assert!(reached.len() > 10, "crashes met different points: {reached:?}");
    }

    #[test]
    fn a_crash_after_a_time_meets_what_waits_and_leaves_no_alarm_behind() {
        let mut simulation = Simulation::new(7);
        let point = CrashPoint::After(Duration::from_millis(1));
        let mut sleep = |time| {
            simulation.run_until_watched(point, Crash::Process, async move { runtime::sleep(time).await }, || {})
        };
        assert_eq!(sleep(Duration::from_secs(9)), Ok(Outcome::Crashed));
        assert_eq!(sleep(Duration::from_micros(1)), Ok(Outcome::Finished(())));
        let now = simulation.executor.now();
        assert!((Duration::from_millis(1)..Duration::from_millis(2)).contains(&now), "{now:?}");
        assert!(matches!(simulation.run(std::future::pending::<()>()), Err(Stuck::Deadlock { .. })));
        assert!(simulation.executor.now() < Duration::from_millis(2), "nothing was waited for");
    }

    #[test]
    fn a_new_start_has_its_own_clocks() {
        let mut simulation = Simulation::new(5);
        simulation.run(runtime_sleep()).unwrap();
        let clocks = |simulation: &mut Simulation| simulation.run(async { (runtime::monotonic(), runtime::unix_ns()) });
        let starts: Vec<_> = (0..40).map(|_| clocks(&mut simulation).unwrap()).collect();
        assert!(starts.iter().all(|(monotonic, _)| *monotonic < Duration::from_millis(1)));
        assert!(starts.windows(2).any(|pair| pair[0].1 > pair[1].1), "the wall clock may jump back");

        async fn runtime_sleep() {
            runtime::sleep(Duration::from_secs(5)).await;
        }
    }
}
