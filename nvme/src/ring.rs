//! The ring: submission, completion, and ownership of what the kernel works on.
//!
//! # Why memory is safe
//! An entry names memory by address and a file by number; the kernel may use both until it has posted the answer.
//! Therefore:
//! * An operation moves into the ring's slab *before* its entries are pushed, with its buffer, paths and file, and
//!   leaves it only when every entry is answered. The addresses point at heap memory that moving the operation does
//!   not move.
//! * A caller's future holds only the slab key. Dropping it marks the operation abandoned: it still runs to its end,
//!   and only then are its buffer and file let go.
//! * Dropping the last handle of the ring waits for every operation. Should the kernel refuse even to be waited for,
//!   the operations are leaked rather than freed.
//! * A slot of the registered file table is reused only after the last handle of its file, operations included.
//! * The queues belong to one thread: [`Ring`] is not `Send`.
//!
//! # Turns
//! Operations push entries; the first of them schedules one task that runs after all tasks that are ready now, submits
//! everything at once and takes whatever answers there are. Later answers signal an eventfd that the executor's own
//! ring waits for. With `DEFER_TASKRUN` the kernel posts answers only while this thread is in `io_uring_enter` with
//! `GETEVENTS`, which [`io_uring::Submitter::submit`] asks for when the `TASKRUN` flag of the queue is raised.
//!
//! # Bounds
//! `operations_max` permits, at most two entries each, and queues of at least twice that size: neither queue can
//! overflow, and a full one makes callers wait for a permit.
#![allow(unsafe_code)]

use std::cell::{Cell, RefCell};
use std::future::Future;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::pin::Pin;
use std::rc::{Rc, Weak};
use std::task::{Context, Poll, Waker};

use io_uring::{IoUring, opcode};
use proto::port::AlignedBuf;
use slab::Slab;

use crate::buffers::Pool;
use crate::error::{RingError, diagnose};
use crate::operation::{Half, Operation, Progress, Request};
use crate::permits::Permits;
use crate::setup::{self, RingOptions};
use crate::wake;

/// The storage ring of one core. Handles are cheap to clone; the ring closes when the last one, and everything that
/// uses it, is gone.
#[derive(Clone)]
pub struct Ring {
    core: Rc<Core>,
}

struct Core {
    // First, so that it closes before the pool's memory is freed.
    uring: RefCell<IoUring>,
    slots: RefCell<Slab<Slot>>,
    permits: Permits,
    /// A task that takes a turn is scheduled.
    turn_due: Cell<bool>,
    /// Free slots of the registered file table.
    free_files: RefCell<Vec<u32>>,
    pool: Rc<Pool>,
    /// Written to when the ring closes, so that the waiting task ends.
    eventfd: OwnedFd,
    truncates: bool,
    /// Reused between turns.
    answers: RefCell<Vec<(u64, i32)>>,
}

/// An operation in the slab.
struct Slot {
    operation: Operation,
    /// The descriptor that an open returned; closes if nobody takes it.
    opened: Option<OwnedFd>,
    state: State,
}

enum State {
    InFlight(Option<Waker>),
    Abandoned,
    Finished(io::Result<u64>),
}

impl Ring {
    /// Sets up the ring of this thread.
    ///
    /// If memory may not be locked, says so once on standard error and goes on without registered buffers.
    ///
    /// # Errors
    /// [`RingError`] names the setting to change.
    ///
    /// # Panics
    /// Outside an executor, or if `options` are out of range.
    pub fn new(options: RingOptions) -> Result<Ring, RingError> {
        Ring::over(setup::build(&options)?, options)
    }

    /// Registers with the kernel what is to be registered, and starts waiting for answers.
    fn over(uring: IoUring, options: RingOptions) -> Result<Ring, RingError> {
        let probe = setup::probe(&uring)?;
        let eventfd =
            rustix::event::eventfd(0, rustix::event::EventfdFlags::CLOEXEC).map_err(|error| diagnose(error.into()))?;
        uring.submitter().register_eventfd(eventfd.as_raw_fd()).map_err(diagnose)?;
        let waited = eventfd.try_clone().map_err(diagnose)?;
        let free_files = setup::register_files(&uring, options.files_max);
        let pool = setup::register_buffers(&uring, options.buffers);

        let core = Rc::new(Core {
            uring: RefCell::new(uring),
            slots: RefCell::default(),
            permits: Permits::new(options.operations_max),
            turn_due: Cell::new(false),
            free_files: RefCell::new(free_files),
            pool: Rc::new(pool),
            eventfd,
            truncates: probe.is_supported(opcode::Ftruncate::CODE),
            answers: RefCell::default(),
        });
        let weak = Rc::downgrade(&core);
        monoio::spawn(wake::follow(waited, move || match weak.upgrade() {
            Some(core) => {
                core.turn();
                true
            }
            None => false,
        }));
        Ok(Ring { core })
    }

