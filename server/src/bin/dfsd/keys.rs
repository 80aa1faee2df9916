//! The key file: read, or made once for blank data directories.

#![expect(clippy::disallowed_methods, reason = "files of the operator, before any core runs")]

use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use anyhow::{Context, bail};
use chunk::KeyRing;
use proto::port::runtime;
use zeroize::Zeroizing;

use crate::data_dir::DataDir;
use crate::durable;

/// Number of the first ring key.
const FIRST_KEY: u32 = 1;

/// Opens the key file at `path`, or makes it if no directory holds data yet.
///
/// A missing file is never made anew beside existing data: with a new key the data could not be read, and would look
/// damaged.
pub(crate) fn open(path: &Path, directories: &[DataDir]) -> anyhow::Result<KeyRing> {
    let text = match std::fs::read_to_string(path) {
        Ok(text) => Zeroizing::new(text),
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            if let Some(formatted) = directories.iter().find(|directory| directory.is_formatted) {
                bail!(
                    "the key file {} is missing, but {} holds data that only it can open; restore it from a copy, or \
                     name it with --key-file",
                    path.display(),
                    formatted.path.display()
                );
            }
            make(path)?
        }
        Err(error) => return Err(error).with_context(|| format!("cannot read the key file {}", path.display())),
    };
    durable::warn_if_exposed("the key file", path)?;
    let device = std::fs::metadata(path)?.dev();
    if directories.iter().any(|directory| directory.device == device) {
        server::report!(
            "warning: the key file {} is on the same device as the data: who takes the disk can read it, and who \
             loses the disk loses both; use --key-file on another device, and keep a copy elsewhere",
            path.display()
        );
    }
    KeyRing::parse(&text).with_context(|| path.display().to_string())
}

fn make(path: &Path) -> anyhow::Result<Zeroizing<String>> {
    let text = KeyRing::generate(FIRST_KEY, runtime::random()).to_text();
    match durable::create_secret(path, text.as_bytes()) {
        Ok(()) => {
            server::report!(
                "made the key file {}; without it the data cannot be read: keep a copy elsewhere",
                path.display()
            );
            Ok(text)
        }
        // Another process was faster: its key may be in use already.
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
            Ok(Zeroizing::new(std::fs::read_to_string(path)?))
        }
        Err(error) => Err(error).with_context(|| format!("cannot make the key file {}", path.display())),
    }
}
