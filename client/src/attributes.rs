//! Attributes of files and directories, and the headers that carry them.

use std::collections::BTreeMap;

use proto::api::{Kind, header, is_content_type};
use ureq::http::HeaderMap;

use crate::ClientError;
use crate::url::{decode, encode};

/// Attributes that a call sets; what is absent stays as it is (or takes the server's default on creation).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Attributes {
    /// Unix permission bits.
    pub mode: Option<u32>,
    /// Modification time in nanoseconds since the Unix epoch.
    pub mtime_ns: Option<u64>,
    /// Media type of a file.
    pub content_type: Option<String>,
    /// User metadata: lower-case names, any text as value.
    pub metadata: BTreeMap<String, String>,
}

impl Attributes {
    /// The headers that carry these attributes.
    ///
    /// # Errors
    /// [`ClientError::MetadataName`] if a name cannot be a header, [`ClientError::ContentType`] if this is none.
    pub(crate) fn headers(&self) -> Result<Vec<(String, String)>, ClientError> {
        let mut headers = Vec::new();
        if let Some(mode) = self.mode {
            headers.push((header::MODE.to_owned(), format!("{:o}", mode & 0o7777)));
        }
        if let Some(mtime_ns) = self.mtime_ns {
            headers.push((header::MTIME_NS.to_owned(), mtime_ns.to_string()));
        }
        if let Some(content_type) = &self.content_type {
            if !is_content_type(content_type) {
                return Err(ClientError::ContentType { content_type: content_type.clone() });
            }
            headers.push(("content-type".to_owned(), content_type.clone()));
        }
        for (name, value) in &self.metadata {
            let legal = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b"-_.".contains(&b);
            if name.is_empty() || !name.bytes().all(legal) {
                return Err(ClientError::MetadataName { name: name.clone() });
            }
            headers.push((format!("{}{name}", header::USER_METADATA_PREFIX), encode(value)));
        }
        Ok(headers)
    }
}

/// What the headers of a `GET` or `HEAD` say about an object.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Head {
    /// What it is.
    pub kind: Kind,
    /// Public id.
    pub id: Option<String>,
    /// Version of the content.
    pub version: Option<u64>,
    /// Bytes of the whole content, also when only a range of it was asked for.
    pub size: u64,
    /// Strong entity tag, with its quotes.
    pub etag: Option<String>,
    /// Unix permission bits.
    pub mode: Option<u32>,
    /// Modification time in nanoseconds since the Unix epoch.
    pub mtime_ns: Option<u64>,
    /// Media type.
    pub content_type: Option<String>,
    /// User metadata.
    pub metadata: BTreeMap<String, String>,
}

impl Head {
    /// Reads `headers`; `size` is found by the caller, who knows which header holds it.
    ///
    /// # Errors
    /// Names the header that makes no sense.
    pub(crate) fn read(headers: &HeaderMap, size: u64) -> Result<Head, String> {
        let text = |name: &str| -> Result<Option<&str>, String> {
            match headers.get(name) {
                None => Ok(None),
                Some(value) => value.to_str().map(Some).map_err(|_| format!("header {name} is not text")),
            }
        };
        let kind = match text(header::KIND)? {
            Some("file") => Kind::File,
            Some("directory") => Kind::Directory,
            Some("symlink") => Kind::Symlink,
            Some(other) => return Err(format!("header {} is {other:?}", header::KIND)),
            None => return Err(format!("header {} is missing", header::KIND)),
        };
        let mode = text(header::MODE)?.map(|value| u32::from_str_radix(value, 8)).transpose();
        let mtime_ns = text(header::MTIME_NS)?.map(str::parse).transpose();
        let version = text(header::VERSION)?.map(str::parse).transpose();
        let mut metadata = BTreeMap::new();
        for (name, value) in headers {
            if let Some(name) = name.as_str().strip_prefix(header::USER_METADATA_PREFIX) {
                let value = value.to_str().ok().and_then(decode).ok_or(format!("metadata {name} is not text"))?;
                metadata.insert(name.to_owned(), value);
            }
        }
        Ok(Head {
            kind,
            id: text(header::FILE_ID)?.map(str::to_owned),
            version: version.map_err(|_| format!("header {} is not a number", header::VERSION))?,
            size,
            etag: text("etag")?.map(str::to_owned),
            mode: mode.map_err(|_| format!("header {} is not octal", header::MODE))?,
            mtime_ns: mtime_ns.map_err(|_| format!("header {} is not a number", header::MTIME_NS))?,
            content_type: text("content-type")?.map(str::to_owned),
            metadata,
        })
    }
}

#[cfg(test)]
mod tests {
    use ureq::http::{HeaderName, HeaderValue};

    use super::*;

    fn header_map(headers: &[(String, String)]) -> HeaderMap {
        let pairs = headers.iter().map(|(name, value)| {
            (HeaderName::from_bytes(name.as_bytes()).unwrap(), HeaderValue::from_str(value).unwrap())
        });
        pairs.collect()
    }

    #[test]
    fn attributes_survive_their_headers() {
        let attributes = Attributes {
            mode: Some(0o750),
            mtime_ns: Some(u64::MAX),
            content_type: Some("text/plain".to_owned()),
            metadata: [("colour".to_owned(), "grün, 100 %\n".to_owned())].into(),
        };
        let mut headers = attributes.headers().unwrap();
        headers.push((header::KIND.to_owned(), "directory".to_owned()));
        let head = Head::read(&header_map(&headers), 0).unwrap();
        assert_eq!((head.kind, head.content_type.as_deref()), (Kind::Directory, Some("text/plain")));
        assert_eq!((head.mode, head.mtime_ns, head.metadata), (Some(0o750), Some(u64::MAX), attributes.metadata));
    }

    #[test]
    fn metadata_names_that_break_headers_are_refused() {
        for name in ["", "Colour", "a b", "a:b", "a\r\nb", "ü"] {
            let attributes =
                Attributes { metadata: [(name.to_owned(), String::new())].into(), ..Attributes::default() };
            assert!(matches!(attributes.headers(), Err(ClientError::MetadataName { .. })), "{name:?}");
        }
    }

    #[test]
    fn nonsense_headers_are_refused() {
        for (name, value) in
            [(header::KIND, "socket"), (header::MODE, "9"), (header::MTIME_NS, "-1"), (header::VERSION, "-1")]
        {
            let mut headers = header_map(&[(header::KIND.to_owned(), "file".to_owned())]);
            headers.insert(HeaderName::from_static(name), HeaderValue::from_static(value));
            assert!(Head::read(&headers, 0).is_err(), "{name}: {value}");
        }
        assert!(Head::read(&HeaderMap::new(), 0).is_err());
    }
    #[test]
    fn a_media_type_that_breaks_its_header_is_refused() {
        for text in ["", "text", "a/b\r\nx: y"] {
            let attributes = Attributes { content_type: Some(text.to_owned()), ..Attributes::default() };
            assert!(matches!(attributes.headers(), Err(ClientError::ContentType { .. })), "{text:?}");
        }
    }
}