    /// Whether buffers are registered with the kernel.
    #[must_use]
    pub fn has_registered_buffers(&self) -> bool {
        self.core.pool.is_registered()
    }

    /// Returns a buffer of `len` bytes: registered memory if some is free, else plain memory.
    #[must_use]
    pub fn buffer(&self, len: usize) -> AlignedBuf {
        self.core.pool.lend(len).unwrap_or_else(|| AlignedBuf::zeroed(len))
    }

    /// Whether the ring itself can truncate.
    pub(crate) fn truncates(&self) -> bool {
        self.core.truncates
    }

    /// Runs `request` to its end. The result is that of [`Progress::Finished`].
    pub(crate) async fn run(&self, request: Request) -> (io::Result<u64>, Operation) {
        let (result, operation, _) = self.run_to_end(request).await;
        (result, operation)
    }

    /// Opens a file; the descriptor is not in the registered table.
    pub(crate) async fn open(
        &self,
        dir: Rc<OwnedFd>,
        path: std::ffi::CString,
        flags: rustix::fs::OFlags,
        mode: rustix::fs::Mode,
    ) -> io::Result<OwnedFd> {
        let flags = (flags | rustix::fs::OFlags::CLOEXEC).bits().cast_signed();
        let (result, _, opened) = self.run_to_end(Request::Open { dir, path, flags, mode: mode.bits() }).await;
        result.map(|_| opened.expect("invariant: a finished open holds its descriptor"))
    }

    async fn run_to_end(&self, request: Request) -> (io::Result<u64>, Operation, Option<OwnedFd>) {
        self.core.permits.acquire().await;
        InFlight { key: self.core.start(Operation::new(request)), core: &self.core }.await
    }

    /// Puts `fd` into the registered file table, if there is room.
    pub(crate) fn adopt(&self, fd: OwnedFd) -> Rc<OpenFile> {
        let slot = self.core.free_files.borrow_mut().pop();
        let slot = slot.filter(|slot| {
            let updated = self.core.uring.borrow().submitter().register_files_update(*slot, &[fd.as_raw_fd()]);
            if updated.is_err() {
                self.core.free_files.borrow_mut().push(*slot);
            }
            updated.is_ok()
        });
        Rc::new(OpenFile { fd, slot: slot.map(|slot| (slot, Rc::downgrade(&self.core))) })
    }
}

impl Core {
    /// Puts `operation` in flight. The caller holds a permit, which goes back when the operation is finished.
    fn start(self: &Rc<Self>, operation: Operation) -> usize {
        let mut slots = self.slots.borrow_mut();
        let key = slots.insert(Slot { operation, opened: None, state: State::InFlight(None) });
        self.push(key, &mut slots[key].operation);
        drop(slots);
        self.turn_soon();
        key
    }

    /// Pushes the entries of the next step of `operation`, which lies in the slab under `key`.
    fn push(&self, key: usize, operation: &mut Operation) {
        let (main, linked) = operation.entries(&self.pool);
        let mut uring = self.uring.borrow_mut();
        let mut queue = uring.submission();
        for (half, entry) in [(Half::Main, Some(main)), (Half::LinkedSync, linked)] {
            let Some(entry) = entry else { continue };
            let entry = entry.user_data((key as u64) << 1 | half as u64);
            // SAFETY: the memory, paths and files that the entry names belong to the operation, which stays in the
            // slab, and its heap memory in place, until every entry is answered (see the module documentation).
            unsafe { queue.push(&entry) }.expect("invariant: the queue has room for two entries per permit");
        }
    }

    /// Schedules a turn behind all tasks that are ready now.
    fn turn_soon(self: &Rc<Self>) {
        if !self.turn_due.replace(true) {
            let weak = Rc::downgrade(self);
            monoio::spawn(async move {
                if let Some(core) = weak.upgrade() {
                    core.turn_due.set(false);
                    core.turn();
                }
            });
        }
    }

    /// Submits what is queued and takes the answers that are there.
    fn turn(self: &Rc<Self>) {
        loop {
            let taken = self.submit();
            let answered = self.reap();
            let mut uring = self.uring.borrow_mut();
            let queue = uring.submission();
            if queue.is_empty() && !queue.taskrun() {
                return;
            }
            if !taken && answered == 0 {
                // The kernel is short of memory: let the other tasks run, then ask again.
                drop(queue);
                drop(uring);
                self.turn_soon();
                return;
            }
        }
    }

