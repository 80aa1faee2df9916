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

use crate::command::{Response, Session};
use crate::keys;
use crate::record::{ClientWindow, Number, SessionClock};
use crate::txn::{KvTxn, load, own, store};

/// What to do with a request.
pub(super) enum Admission {
    /// Apply it; then remember its answer in this window, if the client has one.
    New(Option<ClientWindow>),
    /// It was applied before; this was its answer.
    Answered(Response),
    /// It is too old to tell.
    Stale { window_from: u64 },
}

/// Decides what to do with a request; changes nothing.
pub(super) fn admit(txn: &impl KvTxn, session: Session) -> Admission {
    let window: Option<ClientWindow> = load(txn, &keys::client(session.client));
    if let Some(window) = &window
        && let Ok(at) = window.results.binary_search_by_key(&session.sequence, |(sequence, _)| *sequence)
    {
        return Admission::Answered(window.results[at].1.clone());
    }
    let window_from = window.as_ref().map_or(0, |window| window.window_from).max(session.acked_below);
    if session.sequence < window_from { Admission::Stale { window_from } } else { Admission::New(window) }
}

/// Remembers the answer to a request that was admitted with `window`.
pub(super) fn remember(txn: &mut impl KvTxn, session: Session, window: Option<ClientWindow>, response: Response) {
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
    window.window_from = window.window_from.max(session.acked_below);
    window.results.retain(|(sequence, _)| *sequence >= window.window_from);
    let at = window.results.partition_point(|(sequence, _)| *sequence < session.sequence);
    window.results.insert(at, (session.sequence, response));
    if window.results.len() > SESSION_RESULTS_MAX {
        let (forgotten, _) = window.results.remove(0);
        window.window_from = forgotten + 1;
    }
    store(txn, keys::touch(window.touch), &Number(session.client));
    store(txn, keys::client(session.client), &window);
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
