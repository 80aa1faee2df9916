//! A bounded map that forgets what was not used for longest.

use std::collections::BTreeMap;

/// See the module. Both operations cost a logarithm of the number of entries.
#[derive(Debug)]
pub struct Recent<K, V> {
    entries: BTreeMap<K, (u64, V)>,
    order: BTreeMap<u64, K>,
    uses: u64,
    entries_max: usize,
}

impl<K: Ord + Clone, V> Recent<K, V> {
    /// Returns an empty map that keeps up to `entries_max` entries.
    #[must_use]
    pub fn new(entries_max: usize) -> Recent<K, V> {
        Recent { entries: BTreeMap::new(), order: BTreeMap::new(), uses: 0, entries_max }
    }

    /// Returns the value and counts this as a use.
    pub fn get(&mut self, key: &K) -> Option<&V> {
        let (used, value) = self.entries.get_mut(key)?;
        self.order.remove(used);
        self.uses += 1;
        *used = self.uses;
        self.order.insert(self.uses, key.clone());
        Some(value)
    }

    /// Inserts or replaces a value; the entry used least recently leaves if there are too many.
    pub fn insert(&mut self, key: K, value: V) {
        self.uses += 1;
        if let Some((used, _)) = self.entries.insert(key.clone(), (self.uses, value)) {
            self.order.remove(&used);
        }
        self.order.insert(self.uses, key);
        if self.entries.len() > self.entries_max
            && let Some((_, oldest)) = self.order.pop_first()
        {
            self.entries.remove(&oldest);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_least_recently_used_entry_leaves() {
        let mut recent = Recent::new(2);
        recent.insert(1, 'a');
        recent.insert(2, 'b');
        assert_eq!(recent.get(&1), Some(&'a'));
        recent.insert(3, 'c');
        assert_eq!(recent.get(&2), None);
        recent.insert(3, 'd');
        assert_eq!(recent.get(&1), Some(&'a'));
        assert_eq!(recent.get(&3), Some(&'d'));
    }
}