    /// Hands the queued entries to the kernel, and lets it post answers. Returns whether it took them all.
    ///
    /// # Panics
    /// If the kernel refuses for a reason other than a passing shortage: no I/O is possible any more.
    fn submit(&self) -> bool {
        let mut uring = self.uring.borrow_mut();
        let queue = uring.submission();
        let queued = queue.len();
        if queued == 0 && !queue.taskrun() && !queue.cq_overflow() {
            return true;
        }
        drop(queue);
        let submitted = uring.submit();
        let left = uring.submission().len();
        if left > 0 && left < queued {
            // The kernel stopped somewhere, perhaps between a write and its linked sync.
            for (_, slot) in self.slots.borrow_mut().iter_mut() {
                slot.operation.cut_link();
            }
        }
        match submitted {
            Ok(_) => left == 0,
            Err(error) if is_passing(&error) => false,
            Err(error) => panic!("io_uring_enter failed: {error}"),
        }
    }

    /// Takes the posted answers; returns how many there were.
    fn reap(&self) -> usize {
        let mut answers = self.answers.take();
        answers.extend(self.uring.borrow_mut().completion().map(|entry| (entry.user_data(), entry.result())));
        let count = answers.len();
        for (user_data, answer) in answers.drain(..) {
            self.answered(
                (user_data >> 1) as usize,
                if user_data & 1 == 0 { Half::Main } else { Half::LinkedSync },
                answer,
            );
        }
        self.answers.replace(answers);
        count
    }

    fn answered(&self, key: usize, half: Half, answer: i32) {
        let mut slots = self.slots.borrow_mut();
        let slot = slots.get_mut(key).expect("invariant: an answer belongs to an operation in the slab");
        let result = match slot.operation.complete(half, answer) {
            Progress::Waiting => return,
            Progress::Again => return self.push(key, &mut slot.operation),
            Progress::Finished(result) => result,
        };
        if let (Request::Open { .. }, Ok(fd)) = (&slot.operation.request, &result) {
            // SAFETY: the kernel has just opened this descriptor for us, and nobody else knows it.
            slot.opened = Some(unsafe { OwnedFd::from_raw_fd(*fd as RawFd) });
        }
        match std::mem::replace(&mut slot.state, State::Finished(result)) {
            State::InFlight(waker) => {
                drop(slots);
                if let Some(waker) = waker {
                    waker.wake();
                }
            }
            State::Abandoned => {
                let slot = slots.remove(key);
                drop(slots);
                // Dropped without a borrow: its file returns to the table.
                drop(slot);
            }
            State::Finished(_) => unreachable!("invariant: an operation finishes once"),
        }
        self.permits.release();
    }
}

/// Whether asking again later may succeed.
fn is_passing(error: &io::Error) -> bool {
    matches!(error.raw_os_error(), Some(libc::EINTR | libc::EAGAIN | libc::EBUSY))
}

impl Drop for Core {
    fn drop(&mut self) {
        // No future is left, so every operation in the slab is abandoned and removed when it finishes.
        while !self.slots.borrow().is_empty() {
            let waited = self.uring.borrow().submit_and_wait(1);
            match waited {
                Ok(_) => {}
                Err(error) if is_passing(&error) => {}
                Err(error) => {
                    eprintln!("warning: operations in flight are leaked: {error}");
                    std::mem::forget(self.slots.take());
                    break;
                }
            }
            self.reap();
        }
        // If this fails the waiting task is merely kept until the executor ends.
        let _ = rustix::io::write(&self.eventfd, &1u64.to_ne_bytes());
    }
}

/// A caller waiting for its operation.
struct InFlight<'a> {
    core: &'a Rc<Core>,
    key: usize,
}

impl Future for InFlight<'_> {
    type Output = (io::Result<u64>, Operation, Option<OwnedFd>);

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let mut slots = self.core.slots.borrow_mut();
        match &mut slots[self.key].state {
            State::InFlight(Some(waker)) => waker.clone_from(cx.waker()),
            State::InFlight(waker) => *waker = Some(cx.waker().clone()),
            State::Abandoned => unreachable!("invariant: only dropping abandons"),
            State::Finished(_) => {
                let slot = slots.remove(self.key);
                drop(slots);
                self.key = TAKEN;
                let State::Finished(result) = slot.state else { unreachable!("invariant: it is finished") };
                return Poll::Ready((result, slot.operation, slot.opened));
            }
        }
        Poll::Pending
    }
}

