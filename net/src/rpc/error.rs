//! Why a call has no answer.

use proto::limits::{RPC_SLOTS, RPC_WAITING_MAX};
use proto::port::PeerId;

use super::frame::RPC_BODY_BYTES_MAX;

/// Whether a call that has no answer was executed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fate {
    /// It was not, and never will be.
    NotExecuted,
    /// It was executed once, is executed now, or will not be: only the service can tell.
    Unknown,
}

/// A call has no answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CallError {
    /// Nothing came in time: the peer is slow, gone, half open or beyond a partition. Call again, or another.
    #[error("{to} did not answer in time")]
    NoAnswer {
        /// Who was called.
        to: PeerId,
        /// Whether it may have been executed.
        fate: Fate,
    },
    /// The peer restarted after it was asked, and no longer knows. Call again, under the same key of the service.
    #[error("{to} restarted before it answered")]
    Restarted {
        /// Who was called.
        to: PeerId,
    },
    /// It was executed, but the answer was lost and is no longer kept. Ask the service for what came of it.
    #[error("{to} executed the call, but no longer has the answer")]
    Forgotten {
        /// Who was called.
        to: PeerId,
    },
    /// Too many calls wait for this peer. Back off.
    #[error("{RPC_SLOTS} calls to {to} are under way and {RPC_WAITING_MAX} wait")]
    Busy {
        /// Who was called.
        to: PeerId,
    },
    /// Nobody has this number: refresh the membership.
    #[error("{to} is not known")]
    UnknownPeer {
        /// Who was called.
        to: PeerId,
    },
    /// Split the request.
    #[error("a request of {bytes} bytes is longer than {RPC_BODY_BYTES_MAX}")]
    TooLong {
        /// Bytes of the request.
        bytes: usize,
    },
}

impl CallError {
    /// Whether the call may have been executed.
    #[must_use]
    pub fn fate(&self) -> Fate {
        match self {
            CallError::NoAnswer { fate, .. } => *fate,
            CallError::Restarted { .. } | CallError::Forgotten { .. } => Fate::Unknown,
            CallError::Busy { .. } | CallError::UnknownPeer { .. } | CallError::TooLong { .. } => Fate::NotExecuted,
        }
    }
}
