//! Conditional requests (RFC 9110, section 13): which headers count, in which order, and what they come to.
//!
//! Entity tags are compared strongly for `If-Match` and `If-Range`, weakly for `If-None-Match`. Dates have seconds, and
//! are those of the modification time, which clients may set: tags are the exact way, and win over dates.
//!
//! Conditions of a change are looked at before its body is read, to refuse early, and then hold it to what was seen:
//! the commit fails if the object has another version by then.

use hyper::HeaderMap;
use hyper::header::{HeaderName, IF_MATCH, IF_MODIFIED_SINCE, IF_NONE_MATCH, IF_RANGE, IF_UNMODIFIED_SINCE};
use node::{Condition, FileInfo};
use proto::api::Kind;

use super::date::{parse_http_date, unix_seconds};
use super::error::ApiError;
use super::idempotency::Once;

/// Conditions of a change.
const OF_CHANGES: [HeaderName; 3] = [IF_MATCH, IF_NONE_MATCH, IF_UNMODIFIED_SINCE];

/// An entity tag of a request.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Tag<'a> {
    weak: bool,
    /// With its quotes.
    opaque: &'a str,
}

/// The tags of a header.
#[derive(Debug, PartialEq, Eq)]
enum Tags<'a> {
    /// `*`: whatever exists.
    Any,
    List(Vec<Tag<'a>>),
}

impl Tags<'_> {
    /// Whether one of the tags means the object, by the weak comparison.
    fn meet(&self, current: Option<&FileInfo>) -> bool {
        match self {
            Tags::Any => current.is_some(),
            Tags::List(tags) => etag(current).is_some_and(|etag| tags.iter().any(|tag| tag.opaque == etag)),
        }
    }

    /// The same by the strong comparison: a weak tag never matches.
    fn meet_strongly(&self, current: Option<&FileInfo>) -> bool {
        match self {
            Tags::Any => current.is_some(),
            Tags::List(tags) => {
                etag(current).is_some_and(|etag| tags.iter().any(|tag| !tag.weak && tag.opaque == etag))
            }
        }
    }
}

/// The tag of an object; a directory has none.
fn etag(current: Option<&FileInfo>) -> Option<String> {
    current.filter(|info| info.kind() != Kind::Directory).map(FileInfo::etag)
}

/// Takes one tag off the front of `text`.
fn tag(text: &str) -> Option<(Tag<'_>, &str)> {
    let (weak, quoted) = text.strip_prefix("W/").map_or((false, text), |quoted| (true, quoted));
    let end = quoted.strip_prefix('"')?.find('"')? + 2;
    let (opaque, rest) = quoted.split_at(end);
    Some((Tag { weak, opaque }, rest))
}

/// Reads `*`, or a list of tags; a list may have empty elements.
fn parse(text: &str) -> Option<Tags<'_>> {
    if text.trim() == "*" {
        return Some(Tags::Any);
    }
    let separators = |c: char| matches!(c, ',' | ' ' | '\t');
    let mut tags = Vec::new();
    let mut rest = text.trim_start_matches(separators);
    while !rest.is_empty() {
        let (tag, after) = tag(rest)?;
        tags.push(tag);
        rest = after.trim_start_matches([' ', '\t']);
        if !rest.is_empty() && !rest.starts_with(',') {
            return None;
        }
        rest = rest.trim_start_matches(separators);
    }
    (!tags.is_empty()).then_some(Tags::List(tags))
}

/// Reads the tags of a header; several lines of it are one list.
fn tags(
    headers: &HeaderMap,
    name: HeaderName,
    judge: impl FnOnce(&Tags<'_>) -> bool,
) -> Result<Option<bool>, ApiError> {
    let bad = || ApiError::bad_header(name.as_str(), "expected '*' or entity tags in double quotes");
    let lines: Option<Vec<&str>> =
        headers.get_all(&name).iter().map(|line| str::from_utf8(line.as_bytes()).ok()).collect();
    let lines = lines.ok_or_else(bad)?;
    if lines.is_empty() {
        return Ok(None);
    }
    let list = lines.join(",");
    parse(&list).as_ref().map(judge).map(Some).ok_or_else(bad)
}

/// Reads a date in seconds since the Unix epoch. As RFC 9110 has it, what is no date is no condition.
fn date(headers: &HeaderMap, name: HeaderName) -> Option<u64> {
    let mut lines = headers.get_all(name).iter();
    match (lines.next(), lines.next()) {
        (Some(line), None) => parse_http_date(line.to_str().ok()?),
        _ => None,
    }
}

/// Which conditions count.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Method {
    Read,
    Change,
}

