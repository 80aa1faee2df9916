//! Checks the protocol of garbage collection: that it holds in each world, and that no planted mistake goes unnoticed.

mod holds;
mod mistakes;
mod worlds;
