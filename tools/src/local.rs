//! The local file system, by directory handles instead of by path.
//!
//! Invariant: below the [`Tree`] that the user named, every directory is opened by one component and without following
//! symlinks. So neither a link that lies there, nor one that a server sends between two of our steps, leads outside.

use std::ffi::OsString;
use std::fs::File;
use std::io::{self, Write};
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStringExt;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

use rustix::fs::{AtFlags, Dir, FileType, Mode, OFlags, Stat, Timespec, Timestamps, UTIME_OMIT};
use rustix::io::Errno;

/// How directories are opened.
const DIRECTORY: OFlags = OFlags::RDONLY.union(OFlags::DIRECTORY).union(OFlags::CLOEXEC);
/// Nanoseconds of a second.
const SECOND_NS: u64 = 1_000_000_000;

/// A directory that the user named, and everything below it.
#[derive(Debug)]
pub(crate) struct Tree {
    root: OwnedFd,
    path: PathBuf,
}

/// Mode, modification time and size, to keep and to compare.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Snapshot {
    pub(crate) mode: u32,
    pub(crate) mtime_ns: u64,
    pub(crate) size: u64,
    changed: (i64, i64),
}

impl Snapshot {
    /// State of an open file. Two equal snapshots mean that nobody wrote in between.
    pub(crate) fn of(file: &File) -> io::Result<Snapshot> {
        let metadata = file.metadata()?;
        Ok(Snapshot {
            mode: metadata.mode() & 0o7777,
            mtime_ns: join_ns(metadata.mtime(), metadata.mtime_nsec()),
            size: metadata.size(),
            changed: (metadata.ctime(), metadata.ctime_nsec()),
        })
    }
}

/// What a directory entry is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Found {
    Directory,
    /// With its size.
    File(u64),
    /// With its modification time.
    Symlink(u64),
    /// A socket, pipe or device.
    Special,
}

impl Tree {
    /// Opens the directory at `path`, which may be reached through symlinks: the user named it.
    pub(crate) fn open(path: &Path) -> io::Result<Tree> {
        let root = rustix::fs::open(path, DIRECTORY, Mode::empty())?;
        Ok(Tree { root, path: path.to_owned() })
    }

    /// Where `names` is, for messages.
    pub(crate) fn shown(&self, names: &[String]) -> PathBuf {
        names.iter().fold(self.path.clone(), |path, name| path.join(name))
    }

    /// Opens the directory at `names` below the root, following no symlink.
    pub(crate) fn directory(&self, names: &[String]) -> io::Result<OwnedFd> {
        let mut directory = self.root.try_clone()?;
        for name in names {
            directory = rustix::fs::openat(&directory, name, DIRECTORY | OFlags::NOFOLLOW, Mode::empty())?;
        }
        Ok(directory)
    }

    /// Opens the file at `names` for reading, following no symlink and waiting for no pipe.
    pub(crate) fn file(&self, names: &[String]) -> io::Result<File> {
        let (name, parents) = names.split_last().expect("invariant: a file below a tree has a name");
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
        let file = File::from(rustix::fs::openat(self.directory(parents)?, name, flags, Mode::empty())?);
        if file.metadata()?.is_file() { Ok(file) } else { Err(io::Error::other("it is not a regular file any more")) }
    }

    /// Reads the symlink at `names`.
    pub(crate) fn symlink(&self, names: &[String]) -> io::Result<OsString> {
        let (name, parents) = names.split_last().expect("invariant: a symlink below a tree has a name");
        let target = rustix::fs::readlinkat(self.directory(parents)?, name, Vec::new())?;
        Ok(OsString::from_vec(target.into_bytes()))
    }

    /// The entries of the directory at `names`, ordered by name, and the state of the directory itself.
    pub(crate) fn entries(&self, names: &[String]) -> io::Result<(Snapshot, Vec<(OsString, Found)>)> {
        let directory = self.directory(names)?;
        let mut entries = Vec::new();
        for entry in Dir::read_from(&directory)? {
            let entry = entry?;
            let name = entry.file_name();
            if name.to_bytes() == b"." || name.to_bytes() == b".." {
                continue;
            }
            let stat = match rustix::fs::statat(&directory, name, AtFlags::SYMLINK_NOFOLLOW) {
                // It was removed since it was listed: then it is not part of the tree.
                Err(Errno::NOENT) => continue,
                other => other?,
            };
            entries.push((OsString::from_vec(name.to_bytes().to_vec()), found(&stat)));
        }
        entries.sort_by(|(a, _), (b, _)| a.cmp(b));
        Ok((Snapshot::of(&File::from(directory))?, entries))
    }

    /// Makes the directory at `names`, or accepts the one that is there; its owner may write into it afterwards.
    pub(crate) fn make_directory(&self, names: &[String]) -> io::Result<()> {
        let (name, parents) = names.split_last().expect("invariant: the root of a tree exists");
        let parent = self.directory(parents)?;
        match rustix::fs::mkdirat(&parent, name, Mode::RWXU) {
            Ok(()) => Ok(()),
            Err(Errno::EXIST) => {
                let directory = rustix::fs::openat(&parent, name, DIRECTORY | OFlags::NOFOLLOW, Mode::empty())?;
                let mode = Mode::from_raw_mode(rustix::fs::fstat(&directory)?.st_mode);
                if !mode.contains(Mode::RWXU) {
                    rustix::fs::fchmod(&directory, (mode | Mode::RWXU) & Mode::from_bits_truncate(0o7777))?;
                }
                Ok(())
            }
            Err(error) => Err(error.into()),
        }
    }

