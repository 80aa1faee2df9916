//! Which chunks shall lie together: alike ones in one block, newest first, and otherwise as they were written.
//!
//! Chunks come from the last written to the first. One that has super-features in common with an earlier one joins its
//! *cluster*; any other begins one. Clusters are then laid into blocks in the order of their newest chunks, and the blocks
//! turned round, so that what was written together is read forward:
//!
//! ```text
//!   block:  a  b  c  d   a' c'   a" c"      the newest of each cluster as they were written, then the second newest, …
//! ```
//!
//! So a reader of new data decodes the beginning of each block, in the order of its file, and pays little for the older
//! versions behind it.
//!
//! Invariants: every chunk is in exactly one group; a group holds one domain, at most `block_plain_bytes` and
//! [`BLOCK_CHUNKS_MAX`]; an incompressible chunk is alone.

use proto::DomainId;
use proto::limits::{BLOCK_CHUNKS_MAX, BLOCK_PLAIN_BYTES_MAX, CHUNK_BYTES_MAX};

use super::features::{Features, mix};
use super::index::MatchIndex;

/// Chunks of one plan: 32 GiB of plain bytes at the usual size, in at most 32 MiB of memory beside the match index.
pub const PLAN_CHUNKS_MAX: usize = 512 << 10;
/// Entries of a match index, 8 bytes each.
pub const MATCH_ENTRIES_MAX: usize = 1 << 20;

/// What a plan may hold.
#[derive(Clone, Copy, Debug)]
pub struct PlanLimits {
    /// Plain bytes of a block: less where reads are random, at most [`BLOCK_PLAIN_BYTES_MAX`].
    pub block_plain_bytes: usize,
    /// Chunks of the plan, at most [`PLAN_CHUNKS_MAX`].
    pub chunks: usize,
    /// Entries of the match index, 8 bytes each: the features of about a sixth as many chunks are remembered, those of
    /// the others forgotten, longest unused first.
    pub match_entries: usize,
}

impl Default for PlanLimits {
    fn default() -> PlanLimits {
        PlanLimits {
            block_plain_bytes: BLOCK_PLAIN_BYTES_MAX,
            chunks: PLAN_CHUNKS_MAX,
            match_entries: MATCH_ENTRIES_MAX,
        }
    }
}

/// A chunk to be laid somewhere.
#[derive(Clone, Copy, Debug)]
pub struct PlanChunk {
    /// Its dedup domain.
    pub domain: DomainId,
    /// Its plain bytes.
    pub plain_bytes: u32,
    /// What it looks like; `None` if it is incompressible (stored plain, or by the probe).
    pub features: Option<Features>,
}

/// Why a chunk was not taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PlanError {
    /// Finish this plan, and begin another one.
    #[error("a plan holds {chunks_max} chunks")]
    Full {
        /// Chunks that it may hold.
        chunks_max: usize,
    },
    /// No block of this plan can hold the chunk: leave it where it is.
    #[error("a chunk of {plain_bytes} bytes is longer than a block of {block_plain_bytes}")]
    TooLong {
        /// Bytes of the chunk.
        plain_bytes: u32,
        /// Bytes of a block.
        block_plain_bytes: usize,
    },
}

/// How the chunks of a group are stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum GroupKind {
    /// Compressed under one frame.
    Compressed,
    /// As it is: a single chunk in which there is nothing to gain.
    Plain,
}

/// Chunks that make one block.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Group {
    /// How they are stored.
    pub kind: GroupKind,
    /// The chunks in the order of the block; each is the number that [`Planner::push`] gave it.
    pub chunks: Vec<u32>,
}

/// No cluster.
const NONE: u32 = u32::MAX;

struct Planned {
    /// The cluster.
    cluster: u32,
    /// How many of the cluster are newer.
    rank: u32,
}

struct Cluster {
    domain: DomainId,
    kind: GroupKind,
    plain_bytes: usize,
    chunks: u32,
}

/// Gathers chunks and says how to lay them.
pub struct Planner {
    limits: PlanLimits,
    index: MatchIndex,
    chunks: Vec<Planned>,
    clusters: Vec<Cluster>,
}

impl Planner {
    /// Returns an empty plan.
    ///
    /// # Panics
    /// If `limits` exceed what a plan may hold, or a block could not hold the longest chunk.
    #[must_use]
    pub fn new(limits: PlanLimits) -> Planner {
        let block_plain_bytes = CHUNK_BYTES_MAX..=BLOCK_PLAIN_BYTES_MAX;
        assert!(block_plain_bytes.contains(&limits.block_plain_bytes), "invariant: a block holds the longest chunk");
        assert!(
            limits.chunks <= PLAN_CHUNKS_MAX && limits.match_entries <= MATCH_ENTRIES_MAX,
            "invariant: memory is bounded"
        );
        Planner { limits, index: MatchIndex::new(limits.match_entries), chunks: Vec::new(), clusters: Vec::new() }
    }

