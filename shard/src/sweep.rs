//! Garbage collection at the owners of chunks: marks, pins, and the sweep that condemns what has neither.
//!
//! ```text
//!   stale entries, in steps ─▶ the table of each one's row, from the segment's home ─▶ the owner looks again: condemned
//! ```
//!
//! An entry has only a part of its chunk's id. The row's table has all of it and says how long the chunk is; so nothing
//! is condemned whose table cannot be read, or does not name a chunk at that place.
//!
//! All of it is driven by one core, the one that collects; the others answer single questions.

use std::collections::BTreeSet;
use std::rc::Rc;

use futures_util::future::join_all;
use index::{Coverage, StaleCursor};
use proto::limits::{SWEEP_BATCH_CHUNKS_MAX, SWEEP_STEP_ENTRIES_MAX};
use proto::port::Disk;
use proto::{ChunkId, CoreId, Location};

use crate::open::durable_chunks;
use crate::owner::{DurableChunk, Volume};
use crate::segment::SegmentLog;
use crate::store::{Inner, Store};

/// Chunks with several copies that are looked at together.
const COPIES_STEP_CHUNKS: usize = 64;

/// A chunk that something refers to, and where it says that it lies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Reference {
    /// The chunk.
    pub id: ChunkId,
    /// Where it was when the reference was made.
    pub hint: Location,
}

/// What a sweep did.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Swept {
    /// What was condemned.
    pub condemned: Volume,
    /// Stale entries that stay, because no row table that could be read confirms them.
    pub kept: u64,
}

impl std::ops::AddAssign for Swept {
    fn add_assign(&mut self, other: Swept) {
        self.condemned += other.condemned;
        self.kept += other.kept;
    }
}

impl<D: Disk, L: SegmentLog> Store<D, L> {
    /// Has the owners on all cores pin at `epoch` from now on.
    ///
    /// # Panics
    /// If it is lower than before.
    pub async fn set_epoch(&self, epoch: u64) {
        let tell = move |inner: &Inner<D, L>| inner.owner.borrow_mut().index.set_epoch(epoch);
        self.ask_all(tell).await;
    }

    /// Whether the owners on all cores know every chunk that the start found.
    pub async fn is_complete(&self) -> bool {
        let ask = |inner: &Inner<D, L>| inner.owner.borrow().index.coverage() == Coverage::Complete;
        self.ask_all(ask).await.into_iter().all(|complete| complete)
    }

    /// Entries of the index that left the place where they were, since the start: pages that were made before do not agree
    /// with volumes that are asked for afterwards.
    pub async fn index_departures(&self) -> u64 {
        self.ask_all(|inner: &Inner<D, L>| inner.owner.borrow().departures()).await.into_iter().sum()
    }

    /// Entries of the index that came or went since the start.
    pub async fn index_changes(&self) -> u64 {
        self.ask_all(|inner: &Inner<D, L>| inner.owner.borrow().changes()).await.into_iter().sum()
    }

    /// Marks chunks that something refers to: the sweep of this epoch leaves them alone.
    ///
    /// One that the index does not know is looked for where the reference says. Returns those that are not there either.
    pub async fn mark(&self, references: Vec<Reference>) -> Vec<Reference> {
        let inner = self.inner();
        let batches = inner.by_owner(references, |reference| reference.id);
        let mark = |(owner, batch): (CoreId, Vec<Reference>)| async move {
            let ids: Vec<ChunkId> = batch.iter().map(|reference| reference.id).collect();
            let ask = move |inner: &Inner<D, L>| inner.owner.borrow_mut().mark(&ids);
            let unknown = inner.peers.ask(owner, ask).await;
            unknown.into_iter().map(|place| batch[place]).collect::<Vec<_>>()
        };
        let mut missing = Vec::new();
        for reference in join_all(batches.into_iter().map(mark)).await.into_iter().flatten() {
            if !inner.reenter(reference).await {
                missing.push(reference);
            }
        }
        missing
    }

    /// Pins chunks once more, which somebody stored or found earlier and will refer to only now.
    ///
    /// Returns the lowest epoch of an owner; `None` if one of them is not there any more, or cannot be confirmed: it must
    /// be stored again.
    pub async fn pin(&self, ids: Vec<ChunkId>) -> Option<u64> {
        let inner = self.inner();
        let batches = inner.by_owner(ids, |id| *id);
        let pin = |(owner, ids): (CoreId, Vec<ChunkId>)| async move {
            let asked = ids.clone();
            let ask = move |inner: &Inner<D, L>| inner.owner.borrow_mut().pin(&asked);
            (ids, inner.peers.ask(owner, ask).await)
        };
        let mut lowest = u64::MAX;
        for (ids, (epoch, found)) in join_all(batches.into_iter().map(pin)).await {
            lowest = lowest.min(epoch);
            for (id, location) in ids.iter().zip(found) {
                if !inner.confirm(id, location?).await {
                    return None;
                }
            }
        }
        Some(lowest)
    }

