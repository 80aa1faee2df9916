//! Data directories on the ring.

use std::cell::Cell;
use std::ffi::CString;
use std::io::{self, Write};
use std::os::fd::OwnedFd;
use std::path::Path;
use std::rc::Rc;

use proto::port::{AlignedBuf, Disk, DiskSpace};
use rustix::fs::{AtFlags, FallocateFlags, FileType, Mode, OFlags};
use rustix::io::Errno;

use crate::file::{Access, RingFile};
use crate::operation::{Request, SyncScope};
use crate::ring::{OpenFile, Ring};

/// Files are for us alone.
const FILE_MODE: Mode = Mode::RUSR.union(Mode::WUSR);
/// Directories too.
const DIRECTORY_MODE: Mode = Mode::RWXU;
const DIRECTORY: OFlags = OFlags::RDONLY.union(OFlags::DIRECTORY).union(OFlags::CLOEXEC);

/// A data directory. Handles are cheap to clone.
///
/// Files are opened for direct I/O; if the file system refuses, it says so once on standard error and goes through the
/// page cache, which changes speed, not durability.
#[derive(Clone)]
pub struct RingDisk {
    ring: Ring,
    dir: Rc<OwnedFd>,
    path: Rc<Path>,
    direct: Rc<Cell<bool>>,
}

impl RingDisk {
    /// Opens the data directory `path`, which exists, on `ring`.
    ///
    /// # Errors
    /// `NotFound`, `NotADirectory`, `PermissionDenied`, or the device's own.
    pub fn open(ring: &Ring, path: &Path) -> io::Result<RingDisk> {
        let dir = rustix::fs::open(path, DIRECTORY, Mode::empty())?;
        Ok(RingDisk { ring: ring.clone(), dir: Rc::new(dir), path: path.into(), direct: Rc::new(Cell::new(true)) })
    }

    /// Whether files are opened for direct I/O: true until the file system refused it.
    #[must_use]
    pub fn is_direct(&self) -> bool {
        self.direct.get()
    }

    async fn open_file(&self, path: CString, create: OFlags) -> io::Result<RingFile> {
        match self.open_for(Access::ReadWrite, path.clone(), create).await {
            // What can be read still is: a file system that failed is often made read-only.
            Err(error) if error.kind() == io::ErrorKind::ReadOnlyFilesystem && create.is_empty() => {
                self.open_for(Access::ReadOnly, path, create).await
            }
            opened => opened,
        }
    }

    async fn open_for(&self, access: Access, path: CString, create: OFlags) -> io::Result<RingFile> {
        let flags = if access == Access::ReadOnly { OFlags::RDONLY } else { OFlags::RDWR | create };
        if self.direct.get() {
            match self.ring.open(self.dir.clone(), path.clone(), flags | OFlags::DIRECT, FILE_MODE).await {
                Err(error) if error.raw_os_error() == Some(libc::EINVAL) => {}
                opened => return Ok(self.adopt(opened?, access)),
            }
        }
        // A refused O_DIRECT is noticed after an exclusive creation: the file exists now, and it is ours.
        let flags = if self.direct.get() { flags - OFlags::EXCL } else { flags };
        let fd = self.ring.open(self.dir.clone(), path, flags, FILE_MODE).await?;
        if self.direct.replace(false) {
            // Nobody may be there to be warned.
            let _ = writeln!(
                io::stderr(),
                "warning: the file system of {} refuses direct I/O; reads and writes go through the page cache",
                self.path.display()
            );
        }
        Ok(self.adopt(fd, access))
    }

    fn adopt(&self, fd: OwnedFd, access: Access) -> RingFile {
        RingFile::new(self.ring.clone(), self.ring.adopt(fd), access)
    }

    /// Makes the directories above `name` that are missing, each durable in its parent before it is used.
    async fn make_parents(&self, name: &str) -> io::Result<()> {
        for (end, _) in name.match_indices('/') {
            match rustix::fs::mkdirat(&*self.dir, checked(&name[..end])?, DIRECTORY_MODE) {
                Ok(()) => self.sync_dir(parent(&name[..end])).await?,
                Err(Errno::EXIST) => {}
                Err(error) => return Err(error.into()),
            }
        }
        Ok(())
    }
}

/// The directory part of a name, `""` for the top.
fn parent(name: &str) -> &str {
    name.rsplit_once('/').map_or("", |(dir, _)| dir)
}

