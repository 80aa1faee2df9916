//! What a client does next: an action, aimed with a guess at what is there.

use std::rc::Rc;

use meta::Condition;
use node::Removal;
use proto::{InodeId, VersionNumber};

use crate::harness::plan::Scale;
use crate::oracle::model::{Action, AttributeChange, Body, ContentId, Entry, State};
use crate::oracle::{Oracle, Violation};
use crate::sim::Random;
use crate::workload::data;

/// Names of the private spaces: some sort around the separator, one is not ASCII.
const NAMES: [&str; 5] = ["a", "b", "a-b", "z.d", "ü"];
/// Files of a shared space; few, so that clients meet.
const SHARED_NAMES: [&str; 2] = ["a", "b"];
/// The one directory within a shared space.
const SHARED_DIRECTORY: &str = "d";
/// Entries below a directory that is removed recursively: each may be left by a crash, or not.
const RECURSIVE_ENTRIES_MAX: usize = 7;

/// What a client does next.
#[derive(Clone, Debug)]
pub enum Choice {
    /// Changes something.
    Change(Action),
    /// Sends bytes and goes away before the end.
    Abandon(Action),
    /// Looks at a path.
    Stat(String),
    /// Lists a directory, page by page.
    List(String),
    /// Reads a file or part of it, as it is or as it was at a version.
    Read(String, Option<u64>),
}

impl Choice {
    /// What it is counted as.
    #[must_use]
    pub fn name(&self) -> &'static str {
        match self {
            Choice::Change(Action::Put { .. }) => "operations: put",
            Choice::Change(Action::Restore { .. }) => "operations: restore a version",
            Choice::Change(Action::MakeDirectory { .. }) => "operations: make a directory",
            Choice::Change(Action::MakeSymlink { .. }) => "operations: make a symlink",
            Choice::Change(Action::Rename { .. }) => "operations: rename",
            Choice::Change(Action::Remove { how: Removal::Single, .. }) => "operations: remove",
            Choice::Change(Action::Remove { how: Removal::Recursive, .. }) => "operations: remove a tree",
            Choice::Change(Action::SetAttributes { .. }) => "operations: set attributes",
            Choice::Abandon(_) => "operations: upload that is given up",
            Choice::Stat(_) => "operations: stat",
            Choice::List(_) => "operations: list",
            Choice::Read(_, None) => "operations: read",
            Choice::Read(_, Some(_)) => "operations: read a version",
        }
    }
}

/// A top-level directory, and who else uses it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sharing {
    /// One client: anything goes, directories move.
    Private,
    /// All clients: files come, go and move, and so does one directory.
    Shared,
}

/// Draws what to do next in the space `top`.
///
/// # Errors
/// None of its own; the oracle's when it is asked.
pub fn draw(
    random: &mut Random,
    oracle: &mut Oracle,
    top: &str,
    (sharing, scale): (Sharing, Scale),
) -> Result<Choice, Violation> {
    let state = oracle.guess(top).cloned().unwrap_or_default();
    let aim = Aim { state: &state, top, sharing };
    Ok(match random.below(100) {
        0..=3 => {
            let path = aim.file(random);
            let version = aim.version(random, &path);
            let condition = if random.chance(1, 4) { aim.matching(random, &path) } else { Condition::Any };
            Choice::Change(Action::Restore { path, version, condition })
        }
        4..=33 => {
            let put = draw_put(random, oracle, &aim, scale);
            if random.chance(1, 30) { Choice::Abandon(put) } else { Choice::Change(put) }
        }
        34..=48 => {
            let path = aim.file(random);
            let version = random.chance(1, 4).then(|| aim.version(random, &path));
            Choice::Read(path, version)
        }
        49..=54 => Choice::Stat(aim.any(random)),
        55..=60 => Choice::List(aim.directory(random)),
        61..=66 => {
            let path = aim.new_directory(random);
            Choice::Change(Action::MakeDirectory { path, attributes: draw_attributes(random) })
        }
        67..=70 => {
            let path = aim.file(random);
            let target = format!("../{}", random.pick(&NAMES));
            Choice::Change(Action::MakeSymlink { path, target, attributes: draw_attributes(random) })
        }
        71..=80 => {
            let (from, to) = match sharing {
                Sharing::Private => (aim.any(random), aim.any(random)),
                Sharing::Shared => (aim.file(random), aim.file(random)),
            };
            Choice::Change(Action::Rename { from, to, replace: random.chance(2, 3) })
        }
        81..=88 => Choice::Change(Action::Remove { path: aim.any(random), how: Removal::Single }),
        89..=92 => {
            let path = aim.directory(random);
            let few = state.below(&path).count() <= RECURSIVE_ENTRIES_MAX;
            let how = if few { Removal::Recursive } else { Removal::Single };
            Choice::Change(Action::Remove { path, how })
        }
        _ => {
            let symlink_target = random.chance(1, 3).then(|| format!("./{}", random.pick(&NAMES)));
            let user_metadata = random.chance(1, 2).then(|| draw_metadata(random));
            let change = AttributeChange { symlink_target, user_metadata, ..draw_attributes(random) };
            Choice::Change(Action::SetAttributes { path: aim.any(random), change })
        }
    })
}

