//! **Corruption beyond redundancy is reported**, naming the file, the version and the bytes: by whoever reads it, and by
//! the offline check; and both tell of the same. Nothing else is reported: where no bit was flipped nothing is damaged.
//! What was stored again after damage, or moved, is found by the index alone once its first segment was freed; and a bit that
//! is flipped in a row which no footer lists takes all chunks of the row out of the index at the next start.
//!
//! How: the harness notes which bits it flips, and a read that calls a block damaged must have met one of them. The last
//! full check notes for every version of every file which of its bytes a read found damaged. With nothing changed since,
//! the offline check must call bytes lost of exactly these versions, in ranges that meet. One thing excuses it: where a
//! row is damaged and no footer lists it, a checkpoint of the index may still lead a reader to its good blocks; the offline
//! check trusts no checkpoint.
//!
//! And where garbage is collected, the offline check may find a copy of a lost chunk in a segment that was not freed yet, which
//! a node has forgotten once it had verified another. What it does call lost of that version may then lie behind the place
//! where the reader stopped.
//!
//! What it would miss: a chunk that is nowhere while a flipped bit lies in another row; damage behind the first of a version,
//! where the reader stops; damage that redundancy makes good, which neither tells as lost; and damage before the first row of
//! a segment, without which the node does not start.

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;

use node::ReadError;
use node::fsck::{ProblemKind, Report};

use super::{Invariant, fsck};
use crate::harness::{VersionsRead, World};
use crate::oracle::{Violation, violation};

/// Where bits were flipped: offsets by the name of the segment file. One that a crash took back stays in it.
#[derive(Default)]
pub struct Flipped(RefCell<BTreeMap<String, BTreeSet<u64>>>);

impl Flipped {
    /// Notes that a bit of the byte at `offset` was flipped.
    pub(crate) fn add(&self, file: &str, offset: u64) {
        self.0.borrow_mut().entry(file.to_owned()).or_default().insert(offset);
    }

    /// Whether a read that met this damage met a flipped bit, or may have found no chunk because of one in the segment
    /// `files` that are there.
    pub(super) fn explains(&self, damage: &ReadError, files: &BTreeSet<String>) -> bool {
        let flipped = self.0.borrow();
        match damage {
            ReadError::Corrupt { location, .. } => {
                let file = format!("segments/{}.{:02}", location.segment, location.column);
                let read = location.read_offset()..location.read_offset() + location.read_bytes() as u64;
                flipped.get(&file).is_some_and(|flipped| flipped.range(read).next().is_some())
            }
            ReadError::Stale(_) => flipped.keys().any(|file| files.contains(file)),
            ReadError::Device { .. } => false,
        }
    }
}

/// Compares what was lost with what was read.
pub(super) fn check(world: &World, report: &Report) -> Result<(), Violation> {
    let read = world.read.borrow();
    let forgotten = if world.plan.collects { Forgotten::Possible } else { Forgotten::None };
    let both = compare(&read, report, forgotten)?;
    world.judge.count(Invariant::Damage, read.len() as u64);
    world.tally.add("damaged versions that both found", both);
    Ok(())
}

/// Copies that only the offline check finds.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Forgotten {
    None,
    Possible,
}

/// Returns how many versions both found damaged.
fn compare(read: &VersionsRead, report: &Report, forgotten: Forgotten) -> Result<u64, Violation> {
    let mut lost: BTreeMap<(String, u64), Vec<Range<u64>>> = BTreeMap::new();
    for problem in report.problems.iter().filter(|problem| problem.kind == ProblemKind::DataLost) {
        let (Some(path), Some(version), Some(range)) = (&problem.path, problem.version, &problem.range) else {
            return Err(violation!("lost bytes of no file: {problem:?}"));
        };
        lost.entry((path.clone(), version)).or_default().push(range.clone());
    }
    if let Some(((path, version), lost)) = lost.iter().find(|(version, _)| !read.contains_key(version)) {
        return Err(violation!(
            "the offline check calls {lost:?} of {path} at {version} lost, which nobody could read"
        ));
    }
    let has_damaged_row = report.problems.iter().any(|problem| problem.kind == ProblemKind::RowDamaged);
    let mut both = 0;
    for (read, damaged) in read {
        let lost = lost.get(read);
        let agree = match (damaged, lost) {
            (None, None) => true,
            (None, Some(_)) => has_damaged_row,
            (Some(damaged), Some(lost)) => {
                lost.iter().any(|lost| lost.start < damaged.end && damaged.start < lost.end)
                    // Of where the reader stopped there is a copy; what it never came to is lost.
                    || forgotten == Forgotten::Possible && lost.iter().all(|lost| lost.start >= damaged.end)
            }
            (Some(_), None) => forgotten == Forgotten::Possible,
        };
        if !agree {
            let ((path, version), shown) = (read, fsck::shown(report));
            return Err(violation!(
                "of {path} at {version} a read found {damaged:?} damaged, the offline check {lost:?}; it reports:{shown}"
            ));
        }
        both += u64::from(damaged.is_some() && lost.is_some());
    }
    Ok(both)
}

