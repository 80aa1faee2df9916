//! Names: stat, list, make, move, remove. Each change is one metadata command, durable before it is answered.
//!
//! One core of a node has the [`Namespace`]; the others reach it through [`Node`](crate::Node)'s calls.

use std::cell::{Cell, RefCell};
use std::future::Future;
use std::rc::Rc;

use futures_channel::oneshot;
use futures_util::FutureExt;
use meta::{
    Attributes, Command, Condition, Content, Detail, Inode, MetaError, Place, ProposeError, Response, Session, Solo,
};
use proto::api::Kind;
use proto::limits::LIST_PAGE_ENTRIES_MAX;
use proto::path::FsPath;
use proto::port::{Disk, runtime};
use proto::{ClusterId, FileId, InodeId, VersionNumber};

use crate::GROUP;
use crate::barrier::Barrier;
use crate::checkpoint::Taken;
use crate::error::ChangeError;
use crate::gc::Desk;
use crate::info::FileInfo;
use crate::room;
use crate::write::{Committed, PutOptions};

/// Entries that one step of a recursive removal takes.
const REMOVE_PAGE_ENTRIES: usize = 256;
/// How often a removal looks again when what it removes changes under it.
const REMOVE_ATTEMPTS_MAX: usize = 8;
/// No object has this inode. A request whose object is not found may be the repetition of one that succeeded: it is
/// proposed for this inode, so that only a remembered answer can be a success.
pub(crate) const NO_INODE: InodeId = InodeId(0);

/// How a caller names an object.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Target {
    /// By path. Symlinks are not followed.
    Path(FsPath),
    /// By public id.
    Id(FileId),
}

/// Whether a directory goes with what is in it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Removal {
    /// A directory must be empty.
    Single,
    /// A directory goes with everything below it. A crash may leave part of it.
    Recursive,
}

/// One page of a directory.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ListPage {
    /// The directory's path.
    pub path: String,
    /// Its entries, ordered by name, bytewise.
    pub entries: Vec<FileInfo>,
    /// Name after which the next page starts; `None` on the last page.
    pub next_after: Option<String>,
}

/// Which attributes to change; absent ones stay.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct AttributeChange {
    /// Unix permission bits.
    pub mode: Option<u32>,
    /// Modification time in nanoseconds since the Unix epoch.
    pub mtime_ns: Option<u64>,
    /// Where a symlink points.
    pub symlink_target: Option<String>,
    /// Media type of a file.
    pub content_type: Option<String>,
    /// Replaces all user metadata.
    pub user_metadata: Option<Vec<(String, String)>>,
}

/// The names of a node, on the core that has its metadata.
pub struct Namespace<D: Disk> {
    pub(crate) meta: Solo<D>,
    /// Where the metadata lies.
    pub(crate) disk: D,
    pub(crate) cluster: ClusterId,
    /// Where the cores wait for each other while they start.
    pub(crate) barrier: Barrier,
    /// Who wants to hear of the next segment that is settled.
    settled: RefCell<Option<oneshot::Sender<()>>>,
    /// Of the chunk index.
    pub(crate) checkpoints: Cell<Taken>,
    /// Garbage collection: what was asked for, and how it goes.
    pub(crate) gc: Rc<Desk>,
}

impl<D: Disk> Namespace<D> {
    pub(crate) fn new(meta: Solo<D>, disk: D, cluster: ClusterId) -> Namespace<D> {
        Namespace {
            meta,
            disk,
            cluster,
            barrier: Barrier::default(),
            settled: RefCell::default(),
            checkpoints: Cell::default(),
            gc: Rc::default(),
        }
    }

    /// A segment takes no more appends.
    pub(crate) fn segment_settled(&self) {
        // An error means the same as a message.
        self.settled.take();
    }

    pub(crate) fn count_checkpoint(&self, taken: bool) {
        let Taken { taken: before, failed } = self.checkpoints.get();
        let counts =
            if taken { Taken { taken: before + 1, failed } } else { Taken { taken: before, failed: failed + 1 } };
        self.checkpoints.set(counts);
    }

