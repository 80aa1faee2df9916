//! File contents that three numbers stand for, so that a whole history of versions fits in memory.
//!
//! Every byte follows from its offset: an upload can start over, and a download is compared as it comes.

use std::io::{self, Read, Seek, SeekFrom};

use crate::sim::Random;

/// Bytes that are produced and compared at once.
const BUFFER_BYTES: usize = 64 << 10;
/// Contents of [`Texture::Duplicate`] are made of so long pieces: several chunks, most of which they then share.
const PIECE_WORDS: u64 = (256 << 10) / 8;
/// Different pieces.
const PIECES: u64 = 4;
/// Spreads consecutive numbers (the increment of splitmix64).
const STEP: u64 = 0x9e37_79b9_7f4a_7c15;

/// Scrambles a number so that every bit depends on every bit (the finisher of splitmix64).
fn mix(number: u64) -> u64 {
    let number = (number ^ number >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let number = (number ^ number >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
    number ^ number >> 31
}

/// How bytes relate to each other and to those of other contents.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Texture {
    /// Neither compressible nor seen before.
    Unique,
    /// Made of a few pieces that many files share.
    Duplicate,
    /// Compressible, and not seen before.
    Compressible,
}

/// The bytes of one version of a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Content {
    /// What every byte follows from.
    pub seed: u64,
    /// Its length.
    pub bytes: u64,
    /// What the bytes are like.
    pub texture: Texture,
}

impl Content {
    /// A content of `bytes` bytes.
    pub fn draw(random: &mut Random, bytes: u64) -> Content {
        let texture = match random.below(4) {
            0 | 1 => Texture::Unique,
            2 => Texture::Duplicate,
            _ => Texture::Compressible,
        };
        Content { seed: random.next_u64(), bytes, texture }
    }

    /// The three numbers, as the oracle keeps them in place of the bytes.
    #[must_use]
    pub fn describe(&self) -> Vec<u8> {
        let texture = match self.texture {
            Texture::Unique => 0,
            Texture::Duplicate => 1,
            Texture::Compressible => 2,
        };
        [self.seed.to_le_bytes(), self.bytes.to_le_bytes(), u64::to_le_bytes(texture)].concat()
    }

    /// The content of a description.
    ///
    /// # Panics
    /// If it is none.
    #[must_use]
    pub fn described(description: &[u8]) -> Content {
        let words: Vec<u64> = description
            .chunks_exact(8)
            .map(|word| u64::from_le_bytes(word.try_into().expect("invariant: eight bytes")))
            .collect();
        let [seed, bytes, texture] = words[..] else { panic!("invariant: a description has three numbers") };
        let texture = match texture {
            0 => Texture::Unique,
            1 => Texture::Duplicate,
            _ => Texture::Compressible,
        };
        Content { seed, bytes, texture }
    }

    fn word(&self, index: u64) -> u64 {
        let scrambled = |seed: u64, at: u64| mix(seed.wrapping_add(at.wrapping_mul(STEP)));
        match self.texture {
            Texture::Unique => scrambled(self.seed, index),
            Texture::Duplicate => {
                let piece = scrambled(self.seed, index / PIECE_WORDS) % PIECES;
                scrambled(piece, index % PIECE_WORDS)
            }
            Texture::Compressible => scrambled(self.seed, index / 16) & 0x0f0f_0f0f_0f0f_0f0f,
        }
    }

    /// Fills `buffer` with the bytes from offset `at` on.
    pub fn fill(&self, at: u64, buffer: &mut [u8]) {
        let mut filled = 0;
        while filled < buffer.len() {
            let offset = at + filled as u64;
            let word = self.word(offset / 8).to_le_bytes();
            let part = &word[(offset % 8) as usize..];
            let taken = part.len().min(buffer.len() - filled);
            buffer[filled..filled + taken].copy_from_slice(&part[..taken]);
            filled += taken;
        }
    }

