//! The versions of a file: committing one, the command that an upload ends with, and bringing one back.

use proto::api::Kind;
use proto::limits::{INLINE_BYTES_MAX, MANIFEST_DEPTH_MAX, MANIFEST_PAGE_ENTRIES_MAX};
use proto::{InodeId, VersionNumber};

use super::{collection, events, names};
use crate::command::{Attributes, Condition, Content, Limit, MetaError, Place, Response};
use crate::keys;
use crate::record::{Change, Detail, Inode, Past, Version};
use crate::retention;
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
    names::check_content_type(commit.attributes.content_type.as_deref())?;
    check_content(txn, commit.content, commit.pin_epoch)?;
    let spot = names::find_spot(txn, commit.at)?;
    match spot.child(txn) {
        Some(name) if name.kind == Kind::Directory => Err(MetaError::IsADirectory),
        Some(name) if name.kind == Kind::Symlink => Err(MetaError::AlreadyExists),
        Some(name) => add_version(txn, name.inode, commit),
        None => {
            names::check_condition(*commit.condition, None)?;
            spot.check_parents(txn)?;
            let parent = spot.make_parents(txn, commit.attributes.owner, commit.now_ns);
            let inode = names::allocate_inode(txn, parent.slot());
            let mut record = names::new_inode(inode, Kind::File, (parent, spot.name), commit.attributes, commit.now_ns);
            record.detail = Detail::of_file(commit.attributes.content_type.as_deref());
            names::link(txn, parent, spot.name, inode, Kind::File, commit.now_ns);
            names::count(txn, |counters| counters.files += 1);
            Ok(put_version(txn, record, Change::Created, commit.content.clone(), commit.now_ns))
        }
    }
}

/// Adds a version to the file `inode`.
fn add_version(txn: &mut impl KvTxn, inode: InodeId, commit: &Commit<'_>) -> Result<Response, MetaError> {
    let mut record: Inode = load(txn, &keys::inode(inode)).expect("invariant: a name stands for an inode");
    names::check_condition(*commit.condition, Some(&record))?;
    keep_past(txn, &record);
    record.mode = commit.attributes.mode.unwrap_or(record.mode);
    record.mtime_ns = commit.attributes.mtime_ns.unwrap_or(commit.now_ns);
    record.detail = Detail::of_file(commit.attributes.content_type.as_deref());
    record.user_metadata.clone_from(&commit.attributes.user_metadata);
    Ok(put_version(txn, record, Change::Committed, commit.content.clone(), commit.now_ns))
}

/// Makes an earlier version, or the current one once more, the next version of a file: content and attributes.
pub(super) fn restore(
    txn: &mut impl KvTxn,
    at: &Place,
    version: VersionNumber,
    condition: Condition,
    now_ns: u64,
) -> Result<Response, MetaError> {
    let found = names::find_spot(txn, at)?.child(txn).ok_or(MetaError::NotFound)?;
    if found.kind != Kind::File {
        return Err(MetaError::NotAFile);
    }
    let mut record: Inode = load(txn, &keys::inode(found.inode)).expect("invariant: a name stands for an inode");
    names::check_condition(condition, Some(&record))?;
    let found_version: Option<Version> = load(txn, &keys::version(found.inode, version));
    let Version { content } = found_version.ok_or_else(|| retention::why_missing(txn, found.inode, version))?;
    keep_past(txn, &record);
    if version != record.version {
        let past: Past =
            load(txn, &keys::past(found.inode, version)).expect("invariant: an earlier version keeps its attributes");
        record.mode = past.mode;
        record.mtime_ns = past.mtime_ns;
        record.detail = Detail::of_file(past.content_type.as_deref());
        record.user_metadata = past.user_metadata;
    }
    Ok(put_version(txn, record, Change::Restored { version }, content, now_ns))
}

/// Keeps what the inode of a file says about its current version, which is about to become an earlier one.
fn keep_past(txn: &mut impl KvTxn, record: &Inode) {
    store(txn, keys::past(record.inode, record.version), &record.past());
}

/// Stores the next version of a file. Versions before it are kept.
fn put_version(txn: &mut impl KvTxn, mut record: Inode, change: Change, content: Content, now_ns: u64) -> Response {
    let created = record.version == VersionNumber(0);
    record.version.0 += 1;
    record.size = content.size();
    record.committed_ns = now_ns;
    let inline_bytes = content.inline_bytes();
    store(txn, keys::version(record.inode, record.version), &Version { content });
    store(txn, keys::inode(record.inode), &record);
    names::count(txn, |counters| {
        // Sizes come from callers: a sum that wraps comes back right when the versions go.
        counters.logical_bytes = counters.logical_bytes.wrapping_add(record.size);
        counters.inline_bytes = counters.inline_bytes.wrapping_add(inline_bytes);
    });
    events::tell(txn, change, &record, now_ns);
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
    let fence = collection::fence(txn);
    if pin_epoch < fence {
        return Err(MetaError::StaleEpoch { fence });
    }
    Ok(())
}
