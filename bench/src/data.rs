//! Reproducible input: the same bytes on every machine.

use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use clap::ValueEnum;

use crate::http::Body;

/// What kind of bytes are made.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Kind {
    /// Incompressible and without repeats.
    Random,
    /// Words of a small language; compressible about 2.5 to 1, and no chunk repeats.
    Text,
}

impl Kind {
    /// As on the command line.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Kind::Random => "random",
            Kind::Text => "text",
        }
    }
}

/// Returns `bytes` bytes of `kind`; the same for the same `seed`.
pub(crate) fn generate(kind: Kind, seed: u64, bytes: usize) -> Vec<u8> {
    let mut random = Random::new(seed);
    let mut out = Vec::with_capacity(bytes + 16);
    while out.len() < bytes {
        match kind {
            Kind::Random => out.extend_from_slice(&random.next().to_le_bytes()),
            Kind::Text => {
                // A power skews the choice towards few frequent words, as in language.
                let pick = (random.next() >> 40) as f64 / (1u64 << 24) as f64;
                let word = (pick.powi(TEXT_SKEW) * TEXT_WORDS) as u64;
                let mut letters = Random::new(word);
                for _ in 0..3 + word % 7 {
                    out.push(letter(letters.next()));
                }
                out.push(b' ');
            }
        }
    }
    out.truncate(bytes);
    out
}

/// Words of the small language, and how much more frequent the frequent ones are.
const TEXT_WORDS: f64 = 512.0;
const TEXT_SKEW: i32 = 6;

fn letter(random: u64) -> u8 {
    b'a' + (random % 26) as u8
}

/// Numbers that look random and are the same on every machine.
///
/// Source: Steele, Lea, Flood, "Fast splittable pseudorandom number generators", OOPSLA 2014 (SplitMix64).
#[derive(Clone, Debug)]
pub(crate) struct Random(u64);

impl Random {
    pub(crate) fn new(seed: u64) -> Random {
        Random(seed)
    }

    pub(crate) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// A number below `end`; the bias of the remainder is far below what a benchmark sees.
    pub(crate) fn below(&mut self, end: u64) -> u64 {
        self.next() % end
    }
}

/// Where the contents of files come from.
#[derive(Clone, Debug)]
pub(crate) enum Source {
    /// Made here; no two files share a chunk.
    Made {
        /// What kind.
        kind: Kind,
        /// Bytes of each file.
        bytes: u64,
    },
    /// Files of a directory, whole, in turn.
    Files(Arc<[SourceFile]>),
}

/// A file of a directory.
#[derive(Clone, Debug)]
pub(crate) struct SourceFile {
    pub(crate) path: PathBuf,
    /// Relative to the directory, with `/` between names.
    pub(crate) name: String,
    pub(crate) bytes: u64,
}

impl Source {
    /// Bytes of file `number`.
    pub(crate) fn bytes(&self, number: u64) -> u64 {
        match self {
            Source::Made { bytes, .. } => *bytes,
            Source::Files(files) => file_of(files, number).bytes,
        }
    }
}

fn file_of(files: &[SourceFile], number: u64) -> &SourceFile {
    &files[(number % files.len() as u64) as usize]
}

/// The regular files below `directory`, in the order of their names. Symlinks are not followed.
///
/// Errors: a directory that cannot be read, or a name that is not UTF-8.
pub(crate) fn files_below(directory: &Path) -> anyhow::Result<Vec<SourceFile>> {
    let mut files = Vec::new();
    let mut pending = vec![(directory.to_owned(), String::new())];
    while let Some((path, prefix)) = pending.pop() {
        let failed = |error: io::Error| anyhow::anyhow!("cannot read {}: {error}", path.display());
        for entry in std::fs::read_dir(&path).map_err(failed)? {
            let entry = entry.map_err(failed)?;
            let kind = entry.file_type().map_err(failed)?;
            let name = entry.file_name();
            let Some(name) = name.to_str() else {
                anyhow::bail!("{} is not UTF-8", entry.path().display());
            };
            let name = format!("{prefix}{name}");
            if kind.is_dir() {
                pending.push((entry.path(), format!("{name}/")));
            } else if kind.is_file() {
                let bytes = entry.metadata().map_err(failed)?.len();
                files.push(SourceFile { path: entry.path(), name, bytes });
            }
        }
    }
    files.sort_by(|a, b| a.name.cmp(&b.name));
    Ok(files)
}

/// Most bytes of a file that are in memory at once.
const WINDOW_BYTES: usize = 1 << 20;
/// Distance of the stamps that make each window unlike every other: a fraction of the shortest chunk.
const STAMP_DISTANCE_BYTES: usize = 4 << 10;
const STAMP_BYTES: usize = 8;
const SEED: u64 = 0x5eed;

/// The content of one file after another, as bodies of requests.
///
/// Making fresh bytes would cost the load generator as much as the server spends on them. Instead one window is made
/// once, and before it is sent again every 4 KiB of it get a stamp that names file and window: no two chunks are equal.
pub(crate) struct Content {
    source: Source,
    /// Made files of different series share no chunk.
    series: u64,
    window: Vec<u8>,
    number: u64,
    given: u64,
    file: Option<File>,
}

impl Content {
    pub(crate) fn new(source: Source, series: u64) -> Content {
        let window = match &source {
            Source::Made { kind, bytes } => {
                generate(*kind, SEED, WINDOW_BYTES.min(usize::try_from(*bytes).unwrap_or(WINDOW_BYTES)))
            }
            Source::Files(_) => vec![0; WINDOW_BYTES],
        };
        Content { source, series, window, number: 0, given: 0, file: None }
    }