/// The key of an operation whose result was taken.
const TAKEN: usize = usize::MAX;

impl Drop for InFlight<'_> {
    fn drop(&mut self) {
        if self.key == TAKEN {
            return;
        }
        let mut slots = self.core.slots.borrow_mut();
        let abandoned = match &mut slots[self.key].state {
            State::InFlight(waker) => {
                let waker = waker.take();
                slots[self.key].state = State::Abandoned;
                drop(slots);
                drop(waker);
                return;
            }
            State::Finished(_) => slots.remove(self.key),
            State::Abandoned => unreachable!("invariant: a future is dropped once"),
        };
        drop(slots);
        drop(abandoned);
    }
}

/// An open file: closed, and its slot returned, when its last handle and operation are gone.
pub(crate) struct OpenFile {
    fd: OwnedFd,
    slot: Option<(u32, Weak<Core>)>,
}

impl OpenFile {
    /// A file that is used by descriptor.
    pub(crate) fn unregistered(fd: OwnedFd) -> OpenFile {
        OpenFile { fd, slot: None }
    }

    /// Its slot in the registered table.
    pub(crate) fn slot(&self) -> Option<u32> {
        self.slot.as_ref().map(|(slot, _)| *slot)
    }
}

impl AsRawFd for OpenFile {
    fn as_raw_fd(&self) -> RawFd {
        self.fd.as_raw_fd()
    }
}

impl AsFd for OpenFile {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

impl Drop for OpenFile {
    fn drop(&mut self) {
        let Some((slot, core)) = self.slot.take() else { return };
        let Some(core) = core.upgrade() else { return };
        // A slot that cannot be emptied is not used again.
        if core.uring.borrow().submitter().register_files_update(slot, &[-1]).is_ok() {
            core.free_files.borrow_mut().push(slot);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::RingDisk;
    use crate::setup::{Setup, entries};
    use proto::port::{Disk, DiskFile};

    fn on_core<T>(main: impl Future<Output = T>) -> T {
        monoio::RuntimeBuilder::<monoio::IoUringDriver>::new().enable_timer().build().unwrap().block_on(main)
    }

    #[test]
    fn every_setup_of_older_kernels_works() {
        for setup in [Setup::Deferred, Setup::Cooperative, Setup::Plain] {
            on_core(async {
                let options = RingOptions { operations_max: 4, ..RingOptions::default() };
                let uring = setup.build(entries(&options)).unwrap();
                assert_eq!(uring.params().is_setup_single_issuer(), setup == Setup::Deferred);
                let ring = Ring::over(uring, options).unwrap();
                let dir = tempfile::tempdir().unwrap();
                let disk = RingDisk::open(&ring, dir.path()).unwrap();
                let file = disk.create("file", 1 << 20).await.unwrap();
                let mut buf = disk.buffer(1 << 20);
                buf.fill(9);
                let (written, mut buf) = file.write_durable_at(buf, 0).await;
                written.unwrap();
                buf.fill(0);
                let (read, buf) = file.read_at(buf, 0).await;
                assert_eq!(read.unwrap(), 1 << 20);
                assert!(buf.iter().all(|byte| *byte == 9), "{setup:?}");
            });
        }
    }

    #[test]
    fn slots_of_the_file_table_are_returned_and_descriptors_serve_beyond_it() {
        on_core(async {
            let ring = Ring::new(RingOptions { files_max: 2, ..RingOptions::default() }).unwrap();
            let dir = tempfile::tempdir().unwrap();
            let disk = RingDisk::open(&ring, dir.path()).unwrap();
            let mut files = Vec::new();
            for name in ["a", "b", "c"] {
                files.push(disk.create(name, 0).await.unwrap());
            }
            let free = || ring.core.free_files.borrow().len();
            assert_eq!(free(), 0);
            for (index, file) in files.iter().enumerate() {
                let (written, _) = file.write_at(AlignedBuf::copy_of(&[index as u8 + 1; 4096]), 0).await;
                written.unwrap();
            }
            assert_eq!(std::fs::read(dir.path().join("c")).unwrap(), [3; 4096]);
            drop(files);
            assert_eq!(free(), 2);
            let again = disk.open("a").await.unwrap();
            assert_eq!(free(), 1);
            let (read, buf) = again.read_at(disk.buffer(4096), 0).await;
            assert_eq!((read.unwrap(), buf[0]), (4096, 1));
        });
    }
}
