//! Names of the fault file system: which are durable, and which a power loss may still take back.
//!
//! A power loss keeps any subset of the un-synced changes that could be true: a change is kept only if every earlier one
//! of the same names was, and a rename happens wholly or not at all.

use std::collections::{BTreeMap, BTreeSet};

use super::Survival;
use crate::sim::Random;

/// The number of a file or directory.
pub(super) type Inode = u64;
/// A name within a directory.
type Name = (Inode, String);

#[derive(Clone, Debug)]
enum Change {
    Link { name: Name, inode: Inode },
    Unlink { name: Name },
    Rename { from: Name, to: Name },
}

/// See the module.
#[derive(Debug, Default)]
pub(super) struct Names {
    current: BTreeMap<Name, Inode>,
    durable: BTreeMap<Name, Inode>,
    pending: Vec<Change>,
}

impl Names {
    pub(super) fn get(&self, directory: Inode, name: &str) -> Option<Inode> {
        self.current.get(&(directory, name.to_owned())).copied()
    }

    /// What is in a directory, sorted.
    pub(super) fn list(&self, directory: Inode) -> impl Iterator<Item = (&str, Inode)> {
        let names = self.current.range((directory, String::new())..(directory + 1, String::new()));
        names.map(|((_, name), inode)| (name.as_str(), *inode))
    }

    /// Everything that has a name now, or may have one after a power loss.
    pub(super) fn known(&self) -> BTreeSet<Inode> {
        let linked = self.pending.iter().filter_map(|change| match change {
            Change::Link { inode, .. } => Some(*inode),
            _ => None,
        });
        self.current.values().chain(self.durable.values()).copied().chain(linked).collect()
    }

    pub(super) fn link(&mut self, directory: Inode, name: &str, inode: Inode) {
        self.change(Change::Link { name: (directory, name.to_owned()), inode });
    }

    pub(super) fn unlink(&mut self, directory: Inode, name: &str) {
        self.change(Change::Unlink { name: (directory, name.to_owned()) });
    }

    /// Moves a name within its directory, over one that may be there.
    pub(super) fn rename(&mut self, directory: Inode, from: &str, to: &str) {
        self.change(Change::Rename { from: (directory, from.to_owned()), to: (directory, to.to_owned()) });
    }

    fn change(&mut self, change: Change) {
        assert!(change.apply(&mut self.current), "invariant: only possible changes are made");
        self.pending.push(change);
    }

    /// Makes the changes in `directory` durable.
    pub(super) fn sync(&mut self, directory: Inode) {
        let durable = &mut self.durable;
        self.pending.retain(|change| {
            let is_covered = change.names()[0].0 == directory;
            if is_covered {
                assert!(change.apply(durable), "invariant: a directory's changes become durable in their order");
            }
            !is_covered
        });
    }

    /// The power fails. Returns how many changes are lost.
    pub(super) fn lose_power(&mut self, survival: Survival, random: &mut Random) -> u64 {
        let mut lost: BTreeSet<Name> = BTreeSet::new();
        let mut changes = 0;
        for change in std::mem::take(&mut self.pending) {
            let is_possible = !change.names().iter().any(|name| lost.contains(*name));
            if is_possible && survival.draw_kept(1, random) == 1 {
                assert!(change.apply(&mut self.durable), "invariant: a change follows all that it depends on");
            } else {
                lost.extend(change.names().into_iter().cloned());
                changes += 1;
            }
        }
        self.current = self.durable.clone();
        changes
    }
}

impl Change {
    fn names(&self) -> Vec<&Name> {
        match self {
            Change::Link { name, .. } | Change::Unlink { name } => vec![name],
            Change::Rename { from, to } => vec![from, to],
        }
    }

    /// Returns whether it was possible.
    fn apply(&self, names: &mut BTreeMap<Name, Inode>) -> bool {
        match self {
            Change::Link { name, inode } => names.insert(name.clone(), *inode).is_none(),
            Change::Unlink { name } => names.remove(name).is_some(),
            Change::Rename { from, to } => match names.remove(from) {
                Some(inode) => {
                    names.insert(to.clone(), inode);
                    true
                }
                None => false,
            },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Every outcome of a power loss after `act`.
    fn outcomes(act: impl Fn(&mut Names)) -> BTreeSet<Vec<(String, Inode)>> {
        let outcome = |seed| {
            let (mut names, mut random) = (Names::default(), Random::new(seed));
            act(&mut names);
            let survival = Survival::draw(&mut random);
            names.lose_power(survival, &mut random);
            names.list(1).map(|(name, inode)| (name.to_owned(), inode)).collect()
        };
        (0..300).map(outcome).collect()
    }

    fn shown(names: &[(&str, Inode)]) -> Vec<(String, Inode)> {
        names.iter().map(|(name, inode)| ((*name).to_owned(), *inode)).collect()
    }

    #[test]
    fn a_name_may_vanish_until_its_own_directory_is_synced() {
        let create = |names: &mut Names| names.link(1, "a", 7);
        assert_eq!(outcomes(create), [shown(&[]), shown(&[("a", 7)])].into());
        let other = |names: &mut Names| (create(names), names.sync(2)).1;
        assert_eq!(outcomes(other).len(), 2);
        let synced = |names: &mut Names| (create(names), names.sync(1)).1;
        assert_eq!(outcomes(synced), [shown(&[("a", 7)])].into());
    }

    #[test]
    fn a_rename_over_a_name_is_before_or_after_and_never_neither() {
        let replace = |names: &mut Names| {
            names.link(1, "snap", 5);
            names.link(1, "tmp", 6);
            names.sync(1);
            names.rename(1, "tmp", "snap");
        };
        assert_eq!(outcomes(replace), [shown(&[("snap", 5), ("tmp", 6)]), shown(&[("snap", 6)])].into());
    }

    #[test]
    fn a_removal_may_be_undone() {
        let remove = |names: &mut Names| {
            names.link(1, "a", 5);
            names.sync(1);
            names.unlink(1, "a");
        };
        assert_eq!(outcomes(remove), [shown(&[("a", 5)]), shown(&[])].into());
    }
}
