//! What chunks take, counted.

use super::DurableChunk;

/// How much the owners know of.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Volume {
    /// Distinct chunks.
    pub chunks: u64,
    /// Their plain bytes.
    pub plain_bytes: u64,
    /// Their bytes after compression.
    pub stored_bytes: u64,
    /// Bytes that the compression of those saves that share a block with others.
    pub similarity_bytes: u64,
}

impl Volume {
    pub(crate) fn of(chunk: &DurableChunk) -> Volume {
        Volume::of_chunk(chunk.plain_bytes, chunk.stored_bytes, chunk.is_shared)
    }

    /// What one chunk counts.
    #[must_use]
    pub fn of_chunk(plain_bytes: u32, stored_bytes: u32, is_shared: bool) -> Volume {
        let (plain_bytes, stored_bytes) = (u64::from(plain_bytes), u64::from(stored_bytes));
        let similarity_bytes = if is_shared { plain_bytes.wrapping_sub(stored_bytes) } else { 0 };
        Volume { chunks: 1, plain_bytes, stored_bytes, similarity_bytes }
    }

    pub(super) fn without(self, other: Volume) -> Volume {
        Volume {
            chunks: self.chunks.wrapping_sub(other.chunks),
            plain_bytes: self.plain_bytes.wrapping_sub(other.plain_bytes),
            stored_bytes: self.stored_bytes.wrapping_sub(other.stored_bytes),
            similarity_bytes: self.similarity_bytes.wrapping_sub(other.similarity_bytes),
        }
    }
}

/// A sum of volumes, some of which were less than nothing; 0 if damage beyond what is remembered made it so.
pub(crate) fn at_least_nothing(sum: u64) -> u64 {
    u64::try_from(sum as i64).unwrap_or(0)
}

impl std::ops::AddAssign for Volume {
    fn add_assign(&mut self, other: Volume) {
        self.chunks = self.chunks.wrapping_add(other.chunks);
        self.plain_bytes = self.plain_bytes.wrapping_add(other.plain_bytes);
        self.stored_bytes = self.stored_bytes.wrapping_add(other.stored_bytes);
        self.similarity_bytes = self.similarity_bytes.wrapping_add(other.similarity_bytes);
    }
}
