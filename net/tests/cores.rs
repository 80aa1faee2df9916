//! Several cores on real threads: how they begin, end and call each other.

use std::cell::Cell;
use std::process::Command;
use std::rc::Rc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use futures_util::future::{join_all, pending, select};
use net::{Cores, RunError, run_cores};
use proto::CoreId;
use proto::limits::MAILBOX_BATCH_CALLS_MAX;
use proto::port::runtime::{monotonic, spawn, yield_now};

const A: CoreId = CoreId(0);
const B: CoreId = CoreId(1);

/// What the cores of a test serve each other.
#[derive(Default)]
struct Service {
    sum: Cell<u64>,
    stop: Cell<bool>,
}

impl Service {
    fn add(&self, number: u64) -> u64 {
        self.sum.set(self.sum.get() + number);
        self.sum.get()
    }
}

fn serve(cores: &Cores<Service>) -> Rc<Service> {
    let service = Rc::new(Service::default());
    cores.start(service.clone());
    service
}

fn unpinned(count: usize) -> Vec<(Option<usize>, ())> {
    vec![(None, ()); count]
}

/// Runs `main` on `count` unpinned cores; it cannot fail.
fn run_unpinned<T: Send>(count: usize, main: impl AsyncFn(Cores<Service>) -> T + Sync) -> Vec<T> {
    let main = async |cores: Cores<Service>, ()| Ok::<T, ()>(main(cores).await);
    run_cores(unpinned(count), main).unwrap().unwrap()
}

#[test]
fn every_core_runs_on_its_cpu_with_its_input_and_reaches_all() {
    let allowed = net::cpus().unwrap();
    let inputs: Vec<_> = (0..3).map(|core| (Some(allowed[core % allowed.len()]), 100 << core)).collect();
    let expected: Vec<_> = inputs.iter().map(|(cpu, _)| (vec![cpu.unwrap()], 700)).collect();
    let calling = std::thread::current().id();
    let outputs = run_cores(inputs, async |cores: Cores<Service>, input: u64| {
        let service = serve(&cores);
        assert_eq!(std::thread::current().id() == calling, cores.me() == A);
        for to in (0..3).map(CoreId) {
            cores.ask(to, move |service| service.add(input)).await;
        }
        while service.sum.get() < 700 {
            yield_now().await;
        }
        Ok::<_, ()>((net::cpus().unwrap(), service.sum.get()))
    });
    assert_eq!(outputs.unwrap().unwrap(), expected);
}

#[test]
fn no_call_is_lost_or_run_twice_under_contention() {
    const TASKS: u64 = 400;
    const ROUNDS: u64 = 50;
    let sums = run_unpinned(2, async |cores| {
        let service = serve(&cores);
        let other = CoreId(1 - cores.me().0);
        let tasks = (0..TASKS).map(|task| {
            let cores = cores.clone();
            async move {
                for round in 0..ROUNDS {
                    if (task + round) % 2 == 0 {
                        cores.ask(other, |service| service.add(1)).await;
                    } else {
                        let run = |service: Rc<Service>| async move {
                            yield_now().await;
                            service.add(1)
                        };
                        cores.call(other, run).await;
                    }
                }
            }
        });
        join_all(tasks).await;
        // The other core's calls may still be on their way.
        while service.sum.get() < TASKS * ROUNDS {
            yield_now().await;
        }
        service.sum.get()
    });
    assert_eq!(sums, [TASKS * ROUNDS; 2]);
}

#[test]
fn a_dropped_caller_leaves_nothing_behind() {
    const ROUNDS: u64 = 20_000;
    let ran = run_unpinned(2, async |cores| {
        serve(&cores);
        if cores.me() == A {
            for round in 0..ROUNDS {
                let call = std::pin::pin!(cores.ask(B, |service| service.add(1)));
                // Waits for nothing, for one look at the kernel, or for the answer.
                match round % 3 {
                    0 => drop(futures_util::poll!(call)),
                    1 => drop(select(call, yield_now()).await),
                    _ => drop(call.await),
                }
            }
            // All the room is there again: as many as fit, and more.
            join_all((0..1000).map(|_| cores.ask(B, |service| service.add(1)))).await;
        }
        // Those whose answer nobody awaited came before these.
        cores.ask(B, |service| service.sum.get()).await
    });
    assert_eq!(ran[0], ROUNDS + 1000);
}

