//! The commands, and the short ones among them in full.

use std::collections::BTreeMap;

use client::{Attributes, ClientError, Existing, Removal};
use proto::api::{DEFAULT_CONTENT_TYPE, Entry, FragmentInfo, Kind};
use proto::path::FsPath;
use serde::Serialize;
use serde_json::json;

use crate::arguments::{GcCommand, RemoteCommand as Command};
use crate::context::Context;
use crate::download;
use crate::failure::Failure;
use crate::gc;
use crate::history;
use crate::output::{human_bytes, printable};
use crate::remote::Remote;
use crate::retention;
use crate::space;
use crate::upload;

/// Carries out `command`.
pub(crate) fn run(context: &Context, command: Command) -> Result<(), Failure> {
    match command {
        Command::Put { local, remote, recursive: true, jobs, .. } => {
            upload::put_tree(context, &local, Remote::parse(&remote)?, usize::from(jobs.jobs))
        }
        Command::Put { local, remote, metadata, content_type, .. } => {
            let metadata: BTreeMap<String, String> = metadata.into_iter().collect();
            let attributes = Attributes { content_type, metadata, ..Attributes::default() };
            upload::put_file(context, &local, Remote::parse(&remote)?, attributes)
        }
        Command::Get { remote, local, recursive: true, jobs, .. } => {
            download::get_tree(context, &Remote::parse(&remote)?, &local, usize::from(jobs.jobs))
        }
        Command::Get { remote, local, version, .. } => {
            download::get_file(context, &Remote::parse(&remote)?.path, version, &local)
        }
        Command::Versions { remote, fragments } => {
            history::list_versions(context, &Remote::parse(&remote)?.path, fragments)
        }
        Command::Restore { remote, version } => history::restore(context, &Remote::parse(&remote)?.path, version),
        Command::Retention { command } => retention::run(context, command),
        Command::Events { since, follow, prefix } => history::show_events(context, since, follow, prefix.as_deref()),
        Command::Ls { remote, long } => list(context, &Remote::parse(&remote)?.path, long),
        Command::Stat { remote, fragments } => stat(context, &Remote::parse(&remote)?.path, fragments),
        Command::Rm { remote, recursive } => remove(context, &remote, recursive),
        Command::Mv { from, to, replace } => rename(context, &Remote::parse(&from)?.path, Remote::parse(&to)?, replace),
        Command::Mkdir { remote, parents } => make_directories(context, &remote, parents),
        Command::Df => space::show(context),
        Command::Gc(GcCommand::Status) => gc::show(context),
        Command::Gc(GcCommand::Run { now }) => gc::run(context, now),
    }
}

/// Prints page by page, so that a directory of any size needs the memory of one page.
fn list(context: &Context, path: &FsPath, long: bool) -> Result<(), Failure> {
    let named = |error| Failure::remote(path, error);
    let mut children = context.client.list(path).map(|child| child.map(|child| (child.name, child.entry)));
    let first = match children.next().transpose() {
        Err(ClientError::WrongKind { .. }) => {
            let entry = context.client.stat(path).map_err(named)?;
            Some((path.to_string(), entry))
        }
        other => other.map_err(named)?,
    };
    let output = context.output;
    let mut separator = "";
    if output.json {
        output.raw(format!("{{\"path\":{},\"entries\":[", json!(path.to_string())).as_bytes())?;
    }
    for child in first.map(Ok).into_iter().chain(children) {
        let (name, entry) = child.map_err(named)?;
        if output.json {
            let text = serde_json::to_string(&entry).expect("invariant: entries are plain data");
            output.raw(format!("{separator}{text}").as_bytes())?;
            separator = ",";
        } else {
            output.line(&if long { long_line(&name, &entry) } else { printable(&name).replace('\n', "\\n") })?;
        }
    }
    if output.json { output.line("]}") } else { Ok(()) }
}

/// Mode, size, time, name, target.
fn long_line(name: &str, entry: &Entry) -> String {
    let size = if entry.kind == Kind::File { human_bytes(entry.size) } else { "-".to_owned() };
    let target = entry.symlink_target.as_ref().map_or(String::new(), |target| format!(" -> {target}"));
    let line =
        format!("{} {size:>10} {} {name}{target}", mode_text(entry.kind, entry.mode), seconds(&entry.modified_at));
    printable(&line).replace('\n', "\\n")
}

/// `drwxr-xr-x`, with `s` and `t` where those bits are set.
fn mode_text(kind: Kind, mode: u32) -> String {
    let mut text = String::from(match kind {
        Kind::File => "-",
        Kind::Directory => "d",
        Kind::Symlink => "l",
    });
    for (shift, special, letter) in [(6, 0o4000, 's'), (3, 0o2000, 's'), (0, 0o1000, 't')] {
        let bits = mode >> shift;
        text.push(if bits & 4 != 0 { 'r' } else { '-' });
        text.push(if bits & 2 != 0 { 'w' } else { '-' });
        text.push(match (mode & special != 0, bits & 1 != 0) {
            (true, true) => letter,
            (true, false) => letter.to_ascii_uppercase(),
            (false, true) => 'x',
            (false, false) => '-',
        });
    }
    text
}

/// A server's time without its fraction; anything unreadable as it is.
pub(crate) fn seconds(text: &str) -> String {
    client::time::parse_rfc3339_utc_ns(text).map_or(text.to_owned(), client::time::format_seconds_utc)
}

