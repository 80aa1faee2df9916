//! Every command's semantics, and what must hold after any of them.

use std::collections::BTreeMap;

use proptest::prelude::*;
use proto::api::Kind;
use proto::limits::{
    INLINE_BYTES_MAX, PATH_DEPTH_MAX, SESSION_CLIENTS_MAX, SESSION_RESULTS_MAX, SYMLINK_BYTES_MAX,
    USER_METADATA_BYTES_MAX, USER_METADATA_PAIRS_MAX,
};
use proto::{DeviceId, DomainId, InodeId, SegmentId, VersionNumber};

use super::*;
use crate::command::{Attributes, Condition, Content, Limit, Place, Session};
use crate::keys::{self, KeyKind};
use crate::manifest::ManifestEntry;
use crate::record::{
    Counters, Directory, EventClock, Inode, Name, Number, OnceKey, Past, SegmentState, SessionClock, Version,
};
use crate::state::State;
use crate::txn::{load, own};
use crate::view::View;

mod events;
mod once;
mod retention;
mod versions;

const ROOT: InodeId = InodeId::ROOT;

/// A state, and a clock that each command advances.
struct Store {
    state: State,
    now_ns: u64,
}

fn at(names: &[&str]) -> Place {
    let (name, make_dirs) = names.split_last().unwrap();
    Place { parent: ROOT, make_dirs: make_dirs.iter().map(|&name| name.into()).collect(), name: (*name).into() }
}

fn names(path: &[&str]) -> Vec<String> {
    path.iter().map(|&name| name.into()).collect()
}

fn chunks(sizes: &[u64]) -> Content {
    let entry = |bytes: &u64| ManifestEntry { id: [7; 32], bytes: *bytes, location: 9 };
    Content::Chunks {
        size: sizes.iter().sum(),
        domain: DomainId(0),
        depth: 0,
        entries: sizes.iter().map(entry).collect(),
    }
}

impl Store {
    fn new() -> Store {
        let mut store = Store { state: State::default(), now_ns: 1 };
        assert_eq!(store.run(Command::Format { now_ns: 1 }), Response::Made { inode: ROOT });
        let domain = Command::CreateDomain {
            domain: DomainId(0),
            chunker: 1,
            ring_key: 2,
            wrap_nonce: [3; 12],
            wrapped_key: [4; 48],
        };
        assert_eq!(store.run(domain), Response::Domain);
        store
    }

    fn run(&mut self, command: Command) -> Response {
        let response = exec(&command, &mut self.state);
        check_invariants(&self.state);
        response
    }

    /// Runs a command that must fail, and must then have changed nothing.
    fn fail(&mut self, command: Command) -> MetaError {
        let before = self.state.digest();
        let Response::Failed(error) = self.run(command.clone()) else { panic!("{command:?} should fail") };
        assert_eq!(self.state.digest(), before, "{command:?} changed something");
        error
    }

    fn tick(&mut self) -> u64 {
        self.now_ns += 1;
        self.now_ns
    }

    fn commit(&mut self, at: Place, content: Content, condition: Condition, session: Option<Session>) -> Command {
        let now_ns = self.tick();
        Command::CommitFile { at, content, attributes: Attributes::default(), condition, session, now_ns, pin_epoch: 0 }
    }

    /// Puts a small file; returns its inode.
    fn put(&mut self, path: &[&str]) -> InodeId {
        let command = self.commit(at(path), Content::Inline(path.concat().into()), Condition::Any, None);
        match self.run(command) {
            Response::Committed { inode, .. } => inode,
            other => panic!("{other:?}"),
        }
    }

    fn mkdir(&mut self, path: &[&str]) -> InodeId {
        let now_ns = self.tick();
        let command = Command::MakeDirectory { at: at(path), attributes: Attributes::default(), session: None, now_ns };
        match self.run(command) {
            Response::Made { inode } => inode,
            other => panic!("{other:?}"),
        }
    }

    fn symlink(&mut self, path: &[&str], target: &str) -> Command {
        let now_ns = self.tick();
        let attributes = Attributes::default();
        Command::MakeSymlink { at: at(path), target: target.into(), attributes, session: None, now_ns }
    }

    fn unlink(&mut self, parent: InodeId, name: &str, inode: Option<InodeId>) -> Command {
        let condition = Condition::Any;
        Command::Unlink { parent, name: name.into(), inode, condition, session: None, now_ns: self.tick() }
    }

    fn rename(&mut self, from: (InodeId, &str), to: Place, replace: bool) -> Command {
        let now_ns = self.tick();
        Command::Rename { from: Place::in_directory(from.0, from.1), to, replace, session: None, now_ns }
    }

    fn view(&self) -> View<'_> {
        View::new(&self.state)
    }

    fn inode(&self, inode: InodeId) -> Inode {
        self.view().inode(inode).unwrap()
    }

    fn resolve(&self, path: &[&str]) -> Result<InodeId, MetaError> {
        self.view().resolve(&names(path)).map(|found| found.inode)
    }
}

