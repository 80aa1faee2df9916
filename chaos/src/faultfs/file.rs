//! One file of the fault file system: what reads see, what a sync has made durable, and what lies between.
//!
//! ```text
//!   write, punch, truncate ──▶ current ── pending versions, page by page ──sync──▶ durable
//!                                 ▲                        │                          │
//!                                 └──────── power loss: any of them, page by page ────┘
//! ```
//!
//! Invariants:
//! * A page of `current` differs from that of `durable` only if it has pending versions, or lies behind `cut_bytes`.
//! * Pages and lengths fare apart at a power loss, as they do on a disk. A page may tear between two of its versions.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::Survival;
use crate::sim::Random;

/// Unit of allocation, and of what a power loss takes.
pub(super) const PAGE_BYTES: usize = 4096;
/// Unit that never tears.
const SECTOR_BYTES: usize = 512;
/// How often a page that could tear does: one in so many.
const TEARS_ONE_IN: u64 = 8;

type Page = Arc<[u8; PAGE_BYTES]>;

/// The number of pages that hold `bytes` bytes.
pub(super) fn pages_of(bytes: u64) -> u64 {
    bytes.div_ceil(PAGE_BYTES as u64)
}

/// Pages by number, a hole where there is none; and the length.
#[derive(Clone, Debug, Default)]
struct Image {
    pages: BTreeMap<u64, Page>,
    bytes: u64,
}

impl Image {
    fn set(&mut self, number: u64, page: Option<Page>) {
        match page {
            Some(page) => drop(self.pages.insert(number, page)),
            None => drop(self.pages.remove(&number)),
        }
    }
}

/// See the module.
#[derive(Debug, Default)]
pub(super) struct File {
    current: Image,
    durable: Image,
    /// What each page was since it was last made durable, never empty.
    pending: BTreeMap<u64, Vec<Option<Page>>>,
    lengths: Vec<u64>,
    /// The shortest that the file was since the last sync, if it was cut.
    cut_bytes: Option<u64>,
    /// Pages that have space on the disk, one bit each.
    reserved: Vec<u64>,
}

/// What a power loss took from a file.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Lost {
    pub(super) pages: u64,
    pub(super) torn: u64,
    pub(super) lengths: u64,
}

impl File {
    pub(super) fn len(&self) -> u64 {
        self.current.bytes
    }

    /// Pages that have space on the disk.
    pub(super) fn reserved_pages(&self) -> u64 {
        self.reserved.iter().map(|word| u64::from(word.count_ones())).sum()
    }

    /// How many of these pages have no space yet.
    pub(super) fn missing_pages(&self, pages: std::ops::Range<u64>) -> u64 {
        pages.filter(|page| !self.is_reserved(*page)).count() as u64
    }

    fn is_reserved(&self, page: u64) -> bool {
        self.reserved.get(page as usize / 64).is_some_and(|word| word & (1 << (page % 64)) != 0)
    }

    /// Gives these pages space.
    pub(super) fn reserve(&mut self, pages: std::ops::Range<u64>) {
        let words = (pages.end as usize).div_ceil(64).max(self.reserved.len());
        self.reserved.resize(words, 0);
        pages.for_each(|page| self.reserved[page as usize / 64] |= 1 << (page % 64));
    }

    fn give_back(&mut self, pages: std::ops::Range<u64>) {
        let end = pages.end.min(64 * self.reserved.len() as u64);
        (pages.start..end).for_each(|page| self.reserved[page as usize / 64] &= !(1 << (page % 64)));
    }

    /// The bytes from `at` on, `bytes` of them or up to the end.
    pub(super) fn read(&self, at: u64, bytes: usize) -> Vec<u8> {
        let end = at.saturating_add(bytes as u64).min(self.current.bytes).max(at);
        let mut out = vec![0; (end - at) as usize];
        for (number, within, of_out) in pieces(at, out.len()) {
            if let Some(page) = self.current.pages.get(&number) {
                out[of_out].copy_from_slice(&page[within]);
            }
        }
        out
    }

    /// Writes `data`; space was reserved.
    pub(super) fn write(&mut self, at: u64, data: &[u8]) {
        for (number, within, of_data) in pieces(at, data.len()) {
            let mut page = self.page(number);
            page[within].copy_from_slice(&data[of_data]);
            self.change(number, Some(Arc::new(page)));
        }
        self.extend(at + data.len() as u64);
    }

    fn page(&self, number: u64) -> [u8; PAGE_BYTES] {
        self.current.pages.get(&number).map_or([0; PAGE_BYTES], |page| **page)
    }

