//! What a path stands for: a file with all its versions, a directory, or a symlink.

use std::rc::Rc;

use proto::api::Kind;
use proto::limits::INLINE_BYTES_MAX;

use super::model::AttributeChange;

/// Bytes that were put, by their place in the oracle's list.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct ContentId(pub usize);

/// A file, directory or symlink.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Entry {
    /// Its identity across renames: the number of the operation that made it, and which of its objects it is.
    pub object: (u64, usize),
    /// Its inode, once a client has seen it; it never changes.
    pub inode: Option<u64>,
    /// Unix permission bits.
    pub mode: u32,
    /// Modification time, if a client chose it.
    pub mtime_ns: Option<u64>,
    /// User metadata.
    pub user_metadata: Vec<(String, String)>,
    /// Which of its versions were let go.
    pub gone: Gone,
    /// The rest, by kind.
    pub body: Body,
}

/// Which versions of a file were let go: always the oldest ones, up to some number.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Gone {
    /// So many at least: somebody was told.
    pub surely: u64,
    /// So many may have been while retentions were in force that no longer are.
    pub perhaps: u64,
}

/// What an entry is.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[expect(missing_docs, reason = "the names say it")]
pub enum Body {
    Directory,
    Symlink { target: String },
    File { version: u64, content: ContentId, bytes: u64, earlier: Vec<Rc<Earlier>> },
}

/// A file as it was at an earlier version.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[expect(missing_docs, reason = "the fields are those of the entry")]
pub struct Earlier {
    pub content: ContentId,
    pub bytes: u64,
    pub mode: u32,
    pub mtime_ns: Option<u64>,
    pub user_metadata: Vec<(String, String)>,
}

/// Bytes of all versions.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
#[expect(missing_docs, reason = "they are named after the node's counters")]
pub struct Totals {
    pub logical_bytes: u64,
    pub inline_bytes: u64,
}

impl Totals {
    /// Adds both counts.
    #[must_use]
    pub fn plus(self, other: Totals) -> Totals {
        Totals {
            logical_bytes: self.logical_bytes + other.logical_bytes,
            inline_bytes: self.inline_bytes + other.inline_bytes,
        }
    }

    /// Those of one version.
    fn of(bytes: u64) -> Totals {
        Totals { logical_bytes: bytes, inline_bytes: if bytes <= INLINE_BYTES_MAX as u64 { bytes } else { 0 } }
    }
}

impl Entry {
    pub(super) fn new(object: (u64, usize), body: Body, attributes: &AttributeChange) -> Entry {
        let default_mode = match body {
            Body::Directory => 0o755,
            Body::Symlink { .. } => 0o777,
            Body::File { .. } => 0o644,
        };
        Entry {
            object,
            inode: None,
            mode: attributes.mode.unwrap_or(default_mode),
            // A directory's time follows its names.
            mtime_ns: attributes.mtime_ns.filter(|_| body != Body::Directory),
            user_metadata: attributes.user_metadata.clone().unwrap_or_default(),
            gone: Gone::default(),
            body,
        }
    }

    /// What it is.
    #[must_use]
    pub fn kind(&self) -> Kind {
        match self.body {
            Body::Directory => Kind::Directory,
            Body::Symlink { .. } => Kind::Symlink,
            Body::File { .. } => Kind::File,
        }
    }

    /// Whether it is a directory.
    #[must_use]
    pub fn is_directory(&self) -> bool {
        self.body == Body::Directory
    }

    /// Whether `version` was let go.
    #[must_use]
    pub fn has_lost(&self, version: u64) -> bool {
        (1..=self.gone.surely).contains(&version)
    }

    /// The file as it was at `version`, also if that is gone; `None` if it never was, or is no file.
    #[must_use]
    pub fn at(&self, version: u64) -> Option<Entry> {
        let Body::File { version: current, earlier, .. } = &self.body else { return None };
        if version == *current {
            return Some(self.clone());
        }
        let place = usize::try_from(version.checked_sub(1)?).ok()?;
        let Earlier { content, bytes, mode, mtime_ns, user_metadata } = Earlier::clone(earlier.get(place)?);
        let body = Body::File { version, content, bytes, earlier: earlier[..place].to_vec() };
        Some(Entry { mode, mtime_ns, user_metadata, body, ..*self })
    }

    /// The file with these bytes as its next version and the attributes that it has; `None` if it is no file.
    pub(super) fn with_next(&self, content: ContentId, bytes: u64) -> Option<Entry> {
        let Body::File { version, content: last, bytes: last_bytes, earlier } = &self.body else { return None };
        let mut earlier = earlier.clone();
        earlier.push(Rc::new(Earlier {
            content: *last,
            bytes: *last_bytes,
            mode: self.mode,
            mtime_ns: self.mtime_ns,
            user_metadata: self.user_metadata.clone(),
        }));
        let body = Body::File { version: version + 1, content, bytes, earlier };
        Some(Entry { user_metadata: self.user_metadata.clone(), body, ..*self })
    }

    /// Bytes of all its versions, but for those that are gone for sure.
    #[must_use]
    pub fn totals(&self) -> Totals {
        let Body::File { bytes, earlier, .. } = &self.body else { return Totals::default() };
        let there = earlier.iter().skip(usize::try_from(self.gone.surely).unwrap_or(usize::MAX));
        there.map(|earlier| Totals::of(earlier.bytes)).fold(Totals::of(*bytes), Totals::plus)
    }
}
