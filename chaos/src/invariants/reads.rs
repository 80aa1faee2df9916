//! **Reads return the right bytes or a declared error.** What a read returns are the bytes of a content that the file
//! may have had, up to the error that ended it; the error names the file and a range that was asked for; and what went
//! wrong in this seed explains it.
//!
//! How: before a read the oracle says which contents the file may have; after it one of them must fit.
//!
//! What it would miss: bytes of one content that happen to be those of another at the same place.

use std::collections::BTreeSet;
use std::ops::Range;

use node::FileReadError;

use super::Invariant;
use crate::harness::World;
use crate::harness::faults::Excuse;
use crate::oracle::model::ContentId;
use crate::oracle::{Violation, violation};

/// Whether a read came to its end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum End {
    Reached,
    Error,
}

/// Whether a read of `range` of a file with these `whole` bytes may return `bytes`.
fn fits(whole: &[u8], range: &Range<u64>, bytes: &[u8], end: End) -> bool {
    let stop = usize::try_from(range.end).unwrap_or(usize::MAX).min(whole.len());
    let start = usize::try_from(range.start).unwrap_or(usize::MAX).min(stop);
    let wanted = &whole[start..stop];
    match end {
        End::Reached => wanted == bytes,
        End::Error => wanted.starts_with(bytes),
    }
}

/// Whether an error names the file at `at`, and bytes of the range that was read.
fn is_declared(error: &FileReadError, at: &str, range: &Range<u64>) -> bool {
    match error {
        FileReadError::Damaged { path, range: bad, .. } | FileReadError::Device { path, range: bad, .. } => {
            path == at && bad.start < range.end && range.start < bad.end
        }
        FileReadError::Refused(_) => false,
    }
}

/// Checks what a read returned; returns the contents that it can have come from.
pub(crate) fn check(
    world: &World,
    at: &str,
    range: Range<u64>,
    allowed: &BTreeSet<ContentId>,
    (bytes, error): (&[u8], Option<FileReadError>),
) -> Result<BTreeSet<ContentId>, Violation> {
    world.judge.count(Invariant::Reads, 1);
    let end = if error.is_some() { End::Error } else { End::Reached };
    let whole = |content: &ContentId| world.oracle.borrow().content(*content);
    let from: BTreeSet<ContentId> =
        allowed.iter().filter(|content| fits(&whole(content), &range, bytes, end)).copied().collect();
    if from.is_empty() {
        let sizes: Vec<usize> = allowed.iter().map(|content| whole(content).len()).collect();
        let got = bytes.len();
        return Err(violation!("{at} bytes {range:?}: {got} wrong bytes; contents of {sizes:?} bytes are allowed"));
    }
    if let Some(error) = error {
        if !is_declared(&error, at, &range) {
            return Err(violation!("a read of {at} bytes {range:?} failed with: {error}"));
        }
        if let FileReadError::Damaged { source, .. } = &error
            && !world.excuses(Excuse::UnflippedDamage)
            && !world.flipped.explains(source, &world.files())
        {
            return Err(violation!("a read of {at} bytes {range:?} failed, though no bit flipped there: {error}"));
        }
        world.tolerate_read_error(at, &range, &error)?;
    }
    Ok(from)
}

#[cfg(test)]
mod tests {
    use super::*;
    use node::ReadError;

    fn damaged(path: &str, range: Range<u64>) -> FileReadError {
        FileReadError::Damaged { path: path.to_owned(), range, source: ReadError::Stale(proto::SegmentId(1)) }
    }

    #[test]
    fn only_the_bytes_of_the_range_fit_and_only_an_error_cuts_them_short() {
        let whole = b"0123456789";
        assert!(fits(whole, &(2..5), b"234", End::Reached));
        assert!(fits(whole, &(8..20), b"89", End::Reached));
        assert!(fits(whole, &(20..30), b"", End::Reached));
        assert!(!fits(whole, &(2..5), b"23", End::Reached), "short");
        assert!(!fits(whole, &(2..5), b"2345", End::Reached), "long");
        assert!(!fits(whole, &(2..5), b"345", End::Reached), "shifted");
        assert!(fits(whole, &(2..5), b"23", End::Error));
        assert!(!fits(whole, &(2..5), b"24", End::Error), "wrong before the error");
    }

    #[test]
    fn an_error_names_the_file_and_bytes_that_were_asked_for() {
        assert!(is_declared(&damaged("/f", 10..20), "/f", &(0..11)));
        assert!(!is_declared(&damaged("/g", 10..20), "/f", &(0..11)), "another file");
        assert!(!is_declared(&damaged("/f", 10..20), "/f", &(0..10)), "other bytes");
        assert!(!is_declared(&FileReadError::Refused(meta::MetaError::NotFound), "/f", &(0..10)));
    }
}
