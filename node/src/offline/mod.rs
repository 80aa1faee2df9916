//! Data directories that nobody serves: claimed for reading, checked and inspected. Not one byte of them changes.
//!
//! A shared lock on each directory keeps a server from starting meanwhile, and is refused while one runs. Several
//! readers may hold it at the same time.
//!
//! * [`Directories::claim`]: lock and keys.
//! * [`Directories::check`]: [`crate::fsck`] on several threads, each with a part of the segments.
//! * [`Directories::inspect`]: [`crate::inspect`], one structure.

#![expect(
    clippy::disallowed_methods,
    reason = "directories of a node that nobody serves, read by as many threads as asked for"
)]

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
    /// Run as the user that owns the directory.
    #[error("permission is missing to read {}; run this as the user that owns the directory", path.display())]
    Forbidden {
        /// The file or directory.
        path: PathBuf,
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

impl ClaimError {
    fn unreadable(path: &Path, source: io::Error) -> ClaimError {
        let path = path.to_owned();
        match source.kind() {
            io::ErrorKind::PermissionDenied => ClaimError::Forbidden { path },
            _ => ClaimError::Unreadable { path, source },
        }
    }
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
            std::fs::metadata(path).map_err(|source| ClaimError::unreadable(path, source))?;
            if !holds_data(path)? {
                return Err(ClaimError::NotData { directory: path.clone() });
            }
            locks.extend(lock(path)?);
        }
        let first = paths.first().map_or(Path::new("."), PathBuf::as_path);
        let path = key_file.map_or_else(|| first.join(KEY_NAME), Path::to_owned);
        let text = std::fs::read_to_string(&path);
        let text = Zeroizing::new(text.map_err(|source| ClaimError::unreadable(&path, source))?);
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

/// Whether anything in `directory` tells that a server stores its data there.
fn holds_data(directory: &Path) -> Result<bool, ClaimError> {
    for name in [SUPERBLOCK_NAME, "meta", "segments"] {
        let path = directory.join(name);
        // A directory that must not be searched is not one without data.
        if path.try_exists().map_err(|source| ClaimError::unreadable(&path, source))? {
            return Ok(true);
        }
    }
    Ok(false)
}

/// Takes a shared lock; `None` where no server ever made the file, as in a copy of a directory.
fn lock(directory: &Path) -> Result<Option<File>, ClaimError> {
    let path = directory.join(LOCK_NAME);
    let unreadable = |source| ClaimError::unreadable(&path, source);
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_error_of_the_search_is_not_taken_for_an_absence() {
        let directory = tempfile::tempdir().unwrap();
        assert!(!holds_data(directory.path()).unwrap());
        // Refused to everybody, whereas permissions would not hold back a test that runs as root.
        let link = directory.path().join(SUPERBLOCK_NAME);
        std::os::unix::fs::symlink(&link, &link).unwrap();
        assert!(matches!(holds_data(directory.path()), Err(ClaimError::Unreadable { path, .. }) if path == link));
        std::fs::remove_file(link).unwrap();
        std::fs::create_dir(directory.path().join("segments")).unwrap();
        assert!(holds_data(directory.path()).unwrap());
    }

    #[test]
    fn missing_permission_names_the_user_to_run_as() {
        let error = ClaimError::unreadable(Path::new("/srv/dfs/superblock"), io::ErrorKind::PermissionDenied.into());
        assert!(matches!(error, ClaimError::Forbidden { .. }));
        assert!(error.to_string().contains("/srv/dfs/superblock"));
        assert!(error.to_string().contains("the user that owns"));
    }
}
