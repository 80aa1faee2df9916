//! The bytes of one simulated file: what is durable, and what a crash may still take back.
//!
//! ```text
//!   newest  ─ reads see this
//!     ⋮       versions since the last sync, each with the stamp at which it completed
//!   durable ─ what certainly survives
//! ```
//!
//! Data and metadata (length, holes) differ as on a journalling file system: any subset of un-synced *sectors* may
//! survive, but un-synced *metadata* survives in its order. A sector past the surviving length is gone, and a sector
//! inside it whose bytes did not survive is older or zero.

use std::collections::{BTreeMap, BTreeSet};
use std::rc::Rc;

use proto::limits::SECTOR_BYTES;

use super::Survival;
use super::allocation::Allocation;
use crate::sim::random::Random;

/// Unit of a torn sector.
const TEAR_BYTES: usize = 512;

type Sector = Rc<[u8; SECTOR_BYTES]>;

/// Up to which stamp a sync reaches.
#[derive(Clone, Copy, Debug)]
pub(super) struct SyncReach {
    /// Data that completed up to here becomes durable.
    pub data: u64,
    /// Lengths and holes up to here become durable.
    pub metadata: u64,
    /// This write becomes durable as well.
    pub own: Option<u64>,
}

/// What a power loss took.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Lost {
    /// Sectors whose newest bytes are gone.
    pub sectors: u64,
    /// Changes of the length, or holes, that are gone.
    pub lengths: u64,
}

#[derive(Clone, Default)]
struct Cell {
    /// `None` reads as zeros.
    durable: Option<Sector>,
    newer: Vec<Version>,
    /// What reads saw before the last change, since the last power loss: what a stale read shows.
    before: Option<Option<Sector>>,
}

#[derive(Clone)]
struct Version {
    stamp: u64,
    /// `None` is a hole, made by a punch or a cut.
    bytes: Option<Sector>,
}

impl Cell {
    fn newest(&self) -> Option<&Sector> {
        self.newer.last().map_or(self.durable.as_ref(), |version| version.bytes.as_ref())
    }

    fn change(&mut self, version: Version) {
        self.before = Some(self.newest().cloned());
        self.newer.push(version);
    }

    fn newest_mut(&mut self) -> Option<&mut Sector> {
        self.newer.last_mut().map_or(self.durable.as_mut(), |version| version.bytes.as_mut())
    }
}

/// The bytes of one file.
#[derive(Clone, Default)]
pub(super) struct Content {
    cells: BTreeMap<u64, Cell>,
    /// Cells with versions that are not durable.
    dirty: BTreeSet<u64>,
    durable_len: u64,
    /// Un-synced metadata in order: the length after each change.
    lengths: Vec<(u64, u64)>,
    allocation: Allocation,
}

impl Content {
    /// The length in bytes that reads see.
    pub(super) fn len(&self) -> u64 {
        self.lengths.last().map_or(self.durable_len, |(_, len)| *len)
    }

    /// Bytes taken from the device.
    pub(super) fn allocated_bytes(&self) -> u64 {
        self.allocation.sectors() * SECTOR_BYTES as u64
    }

    /// Bytes that the device must still give before `[offset, offset + bytes)` can be written.
    pub(super) fn missing_bytes(&self, offset: u64, bytes: u64) -> u64 {
        self.allocation.missing(sectors(offset, bytes)) * SECTOR_BYTES as u64
    }

    /// Fills `out` from `offset`; returns how many bytes lie before the end of the file.
    pub(super) fn read(&self, offset: u64, out: &mut [u8]) -> usize {
        let have = (self.len().saturating_sub(offset) as usize).min(out.len());
        let out = &mut out[..have];
        let mut filled = 0;
        for (sector, cell) in self.cells.range(sectors(offset, have as u64)) {
            if let Some(bytes) = cell.newest() {
                let at = (*sector * SECTOR_BYTES as u64 - offset) as usize;
                let len = SECTOR_BYTES.min(have - at);
                out[filled..at].fill(0);
                out[at..at + len].copy_from_slice(&bytes[..len]);
                filled = at + len;
            }
        }
        out[filled..].fill(0);
        have
    }

    /// Shows one sector of `out`, which was read from `offset`, as it was before its last change. Returns whether there
    /// was one that changed.
    pub(super) fn make_stale(&self, offset: u64, out: &mut [u8], random: &mut Random) -> bool {
        let have = (self.len().saturating_sub(offset) as usize).min(out.len());
        let changed = |(sector, cell): (&u64, &Cell)| {
            let before = cell.before.as_ref()?;
            let same = before.as_deref() == cell.newest().map(|bytes| &**bytes);
            (!same).then(|| (*sector, before.clone()))
        };
        let candidates: Vec<_> = self.cells.range(sectors(offset, have as u64)).filter_map(changed).collect();
        if candidates.is_empty() {
            return false;
        }
        let (sector, before) = random.pick(&candidates);
        let at = (*sector * SECTOR_BYTES as u64 - offset) as usize;
        let len = SECTOR_BYTES.min(have - at);
        match before {
            Some(bytes) => out[at..at + len].copy_from_slice(&bytes[..len]),
            None => out[at..at + len].fill(0),
        }
        true
    }

