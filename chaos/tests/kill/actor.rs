//! What one client does next, and what it checks at once.

use client::{Attributes, ByteRange, Client, ClientError, Existing, Removal, Upload};
use proto::api::{Entry, Kind};
use proto::limits::INLINE_BYTES_MAX;
use proto::path::FsPath;

use crate::content::{Content, Random};
use crate::model::{Operation, SHARED, Space, is_within};

/// Bytes of the current versions of all files of a client; beyond it, only small files are written.
const LIVE_BYTES_MAX: u64 = 4 << 20;
/// Names in each directory: few, so that files are replaced often.
const NAMES: u64 = 5;

/// The path of a name that clients use, as a type that the client library takes.
pub(crate) fn fs_path(path: &str) -> FsPath {
    FsPath::parse(path).expect("invariant: tests use legal paths")
}

/// Sends `operation` and returns what it was answered.
pub(crate) fn send(client: &Client, operation: &Operation) -> Result<Option<Entry>, ClientError> {
    let none = Attributes::default();
    match operation {
        Operation::Put { path, content } => {
            let upload = &mut content.source();
            client.put(&fs_path(path), Upload::rewindable(upload, content.bytes), &none).map(Some)
        }
        Operation::MakeDirectory { path } => client.make_directory(&fs_path(path), &none).map(Some),
        Operation::Remove { path } => client.remove(&fs_path(path), Removal::Single).map(|()| None),
        Operation::RemoveTree { path } => client.remove(&fs_path(path), Removal::Tree).map(|()| None),
        Operation::Rename { from, to } => client.rename(&fs_path(from), &fs_path(to), Existing::Replace).map(Some),
    }
}

/// Reads `start..end` of a file and compares it with `content`.
///
/// Errors: the client's. Panics if the bytes are wrong.
pub(crate) fn read_back(client: &Client, path: &str, content: &Content, part: (u64, u64)) -> Result<(), ClientError> {
    let (start, end) = part;
    let range = (part != (0, content.bytes)).then_some(ByteRange { start, end: Some(end) });
    let mut download = client.get(&fs_path(path), range)?;
    assert_eq!(download.head().size, content.bytes, "{path} has another length: {content:?}");
    match content.compare(start, end, &mut download) {
        Ok(()) => Ok(()),
        Err(error) => Err(ClientError::from_io(error).unwrap_or_else(|wrong| panic!("{path} {wrong}"))),
    }
}

/// A client and the space that it owns.
#[derive(Debug)]
pub(crate) struct Actor {
    pub(crate) space: Space,
    pub(crate) random: Random,
}

impl Actor {
    pub(crate) fn new(name: &str, random: Random) -> Actor {
        Actor { space: Space::new(name), random }
    }

    /// A length, with all the ways of storing a file in it: none, inline, one chunk, several, many.
    pub(crate) fn draw_bytes(&mut self) -> u64 {
        let inline_max = INLINE_BYTES_MAX as u64;
        let live: u64 = self.space.tree.files().map(|(_, file)| file.content().bytes).sum();
        let limit = if live > LIVE_BYTES_MAX { 60 } else { 100 };
        match self.random.below(limit) {
            0..10 => 0,
            10..40 => self.random.within(1, inline_max),
            40..50 => self.random.within(inline_max - 1, inline_max + 1),
            50..70 => self.random.within(inline_max + 1, 64 << 10),
            70..92 => self.random.within(64 << 10, 400 << 10),
            _ => self.random.within(1 << 20, 3 << 20),
        }
    }

    /// A path for a file, often of one that exists.
    fn file_path(&mut self) -> String {
        let home = &self.space.home;
        let name = self.random.below(NAMES);
        match self.random.below(5) {
            0 => format!("{home}/f{name}"),
            1 => format!("{home}/d0/f{name}"),
            2 => format!("{home}/d1/f{name}"),
            3 => format!("{home}/d1/deep/er/f{name}"),
            _ => format!("{SHARED}{home}-f{name}"),
        }
    }

    fn put(&mut self) -> Operation {
        let bytes = self.draw_bytes();
        let content = Content::draw(&mut self.random, bytes);
        Operation::Put { path: self.file_path(), content }
    }

    fn existing_file(&mut self) -> Option<String> {
        let files: Vec<&String> = self.space.tree.files().map(|(path, _)| path).collect();
        self.random.pick(&files).map(|path| (*path).clone())
    }

    /// A directory below the client's own.
    fn existing_directory(&mut self) -> Option<String> {
        let tree = &self.space.tree;
        let below: Vec<&String> =
            tree.directories().filter(|path| **path != self.space.home && is_within(path, &self.space.home)).collect();
        self.random.pick(&below).map(|path| (*path).clone())
    }

    fn free_directory(&mut self, prefix: &str) -> Option<String> {
        let path = format!("{}/{prefix}{}", self.space.home, self.random.below(NAMES));
        (!self.space.tree.contains(&path)).then_some(path)
    }

    /// Chooses an operation that must succeed.
    pub(crate) fn choose(&mut self) -> Operation {
        let other = match self.random.below(100) {
            0..14 => {
                let (from, to) = (self.existing_file(), self.file_path());
                from.filter(|from| *from != to).map(|from| Operation::Rename { from, to })
            }
            14..26 => self.existing_file().map(|path| Operation::Remove { path }),
            26..32 => self.free_directory("m").map(|path| Operation::MakeDirectory {
                path: if self.random.percent(50) { path } else { format!("{path}/n") },
            }),
            32..37 => {
                let (from, to) = (self.existing_directory(), self.free_directory("r"));
                from.zip(to).map(|(from, to)| Operation::Rename { from, to })
            }
            37..41 => self.existing_directory().map(|path| Operation::RemoveTree { path }),
            _ => None,
        };
        other.unwrap_or_else(|| self.put())
    }

    /// Takes note of an operation that was acknowledged with `answer`, which must be right.
    pub(crate) fn acknowledge(&mut self, operation: &Operation, answer: Option<&Entry>) {
        let tree = &mut self.space.tree;
        tree.apply(operation);
        let (path, entry) = match (operation, answer) {
            (Operation::Remove { .. } | Operation::RemoveTree { .. }, None) => return,
            (Operation::Put { path, .. } | Operation::MakeDirectory { path }, Some(entry)) => (path, entry),
            (Operation::Rename { to, .. }, Some(entry)) => (to, entry),
            (_, answer) => panic!("{operation:?} was answered {answer:?}"),
        };
        let expected = match tree.file(path) {
            Some(file) => (Kind::File, file.version(), file.content().bytes),
            None => (Kind::Directory, 0, 0),
        };
        assert_eq!(entry.path, *path);
        assert_eq!((entry.kind, entry.version, entry.size), expected, "{operation:?} was answered {entry:?}");
        tree.identify(path, &entry.id);
    }

    /// Reads one of the files back, or a part of it.
    pub(crate) fn read_something(&mut self, client: &Client) -> Result<(), ClientError> {
        let Some(path) = self.existing_file() else { return Ok(()) };
        let content = *self.space.tree.file(&path).expect("invariant: just found").content();
        let mut part = (0, content.bytes);
        if content.bytes > 0 && self.random.percent(50) {
            part.0 = self.random.below(content.bytes);
            part.1 = self.random.within(part.0 + 1, content.bytes);
        }
        read_back(client, &path, &content, part)
    }
}
