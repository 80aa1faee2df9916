//! One operation as a state machine: what is asked, which entries ask the kernel, what its answers mean. Pure.
//!
//! ```text
//!            ┌──────────── Again: a short transfer goes on where it stopped ───────────┐
//!            ▼                                                                         │
//!   entries: [read] | [write] | [write]─link─▶[fdatasync] ──answers──▶ complete ──▶ Finished
//!                                                                                      ▲
//!            [fdatasync] alone, if the linked one did not follow all bytes ────────────┘
//! ```
//!
//! Invariants:
//! * A durable write finishes well only if a sync succeeded that the kernel started after all bytes were written.
//! * An operation owns its buffer, paths and file until it is finished: its entries hold their addresses.
//! * A failed write or sync is final. Only a sync that never ran (`ECANCELED`) is asked again.

use std::ffi::CString;
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::rc::Rc;

use io_uring::squeue::{Entry, Flags};
use io_uring::{opcode, types};
use proto::limits::SECTOR_BYTES;
use proto::port::AlignedBuf;

use crate::buffers::Pool;
use crate::ring::OpenFile;

/// Bytes of one transfer; a longer one is split. The kernel itself stops just below 2 GiB.
const TRANSFER_BYTES_MAX: usize = 1 << 30;

/// Whether a write also syncs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Durability {
    /// The bytes may still be in caches.
    Later,
    /// The bytes, and the length that makes them readable, are on the medium.
    Now,
}

/// What a sync covers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum SyncScope {
    /// Data, and the metadata needed to read it back (length, extents).
    Data,
    /// Everything; for directories.
    Everything,
}

/// What is asked of the kernel, with all that it needs while it works.
pub(crate) enum Request {
    /// Fills `buf` from `offset` on, up to the end of the file.
    Read { file: Rc<OpenFile>, buf: AlignedBuf, offset: u64 },
    /// Writes all of `buf` at `offset`.
    Write { file: Rc<OpenFile>, buf: AlignedBuf, offset: u64, durability: Durability },
    /// Makes completed writes durable.
    Sync { file: Rc<OpenFile>, scope: SyncScope },
    /// `fallocate` with `mode`.
    Allocate { file: Rc<OpenFile>, mode: i32, offset: u64, bytes: u64 },
    /// `ftruncate`.
    Truncate { file: Rc<OpenFile>, bytes: u64 },
    /// `openat`; finishes with the number of the new descriptor.
    Open { dir: Rc<OwnedFd>, path: CString, flags: i32, mode: u32 },
    /// `unlinkat`.
    Remove { dir: Rc<OwnedFd>, path: CString },
    /// `renameat` within `dir`.
    Rename { dir: Rc<OwnedFd>, from: CString, to: CString },
}

/// Which of an operation's entries an answer belongs to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Half {
    /// The only entry, or the first of two.
    Main = 0,
    /// The sync linked to a write.
    LinkedSync = 1,
}

/// What follows from an answer.
#[derive(Debug)]
pub(crate) enum Progress {
    /// The other half is still with the kernel.
    Waiting,
    /// More is to be asked: push [`Operation::entries`] again.
    Again,
    /// Nothing of it is with the kernel any more. For reads the bytes read, for opens the descriptor, else 0.
    Finished(io::Result<u64>),
}

/// An operation from request to result.
pub(crate) struct Operation {
    pub(crate) request: Request,
    /// Bytes transferred so far.
    done: usize,
    /// Entries with the kernel.
    outstanding: u8,
    /// Answers that arrived while the other half was outstanding.
    main: Option<io::Result<usize>>,
    sync: Option<io::Result<usize>>,
    /// All bytes are written; only the sync is still to be asked.
    only_sync: bool,
    /// The kernel may have taken the two halves in different calls, which cuts the link between them.
    link_cut: bool,
}

/// Builds an entry for a file: by its slot in the registered table, or by descriptor.
macro_rules! on_file {
    ($file:expr, |$fd:ident| $entry:expr) => {
        match $file.slot() {
            Some(slot) => {
                let $fd = types::Fixed(slot);
                $entry
            }
            None => {
                let $fd = types::Fd($file.as_raw_fd());
                $entry
            }
        }
    };
}

fn sync_entry(file: &OpenFile, scope: SyncScope) -> Entry {
    let flags = match scope {
        SyncScope::Data => types::FsyncFlags::DATASYNC,
        SyncScope::Everything => types::FsyncFlags::empty(),
    };
    on_file!(file, |fd| opcode::Fsync::new(fd).flags(flags).build())
}

impl Operation {
    pub(crate) fn new(request: Request) -> Operation {
        Operation { request, done: 0, outstanding: 0, main: None, sync: None, only_sync: false, link_cut: false }
    }

    /// Builds the entries of the next step: the main one, and the sync linked to it.
    ///
    /// Their addresses stay valid as long as this operation is neither finished nor dropped.
    pub(crate) fn entries(&mut self, pool: &Pool) -> (Entry, Option<Entry>) {
        assert_eq!(self.outstanding, 0, "invariant: one step at a time");
        let entries = self.build(pool);
        self.outstanding = 1 + u8::from(entries.1.is_some());
        entries
    }

