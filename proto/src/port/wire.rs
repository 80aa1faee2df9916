//! The wire port: best-effort messages between the numbered peers of a cluster.
//!
//! ```text
//!   sender ── send ─▶ queue to the peer ─▶ the world loses, repeats, delays, reorders ─▶ queue at the peer ── receive ─▶
//!                     bounded, never waited for                                         bounded, holds back the senders
//! ```
//!
//! What is asked of a binding is little, so that everything above it is tested against the worst that a network does:
//!
//! * A message arrives whole and as it was sent, or not at all. It may be lost without a word, arrive twice, late, or
//!   behind messages that were sent after it. Nothing tells the sender; whoever needs an answer asks again.
//! * [`Wire::send`] never waits. What a peer does not take is kept up to [`WIRE_QUEUE_BYTES_MAX`] for this peer alone
//!   and then refused: a slow peer costs bounded memory and delays nobody else.
//! * A receiver that does not receive holds back its senders, in the end up to their queues.
//! * Whom a message is from is certain. A start of a peer is an [`Incarnation`]: one that restarted is another
//!   conversation, and remembers nothing of the one before. Whether a message to a peer reaches the start that the
//!   sender had in mind or a later one is not promised.
//! * A broken or half-open connection is the binding's to replace. What it held is lost.
//!
//! A binding to TCP must therefore: prove who both ends are (mutual TLS) and exchange incarnations before it believes a
//! message; frame messages, and close a connection whose frames are damaged or longer than [`WIRE_MESSAGE_BYTES_MAX`];
//! keep one bounded queue per peer, and connect again, with growing pauses, on its own; drop what a dead connection
//! held; stop reading from a peer while more than [`WIRE_QUEUE_BYTES_MAX`] of its messages wait to be received; and
//! forget a message only together with its connection, so that losses stay rare. It must not retransmit, order or
//! acknowledge anything beyond what TCP does.

use std::fmt;

use bytes::Bytes;

use crate::limits::{WIRE_MESSAGE_BYTES_MAX, WIRE_QUEUE_BYTES_MAX};

/// Number of a peer: a node, or a client of nodes. Given out once by whoever keeps the membership, and never to another.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PeerId(pub u64);

impl fmt::Display for PeerId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "peer {}", self.0)
    }
}

/// One start of a peer; a later start has a greater number, and none has zero.
///
/// A node counts its starts durably, in its superblocks. A client that keeps nothing takes the time of its start.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Incarnation(pub u64);

/// Who is at the other end.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Peer {
    /// Its number.
    pub id: PeerId,
    /// Its start.
    pub incarnation: Incarnation,
}

/// A message that arrived.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Received {
    /// Who sent it.
    pub from: Peer,
    /// The bytes that were sent.
    pub message: Bytes,
}

/// A message was not taken. Nothing of it was sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SendError {
    /// The peer takes less than it is sent: wait, or send it less. Others are not affected.
    #[error("the queue to {to} is full: at most {} bytes wait for a peer", WIRE_QUEUE_BYTES_MAX)]
    QueueFull {
        /// The peer.
        to: PeerId,
    },
    /// Split the message: no binding takes one so long.
    #[error("a message of {bytes} bytes is longer than {}", WIRE_MESSAGE_BYTES_MAX)]
    TooLong {
        /// Bytes of the message.
        bytes: usize,
    },
    /// Nobody has this number, as far as is known here: refresh the membership.
    #[error("{to} is not known")]
    UnknownPeer {
        /// The number.
        to: PeerId,
    },
}

/// One peer's end of the wire. Handles are cheap to clone, and share one queue of what arrived.
#[expect(async_fn_in_trait, reason = "code above the ports is single-threaded on purpose")]
pub trait Wire: Clone + 'static {
    /// Who this end is.
    fn me(&self) -> Peer;

    /// Sends `message` to whichever start of `to` can be reached; best effort, and never waits.
    ///
    /// Errors: [`SendError`]; success promises nothing but that the message was taken.
    fn send(&self, to: PeerId, message: Bytes) -> Result<(), SendError>;

    /// Waits for the next message. Dropping the returned future loses none.
    async fn receive(&self) -> Received;
}