/// Recounts everything that is kept twice.
fn check_invariants(state: &State) {
    let all = keys::KeyRange { from: vec![0], to: vec![u8::MAX] };
    let mut recount = Counters::default();
    let mut entries: BTreeMap<InodeId, u64> = BTreeMap::new();
    let (mut windows, mut versions, mut earlier, mut remembered) = (0, 0, 0, 0);
    let mut events: Vec<(u64, u64)> = Vec::new();
    for (key, value) in state.range(&all) {
        crate::record::check_pair(&key, value).unwrap();
        let number = || u64::from_be_bytes(key[1..9].try_into().unwrap());
        match keys::kind(&key).unwrap() {
            KeyKind::Name => {
                let name: Name = own(value);
                let inode: Inode = load(state, &keys::inode(name.inode)).expect("a name leads to an inode");
                assert_eq!((inode.parent, inode.name.as_str()), (InodeId(number()), keys::name_of(&key).unwrap()));
                assert_eq!(inode.kind, name.kind);
                *entries.entry(inode.parent).or_default() += 1;
            }
            KeyKind::Directory => {
                let directory: Directory = own(value);
                let found = entries.get(&InodeId(number())).copied().unwrap_or_default();
                // Directory keys sort before names: what is counted here is checked again below.
                assert!(found <= directory.entries);
                recount.directories += 1;
            }
            KeyKind::Inode => {
                let inode: Inode = own(value);
                match inode.kind {
                    Kind::File => {
                        recount.files += 1;
                        let current: Version =
                            load(state, &keys::version(inode.inode, inode.version)).expect("a current version");
                        assert_eq!(current.content.size(), inode.size);
                    }
                    Kind::Symlink => recount.symlinks += 1,
                    Kind::Directory => {
                        let directory: Directory = load(state, &keys::directory(inode.inode)).unwrap();
                        let names = state.range(&keys::names(inode.inode, None)).count();
                        assert_eq!(directory.entries, names as u64);
                    }
                }
                assert!(View::new(state).path_of(inode.inode).is_some());
            }
            KeyKind::Version => {
                assert!(state.get(&keys::inode(InodeId(number()))).is_some(), "a version has a file");
                let content = own::<Version>(value).content;
                recount.logical_bytes += content.size();
                recount.inline_bytes += content.inline_bytes();
                versions += 1;
            }
            KeyKind::Past => {
                let (inode, version) = (InodeId(number()), keys::version_of_past(&key));
                let current: Inode = load(state, &keys::inode(inode)).expect("an earlier version has a file");
                assert!(version < current.version);
                let content: Version = load(state, &keys::version(inode, version)).expect("a version has its content");
                assert_eq!(own::<Past>(value).size, content.content.size());
                earlier += 1;
            }
            KeyKind::Event => events.push((number(), (key.len() + value.len()) as u64)),
            KeyKind::OnceOrder => {
                let OnceKey(once) = own(value);
                assert!(state.get(&keys::once(&once)).is_some());
                remembered += 1;
            }
            KeyKind::Once => remembered -= 1,
            KeyKind::ClientWindow => windows += 1,
            KeyKind::Touch => {
                let Number(client) = own(value);
                assert!(state.get(&keys::client(client)).is_some());
            }
            _ => {}
        }
    }
    assert_eq!(View::new(state).counters(), recount);
    assert_eq!(versions, earlier + recount.files, "every version but the current one keeps its attributes");
    assert_eq!(remembered, 0, "every key is remembered and will be forgotten");
    let clock: EventClock = load(state, keys::EVENT_CLOCK).unwrap_or_default();
    assert!(events.iter().map(|(cursor, _)| *cursor).eq(clock.oldest..clock.next), "{events:?} {clock:?}");
    assert_eq!(events.iter().map(|(_, bytes)| bytes).sum::<u64>(), clock.bytes);
    let clock: SessionClock = load(state, keys::SESSION_CLOCK).unwrap_or_default();
    assert_eq!(clock.clients, windows);
    assert_eq!(state.range(&keys::touches()).count(), windows as usize);
}

#[test]
fn a_store_is_formatted_once() {
    let mut store = Store::new();
    assert_eq!(store.fail(Command::Format { now_ns: 9 }), MetaError::AlreadyExists);
    let root = store.inode(ROOT);
    assert_eq!((root.kind, root.parent, root.created_ns), (Kind::Directory, ROOT, 1));
    assert_eq!(store.view().path_of(ROOT), Some(vec![]));
    assert_eq!(store.view().counters(), Counters { directories: 1, ..Counters::default() });
}

#[test]
fn a_commit_makes_missing_parents_and_the_first_version() {
    let mut store = Store::new();
    let command = store.commit(at(&["a", "b", "f"]), Content::Inline(b"hello".to_vec()), Condition::Any, None);
    let Response::Committed { inode, version, created } = store.run(command) else { panic!() };
    assert_eq!((version, created), (VersionNumber(1), true));
    assert_eq!(store.resolve(&["a", "b", "f"]), Ok(inode));
    assert_eq!(store.view().path_of(inode), Some(names(&["a", "b", "f"])));
    assert_eq!(store.view().content(inode, version), Some(Content::Inline(b"hello".to_vec())));
    let counters = store.view().counters();
    assert_eq!((counters.logical_bytes, counters.inline_bytes), (5, 5));
    assert_eq!((counters.files, counters.directories), (1, 3));
    let parent = store.inode(inode).parent;
    assert_eq!(inode.slot(), parent.slot(), "a file inherits the slot of its directory");
    assert_eq!(store.inode(parent).mode, 0o755);
    assert_eq!(store.inode(inode).mode, 0o644);
}

#[test]
fn a_new_version_keeps_the_old_ones_and_what_it_does_not_name() {
    let mut store = Store::new();
    let first = Attributes {
        mode: Some(0o600),
        mtime_ns: Some(77),
        content_type: Some("text/plain".into()),
        user_metadata: vec![("k".into(), "v".into())],
        owner: 5,
    };
    let mut command = store.commit(at(&["f"]), Content::Inline(b"1".to_vec()), Condition::Absent, None);
    if let Command::CommitFile { attributes, .. } = &mut command {
        *attributes = first;
    }
    let Response::Committed { inode, .. } = store.run(command) else { panic!() };
    let record = store.inode(inode);
    assert_eq!((record.mode, record.mtime_ns, record.owner), (0o600, 77, 5));
    let first = Condition::Match { inode, version: VersionNumber(1) };
    let command = store.commit(at(&["f"]), chunks(&[10, 20]), first, None);
    let expected = Response::Committed { inode, version: VersionNumber(2), created: false };
    assert_eq!(store.run(command), expected);
    let after = store.inode(inode);
    assert_eq!((after.mode, after.owner, after.created_ns), (0o600, 5, record.created_ns));
    assert_eq!((after.size, after.mtime_ns, after.committed_ns), (30, store.now_ns, store.now_ns));
    assert!(after.user_metadata.is_empty() && after.content_type().is_none());
    assert_eq!(store.view().content(inode, VersionNumber(1)), Some(Content::Inline(b"1".to_vec())));
    assert_eq!(store.view().content(inode, VersionNumber(3)), None);
    let counters = store.view().counters();
    assert_eq!((counters.logical_bytes, counters.inline_bytes, counters.files), (31, 1, 1));
}

