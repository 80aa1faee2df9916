//! **Corruption beyond redundancy is reported**, naming the file, the version and the bytes: by whoever reads it, and by
//! the offline check; and both tell of the same.
//!
//! How: the last full check notes for every version of every file which of its bytes a read found damaged. With nothing
//! changed since, the offline check must call bytes lost of exactly these versions, in ranges that meet.
//!
//! What it would miss: damage behind the first of a version, where the reader stops; damage that redundancy makes good,
//! which neither tells as lost; and damage before the first row of a segment, without which the node does not start.

use std::collections::BTreeMap;
use std::ops::Range;

use node::fsck::{ProblemKind, Report};

use super::{Invariant, fsck};
use crate::harness::{VersionsRead, World};
use crate::oracle::{Violation, violation};

/// Compares what was lost with what was read.
pub(super) fn check(world: &World, report: &Report) -> Result<(), Violation> {
    let read = world.read.borrow();
    let both = compare(&read, report)?;
    world.judge.count(Invariant::Damage, read.len() as u64);
    world.tally.add("damaged versions that both found", both);
    Ok(())
}

/// Returns how many versions both found damaged.
fn compare(read: &VersionsRead, report: &Report) -> Result<u64, Violation> {
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
    let mut both = 0;
    for (read, damaged) in read {
        let lost = lost.get(read);
        let agree = match (damaged, lost) {
            (None, None) => true,
            (Some(damaged), Some(lost)) => lost.iter().any(|lost| lost.start < damaged.end && damaged.start < lost.end),
            _ => false,
        };
        if !agree {
            let ((path, version), shown) = (read, fsck::shown(report));
            return Err(violation!(
                "of {path} at {version} a read found {damaged:?} damaged, the offline check {lost:?}; it reports:{shown}"
            ));
        }
        both += u64::from(damaged.is_some());
    }
    Ok(both)
}

#[cfg(test)]
mod tests {
    use super::*;
    use node::fsck::Problem;

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
    fn readers_and_the_offline_check_must_tell_of_the_same_bytes_of_the_same_version() {
        assert_eq!(compare(&read(None), &Report::default()), Ok(0));
        assert_eq!(compare(&read(Some(5..9)), &lost("/f", 2, 0..6)), Ok(1));
        compare(&read(Some(5..9)), &lost("/f", 2, 0..5)).expect_err("other bytes");
        compare(&read(Some(5..9)), &lost("/f", 1, 0..6)).expect_err("another version");
        compare(&read(Some(5..9)), &lost("/g", 2, 0..6)).expect_err("another file");
        compare(&read(Some(5..9)), &Report::default()).expect_err("the offline check found nothing");
        compare(&read(None), &lost("/f", 2, 0..6)).expect_err("the reader found nothing");
    }

    #[test]
    fn what_is_lost_names_its_file_version_and_bytes() {
        let mut report = Report::default();
        report.add(Problem::new(ProblemKind::DataLost, "").of_path("/f"));
        compare(&read(Some(5..9)), &report).expect_err("no version");
    }
}
