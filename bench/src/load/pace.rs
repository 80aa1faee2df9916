//! When operations are due, and when there are no more.
//!
//! Open loop: operation `i` is due `i / rate` seconds after the start, whatever became of those before it. If all
//! connections are busy at that time it waits, and its waiting counts: that is the point of an open loop.

use std::time::Duration;

/// How operations follow each other.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Pace {
    /// Each connection sends when its last answer is there.
    Closed,
    /// So many operations start each second, over all connections.
    Open {
        /// Operations per second, above 0.
        rate: f64,
    },
}

/// How long a phase lasts.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Limit {
    /// So many operations.
    Count(u64),
    /// As many as are due, or can be started, in this time.
    Duration(Duration),
}

impl Pace {
    /// When operation `index` is due, counted from the start; `None` if as soon as possible.
    pub(crate) fn due(self, index: u64) -> Option<Duration> {
        match self {
            Pace::Closed => None,
            Pace::Open { rate } => Some(Duration::from_secs_f64(index as f64 / rate)),
        }
    }
}

impl Limit {
    /// Whether operation `index` is still one of the phase, `elapsed` after its start.
    pub(crate) fn admits(self, pace: Pace, index: u64, elapsed: Duration) -> bool {
        match self {
            Limit::Count(count) => index < count,
            Limit::Duration(duration) => pace.due(index).unwrap_or(elapsed) < duration,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEN_SECONDS: Limit = Limit::Duration(Duration::from_secs(10));

    #[test]
    fn an_open_loop_has_its_schedule_from_the_start() {
        let pace = Pace::Open { rate: 250.0 };
        assert_eq!(pace.due(0), Some(Duration::ZERO));
        assert_eq!(pace.due(250), Some(Duration::from_secs(1)));
        assert_eq!(pace.due(3_600 * 250), Some(Duration::from_secs(3_600)), "no drift");
    }

    #[test]
    fn what_is_due_in_time_is_done_however_late_it_gets() {
        let pace = Pace::Open { rate: 250.0 };
        let late = Duration::from_secs(60);
        assert!(TEN_SECONDS.admits(pace, 2_499, late));
        assert!(!TEN_SECONDS.admits(pace, 2_500, Duration::ZERO));
    }

    #[test]
    fn a_closed_loop_ends_with_the_time_or_the_count() {
        assert!(TEN_SECONDS.admits(Pace::Closed, u64::MAX, Duration::from_secs(9)));
        assert!(!TEN_SECONDS.admits(Pace::Closed, 0, Duration::from_secs(10)));
        assert!(Limit::Count(3).admits(Pace::Closed, 2, Duration::MAX));
        assert!(!Limit::Count(3).admits(Pace::Closed, 3, Duration::ZERO));
    }
}
