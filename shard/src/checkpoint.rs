//! What a checkpoint of the chunk index takes from each core, and gives back at a start.
//!
//! A checkpoint *covers* settled segments: those that are sealed and whose chunks have all entered the index before its
//! pages are made. A start loads the pages and replays the tail: the segments that are not covered.
//! Everything here may be missing or damaged: then all segments are replayed.

use std::collections::BTreeSet;

use futures_channel::oneshot;
use index::{ExportCursor, Index, PageError, page_shard};
use proto::limits::VIRTUAL_SHARDS;
use proto::planted::{self, Bug};
use proto::port::Disk;
use proto::{CoreId, Location, SegmentId, VirtualShard};

use crate::owner::{Owner, Volume, at_least_nothing};
use crate::row::CompressedBlock;
use crate::segment::SegmentLog;
use crate::store::{Inner, Store, Underway, owner_of};

/// Plain bytes of one page: some thousand entries, made in about a millisecond.
const PAGE_BYTES: usize = 128 << 10;

/// The segments of all cores, as a checkpoint sees them.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Settled {
    /// Below every segment that is opened from now on, on whichever core.
    pub end: SegmentId,
    /// Those below that are not settled, or hold one of several copies of a chunk. Ascending.
    pub except: Vec<SegmentId>,
}

impl<D: Disk, L: SegmentLog> Store<D, L> {
    /// Which segments of all cores a checkpoint that begins now may cover.
    ///
    /// Cores number their segments independently. So those that lag behind the end first skip the numbers below it, or
    /// the checkpoint would cover what they open next.
    pub async fn settled(&self) -> Settled {
        let peers = &self.inner().peers;
        let cores = || (0..peers.count() as u16).map(CoreId);
        let mut end = SegmentId::default();
        for core in cores() {
            end = end.max(peers.ask(core, |inner: &Inner<D, L>| inner.next_segment_id()).await);
        }
        let mut except = Vec::new();
        for core in cores() {
            except.append(&mut peers.ask(core, move |inner: &Inner<D, L>| inner.unsettled(end)).await);
        }
        except.sort_unstable();
        except.dedup();
        Settled { end, except }
    }

    /// Returns the next page of the index partitions of core `core`, and where the one after it begins; `None` at the
    /// end.
    pub async fn export(&self, core: CoreId, from: PageCursor) -> Option<(Vec<u8>, PageCursor)> {
        self.inner().peers.ask(core, move |inner: &Inner<D, L>| inner.export(from)).await
    }

    /// Chunks, and their bytes, that the owners have in segments for which `covered` holds.
    pub async fn volume(&self, covered: impl Fn(SegmentId) -> bool + Clone + Send + 'static) -> Volume {
        let peers = &self.inner().peers;
        let mut sum = Volume::default();
        for core in 0..peers.count() as u16 {
            let covered = covered.clone();
            let ask = move |inner: &Inner<D, L>| inner.owner.borrow().volume(covered);
            sum += peers.ask(CoreId(core), ask).await;
        }
        Volume {
            chunks: at_least_nothing(sum.chunks),
            plain_bytes: at_least_nothing(sum.plain_bytes),
            stored_bytes: at_least_nothing(sum.stored_bytes),
            similarity_bytes: at_least_nothing(sum.similarity_bytes),
        }
    }

    /// Writes a page as a block of its own, which the index does not know. `None` if the store is closing.
    pub async fn put_page(&self, block: CompressedBlock) -> Option<Underway> {
        let inner = self.inner();
        inner.writer.wait_for_room().await;
        let waiting_bytes = block.column_bytes();
        let durable: oneshot::Receiver<_> = inner.writer.push(block)?;
        Some(Underway { writer: inner.peers.me(), durable, waiting_bytes })
    }

