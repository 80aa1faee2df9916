//! What must hold whatever goes wrong: one promise for each file, with how it is checked and what the check would miss.
//!
//! ```text
//!   while clients run   linearizable   reads   listing   nonces
//!   after each start    verify.rs: names ─▶ bytes ─▶ counters      linearizable acked_writes listing reads atomicity
//!                                                                  reachable retention counters
//!   after its clients   served: bounds counters
//!   while it is down    fsck counters damage nonces
//! ```
//!
//! Each check counts itself, so that a run says how often each promise was put to the test.

pub mod acked_writes;
pub mod atomicity;
pub mod bounds;
pub mod counters;
pub mod damage;
pub mod fsck;
pub mod linearizable;
pub mod listing;
pub mod nonces;
pub mod reachable;
pub mod reads;
pub mod retention;

use std::cell::Cell;

use node::Node;

use crate::harness::World;
use crate::oracle::Violation;
use crate::sim::WatchedDisk;

/// A promise; its documentation stands in the file of its name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[expect(missing_docs, reason = "see the files")]
pub enum Invariant {
    AckedWrites,
    Reads,
    Atomicity,
    Listing,
    Reachable,
    Counters,
    Nonces,
    Fsck,
    Bounds,
    Linearizable,
    Damage,
    Retention,
}

impl Invariant {
    /// Every promise.
    pub const ALL: [Invariant; 12] = [
        Invariant::AckedWrites,
        Invariant::Reads,
        Invariant::Atomicity,
        Invariant::Listing,
        Invariant::Reachable,
        Invariant::Counters,
        Invariant::Nonces,
        Invariant::Fsck,
        Invariant::Bounds,
        Invariant::Linearizable,
        Invariant::Damage,
        Invariant::Retention,
    ];

    /// What reports call it.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Invariant::AckedWrites => "no acknowledged write is lost",
            Invariant::Reads => "reads return the right bytes or a declared error",
            Invariant::Atomicity => "nothing unacknowledged is half visible",
            Invariant::Listing => "listings are ordered and complete",
            Invariant::Reachable => "every reachable chunk decodes",
            Invariant::Counters => "counters equal what is there",
            Invariant::Nonces => "no nonce is used twice",
            Invariant::Fsck => "the offline check is clean",
            Invariant::Bounds => "memory and queues stay in their bounds",
            Invariant::Linearizable => "histories are linearizable",
            Invariant::Damage => "damage is reported by reader and offline check alike",
            Invariant::Retention => "what is kept stays and what was let go stays gone",
        }
    }
}

/// How often each was checked, and what is remembered between two checks.
#[derive(Default)]
pub struct Judge {
    checks: [Cell<u64>; Invariant::ALL.len()],
    /// What the segments held when nobody used them.
    pub(crate) at_rest: Cell<Option<counters::Distinct>>,
    /// What the node counted when it had closed.
    pub(crate) at_close: Cell<Option<counters::Distinct>>,
}

impl Judge {
    /// Counts checks.
    pub(crate) fn count(&self, invariant: Invariant, checks: u64) {
        let count = &self.checks[invariant as usize];
        count.set(count.get() + checks);
    }

    /// How often each promise was checked.
    pub fn counts(&self) -> impl Iterator<Item = (Invariant, u64)> + '_ {
        Invariant::ALL.into_iter().map(|invariant| (invariant, self.checks[invariant as usize].get()))
    }

    /// The power went: what lay in the segments unsynced is no longer there.
    pub(crate) fn power_lost(&self) {
        self.at_rest.take();
    }
}

/// Whether a start ended with a clean close.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Closed {
    /// It did.
    Clean,
    /// It was not closed, or not to the end.
    No,
}

/// What must hold once the clients of a start have ended.
///
/// # Errors
/// The first [`Violation`].
pub async fn served(world: &World, nodes: &[Node<WatchedDisk>], closed: Closed) -> Result<(), Violation> {
    for node in nodes {
        bounds::check(world, node).await?;
    }
    if closed == Closed::Clean {
        bounds::nobody_waits(world, &nodes[0]).await?;
        counters::closed(world, &nodes[0]).await;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_promise_has_its_own_count_and_name() {
        let judge = Judge::default();
        for (place, invariant) in Invariant::ALL.into_iter().enumerate() {
            judge.count(invariant, place as u64 + 1);
        }
        let counts: Vec<u64> = judge.counts().map(|(_, count)| count).collect();
        assert_eq!(counts, (1..=Invariant::ALL.len() as u64).collect::<Vec<_>>());
        let names: std::collections::BTreeSet<&str> = Invariant::ALL.iter().map(|invariant| invariant.name()).collect();
        assert_eq!(names.len(), Invariant::ALL.len());
    }
}
