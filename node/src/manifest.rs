//! The list of a file's chunks, built while it is written and walked while it is read.
//!
//! A manifest of up to [`MANIFEST_PAGE_ENTRIES_MAX`] entries lies with the metadata. A longer one is a tree: full pages
//! are stored like chunks, named by their bytes, and their ids are the entries of the level above. So neither a
//! request's memory nor a metadata command grows with the size of the file.

use std::cell::RefCell;
use std::collections::VecDeque;
use std::ops::Range;
use std::rc::Rc;

use meta::{Content, ManifestEntry, decode_page, encode_page};
use proto::disk::{BlockEntry, ChunkEntry, Codec};
use proto::limits::{MANIFEST_DEPTH_MAX, MANIFEST_PAGE_ENTRIES_MAX, UPLOAD_WINDOW_BYTES_MAX};
use proto::planted::{self, Bug};
use proto::port::Disk;
use proto::{ChunkId, DomainId, Location};
use shard::row::CompressedBlock;
use shard::{Holder, Lease, ReadError, Reference, Root, StoreError, Stored, StoredBatch, Underway};

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
    /// Stores the chunks `ids`, which are the `cuts` of `bytes`, unless they are there already; returns them in order, and
    /// the lowest epoch at which an owner answered for one.
    ///
    /// Cost: a duplicate costs its id and a lookup; a new chunk is compressed as well.
    pub(crate) async fn store_chunks(
        self: &Rc<Self>,
        bytes: &Rc<Vec<u8>>,
        cuts: Vec<Range<usize>>,
        ids: Vec<ChunkId>,
    ) -> (Vec<StoredChunk>, u64) {
        let chunks: Vec<(ChunkId, u32)> = ids.iter().zip(&cuts).map(|(id, cut)| (*id, cut.len() as u32)).collect();
        let (node, bytes, of) = (self.clone(), bytes.clone(), ids.clone());
        let block = move |place: usize| node.compress(of[place], &bytes[cuts[place].clone()]);
        let StoredBatch { chunks: stored, pin_epoch } = self.store.put(ids, block).await;
        let stored = chunks.into_iter().zip(stored);
        (stored.map(|((id, plain_bytes), stored)| StoredChunk { id, plain_bytes, stored }).collect(), pin_epoch)
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
///
/// At every moment each chunk and page is in one of its lists, so that a lease on them holds all; what goes from one list
/// to the next does so between two awaits.
pub(crate) struct ManifestBuilder {
    built: Rc<Built>,
    window_bytes: usize,
    size: u64,
    page_entries_max: usize,
    domain: DomainId,
    /// The lowest epoch at which an owner answered for a chunk or page.
    pin_epoch: u64,
    /// Ends with this.
    _lease: Option<Lease>,
}

/// What a manifest consists of so far; whoever collects garbage looks at it as well.
#[derive(Default)]
struct Built(RefCell<Lists>);

/// See [`Built`].
#[derive(Default)]
struct Lists {
    /// Chunks and pages that the store is asked for: their owners may have answered, and be asked no more.
    asked: Vec<ChunkId>,
    /// Chunks whose rows may not be durable yet, in file order.
    window: VecDeque<StoredChunk>,
    /// The first of them, while it is waited for.
    settling: Option<ChunkId>,
    /// Entries by level, chunks first: 1 to `page_entries_max` of them on each level.
    levels: Vec<Vec<ManifestEntry>>,
    /// An entry on its way to a level, while a page that stands in its way is stored.
    moving: Option<(usize, ManifestEntry)>,
}

impl Lists {
    fn level(&mut self, level: usize) -> &mut Vec<ManifestEntry> {
        if self.levels.len() <= level {
            self.levels.resize_with(level + 1, Vec::new);
        }
        &mut self.levels[level]
    }
}

impl Holder for Built {
    fn roots(&self) -> Vec<Root> {
        if planted::is(Bug::UnmarkedUpload) {
            return Vec::new();
        }
        let built = self.0.borrow();
        let waiting =
            built.window.iter().map(|chunk| chunk.id).chain(built.settling).chain(built.asked.iter().copied());
        let waiting = waiting.map(|id| Root { reference: Reference { id, hint: NOWHERE }, depth: 0, bytes: 0 });
        let levels = built.levels.iter().enumerate();
        let levels = levels.flat_map(|(level, entries)| entries.iter().map(move |entry| root_of(entry, level as u8)));
        let moving = built.moving.iter().map(|(level, entry)| root_of(entry, *level as u8));
        waiting.chain(levels).chain(moving).collect()
    }
}

impl ManifestBuilder {
    /// Returns a builder of pages of up to `page_entries_max` entries over chunks of `domain`; they are held by `lease`.
    ///
    /// # Panics
    /// If that is below 2 or above [`MANIFEST_PAGE_ENTRIES_MAX`].
    pub(crate) fn new(page_entries_max: usize, domain: DomainId, lease: Option<Lease>) -> ManifestBuilder {
        assert!((2..=MANIFEST_PAGE_ENTRIES_MAX).contains(&page_entries_max), "invariant: a tree branches");
        let built: Rc<Built> = Rc::default();
        if let Some(lease) = &lease {
            lease.hold(built.clone());
        }
        ManifestBuilder {
            built,
            window_bytes: 0,
            size: 0,
            page_entries_max,
            domain,
            pin_epoch: u64::MAX,
            _lease: lease,
        }
    }

    /// The lowest epoch at which an owner answered for a chunk or page of what was finished.
    pub(crate) fn pin_epoch(&self) -> u64 {
        self.pin_epoch
    }

    /// Notes that all chunks and pages were pinned once more, at `epoch` or later.
    pub(crate) fn pinned_again(&mut self, epoch: u64) {
        self.pin_epoch = epoch;
    }

    /// Stores the chunks of `bytes` and adds them, in order; waits for earlier ones when too much of this upload is in
    /// memory.
    ///
    /// Errors: an earlier chunk's.
    pub(crate) async fn store<D: Disk>(
        &mut self,
        node: &Rc<Inner<D>>,
        bytes: &Rc<Vec<u8>>,
        cuts: Vec<Range<usize>>,
    ) -> Result<(), StoreError> {
        let asked_before = self.built.0.borrow().asked.len();
        for chunk in self.ask(node, bytes, cuts).await {
            self.push(node, chunk).await?;
        }
        self.built.0.borrow_mut().asked.truncate(asked_before);
        Ok(())
    }

    /// Stores the chunks of `bytes`. They stay in the list of those asked for until the caller has them in another.
    async fn ask<D: Disk>(
        &mut self,
        node: &Rc<Inner<D>>,
        bytes: &Rc<Vec<u8>>,
        cuts: Vec<Range<usize>>,
    ) -> Vec<StoredChunk> {
        let ids: Vec<ChunkId> = cuts.iter().map(|cut| node.domain.key.chunk_id(&bytes[cut.clone()])).collect();
        self.built.0.borrow_mut().asked.extend_from_slice(&ids);
        let (chunks, pin_epoch) = node.store_chunks(bytes, cuts, ids).await;
        self.pin_epoch = self.pin_epoch.min(pin_epoch);
        chunks
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
        self.built.0.borrow_mut().window.push_back(chunk);
        while self.window_bytes > UPLOAD_WINDOW_BYTES_MAX || self.waiting() > WINDOW_CHUNKS_MAX {
            self.settle_first(node).await?;
        }
        Ok(())
    }

    /// Waits until everything is durable and returns the content to commit; what it names stays held.
    ///
    /// Errors: a chunk's or page's.
    pub(crate) async fn finish<D: Disk>(&mut self, node: &Rc<Inner<D>>) -> Result<Content, StoreError> {
        while self.waiting() > 0 {
            self.settle_first(node).await?;
        }
        let mut depth = 0;
        while depth + 1 < self.built.0.borrow().levels.len() {
            let page = self.built.0.borrow().levels[depth].clone();
            let entry = self.store_page(node, &page).await?;
            self.add(node, depth + 1, entry).await?;
            self.built.0.borrow_mut().level(depth).clear();
            depth += 1;
        }
        let entries = self.built.0.borrow().levels.last().cloned().unwrap_or_default();
        assert!(depth <= usize::from(MANIFEST_DEPTH_MAX), "invariant: four levels hold any file");
        let listed: u64 = entries.iter().map(|entry| entry.bytes).sum();
        assert_eq!(listed, self.size, "invariant: the manifest lists every byte of the file");
        Ok(Content::Chunks { size: self.size, domain: self.domain, depth: depth as u8, entries })
    }

    async fn settle_first<D: Disk>(&mut self, node: &Rc<Inner<D>>) -> Result<(), StoreError> {
        let first = {
            let mut built = self.built.0.borrow_mut();
            let first = built.window.pop_front();
            built.settling = first.as_ref().map(|chunk| chunk.id);
            first
        };
        let Some(chunk) = first else { return Ok(()) };
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
        loop {
            let page = {
                let mut built = self.built.0.borrow_mut();
                built.settling = None;
                if built.level(level).len() < self.page_entries_max {
                    built.level(level).push(entry);
                    built.moving = None;
                    return Ok(());
                }
                built.moving = Some((level, entry));
                built.level(level).clone()
            };
            let stored = self.store_page(node, &page).await?;
            *self.built.0.borrow_mut().level(level) = vec![entry];
            entry = stored;
            level += 1;
        }
    }

    /// Stores a page and returns the entry for it.
    async fn store_page<D: Disk>(
        &mut self,
        node: &Rc<Inner<D>>,
        page: &[ManifestEntry],
    ) -> Result<ManifestEntry, StoreError> {
        let encoded = encode_page(page);
        let asked_before = self.built.0.borrow().asked.len();
        let chunk = if self.domain == DomainId::CHECKPOINTS {
            node.store_page(encoded).await?
        } else {
            let whole = 0..encoded.len();
            let mut chunks = self.ask(node, &Rc::new(encoded), vec![whole]).await;
            chunks.pop().expect("invariant: an answer for each chunk")
        };
        let stored = settle(node, chunk).await?;
        self.built.0.borrow_mut().asked.truncate(asked_before);
        let bytes = page.iter().map(|entry| entry.bytes).sum();
        Ok(ManifestEntry { bytes, ..stored })
    }

    /// Chunks whose rows may not be durable yet.
    fn waiting(&self) -> usize {
        self.built.0.borrow().window.len()
    }
}

/// Waits until a chunk is durable.
async fn settle<D: Disk>(node: &Inner<D>, chunk: StoredChunk) -> Result<ManifestEntry, StoreError> {
    let location = match chunk.stored {
        Stored::Durable(location) => location,
        Stored::Underway(underway) => node.store.settle(underway).await?,
    };
    Ok(ManifestEntry { id: chunk.id.0, bytes: u64::from(chunk.plain_bytes), location: location.pack() })
}

/// An entry of a manifest, on whichever level.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Visited {
    pub(crate) entry: ManifestEntry,
    /// Levels of pages between it and the chunks, plus one; 0 for a chunk.
    pub(crate) depth: u8,
    /// Where in the file it begins.
    offset: u64,
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
        while let Some(visited) = self.next_entry() {
            let Visited { entry, depth, offset } = visited;
            if offset.saturating_add(entry.bytes) <= from {
                continue;
            }
            if depth == 0 {
                return Ok(Some(ChunkAt { entry, offset }));
            }
            self.descend(node, visited).await?;
        }
        Ok(None)
    }

    /// Returns the next entry, on whichever level; `None` after the last. What is below a page comes only after
    /// [`ManifestCursor::descend`].
    pub(crate) fn next_entry(&mut self) -> Option<Visited> {
        loop {
            let level = self.stack.last_mut()?;
            if let Some(entry) = level.entries.next() {
                let (offset, depth) = (level.offset, level.depth);
                level.offset = offset.saturating_add(entry.bytes);
                return Some(Visited { entry, depth, offset });
            }
            self.stack.pop();
        }
    }

    /// Reads the page that was visited last and goes on with its entries.
    ///
    /// Errors: the range of the file that cannot be read, and why.
    pub(crate) async fn descend<D: Disk>(
        &mut self,
        node: &Inner<D>,
        visited: Visited,
    ) -> Result<(), (Range<u64>, ReadError)> {
        let Visited { entry, depth, offset } = visited;
        let range = offset..offset.saturating_add(entry.bytes);
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
        Ok(())
    }
}

/// What an entry on level `depth` of a manifest refers to.
pub(crate) fn root_of(entry: &ManifestEntry, depth: u8) -> Root {
    let reference = Reference { id: ChunkId(entry.id), hint: location_of(entry) };
    Root { reference, depth, bytes: entry.bytes }
}

/// Reads the chunk or page of a manifest entry.
pub(crate) async fn read_chunk<D: Disk>(node: &Inner<D>, entry: &ManifestEntry) -> Result<Vec<u8>, ReadError> {
    node.store.read(&ChunkId(entry.id), location_of(entry)).await
}

/// The hint of what nobody knows the place of: there is no such segment.
pub(crate) const NOWHERE: Location =
    Location { segment: proto::SegmentId(0), column: 0, offset: 0, sectors: 0, ordinal: 0 };

/// An entry's location hint; one that no version of ours wrote reads as stale, and the index is asked.
pub(crate) fn location_of(entry: &ManifestEntry) -> Location {
    Location::unpack(entry.location).unwrap_or(NOWHERE)
}
