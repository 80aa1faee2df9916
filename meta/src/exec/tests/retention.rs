//! Retention: which versions stay, and that no others do.

use std::collections::BTreeSet;

use proto::limits::EXPIRE_VERSIONS_MAX;

use super::*;
use crate::record::Change;
use crate::retention::{InForce, Retention};

const MINUTE_NS: u64 = 60_000_000_000;

fn keep(versions: u32) -> Retention {
    Retention { keep: Some(versions), keep_for_ns: None }
}

fn keep_for(minutes: u64) -> Retention {
    Retention { keep: None, keep_for_ns: Some(minutes * MINUTE_NS) }
}

fn set(directory: InodeId, retention: Option<Retention>) -> Command {
    Command::SetRetention { directory, retention, condition: Condition::Any, session: None, now_ns: 5 }
}

impl Store {
    /// Commits a version of one byte at a minute.
    fn put_at(&mut self, path: &[&str], minute: u64) -> InodeId {
        self.now_ns = minute * MINUTE_NS - 1;
        self.put(path)
    }

    fn expire(&mut self, inode: InodeId, minute: u64) -> u64 {
        match self.run(Command::ExpireVersions { inode, now_ns: minute * MINUTE_NS }) {
            Response::Expired { versions, .. } => versions,
            other => panic!("{other:?}"),
        }
    }

    /// Numbers of all versions of a file, oldest first.
    fn versions(&self, inode: InodeId) -> Vec<u64> {
        let pasts = self.view().pasts(inode, VersionNumber(u64::MAX), usize::MAX);
        let earlier = pasts.iter().rev().map(|(version, _)| version.0);
        earlier.chain([self.inode(inode).version.0]).collect()
    }
}

#[test]
fn without_a_retention_every_version_stays() {
    let mut store = Store::new();
    for minute in 1..=5 {
        store.put_at(&["f"], minute);
    }
    let file = store.resolve(&["f"]).unwrap();
    assert_eq!(store.expire(file, 1_000_000), 0);
    assert_eq!(store.versions(file), [1, 2, 3, 4, 5]);
}

#[test]
fn a_version_stays_while_any_rule_keeps_it() {
    let mut store = Store::new();
    for minute in [10, 20, 30, 40, 50] {
        store.put_at(&["f"], minute);
    }
    let file = store.resolve(&["f"]).unwrap();
    // Version 1 was superseded at minute 20, version 2 at 30.
    store.run(set(ROOT, Some(Retention { keep: Some(2), keep_for_ns: Some(15 * MINUTE_NS) })));
    assert_eq!(store.expire(file, 34), 0, "both rules count from when the next version came");
    assert_eq!(store.expire(file, 35), 1);
    assert_eq!(store.expire(file, 35), 0, "a repetition changes nothing");
    assert_eq!(store.expire(file, 1_000), 2, "the newest two stay however old they are");
    assert_eq!(store.versions(file), [4, 5]);
    store.run(set(ROOT, Some(keep_for(15))));
    assert_eq!(store.expire(file, 64), 0);
    assert_eq!(store.expire(file, 65), 1);
    assert_eq!(store.expire(file, u64::MAX / MINUTE_NS), 0, "the current version always stays");
    assert_eq!(store.versions(file), [5]);
    assert_eq!(store.view().counters().logical_bytes, 1);
}

#[test]
fn the_nearest_directory_decides_also_to_keep_everything() {
    let mut store = Store::new();
    let (b, c) = (store.mkdir(&["a", "b"]), store.mkdir(&["a", "b", "c"]));
    let a = store.resolve(&["a"]).unwrap();
    let in_force = |store: &Store| store.view().retention_in_force(c);
    assert_eq!(in_force(&store), None);
    for (directory, retention) in [(ROOT, keep(9)), (a, keep_for(1)), (c, Retention::EVERYTHING)] {
        assert_eq!(store.run(set(directory, Some(retention))), Response::Changed);
        assert_eq!(in_force(&store), Some(InForce { directory, retention }));
    }
    assert_eq!(store.view().retention_in_force(b), Some(InForce { directory: a, retention: keep_for(1) }));
    assert_eq!((store.view().own_retention(b), store.view().own_retention(a)), (None, Some(keep_for(1))));
    for minute in [1, 2, 3] {
        store.put_at(&["a", "b", "c", "f"], minute);
    }
    let file = store.resolve(&["a", "b", "c", "f"]).unwrap();
    assert_eq!(store.expire(file, 1_000), 0);
    assert_eq!(store.run(set(c, None)), Response::Changed);
    assert_eq!(store.expire(file, 1_000), 2);
}

