//! What of a victim is live: read, verified and sketched by its home.
//!
//! ```text
//!   rows of the segment ─▶ owners: what is each copy to the index?
//!     live   read, opened, decoded, sketched ─▶ a record for the core that regroups it
//!     copy   of a chunk that lies elsewhere: forgotten once that place was read and verified
//!     dead   passed over, unread
//! ```

use std::rc::Rc;

use futures_util::{StreamExt, stream};
use proto::disk::RowTable;
use proto::port::Disk;
use proto::{ChunkId, DomainId, Location, SegmentId};

use super::budget::Pace;
use super::plan::Grouping;
use crate::blocks::DecodedBlock;
use crate::error::ReadError;
use crate::open::durable_chunks;
use crate::owner::{DurableChunk, Standing};
use crate::read::decode_at;
use crate::segment::{Segment, SegmentLog};
use crate::store::Inner;

/// Blocks of a row that are read ahead.
const READ_AHEAD_BLOCKS: usize = 4;

/// A live chunk of a victim.
#[derive(Clone, Copy, Debug)]
pub(super) struct Record<S> {
    pub(super) id: ChunkId,
    pub(super) domain: DomainId,
    pub(super) from: Location,
    pub(super) plain_bytes: u32,
    pub(super) stored_bytes: u32,
    pub(super) is_shared: bool,
    pub(super) sketch: S,
}

/// What the survey of one segment found.
#[derive(Debug)]
pub(super) struct Surveyed<S> {
    pub(super) segment: SegmentId,
    /// Its live chunks as they were written, by the core that regroups them.
    pub(super) records: Vec<Vec<Record<S>>>,
    pub(super) read_bytes: u64,
    pub(super) unreadable_chunks: u64,
    /// Whether all its chunks were looked at, and what was not live is not needed.
    pub(super) is_clear: bool,
}

/// Surveys a segment of this home, for the first `writers` cores.
pub(super) async fn survey<D: Disk, L: SegmentLog, G: Grouping>(
    inner: &Rc<Inner<D, L>>,
    id: SegmentId,
    grouping: &G,
    writers: usize,
    pace: &mut Pace,
) -> Surveyed<G::Sketch> {
    let records = (0..writers).map(|_| Vec::new()).collect();
    let mut found = Surveyed { segment: id, records, read_bytes: 0, unreadable_chunks: 0, is_clear: false };
    let home = inner.home.borrow().get(&id).cloned();
    let Some(home) = home else { return found };
    let Ok(rows) = inner.read_rows(&home).await else { return found };
    found.is_clear = true;
    for (_, table) in rows {
        let live = live_blocks(inner, id, &table, &mut found).await;
        let places: Vec<Location> = live.iter().map(|(first, _)| *first).collect();
        let reads: Vec<_> = places.iter().map(|place| inner.read_sectors(&home.segment, *place)).collect();
        let mut reads = stream::iter(reads).buffered(READ_AHEAD_BLOCKS);
        for (place, chunks) in live {
            if pace.is_stopped() {
                found.is_clear = false;
                return found;
            }
            let read = reads.next().await.expect("invariant: a read for each block");
            found.read_bytes += place.read_bytes() as u64;
            let block = read.and_then(|mut sectors| decode(&home.segment, place, &mut sectors, &chunks));
            pace.step().await;
            match block {
                Ok(block) => sketch(inner, &block, &chunks, grouping, pace, &mut found).await,
                Err(_) => rescue(inner, &chunks, &mut found).await,
            }
        }
    }
    found
}

/// The blocks of a row that have live chunks, each with where it lies and what is live.
async fn live_blocks<D: Disk, L: SegmentLog, S>(
    inner: &Rc<Inner<D, L>>,
    segment: SegmentId,
    table: &RowTable,
    found: &mut Surveyed<S>,
) -> Vec<(Location, Vec<DurableChunk>)> {
    let chunks: Vec<DurableChunk> = durable_chunks(segment, table).collect();
    let standings = inner.standings(&chunks).await;
    let mut live: Vec<(Location, Vec<DurableChunk>)> = Vec::new();
    for (chunk, standing) in chunks.into_iter().zip(standings) {
        let is_live = match standing {
            Standing::Live => true,
            Standing::Dead => false,
            Standing::Copy(elsewhere) => match settle_copy(inner, &chunk, elsewhere).await {
                Some(is_live) => is_live,
                None => {
                    found.is_clear = false;
                    false
                }
            },
        };
        if is_live {
            let block = Location { ordinal: 0, ..chunk.location };
            match live.last_mut().filter(|(place, _)| *place == block) {
                Some((_, chunks)) => chunks.push(chunk),
                None => live.push((block, vec![chunk])),
            }
        }
    }
    live
}

