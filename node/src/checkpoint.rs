//! Checkpoints of the chunk index: pages in the node's own segments, their root in the metadata.
//!
//! ```text
//!   take   which segments are settled ─▶ pages of every core ─▶ rows durable ─▶ root committed
//!   load   root ─▶ pages, shared among the cores ─▶ their owners          tail: the other segments, replayed
//! ```
//!
//! The index is derived, so a checkpoint may be late, and one that does not verify is passed over: then all segments are
//! replayed. What it says of a chunk that the tail has as well is out of date: the chunk was moved, or condemned or damaged
//! and stored again. A crash while one is taken leaves blocks that nothing refers to.
//!
//! Its pages are made one after the other, and what it counts comes last. So whoever takes entries away (condemns or moves
//! chunks) does so while no checkpoint is taken; if one goes all the same, the checkpoint is not committed.

use std::collections::BTreeSet;
use std::rc::Rc;
use std::sync::Arc;

use chunk::compress;
use futures_util::lock::MutexGuard;
use meta::{Command, Content, IndexCheckpoint};
use proto::disk::{BlockEntry, ChunkEntry};
use proto::port::Disk;
use proto::{CoreId, DomainId, SegmentId};
use shard::recovery::ListedSegment;
use shard::row::CompressedBlock;
use shard::{PageCursor, ReadError, StoreError};

use crate::error::ChangeError;
use crate::manifest::{ManifestBuilder, ManifestCursor, StoredChunk, location_of, read_chunk};
use crate::{Inner, NAMESPACE_CORE};

/// Part of the index that may come before the next checkpoint is taken: it bounds what a start replays, and what
/// checkpoints cost.
const TAIL_PART: u64 = 8;

/// Which segments a checkpoint covers, of those that the metadata still lists.
#[derive(Clone, Debug, Default)]
pub(crate) struct Cover {
    end: SegmentId,
    /// Ascending.
    except: Vec<SegmentId>,
    /// Ascending.
    listed: Vec<SegmentId>,
}

impl Cover {
    /// What `checkpoint` covers of the `listed` segments.
    pub(crate) fn of(checkpoint: &IndexCheckpoint, listed: &[ListedSegment]) -> Cover {
        let listed = listed.iter().map(|segment| segment.id).collect();
        Cover { end: checkpoint.end, except: checkpoint.except.clone(), listed }
    }

    pub(crate) fn has(&self, segment: SegmentId) -> bool {
        segment < self.end
            && self.except.binary_search(&segment).is_err()
            && self.listed.binary_search(&segment).is_ok()
    }
}

/// Checkpoints since the start.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Taken {
    pub(crate) taken: u64,
    pub(crate) failed: u64,
}

