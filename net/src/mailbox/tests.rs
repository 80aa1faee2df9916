//! The mailboxes of several cores on one thread, under a deterministic executor, where each step can be looked at.

use super::*;
use futures_util::FutureExt;
use futures_util::future::abortable;
use futures_util::stream::{FuturesUnordered, StreamExt};
use proto::limits::MAILBOX_BATCH_CALLS_MAX;
use proto::port::runtime::{self, Entered, yield_now};
use proto::port::{Clock, Entropy, LocalFuture, Spawn};
use std::cell::RefCell;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::{Pin, pin};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::task::{Context, Poll, Wake, Waker};
use std::time::Duration;

const B: CoreId = CoreId(1);

/// Tasks that were spawned and not yet taken up, and no clock.
#[derive(Default)]
struct Spawned(RefCell<Vec<LocalFuture<()>>>);

impl Spawn for Spawned {
    fn spawn(&self, task: LocalFuture<()>) {
        self.0.borrow_mut().push(task);
    }
}

impl Clock for Spawned {
    fn monotonic(&self) -> Duration {
        unreachable!("the mailboxes read no clock")
    }

    fn unix_ns(&self) -> u64 {
        unreachable!("the mailboxes read no clock")
    }

    fn sleep(&self, duration: Duration) -> LocalFuture<()> {
        assert!(duration.is_zero(), "the mailboxes wait for no time");
        let mut yielded = false;
        Box::pin(std::future::poll_fn(move |cx| {
            if std::mem::replace(&mut yielded, true) {
                return Poll::Ready(());
            }
            cx.waker().wake_by_ref();
            Poll::Pending
        }))
    }
}

impl Entropy for Spawned {
    fn fill(&self, _: &mut [u8]) {
        unreachable!("the mailboxes draw nothing")
    }
}

#[derive(Default)]
struct Flag(AtomicBool);

impl Wake for Flag {
    fn wake(self: Arc<Self>) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// Polls what was woken, and only that.
struct Executor {
    tasks: FuturesUnordered<LocalFuture<()>>,
    spawned: Rc<Spawned>,
    _entered: Entered,
}

impl Executor {
    fn new() -> Executor {
        let spawned = Rc::new(Spawned::default());
        Executor { tasks: FuturesUnordered::new(), _entered: runtime::enter(spawned.clone()), spawned }
    }

    /// Lets the tasks that are ready run, about once each; `false` if none is.
    fn turn(&mut self) -> bool {
        self.tasks.extend(self.spawned.0.take());
        let woken = Arc::new(Flag::default());
        let waker = Waker::from(woken.clone());
        let finished = matches!(self.tasks.poll_next_unpin(&mut Context::from_waker(&waker)), Poll::Ready(Some(())));
        finished || woken.0.load(Ordering::Relaxed) || !self.spawned.0.borrow().is_empty()
    }

    /// Runs until nothing is ready.
    fn settle(&mut self) {
        let mut turns = 0;
        while self.turn() {
            turns += 1;
            assert!(turns < 1_000_000, "some task spins for ever");
        }
    }
}

/// Polls `future` once, with a waker that is never heard.
fn poll_once<F: Future>(future: Pin<&mut F>) -> Poll<F::Output> {
    future.poll(&mut Context::from_waker(Waker::noop()))
}

/// A service that remembers what was done, and knows its peers as real ones do.
struct Journal {
    cores: Cores<Journal>,
    entries: RefCell<Vec<usize>>,
}

fn journals(count: usize) -> Vec<Cores<Journal>> {
    mailboxes(count).into_iter().map(MailboxEnd::open).collect()
}

fn start(cores: &Cores<Journal>) -> Rc<Journal> {
    let service = Rc::new(Journal { cores: cores.clone(), entries: RefCell::default() });
    cores.start(service.clone());
    service
}

fn note(number: usize) -> impl FnOnce(&Journal) -> usize + Send + 'static {
    move |journal: &Journal| {
        journal.entries.borrow_mut().push(number);
        number
    }
}

