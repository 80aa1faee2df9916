//! Group commit: the one task that writes the log and changes the state.
//!
//! It runs while there is work. Whatever queues up during the sync of a batch becomes the next batch, so the batches
//! grow with the load and no timer is needed.

use std::rc::Rc;

use futures_channel::oneshot;
use proto::Lsn;
use proto::port::{Disk, runtime};

use super::error::{ProposeError, SnapshotError};
use super::wal::{BATCH_PLAIN_BYTES_MAX, COMMAND_HEAD_BYTES, WalError, WalWriter};
use super::{Core, Inner, Queued, snapshot};
use crate::exec::exec;

/// Commands applied in one go before other tasks of the core get a turn.
const APPLY_BURST: usize = 256;

/// What the committer does next.
enum Work {
    /// Give a snapshot its moment between batches.
    StartSnapshot(oneshot::Sender<Result<snapshot::Start, SnapshotError>>),
    /// Commit these.
    Batch(Vec<Queued>),
}

/// Makes sure that the committer runs.
pub(super) fn wake<D: Disk>(inner: &Rc<Inner<D>>) {
    let writer = {
        let mut core = inner.core.borrow_mut();
        if core.committing {
            return;
        }
        core.committing = true;
        core.writer.take().expect("invariant: an idle committer leaves the writer")
    };
    runtime::spawn(run(Rc::clone(inner), writer));
}

/// Commits until nothing is left to do.
async fn run<D: Disk>(inner: Rc<Inner<D>>, mut writer: WalWriter<D::File>) {
    loop {
        // Stopping and noticing that there is no work are one step, so that nobody queues in between unseen.
        let work = {
            let mut core = inner.core.borrow_mut();
            match core.next_work() {
                Some(work) => work,
                None => {
                    core.writer = Some(writer);
                    core.committing = false;
                    for waiter in core.idle_waiters.drain(..) {
                        let _ = waiter.send(());
                    }
                    return;
                }
            }
        };
        match work {
            Work::StartSnapshot(answer) => {
                let started = start_snapshot(&inner, &mut writer).await;
                if answer.send(started).is_err() {
                    inner.core.borrow_mut().state.end_snapshot();
                }
            }
            Work::Batch(batch) => commit(&inner, &mut writer, batch).await,
        }
    }
}

/// Makes `batch` durable, applies it and answers it.
async fn commit<D: Disk>(inner: &Rc<Inner<D>>, writer: &mut WalWriter<D::File>, batch: Vec<Queued>) {
    if writer.is_long() {
        match rotate(inner, writer).await {
            // Without room for a new file this one goes on: its length is a target, not a limit.
            Ok(()) | Err(WalError::Full) => {}
            Err(WalError::Failed { file, source }) => {
                return poison(inner, batch, ProposeError::Poisoned { file, kind: source.kind() });
            }
        }
    }
    let first_lsn = Lsn(inner.core.borrow().last_applied.0 + 1);
    let bytes = match writer.append(&inner.options.disk, first_lsn, &batch).await {
        Ok(bytes) => bytes,
        Err(WalError::Full) => {
            for queued in batch {
                let _ = queued.answer.send(Err(ProposeError::StorageFull));
            }
            return;
        }
        Err(WalError::Failed { file, source }) => {
            return poison(inner, batch, ProposeError::Poisoned { file, kind: source.kind() });
        }
    };
    for (index, queued) in batch.into_iter().enumerate() {
        if index % APPLY_BURST == APPLY_BURST - 1 {
            runtime::yield_now().await;
        }
        wait_for_snapshot(inner).await;
        let response = {
            let mut core = inner.core.borrow_mut();
            core.last_applied.0 += 1;
            let response = exec(&queued.command, &mut core.state);
            core.note_load();
            response
        };
        // A caller that went away does not undo its command.
        let _ = queued.answer.send(Ok(response));
    }
    let snapshot_is_due = {
        let mut core = inner.core.borrow_mut();
        for watcher in core.watchers.drain(..) {
            let _ = watcher.send(());
        }
        core.files.wals.insert(writer.sequence(), writer.reserved());
        core.snapshots.wal_bytes += bytes;
        core.snapshots.wal_bytes >= core.snapshots.due_at_wal_bytes && !core.snapshots.running
    };
    if snapshot_is_due {
        drop(snapshot::start(inner));
    }
}

