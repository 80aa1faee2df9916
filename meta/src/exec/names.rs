//! Names and what they stand for: directories, symlinks, attributes, removal.

use proto::api::{Kind, is_content_type};
use proto::checksum::checksum;
use proto::limits::{
    CONTENT_TYPE_BYTES_MAX, PATH_DEPTH_MAX, SYMLINK_BYTES_MAX, USER_METADATA_BYTES_MAX, USER_METADATA_PAIRS_MAX,
};
use proto::path::check_name;
use proto::planted::{self, Bug};
use proto::{InodeId, VersionNumber};

use super::events;
use crate::codec::access;
use crate::command::{Attributes, Condition, Limit, MetaError, Place, Response};
use crate::keys;
use crate::record::{Change, Counters, Detail, Directory, Inode, Name, Number, Version};
use crate::txn::{KvTxn, load, own, store};

const FILE_MODE: u32 = 0o644;
const DIRECTORY_MODE: u32 = 0o755;
const SYMLINK_MODE: u32 = 0o777;
/// Bits of an inode that choose its metadata slot.
const SLOT_BITS: u32 = 14;

/// Where a name is to be made, after the walk through the parents that exist.
pub(super) struct Spot<'a> {
    /// The deepest directory that exists.
    pub(super) directory: InodeId,
    /// Parents that do not.
    pub(super) missing: &'a [String],
    /// The name in the last of them.
    pub(super) name: &'a str,
}

/// Makes the root directory.
pub(super) fn format(txn: &mut impl KvTxn, now_ns: u64) -> Result<Response, MetaError> {
    if txn.get(&keys::inode(InodeId::ROOT)).is_some() {
        return Err(MetaError::AlreadyExists);
    }
    let inode = allocate_inode(txn, InodeId::ROOT.slot());
    assert_eq!(inode, InodeId::ROOT, "invariant: the root is the first inode");
    let root = new_inode(inode, Kind::Directory, (InodeId::ROOT, ""), &Attributes::default(), now_ns);
    put_directory(txn, &root);
    Ok(Response::Made { inode })
}

/// Makes a directory.
pub(super) fn make_directory(
    txn: &mut impl KvTxn,
    at: &Place,
    attributes: &Attributes,
    now_ns: u64,
) -> Result<Response, MetaError> {
    check_user_metadata(&attributes.user_metadata)?;
    let spot = find_spot(txn, at)?;
    if spot.child(txn).is_some() {
        return Err(MetaError::AlreadyExists);
    }
    spot.check_depth(climb(txn, spot.directory, None)?, Kind::Directory)?;
    let parent = spot.make_parents(txn, attributes.owner, now_ns);
    Ok(Response::Made { inode: add_directory(txn, parent, spot.name, attributes, now_ns) })
}

/// Makes a symlink.
pub(super) fn make_symlink(
    txn: &mut impl KvTxn,
    at: &Place,
    target: &str,
    attributes: &Attributes,
    now_ns: u64,
) -> Result<Response, MetaError> {
    check_user_metadata(&attributes.user_metadata)?;
    check_target(target)?;
    let spot = find_spot(txn, at)?;
    if spot.child(txn).is_some() {
        return Err(MetaError::AlreadyExists);
    }
    spot.check_parents(txn)?;
    let parent = spot.make_parents(txn, attributes.owner, now_ns);
    let inode = allocate_inode(txn, parent.slot());
    let mut record = new_inode(inode, Kind::Symlink, (parent, spot.name), attributes, now_ns);
    record.detail = Detail::Target(target.to_owned());
    store(txn, keys::inode(inode), &record);
    link(txn, parent, spot.name, inode, Kind::Symlink, now_ns);
    count(txn, |counters| counters.symlinks += 1);
    events::tell(txn, Change::Created, &record, now_ns);
    Ok(Response::Made { inode })
}

/// Removes a name and what it stands for.
pub(super) fn unlink(
    txn: &mut impl KvTxn,
    (parent, name): (InodeId, &str),
    expected: Option<InodeId>,
    condition: Condition,
    now_ns: u64,
) -> Result<Response, MetaError> {
    check_directory(txn, parent)?;
    let found = child(txn, parent, name);
    if expected.is_some_and(|expected| found.is_none_or(|found| found.inode != expected)) {
        return Err(MetaError::Stale);
    }
    let found = found.ok_or(MetaError::NotFound)?;
    let record: Inode = load(txn, &keys::inode(found.inode)).expect("invariant: a name stands for an inode");
    check_condition(condition, Some(&record))?;
    check_removable(txn, found)?;
    remove(txn, &record, now_ns);
    Ok(Response::Unlinked { inode: found.inode })
}

