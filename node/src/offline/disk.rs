//! A data directory as a disk that can only be read.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::rc::Rc;

use proto::port::{AlignedBuf, Disk, DiskFile, DiskSpace};

/// See the module. Its futures complete when they are first polled: reading offline needs no ring, and works on every
/// kernel and file system, read-only ones included.
#[derive(Clone, Debug)]
pub struct FileDisk(Rc<Path>);

/// A file of a [`FileDisk`].
#[derive(Clone, Debug)]
pub struct ReadOnlyFile(Rc<File>);

impl FileDisk {
    /// Returns the data directory at `path`.
    #[must_use]
    pub fn new(path: &Path) -> FileDisk {
        FileDisk(path.into())
    }
}

/// What every attempt to change something gets.
fn refused<T>() -> io::Result<T> {
    Err(io::ErrorKind::ReadOnlyFilesystem.into())
}

impl Disk for FileDisk {
    type File = ReadOnlyFile;

    async fn create(&self, _name: &str, _preallocate_bytes: u64) -> io::Result<ReadOnlyFile> {
        refused()
    }

    async fn open(&self, name: &str) -> io::Result<ReadOnlyFile> {
        Ok(ReadOnlyFile(Rc::new(File::open(self.0.join(name))?)))
    }

    async fn list(&self, dir: &str) -> io::Result<Vec<String>> {
        let entries = match std::fs::read_dir(self.0.join(dir)) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            entries => entries?,
        };
        let mut names = Vec::new();
        for entry in entries {
            let entry = entry?;
            // A name that is not UTF-8 is not one of ours.
            if let (false, Ok(name)) = (entry.file_type()?.is_dir(), entry.file_name().into_string()) {
                names.push(name);
            }
        }
        names.sort_unstable();
        Ok(names)
    }

    async fn remove(&self, _name: &str) -> io::Result<()> {
        refused()
    }

    async fn rename(&self, _from: &str, _to: &str) -> io::Result<()> {
        refused()
    }

    async fn sync_dir(&self, _dir: &str) -> io::Result<()> {
        refused()
    }

    async fn space(&self) -> io::Result<DiskSpace> {
        Err(io::ErrorKind::Unsupported.into())
    }

    fn buffer(&self, len: usize) -> AlignedBuf {
        AlignedBuf::zeroed(len)
    }
}

impl DiskFile for ReadOnlyFile {
    async fn read_at(&self, mut buf: AlignedBuf, offset: u64) -> (io::Result<usize>, AlignedBuf) {
        let mut read = 0;
        while read < buf.len() {
            match self.0.read_at(&mut buf[read..], offset + read as u64) {
                Ok(0) => break,
                Ok(bytes) => read += bytes,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return (Err(error), buf),
            }
        }
        (Ok(read), buf)
    }

    async fn write_at(&self, buf: AlignedBuf, _offset: u64) -> (io::Result<()>, AlignedBuf) {
        (refused(), buf)
    }

    async fn write_durable_at(&self, buf: AlignedBuf, _offset: u64) -> (io::Result<()>, AlignedBuf) {
        (refused(), buf)
    }

    async fn sync(&self) -> io::Result<()> {
        refused()
    }

    async fn set_len(&self, _bytes: u64) -> io::Result<()> {
        refused()
    }

    async fn punch(&self, _offset: u64, _bytes: u64) -> io::Result<()> {
        refused()
    }

    async fn len(&self) -> io::Result<u64> {
        Ok(self.0.metadata()?.len())
    }
}
