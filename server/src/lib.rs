//! The REST interface over a [`node::Node`].
//!
//! Read it in this order:
//!
//! * [`App`] (`rest`): a request → its route → its handler → a response. One small file per group of calls.
//! * `rest::error`: what each refusal looks like from outside, as one table.
//! * [`connection`]: hyper on the core's executor, and `activity`, `pace`, `wire`: clients that keep it waiting.
//! * `admission`: who is served when there is too much to do; [`drain`]: how a core stops.
//! * [`Peer`]: what the cores of one server ask of each other; `metrics`: what is counted.
//!
//! Everything here is generic over [`proto::port::Disk`] and reaches time and tasks through [`proto::port`]. The binary
//! `dfsd` (`bin/dfsd`) binds it to the real world: data directories, keys, sockets and signals.
//!
//! Invariants:
//!
//! * A body is never held in whole: uploads are handed on frame by frame, downloads are read as they are sent.
//! * Whatever clients do, memory is bounded: connections, requests, uploads and downloads have maxima, and who keeps the
//!   server waiting is sent away.
//! * A success is answered only after the node said that the change is durable.
//! * A body that cannot be sent to its end breaks the connection: a short answer never looks complete.

/// Writes a line to standard error. Unlike `eprintln!` it goes on if that fails: a full disk under the log, or a reader of it
/// that died, is no reason for a server to end.
#[macro_export]
macro_rules! report {
    ($($line:tt)*) => {{
        use ::std::io::Write as _;
        let _ = ::std::writeln!(::std::io::stderr(), $($line)*);
    }};
}

mod activity;
mod admission;
pub mod connection;
pub mod drain;
mod metrics;
mod pace;
mod peer;
mod rest;
#[cfg(test)]
mod testing;
mod wire;

pub use peer::Peer;
pub use rest::{App, BodyError, ResponseBody, Token};
