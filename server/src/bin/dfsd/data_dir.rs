//! Data directories: made, told apart, and held by one process at a time.

#![expect(clippy::disallowed_methods, reason = "files of the operator, before any core runs")]

use std::fs::{File, OpenOptions, TryLockError};
use std::io::{Read, Seek, Write};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use anyhow::{Context, bail};
use shard::superblock::SUPERBLOCK_NAME;

use crate::durable;

/// Name of the file whose lock says that a process serves the directory.
const LOCK_NAME: &str = "lock";

/// A data directory that this process holds. Other processes are refused until it is dropped, or the process ends.
#[derive(Debug)]
pub(crate) struct DataDir {
    pub(crate) path: PathBuf,
    /// Of the device it is on, as `stat` numbers them.
    pub(crate) device: u64,
    /// Whether a node was formatted here.
    pub(crate) is_formatted: bool,
    _lock: File,
}

/// Makes what is missing and locks every directory.
pub(crate) fn claim(paths: &[PathBuf]) -> anyhow::Result<Vec<DataDir>> {
    let mut claimed: Vec<DataDir> = Vec::with_capacity(paths.len());
    let mut inodes = Vec::with_capacity(paths.len());
    for path in paths {
        durable::create_dir(path).with_context(|| format!("cannot make the data directory {}", path.display()))?;
        let about = || format!("data directory {}", path.display());
        let metadata = std::fs::metadata(path).with_context(about)?;
        if !metadata.is_dir() {
            bail!("{} is not a directory", path.display());
        }
        let inode = (metadata.dev(), metadata.ino());
        if inodes.contains(&inode) {
            bail!("{} is given twice", path.display());
        }
        inodes.push(inode);
        let lock = lock(path)?;
        let is_formatted = path.join(SUPERBLOCK_NAME).try_exists().with_context(about)?;
        claimed.push(DataDir { path: path.clone(), device: metadata.dev(), is_formatted, _lock: lock });
    }
    Ok(claimed)
}

/// Takes the lock of a directory and writes our process number into it, for whoever is refused.
fn lock(directory: &Path) -> anyhow::Result<File> {
    let path = directory.join(LOCK_NAME);
    let about = || format!("cannot lock {}", path.display());
    let mut file =
        OpenOptions::new().read(true).write(true).create(true).truncate(false).open(&path).with_context(about)?;
    match file.try_lock() {
        Ok(()) => {}
        Err(TryLockError::WouldBlock) => {
            let mut holder = String::new();
            // Only for the message: between taking the lock and writing the number, the file may be empty.
            let _ = (&file).take(32).read_to_string(&mut holder);
            let holder = match holder.trim() {
                "" => "another dfsd".to_owned(),
                pid => format!("another dfsd (process {pid})"),
            };
            bail!("{} is being served by {holder}; stop it first, or choose another --data", directory.display());
        }
        Err(TryLockError::Error(error)) => return Err(error).with_context(about),
    }
    file.set_len(0).with_context(about)?;
    file.rewind().with_context(about)?;
    writeln!(file, "{}", std::process::id()).with_context(about)?;
    Ok(file)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_held_directory_is_refused_naming_the_holder() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("new/data");
        let held = claim(std::slice::from_ref(&path)).unwrap();
        assert!(!held[0].is_formatted);
        let error = claim(std::slice::from_ref(&path)).unwrap_err().to_string();
        assert!(error.contains(&format!("process {}", std::process::id())), "{error}");
        drop(held);
        std::fs::write(path.join(SUPERBLOCK_NAME), "").unwrap();
        assert!(claim(&[path]).unwrap()[0].is_formatted);
    }

    #[test]
    fn one_directory_under_two_names_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let link = dir.path().join("link");
        let data = dir.path().join("data");
        std::os::unix::fs::symlink(&data, &link).unwrap();
        let error = claim(&[data, link]).unwrap_err().to_string();
        assert!(error.contains("given twice"), "{error}");
    }

    #[test]
    fn a_file_is_not_a_data_directory() {
        let file = tempfile::NamedTempFile::new().unwrap();
        assert!(claim(&[file.path().to_owned()]).unwrap_err().to_string().contains("is not a directory"));
    }
}