/// What the conditions of a request come to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Verdict {
    /// All of them hold.
    Holds,
    /// The client of a read has these bytes already.
    NotModified,
    /// One does not hold.
    Fails,
}

/// Judges the conditions of a request in the order of RFC 9110, section 13.2.2. `current` is what has the name now.
fn judge(headers: &HeaderMap, current: Option<&FileInfo>, method: Method) -> Result<Verdict, ApiError> {
    let modified = current.map(|info| unix_seconds(info.inode.mtime_ns));
    let is_later_than = |date: Option<u64>| modified.zip(date).map(|(modified, date)| modified > date);
    let is_expected = match tags(headers, IF_MATCH, |tags| tags.meet_strongly(current))? {
        Some(is_expected) => is_expected,
        None => is_later_than(date(headers, IF_UNMODIFIED_SINCE)) != Some(true),
    };
    let is_known = match tags(headers, IF_NONE_MATCH, |tags| tags.meet(current))? {
        Some(is_known) => is_known,
        None => method == Method::Read && is_later_than(date(headers, IF_MODIFIED_SINCE)) == Some(false),
    };
    Ok(match (is_expected, is_known) {
        (false, _) => Verdict::Fails,
        (true, false) => Verdict::Holds,
        (true, true) if method == Method::Read => Verdict::NotModified,
        (true, true) => Verdict::Fails,
    })
}

fn failed(current: Option<&FileInfo>) -> ApiError {
    ApiError::precondition_failed(match (current, etag(current)) {
        (_, Some(etag)) => format!("the condition does not hold: the entity tag is {etag} now"),
        (Some(_), None) => "the condition does not hold: this is a directory".to_owned(),
        (None, None) => "the condition does not hold: nothing has this name".to_owned(),
    })
}

/// What the conditions of a read come to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum ReadCondition {
    /// Send what was asked for.
    Send,
    /// The client has these bytes already: 304.
    NotModified,
}

/// Checks the conditions of a `GET` or `HEAD` of a file, at the version that `info` describes.
///
/// # Errors
/// 400 `bad_header`, 412 `precondition_failed`.
pub(crate) fn of_read(headers: &HeaderMap, info: &FileInfo) -> Result<ReadCondition, ApiError> {
    match judge(headers, Some(info), Method::Read)? {
        Verdict::Holds => Ok(ReadCondition::Send),
        Verdict::NotModified => Ok(ReadCondition::NotModified),
        Verdict::Fails => Err(failed(Some(info))),
    }
}

/// Whether a `Range` header still means these bytes: there is no `If-Range`, or it names them.
///
/// A date never does: it is no strong validator, because the next version may have the same.
pub(crate) fn range_holds(headers: &HeaderMap, etag: &str) -> bool {
    let mut lines = headers.get_all(IF_RANGE).iter();
    match (lines.next(), lines.next()) {
        (None, _) => true,
        (Some(line), None) => line.to_str().is_ok_and(|value| value.trim() == etag),
        (Some(_), Some(_)) => false,
    }
}

/// Whether a change has conditions.
pub(crate) fn are_given(headers: &HeaderMap) -> bool {
    OF_CHANGES.iter().any(|name| headers.contains_key(name))
}

/// Refuses the conditions that a call cannot check within its commit, rather than ignoring them.
///
/// # Errors
/// 400 `bad_header`.
pub(crate) fn none(headers: &HeaderMap) -> Result<(), ApiError> {
    match OF_CHANGES.iter().find(|name| headers.contains_key(*name)) {
        None => Ok(()),
        Some(name) => Err(ApiError::bad_header(name.as_str(), "this call cannot be made conditional")),
    }
}

/// Translates the conditions of a `PUT` for its commit. `current` is the object that has the name now.
///
/// A request that may be a repetition goes to the log also if its condition does not hold: perhaps it held before the
/// request itself had its effect.
///
/// # Errors
/// 400 `bad_header`; 412 `precondition_failed` if the condition does not hold.
pub(crate) fn of_put(headers: &HeaderMap, current: Option<&FileInfo>, once: &Once) -> Result<Condition, ApiError> {
    if !are_given(headers) {
        return Ok(Condition::Any);
    }
    match judge(headers, current, Method::Change)? {
        Verdict::Holds => Ok(pin(headers, current)),
        _ if once.may_be_repeated() => Ok(Condition::NEVER),
        _ => Err(failed(current)),
    }
}

