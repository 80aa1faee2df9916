//! A few threads that work off a bounded queue.

use std::sync::mpsc::{Receiver, sync_channel};
use std::sync::{Mutex, PoisonError};

/// Jobs that wait per thread, so that finding work and doing it overlap without holding a whole tree in memory.
const QUEUED_PER_THREAD: usize = 4;

/// Runs `produce` here and `work` on `threads` threads, for each job that `produce` hands to its argument.
///
/// Returns what `produce` returned, when every job is done.
pub(crate) fn run<J: Send, R>(threads: usize, produce: impl FnOnce(&dyn Fn(J)) -> R, work: impl Fn(J) + Sync) -> R {
    assert!(threads > 0, "somebody has to do the work");
    let (sender, receiver) = sync_channel(threads * QUEUED_PER_THREAD);
    let receiver = Mutex::new(receiver);
    std::thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(|| {
                while let Some(job) = next(&receiver) {
                    work(job);
                }
            });
        }
        // The queue ends with `sender`, which this closure owns: the threads end when `produce` has.
        let send = move |job| sender.send(job).expect("invariant: the receiver outlives this scope");
        produce(&send)
    })
}

fn next<J>(receiver: &Mutex<Receiver<J>>) -> Option<J> {
    receiver.lock().unwrap_or_else(PoisonError::into_inner).recv().ok()
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU64, Ordering};

    use super::*;

    #[test]
    fn every_job_is_done_once() {
        let sum = AtomicU64::new(0);
        let produced = run(
            3,
            |send| {
                (1..=1000).for_each(send);
                "done"
            },
            |job: u64| {
                sum.fetch_add(job, Ordering::Relaxed);
            },
        );
        assert_eq!((produced, sum.into_inner()), ("done", 500_500));
    }
}
