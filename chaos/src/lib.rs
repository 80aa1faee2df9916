//! Production code under seeded faults: a simulator that owns time, tasks, randomness and disks.
//!
//! Everything above the ports of `proto::port` runs here unchanged, on one thread, with every source of chance drawn
//! from one seed. The same seed gives the same run to the last disk operation, so a failure is replayed by its number.
//! Read [`sim`] first.

pub mod sim;
