//! What a file, directory or symlink looks like from outside: as JSON, and as response headers.

use hyper::HeaderMap;
use hyper::header::{ACCEPT_RANGES, CONTENT_TYPE, ETAG, HeaderName, HeaderValue, LAST_MODIFIED};
use node::FileInfo;
use proto::api::{DEFAULT_CONTENT_TYPE, Entry, Kind, header};

use super::date::{http_date, rfc3339};
use super::text::encode;

/// The JSON shape of an object.
pub(crate) fn entry(info: &FileInfo) -> Entry {
    Entry {
        id: info.id.to_string(),
        path: info.path.clone(),
        kind: info.kind(),
        version: info.version().0,
        size: info.size(),
        etag: info.etag(),
        created_at: rfc3339(info.inode.committed_ns),
        modified_at: rfc3339(info.inode.mtime_ns),
        mode: info.inode.mode,
        symlink_target: info.inode.symlink_target().map(str::to_owned),
        content_type: info.inode.content_type().map(str::to_owned),
        metadata: info.inode.user_metadata.iter().cloned().collect(),
    }
}

/// Name of a kind in headers.
fn kind_name(kind: Kind) -> &'static str {
    match kind {
        Kind::File => "file",
        Kind::Directory => "directory",
        Kind::Symlink => "symlink",
    }
}

/// Adds the headers that describe an object.
///
/// A directory has no `ETag`: its listing changes without a version.
pub(crate) fn describe(info: &FileInfo, headers: &mut HeaderMap) {
    let mut set = |name: HeaderName, value: &str| {
        let value = HeaderValue::from_str(value).expect("invariant: numbers, dates and encoded text are header values");
        headers.insert(name, value);
    };
    set(HeaderName::from_static(header::KIND), kind_name(info.kind()));
    set(HeaderName::from_static(header::FILE_ID), &info.id.to_string());
    set(HeaderName::from_static(header::VERSION), &info.version().to_string());
    set(HeaderName::from_static(header::MODE), &format!("{:o}", info.inode.mode));
    set(HeaderName::from_static(header::MTIME_NS), &info.inode.mtime_ns.to_string());
    set(LAST_MODIFIED, &http_date(info.inode.mtime_ns));
    if info.kind() != Kind::Directory {
        set(ETAG, &info.etag());
    }
    if info.kind() == Kind::File {
        set(ACCEPT_RANGES, "bytes");
        set(CONTENT_TYPE, info.inode.content_type().unwrap_or(DEFAULT_CONTENT_TYPE));
    }
    for (name, value) in &info.inode.user_metadata {
        // A name that no header can carry came by another way than REST; the JSON shape still shows it.
        if let Ok(name) = HeaderName::try_from(format!("{}{name}", header::USER_METADATA_PREFIX)) {
            set(name, &encode(value));
        }
    }
}

/// Makes a cursor of the last name of a page: opaque to clients, legal in every URL.
pub(crate) fn cursor(name: &str) -> String {
    name.bytes().map(|byte| format!("{byte:02x}")).collect()
}

/// Reads back what [`cursor`] made; `None` for anything else.
pub(crate) fn name_of_cursor(cursor: &str) -> Option<String> {
    if !cursor.len().is_multiple_of(2) || !cursor.bytes().all(|byte| byte.is_ascii_hexdigit()) {
        return None;
    }
    let byte = |at: usize| u8::from_str_radix(&cursor[at..at + 2], 16).ok();
    let bytes: Option<Vec<u8>> = (0..cursor.len()).step_by(2).map(byte).collect();
    String::from_utf8(bytes?).ok().filter(|name| proto::path::check_name(name).is_ok())
}

#[cfg(test)]
mod tests {
    use super::*;
    use meta::{Detail, Inode};
    use proto::{ClusterId, FileId, InodeId, VersionNumber};

    fn info(kind: Kind) -> FileInfo {
        let inode = Inode {
            inode: InodeId(7),
            kind,
            parent: InodeId::ROOT,
            name: "a".to_owned(),
            mode: 0o640,
            owner: 0,
            nlink: 1,
            created_ns: 1,
            committed_ns: 1_000_000_000,
            mtime_ns: 784_111_777_000_000_005,
            version: VersionNumber(3),
            size: 11,
            detail: Detail::ContentType("text/plain; charset=utf-8".to_owned()),
            user_metadata: vec![("colour".to_owned(), "grün\n".to_owned()), ("no header".to_owned(), "x".to_owned())],
        };
        FileInfo { id: FileId::new(ClusterId([1; 16]), InodeId(7)), inode, path: "/a".to_owned() }
    }

    #[test]
    fn headers_and_json_tell_the_same() {
        let info = info(Kind::File);
        let entry = entry(&info);
        let mut headers = HeaderMap::new();
        describe(&info, &mut headers);
        assert_eq!(headers["etag"], entry.etag);
        assert_eq!(headers["x-dfs-id"], entry.id);
        assert_eq!(headers["x-dfs-version"], "3");
        assert_eq!(headers["x-dfs-mode"], "640");
        assert_eq!(headers["x-dfs-mtime-ns"], "784111777000000005");
        assert_eq!(headers["last-modified"], "Sun, 06 Nov 1994 08:49:37 GMT");
        assert_eq!(entry.modified_at, "1994-11-06T08:49:37.000000005Z");
        assert_eq!(entry.created_at, "1970-01-01T00:00:01.000000000Z");
        assert_eq!(headers["x-meta-colour"], "gr%C3%BCn%0A");
        assert_eq!(entry.metadata["colour"], "grün\n");
        assert_eq!(headers["x-dfs-kind"], "file");
        assert_eq!(headers["accept-ranges"], "bytes");
        assert_eq!(headers["content-type"], entry.content_type.unwrap().as_str());
    }

    #[test]
    fn a_directory_has_no_entity_tag() {
        let mut headers = HeaderMap::new();
        describe(&info(Kind::Directory), &mut headers);
        assert!(!headers.contains_key("etag") && !headers.contains_key("accept-ranges"));
    }

    #[test]
    fn cursors_lead_back_to_their_names() {
        for name in ["a", "ü b%", "z".repeat(255).as_str()] {
            assert_eq!(name_of_cursor(&cursor(name)).as_deref(), Some(name));
        }
        for text in ["", "a", "zz", "2f", "2e2e", "ff", "+1", "é0"] {
            assert_eq!(name_of_cursor(text), None, "{text}");
        }
    }
}
