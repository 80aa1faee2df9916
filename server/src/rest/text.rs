//! Percent-encoded text in paths, queries and headers.

use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, percent_decode, utf8_percent_encode};
use proto::path::FsPath;

use super::error::ApiError;

/// Everything but RFC 3986 "unreserved": no client can read any of it in two ways.
const ENCODED: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'.').remove(b'_').remove(b'~');

/// Percent-encodes `text` for use as a header value.
pub(crate) fn encode(text: &str) -> String {
    utf8_percent_encode(text, ENCODED).to_string()
}

/// Undoes percent-encoding; `+` stands for itself. `None` for a `%` without two digits, or if the result is not UTF-8.
pub(crate) fn decode(raw: &[u8]) -> Option<String> {
    let mut rest = raw;
    while let Some(at) = rest.iter().position(|byte| *byte == b'%') {
        let digits = rest.get(at + 1..at + 3)?;
        if !digits.iter().all(u8::is_ascii_hexdigit) {
            return None;
        }
        rest = &rest[at + 3..];
    }
    percent_decode(raw).decode_utf8().ok().map(std::borrow::Cow::into_owned)
}

/// Decodes and checks a path.
///
/// # Errors
/// 400 `bad_path` says what to change.
pub(crate) fn path(raw: &[u8]) -> Result<FsPath, ApiError> {
    let text = decode(raw).ok_or_else(|| ApiError::bad_path("the path is not percent-encoded UTF-8"))?;
    FsPath::parse(&text).map_err(|error| ApiError::bad_path(error.to_string()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_are_decoded_once_and_checked() {
        assert_eq!(path(b"/a%20b/%C3%BC+").unwrap().to_string(), "/a b/ü+");
        assert_eq!(path(b"/100%25").unwrap().to_string(), "/100%");
        assert_eq!(path(b"/%2561").unwrap().to_string(), "/%61");
        assert_eq!(path("/ü".as_bytes()).unwrap().to_string(), "/ü");
        assert_eq!(path(b"/").unwrap(), FsPath::root());
        for raw in [&b"/%"[..], b"/%4", b"/%zz", b"/%ff", b"/\xff", b"/a%00b", b"/a/%2e%2e/b", b"a", b"/%0a"] {
            let error = path(raw).unwrap_err();
            assert_eq!((error.status.as_u16(), error.code), (400, "bad_path"), "{raw:?}");
        }
    }

    #[test]
    fn what_is_encoded_is_decoded() {
        let text = "grün, 100 %\n+\"";
        assert_eq!(decode(encode(text).as_bytes()).as_deref(), Some(text));
    }
}
