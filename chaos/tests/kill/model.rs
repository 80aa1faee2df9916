//! What a store must hold, given what its clients were told.
//!
//! A [`Space`] belongs to one client, which has at most one operation under way. So after a kill there is at most one
//! operation whose outcome is open, and the space is exactly as before it or exactly as after it.

use std::collections::BTreeMap;

use proto::api::{Entry, Kind};

use crate::content::Content;

/// A directory that belongs to nobody: every client has names of its own in it.
pub(crate) const SHARED: &str = "/shared";

/// What clients do; each operation is chosen so that it must succeed.
#[derive(Clone, Debug)]
pub(crate) enum Operation {
    /// Creates a file or its next version, with missing directories.
    Put { path: String, content: Content },
    /// Makes a directory, with missing directories above it.
    MakeDirectory { path: String },
    /// Removes a file.
    Remove { path: String },
    /// Removes a directory with everything below it.
    RemoveTree { path: String },
    /// Moves a file, in place of a file that may be there; or a directory, to where nothing is.
    Rename { from: String, to: String },
}

/// A file, with all its versions.
#[derive(Clone, Debug)]
pub(crate) struct File {
    /// Public id, once it was seen.
    id: Option<String>,
    /// Never empty.
    versions: Vec<Content>,
}

impl File {
    pub(crate) fn content(&self) -> &Content {
        self.versions.last().expect("invariant: a file has a version")
    }

    pub(crate) fn version(&self) -> u64 {
        self.versions.len() as u64
    }

    pub(crate) fn logical_bytes(&self) -> u64 {
        self.versions.iter().map(|content| content.bytes).sum()
    }
}

/// What a name stands for.
#[derive(Clone, Debug)]
pub(crate) enum Node {
    Directory,
    File(File),
}

/// Names with absolute paths, and what they stand for. A directory comes before what is in it.
#[derive(Clone, Debug, Default)]
pub(crate) struct Tree(BTreeMap<String, Node>);

/// Whether `path` is `directory` or lies below it.
pub(crate) fn is_within(path: &str, directory: &str) -> bool {
    path.strip_prefix(directory).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
}

impl Tree {
    pub(crate) fn contains(&self, path: &str) -> bool {
        self.0.contains_key(path)
    }

    pub(crate) fn file(&self, path: &str) -> Option<&File> {
        match self.0.get(path)? {
            Node::File(file) => Some(file),
            Node::Directory => None,
        }
    }

    pub(crate) fn files(&self) -> impl Iterator<Item = (&String, &File)> {
        self.0.iter().filter_map(|(path, node)| match node {
            Node::File(file) => Some((path, file)),
            Node::Directory => None,
        })
    }

    pub(crate) fn directories(&self) -> impl Iterator<Item = &String> {
        self.0.iter().filter(|(_, node)| matches!(node, Node::Directory)).map(|(path, _)| path)
    }

    fn make_parents(&mut self, path: &str) {
        let parents = path.match_indices('/').skip(1).map(|(at, _)| &path[..at]);
        for parent in parents.filter(|parent| *parent != SHARED) {
            self.0.entry(parent.to_owned()).or_insert(Node::Directory);
        }
    }

    /// Lets `operation` happen.
    pub(crate) fn apply(&mut self, operation: &Operation) {
        match operation {
            Operation::Put { path, content } => {
                self.make_parents(path);
                let fresh = || Node::File(File { id: None, versions: Vec::new() });
                match self.0.entry(path.clone()).or_insert_with(fresh) {
                    Node::File(file) => file.versions.push(*content),
                    Node::Directory => unreachable!("invariant: {path} is not put over a directory"),
                }
            }
            Operation::MakeDirectory { path } => {
                self.make_parents(path);
                assert!(self.0.insert(path.clone(), Node::Directory).is_none(), "invariant: {path} is free");
            }
            Operation::Remove { path } => {
                assert!(matches!(self.0.remove(path), Some(Node::File(_))), "invariant: {path} is a file");
            }
            Operation::RemoveTree { path } => self.0.retain(|name, _| !is_within(name, path)),
            Operation::Rename { from, to } => {
                self.make_parents(to);
                let names: Vec<String> = self.0.keys().filter(|name| is_within(name, from)).cloned().collect();
                for name in names {
                    let node = self.0.remove(&name).expect("invariant: just found");
                    self.0.insert(format!("{to}{}", &name[from.len()..]), node);
                }
            }
        }
    }