    fn build(&mut self, pool: &Pool) -> (Entry, Option<Entry>) {
        let done = self.done;
        match &mut self.request {
            Request::Read { file, buf, offset } => {
                let bytes = (buf.len() - done).min(TRANSFER_BYTES_MAX) as u32;
                let (at, slot) = (*offset + done as u64, pool.index_of(buf));
                let memory = buf[done..].as_mut_ptr();
                let entry = on_file!(file, |fd| match slot {
                    Some(slot) => opcode::ReadFixed::new(fd, memory, bytes, slot).offset(at).build(),
                    None => opcode::Read::new(fd, memory, bytes).offset(at).build(),
                });
                (entry, None)
            }
            Request::Write { file, .. } if self.only_sync => (sync_entry(file, SyncScope::Data), None),
            Request::Write { file, buf, offset, durability } => {
                let bytes = (buf.len() - done).min(TRANSFER_BYTES_MAX) as u32;
                let (at, slot) = (*offset + done as u64, pool.index_of(buf));
                let memory = buf[done..].as_ptr();
                let write = on_file!(file, |fd| match slot {
                    Some(slot) => opcode::WriteFixed::new(fd, memory, bytes, slot).offset(at).build(),
                    None => opcode::Write::new(fd, memory, bytes).offset(at).build(),
                });
                match durability {
                    Durability::Later => (write, None),
                    Durability::Now => (write.flags(Flags::IO_LINK), Some(sync_entry(file, SyncScope::Data))),
                }
            }
            Request::Sync { file, scope } => (sync_entry(file, *scope), None),
            Request::Allocate { file, mode, offset, bytes } => {
                (on_file!(file, |fd| opcode::Fallocate::new(fd, *bytes).offset(*offset).mode(*mode).build()), None)
            }
            Request::Truncate { file, bytes } => {
                (on_file!(file, |fd| opcode::Ftruncate::new(fd, *bytes).build()), None)
            }
            Request::Open { dir, path, flags, mode } => {
                let dir = types::Fd(dir.as_raw_fd());
                (opcode::OpenAt::new(dir, path.as_ptr()).flags(*flags).mode(*mode).build(), None)
            }
            Request::Remove { dir, path } => {
                (opcode::UnlinkAt::new(types::Fd(dir.as_raw_fd()), path.as_ptr()).build(), None)
            }
            Request::Rename { dir, from, to } => {
                let dir = types::Fd(dir.as_raw_fd());
                (opcode::RenameAt::new(dir, from.as_ptr(), dir, to.as_ptr()).build(), None)
            }
        }
    }

    /// Notes that the kernel may start the linked sync before the write is complete.
    pub(crate) fn cut_link(&mut self) {
        self.link_cut = true;
    }