#[test]
fn a_core_whose_main_has_ended_goes_on_answering() {
    let sums = run_unpinned(3, async |cores| {
        serve(&cores);
        let mut sum = 0;
        if cores.me() == A {
            for _ in 0..1000 {
                sum += cores.ask(B, |service| service.add(1)).await;
                sum += cores.call(CoreId(2), async |service: Rc<Service>| service.add(1)).await;
            }
        }
        sum
    });
    assert_eq!(sums, [1000 * 1001, 0, 0]);
}

#[test]
fn a_core_that_fails_ends_the_others_and_its_error_is_returned() {
    let outcome = run_cores(unpinned(3), async |cores: Cores<Service>, ()| {
        match cores.me() {
            A => serve(&cores),
            // Before it ever answers.
            B => return Err("no disk"),
            _ => return Ok(()),
        };
        // One task waits for an answer that never comes, one for nothing at all.
        let asking = cores.clone();
        spawn(async move { asking.ask(B, |service| service.stop.set(true)).await });
        cores.ask(B, |service| service.add(1)).await;
        pending().await
    });
    assert_eq!(outcome.unwrap(), Err("no disk"));
}

#[test]
fn no_main_begins_unless_every_core_can() {
    let began = AtomicBool::new(false);
    for impossible in 0..3 {
        let inputs = (0..3).map(|core| ((core == impossible).then_some(usize::MAX), ())).collect();
        let outcome = run_cores(inputs, async |_: Cores<Service>, ()| {
            began.store(true, Ordering::Relaxed);
            Ok::<(), ()>(())
        });
        assert!(matches!(outcome, Err(RunError::Pin { cpu: usize::MAX, .. })));
    }
    assert!(!began.load(Ordering::Relaxed));
}

/// Names the core whose main panics; set only in the child process of the test below.
const PANICKING_CORE: &str = "NET_TEST_PANICKING_CORE";

#[test]
fn a_core_that_panics_ends_the_process() {
    const NAME: &str = "a_core_that_panics_ends_the_process";
    if let Ok(core) = std::env::var(PANICKING_CORE) {
        let panicking = CoreId(core.parse().unwrap());
        run_unpinned(2, async |cores| {
            serve(&cores);
            if cores.me() == panicking {
                // In a closure of the other core's, which waits for it.
                return pending().await;
            }
            cores.ask(panicking, |_| panic!("on purpose")).await
        });
        return;
    }
    for core in ["0", "1"] {
        let mut child = Command::new(std::env::current_exe().unwrap());
        let output = child.args(["--exact", NAME, "--nocapture"]).env(PANICKING_CORE, core).output().unwrap();
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(!output.status.success(), "{said}");
        assert!(said.contains("on purpose"), "{said}");
        // The core itself, or the one that waits for its answer.
        assert!(said.contains("fatal: core"), "{said}");
    }
}

/// One piece of work, as long as ours are between two yields.
fn work(length: Duration) {
    let start = monotonic();
    while monotonic() - start < length {
        std::hint::spin_loop();
    }
}

const CALLS: usize = 200;
const MEDIAN_MAX: Duration = Duration::from_millis(5);
/// Ends a busy task that starves its core, so that the test fails rather than hangs.
const BUSY_MAX: Duration = Duration::from_secs(40);
/// How long one may wait for a moment in which the machine is not busy with something else.
const MEASURING_MAX: Duration = Duration::from_secs(15);

/// The best median of rounds of [`CALLS`] calls to A, one after the other. Each is a task there, so it needs a turn of
/// its own besides the inbox's.
///
/// Other processes can only make a round slower, so one good round tells what the cores can do.
async fn median_round_trip(cores: &Cores<Service>) -> Duration {
    let start = monotonic();
    let mut best = Duration::MAX;
    while best >= MEDIAN_MAX && monotonic() - start < MEASURING_MAX {
        best = best.min(median_of_round(cores).await);
    }
    best
}

