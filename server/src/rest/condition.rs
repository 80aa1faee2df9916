//! Conditional requests: `If-Match`, `If-None-Match` and `If-Range` (RFC 9110, section 13).

use hyper::HeaderMap;
use hyper::header::{IF_MATCH, IF_NONE_MATCH, IF_RANGE};
use node::{Condition, FileInfo};
use proto::{InodeId, VersionNumber};

use super::error::ApiError;
use super::headers::single;

/// A version that no file reaches: its condition always fails at the commit.
const NO_VERSION: VersionNumber = VersionNumber(u64::MAX);

/// An entity tag of a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
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
    /// Whether one of the tags means the bytes of `etag`; by the weak comparison.
    fn meet(&self, etag: &str) -> bool {
        match self {
            Tags::Any => true,
            Tags::List(tags) => tags.iter().any(|tag| tag.opaque == etag),
        }
    }

    /// The same by the strong comparison: a weak tag never matches.
    fn meet_strongly(&self, etag: &str) -> bool {
        match self {
            Tags::Any => true,
            Tags::List(tags) => tags.iter().any(|tag| !tag.weak && tag.opaque == etag),
        }
    }
}

/// Takes one tag off the front of `text`.
fn tag(text: &str) -> Option<(Tag<'_>, &str)> {
    let (weak, quoted) = text.strip_prefix("W/").map_or((false, text), |quoted| (true, quoted));
    let end = quoted.strip_prefix('"')?.find('"')? + 2;
    let (opaque, rest) = quoted.split_at(end);
    Some((Tag { weak, opaque }, rest))
}

fn parse(text: &str) -> Option<Tags<'_>> {
    let mut rest = text.trim();
    if rest == "*" {
        return Some(Tags::Any);
    }
    let mut tags = Vec::new();
    loop {
        let (tag, after) = tag(rest)?;
        tags.push(tag);
        match after.trim_start() {
            "" => return Some(Tags::List(tags)),
            after => rest = after.strip_prefix(',')?.trim_start(),
        }
    }
}

fn tags<'a>(headers: &'a HeaderMap, name: &str) -> Result<Option<Tags<'a>>, ApiError> {
    let Some(value) = single(headers, name)? else { return Ok(None) };
    let tags = std::str::from_utf8(value).ok().and_then(parse);
    tags.map(Some).ok_or_else(|| ApiError::bad_header(name, "expected '*' or entity tags in double quotes"))
}

/// What the conditions of a read come to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum ReadCondition {
    /// Send what was asked for.
    Send,
    /// The client has these bytes already: 304.
    NotModified,
}

/// Checks the conditions of a `GET` or `HEAD` of a file.
///
/// # Errors
/// 400 `bad_header`, 412 `precondition_failed`.
pub(crate) fn of_read(headers: &HeaderMap, etag: &str) -> Result<ReadCondition, ApiError> {
    if tags(headers, IF_MATCH.as_str())?.is_some_and(|tags| !tags.meet_strongly(etag)) {
        return Err(ApiError::precondition_failed(format!("the file has changed: its entity tag is {etag}")));
    }
    let known = tags(headers, IF_NONE_MATCH.as_str())?.is_some_and(|tags| tags.meet(etag));
    Ok(if known { ReadCondition::NotModified } else { ReadCondition::Send })
}

/// Whether a `Range` header still means these bytes: there is no `If-Range`, or it names them.
///
/// A date never does: times have seconds, versions do not wait for the next one.
pub(crate) fn range_holds(headers: &HeaderMap, etag: &str) -> bool {
    match headers.get(IF_RANGE) {
        None => true,
        Some(value) => value.to_str().is_ok_and(|value| value.trim() == etag),
    }
}

/// Refuses the conditions that a call cannot check within its commit, rather than ignoring them.
///
/// # Errors
/// 400 `bad_header`.
pub(crate) fn none(headers: &HeaderMap) -> Result<(), ApiError> {
    match [IF_MATCH, IF_NONE_MATCH].iter().find(|name| headers.contains_key(*name)) {
        None => Ok(()),
        Some(name) => Err(ApiError::bad_header(name.as_str(), "this call cannot be made conditional")),
    }
}

/// Whether the client has a place in its exactly-once window.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Repeatable {
    /// The request may be a repetition, whose answer only the commit knows.
    Yes,
    /// Every request is new, so a condition that fails now can be answered before the body is read.
    No,
}

