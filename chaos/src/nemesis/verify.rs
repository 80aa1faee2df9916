//! The full check of a server at rest: every name, every attribute, every version, the bytes of the newest and of the
//! oldest, the counters; and that space comes back.

use std::collections::BTreeMap;
use std::iter;

use client::{Client, ClientError};
use proto::api::{Entry, Kind};

use super::court::Court;
use super::keeper;
use super::speech::{counted, fs_path, seen};
use super::writer::{check_path, described, read_back};
use crate::invariants::retention;
use crate::oracle::{Violation, violation};

/// What an empty store takes of a disk at most: logs and snapshots of the metadata with what they reserve, and a
/// checkpoint of the index.
const EMPTY_RAW_BYTES_MAX: u64 = 256 << 20;

/// What was verified.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Verified {
    /// Files read from beginning to end, and earlier versions of them.
    pub(super) files: u64,
    /// Their bytes.
    pub(super) bytes: u64,
    /// Files of which a version was let go.
    pub(super) expired: u64,
}

/// Names and what they stand for, in one directory.
fn list(client: &Client, directory: &str) -> Result<Vec<Entry>, Violation> {
    let mut entries = Vec::new();
    for child in client.list(&fs_path(directory)) {
        let child = child.map_err(|error| violation!("listing {directory}: {error:?}"))?;
        check_path(&child.entry, &format!("{}/{}", directory.trim_end_matches('/'), child.name))?;
        entries.push(child.entry);
    }
    if !entries.is_sorted_by(|a, b| a.path < b.path) {
        let paths: Vec<&str> = entries.iter().map(|entry| entry.path.as_str()).collect();
        return Err(violation!("{directory} is listed out of order: {paths:?}"));
    }
    Ok(entries)
}

/// Checks everything that the server holds, while nobody changes anything.
///
/// # Errors
/// The first [`Violation`]; every error of the client counts as one.
pub(super) fn everything(client: &Client, court: &Court) -> Result<Verified, Violation> {
    let mut tops: BTreeMap<String, Entry> =
        list(client, "/")?.into_iter().map(|entry| (entry.path.clone(), entry)).collect();
    keeper::settle(client, court)?;
    let known = court.hear(|docket| docket.oracle.tops());
    let mut verified = Verified::default();
    for top in known {
        let mut tree = BTreeMap::new();
        let mut entries: Vec<Entry> = tops.remove(&top).into_iter().collect();
        let mut files = Vec::new();
        while let Some(entry) = entries.pop() {
            match entry.kind {
                Kind::Directory => entries.extend(list(client, &entry.path)?),
                Kind::File => files.push(entry.path.clone()),
                Kind::Symlink => {}
            }
            tree.insert(entry.path.clone(), seen(&entry)?);
        }
        court.hear(move |docket| docket.oracle.saw_tree(&top, &tree))?;
        for path in files {
            let oldest = oldest_version(client, court, &path)?;
            verified.expired += u64::from(oldest.is_expired);
            for version in iter::once(None).chain(oldest.earlier.map(Some)) {
                verified.files += 1;
                verified.bytes += read_whole(client, court, path.clone(), version)?;
            }
        }
    }
    if let Some(unknown) = tops.keys().next() {
        return Err(violation!("nobody made {unknown}"));
    }
    let stats = client.stats().map_err(|error| violation!("counters: {error:?}"))?;
    court.hear(move |docket| docket.oracle.saw_counts(&counted(&stats)))?;
    Ok(verified)
}

/// The oldest version of a file that is left.
struct Oldest {
    /// Its number, if it is not the current one.
    earlier: Option<u64>,
    /// Whether it is not the first.
    is_expired: bool,
}

/// Compares what a file was at each version, and finds the oldest; the one before that is refused as gone.
fn oldest_version(client: &Client, court: &Court, path: &str) -> Result<Oldest, Violation> {
    let mut numbers = Vec::new();
    let mut after = None;
    loop {
        let page =
            client.versions(&fs_path(path), after).map_err(|error| violation!("versions of {path}: {error:?}"))?;
        for shown in page.versions {
            let (of, version, shown) = (path.to_owned(), shown.entry.version, seen(&shown.entry)?);
            numbers.push(version);
            court.hear(move |docket| docket.oracle.saw_stat(&of, Some(version), &Ok(shown)))?;
        }
        after = page.next_after;
        if after.is_none() {
            break;
        }
    }
    let Some(oldest) = retention::oldest(&numbers) else {
        return Err(violation!("{path} has the versions {numbers:?}"));
    };
    let of = path.to_owned();
    court.hear(move |docket| docket.oracle.saw_oldest(&of, oldest))?;
    if oldest > 1 {
        match client.get_version(&fs_path(path), oldest - 1, None) {
            Err(error) if error.code() == "version_expired" => {}
            Err(error) => return Err(violation!("version {} of {path}: {error:?}", oldest - 1)),
            Ok(_) => return Err(violation!("{path} has the versions {numbers:?}, and {} too", oldest - 1)),
        }
    }
    Ok(Oldest { earlier: Some(oldest).filter(|_| numbers.len() > 1), is_expired: oldest > 1 })
}

/// Reads a file from beginning to end, as it is or as it was at a version; returns its length.
fn read_whole(client: &Client, court: &Court, path: String, version: Option<u64>) -> Result<u64, Violation> {
    let asked = path.clone();
    let allowed = court.hear(move |docket| {
        let allowed = docket.oracle.readable(&asked, version)?;
        Ok(described(&docket.oracle, &allowed))
    })?;
    let failed = |error: ClientError| violation!("{path} is listed, but cannot be read: {error:?}");
    let fits = read_back(client, &path, version, None, &allowed)?.map_err(failed)?;
    let bytes = allowed.iter().find(|(id, _)| fits.contains(id)).map_or(0, |(_, content)| content.bytes);
    court.hear(move |docket| docket.oracle.saw_content(&path, version, &fits)).map(|()| bytes)
}

/// Removes everything and has it collected: the space comes back. Returns what was taken of the disks before and after.
///
/// # Errors
/// [`Violation`] if something is left; every error of the client counts as one.
pub(super) fn space_comes_back(client: &Client) -> Result<(u64, u64), Violation> {
    let taken = || client.stats().map_err(|error| violation!("counters: {error:?}"));
    let before = taken()?.raw_bytes;
    for top in list(client, "/")? {
        let removed = client.remove(&fs_path(&top.path), client::Removal::Tree);
        removed.map_err(|error| violation!("{} is not removed: {error:?}", top.path))?;
    }
    let collected = keeper::collect(client)?;
    let after = taken()?;
    if after.logical_bytes + after.chunks + after.stored_bytes > 0 || after.raw_bytes > EMPTY_RAW_BYTES_MAX {
        return Err(violation!("everything was removed and collected, yet {after:?}; {collected:?}"));
    }
    Ok((before, after.raw_bytes))
}
