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

/// Chunks of one plan: 32 GiB of plain bytes at the usual size, in at most 48 MiB of memory beside the match index.
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

/// The block to which clusters are being added.
struct Open {
    block: usize,
    domain: DomainId,
    plain_bytes: usize,
    chunks: u32,
}

impl Open {
    fn takes(&self, cluster: &Cluster, block_plain_bytes: usize) -> bool {
        cluster.kind == GroupKind::Compressed
            && cluster.domain == self.domain
            && self.plain_bytes + cluster.plain_bytes <= block_plain_bytes
            && (self.chunks + cluster.chunks) as usize <= BLOCK_CHUNKS_MAX
    }
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
        let mut open: Option<Open> = None;
        for cluster in &clusters {
            let block = match &mut open {
                Some(open) if open.takes(cluster, limits.block_plain_bytes) => open.block,
                _ => {
                    blocks.push(Group { kind: cluster.kind, chunks: Vec::new() });
                    blocks.len() - 1
                }
            };
            if cluster.kind == GroupKind::Compressed {
                let before = open.take().filter(|open| open.block == block);
                let (plain_bytes, chunks) = before.map_or((0, 0), |open| (open.plain_bytes, open.chunks));
                let plain_bytes = plain_bytes + cluster.plain_bytes;
                open = Some(Open { block, domain: cluster.domain, plain_bytes, chunks: chunks + cluster.chunks });
            }
            block_of.push(block as u32);
        }
        // From the first written to the last: what lies together is read forward.
        for (number, chunk) in chunks.iter().enumerate().rev() {
            blocks[block_of[chunk.cluster as usize] as usize].chunks.push(number as u32);
        }
        for block in &mut blocks {
            block.chunks.sort_by_key(|number| chunks[*number as usize].rank);
        }
        blocks.reverse();
        blocks
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cut::testing::noise;
    use crate::similar::features;
    use proptest::prelude::*;

    const LIMITS: PlanLimits = PlanLimits { block_plain_bytes: 256 << 10, chunks: 1000, match_entries: 1 << 12 };

    fn chunk(plain: &[u8]) -> PlanChunk {
        PlanChunk { domain: DomainId(1), plain_bytes: plain.len() as u32, features: Some(features(plain)) }
    }

    fn groups(limits: PlanLimits, chunks: impl IntoIterator<Item = PlanChunk>) -> Vec<Group> {
        let mut planner = Planner::new(limits);
        for (number, chunk) in chunks.into_iter().enumerate() {
            assert_eq!(planner.push(chunk), Ok(number as u32));
        }
        planner.finish()
    }

    fn compressed(chunks: &[u32]) -> Group {
        Group { kind: GroupKind::Compressed, chunks: chunks.to_vec() }
    }

    /// Version `version` of file `seed`, alike to its other versions.
    fn version(seed: u64, version: u8) -> Vec<u8> {
        let mut bytes = noise(seed, 60_000);
        let at = 7000 * usize::from(version);
        bytes[at..at + 100].fill(version);
        bytes
    }

    #[test]
    fn new_chunks_lie_as_they_were_written() {
        // Ten chunks, the last written comes first: four of them fill a block.
        let plan = groups(LIMITS, (0..10).map(|seed| chunk(&noise(seed, 60_000))));
        assert_eq!(plan, [compressed(&[9, 8]), compressed(&[7, 6, 5, 4]), compressed(&[3, 2, 1, 0])]);
    }

    #[test]
    fn versions_lie_together_and_the_newest_come_first() {
        // Version 2 of the files 9 and 8, then version 1, then version 0; others were written between them.
        let mut written = Vec::new();
        for number in (0..3).rev() {
            written.extend([chunk(&version(9, number)), chunk(&version(8, number))]);
            written.extend((0..10).map(|seed| chunk(&noise(100 + seed * 3 + u64::from(number), 60_000))));
        }
        let limits = PlanLimits { block_plain_bytes: 512 << 10, ..LIMITS };
        let plan = groups(limits, written);
        let block = plan.iter().find(|block| block.chunks.contains(&0)).unwrap();
        assert_eq!(block.chunks[2..], [1, 0, 13, 12, 25, 24], "{block:?}");
    }

