//! Short numbers for segments: an entry has 32 bits for what a segment id says in 64.

use std::collections::BTreeMap;

use proto::SegmentId;

/// Segments in the order in which the index first saw them.
#[derive(Debug, Default)]
pub(crate) struct SegmentNumbers {
    segments: Vec<SegmentId>,
    numbers: BTreeMap<SegmentId, u32>,
}

impl SegmentNumbers {
    /// Returns the number of `segment`, giving it one if it has none.
    pub(crate) fn number(&mut self, segment: SegmentId) -> u32 {
        let segments = &mut self.segments;
        *self.numbers.entry(segment).or_insert_with(|| {
            segments.push(segment);
            u32::try_from(segments.len() - 1).expect("invariant: a core has fewer than 2^32 segments")
        })
    }

    /// Returns the segment that was given `number`.
    pub(crate) fn segment(&self, number: u32) -> SegmentId {
        self.segments[number as usize]
    }

    pub(crate) fn memory_bytes(&self) -> usize {
        // A B-tree node holds its pairs at two thirds on average.
        self.segments.capacity() * 8 + self.numbers.len() * 18
    }
}
