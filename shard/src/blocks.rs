//! Decoded blocks of several chunks, kept for readers: whoever reads on wants the next chunk of the same block.
//!
//! Invariants: the bytes kept are bounded; of several who want a block at the same time one reads and decodes it.
//! How much of what is decoded is handed on is counted for each segment: compaction makes smaller blocks where that is little.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::rc::Rc;

use futures_util::FutureExt;
use futures_util::future::{LocalBoxFuture, Shared, WeakShared};
use proto::disk::BlockEntry;
use proto::limits::DECODED_BLOCKS_BYTES_MAX;
use proto::{ChunkId, Location, SegmentId};

use crate::error::ReadError;
use crate::recent::Recent;

/// Where a block lies: segment, column, offset.
type Place = (SegmentId, u8, u32);

/// A block, opened and decoded.
#[derive(Debug)]
pub(crate) struct DecodedBlock {
    pub(crate) entry: BlockEntry,
    /// The plain bytes of all its chunks, one after the other.
    pub(crate) plain: Vec<u8>,
}

impl DecodedBlock {
    /// The plain bytes of chunk `ordinal`.
    ///
    /// Errors: what is wrong, for people, if the block has no such chunk or it is not `id`.
    pub(crate) fn chunk(&self, id: &ChunkId, ordinal: usize) -> Result<&[u8], &'static str> {
        let found = self.entry.chunks.get(ordinal).ok_or("the block has fewer chunks")?;
        if found.id != *id {
            return Err("the block holds another chunk");
        }
        let range = self.entry.range(ordinal).expect("invariant: the chunk was found");
        self.plain.get(range).ok_or("the block is shorter than its chunks")
    }

    fn memory_bytes(&self) -> usize {
        self.plain.len() + size_of_val(&self.entry.chunks[..])
    }
}

/// Blocks of a segment that must be read before one judges how it is read.
const JUDGED_BLOCKS_MIN: u64 = 1024;
/// Bytes decoded for two that are handed on, from which on reads count as random: restores decode 1.1 to 3 times what they
/// hand on, reads of single chunks nearly 5 times (RFC 8).
const DECODED_PER_TWO_HANDED: u64 = 7;

/// Who reads.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Reader {
    /// Somebody who wants bytes of a file: how he reads decides how large blocks should be.
    Client,
    /// The store: it moves a chunk, or looks whether a copy is whole.
    Store,
}

/// How the blocks of a segment are read.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct SegmentReads {
    /// Blocks that were decoded.
    blocks: u64,
    /// Their plain bytes.
    decoded_bytes: u64,
    /// Plain bytes of the chunks that were handed on.
    handed_bytes: u64,
}

impl SegmentReads {
    /// Whether most of what was decoded was of no use: smaller blocks would serve better.
    pub(crate) fn are_random(&self) -> bool {
        self.blocks >= JUDGED_BLOCKS_MIN && self.decoded_bytes * 2 > self.handed_bytes * DECODED_PER_TWO_HANDED
    }

    fn halved(self) -> SegmentReads {
        let SegmentReads { blocks, decoded_bytes, handed_bytes } = self;
        SegmentReads { blocks: blocks / 2, decoded_bytes: decoded_bytes / 2, handed_bytes: handed_bytes / 2 }
    }
}

impl std::ops::AddAssign for SegmentReads {
    fn add_assign(&mut self, other: SegmentReads) {
        self.blocks += other.blocks;
        self.decoded_bytes += other.decoded_bytes;
        self.handed_bytes += other.handed_bytes;
    }
}

/// A block that is being read. Whoever waits for it carries the work on: a reader that pauses keeps nobody waiting.
type Reading = Shared<Reads>;
type Reads = LocalBoxFuture<'static, Result<Rc<DecodedBlock>, ReadError>>;

/// The blocks that one core keeps; see the module.
#[derive(Debug)]
pub(crate) struct DecodedBlocks {
    kept: Recent<Place, Rc<DecodedBlock>>,
    /// Blocks that somebody reads now. Each entry goes with the reading.
    underway: BTreeMap<Place, WeakShared<Reads>>,
    /// How the segments of blocks of several chunks are read here.
    reads: BTreeMap<SegmentId, SegmentReads>,
}

impl Default for DecodedBlocks {
    fn default() -> Self {
        DecodedBlocks { kept: Recent::new(DECODED_BLOCKS_BYTES_MAX), underway: BTreeMap::new(), reads: BTreeMap::new() }
    }
}