#[test]
fn conditions_are_kept() {
    let mut store = Store::new();
    let content = Content::Inline(vec![]);
    let root = Condition::Match { inode: InodeId::ROOT, version: VersionNumber(1) };
    let command = store.commit(at(&["x", "f"]), content.clone(), root, None);
    assert_eq!(store.fail(command), MetaError::ConditionFailed { current: None });
    store.put(&["f"]);
    let current = Some(VersionNumber(1));
    let inode = store.view().resolve(&["f".to_owned()]).unwrap().inode;
    let command = store.commit(at(&["f"]), content.clone(), root, None);
    assert_eq!(store.fail(command), MetaError::ConditionFailed { current }, "another file had this version");
    let command = store.commit(at(&["f"]), content.clone(), Condition::Absent, None);
    assert_eq!(store.fail(command), MetaError::ConditionFailed { current });
    let later = Condition::Match { inode, version: VersionNumber(2) };
    let command = store.commit(at(&["f"]), content, later, None);
    assert_eq!(store.fail(command), MetaError::ConditionFailed { current });
}

#[test]
fn commits_go_where_files_may_be() {
    let mut store = Store::new();
    let file = store.put(&["f"]);
    store.mkdir(&["d"]);
    let command = store.symlink(&["l"], "f");
    assert!(matches!(store.run(command), Response::Made { .. }));
    let content = Content::Inline(vec![]);
    for (place, error) in [
        (at(&["d"]), MetaError::IsADirectory),
        (at(&["l"]), MetaError::AlreadyExists),
        (at(&["f", "g"]), MetaError::NotADirectory),
        (at(&["d", "..", "g"]), MetaError::InvalidName),
        (at(&["a/b"]), MetaError::InvalidName),
        (at(&[""]), MetaError::InvalidName),
        (Place::in_directory(file, "g"), MetaError::NotADirectory),
        (Place::in_directory(InodeId(999), "g"), MetaError::Stale),
    ] {
        let command = store.commit(place.clone(), content.clone(), Condition::Any, None);
        assert_eq!(store.fail(command), error, "{place:?}");
    }
}

/// A chunked content, taken apart.
struct Parts {
    size: u64,
    domain: DomainId,
    depth: u8,
    entries: Vec<ManifestEntry>,
}

#[test]
fn contradictory_content_is_refused() {
    let mut store = Store::new();
    let with = |change: &dyn Fn(&mut Parts)| {
        let entry = ManifestEntry { id: [7; 32], bytes: 10, location: 9 };
        let mut parts = Parts { size: 20, domain: DomainId(0), depth: 0, entries: vec![entry; 2] };
        change(&mut parts);
        let Parts { size, domain, depth, entries } = parts;
        Content::Chunks { size, domain, depth, entries }
    };
    for (content, error) in [
        (Content::Inline(vec![0; INLINE_BYTES_MAX + 1]), MetaError::TooLarge(Limit::InlineBytes)),
        (with(&|parts| parts.size += 1), MetaError::InvalidContent),
        (with(&|parts| parts.entries.clear()), MetaError::InvalidContent),
        (with(&|parts| (parts.size, parts.entries) = (0, vec![])), MetaError::InvalidContent),
        (with(&|parts| (parts.size, parts.entries[1].bytes) = (10, 0)), MetaError::InvalidContent),
        (with(&|parts| (parts.size, parts.entries[1].bytes) = (9, u64::MAX)), MetaError::InvalidContent),
        (with(&|parts| parts.entries = vec![parts.entries[0]; 1025]), MetaError::TooLarge(Limit::ManifestEntries)),
        (with(&|parts| parts.depth = 5), MetaError::TooLarge(Limit::ManifestDepth)),
        (with(&|parts| parts.domain = DomainId(1)), MetaError::NoSuchDomain),
    ] {
        let command = store.commit(at(&["a", "f"]), content, Condition::Any, None);
        assert_eq!(store.fail(command), error);
    }
}

#[test]
fn commits_behind_the_fence_are_refused_but_not_remembered() {
    let mut state = Store::new();
    let session = Session::Numbered { client: 1, sequence: 1, acked_below: 0 };
    let mut command = state.commit(at(&["f"]), chunks(&[1]), Condition::Any, Some(session));
    for epoch in 2..=4 {
        assert_eq!(state.run(Command::RaiseEpoch { epoch }), Response::Epoch);
    }
    assert_eq!(state.fail(command.clone()), MetaError::StaleEpoch { fence: 3 });
    if let Command::CommitFile { pin_epoch, .. } = &mut command {
        *pin_epoch = 3;
    }
    assert!(matches!(state.run(command), Response::Committed { .. }), "fresh lookups cure the same request");
}

#[test]
fn a_refusal_behind_the_fence_is_not_remembered_under_a_key_either() {
    let mut state = Store::new();
    let session = Session::Keyed { key: [1; 16], fingerprint: [2; 16] };
    let mut command = state.commit(at(&["f"]), chunks(&[1]), Condition::Any, Some(session));
    state.run(Command::RaiseEpoch { epoch: 2 });
    assert_eq!(state.fail(command.clone()), MetaError::StaleEpoch { fence: 1 });
    if let Command::CommitFile { pin_epoch, .. } = &mut command {
        *pin_epoch = 1;
    }
    let first = state.run(command.clone());
    assert!(matches!(first, Response::Committed { .. }));
    assert_eq!(state.run(command), first, "the answer is remembered");
}

