//! Garbage collection: what no version, upload or read needs is found, and its space given back.
//!
//! The protocol, and why it is safe, is docs/rfcs/0007-garbage-collection.md. A reading guide:
//!
//! * `cycle`: one cycle, step by step.
//! * `mark`: the walk over all manifests, and over what is open.
//! * `pin`: a commit that a cycle overtook asks for its chunks again.
//! * `compact`: what is alive in segments that are mostly dead, or were never regrouped, moves.
//! * `free`: whole segments that nothing names, and the files of those.
//! * [`status`]: what is told of it.
//!
//! One core collects, the one that has the namespace, one cycle at a time.

mod compact;
mod cycle;
mod free;
mod mark;
pub(crate) mod pin;
pub mod status;

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::time::Duration;

use futures_channel::oneshot;
use futures_util::future::{Either, select};
use futures_util::lock::Mutex;
use meta::Solo;
use proto::Lsn;
use proto::port::{Disk, runtime};
use shard::compact::{Budget, Pace};

use crate::{Inner, Node};
pub use status::{CycleReport, GcStatus, Phase};

/// Cycles after which everything is gone that was garbage before the first: what was pinned last in the epoch before
/// them is stale in the second.
const CYCLES_FOR_NOW: usize = 2;
/// How often it is looked whether a cycle is due.
const LOOK_AGAIN_AFTER: Duration = Duration::from_secs(60);
/// Part of the data that may be removed before a cycle is due.
const DUE_PART: u64 = 16;

/// When garbage is collected by itself, and what that may cost.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct GcOptions {
    /// Whether it is at all.
    pub automatic: bool,
    /// Time after which the next cycle begins if anything changed; one begins sooner when much was removed.
    pub interval: Duration,
    /// Percent of a core that a cycle which nobody waits for may take; 1 to 100.
    pub budget_percent: u8,
}

impl Default for GcOptions {
    fn default() -> GcOptions {
        GcOptions { automatic: true, interval: Duration::from_secs(3600), budget_percent: 20 }
    }
}

/// What a run is asked to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Collect {
    /// One cycle, at the pace of the budget.
    Once,
    /// As many as it takes until everything is gone that is garbage now, at full pace.
    Now,
}

/// What one run of the collection did.
pub type RunOutcome = Result<CycleReport, String>;

/// Where runs are asked for, on the core that has the namespace.
#[derive(Default)]
pub(crate) struct Desk {
    status: RefCell<GcStatus>,
    asked: Cell<Option<Collect>>,
    /// Who waits for the run that was asked for.
    waiting: RefCell<Vec<oneshot::Sender<RunOutcome>>>,
    wake: RefCell<Option<oneshot::Sender<()>>>,
    /// Held while chunks are moved or segments freed; what it holds says whether any more may be.
    work: Mutex<Work>,
    /// What a cycle may take of the core that runs it, and compaction of each.
    budget: Budget,
}

/// Whether chunks may be moved and segments freed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Work {
    #[default]
    Allowed,
    /// The node is being closed.
    Over,
}

impl Desk {
    /// Asks for a run; if one is under way, for the next. Returns its number.
    fn ask(&self, collect: Collect) -> u64 {
        self.asked.set(self.asked.get().max(Some(collect)));
        if collect == Collect::Now {
            // Whoever waits does so for the run under way as well.
            self.budget.set_percent(100);
        }
        // An error means the same as a message.
        self.wake.take();
        self.status.borrow().runs_begun + 1
    }

    /// As [`Desk::ask`]; completes with what came of it.
    fn ask_and_wait(&self, collect: Collect) -> oneshot::Receiver<RunOutcome> {
        let (tell, told) = oneshot::channel();
        self.waiting.borrow_mut().push(tell);
        self.ask(collect);
        told
    }

    /// Ends compaction, waits until no segment is half freed, and has none freed any more.
    pub(crate) async fn close(&self) {
        self.budget.stop();
        *self.work.lock().await = Work::Over;
    }

    fn status(&self) -> GcStatus {
        self.status.borrow().clone()
    }

    fn note(&self, note: impl FnOnce(&mut GcStatus)) {
        note(&mut self.status.borrow_mut());
    }
}

impl<D: Disk> Node<D> {
    /// Asks for garbage to be collected, and returns the number of the run that will do it: it is done when
    /// [`GcStatus::runs_ended`] reaches it.
    pub async fn begin_collection(&self, collect: Collect) -> u64 {
        self.ask_names(move |names| names.gc.ask(collect)).await
    }

    /// Collects garbage, and returns what came of it.
    ///
    /// Errors: why a cycle ended early; nothing was condemned in it.
    pub async fn collect(&self, collect: Collect) -> RunOutcome {
        let told = self.ask_names(move |names| names.gc.ask_and_wait(collect)).await;
        told.await.unwrap_or_else(|_| Err("the node is shutting down".to_owned()))
    }

