//! The fault file system without FUSE: files and directories by number, space, and what a power loss leaves of them.

use std::collections::BTreeMap;
use std::ops::Range;

use rustix::io::Errno;

use super::file::{File, PAGE_BYTES, pages_of};
use super::names::{Inode, Names};
use super::{Loss, Survival};
use crate::sim::Random;

/// The number of the top directory, as FUSE has it.
pub(super) const ROOT: Inode = 1;

/// What a number stands for.
#[derive(Debug)]
pub(super) enum Body {
    Directory,
    File(File),
}

/// A file or directory.
#[derive(Debug)]
struct Object {
    mode: u16,
    /// Open descriptors: while there are any, the file stays, also without a name.
    opened: u64,
    body: Body,
}

/// What `stat` shows.
#[derive(Clone, Copy, Debug)]
pub(super) struct Attributes {
    pub(super) inode: Inode,
    pub(super) is_directory: bool,
    pub(super) mode: u16,
    pub(super) bytes: u64,
    pub(super) reserved_pages: u64,
}

/// See the module.
#[derive(Debug)]
pub(super) struct Store {
    objects: BTreeMap<Inode, Object>,
    names: Names,
    /// The last number that was given; none is given twice.
    last: Inode,
    capacity_pages: u64,
    used_pages: u64,
}

impl Store {
    pub(super) fn new(capacity_bytes: u64) -> Store {
        let root = Object { mode: 0o700, opened: 0, body: Body::Directory };
        Store {
            objects: BTreeMap::from([(ROOT, root)]),
            names: Names::default(),
            last: ROOT,
            capacity_pages: capacity_bytes / PAGE_BYTES as u64,
            used_pages: 0,
        }
    }

    /// Changes how much fits; more may be there already.
    pub(super) fn set_capacity(&mut self, bytes: u64) {
        self.capacity_pages = bytes / PAGE_BYTES as u64;
    }

    /// Pages in all, and free ones.
    pub(super) fn space(&self) -> (u64, u64) {
        (self.capacity_pages, self.capacity_pages.saturating_sub(self.used_pages))
    }

    fn object(&mut self, inode: Inode) -> Result<&mut Object, Errno> {
        self.objects.get_mut(&inode).ok_or(Errno::NOENT)
    }

    fn file(&mut self, inode: Inode) -> Result<&mut File, Errno> {
        match &mut self.object(inode)?.body {
            Body::File(file) => Ok(file),
            Body::Directory => Err(Errno::ISDIR),
        }
    }

    fn check_directory(&self, inode: Inode) -> Result<(), Errno> {
        match self.objects.get(&inode) {
            Some(Object { body: Body::Directory, .. }) => Ok(()),
            Some(_) => Err(Errno::NOTDIR),
            None => Err(Errno::NOENT),
        }
    }

    pub(super) fn lookup(&self, directory: Inode, name: &str) -> Result<Inode, Errno> {
        self.check_directory(directory)?;
        self.names.get(directory, name).ok_or(Errno::NOENT)
    }

    pub(super) fn attributes(&self, inode: Inode) -> Result<Attributes, Errno> {
        let object = self.objects.get(&inode).ok_or(Errno::NOENT)?;
        let (is_directory, bytes, reserved_pages) = match &object.body {
            Body::Directory => (true, 0, 0),
            Body::File(file) => (false, file.len(), file.reserved_pages()),
        };
        Ok(Attributes { inode, is_directory, mode: object.mode, bytes, reserved_pages })
    }

    /// Names in a directory and what they stand for, sorted.
    pub(super) fn list(&self, directory: Inode) -> Result<Vec<(String, Attributes)>, Errno> {
        self.check_directory(directory)?;
        self.names.list(directory).map(|(name, inode)| Ok((name.to_owned(), self.attributes(inode)?))).collect()
    }

    pub(super) fn create(&mut self, directory: Inode, name: &str, mode: u16, body: Body) -> Result<Inode, Errno> {
        match self.lookup(directory, name) {
            Ok(_) => return Err(Errno::EXIST),
            Err(Errno::NOENT) => {}
            Err(error) => return Err(error),
        }
        self.last += 1;
        self.objects.insert(self.last, Object { mode: mode & 0o7777, opened: 0, body });
        self.names.link(directory, name, self.last);
        Ok(self.last)
    }

