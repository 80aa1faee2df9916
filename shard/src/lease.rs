//! What is open on a core, and must not be condemned for as long as it is: uploads and reads.
//!
//! A lease is taken *before* whoever opens something asks what he needs, and says what that is afterwards. A collection
//! waits for those in between, so none slips past it on its way from the namespace to this table.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::rc::Rc;

use proto::CoreId;
use proto::port::Disk;

use crate::segment::SegmentLog;
use crate::store::{Inner, Store};
use crate::sweep::Reference;
use crate::wait::WaitList;

/// A chunk that something open needs, or a manifest page with all that it leads to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Root {
    /// The chunk or page.
    pub reference: Reference,
    /// Levels of pages between it and the chunks, plus one; 0 for a chunk.
    pub depth: u8,
    /// Bytes of the file that it covers.
    pub bytes: u64,
}

/// Something open.
pub trait Holder {
    /// What it needs now.
    fn roots(&self) -> Vec<Root>;
}

/// The leases of one core.
#[derive(Default)]
pub(crate) struct Leases {
    open: RefCell<Open>,
    changed: WaitList,
}

#[derive(Default)]
struct Open {
    next: u64,
    /// `None` until the holder is known.
    leases: BTreeMap<u64, Option<Rc<dyn Holder>>>,
}

/// A place in the table, until it is dropped.
pub struct Lease {
    leases: Rc<Leases>,
    number: u64,
}

impl Lease {
    /// Says what is held.
    pub fn hold(&self, holder: Rc<dyn Holder>) {
        self.leases.open.borrow_mut().leases.insert(self.number, Some(holder));
        self.leases.changed.wake();
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        self.leases.open.borrow_mut().leases.remove(&self.number);
        self.leases.changed.wake();
    }
}

impl Leases {
    fn take(self: &Rc<Self>) -> Lease {
        let mut open = self.open.borrow_mut();
        let number = open.next;
        open.next += 1;
        open.leases.insert(number, None);
        Lease { leases: self.clone(), number }
    }

    /// The first lease from `from` on, before `end`: its number and what it holds, once that is known.
    async fn roots(&self, from: u64, end: u64) -> Option<(u64, Vec<Root>)> {
        let first = || {
            let open = self.open.borrow();
            match open.leases.range(from..end).next() {
                None => Some(None),
                Some((_, None)) => None,
                Some((number, Some(holder))) => Some(Some((*number, holder.clone()))),
            }
        };
        let (number, holder) = self.changed.until(first).await?;
        Some((number, holder.roots()))
    }
}

/// How far a walk over the leases of a core has come.
#[derive(Clone, Copy, Debug)]
pub struct LeaseCursor {
    from: u64,
    end: u64,
}

impl<D: Disk, L: SegmentLog> Store<D, L> {
    /// Takes a lease on this core; say what it holds with [`Lease::hold`], soon.
    #[must_use]
    pub fn lease(&self) -> Lease {
        self.inner().leases.take()
    }

    /// Begins a walk over the leases that are taken on core `core` now.
    pub async fn leases(&self, core: CoreId) -> LeaseCursor {
        let end = self.inner().peers.ask(core, |inner: &Inner<D, L>| inner.leases.open.borrow().next).await;
        LeaseCursor { from: 0, end }
    }

    /// What the next lease of a walk holds; `None` after the last.
    pub async fn lease_roots(&self, core: CoreId, cursor: &mut LeaseCursor) -> Option<Vec<Root>> {
        let LeaseCursor { from, end } = *cursor;
        let next = move |inner: Rc<Inner<D, L>>| async move { inner.leases.roots(from, end).await };
        let (number, roots) = self.inner().peers.call(core, next).await?;
        cursor.from = number + 1;
        Some(roots)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures_util::FutureExt;
    use proto::{ChunkId, Location};

    struct Held(u8);

    impl Holder for Held {
        fn roots(&self) -> Vec<Root> {
            let hint = Location::unpack(0).expect("zero is a location");
            vec![Root { reference: Reference { id: ChunkId([self.0; 32]), hint }, depth: 0, bytes: 1 }]
        }
    }

    #[test]
    fn a_walk_waits_for_a_lease_whose_holder_is_on_its_way_and_passes_over_those_that_end() {
        let leases = Rc::new(Leases::default());
        let (first, second, third) = (leases.take(), leases.take(), leases.take());
        second.hold(Rc::new(Held(2)));
        let mut walk = std::pin::pin!(leases.roots(0, 3));
        assert!(walk.as_mut().now_or_never().is_none(), "the first may hold anything");
        drop(first);
        assert_eq!(walk.now_or_never().flatten(), Some((1, Held(2).roots())));
        let mut walk = std::pin::pin!(leases.roots(2, 3));
        assert!(walk.as_mut().now_or_never().is_none());
        third.hold(Rc::new(Held(3)));
        assert_eq!(walk.now_or_never().flatten(), Some((2, Held(3).roots())));
        let _later = leases.take();
        assert_eq!(leases.roots(3, 3).now_or_never(), Some(None), "what came after the walk began");
    }
}
