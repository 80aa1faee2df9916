//! The state of a simulated disk, without time: what each operation does when it completes, is interrupted or fails.

use std::collections::BTreeMap;
use std::io;
use std::rc::Rc;

use proto::limits::SECTOR_BYTES;
use proto::port::DiskSpace;

use super::content::{Content, SyncReach};
use super::faults::Faults;
use super::names::{Names, directory};
use super::{DiskOptions, Lie, Operation, Survival};
use crate::sim::faults::{self as kinds, Happened};
use crate::sim::random::Random;

/// The kernel's number for an I/O error.
const EIO: i32 = 5;

/// How an operation ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Ending {
    /// It did what it should.
    Complete,
    /// Its process or the power went away while it ran.
    Interrupted,
    /// The device reported an error.
    Failed,
}

/// Keeps a file's bytes while a handle exists, also when its name is gone.
pub(super) type OpenToken = Rc<()>;

struct Stored {
    content: Content,
    open: OpenToken,
}

/// All that a disk holds while nobody uses it.
struct Image {
    names: Names,
    files: BTreeMap<u64, Content>,
}

/// See the module.
pub(super) struct Medium {
    options: DiskOptions,
    names: Names,
    files: BTreeMap<u64, Stored>,
    files_made: u64,
    /// Counts completed operations: a sync covers what completed before it was issued.
    stamp: u64,
    random: Random,
    pub(super) faults: Faults,
    pub(super) happened: Happened,
    /// What the disk was, or what it is in truth while it is reverted.
    other: Option<Image>,
}

impl Medium {
    pub(super) fn new(options: DiskOptions, random: Random, happened: Happened) -> Medium {
        Medium {
            options,
            names: Names::default(),
            files: BTreeMap::new(),
            files_made: 0,
            stamp: 0,
            random,
            faults: Faults::default(),
            happened,
            other: None,
        }
    }

    /// A fault of this kind happened.
    pub(super) fn happened(&self, kind: &'static str) {
        self.happened.count(kind);
    }

    /// Stamp of the operation that completed last.
    pub(super) fn stamp(&self) -> u64 {
        self.stamp
    }

    pub(super) fn resize(&mut self, capacity_bytes: u64) {
        self.options.capacity_bytes = capacity_bytes;
    }

    /// Counts an operation that is about to complete; decides how it ends.
    pub(super) fn ending_of(&mut self, operation: Operation) -> Ending {
        if self.faults.fails(operation) {
            self.happened(operation.fault());
            return Ending::Failed;
        }
        Ending::Complete
    }

    fn next_stamp(&mut self) -> u64 {
        self.stamp += 1;
        self.stamp
    }

    fn content(&mut self, file: u64) -> &mut Content {
        &mut self.files.get_mut(&file).expect("invariant: an open file keeps its bytes").content
    }

    /// Bytes that names or handles hold.
    pub(super) fn used_bytes(&self) -> u64 {
        let taken = |(file, stored): (&u64, &Stored)| {
            let held = self.names.shows(*file) || Rc::strong_count(&stored.open) > 1;
            if held { stored.content.allocated_bytes() } else { 0 }
        };
        self.files.iter().map(taken).sum()
    }

    /// Free and total bytes.
    pub(super) fn space(&self) -> DiskSpace {
        let total_bytes = self.options.capacity_bytes;
        DiskSpace { total_bytes, free_bytes: total_bytes.saturating_sub(self.used_bytes()) }
    }

    fn reserve(&self, bytes: u64) -> io::Result<()> {
        if bytes > 0 && bytes > self.space().free_bytes {
            self.happened(kinds::DISK_FULL);
            return Err(io::ErrorKind::StorageFull.into());
        }
        Ok(())
    }

    /// Forgets files that no name, handle or crash can reach.
    fn forget_unreachable(&mut self) {
        let Medium { names, files, .. } = self;
        files.retain(|file, stored| Rc::strong_count(&stored.open) > 1 || names.may_show(*file));
    }

    pub(super) fn create(&mut self, ending: Ending, name: &str, bytes: u64) -> io::Result<(u64, OpenToken)> {
        ending.check()?;
        if self.names.get(name).is_some() {
            return Err(io::ErrorKind::AlreadyExists.into());
        }
        self.reserve(bytes)?;
        self.files_made += 1;
        let (file, stamp) = (self.files_made, self.next_stamp());
        let mut content = Content::default();
        if bytes > 0 {
            content.set_len(stamp, bytes);
        }
        let open = OpenToken::default();
        self.files.insert(file, Stored { content, open: open.clone() });
        self.names.link(stamp, name, file);
        Ok((file, open))
    }