/// Translates the conditions of a change of an object that must exist. What does not exist is not found, whatever the
/// condition.
///
/// # Errors
/// As [`of_put`].
pub(crate) fn of_change(headers: &HeaderMap, current: Option<&FileInfo>, once: &Once) -> Result<Condition, ApiError> {
    match of_put(headers, current, once) {
        Err(error) if current.is_none() && error.status == hyper::StatusCode::PRECONDITION_FAILED => {
            Ok(Condition::NEVER)
        }
        other => other,
    }
}

/// The condition that holds a commit to what was judged.
fn pin(headers: &HeaderMap, current: Option<&FileInfo>) -> Condition {
    let only = |name: &HeaderName| OF_CHANGES.iter().all(|other| other == name || !headers.contains_key(other));
    match current {
        // `*` goes on holding when a file gets another version.
        Some(_) if only(&IF_MATCH) && headers.get(IF_MATCH).is_some_and(|value| value.as_bytes() == b"*") => {
            Condition::Exists
        }
        Some(info) => Condition::Match { inode: info.inode.inode, version: info.version() },
        None => Condition::Absent,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use hyper::header::HeaderValue;
    use meta::{Detail, Inode};
    use proto::{ClusterId, FileId, InodeId, VersionNumber};

    const MODIFIED: &str = "Sun, 06 Nov 1994 08:49:37 GMT";
    const BEFORE: &str = "Sun, 06 Nov 1994 08:49:36 GMT";

    fn map(headers: &[(HeaderName, &'static str)]) -> HeaderMap {
        let mut map = HeaderMap::new();
        for (name, value) in headers {
            map.append(name, HeaderValue::from_static(value));
        }
        map
    }

    /// Inode 1 at version 2: its tag is `"0000000000000001-2"`.
    fn info(kind: Kind) -> FileInfo {
        let inode = Inode {
            inode: InodeId(1),
            kind,
            parent: InodeId::ROOT,
            name: "a".to_owned(),
            mode: 0o644,
            owner: 0,
            nlink: 1,
            created_ns: 0,
            committed_ns: 0,
            mtime_ns: 784_111_777_999_999_999,
            version: VersionNumber(2),
            size: 0,
            detail: Detail::None,
            user_metadata: Vec::new(),
        };
        FileInfo { id: FileId::new(ClusterId([1; 16]), InodeId(1)), inode, path: "/a".to_owned() }
    }

    #[test]
    fn lists_of_tags_are_read() {
        let strong = |opaque| Tag { weak: false, opaque };
        assert_eq!(parse(" * "), Some(Tags::Any));
        assert_eq!(parse("\"a\""), Some(Tags::List(vec![strong("\"a\"")])));
        let list = vec![strong("\"a,b\""), Tag { weak: true, opaque: "\"c\"" }];
        assert_eq!(parse("\"a,b\" , W/\"c\""), Some(Tags::List(list)));
        assert_eq!(parse(",, \"a\" ,\t,"), Some(Tags::List(vec![strong("\"a\"")])));
        for text in ["", ",", "a", "\"a", "\"a\" \"b\"", "w/\"a\"", "*, \"a\"", "\"a\"b"] {
            assert_eq!(parse(text), None, "{text}");
        }
        let lines = map(&[(IF_MATCH, "\"x\""), (IF_MATCH, "\"0000000000000001-2\"")]);
        assert_eq!(judge(&lines, Some(&info(Kind::File)), Method::Change).unwrap(), Verdict::Holds, "one list");
    }

    #[test]
    fn the_conditions_of_a_read_count_in_order() {
        const NOW: &str = "\"0000000000000001-2\"";
        const WEAK: &str = "W/\"0000000000000001-2\"";
        const OTHER: &str = "\"0000000000000001-1\"";
        use Verdict::{Fails, Holds, NotModified};
        for (headers, expected) in [
            (&[][..], Holds),
            (&[(IF_MATCH, NOW)], Holds),
            (&[(IF_MATCH, "*")], Holds),
            (&[(IF_MATCH, WEAK)], Fails),
            (&[(IF_MATCH, OTHER)], Fails),
            (&[(IF_MATCH, NOW), (IF_UNMODIFIED_SINCE, BEFORE)], Holds),
            (&[(IF_UNMODIFIED_SINCE, MODIFIED)], Holds),
            (&[(IF_UNMODIFIED_SINCE, BEFORE)], Fails),
            (&[(IF_UNMODIFIED_SINCE, "yesterday")], Holds),
            (&[(IF_NONE_MATCH, NOW)], NotModified),
            (&[(IF_NONE_MATCH, WEAK)], NotModified),
            (&[(IF_NONE_MATCH, "*")], NotModified),
            (&[(IF_NONE_MATCH, OTHER)], Holds),
            (&[(IF_NONE_MATCH, OTHER), (IF_MODIFIED_SINCE, MODIFIED)], Holds),
            (&[(IF_MODIFIED_SINCE, MODIFIED)], NotModified),
            (&[(IF_MODIFIED_SINCE, BEFORE)], Holds),
            (&[(IF_MODIFIED_SINCE, MODIFIED), (IF_MODIFIED_SINCE, MODIFIED)], Holds),
            (&[(IF_MATCH, OTHER), (IF_NONE_MATCH, NOW)], Fails),
            (&[(IF_MATCH, NOW), (IF_NONE_MATCH, NOW)], NotModified),
        ] {
            assert_eq!(judge(&map(headers), Some(&info(Kind::File)), Method::Read).unwrap(), expected, "{headers:?}");
        }
        assert_eq!(of_read(&map(&[(IF_MATCH, "1-2")]), &info(Kind::File)).unwrap_err().status.as_u16(), 400);
    }

    #[test]
    fn a_range_of_another_version_is_not_sent() {
        assert!(range_holds(&HeaderMap::new(), "\"1-2\""));
        assert!(range_holds(&map(&[(IF_RANGE, "\"1-2\"")]), "\"1-2\""));
        assert!(!range_holds(&map(&[(IF_RANGE, "W/\"1-2\"")]), "\"1-2\""));
        assert!(!range_holds(&map(&[(IF_RANGE, MODIFIED)]), "\"1-2\""));
        assert!(!range_holds(&map(&[(IF_RANGE, "\"1-2\""), (IF_RANGE, "\"1-2\"")]), "\"1-2\""));
    }

    #[test]
    fn changes_are_held_to_what_was_judged() {
        const NOW: &str = "\"0000000000000001-2\"";
        let file = info(Kind::File);
        let at = Condition::Match { inode: InodeId(1), version: VersionNumber(2) };
        for (headers, current, expected) in [
            (&[][..], Some(&file), Some(Condition::Any)),
            (&[(IF_NONE_MATCH, "*")], None, Some(Condition::Absent)),
            (&[(IF_NONE_MATCH, "*")], Some(&file), None),
            (&[(IF_NONE_MATCH, "\"x\"")], Some(&file), Some(at)),
            (&[(IF_NONE_MATCH, NOW)], Some(&file), None),
            (&[(IF_MATCH, "*")], Some(&file), Some(Condition::Exists)),
            (&[(IF_MATCH, "*")], None, None),
            (&[(IF_MATCH, NOW)], Some(&file), Some(at)),
            (&[(IF_MATCH, "\"x\"")], Some(&file), None),
            (&[(IF_MATCH, NOW), (IF_NONE_MATCH, "\"x\"")], Some(&file), Some(at)),
            (&[(IF_MATCH, NOW), (IF_NONE_MATCH, NOW)], Some(&file), None),
            (&[(IF_UNMODIFIED_SINCE, MODIFIED)], Some(&file), Some(at)),
            (&[(IF_UNMODIFIED_SINCE, BEFORE)], Some(&file), None),
            (&[(IF_UNMODIFIED_SINCE, BEFORE)], None, Some(Condition::Absent)),
            (&[(IF_MODIFIED_SINCE, MODIFIED)], Some(&file), Some(Condition::Any)),
        ] {
            let headers = map(headers);
            assert_eq!(of_put(&headers, current, &Once::Never).ok(), expected, "{headers:?}");
            let numbered = Once::Numbered(node::Session::Numbered { client: 1, sequence: 1, acked_below: 0 });
            let expected = expected.unwrap_or(Condition::NEVER);
            assert_eq!(of_put(&headers, current, &numbered).unwrap(), expected, "perhaps a repetition: {headers:?}");
        }
        assert_eq!(of_change(&map(&[(IF_MATCH, NOW)]), None, &Once::Never).unwrap(), Condition::NEVER);
        assert!(of_change(&map(&[(IF_MATCH, NOW)]), Some(&info(Kind::Directory)), &Once::Never).is_err());
        assert!(none(&HeaderMap::new()).is_ok() && none(&map(&[(IF_MATCH, NOW)])).is_err());
    }
}