    /// A sector, neither the first nor `not`, that a write may hit by mistake: one with data, or any. `None` if there is
    /// no other.
    ///
    /// The first sector of a file says what the file is; losing it is what rot tests, which can be undone.
    pub(super) fn wrong_sector(&self, not: Option<u64>, random: &mut Random) -> Option<u64> {
        let end = self.len() / SECTOR_BYTES as u64;
        let allowed = |sector: &u64| (1..end).contains(sector) && Some(*sector) != not;
        let used: Vec<u64> = self.cells.keys().copied().filter(allowed).collect();
        if !used.is_empty() && random.chance(1, 2) {
            return Some(*random.pick(&used));
        }
        let any = if end > 1 { random.between(1, end - 1) } else { 0 };
        [any, any + 1, 1].into_iter().find(allowed)
    }

    /// Writes the sectors of `bytes` that `arrives` names, and extends the file to their end.
    pub(super) fn write(&mut self, stamp: u64, offset: u64, bytes: &[u8], mut arrives: impl FnMut() -> bool) {
        let mut end = 0;
        for (sector, chunk) in sectors(offset, bytes.len() as u64).zip(bytes.chunks_exact(SECTOR_BYTES)) {
            if arrives() {
                let bytes: Sector = Rc::new(chunk.try_into().expect("invariant: chunks are sectors"));
                self.cells.entry(sector).or_default().change(Version { stamp, bytes: Some(bytes) });
                self.dirty.insert(sector);
                end = (sector + 1) * SECTOR_BYTES as u64;
            }
        }
        self.allocation.take(sectors(offset, bytes.len() as u64));
        if end > self.len() {
            self.lengths.push((stamp, end));
        }
    }

    /// Cuts or extends the file.
    pub(super) fn set_len(&mut self, stamp: u64, len: u64) {
        if len < self.len() {
            self.make_hole(stamp, len, self.len() - len);
        } else {
            self.allocation.take(sectors(self.len(), len - self.len()));
        }
        self.lengths.push((stamp, len));
    }

    /// Makes a range read as zeros.
    pub(super) fn punch(&mut self, stamp: u64, offset: u64, bytes: u64) {
        self.make_hole(stamp, offset, bytes);
        self.lengths.push((stamp, self.len()));
    }

    fn make_hole(&mut self, stamp: u64, offset: u64, bytes: u64) {
        for (sector, cell) in self.cells.range_mut(sectors(offset, bytes)) {
            cell.change(Version { stamp, bytes: None });
            self.dirty.insert(*sector);
        }
        self.allocation.give_back(sectors(offset, bytes));
    }

    /// Makes everything within `reach` durable.
    pub(super) fn sync(&mut self, reach: SyncReach) {
        let reached = |version: &Version| match version.bytes {
            Some(_) => version.stamp <= reach.data || Some(version.stamp) == reach.own,
            None => version.stamp <= reach.metadata,
        };
        self.dirty.retain(|sector| {
            let cell = self.cells.get_mut(sector).expect("invariant: a dirty cell exists");
            if let Some(last) = cell.newer.iter().rposition(reached) {
                // What a durable version overwrote is gone, whether or not it was reached itself.
                cell.durable = cell.newer.drain(..=last).next_back().and_then(|version| version.bytes);
            }
            !cell.newer.is_empty()
        });
        let reached = self.lengths.partition_point(|(stamp, _)| *stamp <= reach.metadata);
        if let Some((_, len)) = self.lengths.drain(..reached).next_back() {
            self.durable_len = len;
        }
    }

    /// A sync failed: some of what it should have kept is lost, and a later sync will not bring it back.
    pub(super) fn lose_unsynced(&mut self, random: &mut Random) {
        let lost: Vec<u64> = self.dirty.iter().copied().filter(|_| random.chance(1, 2)).collect();
        for sector in lost {
            self.cells.get_mut(&sector).expect("invariant: a dirty cell exists").newer.clear();
            self.dirty.remove(&sector);
        }
    }