/// The attributes that a command changes.
pub(super) struct AttributeChange<'a> {
    /// What must hold for the object now.
    pub(super) condition: Condition,
    pub(super) mode: Option<u32>,
    pub(super) mtime_ns: Option<u64>,
    pub(super) symlink_target: Option<&'a str>,
    pub(super) content_type: Option<&'a str>,
    pub(super) user_metadata: Option<&'a [(String, String)]>,
}

/// Changes attributes.
pub(super) fn set_attributes(
    txn: &mut impl KvTxn,
    inode: InodeId,
    change: &AttributeChange<'_>,
    now_ns: u64,
) -> Result<Response, MetaError> {
    let key = keys::inode(inode);
    let mut record: Inode = load(txn, &key).ok_or(MetaError::NotFound)?;
    check_condition(change.condition, Some(&record))?;
    if let Some(target) = change.symlink_target {
        if record.kind != Kind::Symlink {
            return Err(MetaError::NotASymlink);
        }
        check_target(target)?;
        record.detail = Detail::Target(target.to_owned());
    }
    if let Some(content_type) = change.content_type {
        if record.kind != Kind::File {
            return Err(MetaError::NotAFile);
        }
        check_content_type(Some(content_type))?;
        record.detail = Detail::of_file(Some(content_type));
    }
    if let Some(user_metadata) = change.user_metadata {
        check_user_metadata(user_metadata)?;
        record.user_metadata = user_metadata.to_vec();
    }
    record.mode = change.mode.unwrap_or(record.mode);
    record.mtime_ns = change.mtime_ns.unwrap_or(record.mtime_ns);
    store(txn, key, &record);
    events::tell(txn, Change::Attributes, &record, now_ns);
    Ok(Response::Changed)
}

/// Walks to a place; changes nothing.
pub(super) fn find_spot<'a>(txn: &impl KvTxn, at: &'a Place) -> Result<Spot<'a>, MetaError> {
    for name in at.make_dirs.iter().chain([&at.name]) {
        check_name(name).map_err(|_| MetaError::InvalidName)?;
    }
    check_directory(txn, at.parent)?;
    let mut directory = at.parent;
    let mut missing = at.make_dirs.as_slice();
    while let Some((name, rest)) = missing.split_first() {
        match child(txn, directory, name) {
            Some(found) if found.kind != Kind::Directory => return Err(MetaError::NotADirectory),
            Some(found) => directory = found.inode,
            None => break,
        }
        missing = rest;
    }
    Ok(Spot { directory, missing, name: &at.name })
}

impl Spot<'_> {
    /// What has the name already.
    pub(super) fn child(&self, txn: &impl KvTxn) -> Option<Name> {
        if self.missing.is_empty() { child(txn, self.directory, self.name) } else { None }
    }

    /// Checks that no directory comes to lie too deep when `kind` is put here and `directory` lies at `depth`.
    pub(super) fn check_depth(&self, depth: usize, kind: Kind) -> Result<(), MetaError> {
        let deepest = depth + self.missing.len() + usize::from(kind == Kind::Directory);
        if deepest > PATH_DEPTH_MAX { Err(MetaError::TooLarge(Limit::PathDepth)) } else { Ok(()) }
    }

    /// Checks that the missing parents may be made.
    pub(super) fn check_parents(&self, txn: &impl KvTxn) -> Result<(), MetaError> {
        if self.missing.is_empty() {
            return Ok(());
        }
        self.check_depth(climb(txn, self.directory, None)?, Kind::File)
    }

    /// Makes the missing parents. Returns the directory that the name goes into.
    pub(super) fn make_parents(&self, txn: &mut impl KvTxn, owner: u64, now_ns: u64) -> InodeId {
        let attributes = Attributes { owner, ..Attributes::default() };
        self.missing.iter().fold(self.directory, |parent, name| add_directory(txn, parent, name, &attributes, now_ns))
    }
}

/// Climbs from `directory` to the root and returns how deep it lies.
///
/// Errors: `IntoItself` if `moving` is on the way; `TooLarge` beyond the depth that paths may have, which bounds the
/// climb.
pub(super) fn climb(txn: &impl KvTxn, directory: InodeId, moving: Option<InodeId>) -> Result<usize, MetaError> {
    let mut at = directory;
    for depth in 0..=PATH_DEPTH_MAX {
        if Some(at) == moving {
            return Err(MetaError::IntoItself);
        }
        if at == InodeId::ROOT {
            return Ok(depth);
        }
        at = parent_of(txn, at).0;
    }
    Err(MetaError::TooLarge(Limit::PathDepth))
}

