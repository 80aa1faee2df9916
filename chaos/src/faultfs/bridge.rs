//! Between FUSE and the store: each request meets its fault, then the store, and is answered.

use std::ffi::OsStr;
use std::time::{Duration, SystemTime};

use fuser::{
    BsdFileFlags, FileAttr, FileHandle, FileType, Filesystem, FopenFlags, Generation, INodeNo, LockOwner, OpenFlags,
    RenameFlags, ReplyAttr, ReplyCreate, ReplyData, ReplyDirectory, ReplyEmpty, ReplyEntry, ReplyOpen, ReplyStatfs,
    ReplyWrite, Request, TimeOrNow, WriteFlags,
};
use rustix::io::Errno;

use super::file::{File, PAGE_BYTES};
use super::store::{Attributes, Body};
use super::{Effect, Operation, Shared, State, lock};
use crate::sim::Random;

/// The kernel remembers nothing: after a power loss it would remember what is gone.
const UNREMEMBERED: Duration = Duration::ZERO;
/// Nothing passes through the page cache, and writes to one file do not wait for each other.
const UNCACHED: FopenFlags = FopenFlags::FOPEN_DIRECT_IO.union(FopenFlags::FOPEN_PARALLEL_DIRECT_WRITES);
/// Longest name.
const NAME_BYTES_MAX: u32 = 255;
/// What `stat` counts blocks in.
const BLOCK_BYTES: u64 = 512;

/// An operation that is never answered, until it is failed.
pub(super) struct Hanging(Box<dyn FnOnce() + Send>);

impl Hanging {
    pub(super) fn fail(self) {
        (self.0)();
    }
}

impl std::fmt::Debug for Hanging {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.write_str("Hanging")
    }
}

/// Replies that can say no.
trait Refuse: Send + 'static {
    fn refuse(self, error: Errno);
}

macro_rules! refuse {
    ($($reply:ty),*) => {
        $(impl Refuse for $reply {
            fn refuse(self, error: Errno) {
                self.error(fuser::Errno::from_i32(error.raw_os_error()));
            }
        })*
    };
}
refuse!(ReplyAttr, ReplyCreate, ReplyData, ReplyDirectory, ReplyEmpty, ReplyEntry, ReplyOpen, ReplyStatfs, ReplyWrite);

/// See the module.
#[derive(Debug)]
pub(super) struct Bridge {
    state: Shared,
    uid: u32,
    gid: u32,
}

impl Bridge {
    pub(super) fn new(state: Shared) -> Bridge {
        let (uid, gid) = (rustix::process::getuid().as_raw(), rustix::process::getgid().as_raw());
        Bridge { state, uid, gid }
    }

    /// Serves an operation that no fault is aimed at.
    fn look<R: Refuse, T>(
        &self,
        reply: R,
        act: impl FnOnce(&mut State) -> Result<T, Errno>,
        answer: impl FnOnce(R, T),
    ) {
        let done = act(&mut lock(&self.state));
        match done {
            Ok(done) => answer(reply, done),
            Err(error) => reply.refuse(error),
        }
    }

    /// Serves an operation, unless a fault meets it; `fail` is what the fault leaves behind.
    fn serve<R: Refuse, T>(
        &self,
        operation: Operation,
        reply: R,
        act: impl FnOnce(&mut State) -> Result<T, Errno>,
        fail: impl FnOnce(&mut State, Effect),
        answer: impl FnOnce(R, T),
    ) {
        let mut state = lock(&self.state);
        let effect = state.faults.meet(operation);
        if let Some((effect, error)) = effect.and_then(|effect| Some((effect, effect.error()?))) {
            fail(&mut state, effect);
            if effect == Effect::Hang {
                state.hanging.push(Hanging(Box::new(move || reply.refuse(Errno::IO))));
            } else {
                drop(state);
                reply.refuse(error);
            }
            return;
        }
        let done = act(&mut state);
        drop(state);
        if let Some(Effect::Slow(delay)) = effect {
            wait(delay);
        }
        match done {
            Ok(done) => answer(reply, done),
            Err(error) => reply.refuse(error),
        }
    }