    /// Keeps the id of the file at `path`.
    pub(crate) fn identify(&mut self, path: &str, id: &str) {
        if let Some(Node::File(file)) = self.0.get_mut(path) {
            file.id = Some(id.to_owned());
        }
    }

    /// The first way in which `seen` is not this tree.
    fn difference(&self, seen: &BTreeMap<String, Entry>) -> Option<String> {
        if let Some(path) = self.0.keys().find(|path| !seen.contains_key(*path)) {
            return Some(format!("{path} is missing: {:?}", self.0[path]));
        }
        seen.iter().find_map(|(path, entry)| {
            let is_right = match self.0.get(path) {
                None => return Some(format!("{path} should not be there: {entry:?}")),
                Some(Node::Directory) => entry.kind == Kind::Directory,
                Some(Node::File(file)) => {
                    let what = (entry.kind, entry.version, entry.size);
                    what == (Kind::File, file.version(), file.content().bytes)
                        && file.id.as_ref().is_none_or(|id| *id == entry.id)
                }
            };
            (!is_right).then(|| format!("{path} should be {:?}, but is {entry:?}", self.0[path]))
        })
    }
}

/// The part of the namespace that one client owns.
#[derive(Debug)]
pub(crate) struct Space {
    /// Its own directory, `/NAME`. In [`SHARED`] it owns the names that begin with `NAME-`.
    pub(crate) home: String,
    pub(crate) tree: Tree,
    /// The operation whose outcome is open.
    pub(crate) open: Option<Operation>,
}

/// What became of an operation whose outcome was open.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Outcome {
    /// There was none.
    Settled,
    Happened,
    DidNotHappen,
    /// A recursive removal, which is many changes, went part of the way.
    HappenedInPart,
}

impl Space {
    pub(crate) fn new(name: &str) -> Space {
        Space { home: format!("/{name}"), tree: Tree::default(), open: None }
    }

    /// Whether `path` belongs to this space.
    pub(crate) fn owns(&self, path: &str) -> bool {
        is_within(path, &self.home)
            || path
                .strip_prefix("/shared")
                .and_then(|rest| rest.strip_prefix(self.home.as_str()))
                .is_some_and(|rest| rest.starts_with('-'))
    }