/// Takes a reading out of the table when it has ended, or all who waited for it went away.
struct Underway {
    place: Place,
    blocks: Rc<RefCell<DecodedBlocks>>,
}

impl Drop for Underway {
    fn drop(&mut self) {
        self.blocks.borrow_mut().underway.remove(&self.place);
    }
}

impl DecodedBlocks {
    /// Bytes of memory, near enough.
    pub(crate) fn memory_bytes(&self) -> usize {
        self.kept.cost()
    }

    /// The block of a location: kept here, from whoever reads it now, or from `read`. It is kept if it has several chunks.
    ///
    /// Errors: those of whichever reading it is.
    pub(crate) async fn block(
        shared: &Rc<RefCell<Self>>,
        reader: Reader,
        location: Location,
        read: impl Future<Output = Result<DecodedBlock, ReadError>> + 'static,
    ) -> Result<Rc<DecodedBlock>, ReadError> {
        let place = (location.segment, location.column, location.offset);
        let reading = {
            let mut blocks = shared.borrow_mut();
            if let Some(block) = blocks.kept.get(&place) {
                return Ok(block.clone());
            }
            match blocks.underway.get(&place).and_then(WeakShared::upgrade) {
                Some(reading) => reading,
                None => {
                    let reading = Self::reading(Underway { place, blocks: shared.clone() }, reader, read);
                    let weak = reading.downgrade().expect("invariant: it was not waited for yet");
                    blocks.underway.insert(place, weak);
                    reading
                }
            }
        };
        reading.await
    }

    fn reading(
        underway: Underway,
        reader: Reader,
        read: impl Future<Output = Result<DecodedBlock, ReadError>> + 'static,
    ) -> Reading {
        let read = async move {
            let block = Rc::new(read.await?);
            if block.entry.chunks.len() > 1 {
                let cost = block.memory_bytes();
                let mut blocks = underway.blocks.borrow_mut();
                blocks.kept.insert(underway.place, block.clone(), cost);
                if reader == Reader::Client {
                    let decoded_bytes = block.plain.len() as u64;
                    *blocks.reads.entry(underway.place.0).or_default() +=
                        SegmentReads { blocks: 1, decoded_bytes, handed_bytes: 0 };
                }
            }
            Ok(block)
        };
        read.boxed_local().shared()
    }

    /// Notes that a chunk of `bytes` bytes of a block was handed on.
    pub(crate) fn handed(&mut self, segment: SegmentId, bytes: usize) {
        if let Some(reads) = self.reads.get_mut(&segment) {
            reads.handed_bytes += bytes as u64;
        }
    }

    /// How each segment was read; what is long ago counts less and less, and is forgotten.
    pub(crate) fn take_reads(&mut self) -> BTreeMap<SegmentId, SegmentReads> {
        let taken = self.reads.clone();
        self.reads.values_mut().for_each(|reads| *reads = reads.halved());
        self.reads.retain(|_, reads| reads.blocks > 0);
        taken
    }

    /// Forgets the blocks of a segment.
    pub(crate) fn forget(&mut self, segment: SegmentId) {
        self.reads.remove(&segment);
        self.kept.take_range((segment, 0, 0)..=(segment, u8::MAX, u32::MAX));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures_channel::oneshot;
    use futures_util::future::pending;
    use proto::DomainId;
    use proto::disk::{ChunkEntry, Codec};

    type Blocks = RefCell<DecodedBlocks>;

    /// Asks for the block at `offset`; `read` says what reading it gives.
    fn ask(
        blocks: &Rc<Blocks>,
        offset: u32,
        read: impl Future<Output = Result<DecodedBlock, ReadError>> + 'static,
    ) -> LocalBoxFuture<'static, Result<Rc<DecodedBlock>, ReadError>> {
        let location = Location { segment: SegmentId(1), column: 0, offset, sectors: 1, ordinal: 0 };
        let blocks = blocks.clone();
        async move { DecodedBlocks::block(&blocks, Reader::Client, location, read).await }.boxed_local()
    }

    /// A reading that ends when it is told what it gave; one that nobody polls again does not.
    fn slow() -> (oneshot::Sender<DecodedBlock>, impl Future<Output = Result<DecodedBlock, ReadError>>) {
        let (tell, told) = oneshot::channel();
        (tell, async move { told.await.map_err(|_| ReadError::Stale(SegmentId(1))) })
    }

