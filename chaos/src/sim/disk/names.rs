//! The names of a simulated disk: which are durable, and which a crash may still take back.
//!
//! A crash keeps any subset of the un-synced changes that could be true: a change is kept only if every earlier change
//! of the same names was, and a rename happens wholly or not at all.

use std::collections::{BTreeMap, BTreeSet};

use super::Survival;
use crate::sim::random::Random;

#[derive(Clone, Debug)]
enum Change {
    Link { name: String, file: u64 },
    Unlink { name: String },
    Rename { from: String, to: String },
}

#[derive(Clone, Debug)]
struct Pending {
    stamp: u64,
    change: Change,
}

/// Names and the numbers of their files.
#[derive(Clone, Debug, Default)]
pub(super) struct Names {
    current: BTreeMap<String, u64>,
    durable: BTreeMap<String, u64>,
    pending: Vec<Pending>,
}

impl Names {
    /// The file of that name.
    pub(super) fn get(&self, name: &str) -> Option<u64> {
        self.current.get(name).copied()
    }

    /// A name of that file; `None` if it has none now.
    pub(super) fn name_of(&self, file: u64) -> Option<&str> {
        self.all().find(|(_, named)| *named == file).map(|(name, _)| name)
    }

    /// All names, sorted.
    pub(super) fn all(&self) -> impl Iterator<Item = (&str, u64)> {
        self.current.iter().map(|(name, file)| (name.as_str(), *file))
    }

    /// Whether some crash could still show `file`, or it is shown now.
    pub(super) fn may_show(&self, file: u64) -> bool {
        let linked = |pending: &Pending| matches!(pending.change, Change::Link { file: linked, .. } if linked == file);
        self.shows(file) || self.durable.values().any(|durable| *durable == file) || self.pending.iter().any(linked)
    }

    /// Whether `file` has a name now.
    pub(super) fn shows(&self, file: u64) -> bool {
        self.current.values().any(|current| *current == file)
    }

    pub(super) fn link(&mut self, stamp: u64, name: &str, file: u64) {
        self.change(stamp, Change::Link { name: name.to_owned(), file });
    }

    pub(super) fn unlink(&mut self, stamp: u64, name: &str) {
        self.change(stamp, Change::Unlink { name: name.to_owned() });
    }

    pub(super) fn rename(&mut self, stamp: u64, from: &str, to: &str) {
        assert_eq!(directory(from), directory(to), "a rename stays within its directory");
        self.change(stamp, Change::Rename { from: from.to_owned(), to: to.to_owned() });
    }

    fn change(&mut self, stamp: u64, change: Change) {
        assert!(change.apply(&mut self.current), "invariant: only possible changes are made");
        self.pending.push(Pending { stamp, change });
    }

    /// Makes the changes of `dir` that completed up to stamp `cut` durable.
    pub(super) fn sync(&mut self, dir: &str, cut: u64) {
        let Names { durable, pending, .. } = self;
        pending.retain(|Pending { stamp, change }| {
            let reached = *stamp <= cut && directory(change.names()[0]) == dir;
            if reached {
                assert!(change.apply(durable), "invariant: a directory's changes become durable in their order");
            }
            !reached
        });
    }

    /// The power fails. Returns how many changes were lost.
    pub(super) fn lose_power(&mut self, survival: Survival, random: &mut Random) -> u64 {
        let mut changes_lost = 0;
        let mut lost: BTreeSet<String> = BTreeSet::new();
        for Pending { change, .. } in std::mem::take(&mut self.pending) {
            let possible = !change.names().iter().any(|name| lost.contains(*name));
            if possible && survival.prefix(1, random) == 1 {
                assert!(change.apply(&mut self.durable), "invariant: a change follows all that it depends on");
            } else {
                changes_lost += 1;
                lost.extend(change.names().into_iter().map(str::to_owned));
            }
        }
        self.current = self.durable.clone();
        changes_lost
    }
}

impl Change {
    fn names(&self) -> Vec<&str> {
        match self {
            Change::Link { name, .. } | Change::Unlink { name } => vec![name],
            Change::Rename { from, to } => vec![from, to],
        }
    }

    /// Returns whether it was possible.
    fn apply(&self, names: &mut BTreeMap<String, u64>) -> bool {
        match self {
            Change::Link { name, file } => names.insert(name.clone(), *file).is_none(),
            Change::Unlink { name } => names.remove(name).is_some(),
            Change::Rename { from, to } => match names.remove(from) {
                Some(file) => {
                    names.insert(to.clone(), file);
                    true
                }
                None => false,
            },
        }
    }
}

/// The directory of a name; `""` is the top.
pub(super) fn directory(name: &str) -> &str {
    name.rsplit_once('/').map_or("", |(dir, _)| dir)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Every outcome of a crash after `act`.
    fn outcomes(act: impl Fn(&mut Names)) -> BTreeSet<Vec<(String, u64)>> {
        let outcome = |seed| {
            let mut random = Random::new(seed);
            let mut names = Names::default();
            act(&mut names);
            let survival = Survival::draw(&mut random);
            names.lose_power(survival, &mut random);
            names.all().map(|(name, file)| (name.to_owned(), file)).collect()
        };
        (0..300).map(outcome).collect()
    }

    fn shown(names: &[(&str, u64)]) -> Vec<(String, u64)> {
        names.iter().map(|(name, file)| ((*name).to_owned(), *file)).collect()
    }

    #[test]
    fn a_create_may_vanish_until_its_directory_is_synced() {
        let create = |names: &mut Names| names.link(1, "wal/a", 7);
        assert_eq!(outcomes(create), [shown(&[]), shown(&[("wal/a", 7)])].into());
        let other = |names: &mut Names| (create(names), names.sync("", 1)).1;
        assert_eq!(outcomes(other).len(), 2, "syncing another directory does not help");
        let early = |names: &mut Names| (create(names), names.sync("wal", 0)).1;
        assert_eq!(outcomes(early).len(), 2, "nor does a sync issued before");
        let synced = |names: &mut Names| (create(names), names.sync("wal", 1)).1;
        assert_eq!(outcomes(synced), [shown(&[("wal/a", 7)])].into());
    }

    #[test]
    fn a_rename_is_before_or_after_but_never_neither() {
        let replace = |names: &mut Names| {
            names.link(1, "snap", 1);
            names.link(2, "snap.tmp", 2);
            names.sync("", 2);
            names.rename(3, "snap.tmp", "snap");
        };
        assert_eq!(outcomes(replace), [shown(&[("snap", 1), ("snap.tmp", 2)]), shown(&[("snap", 2)])].into());
    }

    #[test]
    fn a_rename_needs_its_create() {
        let replace = |names: &mut Names| {
            names.link(1, "snap", 1);
            names.sync("", 1);
            names.link(2, "snap.tmp", 2);
            names.rename(3, "snap.tmp", "snap");
            names.link(4, "snap.tmp", 3);
        };
        let expected = [
            shown(&[("snap", 1)]),
            shown(&[("snap", 1), ("snap.tmp", 2)]),
            shown(&[("snap", 2)]),
            shown(&[("snap", 2), ("snap.tmp", 3)]),
        ];
        assert_eq!(outcomes(replace), expected.into());
    }

    #[test]
    fn a_removal_may_be_undone() {
        let remove = |names: &mut Names| {
            names.link(1, "a", 1);
            names.sync("", 1);
            names.unlink(2, "a");
            names.link(3, "a", 2);
        };
        assert_eq!(outcomes(remove), [shown(&[("a", 1)]), shown(&[]), shown(&[("a", 2)])].into());
    }
}