    /// The power fails. `tear` is how many sectors may still be torn.
    pub(super) fn lose_power(&mut self, survival: Survival, tear: &mut u32, random: &mut Random) -> Lost {
        let kept = survival.prefix(self.lengths.len(), random);
        let mut lost = Lost { sectors: 0, lengths: (self.lengths.len() - kept) as u64 };
        let metadata = if kept == 0 { 0 } else { self.lengths[kept - 1].0 };
        if kept > 0 {
            self.durable_len = self.lengths[kept - 1].1;
        }
        self.lengths.clear();
        for sector in std::mem::take(&mut self.dirty) {
            let cell = self.cells.get_mut(&sector).expect("invariant: a dirty cell exists");
            let mut candidates = vec![cell.durable.clone()];
            for version in cell.newer.drain(..) {
                match version.bytes {
                    Some(bytes) => candidates.push(Some(bytes)),
                    None if version.stamp <= metadata => candidates = vec![None],
                    None => {}
                }
            }
            let chosen = survival.prefix(candidates.len() - 1, random);
            lost.sectors += u64::from(chosen + 1 < candidates.len());
            cell.durable = candidates[chosen].take();
            if *tear > 0 && chosen > 0 && random.chance(1, 4) {
                *tear -= 1;
                let old = candidates[chosen - 1].take().unwrap_or_else(|| Rc::new([0; SECTOR_BYTES]));
                let new = cell.durable.as_mut().expect("invariant: only the oldest candidate may be a hole");
                let keep = random.between(1, (SECTOR_BYTES / TEAR_BYTES) as u64 - 1) as usize * TEAR_BYTES;
                Rc::make_mut(new)[keep..].copy_from_slice(&old[keep..]);
            }
        }
        let end = self.durable_len.div_ceil(SECTOR_BYTES as u64);
        self.cells.split_off(&end);
        self.cells.retain(|_, cell| cell.durable.is_some());
        self.cells.values_mut().for_each(|cell| cell.before = None);
        self.allocation.give_back(end..u64::MAX);
        self.cells.keys().for_each(|sector| self.allocation.take(*sector..*sector + 1));
        lost
    }

    /// Flips bit `bit` of the byte at `offset`; returns whether there was data to damage.
    pub(super) fn flip(&mut self, offset: u64, bit: u8) -> bool {
        let Some(cell) = self.cells.get_mut(&(offset / SECTOR_BYTES as u64)) else { return false };
        let Some(bytes) = cell.newest_mut() else { return false };
        Rc::make_mut(bytes)[offset as usize % SECTOR_BYTES] ^= 1 << bit;
        true
    }
}

