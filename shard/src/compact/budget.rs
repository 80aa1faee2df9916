//! How much of a core and its disks compaction may take.
//!
//! Shared by all cores and changed while it runs. The work is cut into steps of well below a millisecond: one block read,
//! opened and decoded, or one chunk compressed. After each the core is left to its other tasks, for as long as keeps
//! the work within its share of time.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU8, Ordering};
use std::time::Duration;

use proto::port::runtime;

/// The longest pause after one step, however small the share.
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

    /// Begins a step.
    pub(crate) fn step(&self) -> Step<'_> {
        Step { budget: self, began: runtime::monotonic() }
    }

    fn pause_after(&self, busy: Duration) -> Duration {
        let percent = u32::from(self.0.percent.load(Ordering::Relaxed));
        (busy * (100 - percent) / percent).min(PAUSE_MAX)
    }
}

/// A step under way.
pub(crate) struct Step<'a> {
    budget: &'a Budget,
    began: Duration,
}

impl Step<'_> {
    /// Ends the step, and lets others run for as long as it took in proportion.
    pub(crate) async fn done(self) {
        let busy = runtime::monotonic().saturating_sub(self.began);
        runtime::sleep(self.budget.pause_after(busy)).await;
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
        budget.set_percent(0);
        assert_eq!(budget.pause_after(Duration::from_millis(2)), PAUSE_MAX, "no share is none at all");
    }
}