#[test]
fn every_core_reaches_every_core_and_itself() {
    let mut executor = Executor::new();
    let cores = journals(3);
    let services: Vec<_> = cores.iter().map(start).collect();
    let answers = Rc::new(RefCell::new(Vec::new()));
    for from in &cores {
        assert_eq!(from.count(), 3);
        for to in (0..3).map(CoreId) {
            let (from, answers) = (from.clone(), answers.clone());
            spawn(async move {
                let number = usize::from(from.me().0 * 10 + to.0);
                let asked = from.ask(to, move |journal| (journal.cores.me(), number)).await;
                let called = from.call(to, move |journal| async move {
                    yield_now().await;
                    journal.entries.borrow_mut().push(number);
                    journal.cores.me()
                });
                assert_eq!((asked, called.await), ((to, number), to));
                answers.borrow_mut().push(number);
            });
        }
    }
    executor.settle();
    answers.borrow_mut().sort_unstable();
    assert_eq!(*answers.borrow(), [0, 1, 2, 10, 11, 12, 20, 21, 22]);
    for (to, service) in services.iter().enumerate() {
        service.entries.borrow_mut().sort_unstable();
        assert_eq!(*service.entries.borrow(), [to, 10 + to, 20 + to]);
    }
}

#[test]
fn calls_before_the_start_wait_and_come_in_order() {
    let mut executor = Executor::new();
    let cores = journals(2);
    for number in 0..MAILBOX_CALLS_MAX * 3 {
        let cores = cores[0].clone();
        spawn(async move { assert_eq!(cores.ask(B, note(number)).await, number) });
        executor.settle();
    }
    let service = start(&cores[1]);
    executor.settle();
    assert!(service.entries.borrow().iter().copied().eq(0..MAILBOX_CALLS_MAX * 3), "first come, first served");
    assert_eq!(executor.tasks.len(), 1, "only the inbox is left");
}

#[test]
fn a_full_mailbox_makes_callers_wait_and_calls_hold_their_room_until_they_return() {
    let mut executor = Executor::new();
    let cores = journals(2);
    start(&cores[1]);
    // Shared between "cores" of one thread: what runs at the other end, now and at most.
    let (running, most) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
    let (open, gate) = oneshot::channel::<()>();
    let gate = gate.shared();
    for _ in 0..MAILBOX_CALLS_MAX * 2 {
        let (cores, running, most, gate) = (cores[0].clone(), running.clone(), most.clone(), gate.clone());
        spawn(async move {
            let run = move |_: Rc<Journal>| async move {
                most.fetch_max(running.fetch_add(1, Ordering::Relaxed) + 1, Ordering::Relaxed);
                let _ = gate.await;
                running.fetch_sub(1, Ordering::Relaxed);
            };
            cores.call(B, run).await;
        });
    }
    executor.settle();
    assert_eq!(running.load(Ordering::Relaxed), MAILBOX_CALLS_MAX, "all the room is used");
    let mut late = Box::pin(cores[0].ask(B, note(7)));
    assert!(poll_once(late.as_mut()).is_pending(), "there is no room");
    open.send(()).unwrap();
    executor.settle();
    assert_eq!(most.load(Ordering::Relaxed), MAILBOX_CALLS_MAX);
    assert_eq!(running.load(Ordering::Relaxed), 0);
    assert!(poll_once(late.as_mut()).is_pending(), "room, but no answer yet");
    executor.settle();
    assert_eq!(poll_once(late.as_mut()), Poll::Ready(7));
}

/// Fills the mailbox from A to B with calls that note their number; their callers do not wait for the answer.
fn fill(cores: &Cores<Journal>) {
    for number in 0..MAILBOX_CALLS_MAX {
        assert!(poll_once(pin!(cores.ask(B, note(number)))).is_pending());
    }
}

#[test]
fn a_call_runs_and_gives_its_room_back_although_its_caller_was_dropped() {
    let mut executor = Executor::new();
    let cores = journals(2);
    let service = start(&cores[1]);
    for round in 1..=3 {
        fill(&cores[0]);
        executor.settle();
        assert_eq!(service.entries.borrow().len(), round * MAILBOX_CALLS_MAX);
    }
}

#[test]
fn callers_that_leave_the_line_lose_their_place_and_nobody_elses() {
    let mut executor = Executor::new();
    let cores = journals(2);
    fill(&cores[0]);
    let waiting: Vec<_> = (1000..1006)
        .map(|number| {
            let cores = cores[0].clone();
            let (caller, leave) = abortable(async move { cores.ask(B, note(number)).await });
            spawn(caller.map(drop));
            leave
        })
        .collect();
    executor.settle();
    // The first, one in the middle, and the last.
    for left in [0, 2, 5] {
        waiting[left].abort();
    }
    executor.settle();
    let service = start(&cores[1]);
    executor.settle();
    assert_eq!(service.entries.borrow()[MAILBOX_CALLS_MAX..], [1001, 1003, 1004]);
}