fn stat(context: &Context, path: &FsPath, fragments: bool) -> Result<(), Failure> {
    let named = |error| Failure::remote(path, error);
    let entry = context.client.stat(path).map_err(named)?;
    // Of the version that is shown.
    let count = || context.client.fragments(path, Some(entry.version)).map_err(named);
    let scattered = if fragments && entry.kind == Kind::File { Some(count()?) } else { None };
    if context.output.json {
        return context.output.result(&WithFragments::of(&entry, scattered.as_ref()), String::new);
    }
    let kind = match entry.kind {
        Kind::File => "file",
        Kind::Directory => "directory",
        Kind::Symlink => "symlink",
    };
    let mut rows = vec![
        ("path", entry.path),
        ("kind", kind.to_owned()),
        ("id", entry.id),
        ("mode", format!("{:04o} {}", entry.mode, mode_text(entry.kind, entry.mode))),
        ("modified", entry.modified_at),
        ("committed", entry.created_at),
    ];
    if entry.kind == Kind::File {
        rows.push(("size", format!("{} ({} bytes)", human_bytes(entry.size), entry.size)));
        rows.push(("version", entry.version.to_string()));
        rows.extend(scattered.map(|found| ("fragments", format!("{} of {} chunks", found.fragments, found.chunks))));
        rows.push(("etag", entry.etag));
        rows.push(("type", entry.content_type.unwrap_or_else(|| DEFAULT_CONTENT_TYPE.to_owned())));
    }
    rows.extend(entry.symlink_target.map(|target| ("target", target)));
    rows.extend(entry.metadata.into_iter().map(|(name, value)| ("metadata", format!("{name}={value}"))));
    rows.iter().try_for_each(|(name, value)| context.output.line(&printable(&format!("{name:<10}{value}"))))
}

/// A description, and how scattered what it describes lies, if that was asked for.
#[derive(Serialize)]
pub(crate) struct WithFragments<'a, T> {
    #[serde(flatten)]
    entry: &'a T,
    #[serde(skip_serializing_if = "Option::is_none")]
    chunks: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    fragments: Option<u64>,
}

impl<'a, T> WithFragments<'a, T> {
    pub(crate) fn of(entry: &'a T, found: Option<&FragmentInfo>) -> WithFragments<'a, T> {
        WithFragments { entry, chunks: found.map(|found| found.chunks), fragments: found.map(|found| found.fragments) }
    }
}

fn remove(context: &Context, remote: &[String], recursive: bool) -> Result<(), Failure> {
    let removal = if recursive { Removal::Tree } else { Removal::Single };
    let paths = remote.iter().map(|text| Remote::parse(text)).collect::<Result<Vec<_>, _>>()?;
    if paths.iter().any(|remote| remote.path.names().is_empty()) {
        return Err(Failure::Usage("the top directory cannot be removed; name what is in it".to_owned()));
    }
    let mut removed = Vec::new();
    for Remote { path, .. } in paths {
        let result = context.client.remove(&path, removal);
        result.map_err(|error| Failure::remote(&path, error).hinted_if("not_empty", "remove it with -r"))?;
        removed.push(path.to_string());
    }
    context.output.result(&json!({ "removed": removed }), || format!("removed {}", removed.join(" ")))
}

fn rename(context: &Context, from: &FsPath, to: Remote, replace: bool) -> Result<(), Failure> {
    let Some((_, name)) = from.split() else {
        return Err(Failure::Usage("the top directory cannot be renamed".to_owned()));
    };
    let to = to.place(&context.client, Some(name))?;
    let existing = if replace { Existing::Replace } else { Existing::Keep };
    let renamed = context.client.rename(from, &to, existing);
    let entry = renamed.map_err(|error| {
        // Two paths are concerned; the one that is taken is the new one.
        let path = if error.is_already_exists() { &to } else { from };
        Failure::remote(path, error).hinted_if("already_exists", "replace it with --replace")
    })?;
    context.output.result(&entry, || format!("renamed {from} to {to}"))
}

fn make_directories(context: &Context, remote: &[String], parents: bool) -> Result<(), Failure> {
    let paths = remote.iter().map(|text| Remote::parse(text)).collect::<Result<Vec<_>, _>>()?;
    let mut made = Vec::new();
    for Remote { path, .. } in paths {
        made.push(make_directory(context, &path, parents)?);
    }
    let words = || made.iter().map(|entry| format!("made {}", entry.path)).collect::<Vec<_>>().join("\n");
    context.output.result(&json!({ "directories": made }), words)
}

fn make_directory(context: &Context, path: &FsPath, parents: bool) -> Result<Entry, Failure> {
    let named = |error| Failure::remote(path, error).hinted_if("already_exists", "-p accepts a directory that exists");
    if !parents && let Some((parent, _)) = path.split() {
        // The server would make missing parents; somebody who did not ask for that has probably mistyped one.
        let found = context.client.stat(&parent);
        found.map_err(|error| Failure::remote(&parent, error).hinted_if("not_found", "-p makes missing parents"))?;
    }
    match context.client.make_directory(path, &Attributes::default()) {
        Err(error) if parents && (error.is_already_exists() || path.names().is_empty()) => {
            let entry = context.client.stat(path).map_err(named)?;
            if entry.kind == Kind::Directory { Ok(entry) } else { Err(Failure::remote(path, error)) }
        }
        other => other.map_err(named),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn modes_are_spelled_as_ls_does() {
        assert_eq!(mode_text(Kind::File, 0o644), "-rw-r--r--");
        assert_eq!(mode_text(Kind::Directory, 0o1777), "drwxrwxrwt");
        assert_eq!(mode_text(Kind::File, 0o6644), "-rwSr-Sr--");
        assert_eq!(mode_text(Kind::Symlink, 0o777), "lrwxrwxrwx");
    }
}