#[test]
fn what_goes_is_decided_when_the_command_is_applied() {
    let mut store = Store::new();
    let (short, long) = (store.mkdir(&["short"]), store.mkdir(&["long"]));
    store.run(set(short, Some(keep(1))));
    store.run(set(long, Some(keep(3))));
    for minute in [1, 2, 3, 4] {
        store.put_at(&["short", "f"], minute);
    }
    let file = store.resolve(&["short", "f"]).unwrap();
    assert_eq!(store.view().expired(None, 5 * MINUTE_NS, 10), (vec![file], None));
    // Meanwhile the file is moved, and version 2 comes back.
    let command = store.rename((short, "f"), Place::in_directory(long, "f"), false);
    store.run(command);
    let restore = Command::Restore {
        at: at(&["long", "f"]),
        version: VersionNumber(2),
        condition: Condition::Any,
        session: None,
        now_ns: 5 * MINUTE_NS,
    };
    store.run(restore);
    assert_eq!(store.expire(file, 5), 2);
    assert_eq!(store.versions(file), [3, 4, 5]);
    let content = |version| store.view().content(file, VersionNumber(version));
    assert!(content(5).is_some() && content(5) == content(4) && content(2).is_none());
}

#[test]
fn a_version_that_was_let_go_says_so() {
    let mut store = Store::new();
    store.run(set(ROOT, Some(keep(2))));
    for minute in 1..=4 {
        store.put_at(&["f"], minute);
    }
    let file = store.resolve(&["f"]).unwrap();
    assert_eq!(store.expire(file, 9), 2);
    let oldest = VersionNumber(3);
    for (version, error) in [
        (0, MetaError::NoSuchVersion),
        (1, MetaError::VersionExpired { oldest }),
        (2, MetaError::VersionExpired { oldest }),
        (5, MetaError::NoSuchVersion),
    ] {
        let (version, condition) = (VersionNumber(version), Condition::Any);
        assert_eq!(store.view().why_missing(file, version), error);
        let restore = Command::Restore { at: at(&["f"]), version, condition, session: None, now_ns: 9 };
        assert_eq!(store.fail(restore), error);
    }
}

#[test]
fn only_directories_take_a_retention_and_it_keeps_something() {
    let mut store = Store::new();
    let file = store.put(&["f"]);
    assert_eq!(store.fail(set(file, Some(keep(1)))), MetaError::NotADirectory);
    assert_eq!(store.fail(set(file, None)), MetaError::NotADirectory);
    assert_eq!(store.fail(set(InodeId(77), None)), MetaError::NotFound);
    for nothing in [keep(0), keep_for(0), Retention { keep: Some(0), keep_for_ns: Some(1) }] {
        assert_eq!(store.fail(set(ROOT, Some(nothing))), MetaError::InvalidRetention);
    }
    let mut never = set(ROOT, Some(keep(1)));
    if let Command::SetRetention { condition, .. } = &mut never {
        *condition = Condition::NEVER;
    }
    assert!(matches!(store.fail(never), MetaError::ConditionFailed { .. }));
}

#[test]
fn setting_a_retention_is_told_and_letting_go_is_not() {
    let mut store = Store::new();
    store.put(&["a", "f"]);
    store.put(&["a", "f"]);
    let (a, file) = (store.resolve(&["a"]).unwrap(), store.resolve(&["a", "f"]).unwrap());
    let before = store.view().event_span().newest;
    store.run(set(a, Some(keep(1))));
    let told = store.view().events(before, 10);
    assert_eq!((told.len(), &told[0].1.change, told[0].1.path.as_str()), (1, &Change::Attributes, "/a"));
    let record = store.inode(file);
    assert_eq!(store.expire(file, 9), 1);
    assert_eq!(store.view().events(before, 10).len(), 1);
    assert_eq!(store.inode(file), record, "the file itself is as it was");
}

