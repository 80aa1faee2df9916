//! New segments, and those that a start finds.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use futures_util::{StreamExt, stream};
use proto::disk::RowTable;
use proto::planted::{self, Bug};
use proto::port::{Disk, runtime};
use proto::{ChunkId, CoreId, DomainId, Generation, Location, SegmentId};

use crate::error::{RecoverError, SegmentError, StoreError};
use crate::known::RowChunks;
use crate::owner::DurableChunk;
use crate::recovery::{Depth, ListedSegment, ListedState, RecoveredSegment, recover_segment};
use crate::room::Room;
use crate::row::{RowPlace, SealedRow};
use crate::rows::Rows;
use crate::segment::{HomeSegment, Member, OpenSegment, SegmentLog, SegmentSpec};
use crate::store::{Inner, Store};
use crate::writer::{RowSink, RowWriter};

/// Bytes of each device that data leaves free, so that metadata and deletes still work when it is full.
pub const METADATA_RESERVE_BYTES: u64 = 64 << 20;
/// How often, and how far apart, a segment is tried for that finds no room beside what others are about to reserve.
const RESERVE_ATTEMPTS_MAX: usize = 50;
const RESERVE_PAUSE: Duration = Duration::from_millis(10);
/// Segments that are recovered at the same time.
const RECOVERIES_INFLIGHT_MAX: usize = 8;
/// Displaced copies that a home is asked about together.
const DISPLACED_ASKED_MAX: usize = 256;
/// Recovered chunks that are sent to their owners together.
const RECOVERED_BATCH_CHUNKS: usize = 8192;

/// What one core's recovery found.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Recovered {
    /// Segments of this home.
    pub segments: usize,
    /// What an operator should know.
    pub warnings: Vec<String>,
}

impl<D: Disk, L: SegmentLog> Store<D, L> {
    /// Recovers those of the `listed` segments whose home this core is and enters their chunks with the owners.
    ///
    /// Of segments that are `covered` by a checkpoint of the index only the headers are read.
    /// Cost: memory for the tables of a few segments, whatever their number.
    /// Errors: [`RecoverError`]; the node must not start without a segment, or acknowledged data would be missing.
    pub async fn recover(
        &self,
        listed: &[ListedSegment],
        covered: impl Fn(SegmentId) -> bool,
    ) -> Result<Recovered, RecoverError> {
        let inner = self.inner();
        let mine = listed.iter().filter(|listed| inner.home_of(listed.id) == inner.peers.me());
        let recoveries = mine.map(|listed| {
            let depth = if covered(listed.id) { Depth::Header } else { Depth::Rows };
            async move { (listed, inner.recover_listed(listed, depth).await) }
        });
        let mut recoveries = stream::iter(recoveries).buffered(RECOVERIES_INFLIGHT_MAX);
        let mut report = Recovered::default();
        while let Some((listed, recovered)) = recoveries.next().await {
            report.segments += 1;
            inner.take(listed, recovered?, &mut report).await?;
        }
        Ok(report)
    }

    /// Counts chunks that are stored more than once as the copy that answers is stored. Comes when the homes of all
    /// cores have recovered their segments, and before [`Store::complete`].
    ///
    /// Cost: a read for each row that holds an earlier copy.
    pub async fn count_copies(&self) {
        let inner = self.inner();
        let mut displaced = inner.owner.borrow_mut().take_displaced();
        displaced.sort_unstable_by_key(|displaced| displaced.location);
        for part in displaced.chunks(DISPLACED_ASKED_MAX) {
            let mut by_home: BTreeMap<CoreId, Vec<(usize, ChunkId, Location)>> = BTreeMap::new();
            for (place, displaced) in part.iter().enumerate() {
                let home = inner.home_of(displaced.location.segment);
                by_home.entry(home).or_default().push((place, displaced.id, displaced.location));
            }
            for (home, asked) in by_home {
                let ask = move |inner: Rc<Inner<D, L>>| async move { inner.chunks_of(asked).await };
                for (place, own) in inner.peers.call(home, ask).await {
                    inner.owner.borrow_mut().correct(&part[place], &own);
                }
            }
        }
    }

