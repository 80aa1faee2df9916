//! Which operations fail, when, and how.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use rustix::io::Errno;

/// Kinds of operation that faults are aimed at.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[expect(missing_docs, reason = "the names say it")]
pub enum Operation {
    Read,
    Write,
    Sync,
    SyncDirectory,
    Allocate,
    Punch,
    Truncate,
    Create,
    Open,
    List,
    Link,
    Remove,
    Rename,
    MakeDirectory,
    /// A later part of a read or write that the kernel cut: no fault is aimed at it.
    ///
    /// Linux completes a transfer that fails in a later part as a short one; the ring then asks for the rest, at an offset
    /// that `fuse_direct_IO` has not moved on, so that it goes to, or comes from, the beginning. Disks do not do that.
    LaterPart,
}

/// Bytes of a part, but for the last.
const PART_BYTES: u64 = 1 << 20;

/// Where transfers go on that the kernel has cut.
#[derive(Debug, Default)]
pub(super) struct Parts(BTreeSet<(Operation, u64, u64)>);

impl Parts {
    /// What `operation`, a read or write of a file, is to the faults.
    pub(super) fn take(&mut self, operation: Operation, inode: u64, offset: u64, bytes: u64) -> Operation {
        let is_later = self.0.remove(&(operation, inode, offset));
        if bytes == PART_BYTES {
            self.0.insert((operation, inode, offset + bytes));
        }
        if is_later { Operation::LaterPart } else { operation }
    }
}

/// What happens to an operation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Effect {
    /// It fails with `EIO` and does nothing. A sync that fails loses part of what it should have covered.
    Io,
    /// It fails with `ENOSPC` and does nothing.
    NoSpace,
    /// Part of the sectors of a write arrive, then it fails with `EIO`. Anything but a write fails as with [`Effect::Io`].
    Torn,
    /// It is answered this much later.
    Slow(Duration),
    /// It does nothing and is never answered, until [`release`](super::FaultFs::release) fails it with `EIO`. Until
    /// then a process that waits for it cannot even be killed, as with a real disk.
    Hang,
}

/// A fault to come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Fault {
    /// Which kind of operation it meets.
    pub operation: Operation,
    /// How many operations of that kind go well before.
    pub after: u64,
    /// How many in a row it meets; `u64::MAX` for all that follow.
    pub times: u64,
    /// What happens to them.
    pub effect: Effect,
}

/// The faults to come, and a count of everything.
#[derive(Debug, Default)]
pub(super) struct Faults {
    armed: Vec<Fault>,
    operations: BTreeMap<Operation, u64>,
    struck: u64,
}

impl Faults {
    pub(super) fn arm(&mut self, fault: Fault) {
        self.armed.push(fault);
    }

    pub(super) fn disarm(&mut self) {
        self.armed.clear();
    }

    /// Operations so far, by kind.
    pub(super) fn operations(&self) -> &BTreeMap<Operation, u64> {
        &self.operations
    }

    /// How many operations met a fault.
    pub(super) fn struck(&self) -> u64 {
        self.struck
    }

    /// Counts an operation; returns what is to happen to it.
    pub(super) fn meet(&mut self, operation: Operation) -> Option<Effect> {
        *self.operations.entry(operation).or_default() += 1;
        let mut effect = None;
        for fault in self.armed.iter_mut().filter(|fault| fault.operation == operation) {
            if fault.after > 0 {
                fault.after -= 1;
            } else if fault.times > 0 && effect.is_none() {
                fault.times -= 1;
                effect = Some(fault.effect);
            }
        }
        self.armed.retain(|fault| fault.times > 0);
        self.struck += u64::from(effect.is_some());
        effect
    }
}

impl Effect {
    /// The error that it ends with; `None` if the operation is carried out.
    pub(super) fn error(self) -> Option<Errno> {
        match self {
            Effect::Io | Effect::Torn | Effect::Hang => Some(Errno::IO),
            Effect::NoSpace => Some(Errno::NOSPC),
            Effect::Slow(_) => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_first_part_of_a_transfer_meets_faults() {
        let mut parts = Parts::default();
        let mut kind = |offset: u64, bytes| parts.take(Operation::Write, 7, offset << 20, bytes);
        assert_eq!(kind(1, 1 << 20), Operation::Write);
        assert_eq!(kind(2, 1 << 20), Operation::LaterPart);
        assert_eq!(kind(3, 4096), Operation::LaterPart);
        assert_eq!(kind(3, 4096), Operation::Write, "another one");
        assert_eq!(parts.take(Operation::Read, 7, 0, 1 << 20), Operation::Read);
        assert_eq!(parts.take(Operation::Write, 7, 1 << 20, 1), Operation::Write, "a read goes on there");
    }

    #[test]
    fn a_fault_meets_the_operations_that_it_names_and_no_other() {
        let mut faults = Faults::default();
        faults.arm(Fault { operation: Operation::Write, after: 2, times: 2, effect: Effect::Io });
        assert_eq!(faults.meet(Operation::Read), None);
        let met: Vec<bool> = (0..6).map(|_| faults.meet(Operation::Write).is_some()).collect();
        assert_eq!(met, [false, false, true, true, false, false]);
        assert_eq!((faults.struck(), faults.operations()[&Operation::Write]), (2, 6));
    }
}
