//! File contents: small and large, new and seen before, compressible and not.

use std::rc::Rc;

use proto::limits::{CHUNK_BYTES_MIN, INLINE_BYTES_MAX};

use crate::sim::Random;

/// Most files are shorter than this.
const ORDINARY_BYTES_MAX: u64 = 600 << 10;
/// One file in [`LARGE_ONE_IN`] is up to this long: more than a row, and more than an upload window.
const LARGE_BYTES_MAX: u64 = 5 << 20;
const LARGE_ONE_IN: u64 = 40;

/// Draws the bytes of a file; `earlier` returns one of the contents drawn before, if there is any.
pub fn draw(random: &mut Random, earlier: impl Fn(&mut Random) -> Option<Rc<Vec<u8>>>) -> Vec<u8> {
    let base = if random.chance(2, 5) { earlier(random) } else { None };
    let Some(base) = base else {
        let bytes = draw_bytes(random);
        return fresh(random, bytes);
    };
    let mut bytes = base.to_vec();
    match random.below(4) {
        // The very same file again.
        0 | 1 => {}
        // A longer version of it.
        2 => {
            let added = random.below(20_000) as usize;
            bytes.append(&mut fresh(random, added));
        }
        // An edit somewhere inside.
        _ => {
            let at = random.below(bytes.len() as u64 + 1) as usize;
            let removed = random.below(64).min((bytes.len() - at) as u64) as usize;
            let inserted = random.below(64) as usize;
            bytes.splice(at..at + removed, fresh(random, inserted));
        }
    }
    bytes
}

fn draw_bytes(random: &mut Random) -> usize {
    let inline = INLINE_BYTES_MAX as u64;
    let bytes = match random.below(20) {
        0 => 0,
        1 => *random.pick(&[1, inline - 1, inline, inline + 1]),
        2..=8 => random.below(inline),
        9..=13 => random.between(inline, CHUNK_BYTES_MIN as u64 + 4096),
        _ if random.chance(1, LARGE_ONE_IN) => random.below(LARGE_BYTES_MAX),
        _ => random.below(ORDINARY_BYTES_MAX),
    };
    bytes as usize
}

/// Bytes that were never there: noise, or a text that compresses.
fn fresh(random: &mut Random, len: usize) -> Vec<u8> {
    let mut bytes = vec![0; len];
    if random.chance(1, 2) {
        random.fill(&mut bytes);
        return bytes;
    }
    let mut word = [0; 24];
    random.fill(&mut word);
    for part in bytes.chunks_mut(word.len()) {
        word[..8].copy_from_slice(&random.next_u64().to_le_bytes());
        part.copy_from_slice(&word[..part.len()]);
    }
    bytes
}
