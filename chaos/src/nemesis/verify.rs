//! The full check of a server at rest: every name, every attribute, every byte, the counters.

use std::collections::BTreeMap;

use client::{Client, ClientError};
use proto::api::{Entry, Kind};

use super::court::Court;
use super::speech::{counted, fs_path, seen};
use super::writer::{check_path, described, read_back};
use crate::oracle::{Violation, violation};

/// What was verified.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Verified {
    /// Files read from beginning to end.
    pub(super) files: u64,
    /// Their bytes.
    pub(super) bytes: u64,
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
            let bytes = read_whole(client, court, path)?;
            verified.files += 1;
            verified.bytes += bytes;
        }
    }
    if let Some(unknown) = tops.keys().next() {
        return Err(violation!("nobody made {unknown}"));
    }
    let stats = client.stats().map_err(|error| violation!("counters: {error:?}"))?;
    court.hear(move |docket| docket.oracle.saw_counts(&counted(&stats)))?;
    Ok(verified)
}

/// Reads a file from beginning to end; returns its length.
fn read_whole(client: &Client, court: &Court, path: String) -> Result<u64, Violation> {
    let asked = path.clone();
    let allowed = court.hear(move |docket| {
        let allowed = docket.oracle.readable(&asked, None)?;
        Ok(described(&docket.oracle, &allowed))
    })?;
    let failed = |error: ClientError| violation!("{path} is listed, but cannot be read: {error:?}");
    let fits = read_back(client, &path, None, &allowed)?.map_err(failed)?;
    let bytes = allowed.iter().find(|(id, _)| fits.contains(id)).map_or(0, |(_, content)| content.bytes);
    court.hear(move |docket| docket.oracle.saw_content(&path, None, &fits)).map(|()| bytes)
}
