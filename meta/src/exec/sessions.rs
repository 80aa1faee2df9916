//! The exactly-once windows of clients.
//!
//! ```text
//!   refused as stale │ remembered answers, at most SESSION_RESULTS_MAX │ new
//!   ─────────────────┼──────────────────────────────────────────────────┼────▶ sequence
//!               window_from
//! ```
//!
//! The window starts where the client said that it has all answers below, or above what had to be forgotten for want
//! of room. At most `SESSION_CLIENTS_MAX` clients are remembered; the one whose last new request is longest ago, by a
//! clock that counts such requests, leaves first.

use proto::limits::{SESSION_CLIENTS_MAX, SESSION_RESULTS_MAX};

use super::Admission;
use crate::command::{MetaError, Response};
use crate::keys;
use crate::record::{ClientWindow, Number, SessionClock};
use crate::txn::{KvTxn, load, own, store};

/// Where the answer to a request is remembered.
pub(super) struct Place {
    client: u64,
    sequence: u64,
    acked_below: u64,
    /// `None` for the first request of a client.
    window: Option<ClientWindow>,
}

/// Decides what to do with a request; changes nothing.
pub(super) fn admit(txn: &impl KvTxn, client: u64, sequence: u64, acked_below: u64) -> Admission {
    let window: Option<ClientWindow> = load(txn, &keys::client(client));
    if let Some(window) = &window
        && let Ok(at) = window.results.binary_search_by_key(&sequence, |(sequence, _)| *sequence)
    {
        return Admission::Answered(window.results[at].1.clone());
    }
    let window_from = window.as_ref().map_or(0, |window| window.window_from).max(acked_below);
    if sequence < window_from {
        return Admission::Refused(MetaError::StaleSequence { window_from });
    }
    Admission::New(super::Place::Numbered(Place { client, sequence, acked_below, window }))
}

/// Remembers the answer to a request that was admitted to `place`.
pub(super) fn remember(txn: &mut impl KvTxn, place: Place, response: Response) {
    let Place { client, sequence, acked_below, window } = place;
    let mut clock: SessionClock = load(txn, keys::SESSION_CLOCK).unwrap_or_default();
    let mut window = match window {
        Some(window) => {
            txn.delete(&keys::touch(window.touch));
            window
        }
        None => {
            make_room(txn, &mut clock);
            clock.clients += 1;
            ClientWindow { touch: 0, window_from: 0, results: Vec::new() }
        }
    };
    clock.touches += 1;
    window.touch = clock.touches;
    window.window_from = window.window_from.max(acked_below);
    window.results.retain(|(number, _)| *number >= window.window_from);
    let at = window.results.partition_point(|(number, _)| *number < sequence);
    window.results.insert(at, (sequence, response));
    if window.results.len() > SESSION_RESULTS_MAX {
        let (forgotten, _) = window.results.remove(0);
        window.window_from = forgotten + 1;
    }
    store(txn, keys::touch(window.touch), &Number(client));
    store(txn, keys::client(client), &window);
    store(txn, keys::SESSION_CLOCK.to_vec(), &clock);
}

/// Forgets the least recently used client if there are as many as may be.
fn make_room(txn: &mut impl KvTxn, clock: &mut SessionClock) {
    if clock.clients < SESSION_CLIENTS_MAX as u64 {
        return;
    }
    let oldest = txn.range(&keys::touches()).next().map(|(key, value)| (key, own::<Number>(value).0));
    let (touch, client) = oldest.expect("invariant: every client has a touch");
    txn.delete(&touch);
    txn.delete(&keys::client(client));
    clock.clients -= 1;
}
