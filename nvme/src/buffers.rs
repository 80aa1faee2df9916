//! The pool of memory that is registered with the ring, so that the kernel need not pin pages for each operation.
//!
//! A buffer belongs to exactly one of: the pool's free list, a caller (as an [`AlignedBuf`] that returns here when
//! dropped), or an operation in flight. It never moves in memory. If the memory may not be locked, the pool is empty
//! and callers get plain memory: slower, never wrong.
#![allow(unsafe_code)]

use std::cell::RefCell;
use std::io;
use std::rc::Rc;

use io_uring::Submitter;
use proto::limits::SECTOR_BYTES;
use proto::port::{AlignedBuf, BufferPool, Page};
use zerocopy::FromZeros;

/// A number of equal buffers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BufferClass {
    /// Size of each, a multiple of 4 KiB.
    pub bytes: usize,
    /// How many.
    pub count: u16,
}

/// The default pool, 28.5 MiB: metadata and small reads, single chunks, columns of rows and warm blocks, whole rows of
/// a single disk (a row's payload target, its last block and its tables).
pub(crate) const DEFAULT_CLASSES: [BufferClass; 4] = [
    BufferClass { bytes: 16 << 10, count: 32 },
    BufferClass { bytes: 128 << 10, count: 32 },
    BufferClass { bytes: 1 << 20, count: 12 },
    BufferClass { bytes: 6 << 20, count: 2 },
];

/// Registered memory by size. A request takes the smallest class that fits, or the next one: small requests must not
/// use up the large buffers.
pub(crate) struct Pool {
    classes: Vec<Class>,
    /// Where the buffer of each slot lies; tells our own buffers from those of another ring.
    addresses: Vec<usize>,
}

struct Class {
    bytes: usize,
    end_slot: u16,
    free: RefCell<Vec<(u16, Vec<Page>)>>,
}

impl Pool {
    /// Returns a pool without memory.
    pub(crate) fn empty() -> Pool {
        Pool { classes: Vec::new(), addresses: Vec::new() }
    }

    /// Allocates `classes` and registers them as buffers 0, 1, … of the ring.
    ///
    /// Errors: out of memory, or over the limit of locked memory (both `ENOMEM`), or the kernel's own.
    ///
    /// # Panics
    /// If a class is not whole sectors, or there are more buffers than 16 bits number.
    pub(crate) fn register(mut classes: Vec<BufferClass>, submitter: &Submitter<'_>) -> io::Result<Pool> {
        classes.sort_by_key(|class| class.bytes);
        let mut pool = Pool::empty();
        let mut vectors = Vec::new();
        for class in classes {
            assert!(class.bytes > 0 && class.bytes.is_multiple_of(SECTOR_BYTES), "invariant: whole sectors");
            let mut free = Vec::with_capacity(usize::from(class.count));
            for _ in 0..class.count {
                let slot = u16::try_from(pool.addresses.len()).expect("invariant: 16 bits number the buffers");
                let mut pages = Page::new_vec_zeroed(class.bytes / SECTOR_BYTES)
                    .map_err(|_| io::Error::from_raw_os_error(libc::ENOMEM))?;
                vectors.push(libc::iovec { iov_base: pages.as_mut_ptr().cast(), iov_len: class.bytes });
                pool.addresses.push(pages.as_ptr().addr());
                free.push((slot, pages));
            }
            let end_slot = u16::try_from(pool.addresses.len()).expect("invariant: 16 bits number the buffers");
            pool.classes.push(Class { bytes: class.bytes, end_slot, free: RefCell::new(free) });
        }
        if !vectors.is_empty() {
            // SAFETY: each vector is the whole of a live allocation. It stays allocated while the ring lives: the ring
            // holds this pool, and a lent buffer holds it too and never gives its pages away but to it. The kernel
            // pins the pages and touches them only for operations that name the slot, which own the buffer.
            unsafe { submitter.register_buffers(&vectors) }?;
        }
        Ok(pool)
    }

    /// Whether there is registered memory at all.
    pub(crate) fn is_registered(&self) -> bool {
        !self.addresses.is_empty()
    }

    /// Lends a buffer of `len` bytes, if one of a fitting class is free.
    pub(crate) fn lend(self: &Rc<Self>, len: usize) -> Option<AlignedBuf> {
        let fitting = self.classes.iter().filter(|class| class.bytes >= len).take(2);
        let (slot, pages) = fitting.filter_map(|class| class.free.borrow_mut().pop()).next()?;
        Some(AlignedBuf::lent(pages, len, slot, self.clone()))
    }

    /// The registered index of `buf`, if it is memory of this pool.
    pub(crate) fn index_of(&self, buf: &AlignedBuf) -> Option<u16> {
        let slot = buf.registered_slot()?;
        (self.addresses.get(usize::from(slot)) == Some(&buf.as_ptr().addr())).then_some(slot)
    }
}

impl BufferPool for Pool {
    fn give_back(&self, slot: u16, pages: Vec<Page>) {
        assert_eq!(self.addresses[usize::from(slot)], pages.as_ptr().addr(), "invariant: a slot is one memory");
        let class = self.classes.iter().find(|class| slot < class.end_slot).expect("invariant: a slot has a class");
        class.free.borrow_mut().push((slot, pages));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pool(classes: &[(usize, u16)]) -> (io_uring::IoUring, Rc<Pool>) {
        let uring = io_uring::IoUring::new(2).unwrap();
        let classes = classes.iter().map(|(bytes, count)| BufferClass { bytes: *bytes, count: *count }).collect();
        let pool = Pool::register(classes, &uring.submitter()).unwrap();
        (uring, Rc::new(pool))
    }

    #[test]
    fn a_buffer_returns_as_the_same_memory() {
        let (_uring, pool) = pool(&[(8192, 1)]);
        let mut buf = pool.lend(5000).unwrap();
        let address = buf.as_ptr();
        buf.fill(7);
        assert_eq!((buf.len(), buf.capacity(), pool.index_of(&buf)), (5000, 8192, Some(0)));
        assert!(pool.lend(1).is_none(), "there is only one");
        drop(buf);
        let again = pool.lend(8192).unwrap();
        assert_eq!((again.as_ptr(), again[0]), (address, 7));
    }

    #[test]
    fn small_requests_leave_the_large_buffers_alone() {
        let (_uring, pool) = pool(&[(1 << 20, 1), (4096, 1), (8192, 1)]);
        let lent: Vec<_> = std::iter::from_fn(|| pool.lend(4096)).collect();
        assert_eq!(lent.iter().map(AlignedBuf::capacity).collect::<Vec<_>>(), [4096, 8192]);
        assert_eq!(pool.lend(8193).unwrap().capacity(), 1 << 20);
        assert!(pool.lend((1 << 20) + 1).is_none());
    }

    #[test]
    fn a_buffer_of_another_pool_has_no_index_here() {
        let (_uring_a, a) = pool(&[(4096, 2)]);
        let (_uring_b, b) = pool(&[(4096, 2)]);
        let buf = a.lend(4096).unwrap();
        assert!(a.index_of(&buf).is_some() && b.index_of(&buf).is_none());
        assert!(a.index_of(&AlignedBuf::zeroed(4096)).is_none());
    }
}