    /// Gives a page's entries to the owner of their virtual shard; those in segments for which `covered` does not hold
    /// are left out.
    ///
    /// What of them was found in the tail was stored again since, or moved there: the tail's copy answers, and the one that
    /// the checkpoint counts too is taken off, after the table of its row has said how long it is. Cost: a read for each
    /// such row.
    ///
    /// Returns whether the page may stand. It may not if one of those tables does not have the chunk.
    /// Errors: [`PageError`]; nothing of the page was entered.
    pub async fn import(
        &self,
        page: Vec<u8>,
        covered: impl Fn(SegmentId) -> bool + Send + 'static,
    ) -> Result<bool, PageError> {
        let peers = &self.inner().peers;
        let owner = owner_of(page_shard(&page)?, peers.count());
        let import = move |inner: &Inner<D, L>| inner.owner.borrow_mut().index.import(&page, covered);
        let mut elsewhere: BTreeSet<Location> = peers.ask(owner, import).await?.elsewhere.into_iter().collect();
        while let Some(location) = elsewhere.pop_first() {
            let row = self.inner().chunks_of_row(location, &mut elsewhere).await;
            if row.iter().all(|chunk| chunk.location != location) {
                return Ok(false);
            }
            let supersede = move |inner: &Inner<D, L>| inner.owner.borrow_mut().supersede(&row);
            if !peers.ask(owner, supersede).await {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// Enters what a loaded checkpoint says of the volume of the segments that it covers.
    pub fn add_volume(&self, volume: Volume) {
        self.inner().owner.borrow_mut().add_covered(volume);
    }

    /// Forgets what the owner on this core knows: a checkpoint was no good, and all segments are replayed.
    pub fn reset(&self) {
        let inner = self.inner();
        let fresh = inner.new_owner();
        *inner.owner.borrow_mut() = fresh;
    }
}

/// How far the export of one core's partitions has come; the default is its beginning.
#[derive(Clone, Copy, Debug, Default)]
pub struct PageCursor {
    shard: usize,
    within: ExportCursor,
}

impl<D: Disk, L: SegmentLog> Inner<D, L> {
    /// An owner of this core's virtual shards that knows nothing.
    pub(crate) fn new_owner(&self) -> Owner {
        let epoch = self.owner.borrow().index.epoch();
        new_owner(self.peers.me(), self.peers.count(), epoch)
    }

    /// At or above every segment of this home so far.
    fn next_segment_id(&self) -> SegmentId {
        let counter = self.next_segment.get().min(SegmentId::COUNTER_MAX);
        SegmentId::new(self.options.incarnation, counter)
    }

    /// Opens no more segments below `end`; returns those of this home below it that a checkpoint must not cover.
    fn unsettled(&self, end: SegmentId) -> Vec<SegmentId> {
        let cores = self.peers.count() as u64;
        let behind = end.counter().saturating_sub(self.next_segment.get());
        if !planted::is(Bug::LaggingCoreCovered) {
            self.next_segment.set(self.next_segment.get() + behind.next_multiple_of(cores));
        }
        let home = self.home.borrow();
        let unsettled = home.values().filter(|home| !home.settled.get() && !planted::is(Bug::UnsettledCovered));
        let unsettled = unsettled.map(|home| home.segment.id);
        let opening = self.opening.borrow();
        let copies = self.owner.borrow().segments_of_copies();
        unsettled.chain(opening.iter().copied()).chain(copies).filter(|segment| *segment < end).collect()
    }

    fn export(&self, mut from: PageCursor) -> Option<(Vec<u8>, PageCursor)> {
        let (me, cores) = (self.peers.me(), self.peers.count());
        while from.shard < VIRTUAL_SHARDS && owner_of(VirtualShard(from.shard as u8), cores) != me {
            from.shard += 1;
        }
        if from.shard == VIRTUAL_SHARDS {
            return None;
        }
        let owner = self.owner.borrow();
        let (page, rest) = owner.index.export(VirtualShard(from.shard as u8), from.within, PAGE_BYTES);
        let next = match rest {
            Some(within) => PageCursor { shard: from.shard, within },
            None => PageCursor { shard: from.shard + 1, within: ExportCursor::default() },
        };
        Some((page, next))
    }
}

/// The owner of core `me`'s virtual shards among `cores`, in `epoch` of garbage collection.
pub(crate) fn new_owner(me: CoreId, cores: usize, epoch: u64) -> Owner {
    let owned = (0..VIRTUAL_SHARDS as u8).map(VirtualShard).filter(|shard| owner_of(*shard, cores) == me);
    let mut index = Index::new(owned);
    index.set_epoch(epoch);
    Owner::new(index)
}
