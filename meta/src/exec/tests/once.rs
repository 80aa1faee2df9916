//! Requests that have a key.

use proto::limits::IDEMPOTENCY_KEYS_MAX;

use super::*;

#[test]
fn a_key_stands_for_one_request() {
    let mut store = Store::new();
    let keyed = |key, fingerprint| Some(Session::Keyed { key: [key; 16], fingerprint: [fingerprint; 16] });
    let put = store.commit(at(&["f"]), Content::Inline(vec![1]), Condition::Absent, keyed(1, 1));
    let first = store.run(put.clone());
    assert!(matches!(first, Response::Committed { created: true, .. }));
    let before = store.state.digest();
    assert_eq!(store.run(put), first);
    let other = store.commit(at(&["g"]), Content::Inline(vec![1]), Condition::Absent, keyed(1, 2));
    assert_eq!(store.run(other), Response::Failed(MetaError::KeyReused));
    assert_eq!(store.state.digest(), before);
    let failing = store.commit(at(&["f"]), Content::Inline(vec![1]), Condition::Absent, keyed(2, 1));
    let refused = store.run(failing.clone());
    assert!(matches!(refused, Response::Failed(MetaError::ConditionFailed { .. })));
    let command = store.unlink(ROOT, "f", None);
    store.run(command);
    assert_eq!(store.run(failing), refused, "although it would succeed now");
}

#[test]
fn the_oldest_key_is_forgotten_first() {
    let mut state = State::default();
    exec(&Command::Format { now_ns: 1 }, &mut state);
    let unlink = |state: &mut State, number: u64| {
        let mut key = [0; 16];
        key[..8].copy_from_slice(&number.to_le_bytes());
        let session = Some(Session::Keyed { key, fingerprint: [0; 16] });
        let (name, condition) = ("none".into(), Condition::Any);
        exec(&Command::Unlink { parent: ROOT, name, inode: None, condition, session, now_ns: 1 }, state);
        key
    };
    let first = unlink(&mut state, 0);
    let second = unlink(&mut state, 1);
    for number in 2..=IDEMPOTENCY_KEYS_MAX {
        unlink(&mut state, number);
    }
    assert!(state.get(&keys::once(&first)).is_none() && state.get(&keys::once(&second)).is_some());
    assert_eq!(state.range(&keys::KeyRange { from: vec![b'O'], to: vec![b'P'] }).count() as u64, IDEMPOTENCY_KEYS_MAX);
    assert_eq!(state.range(&keys::KeyRange { from: vec![b'F'], to: vec![b'G'] }).count() as u64, IDEMPOTENCY_KEYS_MAX);
}