    /// Says that the owner on this core has got all chunks: from now on absence may be believed.
    pub fn complete(&self) {
        self.inner().owner.borrow_mut().complete();
        self.inner().is_complete.set(true);
    }
}

impl<D: Disk, L: SegmentLog> Inner<D, L> {
    pub(crate) async fn recover_listed(
        &self,
        listed: &ListedSegment,
        depth: Depth,
    ) -> Result<RecoveredSegment, RecoverError> {
        let options = &self.options;
        recover_segment(listed, &options.members, options.cluster, &*options.keys, depth).await
    }

    /// Chunks in segments of this home, those that are found where they should lie; numbered as asked.
    async fn chunks_of(&self, asked: Vec<(usize, ChunkId, Location)>) -> Vec<(usize, DurableChunk)> {
        let mut found = Vec::with_capacity(asked.len());
        let mut last: Option<(SegmentId, RowPlace, RowTable)> = None;
        for (number, id, location) in asked {
            let home = self.home.borrow().get(&location.segment).cloned();
            let Some(home) = home else { continue };
            let Some(place) = self.row_place(&home, location).await else { continue };
            if last.as_ref().is_none_or(|(segment, row, _)| (*segment, row) != (location.segment, &place)) {
                let Ok(Some(table)) = self.read_table(&home.segment, &place).await else { continue };
                last = Some((location.segment, place, table));
            }
            let Some((_, _, table)) = &last else { continue };
            let chunk =
                durable_chunks(location.segment, table).find(|chunk| (chunk.id, chunk.location) == (id, location));
            found.extend(chunk.map(|chunk| (number, chunk)));
        }
        found
    }

    /// Makes a recovered segment one of this home, and enters its chunks.
    async fn take(
        &self,
        listed: &ListedSegment,
        recovered: RecoveredSegment,
        report: &mut Recovered,
    ) -> Result<(), RecoverError> {
        let RecoveredSegment { segment, rows, file_bytes, parity_bytes, newly_sealed, mut warnings } = recovered;
        let id = segment.id;
        let is_whole = warnings.is_empty();
        report.warnings.append(&mut warnings);
        if newly_sealed {
            let sealed = self.options.log.sealed(id, Vec::new()).await;
            sealed.map_err(|what| RecoverError::Log { segment: id, what })?;
        }
        let rows = match rows {
            Some(_) if newly_sealed && planted::is(Bug::IncompleteIndexTrusted) => Some(Rows::default()),
            Some(rows) => Some(self.enter_rows(id, rows).await),
            None => None,
        };
        let home = HomeSegment {
            segment: Arc::new(segment),
            rows: RefCell::new(rows),
            footers_verified: Cell::new(false),
            footers: RefCell::new(match &listed.state {
                ListedState::Sealed(footers) if is_whole => footers.clone(),
                _ => Vec::new(),
            }),
            file_bytes: Cell::new(file_bytes),
            parity_bytes: Cell::new(parity_bytes),
            reserved_bytes: Cell::new(0),
            settled: Cell::new(true),
            content: Cell::new(None),
        };
        self.home.borrow_mut().insert(id, Rc::new(home));
        Ok(())
    }

    /// Enters the chunks of recovered rows with their owners; returns where the rows lie.
    async fn enter_rows(&self, segment: SegmentId, rows: Vec<(RowPlace, RowTable)>) -> Rows {
        let mut batches: BTreeMap<CoreId, Vec<DurableChunk>> = BTreeMap::new();
        let mut places = Rows::default();
        for (place, table) in rows {
            places.push(place);
            for (owner, mut chunks) in self.by_owner(durable_chunks(segment, &table), |chunk| chunk.id) {
                let batch = batches.entry(owner).or_default();
                batch.append(&mut chunks);
                if batch.len() >= RECOVERED_BATCH_CHUNKS {
                    self.enter_recovered(owner, std::mem::take(batch)).await;
                }
            }
        }
        for (owner, batch) in batches {
            self.enter_recovered(owner, batch).await;
        }
        places
    }

    async fn enter_recovered(&self, owner: CoreId, chunks: Vec<DurableChunk>) {
        self.peers.ask(owner, move |inner: &Inner<D, L>| inner.owner.borrow_mut().recover(&chunks)).await;
    }