#[test]
fn a_caller_that_leaves_when_room_was_made_for_it_passes_the_room_on() {
    let mut executor = Executor::new();
    let cores = journals(2);
    fill(&cores[0]);
    let flags: [Arc<Flag>; 2] = Default::default();
    let mut callers = [1000, 1001].map(|number| Some(Box::pin(cores[0].ask(B, note(number)))));
    for (caller, flag) in callers.iter_mut().flatten().zip(&flags) {
        assert!(caller.as_mut().poll(&mut Context::from_waker(&Waker::from(flag.clone()))).is_pending());
    }
    let service = start(&cores[1]);
    executor.settle();
    let woken = |flag: &Flag| flag.0.load(Ordering::Relaxed);
    assert!(woken(&flags[0]) && !woken(&flags[1]));
    callers[0] = None;
    assert!(woken(&flags[1]));
    assert!(poll_once(callers[1].as_mut().unwrap().as_mut()).is_pending());
    executor.settle();
    assert_eq!(service.entries.borrow()[MAILBOX_CALLS_MAX..], [1001]);
}

#[test]
fn a_core_with_a_full_inbox_lets_its_other_tasks_run_between_batches() {
    let mut executor = Executor::new();
    let cores = journals(2);
    fill(&cores[0]);
    let service = start(&cores[1]);
    let (watched, longest) = (service.clone(), Rc::new(Cell::new(0)));
    let seen = longest.clone();
    spawn(async move {
        let mut before = 0;
        while before < MAILBOX_CALLS_MAX {
            let now = watched.entries.borrow().len();
            seen.set(seen.get().max(now - before));
            before = now;
            yield_now().await;
        }
    });
    executor.settle();
    assert_eq!(longest.get(), MAILBOX_BATCH_CALLS_MAX);
}

#[test]
fn a_core_that_fills_a_mailbox_does_not_delay_another() {
    let mut executor = Executor::new();
    let cores = journals(3);
    fill(&cores[0]);
    assert!(poll_once(pin!(cores[2].ask(B, note(9999)))).is_pending());
    let service = start(&cores[1]);
    executor.settle();
    let place = service.entries.borrow().iter().position(|number| *number == 9999);
    assert!(place.unwrap() <= 1, "{place:?}");
}

#[test]
fn a_call_to_a_core_that_is_gone_panics_instead_of_waiting() {
    let panics = |caller: Pin<&mut dyn Future<Output = usize>>| {
        let mut cx = Context::from_waker(Waker::noop());
        let panic = catch_unwind(AssertUnwindSafe(|| caller.poll(&mut cx))).unwrap_err();
        let message = panic.downcast_ref::<String>().map_or(*panic.downcast_ref().unwrap_or(&""), String::as_str);
        assert!(message.contains("until all cores have finished"), "{message}");
    };
    let mut cores = journals(2);
    let ask = |cores: Cores<Journal>| async move { cores.ask(B, note(0)).await };
    let mut waiting = pin!(ask(cores[0].clone()));
    assert!(poll_once(waiting.as_mut()).is_pending());
    drop(cores.remove(1));
    panics(waiting);
    panics(pin!(ask(cores[0].clone())));
}

#[test]
fn all_memory_is_freed_wherever_a_node_is_cut() {
    let token = Arc::new(());
    let mut whole_run = None;
    for cut_after in 0.. {
        let mut executor = Executor::new();
        let cores = journals(3);
        for (from, to, calls) in [(0, 1, MAILBOX_CALLS_MAX + 8), (0, 2, 4), (1, 2, 4), (2, 0, 4)] {
            for _ in 0..calls {
                let (cores, held) = (cores[from].clone(), token.clone());
                spawn(async move {
                    let there = held.clone();
                    let back = cores.call(CoreId(to), |service| async move {
                        yield_now().await;
                        let held = there.clone();
                        service.cores.ask(service.cores.me(), move |_| drop(there)).await;
                        held
                    });
                    drop((back.await, held));
                });
            }
        }
        let services: Vec<_> = cores.iter().map(|cores| Rc::downgrade(&start(cores))).collect();
        drop(cores);
        let mut turns = 0;
        while turns < cut_after && executor.turn() {
            turns += 1;
        }
        drop(executor);
        assert_eq!(Arc::strong_count(&token), 1, "cut after {turns} turns");
        assert!(services.iter().all(|service| service.strong_count() == 0), "cut after {turns} turns");
        if turns < cut_after {
            whole_run = Some(turns);
            break;
        }
    }
    assert!(whole_run.unwrap() > 100, "{whole_run:?} turns");
}
