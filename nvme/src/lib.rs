//! The storage ring: [`proto::port::Disk`] over a raw io_uring, beside the executor of one core.
//!
//! One [`Ring`] per core thread; any number of [`RingDisk`]s (data directories) share it. Nothing here is `Send`.
//!
//! Read in this order:
//! * `operation`: one operation as a state machine, from what is asked to what the kernel answered. Pure.
//! * `ring`: submission, completion, and why memory is safe while the kernel works on it.
//! * `setup`: what the kernel offers and what is done without. `buffers`: the pool of registered memory.
//! * `disk`, `file`: the ports.
//! * `permits`: the bound on operations in flight. `wake`: the one place that knows the executor's own files.
//!
//! # What blocks the core
//! Reads, writes, syncs, allocation, punching, opening, removing and renaming go through the ring and never block.
//! Plain system calls are left for what the ring cannot do or what is rare: making a missing directory, listing a
//! directory, asking for free space or a file's length (both answered from memory), closing a file, and truncating on
//! kernels before 6.9.

mod buffers;
mod disk;
mod error;
mod file;
mod operation;
mod permits;
mod ring;
mod setup;
mod wake;

pub use buffers::BufferClass;
pub use disk::RingDisk;
pub use error::{RingError, classify};
pub use file::RingFile;
pub use ring::Ring;
pub use setup::RingOptions;
