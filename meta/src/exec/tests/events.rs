//! What watchers are told, and for how long.

use proto::limits::{EVENTS_RETAINED_BYTES_MAX, EVENTS_RETAINED_MAX};

use super::versions::put_version;
use super::*;
use crate::record::Change;

#[test]
fn every_change_is_told_once_and_in_order() {
    let mut store = Store::new();
    let file = store.put(&["a", "f"]);
    store.put(&["a", "f"]);
    let command = store.symlink(&["l"], "t");
    store.run(command);
    let a = store.resolve(&["a"]).unwrap();
    let command = store.rename((a, "f"), at(&["b", "g"]), false);
    store.run(command);
    let command = store.rename((ROOT, "l"), at(&["b", "g"]), true);
    store.run(command);
    let command = store.rename((ROOT, "a"), at(&["a"]), false);
    store.run(command);
    let set = Command::SetAttributes {
        inode: ROOT,
        condition: Condition::Any,
        mode: Some(0o700),
        mtime_ns: None,
        symlink_target: None,
        content_type: None,
        user_metadata: None,
        session: None,
        now_ns: 77,
    };
    store.run(set);
    let command = store.unlink(ROOT, "a", None);
    store.run(command);
    let command = store.unlink(ROOT, "none", None);
    store.fail(command);
    for number in [1, 2] {
        let command = put_version(&mut store, number);
        store.run(command);
    }
    let (version, condition, now_ns) = (VersionNumber(1), Condition::Any, 99);
    store.run(Command::Restore { at: at(&["f"]), version, condition, session: None, now_ns });
    let told = store.view().events(0, 100);
    assert!(told.iter().map(|(cursor, _)| *cursor).eq(1..=told.len() as u64));
    let told: Vec<_> = told.iter().map(|(_, event)| (&event.change, event.path.as_str(), event.version.0)).collect();
    let from = |path: &str| Change::Renamed { from: path.into() };
    assert_eq!(
        told,
        [
            (&Change::Created, "/a", 0),
            (&Change::Created, "/a/f", 1),
            (&Change::Committed, "/a/f", 2),
            (&Change::Created, "/l", 0),
            (&Change::Created, "/b", 0),
            (&from("/a/f"), "/b/g", 2),
            (&Change::Deleted, "/b/g", 2),
            (&from("/l"), "/b/g", 0),
            (&Change::Attributes, "/", 0),
            (&Change::Deleted, "/a", 0),
            (&Change::Created, "/f", 1),
            (&Change::Committed, "/f", 2),
            (&Change::Restored { version }, "/f", 3),
        ]
    );
    let page = store.view().events(1, 2);
    assert_eq!(page.iter().map(|(cursor, event)| (*cursor, event.inode)).collect::<Vec<_>>(), [(2, file), (3, file)]);
    assert_eq!((page[0].1.kind, page[0].1.at_ns), (Kind::File, 2));
}

#[test]
fn old_events_are_forgotten_by_count_and_by_bytes() {
    let mut state = State::default();
    exec(&Command::Format { now_ns: 1 }, &mut state);
    let span = |state: &State| View::new(state).event_span();
    assert_eq!((span(&state).oldest, span(&state).newest), (0, 0));
    let set = Command::SetAttributes {
        inode: ROOT,
        condition: Condition::Any,
        mode: None,
        mtime_ns: Some(1),
        symlink_target: None,
        content_type: None,
        user_metadata: None,
        session: None,
        now_ns: 2,
    };
    for _ in 0..EVENTS_RETAINED_MAX + 5 {
        exec(&set, &mut state);
    }
    assert_eq!((span(&state).oldest, span(&state).newest), (5, EVENTS_RETAINED_MAX + 5));
    assert_eq!(View::new(&state).events(0, 1)[0].0, 6);
    // Long paths leave no room for so many.
    let deep: Vec<String> = vec!["x".repeat(255); PATH_DEPTH_MAX];
    let deep = deep.iter().map(String::as_str).collect::<Vec<_>>();
    let make = Command::MakeDirectory { at: at(&deep), attributes: Attributes::default(), session: None, now_ns: 3 };
    assert!(matches!(exec(&make, &mut state), Response::Made { .. }));
    let found = View::new(&state).resolve(&names(&deep)).unwrap().inode;
    for _ in 0..400 {
        let mut command = set.clone();
        if let Command::SetAttributes { inode, .. } = &mut command {
            *inode = found;
        }
        exec(&command, &mut state);
    }
    let clock: EventClock = load(&state, keys::EVENT_CLOCK).unwrap();
    assert!(clock.bytes <= EVENTS_RETAINED_BYTES_MAX && clock.next - clock.oldest < 400, "{clock:?}");
    assert_eq!(state.range(&keys::events(0)).count() as u64, clock.next - clock.oldest);
}

#[test]
fn a_path_deeper_than_paths_go_is_told_in_part() {
    let mut store = Store::new();
    let half = vec!["d"; 200];
    store.mkdir(&half);
    store.mkdir(&[&["e"], &half[1..]].concat());
    let bottom = store.resolve(&half).unwrap();
    let command = store.rename((ROOT, "e"), Place::in_directory(bottom, "e"), false);
    assert!(matches!(store.run(command), Response::Renamed { .. }));
    let deep = store.resolve(&[&half[..], &["e"], &half[1..]].concat()).unwrap();
    let command = store.commit(Place::in_directory(deep, "f"), Content::Inline(vec![]), Condition::Any, None);
    assert!(matches!(store.run(command), Response::Committed { .. }));
    let (_, last) = store.view().events(0, 1000).pop().unwrap();
    assert!(last.path.starts_with("/../d/") && last.path.ends_with("/d/f"), "{}", last.path);
    assert_eq!(last.path.split('/').count(), 1 + 1 + PATH_DEPTH_MAX);
}
