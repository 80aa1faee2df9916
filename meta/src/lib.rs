//! The metadata service: names, versions, segments and dedup domains.
//!
//! Read it in this order:
//!
//! * [`command`]: what can be asked and answered; [`manifest`]: what a long file's content is a tree of.
//! * [`exec()`]: the one pure function that applies a command. No clock, no randomness, no I/O: the same commands make
//!   the same bytes of state, whoever runs them.
//! * [`keys`] and [`record`]: what the state is made of; [`txn`]: the ordered store that it lies in.
//! * [`retention`]: which earlier versions of files stay.
//! * [`Solo`]: the embedded backend, a sealed write-ahead log and snapshots over one disk.
//! * [`View`], for lookups; [`OfflineMeta`] and [`Pair`], for checks of a store that nobody serves.
//!
//! Invariants:
//!
//! * A command is applied only after it is durable, and answered only after it is applied; so nothing that could still
//!   be lost is ever visible, and whoever got an answer reads its effect.
//! * A command that fails changes nothing but its client's exactly-once window.

mod codec;
pub mod command;
pub mod exec;
pub mod keys;
pub mod manifest;
pub mod pair;
pub mod record;
pub mod retention;
mod solo;
mod state;
#[cfg(test)]
mod testing;
pub mod txn;
pub mod view;

pub use command::{Attributes, Command, Condition, Content, Limit, MetaError, Place, Response, Session};
pub use exec::exec;
pub use manifest::{ManifestEntry, decode_page, encode_page};
pub use pair::Pair;
pub use record::{
    Change, Counters, Detail, DomainRecord, Event, IndexCheckpoint, Inode, Past, SegmentRecord, SegmentState,
};
pub use retention::{InForce, Retention};
pub use solo::{
    Damage, LogBatch, LogEnd, MetaFile, MetaLoad, OfflineMeta, OpenError, ProposeError, Remark, SnapshotError,
    SnapshotFramePairs, Solo, SoloOptions,
};
pub use view::{EventSpan, Found, ManifestsCursor, View};
