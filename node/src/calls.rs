//! The calls of a node that are about names: each runs on the core that has the namespace, from whichever core it is made.

use std::future::Future;
use std::rc::Rc;

use meta::{Attributes, Condition, Content, MetaError, ProposeError, Session};
use proto::limits::LIST_PAGE_ENTRIES_MAX;
use proto::path::FsPath;
use proto::port::Disk;
use proto::{FileId, VersionNumber};

use crate::error::ChangeError;
use crate::info::FileInfo;
use crate::namespace::{AttributeChange, ListPage, Namespace, Removal, Target};
use crate::versions::VersionPage;
use crate::write::{Committed, PutOptions};
use crate::{NAMESPACE_CORE, Node};

/// Entries of a directory that are described in one go: a whole page would hold up the core for tens of milliseconds.
const LIST_STEP_ENTRIES: usize = 500;

impl<D: Disk> Node<D> {
    /// Runs `call` where the namespace is. It goes on if the returned future is dropped on another core, and must not
    /// wait for anything but the metadata log.
    pub async fn names<T, F, Fut>(&self, call: F) -> T
    where
        T: Send + 'static,
        F: FnOnce(Rc<Namespace<D>>) -> Fut + Send + 'static,
        Fut: Future<Output = T> + 'static,
    {
        self.0.names.call(NAMESPACE_CORE, call).await
    }

    /// Runs a call that does not wait.
    pub(crate) async fn ask_names<T: Send + 'static>(
        &self,
        ask: impl FnOnce(&Namespace<D>) -> T + Send + 'static,
    ) -> T {
        self.0.names.ask(NAMESPACE_CORE, ask).await
    }

    /// See [`Namespace::stat`].
    ///
    /// Errors: as there.
    pub async fn stat(&self, target: Target) -> Result<FileInfo, MetaError> {
        self.ask_names(move |names| names.stat(&target)).await
    }

    /// See [`Namespace::list`]. A long page is put together in steps, between which the namespace serves others.
    ///
    /// Errors: as there.
    pub async fn list(&self, target: Target, after: Option<String>, limit: usize) -> Result<ListPage, MetaError> {
        let limit = limit.clamp(1, LIST_PAGE_ENTRIES_MAX);
        let cluster = self.cluster();
        let step = limit.min(LIST_STEP_ENTRIES);
        let list = move |names: &Namespace<D>| {
            let directory = names.stat(&target)?.inode.inode;
            Ok((directory, names.list(&target, after.as_deref(), step)?))
        };
        let (directory, mut page) = self.ask_names(list).await?;
        while page.entries.len() < limit
            && let Some(after) = page.next_after.take()
        {
            let step = (limit - page.entries.len()).min(LIST_STEP_ENTRIES);
            // The same directory, wherever it was moved meanwhile.
            let target = Target::Id(FileId::new(cluster, directory));
            let rest = self.ask_names(move |names| names.list(&target, Some(&after), step)).await?;
            page.entries.extend(rest.entries);
            page.next_after = rest.next_after;
        }
        Ok(page)
    }

    /// See [`Namespace::make_directory`].
    ///
    /// Errors: as there.
    pub async fn make_directory(
        &self,
        path: FsPath,
        attributes: Attributes,
        session: Option<Session>,
    ) -> Result<FileInfo, ChangeError> {
        self.names(move |names| async move { names.make_directory(&path, attributes, session).await }).await
    }

    /// See [`Namespace::make_symlink`].
    ///
    /// Errors: as there.
    pub async fn make_symlink(
        &self,
        path: FsPath,
        target: String,
        attributes: Attributes,
        session: Option<Session>,
    ) -> Result<FileInfo, ChangeError> {
        self.names(move |names| async move { names.make_symlink(&path, &target, attributes, session).await }).await
    }

    /// See [`Namespace::rename`].
    ///
    /// Errors: as there.
    pub async fn rename(
        &self,
        from: FsPath,
        to: FsPath,
        replace: bool,
        session: Option<Session>,
    ) -> Result<FileInfo, ChangeError> {
        self.names(move |names| async move { names.rename(&from, &to, replace, session).await }).await
    }

    /// See [`Namespace::remove`].
    ///
    /// Errors: as there.
    pub async fn remove(&self, target: Target, how: Removal, session: Option<Session>) -> Result<(), ChangeError> {
        self.names(move |names| async move { names.remove(&target, how, session).await }).await
    }

    /// See [`Namespace::set_attributes`].
    ///
    /// Errors: as there.
    pub async fn set_attributes(
        &self,
        target: Target,
        change: AttributeChange,
        session: Option<Session>,
    ) -> Result<FileInfo, ChangeError> {
        self.names(move |names| async move { names.set_attributes(&target, change, session).await }).await
    }

    /// See [`Namespace::remove_if`].
    ///
    /// Errors: as there.
    pub async fn remove_if(
        &self,
        target: Target,
        how: Removal,
        condition: Condition,
        session: Option<Session>,
    ) -> Result<(), ChangeError> {
        self.names(move |names| async move { names.remove_if(&target, how, condition, session).await }).await
    }

    /// See [`Namespace::set_attributes_if`].
    ///
    /// Errors: as there.
    pub async fn set_attributes_if(
        &self,
        target: Target,
        change: AttributeChange,
        condition: Condition,
        session: Option<Session>,
    ) -> Result<FileInfo, ChangeError> {
        self.names(move |names| async move { names.set_attributes_if(&target, change, condition, session).await }).await
    }

    /// See [`Namespace::stat_version`].
    ///
    /// Errors: as there.
    pub async fn stat_version(&self, target: Target, version: VersionNumber) -> Result<FileInfo, MetaError> {
        self.ask_names(move |names| names.stat_version(&target, version)).await
    }

    /// See [`Namespace::versions`].
    ///
    /// Errors: as there.
    pub async fn versions(
        &self,
        target: Target,
        after: Option<VersionNumber>,
        limit: usize,
    ) -> Result<VersionPage, MetaError> {
        self.ask_names(move |names| names.versions(&target, after, limit)).await
    }

    /// See [`Namespace::restore`].
    ///
    /// Errors: as there.
    pub async fn restore(
        &self,
        path: FsPath,
        version: VersionNumber,
        condition: Condition,
        session: Option<Session>,
    ) -> Result<FileInfo, ChangeError> {
        self.names(move |names| async move { names.restore(&path, version, condition, session).await }).await
    }

    /// Why no change is taken any more, if the metadata log has failed or the node was closed.
    pub async fn stopped(&self) -> Option<ProposeError> {
        self.ask_names(|names| names.stopped()).await
    }

    /// A digest of all metadata: equal states have equal digests.
    pub async fn metadata_digest(&self) -> u128 {
        self.ask_names(|names| names.meta.state_digest()).await
    }

    pub(crate) async fn content(
        &self,
        target: Target,
        version: Option<VersionNumber>,
    ) -> Result<(FileInfo, Content), MetaError> {
        self.ask_names(move |names| names.open(&target, version)).await
    }

    pub(crate) async fn commit(
        &self,
        path: FsPath,
        content: Content,
        options: PutOptions,
        pin_epoch: u64,
    ) -> Result<Committed, ChangeError> {
        self.names(move |names| async move { names.commit(&path, content, options, pin_epoch).await }).await
    }
}