    /// Starts file `number` from its beginning.
    ///
    /// Errors: the file cannot be opened.
    pub(crate) fn open(&mut self, number: u64) -> io::Result<()> {
        (self.number, self.given) = (number, 0);
        if let Source::Files(files) = &self.source {
            self.file = Some(File::open(&file_of(files, number).path)?);
        }
        Ok(())
    }
}

impl Body for Content {
    fn bytes(&self) -> u64 {
        self.source.bytes(self.number)
    }

    fn next(&mut self) -> io::Result<&[u8]> {
        let rest = self.bytes() - self.given;
        let wanted = self.window.len().min(usize::try_from(rest).unwrap_or(usize::MAX));
        let taken = match (&self.source, &mut self.file) {
            (Source::Made { kind, .. }, _) => {
                let name = Random::new(self.series).next() ^ Random::new(self.number).next() ^ self.given;
                stamp(&mut self.window[..wanted], *kind, name);
                wanted
            }
            (Source::Files(files), file) => {
                let file = file.as_mut().expect("invariant: a file is opened before it is read");
                match file.read(&mut self.window[..wanted])? {
                    0 if wanted > 0 => {
                        let path = file_of(files, self.number).path.display();
                        return Err(io::Error::new(io::ErrorKind::UnexpectedEof, format!("{path} has become shorter")));
                    }
                    taken => taken,
                }
            }
        };
        self.given += taken as u64;
        Ok(&self.window[..taken])
    }
}

/// Marks `window` as the one called `name`.
fn stamp(window: &mut [u8], kind: Kind, name: u64) {
    let mut random = Random::new(name);
    for block in window.chunks_mut(STAMP_DISTANCE_BYTES) {
        let mut stamp = random.next().to_le_bytes();
        if kind == Kind::Text {
            stamp = stamp.map(|byte| letter(u64::from(byte)));
        }
        let bytes = block.len().min(STAMP_BYTES);
        block[..bytes].copy_from_slice(&stamp[..bytes]);
    }
}

/// The content of one file of a directory, as the body of a request.
pub(crate) fn content_of(file: &SourceFile) -> io::Result<Content> {
    let mut content = Content::new(Source::Files(Arc::new([file.clone()])), 0);
    content.open(0)?;
    Ok(content)
}

#[cfg(test)]
mod tests {
    use super::*;
    use chunk::{ChunkerId, InputEnd};

    fn whole(content: &mut Content, number: u64) -> Vec<u8> {
        content.open(number).unwrap();
        let mut bytes = Vec::new();
        while (bytes.len() as u64) < content.bytes() {
            let window = content.next().unwrap();
            bytes.extend_from_slice(window);
        }
        bytes
    }

    #[test]
    fn random_does_not_compress_and_text_does() {
        let ratio = |kind| {
            let plain = generate(kind, 1, 1 << 16);
            plain.len() as f64 / chunk::compress(&plain).1.len() as f64
        };
        assert!(ratio(Kind::Random) < 1.01);
        let text = ratio(Kind::Text);
        assert!((2.3..2.8).contains(&text), "{text}");
    }

    #[test]
    fn no_two_chunks_of_made_files_are_equal_and_files_are_reproducible() {
        for kind in [Kind::Random, Kind::Text] {
            let mut content = Content::new(Source::Made { kind, bytes: (5 << 20) + 17 }, 0);
            let first = whole(&mut content, 0);
            let files = [first.clone(), whole(&mut content, 1), whole(&mut content, 2)];
            let chunker = chunk::chunker(ChunkerId::FASTCDC_64_KIB).unwrap();
            let mut seen = std::collections::BTreeSet::new();
            for file in &files {
                assert_eq!(file.len(), (5 << 20) + 17);
                let mut rest = &file[..];
                while let Some(bytes) = chunker.cut(rest, InputEnd::Last) {
                    let (chunk, after) = rest.split_at(bytes);
                    assert!(seen.insert(chunk.to_vec()), "{kind:?}: a chunk repeats");
                    rest = after;
                }
            }
            assert_eq!(whole(&mut content, 0), first);
        }
    }

    #[test]
    fn small_files_differ_too() {
        let mut content = Content::new(Source::Made { kind: Kind::Random, bytes: 9 }, 0);
        assert_ne!(whole(&mut content, 0), whole(&mut content, 1));
        let mut content = Content::new(Source::Made { kind: Kind::Random, bytes: 0 }, 0);
        assert_eq!(whole(&mut content, 0), b"");
    }

    #[test]
    fn files_of_a_directory_come_whole_and_in_turn() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::create_dir(dir.path().join("b")).unwrap();
        std::fs::write(dir.path().join("b/second"), vec![2; 3 << 20]).unwrap();
        std::fs::write(dir.path().join("a"), b"first").unwrap();
        std::os::unix::fs::symlink("a", dir.path().join("link")).unwrap();
        let files = files_below(dir.path()).unwrap();
        let names: Vec<&str> = files.iter().map(|file| file.name.as_str()).collect();
        assert_eq!(names, ["a", "b/second"]);
        let mut content = Content::new(Source::Files(files.into()), 0);
        assert_eq!(whole(&mut content, 4), b"first");
        assert_eq!(whole(&mut content, 1), vec![2; 3 << 20]);
        std::fs::write(dir.path().join("a"), b"f").unwrap();
        content.open(0).unwrap();
        content.next().unwrap();
        assert!(content.next().unwrap_err().to_string().contains("shorter"));
    }
}
