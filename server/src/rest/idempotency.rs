//! How a request that changes something is known again when it is repeated: by numbers, or by a key.
//!
//! * `X-Dfs-Client` and `X-Dfs-Sequence`: a place in the client's window; nothing else of the request is looked at.
//! * `Idempotency-Key`: any text, for this request alone. What the request asks for is digested while it is read, and
//!   kept with the answer: the key of another request is refused (draft-ietf-httpapi-idempotency-key-header).
//!
//! The log remembers the answers; see `meta`. Here is only which keys this core is serving at the moment: a repetition
//! that reaches another core meanwhile is served there as well, and the log lets one of them have its effect.

use std::cell::RefCell;
use std::collections::BTreeSet;
use std::rc::Rc;

use blake3::Hasher;
use hyper::HeaderMap;
use hyper::header::{CONTENT_TYPE, IF_MATCH, IF_NONE_MATCH, IF_UNMODIFIED_SINCE};
use hyper::http::request::Parts;
use node::Session;
use proto::api::header;
use proto::limits::IDEMPOTENCY_KEY_BYTES_MAX;
use proto::port::Disk;

use super::App;
use super::error::ApiError;
use super::headers::{numbers, single};

/// Separates the two digests of this module from all others.
const KEY_CONTEXT: &str = "DFS REST v1 idempotency key";
const FINGERPRINT_CONTEXT: &str = "DFS REST v1 request fingerprint";
/// The one principal so far.
const PRINCIPAL: u64 = 0;

/// Digest of a principal and its key.
type Key = [u8; 16];

/// Keys of the requests that a core is serving; at most one for each of them.
#[derive(Clone, Default)]
pub(crate) struct KeysInUse(Rc<RefCell<BTreeSet<Key>>>);

/// The use of a key by one request; ends when dropped.
pub(crate) struct Use {
    keys: KeysInUse,
    key: Key,
}

impl KeysInUse {
    /// Takes a key; `None` if another request has it.
    fn take(&self, key: Key) -> Option<Use> {
        self.0.borrow_mut().insert(key).then(|| Use { keys: self.clone(), key })
    }
}

impl Drop for Use {
    fn drop(&mut self) {
        self.keys.0.borrow_mut().remove(&self.key);
    }
}

/// How one request is known again. Hold it until the request is answered.
pub(crate) enum Once {
    /// Not at all.
    Never,
    Numbered(Session),
    Keyed {
        used: Use,
        /// Of everything that was read of the request.
        fingerprint: Box<Hasher>,
    },
}

impl Once {
    /// Digests bytes of the body.
    pub(crate) fn saw(&mut self, bytes: &[u8]) {
        if let Once::Keyed { fingerprint, .. } = self {
            fingerprint.update(bytes);
        }
    }

    /// What to tell the log, once the whole body was seen.
    pub(crate) fn session(&self) -> Option<Session> {
        match self {
            Once::Never => None,
            Once::Numbered(session) => Some(*session),
            Once::Keyed { used, fingerprint } => {
                Some(Session::Keyed { key: used.key, fingerprint: short(fingerprint) })
            }
        }
    }

    /// Whether the request may be a repetition, whose answer only the log knows.
    pub(crate) fn may_be_repeated(&self) -> bool {
        !matches!(self, Once::Never)
    }
}