    #[test]
    fn a_cluster_that_fills_a_block_is_followed_by_another() {
        let plan = groups(LIMITS, (0..6).map(|number| chunk(&version(5, number))));
        assert_eq!(plan, [compressed(&[4, 5]), compressed(&[0, 1, 2, 3])]);
    }

    #[test]
    fn a_domain_sees_nothing_of_another() {
        let of = |domain, number| PlanChunk { domain: DomainId(domain), ..chunk(&version(5, number)) };
        let plan = groups(LIMITS, [of(1, 0), of(2, 1), of(1, 2), of(2, 3)]);
        assert_eq!(plan, [compressed(&[1, 3]), compressed(&[0, 2])]);
    }

    #[test]
    fn the_incompressible_are_alone_and_do_not_part_the_others() {
        let plain = PlanChunk { features: None, ..chunk(b"12345678") };
        let plan = groups(LIMITS, [chunk(&noise(1, 50_000)), plain, chunk(&noise(2, 50_000)), plain]);
        let alone = |number| Group { kind: GroupKind::Plain, chunks: vec![number] };
        assert_eq!(plan, [alone(3), alone(1), compressed(&[2, 0])]);
    }

    #[test]
    fn what_does_not_fit_is_refused_and_changes_nothing() {
        let limits = PlanLimits { block_plain_bytes: CHUNK_BYTES_MAX, chunks: 2, ..LIMITS };
        let mut planner = Planner::new(limits);
        let long = PlanChunk { plain_bytes: CHUNK_BYTES_MAX as u32 + 1, ..chunk(b"") };
        let too_long = PlanError::TooLong { plain_bytes: long.plain_bytes, block_plain_bytes: CHUNK_BYTES_MAX };
        assert_eq!(planner.push(long), Err(too_long));
        assert_eq!((planner.push(chunk(b"a")), planner.push(chunk(b"b"))), (Ok(0), Ok(1)));
        assert_eq!(planner.push(chunk(b"c")), Err(PlanError::Full { chunks_max: 2 }));
        assert_eq!(planner.finish(), [compressed(&[1, 0])]);
    }

    fn any_chunk() -> impl Strategy<Value = PlanChunk> {
        // Few seeds, so that many chunks are alike.
        (0u64..12, 0u8..3, 0u64..3, 1u32..CHUNK_BYTES_MAX as u32, any::<bool>()).prop_map(
            |(seed, number, domain, plain_bytes, is_compressible)| {
                let mut bytes = noise(seed, 4000);
                bytes[usize::from(number) * 500..][..9].fill(number);
                let features = (is_compressible || number > 0).then(|| features(&bytes));
                PlanChunk { domain: DomainId(domain), plain_bytes, features }
            },
        )
    }

    proptest! {
        #[test]
        fn every_chunk_is_in_one_group_and_no_group_breaks_a_rule(
            chunks in prop::collection::vec(any_chunk(), 0..120),
            block_plain_bytes in CHUNK_BYTES_MAX..BLOCK_PLAIN_BYTES_MAX,
            match_entries in 1usize..300,
        ) {
            let limits = PlanLimits { block_plain_bytes, chunks: 120, match_entries };
            let plan = groups(limits, chunks.iter().copied());
            let mut numbers: Vec<u32> = plan.iter().flat_map(|group| group.chunks.iter().copied()).collect();
            numbers.sort_unstable();
            prop_assert_eq!(numbers, (0..chunks.len() as u32).collect::<Vec<_>>());
            for group in &plan {
                let members: Vec<PlanChunk> = group.chunks.iter().map(|number| chunks[*number as usize]).collect();
                prop_assert!(members.iter().map(|chunk| chunk.plain_bytes as usize).sum::<usize>() <= block_plain_bytes);
                prop_assert!(members.iter().all(|chunk| chunk.domain == members[0].domain));
                let is_plain = group.kind == GroupKind::Plain;
                prop_assert!(members.iter().all(|chunk| chunk.features.is_none() == is_plain));
                prop_assert!(!is_plain || members.len() == 1);
            }
            prop_assert_eq!(groups(limits, chunks), plan, "the same chunks give the same plan");
        }
    }
}