    fn change(&mut self, number: u64, page: Option<Page>) {
        self.pending.entry(number).or_default().push(page.clone());
        self.current.set(number, page);
    }

    /// Makes the file at least so long.
    pub(super) fn extend(&mut self, bytes: u64) {
        if bytes > self.current.bytes {
            self.current.bytes = bytes;
            self.lengths.push(bytes);
        }
    }

    /// Zeroes a range and gives back the space of whole pages.
    pub(super) fn punch(&mut self, at: u64, bytes: u64) {
        let end = at.saturating_add(bytes).min(self.current.bytes).max(at);
        for (number, within, _) in pieces(at, (end - at) as usize) {
            if within.len() == PAGE_BYTES {
                self.change(number, None);
                self.give_back(number..number + 1);
            } else if self.current.pages.contains_key(&number) {
                let mut page = self.page(number);
                page[within].fill(0);
                self.change(number, Some(Arc::new(page)));
            }
        }
    }

    /// Changes the length.
    pub(super) fn set_len(&mut self, bytes: u64) {
        if bytes >= self.current.bytes {
            return self.extend(bytes);
        }
        let within = (bytes % PAGE_BYTES as u64) as usize;
        let number = bytes / PAGE_BYTES as u64;
        if within > 0 && self.current.pages.contains_key(&number) {
            let mut page = self.page(number);
            page[within..].fill(0);
            self.change(number, Some(Arc::new(page)));
        }
        drop(self.current.pages.split_off(&pages_of(bytes)));
        drop(self.pending.split_off(&pages_of(bytes)));
        self.give_back(pages_of(bytes)..u64::MAX);
        self.current.bytes = bytes;
        self.lengths.push(bytes);
        self.cut_bytes = Some(self.cut_bytes.map_or(bytes, |cut| cut.min(bytes)));
    }

    /// Makes everything durable.
    pub(super) fn sync(&mut self) {
        if let Some(cut) = self.cut_bytes.take() {
            drop(self.durable.pages.split_off(&pages_of(cut)));
        }
        for (number, mut versions) in std::mem::take(&mut self.pending) {
            self.durable.set(number, versions.pop().expect("invariant: a pending page has a version"));
        }
        self.durable.bytes = self.current.bytes;
        self.lengths.clear();
    }

    /// A sync fails: some of what it should have covered is lost at once, and no later sync brings it back.
    pub(super) fn fail_sync(&mut self, random: &mut Random) {
        let (current, durable) = (&mut self.current, &self.durable);
        let first_cut = self.cut_bytes.map_or(u64::MAX, pages_of);
        self.pending.retain(|number, _| {
            let stays = random.chance(1, 2);
            if !stays {
                let before = durable.pages.get(number).filter(|_| *number < first_cut);
                current.set(*number, before.cloned());
            }
            stays
        });
    }

    /// The power fails: what is not durable survives in part, or not at all.
    pub(super) fn lose_power(&mut self, survival: Survival, random: &mut Random) -> Lost {
        let mut lost = Lost::default();
        for (number, versions) in std::mem::take(&mut self.pending) {
            let kept = survival.draw_kept(versions.len(), random);
            lost.pages += u64::from(kept < versions.len());
            let before = self.durable.pages.get(&number).cloned();
            let version = |count: usize| if count == 0 { before.clone() } else { versions[count - 1].clone() };
            let page = if kept < versions.len() && survival == Survival::Some && random.chance(1, TEARS_ONE_IN) {
                lost.torn += 1;
                torn(version(kept), version(kept + 1), random)
            } else {
                version(kept)
            };
            self.durable.set(number, page);
        }
        let lengths = std::mem::take(&mut self.lengths);
        let kept = survival.draw_kept(lengths.len(), random);
        lost.lengths = u64::from(kept < lengths.len());
        if kept > 0 {
            self.durable.bytes = lengths[kept - 1];
        }
        drop(self.durable.pages.split_off(&pages_of(self.durable.bytes)));
        self.cut_bytes = None;
        self.give_back(pages_of(self.durable.bytes)..u64::MAX);
        let pages: Vec<u64> = self.durable.pages.keys().copied().collect();
        pages.into_iter().for_each(|page| self.reserve(page..page + 1));
        self.current = self.durable.clone();
        lost
    }
}

/// A page of which some sectors are older.
fn torn(older: Option<Page>, newer: Option<Page>, random: &mut Random) -> Option<Page> {
    let mut page = newer.map_or([0; PAGE_BYTES], |page| *page);
    let older = older.map_or([0; PAGE_BYTES], |page| *page);
    for at in (0..PAGE_BYTES).step_by(SECTOR_BYTES) {
        if random.chance(1, 2) {
            page[at..at + SECTOR_BYTES].copy_from_slice(&older[at..at + SECTOR_BYTES]);
        }
    }
    Some(Arc::new(page))
}

