//! Open files on the ring.

use std::io;
use std::rc::Rc;

use proto::limits::SECTOR_BYTES;
use proto::port::{AlignedBuf, DiskFile};
use rustix::fs::FallocateFlags;

use crate::operation::{Durability, Request, SyncScope};
use crate::ring::{OpenFile, Ring};

/// An open file. Dropping a future of it does not stop the operation once it has been polled to wait for the kernel.
#[derive(Clone)]
pub struct RingFile {
    ring: Ring,
    file: Rc<OpenFile>,
    access: Access,
}

/// What a file was opened for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Access {
    ReadWrite,
    /// Its file system is read-only.
    ReadOnly,
}

impl RingFile {
    pub(crate) fn new(ring: Ring, file: Rc<OpenFile>, access: Access) -> RingFile {
        RingFile { ring, file, access }
    }

    /// Errors: that of a read-only file system.
    fn check_writable(&self) -> io::Result<()> {
        match self.access {
            Access::ReadWrite => Ok(()),
            Access::ReadOnly => Err(io::ErrorKind::ReadOnlyFilesystem.into()),
        }
    }

    fn bytes(&self) -> io::Result<u64> {
        let stat = rustix::fs::fstat(&*self.file)?;
        u64::try_from(stat.st_size).map_err(|_| io::ErrorKind::InvalidData.into())
    }

    async fn write(&self, buf: AlignedBuf, offset: u64, durability: Durability) -> (io::Result<()>, AlignedBuf) {
        assert_sectors(offset, buf.len() as u64);
        if buf.is_empty() {
            let synced = if durability == Durability::Now { self.sync().await } else { Ok(()) };
            return (synced, buf);
        }
        if let Err(error) = self.check_writable() {
            return (Err(error), buf);
        }
        let (result, operation) =
            self.ring.run(Request::Write { file: self.file.clone(), buf, offset, durability }).await;
        (result.map(drop), operation.into_buf().expect("invariant: a write holds its buffer"))
    }

    /// `fallocate`: a `bytes` of 0 is nothing to do.
    pub(crate) async fn allocate(&self, flags: FallocateFlags, offset: u64, bytes: u64) -> io::Result<()> {
        if bytes == 0 {
            return Ok(());
        }
        let mode = flags.bits().cast_signed();
        self.ring.run(Request::Allocate { file: self.file.clone(), mode, offset, bytes }).await.0.map(drop)
    }
}

/// # Panics
/// If a transfer is not of whole sectors: our own code lays everything out on them.
fn assert_sectors(offset: u64, bytes: u64) {
    let sector = SECTOR_BYTES as u64;
    assert!(offset.is_multiple_of(sector) && bytes.is_multiple_of(sector), "invariant: disks move whole sectors");
    assert!(offset.checked_add(bytes).is_some_and(|end| end <= i64::MAX as u64), "invariant: files end below 2^63");
}

impl DiskFile for RingFile {
    async fn read_at(&self, buf: AlignedBuf, offset: u64) -> (io::Result<usize>, AlignedBuf) {
        assert_sectors(offset, buf.len() as u64);
        if buf.is_empty() {
            return (Ok(0), buf);
        }
        let (result, operation) = self.ring.run(Request::Read { file: self.file.clone(), buf, offset }).await;
        let buf = operation.into_buf().expect("invariant: a read holds its buffer");
        (result.map(|bytes| bytes as usize), buf)
    }

    async fn write_at(&self, buf: AlignedBuf, offset: u64) -> (io::Result<()>, AlignedBuf) {
        self.write(buf, offset, Durability::Later).await
    }

    async fn write_durable_at(&self, buf: AlignedBuf, offset: u64) -> (io::Result<()>, AlignedBuf) {
        self.write(buf, offset, Durability::Now).await
    }

    async fn sync(&self) -> io::Result<()> {
        self.ring.run(Request::Sync { file: self.file.clone(), scope: SyncScope::Data }).await.0.map(drop)
    }

    async fn set_len(&self, bytes: u64) -> io::Result<()> {
        assert_sectors(0, bytes);
        self.check_writable()?;
        let len = self.bytes()?;
        if bytes == len {
            return Ok(());
        }
        if bytes > len {
            return self.allocate(FallocateFlags::empty(), len, bytes - len).await;
        }
        if self.ring.truncates() {
            return self.ring.run(Request::Truncate { file: self.file.clone(), bytes }).await.0.map(drop);
        }
        Ok(rustix::fs::ftruncate(&*self.file, bytes)?)
    }

    async fn punch(&self, offset: u64, bytes: u64) -> io::Result<()> {
        assert_sectors(offset, bytes);
        self.allocate(FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE, offset, bytes).await
    }

    async fn len(&self) -> io::Result<u64> {
        // A part of a sector at the end is none of ours: this software never writes or cuts there.
        let bytes = self.bytes()?;
        Ok(bytes - bytes % SECTOR_BYTES as u64)
    }
}
