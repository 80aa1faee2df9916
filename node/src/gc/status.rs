//! What is told of garbage collection.

use proto::SegmentId;

/// What a cycle is doing.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Phase {
    /// Nothing.
    #[default]
    Idle,
    /// Lets versions go that no retention keeps.
    Expire,
    /// Walks all manifests.
    Mark,
    /// Walks what uploads and reads hold.
    Lease,
    /// Condemns what is stale.
    Sweep,
    /// Takes a checkpoint of the index, and frees segments.
    Free,
}

impl Phase {
    /// Its name in answers and metrics.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Phase::Idle => "idle",
            Phase::Expire => "expire",
            Phase::Mark => "mark",
            Phase::Lease => "lease",
            Phase::Sweep => "sweep",
            Phase::Free => "free",
        }
    }
}

/// What one cycle did, or several together.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct CycleReport {
    /// Versions that no retention kept any longer.
    pub expired_versions: u64,
    /// References that were followed.
    pub marked: u64,
    /// References whose chunk is nowhere: the segment that they name is kept.
    pub missing: u64,
    /// Chunks that were condemned.
    pub condemned_chunks: u64,
    /// Their bytes after compression.
    pub condemned_bytes: u64,
    /// Stale chunks that stay, because the table of their row cannot be read.
    pub kept: u64,
    /// Segments that were freed.
    pub freed_segments: u64,
    /// Bytes of their files.
    pub freed_bytes: u64,
}

impl std::ops::AddAssign for CycleReport {
    fn add_assign(&mut self, other: CycleReport) {
        self.expired_versions += other.expired_versions;
        self.marked += other.marked;
        self.missing += other.missing;
        self.condemned_chunks += other.condemned_chunks;
        self.condemned_bytes += other.condemned_bytes;
        self.kept += other.kept;
        self.freed_segments += other.freed_segments;
        self.freed_bytes += other.freed_bytes;
    }
}

/// How the collection of garbage goes.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct GcStatus {
    /// The current epoch: raised by each cycle, never lowered.
    pub epoch: u64,
    /// What the running cycle is doing.
    pub phase: Phase,
    /// References that it has followed.
    pub marked: u64,
    /// Segment that it is freeing.
    pub freeing: Option<SegmentId>,
    /// Runs begun since the start.
    pub runs_begun: u64,
    /// Runs that have ended.
    pub runs_ended: u64,
    /// Cycles that went to their end.
    pub cycles: u64,
    /// Cycles that ended early.
    pub aborted: u64,
    /// Why the last cycle ended early, if it did.
    pub abort: Option<String>,
    /// What the last cycle did that went to its end.
    pub last: CycleReport,
    /// What all cycles did.
    pub total: CycleReport,
}

impl GcStatus {
    /// Whether a cycle runs.
    #[must_use]
    pub fn is_running(&self) -> bool {
        self.phase != Phase::Idle
    }

    pub(super) fn cycle_ended(&mut self, outcome: &Result<CycleReport, String>) {
        match outcome {
            Ok(report) => {
                self.cycles += 1;
                self.last = *report;
                self.total += *report;
                self.abort = None;
            }
            Err(why) => {
                self.aborted += 1;
                self.abort = Some(why.clone());
            }
        }
        (self.phase, self.marked, self.freeing) = (Phase::Idle, 0, None);
    }

    pub(super) fn run_ended(&mut self) {
        self.runs_ended = self.runs_begun;
    }
}
