//! Exactly-once: the numbers under which the server remembers what it has answered.
//!
//! The server keeps a bounded window of results per client number. A client that had several requests on the way under
//! one number could see a slow upload fall out of that window while quick ones pass it. So each request in flight
//! borrows a session of its own: within one session, numbers only grow and at most one request is on the way.

use std::collections::hash_map::RandomState;
use std::hash::{BuildHasher, Hasher};
use std::sync::{Mutex, PoisonError};

/// One client number and its next sequence.
#[derive(Debug)]
struct Session {
    client: u64,
    next: u64,
}

/// Sessions that no request uses at the moment.
#[derive(Debug, Default)]
pub(crate) struct Sessions {
    idle: Mutex<Vec<Session>>,
}

/// A session on loan to one request; returns when dropped.
#[derive(Debug)]
pub(crate) struct Loan<'a> {
    sessions: &'a Sessions,
    session: Option<Session>,
    sequence: u64,
}

impl Sessions {
    /// Lends an idle session, or opens one, and takes its next sequence.
    pub(crate) fn lend(&self) -> Loan<'_> {
        let idle = self.idle.lock().unwrap_or_else(PoisonError::into_inner).pop();
        let mut session = idle.unwrap_or_else(|| Session { client: random(), next: 1 });
        let sequence = session.next;
        session.next += 1;
        Loan { sessions: self, session: Some(session), sequence }
    }
}

impl Loan<'_> {
    /// Value of the `x-dfs-client` header.
    pub(crate) fn client(&self) -> String {
        let session = self.session.as_ref().expect("invariant: a loan holds its session until it is dropped");
        format!("{:016x}", session.client)
    }

    /// Value of the `x-dfs-sequence` header.
    pub(crate) fn sequence(&self) -> String {
        self.sequence.to_string()
    }
}

impl Drop for Loan<'_> {
    fn drop(&mut self) {
        if let Some(session) = self.session.take() {
            self.sessions.idle.lock().unwrap_or_else(PoisonError::into_inner).push(session);
        }
    }
}

/// A number that no other client draws, from the seed that the operating system gives to hash tables.
///
/// Not fit for keys. It need only be unique: it names sessions and spreads retries in time.
pub(crate) fn random() -> u64 {
    RandomState::new().build_hasher().finish()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn requests_in_flight_never_share_a_session() {
        let sessions = Sessions::default();
        let (one, two) = (sessions.lend(), sessions.lend());
        assert_ne!(one.client(), two.client());
    }

    #[test]
    fn a_returned_session_counts_on() {
        let sessions = Sessions::default();
        let first = sessions.lend();
        let client = first.client();
        assert_eq!(first.sequence(), "1");
        drop(first);
        let second = sessions.lend();
        assert_eq!((second.client(), second.sequence()), (client, "2".to_owned()));
    }
}