/// Waits while the running snapshot keeps as many old values as it may. It ends whether it succeeds or fails, and needs
/// nothing from the committer for that.
async fn wait_for_snapshot<D: Disk>(inner: &Rc<Inner<D>>) {
    loop {
        let progress = {
            let mut core = inner.core.borrow_mut();
            if !core.state.must_wait_for_snapshot() {
                return;
            }
            let (tell, progress) = oneshot::channel();
            core.snapshots.progress = Some(tell);
            progress
        };
        let _ = progress.await;
    }
}

/// Begins a snapshot of this moment, in which no batch is in flight, and lets the log go on in a new file.
async fn start_snapshot<D: Disk>(
    inner: &Rc<Inner<D>>,
    writer: &mut WalWriter<D::File>,
) -> Result<snapshot::Start, SnapshotError> {
    if !writer.is_empty() {
        match rotate(inner, writer).await {
            Ok(()) => {}
            Err(WalError::Full) => {
                let file = super::DIRECTORY.to_owned();
                return Err(SnapshotError::Device { file, kind: std::io::ErrorKind::StorageFull });
            }
            Err(WalError::Failed { file, source }) => {
                poison(inner, Vec::new(), ProposeError::Poisoned { file, kind: source.kind() });
                return Err(SnapshotError::Stopped);
            }
        }
    }
    let mut core = inner.core.borrow_mut();
    core.state.begin_snapshot();
    core.snapshots.covered_wal_bytes = core.snapshots.wal_bytes;
    Ok(snapshot::Start {
        last_lsn: core.last_applied,
        wal_sequence: writer.sequence(),
        state_bytes: core.state.bytes(),
    })
}

/// Lets the log go on in a new file.
///
/// Once its header is written the new file says that the old one has ended, so the old one must not be written even
/// if making the new one failed later on; only [`WalError::Full`] comes before that.
async fn rotate<D: Disk>(inner: &Rc<Inner<D>>, writer: &mut WalWriter<D::File>) -> Result<(), WalError> {
    let (sequence, first_lsn) = {
        let mut core = inner.core.borrow_mut();
        let newest = core.files.wals.last_key_value().map_or(0, |(sequence, _)| *sequence);
        // An attempt that fails may leave a file, whose number is not used again.
        core.files.wals.insert(newest + 1, 0);
        (newest + 1, Lsn(core.last_applied.0 + 1))
    };
    let reserve_bytes = inner.options.wal_reserve_bytes;
    *writer = WalWriter::create(&inner.options, sequence, first_lsn, reserve_bytes).await?;
    inner.core.borrow_mut().files.wals.insert(sequence, writer.reserved());
    Ok(())
}

/// Stops for good: fails `batch` and everything that is queued.
fn poison<D: Disk>(inner: &Rc<Inner<D>>, batch: Vec<Queued>, error: ProposeError) {
    let (queue, start) = {
        let mut core = inner.core.borrow_mut();
        core.stopped = Some(error.clone());
        core.queue_bytes = 0;
        (std::mem::take(&mut core.queue), core.snapshots.start.take())
    };
    for queued in batch.into_iter().chain(queue) {
        let _ = queued.answer.send(Err(error.clone()));
    }
    if let Some(start) = start {
        let _ = start.send(Err(SnapshotError::Stopped));
    }
}

impl<F> Core<F> {
    /// Takes what is to be done next off the queues.
    fn next_work(&mut self) -> Option<Work> {
        if let Some(start) = self.snapshots.start.take() {
            return Some(Work::StartSnapshot(start));
        }
        let mut batch = Vec::new();
        let mut bytes = 0;
        while let Some(next) = self.queue.front() {
            bytes += COMMAND_HEAD_BYTES + next.bytes.len();
            if bytes > BATCH_PLAIN_BYTES_MAX {
                break;
            }
            self.queue_bytes -= next.bytes.len();
            batch.extend(self.queue.pop_front());
        }
        (!batch.is_empty()).then_some(Work::Batch(batch))
    }
}
