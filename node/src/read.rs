//! The path of a read: manifest → location → block → verified bytes, a few chunks ahead of the reader.

use std::cell::Cell;
use std::ops::Range;
use std::rc::Rc;

use bytes::Bytes;
use futures_util::StreamExt;
use futures_util::future::LocalBoxFuture;
use futures_util::stream::FuturesOrdered;
use meta::{Content, ManifestEntry};
use proto::VersionNumber;
use proto::limits::READ_AHEAD_CHUNKS;
use proto::port::Disk;
use shard::{Holder, Lease, ReadError, Root};

use crate::error::FileReadError;
use crate::info::FileInfo;
use crate::manifest::{ChunkAt, ManifestCursor, location_of, read_chunk, root_of};
use crate::namespace::Target;
use crate::{Inner, Node};

/// Bytes `start` up to, not including, `end` of a file.
pub type ByteRange = Range<u64>;

type Reading = LocalBoxFuture<'static, Result<Bytes, FileReadError>>;

/// An open file: one version, whatever happens to its name meanwhile.
pub struct FileReader<D: Disk> {
    node: Node<D>,
    info: FileInfo,
    range: ByteRange,
    source: Source,
    reading: FuturesOrdered<Reading>,
    /// File offset up to which reads were started.
    started: u64,
    held: Option<Rc<Held>>,
    /// Ends with this.
    _lease: Option<Lease>,
}

/// What garbage collection must leave to an open file: its content, from where the reader is.
struct Held {
    entries: Vec<ManifestEntry>,
    depth: u8,
    /// File offset up to which bytes were returned.
    returned: Cell<u64>,
    end: Cell<u64>,
}

impl Holder for Held {
    fn roots(&self) -> Vec<Root> {
        let (from, end) = (self.returned.get(), self.end.get());
        let (mut offset, mut roots) = (0, Vec::new());
        for entry in &self.entries {
            let range = offset..offset + entry.bytes;
            offset = range.end;
            if range.end > from && range.start < end {
                roots.push(root_of(entry, self.depth));
            }
        }
        roots
    }
}

enum Source {
    Inline(Vec<u8>),
    Chunks(ManifestCursor),
    Done,
}

impl<D: Disk> Node<D> {
    /// Opens the current version of a file.
    ///
    /// Errors: [`FileReadError::Refused`]: not found, or not a file.
    pub async fn open_file(&self, target: Target) -> Result<FileReader<D>, FileReadError> {
        self.open_content(target, None).await
    }

    /// Opens a version of a file, the current one or an earlier one.
    ///
    /// Errors: [`FileReadError::Refused`]: not found, not a file, or no such version.
    pub async fn open_version(&self, target: Target, version: VersionNumber) -> Result<FileReader<D>, FileReadError> {
        self.open_content(target, Some(version)).await
    }

    async fn open_content(
        &self,
        target: Target,
        version: Option<VersionNumber>,
    ) -> Result<FileReader<D>, FileReadError> {
        let lease = self.0.store.lease();
        let (info, content) = self.content(target, version).await?;
        let range = 0..info.size();
        let (source, held, lease) = match content {
            // It needs nothing of the store, and a lease that says nothing would keep every collection waiting.
            Content::Inline(bytes) => (Source::Inline(bytes), None, None),
            Content::Chunks { depth, entries, .. } => {
                let (returned, end) = (Cell::new(0), Cell::new(range.end));
                let held = Rc::new(Held { entries: entries.clone(), depth, returned, end });
                lease.hold(held.clone());
                (Source::Chunks(ManifestCursor::new(entries, depth)), Some(held), Some(lease))
            }
        };
        let reading = FuturesOrdered::new();
        Ok(FileReader { node: self.clone(), info, range, source, reading, started: 0, held, _lease: lease })
    }
}

impl<D: Disk> FileReader<D> {
    /// The file, as of this version.
    #[must_use]
    pub fn info(&self) -> &FileInfo {
        &self.info
    }

    pub(crate) fn node(&self) -> &Node<D> {
        &self.node
    }

    /// Passes over the next chunk and returns its entry; `None` at the end, and if the file lies inline.
    pub(crate) async fn next_entry(&mut self) -> Result<Option<ManifestEntry>, FileReadError> {
        let Source::Chunks(cursor) = &mut self.source else { return Ok(None) };
        let next = cursor.next(&self.node.0, self.started).await;
        let next = next.map_err(|(range, error)| damaged(&self.info.path, range, error))?;
        Ok(next.map(|chunk| {
            self.started = chunk.offset + chunk.entry.bytes;
            chunk.entry
        }))
    }

