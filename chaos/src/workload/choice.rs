//! What a client does next: an action, aimed with a guess at what is there.

use std::rc::Rc;

use meta::Condition;
use node::Removal;
use proto::api::Kind;
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
/// Histories that a recursive removal may lead to: those of seven entries, if nothing else is open.
const REMOVAL_HISTORIES_MAX: u64 = 1 << 7;
/// Entries of a space, above which none are added: every start looks at all of them.
const ENTRIES_MAX: usize = 20;
/// One aim in so many is taken without looking: refusals are answers too.
const BLIND_ONE_IN: u64 = 7;
/// Tries to find a path that is free.
const FREE_ATTEMPTS: usize = 8;

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
            let path = aim.existing(random, is_file);
            let version = aim.version(random, &path);
            let condition = if random.chance(1, 4) { aim.matching(random, &path) } else { Condition::Any };
            Choice::Change(Action::Restore { path, version, condition })
        }
        4..=33 => {
            let put = draw_put(random, oracle, &aim, scale);
            if random.chance(1, 30) { Choice::Abandon(put) } else { Choice::Change(put) }
        }
        34..=48 => {
            let path = aim.existing(random, is_file);
            let version = random.chance(1, 4).then(|| aim.version(random, &path));
            Choice::Read(path, version)
        }
        49..=54 => Choice::Stat(aim.existing(random, |_| true)),
        55..=60 => Choice::List(aim.existing(random, Entry::is_directory)),
        61..=66 if aim.has_room() => {
            let path = aim.free_directory(random);
            Choice::Change(Action::MakeDirectory { path, attributes: draw_attributes(random) })
        }
        67..=70 if aim.has_room() => {
            let path = aim.free(random);
            let target = format!("../{}", random.pick(&NAMES));
            Choice::Change(Action::MakeSymlink { path, target, attributes: draw_attributes(random) })
        }
        71..=80 => {
            let from = match sharing {
                Sharing::Private => aim.existing(random, |_| true),
                Sharing::Shared => aim.existing(random, |entry| !entry.is_directory()),
            };
            let to = if random.chance(2, 3) { aim.free(random) } else { aim.existing(random, is_file) };
            Choice::Change(Action::Rename { from, to, replace: random.chance(3, 4) })
        }
        89..=91 => {
            let path = aim.existing(random, Entry::is_directory);
            let few = oracle.removal_histories(top, &path) <= REMOVAL_HISTORIES_MAX;
            let how = if few { Removal::Recursive } else { Removal::Single };
            Choice::Change(Action::Remove { path, how })
        }
        92.. => {
            let path = aim.existing(random, |_| true);
            let is_symlink = state.stat(&path).is_ok_and(|entry| entry.kind() == Kind::Symlink);
            let retargets = random.chance(if is_symlink { 2 } else { 1 }, if is_symlink { 3 } else { BLIND_ONE_IN });
            let symlink_target = retargets.then(|| format!("./{}", random.pick(&NAMES)));
            let user_metadata = random.chance(1, 2).then(|| draw_metadata(random));
            let change = AttributeChange { symlink_target, user_metadata, ..draw_attributes(random) };
            Choice::Change(Action::SetAttributes { path, change })
        }
        _ => Choice::Change(Action::Remove { path: aim.leaf(random), how: Removal::Single }),
    })
}

fn is_file(entry: &Entry) -> bool {
    entry.kind() == Kind::File
}

fn draw_put(random: &mut Random, oracle: &mut Oracle, aim: &Aim<'_>, scale: Scale) -> Action {
    let path = if aim.has_room() && random.chance(1, 2) { aim.free(random) } else { aim.existing(random, is_file) };
    let is_there = aim.state.stat(&path).is_ok() != random.chance(1, BLIND_ONE_IN);
    let condition = match random.below(10) {
        0..=2 if is_there => aim.matching(random, &path),
        0..=2 => Condition::Absent,
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
    /// Whether the space may grow.
    fn has_room(&self) -> bool {
        self.state.entries.len() < ENTRIES_MAX
    }

    /// Some path of the space, whatever it stands for.
    fn blind(&self, random: &mut Random) -> String {
        let mut path = self.top.to_owned();
        match self.sharing {
            Sharing::Private => {
                for _ in 0..random.between(1, 3) {
                    path.push('/');
                    path += random.pick::<&str>(&NAMES);
                }
            }
            Sharing::Shared => {
                if random.chance(1, 3) {
                    path = self.shared_directory();
                }
                path.push('/');
                path += random.pick::<&str>(&SHARED_NAMES);
            }
        }
        path
    }

    fn shared_directory(&self) -> String {
        format!("{}/{SHARED_DIRECTORY}", self.top)
    }

    /// A path that probably stands for something like this.
    fn existing(&self, random: &mut Random, is_wanted: impl Fn(&Entry) -> bool) -> String {
        self.one_of(random, |_, entry| is_wanted(entry))
    }

    /// A path that probably stands for something with nothing below it.
    fn leaf(&self, random: &mut Random) -> String {
        self.one_of(random, |path, entry| !entry.is_directory() || self.state.below(path).next().is_none())
    }

    fn one_of(&self, random: &mut Random, is_wanted: impl Fn(&str, &Entry) -> bool) -> String {
        let entries = self.state.entries.iter();
        let wanted: Vec<&Rc<str>> =
            entries.filter(|(path, entry)| is_wanted(path, entry)).map(|(path, _)| path).collect();
        if wanted.is_empty() || random.chance(1, BLIND_ONE_IN) {
            return self.blind(random);
        }
        random.pick(&wanted).to_string()
    }

    /// A path that probably stands for nothing, and may be made.
    fn free(&self, random: &mut Random) -> String {
        let mut path = self.blind(random);
        for _ in 0..FREE_ATTEMPTS {
            if self.state.may_be_made(&path) {
                break;
            }
            path = self.blind(random);
        }
        path
    }

    /// A path for a new directory.
    fn free_directory(&self, random: &mut Random) -> String {
        match self.sharing {
            Sharing::Private => self.free(random),
            Sharing::Shared => self.shared_directory(),
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
        let (inode, version) = here.filter(|_| !random.chance(1, BLIND_ONE_IN)).unwrap_or(other);
        let ahead = u64::from(random.chance(1, BLIND_ONE_IN));
        Condition::Match { inode: InodeId(inode), version: VersionNumber(version + ahead) }
    }

    /// A version that a file probably has; rarely the next one, or one that it had.
    fn version(&self, random: &mut Random, path: &str) -> u64 {
        let Ok(entry) = self.state.stat(path) else { return random.below(3) };
        match &entry.body {
            Body::File { version, .. } if random.chance(1, 10) => version + 1,
            Body::File { version, .. } => {
                let gone = if random.chance(1, BLIND_ONE_IN) { 0 } else { entry.gone.surely };
                random.between(gone + 1, *version)
            }
            _ => random.below(3),
        }
    }
}
