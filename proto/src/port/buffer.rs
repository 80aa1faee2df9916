//! Sector-aligned memory for direct I/O.

use std::ops::{Deref, DerefMut};
use std::rc::Rc;

use zerocopy::{FromBytes, FromZeros, Immutable, IntoBytes, KnownLayout};

use crate::limits::SECTOR_BYTES;

/// One sector of memory, aligned as direct I/O wants it.
#[derive(Clone, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C, align(4096))]
pub struct Page([u8; SECTOR_BYTES]);

/// A lender of pre-registered memory; gets its pages back when the borrower drops them.
pub trait BufferPool {
    /// Takes back the pages lent as `slot`. They are the same memory, with contents left as they are.
    fn give_back(&self, slot: u16, pages: Vec<Page>);
}

/// A buffer whose address and capacity are multiples of 4 KiB, and whose length is any number of bytes.
///
/// Disks read and write whole sectors: the bytes between `len` and the capacity are zero or what the caller left.
/// A buffer may be lent by a [`BufferPool`] of memory that the kernel has pinned; it returns there when dropped.
pub struct AlignedBuf {
    pages: Vec<Page>,
    len: usize,
    lent: Option<(u16, Rc<dyn BufferPool>)>,
}

impl AlignedBuf {
    /// Returns a zeroed buffer of `len` bytes.
    ///
    /// # Panics
    /// If memory is exhausted.
    #[must_use]
    pub fn zeroed(len: usize) -> AlignedBuf {
        let pages = Page::new_vec_zeroed(len.div_ceil(SECTOR_BYTES)).expect("memory for an I/O buffer");
        AlignedBuf { pages, len, lent: None }
    }

    /// Returns a buffer of `len` bytes that holds `byte` up to its capacity.
    #[must_use]
    pub fn filled(len: usize, byte: u8) -> AlignedBuf {
        let pages = vec![Page([byte; SECTOR_BYTES]); len.div_ceil(SECTOR_BYTES)];
        AlignedBuf { pages, len, lent: None }
    }

    /// Returns a buffer over pages lent by `pool` as `slot`; the contents are whatever the last user left.
    ///
    /// # Panics
    /// If `len` exceeds the pages.
    #[must_use]
    pub fn lent(pages: Vec<Page>, len: usize, slot: u16, pool: Rc<dyn BufferPool>) -> AlignedBuf {
        assert!(len <= pages.len() * SECTOR_BYTES, "invariant: a lent buffer fits its pages");
        AlignedBuf { pages, len, lent: Some((slot, pool)) }
    }

    /// Copies `bytes` into a new buffer.
    #[must_use]
    pub fn copy_of(bytes: &[u8]) -> AlignedBuf {
        let mut buf = AlignedBuf::zeroed(bytes.len());
        buf.copy_from_slice(bytes);
        buf
    }

    /// The pool slot of this memory, if it is registered with the ring that lent it.
    #[must_use]
    pub fn registered_slot(&self) -> Option<u16> {
        self.lent.as_ref().map(|(slot, _)| *slot)
    }

    /// Bytes of memory, a multiple of 4 KiB.
    #[must_use]
    pub fn capacity(&self) -> usize {
        self.pages.len() * SECTOR_BYTES
    }

    /// Changes the length within the capacity.
    ///
    /// # Panics
    /// If `len` exceeds the capacity.
    pub fn set_len(&mut self, len: usize) {
        assert!(len <= self.capacity(), "invariant: a length fits its buffer");
        self.len = len;
    }

    /// Rounds the length up to whole sectors, zeroing what is added, so that it can be written.
    pub fn pad_to_sector(&mut self) {
        let len = self.len;
        self.len = len.next_multiple_of(SECTOR_BYTES);
        self[len..].fill(0);
    }
}

impl Deref for AlignedBuf {
    type Target = [u8];
    fn deref(&self) -> &[u8] {
        &self.pages.as_bytes()[..self.len]
    }
}

impl DerefMut for AlignedBuf {
    fn deref_mut(&mut self) -> &mut [u8] {
        &mut self.pages.as_mut_bytes()[..self.len]
    }
}

impl Drop for AlignedBuf {
    fn drop(&mut self) {
        if let Some((slot, pool)) = self.lent.take() {
            pool.give_back(slot, std::mem::take(&mut self.pages));
        }
    }
}

impl std::fmt::Debug for AlignedBuf {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "AlignedBuf({} of {} bytes)", self.len, self.capacity())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::cell::RefCell;

    #[test]
    fn buffers_are_aligned_and_padded_with_zeros() {
        let mut buf = AlignedBuf::copy_of(&[7; 5000]);
        assert_eq!(buf.as_ptr() as usize % SECTOR_BYTES, 0);
        assert_eq!(buf.capacity(), 8192);
        buf.set_len(8192);
        buf.fill(9);
        buf.set_len(5000);
        buf.pad_to_sector();
        assert_eq!(buf.len(), 8192);
        assert!(buf[5000..].iter().all(|byte| *byte == 0));
    }

    #[test]
    fn a_filled_buffer_is_filled_beyond_its_length() {
        let mut buf = AlignedBuf::filled(5000, 7);
        assert_eq!((buf.len(), buf.capacity()), (5000, 8192));
        buf.set_len(8192);
        assert!(buf.iter().all(|byte| *byte == 7));
    }

    #[test]
    fn lent_pages_return_when_the_buffer_is_dropped() {
        struct Pool(RefCell<Vec<(u16, usize)>>);
        impl BufferPool for Pool {
            fn give_back(&self, slot: u16, pages: Vec<Page>) {
                self.0.borrow_mut().push((slot, pages.len()));
            }
        }
        let pool = Rc::new(Pool(RefCell::default()));
        let pages = Page::new_vec_zeroed(3).unwrap();
        let buf = AlignedBuf::lent(pages, 4096, 17, pool.clone());
        assert_eq!(buf.registered_slot(), Some(17));
        drop(buf);
        assert_eq!(*pool.0.borrow(), [(17, 3)]);
    }
}