#[cfg(test)]
mod tests {
    use super::*;
    use node::fsck::Problem;
    use proto::{Location, SegmentId};

    fn lost(path: &str, version: u64, range: Range<u64>) -> Report {
        let mut report = Report::default();
        let problem = Problem::new(ProblemKind::DataLost, "").of_path(path);
        report.add(Problem { version: Some(version), range: Some(range), ..problem });
        report
    }

    fn read(damaged: Option<Range<u64>>) -> VersionsRead {
        VersionsRead::from([(("/f".to_owned(), 2), damaged)])
    }

    #[test]
    fn only_a_bit_flipped_within_the_read_sectors_explains_damage() {
        let location = Location { segment: SegmentId(7), column: 0, offset: 8256, sectors: 1, ordinal: 0 };
        let explained = |file: &str, offset| {
            let flipped = Flipped::default();
            flipped.add(file, offset);
            flipped.explains(&ReadError::Corrupt { location, what: String::new() }, &BTreeSet::new())
        };
        let file = "segments/0000000000000007.00";
        assert!(explained(file, 8192) && explained(file, 12_287));
        assert!(!explained(file, 8191) && !explained(file, 12_288), "another sector");
        assert!(!explained("segments/0000000000000008.00", 8192), "another segment");
    }

    #[test]
    fn only_a_flipped_bit_in_a_segment_that_is_there_explains_why_a_chunk_is_nowhere() {
        let flipped = Flipped::default();
        flipped.add("segments/0000000000000007.00", 8192);
        let explained = |file: &str| flipped.explains(&ReadError::Stale(SegmentId(3)), &[file.to_owned()].into());
        assert!(explained("segments/0000000000000007.00"));
        assert!(!explained("segments/0000000000000008.00"), "the row is gone with its segment");
    }

    #[test]
    fn readers_and_the_offline_check_must_tell_of_the_same_bytes_of_the_same_version() {
        assert_eq!(compare(&read(None), &Report::default(), Forgotten::None), Ok(0));
        assert_eq!(compare(&read(Some(5..9)), &lost("/f", 2, 0..6), Forgotten::None), Ok(1));
        compare(&read(Some(5..9)), &lost("/f", 2, 0..5), Forgotten::None).expect_err("other bytes");
        compare(&read(Some(5..9)), &lost("/f", 1, 0..6), Forgotten::None).expect_err("another version");
        compare(&read(Some(5..9)), &lost("/g", 2, 0..6), Forgotten::None).expect_err("another file");
        compare(&read(Some(5..9)), &Report::default(), Forgotten::None).expect_err("the offline check found nothing");
        compare(&read(None), &lost("/f", 2, 0..6), Forgotten::None).expect_err("the reader found nothing");
        assert_eq!(compare(&read(Some(5..9)), &Report::default(), Forgotten::Possible), Ok(0));
        compare(&read(Some(5..9)), &lost("/f", 2, 0..5), Forgotten::Possible).expect_err("the reader was past it");
        compare(&read(Some(5..9)), &lost("/f", 2, 9..12), Forgotten::None).expect_err("nothing is forgotten");
        assert_eq!(compare(&read(Some(5..9)), &lost("/f", 2, 9..12), Forgotten::Possible), Ok(1));
    }

    #[test]
    fn a_reader_may_know_blocks_of_a_damaged_row() {
        let mut report = lost("/f", 2, 0..6);
        compare(&read(None), &report, Forgotten::None).expect_err("no row is damaged");
        report.add(Problem::new(ProblemKind::RowDamaged, ""));
        assert_eq!(compare(&read(None), &report, Forgotten::None), Ok(0));
    }

    #[test]
    fn what_is_lost_names_its_file_version_and_bytes() {
        let mut report = Report::default();
        report.add(Problem::new(ProblemKind::DataLost, "").of_path("/f"));
        compare(&read(Some(5..9)), &report, Forgotten::None).expect_err("no version");
    }
}
