//! What the kernel works on belongs to the operation until it answers, whatever becomes of the caller.
//!
//! A read of an empty FIFO stays in flight until the test writes to it, and a witness takes the buffer's memory when
//! it is let go: so the tests decide when an operation ends and see what was in its buffer.

mod common;

use std::cell::RefCell;
use std::io::{Read, Write};
use std::path::Path;
use std::rc::Rc;

use common::on_core;
use futures_channel::oneshot;
use futures_util::poll;
use nvme::{Ring, RingDisk, RingFile, RingOptions};
use proto::port::{AlignedBuf, BufferPool, Disk, DiskFile, Page};
use zerocopy::{FromZeros, IntoBytes};

const SECTOR: usize = 4096;

/// Hands the memory of one buffer on when it is let go.
struct Witness(RefCell<Option<oneshot::Sender<Vec<Page>>>>);

impl BufferPool for Witness {
    fn give_back(&self, _slot: u16, pages: Vec<Page>) {
        let sender = self.0.borrow_mut().take().expect("a buffer is let go once");
        assert!(sender.send(pages).is_ok(), "the test waits for it");
    }
}

/// A zeroed sector, and what receives its memory when it is let go.
fn witnessed() -> (AlignedBuf, oneshot::Receiver<Vec<Page>>) {
    let (sender, receiver) = oneshot::channel();
    let witness = Rc::new(Witness(RefCell::new(Some(sender))));
    (AlignedBuf::lent(Page::new_vec_zeroed(1).unwrap(), SECTOR, 0, witness), receiver)
}

/// A disk with a FIFO, opened on the ring and by the test.
async fn with_fifo(dir: &Path) -> (Ring, RingDisk, RingFile, std::fs::File) {
    let path = dir.join("fifo");
    rustix::fs::mkfifoat(rustix::fs::CWD, &path, rustix::fs::Mode::RWXU).unwrap();
    let ring = Ring::new(RingOptions { operations_max: 8, ..RingOptions::default() }).unwrap();
    let disk = RingDisk::open(&ring, dir).unwrap();
    let file = disk.open("fifo").await.unwrap();
    let other_end = std::fs::File::options().read(true).write(true).open(path).unwrap();
    (ring, disk, file, other_end)
}

#[test]
fn a_dropped_read_completes_into_its_own_buffer() {
    on_core(async {
        let dir = tempfile::tempdir().unwrap();
        let (_ring, disk, file, mut other_end) = with_fifo(dir.path()).await;
        let (buf, mut let_go) = witnessed();
        {
            let mut read = Box::pin(file.read_at(buf, 0));
            assert!(poll!(&mut read).is_pending());
            // Another operation's end shows that the read was submitted.
            disk.sync_dir("").await.unwrap();
            assert!(poll!(&mut read).is_pending());
        }
        drop(file);
        disk.sync_dir("").await.unwrap();
        assert!(let_go.try_recv().unwrap().is_none(), "the buffer belongs to the operation");
        other_end.write_all(&[7; SECTOR]).unwrap();
        let pages = let_go.await.unwrap();
        assert!(pages.as_bytes().iter().all(|byte| *byte == 7), "the operation ran to its end, into this memory");
    });
}

#[test]
fn a_read_dropped_before_it_is_submitted_still_runs() {
    on_core(async {
        let dir = tempfile::tempdir().unwrap();
        let (_ring, _disk, file, mut other_end) = with_fifo(dir.path()).await;
        let (buf, let_go) = witnessed();
        assert!(poll!(Box::pin(file.read_at(buf, 0))).is_pending());
        drop(file);
        other_end.write_all(&[8; SECTOR]).unwrap();
        assert!(let_go.await.unwrap().as_bytes().iter().all(|byte| *byte == 8));
    });
}

#[test]
fn dropping_the_ring_waits_for_operations_in_flight() {
    on_core(async {
        let dir = tempfile::tempdir().unwrap();
        let (ring, disk, file, mut other_end) = with_fifo(dir.path()).await;
        let (buf, mut let_go) = witnessed();
        assert!(poll!(Box::pin(file.read_at(buf, 0))).is_pending());
        disk.sync_dir("").await.unwrap();
        assert!(let_go.try_recv().unwrap().is_none());
        let (dropping, may_write) = std::sync::mpsc::channel();
        std::thread::scope(|scope| {
            scope.spawn(move || {
                may_write.recv().unwrap();
                other_end.write_all(&[9; SECTOR]).unwrap();
            });
            dropping.send(()).unwrap();
            drop((file, disk, ring));
            let pages = let_go.try_recv().unwrap().expect("the ring let go of the buffer before it was gone");
            assert!(pages.as_bytes().iter().all(|byte| *byte == 9), "and not before the kernel had filled it");
        });
    });
}

/// A FIFO takes 64 KiB at once, so a write of this takes many steps.
const LONG_BYTES: usize = 1 << 20;

fn long_buffer(disk: &RingDisk) -> AlignedBuf {
    let mut buf = disk.buffer(LONG_BYTES);
    for (index, byte) in buf.iter_mut().enumerate() {
        *byte = (index / 1000) as u8;
    }
    buf
}

/// Reads the long buffer's worth from the FIFO on a thread of its own.
#[expect(clippy::disallowed_methods, reason = "the other end of the FIFO is not part of the core under test")]
fn read_all(mut other_end: std::fs::File) -> oneshot::Receiver<Vec<u8>> {
    let (sender, received) = oneshot::channel();
    std::thread::spawn(move || {
        let mut bytes = vec![0; LONG_BYTES];
        other_end.read_exact(&mut bytes).unwrap();
        sender.send(bytes).unwrap();
    });
    received
}

#[test]
fn short_writes_go_on_until_all_is_written() {
    on_core(async {
        let dir = tempfile::tempdir().unwrap();
        let (_ring, disk, file, other_end) = with_fifo(dir.path()).await;
        let received = read_all(other_end);
        file.write_at(long_buffer(&disk), 0).await.0.unwrap();
        assert_eq!(received.await.unwrap(), long_buffer(&disk)[..]);
    });
}

#[test]
fn short_writes_go_on_when_the_caller_is_gone() {
    on_core(async {
        let dir = tempfile::tempdir().unwrap();
        let (_ring, disk, file, other_end) = with_fifo(dir.path()).await;
        assert!(poll!(Box::pin(file.write_at(long_buffer(&disk), 0))).is_pending());
        drop(file);
        assert_eq!(read_all(other_end).await.unwrap(), long_buffer(&disk)[..]);
    });
}

#[test]
fn a_durable_write_in_many_steps_is_synced_after_the_last() {
    on_core(async {
        let dir = tempfile::tempdir().unwrap();
        let (_ring, disk, file, other_end) = with_fifo(dir.path()).await;
        let received = read_all(other_end);
        // A FIFO cannot be synced: the error is that of the sync, and it comes after all bytes were written, for a
        // short write cancels the sync linked to it.
        let error = file.write_durable_at(long_buffer(&disk), 0).await.0.unwrap_err();
        assert_eq!(error.kind(), std::io::ErrorKind::InvalidInput);
        assert_eq!(received.await.unwrap(), long_buffer(&disk)[..]);
    });
}
