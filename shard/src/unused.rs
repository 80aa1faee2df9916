//! Whole segments that nothing names.
//!
//! Only settled segments are asked for: sealed ones, all chunks of which have entered the index. Nothing enters a chunk in
//! such a segment later, unless something refers to it; so what is unused now stays unused while nobody marks.

use std::rc::Rc;

use proto::planted::{self, Bug};
use proto::port::Disk;
use proto::{CoreId, SegmentId};

use crate::segment::{HomeSegment, SegmentLog};
use crate::store::{Inner, Store};

/// A segment that nothing names.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct UnusedSegment {
    /// The segment.
    pub segment: SegmentId,
    /// Bytes of its files on all devices.
    pub file_bytes: u64,
    /// Whether its rows were read from a footer. If not, those that do not verify were left out, or nobody has looked yet.
    pub has_footer: bool,
}

impl<D: Disk, L: SegmentLog> Store<D, L> {
    /// Settled segments of all cores that no entry of the index names, and in which no copy of a chunk is remembered;
    /// ascending.
    ///
    /// Pages of the index's own checkpoints are no chunks: the caller knows where they lie.
    pub async fn unused_segments(&self) -> Vec<UnusedSegment> {
        let settled = |inner: &Inner<D, L>| {
            let home = inner.home.borrow();
            let settled = home.values().filter(|home| home.settled.get() || planted::is(Bug::UnsettledFreed));
            let unused = |home: &Rc<HomeSegment>| UnusedSegment {
                segment: home.segment.id,
                file_bytes: home.file_bytes.get(),
                has_footer: home.has_footer(),
            };
            settled.map(unused).collect::<Vec<_>>()
        };
        let mut unused: Vec<UnusedSegment> = self.ask_all(settled).await.into_iter().flatten().collect();
        unused.sort_unstable();
        let segments: Vec<SegmentId> = unused.iter().map(|unused| unused.segment).collect();
        let ask = move |inner: &Inner<D, L>| inner.owner.borrow().unused(&segments);
        for at_owner in self.ask_all(ask).await {
            unused.retain(|unused| at_owner.binary_search(&unused.segment).is_ok());
        }
        unused
    }

    /// Has the open segments of all cores sealed: what they hold can be freed then.
    pub async fn seal_open_segments(&self) {
        let peers = &self.inner().peers;
        for core in (0..peers.count() as u16).map(CoreId) {
            let seal = |inner: Rc<Inner<D, L>>| async move { inner.writer.turn_over().await };
            peers.call(core, seal).await;
        }
    }
}
