//! Which chunks are alike, and which of them shall lie together in warm blocks.
//!
//! ```text
//!   chunk ─▶ features ─▶ [owner: the core that regroups it] ─▶ planner ─▶ groups ─▶ compress_block, one block each
//! ```
//!
//! * [`mod@features`]: a few numbers per chunk; alike chunks have some of them in common.
//! * [`plan`]: groups of chunks, from their features and lengths alone.
//! * `index`: where the planner looks for the features of earlier chunks, in bounded memory.
//!
//! Plain data in, plain data out: nothing here reads a chunk twice, keeps one, or does I/O. The same chunks in the same
//! order give the same groups on every machine.

pub mod features;
mod index;
pub mod plan;

pub use features::{Features, features};
pub use plan::{Group, GroupKind, PlanChunk, PlanError, PlanLimits, Planner};
