//! The engine of a load: connections, each with a thread, that perform operations at a pace.
//!
//! One plain thread per connection: it sleeps in the kernel while the server works, and costs two or three system calls
//! and one switch per operation.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{RecvTimeoutError, channel};
use std::time::{Duration, Instant};

use indicatif::ProgressBar;

use crate::clock;
use crate::http::{Answer, CallError, Connection, Request, Sink};
use crate::load::pace::{Limit, Pace};
use crate::load::tally::Tally;

/// How often the progress is shown.
const PROGRESS_PERIOD: Duration = Duration::from_millis(250);
/// Attempts of one operation that the server is too busy for, before it counts as failed.
const ATTEMPTS_MAX: u32 = 100;
/// Wait after 429 without `Retry-After`.
const RETRY_AFTER_DEFAULT: Duration = Duration::from_millis(100);
/// Wait after a lost connection, so that a dead server is not called in a tight loop.
const LOST_PAUSE: Duration = Duration::from_millis(10);

/// What one connection does.
pub(crate) trait Script: Send {
    /// Decides what operation `number` is; returns its kind.
    fn plan(&mut self, number: u64) -> usize;
    /// The request of the planned operation; asked again if it is to be repeated.
    ///
    /// Errors: the content cannot be read.
    fn request(&mut self) -> std::io::Result<Request<'_>>;
    /// The operation succeeded, and moved so many bytes.
    ///
    /// Errors: why it did not after all.
    fn succeeded(&mut self, answer: &Answer) -> Result<u64, String>;
}

/// One connection and what it does.
pub(crate) struct Worker<S> {
    pub(crate) connection: Connection,
    pub(crate) script: S,
}

/// What a phase is.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Phase {
    pub(crate) pace: Pace,
    pub(crate) limit: Limit,
    /// Number of the first operation: scripts name their files by it, and phases must not share them.
    pub(crate) first: u64,
    /// Kinds of operations.
    pub(crate) kinds: usize,
}

/// Performs a phase; returns what came of it and how many seconds it took.
pub(crate) fn drive<S: Script>(workers: &mut [Worker<S>], phase: Phase, progress: &ProgressBar) -> (Tally, f64) {
    let next = AtomicU64::new(0);
    let begun = clock::now();
    let (ended, all_ended) = channel::<()>();
    let mut total = Tally::new(phase.kinds);
    std::thread::scope(|scope| {
        let start = |worker| {
            let (next, ended) = (&next, ended.clone());
            scope.spawn(move || {
                let tally = work(worker, phase, next, begun);
                drop(ended);
                tally
            })
        };
        let threads: Vec<_> = workers.iter_mut().map(start).collect();
        drop(ended);
        while all_ended.recv_timeout(PROGRESS_PERIOD) == Err(RecvTimeoutError::Timeout) {
            show(progress, phase.limit, next.load(Ordering::Relaxed), begun.elapsed());
        }
        for thread in threads {
            total.add(&thread.join().expect("invariant: a worker does not panic"));
        }
    });
    (total, begun.elapsed().as_secs_f64())
}

fn show(progress: &ProgressBar, limit: Limit, started: u64, elapsed: Duration) {
    let rate = started as f64 / elapsed.as_secs_f64();
    progress.set_message(match limit {
        Limit::Count(count) => format!("{} of {count} operations, {rate:.0}/s", started.min(count)),
        Limit::Duration(duration) => {
            format!(
                "{started} operations, {rate:.0}/s, {:.0} of {:.0} s",
                elapsed.as_secs_f64(),
                duration.as_secs_f64()
            )
        }
    });
    progress.tick();
}

fn work<S: Script>(worker: &mut Worker<S>, phase: Phase, next: &AtomicU64, begun: Instant) -> Tally {
    clock::sleep_precisely();
    let mut tally = Tally::new(phase.kinds);
    loop {
        let index = next.fetch_add(1, Ordering::Relaxed);
        if !phase.limit.admits(phase.pace, index, begun.elapsed()) {
            return tally;
        }
        let start = match phase.pace.due(index) {
            Some(due) => {
                clock::sleep_until(begun + due);
                begun + due
            }
            None => clock::now(),
        };
        let kind = worker.script.plan(phase.first + index);
        match perform(worker, phase.pace, &mut tally) {
            Outcome::Done(bytes) => tally.succeeded(kind, start.elapsed(), bytes),
            Outcome::Busy => {}
            Outcome::Failed(reason) => tally.failed(reason),
        }
    }
}

enum Outcome {
    /// It moved so many bytes.
    Done(u64),
    /// The server was too busy, and an open loop does not ask again.
    Busy,
    Failed(String),
}

