//! One core's data: its open segments, the rows it writes, the blocks it reads, and its part of the index.
//!
//! A reading guide:
//!
//! * [`store`]: the whole in one type: "is this chunk here?", "store it", "read it".
//! * [`writer`]: gathers blocks into rows and makes them durable; two lanes, each with a segment of its own.
//! * [`row`]: the layout of a row: blocks to columns, parity, checksums, sealing. Pure.
//! * [`segment`]: an open segment (append, seal) and a known segment (read).
//! * [`recovery`]: what a segment holds, believed only as far as it proves itself.
//! * [`files`] and [`recent`]: the bounded caches of open files and row tables.
//! * [`superblock`]: who a device is, and the incarnation that makes segment ids unique.
//!
//! Invariants:
//!
//! * A row number is consumed when sealing begins. A segment with a failed or unfinished write takes no more appends.
//! * A chunk enters the index only after every piece of its row is durable.
//! * A hit is an answer only after all 32 bytes of the id matched in the row's table.

pub mod error;
pub mod files;
pub mod recent;
pub mod recovery;
pub mod row;
pub mod segment;
pub mod store;
pub mod superblock;
mod wait;
pub mod writer;

pub use error::{ReadError, RecoverError, SegmentError, StoreError};
pub use segment::{Member, SegmentLog};
pub use store::{Store, StoreOptions, StoreStats, Stored};
