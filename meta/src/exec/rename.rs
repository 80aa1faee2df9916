//! Moving a name, within a directory or across directories.

use proto::api::Kind;

use super::events;
use super::names::{self, Spot};
use crate::command::{MetaError, Place, Response};
use crate::keys;
use crate::record::{Change, Inode, Name};
use crate::txn::{KvTxn, load, store};

/// Moves the name `from` (directory, name) to `to`.
pub(super) fn rename(
    txn: &mut impl KvTxn,
    from: &Place,
    to: &Place,
    replace: bool,
    now_ns: u64,
) -> Result<Response, MetaError> {
    let from = names::find_spot(txn, from)?;
    let moved = from.child(txn).ok_or(MetaError::NotFound)?;
    let spot = names::find_spot(txn, to)?;
    check_depth(txn, moved, &spot)?;
    let target = spot.child(txn);
    if let Some(target) = target {
        if target.inode == moved.inode {
            return Ok(Response::Renamed { inode: moved.inode });
        }
        check_replaceable(txn, moved, target, replace)?;
    }

    let mut record: Inode = load(txn, &keys::inode(moved.inode)).expect("invariant: a name stands for an inode");
    let path = events::path(txn, from.directory, from.name);
    let parent = spot.make_parents(txn, record.owner, now_ns);
    if let Some(target) = target {
        let target = load(txn, &keys::inode(target.inode)).expect("invariant: a name stands for an inode");
        names::remove(txn, &target, now_ns);
    }
    names::remove_name(txn, from.directory, from.name, now_ns);
    names::link(txn, parent, spot.name, moved.inode, moved.kind, now_ns);
    record.parent = parent;
    record.name = spot.name.to_owned();
    store(txn, keys::inode(moved.inode), &record);
    events::tell(txn, Change::Renamed { from: path }, &record, now_ns);
    Ok(Response::Renamed { inode: moved.inode })
}

/// Checks that a directory does not go into itself or below, and that nothing comes to lie too deep.
fn check_depth(txn: &impl KvTxn, moved: Name, spot: &Spot<'_>) -> Result<(), MetaError> {
    if moved.kind != Kind::Directory {
        return spot.check_parents(txn);
    }
    let depth = names::climb(txn, spot.directory, Some(moved.inode))?;
    spot.check_depth(depth, Kind::Directory)
}

/// Checks that `moved` may take the place of `target`.
fn check_replaceable(txn: &impl KvTxn, moved: Name, target: Name, replace: bool) -> Result<(), MetaError> {
    if !replace {
        return Err(MetaError::AlreadyExists);
    }
    match (moved.kind == Kind::Directory, target.kind == Kind::Directory) {
        (false, true) => Err(MetaError::IsADirectory),
        (true, false) => Err(MetaError::NotADirectory),
        _ => names::check_removable(txn, target),
    }
}