    /// Reads the rows of a sealed segment of this home, from its footer if it has one.
    pub(crate) async fn read_rows(&self, home: &HomeSegment) -> Result<Vec<(RowPlace, RowTable)>, RecoverError> {
        let segment = &home.segment;
        let listed = ListedSegment {
            id: segment.id,
            members: segment.members.clone(),
            geometry: segment.geometry,
            generation: segment.generation,
            state: ListedState::Sealed(home.footers.borrow().clone()),
        };
        let read = self.recover_listed(&listed, Depth::Rows).await?;
        if read.warnings.is_empty() {
            home.footers_verified.set(true);
        } else {
            home.footers.borrow_mut().clear();
        }
        Ok(read.rows.expect("invariant: rows were asked for"))
    }

    /// Where the row lies that holds `location`, which is in a segment of this home; `None` if there is no such row.
    pub(crate) async fn row_place(&self, home: &HomeSegment, location: Location) -> Option<RowPlace> {
        if home.rows.borrow().is_none() {
            let places = self.read_rows(home).await.ok()?.into_iter().map(|(place, _)| place);
            *home.rows.borrow_mut() = Some(places.collect());
        }
        home.rows.borrow().as_ref().and_then(|rows| rows.find(location).cloned())
    }

    /// Opens a segment on those of `candidates` that have most space.
    /// Others were about to reserve `ahead_bytes` before this call; they may or may not be in the free bytes yet.
    async fn open_segment_on(
        &self,
        candidates: &[Member<D>],
        ahead_bytes: u64,
        generation: Generation,
    ) -> Result<OpenSegment<D>, SegmentError> {
        let options = &self.options;
        let need_bytes = ahead_bytes + options.piece_bytes + options.log.reserve_bytes().await;
        let mut free = Vec::with_capacity(candidates.len());
        for (place, member) in candidates.iter().enumerate() {
            let space = member.disk.space().await;
            let space =
                space.map_err(|source| SegmentError::Device { device: member.device, source: Arc::new(source) })?;
            free.push((std::cmp::Reverse(space.free_bytes), place));
        }
        free.sort_unstable();
        free.truncate(options.geometry.columns());
        if free.iter().any(|(free, _)| free.0 < need_bytes) {
            return Err(SegmentError::NoSpace { need_bytes });
        }
        let members: Vec<Member<D>> = free.iter().map(|(_, place)| candidates[*place].clone()).collect();
        let counter = self.next_segment.get();
        if counter > SegmentId::COUNTER_MAX {
            return Err(SegmentError::NumbersSpent);
        }
        self.next_segment.set(counter + self.peers.count() as u64);
        let id = SegmentId::new(options.incarnation, counter);
        let spec = SegmentSpec {
            id,
            cluster: options.cluster,
            geometry: options.geometry,
            generation,
            piece_bytes: options.piece_bytes,
            keys: &*options.keys,
        };
        self.opening.borrow_mut().insert(id);
        let opened = OpenSegment::create(spec, &members, &options.log).await;
        if let Ok(open) = &opened {
            self.home.borrow_mut().insert(id, open.home.clone());
        }
        self.opening.borrow_mut().remove(&id);
        opened
    }

    /// What a round of compaction may open segments for, on the devices that have most space; nothing if one does not
    /// tell.
    pub(crate) async fn room(&self) -> Room {
        let options = &self.options;
        let mut free = Vec::with_capacity(options.members.len());
        for member in &options.members {
            free.push(member.disk.space().await.map_or(0, |space| space.free_bytes));
        }
        free.sort_unstable_by_key(|bytes| std::cmp::Reverse(*bytes));
        let least = free.get(options.geometry.columns() - 1).copied().unwrap_or(0);
        let taken_bytes = options.log.reserve_bytes().await + options.reserved.opening_bytes.load(Ordering::SeqCst);
        Room::of(least.saturating_sub(taken_bytes) / options.piece_bytes, self.peers.count() as u64)
    }