#[test]
fn epochs_are_raised_one_by_one() {
    let mut state = Store::new();
    assert_eq!(state.view().epoch(), 1);
    assert_eq!(state.run(Command::RaiseEpoch { epoch: 2 }), Response::Epoch);
    let digest = state.state.digest();
    assert_eq!(state.run(Command::RaiseEpoch { epoch: 2 }), Response::Epoch, "a repetition");
    for epoch in [0, 1, 4, u64::MAX] {
        assert_eq!(state.fail(Command::RaiseEpoch { epoch }), MetaError::WrongEpoch { current: 2 });
    }
    assert_eq!((state.state.digest(), state.view().epoch()), (digest, 2));
}

#[test]
fn a_walk_over_manifests_meets_what_stays_once_and_what_comes_behind_it() {
    let mut store = Store::new();
    for name in ["a", "b", "c"] {
        let command = store.commit(at(&[name]), chunks(&[1, 2]), Condition::Any, None);
        store.run(command);
    }
    store.put(&["inline"]);
    let (first, rest) = store.view().manifests(Default::default(), 2, usize::MAX);
    assert_eq!(first.len(), 2);
    // A restore is a version behind the one that it takes its chunks from, and is met even if that one was not.
    let command = store.commit(at(&["c"]), chunks(&[3]), Condition::Any, None);
    store.run(command);
    let (second, end) = store.view().manifests(rest.expect("more to come"), 100, usize::MAX);
    assert_eq!((second, end), (vec![chunks(&[1, 2]), chunks(&[3])], None));
    let (one, rest) = store.view().manifests(Default::default(), 100, 1);
    assert!(one == [chunks(&[1, 2])] && rest.is_some(), "entries bound a step as well");
}

#[test]
fn a_stale_resolution_is_not_remembered() {
    let mut state = Store::new();
    let session = Some(Session::Numbered { client: 1, sequence: 1, acked_below: 0 });
    let inode = state.put(&["f"]);
    let unlink = |inode| {
        let condition = Condition::Any;
        Command::Unlink { parent: ROOT, name: "f".into(), inode: Some(inode), condition, session, now_ns: 1 }
    };
    assert_eq!(state.fail(unlink(InodeId(999))), MetaError::Stale);
    assert_eq!(state.run(unlink(inode)), Response::Unlinked { inode }, "resolving again cures the same request");
    assert_eq!(state.run(unlink(inode)), Response::Unlinked { inode }, "the answer is remembered");
}

#[test]
fn a_removal_that_was_answered_takes_nothing_more_from_its_directory() {
    let numbered = Session::Numbered { client: 1, sequence: 1, acked_below: 0 };
    for part_of in [numbered, Session::Keyed { key: [1; 16], fingerprint: [2; 16] }] {
        let mut state = Store::new();
        let directory = state.mkdir(&["d"]);
        let below = |inode| {
            let (parent, name) = (directory, "f".into());
            Command::UnlinkBelow { parent, name, inode, part_of, now_ns: 1 }
        };
        let first = state.put(&["d", "f"]);
        assert_eq!(state.fail(below(InodeId(999))), MetaError::Stale);
        assert_eq!(state.run(below(first)), Response::Unlinked { inode: first });
        let (name, inode, condition) = ("d".into(), Some(directory), Condition::Any);
        let second = state.put(&["d", "f"]);
        let whole = Command::Unlink { parent: ROOT, name, inode, condition, session: Some(part_of), now_ns: 2 };
        assert_eq!(state.fail(whole.clone()), MetaError::NotEmpty, "a name that came meanwhile");
        assert_eq!(state.run(below(second)), Response::Unlinked { inode: second });
        assert_eq!(state.run(whole), Response::Unlinked { inode: directory });
        state.mkdir(&["d"]);
        let third = state.put(&["d", "f"]);
        assert_eq!(state.fail(below(third)), MetaError::Answered, "what came after the answer stays");
        assert!(state.resolve(&["d", "f"]).is_ok());
    }
}

#[test]
fn directories_and_symlinks_are_made_once() {
    let mut store = Store::new();
    let directory = store.mkdir(&["a", "b"]);
    assert_eq!(store.resolve(&["a", "b"]), Ok(directory));
    let command = store.symlink(&["a", "l"], "../x");
    let Response::Made { inode } = store.run(command) else { panic!() };
    let link = store.inode(inode);
    assert_eq!((link.kind, link.symlink_target(), link.mode), (Kind::Symlink, Some("../x"), 0o777));
    for path in [&["a", "b"], &["a", "l"]] {
        let attributes = Attributes::default();
        let command = Command::MakeDirectory { at: at(path), attributes, session: None, now_ns: 9 };
        assert_eq!(store.fail(command), MetaError::AlreadyExists);
        let command = store.symlink(path, "x");
        assert_eq!(store.fail(command), MetaError::AlreadyExists);
    }
    let command = store.symlink(&["n"], &"x".repeat(SYMLINK_BYTES_MAX + 1));
    assert_eq!(store.fail(command), MetaError::TooLarge(Limit::SymlinkBytes));
    let command = store.symlink(&["n"], "");
    assert_eq!(store.fail(command), MetaError::InvalidName);
    let command = store.symlink(&["a", "l", "n"], "x");
    assert_eq!(store.fail(command), MetaError::NotADirectory, "symlinks are not followed");
}

