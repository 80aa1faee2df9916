//! What every part of DFS agrees on: ids, on-disk formats, ports and the shapes of the public API.
//!
//! This crate does no I/O and imports none of ours. Read it in this order:
//!
//! * [`ids`] and [`location`]: what things are called and where a chunk lies.
//! * [`disk`]: the byte layouts of everything that is durable (tables in `docs/FORMATS.md`).
//! * [`port`]: the traits behind which disks, time, randomness and tasks live, so that the code above them runs
//!   unchanged in production and under the seeded simulator.
//! * [`api`] and [`path`]: the JSON shapes of the REST interface, and what a path may look like.
//! * [`limits`]: every named maximum.
//! * [`planted`]: bugs that the simulator is tested with; no server has them.

pub mod api;
pub mod checksum;
pub mod disk;
pub mod geometry;
pub mod ids;
pub mod limits;
pub mod location;
pub mod path;
pub mod planted;
pub mod port;

pub use geometry::Geometry;
pub use ids::{
    ChunkId, ClusterId, CoreId, DeviceId, DomainId, FileId, Generation, InodeId, Lsn, RowNumber, SegmentId, SegmentTag,
    VersionNumber, VirtualShard,
};
pub use location::Location;
