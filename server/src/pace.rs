//! Least progress: a client that is waited for must move some bytes now and then.
//!
//! Only the time that the server spends waiting for the client counts. An upload that the disks hold up, or an event
//! stream that has nothing to tell, is never the client's fault.

use std::time::Duration;

use proto::limits::{PACE_BYTES_MIN, PACE_SECONDS};

/// How long a client was waited for, and what came of it. Times are those of `proto::port::runtime::monotonic`.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Pace {
    /// Waited so far, since the last time that enough had moved.
    waited: Duration,
    /// Moved since then.
    bytes: u64,
    /// Since when the client is waited for, if it is.
    since: Option<Duration>,
}

impl Pace {
    /// How long a client is waited for until it must have moved [`PACE_BYTES_MIN`].
    pub(crate) const WINDOW: Duration = Duration::from_secs(PACE_SECONDS);

    /// The client is waited for from now on, if it was not already.
    pub(crate) fn wait(&mut self, now: Duration) {
        self.since.get_or_insert(now);
    }

    /// The client moved `bytes` and is not waited for any more.
    pub(crate) fn moved(&mut self, now: Duration, bytes: usize) {
        let Some(since) = self.since.take() else { return };
        self.waited += now.saturating_sub(since);
        self.bytes += bytes as u64;
        if self.bytes >= PACE_BYTES_MIN {
            *self = Pace::default();
        }
    }

    /// When the patience with the client ends, if it is being waited for.
    pub(crate) fn deadline(&self) -> Option<Duration> {
        self.since.map(|since| since + Self::WINDOW.saturating_sub(self.waited))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    #[test]
    fn nobody_who_is_not_waited_for_has_a_deadline() {
        let mut pace = Pace::default();
        assert_eq!(pace.deadline(), None);
        pace.wait(5 * SECOND);
        pace.wait(9 * SECOND);
        assert_eq!(pace.deadline(), Some(5 * SECOND + Pace::WINDOW));
        pace.moved(10 * SECOND, 1);
        assert_eq!(pace.deadline(), None);
    }

    #[test]
    fn a_trickle_uses_up_one_window_and_enough_bytes_open_another() {
        let mut pace = Pace::default();
        for second in 0..30 {
            pace.wait(second * SECOND);
            pace.moved((second + 1) * SECOND, 1);
        }
        // An hour in which the client was not waited for costs it nothing.
        pace.wait(3600 * SECOND);
        assert_eq!(pace.deadline(), Some(3600 * SECOND + Pace::WINDOW - 30 * SECOND));
        pace.moved(3601 * SECOND, PACE_BYTES_MIN as usize);
        pace.wait(3700 * SECOND);
        assert_eq!(pace.deadline(), Some(3700 * SECOND + Pace::WINDOW));
    }
}
