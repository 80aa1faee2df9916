//! Small files and directories that must be there in whole after a crash, or not at all.

#![expect(clippy::disallowed_methods, reason = "files of the operator, before any core runs")]

use std::fs::{DirBuilder, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

/// Only the owner reads and writes.
const SECRET_MODE: u32 = 0o600;
/// Only the owner enters.
const PRIVATE_DIR_MODE: u32 = 0o700;

/// The directory that holds `path`.
fn parent(path: &Path) -> &Path {
    match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    }
}

fn sync_dir(path: &Path) -> io::Result<()> {
    File::open(path)?.sync_all()
}

/// Writes a new file that only its owner may read: in whole, or not at all; an existing file is never replaced.
///
/// Errors: `AlreadyExists`, or the device's own.
pub(crate) fn create_secret(path: &Path, contents: &[u8]) -> io::Result<()> {
    let name = path.file_name().ok_or(io::ErrorKind::InvalidInput)?.to_string_lossy();
    let temporary = parent(path).join(format!(".{name}.{}.new", std::process::id()));
    // Left by a crash of another process that had this number.
    match std::fs::remove_file(&temporary) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let written = write_and_link(&temporary, path, contents);
    let removed = std::fs::remove_file(&temporary);
    written.and(removed)?;
    sync_dir(parent(path))
}

/// A link rather than a rename: it fails if somebody else was faster, whose secret may be in use already.
fn write_and_link(temporary: &Path, path: &Path, contents: &[u8]) -> io::Result<()> {
    let mut file = OpenOptions::new().write(true).create_new(true).mode(SECRET_MODE).open(temporary)?;
    file.write_all(contents)?;
    file.sync_all()?;
    std::fs::hard_link(temporary, path)
}

/// Makes a directory and its missing parents, each durable in the one above.
///
/// Errors: the device's own; an existing directory is none.
pub(crate) fn create_dir(path: &Path) -> io::Result<()> {
    let mut missing: Vec<PathBuf> = Vec::new();
    let mut at = path;
    while !at.try_exists()? {
        missing.push(at.to_owned());
        at = parent(at);
    }
    while let Some(directory) = missing.pop() {
        match DirBuilder::new().mode(PRIVATE_DIR_MODE).create(&directory) {
            Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(error),
            _ => sync_dir(parent(&directory))?,
        }
    }
    Ok(())
}

/// Tells the operator if others than the owner may read a secret.
pub(crate) fn warn_if_exposed(what: &str, path: &Path) -> io::Result<()> {
    let mode = std::fs::metadata(path)?.permissions().mode() & 0o7777;
    if mode & 0o077 != 0 {
        let path = path.display();
        server::report!("warning: {what} {path} has mode {mode:o}, so that others may use it: chmod 600 {path}");
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_secret_is_private_and_never_replaced() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("secret");
        create_secret(&path, b"one").unwrap();
        assert_eq!(create_secret(&path, b"two").unwrap_err().kind(), io::ErrorKind::AlreadyExists);
        assert_eq!(std::fs::read(&path).unwrap(), b"one");
        assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o7777, 0o600);
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 1, "nothing is left behind");
    }

    #[test]
    fn directories_are_made_with_their_parents() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a/b");
        create_dir(&path).unwrap();
        create_dir(&path).unwrap();
        assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o7777, 0o700);
    }
}