    /// Completes when the next segment is settled. One caller at a time.
    pub(crate) fn next_settled(&self) -> impl Future<Output = ()> + use<D> {
        let (tell, settled) = oneshot::channel();
        *self.settled.borrow_mut() = Some(tell);
        settled.map(|_| ())
    }
}

/// One object on the way down of a recursive removal, and the name that led to it.
struct Step {
    parent: InodeId,
    name: String,
    inode: InodeId,
}

impl<D: Disk> Namespace<D> {
    /// Describes an object.
    ///
    /// Errors: `NotFound`, `NotADirectory`.
    pub fn stat(&self, target: &Target) -> Result<FileInfo, MetaError> {
        let cluster = self.cluster;
        self.meta.view(|view| match target {
            Target::Path(path) => {
                let inode = view.inode(view.resolve(path.names())?.inode).ok_or(MetaError::NotFound)?;
                Ok(FileInfo::new(cluster, inode, path.to_string()))
            }
            Target::Id(id) => {
                let inode = id.inode(cluster).ok_or(MetaError::NotFound)?;
                FileInfo::find(cluster, view, inode).ok_or(MetaError::NotFound)
            }
        })
    }

    /// Lists up to `limit` entries of a directory whose names come after `after`.
    ///
    /// Errors: `NotFound`, `NotADirectory`.
    pub fn list(&self, target: &Target, after: Option<&str>, limit: usize) -> Result<ListPage, MetaError> {
        let directory = self.stat(target)?;
        if directory.kind() != Kind::Directory {
            return Err(MetaError::NotADirectory);
        }
        let limit = limit.clamp(1, LIST_PAGE_ENTRIES_MAX);
        self.meta.view(|view| {
            // One more than asked for tells whether a next page exists.
            let mut names = view.list(directory.inode.inode, after, limit + 1);
            let more = names.len() > limit;
            names.truncate(limit);
            let next_after = names.last().filter(|_| more).map(|(name, _)| name.clone());
            let prefix = directory.path.trim_end_matches('/');
            let info = |(name, inode): (String, InodeId)| {
                let inode = view.inode(inode).expect("invariant: a name leads to an inode");
                FileInfo::new(self.cluster, inode, format!("{prefix}/{name}"))
            };
            let entries = names.into_iter().map(info).collect();
            Ok(ListPage { path: directory.path, entries, next_after })
        })
    }

    /// Describes a file and returns its content, at `version` or at the current one.
    ///
    /// Errors: `NotFound`, `NotADirectory`, `IsADirectory`; a symlink is `NotFound`. With a version also `NotAFile`,
    /// `NoSuchVersion`.
    pub fn open(&self, target: &Target, version: Option<VersionNumber>) -> Result<(FileInfo, Content), MetaError> {
        let info = match version {
            Some(version) => self.stat_version(target, version)?,
            None => self.stat(target)?,
        };
        match info.kind() {
            Kind::File => {}
            Kind::Directory => return Err(MetaError::IsADirectory),
            Kind::Symlink => return Err(MetaError::NotFound),
        }
        let content = self.meta.view(|view| view.content(info.inode.inode, info.inode.version));
        Ok((info, content.ok_or(MetaError::NotFound)?))
    }

    /// Commits a version whose bytes are durable, and whose chunks were pinned at `pin_epoch` or later, making missing
    /// parents.
    ///
    /// Errors: what the condition says, `IsADirectory`, `StaleEpoch`, or the log's.
    pub async fn commit(
        &self,
        path: &FsPath,
        content: Content,
        options: PutOptions,
        pin_epoch: u64,
    ) -> Result<Committed, ChangeError> {
        let size = content.size();
        let command = |at: Place| Command::CommitFile {
            at,
            content,
            attributes: options.attributes,
            condition: options.condition,
            session: options.session,
            now_ns: runtime::unix_ns(),
            pin_epoch,
        };
        let response = self.propose_at(path, command).await?;
        let Response::Committed { inode, version, created } = response else {
            unreachable!("invariant: a commit answers Committed");
        };
        // Others may have overwritten the file already; the answer describes what was committed.
        let mut info = self.info_after(path, Kind::File, inode);
        info.inode.version = version;
        info.inode.size = size;
        Ok(Committed { info, created })
    }

