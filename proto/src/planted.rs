//! Known bugs that the simulator switches on to prove that it would find them.
//!
//! A simulator that finds nothing may be blind. So production code holds, in single greppable lines, mistakes that a
//! storage engineer might make; `swarm --prove-bugs` switches on one at a time and fails unless seeds find it:
//!
//! ```text
//!   if !planted::is(Bug::UnsyncedSnapshot) {
//!       file.sync().await?;
//!   }
//! ```
//!
//! Invariants:
//!
//! * Without the feature `planted-bugs` [`is`] is a constant `false`: the optimiser removes every trace, and no name of a
//!   bug gets into a program. Only `chaos` may have the feature; `tools/tests/planted.rs` holds to that, and looks into
//!   the built programs.
//! * With it a bug is switched on for one thread, until the guard that `plant` returned is dropped.

/// Defines [`Bug`], and the names that only a program with the feature has.
macro_rules! bugs {
    ($($(#[doc = $what:literal])+ $bug:ident = $name:literal,)+) => {
        /// A mistake to be found. Each stands in one place of production code: search for its name.
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
        #[cfg_attr(feature = "planted-bugs", derive(Debug))]
        pub enum Bug {
            $($(#[doc = $what])+ $bug,)+
        }

        #[cfg(feature = "planted-bugs")]
        impl Bug {
            /// All of them, from the disk upwards.
            pub const ALL: &[Bug] = &[$(Bug::$bug),+];

            /// What it is called on the command line.
            #[must_use]
            pub const fn name(self) -> &'static str {
                match self {
                    $(Bug::$bug => $name,)+
                }
            }

            /// What goes wrong, in one line.
            #[must_use]
            pub const fn description(self) -> &'static str {
                match self {
                    $(Bug::$bug => concat!($($what),+).trim_ascii(),)+
                }
            }
        }
    };
}

bugs! {
    // Segments.
    /// The pieces of a row are written, but not made durable, before it is acknowledged.
    UnsyncedPiece = "unsynced-piece",
    /// The directory is not synced after the file of a segment was made in it.
    UnsyncedSegmentName = "unsynced-segment-name",
    /// A piece that a device refused counts as written.
    IgnoredWriteError = "ignored-write-error",
    /// The number of a row is used again for the next one, and with it every nonce.
    ReusedRowNumber = "reused-row-number",
    /// A scan of a segment ends at the first bad row; what lies behind is cut off.
    StopAtBadRow = "stop-at-bad-row",
    /// A scan believes the header of a piece without the checksums of what follows it.
    TornPieceBelieved = "torn-piece-believed",
    /// A footer that does not verify counts as one without rows, instead of the segment being scanned.
    FooterUnchecked = "footer-unchecked",

    // The index.
    /// Of those who wait for a chunk that somebody else writes, only the first is told.
    ForgottenWaiter = "forgotten-waiter",
    /// A chunk that is found again in another place is counted again.
    CountedTwice = "counted-twice",
    /// A checkpoint covers segments that are still being written.
    UnsettledCovered = "unsettled-covered",
    /// A checkpoint covers segments that a core which lags behind opens only afterwards.
    LaggingCoreCovered = "lagging-core-covered",
    /// A page of a checkpoint leaves out the last entries of its partition.
    CheckpointCutShort = "checkpoint-cut-short",

    // Garbage collection.
    /// A chunk that an upload is told about is not pinned.
    LostPin = "lost-pin",
    /// What was pinned in the epoch before is condemned already.
    FreedBeforeGrace = "freed-before-grace",
    /// What open uploads hold is not marked.
    UnmarkedUpload = "unmarked-upload",
    /// The rows of a segment that a crash left open do not enter the index, which counts as complete all the same.
    IncompleteIndexTrusted = "incomplete-index-trusted",
    /// A segment is freed although the index does not know yet what was written to it last.
    UnsettledFreed = "unsettled-freed",
    /// One version fewer stays than the retention keeps.
    VersionTooFewKept = "version-too-few-kept",

    // The node.
    /// A start does not make its incarnation durable, so the next one has the same.
    UnraisedIncarnation = "unraised-incarnation",

    // The log and the snapshots of the metadata.
    /// A change is answered when its record is written to the log, but not durable yet.
    AnsweredBeforeDurable = "answered-before-durable",
    /// The directory is not synced after a log was made in it.
    UnsyncedLogName = "unsynced-log-name",
    /// A log record is not compared with its checksum, so a torn tail counts as damage.
    LogChecksumSkipped = "log-checksum-skipped",
    /// A start builds on what it read at the end of the log without making that durable.
    UnsyncedLogTail = "unsynced-log-tail",
    /// A start passes over the newest snapshot and takes the one before.
    StaleSnapshotBelieved = "stale-snapshot-believed",
    /// A snapshot gets its name before its bytes are durable.
    UnsyncedSnapshot = "unsynced-snapshot",
    /// The log is cut before the name of the snapshot that replaces it is durable.
    LogCutEarly = "log-cut-early",
    /// A snapshot shows changes that were made while it was written as if they had come before.
    SmearedSnapshot = "smeared-snapshot",
    /// Idempotency keys are not brought back from a snapshot.
    ForgottenKeys = "forgotten-keys",

    // Names.
    /// The next page of a listing begins one entry too late.
    PageEdgeSkipped = "page-edge-skipped",
    /// A removed file goes on being counted.
    CountedAfterRemoval = "counted-after-removal",
    /// A commit does not check the condition that it came with.
    ConditionIgnored = "condition-ignored",
}

/// Whether a bug is switched on: never, in this build.
#[cfg(not(feature = "planted-bugs"))]
#[must_use]
#[inline(always)]
pub const fn is(_bug: Bug) -> bool {
    false
}

#[cfg(feature = "planted-bugs")]
pub use switch::{Planted, is, plant};

#[cfg(feature = "planted-bugs")]
mod switch {
    use std::cell::Cell;

    use super::Bug;

    thread_local! {
        static PLANTED: Cell<Option<Bug>> = const { Cell::new(None) };
    }

    /// Whether a bug is switched on for this thread.
    #[must_use]
    pub fn is(bug: Bug) -> bool {
        PLANTED.get() == Some(bug)
    }

    /// Switches a bug on for this thread until the guard is dropped.
    pub fn plant(bug: Bug) -> Planted {
        Planted(PLANTED.replace(Some(bug)))
    }

    /// Restores what was switched on before, when dropped.
    #[must_use = "the bug is gone when this guard is dropped"]
    pub struct Planted(Option<Bug>);

    impl Drop for Planted {
        fn drop(&mut self) {
            PLANTED.set(self.0);
        }
    }
}

#[cfg(all(test, feature = "planted-bugs"))]
mod tests {
    use super::*;

    #[test]
    fn a_bug_is_on_while_its_guard_lives_and_alone() {
        let on = || Bug::ALL.iter().copied().filter(|bug| is(*bug)).collect::<Vec<_>>();
        assert!(on().is_empty());
        let outer = plant(Bug::ForgottenWaiter);
        assert!(on() == [Bug::ForgottenWaiter]);
        drop(plant(Bug::StopAtBadRow));
        assert!(on() == [Bug::ForgottenWaiter]);
        drop(outer);
        assert!(on().is_empty());
    }
}