    /// Restricts the reader to `range`, which is clipped to the file. Call before the first [`FileReader::next`].
    pub fn restrict(&mut self, range: ByteRange) {
        let end = range.end.min(self.info.size());
        self.range = range.start.min(end)..end;
        self.started = self.range.start;
        if let Some(held) = &self.held {
            held.returned.set(self.range.start);
            held.end.set(self.range.end);
        }
    }

    /// Returns the next bytes in order, at most one chunk; `None` at the end of the range.
    ///
    /// Errors: [`FileReadError`] names the file and the bytes; what was returned before is right, and nothing follows.
    /// Dropping the returned future before it is done spoils the reader: open another.
    pub async fn next(&mut self) -> Option<Result<Bytes, FileReadError>> {
        if let Err(error) = self.read_ahead().await {
            // What was started before the unreadable manifest page is still good.
            self.source = Source::Done;
            self.reading.push_back(Box::pin(std::future::ready(Err(error))));
        }
        let next = self.reading.next().await;
        match &next {
            Some(Ok(bytes)) => {
                if let Some(held) = &self.held {
                    held.returned.set(held.returned.get() + bytes.len() as u64);
                }
            }
            Some(Err(_)) => {
                self.source = Source::Done;
                self.reading = FuturesOrdered::new();
            }
            None => {}
        }
        next
    }

    /// Starts reads until enough are under way or the range ends.
    async fn read_ahead(&mut self) -> Result<(), FileReadError> {
        while self.reading.len() < READ_AHEAD_CHUNKS && self.started < self.range.end {
            match &mut self.source {
                Source::Done => return Ok(()),
                Source::Inline(bytes) => {
                    let range = self.range.start as usize..self.range.end as usize;
                    let bytes = Bytes::from(std::mem::take(bytes)).slice(range);
                    self.started = self.range.end;
                    self.source = Source::Done;
                    self.reading.push_back(Box::pin(std::future::ready(Ok(bytes))));
                }
                Source::Chunks(cursor) => {
                    let next = cursor.next(&self.node.0, self.started).await;
                    let next = next.map_err(|(range, error)| damaged(&self.info.path, range, error))?;
                    let Some(chunk) = next else {
                        let what = "the manifest ends before the file".to_owned();
                        let location = proto::Location::unpack(0).expect("invariant: zero is a location");
                        let range = self.started..self.range.end;
                        return Err(damaged(&self.info.path, range, ReadError::Corrupt { location, what }));
                    };
                    let end = (chunk.offset + chunk.entry.bytes).min(self.range.end);
                    let wanted = self.started..end;
                    self.started = end;
                    let (node, path) = (self.node.0.clone(), self.info.path.clone());
                    self.reading.push_back(Box::pin(async move { read_part(&node, &path, chunk, wanted).await }));
                }
            }
        }
        Ok(())
    }
}

/// Reads the part of a chunk that lies in `wanted`, a range of the file.
async fn read_part<D: Disk>(
    node: &Inner<D>,
    path: &str,
    chunk: ChunkAt,
    wanted: ByteRange,
) -> Result<Bytes, FileReadError> {
    let plain = read_chunk(node, &chunk.entry).await.and_then(|plain| {
        if plain.len() as u64 == chunk.entry.bytes {
            return Ok(plain);
        }
        let what = "the chunk has another length than the manifest says".to_owned();
        Err(ReadError::Corrupt { location: location_of(&chunk.entry), what })
    });
    let whole = chunk.offset..chunk.offset + chunk.entry.bytes;
    let plain = plain.map_err(|error| damaged(path, whole, error))?;
    let part = (wanted.start - chunk.offset) as usize..(wanted.end - chunk.offset) as usize;
    Ok(Bytes::from(plain).slice(part))
}

fn damaged(path: &str, range: ByteRange, source: ReadError) -> FileReadError {
    let path = path.to_owned();
    match source {
        ReadError::Device { .. } => FileReadError::Device { path, range, source },
        ReadError::Stale(_) | ReadError::Corrupt { .. } => FileReadError::Damaged { path, range, source },
    }
}