    /// Takes the kernel's answer to one entry: a count, or a negative error number.
    pub(crate) fn complete(&mut self, half: Half, answer: i32) -> Progress {
        assert!(self.outstanding > 0, "invariant: the kernel answers each entry once");
        self.outstanding -= 1;
        let answer = usize::try_from(answer).map_err(|_| io::Error::from_raw_os_error(-answer));
        match half {
            Half::Main => self.main = Some(answer),
            Half::LinkedSync => self.sync = Some(answer),
        }
        if self.outstanding > 0 {
            return Progress::Waiting;
        }
        let main = self.main.take().expect("invariant: every step has a main entry");
        let sync = self.sync.take();
        let link_cut = std::mem::take(&mut self.link_cut);
        match &self.request {
            Request::Read { buf, .. } => match main {
                Ok(bytes) => {
                    self.done += bytes;
                    assert!(self.done <= buf.len(), "invariant: the kernel reads no more than asked");
                    // Direct reads end inside a sector only at the end of the file, and cannot go on from there.
                    let ended = bytes == 0 || self.done == buf.len() || !self.done.is_multiple_of(SECTOR_BYTES);
                    if ended { Progress::Finished(Ok(self.done as u64)) } else { Progress::Again }
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => Progress::Again,
                Err(error) => Progress::Finished(Err(error)),
            },
            Request::Write { .. } if self.only_sync => Progress::Finished(main.map(|_| 0)),
            Request::Write { buf, durability, .. } => match main {
                Ok(0) => Progress::Finished(Err(io::ErrorKind::WriteZero.into())),
                Ok(bytes) => {
                    self.done += bytes;
                    assert!(self.done <= buf.len(), "invariant: the kernel writes no more than asked");
                    if self.done < buf.len() {
                        // Whatever became of the sync, it did not follow the bytes still missing.
                        return Progress::Again;
                    }
                    match (durability, sync) {
                        (Durability::Later, _) => Progress::Finished(Ok(0)),
                        (Durability::Now, Some(Ok(_))) if !link_cut => Progress::Finished(Ok(0)),
                        (Durability::Now, Some(Err(error))) if error.raw_os_error() != Some(libc::ECANCELED) => {
                            Progress::Finished(Err(error))
                        }
                        (Durability::Now, _) => {
                            self.only_sync = true;
                            Progress::Again
                        }
                    }
                }
                Err(error) => Progress::Finished(Err(error)),
            },
            Request::Open { .. } => Progress::Finished(main.map(|fd| fd as u64)),
            _ => Progress::Finished(main.map(|_| 0)),
        }
    }

    /// The buffer of a read or write.
    pub(crate) fn into_buf(self) -> Option<AlignedBuf> {
        match self.request {
            Request::Read { buf, .. } | Request::Write { buf, .. } => Some(buf),
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file() -> Rc<OpenFile> {
        Rc::new(OpenFile::unregistered(std::fs::File::open("/dev/null").unwrap().into()))
    }

    fn started(request: Request) -> Operation {
        let mut operation = Operation::new(request);
        operation.entries(&Pool::empty());
        operation
    }

    fn read(len: usize) -> Operation {
        started(Request::Read { file: file(), buf: AlignedBuf::zeroed(len), offset: 0 })
    }

    fn write(len: usize, durability: Durability) -> Operation {
        started(Request::Write { file: file(), buf: AlignedBuf::zeroed(len), offset: 0, durability })
    }

    /// Answers the outstanding entries and starts the next step; `None` while it goes on.
    fn step(operation: &mut Operation, answers: &[(Half, i32)]) -> Option<Result<u64, i32>> {
        for (index, (half, answer)) in answers.iter().enumerate() {
            match operation.complete(*half, *answer) {
                Progress::Waiting => assert!(index + 1 < answers.len(), "the last answer decides"),
                Progress::Again => {
                    operation.entries(&Pool::empty());
                    return None;
                }
                Progress::Finished(result) => return Some(result.map_err(|e| e.raw_os_error().unwrap_or(0))),
            }
        }
        unreachable!("the last answer decides")
    }

    #[test]
    fn a_short_read_goes_on_until_the_end_of_the_file() {
        let mut operation = read(16384);
        assert_eq!(step(&mut operation, &[(Half::Main, 4096)]), None);
        assert_eq!(step(&mut operation, &[(Half::Main, -libc::EINTR)]), None);
        assert_eq!(step(&mut operation, &[(Half::Main, 8192)]), None);
        assert_eq!(step(&mut operation, &[(Half::Main, 0)]), Some(Ok(12288)));
        assert_eq!(step(&mut read(16384), &[(Half::Main, 5000)]), Some(Ok(5000)));
        assert_eq!(step(&mut read(16384), &[(Half::Main, 16384)]), Some(Ok(16384)));
        assert_eq!(step(&mut read(16384), &[(Half::Main, -libc::EIO)]), Some(Err(libc::EIO)));
    }

    #[test]
    fn a_short_durable_write_is_durable_only_after_a_sync_of_all_its_bytes() {
        let mut operation = write(16384, Durability::Now);
        assert_eq!(step(&mut operation, &[(Half::Main, 4096), (Half::LinkedSync, -libc::ECANCELED)]), None);
        // A sync that somehow succeeded beside a short write does not count either.
        assert_eq!(step(&mut operation, &[(Half::LinkedSync, 0), (Half::Main, 4096)]), None);
        assert_eq!(step(&mut operation, &[(Half::Main, 8192), (Half::LinkedSync, 0)]), Some(Ok(0)));
    }

    #[test]
    fn a_sync_that_never_ran_is_asked_again_and_a_failed_one_is_final() {
        let mut operation = write(4096, Durability::Now);
        assert_eq!(step(&mut operation, &[(Half::Main, 4096), (Half::LinkedSync, -libc::ECANCELED)]), None);
        assert_eq!(step(&mut operation, &[(Half::Main, -libc::EIO)]), Some(Err(libc::EIO)));
        let mut operation = write(4096, Durability::Now);
        let failed = step(&mut operation, &[(Half::Main, 4096), (Half::LinkedSync, -libc::EIO)]);
        assert_eq!(failed, Some(Err(libc::EIO)));
    }

    #[test]
    fn a_cut_link_costs_another_sync() {
        let mut operation = write(4096, Durability::Now);
        operation.cut_link();
        assert_eq!(step(&mut operation, &[(Half::LinkedSync, 0), (Half::Main, 4096)]), None);
        assert_eq!(step(&mut operation, &[(Half::Main, 0)]), Some(Ok(0)));
    }

    #[test]
    fn the_cause_of_a_failed_durable_write_is_the_writes_own() {
        let mut operation = write(4096, Durability::Now);
        let failed = step(&mut operation, &[(Half::LinkedSync, -libc::ECANCELED), (Half::Main, -libc::ENOSPC)]);
        assert_eq!(failed, Some(Err(libc::ENOSPC)));
    }

    #[test]
    fn a_write_that_makes_no_progress_fails() {
        let mut operation = write(8192, Durability::Later);
        assert_eq!(step(&mut operation, &[(Half::Main, 4096)]), None);
        let Progress::Finished(Err(error)) = operation.complete(Half::Main, 0) else { panic!("it must end") };
        assert_eq!(error.kind(), io::ErrorKind::WriteZero);
    }
}
