//! What a check can find, and what each finding means for whoever owns the data.

use std::collections::BTreeMap;
use std::ops::Range;

use proto::SegmentId;
use serde::Serialize;

/// Problems that are kept with all their words; more are counted.
pub const PROBLEMS_KEPT_MAX: usize = 10_000;

/// How bad a problem is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Severity {
    /// Nothing is wrong; it is left by a crash, or by a change of software.
    Info,
    /// Something is damaged, yet every file reads in full and the node starts.
    Warning,
    /// Bytes of a file cannot be read, or the node does not start.
    Damage,
}

impl Severity {
    /// Its name in reports.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Severity::Info => "info",
            Severity::Warning => "warning",
            Severity::Damage => "damage",
        }
    }
}

macro_rules! problem_kinds {
    ($($(#[$doc:meta])* $kind:ident $severity:ident $code:literal $meaning:literal;)*) => {
        /// What was found.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
        pub enum ProblemKind {
            $($(#[$doc])* $kind,)*
        }

        impl ProblemKind {
            /// Every kind.
            pub const ALL: &[ProblemKind] = &[$(ProblemKind::$kind,)*];

            /// Stable name for programs.
            #[must_use]
            pub fn code(self) -> &'static str {
                match self {
                    $(ProblemKind::$kind => $code,)*
                }
            }

            /// How bad it is.
            #[must_use]
            pub fn severity(self) -> Severity {
                match self {
                    $(ProblemKind::$kind => Severity::$severity,)*
                }
            }

            /// What it means for the owner of the data, and what to do.
            #[must_use]
            pub fn meaning(self) -> &'static str {
                match self {
                    $(ProblemKind::$kind => $meaning,)*
                }
            }
        }
    };
}

problem_kinds! {
    /// One of the four copies of a superblock is damaged.
    SuperblockCopy Warning "superblock-copy"
        "the other copies stand for it, and the next start writes all of them again";
    /// The copies are of two updates.
    SuperblockHalfUpdated Info "superblock-half-updated"
        "a crash cut an update short; the newest copy counts";
    /// No copy is valid.
    SuperblockLost Damage "superblock-lost"
        "the node does not start; restore the file `superblock` of this directory from a copy";
    /// Directories are missing, or of another node.
    DeviceMismatch Damage "device-mismatch"
        "the node does not start; name exactly the directories that it was formatted with";
    /// The device failed while it was read.
    DeviceFailed Damage "device-failed"
        "the disk does not give these bytes; what lies there was not checked";
    /// The metadata cannot be read in full.
    MetadataDamaged Damage "metadata-damaged"
        "the node does not start, rather than lose acknowledged changes; restore the file from a copy of the disk";
    /// A snapshot is damaged, an older one is in use.
    SnapshotPassedOver Warning "snapshot-damaged"
        "an older snapshot and the logs after it hold the same; the next snapshot replaces it";
    /// A file of the metadata that is not needed.
    MetadataLeftover Info "metadata-leftover"
        "it holds nothing that is needed, and the next start or snapshot removes it";
    /// The last log ends in a torn write.
    TornTail Info "torn-tail"
        "a crash cut a write short that nobody was answered for";
    /// Names, inodes or versions contradict each other.
    NamespaceBroken Damage "namespace-broken"
        "a defect of the software or of memory; the object may be missing or unreadable: report it";
    /// Totals are not what they count.
    CountersWrong Warning "counters-wrong"
        "sizes shown to users are off; files are not affected: report it";
    /// A domain's key cannot be unwrapped.
    DomainLocked Damage "domain-locked"
        "the node does not start, and chunks of the domain cannot be named: use the right key file";
    /// A segment's file is missing, or its header is unusable.
    SegmentUnreadable Damage "segment-unreadable"
        "the node does not start; restore the file from a copy of the disk";
    /// A footer does not verify.
    FooterDamaged Warning "footer-damaged"
        "a start scans the segment instead, which takes longer";
    /// A row does not verify as a whole.
    RowDamaged Warning "row-damaged"
        "its intact blocks are still read; it costs a file only if one is named as damaged";
    /// A row is whole, but the footer does not list it.
    RowUnlisted Warning "row-unlisted"
        "a start does not know its chunks, which costs duplicates; they are read all the same";
    /// Something at the end of a segment that was not sealed.
    RowUnfinished Info "row-unfinished"
        "a crash cut a row short that nobody was answered for; where a file is named too, it is damage of a last row";
    /// A block does not verify.
    BlockDamaged Warning "block-damaged"
        "its chunks cannot be read here; it costs a file only if one is named as damaged";
    /// Blocks of a domain that has no key here.
    DomainUnknown Info "domain-unknown"
        "their seals were verified, their ids could not be computed again";
    /// A segment file with rows that the metadata does not list.
    FileUnlisted Warning "file-unlisted"
        "it is never read nor removed; if its node's metadata was restored from an old copy, restore a newer one";
    /// A segment file without rows that the metadata does not list, or lists as freed.
    FileLeftover Info "file-leftover"
        "it holds nothing that is needed, and a start removes it";
    /// Manifests point to old places of chunks.
    HintStale Info "hint-stale"
        "the chunks are found through the index, which costs a lookup";
    /// Chunks that only their manifests lead to.
    HintOnly Warning "hint-only"
        "they lie in damaged rows and are still read; copy these files elsewhere and store them again";
    /// The checkpoint of the chunk index cannot be read.
    CheckpointDamaged Warning "checkpoint-damaged"
        "a start reads the tables of all segments instead, which takes longer; the next checkpoint replaces it";
    /// Bytes of a file are lost.
    DataLost Damage "data-lost"
        "these bytes of the file cannot be read; restore the file from a copy of your own";
}

/// One finding.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    /// What it is.
    pub kind: ProblemKind,
    /// What exactly is wrong, for people.
    pub detail: String,
    /// The data directory, counted from 1.
    pub directory: Option<usize>,
    /// The file in it.
    pub file: Option<String>,
    /// Where in the file, in bytes.
    pub offset: Option<u64>,
    /// The segment.
    pub segment: Option<SegmentId>,
    /// The row of the segment.
    pub row: Option<u64>,
    /// The path of the user's file, directory or symlink.
    pub path: Option<String>,
    /// Its version.
    pub version: Option<u64>,
    /// The bytes of that version.
    pub range: Option<Range<u64>>,
}

impl Problem {
    /// A problem of no place in particular.
    #[must_use]
    pub fn new(kind: ProblemKind, detail: impl Into<String>) -> Problem {
        Problem {
            kind,
            detail: detail.into(),
            directory: None,
            file: None,
            offset: None,
            segment: None,
            row: None,
            path: None,
            version: None,
            range: None,
        }
    }

    /// Names the file of a data directory.
    #[must_use]
    pub fn in_file(self, directory: usize, file: impl Into<String>) -> Problem {
        Problem { directory: Some(directory), file: Some(file.into()), ..self }
    }

    /// Names the offset in the file.
    #[must_use]
    pub fn at(self, offset: u64) -> Problem {
        Problem { offset: Some(offset), ..self }
    }

    /// Names the user's path.
    #[must_use]
    pub fn of_path(self, path: impl Into<String>) -> Problem {
        Problem { path: Some(path.into()), ..self }
    }
}

/// What was looked at.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Totals {
    /// Files.
    pub files: u64,
    /// Directories, the root included.
    pub directories: u64,
    /// Symlinks.
    pub symlinks: u64,
    /// Retained versions of files.
    pub versions: u64,
    /// Plain bytes of all retained versions.
    pub logical_bytes: u64,
    /// The last metadata command.
    pub last_lsn: u64,
    /// Segments that the metadata lists.
    pub segments: u64,
    /// Bytes of segment files read.
    pub bytes_read: u64,
    /// Rows found.
    pub rows: u64,
    /// Blocks found, and opened unless only what describes them was read.
    pub blocks: u64,
    /// Chunks in them.
    pub chunks: u64,
    /// Plain bytes of these chunks.
    pub plain_bytes: u64,
    /// Chunks that a start puts into the index, each counted once.
    pub distinct_chunks: u64,
    /// Their plain bytes.
    pub distinct_plain_bytes: u64,
    /// Their bytes after compression.
    pub distinct_stored_bytes: u64,
    /// Bytes that the compression of those saves that share a block with others.
    pub distinct_similarity_bytes: u64,
    /// Manifest entries followed.
    pub references: u64,
}

