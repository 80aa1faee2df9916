//! The retention of directories, and letting go what it does not keep.

use proto::api::Kind;
use proto::limits::EXPIRE_VERSIONS_MAX;
use proto::{InodeId, VersionNumber};

use super::{events, names};
use crate::command::{Condition, MetaError, Response};
use crate::keys;
use crate::record::{Change, Directory, Inode, Version};
use crate::retention::{Retention, in_force, lets_go_at, oldest};
use crate::txn::{KvTxn, load, store};

/// Sets the retention of a directory, or clears it.
pub(super) fn set(
    txn: &mut impl KvTxn,
    directory: InodeId,
    retention: Option<Retention>,
    condition: Condition,
    now_ns: u64,
) -> Result<Response, MetaError> {
    let inode: Inode = load(txn, &keys::inode(directory)).ok_or(MetaError::NotFound)?;
    names::check_condition(condition, Some(&inode))?;
    if inode.kind != Kind::Directory {
        return Err(MetaError::NotADirectory);
    }
    retention.map_or(Ok(()), Retention::check)?;
    let key = keys::directory(directory);
    let record: Directory = load(txn, &key).expect("invariant: a directory has a record");
    store(txn, key, &Directory { retention, ..record });
    events::tell(txn, Change::Attributes, &inode, now_ns);
    Ok(Response::Changed)
}

/// Lets earlier versions of a file go. No event tells of it: no name and nothing that a name stands for is another.
pub(super) fn expire(txn: &mut impl KvTxn, inode: InodeId, now_ns: u64) -> Response {
    let going = going(txn, inode, now_ns).unwrap_or_default();
    let (mut bytes, mut inline_bytes) = (0u64, 0);
    for &version in &going {
        let key = keys::version(inode, version);
        let Version { content } = load(txn, &key).expect("invariant: versions have consecutive numbers");
        bytes = bytes.wrapping_add(content.size());
        inline_bytes += content.inline_bytes();
        txn.delete(&key);
        txn.delete(&keys::past(inode, version));
    }
    if !going.is_empty() {
        names::count(txn, |counters| {
            // Sizes come from callers: a sum that wrapped comes back right.
            counters.logical_bytes = counters.logical_bytes.wrapping_sub(bytes);
            counters.inline_bytes -= inline_bytes;
        });
    }
    Response::Expired { versions: going.len() as u64, bytes }
}

/// The versions that the retention of a file lets go now, oldest first; `None` if it has none, or is no file.
fn going(txn: &impl KvTxn, inode: InodeId, now_ns: u64) -> Option<Vec<VersionNumber>> {
    let file: Inode = load(txn, &keys::inode(inode))?;
    let oldest = oldest(txn, inode)?;
    let retention = in_force(txn, file.parent)?.retention;
    let candidates = (oldest.0..file.version.0).take(EXPIRE_VERSIONS_MAX as usize).map(VersionNumber);
    let goes = |version: &VersionNumber| lets_go_at(txn, &file, *version, retention).is_some_and(|at| at <= now_ns);
    Some(candidates.take_while(goes).collect())
}
