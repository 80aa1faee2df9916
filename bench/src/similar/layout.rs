//! Chunks in warm blocks: routed, planned, compressed.

use chunk::similar::{GroupKind, PlanChunk, PlanLimits, Planner};
use chunk::warm::{BlockCompressor, Effort};
use proto::DomainId;
use proto::disk::{BlockEntry, ChunkEntry, Codec};

use super::hot::{Hot, HotChunk, Rows};
use crate::process::own_cpu;

/// What is tried.
#[derive(Clone, Copy, Debug)]
pub(super) struct Settings {
    pub(super) cores: u16,
    pub(super) block_bytes: usize,
    pub(super) level: i32,
    pub(super) is_long_distance: bool,
    pub(super) match_entries: usize,
}

/// All chunks, in blocks.
pub(super) struct Layout {
    pub(super) blocks: Vec<(BlockEntry, Vec<u8>)>,
    /// Of each chunk, its block and its ordinal there.
    pub(super) places: Vec<(usize, usize)>,
    /// Bytes of all rows.
    pub(super) stored_bytes: u64,
    pub(super) plan_seconds: f64,
    pub(super) compress_seconds: f64,
}

impl Layout {
    pub(super) fn new(hot: &Hot, settings: Settings) -> Layout {
        let mut layout = Layout {
            blocks: Vec::new(),
            places: vec![(0, 0); hot.chunks.len()],
            stored_bytes: 0,
            plan_seconds: 0.0,
            compress_seconds: 0.0,
        };
        let mut compressor =
            BlockCompressor::new(Effort { level: settings.level, is_long_distance: settings.is_long_distance });
        for core in 0..settings.cores {
            layout.add_core(hot, core, settings, &mut compressor);
        }
        layout
    }

    fn add_core(&mut self, hot: &Hot, core: u16, settings: Settings, compressor: &mut BlockCompressor) {
        let begun = own_cpu();
        let owner = |chunk: &HotChunk| chunk.features.map_or(0, |features| features.owner(settings.cores));
        let mut numbers: Vec<usize> = (0..hot.chunks.len()).filter(|at| owner(&hot.chunks[*at]) == core).collect();
        // From the last written to the first.
        numbers.reverse();
        let mut groups = Vec::new();
        for numbers in numbers.chunks(PlanLimits::default().chunks) {
            let mut planner = Planner::new(PlanLimits {
                block_plain_bytes: settings.block_bytes,
                match_entries: settings.match_entries,
                ..PlanLimits::default()
            });
            for number in numbers {
                let HotChunk { plain_bytes, features, .. } = hot.chunks[*number];
                let chunk = PlanChunk { domain: DomainId(0), plain_bytes, features };
                planner.push(chunk).expect("invariant: a plan has room for as many chunks");
            }
            let of_plan = |chunk: &u32| numbers[*chunk as usize];
            groups.extend(planner.finish().iter().map(|group| {
                let members: Vec<usize> = group.chunks.iter().map(of_plan).collect();
                (group.kind, members)
            }));
        }
        self.plan_seconds += (own_cpu() - begun).as_secs_f64();

        let mut rows = Rows::default();
        for (kind, members) in groups {
            let plains: Vec<Vec<u8>> = members.iter().map(|number| hot.chunks[*number].plain()).collect();
            let parts: Vec<&[u8]> = plains.iter().map(Vec::as_slice).collect();
            let begun = own_cpu();
            let (codec, payload) = match kind {
                GroupKind::Plain => (Codec::None, parts.concat()),
                GroupKind::Compressed => compressor.compress(&parts),
            };
            self.compress_seconds += (own_cpu() - begun).as_secs_f64();
            rows.add(members.len(), payload.len());
            let entry = |number: &usize| {
                let HotChunk { id, plain_bytes, .. } = hot.chunks[*number];
                ChunkEntry { id, plain_bytes }
            };
            for (ordinal, number) in members.iter().enumerate() {
                self.places[*number] = (self.blocks.len(), ordinal);
            }
            let chunks = members.iter().map(entry).collect();
            let entry = BlockEntry { codec, domain: DomainId(0), payload_bytes: payload.len() as u32, chunks };
            self.blocks.push((entry, payload));
        }
        self.stored_bytes += rows.bytes();
    }
}
