//! Spelling of request targets.

use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, percent_decode_str, utf8_percent_encode};
use proto::path::FsPath;

/// Everything but RFC 3986 "unreserved": no server can read any of it in two ways.
const ENCODED: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'.').remove(b'_').remove(b'~');

/// Percent-encodes `text` for use as one path component, query value or header value.
pub(crate) fn encode(text: &str) -> String {
    utf8_percent_encode(text, ENCODED).to_string()
}

/// Undoes [`encode`]; `None` unless the result is UTF-8.
pub(crate) fn decode(text: &str) -> Option<String> {
    percent_decode_str(text).decode_utf8().ok().map(std::borrow::Cow::into_owned)
}

/// Request target of `path` by path.
pub(crate) fn fs_target(path: &FsPath) -> String {
    let mut target = String::from("/api/v1/fs");
    if path.names().is_empty() {
        target.push('/');
    }
    for name in path.names() {
        target.push('/');
        target.push_str(&encode(name));
    }
    target
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn delimiters_of_a_url_are_encoded() {
        let path = FsPath::parse("/a b/ü?x#y%20/+&=").unwrap();
        assert_eq!(fs_target(&path), "/api/v1/fs/a%20b/%C3%BC%3Fx%23y%2520/%2B%26%3D");
        assert_eq!(fs_target(&FsPath::root()), "/api/v1/fs/");
    }

    proptest! {
        #[test]
        fn encoding_round_trips_and_is_always_a_legal_target(names in prop::collection::vec("[^/\\p{Cc}]{1,20}", 0..5)) {
            let text = format!("/{}", names.join("/"));
            if let Ok(path) = FsPath::parse(&text) {
                let target = fs_target(&path);
                prop_assert!(target.bytes().all(|b| b.is_ascii_alphanumeric() || b"-._~%/".contains(&b)));
                let decoded = decode(target.strip_prefix("/api/v1/fs").unwrap()).unwrap();
                prop_assert_eq!(FsPath::parse(&decoded).unwrap(), path);
            }
        }
    }
}
