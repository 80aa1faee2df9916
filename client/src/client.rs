//! One method per operation.

use std::time::Duration;

use proto::api::{
    Entry, EventPage, FragmentInfo, Gc, GcRun, Kind, Retention, RetentionInfo, Stats, VersionList, header,
};
use proto::limits::EVENT_WAIT_SECONDS_MAX;
use proto::path::FsPath;
use serde::de::DeserializeOwned;
use ureq::http::Method;

use crate::transport::{Call, Transport};
use crate::url::{encode, fs_target};
use crate::{Attributes, ByteRange, Children, ClientError, ClientOptions, Download, Head, Upload};

/// A connection to one server. Cheap to clone; threads may share it.
#[derive(Clone, Debug)]
pub struct Client {
    transport: Transport,
}

/// What [`Client::remove`] does with a directory that is not empty.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Removal {
    /// Refuses (`not_empty`).
    Single,
    /// Removes everything below it too.
    Tree,
}

/// What [`Client::rename`] does when the new name is taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Existing {
    /// Refuses (`already_exists`).
    Keep,
    /// Replaces it, atomically.
    Replace,
}

/// Which changes [`Client::events`] reads.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Watch {
    /// A cursor of an earlier answer, `now` or `oldest`.
    pub since: String,
    /// Only changes of this object and of what is below it.
    pub below: Option<FsPath>,
    /// How long to wait for a change if there is none yet, in whole seconds; at most 60, and less than the client's
    /// idle timeout.
    pub wait: Duration,
}

impl Client {
    /// Prepares a client; nothing is sent yet.
    ///
    /// # Errors
    /// [`ClientError::Endpoint`] or [`ClientError::Token`] name what to correct.
    pub fn new(options: ClientOptions) -> Result<Client, ClientError> {
        Ok(Client { transport: Transport::new(options)? })
    }

    pub(crate) fn transport(&self) -> &Transport {
        &self.transport
    }

    /// Creates the file at `path`, or its next version; missing directories are created. Durable when this returns.
    ///
    /// # Errors
    /// See [`ClientError`]; [`ClientError::Source`] and [`ClientError::SourceShort`] if `upload` failed.
    pub fn put(&self, path: &FsPath, mut upload: Upload<'_>, attributes: &Attributes) -> Result<Entry, ClientError> {
        self.change(Method::PUT, fs_target(path), attributes, Some(&mut upload))
    }

    /// Opens the file at `path`, or a part of it.
    ///
    /// # Errors
    /// [`ClientError::WrongKind`] if it is a directory or symlink; see [`ClientError`].
    pub fn get(&self, path: &FsPath, range: Option<ByteRange>) -> Result<Download, ClientError> {
        Download::open(self.clone(), path.clone(), None, range)
    }

    /// Opens a version of the file at `path`, the current one or an earlier one, or a part of it.
    ///
    /// # Errors
    /// `no_such_version`, `not_a_file`; see [`ClientError`].
    pub fn get_version(&self, path: &FsPath, version: u64, range: Option<ByteRange>) -> Result<Download, ClientError> {
        Download::open(self.clone(), path.clone(), Some(version), range)
    }

    /// Lists versions of the file at `path`, newest first: a page of those below `after`, or of all.
    ///
    /// # Errors
    /// `not_a_file`; see [`ClientError`].
    pub fn versions(&self, path: &FsPath, after: Option<u64>) -> Result<VersionList, ClientError> {
        let after = after.map_or(String::new(), |after| format!("&after={after}"));
        let list = read(Method::GET, format!("{}?versions{after}", fs_target(path)));
        self.transport.exchange_json(&list, None)
    }

    /// Makes a version of the file at `path` its next one, with the attributes that it had.
    ///
    /// # Errors
    /// `no_such_version`, `not_a_file`; see [`ClientError`].
    pub fn restore(&self, path: &FsPath, version: u64) -> Result<Entry, ClientError> {
        let target = format!("{}?restore={version}", fs_target(path));
        self.change(Method::POST, target, &Attributes::default(), None)
    }

