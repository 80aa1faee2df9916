//! What a run did and found.

use std::collections::BTreeMap;
use std::fmt;
use std::path::PathBuf;
use std::time::Duration;

use serde_json::json;

use super::fault::FaultKind;
use crate::faultfs::Loss;

/// The account of a run.
#[derive(Clone, Debug, Default)]
pub struct Report {
    /// The seed of every choice of the clients and of the faults.
    pub seed: u64,
    /// Faults that were asked for.
    pub asked: Vec<FaultKind>,
    /// How long the run took.
    pub took: Duration,
    /// Empty stores that the run began with, one after the other.
    pub stores: u64,
    /// Faults by kind.
    pub faults: BTreeMap<FaultKind, u64>,
    /// Faults that this machine does not permit, and why.
    pub skipped: BTreeMap<FaultKind, String>,
    /// Operations of the disk that failed, tore, hung or were slow.
    pub disk_faults: u64,
    /// What power losses took.
    pub lost: Loss,
    /// Changes that clients asked for.
    pub operations: u64,
    /// Those that were acknowledged.
    pub acknowledged: u64,
    /// Those that were refused as the interface says.
    pub refused: u64,
    /// Those that certainly did not happen: no space, no turn, no server.
    pub did_not_happen: u64,
    /// Those whose outcome was open: lost with the connection, or failed with the disk.
    pub open: u64,
    /// Reads that clients compared as they came.
    pub reads: u64,
    /// Reads that failed under a fault.
    pub failed_reads: u64,
    /// Retentions that were set.
    pub retentions: u64,
    /// Collections of garbage that were asked for while clients worked.
    pub collections: u64,
    /// Files of which full checks found that versions were let go.
    pub expired_files: u64,
    /// What stores took of the disks at their ends, in bytes, before everything was removed and collected, and after.
    pub space: (u64, u64),
    /// Full checks.
    pub verifications: u64,
    /// Files that full checks read and compared, and earlier versions of them.
    pub verified_files: u64,
    /// Their bytes.
    pub verified_bytes: u64,
    /// Times from start to readiness.
    pub starts: Vec<Duration>,
    /// Processes that ended before they were ready, by our hand or with an error of theirs.
    pub interrupted_starts: u64,
    /// Processes that ended themselves with an error, under a fault of the disk.
    pub gave_up: u64,
    /// Longest time from a fault until the server was ready again.
    pub unavailable_max: Duration,
    /// What went wrong, with the history of the path.
    pub violation: Option<String>,
    /// Where the data and the log are kept, after a violation.
    pub kept: Option<PathBuf>,
}

impl Report {
    /// The command that does it again, as far as real time permits.
    #[must_use]
    pub fn again(&self) -> String {
        let minutes = self.took.as_secs().div_ceil(60).max(1);
        let asked: Vec<&str> = self.asked.iter().map(|kind| kind.name()).collect();
        let faults = asked.join(",");
        format!(
            "cargo run --release -p chaos --bin nemesis -- --seed {} --minutes {minutes} --faults {faults}",
            self.seed
        )
    }

    fn start_at(&self, percent: usize) -> Duration {
        let mut starts = self.starts.clone();
        starts.sort_unstable();
        let last = starts.len().saturating_sub(1);
        starts.get(last * percent / 100).copied().unwrap_or_default()
    }

    /// All of it for programs.
    #[must_use]
    pub fn json(&self) -> serde_json::Value {
        let names = |kind: &FaultKind| kind.name().to_owned();
        let ms = |time: Duration| u64::try_from(time.as_millis()).unwrap_or(u64::MAX);
        json!({
            "seed": self.seed,
            "took_ms": ms(self.took),
            "stores": self.stores,
            "faults": self.faults.iter().map(|(kind, count)| (names(kind), *count)).collect::<BTreeMap<_, _>>(),
            "skipped": self.skipped.iter().map(|(kind, why)| (names(kind), why)).collect::<BTreeMap<_, _>>(),
            "disk_faults": self.disk_faults,
            "lost": {
                "pages": self.lost.pages,
                "torn_pages": self.lost.torn_pages,
                "lengths": self.lost.lengths,
                "names": self.lost.names,
            },
            "operations": self.operations,
            "acknowledged": self.acknowledged,
            "refused": self.refused,
            "did_not_happen": self.did_not_happen,
            "open": self.open,
            "reads": self.reads,
            "failed_reads": self.failed_reads,
            "retentions": self.retentions,
            "collections": self.collections,
            "expired_files": self.expired_files,
            "raw_bytes_before_removal": self.space.0,
            "raw_bytes_after_removal": self.space.1,
            "verifications": self.verifications,
            "verified_files": self.verified_files,
            "verified_bytes": self.verified_bytes,
            "starts": self.starts.len(),
            "start_p50_ms": ms(self.start_at(50)),
            "start_max_ms": ms(self.start_at(100)),
            "interrupted_starts": self.interrupted_starts,
            "gave_up": self.gave_up,
            "unavailable_max_ms": ms(self.unavailable_max),
            "violation": self.violation,
            "kept": self.kept,
        })
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let faults: Vec<String> = self.faults.iter().map(|(kind, count)| format!("{kind} {count}")).collect();
        writeln!(f, "nemesis, seed {}, {:.0?}, {} stores", self.seed, self.took, self.stores)?;
        writeln!(f, "  faults        {} ({})", self.faults.values().sum::<u64>(), faults.join(", "))?;
        for (kind, why) in &self.skipped {
            writeln!(f, "  SKIPPED       {kind}: {why}")?;
        }
        let Loss { pages, torn_pages, lengths, names } = self.lost;
        writeln!(f, "  disk          {} operations failed, tore, hung or were slow", self.disk_faults)?;
        writeln!(f, "  power losses  took {pages} pages, {torn_pages} of them torn, {lengths} lengths, {names} names")?;
        writeln!(
            f,
            "  changes       {}: {} acknowledged, {} refused, {} did not happen, {} left open",
            self.operations, self.acknowledged, self.refused, self.did_not_happen, self.open
        )?;
        writeln!(f, "  reads         {}, {} of them failed under a fault", self.reads, self.failed_reads)?;
        writeln!(
            f,
            "  collections   {}, {} retentions; {} times a file had lost versions",
            self.collections, self.retentions, self.expired_files
        )?;
        let (before, after) = self.space;
        writeln!(
            f,
            "  space         {before} bytes at the ends of stores, {after} when all was removed and collected"
        )?;
        writeln!(
            f,
            "  verified      {} times: {} files, {} bytes",
            self.verifications, self.verified_files, self.verified_bytes
        )?;
        writeln!(
            f,
            "  starts        {}, ready after {:.0?} (median), {:.0?} (longest); {} more were interrupted",
            self.starts.len(),
            self.start_at(50),
            self.start_at(100),
            self.interrupted_starts
        )?;
        writeln!(f, "  gave up       {} processes, after a fault of the disk", self.gave_up)?;
        writeln!(f, "  unavailable   {:.1?} at most, from a fault to readiness", self.unavailable_max)?;
        match (&self.violation, &self.kept) {
            (None, _) => writeln!(f, "  violations    none")?,
            (Some(violation), kept) => {
                writeln!(f, "VIOLATION: {violation}")?;
                if let Some(kept) = kept {
                    writeln!(f, "The data and the log of dfsd are kept in {}", kept.display())?;
                }
            }
        }
        write!(f, "Again, as closely as real time permits: {}", self.again())
    }
}
