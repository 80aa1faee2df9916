//! One core's data: its open segments, the rows it writes, the blocks it reads, and the chunks that it owns.
//!
//! A reading guide:
//!
//! * [`store`]: the whole in one type: put, read, and how cores ask each other.
//! * `owner`: the index entries of the chunks that this core owns, and who is writing which.
//! * `read`: one I/O for a chunk; row tables, which confirm duplicates; `known`: the chunks of tables read lately.
//! * `writer`: gathers blocks into rows and makes them durable; two lanes, each with a segment of its own.
//! * [`row`]: the layout of a row: blocks to columns, parity, checksums, sealing. Pure.
//! * [`segment`]: an open segment (append, seal) and a known segment (read); [`rows`]: where its rows lie; `room`: what is
//!   kept free for whom.
//! * `open`: new segments, and recovery over all segments; [`recovery`]: what one segment holds, believed only as far
//!   as it proves itself.
//! * `checkpoint`: what a checkpoint of the index takes from each core and gives back.
//! * `sweep`: garbage collection at the owners: marks, pins, and what is condemned; `unused`: segments that nothing names;
//!   `lease`: what is open.
//! * [`examine`]: what a segment file holds, looked at piece by piece and never changed.
//! * [`files`] and [`recent`]: bounded caches.
//! * [`superblock`]: who a device is, and the incarnation that makes segment ids unique.
//!
//! Invariants:
//!
//! * A row number is consumed when sealing begins. A segment with a failed or unfinished write takes no more appends.
//! * A chunk enters the index only after every piece of its row is durable.
//! * A hit is an answer only after all 32 bytes of the id matched in the row's table.
//! * Whoever claimed a chunk inserts or abandons it, whatever becomes of the request.

mod blocks;
mod checkpoint;
pub mod compact;
pub mod error;
pub mod examine;
pub mod files;
mod known;
mod lease;
mod open;
mod owner;
mod read;
pub mod recent;
pub mod recovery;
mod room;
pub mod row;
pub mod rows;
pub mod segment;
pub mod store;
pub mod superblock;
mod sweep;
mod unused;
mod wait;
mod writer;

pub use checkpoint::{PageCursor, Settled};
pub use error::{LogError, ReadError, RecoverError, SegmentError, StoreError};
pub use lease::{Holder, Lease, LeaseCursor, Root};
pub use open::{METADATA_RESERVE_BYTES, Recovered};
pub use owner::{OTHER_COPIES_MAX as DAMAGED_CHUNKS_MAX, Volume};
pub use room::Reserved;
pub use segment::{Member, SegmentLog};
pub use store::{Store, StoreLoad, StoreOptions, StoreStats, Stored, StoredBatch, Underway};
pub use sweep::{Reference, Swept};
pub use unused::UnusedSegment;