#[test]
fn directories_are_not_made_deeper_than_paths_go() {
    let mut store = Store::new();
    let deep = vec!["d"; PATH_DEPTH_MAX];
    store.mkdir(&deep);
    let deeper = vec!["d"; PATH_DEPTH_MAX + 1];
    let attributes = Attributes::default();
    let command = Command::MakeDirectory { at: at(&deeper), attributes, session: None, now_ns: 9 };
    assert_eq!(store.fail(command), MetaError::TooLarge(Limit::PathDepth));
    let mut path = deeper.clone();
    path.push("f");
    let command = store.commit(at(&path), Content::Inline(vec![]), Condition::Any, None);
    assert_eq!(store.fail(command), MetaError::TooLarge(Limit::PathDepth));
    store.mkdir(&["e"]);
    let command = store.rename((ROOT, "e"), at(&deeper), false);
    assert_eq!(store.fail(command), MetaError::TooLarge(Limit::PathDepth));
}

#[test]
fn unlink_takes_all_versions_and_their_bytes() {
    let mut store = Store::new();
    let keep = store.put(&["keep"]);
    let inode = store.put(&["f"]);
    let command = store.commit(at(&["f"]), chunks(&[1000]), Condition::Any, None);
    store.run(command);
    let command = store.unlink(ROOT, "f", Some(keep));
    assert_eq!(store.fail(command), MetaError::Stale, "the name stands for another inode");
    let command = store.unlink(ROOT, "f", Some(inode));
    assert_eq!(store.run(command), Response::Unlinked { inode });
    assert_eq!(store.view().inode(inode), None);
    assert_eq!(store.view().path_of(inode), None);
    assert_eq!(store.view().content(inode, VersionNumber(1)), None);
    assert_eq!(store.view().counters().logical_bytes, 4);
    let command = store.unlink(ROOT, "f", None);
    assert_eq!(store.fail(command), MetaError::NotFound);
    let again = store.put(&["f"]);
    assert_ne!(again, inode, "inode numbers are never reused");
}

#[test]
fn only_empty_directories_are_unlinked() {
    let mut store = Store::new();
    store.put(&["d", "f"]);
    let directory = store.resolve(&["d"]).unwrap();
    let command = store.unlink(ROOT, "d", None);
    assert_eq!(store.fail(command), MetaError::NotEmpty);
    let command = store.unlink(directory, "f", None);
    store.run(command);
    let command = store.unlink(ROOT, "d", None);
    assert_eq!(store.run(command), Response::Unlinked { inode: directory });
    let command = store.unlink(directory, "f", None);
    assert_eq!(store.fail(command), MetaError::Stale);
    let file = store.put(&["f"]);
    let command = store.unlink(file, "x", None);
    assert_eq!(store.fail(command), MetaError::NotADirectory);
}

#[test]
fn a_directory_changes_when_its_names_do() {
    let mut store = Store::new();
    let directory = store.mkdir(&["d"]);
    let made = store.inode(directory).mtime_ns;
    store.put(&["d", "f"]);
    let added = store.inode(directory).mtime_ns;
    assert!(added > made);
    store.put(&["d", "f"]);
    assert_eq!(store.inode(directory).mtime_ns, added, "a new version is no new name");
    let command = store.unlink(directory, "f", None);
    store.run(command);
    assert!(store.inode(directory).mtime_ns > added);
}

#[test]
fn files_move_within_and_across_directories() {
    let mut store = Store::new();
    let inode = store.put(&["a", "f"]);
    let a = store.resolve(&["a"]).unwrap();
    let command = store.rename((a, "f"), Place::in_directory(a, "g"), false);
    assert_eq!(store.run(command), Response::Renamed { inode });
    assert_eq!(store.view().path_of(inode), Some(names(&["a", "g"])));
    let command = store.rename((a, "g"), at(&["b", "c", "h"]), false);
    assert_eq!(store.run(command), Response::Renamed { inode });
    assert_eq!(store.resolve(&["b", "c", "h"]), Ok(inode));
    assert_eq!(store.resolve(&["a", "g"]), Err(MetaError::NotFound));
    let command = store.rename((a, "g"), at(&["x"]), true);
    assert_eq!(store.fail(command), MetaError::NotFound);
    let command = store.rename((inode, "g"), at(&["x"]), true);
    assert_eq!(store.fail(command), MetaError::NotADirectory);
    let command = store.rename((ROOT, "a"), at(&["b", "c", "h", "x"]), true);
    assert_eq!(store.fail(command), MetaError::NotADirectory);
}

#[test]
fn renaming_onto_itself_changes_nothing() {
    let mut store = Store::new();
    let inode = store.put(&["f"]);
    let before = store.state.digest();
    let command = store.rename((ROOT, "f"), at(&["f"]), false);
    assert_eq!(store.run(command), Response::Renamed { inode });
    assert_eq!(store.state.digest(), before);
}

#[test]
fn a_directory_never_moves_into_itself() {
    let mut store = Store::new();
    let deep = store.mkdir(&["a", "b", "c"]);
    let b = store.resolve(&["a", "b"]).unwrap();
    for to in [at(&["a", "x"]), at(&["a", "b", "c", "x"]), at(&["a", "new", "x"]), Place::in_directory(deep, "x")] {
        let command = store.rename((ROOT, "a"), to.clone(), true);
        assert_eq!(store.fail(command), MetaError::IntoItself, "{to:?}");
    }
    // Up and sideways are fine, and what was below moves along.
    let a = store.resolve(&["a"]).unwrap();
    let command = store.rename((a, "b"), at(&["s", "b"]), false);
    assert_eq!(store.run(command), Response::Renamed { inode: b });
    assert_eq!(store.view().path_of(deep), Some(names(&["s", "b", "c"])));
    let command = store.rename((ROOT, "a"), Place::in_directory(deep, "a"), false);
    assert_eq!(store.run(command), Response::Renamed { inode: a });
    let command = store.rename((ROOT, "s"), Place::in_directory(a, "s"), false);
    assert_eq!(store.fail(command), MetaError::IntoItself);
}