impl<D: Disk> App<D> {
    /// Reads how a request is known again.
    ///
    /// # Errors
    /// 400 `bad_header`; 409 `idempotency_key_in_use` while another request has the key.
    pub(crate) fn once(&self, head: &Parts) -> Result<Once, ApiError> {
        let numbers = numbers(&head.headers)?;
        let Some(key) = single(&head.headers, header::IDEMPOTENCY_KEY)? else {
            return Ok(numbers.map_or(Once::Never, Once::Numbered));
        };
        let bad = |message: String| Err(ApiError::bad_header(header::IDEMPOTENCY_KEY, message));
        if numbers.is_some() {
            return bad("send it, or x-dfs-client and x-dfs-sequence, not both".to_owned());
        }
        let is_legal = (1..=IDEMPOTENCY_KEY_BYTES_MAX).contains(&key.len());
        if !is_legal || !key.iter().all(|byte| *byte == b' ' || byte.is_ascii_graphic()) {
            return bad(format!("expected 1 to {IDEMPOTENCY_KEY_BYTES_MAX} printable ASCII characters"));
        }
        let mut hasher = Hasher::new_derive_key(KEY_CONTEXT);
        hasher.update(&PRINCIPAL.to_le_bytes()).update(key);
        let used = self.0.keys_in_use.take(short(&hasher)).ok_or_else(ApiError::idempotency_key_in_use)?;
        Ok(Once::Keyed { used, fingerprint: Box::new(fingerprint(head)) })
    }
}

/// The first half of a digest.
fn short(hasher: &Hasher) -> [u8; 16] {
    *hasher.finalize().as_bytes().first_chunk().expect("a digest has 32 bytes")
}

/// Digests what the head of a request asks for; the body follows.
fn fingerprint(head: &Parts) -> Hasher {
    let mut hasher = Hasher::new_derive_key(FINGERPRINT_CONTEXT);
    let mut part = |bytes: &[u8]| {
        hasher.update(&(bytes.len() as u64).to_le_bytes()).update(bytes);
    };
    part(head.method.as_str().as_bytes());
    part(head.uri.path_and_query().map_or("", |target| target.as_str()).as_bytes());
    for name in meaningful(&head.headers) {
        part(name.as_bytes());
        for value in head.headers.get_all(name) {
            part(value.as_bytes());
        }
    }
    part(b"");
    hasher
}

/// Headers that change what a request asks for, in one order.
fn meaningful(headers: &HeaderMap) -> BTreeSet<&str> {
    let known = [CONTENT_TYPE, IF_MATCH, IF_NONE_MATCH, IF_UNMODIFIED_SINCE];
    let ours = [header::FILE_PATH, header::MODE, header::MTIME_NS];
    let is_meaningful = |name: &&str| {
        known.iter().any(|known| known.as_str() == *name)
            || ours.contains(name)
            || name.starts_with(header::USER_METADATA_PREFIX)
    };
    headers.keys().map(hyper::header::HeaderName::as_str).filter(is_meaningful).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use hyper::Request;

    fn head(method: &str, target: &str, headers: &[(&str, &str)]) -> Parts {
        let mut request = Request::builder().method(method).uri(target);
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        request.body(()).unwrap().into_parts().0
    }

    #[test]
    fn a_key_is_used_by_one_request_at_a_time() {
        let keys = KeysInUse::default();
        let used = keys.take([1; 16]).unwrap();
        assert!(keys.take([1; 16]).is_none() && keys.take([2; 16]).is_some());
        drop(used);
        assert!(keys.take([1; 16]).is_some());
    }

    #[test]
    fn a_fingerprint_is_of_what_is_asked_for() {
        let of =
            |method: &str, target: &str, headers: &[(&str, &str)]| short(&fingerprint(&head(method, target, headers)));
        let base = of("PUT", "/a", &[("x-meta-a", "1"), ("content-type", "a/b")]);
        assert_eq!(base, of("PUT", "/a", &[("content-type", "a/b"), ("x-meta-a", "1"), ("user-agent", "curl")]));
        for other in [
            of("POST", "/a", &[("x-meta-a", "1"), ("content-type", "a/b")]),
            of("PUT", "/a?x", &[("x-meta-a", "1"), ("content-type", "a/b")]),
            of("PUT", "/a", &[("x-meta-a", "2"), ("content-type", "a/b")]),
            of("PUT", "/a", &[("x-meta-a1", ""), ("content-type", "a/b")]),
            of("PUT", "/a", &[("x-meta-a", "1")]),
            of("PUT", "/a", &[("x-meta-a", "1"), ("content-type", "a/b"), ("if-match", "*")]),
        ] {
            assert_ne!(base, other);
        }
    }
}
