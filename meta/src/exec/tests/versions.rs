//! Earlier versions, media types, and conditions of other commands than commits.

use super::*;
use crate::record::Detail;

/// Puts the next version of `f`, one byte and attributes that tell it apart.
pub(super) fn put_version(store: &mut Store, number: u8) -> Command {
    let mut command = store.commit(at(&["f"]), Content::Inline(vec![number]), Condition::Any, None);
    if let Command::CommitFile { attributes, .. } = &mut command {
        attributes.mode = Some(u32::from(number));
        attributes.mtime_ns = Some(u64::from(number) * 1000);
        attributes.content_type = Some(format!("text/{number}"));
        attributes.user_metadata = vec![("number".into(), number.to_string())];
    }
    command
}

#[test]
fn a_restored_version_is_the_next_one_and_keeps_those_between() {
    let mut store = Store::new();
    let restore = |store: &mut Store, version, condition| Command::Restore {
        at: at(&["f"]),
        version: VersionNumber(version),
        condition,
        session: Some(Session::Numbered { client: 1, sequence: store.tick(), acked_below: 0 }),
        now_ns: store.now_ns,
    };
    for number in 1..=3 {
        let command = put_version(&mut store, number);
        store.run(command);
    }
    let inode = store.resolve(&["f"]).unwrap();
    let first = store.view().past(inode, VersionNumber(1)).unwrap();
    let command = restore(&mut store, 1, Condition::Match { inode, version: VersionNumber(3) });
    let expected = Response::Committed { inode, version: VersionNumber(4), created: false };
    assert_eq!(store.run(command.clone()), expected);
    let record = store.inode(inode);
    assert_eq!((record.mode, record.mtime_ns, record.content_type()), (1, 1000, Some("text/1")));
    assert_eq!((record.size, record.committed_ns, &record.user_metadata), (1, store.now_ns, &first.user_metadata));
    assert_eq!(store.view().content(inode, VersionNumber(4)), Some(Content::Inline(vec![1])));
    assert_eq!(store.view().counters().logical_bytes, 4);
    let before = store.state.digest();
    assert_eq!(store.run(command), expected, "a repetition gets the first answer");
    assert_eq!(store.state.digest(), before);

    let command = restore(&mut store, 4, Condition::Any);
    assert!(matches!(store.run(command), Response::Committed { version: VersionNumber(5), .. }));
    let numbers = |pasts: Vec<(VersionNumber, Past)>| pasts.into_iter().map(|(at, _)| at.0).collect::<Vec<_>>();
    assert_eq!(numbers(store.view().pasts(inode, VersionNumber(u64::MAX), 10)), [4, 3, 2, 1]);
    assert_eq!(numbers(store.view().pasts(inode, VersionNumber(4), 2)), [3, 2]);
    assert_eq!(numbers(store.view().pasts(inode, VersionNumber(1), 2)), [] as [u64; 0]);
    for (version, condition, error) in [
        (6, Condition::Any, MetaError::NoSuchVersion),
        (0, Condition::Any, MetaError::NoSuchVersion),
        (1, Condition::NEVER, MetaError::ConditionFailed { current: Some(VersionNumber(5)) }),
    ] {
        let command = restore(&mut store, version, condition);
        assert_eq!(store.run(command), Response::Failed(error));
    }
    store.mkdir(&["d"]);
    for (path, error) in [("d", MetaError::NotAFile), ("none", MetaError::NotFound)] {
        let (version, condition) = (VersionNumber(1), Condition::Any);
        let command = Command::Restore { at: at(&[path]), version, condition, session: None, now_ns: 9 };
        assert_eq!(store.fail(command), error);
    }
    let command = store.unlink(ROOT, "f", None);
    store.run(command);
    assert_eq!(store.view().pasts(inode, VersionNumber(u64::MAX), 10), [], "versions go with their file");
    assert_eq!(store.view().counters().logical_bytes, 0);
}

#[test]
fn only_files_have_a_media_type_and_it_is_checked() {
    let mut store = Store::new();
    let command = put_version(&mut store, 1);
    store.run(command);
    let inode = store.resolve(&["f"]).unwrap();
    let set = |inode, content_type: &str| Command::SetAttributes {
        inode,
        condition: Condition::Any,
        mode: None,
        mtime_ns: None,
        symlink_target: None,
        content_type: Some(content_type.into()),
        user_metadata: None,
        session: None,
        now_ns: 9,
    };
    assert_eq!(store.run(set(inode, "image/png")), Response::Changed);
    assert_eq!(store.inode(inode).content_type(), Some("image/png"));
    assert_eq!(store.run(set(inode, "application/octet-stream")), Response::Changed);
    assert_eq!(store.inode(inode).detail, Detail::None, "the default costs nothing");
    assert_eq!(store.fail(set(ROOT, "a/b")), MetaError::NotAFile);
    assert_eq!(store.fail(set(inode, "a/b\r\nx: y")), MetaError::InvalidContentType);
    let long = format!("a/{}", "b".repeat(300));
    assert_eq!(store.fail(set(inode, &long)), MetaError::TooLarge(Limit::ContentTypeBytes));
    let mut command = put_version(&mut store, 2);
    if let Command::CommitFile { attributes, .. } = &mut command {
        attributes.content_type = Some("text".into());
    }
    assert_eq!(store.fail(command), MetaError::InvalidContentType);
}

#[test]
fn removals_and_attributes_take_conditions_too() {
    let mut store = Store::new();
    let inode = store.put(&["f"]);
    let (now, later) = (VersionNumber(1), VersionNumber(2));
    let unlink = |condition| Command::Unlink {
        parent: ROOT,
        name: "f".into(),
        inode: None,
        condition,
        session: None,
        now_ns: 9,
    };
    let set = |condition| Command::SetAttributes {
        inode,
        condition,
        mode: Some(0o600),
        mtime_ns: None,
        symlink_target: None,
        content_type: None,
        user_metadata: None,
        session: None,
        now_ns: 9,
    };
    for condition in [Condition::Match { inode, version: later }, Condition::Absent, Condition::NEVER] {
        assert_eq!(store.fail(unlink(condition)), MetaError::ConditionFailed { current: Some(now) });
        assert_eq!(store.fail(set(condition)), MetaError::ConditionFailed { current: Some(now) });
    }
    assert_eq!(store.run(set(Condition::Match { inode, version: now })), Response::Changed);
    assert_eq!(store.run(set(Condition::Exists)), Response::Changed);
    assert_eq!(store.run(unlink(Condition::Match { inode, version: now })), Response::Unlinked { inode });
    assert_eq!(store.fail(unlink(Condition::Exists)), MetaError::NotFound);
    let command = store.commit(at(&["f"]), Content::Inline(vec![]), Condition::Exists, None);
    assert_eq!(store.fail(command), MetaError::ConditionFailed { current: None });
}
