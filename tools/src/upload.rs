//! `put`: from the local file system to the store.

use std::fs::File;
use std::os::unix::fs::FileTypeExt;
use std::path::{Path, PathBuf};

use client::{Attributes, Client, ClientError, Existing, Upload};
use indicatif::ProgressBar;
use proto::api::{Entry, Kind};
use proto::path::FsPath;

use crate::context::Context;
use crate::failure::Failure;
use crate::local::{Found, Snapshot, Tree};
use crate::output::human_bytes;
use crate::pool;
use crate::progress::{self, Counted};
use crate::remote::{Remote, join};
use crate::report::Report;

/// Stores one file, or standard input if `local` is `-`.
pub(crate) fn put_file(context: &Context, local: &Path, remote: Remote, attributes: Attributes) -> Result<(), Failure> {
    let entry = if local.as_os_str() == "-" {
        let path = remote.place(&context.client, None)?;
        let bar = progress::bar(context.output, &path.to_string(), None);
        let mut reader = Counted::new(std::io::stdin().lock(), &bar);
        let result = context.client.put(&path, Upload::stream(&mut reader, None), &attributes);
        bar.finish_and_clear();
        result.map_err(|error| Failure::remote(&path, error))?
    } else {
        let file = open_named(local)?;
        let path = remote.place(&context.client, Some(&file_name(local)?))?;
        let size = file.metadata().map_err(|source| Failure::local("read", local, source))?.len();
        let bar = progress::bar(context.output, &path.to_string(), Some(size));
        let result = send(&context.client, file, local, &path, attributes, &bar);
        bar.finish_and_clear();
        result?
    };
    context
        .output
        .result(&entry, || format!("stored {}: {}, version {}", entry.path, human_bytes(entry.size), entry.version))
}

/// Opens a file that the user named: symlinks are followed, but only files are stored.
fn open_named(local: &Path) -> Result<File, Failure> {
    let metadata = std::fs::metadata(local).map_err(|source| Failure::local("read", local, source))?;
    let kind = metadata.file_type();
    let refuse = |reason| Err(Failure::WrongLocalKind { path: local.to_owned(), reason });
    if kind.is_dir() {
        return refuse("is a directory; store it with -r");
    }
    if kind.is_fifo() || kind.is_char_device() || kind.is_block_device() || kind.is_socket() {
        return refuse("is not a regular file; to store what it delivers, use: dfs put - REMOTE < IT");
    }
    File::open(local).map_err(|source| Failure::local("open", local, source))
}

/// The last name of a local path, also of `.` and `..`.
pub(crate) fn file_name(local: &Path) -> Result<String, Failure> {
    let resolved = match local.file_name() {
        Some(_) => local.to_owned(),
        None => local.canonicalize().map_err(|source| Failure::local("resolve", local, source))?,
    };
    let name = resolved.file_name().ok_or_else(|| {
        Failure::Usage(format!("{} has no name of its own; name the remote path in full", local.display()))
    })?;
    name.to_str().map(str::to_owned).ok_or_else(|| Failure::NotUtf8 { path: local.to_owned() })
}

/// Sends `file` as the content of `path`, with its mode and time and the other `attributes`.
fn send(
    client: &Client,
    file: File,
    shown: &Path,
    path: &FsPath,
    attributes: Attributes,
    bar: &ProgressBar,
) -> Result<Entry, Failure> {
    let read = |source| Failure::local("read", shown, source);
    let before = Snapshot::of(&file).map_err(read)?;
    let mut reader = Counted::new(file.try_clone().map_err(read)?, bar);
    let attributes = Attributes { mode: Some(before.mode), mtime_ns: Some(before.mtime_ns), ..attributes };
    let entry = match client.put(path, Upload::rewindable(&mut reader, before.size), &attributes) {
        Ok(entry) => entry,
        Err(ClientError::Source(source)) => return Err(read(source)),
        Err(ClientError::SourceShort { .. }) => return Err(Failure::Changed { path: shown.to_owned() }),
        Err(error) => return Err(Failure::remote(path, error)),
    };
    if Snapshot::of(&file).map_err(read)? != before {
        return Err(Failure::Changed { path: shown.to_owned() });
    }
    Ok(entry)
}

/// One thing to store, by its names below the root of the tree.
enum Job {
    Directory(Vec<String>, Attributes),
    File(Vec<String>),
    Symlink(Vec<String>, u64),
}

/// Stores the tree below `local`.
pub(crate) fn put_tree(context: &Context, local: &Path, remote: Remote, threads: usize) -> Result<(), Failure> {
    let base = if remote.into && !remote.path.names().is_empty() {
        join(&remote.path, [file_name(local)?.as_str()])?
    } else {
        remote.path
    };
    let tree = Tree::open(local).map_err(|source| Failure::local("open the directory", local, source))?;
    let bar = progress::bar(context.output, &base.to_string(), Some(0));
    let upload = TreeUpload { client: &context.client, tree, base, report: Report::new(context.output), bar };

    let directories = pool::run(threads, |send| upload.walk(send), |job| upload.store(job));
    // Every name that was added changed the time of its directory, so these come last.
    pool::run(
        threads,
        |send| directories.into_iter().for_each(send),
        |(names, attributes)| {
            upload.finish_directory(&names, &attributes);
        },
    );
    upload.report.finish("stored", &upload.bar)
}

struct TreeUpload<'a> {
    client: &'a Client,
    tree: Tree,
    base: FsPath,
    report: Report,
    bar: ProgressBar,
}

