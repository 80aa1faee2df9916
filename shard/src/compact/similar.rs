//! Alike chunks lie together, newest first, under one ZSTD frame. What is incompressible stays alone, as it is.

use chunk::codec::is_incompressible;
use chunk::compress_block;
use chunk::similar::{Features, PlanChunk, PlanLimits, Planner, features};
use proto::disk::Codec;

use super::plan::{Grouping, Plan, Sketched};

/// See the module. Each core regroups the chunks whose features are its own.
#[derive(Clone, Copy, Debug, Default)]
pub struct Similar;

impl Grouping for Similar {
    /// What the chunk looks like; `None` if it is incompressible.
    type Sketch = Option<Features>;
    type Plan = SimilarPlan;

    fn sketch(&self, plain: &[u8], stored_as: Codec) -> Option<Features> {
        let is_plain = stored_as == Codec::None || is_incompressible(plain);
        (!is_plain).then(|| features(plain))
    }

    fn core(&self, sketch: &Option<Features>, cores: usize) -> Option<usize> {
        sketch.map(|features| usize::from(features.owner(cores as u16)))
    }

    fn plan(&self, block_plain_bytes: usize) -> SimilarPlan {
        let limits = PlanLimits { block_plain_bytes, ..PlanLimits::default() };
        SimilarPlan { planner: Planner::new(limits), planned: Vec::new(), alone: Vec::new() }
    }

    fn compress(&self, chunks: &[&[u8]]) -> (Codec, Vec<u8>) {
        match chunks {
            [chunk] if is_incompressible(chunk) => (Codec::None, chunk.to_vec()),
            chunks => compress_block(chunks),
        }
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
