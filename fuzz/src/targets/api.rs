//! `proto::path`, `proto::ids`, `proto::api`, and times: what people and programs send as text.

use client::time::parse_rfc3339_utc_ns;
use proto::api::{Entry, ErrorBody, EventPage, Listing, RetentionInfo, Stats, VersionList, is_content_type};
use proto::limits::{CONTENT_TYPE_BYTES_MAX, PATH_BYTES_MAX, PATH_DEPTH_MAX};
use proto::path::{FsPath, check_name};
use proto::{ClusterId, FileId, InodeId};
use serde::Serialize;
use serde::de::DeserializeOwned;
use server::Token;

use crate::{Memory, Target};

pub(super) fn targets() -> Vec<Target> {
    vec![
        Target {
            name: "text",
            run: text,
            corpus: || {
                let texts: [&[u8]; 8] = [
                    b"/a/b c/\xc3\xbc/..",
                    b"//deep///path/",
                    b"0123abcd-4567-8901-8abc-def012345678",
                    b"text/html; charset=\"utf-8\"",
                    b"2026-11-22T12:55:50.123456789Z",
                    b"1970-01-01T00:00:01.5+00:00",
                    b"0123456789abcdef0123456789abcdef",
                    b"a-name.txt",
                ];
                texts.map(<[u8]>::to_vec).to_vec()
            },
            memory: Memory { fixed_bytes: 64 << 10, per_byte: 64 },
            input_bytes_max: 6000,
            cases: 20_000,
        },
        Target {
            name: "json",
            run: json,
            corpus: || {
                let files = [
                    r#"{"id":"x","path":"/a","kind":"file","version":1,"size":2,"etag":"\"e\"","created_at":"t","modified_at":"t","mode":420,"symlink_target":"b","content_type":"a/b","metadata":{"k":"v"}}"#,
                    r#"{"path":"/","entries":[{"id":"x","path":"/a","kind":"symlink","version":0,"size":0,"etag":"","created_at":"","modified_at":"","mode":0}],"next_cursor":"a"}"#,
                    r#"{"path":"/a","versions":[],"next_after":18446744073709551615}"#,
                    r#"{"events":[{"cursor":"1","event":"restore","id":"x","kind":"directory","path":"/b","from":"/a","version":3,"restored_version":1,"at":"t"}],"cursor":"1"}"#,
                    r#"{"logical_bytes":1,"duplicate_bytes":1,"unreferenced_bytes":1,"unique_bytes":1,"compression_bytes":1,"similarity_bytes":1,"stored_bytes":1,"dead_bytes":1,"redundancy_bytes":1,"reserved_bytes":1,"metadata_bytes":1,"raw_bytes":1,"chunks":1,"files":1,"directories":1,"dedup_ratio":1.5,"compression_ratio":1e300,"reduction_ratio":1,"capacity_bytes":1,"free_bytes":1}"#,
                    r#"{"error":{"code":"not_found","message":"\ud83d\ude00","retryable":false}}"#,
                ];
                files.map(|text| text.as_bytes().to_vec()).to_vec()
            },
            memory: Memory { fixed_bytes: 64 << 10, per_byte: 200 },
            input_bytes_max: 4096,
            cases: 10_000,
        },
    ]
}

fn text(input: &[u8]) {
    let Ok(text) = str::from_utf8(input) else { return };
    if let Ok(path) = FsPath::parse(text) {
        let folded = path.to_string();
        assert!(folded.len() <= PATH_BYTES_MAX.max(1) && path.names().len() <= PATH_DEPTH_MAX);
        assert_eq!(FsPath::parse(&folded).as_ref(), Ok(&path), "the normal form is a path");
        assert_eq!(FsPath::parse(&folded).expect("just parsed").to_string(), folded, "and its own normal form");
        assert!(path.names().iter().all(|name| check_name(name).is_ok()));
    }
    if check_name(text).is_ok() {
        let path = FsPath::parse(&format!("/{text}")).expect("a legal name is a path");
        assert_eq!(path.names(), [text]);
    }
    if let Some(id) = FileId::parse(text) {
        assert_eq!(FileId::parse(&id.to_string()), Some(id));
        let cluster = ClusterId([7; 16]);
        let _ = id.inode(cluster);
        assert_eq!(FileId::new(cluster, InodeId::ROOT).inode(cluster), Some(InodeId::ROOT));
    }
    if is_content_type(text) {
        assert!(text.len() <= CONTENT_TYPE_BYTES_MAX && !text.bytes().any(|byte| byte.is_ascii_control()));
    }
    if let Some(ns) = parse_rfc3339_utc_ns(text) {
        let again = client::time::format_seconds_utc(ns).replace(' ', "T");
        assert_eq!(parse_rfc3339_utc_ns(&again), Some(ns - ns % 1_000_000_000));
    }
    if let Some(token) = Token::new(text) {
        assert!(token.equals(text.as_bytes()));
    }
}

fn json(input: &[u8]) {
    survives::<Entry>(input);
    survives::<Listing>(input);
    survives::<VersionList>(input);
    survives::<RetentionInfo>(input);
    survives::<EventPage>(input);
    survives::<Stats>(input);
    survives::<ErrorBody>(input);
}

/// What is read is written and read again as the same.
fn survives<T: Serialize + DeserializeOwned + PartialEq + std::fmt::Debug>(input: &[u8]) {
    let Ok(value) = serde_json::from_slice::<T>(input) else { return };
    let written = serde_json::to_vec(&value).expect("what was read can be written");
    assert_eq!(serde_json::from_slice::<T>(&written).expect("what was written can be read"), value);
}