    pub(super) fn open(&mut self, ending: Ending, name: &str) -> io::Result<(u64, OpenToken)> {
        ending.check()?;
        let file = self.names.get(name).ok_or(io::ErrorKind::NotFound)?;
        Ok((file, self.files[&file].open.clone()))
    }

    pub(super) fn list(&mut self, ending: Ending, dir: &str) -> io::Result<Vec<String>> {
        ending.check()?;
        let inside = self.names.all().filter(|(name, _)| directory(name) == dir);
        Ok(inside.map(|(name, _)| name.rsplit('/').next().expect("a name has an end").to_owned()).collect())
    }

    pub(super) fn remove(&mut self, ending: Ending, name: &str) -> io::Result<()> {
        ending.check()?;
        self.names.get(name).ok_or(io::ErrorKind::NotFound)?;
        let stamp = self.next_stamp();
        self.names.unlink(stamp, name);
        self.forget_unreachable();
        Ok(())
    }

    pub(super) fn rename(&mut self, ending: Ending, from: &str, to: &str) -> io::Result<()> {
        ending.check()?;
        self.names.get(from).ok_or(io::ErrorKind::NotFound)?;
        let stamp = self.next_stamp();
        self.names.rename(stamp, from, to);
        self.forget_unreachable();
        Ok(())
    }

    /// `cut` is the stamp at which the sync was issued.
    pub(super) fn sync_dir(&mut self, ending: Ending, dir: &str, cut: u64) -> io::Result<()> {
        ending.check()?;
        if ending == Ending::Complete {
            self.names.sync(dir, cut);
            self.forget_unreachable();
        }
        Ok(())
    }

    pub(super) fn read(&mut self, ending: Ending, file: u64, offset: u64, out: &mut [u8]) -> io::Result<usize> {
        ending.check()?;
        let have = self.content(file).read(offset, out);
        if self.faults.may_be_stale() {
            let Medium { names, files, faults, random, happened, .. } = self;
            let name = names.name_of(file).unwrap_or_default();
            if faults.is_stale(name) && files[&file].content.make_stale(offset, out, random) {
                faults.was_stale();
                happened.count(kinds::READ_STALE);
            }
        }
        Ok(have)
    }

    /// `cut` is the stamp at which a durable write was issued; `None` for one that is not durable.
    pub(super) fn write(
        &mut self,
        ending: Ending,
        file: u64,
        (offset, bytes): (u64, &[u8]),
        cut: Option<u64>,
    ) -> io::Result<()> {
        let whole = ending == Ending::Complete;
        let astray = if whole { self.wrong_place(file, offset, bytes.len()) } else { None };
        let (file, offset, bytes) = match astray {
            Some((file, offset, len)) => (file, offset, &bytes[..len]),
            None => (file, offset, bytes),
        };
        let missing = self.content(file).missing_bytes(offset, bytes.len() as u64);
        self.reserve(missing)?;
        let stamp = self.next_stamp();
        let mut random = self.random.fork();
        // Half of the writes that are cut short got as far as some sector; of the others any sectors arrive.
        let reached = random.chance(1, 2).then(|| random.below((bytes.len() / SECTOR_BYTES) as u64 + 1));
        let mut sectors = 0..;
        let mut arrives = |sector| reached.map_or_else(|| random.chance(1, 2), |reached| sector < reached);
        self.content(file).write(stamp, offset, bytes, || {
            let sector = sectors.next().expect("invariant: sectors can be counted");
            whole || arrives(sector)
        });
        ending.check()?;
        if let (Some(data), true) = (cut, whole && self.options.lie != Lie::DurableWrite) {
            self.content(file).sync(SyncReach { data, metadata: stamp, own: Some(stamp) });
        }
        Ok(())
    }

    /// Where a write of `len` bytes goes that is to go astray, and how many of its bytes fit there: another place of
    /// its file, or of another.
    fn wrong_place(&mut self, file: u64, offset: u64, len: usize) -> Option<(u64, u64, usize)> {
        if !self.faults.may_misdirect() {
            return None;
        }
        let Medium { names, files, faults, random, happened, .. } = self;
        let scope = faults.misdirects(names.name_of(file)?)?;
        let others: Vec<u64> = names.all().filter(|(name, _)| name.starts_with(scope)).map(|(_, file)| file).collect();
        let victim = if random.chance(1, 2) { file } else { *random.pick(&others) };
        let content = &files[&victim].content;
        let right = (victim == file).then_some(offset / SECTOR_BYTES as u64);
        let wrong = content.wrong_sector(right, random)? * SECTOR_BYTES as u64;
        faults.misdirected();
        happened.count(kinds::WRITE_MISDIRECTED);
        Some((victim, wrong, len.min((content.len() - wrong) as usize)))
    }

