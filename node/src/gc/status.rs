//! What is told of garbage collection.

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
    /// Moves what is alive in segments that are mostly dead, and what was never laid beside what is alike.
    Compact,
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
            Phase::Compact => "compact",
        }
    }
}

/// What one cycle did, or several together.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
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
    /// Chunks that lie elsewhere now.
    pub rewritten_chunks: u64,
    /// Their plain bytes.
    pub rewritten_bytes: u64,
    /// Their bytes after compression, where they were.
    pub rewritten_from_bytes: u64,
    /// Their bytes after compression, where they are now.
    pub rewritten_to_bytes: u64,
    /// Chunks that were to be moved and could not be read: they stay, and so do their segments.
    pub unreadable: u64,
    /// Why not all was moved that was worth it, if so; the next cycle goes on.
    pub stopped: Option<String>,
}

impl CycleReport {
    /// Whether it found anything to do.
    pub(super) fn has_changed(&self) -> bool {
        self.condemned_chunks + self.freed_segments + self.rewritten_chunks > 0
    }
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
        self.rewritten_chunks += other.rewritten_chunks;
        self.rewritten_bytes += other.rewritten_bytes;
        self.rewritten_from_bytes += other.rewritten_from_bytes;
        self.rewritten_to_bytes += other.rewritten_to_bytes;
        self.unreadable += other.unreadable;
        self.stopped = other.stopped;
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
    /// Plain bytes of the chunks that it has moved.
    pub rewritten_bytes: u64,
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
                self.last = report.clone();
                self.total += report.clone();
                self.abort = None;
            }
            Err(why) => {
                self.aborted += 1;
                self.abort = Some(why.clone());
            }
        }
        (self.phase, self.marked, self.rewritten_bytes) = (Phase::Idle, 0, 0);
    }

    pub(super) fn run_ended(&mut self) {
        self.runs_ended = self.runs_begun;
    }
}
