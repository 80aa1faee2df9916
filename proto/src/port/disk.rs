//! The disk port: named files of durable bytes on one device.

use std::io;

use super::AlignedBuf;

/// Free and total bytes of a device.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DiskSpace {
    /// Bytes of the whole device.
    pub total_bytes: u64,
    /// Bytes that a new file could still take.
    pub free_bytes: u64,
}

/// One device (a data directory, a raw disk, a simulated disk). Handles are cheap to clone.
///
/// Names are relative, `/`-separated and chosen by us, never by a caller of the API; `create` makes missing
/// directories, durably. A created, renamed or removed name is durable only after [`Disk::sync_dir`] of its directory.
///
/// A failed write or sync leaves the file in an unknown state: callers never retry it on the same bytes.
#[expect(async_fn_in_trait, reason = "code above the ports is single-threaded on purpose")]
pub trait Disk: Clone + 'static {
    /// An open file.
    type File: DiskFile;

    /// Creates `name` with `preallocate_bytes` reserved (they read as zeros, and the length is at least that).
    ///
    /// Errors: `AlreadyExists`, `StorageFull`, or the device's own.
    async fn create(&self, name: &str, preallocate_bytes: u64) -> io::Result<Self::File>;
    /// Opens an existing file for reading and writing. Errors: `NotFound`, or the device's own.
    async fn open(&self, name: &str) -> io::Result<Self::File>;
    /// Names (not paths) of the files in directory `dir`, sorted; empty if the directory does not exist.
    async fn list(&self, dir: &str) -> io::Result<Vec<String>>;
    /// Removes `name`. Errors: `NotFound`, or the device's own.
    async fn remove(&self, name: &str) -> io::Result<()>;
    /// Renames `from` to `to` within one directory, replacing `to` atomically.
    async fn rename(&self, from: &str, to: &str) -> io::Result<()>;
    /// Makes creations, renames and removals in `dir` durable (`""` is the top directory).
    async fn sync_dir(&self, dir: &str) -> io::Result<()>;
    /// Free and total bytes.
    async fn space(&self) -> io::Result<DiskSpace>;
    /// Returns a buffer of `len` bytes, registered memory if some is free; contents are unspecified.
    fn buffer(&self, len: usize) -> AlignedBuf;
}

/// An open file. Handles are cheap to clone; the file closes when the last one and all its operations are gone.
///
/// Offsets and lengths are multiples of 4 KiB. A buffer belongs to the operation until it completes, also when the
/// returned future is dropped: the operation then still runs to its end.
#[expect(async_fn_in_trait, reason = "code above the ports is single-threaded on purpose")]
#[expect(clippy::len_without_is_empty, reason = "asking whether a file is empty would cost the same I/O")]
pub trait DiskFile: Clone + 'static {
    /// Reads `buf.len()` bytes at `offset` into `buf`. Returns how many were read: fewer only at the end of the file.
    async fn read_at(&self, buf: AlignedBuf, offset: u64) -> (io::Result<usize>, AlignedBuf);
    /// Writes all of `buf`; durable only after a later [`DiskFile::sync`].
    async fn write_at(&self, buf: AlignedBuf, offset: u64) -> (io::Result<()>, AlignedBuf);
    /// Writes all of `buf` and makes it durable, as one linked write and sync.
    async fn write_durable_at(&self, buf: AlignedBuf, offset: u64) -> (io::Result<()>, AlignedBuf);
    /// Makes every completed write of this file, and its length, durable.
    async fn sync(&self) -> io::Result<()>;
    /// Sets the length: cuts off what is beyond `bytes`, or reserves up to it (new bytes read as zeros).
    async fn set_len(&self, bytes: u64) -> io::Result<()>;
    /// Gives the device back `bytes` at `offset`; they read as zeros afterwards. The length stays.
    async fn punch(&self, offset: u64, bytes: u64) -> io::Result<()>;
    /// The length in bytes: whole sectors, for a part of one at the end is none of ours.
    async fn len(&self) -> io::Result<u64>;
}