/// The directory that the directory `inode` is in, and its name there.
pub(crate) fn parent_of(txn: &impl KvTxn, inode: InodeId) -> (InodeId, String) {
    let value = txn.get(&keys::inode(inode)).expect("invariant: a parent outlives what is in it");
    let record = access::<Inode>(value).expect("invariant: values of the state were checked");
    (InodeId(record.parent.0.to_native()), record.name.as_str().to_owned())
}

/// What `name` stands for in `directory`.
pub(super) fn child(txn: &impl KvTxn, directory: InodeId, name: &str) -> Option<Name> {
    load(txn, &keys::name(directory, name))
}

/// Checks that `inode` is a directory.
pub(super) fn check_directory(txn: &impl KvTxn, inode: InodeId) -> Result<(), MetaError> {
    if txn.get(&keys::directory(inode)).is_some() {
        Ok(())
    } else if txn.get(&keys::inode(inode)).is_some() {
        Err(MetaError::NotADirectory)
    } else {
        Err(MetaError::Stale)
    }
}

/// Checks that what a name stands for may be removed: anything but a directory that holds names.
pub(super) fn check_removable(txn: &impl KvTxn, found: Name) -> Result<(), MetaError> {
    if found.kind == Kind::Directory && directory_record(txn, found.inode).entries > 0 {
        return Err(MetaError::NotEmpty);
    }
    Ok(())
}

/// Checks that a condition holds for what a name stands for.
pub(super) fn check_condition(condition: Condition, current: Option<&Inode>) -> Result<(), MetaError> {
    let holds = condition.holds(current.map(|current| (current.inode, current.version)));
    if holds || planted::is(Bug::ConditionIgnored) {
        return Ok(());
    }
    Err(MetaError::ConditionFailed { current: current.map(|current| current.version) })
}

/// Checks the media type of a file.
pub(super) fn check_content_type(content_type: Option<&str>) -> Result<(), MetaError> {
    match content_type {
        Some(text) if text.len() > CONTENT_TYPE_BYTES_MAX => Err(MetaError::TooLarge(Limit::ContentTypeBytes)),
        Some(text) if !is_content_type(text) => Err(MetaError::InvalidContentType),
        _ => Ok(()),
    }
}

/// Checks user metadata against its limits.
pub(super) fn check_user_metadata(pairs: &[(String, String)]) -> Result<(), MetaError> {
    if pairs.len() > USER_METADATA_PAIRS_MAX {
        return Err(MetaError::TooLarge(Limit::UserMetadataPairs));
    }
    let bytes: usize = pairs.iter().map(|(name, value)| name.len() + value.len()).sum();
    if bytes > USER_METADATA_BYTES_MAX {
        return Err(MetaError::TooLarge(Limit::UserMetadataBytes));
    }
    Ok(())
}

fn check_target(target: &str) -> Result<(), MetaError> {
    match target.len() {
        0 => Err(MetaError::InvalidName),
        1..=SYMLINK_BYTES_MAX => Ok(()),
        _ => Err(MetaError::TooLarge(Limit::SymlinkBytes)),
    }
}

/// Takes the next inode of `slot`. Numbers are never given out twice.
pub(super) fn allocate_inode(txn: &mut impl KvTxn, slot: u16) -> InodeId {
    let key = keys::slot_counter(slot);
    let Number(next) = load(txn, &key).unwrap_or(Number(1));
    store(txn, key, &Number(next + 1));
    InodeId::new(slot, next)
}

/// Returns a new record; `at` is its directory and name.
pub(super) fn new_inode(
    inode: InodeId,
    kind: Kind,
    at: (InodeId, &str),
    attributes: &Attributes,
    now_ns: u64,
) -> Inode {
    let default_mode = match kind {
        Kind::File => FILE_MODE,
        Kind::Directory => DIRECTORY_MODE,
        Kind::Symlink => SYMLINK_MODE,
    };
    Inode {
        inode,
        kind,
        parent: at.0,
        name: at.1.to_owned(),
        mode: attributes.mode.unwrap_or(default_mode),
        owner: attributes.owner,
        nlink: 1,
        created_ns: now_ns,
        committed_ns: now_ns,
        mtime_ns: attributes.mtime_ns.unwrap_or(now_ns),
        version: VersionNumber(0),
        size: 0,
        detail: Detail::None,
        user_metadata: attributes.user_metadata.clone(),
    }
}