    /// Makes a directory and its missing parents.
    ///
    /// Errors: `AlreadyExists`, `NotADirectory`, or the log's.
    pub async fn make_directory(
        &self,
        path: &FsPath,
        attributes: Attributes,
        session: Option<Session>,
    ) -> Result<FileInfo, ChangeError> {
        let now_ns = runtime::unix_ns();
        let command = |at| Command::MakeDirectory { at, attributes, session, now_ns };
        self.made(path, Kind::Directory, self.propose_at(path, command).await?)
    }

    /// Makes a symlink and its missing parents; the target is not interpreted.
    ///
    /// Errors: `AlreadyExists`, `NotADirectory`, `TooLarge`, or the log's.
    pub async fn make_symlink(
        &self,
        path: &FsPath,
        target: &str,
        attributes: Attributes,
        session: Option<Session>,
    ) -> Result<FileInfo, ChangeError> {
        let now_ns = runtime::unix_ns();
        let target = target.to_owned();
        let command = |at| Command::MakeSymlink { at, target, attributes, session, now_ns };
        self.made(path, Kind::Symlink, self.propose_at(path, command).await?)
    }

    /// Moves an object to another path, making missing parents.
    ///
    /// Errors: `NotFound`, `AlreadyExists` unless `replace`, `NotEmpty`, `IntoItself`, or the log's.
    pub async fn rename(
        &self,
        from: &FsPath,
        to: &FsPath,
        replace: bool,
        session: Option<Session>,
    ) -> Result<FileInfo, ChangeError> {
        let from = place(from).ok_or(ChangeError::Root)?;
        let now_ns = runtime::unix_ns();
        let command = |to| Command::Rename { from, to, replace, session, now_ns };
        match self.propose_at(to, command).await? {
            Response::Renamed { inode } => Ok(self.info_after(to, Kind::File, inode)),
            other => unreachable!("invariant: a rename answers Renamed, not {other:?}"),
        }
    }

    /// Removes an object.
    ///
    /// Errors: `NotFound`, `NotEmpty` unless recursive, or the log's.
    pub async fn remove(&self, target: &Target, how: Removal, session: Option<Session>) -> Result<(), ChangeError> {
        self.remove_if(target, how, Condition::Any, session).await
    }

    /// Removes an object if `condition` holds for it.
    ///
    /// Errors: `ConditionFailed`, and those of [`Namespace::remove`].
    pub async fn remove_if(
        &self,
        target: &Target,
        how: Removal,
        condition: Condition,
        session: Option<Session>,
    ) -> Result<(), ChangeError> {
        if how == Removal::Recursive && session.is_some() {
            // The repetition of a removal that succeeded must not empty what has the name now.
            match self.remove_again(session).await {
                Err(ChangeError::Refused(MetaError::NotFound)) => {}
                answered => return answered,
            }
        }
        for attempt in 1.. {
            let info = match self.stat(target) {
                Ok(info) => info.inode,
                // A retried request whose first answer was lost: the log remembers what came of it.
                Err(MetaError::NotFound) if session.is_some() => return self.remove_again(session).await,
                Err(error) => return Err(error.into()),
            };
            if info.inode == InodeId::ROOT {
                return Err(ChangeError::Root);
            }
            if how == Removal::Recursive && info.kind == Kind::Directory {
                // What is below goes first, so this cannot wait for the commit. No directory changes its version.
                if !condition.holds(Some((info.inode, info.version))) {
                    return Err(MetaError::ConditionFailed { current: Some(info.version) }.into());
                }
                match self.remove_below(&info, session).await {
                    Err(ChangeError::Refused(MetaError::Answered)) => return self.remove_again(session).await,
                    removed => removed?,
                }
            }
            let (parent, name, inode) = (info.parent, info.name, Some(info.inode));
            let command = Command::Unlink { parent, name, inode, condition, session, now_ns: runtime::unix_ns() };
            match self.propose(command).await {
                // A name that came meanwhile, or a move: look again.
                Err(ChangeError::Refused(MetaError::NotEmpty))
                    if how == Removal::Recursive && attempt < REMOVE_ATTEMPTS_MAX => {}
                Err(ChangeError::Refused(MetaError::Stale)) if attempt < REMOVE_ATTEMPTS_MAX => {}
                other => return other.map(|_| ()).map_err(gone),
            }
        }
        unreachable!("invariant: the last attempt returns")
    }

