//! What is known of a file, directory or symlink without its bytes.

use meta::{Inode, View};
use proto::api::Kind;
use proto::{ClusterId, FileId, InodeId, VersionNumber};

/// A file, directory or symlink.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FileInfo {
    /// Public id.
    pub id: FileId,
    /// The metadata's record of it.
    pub inode: Inode,
    /// Absolute path.
    pub path: String,
}

impl FileInfo {
    /// Describes `inode` at `path`.
    pub(crate) fn new(cluster: ClusterId, inode: Inode, path: String) -> FileInfo {
        FileInfo { id: FileId::new(cluster, inode.inode), inode, path }
    }

    /// Describes `inode` at the names that lead to it now; `None` if it is gone.
    pub(crate) fn find(cluster: ClusterId, view: &View<'_>, inode: InodeId) -> Option<FileInfo> {
        let path = path_text(&view.path_of(inode)?);
        Some(FileInfo::new(cluster, view.inode(inode)?, path))
    }

    /// Strong entity tag, with its quotes: changes with every version of the content.
    #[must_use]
    pub fn etag(&self) -> String {
        format!("\"{}-{}\"", self.inode.inode, self.inode.version)
    }

    /// What it is.
    #[must_use]
    pub fn kind(&self) -> Kind {
        self.inode.kind
    }

    /// Plain bytes of the current version.
    #[must_use]
    pub fn size(&self) -> u64 {
        self.inode.size
    }

    /// Current version; 0 for directories and symlinks.
    #[must_use]
    pub fn version(&self) -> VersionNumber {
        self.inode.version
    }
}

/// The absolute path of these names.
pub(crate) fn path_text(names: &[String]) -> String {
    if names.is_empty() { "/".to_owned() } else { names.iter().flat_map(|name| ["/", name]).collect() }
}
