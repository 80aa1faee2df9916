//! The chunk index of one core: from a chunk's id to where it lies.
//!
//! The index is derived: everything in it can be rebuilt from the segments, and for a writer a missing entry costs no
//! more than a duplicate. It is therefore never the last word: ids are truncated to 96 bits, so a candidate is an
//! answer only after all 32 bytes matched in the row's table.
//!
//! ```text
//!  Index ─ Partition, one for each virtual shard of the core ─ Group ─ Bucket of 32 slots, 20 bytes each
//!    │       linear hashing: one group splits at a time         │        fingerprints first, in one cache line
//!    └ SegmentNumbers: 22 bits for a segment                    └ up to 13 buckets of the core's Buckets
//! ```
//!
//! A chunk costs less than 24 bytes of memory at every size from 100,000 chunks up, everything included; the reasons
//! and measurements are in `docs/rfcs/0003-index-entry.md`. Read in this order: [`Index`], `key`, `slot`, `bucket`,
//! `group`, `partition`; then `page` and `checkpoint`, which save the index and load it, and `sweep`, which finds garbage.

mod bucket;
mod checkpoint;
mod group;
mod index;
mod key;
mod page;
mod partition;
mod segments;
mod slot;
mod sweep;

pub use checkpoint::{ExportCursor, ImportStats};
pub use index::{Coverage, Index, Lookup};
pub use page::{PAGE_BYTES_MAX, PAGE_BYTES_MIN, PageError, page_shard};
pub use sweep::{STALE_AGE, StaleCursor};