    /// Asks the log for the outcome of a removal that may have happened already; `NotFound` if it did not.
    async fn remove_again(&self, session: Option<Session>) -> Result<(), ChangeError> {
        let (parent, name, inode, condition) = (InodeId::ROOT, String::new(), Some(NO_INODE), Condition::Any);
        let command = Command::Unlink { parent, name, inode, condition, session, now_ns: runtime::unix_ns() };
        self.propose(command).await.map(|_| ()).map_err(gone)
    }

    /// Removes everything below `directory`, deepest first, for the request `session`. What is moved elsewhere meanwhile
    /// is left alone there.
    ///
    /// Errors: `Answered` if the request was sent twice and the other one is done; or the log's.
    async fn remove_below(&self, directory: &Inode, session: Option<Session>) -> Result<(), ChangeError> {
        let mut stack = vec![Step { parent: directory.parent, name: directory.name.clone(), inode: directory.inode }];
        while let Some(top) = stack.last() {
            let names = self.meta.view(|view| {
                let in_place = |step: &Step| view.child(step.parent, &step.name).map(|found| found.inode);
                let in_place = stack.iter().all(|step| in_place(step) == Some(step.inode));
                in_place.then(|| view.list(top.inode, None, REMOVE_PAGE_ENTRIES))
            });
            let Some(names) = names else {
                // Moved or removed, this one or one above it.
                stack.pop();
                continue;
            };
            if names.is_empty() {
                let step = stack.pop().expect("invariant: this was the last");
                if !stack.is_empty() {
                    self.unlink_below(step, session).await?;
                }
                continue;
            }
            let parent = top.inode;
            let steps = names.into_iter().map(|(name, inode)| Step { parent, name, inode });
            let is_directory = |step: &Step| {
                let inode = self.meta.view(|view| view.inode(step.inode));
                inode.is_some_and(|inode| inode.kind == Kind::Directory)
            };
            let (mut directories, leaves): (Vec<Step>, Vec<Step>) = steps.partition(is_directory);
            // Proposed together, so that they share a sync.
            futures_util::future::try_join_all(leaves.into_iter().map(|step| self.unlink_below(step, session))).await?;
            stack.extend(directories.pop());
        }
        Ok(())
    }

    /// Removes one name of a recursive removal; it may be gone, or have got names of its own again.
    async fn unlink_below(&self, step: Step, session: Option<Session>) -> Result<(), ChangeError> {
        let (Step { parent, name, inode }, now_ns) = (step, runtime::unix_ns());
        let command = match session {
            Some(part_of) => Command::UnlinkBelow { parent, name, inode, part_of, now_ns },
            None => {
                let (inode, condition) = (Some(inode), Condition::Any);
                Command::Unlink { parent, name, inode, condition, session, now_ns }
            }
        };
        match self.propose(command).await {
            Err(ChangeError::Refused(MetaError::Stale | MetaError::NotEmpty)) | Ok(_) => Ok(()),
            Err(error) => Err(error),
        }
    }

    /// Changes attributes.
    ///
    /// Errors: `NotFound`, `NotASymlink`, `NotAFile`, `InvalidContentType`, `TooLarge`, or the log's.
    pub async fn set_attributes(
        &self,
        target: &Target,
        change: AttributeChange,
        session: Option<Session>,
    ) -> Result<FileInfo, ChangeError> {
        self.set_attributes_if(target, change, Condition::Any, session).await
    }