    /// Describes the retention of whatever has the name `path`: which earlier versions stay, and which directory says so.
    ///
    /// # Errors
    /// See [`ClientError`].
    pub fn retention(&self, path: &FsPath) -> Result<RetentionInfo, ClientError> {
        self.transport.exchange_json(&read(Method::GET, format!("{}?retention", fs_target(path))), None)
    }

    /// Sets the retention of the directory at `path`. What it does not keep goes before long, and nothing brings it back.
    ///
    /// # Errors
    /// `bad_body` for rules that exclude each other or keep nothing, `not_a_directory`; see [`ClientError`].
    pub fn set_retention(&self, path: &FsPath, retention: &Retention) -> Result<RetentionInfo, ClientError> {
        let text = serde_json::to_vec(retention).expect("invariant: a retention is plain data");
        let mut reader = std::io::Cursor::new(&text);
        let mut upload = Upload::rewindable(&mut reader, text.len() as u64);
        let target = format!("{}?retention", fs_target(path));
        self.change(Method::PUT, target, &Attributes::default(), Some(&mut upload))
    }

    /// Clears the retention of the directory at `path`, so that the one of the directory above it holds.
    ///
    /// # Errors
    /// `not_a_directory`; see [`ClientError`].
    pub fn clear_retention(&self, path: &FsPath) -> Result<RetentionInfo, ClientError> {
        self.change(Method::DELETE, format!("{}?retention", fs_target(path)), &Attributes::default(), None)
    }

    /// Reads the changes that come after `since`: a cursor of an earlier answer, `now` or `oldest`. Waits for one if
    /// there is none yet.
    ///
    /// # Errors
    /// `cursor_gone` if changes after the cursor are forgotten; see [`ClientError`].
    pub fn events(&self, watch: &Watch) -> Result<EventPage, ClientError> {
        let wait_s = watch.wait.as_secs().min(EVENT_WAIT_SECONDS_MAX as u64);
        let prefix =
            watch.below.as_ref().map_or(String::new(), |path| format!("&prefix={}", encode(&path.to_string())));
        let target = format!("/api/v1/events?since={}&wait={wait_s}{prefix}", encode(&watch.since));
        self.transport.exchange_json(&read(Method::GET, target), None)
    }

    /// Describes whatever has the name `path`; a symlink is described itself, not followed.
    ///
    /// # Errors
    /// See [`ClientError`].
    pub fn stat(&self, path: &FsPath) -> Result<Entry, ClientError> {
        self.transport.exchange_json(&read(Method::GET, format!("{}?stat", fs_target(path))), None)
    }

    /// Counts the fragments of the file at `path`, at `version` or at its current one. The server walks its whole list of
    /// chunks.
    ///
    /// # Errors
    /// `no_such_version`, `not_a_file`; see [`ClientError`].
    pub fn fragments(&self, path: &FsPath, version: Option<u64>) -> Result<FragmentInfo, ClientError> {
        let version = version.map_or(String::new(), |version| format!("&version={version}"));
        self.transport.exchange_json(&read(Method::GET, format!("{}?fragments{version}", fs_target(path))), None)
    }

    /// Reads the headers of whatever has the name `path`.
    ///
    /// # Errors
    /// See [`ClientError`].
    pub fn head(&self, path: &FsPath) -> Result<Head, ClientError> {
        let response = self.transport.exchange(&read(Method::HEAD, fs_target(path)), None)?;
        let length = response.headers().get("content-length").and_then(|value| value.to_str().ok());
        let size = length.and_then(|value| value.parse().ok()).unwrap_or(0);
        Head::read(response.headers(), size).map_err(|reason| self.transport.protocol(reason))
    }

    /// Lists the directory at `path`, ordered by name, page by page as the iterator is pulled.
    #[must_use]
    pub fn list(&self, path: &FsPath) -> Children {
        Children::new(self.clone(), path.clone())
    }

    /// Creates a directory, and its parents if they are missing.
    ///
    /// # Errors
    /// `already_exists` if the name is taken, also by a directory; see [`ClientError`].
    pub fn make_directory(&self, path: &FsPath, attributes: &Attributes) -> Result<Entry, ClientError> {
        self.change(Method::PUT, format!("{}?type=directory", fs_target(path)), attributes, None)
    }

