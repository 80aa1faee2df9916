//! Committing the bytes of a file: the command that an upload ends with.

use proto::api::Kind;
use proto::limits::{INLINE_BYTES_MAX, MANIFEST_DEPTH_MAX, MANIFEST_PAGE_ENTRIES_MAX};
use proto::{InodeId, VersionNumber};

use super::names;
use crate::command::{Attributes, Condition, Content, Limit, MetaError, Place, Response};
use crate::keys;
use crate::record::{Inode, Number, Version};
use crate::txn::{KvTxn, load, store};

/// A commit, as its command names it.
pub(super) struct Commit<'a> {
    pub(super) at: &'a Place,
    pub(super) content: &'a Content,
    pub(super) attributes: &'a Attributes,
    pub(super) condition: &'a Condition,
    pub(super) now_ns: u64,
    pub(super) pin_epoch: u64,
}

/// Creates a file, or adds a version to one.
pub(super) fn commit(txn: &mut impl KvTxn, commit: &Commit<'_>) -> Result<Response, MetaError> {
    names::check_user_metadata(&commit.attributes.user_metadata)?;
    check_content(txn, commit.content, commit.pin_epoch)?;
    let spot = names::find_spot(txn, commit.at)?;
    match spot.child(txn) {
        Some(name) if name.kind == Kind::Directory => Err(MetaError::IsADirectory),
        Some(name) if name.kind == Kind::Symlink => Err(MetaError::AlreadyExists),
        Some(name) => add_version(txn, name.inode, commit),
        None => {
            if matches!(commit.condition, Condition::Match { .. }) {
                return Err(MetaError::ConditionFailed { current: None });
            }
            spot.check_parents(txn)?;
            let parent = spot.make_parents(txn, commit.attributes.owner, commit.now_ns);
            let inode = names::allocate_inode(txn, parent.slot());
            let record = names::new_inode(inode, Kind::File, (parent, spot.name), commit.attributes, commit.now_ns);
            names::link(txn, parent, spot.name, inode, Kind::File, commit.now_ns);
            names::count(txn, |counters| counters.files += 1);
            Ok(put_version(txn, record, commit))
        }
    }
}

/// Adds a version to the file `inode`.
fn add_version(txn: &mut impl KvTxn, inode: InodeId, commit: &Commit<'_>) -> Result<Response, MetaError> {
    let mut record: Inode = load(txn, &keys::inode(inode)).expect("invariant: a name stands for an inode");
    let holds = match commit.condition {
        Condition::Any => true,
        Condition::Absent => false,
        Condition::Match { inode, version } => (*inode, *version) == (record.inode, record.version),
    };
    if !holds {
        return Err(MetaError::ConditionFailed { current: Some(record.version) });
    }
    record.mode = commit.attributes.mode.unwrap_or(record.mode);
    record.mtime_ns = commit.attributes.mtime_ns.unwrap_or(commit.now_ns);
    record.user_metadata.clone_from(&commit.attributes.user_metadata);
    Ok(put_version(txn, record, commit))
}

/// Stores the next version of a file. Versions before it are kept.
fn put_version(txn: &mut impl KvTxn, mut record: Inode, commit: &Commit<'_>) -> Response {
    let created = record.version == VersionNumber(0);
    record.version.0 += 1;
    record.size = commit.content.size();
    record.committed_ns = commit.now_ns;
    let version = Version { committed_ns: commit.now_ns, content: commit.content.clone() };
    store(txn, keys::version(record.inode, record.version), &version);
    store(txn, keys::inode(record.inode), &record);
    names::count(txn, |counters| {
        // Sizes come from callers: a sum that wraps comes back right when the versions go.
        counters.logical_bytes = counters.logical_bytes.wrapping_add(commit.content.size());
        counters.inline_bytes = counters.inline_bytes.wrapping_add(commit.content.inline_bytes());
    });
    Response::Committed { inode: record.inode, version: record.version, created }
}

/// Checks that the content is whole, and that garbage collection cannot have taken its chunks.
fn check_content(txn: &impl KvTxn, content: &Content, pin_epoch: u64) -> Result<(), MetaError> {
    let (size, domain, depth, entries) = match content {
        Content::Inline(bytes) if bytes.len() > INLINE_BYTES_MAX => {
            return Err(MetaError::TooLarge(Limit::InlineBytes));
        }
        Content::Inline(_) => return Ok(()),
        Content::Chunks { size, domain, depth, entries } => (*size, *domain, *depth, entries),
    };
    if depth > MANIFEST_DEPTH_MAX {
        return Err(MetaError::TooLarge(Limit::ManifestDepth));
    }
    if entries.len() > MANIFEST_PAGE_ENTRIES_MAX {
        return Err(MetaError::TooLarge(Limit::ManifestEntries));
    }
    let sum = entries.iter().try_fold(0u64, |sum, entry| sum.checked_add(entry.bytes));
    if sum != Some(size) || size == 0 || entries.iter().any(|entry| entry.bytes == 0) {
        return Err(MetaError::InvalidContent);
    }
    if txn.get(&keys::domain(domain)).is_none() {
        return Err(MetaError::NoSuchDomain);
    }
    let Number(fence) = load(txn, keys::FENCE).unwrap_or_default();
    if pin_epoch < fence {
        return Err(MetaError::StaleEpoch { fence });
    }
    Ok(())
}