/// Checks a name of a file: relative, and nothing in it leads elsewhere.
fn checked(name: &str) -> io::Result<CString> {
    let plain = name.split('/').all(|part| !matches!(part, "" | "." | ".."));
    let name = if plain { CString::new(name).ok() } else { None };
    name.ok_or_else(|| io::Error::new(io::ErrorKind::InvalidInput, "not a relative name inside the data directory"))
}

/// Checks a name of a directory; `""` is the top.
fn checked_dir(dir: &str) -> io::Result<CString> {
    if dir.is_empty() { Ok(c".".to_owned()) } else { checked(dir) }
}

impl Disk for RingDisk {
    type File = RingFile;

    async fn create(&self, name: &str, preallocate_bytes: u64) -> io::Result<RingFile> {
        let path = checked(name)?;
        let create = OFlags::CREATE | OFlags::EXCL;
        let file = match self.open_file(path.clone(), create).await {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                self.make_parents(name).await?;
                self.open_file(path, create).await?
            }
            opened => opened?,
        };
        if let Err(error) = file.allocate(FallocateFlags::empty(), 0, preallocate_bytes).await {
            // The reason matters more than whether the empty file could be removed.
            let _ = self.remove(name).await;
            return Err(error);
        }
        Ok(file)
    }

    async fn open(&self, name: &str) -> io::Result<RingFile> {
        self.open_file(checked(name)?, OFlags::empty()).await
    }

    async fn list(&self, dir: &str) -> io::Result<Vec<String>> {
        let opened = match rustix::fs::openat(&*self.dir, checked_dir(dir)?, DIRECTORY, Mode::empty()) {
            Err(Errno::NOENT) => return Ok(Vec::new()),
            opened => opened?,
        };
        let mut names = Vec::new();
        for entry in rustix::fs::Dir::read_from(&opened)? {
            let entry = entry?;
            let kind = match entry.file_type() {
                FileType::Unknown => {
                    let stat = rustix::fs::statat(&opened, entry.file_name(), AtFlags::SYMLINK_NOFOLLOW)?;
                    FileType::from_raw_mode(stat.st_mode)
                }
                known => known,
            };
            // A name that is not UTF-8 is not one of ours.
            if let (false, Ok(name)) = (kind == FileType::Directory, entry.file_name().to_str()) {
                names.push(name.to_owned());
            }
        }
        names.sort_unstable();
        Ok(names)
    }

    async fn remove(&self, name: &str) -> io::Result<()> {
        let path = checked(name)?;
        self.ring.run(Request::Remove { dir: self.dir.clone(), path }).await.0.map(drop)
    }

    async fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        assert_eq!(parent(from), parent(to), "invariant: renames stay within one directory");
        let (from, to) = (checked(from)?, checked(to)?);
        self.ring.run(Request::Rename { dir: self.dir.clone(), from, to }).await.0.map(drop)
    }

    async fn sync_dir(&self, dir: &str) -> io::Result<()> {
        let opened = self.ring.open(self.dir.clone(), checked_dir(dir)?, DIRECTORY, Mode::empty()).await?;
        let file = Rc::new(OpenFile::unregistered(opened));
        self.ring.run(Request::Sync { file, scope: SyncScope::Everything }).await.0.map(drop)
    }

    async fn space(&self) -> io::Result<DiskSpace> {
        let stat = rustix::fs::fstatvfs(&*self.dir)?;
        Ok(DiskSpace {
            total_bytes: stat.f_blocks.saturating_mul(stat.f_frsize),
            free_bytes: stat.f_bavail.saturating_mul(stat.f_frsize),
        })
    }

    fn buffer(&self, len: usize) -> AlignedBuf {
        self.ring.buffer(len)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_stay_inside_the_data_directory() {
        for name in ["", "/", "/etc/passwd", "..", "a/../b", "a/..", "./a", "a//b", "a/", "nul\0byte"] {
            assert_eq!(checked(name).unwrap_err().kind(), io::ErrorKind::InvalidInput, "{name:?}");
        }
        for name in ["a", "segments/00ff/piece", "..a", "a..", "..."] {
            assert_eq!(checked(name).unwrap().to_str().unwrap(), name);
        }
    }

    #[test]
    fn a_parent_is_what_precedes_the_last_slash() {
        assert_eq!((parent("a/b/c"), parent("a")), ("a/b", ""));
    }
}