/// The sectors that a byte range touches.
fn sectors(offset: u64, bytes: u64) -> std::ops::Range<u64> {
    offset / SECTOR_BYTES as u64..(offset + bytes).div_ceil(SECTOR_BYTES as u64)
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECTOR: u64 = SECTOR_BYTES as u64;

    fn all(stamp: u64) -> SyncReach {
        SyncReach { data: stamp, metadata: stamp, own: None }
    }

    fn put(content: &mut Content, stamp: u64, sector: u64, fill: u8) {
        content.write(stamp, sector * SECTOR, &[fill; SECTOR_BYTES], || true);
    }

    fn first_bytes(content: &Content) -> Vec<u8> {
        let mut out = vec![0xee; content.len() as usize];
        content.read(0, &mut out);
        out.chunks(SECTOR_BYTES).map(|sector| sector[0]).collect()
    }

    #[test]
    fn synced_bytes_survive_every_crash() {
        for seed in 0..200 {
            let mut random = Random::new(seed);
            let mut content = Content::default();
            put(&mut content, 1, 0, 1);
            put(&mut content, 2, 1, 2);
            content.sync(all(2));
            put(&mut content, 3, 2, 3);
            let survival = Survival::draw(&mut random);
            content.lose_power(survival, &mut 1, &mut random);
            assert_eq!(first_bytes(&content)[..2], [1, 2]);
        }
    }

    #[test]
    fn every_subset_of_unsynced_sectors_is_met() {
        let mut seen = BTreeSet::new();
        for seed in 0..500 {
            let mut random = Random::new(seed);
            let mut content = Content::default();
            content.set_len(1, 3 * SECTOR);
            content.sync(all(1));
            (0..3).for_each(|sector| put(&mut content, 2 + sector, sector, 9));
            let survival = Survival::draw(&mut random);
            content.lose_power(survival, &mut 0, &mut random);
            seen.insert(first_bytes(&content));
        }
        assert_eq!(seen.len(), 8, "{seen:?}");
    }

    #[test]
    fn a_sync_takes_only_what_completed_before_it_was_issued() {
        let mut content = Content::default();
        content.set_len(1, 2 * SECTOR);
        put(&mut content, 2, 0, 1);
        put(&mut content, 3, 0, 2);
        content.sync(all(2));
        content.lose_power(Survival::Nothing, &mut 0, &mut Random::new(0));
        assert_eq!(first_bytes(&content), [1, 0]);
    }

    #[test]
    fn an_own_write_is_durable_past_the_cut() {
        let mut content = Content::default();
        put(&mut content, 1, 0, 1);
        put(&mut content, 2, 1, 2);
        content.sync(SyncReach { data: 0, metadata: 2, own: Some(2) });
        content.lose_power(Survival::Nothing, &mut 0, &mut Random::new(0));
        assert_eq!(first_bytes(&content), [0, 2]);
    }

    #[test]
    fn a_lost_length_takes_its_sectors_along() {
        let mut content = Content::default();
        put(&mut content, 1, 0, 1);
        content.sync(all(1));
        put(&mut content, 2, 1, 2);
        content.lose_power(Survival::Nothing, &mut 0, &mut Random::new(0));
        assert_eq!(first_bytes(&content), [1]);
        content.set_len(3, 2 * SECTOR);
        assert_eq!(first_bytes(&content), [1, 0]);
    }

    #[test]
    fn a_cut_is_undone_or_done_but_never_shows_other_bytes() {
        let mut seen = BTreeSet::new();
        for seed in 0..200 {
            let mut random = Random::new(seed);
            let mut content = Content::default();
            put(&mut content, 1, 0, 1);
            put(&mut content, 2, 1, 2);
            content.sync(all(2));
            content.set_len(3, SECTOR);
            content.set_len(4, 2 * SECTOR);
            let survival = Survival::draw(&mut random);
            content.lose_power(survival, &mut 1, &mut random);
            seen.insert(first_bytes(&content));
        }
        assert_eq!(seen, BTreeSet::from([vec![1, 2], vec![1], vec![1, 0]]));
    }

    #[test]
    fn a_torn_sector_is_new_then_old() {
        let mut torn = 0;
        for seed in 0..100 {
            let mut random = Random::new(seed);
            let mut content = Content::default();
            put(&mut content, 1, 0, 1);
            content.sync(all(1));
            put(&mut content, 2, 0, 2);
            content.lose_power(Survival::Everything, &mut 1, &mut random);
            let mut out = [0; SECTOR_BYTES];
            content.read(0, &mut out);
            let edge = out.iter().position(|byte| *byte == 1).unwrap_or(SECTOR_BYTES);
            assert!(out[..edge].iter().all(|byte| *byte == 2) && out[edge..].iter().all(|byte| *byte == 1));
            assert!(edge > 0 && edge.is_multiple_of(TEAR_BYTES));
            torn += u32::from(edge < SECTOR_BYTES);
        }
        assert!(torn > 10, "only {torn} of 100 were torn");
    }

    #[test]
    fn a_failed_sync_loses_bytes_for_good() {
        let lost = (0..100).filter(|seed| {
            let mut content = Content::default();
            content.set_len(1, SECTOR);
            put(&mut content, 2, 0, 7);
            content.lose_unsynced(&mut Random::new(*seed));
            content.sync(all(2));
            first_bytes(&content) == [0]
        });
        assert!((20..80).contains(&lost.count()));
    }

    #[test]
    fn a_stale_read_shows_one_sector_as_it_was_before() {
        let mut random = Random::new(1);
        let mut content = Content::default();
        let mut stale = |content: &Content| {
            let mut out = vec![0xee; 2 * SECTOR_BYTES];
            content.read(0, &mut out);
            content.make_stale(0, &mut out, &mut random).then(|| (out[0], out[SECTOR_BYTES]))
        };
        content.set_len(1, 2 * SECTOR);
        assert_eq!(stale(&content), None, "nothing was ever written");
        put(&mut content, 2, 0, 1);
        content.sync(all(2));
        assert_eq!(stale(&content), Some((0, 0)), "zeros were there before");
        put(&mut content, 3, 0, 2);
        put(&mut content, 4, 1, 3);
        content.sync(all(4));
        let seen: BTreeSet<_> = (0..50).map(|_| stale(&content)).collect();
        assert_eq!(seen, BTreeSet::from([Some((1, 3)), Some((2, 0))]), "synced or not, one at a time");
        put(&mut content, 5, 0, 2);
        assert_eq!(stale(&content), Some((2, 0)), "a write that changed nothing leaves nothing stale");
    }

    #[test]
    fn a_flipped_bit_stays_flipped() {
        let mut content = Content::default();
        put(&mut content, 1, 0, 0);
        content.sync(all(1));
        assert!(content.flip(0, 3));
        assert!(!content.flip(SECTOR, 3), "there is nothing to damage");
        content.lose_power(Survival::Nothing, &mut 0, &mut Random::new(0));
        assert_eq!(first_bytes(&content), [8]);
    }
}