/// Performs the planned operation.
fn perform<S: Script>(worker: &mut Worker<S>, pace: Pace, tally: &mut Tally) -> Outcome {
    for _ in 0..ATTEMPTS_MAX {
        let request = match worker.script.request() {
            Ok(request) => request,
            Err(error) => return Outcome::Failed(format!("local: {error}")),
        };
        let answer = match worker.connection.call(request, Sink::Discard) {
            Ok(answer) => answer,
            Err(CallError::Local(error)) => return Outcome::Failed(format!("local: {error}")),
            Err(CallError::Lost(error)) => {
                clock::sleep(LOST_PAUSE);
                return Outcome::Failed(format!("lost: {}", error.kind()));
            }
        };
        if answer.is_success() {
            return worker.script.succeeded(&answer).map_or_else(Outcome::Failed, Outcome::Done);
        }
        if answer.status != 429 {
            return Outcome::Failed(format!("{} {}", answer.status, answer.code.unwrap_or_default()));
        }
        tally.refused_as_busy();
        if pace != Pace::Closed {
            return Outcome::Busy;
        }
        clock::sleep(answer.retry_after.unwrap_or(RETRY_AFTER_DEFAULT));
    }
    Outcome::Failed("429 busy, again and again".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::http::Endpoint;
    use std::io::{BufRead, BufReader, Write};
    use std::net::TcpListener;
    use std::sync::Arc;

    /// How long the server stalls once.
    const STALL: Duration = Duration::from_millis(400);

    /// A server on one connection at a time that answers every request at once, the one numbered `stalled` late, and
    /// those numbered in `busy` with 429.
    fn serve(listener: &TcpListener, stalled: u64, busy: std::ops::Range<u64>) {
        let mut requests = 0;
        // Whoever tests ends the connection when all is done.
        let (stream, _) = listener.accept().unwrap();
        let mut writer = stream.try_clone().unwrap();
        writer.set_nodelay(true).unwrap();
        for line in BufReader::new(stream).lines().map_while(Result::ok) {
            // The empty line that ends a head.
            if !line.is_empty() {
                continue;
            }
            if requests == stalled {
                clock::sleep(STALL);
            }
            let status = if busy.contains(&requests) { "429 Too Many\r\nretry-after: 0" } else { "200 OK" };
            requests += 1;
            let answer = format!("HTTP/1.1 {status}\r\ncontent-length: 2\r\n\r\nok");
            if writer.write_all(answer.as_bytes()).is_err() {
                return;
            }
        }
    }

    struct Get;

    impl Script for Get {
        fn plan(&mut self, _number: u64) -> usize {
            0
        }
        fn request(&mut self) -> std::io::Result<Request<'_>> {
            Ok(Request { method: "GET", target: "/", body: None })
        }
        fn succeeded(&mut self, answer: &Answer) -> Result<u64, String> {
            Ok(answer.body_bytes)
        }
    }

    fn measure(pace: Pace, count: u64, stalled: u64, busy: std::ops::Range<u64>) -> (Tally, f64) {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let endpoint = Arc::new(Endpoint::new(&url, None).unwrap());
        std::thread::scope(|scope| {
            scope.spawn(|| serve(&listener, stalled, busy));
            let mut workers = [Worker { connection: Connection::new(endpoint), script: Get }];
            let phase = Phase { pace, limit: Limit::Count(count), first: 0, kinds: 1 };
            drive(&mut workers, phase, &ProgressBar::hidden())
        })
    }

    #[test]
    fn a_stall_meets_every_operation_that_was_due_meanwhile() {
        // 1,000 operations in a second; 400 of them are due while the server stalls.
        let (tally, _) = measure(Pace::Open { rate: 1000.0 }, 1000, 300, 0..0);
        let latency = tally.latencies().summary().unwrap();
        assert_eq!(tally.operations(), 1000);
        assert!(latency.p99_s > 0.35, "{latency:?}");
        assert!(latency.p90_s > 0.2, "{latency:?}");
    }

    #[test]
    fn a_closed_loop_omits_a_stall_and_the_correction_adds_it() {
        let (tally, _) = measure(Pace::Closed, 1000, 300, 0..0);
        let measured = tally.latencies().summary().unwrap();
        let corrected = tally.latencies().corrected().summary().unwrap();
        assert!(measured.p99_s < STALL.as_secs_f64() / 2.0, "{measured:?}");
        assert!(corrected.p99_s > STALL.as_secs_f64() / 2.0, "{corrected:?}");
        assert!(measured.max_s >= STALL.as_secs_f64());
    }

    #[test]
    fn a_busy_server_is_asked_again_in_a_closed_loop_and_left_alone_in_an_open_one() {
        let (tally, _) = measure(Pace::Closed, 10, u64::MAX, 3..6);
        assert_eq!((tally.operations(), tally.busy()), (10, 3));
        let (tally, _) = measure(Pace::Open { rate: 1000.0 }, 10, u64::MAX, 3..6);
        assert_eq!((tally.operations(), tally.busy()), (7, 3));
        assert!(tally.failures().is_empty(), "busy is not failed");
    }

    #[test]
    fn a_server_that_goes_away_fails_operations_and_ends_the_run() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        drop(listener);
        let connection = Connection::new(Arc::new(Endpoint::new(&url, None).unwrap()));
        let phase = Phase { pace: Pace::Closed, limit: Limit::Count(3), first: 0, kinds: 1 };
        let (tally, _) = drive(&mut [Worker { connection, script: Get }], phase, &ProgressBar::hidden());
        assert_eq!(tally.failures().values().sum::<u64>(), 3);
    }
}
