//! Production code under seeded faults: a simulator that owns time, tasks, randomness and disks, and a judge.
//!
//! Everything above the ports of `proto::port` runs here unchanged, on one thread, with every source of chance drawn
//! from one seed. The same seed gives the same run to the last disk operation, so a failure is replayed by its number:
//!
//! ```text
//!   cargo run --release -p chaos --bin swarm -- --first-seed 4711 --seeds 1
//! ```
//!
//! A reading guide:
//!
//! * [`sim`]: the world. Tasks, time and keys from a seed; disks that lose, at a crash, what was not synced.
//! * [`oracle`]: the judge. Every state that the node may be in, given what its clients were told.
//! * [`workload`]: the clients. What they do next, and what they check at once.
//! * [`invariants`]: what must hold, one promise for each file; [`verify`] walks over a node at rest and checks them.
//! * [`harness`]: one seed from beginning to end: starts, faults, crashes. Read it first.
//!
//! The same judge, for a real server:
//!
//! * [`faultfs`]: a file system for real processes that fails, fills up, hangs and loses power.
//! * [`nemesis`]: a real `dfsd` on it, killed, stopped and paused, with clients over HTTP.
//!
//! `src/bin/swarm` runs seeds by the thousand; `tests/simulation.rs` runs a few dozen of them, and proves with
//! disks that lie that the judge notices.

pub mod faultfs;
pub mod harness;
pub mod invariants;
pub mod nemesis;
pub mod oracle;
pub mod sim;
pub mod verify;
pub mod workload;
