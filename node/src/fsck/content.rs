//! Manifests: every retained version of every file, down to chunks that are there and have the length promised.

use std::collections::BTreeMap;
use std::ops::Range;
use std::rc::Rc;

use meta::{Content, ManifestEntry, OfflineMeta, decode_page};
use proto::limits::{MANIFEST_DEPTH_MAX, MANIFEST_PAGE_ENTRIES_MAX};
use proto::port::Disk;
use proto::{ChunkId, DeviceId, DomainId, Location, SegmentId};
use shard::examine::{Column, Expected};
use shard::recent::Recent;

use super::chunks::{ChunkSet, Known, Standing};
use super::names::{ChunkedVersion, path_of};
use super::problem::{Problem, ProblemKind, Report};
use super::segments::SegmentChecker;
use crate::manifest::location_of;

/// Segment files that are kept open while manifests are followed.
const COLUMNS_OPEN_MAX: usize = 64;

/// Follows manifests.
pub(super) struct ContentCheck<'a, D: Disk> {
    checker: &'a SegmentChecker<D>,
    members: BTreeMap<SegmentId, &'a [DeviceId]>,
    chunks: &'a ChunkSet,
    open: Recent<(SegmentId, u8), Rc<Column<D>>>,
    references: u64,
    stale_hints: u64,
}

/// What the walk through one version found.
#[derive(Default)]
struct Losses {
    /// Bytes that cannot be read and why; neighbours are one.
    lost: Vec<(Range<u64>, String)>,
    /// Chunks that only their hints lead to.
    hint_only: u64,
}

impl Losses {
    fn lose(&mut self, range: Range<u64>, why: String) {
        match self.lost.last_mut() {
            Some((last, _)) if last.end == range.start => last.end = range.end,
            _ => self.lost.push((range, why)),
        }
    }
}

