//! `get`: from the store to the local file system.

use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};

use client::{Child, Client, ClientError, Head};
use indicatif::ProgressBar;
use proto::api::Kind;
use proto::path::FsPath;
use serde::Serialize;

use crate::context::Context;
use crate::failure::Failure;
use crate::local::{Found, Partial, Tree};
use crate::output::human_bytes;
use crate::pool;
use crate::progress::{self, Counted};
use crate::remote::{Remote, join};
use crate::report::Report;

/// Bytes moved at a time.
const COPY_BYTES: usize = 256 << 10;
/// Mode of a file whose mode the server does not tell.
const FILE_MODE: u32 = 0o644;
/// Bits of a file that are restored. Owners are not kept, so set-user-id would lend the rights of a stranger.
const FILE_MODE_BITS: u32 = 0o1777;

/// What `get` of one file did, as JSON.
#[derive(Debug, Serialize)]
struct Fetched<'a> {
    path: String,
    local: &'a Path,
    bytes: u64,
    version: Option<u64>,
    etag: Option<String>,
}

/// Fetches one file, or an earlier version of it, to standard output if `local` is `-`.
pub(crate) fn get_file(context: &Context, remote: &FsPath, version: Option<u64>, local: &Path) -> Result<(), Failure> {
    let opened = match version {
        Some(version) => context.client.get_version(remote, version, None),
        None => context.client.get(remote, None),
    };
    let opened = opened.map_err(|error| explain_kind(remote, error))?;
    let head = opened.head().clone();
    let bar = progress::bar(context.output, &remote.to_string(), Some(head.size));
    if local.as_os_str() == "-" {
        let mut stdout = io::stdout().lock();
        let copied = copy(Counted::new(opened, &bar), &mut stdout, remote, Failure::Output);
        bar.finish_and_clear();
        return copied.and_then(|_| stdout.flush().map_err(Failure::Output));
    }
    let target = local_target(remote, local)?;
    let (tree, name) = open_parent(&target)?;
    let names = [name];
    let look = tree.look(&names).map_err(|source| Failure::local("look at", &target, source))?;
    match look {
        None | Some(Found::File(_) | Found::Symlink(_)) => {}
        Some(Found::Directory | Found::Special) => return Err(Failure::SpecialTarget { path: target }),
    }
    let mut partial =
        tree.create(&names).map_err(|source| Failure::local("write in the directory of", &target, source))?;
    let written = |source| Failure::local("write", &target, source);
    let bytes = copy(Counted::new(opened, &bar), &mut partial, remote, written)?;
    partial.finish_durably(mode_of(&head), head.mtime_ns).map_err(written)?;
    bar.finish_and_clear();
    let fetched = Fetched { path: remote.to_string(), local: &target, bytes, version: head.version, etag: head.etag };
    context.output.result(&fetched, || format!("fetched {}: {}", target.display(), human_bytes(bytes)))
}

/// Says what to type instead when a path is not a file.
fn explain_kind(remote: &FsPath, error: ClientError) -> Failure {
    let hint = match &error {
        ClientError::WrongKind { found: Kind::Directory, .. } => "fetch it with -r",
        ClientError::WrongKind { .. } => "`dfs stat` shows where it points; fetch that",
        _ => return Failure::remote(remote, error),
    };
    Failure::remote(remote, error).hinted(hint)
}

/// `local` itself, or the name of `remote` in it if it is a directory or was typed like one, as `cp` does.
fn local_target(remote: &FsPath, local: &Path) -> Result<PathBuf, Failure> {
    if local.as_os_str().as_encoded_bytes().ends_with(b"/") || local.is_dir() {
        let (_, name) = remote.split().ok_or_else(|| Failure::Usage("'/' has no name; name the target".to_owned()))?;
        return Ok(local.join(name));
    }
    Ok(local.to_owned())
}

/// Opens the directory that `target` is in.
fn open_parent(target: &Path) -> Result<(Tree, String), Failure> {
    let parent = match target.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    };
    let tree = Tree::open(parent).map_err(|source| Failure::local("open the directory", parent, source))?;
    let name = target.file_name().ok_or_else(|| Failure::Usage(format!("{} names no file", target.display())))?;
    let name = name.to_str().ok_or_else(|| Failure::NotUtf8 { path: target.to_owned() })?;
    Ok((tree, name.to_owned()))
}

fn mode_of(head: &Head) -> u32 {
    head.mode.unwrap_or(FILE_MODE) & FILE_MODE_BITS
}

/// Moves every byte of `from`, telling its failures from those of `to`.
fn copy(
    mut from: impl Read,
    to: &mut impl Write,
    remote: &FsPath,
    written: impl Fn(io::Error) -> Failure,
) -> Result<u64, Failure> {
    let mut buffer = vec![0; COPY_BYTES];
    let mut copied = 0;
    loop {
        let read = match from.read(&mut buffer) {
            Ok(0) => return Ok(copied),
            Ok(read) => read,
            Err(error) => {
                return Err(match ClientError::from_io(error) {
                    Ok(error) => Failure::remote(remote, error),
                    Err(source) => Failure::local("read the answer for", remote.to_string(), source),
                });
            }
        };
        to.write_all(&buffer[..read]).map_err(&written)?;
        copied += read as u64;
    }
}

/// A directory of the tree and what it gets in the end.
struct Directory {
    names: Vec<String>,
    mode: u32,
    mtime_ns: Option<u64>,
}

/// A symlink of the tree.
struct Symlink {
    names: Vec<String>,
    target: String,
    mtime_ns: Option<u64>,
}