#[test]
fn rename_replaces_only_what_it_may() {
    let mut store = Store::new();
    let file = store.put(&["f"]);
    let other = store.put(&["g"]);
    let empty = store.mkdir(&["empty"]);
    store.put(&["full", "x"]);
    let directory = store.mkdir(&["d"]);
    for (from, to, replace, error) in [
        ("f", "g", false, MetaError::AlreadyExists),
        ("f", "empty", true, MetaError::IsADirectory),
        ("d", "f", true, MetaError::NotADirectory),
        ("d", "full", true, MetaError::NotEmpty),
        ("d", "empty", false, MetaError::AlreadyExists),
    ] {
        let command = store.rename((ROOT, from), at(&[to]), replace);
        assert_eq!(store.fail(command), error, "{from} to {to}");
    }
    let full = store.resolve(&["full"]).unwrap();
    let command = store.rename((full, "x"), at(&["full"]), true);
    assert_eq!(store.fail(command), MetaError::IsADirectory);
    let command = store.rename((ROOT, "f"), at(&["g"]), true);
    assert_eq!(store.run(command), Response::Renamed { inode: file });
    assert_eq!(store.view().inode(other), None);
    assert_eq!(store.view().counters().logical_bytes, 1 + 5);
    let command = store.rename((ROOT, "d"), at(&["empty"]), true);
    assert_eq!(store.run(command), Response::Renamed { inode: directory });
    assert_eq!(store.view().inode(empty), None);
    let command = store.symlink(&["l"], "t");
    store.run(command);
    let command = store.rename((ROOT, "l"), at(&["g"]), true);
    assert!(matches!(store.run(command), Response::Renamed { .. }));
    assert_eq!(store.view().inode(file), None);
}

#[test]
fn attributes_change_one_by_one() {
    let mut store = Store::new();
    let file = store.put(&["f"]);
    let command = store.symlink(&["l"], "t");
    let Response::Made { inode: link } = store.run(command) else { panic!() };
    let set = |inode, mode, mtime_ns, target: Option<&str>, user_metadata| Command::SetAttributes {
        inode,
        condition: Condition::Any,
        content_type: None,
        mode,
        mtime_ns,
        symlink_target: target.map(str::to_owned),
        user_metadata,
        session: None,
        now_ns: 99,
    };
    let before = store.inode(file);
    assert_eq!(store.run(set(file, Some(0o400), None, None, None)), Response::Changed);
    assert_eq!(store.inode(file), Inode { mode: 0o400, ..before.clone() });
    let pairs = vec![("a".to_owned(), "b".to_owned())];
    assert_eq!(store.run(set(file, None, Some(5), None, Some(pairs.clone()))), Response::Changed);
    assert_eq!(store.inode(file), Inode { mode: 0o400, mtime_ns: 5, user_metadata: pairs, ..before });
    assert_eq!(store.run(set(link, None, None, Some("u"), None)), Response::Changed);
    assert_eq!(store.inode(link).symlink_target(), Some("u"));
    assert_eq!(store.run(set(ROOT, None, Some(7), None, None)), Response::Changed);
    assert_eq!(store.inode(ROOT).mtime_ns, 7);
    let many = vec![(String::new(), String::new()); USER_METADATA_PAIRS_MAX + 1];
    let large = vec![("k".to_owned(), "v".repeat(USER_METADATA_BYTES_MAX))];
    for (command, error) in [
        (set(InodeId(99), None, None, None, None), MetaError::NotFound),
        (set(file, None, None, Some("u"), None), MetaError::NotASymlink),
        (set(file, None, None, None, Some(many)), MetaError::TooLarge(Limit::UserMetadataPairs)),
        (set(file, None, None, None, Some(large)), MetaError::TooLarge(Limit::UserMetadataBytes)),
    ] {
        assert_eq!(store.fail(command), error);
    }
}

#[test]
fn domains_are_registered_once() {
    let mut store = Store::new();
    let domain = |chunker| Command::CreateDomain {
        domain: DomainId(0),
        chunker,
        ring_key: 2,
        wrap_nonce: [3; 12],
        wrapped_key: [4; 48],
    };
    let before = store.state.digest();
    assert_eq!(store.run(domain(1)), Response::Domain);
    assert_eq!(store.state.digest(), before);
    assert_eq!(store.fail(domain(2)), MetaError::AlreadyExists);
    let record = store.view().domain(DomainId(0)).unwrap();
    assert_eq!((record.chunker, record.key().nonce), (1, [3; 12]));
    assert_eq!(store.view().domain(DomainId(1)), None);
}

