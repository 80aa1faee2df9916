//! The walk over everything that is referred to: all versions of all files, and what uploads and reads hold.
//!
//! Memory: the entries of one step, and one page on each level of a manifest; and the segments that missing chunks name.

use std::collections::BTreeSet;

use meta::{Content, ManifestEntry, ManifestsCursor};
use proto::limits::{MARK_STEP_ENTRIES_MAX, MARK_STEP_VERSIONS_MAX, PROTECTED_SEGMENTS_MAX};
use proto::port::Disk;
use proto::{CoreId, SegmentId};
use shard::compact::Pace;
use shard::{Reference, Root, UnusedSegment};

use super::Collector;
use super::cycle::Abort;
use super::status::Phase;
use crate::manifest::{ManifestCursor, NOWHERE, root_of};

/// What the walk has found.
pub(super) struct Marks<'a, D: Disk> {
    collector: &'a Collector<D>,
    batch: Vec<Reference>,
    /// References followed.
    pub(super) marked: u64,
    /// References whose chunk is nowhere.
    pub(super) missing: u64,
    /// The segments that those name: they may hold it in a way that nobody understands now.
    pub(super) protected: BTreeSet<SegmentId>,
}

/// Marks everything that is referred to.
///
/// What is open comes last: whoever opens a version after the walk has passed it found one that the walk has seen, or one
/// whose chunks were pinned.
/// Errors: a manifest page that cannot be read.
pub(super) async fn everything<'a, D: Disk>(
    collector: &'a Collector<D>,
    pace: &mut Pace,
) -> Result<Marks<'a, D>, Abort> {
    let (batch, protected) = (Vec::new(), BTreeSet::new());
    let mut marks = Marks { collector, batch, marked: 0, missing: 0, protected };
    collector.desk.note(|status| status.phase = Phase::Mark);
    marks.versions(pace).await?;
    collector.desk.note(|status| status.phase = Phase::Lease);
    marks.leases(pace).await?;
    Ok(marks)
}

impl<D: Disk> Marks<'_, D> {
    /// Whether a segment may hold a chunk that is missing: the reference names it, or is out of date, and the segment may
    /// have a row that did not verify when the node started.
    pub(super) fn protect(&self, unused: &UnusedSegment) -> bool {
        self.protected.contains(&unused.segment) || self.missing > 0 && !unused.has_footer
    }

    /// Marks what the versions of all files refer to.
    async fn versions(&mut self, pace: &mut Pace) -> Result<(), Abort> {
        let mut cursor = Some(ManifestsCursor::default());
        while let Some(from) = cursor {
            let step =
                self.collector.meta.view(|view| view.manifests(from, MARK_STEP_VERSIONS_MAX, MARK_STEP_ENTRIES_MAX));
            for content in step.0 {
                if let Content::Chunks { depth, entries, .. } = content {
                    self.walk(entries, depth, pace).await?;
                }
            }
            cursor = step.1;
            pace.step().await;
        }
        self.flush().await
    }

    /// Marks what uploads and reads hold on all cores.
    async fn leases(&mut self, pace: &mut Pace) -> Result<(), Abort> {
        let store = &self.collector.node.store;
        for core in (0..self.collector.node.names.count() as u16).map(CoreId) {
            let mut cursor = store.leases(core).await;
            while let Some(roots) = store.lease_roots(core, &mut cursor).await {
                for Root { reference, depth, bytes } in roots {
                    let entry = ManifestEntry { id: reference.id.0, bytes, location: reference.hint.pack() };
                    self.walk(vec![entry], depth, pace).await?;
                }
                pace.step().await;
            }
        }
        self.flush().await
    }

    async fn walk(&mut self, entries: Vec<ManifestEntry>, depth: u8, pace: &mut Pace) -> Result<(), Abort> {
        let mut cursor = ManifestCursor::new(entries, depth);
        while let Some(visited) = cursor.next_entry() {
            self.batch.push(root_of(&visited.entry, visited.depth).reference);
            if self.batch.len() >= MARK_STEP_ENTRIES_MAX {
                self.flush().await?;
            }
            if visited.depth > 0 {
                let read = cursor.descend(&*self.collector.node, visited).await;
                read.map_err(|(_, error)| Abort::Unreadable(error))?;
                pace.step().await;
            }
        }
        Ok(())
    }

    /// Tells the owners.
    async fn flush(&mut self) -> Result<(), Abort> {
        let batch = std::mem::take(&mut self.batch);
        self.marked += batch.len() as u64;
        let marked = self.marked;
        self.collector.desk.note(|status| status.marked = marked);
        // A chunk without a hint is on its way into a row.
        let lost = self.collector.node.store.mark(batch).await;
        for reference in lost.into_iter().filter(|reference| reference.hint != NOWHERE) {
            self.missing += 1;
            self.protected.insert(reference.hint.segment);
        }
        if self.protected.len() > PROTECTED_SEGMENTS_MAX { Err(Abort::TooMuchMissing) } else { Ok(()) }
    }
}
