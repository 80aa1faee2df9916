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
use proto::port::{AlignedBuf, Disk};
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

/// Runs of blocks that are read ahead.
const READ_AHEAD_RUNS: usize = 2;
/// Bytes of a run, at most, unless it is one block.
const RUN_BYTES_MAX: usize = 512 << 10;

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
        let runs = runs(live_blocks(inner, id, &table, &mut found).await);
        let reads: Vec<_> = runs.iter().map(|run| run.read(inner, &home.segment)).collect();
        let mut reads = stream::iter(reads).buffered(READ_AHEAD_RUNS);
        for run in &runs {
            let mut read = reads.next().await.expect("invariant: a read for each run");
            found.read_bytes += run.bytes as u64;
            for (place, chunks) in &run.blocks {
                if pace.is_stopped() {
                    found.is_clear = false;
                    return found;
                }
                let block = match &mut read {
                    Ok(bytes) => decode(&home.segment, *place, run.sectors_of(*place, bytes), chunks),
                    Err(error) => Err(error.clone()),
                };
                pace.step().await;
                match block {
                    Ok(block) => sketch(inner, &block, chunks, grouping, pace, &mut found).await,
                    Err(_) => rescue(inner, chunks, &mut found).await,
                }
            }
        }
    }
    found
}

/// A block with live chunks: where it lies, and those.
type LiveBlock = (Location, Vec<DurableChunk>);

/// Blocks of a row that lie side by side: what clients write is one block for each chunk, too short for a read of its own.
struct Run {
    column: u8,
    offset: u64,
    bytes: usize,
    blocks: Vec<LiveBlock>,
}

impl Run {
    async fn read<D: Disk, L: SegmentLog>(
        &self,
        inner: &Inner<D, L>,
        segment: &Segment,
    ) -> Result<AlignedBuf, ReadError> {
        inner.read_piece(segment, self.column, self.offset, self.bytes).await
    }

    /// The sectors from those of a block of this run on; fewer, or none, if the read was short.
    fn sectors_of<'a>(&self, place: Location, bytes: &'a mut [u8]) -> &'a mut [u8] {
        bytes.get_mut((place.read_offset() - self.offset) as usize..).unwrap_or_default()
    }
}

/// Puts blocks, in the order of a row, into runs.
fn runs(blocks: Vec<LiveBlock>) -> Vec<Run> {
    let mut runs: Vec<Run> = Vec::new();
    for (place, chunks) in blocks {
        let (column, offset, bytes) = (place.column, place.read_offset(), place.read_bytes());
        // Two blocks may share a sector.
        let joins = |run: &&mut Run| {
            let end = run.offset + run.bytes as u64;
            let joined = (offset + bytes as u64).saturating_sub(run.offset);
            run.column == column && (run.offset..=end).contains(&offset) && joined <= RUN_BYTES_MAX as u64
        };
        match runs.last_mut().filter(joins) {
            Some(run) => {
                run.bytes = run.bytes.max((offset - run.offset) as usize + bytes);
                run.blocks.push((place, chunks));
            }
            None => runs.push(Run { column, offset, bytes, blocks: vec![(place, chunks)] }),
        }
    }
    runs
}

/// The blocks of a row that have live chunks, each with where it lies and what is live.
async fn live_blocks<D: Disk, L: SegmentLog, S>(
    inner: &Rc<Inner<D, L>>,
    segment: SegmentId,
    table: &RowTable,
    found: &mut Surveyed<S>,
) -> Vec<LiveBlock> {
    let chunks: Vec<DurableChunk> = durable_chunks(segment, table).collect();
    let standings = inner.standings(&chunks).await;
    let mut live: Vec<LiveBlock> = Vec::new();
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
    sectors: &mut [u8],
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

#[cfg(test)]
mod tests {
    use super::*;
    use proto::limits::SECTOR_BYTES;

    fn block(column: u8, offset: u32, sectors: u16) -> LiveBlock {
        (Location { segment: SegmentId(1), column, offset, sectors, ordinal: 0 }, Vec::new())
    }

    #[test]
    fn neighbours_are_read_at_once_and_share_the_sectors_between_them() {
        let sector = SECTOR_BYTES as u32;
        let near = [block(0, 64, 3), block(0, 2 * sector + 640, 2), block(0, 4 * sector, 1)];
        let far = [block(0, 6 * sector, 1), block(1, 7 * sector, 1)];
        let long = [block(1, 8 * sector, 100), block(1, 108 * sector, 100)];
        let runs = runs([&near[..], &far, &long].concat());
        let read =
            |run: &Run| (run.column, run.offset / SECTOR_BYTES as u64, run.bytes / SECTOR_BYTES, run.blocks.len());
        assert_eq!(
            runs.iter().map(read).collect::<Vec<_>>(),
            [(0, 0, 5, 3), (0, 6, 1, 1), (1, 7, 101, 2), (1, 108, 100, 1)]
        );
        let mut bytes = vec![0; 5 * SECTOR_BYTES];
        bytes[2 * SECTOR_BYTES] = 9;
        assert_eq!(runs[0].sectors_of(near[1].0, &mut bytes)[..1], [9]);
        assert_eq!(runs[0].sectors_of(near[2].0, &mut bytes[..SECTOR_BYTES]), [0; 0], "a short read");
    }
}
