//! The epoch of garbage collection, and the fence behind it: one number, so that neither is ever without the other.
//!
//! The fence is the epoch before the current one. Whoever commits has asked the owners of his chunks at the fence or
//! later; the collection condemns nothing that was asked for so lately.

use crate::command::{MetaError, Response};
use crate::keys;
use crate::record::Number;
use crate::txn::{KvTxn, load, store};

/// Oldest epoch at which the chunks of a commit may have been pinned.
pub(crate) fn fence(txn: &impl KvTxn) -> u64 {
    load::<Number>(txn, keys::FENCE).unwrap_or_default().0
}

/// The current epoch; a fresh store is in epoch 1.
pub(crate) fn epoch(txn: &impl KvTxn) -> u64 {
    fence(txn) + 1
}

/// Raises the epoch, and the fence with it.
pub(super) fn raise_epoch(txn: &mut impl KvTxn, raised: u64) -> Result<Response, MetaError> {
    let current = epoch(txn);
    if raised == current + 1 {
        store(txn, keys::FENCE.to_vec(), &Number(current));
    } else if raised != current {
        return Err(MetaError::WrongEpoch { current });
    }
    Ok(Response::Epoch)
}