    /// Opens a segment on the devices that still serve, as long as they are enough.
    async fn open_segment_somewhere(
        &self,
        ahead_bytes: u64,
        generation: Generation,
    ) -> Result<OpenSegment<D>, SegmentError> {
        let mut candidates: Vec<Member<D>> = self.options.members.clone();
        loop {
            let error = match self.open_segment_on(&candidates, ahead_bytes, generation).await {
                Ok(open) => return Ok(open),
                Err(error) => error,
            };
            let SegmentError::Device { device, .. } = &error else { return Err(error) };
            candidates.retain(|member| member.device != *device);
            if candidates.len() < self.options.geometry.columns() {
                return Err(error);
            }
        }
    }
}

impl<D: Disk, L: SegmentLog> Inner<D, L> {
    /// Opens a segment for what was moved as often as `generation` says, if `spare_bytes` stay free besides.
    async fn open_segment_of(&self, generation: Generation, spare_bytes: u64) -> Result<OpenSegment<D>, SegmentError> {
        let need_bytes = self.options.piece_bytes;
        for attempt in 1.. {
            // Whoever comes later counts those before him: of several that want the last room, the first gets it.
            let ahead_bytes = self.options.reserved.opening_bytes.fetch_add(need_bytes, Ordering::SeqCst);
            let opened = self.open_segment_somewhere(ahead_bytes + spare_bytes, generation).await;
            self.options.reserved.opening_bytes.fetch_sub(need_bytes, Ordering::SeqCst);
            match opened {
                // Those before him may have taken less, or room elsewhere; they are done soon.
                Err(SegmentError::NoSpace { .. }) if ahead_bytes > 0 && attempt < RESERVE_ATTEMPTS_MAX => {
                    runtime::sleep(RESERVE_PAUSE).await;
                }
                opened => return opened,
            }
        }
        unreachable!("invariant: the last attempt returns")
    }

    /// Opens a segment of the round of compaction under way.
    pub(crate) async fn open_segment_of_round(&self, generation: Generation) -> Result<OpenSegment<D>, SegmentError> {
        let opened = self.open_segment_of(generation, 0).await?;
        self.options.reserved.take_for_round(self.options.piece_bytes);
        Ok(opened)
    }
}

impl<D: Disk, L: SegmentLog> RowSink<D> for Inner<D, L> {
    fn writer(&self) -> &RowWriter {
        &self.writer
    }

    async fn open_segment(&self) -> Result<OpenSegment<D>, SegmentError> {
        // The last room is for compaction, a segment for each core: with less it could not empty any, and a disk that
        // clients filled would stay full whatever they remove. One more is for what the log grows before it is cut.
        let kept_bytes = (self.peers.count() as u64 + 1) * self.options.piece_bytes;
        let spare_bytes = kept_bytes + self.options.reserved.round_bytes.load(Ordering::SeqCst);
        self.open_segment_of(Generation::HOT, spare_bytes).await
    }

    async fn seal(&self, segment: OpenSegment<D>) {
        segment.seal(&self.options.log).await;
        self.options.log.settled().await;
    }

    async fn row_durable(&self, home: &HomeSegment, row: &SealedRow) -> Result<(), StoreError> {
        let segment = home.segment.id;
        self.known.borrow_mut().keep(RowChunks::of(segment, row.place.row, &row.table));
        self.insert(durable_chunks(segment, &row.table).collect()).await;
        Ok(())
    }

    async fn row_failed(&self, ids: Vec<ChunkId>, error: &StoreError) {
        self.abandon(ids, error).await;
    }
}

/// The chunks of a durable row, without the pages of the index's own checkpoints.
pub(crate) fn durable_chunks(segment: SegmentId, table: &RowTable) -> impl Iterator<Item = DurableChunk> + '_ {
    let blocks = table.blocks.iter().filter(|block| block.entry.domain != DomainId::CHECKPOINTS);
    blocks.flat_map(move |block| {
        block.entry.chunks.iter().enumerate().map(move |(ordinal, chunk)| DurableChunk {
            id: chunk.id,
            location: block.location(segment, ordinal as u16),
            plain_bytes: chunk.plain_bytes,
            stored_bytes: block.entry.stored_bytes(ordinal),
            is_shared: block.entry.chunks.len() > 1,
        })
    })
}
