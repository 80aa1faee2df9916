//! The state against the map that it is a compact form of.

use std::collections::BTreeMap;

use proptest::prelude::*;
use proto::InodeId;
use proto::limits::{SESSION_CLIENTS_MAX, SESSION_RESULTS_MAX};

use super::*;
use crate::command::{Attributes, Command, Condition, Content, MetaError, Place, Response, Session};
use crate::exec::exec;

type Model = BTreeMap<Vec<u8>, Vec<u8>>;

/// Reads back what a run encodes.
fn pairs(run: &SnapshotRun) -> Vec<(Vec<u8>, Vec<u8>)> {
    let mut pairs = Vec::new();
    let mut rest = run.body.as_slice();
    while !rest.is_empty() {
        let word = |at: usize| u32::from_le_bytes(rest[at..at + 4].try_into().unwrap()) as usize;
        let (key, value) = (word(0), word(4));
        pairs.push((rest[8..8 + key].to_vec(), rest[8 + key..8 + key + value].to_vec()));
        rest = &rest[8 + key + value..];
    }
    assert_eq!(pairs.len(), run.pairs as usize);
    pairs
}

/// All keys that the tests use, and more.
fn everything() -> KeyRange {
    KeyRange { from: Vec::new(), to: vec![u8::MAX; 9] }
}

fn contents(state: &State) -> Model {
    state.range(&everything()).map(|(key, value)| (key, value.to_vec())).collect()
}

/// Checks that `state` holds exactly what `model` does, that every way of reading says so, and that it is well formed.
fn check(state: &State, model: &Model) {
    state.pairs.check();
    assert_eq!(&contents(state), model);
    let bytes: usize = model.iter().map(|(key, value)| key.len() + value.len()).sum();
    assert_eq!(state.bytes(), bytes as u64);
    for (key, value) in model {
        assert_eq!(state.get(key), Some(value.as_slice()));
    }
    assert_eq!(state.digest(), load(model).digest());
}

/// The state of `model`, loaded as from a snapshot.
fn load(model: &Model) -> State {
    let mut loading = Loading::default();
    assert!(model.iter().all(|(key, value)| loading.append(key, value)));
    let state = loading.finish();
    state.pairs.check();
    state
}

/// One change: a key, and what it shall hold.
type Change = (Vec<u8>, Option<Vec<u8>>);

fn change(state: &mut State, model: &mut Model, (key, value): Change) {
    match value {
        Some(value) => {
            state.put(key.clone(), value.clone());
            model.insert(key, value);
        }
        None => {
            state.delete(&key);
            model.remove(&key);
        }
    }
}

/// Keys that share much, are prefixes of each other, and meet again.
fn key() -> impl Strategy<Value = Vec<u8>> {
    prop_oneof![
        prop::collection::vec(prop_oneof![Just(0u8), Just(b'a'), Just(b'b'), Just(0xfe)], 0..7),
        (any::<u8>(), 0u8..40).prop_map(|(high, low)| [&b"Dprefix"[..], &[high % 8, low]].concat()),
        (0usize..300).prop_map(|len| vec![b'x'; len]),
    ]
}

/// Values of a few bytes, of about a quarter of a leaf, and larger than a leaf.
fn value() -> impl Strategy<Value = Vec<u8>> {
    let bytes = prop_oneof![8 => 0usize..80, 3 => 700usize..1300, 1 => 4000usize..20_000];
    (any::<u8>(), bytes).prop_map(|(byte, bytes)| vec![byte; bytes])
}

fn changes(most: usize) -> impl Strategy<Value = Vec<Change>> {
    prop::collection::vec((key(), prop::option::weighted(0.7, value())), 0..most)
}

proptest! {
    #[test]
    fn the_state_is_an_ordered_map(
        first in changes(300),
        cut in key(),
        second in changes(300),
        ranges in prop::collection::vec((key(), key()), 8),
    ) {
        let (mut state, mut model) = (State::default(), Model::new());
        for next in first {
            change(&mut state, &mut model, next);
        }
        check(&state, &model);
        // Removing what lies together merges leaves; what comes after divides them again.
        for gone in model.split_off(&cut).into_keys() {
            state.delete(&gone);
        }
        check(&state, &model);
        for next in second {
            change(&mut state, &mut model, next);
        }
        check(&state, &model);
        for (from, to) in ranges {
            prop_assert_eq!(state.get(&from), model.get(&from).map(Vec::as_slice));
            let range = KeyRange { from: from.clone(), to: to.clone() };
            let seen: Vec<_> = state.range(&range).map(|(key, value)| (key, value.to_vec())).collect();
            let expected: Vec<_> = if from < to {
                model.range(from..to).map(|(key, value)| (key.clone(), value.clone())).collect()
            } else {
                Vec::new()
            };
            prop_assert_eq!(seen, expected);
        }
        for key in model.into_keys() {
            state.delete(&key);
        }
        check(&state, &Model::new());
        prop_assert!(state.memory_bytes() < 1000, "an empty state keeps nothing");
    }

    #[test]
    fn a_snapshot_shows_the_moment_it_began(
        before in changes(200),
        during in changes(400),
        changes_per_run in 0usize..40,
    ) {
        const RUN_BYTES_MAX: usize = 21_000;
        let (mut state, mut model) = (State::default(), Model::new());
        for next in before {
            change(&mut state, &mut model, next);
        }
        let expected: Vec<_> = model.clone().into_iter().collect();
        state.begin_snapshot();
        let mut during = during.into_iter();
        let mut seen = Vec::new();
        loop {
            let run = state.next_run(RUN_BYTES_MAX);
            if run.pairs == 0 {
                break;
            }
            prop_assert!(run.body.len() <= RUN_BYTES_MAX);
            seen.extend(pairs(&run));
            for next in during.by_ref().take(changes_per_run) {
                change(&mut state, &mut model, next);
            }
        }
        prop_assert_eq!(seen, expected);
        prop_assert_eq!(state.aside_bytes(), 0, "what was visited does not lie aside");
        state.end_snapshot();
        check(&state, &model);
    }
}

