//! The namespace: every name leads to an inode that names it back, every version is somebody's, every total is true.

use std::collections::{BTreeMap, BTreeSet};

use meta::{Content, Counters, Inode, OfflineMeta, Pair, View};
use proto::api::Kind;
use proto::path::check_name;
use proto::port::Disk;
use proto::{InodeId, VersionNumber};

use super::problem::{Problem, ProblemKind, Report};

/// Names that a path is followed up through before it is taken for a circle.
const CLIMB_MAX: usize = 1 << 16;

/// A version of a file whose bytes lie in chunks.
pub(crate) type ChunkedVersion = (InodeId, VersionNumber);

/// What a walk over all pairs adds up to.
#[derive(Default)]
struct Tally {
    counters: Counters,
    stored_counters: Counters,
    /// By directory: names that it says it has, names that it has.
    directories: BTreeMap<InodeId, (Option<u64>, u64)>,
    /// Directories from which the root is reached.
    rooted: BTreeSet<InodeId>,
    chunked: Vec<ChunkedVersion>,
    versions: u64,
    /// The version before, of whichever inode.
    last: Option<(InodeId, VersionNumber)>,
}

/// Checks the namespace; returns the versions whose chunks are to be looked for.
pub(crate) fn check<D: Disk>(meta: &OfflineMeta<D>, report: &mut Report) -> Vec<ChunkedVersion> {
    let view = meta.view();
    let mut tally = Tally::default();
    meta.each_pair(|pair| tally.look(&view, pair, report));
    for (directory, (said, found)) in &tally.directories {
        if *said != Some(*found) {
            let said = said.map_or("is not known as a directory".to_owned(), |said| format!("counts {said} names"));
            let detail = format!("directory {directory} {said} and has {found}");
            report.add(broken(&view, *directory, detail));
        }
    }
    let (counted, stored) = (tally.counters, tally.stored_counters);
    if counted != stored {
        report.add(Problem::new(ProblemKind::CountersWrong, format!("stored {stored:?}, counted {counted:?}")));
    }
    let totals = &mut report.totals;
    (totals.files, totals.directories, totals.symlinks) = (counted.files, counted.directories, counted.symlinks);
    (totals.logical_bytes, totals.versions) = (counted.logical_bytes, tally.versions);
    tally.chunked
}

impl Tally {
    fn look(&mut self, view: &View<'_>, pair: Pair, report: &mut Report) {
        match pair {
            Pair::Name { directory, name, inode, kind } => {
                self.directories.entry(directory).or_default().1 += 1;
                if let Err(error) = check_name(&name) {
                    report.add(broken(view, directory, format!("it holds a name that no path may have: {error}")));
                }
                let back = view.inode(inode);
                let agrees = back.as_ref().is_some_and(|back| {
                    back.parent == directory && back.name == name && back.kind == kind && inode != InodeId::ROOT
                });
                if !agrees {
                    let what = back.map_or("nothing".to_owned(), |back| described(&back));
                    let detail = format!("the name stands for {kind:?} {inode}, which is {what}");
                    let path = format!("{}/{name}", path_of(view, directory).trim_end_matches('/'));
                    report.add(Problem::new(ProblemKind::NamespaceBroken, detail).of_path(path));
                }
            }
            Pair::Directory { directory, entries, .. } => {
                self.directories.entry(directory).or_default().0 = Some(entries);
                if view.inode(directory).is_none_or(|inode| inode.kind != Kind::Directory) {
                    let detail = format!("directory {directory} has no inode that says so");
                    report.add(Problem::new(ProblemKind::NamespaceBroken, detail));
                }
            }
            Pair::Inode { key, record } => self.look_at_inode(view, key, &record, report),
            Pair::Version { inode, version, content, .. } => {
                self.versions += 1;
                self.counters.logical_bytes = self.counters.logical_bytes.wrapping_add(content.size());
                self.counters.inline_bytes = self.counters.inline_bytes.wrapping_add(content.inline_bytes());
                if matches!(content, Content::Chunks { .. }) {
                    self.chunked.push((inode, version));
                }
                let owner = view.inode(inode);
                if owner.is_none_or(|owner| owner.kind != Kind::File || version > owner.version || version.0 == 0) {
                    let detail = format!("version {version} of inode {inode} belongs to no file");
                    report.add(broken(view, inode, detail));
                }
                self.look_at_order(view, inode, version, report);
            }
            Pair::Counters(counters) => self.stored_counters = counters,
            Pair::SlotCounter { slot, next } => {
                if next == 0 || next >= 1 << 50 {
                    let detail = format!("slot {slot} gives out inode {next} next");
                    report.add(Problem::new(ProblemKind::NamespaceBroken, detail));
                }
            }
            Pair::Segment { key, record } => {
                let columns = proto::Geometry::new(record.k, record.m).map(proto::Geometry::columns);
                if key != record.segment || columns != Some(record.members.len()) {
                    let detail = format!("the record of segment {key} contradicts itself: {record:?}");
                    report.add(Problem::new(ProblemKind::NamespaceBroken, detail));
                }
            }
            Pair::Domain { .. } | Pair::Other { .. } => {}
        }
    }