    /// `cut` is the stamp at which the sync was issued.
    pub(super) fn sync(&mut self, ending: Ending, file: u64, cut: u64) -> io::Result<()> {
        match ending {
            Ending::Complete if self.options.lie == Lie::Sync => {}
            Ending::Complete => self.content(file).sync(SyncReach { data: cut, metadata: cut, own: None }),
            Ending::Interrupted => {}
            Ending::Failed => {
                let mut random = self.random.fork();
                self.content(file).lose_unsynced(&mut random);
            }
        }
        ending.check()
    }

    pub(super) fn set_len(&mut self, ending: Ending, file: u64, bytes: u64) -> io::Result<()> {
        ending.check()?;
        let grown = bytes.saturating_sub(self.content(file).len());
        let missing = self.content(file).missing_bytes(bytes - grown, grown);
        self.reserve(missing)?;
        let stamp = self.next_stamp();
        self.content(file).set_len(stamp, bytes);
        Ok(())
    }

    pub(super) fn punch(&mut self, ending: Ending, file: u64, offset: u64, bytes: u64) -> io::Result<()> {
        ending.check()?;
        let stamp = self.next_stamp();
        self.content(file).punch(stamp, offset, bytes);
        Ok(())
    }

    pub(super) fn len(&mut self, ending: Ending, file: u64) -> io::Result<u64> {
        ending.check()?;
        Ok(self.content(file).len())
    }

    /// Drops everything that was not synced, except what chance lets survive.
    pub(super) fn lose_power(&mut self) {
        let mut random = self.random.fork();
        let survival = Survival::draw(&mut random);
        self.happened.add(kinds::NAME_LOST, self.names.lose_power(survival, &mut random));
        let mut tear = self.options.torn_sectors_max;
        for stored in self.files.values_mut() {
            let lost = stored.content.lose_power(survival, &mut tear, &mut random);
            self.happened.add(kinds::SECTOR_LOST, lost.sectors);
            self.happened.add(kinds::LENGTH_LOST, lost.lengths);
        }
        self.happened.add(kinds::SECTOR_TORN, u64::from(self.options.torn_sectors_max - tear));
        self.forget_unreachable();
    }

    pub(super) fn flip(&mut self, name: &str, offset: u64, bit: u8) -> bool {
        self.names.get(name).is_some_and(|file| self.content(file).flip(offset, bit))
    }

    /// Bytes of a file that reads see; `None` if there is none.
    pub(super) fn peek(&self, name: &str, offset: u64, out: &mut [u8]) -> Option<usize> {
        self.names.get(name).map(|file| self.files[&file].content.read(offset, out))
    }

    /// Remembers what is durable now.
    pub(super) fn remember(&mut self) {
        let mut random = self.random.fork();
        let mut names = self.names.clone();
        names.lose_power(Survival::Nothing, &mut random);
        let durable = |(file, stored): (&u64, &Stored)| {
            let mut content = stored.content.clone();
            content.lose_power(Survival::Nothing, &mut 0, &mut random);
            (*file, content)
        };
        let files = self.files.iter().map(durable).collect();
        self.other = Some(Image { names, files });
    }

    /// Changes places with what is remembered; returns whether there is any.
    pub(super) fn swap(&mut self) -> bool {
        let Some(image) = self.other.take() else { return false };
        let closed = self.files.values().all(|stored| Rc::strong_count(&stored.open) == 1);
        assert!(closed, "invariant: a disk is exchanged while nobody uses it");
        let stored = |(file, content)| (file, Stored { content, open: OpenToken::default() });
        let files = std::mem::replace(&mut self.files, image.files.into_iter().map(stored).collect());
        let names = std::mem::replace(&mut self.names, image.names);
        self.other =
            Some(Image { names, files: files.into_iter().map(|(file, stored)| (file, stored.content)).collect() });
        true
    }

    /// Forgets what was remembered.
    pub(super) fn forget_other(&mut self) {
        self.other = None;
    }

    /// All names with the lengths of their files.
    pub(super) fn files(&self) -> Vec<(String, u64)> {
        self.names.all().map(|(name, file)| (name.to_owned(), self.files[&file].content.len())).collect()
    }
}

impl Ending {
    fn check(self) -> io::Result<()> {
        match self {
            Ending::Failed => Err(io::Error::from_raw_os_error(EIO)),
            Ending::Complete | Ending::Interrupted => Ok(()),
        }
    }
}