    async fn unwanted() -> Result<DecodedBlock, ReadError> {
        panic!("it is read already")
    }

    fn block(chunks: u8) -> DecodedBlock {
        let chunk = |number| ChunkEntry { id: ChunkId([number; 32]), plain_bytes: 2 };
        let entry = BlockEntry {
            codec: Codec::None,
            domain: DomainId(1),
            payload_bytes: u32::from(chunks) * 2,
            chunks: (0..chunks).map(chunk).collect(),
        };
        DecodedBlock { entry, plain: (0..chunks * 2).collect() }
    }

    #[test]
    fn one_reads_a_block_and_the_others_get_it_even_if_that_one_pauses() {
        let blocks = Rc::new(Blocks::default());
        let (tell, read) = slow();
        let mut first = ask(&blocks, 64, read);
        assert!((&mut first).now_or_never().is_none());
        let mut second = ask(&blocks, 64, unwanted());
        assert!((&mut second).now_or_never().is_none());
        assert!(tell.send(block(2)).is_ok());
        // The first, which began to read, is not polled again.
        assert_eq!(second.now_or_never().unwrap().unwrap().plain, [0, 1, 2, 3]);
        assert_eq!(ask(&blocks, 64, unwanted()).now_or_never().unwrap().unwrap().plain, [0, 1, 2, 3]);
        assert!(blocks.borrow().underway.is_empty());
        drop(first);
        blocks.borrow_mut().forget(SegmentId(1));
        let (tell, read) = slow();
        drop(tell);
        assert!(ask(&blocks, 64, read).now_or_never().unwrap().is_err(), "it is read again");
    }

    #[test]
    fn a_reading_goes_with_the_last_who_wants_it() {
        let blocks = Rc::new(Blocks::default());
        let mut first = ask(&blocks, 64, pending());
        let mut second = ask(&blocks, 64, unwanted());
        assert!((&mut first).now_or_never().is_none() && (&mut second).now_or_never().is_none());
        drop(first);
        assert_eq!(blocks.borrow().underway.len(), 1);
        drop(second);
        assert_eq!(blocks.borrow().underway.len(), 0);
        assert!(ask(&blocks, 64, async { Ok(block(2)) }).now_or_never().unwrap().is_ok());
    }

    #[test]
    fn a_block_of_one_chunk_is_not_kept() {
        let blocks = Rc::new(Blocks::default());
        ask(&blocks, 64, async { Ok(block(1)) }).now_or_never().unwrap().unwrap();
        assert_eq!(blocks.borrow().memory_bytes(), 0);
        ask(&blocks, 64, async { Ok(block(2)) }).now_or_never().unwrap().unwrap();
        assert!(blocks.borrow().memory_bytes() > 0);
        let reads = blocks.borrow_mut().take_reads();
        let once = SegmentReads { blocks: 1, decoded_bytes: 4, handed_bytes: 0 };
        assert_eq!(reads, [(SegmentId(1), once)].into(), "blocks of one chunk are not judged");
    }

    #[test]
    fn blocks_of_which_little_is_handed_on_are_read_randomly_until_that_is_long_ago() {
        let mut blocks = DecodedBlocks::default();
        let segment = SegmentId(1);
        let decoded = SegmentReads { blocks: JUDGED_BLOCKS_MIN, decoded_bytes: 7000, handed_bytes: 0 };
        blocks.reads.insert(segment, decoded);
        blocks.handed(segment, 2000);
        blocks.handed(SegmentId(2), 1);
        assert!(!blocks.take_reads()[&segment].are_random(), "3.5 times");
        blocks.reads.insert(segment, SegmentReads { handed_bytes: 1999, ..decoded });
        assert!(blocks.take_reads()[&segment].are_random());
        assert!(!blocks.take_reads()[&segment].are_random(), "half of the blocks are too few");
        for _ in 0..10 {
            blocks.take_reads();
        }
        assert!(blocks.reads.is_empty());
    }

    #[test]
    fn a_chunk_is_given_out_only_under_its_id() {
        let block = block(3);
        assert_eq!(block.chunk(&ChunkId([2; 32]), 2), Ok(&[4u8, 5][..]));
        block.chunk(&ChunkId([2; 32]), 1).expect_err("another chunk");
        block.chunk(&ChunkId([3; 32]), 3).expect_err("no such chunk");
    }
}
