//! A commit that a cycle overtook asks the owners for its chunks again.

use meta::Content;
use proto::ChunkId;
use proto::limits::MARK_STEP_ENTRIES_MAX;
use proto::port::Disk;

use crate::Inner;
use crate::error::PutError;
use crate::manifest::ManifestCursor;

/// Pins all chunks and pages of `content` once more; returns the lowest epoch of an owner.
///
/// Errors: [`PutError::Gone`] if one of them is not there any more, or cannot be read.
pub(crate) async fn again<D: Disk>(node: &Inner<D>, content: &Content) -> Result<u64, PutError> {
    let Content::Chunks { depth, entries, .. } = content else { return Ok(u64::MAX) };
    let mut cursor = ManifestCursor::new(entries.clone(), *depth);
    let (mut ids, mut lowest) = (Vec::new(), u64::MAX);
    loop {
        let visited = cursor.next_entry();
        if ids.len() >= MARK_STEP_ENTRIES_MAX || visited.is_none() {
            let pinned = node.store.pin(std::mem::take(&mut ids)).await;
            lowest = lowest.min(pinned.ok_or(PutError::Gone)?);
        }
        let Some(visited) = visited else { return Ok(lowest) };
        ids.push(ChunkId(visited.entry.id));
        if visited.depth > 0 {
            cursor.descend(node, visited).await.map_err(|_| PutError::Gone)?;
        }
    }
}