    /// Compares what `reader` yields, to its end, with the bytes from `start` to `end`.
    ///
    /// # Errors
    /// The reader's own, or `InvalidData` that says where the first difference is.
    pub fn compare(&self, start: u64, end: u64, reader: &mut impl Read) -> io::Result<()> {
        let (mut expected, mut seen) = (vec![0; BUFFER_BYTES], vec![0; BUFFER_BYTES]);
        let mut at = start;
        loop {
            let read = reader.read(&mut seen)?;
            let differs = |at: u64, what: &str| {
                io::Error::new(io::ErrorKind::InvalidData, format!("{what} at byte {at} of {start}..{end}: {self:?}"))
            };
            if read == 0 {
                return if at == end { Ok(()) } else { Err(differs(at, "ends")) };
            }
            if at + read as u64 > end {
                return Err(differs(end, "goes on"));
            }
            self.fill(at, &mut expected[..read]);
            if expected[..read] != seen[..read] {
                let same = expected.iter().zip(&seen).take_while(|(expected, seen)| expected == seen).count();
                return Err(differs(at + same as u64, "differs"));
            }
            at += read as u64;
        }
    }

    /// The bytes as the source of an upload.
    #[must_use]
    pub fn source(self) -> Source {
        Source { content: self, at: 0 }
    }
}

/// Reads a [`Content`].
#[derive(Debug)]
pub struct Source {
    content: Content,
    at: u64,
}

impl Read for Source {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let left = self.content.bytes.saturating_sub(self.at);
        let taken = buffer.len().min(usize::try_from(left).unwrap_or(usize::MAX));
        self.content.fill(self.at, &mut buffer[..taken]);
        self.at += taken as u64;
        Ok(taken)
    }
}

impl Seek for Source {
    fn seek(&mut self, to: SeekFrom) -> io::Result<u64> {
        match to {
            SeekFrom::Start(at) => self.at = at,
            _ => return Err(io::ErrorKind::Unsupported.into()),
        }
        Ok(self.at)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEXTURES: [Texture; 3] = [Texture::Unique, Texture::Duplicate, Texture::Compressible];

    #[test]
    fn any_offset_yields_the_same_bytes() {
        for texture in TEXTURES {
            let content = Content { seed: 7, bytes: 300_001, texture };
            let mut whole = Vec::new();
            content.source().read_to_end(&mut whole).unwrap();
            assert_eq!(whole.len(), 300_001);
            for at in [0, 1, 7, 8, 9, 262_143, 262_145] {
                let mut part = [0; 1001];
                content.fill(at as u64, &mut part);
                assert!(part[..] == whole[at..at + 1001], "{texture:?} at {at}");
            }
        }
    }

    #[test]
    fn every_kind_of_damage_is_noticed() {
        let content = Content { seed: 7, bytes: 200_000, texture: Texture::Unique };
        let mut whole = Vec::new();
        content.source().read_to_end(&mut whole).unwrap();
        let compared = |bytes: &[u8]| content.compare(0, 200_000, &mut &bytes[..]).map_err(|error| error.to_string());
        assert_eq!(compared(&whole), Ok(()));
        assert!(compared(&whole[..199_999]).unwrap_err().starts_with("ends at byte 199999"));
        assert!(compared(&[&whole[..], b"x"].concat()).unwrap_err().starts_with("goes on at byte 200000"));
        for at in [0, 65_536, 199_999] {
            let mut damaged = whole.clone();
            damaged[at] ^= 1;
            assert!(compared(&damaged).unwrap_err().starts_with(&format!("differs at byte {at} ")));
        }
        content.compare(5, 100_000, &mut &whole[5..100_000]).unwrap();
    }

    #[test]
    fn a_description_is_the_content() {
        for texture in TEXTURES {
            let content = Content { seed: u64::MAX - 7, bytes: 300_001, texture };
            assert_eq!(Content::described(&content.describe()), content);
        }
    }
}