/// What a check found.
#[derive(Clone, Debug, Default)]
pub struct Report {
    /// The problems, in the order in which the structures are read.
    pub problems: Vec<Problem>,
    /// How many there are of each kind, those included that were not kept.
    pub counts: BTreeMap<ProblemKind, u64>,
    /// What was looked at.
    pub totals: Totals,
}

impl Report {
    /// Notes a problem.
    pub fn add(&mut self, problem: Problem) {
        *self.counts.entry(problem.kind).or_default() += 1;
        if self.problems.len() < PROBLEMS_KEPT_MAX {
            self.problems.push(problem);
        }
    }

    /// The worst that was found; `None` if nothing was.
    #[must_use]
    pub fn worst(&self) -> Option<Severity> {
        self.counts.keys().map(|kind| kind.severity()).max()
    }

    /// How many problems of `severity` were found.
    #[must_use]
    pub fn count(&self, severity: Severity) -> u64 {
        self.counts.iter().filter(|(kind, _)| kind.severity() == severity).map(|(_, count)| count).sum()
    }

    /// Problems that were counted and not kept.
    #[must_use]
    pub fn not_kept(&self) -> u64 {
        self.counts.values().sum::<u64>() - self.problems.len() as u64
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes_are_distinct() {
        let codes: std::collections::BTreeSet<&str> = ProblemKind::ALL.iter().map(|kind| kind.code()).collect();
        assert_eq!(codes.len(), ProblemKind::ALL.len());
    }

    #[test]
    fn a_flood_of_problems_is_counted_and_the_worst_is_known() {
        let mut report = Report::default();
        assert_eq!(report.worst(), None);
        for _ in 0..PROBLEMS_KEPT_MAX + 5 {
            report.add(Problem::new(ProblemKind::BlockDamaged, ""));
        }
        report.add(Problem::new(ProblemKind::DataLost, ""));
        assert_eq!((report.problems.len(), report.not_kept()), (PROBLEMS_KEPT_MAX, 6));
        assert_eq!(report.worst(), Some(Severity::Damage));
        assert_eq!(report.count(Severity::Damage), 1);
    }
}