#[test]
fn a_command_lets_a_bounded_number_go() {
    let mut store = Store { state: State::default(), now_ns: 1 };
    exec(&Command::Format { now_ns: 1 }, &mut store.state);
    for _ in 0..2 * EXPIRE_VERSIONS_MAX + 5 {
        let command = store.commit(at(&["f"]), Content::Inline(vec![1]), Condition::Any, None);
        exec(&command, &mut store.state);
    }
    store.run(set(ROOT, Some(keep(2))));
    let file = store.resolve(&["f"]).unwrap();
    let gone: Vec<u64> = (0..4).map(|_| store.expire(file, 9)).collect();
    assert_eq!(gone, [EXPIRE_VERSIONS_MAX, EXPIRE_VERSIONS_MAX, 3, 0]);
    assert_eq!(store.versions(file).len(), 2);
}

#[test]
fn a_file_that_is_gone_has_nothing_to_let_go() {
    let mut store = Store::new();
    store.run(set(ROOT, Some(keep(1))));
    store.put(&["f"]);
    let file = store.put(&["f"]);
    let command = store.unlink(ROOT, "f", None);
    store.run(command);
    let before = store.state.digest();
    for inode in [file, ROOT, InodeId(12_345)] {
        assert_eq!(store.expire(inode, 9), 0);
    }
    assert_eq!(store.state.digest(), before);
}

/// What is to happen in the property test. Files and directories are numbered.
#[derive(Clone, Debug)]
enum Step {
    Put { file: usize, minute: u64 },
    Restore { file: usize, version: u64, minute: u64 },
    MoveFile { file: usize, to: usize },
    MoveDirectory { directory: usize, to: usize },
    Set { directory: usize, retention: Option<Retention> },
    Expire { file: usize, minute: u64 },
}

const FILES: usize = 3;
const DIRECTORIES: usize = 5;

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let (file, directory, minute) = (0..FILES, 0..DIRECTORIES, 1u64..60);
    let rule = (prop::option::of(1u32..5), prop::option::of(1u64..40));
    let retention =
        rule.prop_map(|(keep, minutes)| Retention { keep, keep_for_ns: minutes.map(|minutes| minutes * MINUTE_NS) });
    let step = prop_oneof![
        4 => (file.clone(), minute.clone()).prop_map(|(file, minute)| Step::Put { file, minute }),
        1 => (file.clone(), 0u64..12, minute.clone())
            .prop_map(|(file, version, minute)| Step::Restore { file, version, minute }),
        1 => (file.clone(), directory.clone()).prop_map(|(file, to)| Step::MoveFile { file, to }),
        1 => (1..DIRECTORIES, directory.clone()).prop_map(|(directory, to)| Step::MoveDirectory { directory, to }),
        2 => (directory, prop::option::of(retention))
            .prop_map(|(directory, retention)| Step::Set { directory, retention }),
        3 => (file, minute).prop_map(|(file, minute)| Step::Expire { file, minute }),
    ];
    prop::collection::vec(step, 1..80)
}

/// The rule, as its words have it.
#[derive(Default)]
struct Model {
    /// For each directory, its parent and its own retention.
    directories: Vec<(usize, Option<Retention>)>,
    /// For each file, its directory and its versions: number, and when it was committed.
    files: Vec<(usize, Vec<(u64, u64)>)>,
}

impl Model {
    fn in_force(&self, directory: usize) -> Option<Retention> {
        let (parent, own) = self.directories[directory];
        own.or_else(|| (directory != 0).then(|| self.in_force(parent)).flatten())
    }

    /// How many versions of a file go at `now_ns`: one that a rule keeps stays, and all that are newer with it.
    fn gone(&self, file: usize, now_ns: u64) -> usize {
        let (directory, versions) = &self.files[file];
        let Some(rules) = self.in_force(*directory) else { return 0 };
        if rules.keep.is_none() && rules.keep_for_ns.is_none() {
            return 0;
        }
        let stays = |place: usize| {
            let among_newest = rules.keep.is_some_and(|keep| versions.len() - place <= keep as usize);
            let Some((_, superseded_ns)) = versions.get(place + 1) else { return true };
            let recent = rules.keep_for_ns.is_some_and(|for_ns| now_ns < superseded_ns + for_ns);
            among_newest || recent
        };
        (0..versions.len()).find(|place| stays(*place)).unwrap_or(0)
    }
}

