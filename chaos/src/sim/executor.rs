//! A single-thread executor whose every choice comes from a seed, and whose time is virtual.
//!
//! Invariants:
//! * One *step* polls one ready task or fires one event. Which ready task, and whether a due event goes first, is
//!   drawn from the seed. Steps are counted: a crash point is a number of steps.
//! * Time moves by a little with each poll, and jumps to the next event when no task is ready.
//! * Tasks belong to a [`Group`], one start of one process. A spawned task inherits its spawner's group. Killing a group
//!   drops its tasks where they stand; what their destructors try to spawn or submit is ignored, for a killed process
//!   runs no destructors.
//! * Nothing ready, no event, and work unfinished is a deadlock: [`Step::Idle`].

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::future::Future;
use std::pin::Pin;
use std::rc::Rc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll, Wake, Waker};
use std::time::Duration;

use proto::port::{Clock, Entropy, LocalFuture, Spawn};

use super::completion::{Completion, completion};
use super::random::Random;
use super::trace::{Trace, TraceEvent};

/// Virtual time that one poll takes at most.
const POLL_NS_MAX: u64 = 2_000;
/// A timer fires at most this late.
const TIMER_LATE_NS_MAX: u64 = 50_000;
/// Wall clock of the first start: 2024-01-01, in nanoseconds since the Unix epoch.
const UNIX_EPOCH_OFFSET_NS: u64 = 1_704_067_200_000_000_000;
/// Some starts find the wall clock wrong by up to this much, in either direction.
const WALL_SKEW_NS_MAX: u64 = 3_600_000_000_000;

/// One start of one process.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Group(u64);

/// What a step did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// A task was polled.
    Polled,
    /// A timer or a disk operation completed.
    Fired,
    /// Nothing is ready and nothing will be.
    Idle,
}

/// A point in virtual time, and a counter that makes it unique.
type EventKey = (u64, u64);
type Event = Box<dyn FnOnce()>;

/// The seeded executor; production code reaches it through `proto::port::runtime`.
pub struct Executor {
    state: RefCell<State>,
    ready: Arc<Mutex<Vec<u64>>>,
    /// The group whose task is being polled or dropped.
    current: Cell<Option<Group>>,
}

struct State {
    now_ns: u64,
    steps: u64,
    next_number: u64,
    schedule: Random,
    entropy: Random,
    groups: BTreeMap<Group, Start>,
    tasks: BTreeMap<u64, Task>,
    events: BTreeMap<EventKey, Event>,
    trace: Trace,
}

/// The clocks of one start.
struct Start {
    at_ns: u64,
    unix_at_start_ns: u64,
}

struct Task {
    group: Group,
    polls: u64,
    waker: Arc<TaskWaker>,
    /// Absent while the task is polled.
    future: Option<LocalFuture<()>>,
}

struct TaskWaker {
    task: u64,
    queued: AtomicBool,
    ready: Arc<Mutex<Vec<u64>>>,
}

impl Wake for TaskWaker {
    fn wake(self: Arc<Self>) {
        if !self.queued.swap(true, Ordering::Relaxed) {
            self.ready.lock().expect("invariant: no task panics while it wakes").push(self.task);
        }
    }
}

impl Executor {
    /// Returns an executor at time zero.
    #[must_use]
    pub fn new(mut random: Random) -> Rc<Executor> {
        let state = State {
            now_ns: 0,
            steps: 0,
            next_number: 0,
            schedule: random.fork(),
            entropy: random.fork(),
            groups: BTreeMap::new(),
            tasks: BTreeMap::new(),
            events: BTreeMap::new(),
            trace: Trace::default(),
        };
        Rc::new(Executor { state: RefCell::new(state), ready: Arc::default(), current: Cell::new(None) })
    }

    /// Begins a group: a process starts, its monotonic clock at zero and its wall clock perhaps wrong.
    pub fn start_group(&self) -> Group {
        let mut state = self.state.borrow_mut();
        let group = Group(state.number());
        let skew_ns =
            if state.schedule.chance(1, 4) { state.schedule.below(2 * WALL_SKEW_NS_MAX) } else { WALL_SKEW_NS_MAX };
        let start = Start {
            at_ns: state.now_ns,
            unix_at_start_ns: UNIX_EPOCH_OFFSET_NS + state.now_ns + skew_ns - WALL_SKEW_NS_MAX,
        };
        state.groups.insert(group, start);
        state.record("start", group.0, skew_ns);
        group
    }

