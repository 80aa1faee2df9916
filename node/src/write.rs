//! The path of a write.
//!
//! ```text
//!   FileWriter::write   bytes ─▶ cut ─▶ Inner::store_chunk (id, lookup, compress, row) ─▶ ManifestBuilder
//!   FileWriter::finish  last chunk ─▶ rows durable ─▶ commit in the metadata log ─▶ acknowledged
//! ```
//!
//! Until `finish` returns, nothing of the file is visible; a dropped writer leaves only unreferenced chunks.

use chunk::InputEnd;
use meta::{Attributes, Command, Condition, Content, Place, Response, Session};
use proto::InodeId;
use proto::api::Kind;
use proto::limits::INLINE_BYTES_MAX;
use proto::path::FsPath;
use proto::port::{Disk, runtime};

use crate::Node;
use crate::error::{ChangeError, PutError};
use crate::info::FileInfo;
use crate::manifest::ManifestBuilder;

/// Bytes that wait to be cut; a few of the longest chunks, so that little is moved to the front again.
const CUT_BUFFER_BYTES: usize = 512 << 10;

/// How a file is written.
#[derive(Clone, Debug)]
pub struct PutOptions {
    /// Attributes of the new version.
    pub attributes: Attributes,
    /// What must hold for the path at the commit.
    pub condition: Condition,
    /// Exactly-once.
    pub session: Option<Session>,
}

impl Default for PutOptions {
    fn default() -> Self {
        PutOptions { attributes: Attributes::default(), condition: Condition::Any, session: None }
    }
}

/// A file being written.
pub struct FileWriter<D: Disk> {
    node: Node<D>,
    path: FsPath,
    options: PutOptions,
    /// Bytes not yet cut.
    buffer: Vec<u8>,
    manifest: ManifestBuilder,
    /// Set while chunks go to the store: a call that failed or was dropped halfway leaves it set for good.
    torn: bool,
}

/// A committed version.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Committed {
    /// The file.
    pub info: FileInfo,
    /// Whether the path is new.
    pub created: bool,
}

impl<D: Disk> Node<D> {
    /// Starts to write a file; missing parent directories are made at the commit.
    ///
    /// Errors: [`ChangeError::Root`].
    pub fn create(&self, path: FsPath, options: PutOptions) -> Result<FileWriter<D>, ChangeError> {
        if path.names().is_empty() {
            return Err(ChangeError::Root);
        }
        let manifest = ManifestBuilder::new(self.0.manifest_page_entries);
        Ok(FileWriter { node: self.clone(), path, options, buffer: Vec::new(), manifest, torn: false })
    }
}

impl<D: Disk> FileWriter<D> {
    /// Takes the next bytes of the file, however they are split.
    ///
    /// Waits when too much of this upload is in memory: that is the back-pressure to the socket.
    /// Errors: [`PutError::Store`] of an earlier chunk.
    ///
    /// # Panics
    /// If an earlier call failed, or its future was dropped before it ended: part of the file is missing then, and the
    /// writer is good only for being dropped. So does [`FileWriter::finish`].
    pub async fn write(&mut self, mut bytes: &[u8]) -> Result<(), PutError> {
        while !bytes.is_empty() {
            let (taken, rest) = bytes.split_at(bytes.len().min(CUT_BUFFER_BYTES - self.buffer.len()));
            self.buffer.extend_from_slice(taken);
            bytes = rest;
            if self.buffer.len() == CUT_BUFFER_BYTES {
                self.cut(InputEnd::MoreFollows).await?;
            }
        }
        Ok(())
    }

    /// Makes everything durable and commits the version. Once this returns `Ok`, the file survives any crash.
    ///
    /// Errors: [`PutError`]; nothing of the file is then visible, unless the log broke (see [`ChangeError::Log`]).
    pub async fn finish(mut self) -> Result<Committed, PutError> {
        assert!(!self.torn, "invariant: a writer that failed is dropped");
        let content = if self.manifest.is_empty() && self.buffer.len() <= INLINE_BYTES_MAX {
            Content::Inline(std::mem::take(&mut self.buffer))
        } else {
            self.cut(InputEnd::Last).await?;
            self.manifest.finish(&self.node.0, self.node.0.domain.id).await?
        };
        Ok(self.node.commit(&self.path, content, self.options).await?)
    }

    /// Cuts and stores what is certain of the buffer.
    async fn cut(&mut self, end: InputEnd) -> Result<(), PutError> {
        assert!(!self.torn, "invariant: a writer that failed is dropped");
        self.torn = true;
        let node = self.node.0.clone();
        let mut start = 0;
        while start < self.buffer.len()
            && let Some(bytes) = node.domain.chunker.cut(&self.buffer[start..], end)
        {
            let chunk = node.store_chunk(&self.buffer[start..start + bytes]).await;
            start += bytes;
            self.manifest.push(&node, chunk).await?;
        }
        self.buffer.drain(..start);
        self.torn = false;
        Ok(())
    }
}

impl<D: Disk> Node<D> {
    async fn commit(&self, path: &FsPath, content: Content, options: PutOptions) -> Result<Committed, ChangeError> {
        let size = content.size();
        let command = |at: Place| Command::CommitFile {
            at,
            content,
            attributes: options.attributes,
            condition: options.condition,
            session: options.session,
            now_ns: runtime::unix_ns(),
            pin_epoch: 0,
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
pub(crate) fn place(path: &FsPath) -> Option<Place> {
    let (directory, name) = path.split()?;
    Some(Place { parent: InodeId::ROOT, make_dirs: directory.names().to_vec(), name: name.to_owned() })
}