    /// Creates a symlink to `target`, which is stored as it is and never resolved by the server.
    ///
    /// # Errors
    /// `already_exists` if the name is taken; see [`ClientError`].
    pub fn make_symlink(&self, path: &FsPath, target: &str, attributes: &Attributes) -> Result<Entry, ClientError> {
        let mut reader = std::io::Cursor::new(target);
        let mut upload = Upload::rewindable(&mut reader, target.len() as u64);
        self.change(Method::PUT, format!("{}?type=symlink", fs_target(path)), attributes, Some(&mut upload))
    }

    /// Removes a name.
    ///
    /// # Errors
    /// `not_empty` for a directory with entries unless `removal` is [`Removal::Tree`]; see [`ClientError`].
    pub fn remove(&self, path: &FsPath, removal: Removal) -> Result<(), ClientError> {
        let query = match removal {
            Removal::Single => "",
            Removal::Tree => "?recursive=true",
        };
        let loan = self.transport.sessions().lend();
        let mut call = read(Method::DELETE, format!("{}{query}", fs_target(path)));
        call.headers = vec![(header::CLIENT.into(), loan.client()), (header::SEQUENCE.into(), loan.sequence())];
        self.transport.exchange(&call, None).map(drop)
    }

    /// Renames `from` to `to`, across directories too; the id stays.
    ///
    /// # Errors
    /// `already_exists` if `to` is taken and `existing` is [`Existing::Keep`]; see [`ClientError`].
    pub fn rename(&self, from: &FsPath, to: &FsPath, existing: Existing) -> Result<Entry, ClientError> {
        let replace = match existing {
            Existing::Keep => "",
            Existing::Replace => "&replace=true",
        };
        let target = format!("{}?rename_to={}{replace}", fs_target(from), encode(&to.to_string()));
        self.change(Method::POST, target, &Attributes::default(), None)
    }

    /// Sets the attributes that are present in `attributes`.
    ///
    /// # Errors
    /// See [`ClientError`].
    pub fn set_attributes(&self, path: &FsPath, attributes: &Attributes) -> Result<Entry, ClientError> {
        self.change(Method::PATCH, fs_target(path), attributes, None)
    }

    /// Where the space went.
    ///
    /// # Errors
    /// See [`ClientError`].
    pub fn stats(&self) -> Result<Stats, ClientError> {
        self.transport.exchange_json(&read(Method::GET, "/api/v1/stats".to_owned()), None)
    }

    /// How garbage collection goes.
    ///
    /// # Errors
    /// See [`ClientError`].
    pub fn gc(&self) -> Result<Gc, ClientError> {
        self.transport.exchange_json(&read(Method::GET, "/api/v1/gc".to_owned()), None)
    }

    /// Asks for garbage to be collected: one cycle, or, with `now`, until everything is gone that is garbage now.
    /// Returns the number of the run that will do it; sending it again asks again, which does no harm.
    ///
    /// # Errors
    /// See [`ClientError`].
    pub fn run_gc(&self, now: bool) -> Result<u64, ClientError> {
        let target = if now { "/api/v1/gc/run?now" } else { "/api/v1/gc/run" };
        let run: GcRun = self.transport.exchange_json(&read(Method::POST, target.to_owned()), None)?;
        Ok(run.run)
    }

    /// Sends a call that changes something: the same `(client, sequence)` on every attempt.
    fn change<T: DeserializeOwned>(
        &self,
        method: Method,
        target: String,
        attributes: &Attributes,
        upload: Option<&mut Upload<'_>>,
    ) -> Result<T, ClientError> {
        let loan = self.transport.sessions().lend();
        let mut headers = attributes.headers()?;
        headers.push((header::CLIENT.to_owned(), loan.client()));
        headers.push((header::SEQUENCE.to_owned(), loan.sequence()));
        self.transport.exchange_json(&Call { method, target, headers }, upload)
    }

    /// The error for a path that is not of the `wanted` kind.
    pub(crate) fn wrong_kind(path: &FsPath, found: Kind, wanted: Kind) -> ClientError {
        ClientError::WrongKind { path: path.to_string(), found, wanted }
    }
}

/// A call without attributes or session.
pub(crate) fn read(method: Method, target: String) -> Call {
    Call { method, target, headers: Vec::new() }
}
