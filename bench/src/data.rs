//! Reproducible input: the same bytes on every machine.

use clap::ValueEnum;

/// What kind of bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Kind {
    /// Incompressible and without repeats.
    Random,
    /// Words of a small language; compressible, and no chunk repeats.
    Text,
}

/// Returns `bytes` bytes of `kind`.
pub(crate) fn generate(kind: Kind, bytes: usize) -> Vec<u8> {
    let mut random = SplitMix64(0x5eed);
    let mut out = Vec::with_capacity(bytes + 16);
    while out.len() < bytes {
        match kind {
            Kind::Random => out.extend_from_slice(&random.next().to_le_bytes()),
            Kind::Text => {
                // Squaring skews the choice towards few frequent words, as in language.
                let pick = (random.next() >> 40) as f64 / (1u64 << 24) as f64;
                let word = (pick * pick * 512.0) as u64;
                let mut letters = SplitMix64(word);
                for _ in 0..3 + word % 7 {
                    out.push(b'a' + (letters.next() % 26) as u8);
                }
                out.push(b' ');
            }
        }
    }
    out.truncate(bytes);
    out
}

/// Source: Steele, Lea, Flood, "Fast splittable pseudorandom number generators", OOPSLA 2014.
struct SplitMix64(u64);

impl SplitMix64 {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn random_does_not_compress_and_text_does() {
        let ratio = |kind| {
            let plain = generate(kind, 1 << 16);
            plain.len() as f64 / chunk::compress(&plain).1.len() as f64
        };
        assert!(ratio(Kind::Random) < 1.01);
        assert!(ratio(Kind::Text) > 1.5, "{}", ratio(Kind::Text));
    }
}