    /// What a read or write is to the faults.
    fn part(&self, operation: Operation, inode: INodeNo, offset: u64, bytes: u64) -> Operation {
        lock(&self.state).parts.take(operation, inode.0, offset, bytes)
    }

    fn attr(&self, attributes: Attributes) -> FileAttr {
        let Attributes { inode, is_directory, mode, bytes, reserved_pages } = attributes;
        FileAttr {
            ino: INodeNo(inode),
            size: bytes,
            blocks: reserved_pages * (PAGE_BYTES as u64 / BLOCK_BYTES),
            atime: SystemTime::UNIX_EPOCH,
            mtime: SystemTime::UNIX_EPOCH,
            ctime: SystemTime::UNIX_EPOCH,
            crtime: SystemTime::UNIX_EPOCH,
            kind: if is_directory { FileType::Directory } else { FileType::RegularFile },
            perm: mode,
            nlink: 1,
            uid: self.uid,
            gid: self.gid,
            rdev: 0,
            blksize: PAGE_BYTES as u32,
            flags: 0,
        }
    }
}

#[expect(clippy::disallowed_methods, reason = "a slow disk for real processes is slow in real time")]
fn wait(delay: Duration) {
    std::thread::sleep(delay);
}

fn text(name: &OsStr) -> Result<&str, Errno> {
    name.to_str().ok_or(Errno::INVAL)
}

/// Checks that a file was opened since the last power loss.
fn check_handle(state: &State, handle: FileHandle) -> Result<(), Errno> {
    if handle.0 == state.epoch { Ok(()) } else { Err(Errno::IO) }
}

fn nothing_left(_: &mut State, _: Effect) {}

impl Filesystem for Bridge {
    fn lookup(&self, _: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEntry) {
        self.look(
            reply,
            |state| state.store.lookup(parent.0, text(name)?).and_then(|inode| state.store.attributes(inode)),
            |reply, attributes| reply.entry(&UNREMEMBERED, &self.attr(attributes), Generation(0)),
        );
    }

    fn getattr(&self, _: &Request, inode: INodeNo, _: Option<FileHandle>, reply: ReplyAttr) {
        self.look(
            reply,
            |state| state.store.attributes(inode.0),
            |reply, attributes| reply.attr(&UNREMEMBERED, &self.attr(attributes)),
        );
    }

    fn setattr(
        &self,
        _: &Request,
        inode: INodeNo,
        mode: Option<u32>,
        _: Option<u32>,
        _: Option<u32>,
        bytes: Option<u64>,
        _: Option<TimeOrNow>,
        _: Option<TimeOrNow>,
        _: Option<SystemTime>,
        handle: Option<FileHandle>,
        _: Option<SystemTime>,
        _: Option<SystemTime>,
        _: Option<SystemTime>,
        _: Option<BsdFileFlags>,
        reply: ReplyAttr,
    ) {
        let answer = |reply: ReplyAttr, attributes| reply.attr(&UNREMEMBERED, &self.attr(attributes));
        let act = |state: &mut State| {
            if let Some(mode) = mode {
                state.store.set_mode(inode.0, mode as u16)?;
            }
            if let Some(bytes) = bytes {
                handle.map_or(Ok(()), |handle| check_handle(state, handle))?;
                state.store.set_len(inode.0, bytes)?;
            }
            state.store.attributes(inode.0)
        };
        match bytes {
            Some(_) => self.serve(Operation::Truncate, reply, act, nothing_left, answer),
            None => self.look(reply, act, answer),
        }
    }

    fn mkdir(&self, _: &Request, parent: INodeNo, name: &OsStr, mode: u32, umask: u32, reply: ReplyEntry) {
        self.serve(
            Operation::MakeDirectory,
            reply,
            |state| {
                let inode = state.store.create(parent.0, text(name)?, (mode & !umask) as u16, Body::Directory)?;
                state.store.attributes(inode)
            },
            nothing_left,
            |reply, attributes| reply.entry(&UNREMEMBERED, &self.attr(attributes), Generation(0)),
        );
    }