/// Makes the directory `name` in `parent`, which has no such name.
fn add_directory(txn: &mut impl KvTxn, parent: InodeId, name: &str, attributes: &Attributes, now_ns: u64) -> InodeId {
    // Directories spread over the slots, and files follow their directory; so the slots share the load.
    let place = [&parent.0.to_be_bytes(), name.as_bytes()].concat();
    let inode = allocate_inode(txn, (checksum(&place) >> (u64::BITS - SLOT_BITS)) as u16);
    let record = new_inode(inode, Kind::Directory, (parent, name), attributes, now_ns);
    put_directory(txn, &record);
    link(txn, parent, name, inode, Kind::Directory, now_ns);
    events::tell(txn, Change::Created, &record, now_ns);
    inode
}

fn put_directory(txn: &mut impl KvTxn, record: &Inode) {
    store(txn, keys::inode(record.inode), record);
    store(txn, keys::directory(record.inode), &Directory { version: 1, fragments: 1, entries: 0, retention: None });
    count(txn, |counters| counters.directories += 1);
}

fn directory_record(txn: &impl KvTxn, inode: InodeId) -> Directory {
    load(txn, &keys::directory(inode)).expect("invariant: the caller found this directory")
}

/// Adds a name that is not there.
pub(super) fn link(txn: &mut impl KvTxn, directory: InodeId, name: &str, inode: InodeId, kind: Kind, now_ns: u64) {
    let key = keys::name(directory, name);
    assert!(txn.get(&key).is_none(), "invariant: the caller checked that the name is free");
    let mut record = directory_record(txn, directory);
    record.entries += 1;
    let generation = put_changed_directory(txn, directory, record, now_ns);
    store(txn, key, &Name { inode, kind, generation });
}

/// Removes a name that is there.
pub(super) fn remove_name(txn: &mut impl KvTxn, directory: InodeId, name: &str, now_ns: u64) {
    let key = keys::name(directory, name);
    assert!(txn.get(&key).is_some(), "invariant: the caller found this name");
    txn.delete(&key);
    let mut record = directory_record(txn, directory);
    record.entries = record.entries.checked_sub(1).expect("invariant: the entries count the names");
    put_changed_directory(txn, directory, record, now_ns);
}

/// Stores a directory whose names changed. Returns its new version.
fn put_changed_directory(txn: &mut impl KvTxn, directory: InodeId, mut record: Directory, now_ns: u64) -> u64 {
    record.version += 1;
    store(txn, keys::directory(directory), &record);
    let key = keys::inode(directory);
    let mut inode: Inode = load(txn, &key).expect("invariant: a directory has an inode");
    inode.mtime_ns = now_ns;
    store(txn, key, &inode);
    record.version
}

/// Removes an object with all its versions, and its name.
pub(super) fn remove(txn: &mut impl KvTxn, found: &Inode, now_ns: u64) {
    events::tell(txn, Change::Deleted, found, now_ns);
    remove_object(txn, found);
    remove_name(txn, found.parent, &found.name, now_ns);
}

fn remove_object(txn: &mut impl KvTxn, found: &Inode) {
    txn.delete(&keys::inode(found.inode));
    match found.kind {
        Kind::Directory => {
            txn.delete(&keys::directory(found.inode));
            count(txn, |counters| counters.directories -= 1);
        }
        Kind::Symlink => count(txn, |counters| counters.symlinks -= 1),
        Kind::File => {
            let sizes = |(key, value): (Vec<u8>, &[u8])| {
                let content = own::<Version>(value).content;
                (key, content.size(), content.inline_bytes())
            };
            let versions: Vec<_> = txn.range(&keys::versions(found.inode)).map(sizes).collect();
            let pasts: Vec<_> = txn.range(&keys::all_pasts(found.inode)).map(|(key, _)| key).collect();
            for key in versions.iter().map(|(key, ..)| key).chain(&pasts) {
                txn.delete(key);
            }
            count(txn, |counters| {
                counters.files -= u64::from(!planted::is(Bug::CountedAfterRemoval));
                for (_, size, inline) in &versions {
                    counters.logical_bytes = counters.logical_bytes.wrapping_sub(*size);
                    counters.inline_bytes = counters.inline_bytes.wrapping_sub(*inline);
                }
            });
        }
    }
}

/// Changes the totals.
pub(super) fn count(txn: &mut impl KvTxn, change: impl FnOnce(&mut Counters)) {
    let mut counters: Counters = load(txn, keys::COUNTERS).unwrap_or_default();
    change(&mut counters);
    store(txn, keys::COUNTERS.to_vec(), &counters);
}