async fn median_of_round(cores: &Cores<Service>) -> Duration {
    let mut round_trips = Vec::with_capacity(CALLS);
    for number in 0..CALLS {
        let start = monotonic();
        let run = move |_: Rc<Service>| async move {
            yield_now().await;
            number
        };
        assert_eq!(cores.call(A, run).await, number);
        round_trips.push(monotonic() - start);
    }
    round_trips.sort_unstable();
    let longest = round_trips[CALLS - 1];
    assert!(longest < BUSY_MAX / 2, "{longest:?}: calls waited for the end of the busy task");
    round_trips[CALLS / 2]
}

// Tried: with a yield that wakes its own task by reference, the executor never looks at the kernel, the first call is
// answered after BUSY_MAX, and this test fails.
#[test]
fn a_busy_task_on_one_core_does_not_delay_calls_from_another() {
    let medians = run_unpinned(2, async |cores| {
        let service = serve(&cores);
        if cores.me() == B {
            let median = median_round_trip(&cores).await;
            cores.ask(A, |service| service.stop.set(true)).await;
            return median;
        }
        let start = monotonic();
        while !service.stop.get() && monotonic() - start < BUSY_MAX {
            work(Duration::from_micros(200));
            yield_now().await;
        }
        Duration::ZERO
    });
    assert!(medians[B.0 as usize] < MEDIAN_MAX, "{medians:?}");
}

// Counts instead of measuring: two cores that are both flooded leave a loaded machine no quiet moment.
//
// Tried: with an inbox that runs calls for as long as there are any, this test fails.
#[test]
fn a_flooded_inbox_lets_its_core_have_its_turns() {
    const FLOOD: usize = 4 * MAILBOX_BATCH_CALLS_MAX;
    let longest = run_unpinned(2, async |cores| {
        let service = serve(&cores);
        if cores.me() == B {
            for _ in 0..FLOOD {
                let cores = cores.clone();
                let answer = |service: &Service| {
                    work(Duration::from_micros(10));
                    service.add(1);
                    service.stop.get()
                };
                spawn(async move { while !cores.ask(A, answer).await {} });
            }
            median_of_round(&cores).await;
            cores.ask(A, |service| service.stop.set(true)).await;
            return 0;
        }
        let mut longest = 0;
        while !service.stop.get() {
            let before = service.sum.get();
            yield_now().await;
            longest = longest.max(service.sum.get() - before);
        }
        longest
    });
    // A turn that ends as the inbox's begins sees the next one, too.
    assert!(longest[0] <= 2 * MAILBOX_BATCH_CALLS_MAX as u64, "{longest:?} calls between two turns of a task");
    assert!(longest[0] >= MAILBOX_BATCH_CALLS_MAX as u64 / 2, "{longest:?}: this was no flood");
}

#[test]
#[ignore = "a measurement: run in release with --nocapture on two idle CPUs"]
fn measure_round_trips() {
    const MEASURED: Duration = Duration::from_secs(2);
    let cpus = net::cpus().unwrap();
    let inputs = vec![(Some(cpus[0]), ()), (Some(cpus[1 % cpus.len()]), ())];
    let main = async |cores: Cores<Service>, ()| {
        serve(&cores);
        if cores.me() == A {
            return Ok::<(), ()>(());
        }
        for in_flight in [1_usize, 8, 64, 256] {
            let start = monotonic();
            let tasks = (0..in_flight).map(async |_| {
                let mut count = 0_u64;
                while monotonic() - start < MEASURED {
                    cores.ask(A, |service| service.add(1)).await;
                    count += 1;
                }
                count
            });
            let count: u64 = join_all(tasks).await.iter().sum();
            let seconds = (monotonic() - start).as_secs_f64();
            let each = seconds * 1e6 * in_flight as f64 / count as f64;
            println!("ask, {in_flight:3} in flight: {:9.0} per second, {each:.1} us each", count as f64 / seconds);
        }
        Ok(())
    };
    run_cores(inputs, main).unwrap().unwrap();
}
