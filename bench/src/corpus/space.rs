//! Where the space of a data set went: what the server's counts say after it, less what they said before.

use proto::api::Stats;
use serde::Serialize;

use crate::units::human_bytes;

/// Bytes that came with a data set. A part that shrank meanwhile counts as 0.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub(crate) struct Space {
    pub(crate) logical_bytes: u64,
    pub(crate) unique_bytes: u64,
    pub(crate) duplicate_bytes: u64,
    pub(crate) compression_bytes: u64,
    pub(crate) similarity_bytes: u64,
    pub(crate) stored_bytes: u64,
    pub(crate) dead_bytes: u64,
    pub(crate) redundancy_bytes: u64,
}

impl Space {
    /// What came between `before` and `after`.
    pub(crate) fn between(before: &Stats, after: &Stats) -> Space {
        let came = |bytes: fn(&Stats) -> u64| bytes(after).saturating_sub(bytes(before));
        let logical_bytes = came(|stats| stats.logical_bytes);
        let unique_bytes = came(|stats| stats.unique_bytes);
        Space {
            logical_bytes,
            unique_bytes,
            duplicate_bytes: logical_bytes.saturating_sub(unique_bytes),
            compression_bytes: came(|stats| stats.compression_bytes),
            similarity_bytes: came(|stats| stats.similarity_bytes),
            stored_bytes: came(|stats| stats.stored_bytes),
            dead_bytes: came(|stats| stats.dead_bytes),
            redundancy_bytes: came(|stats| stats.redundancy_bytes),
        }
    }

    /// Logical to stored.
    pub(crate) fn ratio(&self) -> f64 {
        self.logical_bytes as f64 / self.stored_bytes.max(1) as f64
    }

    /// Cells of a table: the parts, and the ratio.
    pub(crate) fn cells(&self) -> [String; 6] {
        [
            human_bytes(self.duplicate_bytes),
            human_bytes(self.compression_bytes),
            human_bytes(self.similarity_bytes),
            human_bytes(self.stored_bytes),
            human_bytes(self.dead_bytes),
            format!("{:.2}", self.ratio()),
        ]
    }
}

impl std::iter::Sum for Space {
    fn sum<I: Iterator<Item = Space>>(sets: I) -> Space {
        sets.fold(Space::default(), |sum, set| Space {
            logical_bytes: sum.logical_bytes + set.logical_bytes,
            unique_bytes: sum.unique_bytes + set.unique_bytes,
            duplicate_bytes: sum.duplicate_bytes + set.duplicate_bytes,
            compression_bytes: sum.compression_bytes + set.compression_bytes,
            similarity_bytes: sum.similarity_bytes + set.similarity_bytes,
            stored_bytes: sum.stored_bytes + set.stored_bytes,
            dead_bytes: sum.dead_bytes + set.dead_bytes,
            redundancy_bytes: sum.redundancy_bytes + set.redundancy_bytes,
        })
    }
}

/// Names of [`Space::cells`].
pub(crate) const CELL_NAMES: [&str; 6] = ["duplicates", "compression", "similarity", "stored", "dead", "ratio"];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_set_is_charged_with_what_came_with_it() {
        let before =
            Stats { logical_bytes: 100, unique_bytes: 60, stored_bytes: 50, dead_bytes: 9, ..Stats::default() };
        let after =
            Stats { logical_bytes: 400, unique_bytes: 110, stored_bytes: 60, dead_bytes: 5, ..Stats::default() };
        let space = Space::between(&before, &after);
        assert_eq!(
            (space.logical_bytes, space.duplicate_bytes, space.stored_bytes, space.dead_bytes),
            (300, 250, 10, 0)
        );
        assert_eq!(space.ratio(), 30.0);
    }
}
