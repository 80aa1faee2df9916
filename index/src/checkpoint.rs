//! Saving the index page by page, and loading it.
//!
//! A walk over a partition goes on while entries come and go. It follows the numbers of the groups, and a split moves
//! entries only to a new group at the end, which is still to come: what was there before the walk and was not removed
//! meanwhile is in some page, perhaps in two.
//!
//! What recovery learns from segments is newer than any page. An import therefore never touches an entry that is there,
//! and [`Index::insert`] replaces one: entries replayed from segments win in either order.

use proto::planted::{self, Bug};
use proto::{Location, SegmentId, VirtualShard};

use crate::index::Index;
use crate::key::Key;
use crate::page::{Page, PageError, PageWriter};
use crate::segments::SegmentNumber;
use crate::slot::Known;

/// How far a walk has come; the default is its beginning.
///
/// It stays good through inserts and removals of the index that gave it out, not for another index.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ExportCursor {
    group: usize,
    /// Within the group: keys up to this one are done.
    done: Option<Key>,
}

/// What became of the entries of a page.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ImportStats {
    /// Entries that the index did not have.
    pub added: u64,
    /// Entries whose chunk was known already; what was known stays.
    pub known: u64,
    /// Where the page has those of them whose chunk was known in another segment: it was stored again, or moved, after the
    /// page was made.
    pub elsewhere: Vec<Location>,
    /// Entries in segments that were not kept.
    pub skipped: u64,
}

impl Index {
    /// Writes the entries of `shard` from a cursor on, up to `page_bytes_max` bytes of them.
    ///
    /// Returns the page and where the next begins, `None` after the last. An empty partition has one page without
    /// entries. Cost: one pass over the entries of the page, and memory for two pages.
    ///
    /// # Panics
    /// If the core does not own `shard`, or `page_bytes_max` is not within [`crate::PAGE_BYTES_MIN`] and
    /// [`crate::PAGE_BYTES_MAX`].
    #[must_use]
    pub fn export(
        &self,
        shard: VirtualShard,
        from: ExportCursor,
        page_bytes_max: usize,
    ) -> (Vec<u8>, Option<ExportCursor>) {
        let partition = self.partition(shard);
        let mut page = PageWriter::new(shard, page_bytes_max, self.segments.end());
        let push = |page: &mut PageWriter, (key, known): (Key, Known)| {
            page.push(key, known.place, known.segment, self.segments.segment(known.segment));
        };
        let mut at = from;
        let mut entries = Vec::new();
        let groups = partition.groups() - usize::from(planted::is(Bug::CheckpointCutShort));
        while at.group < groups {
            entries.clear();
            let slots = partition.group_entries(&self.buckets, at.group);
            let keyed = slots.map(|slot| (Key::from_tag(slot.tag(), at.group), slot.rest.known()));
            entries.extend(keyed.filter(|(key, _)| at.done.is_none_or(|done| *key > done)));
            if entries.len() > page.room() {
                if page.is_empty() {
                    // A group that is longer than a page is cut in the order of keys, which no change upsets.
                    entries.sort_unstable_by_key(|(key, _)| *key);
                    entries.truncate(page.room());
                    at.done = entries.last().map(|(key, _)| *key);
                    entries.drain(..).for_each(|entry| push(&mut page, entry));
                }
                return (page.finish(), Some(at));
            }
            entries.drain(..).for_each(|entry| push(&mut page, entry));
            at = ExportCursor { group: at.group + 1, done: None };
        }
        (page.finish(), None)
    }

    /// Adds the entries of a page that the index does not have, pinned at the current epoch.
    ///
    /// `keep` is asked once for each segment of the page; entries in a segment that it refuses (freed since, or read
    /// anew anyway) are skipped.
    ///
    /// # Errors
    /// [`PageError`]: nothing of the page was added.
    pub fn import(&mut self, page: &[u8], mut keep: impl FnMut(SegmentId) -> bool) -> Result<ImportStats, PageError> {
        let page = Page::check(page)?;
        let pin = self.pin_now();
        let partition = self.partitions[usize::from(page.shard.0)].as_mut().ok_or(PageError::NotOwned(page.shard))?;
        // The page is a user of its segments while it lasts, so that their numbers stay.
        let kept: Vec<Option<SegmentNumber>> =
            page.segments().map(|segment| if keep(segment) { self.segments.take(segment) } else { None }).collect();
        let mut stats = ImportStats::default();
        let mut next = 0;
        while next < page.len() {
            // A page is in the order of groups, so many entries in a row go to one: make room for them at once.
            let group = partition.group_of(page.entry(next).0);
            let here = |number: &usize| partition.group_of(page.entry(*number).0) == group;
            let run = next..next + (next..page.len()).take_while(here).count();
            let is_new = |number: &usize| {
                let (key, _, ordinal) = page.entry(*number);
                kept[ordinal].is_some() && partition.find(&self.buckets, key).is_none()
            };
            let new = run.clone().filter(is_new).count();
            partition.make_room(&mut self.buckets, group, new);
            next = run.end;
            for (key, place, ordinal) in run.map(|number| page.entry(number)) {
                let Some(segment) = kept[ordinal] else {
                    stats.skipped += 1;
                    continue;
                };
                if let Some(at) = partition.find(&self.buckets, key) {
                    stats.known += 1;
                    if self.buckets.rest(at).known().segment != segment {
                        stats.elsewhere.push(place.in_segment(self.segments.segment(segment)));
                    }
                    continue;
                }
                self.segments.take_again(segment);
                partition.add(&mut self.buckets, key, Known { place, segment, pin });
                stats.added += 1;
            }
        }
        for segment in kept.into_iter().flatten() {
            self.segments.release(segment);
        }
        Ok(stats)
    }
}
