//! Reading a file through a moving window of memory, so that recovery's memory does not grow with the log.

use std::io;

use proto::limits::SECTOR_BYTES;
use proto::port::{AlignedBuf, Disk, DiskFile};

/// Bytes read at first when less is asked for, and twice as many each time: most logs are short.
const WINDOW_BYTES_MIN: usize = 64 << 10;
/// Bytes read at once in the end.
const WINDOW_BYTES_MAX: usize = 1 << 20;

/// A file, and the part of it that is in memory.
pub(super) struct Window<D: Disk> {
    disk: D,
    file: D::File,
    start: u64,
    /// Bytes of the file that `held` begins with.
    valid: usize,
    held: AlignedBuf,
    /// Bytes read next when less is asked for.
    window_bytes: usize,
}

impl<D: Disk> Window<D> {
    /// Returns a window on `file`.
    pub(super) fn new(disk: D, file: D::File) -> Window<D> {
        Window { disk, file, start: 0, valid: 0, held: AlignedBuf::zeroed(0), window_bytes: WINDOW_BYTES_MIN }
    }

    /// Reads from the device again, whatever is in memory.
    pub(super) fn forget(&mut self) {
        self.valid = 0;
    }

    /// Returns `len` bytes at `offset`, a multiple of 4 KiB; fewer only at the end of the file.
    ///
    /// Errors: the device's own.
    pub(super) async fn read(&mut self, offset: u64, len: usize) -> io::Result<&[u8]> {
        assert!(offset.is_multiple_of(SECTOR_BYTES as u64), "invariant: structures start on sectors");
        let end = self.start + self.valid as u64;
        if offset < self.start || offset + len as u64 > end {
            let want = len.next_multiple_of(SECTOR_BYTES).max(self.window_bytes);
            self.window_bytes = (2 * self.window_bytes).min(WINDOW_BYTES_MAX);
            let mut buf = std::mem::replace(&mut self.held, AlignedBuf::zeroed(0));
            if buf.capacity() < want {
                buf = self.disk.buffer(want);
            }
            buf.set_len(want);
            self.valid = 0;
            let (read, held) = self.file.read_at(buf, offset).await;
            (self.held, self.start, self.valid) = (held, offset, read?);
        }
        let from = (offset - self.start) as usize;
        Ok(&self.held[from..self.valid.min(from + len)])
    }
}
