//! What clients are shown, whichever interface shows it: the one form in which the oracle compares it.
//!
//! Here it is made of what the node itself returns; who speaks to the node in another way makes it of that.

use std::fmt;

use meta::MetaError;
use node::{FileInfo, NodeStats};
use proto::api::Kind;

use super::action::Refusal;
use super::entry::{Body, Entry};

/// A file, directory or symlink as a client is shown it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Seen {
    /// Its identity, which stays.
    pub inode: u64,
    /// What it is.
    pub kind: Kind,
    /// Its version; 0 if it is no file.
    pub version: u64,
    /// Its bytes; 0 if it is no file.
    pub size: u64,
    /// Unix permission bits.
    pub mode: u32,
    /// Modification time.
    pub mtime_ns: u64,
    /// User metadata, in the order in which it is shown.
    pub user_metadata: Vec<(String, String)>,
    /// Where a symlink points.
    pub symlink_target: Option<String>,
}

/// What a node says that it holds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counted {
    /// Plain bytes of all versions of all files.
    pub logical_bytes: u64,
    /// Those of them that lie with the metadata; `None` if the interface does not tell.
    pub inline_bytes: Option<u64>,
    /// Files.
    pub files: u64,
    /// Directories, the root included.
    pub directories: u64,
    /// Symlinks; `None` if the interface does not tell.
    pub symlinks: Option<u64>,
}

impl Seen {
    /// Whether it can be `entry` that is shown.
    pub(super) fn fits(&self, entry: &Entry) -> bool {
        let body_fits = match &entry.body {
            Body::Directory => self.version == 0 && self.size == 0 && self.symlink_target.is_none(),
            Body::Symlink { target } => self.version == 0 && self.symlink_target.as_ref() == Some(target),
            Body::File { version, bytes, .. } => self.version == *version && self.size == *bytes,
        };
        body_fits
            && self.kind == entry.kind()
            && entry.inode.is_none_or(|known| known == self.inode)
            && self.mode == entry.mode
            && entry.mtime_ns.is_none_or(|mtime_ns| self.mtime_ns == mtime_ns)
            && self.user_metadata == entry.user_metadata
    }
}

impl From<&FileInfo> for Seen {
    fn from(info: &FileInfo) -> Seen {
        let inode = &info.inode;
        Seen {
            inode: inode.inode.0,
            kind: inode.kind,
            version: inode.version.0,
            size: inode.size,
            mode: inode.mode,
            mtime_ns: inode.mtime_ns,
            user_metadata: inode.user_metadata.clone(),
            symlink_target: inode.symlink_target().map(str::to_owned),
        }
    }
}

impl From<&NodeStats> for Counted {
    fn from(stats: &NodeStats) -> Counted {
        Counted {
            logical_bytes: stats.logical_bytes,
            inline_bytes: Some(stats.inline_bytes),
            files: stats.files,
            directories: stats.directories,
            symlinks: Some(stats.symlinks),
        }
    }
}

impl Refusal {
    /// Translates the node's answer; `None` for one that no action of the workload may meet.
    #[must_use]
    pub fn of(error: &MetaError) -> Option<Refusal> {
        Some(match error {
            MetaError::NotFound => Refusal::NotFound,
            MetaError::NotADirectory => Refusal::NotADirectory,
            MetaError::IsADirectory => Refusal::IsADirectory,
            MetaError::AlreadyExists => Refusal::AlreadyExists,
            MetaError::NotEmpty => Refusal::NotEmpty,
            MetaError::ConditionFailed { current } => Refusal::ConditionFailed(current.map(|version| version.0)),
            MetaError::IntoItself => Refusal::IntoItself,
            MetaError::NotASymlink => Refusal::NotASymlink,
            MetaError::NotAFile => Refusal::NotAFile,
            MetaError::NoSuchVersion => Refusal::NoSuchVersion,
            MetaError::VersionExpired { .. } => Refusal::VersionExpired,
            _ => return None,
        })
    }
}

impl fmt::Display for Seen {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Seen { inode, kind, version, size, mode, mtime_ns, user_metadata, symlink_target } = self;
        write!(f, "{mode:o} {mtime_ns} {user_metadata:?} {kind:?} {symlink_target:?} version {version} bytes {size}")?;
        write!(f, " inode {inode:x}")
    }
}