fn draw_put(random: &mut Random, oracle: &mut Oracle, aim: &Aim<'_>, scale: Scale) -> Action {
    let path = aim.file(random);
    let condition = match random.below(10) {
        0 | 1 => Condition::Absent,
        2 | 3 => aim.matching(random, &path),
        _ => Condition::Any,
    };
    let earlier = |random: &mut Random| {
        let contents = oracle.contents() as u64;
        let content = (contents > 0).then(|| ContentId(random.below(contents) as usize))?;
        Some(oracle.content(content))
    };
    let bytes = data::draw(random, scale, earlier);
    let len = bytes.len() as u64;
    let content = oracle.add_content(bytes);
    Action::Put { path, content, bytes: len, attributes: draw_attributes(random), condition }
}

fn draw_attributes(random: &mut Random) -> AttributeChange {
    AttributeChange {
        mode: random.chance(1, 2).then(|| random.below(0o1000) as u32),
        mtime_ns: random.chance(1, 2).then(|| random.next_u64()),
        symlink_target: None,
        user_metadata: random.chance(1, 3).then(|| draw_metadata(random)),
    }
}

fn draw_metadata(random: &mut Random) -> Vec<(String, String)> {
    let pairs = random.below(4);
    (0..pairs).map(|number| (format!("key-{number}"), format!("{:x}", random.next_u64()))).collect()
}

/// Aims at a space.
struct Aim<'a> {
    state: &'a State,
    top: &'a str,
    sharing: Sharing,
}

impl Aim<'_> {
    /// A path for a file.
    fn file(&self, random: &mut Random) -> String {
        match self.sharing {
            Sharing::Private => self.any(random),
            Sharing::Shared => {
                let name = random.pick(&SHARED_NAMES);
                let directory = if random.chance(1, 3) { format!("/{SHARED_DIRECTORY}") } else { String::new() };
                format!("{}{directory}/{name}", self.top)
            }
        }
    }

    /// A condition that names a version of a file as somebody saw it; mostly the one that is there.
    fn matching(&self, random: &mut Random, path: &str) -> Condition {
        let seen = |entry: &Entry| match entry.body {
            Body::File { version, .. } => entry.inode.map(|inode| (inode, version)),
            _ => None,
        };
        let here = self.state.stat(path).ok().and_then(seen);
        let others: Vec<(u64, u64)> = self.state.entries.values().filter_map(|entry| seen(entry)).collect();
        let other = if others.is_empty() { (InodeId::ROOT.0, 1) } else { *random.pick(&others) };
        let (inode, version) = here.filter(|_| random.chance(4, 5)).unwrap_or(other);
        Condition::Match { inode: InodeId(inode), version: VersionNumber(version + random.below(4) / 3) }
    }

    /// A version that a file probably has; rarely the next one.
    fn version(&self, random: &mut Random, path: &str) -> u64 {
        match self.state.stat(path).map(|entry| &entry.body) {
            Ok(Body::File { version, .. }) if random.chance(9, 10) => random.between(1, *version),
            Ok(Body::File { version, .. }) => version + 1,
            _ => random.below(3),
        }
    }

    /// A path that probably is a directory.
    fn directory(&self, random: &mut Random) -> String {
        match self.sharing {
            Sharing::Private => {
                let is_directory =
                    |(path, entry): (&String, &Rc<Entry>)| (entry.body == Body::Directory).then(|| path.clone());
                let directories: Vec<String> = self.state.entries.iter().filter_map(is_directory).collect();
                if directories.is_empty() { self.top.to_owned() } else { random.pick(&directories).clone() }
            }
            Sharing::Shared if random.chance(1, 4) => self.top.to_owned(),
            Sharing::Shared => format!("{}/{SHARED_DIRECTORY}", self.top),
        }
    }

    /// A path for a new directory.
    fn new_directory(&self, random: &mut Random) -> String {
        match self.sharing {
            Sharing::Private => self.any(random),
            Sharing::Shared => self.directory(random),
        }
    }

    /// Any path: half of the time one that probably exists.
    fn any(&self, random: &mut Random) -> String {
        if self.sharing == Sharing::Shared {
            return if random.chance(1, 4) { self.directory(random) } else { self.file(random) };
        }
        let paths: Vec<&String> = self.state.entries.keys().collect();
        let mut path = match paths.is_empty() || random.chance(1, 2) {
            true => self.top.to_owned(),
            false => return (*random.pick(&paths)).clone(),
        };
        for _ in 0..random.between(1, 3) {
            path.push('/');
            let name: &&str = random.pick(&NAMES);
            path.push_str(name);
        }
        path
    }
}
