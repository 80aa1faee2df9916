//! Request headers that carry attributes and the client's place in its exactly-once window.

use std::collections::BTreeMap;

use hyper::HeaderMap;
use hyper::header::{CONTENT_TYPE, HeaderName};
use meta::{Limit, MetaError};
use node::namespace::AttributeChange;
use node::{Attributes, Session};
use proto::api::{header, is_content_type};
use proto::limits::{SESSION_RESULTS_MAX, USER_METADATA_BYTES_MAX, USER_METADATA_PAIRS_MAX};

use super::error::ApiError;
use super::text;

/// Permission bits, with set-user-id, set-group-id and sticky.
const MODE_MAX: u32 = 0o7777;
/// Digits of a client number.
const CLIENT_DIGITS: usize = 16;

/// Returns a header that may be there once, as bytes without surrounding blanks.
///
/// # Errors
/// 400 `bad_header` if it is there twice.
pub(crate) fn single<'a>(headers: &'a HeaderMap, name: &str) -> Result<Option<&'a [u8]>, ApiError> {
    let mut values = headers.get_all(name).iter();
    match (values.next(), values.next()) {
        (value, None) => Ok(value.map(|value| value.as_bytes().trim_ascii())),
        (_, Some(_)) => Err(ApiError::bad_header(name, "it is given twice")),
    }
}

/// Parses a header that may be there once; `expected` tells the client what to send.
fn parsed<T>(
    headers: &HeaderMap,
    name: &str,
    expected: &str,
    parse: impl FnOnce(&str) -> Option<T>,
) -> Result<Option<T>, ApiError> {
    let Some(value) = single(headers, name)? else { return Ok(None) };
    let value = std::str::from_utf8(value).ok().and_then(parse);
    value.map(Some).ok_or_else(|| ApiError::bad_header(name, format!("expected {expected}")))
}

/// Reads digits without the sign that the standard parser would accept.
fn decimal(text: &str) -> Option<u64> {
    text.bytes().all(|byte| byte.is_ascii_digit()).then(|| text.parse().ok())?
}

fn octal_mode(text: &str) -> Option<u32> {
    let digits = text.bytes().all(|byte| byte.is_ascii_digit());
    let mode = if digits { u32::from_str_radix(text, 8).ok()? } else { return None };
    (mode <= MODE_MAX).then_some(mode)
}

/// The user metadata, ordered by name; `None` if there is no such header.
///
/// # Errors
/// 400 `bad_header`, 413 `too_large`.
fn user_metadata(headers: &HeaderMap) -> Result<Option<Vec<(String, String)>>, ApiError> {
    let mut pairs = BTreeMap::new();
    for name in headers.keys().map(HeaderName::as_str) {
        let Some(key) = name.strip_prefix(header::USER_METADATA_PREFIX) else { continue };
        if key.is_empty() {
            return Err(ApiError::bad_header(name, "a name must follow the prefix"));
        }
        let value = single(headers, name)?.unwrap_or_default();
        let value = text::decode(value).ok_or_else(|| ApiError::bad_header(name, "expected percent-encoded UTF-8"))?;
        pairs.insert(key.to_owned(), value);
    }
    // The log checks this too, but only when the whole body has been sent.
    let bytes: usize = pairs.iter().map(|(name, value)| name.len() + value.len()).sum();
    if pairs.len() > USER_METADATA_PAIRS_MAX {
        return Err(MetaError::TooLarge(Limit::UserMetadataPairs).into());
    }
    if bytes > USER_METADATA_BYTES_MAX {
        return Err(MetaError::TooLarge(Limit::UserMetadataBytes).into());
    }
    Ok((!pairs.is_empty()).then(|| pairs.into_iter().collect()))
}

/// Which attributes the headers set.
///
/// # Errors
/// 400 `bad_header`.
pub(crate) fn attribute_change(headers: &HeaderMap) -> Result<AttributeChange, ApiError> {
    let content_type = |text: &str| is_content_type(text).then(|| text.to_owned());
    let nanoseconds = "nanoseconds since 1970-01-01T00:00:00Z, not before";
    Ok(AttributeChange {
        mode: parsed(headers, header::MODE, "permission bits in octal, like 644", octal_mode)?,
        mtime_ns: parsed(headers, header::MTIME_NS, nanoseconds, decimal)?,
        symlink_target: None,
        content_type: parsed(headers, CONTENT_TYPE.as_str(), "a media type like text/plain", content_type)?,
        user_metadata: user_metadata(headers)?,
    })
}

/// The attributes of a new file or version.
///
/// # Errors
/// 400 `bad_header`.
pub(crate) fn attributes(headers: &HeaderMap) -> Result<Attributes, ApiError> {
    let change = attribute_change(headers)?;
    Ok(Attributes {
        mode: change.mode,
        mtime_ns: change.mtime_ns,
        content_type: change.content_type,
        user_metadata: change.user_metadata.unwrap_or_default(),
        owner: 0,
    })
}