/// Translates the conditions of a `PUT` for its commit. `current` is the object that has the name now.
///
/// # Errors
/// 400 `bad_header`; 412 `precondition_failed` if the condition fails already.
pub(crate) fn of_write(
    headers: &HeaderMap,
    current: Option<&FileInfo>,
    repeatable: Repeatable,
) -> Result<Condition, ApiError> {
    let if_match = tags(headers, IF_MATCH.as_str())?;
    let if_none_match = tags(headers, IF_NONE_MATCH.as_str())?;
    match (if_match, if_none_match) {
        (None, None) => Ok(Condition::Any),
        (None, Some(Tags::Any)) => match current {
            Some(_) if repeatable == Repeatable::No => Err(ApiError::precondition_failed("the name is taken")),
            _ => Ok(Condition::Absent),
        },
        (Some(tags @ Tags::List(_)), None) => match current.filter(|info| tags.meet_strongly(&info.etag())) {
            Some(info) => Ok(Condition::Match { inode: info.inode.inode, version: info.version() }),
            // A repetition: the version that it names was replaced by the request itself.
            None if repeatable == Repeatable::Yes => Ok(named_version(&tags)),
            None => Err(ApiError::precondition_failed(match current {
                Some(info) => format!("the file has changed: its entity tag is {}", info.etag()),
                None => "there is no such file".to_owned(),
            })),
        },
        (Some(Tags::Any), None) => Err(ApiError::bad_header(IF_MATCH.as_str(), "send the entity tag instead of '*'")),
        (None, Some(Tags::List(_))) => Err(ApiError::bad_header(IF_NONE_MATCH.as_str(), "a PUT takes only '*'")),
        (Some(_), Some(_)) => Err(ApiError::bad_header(IF_MATCH.as_str(), "send one condition, not both")),
    }
}

/// The file and version that a single tag names; one that never matches for anything else.
fn named_version(tags: &Tags<'_>) -> Condition {
    let named = || {
        let Tags::List(tags) = tags else { return None };
        let [Tag { weak: false, opaque }] = tags[..] else { return None };
        let (inode, version) = opaque.strip_prefix('"')?.strip_suffix('"')?.split_once('-')?;
        Some((InodeId(u64::from_str_radix(inode, 16).ok()?), VersionNumber(version.parse().ok()?)))
    };
    let (inode, version) = named().unwrap_or((InodeId(0), NO_VERSION));
    Condition::Match { inode, version }
}

#[cfg(test)]
mod tests {
    use super::*;
    use hyper::header::HeaderValue;

    fn map(name: hyper::header::HeaderName, value: &'static str) -> HeaderMap {
        HeaderMap::from_iter([(name, HeaderValue::from_static(value))])
    }

    #[test]
    fn lists_of_tags_are_read() {
        let strong = |opaque| Tag { weak: false, opaque };
        assert_eq!(parse(" * "), Some(Tags::Any));
        assert_eq!(parse("\"a\""), Some(Tags::List(vec![strong("\"a\"")])));
        let list = vec![strong("\"a,b\""), Tag { weak: true, opaque: "\"c\"" }];
        assert_eq!(parse("\"a,b\" , W/\"c\""), Some(Tags::List(list)));
        for text in ["", "a", "\"a", "\"a\" \"b\"", "\"a\",", "w/\"a\""] {
            assert_eq!(parse(text), None, "{text}");
        }
    }

    #[test]
    fn a_known_tag_needs_no_bytes() {
        let etag = "\"1-2\"";
        for (value, expected) in [
            ("\"1-2\"", ReadCondition::NotModified),
            ("W/\"1-2\"", ReadCondition::NotModified),
            ("\"x\", \"1-2\"", ReadCondition::NotModified),
            ("*", ReadCondition::NotModified),
            ("\"1-3\"", ReadCondition::Send),
        ] {
            assert_eq!(of_read(&map(IF_NONE_MATCH, value), etag).unwrap(), expected, "{value}");
        }
        assert_eq!(of_read(&map(IF_MATCH, "\"1-2\""), etag).unwrap(), ReadCondition::Send);
        assert_eq!(of_read(&map(IF_MATCH, "W/\"1-2\""), etag).unwrap_err().status.as_u16(), 412);
        assert_eq!(of_read(&map(IF_MATCH, "1-2"), etag).unwrap_err().status.as_u16(), 400);
    }

    #[test]
    fn a_range_of_another_version_is_not_sent() {
        assert!(range_holds(&HeaderMap::new(), "\"1-2\""));
        assert!(range_holds(&map(IF_RANGE, "\"1-2\""), "\"1-2\""));
        assert!(!range_holds(&map(IF_RANGE, "W/\"1-2\""), "\"1-2\""));
        assert!(!range_holds(&map(IF_RANGE, "Sun, 06 Nov 1994 08:49:37 GMT"), "\"1-2\""));
    }

    #[test]
    fn writes_know_two_conditions() {
        let of = |name, value| of_write(&map(name, value), None, Repeatable::No);
        assert_eq!(of_write(&HeaderMap::new(), None, Repeatable::No).unwrap(), Condition::Any);
        assert_eq!(of(IF_NONE_MATCH, "*").unwrap(), Condition::Absent);
        assert_eq!(of(IF_MATCH, "\"1-2\"").unwrap_err().status.as_u16(), 412);
        assert_eq!(of(IF_MATCH, "*").unwrap_err().status.as_u16(), 400);
        assert_eq!(of(IF_NONE_MATCH, "\"1-2\"").unwrap_err().status.as_u16(), 400);
        let later = of_write(&map(IF_MATCH, "\"1-2\""), None, Repeatable::Yes).unwrap();
        assert_eq!(later, Condition::Match { inode: InodeId(1), version: VersionNumber(2) });
        assert!(none(&HeaderMap::new()).is_ok() && none(&map(IF_MATCH, "\"1-2\"")).is_err());
    }
}
