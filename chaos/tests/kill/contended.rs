//! Files that all writers overwrite at the same time.
//!
//! The server says which version each acknowledged put became. Those whose outcome is open may have become any version
//! that nobody else was given; whoever did must be whole.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Mutex, MutexGuard, PoisonError};

use proto::api::Entry;

use crate::content::Content;

/// What is known of one contended file.
#[derive(Debug, Default)]
struct Known {
    /// Contents of versions that were acknowledged or seen.
    versions: BTreeMap<u64, Content>,
    /// Versions that exist but were never seen.
    unseen: u64,
    /// Every sum of bytes that the unseen versions may have.
    unseen_bytes: BTreeSet<u64>,
    /// Puts whose outcome is open.
    open: Vec<Content>,
}

/// A file that all writers overwrite.
#[derive(Debug)]
pub(crate) struct Contended {
    pub(crate) path: String,
    known: Mutex<Known>,
}

impl Contended {
    pub(crate) fn new(path: &str) -> Contended {
        let known = Known { unseen_bytes: BTreeSet::from([0]), ..Known::default() };
        Contended { path: path.to_owned(), known: Mutex::new(known) }
    }

    fn known(&self) -> MutexGuard<'_, Known> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A put was acknowledged.
    pub(crate) fn acknowledge(&self, content: Content, answer: &Entry) {
        assert_eq!(answer.size, content.bytes, "{answer:?}");
        let before = self.known().versions.insert(answer.version, content);
        assert!(before.is_none(), "version {} of {} was given twice", answer.version, self.path);
    }

    /// The outcome of a put is open.
    pub(crate) fn leave_open(&self, content: Content) {
        self.known().open.push(content);
    }

    /// Decides what the open puts became, from the file as it is `seen`; `holds` compares its bytes with a content.
    ///
    /// Errors: why no history explains what is seen.
    pub(crate) fn settle(&self, seen: Option<&Entry>, holds: impl Fn(&Content) -> bool) -> Result<(), String> {
        let mut known = self.known();
        let version = seen.map_or(0, |entry| entry.version);
        let mut open = std::mem::take(&mut known.open);
        let counted = known.versions.len() as u64 + known.unseen;
        let newest = known.versions.keys().next_back().copied().unwrap_or(0);
        let happened = version.checked_sub(counted).filter(|happened| *happened <= open.len() as u64);
        let Some(mut happened) = happened.filter(|_| newest <= version) else {
            return Err(format!(
                "{} has version {version}: {counted} versions were known, the newest was {newest}, and the outcome of \
                 {} puts was open",
                self.path,
                open.len()
            ));
        };
        if let Some(entry) = seen {
            let fits = |content: &Content| content.bytes == entry.size && holds(content);
            match known.versions.get(&version) {
                Some(content) if fits(content) => {}
                Some(content) => return Err(format!("{} should be {content:?}, but is {entry:?}", self.path)),
                None => {
                    let Some(at) = open.iter().position(fits) else {
                        return Err(format!("{} is none of {open:?}, but {entry:?}", self.path));
                    };
                    known.versions.insert(version, open.remove(at));
                    // An old version that was never seen does not come back: a version that is new is a new put.
                    happened = happened.checked_sub(1).ok_or_else(|| format!("{} came from nowhere", self.path))?;
                }
            }
        }
        known.unseen += happened;
        let sums = sums_of(&open, happened);
        known.unseen_bytes = known.unseen_bytes.iter().flat_map(|old| sums.iter().map(move |new| old + new)).collect();
        Ok(())
    }

    /// Every sum of the bytes of all versions that is possible.
    pub(crate) fn logical_bytes(&self) -> BTreeSet<u64> {
        let known = self.known();
        let seen: u64 = known.versions.values().map(|content| content.bytes).sum();
        known.unseen_bytes.iter().map(|unseen| seen + unseen).collect()
    }
}

/// The sums of all choices of `count` contents.
fn sums_of(contents: &[Content], count: u64) -> BTreeSet<u64> {
    match contents.split_first() {
        _ if count == 0 => BTreeSet::from([0]),
        None => BTreeSet::new(),
        Some((first, rest)) => {
            let with = sums_of(rest, count - 1).into_iter().map(|sum| sum + first.bytes);
            with.chain(sums_of(rest, count)).collect()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::content::Texture;
    use proto::api::Kind;

    fn content(bytes: u64) -> Content {
        Content { seed: bytes, bytes, texture: Texture::Unique }
    }

    fn entry(version: u64, size: u64) -> Entry {
        Entry {
            id: String::new(),
            path: "/c".to_owned(),
            kind: Kind::File,
            version,
            size,
            etag: String::new(),
            created_at: String::new(),
            modified_at: String::new(),
            mode: 0,
            symlink_target: None,
            content_type: None,
            metadata: BTreeMap::new(),
        }
    }

    /// Version 2 was acknowledged; puts of 10 and of 20 bytes are open.
    fn contended() -> Contended {
        let file = Contended::new("/c");
        file.acknowledge(content(1), &entry(1, 1));
        file.acknowledge(content(2), &entry(2, 2));
        file.leave_open(content(10));
        file.leave_open(content(20));
        file
    }

    #[test]
    fn open_puts_take_the_versions_that_nobody_else_was_given() {
        for (version, size, sums) in [(2, 2, vec![3]), (3, 10, vec![13]), (4, 20, vec![33]), (4, 10, vec![33])] {
            let file = contended();
            file.settle(Some(&entry(version, size)), |_| true).unwrap();
            assert_eq!(Vec::from_iter(file.logical_bytes()), sums, "version {version}");
        }
        let file = contended();
        file.acknowledge(content(5), &entry(4, 5));
        file.settle(Some(&entry(4, 5)), |_| true).unwrap();
        assert_eq!(Vec::from_iter(file.logical_bytes()), [18, 28], "one of two became version 3");
    }

    #[test]
    fn versions_that_nobody_wrote_or_that_are_lost_are_noticed() {
        for (version, size) in [(1, 1), (2, 3), (2, 10), (3, 2), (5, 20)] {
            assert!(contended().settle(Some(&entry(version, size)), |_| true).is_err(), "version {version}, {size}");
        }
        assert!(contended().settle(None, |_| true).is_err());
        assert!(contended().settle(Some(&entry(2, 2)), |_| false).is_err(), "wrong bytes");
        let file = contended();
        file.settle(Some(&entry(4, 20)), |_| true).unwrap();
        assert!(file.settle(Some(&entry(3, 10)), |_| true).is_err(), "a version back");
    }
}