    fn link(&self, _: &Request, inode: INodeNo, parent: INodeNo, name: &OsStr, reply: ReplyEntry) {
        self.serve(
            Operation::Link,
            reply,
            |state| {
                state.store.link(inode.0, parent.0, text(name)?)?;
                state.store.attributes(inode.0)
            },
            nothing_left,
            |reply, attributes| reply.entry(&UNREMEMBERED, &self.attr(attributes), Generation(0)),
        );
    }

    fn unlink(&self, _: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEmpty) {
        let act = |state: &mut State| state.store.remove(parent.0, text(name)?);
        self.serve(Operation::Remove, reply, act, nothing_left, |reply, ()| reply.ok());
    }

    fn rmdir(&self, request: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEmpty) {
        self.unlink(request, parent, name, reply);
    }

    fn rename(
        &self,
        _: &Request,
        parent: INodeNo,
        name: &OsStr,
        new_parent: INodeNo,
        new_name: &OsStr,
        flags: RenameFlags,
        reply: ReplyEmpty,
    ) {
        let act = |state: &mut State| match () {
            () if parent != new_parent => Err(Errno::XDEV),
            () if !flags.is_empty() => Err(Errno::INVAL),
            () => state.store.rename(parent.0, text(name)?, text(new_name)?),
        };
        self.serve(Operation::Rename, reply, act, nothing_left, |reply, ()| reply.ok());
    }

    fn open(&self, _: &Request, inode: INodeNo, flags: OpenFlags, reply: ReplyOpen) {
        self.serve(
            Operation::Open,
            reply,
            |state| {
                state.store.open(inode.0)?;
                if flags.0 & libc_flag(rustix::fs::OFlags::TRUNC) != 0 {
                    state.store.set_len(inode.0, 0)?;
                }
                Ok(state.epoch)
            },
            nothing_left,
            |reply, epoch| reply.opened(FileHandle(epoch), UNCACHED),
        );
    }

    fn create(
        &self,
        _: &Request,
        parent: INodeNo,
        name: &OsStr,
        mode: u32,
        umask: u32,
        flags: i32,
        reply: ReplyCreate,
    ) {
        self.serve(
            Operation::Create,
            reply,
            |state| {
                let name = text(name)?;
                let exclusive = flags & libc_flag(rustix::fs::OFlags::EXCL) != 0;
                let inode = match state.store.lookup(parent.0, name) {
                    Ok(inode) if !exclusive => inode,
                    _ => {
                        let file = Body::File(File::default());
                        state.store.create(parent.0, name, (mode & !umask) as u16, file)?
                    }
                };
                state.store.open(inode)?;
                Ok((state.store.attributes(inode)?, state.epoch))
            },
            nothing_left,
            |reply, (attributes, epoch)| {
                reply.created(&UNREMEMBERED, &self.attr(attributes), Generation(0), FileHandle(epoch), UNCACHED);
            },
        );
    }

    fn read(
        &self,
        _: &Request,
        inode: INodeNo,
        handle: FileHandle,
        offset: u64,
        bytes: u32,
        _: OpenFlags,
        _: Option<LockOwner>,
        reply: ReplyData,
    ) {
        let operation = self.part(Operation::Read, inode, offset, u64::from(bytes));
        self.serve(
            operation,
            reply,
            |state| {
                check_handle(state, handle)?;
                state.store.read(inode.0, offset, bytes as usize)
            },
            nothing_left,
            |reply, data| reply.data(&data),
        );
    }

    fn write(
        &self,
        _: &Request,
        inode: INodeNo,
        handle: FileHandle,
        offset: u64,
        data: &[u8],
        _: WriteFlags,
        _: OpenFlags,
        _: Option<LockOwner>,
        reply: ReplyWrite,
    ) {
        let operation = self.part(Operation::Write, inode, offset, data.len() as u64);
        self.serve(
            operation,
            reply,
            |state| {
                check_handle(state, handle)?;
                state.store.write(inode.0, offset, data)?;
                Ok(data.len() as u32)
            },
            |state, effect| {
                if effect == Effect::Torn && check_handle(state, handle).is_ok() {
                    tear(state, inode.0, offset, data);
                }
            },
            |reply, bytes| reply.written(bytes),
        );
    }

