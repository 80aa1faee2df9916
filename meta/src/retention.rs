//! Retention: which earlier versions of a file stay, and for how long.
//!
//! ```text
//!   /            keeps the newest 10            A directory's retention holds for all files below it,
//!   ├─ a/f       10                             down to directories that have their own. Without any,
//!   ├─ b/        keeps for 30 days              every version stays.
//!   │  └─ c/f    30 days
//!   └─ d/        keeps everything
//! ```
//!
//! Invariants:
//!
//! * The current version of a file always stays.
//! * Versions go oldest first. So those that are left have consecutive numbers, up to that of the current one, and how
//!   many are newer than one of them follows from its number.

#![allow(missing_docs, reason = "rkyv derives public resolvers whose fields it leaves undocumented")]

use std::collections::BTreeMap;

use proto::api::Kind;
use proto::planted::{self, Bug};
use proto::{InodeId, VersionNumber};
use rkyv::{Archive, Deserialize, Serialize};

use crate::command::MetaError;
use crate::exec::parent_of;
use crate::keys;
use crate::record::{Directory, Inode, Past};
use crate::txn::{KvTxn, load};

/// Which earlier versions stay: each as long as one of the rules that are given keeps it; every one if none is given.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Archive, Serialize, Deserialize)]
pub struct Retention {
    /// Keeps the newest versions, the current one among them; at least 1.
    pub keep: Option<u32>,
    /// Keeps a version until so long after the next one was committed, in nanoseconds; at least 1.
    pub keep_for_ns: Option<u64>,
}

impl Retention {
    /// Keeps every version: what holds without any, and what a directory says to be exempt from the one above it.
    pub const EVERYTHING: Retention = Retention { keep: None, keep_for_ns: None };

    /// Checks that no rule keeps nothing, as one does that was meant to be left out.
    ///
    /// Errors: `InvalidRetention`.
    pub(crate) fn check(self) -> Result<(), MetaError> {
        if self.keep == Some(0) || self.keep_for_ns == Some(0) { Err(MetaError::InvalidRetention) } else { Ok(()) }
    }

    /// From when on this lets an earlier version go, in nanoseconds since the Unix epoch, if `newer` versions came
    /// after it (the current one among them), the first of them at `superseded_ns`. `None`: not before more come; 0 if
    /// no rule looks at the clock.
    #[must_use]
    pub fn lets_go_at(self, newer: u64, superseded_ns: u64) -> Option<u64> {
        let newer = newer + u64::from(planted::is(Bug::VersionTooFewKept));
        let is_among_newest = self.keep.is_some_and(|keep| newer < u64::from(keep));
        if self == Retention::EVERYTHING || is_among_newest {
            return None;
        }
        Some(self.keep_for_ns.map_or(0, |for_ns| superseded_ns.saturating_add(for_ns)))
    }
}

/// The retention that holds for the files of a directory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct InForce {
    /// The directory that has it: that one, or one above it.
    pub directory: InodeId,
    /// What it is.
    pub retention: Retention,
}

/// The own retention of a directory.
pub(crate) fn own(txn: &impl KvTxn, directory: InodeId) -> Option<Retention> {
    load::<Directory>(txn, &keys::directory(directory))?.retention
}

/// The retention that holds for the files of `directory`; `None` if no directory on the way to the root has one.
pub(crate) fn in_force(txn: &impl KvTxn, directory: InodeId) -> Option<InForce> {
    let mut at = directory;
    loop {
        match own(txn, at) {
            Some(retention) => return Some(InForce { directory: at, retention }),
            None if at == InodeId::ROOT => return None,
            None => at = parent_of(txn, at).0,
        }
    }
}

/// The oldest version that is left of a file; `None` if there is no such file.
pub(crate) fn oldest(txn: &impl KvTxn, inode: InodeId) -> Option<VersionNumber> {
    txn.range(&keys::versions(inode)).next().map(|(key, _)| keys::version_of(&key))
}

/// Why a file has no `version`: it was let go, or it never was.
pub(crate) fn why_missing(txn: &impl KvTxn, inode: InodeId, version: VersionNumber) -> MetaError {
    match oldest(txn, inode) {
        Some(oldest) if (VersionNumber(1)..oldest).contains(&version) => MetaError::VersionExpired { oldest },
        _ => MetaError::NoSuchVersion,
    }
}

/// From when on `retention` lets an earlier version of `file` go, in nanoseconds since the Unix epoch, if those before
/// it have gone; `None`: not before more versions come, or it is the current one.
pub(crate) fn lets_go_at(txn: &impl KvTxn, file: &Inode, version: VersionNumber, retention: Retention) -> Option<u64> {
    let newer = file.version.0.checked_sub(version.0).filter(|newer| *newer > 0)?;
    let superseded_ns = if newer == 1 {
        file.committed_ns
    } else {
        let next: Past = load(txn, &keys::past(file.inode, VersionNumber(version.0 + 1)))?;
        next.committed_ns
    };
    retention.lets_go_at(newer, superseded_ns)
}

/// Looks at up to `limit` files that have earlier versions and whose inodes come after `after`. Returns those of which
/// at least the oldest version is let go at `now_ns`, and where to go on; `None` after the last.
pub(crate) fn expired(
    txn: &impl KvTxn,
    mut after: Option<InodeId>,
    now_ns: u64,
    limit: usize,
) -> (Vec<InodeId>, Option<InodeId>) {
    let mut files = Vec::new();
    // Files of a directory mostly follow each other, and many directories share one retention.
    let mut by_directory: BTreeMap<InodeId, Option<InForce>> = BTreeMap::new();
    for _ in 0..limit {
        let Some((key, _)) = txn.range(&keys::pasts_after(after)).next() else { return (files, None) };
        let inode = keys::inode_of_past(&key);
        after = Some(inode);
        let file: Inode = load(txn, &keys::inode(inode)).expect("invariant: an earlier version has a file");
        assert_eq!(file.kind, Kind::File, "invariant: only files have versions");
        let in_force = *by_directory.entry(file.parent).or_insert_with(|| in_force(txn, file.parent));
        let oldest = oldest(txn, inode).expect("invariant: a file has a version");
        let at = in_force.and_then(|in_force| lets_go_at(txn, &file, oldest, in_force.retention));
        if at.is_some_and(|at| at <= now_ns) {
            files.push(inode);
        }
    }
    (files, after)
}
