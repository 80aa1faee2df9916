//! The `Range` header: which bytes of a file to send (RFC 9110, section 14).

use std::ops::Range;

/// What a `Range` header asks for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Selection {
    /// The whole file: there is no header, or one that a server may ignore (malformed, another unit, several ranges).
    Whole,
    /// These bytes; never empty, and within the file.
    Part(Range<u64>),
    /// None of the bytes asked for exist.
    Unsatisfiable,
}

/// Reads a `Range` header for a file of `size` bytes.
pub(crate) fn select(header: Option<&[u8]>, size: u64) -> Selection {
    let parsed = header.and_then(|header| std::str::from_utf8(header).ok()).and_then(parse);
    match parsed {
        None => Selection::Whole,
        Some((Some(first), _)) if first >= size => Selection::Unsatisfiable,
        Some((Some(first), last)) => Selection::Part(first..last.map_or(size, |last| last.saturating_add(1).min(size))),
        Some((None, Some(0))) => Selection::Unsatisfiable,
        // The end of an empty file is all of it.
        Some((None, _)) if size == 0 => Selection::Whole,
        Some((None, suffix)) => Selection::Part(size.saturating_sub(suffix.unwrap_or(size))..size),
    }
}

/// Splits `bytes=first-last` or `bytes=-suffix`; `None` for anything else, also for `last` before `first`.
fn parse(text: &str) -> Option<(Option<u64>, Option<u64>)> {
    let (unit, spec) = text.split_once('=')?;
    if !unit.trim().eq_ignore_ascii_case("bytes") {
        return None;
    }
    let (first, last) = spec.trim().split_once('-')?;
    let (first, last) = (number(first)?, number(last)?);
    match (first, last) {
        (None, None) => None,
        (Some(first), Some(last)) if last < first => None,
        both => Some(both),
    }
}

/// Reads digits, empty for `Some(None)`. A number beyond 64 bits lies beyond every file.
fn number(text: &str) -> Option<Option<u64>> {
    if text.is_empty() {
        return Some(None);
    }
    text.bytes().all(|byte| byte.is_ascii_digit()).then(|| Some(text.parse().unwrap_or(u64::MAX)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(header: &str, size: u64) -> Selection {
        select(Some(header.as_bytes()), size)
    }

    #[test]
    fn single_ranges_select_their_bytes() {
        assert_eq!(of("bytes=0-0", 10), Selection::Part(0..1));
        assert_eq!(of("bytes=3-5", 10), Selection::Part(3..6));
        assert_eq!(of("bytes=3-", 10), Selection::Part(3..10));
        assert_eq!(of("bytes=3-99", 10), Selection::Part(3..10));
        assert_eq!(of("bytes=-3", 10), Selection::Part(7..10));
        assert_eq!(of("bytes=-99", 10), Selection::Part(0..10));
        assert_eq!(of("Bytes=9-99999999999999999999999", 10), Selection::Part(9..10));
        assert_eq!(of("bytes=0-18446744073709551615", 10), Selection::Part(0..10));
    }

    #[test]
    fn bytes_that_do_not_exist_are_unsatisfiable() {
        for header in ["bytes=10-", "bytes=10-20", "bytes=-0", "bytes=99999999999999999999999-"] {
            assert_eq!(of(header, 10), Selection::Unsatisfiable, "{header}");
        }
        assert_eq!(of("bytes=0-", 0), Selection::Unsatisfiable);
        assert_eq!(of("bytes=-5", 0), Selection::Whole);
    }

    #[test]
    fn what_is_malformed_is_ignored() {
        assert_eq!(select(None, 10), Selection::Whole);
        assert_eq!(select(Some(b"bytes=\xff-"), 10), Selection::Whole);
        for header in [
            "",
            "bytes",
            "bytes=",
            "bytes=-",
            "bytes=5-4",
            "bytes=a-b",
            "bytes=1-2,4-5",
            "bytes=+1-2",
            "lines=1-2",
            "bytes=1",
            "bytes=1-2-3",
            "bytes=1 -2",
        ] {
            assert_eq!(of(header, 10), Selection::Whole, "{header}");
        }
    }
}