    /// Versions are let go oldest first, so that those which are left follow each other; and of each but the current one
    /// it is known what the file was like.
    fn look_at_order(&mut self, view: &View<'_>, inode: InodeId, version: VersionNumber, report: &mut Report) {
        if let Some((_, last)) = self.last.replace((inode, version)).filter(|(of, _)| *of == inode)
            && version.0 != last.0 + 1
        {
            report.add(broken(view, inode, format!("between its versions {last} and {version} there is none")));
        }
        let is_earlier = view.inode(inode).is_some_and(|owner| version < owner.version);
        if is_earlier != view.past(inode, version).is_some() {
            let has = if is_earlier { "no" } else { "a" };
            report.add(broken(view, inode, format!("its version {version} has {has} record of how the file was then")));
        }
    }

    fn look_at_inode(&mut self, view: &View<'_>, key: InodeId, record: &Inode, report: &mut Report) {
        let mut complain = |detail: String| report.add(broken(view, key, detail));
        if key != record.inode {
            complain(format!("inode {key} says that it is {}", record.inode));
        }
        if record.nlink != 1 {
            complain(format!("inode {key} counts {} names, and has one", record.nlink));
        }
        match record.kind {
            Kind::Directory => {
                self.counters.directories += 1;
                self.directories.entry(key).or_default();
            }
            Kind::Symlink => {
                self.counters.symlinks += 1;
                if record.symlink_target().is_none() {
                    complain(format!("symlink {key} has no target"));
                }
            }
            Kind::File => {
                self.counters.files += 1;
                match view.content(key, record.version) {
                    None => complain(format!("file {key} has no content of its version {}", record.version)),
                    Some(content) if content.size() != record.size => {
                        let (said, has) = (record.size, content.size());
                        complain(format!("file {key} says that it has {said} bytes, its version has {has}"));
                    }
                    Some(_) => {}
                }
            }
        }
        if key == InodeId::ROOT {
            if record.kind != Kind::Directory || record.parent != InodeId::ROOT {
                complain("the root is no directory".to_owned());
            }
        } else if view.child(record.parent, &record.name).is_none_or(|found| found.inode != key) {
            complain(format!("{} is an orphan: no name leads to it", described(record)));
        } else if !self.is_rooted(view, record.parent) {
            complain(format!("{} cannot be reached from the root", described(record)));
        }
    }

    /// Whether climbing from `directory` ends at the root.
    fn is_rooted(&mut self, view: &View<'_>, directory: InodeId) -> bool {
        let mut climbed = Vec::new();
        let mut at = directory;
        while at != InodeId::ROOT && !self.rooted.contains(&at) {
            climbed.push(at);
            match view.inode(at) {
                Some(inode) if climbed.len() <= CLIMB_MAX => at = inode.parent,
                _ => return false,
            }
        }
        self.rooted.extend(climbed);
        true
    }
}

fn broken(view: &View<'_>, inode: InodeId, detail: String) -> Problem {
    Problem::new(ProblemKind::NamespaceBroken, detail).of_path(path_of(view, inode))
}

fn described(inode: &Inode) -> String {
    let Inode { kind, inode, parent, name, .. } = inode;
    format!("{kind:?} {inode}, {name:?} in {parent}")
}

/// The path of an inode as far as it can be followed; what cannot is shown as `(lost)`.
pub(crate) fn path_of(view: &View<'_>, inode: InodeId) -> String {
    let mut names = Vec::new();
    let mut at = inode;
    while at != InodeId::ROOT {
        match view.inode(at) {
            Some(found) if names.len() < CLIMB_MAX => {
                names.push(found.name);
                at = found.parent;
            }
            _ => {
                names.push("(lost)".to_owned());
                break;
            }
        }
    }
    if names.is_empty() { "/".to_owned() } else { names.iter().rev().map(|name| format!("/{name}")).collect() }
}
