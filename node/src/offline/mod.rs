//! Data directories that nobody serves: claimed for reading, checked and inspected. Not one byte of them changes.
//!
//! A shared lock on each directory keeps a server from starting meanwhile, and is refused while one runs. Several
//! readers may hold it at the same time.
//!
//! * [`Directories::claim`]: lock and keys.
//! * [`Directories::check`]: [`crate::fsck`] on several threads, each with a part of the segments.
//! * [`Directories::inspect`]: [`crate::inspect`], one structure.

mod disk;

use std::fs::{File, TryLockError};
use std::future::Future;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use chunk::{KeyRing, RingError};
use futures_util::FutureExt;
use proto::port::KeyProvider;
use zeroize::Zeroizing;

pub use disk::{FileDisk, ReadOnlyFile};

use crate::fsck::{Check, CheckOptions, Progress, Report};
use crate::inspect::{self, InspectError, Question, Value};

/// Name of the file whose lock says that a process uses the directory.
const LOCK_NAME: &str = "lock";
/// Name of the key file in the first directory, unless another is named.
const KEY_NAME: &str = "keys";
/// Name of the file that tells a data directory from any other.
const SUPERBLOCK_NAME: &str = shard::superblock::SUPERBLOCK_NAME;

/// The directories were not claimed. Nothing was changed.
#[derive(Debug, thiserror::Error)]
pub enum ClaimError {
    /// Stop the server, or another offline tool, first.
    #[error("{} is being served by {holder}; stop it first", directory.display())]
    InUse {
        /// The directory.
        directory: PathBuf,
        /// Who holds it.
        holder: String,
    },
    /// Name the directory that `dfsd serve --data` names.
    #[error("{} is no data directory: it has no superblock, metadata or segments", directory.display())]
    NotData {
        /// The directory.
        directory: PathBuf,
    },
    /// Make the file readable.
    #[error("cannot read {}: {source}", path.display())]
    Unreadable {
        /// The file or directory.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// Name the key file that the data was written with.
    #[error("{}: {source}", path.display())]
    Keys {
        /// The key file.
        path: PathBuf,
        /// What is wrong with it.
        source: RingError,
    },
}

/// Data directories that no server uses as long as this lives.
pub struct Directories {
    paths: Vec<PathBuf>,
    keys: Arc<dyn KeyProvider>,
    _locks: Vec<File>,
}

/// How directories are checked.
#[derive(Clone, Copy, Debug)]
pub struct Effort {
    /// Whether chunks are decoded, or only what describes them is read.
    pub options: CheckOptions,
    /// Threads that read segments at the same time.
    pub threads: usize,
}

impl Directories {
    /// Locks the directories against servers and reads the key file: `keys` in the first one unless another is named.
    ///
    /// # Errors
    /// [`ClaimError`].
    pub fn claim(paths: &[PathBuf], key_file: Option<&Path>) -> Result<Directories, ClaimError> {
        let mut locks = Vec::with_capacity(paths.len());
        for path in paths {
            std::fs::metadata(path).map_err(|source| ClaimError::Unreadable { path: path.clone(), source })?;
            if ![SUPERBLOCK_NAME, "meta", "segments"].iter().any(|name| path.join(name).exists()) {
                return Err(ClaimError::NotData { directory: path.clone() });
            }
            locks.extend(lock(path)?);
        }
        let first = paths.first().map_or(Path::new("."), PathBuf::as_path);
        let path = key_file.map_or_else(|| first.join(KEY_NAME), Path::to_owned);
        let text = std::fs::read_to_string(&path);
        let text = Zeroizing::new(text.map_err(|source| ClaimError::Unreadable { path: path.clone(), source })?);
        let keys = KeyRing::parse(&text).map_err(|source| ClaimError::Keys { path, source })?;
        Ok(Directories { paths: paths.to_vec(), keys: Arc::new(keys), _locks: locks })
    }

    /// Checks everything; see [`crate::fsck`].
    ///
    /// `progress` is called from several threads.
    ///
    /// # Panics
    /// If no thread is asked for.
    pub fn check(&self, effort: Effort, progress: &(dyn Fn(Progress) + Sync)) -> Report {
        assert!(effort.threads > 0, "somebody has to do the work");
        let mut check = at_once(Check::begin(self.disks(), self.keys.clone(), effort.options));
        let work = check.work();
        progress(Progress::Segments { bytes: check.segment_bytes() });
        let next = AtomicUsize::new(0);
        let findings = std::thread::scope(|scope| {
            let check_some = || {
                let checker = work.checker(self.disks(), self.keys.clone());
                let mut found = Vec::new();
                while let Some(segment) = work.segments().get(next.fetch_add(1, Ordering::Relaxed)) {
                    found.push(at_once(checker.check(segment, &|bytes| progress(Progress::Read { bytes }))));
                }
                found
            };
            let threads: Vec<_> = (0..effort.threads).map(|_| scope.spawn(check_some)).collect();
            let joined = threads.into_iter().map(|thread| thread.join().expect("invariant: a check does not panic"));
            joined.flatten().collect::<Vec<_>>()
        });
        check.add(findings);
        progress(Progress::Files);
        at_once(check.finish())
    }

    /// Shows one structure; see [`crate::inspect`].
    ///
    /// # Errors
    /// [`InspectError`].
    pub fn inspect(&self, question: &Question) -> Result<Value, InspectError> {
        at_once(inspect::answer(self.disks(), self.keys.clone(), question))
    }

    fn disks(&self) -> Vec<FileDisk> {
        self.paths.iter().map(|path| FileDisk::new(path)).collect()
    }
}

/// Takes a shared lock; `None` where no server ever made the file, as in a copy of a directory.
fn lock(directory: &Path) -> Result<Option<File>, ClaimError> {
    let path = directory.join(LOCK_NAME);
    let unreadable = |source| ClaimError::Unreadable { path: path.clone(), source };
    let file = match File::open(&path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        file => file.map_err(unreadable)?,
    };
    match file.try_lock_shared() {
        Ok(()) => Ok(Some(file)),
        Err(TryLockError::WouldBlock) => {
            let holder = std::fs::read_to_string(&path).unwrap_or_default();
            let holder = match holder.trim() {
                "" => "a dfsd".to_owned(),
                pid => format!("a dfsd (process {pid})"),
            };
            Err(ClaimError::InUse { directory: directory.to_owned(), holder })
        }
        Err(TryLockError::Error(error)) => Err(unreadable(error)),
    }
}

/// Runs what only waits for files, which never wait.
fn at_once<T>(future: impl Future<Output = T>) -> T {
    future.now_or_never().expect("invariant: a file disk answers when it is asked")
}