impl<'a, D: Disk> ContentCheck<'a, D> {
    pub(super) fn new(
        checker: &'a SegmentChecker<D>,
        members: BTreeMap<SegmentId, &'a [DeviceId]>,
        chunks: &'a ChunkSet,
    ) -> ContentCheck<'a, D> {
        ContentCheck { checker, members, chunks, open: Recent::new(COLUMNS_OPEN_MAX), references: 0, stale_hints: 0 }
    }

    /// Follows the manifest of every version in `versions`.
    pub(super) async fn check(&mut self, meta: &OfflineMeta<D>, versions: &[ChunkedVersion], report: &mut Report) {
        for (inode, version) in versions {
            let Some(content) = meta.view().content(*inode, *version) else { continue };
            let losses = self.walk(content, meta).await;
            if losses.lost.is_empty() && losses.hint_only == 0 {
                continue;
            }
            let path = path_of(&meta.view(), *inode);
            let about = |kind, detail: String| {
                let problem = Problem::new(kind, detail).of_path(path.clone());
                Problem { version: Some(version.0), ..problem }
            };
            for (range, why) in losses.lost {
                report.add(Problem { range: Some(range), ..about(ProblemKind::DataLost, why) });
            }
            if losses.hint_only > 0 {
                let detail = format!("{} of its chunks are known to nobody else", losses.hint_only);
                report.add(about(ProblemKind::HintOnly, detail));
            }
        }
        report.totals.references += self.references;
        if self.stale_hints > 0 {
            let detail = format!("{} manifest entries", self.stale_hints);
            report.add(Problem::new(ProblemKind::HintStale, detail));
        }
    }

    /// Follows the pages of the index's checkpoint, if there is one.
    pub(super) async fn check_checkpoint(&mut self, meta: &OfflineMeta<D>, report: &mut Report) {
        let Some(checkpoint) = meta.view().index_checkpoint() else { return };
        for (range, why) in self.walk(checkpoint.content, meta).await.lost {
            let detail = format!("its bytes {} to {}: {why}", range.start, range.end - 1);
            report.add(Problem::new(ProblemKind::CheckpointDamaged, detail));
        }
    }

    async fn walk(&mut self, content: Content, meta: &OfflineMeta<D>) -> Losses {
        let mut losses = Losses::default();
        let Content::Chunks { size, domain, depth, entries } = content else { return losses };
        let sum = entries.iter().try_fold(0u64, |sum, entry| sum.checked_add(entry.bytes));
        let fits = entries.len() <= MANIFEST_PAGE_ENTRIES_MAX && depth <= MANIFEST_DEPTH_MAX;
        let is_known = domain == DomainId::CHECKPOINTS || meta.view().domain(domain).is_some();
        if sum != Some(size) || !fits || !is_known {
            losses.lose(0..size, "its manifest contradicts itself".to_owned());
            return losses;
        }
        let mut stack = vec![(entries.into_iter(), depth, 0u64)];
        while let Some((entries, depth, offset)) = stack.last_mut() {
            let Some(entry) = entries.next() else {
                stack.pop();
                continue;
            };
            let (depth, range) = (*depth, *offset..*offset + entry.bytes);
            *offset = range.end;
            self.references += 1;
            if depth == 0 {
                match self.look(&entry, Some(entry.bytes)).await {
                    Ok(Standing::Indexed) => {}
                    Ok(Standing::HintOnly) => losses.hint_only += 1,
                    Err(why) => losses.lose(range, why),
                }
                continue;
            }
            match self.page(&entry).await {
                Ok((page, standing)) => {
                    losses.hint_only += u64::from(standing == Standing::HintOnly);
                    stack.push((page.into_iter(), depth - 1, range.start));
                }
                Err(why) => losses.lose(range, format!("its manifest page {} is lost: {why}", ChunkId(entry.id))),
            }
        }
        losses
    }

    /// Whether the chunk of an entry is there; otherwise why not.
    async fn look(&mut self, entry: &ManifestEntry, bytes: Option<u64>) -> Result<Standing, String> {
        let id = ChunkId(entry.id);
        let hint = location_of(entry);
        let (plain_bytes, standing) = match self.chunks.find(&id, hint) {
            Some(Known::AtHint { plain_bytes, standing }) => (plain_bytes, standing),
            Some(Known::Elsewhere { plain_bytes, .. }) => {
                self.stale_hints += 1;
                (plain_bytes, Standing::Indexed)
            }
            None => (self.read(&id, hint).await?.len() as u32, Standing::HintOnly),
        };
        match bytes {
            Some(promised) if u64::from(plain_bytes) != promised => {
                Err(format!("chunk {id} has {plain_bytes} bytes, the manifest promises {promised}"))
            }
            _ => Ok(standing),
        }
    }

    /// Reads the page of an entry, and checks that it covers what the entry promises.
    async fn page(&mut self, entry: &ManifestEntry) -> Result<(Vec<ManifestEntry>, Standing), String> {
        let standing = self.look(entry, None).await?;
        let id = ChunkId(entry.id);
        let place = match self.chunks.find(&id, location_of(entry)) {
            Some(Known::Elsewhere { location, .. }) => location,
            _ => location_of(entry),
        };
        let page = self.read(&id, place).await?;
        let entries = decode_page(&page).map_err(|error| error.to_string())?;
        let sum = entries.iter().try_fold(0u64, |sum, entry| sum.checked_add(entry.bytes));
        if sum == Some(entry.bytes) { Ok((entries, standing)) } else { Err("it covers another range".to_owned()) }
    }

    /// Reads a chunk where it should be; otherwise says why it is lost.
    async fn read(&mut self, id: &ChunkId, place: Location) -> Result<Vec<u8>, String> {
        let at = |what: String| {
            let Location { segment, column, offset, .. } = place;
            format!("chunk {id} at segment {segment}.{column:02} offset {offset}: {what}")
        };
        let column = self.column(place).await.map_err(at)?;
        let ordinal = usize::from(place.ordinal);
        let read = column.with_block(place.offset, |opened| {
            let opened = opened.map_err(|error| error.to_string())?;
            match opened.entry.chunks.get(ordinal) {
                Some(found) if found.id == *id => {}
                _ => return Err("another chunk lies there".to_owned()),
            }
            let plain = chunk::decode_chunk(&opened.entry, opened.payload, ordinal);
            let plain = plain.map_err(|error| error.to_string())?;
            let key = self.checker.domains.get(&opened.entry.domain);
            match key {
                Some(key) if key.chunk_id(&plain) != *id => Err("its bytes have another id".to_owned()),
                _ => Ok(plain),
            }
        });
        read.await.map_err(|error| at(error.to_string()))?.map_err(at)
    }

    async fn column(&mut self, place: Location) -> Result<Rc<Column<D>>, String> {
        let key = (place.segment, place.column);
        if let Some(column) = self.open.get(&key) {
            return Ok(column.clone());
        }
        let members = self.members.get(&place.segment).ok_or("the segment is not listed")?;
        let device = *members.get(usize::from(place.column)).ok_or("the segment has no such column")?;
        let known = self.checker.devices.iter().find(|known| known.superblock.device == device);
        let disk = &known.ok_or("its device is not here")?.disk;
        let expected = Expected { segment: place.segment, column: place.column, cluster: self.checker.cluster, device };
        let column = Column::open(disk, expected, &*self.checker.keys).await.map_err(|error| error.to_string())?;
        let column = Rc::new(column);
        self.open.insert(key, column.clone(), 1);
        Ok(column)
    }
}
