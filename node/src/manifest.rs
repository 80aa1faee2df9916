//! The list of a file's chunks, built while it is written and walked while it is read.
//!
//! A manifest of up to [`MANIFEST_PAGE_ENTRIES_MAX`] entries lies with the metadata. A longer one is a tree: full pages
//! are stored like chunks, named by their bytes, and their ids are the entries of the level above. So neither a
//! request's memory nor a metadata command grows with the size of the file.

use std::collections::VecDeque;
use std::ops::Range;
use std::rc::Rc;

use meta::{Content, ManifestEntry, decode_page, encode_page};
use proto::disk::{BlockEntry, ChunkEntry, Codec};
use proto::limits::{MANIFEST_DEPTH_MAX, MANIFEST_PAGE_ENTRIES_MAX, UPLOAD_WINDOW_BYTES_MAX};
use proto::port::Disk;
use proto::{ChunkId, DomainId, Location};
use shard::row::CompressedBlock;
use shard::{ReadError, StoreError, Stored, Underway};

use crate::Inner;

/// Chunks of one upload that may wait for their rows, however small they are.
const WINDOW_CHUNKS_MAX: usize = 4096;

/// A chunk that was handed to the store.
pub(crate) struct StoredChunk {
    id: ChunkId,
    plain_bytes: u32,
    stored: Stored,
}

impl StoredChunk {
    /// A chunk that is being written.
    pub(crate) fn underway(id: ChunkId, plain_bytes: u32, underway: Underway) -> StoredChunk {
        StoredChunk { id, plain_bytes, stored: Stored::Underway(underway) }
    }

    /// Bytes that wait in memory on behalf of this upload.
    fn waiting_bytes(&self) -> usize {
        match &self.stored {
            Stored::Durable(_) => 0,
            Stored::Underway(underway) => underway.waiting_bytes,
        }
    }
}

impl<D: Disk> Inner<D> {
    /// Stores the chunks of `bytes` that are not there already, in order.
    ///
    /// Cost: a duplicate costs its id and a lookup; a new chunk is compressed as well.
    pub(crate) async fn store_chunks(
        self: &Rc<Self>,
        bytes: &Rc<Vec<u8>>,
        cuts: Vec<Range<usize>>,
    ) -> Vec<StoredChunk> {
        let ids: Vec<ChunkId> = cuts.iter().map(|cut| self.domain.key.chunk_id(&bytes[cut.clone()])).collect();
        let chunks: Vec<(ChunkId, u32)> = ids.iter().zip(&cuts).map(|(id, cut)| (*id, cut.len() as u32)).collect();
        let (node, bytes, of) = (self.clone(), bytes.clone(), ids.clone());
        let block = move |place: usize| node.compress(of[place], &bytes[cuts[place].clone()]);
        let stored = self.store.put(ids, block).await;
        chunks
            .into_iter()
            .zip(stored)
            .map(|((id, plain_bytes), stored)| StoredChunk { id, plain_bytes, stored })
            .collect()
    }

    fn compress(&self, id: ChunkId, plain: &[u8]) -> CompressedBlock {
        let (codec, payload) = chunk::compress(plain);
        let entry = BlockEntry {
            codec,
            domain: self.domain.id,
            payload_bytes: payload.len() as u32,
            chunks: vec![ChunkEntry { id, plain_bytes: plain.len() as u32 }],
        };
        debug_assert!(codec != Codec::None || payload.len() == plain.len());
        CompressedBlock { entry, payload: payload.into_owned() }
    }
}

/// Builds a manifest from chunks in file order.
pub(crate) struct ManifestBuilder {
    /// Chunks whose rows may not be durable yet, in file order.
    window: VecDeque<StoredChunk>,
    window_bytes: usize,
    /// Entries by level, chunks first: 1 to `page_entries_max` of them on each level.
    levels: Vec<Vec<ManifestEntry>>,
    size: u64,
    page_entries_max: usize,
    domain: DomainId,
}