    /// Adds a task to `group`, unless the group is dead.
    pub fn spawn_in(&self, group: Group, future: LocalFuture<()>) {
        let mut state = self.state.borrow_mut();
        if !state.groups.contains_key(&group) {
            drop(state);
            // Destructors may call back, so the borrow ends first.
            drop(future);
            return;
        }
        let task = state.number();
        let waker = Arc::new(TaskWaker { task, queued: AtomicBool::new(false), ready: self.ready.clone() });
        state.tasks.insert(task, Task { group, polls: 0, waker: waker.clone(), future: Some(future) });
        state.record("spawn", task, group.0);
        waker.wake();
    }

    /// Drops every task of `group` where it stands.
    pub fn kill(&self, group: Group) {
        let tasks: Vec<Task> = {
            let mut state = self.state.borrow_mut();
            state.groups.remove(&group);
            state.record("kill", group.0, 0);
            let doomed: Vec<u64> =
                state.tasks.iter().filter(|(_, task)| task.group == group).map(|(number, _)| *number).collect();
            doomed.iter().filter_map(|number| state.tasks.remove(number)).collect()
        };
        let before = self.current.replace(Some(group));
        drop(tasks);
        self.current.set(before);
    }

    /// Polls one ready task or fires one event.
    pub fn step(&self) -> Step {
        let mut state = self.state.borrow_mut();
        let due = state.events.first_key_value().map(|((at_ns, _), _)| *at_ns <= state.now_ns);
        let some_ready = !self.ready.lock().expect("invariant: no task panics while it wakes").is_empty();
        let fire = match (some_ready, due) {
            (false, None) => return Step::Idle,
            (false, Some(_)) => true,
            (true, Some(true)) => state.schedule.chance(1, 2),
            (true, _) => false,
        };
        state.steps += 1;
        if fire {
            let ((at_ns, number), event) = state.events.pop_first().expect("invariant: an event was seen");
            state.now_ns = state.now_ns.max(at_ns);
            state.record("event", number, 0);
            drop(state);
            event();
            return Step::Fired;
        }
        drop(state);
        self.poll_one();
        Step::Polled
    }

    fn poll_one(&self) {
        let mut state = self.state.borrow_mut();
        let number = {
            let mut ready = self.ready.lock().expect("invariant: no task panics while it wakes");
            let place = state.schedule.below(ready.len() as u64) as usize;
            ready.swap_remove(place)
        };
        // A killed task may still stand in the queue.
        let Some(task) = state.tasks.get_mut(&number) else { return };
        let mut future = task.future.take().expect("invariant: a task is polled by one step at a time");
        let (group, waker) = (task.group, task.waker.clone());
        task.polls += 1;
        waker.queued.store(false, Ordering::Relaxed);
        state.record("poll", number, 0);
        state.now_ns += state.schedule.below(POLL_NS_MAX);
        drop(state);

        self.current.set(Some(group));
        let poll = future.as_mut().poll(&mut Context::from_waker(&Waker::from(waker)));
        match poll {
            Poll::Ready(()) => {
                drop(future);
                self.state.borrow_mut().tasks.remove(&number);
            }
            Poll::Pending => {
                if let Some(task) = self.state.borrow_mut().tasks.get_mut(&number) {
                    task.future = Some(future);
                }
            }
        }
        self.current.set(None);
    }

    /// Runs `event` after `delay`; returns its key for [`Executor::cancel`].
    pub(crate) fn schedule(&self, delay: Duration, event: impl FnOnce() + 'static) -> EventKey {
        let mut state = self.state.borrow_mut();
        let key = (state.now_ns + delay.as_nanos() as u64, state.number());
        state.events.insert(key, Box::new(event));
        key
    }

    pub(crate) fn cancel(&self, key: EventKey) {
        let event = self.state.borrow_mut().events.remove(&key);
        drop(event);
    }

    /// Whether the calling task's process is being killed: it can no longer reach the world.
    pub(crate) fn is_dying(&self) -> bool {
        self.current.get().is_some_and(|group| !self.state.borrow().groups.contains_key(&group))
    }

