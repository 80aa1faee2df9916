//! Latencies: recorded without losing the tail, and corrected for coordinated omission.
//!
//! A client that waits for one answer before it sends the next request stops measuring exactly when the server is slow:
//! a stall of a second is one bad sample, although a thousand requests would have met it. Two remedies, one for each
//! kind of load:
//!
//! * *Open loop*: operations have intended start times, and a latency counts from there, sent or not
//!   (see `load::pace`). Nothing is to be corrected.
//! * *Closed loop*: [`Latencies::corrected`] adds, for each sample longer than the expected interval, the samples that
//!   would have been taken meanwhile (`Histogram::clone_correct`). What was measured is shown beside it.

use std::time::Duration;

use hdrhistogram::Histogram;
use serde::Serialize;

/// Shortest latency that is told apart from none, and longest that is not cut, in nanoseconds.
const NS_MIN: u64 = 1_000;
const NS_MAX: u64 = 3_600_000_000_000;
/// Decimal digits that are kept of each latency.
const DIGITS: u8 = 3;

/// A recording of latencies.
#[derive(Clone, Debug)]
pub(crate) struct Latencies(Histogram<u64>);

/// What a recording says, in seconds.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub(crate) struct Summary {
    pub(crate) mean_s: f64,
    pub(crate) p50_s: f64,
    pub(crate) p90_s: f64,
    pub(crate) p99_s: f64,
    pub(crate) p99_9_s: f64,
    pub(crate) max_s: f64,
}

impl Latencies {
    pub(crate) fn new() -> Latencies {
        Latencies(Histogram::new_with_bounds(NS_MIN, NS_MAX, DIGITS).expect("invariant: the bounds are sound"))
    }

    pub(crate) fn record(&mut self, latency: Duration) {
        self.0.saturating_record(u64::try_from(latency.as_nanos()).unwrap_or(NS_MAX));
    }

    pub(crate) fn add(&mut self, other: &Latencies) {
        self.0.add(&other.0).expect("invariant: all recordings have the same bounds");
    }

    pub(crate) fn count(&self) -> u64 {
        self.0.len()
    }

    /// What requests at a steady pace would have seen.
    ///
    /// The pace is that of the throughput that was measured: each connection sends once per mean latency. The median
    /// would be too fast where quick and slow operations are mixed, and call every slow one a stall.
    pub(crate) fn corrected(&self) -> Latencies {
        Latencies(self.0.clone_correct(self.0.mean() as u64))
    }

    /// `None` if nothing was recorded.
    pub(crate) fn summary(&self) -> Option<Summary> {
        let seconds = |ns: u64| ns as f64 / 1e9;
        let at = |quantile: f64| seconds(self.0.value_at_quantile(quantile));
        (self.count() > 0).then(|| Summary {
            mean_s: self.0.mean() / 1e9,
            p50_s: at(0.5),
            p90_s: at(0.9),
            p99_s: at(0.99),
            p99_9_s: at(0.999),
            max_s: seconds(self.0.max()),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stall_that_a_closed_loop_hid_shows_after_the_correction() {
        let mut latencies = Latencies::new();
        for _ in 0..10_000 {
            latencies.record(Duration::from_millis(1));
        }
        latencies.record(Duration::from_secs(1));
        let measured = latencies.summary().unwrap();
        assert!(measured.p99_s < 0.002, "{measured:?}");
        // 10,900 requests at the pace of one per 1.1 ms: a twelfth would have met the stall, a hundredth for 880 ms.
        let corrected = latencies.corrected();
        assert!((10_850..11_000).contains(&corrected.count()), "{}", corrected.count());
        let corrected = corrected.summary().unwrap();
        assert!((0.86..0.90).contains(&corrected.p99_s), "{corrected:?}");
        assert!(corrected.p50_s < 0.002);
    }

    #[test]
    fn steady_latencies_are_not_changed_by_the_correction() {
        let mut latencies = Latencies::new();
        for us in 900..1100 {
            latencies.record(Duration::from_micros(us));
        }
        assert_eq!(latencies.corrected().count(), latencies.count());
        assert_eq!(latencies.corrected().summary(), latencies.summary());
    }

    #[test]
    fn operations_that_are_slow_by_nature_are_not_taken_for_stalls() {
        let mut latencies = Latencies::new();
        for _ in 0..1_000 {
            latencies.record(Duration::from_micros(200));
            latencies.record(Duration::from_millis(5));
        }
        // Every second operation is slow: at the measured pace, one per 2.6 ms, at most one more is due meanwhile.
        assert!(latencies.corrected().count() <= 3_000, "{}", latencies.corrected().count());
    }

    #[test]
    fn extremes_are_kept_and_nothing_recorded_is_nothing() {
        let mut latencies = Latencies::new();
        assert_eq!(latencies.summary(), None);
        latencies.record(Duration::ZERO);
        latencies.record(Duration::from_secs(100_000));
        assert_eq!(latencies.count(), 2);
        assert!(latencies.summary().unwrap().max_s >= 3600.0);
    }
}