    /// Takes the next chunk, written before all that were taken so far, and returns its number: 0, 1, 2, …
    ///
    /// Cost: a look-up in the match index for each super-feature.
    ///
    /// # Errors
    /// [`PlanError`]; the plan is as before.
    pub fn push(&mut self, chunk: PlanChunk) -> Result<u32, PlanError> {
        let PlanLimits { block_plain_bytes, chunks: chunks_max, .. } = self.limits;
        let PlanChunk { domain, plain_bytes, features } = chunk;
        if self.chunks.len() == chunks_max {
            return Err(PlanError::Full { chunks_max });
        }
        if plain_bytes as usize > block_plain_bytes {
            return Err(PlanError::TooLong { plain_bytes, block_plain_bytes });
        }
        let number = self.chunks.len() as u32;
        let found = features.and_then(|features| self.alike(&features, domain, plain_bytes, number));
        let cluster = found.unwrap_or_else(|| {
            let kind = if features.is_some() { GroupKind::Compressed } else { GroupKind::Plain };
            self.clusters.push(Cluster { domain, kind, plain_bytes: 0, chunks: 0 });
            (self.clusters.len() - 1) as u32
        });
        let joined = &mut self.clusters[cluster as usize];
        self.chunks.push(Planned { cluster, rank: joined.chunks });
        joined.plain_bytes += plain_bytes as usize;
        joined.chunks += 1;
        Ok(number)
    }

    /// The cluster with room that has most super-features in common, of several the one found first; enters the chunk
    /// under all of them.
    fn alike(&mut self, features: &Features, domain: DomainId, plain_bytes: u32, number: u32) -> Option<u32> {
        let mut votes = [(NONE, 0u32); super::features::SUPERS];
        for super_feature in features.supers() {
            let key = (mix(u64::from(super_feature) ^ mix(domain.0)) as u32).max(1);
            let Some(found) = self.index.replace(key, number) else { continue };
            let cluster = self.chunks.get(found as usize).map_or(NONE, |chunk| chunk.cluster);
            if let Some(vote) = votes.iter_mut().find(|vote| vote.0 == cluster || vote.1 == 0) {
                *vote = (cluster, vote.1 + 1);
            }
        }
        let mut best: Option<(u32, u32)> = None;
        for (cluster, count) in votes {
            let Some(found) = self.clusters.get(cluster as usize) else { continue };
            let fits = found.plain_bytes + plain_bytes as usize <= self.limits.block_plain_bytes
                && (found.chunks as usize) < BLOCK_CHUNKS_MAX
                && found.domain == domain;
            if fits && best.is_none_or(|best| count > best.1) {
                best = Some((cluster, count));
            }
        }
        best.map(|best| best.0)
    }

    /// Returns the groups, to be written in this order.
    #[must_use]
    pub fn finish(self) -> Vec<Group> {
        let Planner { limits, chunks, clusters, .. } = self;
        // Clusters in the order of their newest chunks, next to each other in a block while they fit.
        let mut blocks: Vec<Group> = Vec::new();
        let mut block_of = Vec::with_capacity(clusters.len());
        let (mut bytes, mut count, mut open) = (0, 0, None);
        for cluster in &clusters {
            let (more_bytes, more) = (bytes + cluster.plain_bytes, count + cluster.chunks as usize);
            let fits = open == Some((cluster.domain, GroupKind::Compressed))
                && cluster.kind == GroupKind::Compressed
                && more_bytes <= limits.block_plain_bytes
                && more <= BLOCK_CHUNKS_MAX;
            (bytes, count) = if fits { (more_bytes, more) } else { (cluster.plain_bytes, cluster.chunks as usize) };
            if !fits {
                open = Some((cluster.domain, cluster.kind));
                blocks.push(Group { kind: cluster.kind, chunks: Vec::new() });
            }
            block_of.push(blocks.len() - 1);
        }
        // From the first written to the last: what lies together is read forward.
        for (number, chunk) in chunks.iter().enumerate().rev() {
            blocks[block_of[chunk.cluster as usize]].chunks.push(number as u32);
        }
        for block in &mut blocks {
            block.chunks.sort_by_key(|number| chunks[*number as usize].rank);
        }
        blocks.reverse();
        blocks
    }
}
