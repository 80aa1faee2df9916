//! Blocks, each compressed in every way: what would come of each choice, and what it takes.

use std::path::PathBuf;
use std::time::Duration;

use anyhow::ensure;
use chunk::similar::{PlanChunk, PlanLimits, Planner, features};
use chunk::warm::{BlockCompressor, Effort};
use chunk::{ChunkerId, DomainKey, InputEnd, chunker, compress, decompress, is_incompressible};
use clap::ValueEnum;
use proto::DomainId;
use proto::disk::Codec;
use rustix::time::{ClockId, clock_gettime};
use serde::Serialize;

use super::probes::{FileType, repeats, trial};
use crate::data::{Random, SourceFile, files_below};
use crate::similar::hot::Hot;

/// Which blocks, and so which codecs are asked about.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, ValueEnum)]
#[serde(rename_all = "kebab-case")]
pub(super) enum Stage {
    /// One chunk is one block.
    Ingest,
    /// Similar chunks are one block.
    Compaction,
}

/// A way to compress a block.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Coding {
    Plain,
    Lz4,
    Zstd(i32),
}

/// The ways between which a stage chooses, plain first.
pub(super) fn codings(stage: Stage) -> &'static [Coding] {
    match stage {
        Stage::Ingest => &[Coding::Plain, Coding::Lz4, Coding::Zstd(1), Coding::Zstd(3)],
        Stage::Compaction => &[Coding::Plain, Coding::Zstd(1), Coding::Zstd(3), Coding::Zstd(6)],
    }
}

impl Coding {
    pub(super) fn name(self) -> String {
        match self {
            Coding::Plain => "plain".to_owned(),
            Coding::Lz4 => "LZ4".to_owned(),
            Coding::Zstd(level) => format!("ZSTD-{level}"),
        }
    }
}

/// What something takes and leaves.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Cost {
    pub(super) bytes: f64,
    pub(super) seconds: f64,
}

/// One block.
pub(super) struct Unit {
    pub(super) file_type: FileType,
    pub(super) plain_bytes: f64,
    /// Whether the entropy probe stops it; of several chunks, which were probed before, it stops none.
    pub(super) is_stopped: bool,
    /// Parts of a thousand, of the match sample and of the trial.
    pub(super) repeats: u32,
    pub(super) trial: u32,
    /// The sum of squared counts of a thousand bytes, spread evenly.
    pub(super) collisions: u32,
    pub(super) probe_seconds: f64,
    pub(super) repeats_seconds: f64,
    /// What is done to the block whatever is chosen; sealing comes in addition, by the byte.
    pub(super) path_seconds: f64,
    /// Of each coding; a gain that is too small counts as plain.
    pub(super) codings: Vec<Cost>,
    pub(super) copy_seconds: f64,
    pub(super) compress_seconds: f64,
}

/// CPU time of this thread.
fn cpu() -> Duration {
    let time = clock_gettime(ClockId::ThreadCPUTime);
    Duration::new(time.tv_sec.unsigned_abs(), time.tv_nsec as u32)
}

fn timed<T>(work: impl FnOnce() -> T) -> (f64, T) {
    let begun = cpu();
    let output = std::hint::black_box(work());
    ((cpu() - begun).as_secs_f64(), output)
}

/// Seconds to seal a byte.
pub(super) fn seal_seconds_per_byte() -> f64 {
    let cipher = chunk::cipher(&[1; 32]);
    let mut bytes = vec![0; 64 << 10];
    let rounds = 1000;
    let (seconds, ()) = timed(|| {
        for number in 0..rounds {
            cipher.seal(&[number as u8; 12], &[], &mut bytes);
        }
    });
    seconds / (rounds as usize * bytes.len()) as f64
}

/// Reads files of `directories` in a random order that is always the same, until `limit_bytes` of distinct chunks are
/// there, and returns them as blocks.
pub(super) fn units(directories: &[PathBuf], stage: Stage, limit_bytes: u64) -> anyhow::Result<Vec<Unit>> {
    let mut files: Vec<SourceFile> = Vec::new();
    for directory in directories {
        files.extend(files_below(directory)?);
    }
    let mut order = Random::new(1);
    let mut files: Vec<(u64, SourceFile)> = files.into_iter().map(|file| (order.next(), file)).collect();
    files.sort_by_key(|(place, _)| *place);
    let (mut hot, mut types) = (Hot::default(), Vec::new());
    for (_, file) in &files {
        if hot.unique_bytes >= limit_bytes {
            break;
        }
        hot.store(&file.path)?;
        types.resize(hot.chunks.len(), FileType::of(&file.path)?);
    }
    ensure!(!hot.chunks.is_empty(), "there is nothing in the files given");
    let mut measure = Measure::new(stage);
    match stage {
        Stage::Ingest => {
            for (chunk, file_type) in hot.chunks.iter().zip(&types) {
                measure.add(&[chunk.plain()], *file_type);
            }
        }
        Stage::Compaction => {
            for group in groups(&mut hot) {
                let plains: Vec<Vec<u8>> = group.iter().map(|number| hot.chunks[*number].plain()).collect();
                measure.add(&plains, types[group[0]]);
            }
        }
    }
    Ok(measure.units)
}

