//! A map of bounded cost that forgets what was not used for longest.

use std::collections::BTreeMap;
use std::ops::RangeInclusive;

/// See the module. Both operations cost a logarithm of the number of entries.
#[derive(Debug)]
pub struct Recent<K, V> {
    entries: BTreeMap<K, Entry<V>>,
    order: BTreeMap<u64, K>,
    uses: u64,
    cost: usize,
    cost_max: usize,
}

#[derive(Debug)]
struct Entry<V> {
    used: u64,
    cost: usize,
    value: V,
}

impl<K: Ord + Clone, V> Recent<K, V> {
    /// Returns an empty map whose entries may cost up to `cost_max` together.
    #[must_use]
    pub fn new(cost_max: usize) -> Recent<K, V> {
        Recent { entries: BTreeMap::new(), order: BTreeMap::new(), uses: 0, cost: 0, cost_max }
    }

    /// What its entries cost together.
    #[must_use]
    pub fn cost(&self) -> usize {
        self.cost
    }

    /// Returns the value and counts this as a use.
    pub fn get(&mut self, key: &K) -> Option<&V> {
        let entry = self.entries.get_mut(key)?;
        self.order.remove(&entry.used);
        self.uses += 1;
        entry.used = self.uses;
        self.order.insert(self.uses, key.clone());
        Some(&entry.value)
    }

    /// Removes the entries of a range of keys, and returns their values.
    pub fn take_range(&mut self, range: RangeInclusive<K>) -> Vec<V> {
        let keys: Vec<K> = self.entries.range(range).map(|(key, _)| key.clone()).collect();
        let taken = keys.iter().filter_map(|key| self.entries.remove(key));
        let mut values = Vec::with_capacity(keys.len());
        for entry in taken {
            self.order.remove(&entry.used);
            self.cost -= entry.cost;
            values.push(entry.value);
        }
        values
    }

    /// Inserts or replaces a value; the entries used least recently leave until the cost is in its bound. The newest
    /// entry stays whatever it costs.
    ///
    /// Returns what was replaced or left.
    pub fn insert(&mut self, key: K, value: V, cost: usize) -> Vec<V> {
        let mut gone = Vec::new();
        self.uses += 1;
        let entry = Entry { used: self.uses, cost, value };
        self.cost += cost;
        if let Some(replaced) = self.entries.insert(key.clone(), entry) {
            self.order.remove(&replaced.used);
            self.cost -= replaced.cost;
            gone.push(replaced.value);
        }
        self.order.insert(self.uses, key);
        while self.cost > self.cost_max
            && self.order.len() > 1
            && let Some((_, oldest)) = self.order.pop_first()
            && let Some(forgotten) = self.entries.remove(&oldest)
        {
            self.cost -= forgotten.cost;
            gone.push(forgotten.value);
        }
        gone
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_least_recently_used_entry_leaves() {
        let mut recent = Recent::new(2);
        recent.insert(1, 'a', 1);
        recent.insert(2, 'b', 1);
        assert_eq!(recent.get(&1), Some(&'a'));
        recent.insert(3, 'c', 1);
        assert_eq!(recent.get(&2), None);
        recent.insert(3, 'd', 1);
        assert_eq!(recent.get(&1), Some(&'a'));
        assert_eq!(recent.get(&3), Some(&'d'));
        assert_eq!(recent.insert(4, 'e', 9), ['a', 'd']);
        assert_eq!(recent.get(&3), None);
        assert_eq!(recent.get(&4), Some(&'e'), "the newest stays");
    }

    #[test]
    fn a_range_that_was_taken_costs_nothing() {
        let mut recent = Recent::new(9);
        (1..=4).for_each(|key| drop(recent.insert(key, key, 2)));
        assert_eq!(recent.take_range(2..=3), [2, 3]);
        assert_eq!((recent.cost(), recent.get(&2)), (4, None));
        assert_eq!(recent.get(&4), Some(&4));
        assert!(recent.insert(5, 5, 5).is_empty());
        assert_eq!(recent.insert(6, 6, 1), [1], "the order forgot them too");
    }
}
