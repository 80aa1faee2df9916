//! What may be known of a block before it is compressed: the candidates for a rule, each with its price.

use std::fs::File;
use std::io::Read;
use std::path::Path;

use anyhow::Context;
use serde::Serialize;

/// Pieces of a block that the match sample looks at, spread evenly.
const PIECES: usize = 4;
/// Bytes of one piece.
const PIECE_BYTES: usize = 1 << 10;
/// Bytes that count as a match.
const MATCH_BYTES: usize = 5;
const TABLE_BITS: u32 = 11;

/// Positions of a sample of 4 KiB whose next five bytes were seen before in the sample, in parts of a thousand.
pub(super) fn repeats(plain: &[u8]) -> u32 {
    let mut table = [0u64; 1 << TABLE_BITS];
    let (mut seen, mut positions) = (0, 0);
    let stride = (plain.len() / PIECES).max(PIECE_BYTES);
    for piece in plain.chunks(stride).map(|part| &part[..part.len().min(PIECE_BYTES)]) {
        for bytes in piece.windows(8) {
            let word = u64::from_le_bytes(bytes.try_into().expect("invariant: windows of eight"));
            // Only the first five bytes, marked so that no word is the empty entry.
            let word = (word << (64 - 8 * MATCH_BYTES)) | 1;
            let entry = &mut table[(word.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> (64 - TABLE_BITS)) as usize];
            seen += u32::from(*entry == word);
            *entry = word;
            positions += 1;
        }
    }
    seen * 1000 / positions.max(1)
}

/// What LZ4 makes of the 4 KiB in the middle, in parts of a thousand of them.
pub(super) fn trial(plain: &[u8], lz4: impl Fn(&[u8]) -> usize) -> u32 {
    let bytes = plain.len().min(PIECES * PIECE_BYTES);
    let from = (plain.len() - bytes) / 2;
    (lz4(&plain[from..from + bytes]) * 1000 / bytes.max(1)) as u32
}

/// What the first bytes of a file say that it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "kebab-case")]
pub(super) enum FileType {
    /// gzip, xz, bzip2, zstd: one compressed stream.
    Stream,
    /// ZIP, and what is made of it: jar, wheel, office documents.
    Zip,
    /// PNG, JPEG, WebP, WOFF2, media: compressed by format.
    Media,
    Elf,
    /// ar: static libraries.
    Ar,
    Tar,
    Sqlite,
    /// UTF-8 without control characters, as far as was looked.
    Text,
    Other,
}

impl FileType {
    /// Reads the beginning of a file.
    pub(super) fn of(path: &Path) -> anyhow::Result<FileType> {
        let mut head = Vec::new();
        File::open(path)
            .and_then(|file| file.take(512).read_to_end(&mut head))
            .with_context(|| path.display().to_string())?;
        Ok(FileType::of_head(&head))
    }

    fn of_head(head: &[u8]) -> FileType {
        const MAGIC: [(&[u8], FileType); 16] = [
            (b"\x1f\x8b", FileType::Stream),
            (b"\xfd7zXZ\0", FileType::Stream),
            (b"BZh", FileType::Stream),
            (b"\x28\xb5\x2f\xfd", FileType::Stream),
            (b"PK\x03\x04", FileType::Zip),
            (b"\x89PNG", FileType::Media),
            (b"\xff\xd8\xff", FileType::Media),
            (b"wOF2", FileType::Media),
            (b"RIFF", FileType::Media),
            (b"GIF8", FileType::Media),
            (b"OggS", FileType::Media),
            (b"fLaC", FileType::Media),
            (b"ID3", FileType::Media),
            (b"\x7fELF", FileType::Elf),
            (b"!<arch>", FileType::Ar),
            (b"SQLite format 3", FileType::Sqlite),
        ];
        if let Some((_, found)) = MAGIC.iter().find(|(magic, _)| head.starts_with(magic)) {
            return *found;
        }
        if head.get(257..262) == Some(b"ustar") {
            return FileType::Tar;
        }
        // A character may be cut at the end.
        let valid = std::str::from_utf8(head).map_or_else(|error| error.valid_up_to(), str::len);
        let is_text =
            valid + 3 >= head.len() && head.iter().all(|byte| *byte >= b' ' || b"\t\n\r\x0c\x1b".contains(byte));
        if is_text { FileType::Text } else { FileType::Other }
    }

    /// Whether a rule that believes file types stores it plain.
    pub(super) fn is_compressed(self) -> bool {
        matches!(self, FileType::Stream | FileType::Zip | FileType::Media)
    }

    pub(super) fn name(self) -> &'static str {
        match self {
            FileType::Stream => "gzip, xz, …",
            FileType::Zip => "zip, jar, wheel",
            FileType::Media => "images, fonts, media",
            FileType::Elf => "ELF",
            FileType::Ar => "ar",
            FileType::Tar => "tar",
            FileType::Sqlite => "SQLite",
            FileType::Text => "text",
            FileType::Other => "other",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::data::{Kind, generate};

    #[test]
    fn a_match_sample_tells_text_from_noise() {
        let sample = |kind| repeats(&generate(kind, 1, 64 << 10));
        assert!(sample(Kind::Random) == 0 && sample(Kind::Text) > 300, "{}", sample(Kind::Text));
        assert_eq!((repeats(b""), repeats(b"1234567"), repeats(&[0; 5000]) > 900), (0, 0, true));
    }

    #[test]
    fn a_trial_takes_the_middle_of_a_block() {
        let plain: Vec<u8> = [vec![0; 30_000], vec![1; 4096], vec![0; 30_000]].concat();
        assert_eq!(trial(&plain, |middle| if middle == [1; 4096] { 1024 } else { 0 }), 250);
        assert_eq!(trial(b"", |middle| middle.len()), 0);
    }

    #[test]
    fn types_are_told_by_first_bytes() {
        for (head, expected) in [
            (&b"\x1f\x8b\x08"[..], FileType::Stream),
            (b"PK\x03\x04", FileType::Zip),
            (b"\x7fELF\x02", FileType::Elf),
            ("a word, and half a character: \u{e4}".as_bytes().split_last().unwrap().1, FileType::Text),
            (b"", FileType::Text),
            (b"\0\x01\x02", FileType::Other),
        ] {
            assert_eq!(FileType::of_head(head), expected);
        }
    }
}
