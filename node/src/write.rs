//! The path of a write.
//!
//! ```text
//!   FileWriter::write   bytes ─▶ cut ─▶ ManifestBuilder ─▶ Inner::store_chunks (id, claim, compress, row)
//!   FileWriter::finish  last chunk ─▶ rows durable ─▶ commit in the metadata log ─▶ acknowledged
//! ```
//!
//! Until `finish` returns, nothing of the file is visible; a dropped writer leaves only unreferenced chunks.

use std::rc::Rc;

use chunk::InputEnd;
use meta::{Attributes, Condition, Content, MetaError, Session};
use proto::limits::INLINE_BYTES_MAX;
use proto::path::FsPath;
use proto::port::Disk;

use crate::Node;
use crate::error::{ChangeError, PutError};
use crate::gc::pin;
use crate::info::FileInfo;
use crate::manifest::ManifestBuilder;

/// Bytes that wait to be cut; a few of the longest chunks, so that little is moved to the front again.
const CUT_BUFFER_BYTES: usize = 512 << 10;
/// How often a commit is tried whose chunks garbage collection has passed meanwhile.
const COMMIT_ATTEMPTS_MAX: usize = 4;

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
        let lease = Some(self.0.store.lease());
        let manifest = ManifestBuilder::new(self.0.manifest_page_entries, self.0.domain.id, lease);
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

    /// Changes how the commit is known again when it is repeated: a digest of the bytes is complete only now.
    pub fn set_session(&mut self, session: Session) {
        self.options.session = Some(session);
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
            self.manifest.finish(&self.node.0).await?
        };
        self.commit(content).await
    }

    /// Commits the content. If garbage collection has moved on since its chunks were answered for, they are asked for
    /// again: those that are still there are so for this commit.
    async fn commit(&mut self, content: Content) -> Result<Committed, PutError> {
        for attempt in 1.. {
            let (path, options) = (self.path.clone(), self.options.clone());
            let pin_epoch = self.manifest.pin_epoch();
            match self.node.commit(path, content.clone(), options, pin_epoch).await {
                Err(ChangeError::Refused(MetaError::StaleEpoch { .. })) if attempt < COMMIT_ATTEMPTS_MAX => {
                    let epoch = pin::again(&self.node.0, &content).await?;
                    self.manifest.pinned_again(epoch);
                }
                done => return Ok(done?),
            }
        }
        unreachable!("invariant: the last attempt returns")
    }

    /// Cuts and stores what is certain of the buffer.
    async fn cut(&mut self, end: InputEnd) -> Result<(), PutError> {
        assert!(!self.torn, "invariant: a writer that failed is dropped");
        self.torn = true;
        let node = self.node.0.clone();
        let (mut cuts, mut start) = (Vec::new(), 0);
        while start < self.buffer.len()
            && let Some(bytes) = node.domain.chunker.cut(&self.buffer[start..], end)
        {
            cuts.push(start..start + bytes);
            start += bytes;
        }
        let buffer = Rc::new(std::mem::take(&mut self.buffer));
        self.manifest.store(&node, &buffer, cuts).await?;
        self.buffer = Rc::into_inner(buffer).expect("invariant: nobody keeps the bytes of chunks that were put");
        self.buffer.drain(..start);
        self.torn = false;
        Ok(())
    }
}
