//! Real time: measurements are of it, so this crate reads the clock and sleeps, here and nowhere else.

use std::time::{Duration, Instant};

/// Now.
#[expect(clippy::disallowed_methods, reason = "a benchmark measures real time")]
pub(crate) fn now() -> Instant {
    Instant::now()
}

/// Seconds since the Unix epoch.
#[expect(clippy::disallowed_methods, reason = "names of runs are told apart by the real time")]
pub(crate) fn unix_seconds() -> u64 {
    std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).map_or(0, |since| since.as_secs())
}

/// Sleeps for `duration`.
#[expect(clippy::disallowed_methods, reason = "a load generator keeps a pace in real time")]
pub(crate) fn sleep(duration: Duration) {
    std::thread::sleep(duration);
}

/// Sleeps until `due`; returns at once if that is past.
pub(crate) fn sleep_until(due: Instant) {
    let rest = due.saturating_duration_since(now());
    if !rest.is_zero() {
        sleep(rest);
    }
}

/// Lets the kernel wake this thread when it asked for, not up to 50 µs later.
pub(crate) fn sleep_precisely() {
    // Refused or not: what remains shows in the latencies, never hides in them.
    let _ = rustix::thread::set_current_timer_slack(std::num::NonZeroU64::new(1));
}

/// Seconds that `work` takes, and what it returns.
pub(crate) fn time<T>(work: impl FnOnce() -> T) -> (f64, T) {
    let start = now();
    let output = work();
    (start.elapsed().as_secs_f64(), output)
}
