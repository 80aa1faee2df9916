//! Which chunks shall lie together in one block: the seam between moving chunks and knowing which are alike.

use proto::DomainId;
use proto::disk::Codec;
use proto::limits::BLOCK_CHUNKS_MAX;

/// Says which chunks are alike, groups them, and compresses groups. Every core has a clone.
pub trait Grouping: Clone + Send + 'static {
    /// What is remembered of a chunk's content.
    type Sketch: Copy + Send + 'static;
    /// Gathers chunks into groups.
    type Plan: Plan<Self::Sketch>;
    /// Compresses groups.
    type Compressor: Compressor;

    /// Sketches a chunk. Cost: well below a millisecond.
    fn sketch(&self, plain: &[u8]) -> Self::Sketch;

    /// The core, below `cores`, that regroups the chunk; `None` for whichever has read it.
    fn core(&self, sketch: &Self::Sketch, cores: usize) -> Option<usize>;

    /// Begins a plan of groups of up to `block_plain_bytes` each, at least the longest chunk.
    fn plan(&self, block_plain_bytes: usize) -> Self::Plan;

    /// Returns what compresses the blocks of a round on one core.
    fn compressor(&self) -> Self::Compressor;
}

/// Compresses blocks, one after the other: each is begun, given its chunks, one in a step, and ended.
pub trait Compressor {
    /// Begins a block of `chunks`.
    fn begin(&mut self, chunks: &[&[u8]]);

    /// Takes the next chunk.
    fn push(&mut self, chunk: &[u8]);

    /// Ends the block; `None` if its chunks are to be stored as they are.
    fn end(&mut self) -> Option<(Codec, Vec<u8>)>;
}

/// A plan that is being made.
pub trait Plan<S> {
    /// Takes the next chunk, written before all that were taken so far.
    fn push(&mut self, chunk: Sketched<S>);

    /// Returns the groups in the order in which they are to be written, each of one domain. Chunks are named by how many
    /// were pushed before them, each once.
    fn finish(self) -> Vec<Vec<u32>>;
}

/// A chunk that is to be laid somewhere.
#[derive(Clone, Copy, Debug)]
pub struct Sketched<S> {
    /// Its dedup domain: a block never mixes them.
    pub domain: DomainId,
    /// Its plain bytes.
    pub plain_bytes: u32,
    /// What is remembered of its content.
    pub sketch: S,
}

/// Chunks lie together as they were written, compressed as at ingest.
#[derive(Clone, Copy, Debug, Default)]
pub struct Arrival;

impl Grouping for Arrival {
    type Sketch = ();
    type Plan = ArrivalPlan;
    type Compressor = AtOnce;

    fn sketch(&self, _plain: &[u8]) {}

    fn core(&self, _sketch: &(), _cores: usize) -> Option<usize> {
        None
    }

    fn plan(&self, block_plain_bytes: usize) -> ArrivalPlan {
        ArrivalPlan { block_plain_bytes, chunks: Vec::new() }
    }

    fn compressor(&self) -> AtOnce {
        AtOnce::default()
    }
}

/// Compresses a block in its last step, as at ingest.
#[derive(Debug, Default)]
pub struct AtOnce(Vec<u8>);

impl Compressor for AtOnce {
    fn begin(&mut self, _chunks: &[&[u8]]) {
        self.0.clear();
    }

    fn push(&mut self, chunk: &[u8]) {
        self.0.extend_from_slice(chunk);
    }

    fn end(&mut self) -> Option<(Codec, Vec<u8>)> {
        let (codec, payload) = chunk::compress(&self.0);
        Some((codec, payload.into_owned()))
    }
}

/// See [`Arrival`].
#[derive(Debug)]
pub struct ArrivalPlan {
    block_plain_bytes: usize,
    chunks: Vec<(DomainId, u32)>,
}

impl Plan<()> for ArrivalPlan {
    fn push(&mut self, chunk: Sketched<()>) {
        self.chunks.push((chunk.domain, chunk.plain_bytes));
    }

    fn finish(self) -> Vec<Vec<u32>> {
        let mut groups: Vec<Vec<u32>> = Vec::new();
        let (mut open, mut plain_bytes) = (None, 0);
        for (number, (domain, bytes)) in self.chunks.iter().enumerate().rev() {
            plain_bytes += *bytes as usize;
            let fits = open == Some(*domain)
                && plain_bytes <= self.block_plain_bytes
                && groups.last().is_some_and(|group| group.len() < BLOCK_CHUNKS_MAX);
            if !fits {
                (open, plain_bytes) = (Some(*domain), *bytes as usize);
                groups.push(Vec::new());
            }
            groups.last_mut().expect("invariant: a group is open").push(number as u32);
        }
        groups
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn arrival_keeps_the_order_of_writing_and_never_mixes_domains() {
        let mut plan = Arrival.plan(100);
        // From the last written to the first.
        for (domain, plain_bytes) in [(1, 60), (1, 40), (1, 1), (2, 10), (1, 10)] {
            plan.push(Sketched { domain: DomainId(domain), plain_bytes, sketch: () });
        }
        assert_eq!(plan.finish(), [vec![4], vec![3], vec![2, 1], vec![0]]);
    }
}
