//! A disk that answers in time, or is given up.
//!
//! A device may stop answering without an error: a dead controller, a hung driver, a lost network path. Whoever waits
//! for it would wait for ever, and hold back what does not need that device. So an operation that takes longer than
//! [`DISK_ANSWER_SECONDS_MAX`] fails, and with it everything that is asked of the device from then on.
//!
//! Invariants:
//! * A device that was given up is asked for nothing more until the next start: what it holds is unknown, as after a
//!   failed write, and it may still carry out what it was asked for. Nothing that comes later can collide with that.
//! * Only time in which the process runs counts: it is measured in ticks, and a process that was stopped for longer finds
//!   one of them gone.
//! * The time is far above what a device takes that is merely slow, and recovers: giving up costs a restart.

use std::cell::Cell;
use std::future::{Future, poll_fn};
use std::io;
use std::pin::pin;
use std::rc::Rc;
use std::task::Poll;
use std::time::Duration;

use super::{AlignedBuf, Disk, DiskFile, DiskSpace, runtime};
use crate::limits::DISK_ANSWER_SECONDS_MAX;

/// What the time is counted in.
const TICK_SECONDS: u64 = 10;

/// See the module. Clones are the same device.
#[derive(Clone, Debug)]
pub struct Deadline<D> {
    disk: D,
    watch: Watch,
}

/// An open file of such a disk.
#[derive(Clone, Debug)]
pub struct DeadlineFile<F> {
    file: F,
    watch: Watch,
}

/// Whether the device was given up.
#[derive(Clone, Debug, Default)]
struct Watch(Rc<Cell<bool>>);

impl Watch {
    /// Waits for an answer.
    ///
    /// Errors: `TimedOut` if there is none in time, or there was none before.
    async fn answer<T>(&self, operation: impl Future<Output = T>) -> io::Result<T> {
        let mut operation = pin!(operation);
        let tick = || runtime::sleep(Duration::from_secs(TICK_SECONDS));
        let (mut ticking, mut ticks_left) = (None, DISK_ANSWER_SECONDS_MAX / TICK_SECONDS);
        let answer = poll_fn(|context| {
            if self.0.get() {
                return Poll::Ready(None);
            }
            if let Poll::Ready(answer) = operation.as_mut().poll(context) {
                return Poll::Ready(Some(answer));
            }
            while ticking.get_or_insert_with(tick).as_mut().poll(context).is_ready() {
                ticks_left -= 1;
                if ticks_left == 0 {
                    return Poll::Ready(None);
                }
                ticking = None;
            }
            Poll::Pending
        });
        answer.await.ok_or_else(|| {
            self.0.set(true);
            let what = format!(
                "the disk did not answer for {DISK_ANSWER_SECONDS_MAX} s and was given up; check it, then restart"
            );
            io::Error::new(io::ErrorKind::TimedOut, what)
        })
    }

    /// As [`Watch::answer`], for an operation that hands its buffer back. One that is late keeps it.
    async fn lend<T>(
        &self,
        operation: impl Future<Output = (io::Result<T>, AlignedBuf)>,
    ) -> (io::Result<T>, AlignedBuf) {
        self.answer(operation).await.unwrap_or_else(|late| (Err(late), AlignedBuf::zeroed(0)))
    }
}

impl<D> Deadline<D> {
    /// Watches `disk`, which is not given up yet.
    #[must_use]
    pub fn new(disk: D) -> Deadline<D> {
        Deadline { disk, watch: Watch::default() }
    }
}

impl<D: Disk> Deadline<D> {
    async fn handle(&self, file: impl Future<Output = io::Result<D::File>>) -> io::Result<DeadlineFile<D::File>> {
        let file = self.watch.answer(file).await??;
        Ok(DeadlineFile { file, watch: self.watch.clone() })
    }
}

impl<D: Disk> Disk for Deadline<D> {
    type File = DeadlineFile<D::File>;

    async fn create(&self, name: &str, preallocate_bytes: u64) -> io::Result<Self::File> {
        self.handle(self.disk.create(name, preallocate_bytes)).await
    }

    async fn open(&self, name: &str) -> io::Result<Self::File> {
        self.handle(self.disk.open(name)).await
    }

    async fn list(&self, dir: &str) -> io::Result<Vec<String>> {
        self.watch.answer(self.disk.list(dir)).await?
    }

    async fn remove(&self, name: &str) -> io::Result<()> {
        self.watch.answer(self.disk.remove(name)).await?
    }

    async fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        self.watch.answer(self.disk.rename(from, to)).await?
    }

    async fn sync_dir(&self, dir: &str) -> io::Result<()> {
        self.watch.answer(self.disk.sync_dir(dir)).await?
    }

    async fn space(&self) -> io::Result<DiskSpace> {
        self.watch.answer(self.disk.space()).await?
    }

    fn buffer(&self, len: usize) -> AlignedBuf {
        self.disk.buffer(len)
    }
}

impl<F: DiskFile> DiskFile for DeadlineFile<F> {
    async fn read_at(&self, buf: AlignedBuf, offset: u64) -> (io::Result<usize>, AlignedBuf) {
        self.watch.lend(self.file.read_at(buf, offset)).await
    }

    async fn write_at(&self, buf: AlignedBuf, offset: u64) -> (io::Result<()>, AlignedBuf) {
        self.watch.lend(self.file.write_at(buf, offset)).await
    }

    async fn write_durable_at(&self, buf: AlignedBuf, offset: u64) -> (io::Result<()>, AlignedBuf) {
        self.watch.lend(self.file.write_durable_at(buf, offset)).await
    }

    async fn sync(&self) -> io::Result<()> {
        self.watch.answer(self.file.sync()).await?
    }

    async fn set_len(&self, bytes: u64) -> io::Result<()> {
        self.watch.answer(self.file.set_len(bytes)).await?
    }

    async fn punch(&self, offset: u64, bytes: u64) -> io::Result<()> {
        self.watch.answer(self.file.punch(offset, bytes)).await?
    }

    async fn len(&self) -> io::Result<u64> {
        self.watch.answer(self.file.len()).await?
    }
}