/// The attributes of a new directory or symlink, which has no media type: that of the request is of its body.
///
/// # Errors
/// 400 `bad_header`.
pub(crate) fn attributes_without_type(headers: &HeaderMap) -> Result<Attributes, ApiError> {
    Ok(Attributes { content_type: None, ..attributes(headers)? })
}

/// The place in the client's exactly-once window, if the request has one.
///
/// The protocol carries no acknowledgements. Half of the window is kept instead: a client may have that many requests
/// under way under one number, and what is older is forgotten early enough that the window never overflows.
///
/// # Errors
/// 400 `bad_header`, also for one header without the other.
pub(crate) fn numbers(headers: &HeaderMap) -> Result<Option<Session>, ApiError> {
    let hexadecimal = |text: &str| {
        let digits = text.len() == CLIENT_DIGITS && text.bytes().all(|byte| byte.is_ascii_hexdigit());
        digits.then(|| u64::from_str_radix(text, 16).ok())?
    };
    let client = parsed(headers, header::CLIENT, "16 hexadecimal digits", hexadecimal)?;
    let sequence = parsed(headers, header::SEQUENCE, "a decimal number below 2^64", decimal)?;
    match (client, sequence) {
        (None, None) => Ok(None),
        (Some(client), Some(sequence)) => {
            let acked_below = sequence.saturating_sub(SESSION_RESULTS_MAX as u64 / 2);
            Ok(Some(Session::Numbered { client, sequence, acked_below }))
        }
        (Some(_), None) => Err(ApiError::bad_header(header::SEQUENCE, "it is missing, but x-dfs-client is there")),
        (None, Some(_)) => Err(ApiError::bad_header(header::CLIENT, "it is missing, but x-dfs-sequence is there")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use hyper::header::HeaderValue;

    fn map(headers: &[(&'static str, &'static str)]) -> HeaderMap {
        let mut map = HeaderMap::new();
        for (name, value) in headers {
            map.append(HeaderName::from_static(name), HeaderValue::from_bytes(value.as_bytes()).unwrap());
        }
        map
    }

    #[test]
    fn attributes_are_read() {
        let headers = map(&[
            ("x-dfs-mode", "0750"),
            ("x-dfs-mtime-ns", " 1795352150123456789"),
            ("x-meta-zone", "b%20c"),
            ("x-meta-colour", "gr%C3%BCn"),
        ]);
        let attributes = attributes(&headers).unwrap();
        assert_eq!((attributes.mode, attributes.mtime_ns), (Some(0o750), Some(1_795_352_150_123_456_789)));
        let metadata = vec![("colour".to_owned(), "grün".to_owned()), ("zone".to_owned(), "b c".to_owned())];
        assert_eq!(attributes.user_metadata, metadata);
        assert_eq!(attribute_change(&map(&[])).unwrap(), AttributeChange::default());
    }

    #[test]
    fn headers_that_make_no_sense_are_named() {
        for headers in [
            &[("x-dfs-mode", "648")][..],
            &[("x-dfs-mode", "10000")],
            &[("x-dfs-mode", "+644")],
            &[("x-dfs-mode", "")],
            &[("x-dfs-mtime-ns", "-1")],
            &[("x-dfs-mtime-ns", "18446744073709551616")],
            &[("x-dfs-mtime-ns", "1"), ("x-dfs-mtime-ns", "1")],
            &[("x-meta-", "v")],
            &[("x-meta-a", "%ff")],
            &[("content-type", "text")],
            &[("content-type", "text/plain; \u{fc}")],
            &[("content-type", "a/b"), ("content-type", "a/b")],
            &[("x-meta-a", "1"), ("x-meta-a", "2")],
        ] {
            let error = attributes(&map(headers)).unwrap_err();
            assert_eq!((error.status.as_u16(), error.code), (400, "bad_header"), "{headers:?}");
            assert!(error.message.contains(headers[0].0), "{}", error.message);
        }
    }

    #[test]
    fn a_session_needs_both_of_its_headers() {
        let of = |headers: &[(&'static str, &'static str)]| numbers(&map(headers));
        let client = ("x-dfs-client", "00000000deadBEEF");
        assert_eq!(of(&[]).unwrap(), None);
        let session = Session::Numbered { client: 0xdead_beef, sequence: 100, acked_below: 68 };
        assert_eq!(of(&[client, ("x-dfs-sequence", "100")]).unwrap(), Some(session));
        let first = Session::Numbered { client: 0xdead_beef, sequence: 5, acked_below: 0 };
        assert_eq!(of(&[client, ("x-dfs-sequence", "5")]).unwrap(), Some(first));
        assert!(of(&[client]).is_err() && of(&[("x-dfs-sequence", "1")]).is_err());
        assert!(of(&[("x-dfs-client", "+000000000000001"), ("x-dfs-sequence", "1")]).is_err());
        assert!(of(&[("x-dfs-client", "1"), ("x-dfs-sequence", "1")]).is_err());
    }
}
