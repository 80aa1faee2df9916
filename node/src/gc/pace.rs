//! How much of a core a cycle may take.

use std::time::Duration;

use proto::port::runtime;

/// The least that is slept at once.
const PAUSE_MIN: Duration = Duration::from_millis(2);

/// Lets others run between the steps of a cycle, and sleeps for as long as keeps it within its share.
pub(super) struct Pace {
    /// What is to be slept for each unit of work, in hundredths.
    rest_percent: u32,
    worked_since: Duration,
}

impl Pace {
    /// A pace of `budget_percent` of a core.
    pub(super) fn new(budget_percent: u8) -> Pace {
        let budget = u32::from(budget_percent.clamp(1, 100));
        Pace { rest_percent: (100 - budget) * 100 / budget, worked_since: runtime::monotonic() }
    }

    /// Ends a step. What the step waited for counts as its work: it took the time of a disk or of another core.
    pub(super) async fn step(&mut self) {
        let worked = runtime::monotonic().saturating_sub(self.worked_since);
        let pause = worked * self.rest_percent / 100;
        if pause >= PAUSE_MIN {
            runtime::sleep(pause).await;
            self.worked_since = runtime::monotonic();
        } else {
            if self.rest_percent == 0 {
                self.worked_since = runtime::monotonic();
            }
            runtime::yield_now().await;
        }
    }
}