impl ManifestBuilder {
    /// Returns a builder of pages of up to `page_entries_max` entries over chunks of `domain`.
    ///
    /// # Panics
    /// If that is below 2 or above [`MANIFEST_PAGE_ENTRIES_MAX`].
    pub(crate) fn new(page_entries_max: usize, domain: DomainId) -> ManifestBuilder {
        assert!((2..=MANIFEST_PAGE_ENTRIES_MAX).contains(&page_entries_max), "invariant: a tree branches");
        ManifestBuilder {
            window: VecDeque::new(),
            window_bytes: 0,
            levels: Vec::new(),
            size: 0,
            page_entries_max,
            domain,
        }
    }

    /// Whether no chunk was added.
    pub(crate) fn is_empty(&self) -> bool {
        self.size == 0
    }

    /// Adds the next chunk; waits for earlier ones when too much of this upload is in memory.
    ///
    /// Errors: an earlier chunk's.
    pub(crate) async fn push<D: Disk>(&mut self, node: &Rc<Inner<D>>, chunk: StoredChunk) -> Result<(), StoreError> {
        self.size += u64::from(chunk.plain_bytes);
        self.window_bytes += chunk.waiting_bytes();
        self.window.push_back(chunk);
        while self.window_bytes > UPLOAD_WINDOW_BYTES_MAX || self.window.len() > WINDOW_CHUNKS_MAX {
            self.settle_first(node).await?;
        }
        Ok(())
    }

    /// Waits until everything is durable and returns the content to commit.
    ///
    /// Errors: a chunk's or page's.
    pub(crate) async fn finish<D: Disk>(mut self, node: &Rc<Inner<D>>) -> Result<Content, StoreError> {
        while !self.window.is_empty() {
            self.settle_first(node).await?;
        }
        let mut depth = 0;
        while depth + 1 < self.levels.len() {
            let page = std::mem::take(self.level(depth));
            let entry = store_page(node, self.domain, &page).await?;
            depth += 1;
            self.add(node, depth, entry).await?;
        }
        let entries = self.levels.pop().unwrap_or_default();
        assert!(depth <= usize::from(MANIFEST_DEPTH_MAX), "invariant: four levels hold any file");
        let listed: u64 = entries.iter().map(|entry| entry.bytes).sum();
        assert_eq!(listed, self.size, "invariant: the manifest lists every byte of the file");
        Ok(Content::Chunks { size: self.size, domain: self.domain, depth: depth as u8, entries })
    }

    async fn settle_first<D: Disk>(&mut self, node: &Rc<Inner<D>>) -> Result<(), StoreError> {
        let Some(chunk) = self.window.pop_front() else { return Ok(()) };
        self.window_bytes -= chunk.waiting_bytes();
        let entry = settle(node, chunk).await?;
        self.add(node, 0, entry).await
    }

    /// Adds an entry to `level`. Full pages that stand in its way are stored first, from the bottom up.
    async fn add<D: Disk>(
        &mut self,
        node: &Rc<Inner<D>>,
        mut level: usize,
        mut entry: ManifestEntry,
    ) -> Result<(), StoreError> {
        while self.level(level).len() == self.page_entries_max {
            let page = std::mem::replace(self.level(level), vec![entry]);
            entry = store_page(node, self.domain, &page).await?;
            level += 1;
        }
        self.level(level).push(entry);
        Ok(())
    }

    fn level(&mut self, level: usize) -> &mut Vec<ManifestEntry> {
        if self.levels.len() <= level {
            self.levels.resize_with(level + 1, Vec::new);
        }
        &mut self.levels[level]
    }
}