/// A checkpoint was not taken; the one before stays.
#[derive(Debug, thiserror::Error)]
pub(crate) enum CheckpointError {
    /// A page was not written.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The root was not committed.
    #[error(transparent)]
    Change(#[from] ChangeError),
    /// A chunk was stored again, because it could not be confirmed, while the pages were made: take it again.
    #[error("entries of the index changed their places meanwhile")]
    Overtaken,
}

/// Takes checkpoints for as long as the node lives, one at a time, at the start and whenever a segment was settled, if
/// enough chunks came since the one before. Runs on the core that has the namespace.
///
/// What moved counts like what came: a start would find it in the tail as well.
pub(crate) async fn keep_taking<D: Disk>(node: Rc<Inner<D>>) {
    loop {
        let settled = node.names.ask(NAMESPACE_CORE, |names| names.next_settled()).await;
        {
            let turn = node.checkpointing.lock().await;
            let chunks = node.store.stats().await.chunks;
            let changes = node.store.index_changes().await - node.checkpoint_changes.get();
            if changes >= node.checkpoint_after_chunks.max(chunks / TAIL_PART) {
                // If it fails, the disk may be full, or the node closing: the next settled segment is reason enough to
                // try again.
                drop(take(&node, &turn).await);
            }
        }
        settled.await;
    }
}

/// The right to take a checkpoint, to take entries away that one has, and to free what only an earlier one needed: one at
/// a time has it.
pub(crate) type Turn<'a> = MutexGuard<'a, ()>;

/// Takes one checkpoint.
pub(crate) async fn take<D: Disk>(node: &Rc<Inner<D>>, _turn: &Turn<'_>) -> Result<(), CheckpointError> {
    let changes = node.store.index_changes().await;
    node.takes_checkpoint.set(true);
    let taken = write(node).await;
    node.takes_checkpoint.set(false);
    if taken.is_ok() {
        node.checkpoint_changes.set(changes);
    }
    let is_taken = taken.is_ok();
    node.names.ask(NAMESPACE_CORE, move |names| names.count_checkpoint(is_taken)).await;
    taken
}

/// Replaces the checkpoint by one that covers nothing: the next start reads all segments. It needs no room for pages, so
/// that a disk that is full of garbage can be emptied.
pub(crate) async fn give_up<D: Disk>(node: &Rc<Inner<D>>, _turn: &Turn<'_>) -> Result<(), CheckpointError> {
    let content = Content::Chunks { size: 0, domain: DomainId::CHECKPOINTS, depth: 0, entries: Vec::new() };
    let nothing = IndexCheckpoint {
        end: SegmentId::default(),
        except: Vec::new(),
        chunks: 0,
        plain_bytes: 0,
        stored_bytes: 0,
        similarity_bytes: 0,
        content,
    };
    node.checkpoint_changes.set(0);
    commit(node, nothing).await
}

/// The segments in which the pages of the last checkpoint lie.
///
/// Errors: a page of its list that cannot be read.
pub(crate) async fn page_segments<D: Disk>(node: &Rc<Inner<D>>) -> Result<BTreeSet<SegmentId>, ReadError> {
    let mut segments = BTreeSet::new();
    let last = node.names.ask(NAMESPACE_CORE, |names| names.meta.view(|view| view.index_checkpoint())).await;
    let Some(Content::Chunks { depth, entries, .. }) = last.map(|checkpoint| checkpoint.content) else {
        return Ok(segments);
    };
    let mut cursor = ManifestCursor::new(entries, depth);
    while let Some(visited) = cursor.next_entry() {
        segments.insert(location_of(&visited.entry).segment);
        if visited.depth > 0 {
            cursor.descend(node, visited).await.map_err(|(_, error)| error)?;
        }
    }
    Ok(segments)
}

/// Writes the pages of a checkpoint, and commits its root.
async fn write<D: Disk>(node: &Rc<Inner<D>>) -> Result<(), CheckpointError> {
    let departures = node.store.index_departures().await;
    let settled = node.store.settled().await;
    let mut pages = ManifestBuilder::new(node.manifest_page_entries, DomainId::CHECKPOINTS, None);
    for core in 0..node.names.count() as u16 {
        let mut cursor = PageCursor::default();
        while let Some((page, next)) = node.store.export(CoreId(core), cursor).await {
            pages.push(node, node.store_page(page).await?).await?;
            cursor = next;
        }
    }
    let (end, except) = (settled.end, Arc::new(settled.except));
    let uncovered = except.clone();
    let volume = node.store.volume(move |segment| segment < end && uncovered.binary_search(&segment).is_err()).await;
    if node.store.index_departures().await != departures {
        return Err(CheckpointError::Overtaken);
    }
    let content = pages.finish(node).await?;
    let checkpoint = IndexCheckpoint {
        end,
        except: except.to_vec(),
        chunks: volume.chunks,
        plain_bytes: volume.plain_bytes,
        stored_bytes: volume.stored_bytes,
        similarity_bytes: volume.similarity_bytes,
        content,
    };
    commit(node, checkpoint).await
}

async fn commit<D: Disk>(node: &Rc<Inner<D>>, checkpoint: IndexCheckpoint) -> Result<(), CheckpointError> {
    let propose = move |names: Rc<crate::Namespace<D>>| async move {
        names.propose(Command::CheckpointIndex { checkpoint }).await
    };
    node.names.call(NAMESPACE_CORE, propose).await?;
    Ok(())
}

/// Loads this core's share of a checkpoint. Errors are for people.
pub(crate) async fn load<D: Disk>(
    node: &Inner<D>,
    checkpoint: &IndexCheckpoint,
    cover: &Arc<Cover>,
) -> Result<(), String> {
    let Content::Chunks { depth, entries, .. } = &checkpoint.content else {
        return Err("its root is no list of pages".to_owned());
    };
    let (me, cores) = (usize::from(node.names.me().0), node.names.count());
    let mut cursor = ManifestCursor::new(entries.clone(), *depth);
    let (mut offset, mut number) = (0, 0);
    while let Some(page) = cursor.next(node, offset).await.map_err(|(_, error)| error.to_string())? {
        offset = page.offset + page.entry.bytes;
        if number % cores == me {
            let bytes = read_chunk(node, &page.entry).await.map_err(|error| error.to_string())?;
            let cover = cover.clone();
            let imported = node.store.import(bytes, move |segment| cover.has(segment)).await;
            if !imported.map_err(|error| error.to_string())? {
                return Err("a copy that it has of a chunk which was stored again cannot be confirmed".to_owned());
            }
        }
        number += 1;
    }
    Ok(())
}

impl<D: Disk> Inner<D> {
    /// Hands a page of a checkpoint, or of its manifest, to the store: a block that is no chunk of the index.
    pub(crate) async fn store_page(&self, page: Vec<u8>) -> Result<StoredChunk, StoreError> {
        let (id, plain_bytes) = (self.domain.key.chunk_id(&page), page.len() as u32);
        let (codec, payload) = compress(&page);
        let entry = BlockEntry {
            codec,
            domain: DomainId::CHECKPOINTS,
            payload_bytes: payload.len() as u32,
            chunks: vec![ChunkEntry { id, plain_bytes }],
        };
        let block = CompressedBlock { entry, payload: payload.into_owned() };
        let underway = self.store.put_page(block).await.ok_or(StoreError::Closing)?;
        Ok(StoredChunk::underway(id, plain_bytes, underway))
    }
}