/// Decides which of two copies stays: the one that the index names if it verifies. Then the other, which is `chunk`, is
/// forgotten. If not, `chunk` answers from now on, if it verifies.
///
/// Returns whether `chunk` is live now, `None` if neither was read.
async fn settle_copy<D: Disk, L: SegmentLog>(
    inner: &Rc<Inner<D, L>>,
    chunk: &DurableChunk,
    elsewhere: Location,
) -> Option<bool> {
    let (id, here) = (chunk.id, chunk.location);
    let owner = inner.owner_of(&id);
    if inner.read_at(&id, elsewhere).await.is_ok() {
        drop_copy(inner, *chunk).await;
        return Some(false);
    }
    // Whatever becomes of it, the segment is not given back as long as it may hold the only whole copy.
    inner.peers.ask(owner, move |inner: &Inner<D, L>| inner.owner.borrow_mut().keep_copy(&id, here)).await;
    if inner.read_at(&id, here).await.is_err() {
        return None;
    }
    let prefer = move |inner: &Inner<D, L>| {
        let mut owner = inner.owner.borrow_mut();
        owner.prefer(&id, here);
        owner.answers(&id, here)
    };
    inner.peers.ask(owner, prefer).await.then_some(true)
}

/// Opens and decodes a block that must hold `chunks`.
fn decode(
    segment: &Segment,
    place: Location,
    sectors: &mut proto::port::AlignedBuf,
    chunks: &[DurableChunk],
) -> Result<DecodedBlock, ReadError> {
    let block = decode_at(segment, place, sectors)?;
    for chunk in chunks {
        let plain = block.chunk(&chunk.id, usize::from(chunk.location.ordinal));
        plain.map_err(|what| ReadError::Corrupt { location: chunk.location, what: what.to_owned() })?;
    }
    Ok(block)
}

/// Notes the live chunks of a block that verified.
async fn sketch<D: Disk, L: SegmentLog, G: Grouping>(
    inner: &Rc<Inner<D, L>>,
    block: &DecodedBlock,
    chunks: &[DurableChunk],
    grouping: &G,
    pace: &mut Pace,
    found: &mut Surveyed<G::Sketch>,
) {
    for chunk in chunks {
        let plain = block.chunk(&chunk.id, usize::from(chunk.location.ordinal)).expect("invariant: decode compared it");
        let sketch = grouping.sketch(plain);
        let writers = found.records.len();
        let core = grouping.core(&sketch, writers).unwrap_or(usize::from(inner.peers.me().0) % writers);
        found.records[core].push(Record {
            id: chunk.id,
            domain: block.entry.domain,
            from: chunk.location,
            plain_bytes: chunk.plain_bytes,
            stored_bytes: chunk.stored_bytes,
            is_shared: chunk.is_shared,
            sketch,
        });
        pace.step().await;
    }
}

/// Looks for other copies of chunks whose block did not verify; what has one answers from there.
async fn rescue<D: Disk, L: SegmentLog, S>(inner: &Rc<Inner<D, L>>, chunks: &[DurableChunk], found: &mut Surveyed<S>) {
    for chunk in chunks {
        if inner.read(&chunk.id, chunk.location).await.is_err() {
            found.unreadable_chunks += 1;
            found.is_clear = false;
            continue;
        }
        // Another copy answers now; or the block verified after all, and is moved by a later round.
        drop_copy(inner, *chunk).await;
    }
}

async fn drop_copy<D: Disk, L: SegmentLog>(inner: &Rc<Inner<D, L>>, copy: DurableChunk) {
    let ask = move |inner: &Inner<D, L>| inner.owner.borrow_mut().drop_copy(&copy);
    inner.peers.ask(inner.owner_of(&copy.id), ask).await;
}