    /// Sets mode and time of the directory at `names` and makes its names durable.
    pub(crate) fn finish_directory(
        &self,
        names: &[String],
        mode: Option<u32>,
        mtime_ns: Option<u64>,
    ) -> io::Result<()> {
        let directory = self.directory(names)?;
        rustix::fs::fsync(&directory)?;
        if let Some(mode) = mode {
            rustix::fs::fchmod(&directory, Mode::from_bits_truncate(mode))?;
        }
        if let Some(mtime_ns) = mtime_ns {
            rustix::fs::futimens(&directory, &modified_at(mtime_ns))?;
        }
        Ok(())
    }

    /// Makes the symlink at `names`, replacing a file or symlink that has the name.
    pub(crate) fn make_symlink(&self, names: &[String], target: &str, mtime_ns: Option<u64>) -> io::Result<()> {
        let (name, parents) = names.split_last().expect("invariant: a symlink below a tree has a name");
        let parent = self.directory(parents)?;
        let partial = with_partial_name(|partial| rustix::fs::symlinkat(target, &parent, partial))?.0;
        let placed = (|| {
            if let Some(mtime_ns) = mtime_ns {
                rustix::fs::utimensat(&parent, &partial, &modified_at(mtime_ns), AtFlags::SYMLINK_NOFOLLOW)?;
            }
            rustix::fs::renameat(&parent, &partial, &parent, name)
        })();
        remove_unless(placed.is_ok(), &parent, &partial);
        Ok(placed?)
    }

    /// Starts the file at `names`; it gets its name when it is finished.
    pub(crate) fn create(&self, names: &[String]) -> io::Result<Partial> {
        let (name, parents) = names.split_last().expect("invariant: a file below a tree has a name");
        let parent = self.directory(parents)?;
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let open = |partial: &str| rustix::fs::openat(&parent, partial, flags, Mode::RUSR | Mode::WUSR);
        let (partial, file) = with_partial_name(open)?;
        Ok(Partial { file: File::from(file), parent, partial, name: name.clone(), is_placed: false })
    }

    /// What has the name `names`, if anything.
    pub(crate) fn look(&self, names: &[String]) -> io::Result<Option<Found>> {
        let Some((name, parents)) = names.split_last() else { return Ok(Some(Found::Directory)) };
        match rustix::fs::statat(self.directory(parents)?, name, AtFlags::SYMLINK_NOFOLLOW) {
            Ok(stat) => Ok(Some(found(&stat))),
            Err(Errno::NOENT) => Ok(None),
            Err(error) => Err(error.into()),
        }
    }
}

/// A file that is being written beside its final name. Dropped early, it leaves nothing behind.
#[derive(Debug)]
pub(crate) struct Partial {
    file: File,
    parent: OwnedFd,
    partial: String,
    name: String,
    is_placed: bool,
}

impl Partial {
    /// Gives the file its attributes and, once it is durable, its name. What had the name is replaced, not followed.
    pub(crate) fn finish(mut self, mode: u32, mtime_ns: Option<u64>) -> io::Result<()> {
        rustix::fs::fchmod(&self.file, Mode::from_bits_truncate(mode))?;
        if let Some(mtime_ns) = mtime_ns {
            rustix::fs::futimens(&self.file, &modified_at(mtime_ns))?;
        }
        rustix::fs::fsync(&self.file)?;
        rustix::fs::renameat(&self.parent, &self.partial, &self.parent, &self.name)?;
        self.is_placed = true;
        Ok(())
    }

    /// Makes the name durable too. Trees do this once per directory instead.
    pub(crate) fn finish_durably(self, mode: u32, mtime_ns: Option<u64>) -> io::Result<()> {
        let parent = self.parent.try_clone()?;
        self.finish(mode, mtime_ns)?;
        Ok(rustix::fs::fsync(parent)?)
    }
}

impl Write for Partial {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.file.write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.file.flush()
    }
}

impl Drop for Partial {
    fn drop(&mut self) {
        remove_unless(self.is_placed, &self.parent, &self.partial);
    }
}

fn remove_unless(is_placed: bool, parent: &OwnedFd, partial: &str) {
    if !is_placed {
        // The failure that brought us here is the one to report; a leftover is visible by its name.
        let _ = rustix::fs::unlinkat(parent, partial, AtFlags::empty());
    }
}

/// Calls `make` with names that nothing else uses, until one is free.
fn with_partial_name<T>(make: impl Fn(&str) -> Result<T, Errno>) -> io::Result<(String, T)> {
    static COUNTER: AtomicU64 = AtomicU64::new(0);
    loop {
        let name = format!(".dfs-partial-{}-{}", std::process::id(), COUNTER.fetch_add(1, Ordering::Relaxed));
        match make(&name) {
            Err(Errno::EXIST) => {}
            Ok(made) => return Ok((name, made)),
            Err(error) => return Err(error.into()),
        }
    }
}

