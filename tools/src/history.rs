//! What was: the versions of a file, and the changes of the namespace.

use std::time::Duration;

use client::Watch;
use proto::api::{Event, EventKind, VersionEntry};
use proto::path::FsPath;
use serde_json::json;

use crate::commands::{WithFragments, seconds};
use crate::context::Context;
use crate::failure::Failure;
use crate::output::{human_bytes, printable};
use crate::remote::Remote;

/// How long one request waits for a change; then another one does.
const WAIT: Duration = Duration::from_secs(30);

/// Prints page by page, newest first.
pub(crate) fn list_versions(context: &Context, path: &FsPath, fragments: bool) -> Result<(), Failure> {
    let output = context.output;
    let named = |error| Failure::remote(path, error);
    let page = |after| context.client.versions(path, after).map_err(named);
    let count = |version| match context.client.fragments(path, Some(version)) {
        // It may have gone since it was listed.
        Err(error) if matches!(error.code(), "version_expired" | "no_such_version") => Ok(None),
        found => found.map(Some).map_err(named),
    };
    let mut list = page(None)?;
    let mut separator = "";
    if output.json {
        output.raw(format!("{{\"path\":{},\"versions\":[", json!(list.path)).as_bytes())?;
    }
    loop {
        for version in &list.versions {
            let scattered = if fragments { count(version.entry.version)? } else { None };
            if output.json {
                let version = WithFragments::of(version, scattered.as_ref());
                output.raw(format!("{separator}{}", json!(version)).as_bytes())?;
                separator = ",";
            } else {
                let scattered = scattered.map_or(String::new(), |found| {
                    format!("  {} fragments of {} chunks", found.fragments, found.chunks)
                });
                output.line(&(version_line(version) + &scattered))?;
            }
        }
        match list.next_after {
            Some(after) => list = page(Some(after))?,
            None => break,
        }
    }
    if output.json { output.line("]}") } else { Ok(()) }
}

/// Number, size, time of the commit, modification time, and when the retention lets it go.
fn version_line(version: &VersionEntry) -> String {
    let VersionEntry { entry, expires_at, expired } = version;
    let (committed, modified) = (seconds(&entry.created_at), seconds(&entry.modified_at));
    let until = match expires_at {
        _ if *expired => "  no longer kept".to_owned(),
        Some(at) => format!("  kept until {}", seconds(at)),
        None => String::new(),
    };
    format!("{:>6} {:>10}  committed {committed}  modified {modified}{until}", entry.version, human_bytes(entry.size))
}

pub(crate) fn restore(context: &Context, path: &FsPath, version: u64) -> Result<(), Failure> {
    let restored = context.client.restore(path, version);
    let entry = restored.map_err(|error| {
        Failure::remote(path, error)
            .hinted_if("no_such_version", "`dfs versions` lists what there is")
            .hinted_if("version_expired", "`dfs retention get` says what is kept")
    })?;
    context.output.result(&entry, || format!("restored version {version} of {path} as version {}", entry.version))
}

/// Prints changes as they come.
pub(crate) fn show_events(context: &Context, since: String, follow: bool, prefix: Option<&str>) -> Result<(), Failure> {
    let below = prefix.map(Remote::parse).transpose()?.map(|remote| remote.path);
    let wait = if follow { WAIT } else { Duration::ZERO };
    let mut watch = Watch { since, below, wait };
    loop {
        let page = context.client.events(&watch).map_err(|error| {
            Failure::remote("/api/v1/events", error).hinted_if("cursor_gone", "start at --since oldest or --since now")
        })?;
        for event in &page.events {
            let line = if context.output.json { json!(event).to_string() } else { event_line(event) };
            context.output.line(&line)?;
        }
        // A page without what was asked for may still have moved on.
        if !follow && page.events.is_empty() && page.cursor == watch.since {
            return Ok(());
        }
        watch.since = page.cursor;
    }
}

/// Cursor, time, change, path.
fn event_line(event: &Event) -> String {
    let name = match event.event {
        EventKind::Create => "create",
        EventKind::Commit => "commit",
        EventKind::Rename => "rename",
        EventKind::Delete => "delete",
        EventKind::Attributes => "attributes",
        EventKind::Restore => "restore",
    };
    let from = event.from.as_ref().map_or(String::new(), |from| format!("{from} -> "));
    let line = format!("{:>8} {} {name:<10} {from}{}", event.cursor, seconds(&event.at), event.path);
    printable(&line).replace('\n', "\\n")
}

#[cfg(test)]
mod tests {
    use super::*;
    use proto::api::Kind;

    #[test]
    fn a_rename_shows_both_paths() {
        let event = Event {
            cursor: "12".to_owned(),
            event: EventKind::Rename,
            id: String::new(),
            kind: Kind::File,
            path: "/b\x1b".to_owned(),
            from: Some("/a".to_owned()),
            version: 1,
            restored_version: None,
            at: "2026-01-31T12:00:00.000000000Z".to_owned(),
        };
        assert_eq!(event_line(&event), "      12 2026-01-31 12:00:00Z rename     /a -> /b\\u{1b}");
    }
}
