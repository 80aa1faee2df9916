//! A directory, page by page.
//!
//! Invariant: every name is one legal component directly below the listed directory, and names only grow. So no answer
//! can make a caller write outside of its target, and no answer can make a listing endless.

use proto::api::{Entry, Kind, Listing, header};
use proto::path::FsPath;
use ureq::http::Method;

use crate::client::read;
use crate::url::{encode, fs_target};
use crate::{Client, ClientError};

/// One entry of a directory.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Child {
    /// Its name within the directory, checked.
    pub name: String,
    /// What it is.
    pub entry: Entry,
}

/// The entries of a directory; ends after the first error.
#[derive(Debug)]
pub struct Children {
    client: Client,
    directory: FsPath,
    page: std::vec::IntoIter<Entry>,
    next: NextPage,
    last_name: String,
}

#[derive(Debug)]
enum NextPage {
    First,
    At(String),
    None,
}

impl Children {
    pub(crate) fn new(client: Client, directory: FsPath) -> Children {
        Children { client, directory, page: Vec::new().into_iter(), next: NextPage::First, last_name: String::new() }
    }

    fn fetch(&self, cursor: Option<&str>) -> Result<Listing, ClientError> {
        let transport = self.client.transport();
        // The first page takes no parameters: a server refuses those of a listing on what is not a directory, before it
        // says what it is.
        let cursor = cursor.map_or(String::new(), |cursor| format!("?cursor={}", encode(cursor)));
        let target = format!("{}{cursor}", fs_target(&self.directory));
        let call = read(Method::GET, target);
        let mut attempt = 1;
        loop {
            let response = transport.exchange(&call, None)?;
            match response.headers().get(header::KIND).map(|kind| kind.as_bytes()) {
                Some(b"file") => return Err(Client::wrong_kind(&self.directory, Kind::File, Kind::Directory)),
                Some(b"symlink") => return Err(Client::wrong_kind(&self.directory, Kind::Symlink, Kind::Directory)),
                _ => {}
            }
            match transport.json(response) {
                Err(ClientError::Interrupted { .. }) if attempt < transport.retry().attempts_max => attempt += 1,
                other => return other,
            }
        }
    }

    fn check(&mut self, entry: Entry) -> Result<Child, ClientError> {
        let name = match FsPath::parse(&entry.path).ok().as_ref().and_then(FsPath::split) {
            Some((parent, name)) if parent == self.directory => name.to_owned(),
            _ => {
                let reason = format!("{:?} in the listing of {}", entry.path, self.directory);
                return Err(self.client.transport().protocol(reason));
            }
        };
        if name <= self.last_name {
            let reason = format!("the listing of {} is not in order at {name:?}", self.directory);
            return Err(self.client.transport().protocol(reason));
        }
        self.last_name.clone_from(&name);
        Ok(Child { name, entry })
    }
}

impl Iterator for Children {
    type Item = Result<Child, ClientError>;

    fn next(&mut self) -> Option<Self::Item> {
        loop {
            if let Some(entry) = self.page.next() {
                let child = self.check(entry);
                if child.is_err() {
                    self.page = Vec::new().into_iter();
                    self.next = NextPage::None;
                }
                return Some(child);
            }
            let listing = match std::mem::replace(&mut self.next, NextPage::None) {
                NextPage::First => self.fetch(None),
                NextPage::At(cursor) => self.fetch(Some(&cursor)),
                NextPage::None => return None,
            };
            match listing {
                Ok(listing) => {
                    // An empty page with a cursor would let a broken server keep us here for ever.
                    if !listing.entries.is_empty() {
                        self.next = listing.next_cursor.map_or(NextPage::None, NextPage::At);
                    }
                    self.page = listing.entries.into_iter();
                }
                Err(error) => return Some(Err(error)),
            }
        }
    }
}