#[test]
fn segments_go_from_open_to_sealed_to_freed() {
    let mut store = Store::new();
    let open = |segment, members: usize, k, m| Command::OpenSegment {
        segment: SegmentId(segment),
        members: (0..members).map(|member| DeviceId([member as u8; 16])).collect(),
        k,
        m,
        stream: 4,
        generation: 1,
        now_ns: 5,
    };
    let seal = |segment, offsets: &[u64]| Command::SealSegment {
        segment: SegmentId(segment),
        footer_offsets: offsets.to_vec(),
    };
    let free = |segment| Command::FreeSegment { segment: SegmentId(segment) };
    for (members, k, m) in [(2, 1, 0), (0, 0, 0), (17, 14, 3)] {
        assert_eq!(store.fail(open(1, members, k, m)), MetaError::InvalidGeometry);
    }
    assert_eq!(store.run(open(1, 3, 2, 1)), Response::Segment);
    assert_eq!(store.fail(open(1, 3, 2, 1)), MetaError::AlreadyExists);
    assert_eq!(store.view().segment(SegmentId(1)).unwrap().state, SegmentState::Open);
    assert_eq!(store.fail(seal(1, &[1])), MetaError::InvalidGeometry);
    assert_eq!(store.run(seal(1, &[1, 2, 3])), Response::Segment);
    assert_eq!(store.run(seal(1, &[1, 2, 3])), Response::Segment);
    assert_eq!(store.fail(seal(1, &[])), MetaError::InvalidGeometry);
    assert_eq!(store.run(open(2, 1, 1, 0)), Response::Segment);
    assert_eq!(store.fail(free(2)), MetaError::SegmentInUse, "rows may still be appended");
    assert_eq!(store.run(seal(2, &[])), Response::Segment);
    let segments = store.view().segments();
    assert_eq!(segments.iter().map(|segment| segment.segment.0).collect::<Vec<_>>(), [1, 2]);
    assert_eq!(segments[0].state, SegmentState::Sealed { footer_offsets: vec![1, 2, 3] });
    assert_eq!((segments[0].members.len(), segments[0].stream), (3, 4));
    let forget = |segment| Command::ForgetSegment { segment: SegmentId(segment) };
    assert_eq!(store.fail(forget(1)), MetaError::SegmentInUse, "its files are needed");
    assert_eq!(store.run(free(1)), Response::Segment);
    assert_eq!(store.run(free(1)), Response::Segment);
    assert_eq!(store.fail(seal(1, &[1, 2, 3])), MetaError::NoSuchSegment);
    assert_eq!(store.fail(open(1, 3, 2, 1)), MetaError::AlreadyExists, "a freed segment is still listed");
    assert_eq!(store.run(forget(1)), Response::Segment);
    assert_eq!(store.view().segment(SegmentId(1)), None);
    assert_eq!(store.fail(forget(1)), MetaError::NoSuchSegment);
    assert_eq!(store.fail(free(3)), MetaError::NoSuchSegment);
    assert_eq!(store.fail(seal(3, &[])), MetaError::NoSuchSegment);
}

#[test]
fn a_repeated_request_gets_the_first_answer_and_changes_nothing() {
    let mut store = Store::new();
    let session = |sequence| Some(Session::Numbered { client: 9, sequence, acked_below: 0 });
    let put = store.commit(at(&["f"]), Content::Inline(vec![1]), Condition::Absent, session(1));
    let first = store.run(put.clone());
    let Response::Committed { inode, .. } = first else { panic!() };
    let mut again = store.commit(at(&["f"]), Content::Inline(vec![1]), Condition::Absent, session(2));
    let failed = store.run(again.clone());
    assert!(matches!(failed, Response::Failed(MetaError::ConditionFailed { .. })));
    let mut unlink = store.unlink(ROOT, "f", None);
    if let Command::Unlink { session: unset, .. } = &mut unlink {
        *unset = session(3);
    }
    assert_eq!(store.run(unlink.clone()), Response::Unlinked { inode });
    let before = store.state.digest();
    assert_eq!(store.run(put), first, "although the file is gone");
    assert_eq!(store.run(again.clone()), failed, "although it would succeed now");
    assert_eq!(store.run(unlink), Response::Unlinked { inode });
    assert_eq!(store.state.digest(), before);
    if let Command::CommitFile { session: Some(Session::Numbered { client, .. }), .. } = &mut again {
        *client = 10;
    }
    assert!(matches!(store.run(again), Response::Committed { .. }), "another client has numbers of its own");
}

#[test]
fn the_window_moves_with_what_the_client_has_and_is_bounded() {
    let mut store = Store::new();
    let put = |store: &mut Store, sequence, acked_below| {
        let session = Some(Session::Numbered { client: 9, sequence, acked_below });
        store.commit(at(&["f"]), Content::Inline(vec![]), Condition::Any, session)
    };
    let command = put(&mut store, 5, 6);
    assert_eq!(store.fail(command), MetaError::StaleSequence { window_from: 6 });
    for sequence in 10..20 {
        let command = put(&mut store, sequence, 0);
        assert!(matches!(store.run(command), Response::Committed { .. }));
    }
    let command = put(&mut store, 3, 0);
    assert!(matches!(store.run(command), Response::Committed { .. }), "requests may overtake each other");
    let command = put(&mut store, 20, 15);
    store.run(command);
    let command = put(&mut store, 14, 0);
    assert_eq!(store.fail(command), MetaError::StaleSequence { window_from: 15 });
    let command = put(&mut store, 15, 0);
    assert_eq!(
        store.run(command),
        Response::Committed { inode: store.resolve(&["f"]).unwrap(), version: VersionNumber(6), created: false }
    );
    for sequence in 100..100 + SESSION_RESULTS_MAX as u64 {
        let command = put(&mut store, sequence, 0);
        store.run(command);
    }
    let command = put(&mut store, 20, 0);
    assert_eq!(store.fail(command), MetaError::StaleSequence { window_from: 21 }, "forgotten, so it is not applied");
}

#[test]
fn the_least_recently_used_client_is_forgotten_first() {
    let mut state = State::default();
    exec(&Command::Format { now_ns: 1 }, &mut state);
    let touch = |state: &mut State, client, sequence| {
        let session = Some(Session::Numbered { client, sequence, acked_below: sequence });
        let (name, condition) = ("none".into(), Condition::Any);
        let command = Command::Unlink { parent: ROOT, name, inode: None, condition, session, now_ns: 1 };
        exec(&command, state)
    };
    for client in 0..SESSION_CLIENTS_MAX as u64 {
        touch(&mut state, client, 2);
    }
    touch(&mut state, 0, 3);
    touch(&mut state, u64::MAX, 2);
    let clock: SessionClock = load(&state, keys::SESSION_CLOCK).unwrap();
    assert_eq!(clock.clients, SESSION_CLIENTS_MAX as u64);
    assert!(state.get(&keys::client(0)).is_some(), "used again since");
    assert!(state.get(&keys::client(1)).is_none(), "used longest ago");
    assert!(state.get(&keys::client(u64::MAX)).is_some());
    assert_eq!(state.range(&keys::touches()).count(), SESSION_CLIENTS_MAX);
}

