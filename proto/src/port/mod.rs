//! The seams between our code and the world.
//!
//! Everything that touches the world is behind one of these traits: production binds them to io_uring, monoio and the
//! kernel's random numbers, the simulator in `chaos` binds them to a seed. Code above the ports is ordinary `!Send`
//! async Rust that cannot tell the difference.
//!
//! * [`Disk`] and [`DiskFile`]: durable bytes, in sector-aligned [`AlignedBuf`]s; [`Deadline`]: a disk that answers in
//!   time.
//! * [`Wire`]: best-effort messages between numbered peers.
//! * [`Cipher`] and [`KeyProvider`]: sealing, and the keys that wrap the keys on disk.
//! * [`Clock`], [`Entropy`] and [`Spawn`]: reached through the thread's current [`Runtime`], see [`runtime`].

mod buffer;
mod deadline;
mod disk;
pub mod runtime;
mod seal;
mod wire;

pub use buffer::{AlignedBuf, BufferPool, Page};
pub use deadline::{Deadline, DeadlineFile};
pub use disk::{Disk, DiskFile, DiskSpace};
pub use runtime::{Clock, Entropy, LocalFuture, Runtime, Spawn};
pub use seal::{Cipher, KeyError, KeyProvider, OpenError, WrappedKey};
pub use wire::{Incarnation, Peer, PeerId, Received, SendError, Wire};
