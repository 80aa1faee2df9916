//! Retention: which earlier versions of files stay, and letting the others go.
//!
//! ```text
//!   set_retention ─▶ in force from then on        what it no longer keeps stays readable until the next pass
//!   expire        ─▶ a look at some hundred files ─▶ a command for each that has versions to let go ─▶ the next look
//! ```
//!
//! Letting a version go gives no space back by itself: its chunks have lost a reference, and garbage collection finds out
//! which of them have none left. So a pass comes before each collection.
//!
//! Invariants:
//!
//! * A look only chooses files. Which versions go is decided when the command is applied, by the retention in force then.
//! * A pass holds up the namespace for no longer than a look or a command takes, and keeps nothing between two of them
//!   but a place among the inodes. One that is cut short has let some versions go, and the next one goes on.

use std::rc::Rc;

use futures_util::future::try_join_all;
use meta::{Command, Condition, InForce, MetaError, ProposeError, Response, Retention, Session};
use proto::InodeId;
use proto::api::Kind;
use proto::limits::EXPIRE_VERSIONS_MAX;
use proto::port::{Disk, runtime};

use crate::error::ChangeError;
use crate::info::path_text;
use crate::namespace::{NO_INODE, Namespace, Target};
use crate::{BUSY_PAUSE, Node};

/// Files with earlier versions that one look takes: a few lookups in memory for each.
const LOOK_FILES: usize = 256;
/// Commands that are proposed together, so that they share a sync, and leave the queue to others.
const COMMANDS_AT_ONCE: usize = 16;

/// The retention of an object.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RetentionInfo {
    /// The object's path.
    pub path: String,
    /// Its own retention; only directories have one.
    pub own: Option<Retention>,
    /// What holds for the versions of a file, or of the files directly in a directory.
    pub in_force: Retention,
    /// Path of the directory that this comes from; `None` if nothing was set, and every version stays.
    pub from: Option<String>,
}

/// What a pass has let go.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Expired {
    /// Versions.
    pub versions: u64,
    /// Their plain bytes. What they shared with others does not come back with them.
    pub bytes: u64,
    /// Whether all files were looked at; otherwise the pass met its maximum first.
    pub is_complete: bool,
}

impl<D: Disk> Namespace<D> {
    /// The retention of an object: its own, and the one in force.
    ///
    /// Errors: `NotFound`, `NotADirectory`.
    pub fn retention(&self, target: &Target) -> Result<RetentionInfo, MetaError> {
        let info = self.stat(target)?;
        let is_directory = info.kind() == Kind::Directory;
        let directory = if is_directory { info.inode.inode } else { info.inode.parent };
        Ok(self.meta.view(|view| {
            let in_force = view.retention_in_force(directory);
            let path_of = |in_force: InForce| view.path_of(in_force.directory).map(|names| path_text(&names));
            RetentionInfo {
                path: info.path,
                own: view.own_retention(directory).filter(|_| is_directory),
                in_force: in_force.map_or(Retention::EVERYTHING, |in_force| in_force.retention),
                from: in_force.and_then(path_of),
            }
        }))
    }

    /// Sets the retention of a directory, or clears it, if `condition` holds for it.
    ///
    /// Errors: `NotFound`, `NotADirectory`, `InvalidRetention`, `ConditionFailed`, or the log's.
    pub async fn set_retention(
        &self,
        target: &Target,
        retention: Option<Retention>,
        condition: Condition,
        session: Option<Session>,
    ) -> Result<RetentionInfo, ChangeError> {
        let (directory, path) = match self.stat(target) {
            Ok(info) => (info.inode.inode, info.path),
            // A retried request whose first answer was lost: the log remembers what came of it.
            Err(MetaError::NotFound) if session.is_some() => (NO_INODE, String::new()),
            Err(error) => return Err(error.into()),
        };
        let now_ns = runtime::unix_ns();
        self.propose(Command::SetRetention { directory, retention, condition, session, now_ns }).await?;
        // If somebody else has removed it since, what is left to tell is what was asked for.
        let in_force = retention.unwrap_or(Retention::EVERYTHING);
        let asked_for = RetentionInfo { path, own: retention, in_force, from: None };
        Ok(self.retention(target).unwrap_or(asked_for))
    }

    /// Lets go what the retention of a file does not keep, as much as one command takes.
    ///
    /// Errors: the log's.
    async fn expire_some(&self, inode: InodeId) -> Result<(u64, u64), ChangeError> {
        loop {
            match self.propose(Command::ExpireVersions { inode, now_ns: runtime::unix_ns() }).await {
                Ok(Response::Expired { versions, bytes }) => return Ok((versions, bytes)),
                Ok(other) => unreachable!("invariant: it answers Expired, not {other:?}"),
                // Nobody waits for it.
                Err(ChangeError::Log(ProposeError::Busy)) => runtime::sleep(BUSY_PAUSE).await,
                Err(error) => return Err(error),
            }
        }
    }
}

impl<D: Disk> Node<D> {
    /// See [`Namespace::retention`].
    ///
    /// Errors: as there.
    pub async fn retention(&self, target: Target) -> Result<RetentionInfo, MetaError> {
        self.ask_names(move |names| names.retention(&target)).await
    }

    /// See [`Namespace::set_retention`].
    ///
    /// Errors: as there.
    pub async fn set_retention(
        &self,
        target: Target,
        retention: Option<Retention>,
        condition: Condition,
        session: Option<Session>,
    ) -> Result<RetentionInfo, ChangeError> {
        self.names(move |names| async move { names.set_retention(&target, retention, condition, session).await }).await
    }

    /// Lets go all versions that no retention keeps; ends early once it has let `versions_max` go, or up to
    /// `COMMANDS_AT_ONCE` times [`EXPIRE_VERSIONS_MAX`] more. Files that come meanwhile may be left for the next pass.
    ///
    /// Any core may call it. Two passes at the same time do no harm.
    ///
    /// Errors: the log's. What was let go until then stays so.
    pub async fn expire(&self, versions_max: u64) -> Result<Expired, ChangeError> {
        let mut expired = Expired::default();
        let mut after = None;
        loop {
            let look =
                move |names: &Namespace<D>| names.meta.view(|view| view.expired(after, runtime::unix_ns(), LOOK_FILES));
            let (mut files, next) = self.ask_names(look).await;
            while !files.is_empty() {
                if expired.versions >= versions_max {
                    return Ok(expired);
                }
                let now = files.split_off(files.len().saturating_sub(COMMANDS_AT_ONCE));
                let some = now.iter().map(|file| self.expire_some(*file));
                for (file, (versions, bytes)) in now.iter().zip(try_join_all(some).await?) {
                    expired.versions += versions;
                    expired.bytes = expired.bytes.saturating_add(bytes);
                    if versions == EXPIRE_VERSIONS_MAX {
                        files.push(*file);
                    }
                }
            }
            after = next;
            if after.is_none() {
                return Ok(Expired { is_complete: true, ..expired });
            }
            runtime::yield_now().await;
        }
    }

    async fn expire_some(&self, inode: InodeId) -> Result<(u64, u64), ChangeError> {
        self.names(move |names: Rc<Namespace<D>>| async move { names.expire_some(inode).await }).await
    }
}