    /// Gives a file another name.
    pub(super) fn link(&mut self, inode: Inode, directory: Inode, name: &str) -> Result<(), Errno> {
        self.file(inode)?;
        match self.lookup(directory, name) {
            Ok(_) => Err(Errno::EXIST),
            Err(Errno::NOENT) => {
                self.names.link(directory, name, inode);
                Ok(())
            }
            Err(error) => Err(error),
        }
    }

    pub(super) fn remove(&mut self, directory: Inode, name: &str) -> Result<(), Errno> {
        let inode = self.lookup(directory, name)?;
        if self.names.list(inode).next().is_some() {
            return Err(Errno::NOTEMPTY);
        }
        self.names.unlink(directory, name);
        self.collect();
        Ok(())
    }

    /// Moves a name within its directory.
    pub(super) fn rename(&mut self, directory: Inode, from: &str, to: &str) -> Result<(), Errno> {
        let moved = self.lookup(directory, from)?;
        match self.lookup(directory, to) {
            Ok(inode) if inode == moved => return Ok(()),
            Ok(inode) if self.names.list(inode).next().is_some() => return Err(Errno::NOTEMPTY),
            _ => {}
        }
        self.names.rename(directory, from, to);
        self.collect();
        Ok(())
    }

    pub(super) fn open(&mut self, inode: Inode) -> Result<(), Errno> {
        self.object(inode)?.opened += 1;
        Ok(())
    }

    pub(super) fn release(&mut self, inode: Inode) {
        if let Some(object) = self.objects.get_mut(&inode) {
            object.opened = object.opened.saturating_sub(1);
            self.collect();
        }
    }

    pub(super) fn set_mode(&mut self, inode: Inode, mode: u16) -> Result<(), Errno> {
        self.object(inode)?.mode = mode & 0o7777;
        Ok(())
    }

    pub(super) fn read(&mut self, inode: Inode, at: u64, bytes: usize) -> Result<Vec<u8>, Errno> {
        Ok(self.file(inode)?.read(at, bytes))
    }

    pub(super) fn write(&mut self, inode: Inode, at: u64, data: &[u8]) -> Result<(), Errno> {
        self.reserve(inode, at, data.len() as u64)?;
        self.file(inode)?.write(at, data);
        Ok(())
    }

    /// Gives a range space, all of it or none.
    fn reserve(&mut self, inode: Inode, at: u64, bytes: u64) -> Result<(), Errno> {
        let end = at.checked_add(bytes).filter(|end| *end <= i64::MAX as u64).ok_or(Errno::FBIG)?;
        let pages: Range<u64> = at / PAGE_BYTES as u64..pages_of(end);
        let missing = self.file(inode)?.missing_pages(pages.clone());
        if missing > self.space().1 {
            return Err(Errno::NOSPC);
        }
        self.used_pages += missing;
        self.file(inode)?.reserve(pages);
        Ok(())
    }

    /// Gives a range space, and the file a length that covers it unless it is to keep its own.
    pub(super) fn allocate(&mut self, inode: Inode, at: u64, bytes: u64, keeps_len: bool) -> Result<(), Errno> {
        self.reserve(inode, at, bytes)?;
        if !keeps_len {
            self.file(inode)?.extend(at + bytes);
        }
        Ok(())
    }

    pub(super) fn punch(&mut self, inode: Inode, at: u64, bytes: u64) -> Result<(), Errno> {
        self.shrink(inode, |file| file.punch(at, bytes))
    }

    pub(super) fn set_len(&mut self, inode: Inode, bytes: u64) -> Result<(), Errno> {
        self.shrink(inode, |file| file.set_len(bytes))
    }

    /// Does something that may give space back.
    fn shrink(&mut self, inode: Inode, act: impl FnOnce(&mut File)) -> Result<(), Errno> {
        let file = self.file(inode)?;
        let before = file.reserved_pages();
        act(file);
        let given_back = before - file.reserved_pages();
        self.used_pages -= given_back;
        Ok(())
    }

    pub(super) fn sync(&mut self, inode: Inode) -> Result<(), Errno> {
        self.file(inode)?.sync();
        Ok(())
    }

    /// A sync of a file fails.
    pub(super) fn fail_sync(&mut self, inode: Inode, random: &mut Random) {
        if let Ok(file) = self.file(inode) {
            file.fail_sync(random);
        }
    }