fn found(stat: &Stat) -> Found {
    match FileType::from_raw_mode(stat.st_mode) {
        FileType::Directory => Found::Directory,
        FileType::RegularFile => Found::File(u64::try_from(stat.st_size).unwrap_or(0)),
        FileType::Symlink => Found::Symlink(join_ns(stat.st_mtime, i64::try_from(stat.st_mtime_nsec).unwrap_or(0))),
        _ => Found::Special,
    }
}

/// Seconds and nanoseconds as one number, as the store keeps it: times outside of the years 1970 to 2554 are cut there.
fn join_ns(seconds: i64, nanoseconds: i64) -> u64 {
    match (u64::try_from(seconds), u64::try_from(nanoseconds)) {
        (Ok(seconds), Ok(nanoseconds)) => seconds.saturating_mul(SECOND_NS).saturating_add(nanoseconds),
        _ => 0,
    }
}

fn modified_at(mtime_ns: u64) -> Timestamps {
    let whole =
        |ns: u64| i64::try_from(ns).expect("invariant: 64 bits of nanoseconds are fewer than 63 bits of seconds");
    Timestamps {
        last_access: Timespec { tv_sec: 0, tv_nsec: UTIME_OMIT },
        last_modification: Timespec { tv_sec: whole(mtime_ns / SECOND_NS), tv_nsec: whole(mtime_ns % SECOND_NS) },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(text: &str) -> Vec<String> {
        text.split('/').map(str::to_owned).collect()
    }

    #[test]
    fn a_symlink_on_the_way_is_never_followed() {
        let outside = tempfile::tempdir().unwrap();
        let inside = tempfile::tempdir().unwrap();
        std::fs::create_dir(outside.path().join("sub")).unwrap();
        std::fs::write(outside.path().join("secret"), "s").unwrap();
        std::os::unix::fs::symlink(outside.path(), inside.path().join("link")).unwrap();
        std::os::unix::fs::symlink(outside.path().join("secret"), inside.path().join("file")).unwrap();
        let tree = Tree::open(inside.path()).unwrap();
        assert!(tree.directory(&names("link")).is_err());
        assert!(tree.directory(&names("link/sub")).is_err());
        assert!(tree.file(&names("file")).is_err());
        assert!(tree.file(&names("link/secret")).is_err());
        assert!(tree.create(&names("link/new")).is_err());
        assert!(tree.make_directory(&names("link")).is_err());
        assert!(tree.make_directory(&names("link/new")).is_err());
        assert!(tree.make_symlink(&names("link/new"), "x", None).is_err());
        assert_eq!(std::fs::read_dir(outside.path()).unwrap().count(), 2);
    }

    #[test]
    fn a_dropped_partial_file_leaves_nothing() {
        let directory = tempfile::tempdir().unwrap();
        let tree = Tree::open(directory.path()).unwrap();
        std::fs::write(directory.path().join("f"), "old").unwrap();
        let mut partial = tree.create(&names("f")).unwrap();
        partial.write_all(b"half").unwrap();
        assert_eq!(std::fs::read_dir(directory.path()).unwrap().count(), 2);
        drop(partial);
        assert_eq!(std::fs::read_dir(directory.path()).unwrap().count(), 1);
        assert_eq!(std::fs::read(directory.path().join("f")).unwrap(), b"old");
    }

    #[test]
    fn a_finished_file_has_its_attributes_and_replaces_a_link() {
        let directory = tempfile::tempdir().unwrap();
        let tree = Tree::open(directory.path()).unwrap();
        std::fs::write(directory.path().join("victim"), "untouched").unwrap();
        std::os::unix::fs::symlink("victim", directory.path().join("f")).unwrap();
        let mut partial = tree.create(&names("f")).unwrap();
        partial.write_all(b"new").unwrap();
        partial.finish_durably(0o640, Some(1_000_000_007)).unwrap();
        let snapshot = Snapshot::of(&tree.file(&names("f")).unwrap()).unwrap();
        assert_eq!((snapshot.mode, snapshot.mtime_ns, snapshot.size), (0o640, 1_000_000_007, 3));
        assert_eq!(std::fs::read(directory.path().join("victim")).unwrap(), b"untouched");
    }

    #[test]
    fn times_that_the_store_does_not_know_are_cut() {
        assert_eq!(join_ns(-1, 999_999_999), 0);
        assert_eq!(join_ns(1, 2), 1_000_000_002);
        assert_eq!(join_ns(i64::MAX, 0), u64::MAX);
    }

    #[test]
    fn a_write_changes_the_snapshot() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("f");
        std::fs::write(&path, "one").unwrap();
        let file = File::open(&path).unwrap();
        let before = Snapshot::of(&file).unwrap();
        assert_eq!(Snapshot::of(&file).unwrap(), before);
        std::fs::write(&path, "three").unwrap();
        assert_ne!(Snapshot::of(&file).unwrap(), before);
    }
}