    /// Changes attributes if `condition` holds for the object.
    ///
    /// Errors: `ConditionFailed`, and those of [`Namespace::set_attributes`].
    pub async fn set_attributes_if(
        &self,
        target: &Target,
        change: AttributeChange,
        condition: Condition,
        session: Option<Session>,
    ) -> Result<FileInfo, ChangeError> {
        let found = match self.stat(target) {
            Ok(info) => info,
            Err(MetaError::NotFound) if session.is_some() => self.unlinked_info(target, Kind::File, NO_INODE),
            Err(error) => return Err(error.into()),
        };
        self.propose(Command::SetAttributes {
            inode: found.inode.inode,
            condition,
            mode: change.mode,
            mtime_ns: change.mtime_ns,
            symlink_target: change.symlink_target,
            content_type: change.content_type,
            user_metadata: change.user_metadata,
            session,
            now_ns: runtime::unix_ns(),
        })
        .await?;
        Ok(self.stat(target).unwrap_or(found))
    }

    /// Describes an inode that was just changed at `path`.
    ///
    /// The change is durable, so this cannot fail: if somebody else has removed the object since, what is left to tell
    /// is what was asked for.
    pub(crate) fn info_after(&self, path: &FsPath, kind: Kind, inode: InodeId) -> FileInfo {
        let target = Target::Id(FileId::new(self.cluster, inode));
        self.stat(&target).unwrap_or_else(|_| self.unlinked_info(&Target::Path(path.clone()), kind, inode))
    }

    fn unlinked_info(&self, target: &Target, kind: Kind, inode: InodeId) -> FileInfo {
        let path = match target {
            Target::Path(path) => path.clone(),
            Target::Id(_) => FsPath::root(),
        };
        let now_ns = runtime::unix_ns();
        let inode = Inode {
            inode,
            kind,
            parent: InodeId::ROOT,
            name: path.names().last().cloned().unwrap_or_default(),
            mode: 0,
            owner: 0,
            nlink: 0,
            created_ns: now_ns,
            committed_ns: now_ns,
            mtime_ns: now_ns,
            version: VersionNumber(0),
            size: 0,
            detail: Detail::None,
            user_metadata: Vec::new(),
        };
        FileInfo::new(self.cluster, inode, path.to_string())
    }

    fn made(&self, path: &FsPath, kind: Kind, response: Response) -> Result<FileInfo, ChangeError> {
        match response {
            Response::Made { inode } => Ok(self.info_after(path, kind, inode)),
            other => unreachable!("invariant: making answers Made, not {other:?}"),
        }
    }
}

impl<D: Disk> Namespace<D> {
    /// Why no change is taken any more, if the metadata log has failed or was closed.
    #[must_use]
    pub fn stopped(&self) -> Option<ProposeError> {
        self.meta.stopped()
    }

    /// Proposes a change and returns what came of it once it is durable.
    pub(crate) async fn propose(&self, command: Command) -> Result<Response, ChangeError> {
        room::check(&self.disk, &self.meta, &command).await?;
        match self.meta.propose(GROUP, command).await? {
            Response::Failed(refused) => Err(ChangeError::Refused(refused)),
            done => Ok(done),
        }
    }

    /// Proposes a command for a path whose parents may have to be made.
    ///
    /// The path is walked from the root when the command is applied, not here: a directory that is moved or removed
    /// while the command waits for the log can neither take the name with it nor make the command fail.
    pub(crate) async fn propose_at(
        &self,
        path: &FsPath,
        command: impl FnOnce(Place) -> Command,
    ) -> Result<Response, ChangeError> {
        self.propose(command(place(path).ok_or(ChangeError::Root)?)).await
    }
}

/// The place of a path, walked from the root; `None` for the root itself.
fn place(path: &FsPath) -> Option<Place> {
    let (directory, name) = path.split()?;
    Some(Place { parent: InodeId::ROOT, make_dirs: directory.names().to_vec(), name: name.to_owned() })
}

/// What a caller is told when its object changed faster than it could be resolved: it is not there.
fn gone(error: ChangeError) -> ChangeError {
    match error {
        ChangeError::Refused(MetaError::Stale) => ChangeError::Refused(MetaError::NotFound),
        other => other,
    }
}