/// Stores a page and returns the entry for it.
async fn store_page<D: Disk>(
    node: &Rc<Inner<D>>,
    domain: DomainId,
    page: &[ManifestEntry],
) -> Result<ManifestEntry, StoreError> {
    let encoded = encode_page(page);
    let chunk = if domain == DomainId::CHECKPOINTS {
        node.store_page(encoded).await?
    } else {
        let whole = 0..encoded.len();
        let chunk = node.store_chunks(&Rc::new(encoded), vec![whole]).await.pop();
        chunk.expect("invariant: an answer for each chunk")
    };
    let stored = settle(node, chunk).await?;
    let bytes = page.iter().map(|entry| entry.bytes).sum();
    Ok(ManifestEntry { bytes, ..stored })
}

/// Waits until a chunk is durable.
async fn settle<D: Disk>(node: &Inner<D>, chunk: StoredChunk) -> Result<ManifestEntry, StoreError> {
    let location = match chunk.stored {
        Stored::Durable(location) => location,
        Stored::Underway(underway) => node.store.settle(underway).await?,
    };
    Ok(ManifestEntry { id: chunk.id.0, bytes: u64::from(chunk.plain_bytes), location: location.pack() })
}

/// One chunk of a file, and where in the file it lies.
#[derive(Clone, Copy, Debug)]
pub(crate) struct ChunkAt {
    pub(crate) entry: ManifestEntry,
    pub(crate) offset: u64,
}

/// Walks the chunks of a file in order, reading manifest pages as it reaches them.
pub(crate) struct ManifestCursor {
    /// From the root to the current page: entries left, and how deep below them the chunks are.
    stack: Vec<Level>,
}

struct Level {
    entries: std::vec::IntoIter<ManifestEntry>,
    depth: u8,
    /// File offset of the next entry.
    offset: u64,
}

impl ManifestCursor {
    pub(crate) fn new(entries: Vec<ManifestEntry>, depth: u8) -> ManifestCursor {
        ManifestCursor { stack: vec![Level { entries: entries.into_iter(), depth, offset: 0 }] }
    }

    /// Returns the next chunk that ends after file offset `from`; `None` after the last.
    ///
    /// Pages that end before `from` are not read. Errors: the range of the file that cannot be read, and why.
    pub(crate) async fn next<D: Disk>(
        &mut self,
        node: &Inner<D>,
        from: u64,
    ) -> Result<Option<ChunkAt>, (Range<u64>, ReadError)> {
        loop {
            let Some(level) = self.stack.last_mut() else { return Ok(None) };
            let depth = level.depth;
            let Some(entry) = level.entries.next() else {
                self.stack.pop();
                continue;
            };
            let offset = level.offset;
            level.offset = offset.saturating_add(entry.bytes);
            if level.offset <= from {
                continue;
            }
            if depth == 0 {
                return Ok(Some(ChunkAt { entry, offset }));
            }
            let range = offset..level.offset;
            let page = read_chunk(node, &entry).await.map_err(|error| (range.clone(), error))?;
            let entries = decode_page(&page).map_err(|error| {
                let location = location_of(&entry);
                (range.clone(), ReadError::Corrupt { location, what: error.to_string() })
            })?;
            if entries.iter().map(|entry| entry.bytes).sum::<u64>() != entry.bytes {
                let what = "the manifest page covers another range".to_owned();
                return Err((range, ReadError::Corrupt { location: location_of(&entry), what }));
            }
            self.stack.push(Level { entries: entries.into_iter(), depth: depth - 1, offset });
        }
    }
}

/// Reads the chunk or page of a manifest entry.
pub(crate) async fn read_chunk<D: Disk>(node: &Inner<D>, entry: &ManifestEntry) -> Result<Vec<u8>, ReadError> {
    node.store.read(&ChunkId(entry.id), location_of(entry)).await
}

/// An entry's location hint; one that no version of ours wrote reads as stale, and the index is asked.
pub(crate) fn location_of(entry: &ManifestEntry) -> Location {
    let stale = Location { segment: proto::SegmentId(0), column: 0, offset: 0, sectors: 0, ordinal: 0 };
    Location::unpack(entry.location).unwrap_or(stale)
}
