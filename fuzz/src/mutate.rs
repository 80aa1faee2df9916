//! Inputs from a corpus: bits flipped, numbers replaced, parts cut, doubled, moved, or taken from another input.
//!
//! An input depends on nothing but the corpus and the numbers drawn, so the seed and the number of a case make it again.

use chaos::sim::Random;

/// Values that lengths and counts break at.
const EDGES: [u64; 22] = [
    0,
    1,
    2,
    7,
    8,
    0x7f,
    0x80,
    0xff,
    0x100,
    0xfff,
    0x1000,
    0x7fff,
    0xffff,
    0x1_0000,
    0x10_0000,
    0x400_0000,
    0x7fff_ffff,
    0x8000_0000,
    0xffff_ffff,
    0x1_0000_0000,
    0x7fff_ffff_ffff_ffff,
    u64::MAX,
];
/// Changes of one input, at most; most have one or two.
const CHANGES_MAX: u64 = 16;
/// One input in so many is noise.
const NOISE_ONE_IN: u64 = 64;

/// Draws an input of up to `bytes_max` bytes.
///
/// # Panics
/// If the corpus is empty.
#[must_use]
pub fn draw(random: &mut Random, corpus: &[Vec<u8>], bytes_max: usize) -> Vec<u8> {
    if random.chance(1, NOISE_ONE_IN) {
        let mut noise = vec![0; below(random, bytes_max.min(1024) + 1)];
        random.fill(&mut noise);
        return noise;
    }
    let mut input = random.pick(corpus).clone();
    let changes = if random.chance(1, 2) { random.between(1, 2) } else { random.between(1, CHANGES_MAX) };
    for _ in 0..changes {
        change(random, &mut input, corpus);
        input.truncate(bytes_max);
    }
    input
}

fn below(random: &mut Random, bound: usize) -> usize {
    random.below(bound as u64) as usize
}

/// A part of `len` bytes, neither empty nor most of a long input.
fn part(random: &mut Random, len: usize) -> std::ops::Range<usize> {
    let start = below(random, len);
    let longest = if random.chance(3, 4) { 16 } else { len };
    start..start + 1 + below(random, (len - start).min(longest))
}

fn change(random: &mut Random, input: &mut Vec<u8>, corpus: &[Vec<u8>]) {
    if input.is_empty() {
        input.clone_from(random.pick(corpus));
        return;
    }
    let len = input.len();
    match random.below(11) {
        0 | 1 => input[below(random, len)] ^= 1 << random.below(8),
        2 => input[below(random, len)] = random.next_u64() as u8,
        3 | 4 => number(random, input),
        5 => drop(input.drain(part(random, len))),
        6 => input.truncate(below(random, len)),
        7 => {
            let copy = input[part(random, len)].to_vec();
            let at = below(random, len + 1);
            input.splice(at..at, copy);
        }
        8 => {
            let copy = input[part(random, len)].to_vec();
            let at = below(random, len - copy.len() + 1);
            input[at..at + copy.len()].copy_from_slice(&copy);
        }
        9 => {
            let other = random.pick(corpus);
            if !other.is_empty() {
                let taken = other[part(random, other.len())].to_vec();
                let replaced = part(random, len);
                input.splice(replaced, taken);
            }
        }
        _ => {
            let fill = *random.pick(&[0, 0xff, b'0', b'%', b'/', b'"', b'\n']);
            let filled = part(random, len);
            input[filled].fill(fill);
        }
    }
}

/// Replaces a number of 1 to 8 bytes, of either byte order, by an edge or by one near it.
fn number(random: &mut Random, input: &mut [u8]) {
    let width = *random.pick(&[1usize, 2, 4, 4, 8]);
    let Some(last) = input.len().checked_sub(width) else { return };
    // Fields lie on multiples of their width more often than not.
    let mut at = below(random, last + 1);
    if random.chance(3, 4) {
        at -= at % width;
    }
    let field = &mut input[at..at + width];
    let mut bytes = [0; 8];
    bytes[..width].copy_from_slice(field);
    let old = u64::from_le_bytes(bytes);
    let new = match random.below(3) {
        0 => *random.pick(&EDGES),
        1 => old.wrapping_add(random.between(1, 16)),
        _ => old.wrapping_sub(random.between(1, 16)),
    };
    field.copy_from_slice(&new.to_le_bytes()[..width]);
    if random.chance(1, 4) {
        field.reverse();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_same_numbers_give_the_same_input_and_others_another() {
        let corpus = [b"hello, world".to_vec(), vec![7; 300]];
        let drawn = |seed| draw(&mut Random::new(seed), &corpus, 400);
        let all: std::collections::BTreeSet<Vec<u8>> = (0..500).map(drawn).collect();
        assert!(all.len() > 400, "only {} different inputs", all.len());
        assert!((0..500).all(|seed| drawn(seed) == drawn(seed) && drawn(seed).len() <= 400));
    }
}