    /// How the collection of garbage goes.
    pub async fn gc_status(&self) -> GcStatus {
        self.ask_names(|names| GcStatus { epoch: names.meta.view(|view| view.epoch()), ..names.gc.status() }).await
    }
}

/// What collects, on the core that has the namespace.
pub(crate) struct Collector<D: Disk> {
    pub(crate) node: Rc<Inner<D>>,
    pub(crate) meta: Solo<D>,
    pub(crate) desk: Rc<Desk>,
    pub(crate) options: GcOptions,
}

impl<D: Disk> Collector<D> {
    /// Collects garbage for as long as the node lives: when it is asked to, and by itself.
    pub(crate) async fn keep_collecting(self) {
        let mut calendar = Calendar::default();
        loop {
            let collect = self.next_run(&mut calendar).await;
            self.desk.note(|status| status.runs_begun += 1);
            self.desk.asked.take();
            let waiting = self.desk.waiting.take();
            let outcome = self.run(collect).await;
            calendar.ended(&self.meta, &outcome);
            self.desk.note(GcStatus::run_ended);
            for who in waiting {
                // Whoever went away does not matter.
                let _ = who.send(outcome.clone());
            }
        }
    }

    /// Waits until a run is asked for or due.
    async fn next_run(&self, calendar: &mut Calendar) -> Collect {
        loop {
            let (tell, woken) = oneshot::channel();
            *self.desk.wake.borrow_mut() = Some(tell);
            if let Some(collect) = self.desk.asked.get() {
                return collect;
            }
            if !self.options.automatic {
                // An error means the same as a message.
                let _ = woken.await;
                continue;
            }
            let look = runtime::sleep(LOOK_AGAIN_AFTER.min(self.options.interval));
            if let Either::Right(_) = select(woken, look).await {
                if !calendar.is_due(&self.meta, &self.options) && calendar.may_expire(&self.options) {
                    // Versions go with time alone, and that is a change. What an error kept from going goes later.
                    let _ = Node(self.node.clone()).expire(u64::MAX).await;
                }
                if calendar.is_due(&self.meta, &self.options) {
                    return Collect::Once;
                }
            }
        }
    }

    /// One run.
    async fn run(&self, collect: Collect) -> RunOutcome {
        let (cycles, budget_percent) = match collect {
            Collect::Once => (1, self.options.budget_percent),
            Collect::Now => (CYCLES_FOR_NOW, 100),
        };
        if collect == Collect::Now {
            // What was written last can be freed as well.
            self.node.store.seal_open_segments().await;
        }
        self.desk.budget.set_percent(budget_percent);
        let mut sum = CycleReport::default();
        for number in 1..=cycles {
            // What an earlier cycle of the run would move, a later one may condemn.
            let compacts = number == cycles;
            let outcome = self.cycle(compacts, &mut Pace::new(&self.desk.budget)).await.map_err(|why| why.to_string());
            self.desk.note(|status| status.cycle_ended(&outcome));
            sum += outcome?;
        }
        Ok(sum)
    }
}

/// What decides when a cycle is due.
#[derive(Default)]
struct Calendar {
    ended_at: Option<Duration>,
    /// When versions were let go, or none was found to be.
    looked_at: Option<Duration>,
    /// The last command of the metadata when the last cycle had ended.
    last_command: Lsn,
    /// Cycles in a row that found nothing.
    idle_cycles: usize,
    /// The most that was stored since the last cycle.
    logical_bytes_max: u64,
}

impl Calendar {
    fn is_due<D: Disk>(&mut self, meta: &Solo<D>, options: &GcOptions) -> bool {
        let logical_bytes = meta.view(|view| view.counters()).logical_bytes;
        self.logical_bytes_max = self.logical_bytes_max.max(logical_bytes);
        let removed = self.logical_bytes_max - logical_bytes;
        let ended_at = *self.ended_at.get_or_insert_with(runtime::monotonic);
        let passed = runtime::monotonic().saturating_sub(ended_at);
        let much = removed > 0 && removed >= self.logical_bytes_max / DUE_PART;
        // What is garbage now may be found only by the cycle after the next.
        let changed = meta.last_applied() != self.last_command || self.idle_cycles < CYCLES_FOR_NOW;
        much || passed >= options.interval && changed
    }

    /// Whether it is time to look whether retentions let versions go.
    fn may_expire(&mut self, options: &GcOptions) -> bool {
        let now = runtime::monotonic();
        let looked_at = *self.looked_at.get_or_insert(now);
        let may = now.saturating_sub(looked_at) >= options.interval;
        if may {
            self.looked_at = Some(now);
        }
        may
    }

    fn ended<D: Disk>(&mut self, meta: &Solo<D>, outcome: &RunOutcome) {
        let found = outcome.as_ref().is_ok_and(|report| report.has_changed());
        self.idle_cycles = if found { 0 } else { self.idle_cycles + 1 };
        self.last_command = meta.last_applied();
        self.logical_bytes_max = meta.view(|view| view.counters()).logical_bytes;
        self.ended_at = Some(runtime::monotonic());
        self.looked_at = self.ended_at;
    }
}