/// Groups of chunks, by their numbers, as compaction on one core makes them.
fn groups(hot: &mut Hot) -> Vec<Vec<usize>> {
    hot.sketch();
    let last = hot.chunks.len() - 1;
    let mut planner = Planner::new(PlanLimits::default());
    for chunk in hot.chunks.iter().rev() {
        let chunk = PlanChunk { domain: DomainId(0), plain_bytes: chunk.plain_bytes, features: chunk.features };
        planner.push(chunk).expect("invariant: a plan has room for 32 GiB");
    }
    let numbers = |group: chunk::similar::Group| group.chunks.iter().map(|number| last - *number as usize).collect();
    planner.finish().into_iter().map(numbers).collect()
}

struct Measure {
    stage: Stage,
    compressors: Vec<(Coding, Option<BlockCompressor>)>,
    units: Vec<Unit>,
}

impl Measure {
    fn new(stage: Stage) -> Measure {
        let compressor = |coding: &Coding| match *coding {
            Coding::Zstd(level) => (*coding, Some(BlockCompressor::new(Effort { level, is_long_distance: false }))),
            coding => (coding, None),
        };
        Measure { stage, compressors: codings(stage).iter().map(compressor).collect(), units: Vec::new() }
    }

    fn add(&mut self, chunks: &[Vec<u8>], file_type: FileType) {
        let parts: Vec<&[u8]> = chunks.iter().map(Vec::as_slice).collect();
        let whole = chunks.concat();
        let plain = &whole[..];
        let path_seconds = self.path(chunks);
        // Everything in the order of a write: the chunk was read to be named, so the caches have what fits.
        // What looks like noise alone may well repeat among its likes.
        let (probe_seconds, is_stopped) = timed(|| parts.len() == 1 && is_incompressible(plain));
        let (repeats_seconds, repeats) = timed(|| repeats(plain));
        let (copy_seconds, _) = timed(|| plain.to_vec());
        let (compress_seconds, _) = timed(|| compress(plain));
        let trial = trial(plain, |bytes| lz4(bytes).len());
        let codings = self.compressors.iter_mut().map(|(coding, compressor)| {
            let (seconds, bytes) = match (coding, compressor) {
                (_, Some(compressor)) => timed(|| compressor.compress(&parts).1.len()),
                (Coding::Plain, _) => (0.0, plain.len()),
                _ => timed(|| lz4(plain).len()),
            };
            let is_gain = bytes + plain.len().div_ceil(16) <= plain.len();
            Cost { bytes: if is_gain { bytes } else { plain.len() } as f64, seconds }
        });
        let unit = Unit {
            file_type,
            plain_bytes: plain.len() as f64,
            is_stopped,
            repeats,
            trial,
            collisions: chunk::probe::collisions(plain).unwrap_or(0),
            probe_seconds,
            repeats_seconds,
            path_seconds,
            codings: codings.collect(),
            copy_seconds,
            compress_seconds,
        };
        self.units.push(unit);
    }

    /// What is done with chunks before they are compressed.
    fn path(&self, chunks: &[Vec<u8>]) -> f64 {
        let of_chunk = |plain: &Vec<u8>| match self.stage {
            Stage::Ingest => {
                let chunker = chunker(ChunkerId::FASTCDC_64_KIB).expect("invariant: the default chunker exists");
                let key = DomainKey::new([7; 32]);
                timed(|| (chunker.cut(plain, InputEnd::Last), key.chunk_id(plain))).0
            }
            Stage::Compaction => {
                let (codec, payload) = compress(plain);
                let decode = || decompress(codec, &payload, plain.len());
                2.0 * timed(decode).0 + if codec == Codec::None { 0.0 } else { timed(|| features(plain)).0 }
            }
        };
        chunks.iter().map(of_chunk).sum()
    }
}

fn lz4(plain: &[u8]) -> Vec<u8> {
    lz4_flex::block::compress(plain)
}