#[test]
fn lists_are_ordered_bytewise_and_paged() {
    let mut store = Store::new();
    for name in ["b", "a", "B", "ä", "a.txt", "a0", "~"] {
        store.put(&["d", name]);
    }
    store.put(&["e", "other"]);
    let directory = store.resolve(&["d"]).unwrap();
    let expected = ["B", "a", "a.txt", "a0", "b", "~", "ä"];
    let all: Vec<String> = store.view().list(directory, None, 100).into_iter().map(|(name, _)| name).collect();
    assert_eq!(all, expected);
    let mut paged = Vec::new();
    loop {
        let page = store.view().list(directory, paged.last().map(String::as_str), 2);
        if page.is_empty() {
            break;
        }
        paged.extend(page.into_iter().map(|(name, _)| name));
    }
    assert_eq!(paged, expected);
    let after = store.view().list(directory, Some("a1"), 1);
    assert_eq!(after[0].0, "b", "a cursor need not exist any more");
    assert_eq!(store.view().list(after[0].1, None, 5), []);
}

#[test]
fn walks_say_how_far_they_came() {
    let mut store = Store::new();
    let file = store.put(&["a", "f"]);
    let a = store.resolve(&["a"]).unwrap();
    assert_eq!(store.resolve(&["a", "f", "x"]), Err(MetaError::NotADirectory));
    assert_eq!(store.resolve(&["a", "x", "y"]), Err(MetaError::NotFound));
    assert_eq!(store.resolve(&[]), Ok(ROOT));
    assert_eq!(store.view().child(a, "f").map(|found| (found.inode, found.kind)), Some((file, Kind::File)));
}

/// A command over few names, so that commands meet each other.
fn any_command() -> impl Strategy<Value = Command> {
    let name = || prop::sample::select(vec!["a", "b", "c", ".."]).prop_map(str::to_owned);
    let place = move || {
        (any_inode(), prop::collection::vec(name(), 0..3), name()).prop_map(|(parent, make_dirs, name)| Place {
            parent,
            make_dirs,
            name,
        })
    };
    let session = || {
        prop::option::of((0u64..3, 0u64..20, 0u64..4)).prop_map(|session| {
            session.map(|(client, sequence, acked_below)| match acked_below {
                0 => Session::Keyed { key: [client as u8; 16], fingerprint: [sequence as u8 / 10; 16] },
                _ => Session::Numbered { client, sequence, acked_below: acked_below - 1 },
            })
        })
    };
    let condition = prop_oneof![
        Just(Condition::Any),
        Just(Condition::Absent),
        (1u64..3).prop_map(|version| Condition::Match { inode: InodeId(1), version: VersionNumber(version) })
    ];
    let content = prop_oneof![
        (0..100usize).prop_map(|len| Content::Inline(vec![1; len])),
        prop::collection::vec(0u64..9, 0..3).prop_map(|sizes| chunks(&sizes))
    ];
    let attributes = Attributes::default;
    prop_oneof![
        4 => (place(), content, condition, session()).prop_map(move |(at, content, condition, session)| {
            Command::CommitFile { at, content, attributes: attributes(), condition, session, now_ns: 7, pin_epoch: 0 }
        }),
        2 => (place(), session()).prop_map(move |(at, session)| {
            Command::MakeDirectory { at, attributes: attributes(), session, now_ns: 8 }
        }),
        1 => (place(), session()).prop_map(move |(at, session)| {
            Command::MakeSymlink { at, target: "t".into(), attributes: attributes(), session, now_ns: 9 }
        }),
        3 => (any_inode(), name(), prop::option::of(any_inode()), session()).prop_map(|(parent, name, inode, session)| {
            Command::Unlink { parent, name, inode, condition: Condition::Any, session, now_ns: 10 }
        }),
        4 => (any_inode(), name(), place(), any::<bool>(), session()).prop_map(
            |(from_parent, from_name, to, replace, session)| {
                Command::Rename { from: Place::in_directory(from_parent, from_name), to, replace, session, now_ns: 11 }
            }
        ),
        1 => (any_inode(), prop::option::of(Just("u".to_owned())), session()).prop_map(
            |(inode, symlink_target, session)| Command::SetAttributes {
                inode,
                condition: Condition::Any,
                mode: Some(1),
                mtime_ns: None,
                symlink_target,
                content_type: None,
                user_metadata: None,
                session,
                now_ns: 12,
            }
        ),
        2 => (place(), 1u64..4, session()).prop_map(|(at, version, session)| {
            let (version, condition) = (VersionNumber(version), Condition::Any);
            Command::Restore { at, version, condition, session, now_ns: 13 }
        }),
    ]
}

/// Mostly the root, sometimes one of the first inodes of the slots that the few names lead to.
fn any_inode() -> impl Strategy<Value = InodeId> {
    let slot = |name: &str| {
        let place = [&1u64.to_be_bytes(), name.as_bytes()].concat();
        InodeId::new((proto::checksum::checksum(&place) >> 50) as u16, 1)
    };
    prop_oneof![3 => Just(ROOT), 2 => prop::sample::select(vec![slot("a"), slot("b"), slot("c")]), 1 => Just(InodeId(2))]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 96, ..ProptestConfig::default() })]

    #[test]
    fn any_history_keeps_the_invariants_and_replays_to_the_same_bytes(
        commands in prop::collection::vec(any_command(), 1..60),
    ) {
        let mut store = Store::new();
        let mut replayed = Store::new();
        for command in &commands {
            let before = store.state.digest();
            let response = store.run(command.clone());
            let sessionless = command.session().is_none();
            if sessionless && matches!(response, Response::Failed(_)) {
                prop_assert_eq!(store.state.digest(), before, "{:?} failed and changed something", command);
            }
            // What the log gives back is what was proposed.
            let decoded = Command::decode(&command.encode()).unwrap();
            prop_assert_eq!(&decoded, command);
            prop_assert_eq!(exec(&decoded, &mut replayed.state), response);
        }
        prop_assert_eq!(store.state.digest(), replayed.state.digest());
    }
}
