//! The answers to requests whose clients chose a key for each of them (`Idempotency-Key`).
//!
//! A key stands for one request, whose fingerprint is kept with the answer: another request under the same key is
//! refused. The newest `IDEMPOTENCY_KEYS_MAX` keys are remembered; the oldest leaves first.

use proto::limits::IDEMPOTENCY_KEYS_MAX;

use super::{Admission, Place};
use crate::command::{MetaError, Response};
use crate::keys;
use crate::record::{Once, OnceClock, OnceKey};
use crate::txn::{KvTxn, load, store};

/// Decides what to do with a request; changes nothing.
pub(super) fn admit(txn: &impl KvTxn, key: [u8; 16], fingerprint: [u8; 16]) -> Admission {
    match load::<Once>(txn, &keys::once(&key)) {
        None => Admission::New(Place::Keyed { key, fingerprint }),
        Some(once) if once.fingerprint == fingerprint => Admission::Answered(once.response),
        Some(_) => Admission::Refused(MetaError::KeyReused),
    }
}

/// Remembers the answer to a request that was admitted.
pub(super) fn remember(txn: &mut impl KvTxn, key: [u8; 16], fingerprint: [u8; 16], response: Response) {
    let mut clock: OnceClock = load(txn, keys::ONCE_CLOCK).unwrap_or_default();
    if clock.next - clock.oldest == IDEMPOTENCY_KEYS_MAX {
        let order = keys::once_order(clock.oldest);
        let OnceKey(oldest) = load(txn, &order).expect("invariant: the clock knows which keys there are");
        txn.delete(&order);
        txn.delete(&keys::once(&oldest));
        clock.oldest += 1;
    }
    store(txn, keys::once(&key), &Once { fingerprint, response });
    store(txn, keys::once_order(clock.next), &OnceKey(key));
    clock.next += 1;
    store(txn, keys::ONCE_CLOCK.to_vec(), &clock);
}
