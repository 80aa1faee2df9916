//! Alike chunks lie together, newest first, under one ZSTD frame. What is incompressible stays alone, as it is.

use chunk::is_incompressible;
use chunk::similar::{Features, PlanChunk, PlanLimits, Planner, features};
use chunk::warm::{BlockCompressor, Effort};
use proto::disk::Codec;

use super::plan::{Compressor, Grouping, Plan, Sketched};

/// See the module. Each core regroups the chunks whose features are its own.
#[derive(Clone, Copy, Debug, Default)]
pub struct Similar;

impl Grouping for Similar {
    /// What the chunk looks like; `None` if it is incompressible.
    type Sketch = Option<Features>;
    type Plan = SimilarPlan;
    type Compressor = Warm;

    /// The probe decides, not how the chunk is stored: what LZ4 does not shrink alone, ZSTD may shrink among its likes.
    fn sketch(&self, plain: &[u8]) -> Option<Features> {
        (!is_incompressible(plain)).then(|| features(plain))
    }

    fn core(&self, sketch: &Option<Features>, cores: usize) -> Option<usize> {
        sketch.map(|features| usize::from(features.owner(cores as u16)))
    }

    fn plan(&self, block_plain_bytes: usize) -> SimilarPlan {
        let limits = PlanLimits { block_plain_bytes, ..PlanLimits::default() };
        SimilarPlan { planner: Planner::new(limits), planned: Vec::new(), alone: Vec::new() }
    }

    fn compressor(&self) -> Warm {
        Warm { zstd: BlockCompressor::new(Effort::default()), is_plain: false }
    }
}

/// One ZSTD frame for each block.
pub struct Warm {
    zstd: BlockCompressor,
    /// Whether the block that was begun is not compressed.
    is_plain: bool,
}

impl Compressor for Warm {
    fn begin(&mut self, chunks: &[&[u8]]) {
        self.is_plain = matches!(chunks, [chunk] if is_incompressible(chunk));
        if !self.is_plain {
            self.zstd.begin(chunks.iter().map(|chunk| chunk.len()).sum());
        }
    }

    fn push(&mut self, chunk: &[u8]) {
        if !self.is_plain {
            self.zstd.push(chunk);
        }
    }

    fn end(&mut self) -> Option<(Codec, Vec<u8>)> {
        if self.is_plain { None } else { self.zstd.end().map(|payload| (Codec::Zstd, payload)) }
    }
}

/// See [`Similar`].
pub struct SimilarPlan {
    planner: Planner,
    /// Which chunks the planner has, by its own numbers.
    planned: Vec<u32>,
    /// Chunks that it did not take.
    alone: Vec<u32>,
}

impl Plan<Option<Features>> for SimilarPlan {
    fn push(&mut self, chunk: Sketched<Option<Features>>) {
        let number = (self.planned.len() + self.alone.len()) as u32;
        let Sketched { domain, plain_bytes, sketch } = chunk;
        match self.planner.push(PlanChunk { domain, plain_bytes, features: sketch }) {
            Ok(_) => self.planned.push(number),
            // More than a plan holds: it costs space, no more.
            Err(_) => self.alone.push(number),
        }
    }

    fn finish(self) -> Vec<Vec<u32>> {
        let planned = |number: u32| self.planned[number as usize];
        let groups = self.planner.finish().into_iter();
        let groups = groups.map(|group| group.chunks.into_iter().map(planned).collect());
        groups.chain(self.alone.iter().map(|number| vec![*number])).collect()
    }
}