    /// Appends to the trace.
    pub(crate) fn record(&self, what: &'static str, subject: u64, detail: u64) {
        self.state.borrow_mut().record(what, subject, detail);
    }

    /// Drops what is left, so that nothing keeps the executor alive through its own events.
    pub(crate) fn shut_down(&self) {
        let (tasks, events) = {
            let mut state = self.state.borrow_mut();
            state.groups.clear();
            (std::mem::take(&mut state.tasks), std::mem::take(&mut state.events))
        };
        drop(tasks);
        drop(events);
    }

    /// Steps so far.
    #[must_use]
    pub fn steps(&self) -> u64 {
        self.state.borrow().steps
    }

    /// Virtual time since the executor was made.
    #[must_use]
    pub fn now(&self) -> Duration {
        Duration::from_nanos(self.state.borrow().now_ns)
    }

    /// Reads the trace.
    pub fn trace<T>(&self, read: impl FnOnce(&Trace) -> T) -> T {
        read(&self.state.borrow().trace)
    }

    /// The last events, one a line; `None` in the midst of a step.
    pub(crate) fn try_trace_tail(&self) -> Option<String> {
        self.state.try_borrow().ok().map(|state| state.trace.tail())
    }

    /// Describes the unfinished tasks, one a line.
    #[must_use]
    pub fn tasks(&self) -> String {
        let state = self.state.borrow();
        let line = |(number, task): (&u64, &Task)| {
            format!("task {number} of group {} after {} polls\n", task.group.0, task.polls)
        };
        state.tasks.iter().map(line).collect()
    }

    /// The group of the task that is running.
    pub(crate) fn current_group(&self) -> Group {
        self.current.get().expect("invariant: time, chance and tasks are reached from within a task")
    }
}

impl State {
    fn number(&mut self) -> u64 {
        self.next_number += 1;
        self.next_number
    }

    fn record(&mut self, what: &'static str, subject: u64, detail: u64) {
        self.trace.record(TraceEvent { at_ns: self.now_ns, what, subject, detail });
    }
}

/// Handle that production code enters as its runtime.
pub(crate) struct SimRuntime(pub(crate) Rc<Executor>);

impl Clock for SimRuntime {
    fn monotonic(&self) -> Duration {
        let group = self.0.current_group();
        let state = self.0.state.borrow();
        let started_ns = state.groups.get(&group).map_or(0, |start| start.at_ns);
        Duration::from_nanos(state.now_ns - started_ns)
    }

    fn unix_ns(&self) -> u64 {
        let group = self.0.current_group();
        let state = self.0.state.borrow();
        let start = state.groups.get(&group);
        start.map_or(UNIX_EPOCH_OFFSET_NS, |start| start.unix_at_start_ns + state.now_ns - start.at_ns)
    }

    fn sleep(&self, duration: Duration) -> LocalFuture<()> {
        let late_ns = match duration {
            Duration::ZERO => 0,
            _ => self.0.state.borrow_mut().schedule.below(TIMER_LATE_NS_MAX),
        };
        let deadline = self.0.now() + duration + Duration::from_nanos(late_ns);
        Box::pin(Sleep { executor: self.0.clone(), deadline, timer: None })
    }
}

impl Entropy for SimRuntime {
    fn fill(&self, out: &mut [u8]) {
        self.0.state.borrow_mut().entropy.fill(out);
    }
}

impl Spawn for SimRuntime {
    fn spawn(&self, task: LocalFuture<()>) {
        self.0.spawn_in(self.0.current_group(), task);
    }
}

struct Sleep {
    executor: Rc<Executor>,
    deadline: Duration,
    timer: Option<(EventKey, Completion<()>)>,
}

impl Future for Sleep {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<()> {
        let Sleep { executor, deadline, timer } = &mut *self;
        let (_, fired) = timer.get_or_insert_with(|| {
            let (fire, fired) = completion();
            (executor.schedule(deadline.saturating_sub(executor.now()), move || fire.complete(())), fired)
        });
        Pin::new(fired).poll(context)
    }
}

impl Drop for Sleep {
    fn drop(&mut self) {
        if let Some((key, _)) = self.timer.take() {
            self.executor.cancel(key);
        }
    }
}
