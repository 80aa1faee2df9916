//! **Nothing unacknowledged becomes half visible.** A write that was cut short by a crash, given up by its client or
//! turned down shows wholly or not at all; one that was given up or turned down, not at all.
//!
//! How: whoever puts bytes offers them here, by their digest, and withdraws them when the put was turned down. Every
//! version of every file that a full check reads must be, from its first byte to its last, one offer that stands. The
//! oracle adds that names and attributes come with their bytes: see [`super::linearizable`].
//!
//! What it would miss: a withdrawn write whose bytes somebody else offered too, which the oracle sees by its version.

use std::collections::BTreeMap;

use proto::checksum::digest;

use super::Invariant;
use crate::harness::World;
use crate::oracle::{Violation, violation};

/// What was ever put.
#[derive(Default)]
pub struct Offers {
    /// By the digest of the bytes: puts that may have taken effect.
    standing: BTreeMap<u128, u64>,
    /// By the number of the operation.
    offered: BTreeMap<u64, u128>,
}

impl Offers {
    /// Operation `number` puts these bytes.
    pub fn offer(&mut self, number: u64, bytes: &[u8]) {
        let digest = digest(bytes);
        *self.standing.entry(digest).or_default() += 1;
        self.offered.insert(number, digest);
    }

    /// Operation `number` was turned down.
    pub fn withdraw(&mut self, number: u64) {
        if let Some(digest) = self.offered.remove(&number)
            && let Some(standing) = self.standing.get_mut(&digest)
        {
            *standing -= 1;
        }
    }

    /// Checks all bytes of a version.
    ///
    /// # Errors
    /// [`Violation`] if nobody put exactly these.
    pub fn check(&self, bytes: &[u8]) -> Result<(), Violation> {
        match self.standing.get(&digest(bytes)) {
            Some(1..) => Ok(()),
            Some(0) => Err(violation!("its {} bytes were turned down or given up", bytes.len())),
            None => Err(violation!("nobody put these {} bytes as a whole", bytes.len())),
        }
    }
}

/// Checks all bytes of a version of a file.
pub(crate) fn check(world: &World, path: &str, version: u64, bytes: &[u8]) -> Result<(), Violation> {
    world.judge.count(Invariant::Atomicity, 1);
    let checked = world.oracle.borrow().offers().check(bytes);
    checked.map_err(|Violation(what)| violation!("{path} at version {version}: {what}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_and_mixtures_and_what_was_turned_down_must_not_show() {
        let mut offers = Offers::default();
        offers.offer(1, b"first");
        offers.offer(2, b"other");
        offers.offer(3, b"given up");
        offers.withdraw(3);
        assert_eq!(offers.check(b"first"), Ok(()));
        offers.check(b"fir").expect_err("a part");
        offers.check(b"firer").expect_err("a mixture");
        offers.check(b"given up").expect_err("it was given up");
        offers.offer(4, b"given up");
        assert_eq!(offers.check(b"given up"), Ok(()), "somebody else put the same");
    }
}