    pub(super) fn sync_directory(&mut self, inode: Inode) -> Result<(), Errno> {
        self.check_directory(inode)?;
        self.names.sync(inode);
        self.collect();
        Ok(())
    }

    /// Forgets what nothing leads to any more, now or after any power loss.
    fn collect(&mut self) {
        let known = self.names.known();
        let used_pages = &mut self.used_pages;
        self.objects.retain(|inode, object| {
            let stays = *inode == ROOT || object.opened > 0 || known.contains(inode);
            if let (false, Body::File(file)) = (stays, &object.body) {
                *used_pages -= file.reserved_pages();
            }
            stays
        });
    }

    /// The power fails: nobody has anything open any more, and what was not synced survives in part or not at all.
    pub(super) fn lose_power(&mut self, survival: Survival, random: &mut Random) -> Loss {
        let mut loss = Loss { names: self.names.lose_power(survival, random), ..Loss::default() };
        for object in self.objects.values_mut() {
            object.opened = 0;
            if let Body::File(file) = &mut object.body {
                let lost = file.lose_power(survival, random);
                loss.pages += lost.pages;
                loss.torn_pages += lost.torn;
                loss.lengths += lost.lengths;
            }
        }
        let files = self.objects.values().filter_map(|object| match &object.body {
            Body::File(file) => Some(file.reserved_pages()),
            Body::Directory => None,
        });
        self.used_pages = files.sum();
        self.collect();
        loss
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn store() -> Store {
        Store::new(16 * PAGE_BYTES as u64)
    }

    fn create(store: &mut Store, name: &str) -> Inode {
        store.create(ROOT, name, 0o600, Body::File(File::default())).unwrap()
    }

    #[test]
    fn space_is_counted_by_page_and_returns() {
        let mut store = store();
        let page = PAGE_BYTES as u64;
        let file = create(&mut store, "a");
        store.allocate(file, 0, 10 * page, false).unwrap();
        store.write(file, page, &[1; PAGE_BYTES]).unwrap();
        assert_eq!(store.space(), (16, 6));
        assert_eq!(store.allocate(file, 0, 17 * page, false), Err(Errno::NOSPC));
        assert_eq!(store.write(file, 10 * page, &[0; 7 * PAGE_BYTES]), Err(Errno::NOSPC));
        assert_eq!(store.space(), (16, 6), "all or nothing");
        store.punch(file, 0, 2 * page).unwrap();
        store.set_len(file, 4 * page).unwrap();
        assert_eq!(store.space(), (16, 14));
        store.remove(ROOT, "a").unwrap();
        store.sync_directory(ROOT).unwrap();
        assert_eq!(store.space(), (16, 16));
    }

    #[test]
    fn a_file_without_a_name_stays_while_it_is_open() {
        let mut store = store();
        let file = create(&mut store, "a");
        store.open(file).unwrap();
        store.write(file, 0, b"still there").unwrap();
        store.remove(ROOT, "a").unwrap();
        store.sync_directory(ROOT).unwrap();
        assert_eq!(store.read(file, 0, 5).unwrap(), b"still");
        store.release(file);
        assert_eq!(store.read(file, 0, 5), Err(Errno::NOENT));
    }

    #[test]
    fn synced_files_in_synced_directories_survive_every_power_loss() {
        for seed in 0..100 {
            let (mut store, mut random) = (store(), Random::new(seed));
            let directory = store.create(ROOT, "d", 0o700, Body::Directory).unwrap();
            store.sync_directory(ROOT).unwrap();
            let file = store.create(directory, "tmp", 0o600, Body::File(File::default())).unwrap();
            store.write(file, 0, b"bytes").unwrap();
            store.sync(file).unwrap();
            store.rename(directory, "tmp", "f").unwrap();
            store.sync_directory(directory).unwrap();
            let doubtful = create(&mut store, "doubtful");
            store.write(doubtful, 0, b"never synced").unwrap();
            let survival = Survival::draw(&mut random);
            store.lose_power(survival, &mut random);
            let directory = store.lookup(ROOT, "d").unwrap();
            let file = store.lookup(directory, "f").unwrap();
            assert_eq!(store.read(file, 0, 100).unwrap(), b"bytes");
            assert_eq!(store.lookup(directory, "tmp"), Err(Errno::NOENT));
        }
    }
}