    fn flush(&self, _: &Request, _: INodeNo, _: FileHandle, _: LockOwner, reply: ReplyEmpty) {
        reply.ok();
    }

    fn release(
        &self,
        _: &Request,
        inode: INodeNo,
        handle: FileHandle,
        _: OpenFlags,
        _: Option<LockOwner>,
        _: bool,
        reply: ReplyEmpty,
    ) {
        let mut state = lock(&self.state);
        if check_handle(&state, handle).is_ok() {
            state.store.release(inode.0);
        }
        drop(state);
        reply.ok();
    }

    fn fsync(&self, _: &Request, inode: INodeNo, handle: FileHandle, _: bool, reply: ReplyEmpty) {
        let act = |state: &mut State| {
            check_handle(state, handle)?;
            if state.lies_about_syncs { Ok(()) } else { state.store.sync(inode.0) }
        };
        let fail = |state: &mut State, _| {
            let mut random = Random::new(inode.0 ^ state.faults.struck().rotate_left(32));
            state.store.fail_sync(inode.0, &mut random);
        };
        self.serve(Operation::Sync, reply, act, fail, |reply, ()| reply.ok());
    }

    fn fsyncdir(&self, _: &Request, inode: INodeNo, _: FileHandle, _: bool, reply: ReplyEmpty) {
        let act = |state: &mut State| match state.lies_about_syncs {
            true => Ok(()),
            false => state.store.sync_directory(inode.0),
        };
        self.serve(Operation::SyncDirectory, reply, act, nothing_left, |reply, ()| reply.ok());
    }

    fn readdir(&self, _: &Request, inode: INodeNo, _: FileHandle, offset: u64, reply: ReplyDirectory) {
        let answer = |mut reply: ReplyDirectory, entries: Vec<(String, Attributes)>| {
            // An offset names the entry after the one that it came with.
            for (place, (name, attributes)) in (1..).zip(entries).skip(offset as usize) {
                let attr = self.attr(attributes);
                if reply.add(attr.ino, place, attr.kind, name) {
                    break;
                }
            }
            reply.ok();
        };
        self.serve(Operation::List, reply, |state| state.store.list(inode.0), nothing_left, answer);
    }

    fn statfs(&self, _: &Request, _: INodeNo, reply: ReplyStatfs) {
        let (total, free) = lock(&self.state).store.space();
        let page = PAGE_BYTES as u32;
        reply.statfs(total, free, free, u64::MAX, u64::MAX, page, NAME_BYTES_MAX, page);
    }

    fn fallocate(
        &self,
        _: &Request,
        inode: INodeNo,
        handle: FileHandle,
        offset: u64,
        bytes: u64,
        mode: i32,
        reply: ReplyEmpty,
    ) {
        use rustix::fs::FallocateFlags;
        let mode = FallocateFlags::from_bits_retain(mode.cast_unsigned());
        let punches = mode == FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
        let operation = if punches { Operation::Punch } else { Operation::Allocate };
        let act = |state: &mut State| {
            check_handle(state, handle)?;
            match mode {
                _ if punches => state.store.punch(inode.0, offset, bytes),
                FallocateFlags::KEEP_SIZE => state.store.allocate(inode.0, offset, bytes, true),
                mode if mode.is_empty() => state.store.allocate(inode.0, offset, bytes, false),
                _ => Err(Errno::OPNOTSUPP),
            }
        };
        self.serve(operation, reply, act, nothing_left, |reply, ()| reply.ok());
    }
}

fn libc_flag(flag: rustix::fs::OFlags) -> i32 {
    flag.bits().cast_signed()
}

/// Lets some pages of a write arrive; which ones follows from where it is.
fn tear(state: &mut State, inode: u64, offset: u64, data: &[u8]) {
    let mut random = Random::new(offset ^ inode.rotate_left(32));
    for (number, page) in data.chunks(PAGE_BYTES).enumerate() {
        if random.chance(1, 2) {
            // If the disk is full, nothing arrives.
            let _ = state.store.write(inode, offset + (number * PAGE_BYTES) as u64, page);
        }
    }
}
