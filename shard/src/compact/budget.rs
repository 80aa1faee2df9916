//! How much of a core and its disks garbage collection and compaction may take.
//!
//! A [`Budget`] is shared by all cores and may change while they work. The work is cut into steps of well below a
//! millisecond: one block read, opened and decoded, or one chunk compressed. After each the core is left to its other
//! tasks; the pauses that keep the work within its share of time are saved up until they are worth a timer.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU8, Ordering};
use std::time::Duration;

use proto::port::runtime;

/// The shortest pause: timers have a resolution of a millisecond.
const PAUSE_MIN: Duration = Duration::from_millis(2);
/// What is owed beyond it is forgiven: a disk that hung for a minute is no reason to rest for an hour.
const OWED_MAX: Duration = Duration::from_secs(10);
/// The longest pause, however small the share.
const PAUSE_MAX: Duration = Duration::from_millis(100);

/// See the module. Clones are the same budget.
#[derive(Clone, Debug)]
pub struct Budget(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    /// 1 to 100.
    percent: AtomicU8,
    stopped: AtomicBool,
}

impl Default for Budget {
    fn default() -> Budget {
        Budget::new(100)
    }
}

impl Budget {
    /// Returns a budget of `percent` of each core's time, from 1 to 100. With 100 it only lets others run between steps.
    #[must_use]
    pub fn new(percent: u8) -> Budget {
        Budget(Arc::new(Shared { percent: AtomicU8::new(percent.clamp(1, 100)), stopped: AtomicBool::new(false) }))
    }

    /// Changes the share from the next step on.
    pub fn set_percent(&self, percent: u8) {
        self.0.percent.store(percent.clamp(1, 100), Ordering::Relaxed);
    }

    /// Has the work end after the step that is under way.
    pub fn stop(&self) {
        self.0.stopped.store(true, Ordering::Relaxed);
    }

    /// Whether the work is to end.
    #[must_use]
    pub fn is_stopped(&self) -> bool {
        self.0.stopped.load(Ordering::Relaxed)
    }

    fn pause_after(&self, busy: Duration) -> Duration {
        let percent = u32::from(self.0.percent.load(Ordering::Relaxed));
        busy * (100 - percent) / percent
    }
}

/// Keeps one task within a budget.
#[derive(Debug)]
pub struct Pace {
    budget: Budget,
    worked_since: Duration,
    /// The pauses that are not made yet.
    owed: Duration,
}

impl Pace {
    /// Returns the pace of a task that begins to work now.
    #[must_use]
    pub fn new(budget: &Budget) -> Pace {
        Pace { budget: budget.clone(), worked_since: runtime::monotonic(), owed: Duration::ZERO }
    }

    /// Whether the work is to end.
    #[must_use]
    pub fn is_stopped(&self) -> bool {
        self.budget.is_stopped()
    }

    /// Ends a step, and lets others run. What the step waited for counts as its work: it took the time of a disk or of
    /// another core.
    pub async fn step(&mut self) {
        let worked = runtime::monotonic().saturating_sub(self.worked_since);
        self.owed += self.budget.pause_after(worked);
        if self.owed < PAUSE_MIN {
            runtime::yield_now().await;
        } else {
            let pause = self.owed.min(PAUSE_MAX);
            runtime::sleep(pause).await;
            self.owed = (self.owed - pause).min(OWED_MAX);
        }
        self.worked_since = runtime::monotonic();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_step_is_followed_by_the_rest_of_its_share() {
        let budget = Budget::new(25);
        assert_eq!(budget.pause_after(Duration::from_millis(2)), Duration::from_millis(6));
        budget.set_percent(100);
        assert_eq!(budget.pause_after(Duration::from_millis(2)), Duration::ZERO);
        assert_eq!(Budget::new(1).pause_after(Duration::from_millis(2)), Duration::from_millis(198));
    }
}
