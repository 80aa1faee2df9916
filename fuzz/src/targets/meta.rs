//! `meta`: commands, pairs of the state, pages of manifests; and what commands do to a state.

use std::collections::BTreeMap;

use meta::keys::KeyRange;
use meta::txn::KvTxn;
use meta::{Command, Pair, decode_page, encode_page, exec};

use super::{Parts, counted, golden};
use crate::{Memory, Target};

pub(super) fn targets() -> Vec<Target> {
    vec![
        Target {
            name: "command",
            run: command,
            corpus: commands,
            memory: Memory { fixed_bytes: 64 << 10, per_byte: 16 },
            input_bytes_max: 4096,
            cases: 20_000,
        },
        Target {
            name: "commands",
            run: apply,
            corpus: || vec![commands().iter().flat_map(|command| counted(command)).collect()],
            memory: Memory { fixed_bytes: 1 << 20, per_byte: 64 },
            input_bytes_max: 8192,
            cases: 6_000,
        },
        Target {
            name: "pair",
            run: pair,
            corpus: || {
                let mut state = Map::default();
                commands().iter().for_each(|bytes| apply_one(&mut state, bytes));
                state.0.iter().map(|(key, value)| [counted(key), value.clone()].concat()).collect()
            },
            memory: Memory { fixed_bytes: 64 << 10, per_byte: 16 },
            input_bytes_max: 2048,
            cases: 20_000,
        },
        Target {
            name: "manifest-page",
            run: manifest_page,
            corpus: || vec![golden(include_str!("../../../meta/golden/manifest_page.hex"))],
            memory: Memory { fixed_bytes: 16 << 10, per_byte: 4 },
            input_bytes_max: 4096,
            cases: 20_000,
        },
    ]
}

/// One command of each kind.
fn commands() -> Vec<Vec<u8>> {
    let all = golden(include_str!("../../../meta/golden/commands.hex"));
    let mut parts = Parts(&all);
    let mut commands = Vec::new();
    while !parts.0.is_empty() {
        let bytes = parts.number(4) as usize;
        commands.push(parts.bytes(bytes).to_vec());
    }
    commands
}

fn command(input: &[u8]) {
    let Ok(command) = Command::decode(input) else { return };
    let encoded = command.encode();
    assert_eq!(Command::decode(&encoded).as_ref(), Ok(&command), "what is written is read");
    let _ = command.session();
}

/// A store that is nothing but a map.
#[derive(Default, Clone, PartialEq)]
struct Map(BTreeMap<Vec<u8>, Vec<u8>>);

impl KvTxn for Map {
    fn get(&self, key: &[u8]) -> Option<&[u8]> {
        self.0.get(key).map(Vec::as_slice)
    }

    fn put(&mut self, key: Vec<u8>, value: Vec<u8>) {
        self.0.insert(key, value);
    }

    fn delete(&mut self, key: &[u8]) {
        self.0.remove(key);
    }

    fn range(&self, range: &KeyRange) -> impl Iterator<Item = (Vec<u8>, &[u8])> {
        // A range that is the wrong way round is empty.
        let range = range.from.clone()..range.to.clone().max(range.from.clone());
        self.0.range(range).map(|(key, value)| (key.clone(), value.as_slice()))
    }
}

fn apply_one(state: &mut Map, bytes: &[u8]) {
    let Ok(command) = Command::decode(bytes) else { return };
    exec(&command, state);
}

/// Applies commands that decode to one state after the other, twice, and looks at every pair that they leave.
fn apply(input: &[u8]) {
    let mut states = [Map::default(), Map::default()];
    for state in &mut states {
        exec(&Command::Format { now_ns: 1 }, state);
        let mut parts = Parts(input);
        while !parts.0.is_empty() {
            let bytes = parts.number(2) as usize;
            apply_one(state, parts.bytes(bytes));
        }
    }
    assert!(states[0] == states[1], "the same commands make the same state");
    for (key, value) in &states[0].0 {
        Pair::decode(key, value).expect("what commands write is read");
    }
}

fn pair(input: &[u8]) {
    let mut parts = Parts(input);
    let key_bytes = parts.number(2) as usize;
    let key = parts.bytes(key_bytes);
    if let Ok(pair) = Pair::decode(key, parts.0) {
        assert_eq!(Pair::decode(key, parts.0).as_ref(), Ok(&pair));
    }
}

fn manifest_page(input: &[u8]) {
    let Ok(entries) = decode_page(input) else { return };
    assert_eq!(decode_page(&encode_page(&entries)), Ok(entries), "what is written is read");
}
