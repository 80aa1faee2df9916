//! Counts of what a seed did, by name.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;

/// Counters of a seed.
#[derive(Default)]
pub struct Tally {
    /// What clients did by choice: changes, reads, listings, stats. Repeated requests and what a client looks at after a
    /// change are not counted.
    pub operations: Cell<u64>,
    others: RefCell<BTreeMap<String, u64>>,
}

impl Tally {
    /// Counts one more of something.
    pub fn count(&self, what: &str) {
        self.add(what, 1);
    }

    /// Counts some more of something.
    pub fn add(&self, what: &str, more: u64) {
        self.change(what, |count| *count += more);
    }

    /// Raises a count to at least `least`.
    pub fn raise(&self, what: &str, least: u64) {
        self.change(what, |count| *count = least.max(*count));
    }

    fn change(&self, what: &str, change: impl FnOnce(&mut u64)) {
        let mut others = self.others.borrow_mut();
        match others.get_mut(what) {
            Some(count) => change(count),
            None => change(others.entry(what.to_owned()).or_default()),
        }
    }

    /// All counts, by name.
    #[must_use]
    pub fn counts(&self) -> BTreeMap<String, u64> {
        let mut counts = self.others.borrow().clone();
        counts.insert("operations".to_owned(), self.operations.get());
        counts
    }
}