/// Fetches the tree below `remote`.
pub(crate) fn get_tree(context: &Context, remote: &Remote, local: &Path, threads: usize) -> Result<(), Failure> {
    let entry = context.client.stat(&remote.path).map_err(|error| Failure::remote(&remote.path, error))?;
    if entry.kind != Kind::Directory {
        let (found, wanted) = (entry.kind, Kind::Directory);
        let error = ClientError::WrongKind { path: remote.path.to_string(), found, wanted };
        return Err(Failure::remote(&remote.path, error).hinted("fetch it without -r"));
    }
    let into = local.as_os_str().as_encoded_bytes().ends_with(b"/") && !remote.path.names().is_empty();
    let target = if into { local_target(&remote.path, local)? } else { local.to_owned() };
    std::fs::create_dir_all(&target).map_err(|source| Failure::local("make the directory", &target, source))?;
    let tree = Tree::open(&target).map_err(|source| Failure::local("open the directory", &target, source))?;
    let bar = progress::bar(context.output, &remote.path.to_string(), Some(0));
    let report = Report::new(context.output);
    let download = TreeDownload { client: &context.client, tree, base: &remote.path, report, bar };

    let top = Directory { names: Vec::new(), mode: entry.mode, mtime_ns: time_of(&entry.modified_at) };
    let (directories, symlinks) = pool::run(threads, |send| download.walk(top, send), |names| download.fetch(&names));
    // Symlinks come after all files: nothing that is written can pass through one.
    symlinks.into_iter().for_each(|symlink| download.make_symlink(&symlink));
    // Every name that was added changed the time of its directory, and a mode may forbid to add more: deepest first.
    directories.into_iter().rev().for_each(|directory| download.finish_directory(&directory));
    download.report.finish("fetched", &download.bar)
}

/// Nanoseconds of a server's time; what it does not tell is not set.
fn time_of(text: &str) -> Option<u64> {
    client::time::parse_rfc3339_utc_ns(text)
}

struct TreeDownload<'a> {
    client: &'a Client,
    tree: Tree,
    base: &'a FsPath,
    report: Report,
    bar: ProgressBar,
}

impl TreeDownload<'_> {
    /// Makes the directories and finds everything else there is to fetch. Parents come before what is in them.
    fn walk(&self, top: Directory, send: &dyn Fn(Vec<String>)) -> (Vec<Directory>, Vec<Symlink>) {
        let mut directories: Vec<Directory> = Vec::new();
        let mut symlinks = Vec::new();
        let mut pending = vec![top];
        while let Some(directory) = pending.pop() {
            if self.report.has_given_up() {
                break;
            }
            if !directory.names.is_empty()
                && let Err(source) = self.tree.make_directory(&directory.names)
            {
                self.report.fail(Failure::local("make the directory", self.tree.shown(&directory.names), source));
                continue;
            }
            if let Err(failure) = self.visit(&directory, &mut pending, &mut symlinks, send) {
                self.report.fail(failure);
            } else {
                self.report.count(|summary| summary.directories += 1);
            }
            directories.push(directory);
        }
        (directories, symlinks)
    }

    /// Finds what is in `directory`.
    fn visit(
        &self,
        directory: &Directory,
        pending: &mut Vec<Directory>,
        symlinks: &mut Vec<Symlink>,
        send: &dyn Fn(Vec<String>),
    ) -> Result<(), Failure> {
        let names = &directory.names;
        let path = self.remote_path(names)?;
        for child in self.client.list(&path) {
            let Child { name, entry } = child.map_err(|error| Failure::remote(&path, error))?;
            let below: Vec<String> = names.iter().cloned().chain([name]).collect();
            let mtime_ns = time_of(&entry.modified_at);
            match (entry.kind, entry.symlink_target) {
                (Kind::Directory, _) => pending.push(Directory { names: below, mode: entry.mode, mtime_ns }),
                (Kind::Symlink, target) => {
                    symlinks.push(Symlink { names: below, target: target.unwrap_or_default(), mtime_ns });
                }
                (Kind::File, _) => {
                    self.bar.inc_length(entry.size);
                    send(below);
                }
            }
        }
        Ok(())
    }

    fn remote_path(&self, names: &[String]) -> Result<FsPath, Failure> {
        join(self.base, names.iter().map(String::as_str))
    }

    fn fetch(&self, names: &[String]) {
        if self.report.has_given_up() {
            return;
        }
        match self.fetch_file(names) {
            Ok(bytes) => self.report.count(|summary| {
                summary.files += 1;
                summary.bytes += bytes;
            }),
            Err(failure) => self.report.fail(failure),
        }
    }

    fn fetch_file(&self, names: &[String]) -> Result<u64, Failure> {
        let path = self.remote_path(names)?;
        let opened = self.client.get(&path, None).map_err(|error| Failure::remote(&path, error))?;
        let head = opened.head().clone();
        let written = |source| Failure::local("write", self.tree.shown(names), source);
        let mut partial: Partial = self.tree.create(names).map_err(written)?;
        let bytes = copy(Counted::new(opened, &self.bar), &mut partial, &path, written)?;
        partial.finish(mode_of(&head), head.mtime_ns).map_err(written)?;
        Ok(bytes)
    }

    fn make_symlink(&self, symlink: &Symlink) {
        match self.tree.make_symlink(&symlink.names, &symlink.target, symlink.mtime_ns) {
            Ok(()) => self.report.count(|summary| summary.symlinks += 1),
            Err(source) => {
                self.report.fail(Failure::local("make the symlink", self.tree.shown(&symlink.names), source))
            }
        }
    }

    fn finish_directory(&self, directory: &Directory) {
        let Directory { names, mode, mtime_ns } = directory;
        if let Err(source) = self.tree.finish_directory(names, Some(mode & 0o7777), *mtime_ns) {
            self.report.fail(Failure::local("set mode and time of", self.tree.shown(names), source));
        }
    }
}