    /// Condemns what is stale among the entries of core `core`; `pace` is asked for leave between the steps.
    ///
    /// Cost: a walk over the core's entries, and one read for each row that holds something stale, again for each
    /// [`SWEEP_BATCH_CHUNKS_MAX`] stale entries.
    pub async fn sweep(&self, core: CoreId, mut pace: impl AsyncFnMut()) -> Swept {
        let peers = &self.inner().peers;
        let mut swept = Swept::default();
        let mut cursor = Some(StaleCursor::default());
        while cursor.is_some() {
            let mut stale = BTreeSet::new();
            while let Some(from) = cursor
                && stale.len() < SWEEP_BATCH_CHUNKS_MAX
            {
                let step = move |inner: &Inner<D, L>| inner.owner.borrow().index.stale(from, SWEEP_STEP_ENTRIES_MAX);
                let (more, next) = peers.ask(core, step).await;
                stale.extend(more);
                cursor = next;
                pace().await;
            }
            while let Some(location) = stale.pop_first() {
                swept += self.inner().condemn_row(core, location, &mut stale).await;
                pace().await;
            }
        }
        swept
    }

    /// Reads the chunks of which other copies are remembered, and forgets those copies where the one that the index
    /// names verifies: the segments that hold them can be freed then.
    pub async fn verify_copies(&self, mut pace: impl AsyncFnMut()) {
        let inner = self.inner();
        for core in (0..inner.peers.count() as u16).map(CoreId) {
            let mut after = None;
            loop {
                let ask = move |inner: &Inner<D, L>| inner.owner.borrow().copied(after, COPIES_STEP_CHUNKS);
                let step = inner.peers.ask(core, ask).await;
                let Some((last, _)) = step.last() else { break };
                after = Some(*last);
                for (id, location) in step {
                    let Some(chunk) = inner.chunk_at(&id, location).await else { continue };
                    if inner.read_at(&id, location).await.is_ok() {
                        let forget = move |inner: &Inner<D, L>| inner.owner.borrow_mut().forget_copies(&chunk);
                        inner.peers.ask(core, forget).await;
                    }
                    pace().await;
                }
            }
        }
    }

    /// Asks every core, one after the other.
    pub(crate) async fn ask_all<T: Send + 'static>(
        &self,
        ask: impl FnOnce(&Inner<D, L>) -> T + Clone + Send + 'static,
    ) -> Vec<T> {
        let peers = &self.inner().peers;
        let mut answers = Vec::with_capacity(peers.count());
        for core in (0..peers.count() as u16).map(CoreId) {
            answers.push(peers.ask(core, ask.clone()).await);
        }
        answers
    }
}

impl<D: Disk, L: SegmentLog> Inner<D, L> {
    /// Condemns the stale entry at `location`, which is one of core `owner`, and those of the same row, which it takes out
    /// of `stale`.
    async fn condemn_row(&self, owner: CoreId, location: Location, stale: &mut BTreeSet<Location>) -> Swept {
        let row = self.chunks_of_row(location, stale).await;
        let kept = u64::from(row.iter().all(|chunk| chunk.location != location));
        if row.is_empty() {
            return Swept { condemned: Volume::default(), kept };
        }
        let condemn = move |inner: &Inner<D, L>| inner.owner.borrow_mut().condemn(&row);
        Swept { condemned: self.peers.ask(owner, condemn).await, kept }
    }

    /// The chunk at `location`, unless the table of its row cannot be read or does not name one there; and those of `others`
    /// in the same row, which leave it.
    pub(crate) async fn chunks_of_row(&self, location: Location, others: &mut BTreeSet<Location>) -> Vec<DurableChunk> {
        let mut row = self.row_at(location).await.unwrap_or_default();
        row.retain(|chunk| chunk.location == location || others.remove(&chunk.location));
        row
    }

    /// Enters a chunk again that the index does not know, if it is where a reference says.
    async fn reenter(&self, reference: Reference) -> bool {
        let Some(chunk) = self.chunk_at(&reference.id, reference.hint).await else { return false };
        let enter = move |inner: &Inner<D, L>| inner.owner.borrow_mut().reenter(&chunk);
        self.peers.ask(self.owner_of(&reference.id), enter).await
    }

    /// The chunk at `location`, if the table of its row names it there.
    async fn chunk_at(&self, id: &ChunkId, location: Location) -> Option<DurableChunk> {
        let row = self.row_at(location).await?;
        row.into_iter().find(|chunk| chunk.id == *id && chunk.location == location)
    }

    /// The chunks of the row that holds `location`; `None` if there is none, or its table cannot be read.
    async fn row_at(&self, location: Location) -> Option<Vec<DurableChunk>> {
        let read = move |inner: Rc<Inner<D, L>>| async move { inner.row_here(location).await };
        self.peers.call(self.home_of(location.segment), read).await
    }

    async fn row_here(&self, location: Location) -> Option<Vec<DurableChunk>> {
        let home = self.home.borrow().get(&location.segment)?.clone();
        let place = self.row_place(&home, location).await?;
        let table = self.read_table(&home.segment, &place).await.ok()??;
        Some(durable_chunks(home.segment.id, &table).collect())
    }
}
