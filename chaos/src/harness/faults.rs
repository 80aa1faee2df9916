//! What goes wrong in a seed besides crashes, and what each of it excuses: nothing else is tolerated.

use std::collections::BTreeSet;
use std::fmt;

use crate::sim::Random;

/// One thing that goes wrong, for as long as a seed runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Fault {
    /// Bits of segment files flip at rest.
    Rot,
    /// The disks are small.
    Full,
    /// Operations of disks fail.
    Io,
    /// Writes land elsewhere and report success.
    Misdirected,
    /// Reads show, once, what was there before.
    Stale,
    /// A whole disk comes back as it once was, and is exchanged for the right one when the node refuses it.
    Reverted,
    /// Bits of logs, snapshots, superblocks and headers of segments flip at rest, and are mended when the node refuses.
    MetadataRot,
    /// A disk takes up to a minute for each operation.
    Slow,
    /// A disk does not answer, for a while or until the process ends.
    Stalled,
}

/// What the node may then do that it must not do otherwise.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Excuse {
    /// It turns changes down, or leaves open whether they happened.
    Refusal,
    /// A read ends in `Damaged`, naming the file and the bytes.
    DamagedRead,
    /// A read ends in `Damaged`, naming the file and the bytes, as long as faults go on; the bytes are whole.
    PassingDamage,
    /// A read ends in `Device`, naming the file and the bytes.
    FailedRead,
    /// A start does not open, as long as faults go on.
    FailedStart,
    /// A start warns, though the one before ended with a clean close.
    Warning,
    /// A start changes the metadata: it seals a segment whose seal a device refused, or that compaction gave up because a
    /// row that it read back was not what it had written.
    Amendment,
    /// Chunks of acknowledged files are gone from the store's counters.
    MissingChunks,
    /// Segments hold rows that nobody was told of, or have lost some, and are not counted one by one.
    UntoldRows,
    /// Rows lie in segments that the node takes for refused, and does not count.
    UncountedRows,
    /// Damage is met where no bit was flipped.
    UnflippedDamage,
    /// The offline check warns of a snapshot that is damaged and not needed.
    SpareSnapshot,
    /// The same bytes are stored again, since the first copy cannot be read or found no room.
    SecondCopy,
    /// The offline check at a crash has no meaning: it would meet the fault itself.
    NoQuickCheck,
}

/// How often a fault is part of a seed, and what it excuses.
struct Tolerance {
    fault: Fault,
    one_in: u64,
    excuses: &'static [Excuse],
}

/// All faults.
const TOLERANCES: &[Tolerance] = &[
    Tolerance {
        fault: Fault::Rot,
        one_in: 5,
        excuses: &[
            Excuse::DamagedRead,
            Excuse::MissingChunks,
            Excuse::UntoldRows,
            Excuse::SecondCopy,
            Excuse::Warning,
            Excuse::NoQuickCheck,
        ],
    },
    Tolerance { fault: Fault::Full, one_in: 5, excuses: &[Excuse::Refusal, Excuse::SecondCopy, Excuse::Warning] },
    Tolerance {
        fault: Fault::Io,
        one_in: 5,
        excuses: &[
            Excuse::Refusal,
            Excuse::FailedRead,
            Excuse::FailedStart,
            Excuse::Amendment,
            Excuse::UntoldRows,
            Excuse::UncountedRows,
            Excuse::SecondCopy,
            Excuse::Warning,
            Excuse::NoQuickCheck,
        ],
    },
    Tolerance {
        fault: Fault::Misdirected,
        one_in: 8,
        excuses: &[
            // A header that went astray is noticed at once, and so is a snapshot.
            Excuse::Refusal,
            Excuse::DamagedRead,
            Excuse::UnflippedDamage,
            Excuse::MissingChunks,
            Excuse::Amendment,
            Excuse::UntoldRows,
            Excuse::SecondCopy,
            Excuse::Warning,
            Excuse::NoQuickCheck,
        ],
    },
    Tolerance {
        fault: Fault::Stale,
        one_in: 8,
        excuses: &[
            Excuse::Refusal,
            Excuse::PassingDamage,
            Excuse::UnflippedDamage,
            Excuse::FailedStart,
            Excuse::MissingChunks,
            Excuse::UntoldRows,
            Excuse::UncountedRows,
            Excuse::Amendment,
            Excuse::SecondCopy,
            Excuse::Warning,
            Excuse::NoQuickCheck,
        ],
    },
    Tolerance { fault: Fault::Reverted, one_in: 8, excuses: &[] },
    Tolerance { fault: Fault::MetadataRot, one_in: 8, excuses: &[Excuse::SpareSnapshot] },
    Tolerance { fault: Fault::Slow, one_in: 12, excuses: &[] },
    Tolerance {
        fault: Fault::Stalled,
        one_in: 12,
        excuses: &[
            Excuse::Refusal,
            Excuse::FailedRead,
            Excuse::FailedStart,
            Excuse::Amendment,
            Excuse::UntoldRows,
            Excuse::UncountedRows,
            Excuse::SecondCopy,
            Excuse::Warning,
            Excuse::NoQuickCheck,
        ],
    },
];

/// The faults of a seed: any of them together.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Faults(BTreeSet<Fault>);

impl Faults {
    /// Draws each fault by its own luck; about half of all seeds have none.
    #[must_use]
    pub fn draw(random: &mut Random) -> Faults {
        let drawn = TOLERANCES.iter().filter(|tolerance| random.chance(1, tolerance.one_in));
        Faults(drawn.map(|tolerance| tolerance.fault).collect())
    }

    /// Whether a fault is among them.
    #[must_use]
    pub fn has(&self, fault: Fault) -> bool {
        self.0.contains(&fault)
    }

    /// Whether nothing goes wrong.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Whether one of them excuses this.
    #[must_use]
    pub fn excuse(&self, excuse: Excuse) -> bool {
        let present = TOLERANCES.iter().filter(|tolerance| self.has(tolerance.fault));
        present.into_iter().any(|tolerance| tolerance.excuses.contains(&excuse))
    }
}

impl fmt::Display for Faults {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.is_empty() {
            return f.write_str("none");
        }
        let names: Vec<String> = self.0.iter().map(|fault| format!("{fault:?}").to_lowercase()).collect();
        f.write_str(&names.join(" and "))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_fault_and_every_pair_is_drawn_and_so_is_none() {
        let mut random = Random::new(1);
        let drawn: BTreeSet<String> = (0..2000).map(|_| Faults::draw(&mut random).to_string()).collect();
        for wanted in ["none", "rot", "full", "io", "rot and full", "rot and io", "full and io"] {
            assert!(drawn.contains(wanted), "{wanted}: {drawn:?}");
        }
    }

    #[test]
    fn nothing_is_excused_where_nothing_goes_wrong() {
        assert!(!Faults::default().excuse(Excuse::Refusal));
        assert!(Faults([Fault::Full].into()).excuse(Excuse::Refusal));
        assert!(!Faults([Fault::Full].into()).excuse(Excuse::DamagedRead));
    }
}