    /// Decides from `seen`, all that is visible of this space, what became of the open operation.
    ///
    /// Errors: why neither history explains what is seen.
    pub(crate) fn settle(&mut self, seen: &BTreeMap<String, Entry>) -> Result<Outcome, String> {
        let before = self.tree.difference(seen);
        let open = self.open.take();
        let outcome = match (before, &open) {
            (None, None) => Outcome::Settled,
            (None, Some(_)) => Outcome::DidNotHappen,
            (Some(difference), None) => return Err(format!("nothing was under way, but {difference}")),
            (Some(before), Some(operation)) => {
                let mut tree = self.tree.clone();
                tree.apply(operation);
                let after = tree.difference(seen);
                let in_part = match operation {
                    Operation::RemoveTree { path } if after.is_some() => {
                        tree = self.tree.clone();
                        tree.0.retain(|name, _| !is_within(name, path) || seen.contains_key(name));
                        tree.difference(seen).is_none()
                    }
                    _ => false,
                };
                self.tree = tree;
                match after {
                    None => Outcome::Happened,
                    Some(_) if in_part => Outcome::HappenedInPart,
                    Some(after) => {
                        return Err(format!("neither before {operation:?} ({before}) nor after it ({after})"));
                    }
                }
            }
        };
        for (path, entry) in seen {
            self.tree.identify(path, &entry.id);
        }
        Ok(outcome)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::content::Texture;

    fn content(bytes: u64) -> Content {
        Content { seed: 1, bytes, texture: Texture::Unique }
    }

    fn put(path: &str, bytes: u64) -> Operation {
        Operation::Put { path: path.to_owned(), content: content(bytes) }
    }

    fn entry(path: &str, kind: Kind, version: u64, size: u64) -> (String, Entry) {
        let entry = Entry {
            id: format!("id of {path}"),
            path: path.to_owned(),
            kind,
            version,
            size,
            etag: String::new(),
            created_at: String::new(),
            modified_at: String::new(),
            mode: 0,
            symlink_target: None,
            content_type: None,
            metadata: BTreeMap::new(),
        };
        (path.to_owned(), entry)
    }

    /// `/w`, `/w/d` and `/w/d/f` with two versions of 1 and 2 bytes.
    fn space() -> Space {
        let mut space = Space::new("w");
        space.tree.apply(&put("/w/d/f", 1));
        space.tree.apply(&put("/w/d/f", 2));
        space
    }

    fn seen(version: u64, size: u64) -> BTreeMap<String, Entry> {
        let directory = |path| entry(path, Kind::Directory, 0, 0);
        [directory("/w"), directory("/w/d"), entry("/w/d/f", Kind::File, version, size)].into()
    }

    #[test]
    fn a_lost_old_mixed_or_strange_file_is_noticed() {
        assert_eq!(space().settle(&seen(2, 2)), Ok(Outcome::Settled));
        assert!(space().settle(&seen(1, 1)).is_err(), "a version back");
        assert!(space().settle(&seen(2, 1)).is_err(), "truncated");
        let mut lost = seen(2, 2);
        lost.remove("/w/d/f");
        assert!(space().settle(&lost).is_err());
        let mut strange = seen(2, 2);
        strange.extend([entry("/w/x", Kind::File, 1, 0)]);
        assert!(space().settle(&strange).is_err());
    }

    #[test]
    fn an_open_put_happened_wholly_or_not_at_all() {
        for (version, size, outcome) in
            [(2, 2, Some(Outcome::DidNotHappen)), (3, 7, Some(Outcome::Happened)), (3, 6, None), (2, 7, None)]
        {
            let mut space = space();
            space.open = Some(put("/w/d/f", 7));
            assert_eq!(space.settle(&seen(version, size)).ok(), outcome, "version {version}, {size} bytes");
        }
    }

    #[test]
    fn a_recursive_removal_may_stop_halfway_but_spoils_nothing() {
        let removing = || {
            let mut space = space();
            space.open = Some(Operation::RemoveTree { path: "/w/d".to_owned() });
            space
        };
        let mut half = seen(2, 2);
        half.remove("/w/d/f");
        let mut space = removing();
        assert_eq!(space.settle(&half), Ok(Outcome::HappenedInPart));
        assert!(space.tree.contains("/w/d") && !space.tree.contains("/w/d/f"));
        assert!(removing().settle(&seen(1, 1)).is_err());
    }

    #[test]
    fn a_moved_directory_takes_along_what_is_in_it() {
        let mut space = space();
        space.settle(&seen(2, 2)).unwrap();
        space.tree.apply(&Operation::Rename { from: "/w/d".to_owned(), to: "/w/e".to_owned() });
        let paths: Vec<&str> = space.tree.0.keys().map(String::as_str).collect();
        assert_eq!(paths, ["/w", "/w/e", "/w/e/f"]);
        let file = space.tree.file("/w/e/f").unwrap();
        assert_eq!((file.version(), file.logical_bytes(), file.id.as_deref()), (2, 3, Some("id of /w/d/f")));
    }

    #[test]
    fn shared_names_belong_to_the_client_they_begin_with() {
        let space = Space::new("w1");
        assert!(space.owns("/w1") && space.owns("/w1/a") && space.owns("/shared/w1-a"));
        assert!(!space.owns("/w10") && !space.owns("/shared/w10-a") && !space.owns("/shared") && !space.owns("/x/w1-"));
    }
}