/// Cuts a range into pages: the number of each, the part of it, and where that part is in the range.
fn pieces(at: u64, bytes: usize) -> impl Iterator<Item = (u64, std::ops::Range<usize>, std::ops::Range<usize>)> {
    let mut done = 0;
    std::iter::from_fn(move || {
        if done == bytes {
            return None;
        }
        let offset = at + done as u64;
        let within = (offset % PAGE_BYTES as u64) as usize;
        let taken = (PAGE_BYTES - within).min(bytes - done);
        let piece = (offset / PAGE_BYTES as u64, within..within + taken, done..done + taken);
        done += taken;
        Some(piece)
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    const PAGE: u64 = PAGE_BYTES as u64;

    fn written(bytes: &[u8]) -> File {
        let mut file = File::default();
        bytes.iter().enumerate().for_each(|(page, byte)| file.write(page as u64 * PAGE, &[*byte; PAGE_BYTES]));
        file
    }

    /// First bytes of the pages that different power losses leave.
    fn outcomes(act: impl Fn() -> File) -> BTreeSet<Vec<u8>> {
        let outcome = |seed| {
            let (mut file, mut random) = (act(), Random::new(seed));
            let survival = Survival::draw(&mut random);
            file.lose_power(survival, &mut random);
            file.read(0, 1 << 20).iter().step_by(PAGE_BYTES).copied().collect()
        };
        (0..400).map(outcome).collect()
    }

    #[test]
    fn pages_and_lengths_that_were_not_synced_are_lost_in_any_subset() {
        let unsynced = outcomes(|| written(&[1, 2]));
        for expected in [&[][..], &[1], &[0], &[1, 2], &[0, 2], &[1, 0], &[0, 0]] {
            assert!(unsynced.contains(expected), "{expected:?} in {unsynced:?}");
        }
        let synced = outcomes(|| {
            let mut file = written(&[1, 2]);
            file.sync();
            file
        });
        assert_eq!(synced, [vec![1, 2]].into());
    }

    #[test]
    fn a_page_written_twice_may_be_left_at_any_version() {
        let twice = outcomes(|| {
            let mut file = written(&[1]);
            file.sync();
            file.write(0, &[2; PAGE_BYTES]);
            file.write(0, &[3; PAGE_BYTES]);
            file
        });
        assert_eq!(twice, [vec![1], vec![2], vec![3]].into());
    }

    #[test]
    fn a_page_tears_at_sectors() {
        let tears = (0..400).any(|seed| {
            let mut file = written(&[1]);
            file.sync();
            file.write(0, &[2; PAGE_BYTES]);
            file.lose_power(Survival::Some, &mut Random::new(seed));
            let page = file.read(0, PAGE_BYTES);
            assert!(page.chunks(SECTOR_BYTES).all(|sector| sector.iter().all(|byte| *byte == sector[0])));
            page.contains(&1) && page.contains(&2)
        });
        assert!(tears);
    }

    #[test]
    fn a_failed_sync_loses_pages_for_good() {
        let mut seen = BTreeSet::new();
        for seed in 0..50 {
            let mut file = written(&[1, 1]);
            file.sync();
            file.write(0, &[2; 2 * PAGE_BYTES]);
            file.fail_sync(&mut Random::new(seed));
            let left: Vec<u8> = file.read(0, 2 * PAGE_BYTES).iter().step_by(PAGE_BYTES).copied().collect();
            file.sync();
            assert_eq!(outcomes_of(&mut file), left, "the next sync covers what is left, and nothing else");
            seen.insert(left);
        }
        assert_eq!(seen.len(), 4, "each page fares apart: {seen:?}");
    }

    #[test]
    fn holes_and_cuts_read_as_zeroes_and_give_space_back() {
        let mut file = written(&[1, 2, 3]);
        file.reserve(0..3);
        file.sync();
        file.punch(PAGE, PAGE);
        assert_eq!((file.read(PAGE, 1), file.reserved_pages()), (vec![0], 2));
        file.set_len(PAGE + 10);
        file.set_len(3 * PAGE);
        file.sync();
        assert_eq!(outcomes_of(&mut file), [1, 0, 0]);
        assert_eq!(file.reserved_pages(), 1);
    }

    fn outcomes_of(file: &mut File) -> Vec<u8> {
        file.lose_power(Survival::Nothing, &mut Random::new(1));
        file.read(0, 1 << 20).iter().step_by(PAGE_BYTES).copied().collect()
    }
}
