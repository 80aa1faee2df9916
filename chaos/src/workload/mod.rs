//! Clients: each draws actions, carries them out on the node, and shows the oracle what it was told.

pub mod choice;
mod client;
mod collect;
pub mod data;
mod perform;
pub mod remote;
mod retain;

pub use client::{Client, run};
pub use collect::collect;
pub use retain::retain;