#[test]
fn equal_states_have_equal_digests_whatever_their_history() {
    let (mut a, mut b) = (State::default(), State::default());
    a.put(vec![1], vec![2]);
    a.put(vec![3], vec![4]);
    b.put(vec![3], vec![9]);
    b.put(vec![5], vec![6]);
    b.put(vec![1], vec![2]);
    assert_ne!(a.digest(), b.digest());
    b.delete(&[5]);
    b.put(vec![3], vec![4]);
    assert_eq!(a.digest(), b.digest());
}

#[test]
fn loading_takes_ascending_keys_only() {
    let mut loading = Loading::default();
    assert!(loading.append(&[1], &[1]));
    assert!(loading.append(&[2], &[1]));
    assert!(!loading.append(&[2], &[1]));
    assert!(!loading.append(&[1], &[1]));
    assert!(!loading.append(&[], &[1]));
    assert!(loading.append(&[2, 0], &[1]));
    assert_eq!(contents(&loading.finish()).len(), 3);
}

#[test]
fn the_largest_values_lie_among_small_ones() {
    let (mut state, mut model) = (State::default(), Model::new());
    for number in 0..200u8 {
        let bytes = if number % 50 == 25 { 1 << 20 } else { 20 };
        change(&mut state, &mut model, (vec![number.reverse_bits()], Some(vec![number; bytes])));
    }
    check(&state, &model);
    for number in 0..200u8 {
        change(&mut state, &mut model, (vec![number.reverse_bits()], Some(vec![number; 30])));
    }
    check(&state, &model);
    assert!(state.memory_bytes() < 20_000, "large values leave nothing behind");
}

#[test]
fn appending_fills_leaves() {
    let mut state = State::default();
    for number in 0..20_000u64 {
        state.put(number.to_be_bytes().to_vec(), vec![7; 100]);
    }
    state.pairs.check();
    assert!(state.memory_bytes() < 20_000 * 112, "{} bytes", state.memory_bytes());
}

/// What lies aside is counted in full, also when everything is replaced while a snapshot stands still.
#[test]
fn a_state_that_is_rewritten_during_a_snapshot_says_when_to_wait() {
    let mut state = State::default();
    let key = |number: u32| number.to_be_bytes().to_vec();
    let value_bytes = SNAPSHOT_ASIDE_BYTES_MAX / 1000;
    for number in 0..1010 {
        state.put(key(number), vec![1; value_bytes]);
    }
    state.begin_snapshot();
    let mut changes = 0;
    while !state.must_wait_for_snapshot() {
        state.put(key(changes), vec![2; value_bytes]);
        state.put(key(changes), vec![3; value_bytes]);
        changes += 1;
    }
    assert!((990..=1000).contains(&changes), "a value counts once: {changes}");
    let mut seen = 0;
    while state.must_wait_for_snapshot() {
        seen += state.next_run(1 << 20).pairs;
    }
    assert!(seen < 20, "one run makes room");
    state.end_snapshot();
    assert!(!state.must_wait_for_snapshot());
}

/// Every client keeps as many answers as it may: what all of them take at most is a fixed part of memory.
#[test]
fn the_windows_of_all_clients_are_bounded() {
    const CLIENTS: usize = 50;
    const BYTES_MAX: u64 = 128 << 20;
    let mut state = State::default();
    exec(&Command::Format { now_ns: 1 }, &mut state);
    let empty = state.memory_bytes();
    for sequence in 0..2 * SESSION_RESULTS_MAX as u64 {
        for client in 0..CLIENTS as u64 {
            let command = Command::Unlink {
                parent: InodeId::ROOT,
                name: "missing".into(),
                inode: None,
                condition: Condition::Any,
                session: Some(Session::Numbered { client, sequence, acked_below: 0 }),
                now_ns: 2,
            };
            assert_eq!(exec(&command, &mut state), Response::Failed(MetaError::NotFound));
        }
    }
    // An answer takes the same space whatever it says, so these are as large as any.
    let per_client = (state.memory_bytes() - empty) / CLIENTS as u64;
    assert!(per_client > 64 * 8, "windows are full: {per_client} bytes");
    assert!(per_client * SESSION_CLIENTS_MAX as u64 <= BYTES_MAX, "{per_client} bytes for a client");
}

#[test]
fn a_small_file_takes_at_most_400_bytes_besides_its_data() {
    const FILES: u64 = 5_000;
    for inline_bytes in [0, 100] {
        let mut state = State::default();
        exec(&Command::Format { now_ns: 1 }, &mut state);
        for number in 0..FILES {
            let scattered = proto::checksum::checksum(&number.to_le_bytes());
            let command = Command::CommitFile {
                at: Place::in_directory(InodeId::ROOT, format!("{scattered:016x}.dat")),
                content: Content::Inline(vec![1; inline_bytes]),
                attributes: Attributes::default(),
                condition: Condition::Any,
                session: None,
                now_ns: number,
                pin_epoch: 0,
            };
            assert!(matches!(exec(&command, &mut state), Response::Committed { .. }));
        }
        let per_file = state.memory_bytes() / FILES - inline_bytes as u64;
        assert!(per_file <= 400, "{per_file} bytes");
    }
}
