//! File contents: small and large, new and seen before, compressible and not.

use std::rc::Rc;

use proto::limits::{CHUNK_BYTES_MIN, INLINE_BYTES_MAX};

use crate::harness::plan::Scale;
use crate::sim::Random;

/// One file with chunks in so many is large.
const LARGE_ONE_IN: u64 = 40;

/// Lengths of files, in bytes.
struct Lengths {
    /// Some files are just long enough not to lie inline, up to this.
    barely_max: u64,
    /// Most files with chunks are shorter than this.
    ordinary_max: u64,
    /// A large one is up to this long: more than a row.
    large_max: u64,
    /// What a longer version of a file adds.
    appended_max: u64,
}

impl Lengths {
    fn of(scale: Scale) -> Lengths {
        match scale {
            Scale::Small => {
                Lengths { barely_max: 5 << 10, ordinary_max: 12 << 10, large_max: 160 << 10, appended_max: 2 << 10 }
            }
            // More than an upload window.
            Scale::Production => Lengths {
                barely_max: CHUNK_BYTES_MIN as u64 + 4096,
                ordinary_max: 300 << 10,
                large_max: 5 << 20,
                appended_max: 20_000,
            },
        }
    }
}

/// Draws the bytes of a file; `earlier` returns one of the contents drawn before, if there is any.
pub fn draw(random: &mut Random, scale: Scale, earlier: impl Fn(&mut Random) -> Option<Rc<Vec<u8>>>) -> Vec<u8> {
    let base = if random.chance(2, 5) { earlier(random) } else { None };
    let Some(base) = base else {
        let bytes = draw_bytes(random, scale);
        return fresh(random, bytes);
    };
    let mut bytes = base.to_vec();
    match random.below(4) {
        // The very same file again.
        0 | 1 => {}
        // A longer version of it.
        2 => {
            let added = random.below(Lengths::of(scale).appended_max) as usize;
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

fn draw_bytes(random: &mut Random, scale: Scale) -> usize {
    let lengths = Lengths::of(scale);
    let inline = INLINE_BYTES_MAX as u64;
    let bytes = match random.below(20) {
        0 => 0,
        1 => *random.pick(&[1, inline - 1, inline, inline + 1]),
        2..=9 => random.below(200),
        10..=11 => random.below(inline),
        12..=15 => random.between(inline, lengths.barely_max),
        _ if random.chance(1, LARGE_ONE_IN) => random.below(lengths.large_max),
        _ => random.below(lengths.ordinary_max),
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
