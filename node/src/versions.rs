//! The versions of a file: listed, looked at, brought back.
//!
//! Every commit keeps the version before it. Versions go with the file, when it is removed, or replaced by a rename; and
//! one by one, the oldest first, when no [`retention`](crate::retention) keeps them any longer.

use meta::{Command, Condition, Detail, MetaError, Past, Response, Session};
use proto::VersionNumber;
use proto::api::Kind;
use proto::limits::LIST_PAGE_ENTRIES_MAX;
use proto::path::FsPath;
use proto::port::{Disk, runtime};

use crate::error::ChangeError;
use crate::info::FileInfo;
use crate::namespace::{Namespace, Target};

/// One page of the versions of a file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct VersionPage {
    /// The file's path.
    pub path: String,
    /// Its versions, newest first.
    pub versions: Vec<VersionInfo>,
    /// Version after which the next page starts; `None` on the last page.
    pub next_after: Option<VersionNumber>,
}

/// One version of a file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct VersionInfo {
    /// The file as it was while this was the current one.
    pub info: FileInfo,
    /// From when on the retention lets it go, in nanoseconds since the Unix epoch, but never before those that are
    /// older; `None` for the current version, and as long as no further version comes. 0 if no rule looks at the clock.
    pub lets_go_at_ns: Option<u64>,
}

impl<D: Disk> Namespace<D> {
    /// Describes a file as it was at `version`: its size, times, mode, media type and user metadata.
    ///
    /// Errors: `NotFound`, `NotADirectory`, `NotAFile`, `NoSuchVersion`, `VersionExpired`.
    pub fn stat_version(&self, target: &Target, version: VersionNumber) -> Result<FileInfo, MetaError> {
        let info = self.stat_file(target)?;
        if version == info.version() {
            return Ok(info);
        }
        let inode = info.inode.inode;
        let past = self.meta.view(|view| view.past(inode, version).ok_or_else(|| view.why_missing(inode, version)));
        Ok(info.at(version, past?))
    }

    /// Lists up to `limit` versions of a file, newest first; below `after`, if it is given.
    ///
    /// Errors: `NotFound`, `NotADirectory`, `NotAFile`.
    pub fn versions(
        &self,
        target: &Target,
        after: Option<VersionNumber>,
        limit: usize,
    ) -> Result<VersionPage, MetaError> {
        let info = self.stat_file(target)?;
        let limit = limit.clamp(1, LIST_PAGE_ENTRIES_MAX);
        let before = after.unwrap_or(VersionNumber(u64::MAX));
        let mut versions = self.meta.view(|view| {
            // One more than asked for tells whether a next page exists.
            let pasts = view.pasts(info.inode.inode, before, limit + 1);
            let current = (info.version() < before).then(|| info.clone());
            let earlier = pasts.into_iter().map(|(version, past)| info.clone().at(version, past));
            let retention = view.retention_in_force(info.inode.parent).map(|in_force| in_force.retention);
            let lets_go_at = |version| retention.and_then(|rules| view.lets_go_at(&info.inode, version, rules));
            let version = |info: FileInfo| VersionInfo { lets_go_at_ns: lets_go_at(info.version()), info };
            current.into_iter().chain(earlier).map(version).collect::<Vec<_>>()
        });
        let more = versions.len() > limit;
        versions.truncate(limit);
        let next_after = versions.last().filter(|_| more).map(|version| version.info.version());
        Ok(VersionPage { path: info.path, versions, next_after })
    }

    /// Makes `version` of the file at `path` its next one, with the attributes that it had; no data is copied.
    ///
    /// Errors: `NotFound`, `NotADirectory`, `NotAFile`, `NoSuchVersion`, `VersionExpired`, `ConditionFailed`, or the
    /// log's.
    pub async fn restore(
        &self,
        path: &FsPath,
        version: VersionNumber,
        condition: Condition,
        session: Option<Session>,
    ) -> Result<FileInfo, ChangeError> {
        let now_ns = runtime::unix_ns();
        let command = |at| Command::Restore { at, version, condition, session, now_ns };
        match self.propose_at(path, command).await? {
            Response::Committed { inode, version, .. } => {
                let mut info = self.info_after(path, Kind::File, inode);
                // Others may have overwritten or removed the file already; the answer describes what was restored.
                let past = self.meta.view(|view| view.past(inode, version));
                info.inode.version = version;
                Ok(past.map_or(info.clone(), |past| info.at(version, past)))
            }
            other => unreachable!("invariant: a restore answers Committed, not {other:?}"),
        }
    }

    fn stat_file(&self, target: &Target) -> Result<FileInfo, MetaError> {
        let info = self.stat(target)?;
        if info.kind() == Kind::File { Ok(info) } else { Err(MetaError::NotAFile) }
    }
}

impl FileInfo {
    /// The file as it was at an earlier version, under the name that it has now.
    fn at(mut self, version: VersionNumber, past: Past) -> FileInfo {
        let Past { committed_ns, mtime_ns, size, mode, content_type, user_metadata } = past;
        let detail = content_type.map_or(Detail::None, Detail::ContentType);
        self.inode = meta::Inode { version, committed_ns, mtime_ns, size, mode, detail, user_metadata, ..self.inode };
        self
    }
}
