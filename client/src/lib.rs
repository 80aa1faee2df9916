//! Blocking REST client: what the `dfs` command and other programs use to talk to `dfsd`.
//!
//! Read it in this order:
//!
//! * [`Client`]: one method per operation.
//! * [`Upload`] and [`Download`]: bytes in and out, streamed; neither holds a file in memory.
//! * [`ClientError`]: one enum whose variants tell the caller what to do.
//! * `transport`: one request with its retries; `session`: why a repeated request is harmless.
//!
//! Invariants
//!
//! * A call that changes something carries one `(client, sequence)` pair over all its attempts, so that a repetition
//!   after a lost connection gets the first answer instead of acting twice.
//! * A download never ends early in silence: it delivers exactly the promised bytes of exactly one version, or fails.
//! * What the server sends is checked before it is believed: names, lengths, order of listings, sizes of answers.
//! * Redirects and proxies are not followed: they would carry the token to a stranger.

mod attributes;
mod client;
mod download;
mod error;
mod listing;
mod options;
mod session;
pub mod time;
mod transport;
mod upload;
mod url;

pub use attributes::{Attributes, Head};
pub use client::{Client, Existing, Removal, Watch};
pub use download::{ByteRange, Download};
pub use error::ClientError;
pub use listing::{Child, Children};
pub use options::{ClientOptions, DEFAULT_ENDPOINT, RetryPolicy};
pub use upload::Upload;