proptest! {
    #[test]
    fn versions_go_by_the_rules_and_by_nothing_else(steps in steps()) {
        let mut store = Store::new();
        let directory_name = |number: usize| format!("d{number}");
        let mut directories = vec![ROOT];
        for number in 1..DIRECTORIES {
            directories.push(store.mkdir(&[&directory_name(number)]));
        }
        let files: Vec<(String, InodeId)> = (0..FILES).map(|file| format!("f{file}")).map(|name| {
            let inode = store.put_at(&[&name], 1);
            (name, inode)
        }).collect();
        let mut model = Model {
            directories: vec![(0, None); DIRECTORIES],
            files: vec![(0, vec![(1, MINUTE_NS)]); FILES],
        };
        let committed = |response| match response {
            Response::Committed { version, .. } => Some(version.0),
            _ => None,
        };
        for step in steps {
            match step {
                Step::Put { file, minute } => {
                    let (name, now_ns) = (&files[file].0, minute * MINUTE_NS);
                    store.now_ns = now_ns - 1;
                    let place = Place::in_directory(directories[model.files[file].0], name.as_str());
                    let command = store.commit(place, Content::Inline(vec![1; file]), Condition::Exists, None);
                    let version = committed(store.run(command)).unwrap();
                    model.files[file].1.push((version, now_ns));
                }
                Step::Restore { file, version, minute } => {
                    let (directory, versions) = &mut model.files[file];
                    let at = Place::in_directory(directories[*directory], files[file].0.as_str());
                    let has = versions.iter().any(|(number, _)| *number == version);
                    let ever = (1..=versions.last().unwrap().0).contains(&version);
                    let (version, now_ns) = (VersionNumber(version), minute * MINUTE_NS);
                    let command = Command::Restore { at, version, condition: Condition::Any, session: None, now_ns };
                    match store.run(command) {
                        Response::Failed(MetaError::NoSuchVersion) => prop_assert!(!has && !ever),
                        Response::Failed(MetaError::VersionExpired { oldest }) => {
                            prop_assert!(!has && ever && oldest.0 == versions[0].0);
                        }
                        other => {
                            prop_assert!(has);
                            versions.push((committed(other).unwrap(), now_ns));
                        }
                    }
                }
                Step::MoveFile { file, to } => {
                    let (name, from) = (files[file].0.as_str(), directories[model.files[file].0]);
                    let command = store.rename((from, name), Place::in_directory(directories[to], name), false);
                    let is_renamed = matches!(store.run(command), Response::Renamed { .. });
                    prop_assert!(is_renamed);
                    model.files[file].0 = to;
                }
                Step::MoveDirectory { directory, to } => {
                    let (name, from) = (directory_name(directory), directories[model.directories[directory].0]);
                    let place = Place::in_directory(directories[to], name.as_str());
                    let command = store.rename((from, name.as_str()), place, false);
                    if store.run(command) != Response::Failed(MetaError::IntoItself) {
                        model.directories[directory].0 = to;
                    }
                }
                Step::Set { directory, retention } => {
                    prop_assert_eq!(store.run(set(directories[directory], retention)), Response::Changed);
                    model.directories[directory].1 = retention;
                }
                Step::Expire { file, minute } => {
                    let now_ns = minute * MINUTE_NS;
                    let due: BTreeSet<InodeId> =
                        (0..FILES).filter(|file| model.gone(*file, now_ns) > 0).map(|file| files[file].1).collect();
                    // In looks of one file each, and in one.
                    let (mut found, mut after) = (BTreeSet::new(), None);
                    loop {
                        let (some, next) = store.view().expired(after, now_ns, 1);
                        found.extend(some);
                        after = next;
                        if after.is_none() {
                            break;
                        }
                    }
                    prop_assert_eq!(&found, &due);
                    prop_assert_eq!(&store.view().expired(None, now_ns, 100).0.into_iter().collect::<BTreeSet<_>>(), &due);
                    let gone = model.gone(file, now_ns);
                    prop_assert_eq!(store.expire(files[file].1, minute), gone as u64);
                    model.files[file].1.drain(..gone);
                }
            }
            for (file, (_, versions)) in model.files.iter().enumerate() {
                let numbers: Vec<u64> = versions.iter().map(|(number, _)| *number).collect();
                prop_assert_eq!(store.versions(files[file].1), numbers);
            }
        }
    }
}