impl TreeUpload<'_> {
    /// Finds everything there is to store; returns the directories with their attributes.
    fn walk(&self, send: &dyn Fn(Job)) -> Vec<(Vec<String>, Attributes)> {
        let mut directories = Vec::new();
        let mut pending = vec![Vec::new()];
        while let Some(names) = pending.pop() {
            if self.report.has_given_up() {
                break;
            }
            let (snapshot, entries) = match self.tree.entries(&names) {
                Ok(read) => read,
                Err(source) => {
                    self.report.fail(Failure::local("read the directory", self.tree.shown(&names), source));
                    continue;
                }
            };
            let attributes =
                Attributes { mode: Some(snapshot.mode), mtime_ns: Some(snapshot.mtime_ns), ..Attributes::default() };
            directories.push((names.clone(), attributes.clone()));
            send(Job::Directory(names.clone(), attributes));
            for (name, found) in entries {
                let shown = self.tree.shown(&names).join(&name);
                let Some(name) = name.to_str() else {
                    self.report.fail(Failure::NotUtf8 { path: shown });
                    continue;
                };
                let below: Vec<String> = names.iter().map(String::as_str).chain([name]).map(str::to_owned).collect();
                match found {
                    Found::Directory => pending.push(below),
                    Found::File(size) => {
                        self.bar.inc_length(size);
                        send(Job::File(below));
                    }
                    Found::Symlink(mtime_ns) => send(Job::Symlink(below, mtime_ns)),
                    Found::Special => self.report.skip(&shown, &self.bar),
                }
            }
        }
        directories
    }

    fn remote_path(&self, names: &[String]) -> Result<FsPath, Failure> {
        join(&self.base, names.iter().map(String::as_str))
    }

    fn store(&self, job: Job) {
        if self.report.has_given_up() {
            return;
        }
        let stored = match &job {
            Job::Directory(names, attributes) => self.store_directory(names, attributes),
            Job::File(names) => self.store_file(names),
            Job::Symlink(names, mtime_ns) => self.store_symlink(names, *mtime_ns),
        };
        if let Err(failure) = stored {
            self.report.fail(failure);
        }
    }

    fn store_directory(&self, names: &[String], attributes: &Attributes) -> Result<(), Failure> {
        let path = self.remote_path(names)?;
        let named = |error| Failure::remote(&path, error);
        match self.client.make_directory(&path, attributes) {
            Ok(_) => {}
            // A file of it may have come first, which made it; or the tree is stored again.
            Err(error) if error.is_already_exists() || path.names().is_empty() => {
                let found = self.client.stat(&path).map_err(named)?.kind;
                if found != Kind::Directory {
                    let wanted = Kind::Directory;
                    return Err(named(ClientError::WrongKind { path: path.to_string(), found, wanted }));
                }
            }
            Err(error) => return Err(named(error)),
        }
        self.report.count(|summary| summary.directories += 1);
        Ok(())
    }

    fn store_file(&self, names: &[String]) -> Result<(), Failure> {
        let shown: PathBuf = self.tree.shown(names);
        let file = self.tree.file(names).map_err(|source| Failure::local("open", &shown, source))?;
        let path = self.remote_path(names)?;
        let entry = send(self.client, file, &shown, &path, Attributes::default(), &self.bar)?;
        self.report.count(|summary| {
            summary.files += 1;
            summary.bytes += entry.size;
        });
        Ok(())
    }

    fn store_symlink(&self, names: &[String], mtime_ns: u64) -> Result<(), Failure> {
        let shown = self.tree.shown(names);
        let target = self.tree.symlink(names).map_err(|source| Failure::local("read the symlink", &shown, source))?;
        let target = target.to_str().ok_or(Failure::NotUtf8 { path: shown })?;
        let path = self.remote_path(names)?;
        let attributes = Attributes { mtime_ns: Some(mtime_ns), ..Attributes::default() };
        let named = |error| Failure::remote(&path, error);
        match self.client.make_symlink(&path, target, &attributes) {
            Ok(_) => {}
            Err(error) if error.is_already_exists() => self.replace_symlink(&path, target, &attributes, error)?,
            Err(error) => return Err(named(error)),
        }
        self.report.count(|summary| summary.symlinks += 1);
        Ok(())
    }

    /// Puts a symlink in the place of another one, atomically; anything else that has the name stays.
    fn replace_symlink(
        &self,
        path: &FsPath,
        target: &str,
        attributes: &Attributes,
        taken: ClientError,
    ) -> Result<(), Failure> {
        let named = |error| Failure::remote(path, error);
        let found = self.client.stat(path).map_err(named)?;
        if found.kind != Kind::Symlink {
            return Err(named(taken));
        }
        if found.symlink_target.as_deref() == Some(target) {
            return self.client.set_attributes(path, attributes).map(drop).map_err(named);
        }
        let (parent, _) = path.split().expect("invariant: a symlink below a tree has a name");
        let partial = join(&parent, [format!(".dfs-partial-{}-{}", std::process::id(), found.id).as_str()])?;
        self.client.make_symlink(&partial, target, attributes).map_err(named)?;
        self.client.rename(&partial, path, Existing::Replace).map(drop).map_err(named)
    }

    fn finish_directory(&self, names: &[String], attributes: &Attributes) {
        if self.report.has_given_up() {
            return;
        }
        let set = self.remote_path(names).and_then(|path| {
            // The top directory is the server's own.
            if path.names().is_empty() {
                return Ok(());
            }
            match self.client.set_attributes(&path, attributes) {
                Ok(_) => Ok(()),
                // That it could not be made has been reported.
                Err(error) if error.is_not_found() => Ok(()),
                Err(error) => Err(Failure::remote(&path, error)),
            }
        });
        if let Err(failure) = set {
            self.report.fail(failure);
        }
    }
}
