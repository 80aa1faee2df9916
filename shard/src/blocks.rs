//! Decoded blocks of several chunks, kept for readers: whoever reads on wants the next chunk of the same block.
//!
//! Invariants: the bytes kept are bounded; of several who want a block at the same time one reads and decodes it.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::rc::Rc;

use futures_channel::oneshot;
use proto::disk::BlockEntry;
use proto::limits::DECODED_BLOCKS_BYTES_MAX;
use proto::{ChunkId, Location, SegmentId};

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

/// The blocks that one core keeps; see the module.
#[derive(Debug)]
pub(crate) struct DecodedBlocks {
    kept: Recent<Place, Rc<DecodedBlock>>,
    /// Blocks that somebody reads now, and who waits for them.
    underway: BTreeMap<Place, Vec<oneshot::Sender<Rc<DecodedBlock>>>>,
}

impl Default for DecodedBlocks {
    fn default() -> Self {
        DecodedBlocks { kept: Recent::new(DECODED_BLOCKS_BYTES_MAX), underway: BTreeMap::new() }
    }
}

/// Where a block is to be had.
pub(crate) enum Asked {
    Here(Rc<DecodedBlock>),
    /// Somebody reads it. He may fail, or go away: then the asker asks again.
    Underway(oneshot::Receiver<Rc<DecodedBlock>>),
    /// The asker reads it, and says so when it has.
    Yours(Reading),
}

/// The duty to read a block. Dropping it leaves it to the next who asks.
pub(crate) struct Reading {
    place: Place,
    blocks: Rc<RefCell<DecodedBlocks>>,
    block: Option<Rc<DecodedBlock>>,
}

impl Reading {
    /// Hands the block to all who wait for it, and keeps it if it has several chunks.
    pub(crate) fn done(mut self, block: Rc<DecodedBlock>) {
        self.block = Some(block);
    }
}

impl Drop for Reading {
    fn drop(&mut self) {
        self.blocks.borrow_mut().end(self.place, self.block.take());
    }
}

impl DecodedBlocks {
    /// Bytes of memory, near enough.
    pub(crate) fn memory_bytes(&self) -> usize {
        self.kept.cost()
    }

    /// Asks for the block of a location.
    pub(crate) fn ask(shared: &Rc<RefCell<Self>>, location: Location) -> Asked {
        let place = (location.segment, location.column, location.offset);
        let mut blocks = shared.borrow_mut();
        if let Some(block) = blocks.kept.get(&place) {
            return Asked::Here(block.clone());
        }
        if let Some(waiting) = blocks.underway.get_mut(&place) {
            let (tell, told) = oneshot::channel();
            waiting.push(tell);
            return Asked::Underway(told);
        }
        blocks.underway.insert(place, Vec::new());
        Asked::Yours(Reading { place, blocks: shared.clone(), block: None })
    }

    fn end(&mut self, place: Place, block: Option<Rc<DecodedBlock>>) {
        let waiting = self.underway.remove(&place).unwrap_or_default();
        let Some(block) = block else { return };
        for tell in waiting {
            // Whoever went away does not matter.
            let _ = tell.send(block.clone());
        }
        if block.entry.chunks.len() > 1 {
            let cost = block.memory_bytes();
            self.kept.insert(place, block, cost);
        }
    }

    /// Forgets the blocks of a segment.
    pub(crate) fn forget(&mut self, segment: SegmentId) {
        self.kept.take_range((segment, 0, 0)..=(segment, u8::MAX, u32::MAX));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proto::DomainId;
    use proto::disk::{ChunkEntry, Codec};

    type Shared = RefCell<DecodedBlocks>;

    fn ask(blocks: &Rc<Shared>, offset: u32) -> Asked {
        let location = Location { segment: SegmentId(1), column: 0, offset, sectors: 1, ordinal: 0 };
        DecodedBlocks::ask(blocks, location)
    }

    fn block(chunks: u8) -> Rc<DecodedBlock> {
        let chunk = |number| ChunkEntry { id: ChunkId([number; 32]), plain_bytes: 2 };
        let entry = BlockEntry {
            codec: Codec::None,
            domain: DomainId(1),
            payload_bytes: u32::from(chunks) * 2,
            chunks: (0..chunks).map(chunk).collect(),
        };
        Rc::new(DecodedBlock { entry, plain: (0..chunks * 2).collect() })
    }

    #[test]
    fn one_reads_a_block_and_the_others_get_it() {
        let blocks = Rc::new(Shared::default());
        let Asked::Yours(reading) = ask(&blocks, 64) else { panic!("somebody has it") };
        let Asked::Underway(mut told) = ask(&blocks, 64) else { panic!("nobody reads it") };
        assert!(matches!(ask(&blocks, 128), Asked::Yours(_)), "another block");
        reading.done(block(2));
        assert_eq!(told.try_recv().unwrap().unwrap().plain, [0, 1, 2, 3]);
        assert!(matches!(ask(&blocks, 64), Asked::Here(_)));
        blocks.borrow_mut().forget(SegmentId(1));
        assert!(matches!(ask(&blocks, 64), Asked::Yours(_)));
    }

    #[test]
    fn a_reader_that_goes_away_leaves_the_block_to_the_next() {
        let blocks = Rc::new(Shared::default());
        let Asked::Yours(reading) = ask(&blocks, 64) else { panic!("somebody has it") };
        let Asked::Underway(mut told) = ask(&blocks, 64) else { panic!("nobody reads it") };
        drop(reading);
        assert!(told.try_recv().is_err(), "told to ask again");
        assert!(matches!(ask(&blocks, 64), Asked::Yours(_)));
    }

    #[test]
    fn a_block_of_one_chunk_is_not_kept() {
        let blocks = Rc::new(Shared::default());
        let Asked::Yours(reading) = ask(&blocks, 64) else { panic!("somebody has it") };
        reading.done(block(1));
        assert!(matches!(ask(&blocks, 64), Asked::Yours(_)));
        assert_eq!(blocks.borrow().memory_bytes(), 0);
    }

    #[test]
    fn a_chunk_is_given_out_only_under_its_id() {
        let block = block(3);
        assert_eq!(block.chunk(&ChunkId([2; 32]), 2), Ok(&[4u8, 5][..]));
        block.chunk(&ChunkId([2; 32]), 1).expect_err("another chunk");
        block.chunk(&ChunkId([3; 32]), 3).expect_err("no such chunk");
    }
}
