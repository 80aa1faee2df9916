//! Lookups: what the node asks of the state between commands.
//!
//! A view borrows the state and sees only durable commands, each entirely or not at all.

use proto::api::Kind;
use proto::planted::{self, Bug};
use proto::{DeviceId, DomainId, InodeId, SegmentId, VersionNumber};

use crate::command::{Content, MetaError};
use crate::exec::{collection, parent_of};
use crate::keys;
use crate::record::{
    Counters, DomainRecord, Event, EventClock, IndexCheckpoint, Inode, Name, OnceClock, Past, SegmentRecord,
    SegmentState, SessionClock, Version,
};
use crate::retention::{self, InForce, Retention};
use crate::state::State;
use crate::txn::{KvTxn, load, own};

/// The state at one moment.
#[derive(Clone, Copy)]
pub struct View<'a> {
    state: &'a State,
}

/// How far a walk over all manifests has come; the default is its beginning. It stays good whatever changes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ManifestsCursor(Option<(InodeId, VersionNumber)>);

/// What a name stands for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Found {
    /// The file, directory or symlink.
    pub inode: InodeId,
    /// Which of them it is.
    pub kind: Kind,
}

/// Which change events are retained.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct EventSpan {
    /// Before the oldest of them: who has seen everything up to here can go on.
    pub oldest: u64,
    /// At the newest of them; equal to `oldest` if there is none.
    pub newest: u64,
}

impl From<Name> for Found {
    fn from(name: Name) -> Found {
        Found { inode: name.inode, kind: name.kind }
    }
}

impl<'a> View<'a> {
    /// Returns a view of `state`.
    pub(crate) fn new(state: &'a State) -> View<'a> {
        View { state }
    }

    /// Walks `names` from the root. Symlinks are not followed.
    ///
    /// # Errors
    /// `NotFound` if a name is missing, `NotADirectory` if one that is not the last is a file or symlink.
    pub fn resolve(&self, names: &[String]) -> Result<Found, MetaError> {
        let mut found = Found { inode: InodeId::ROOT, kind: Kind::Directory };
        for name in names {
            if found.kind != Kind::Directory {
                return Err(MetaError::NotADirectory);
            }
            found = self.child(found.inode, name).ok_or(MetaError::NotFound)?;
        }
        Ok(found)
    }

    /// The file, directory or symlink `inode`; `None` if it is gone.
    #[must_use]
    pub fn inode(&self, inode: InodeId) -> Option<Inode> {
        load(self.state, &keys::inode(inode))
    }

    /// The names that lead from the root to `inode`, outermost first; `None` if it is gone.
    ///
    /// A moved directory may put what is below it deeper than [`proto::limits::PATH_DEPTH_MAX`]; such a path is returned
    /// in full.
    #[must_use]
    pub fn path_of(&self, inode: InodeId) -> Option<Vec<String>> {
        self.state.get(&keys::inode(inode))?;
        let mut names = Vec::new();
        let mut at = inode;
        while at != InodeId::ROOT {
            let (parent, name) = parent_of(self.state, at);
            names.push(name);
            at = parent;
        }
        names.reverse();
        Some(names)
    }

    /// What `name` stands for in `directory`.
    #[must_use]
    pub fn child(&self, directory: InodeId, name: &str) -> Option<Found> {
        load::<Name>(self.state, &keys::name(directory, name)).map(Found::from)
    }

    /// Up to `limit` names of `directory` that come after `after`, ordered bytewise; empty if it is no directory.
    #[must_use]
    pub fn list(&self, directory: InodeId, after: Option<&str>, limit: usize) -> Vec<(String, InodeId)> {
        let names = keys::names(directory, after);
        let skipped = usize::from(after.is_some() && planted::is(Bug::PageEdgeSkipped));
        let pairs = self.state.range(&names).skip(skipped).take(limit);
        pairs
            .map(|(key, value)| {
                let name = keys::name_of(&key).expect("invariant: names are UTF-8");
                (name.to_owned(), own::<Name>(value).inode)
            })
            .collect()
    }

    /// The bytes, or the chunks, of a version of a file; `None` if there is none.
    #[must_use]
    pub fn content(&self, inode: InodeId, version: VersionNumber) -> Option<Content> {
        load::<Version>(self.state, &keys::version(inode, version)).map(|version| version.content)
    }

    /// What the inode of a file said at an earlier version; `None` if there is no such version, or it is the current
    /// one.
    #[must_use]
    pub fn past(&self, inode: InodeId, version: VersionNumber) -> Option<Past> {
        load(self.state, &keys::past(inode, version))
    }

    /// Up to `limit` earlier versions of a file below `before`, newest first.
    #[must_use]
    pub fn pasts(&self, inode: InodeId, before: VersionNumber, limit: usize) -> Vec<(VersionNumber, Past)> {
        let below = keys::pasts(inode, before);
        let pairs = self.state.range(&below).take(limit);
        pairs.map(|(key, value)| (keys::version_of_past(&key), own(value))).collect()
    }

    /// Why a file has no such version: it was let go, or it never was.
    #[must_use]
    pub fn why_missing(&self, inode: InodeId, version: VersionNumber) -> MetaError {
        retention::why_missing(self.state, inode, version)
    }

    /// The own retention of a directory; `None` if it has none, or is none.
    #[must_use]
    pub fn own_retention(&self, directory: InodeId) -> Option<Retention> {
        retention::own(self.state, directory)
    }

    /// The retention that holds for the files of `directory`; `None` if no directory on the way to the root has one.
    ///
    /// # Panics
    /// If there is no such directory.
    #[must_use]
    pub fn retention_in_force(&self, directory: InodeId) -> Option<InForce> {
        retention::in_force(self.state, directory)
    }

    /// From when on `retention` lets an earlier version of `file` go, in nanoseconds since the Unix epoch, if those
    /// before it have gone; `None`: not before more versions come, or it is the current one.
    #[must_use]
    pub fn lets_go_at(&self, file: &Inode, version: VersionNumber, retention: Retention) -> Option<u64> {
        retention::lets_go_at(self.state, file, version, retention)
    }

    /// Looks at up to `limit` files that have earlier versions and whose inodes come after `after`. Returns those of
    /// which at least one version is let go at `now_ns`, and where to go on; `None` after the last.
    #[must_use]
    pub fn expired(&self, after: Option<InodeId>, now_ns: u64, limit: usize) -> (Vec<InodeId>, Option<InodeId>) {
        retention::expired(self.state, after, now_ns, limit)
    }

    /// Which change events are retained.
    #[must_use]
    pub fn event_span(&self) -> EventSpan {
        let EventClock { oldest, next, .. } = load(self.state, keys::EVENT_CLOCK).unwrap_or_default();
        EventSpan { oldest: oldest - 1, newest: next - 1 }
    }

    /// Bytes of the change events that are retained.
    #[must_use]
    pub fn event_bytes(&self) -> u64 {
        load::<EventClock>(self.state, keys::EVENT_CLOCK).unwrap_or_default().bytes
    }

    /// Clients whose exactly-once windows are remembered.
    #[must_use]
    pub fn session_clients(&self) -> u64 {
        load::<SessionClock>(self.state, keys::SESSION_CLOCK).unwrap_or_default().clients
    }

    /// Idempotency keys that are remembered.
    #[must_use]
    pub fn idempotency_keys(&self) -> u64 {
        let clock = load::<OnceClock>(self.state, keys::ONCE_CLOCK).unwrap_or_default();
        clock.next - clock.oldest
    }

    /// Up to `limit` retained events after `cursor` with their own cursors, in the order in which the changes were made.
    #[must_use]
    pub fn events(&self, cursor: u64, limit: usize) -> Vec<(u64, Event)> {
        let after = keys::events(cursor);
        let pairs = self.state.range(&after).take(limit);
        pairs.map(|(key, value)| (keys::cursor_of_event(&key), own(value))).collect()
    }

    /// Totals over the whole state.
    #[must_use]
    pub fn counters(&self) -> Counters {
        load(self.state, keys::COUNTERS).unwrap_or_default()
    }

    /// The current epoch of garbage collection.
    #[must_use]
    pub fn epoch(&self) -> u64 {
        collection::epoch(self.state)
    }

    /// The manifests of the versions of all files, in the order of their keys, from `cursor` on: up to `limit` versions,
    /// and no further than `entries_max` entries of manifests.
    ///
    /// Returns the list of each version that has one (the bytes of the others lie inline), and where to go on; `None` at
    /// the end. A version that is there during the whole walk is met once; one that comes meanwhile is met if its
    /// inode and version are above the cursor.
    #[must_use]
    pub fn manifests(
        &self,
        cursor: ManifestsCursor,
        limit: usize,
        entries_max: usize,
    ) -> (Vec<Content>, Option<ManifestsCursor>) {
        let (mut manifests, mut entries_seen) = (Vec::new(), 0);
        let rest = keys::all_versions(cursor.0);
        for (seen, (key, value)) in self.state.range(&rest).enumerate() {
            if seen == limit || entries_seen >= entries_max {
                return (manifests, Some(ManifestsCursor(Some(keys::version_at(&key)))));
            }
            let Version { content } = own(value);
            if let Content::Chunks { entries, .. } = &content {
                entries_seen += entries.len();
                manifests.push(content);
            }
        }
        (manifests, None)
    }

    /// All segments that are listed, ascending: open, sealed, and freed ones until they are forgotten.
    #[must_use]
    pub fn segments(&self) -> Vec<SegmentRecord> {
        self.state.range(&keys::segments()).map(|(_, value)| own(value)).collect()
    }

    /// The segments that were freed and not forgotten yet, with the device of each column.
    #[must_use]
    pub fn freed_segments(&self) -> Vec<(SegmentId, Vec<DeviceId>)> {
        let freed = self.segments().into_iter().filter(|record| record.state == SegmentState::Freed);
        freed.map(|record| (record.segment, record.members)).collect()
    }

    /// One segment; `None` if it is not listed.
    #[must_use]
    pub fn segment(&self, segment: SegmentId) -> Option<SegmentRecord> {
        load(self.state, &keys::segment(segment))
    }

    /// The last checkpoint of the chunk index; `None` if none was taken.
    #[must_use]
    pub fn index_checkpoint(&self) -> Option<IndexCheckpoint> {
        load(self.state, keys::INDEX_CHECKPOINT)
    }

    /// A dedup domain; `None` if it was never registered.
    #[must_use]
    pub fn domain(&self, domain: DomainId) -> Option<DomainRecord> {
        load(self.state, &keys::domain(domain))
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;
    use crate::command::{Attributes, Command, Condition, Place, Response};
    use crate::exec::exec;

    fn set(state: &mut State, name: &str, is_there: bool) {
        let command = if is_there {
            Command::CommitFile {
                at: Place::in_directory(InodeId::ROOT, name),
                content: Content::Inline(Vec::new()),
                attributes: Attributes::default(),
                condition: Condition::Any,
                session: None,
                now_ns: 1,
                pin_epoch: 0,
            }
        } else {
            Command::Unlink {
                parent: InodeId::ROOT,
                name: name.into(),
                inode: None,
                condition: Condition::Any,
                session: None,
                now_ns: 1,
            }
        };
        assert!(!matches!(exec(&command, state), Response::Failed(_)));
    }

    proptest! {
        /// Names in several leaves and pages; some come and go, some stay.
        #[test]
        fn a_listing_in_pages_shows_each_name_that_stays_once(
            before in prop::collection::btree_set("[a-d]{1,12}", 0..300),
            changes in prop::collection::vec(("[a-d]{1,12}", any::<prop::sample::Index>(), any::<bool>()), 0..200),
            changes_per_page in 0usize..20,
            limit in 1usize..40,
        ) {
            let mut state = State::default();
            exec(&Command::Format { now_ns: 1 }, &mut state);
            before.iter().for_each(|name| set(&mut state, name, true));
            let mut names = before.clone();
            let (mut stayed, mut ever) = (before.clone(), before);
            let mut changes = changes.into_iter();
            let mut seen: Vec<String> = Vec::new();
            loop {
                let page = View::new(&state).list(InodeId::ROOT, seen.last().map(String::as_str), limit);
                let is_last = page.len() < limit;
                seen.extend(page.into_iter().map(|(name, _)| name));
                if is_last {
                    break;
                }
                for (new, old, comes) in changes.by_ref().take(changes_per_page) {
                    if comes {
                        set(&mut state, &new, true);
                        names.insert(new.clone());
                        ever.insert(new);
                    } else if !names.is_empty() {
                        let old = names.iter().nth(old.index(names.len())).unwrap().clone();
                        set(&mut state, &old, false);
                        names.remove(&old);
                        stayed.remove(&old);
                    }
                }
            }
            prop_assert!(seen.is_sorted_by(|a, b| a < b), "in order, none twice");
            let seen: BTreeSet<String> = seen.into_iter().collect();
            prop_assert!(stayed.is_subset(&seen));
            prop_assert!(seen.is_subset(&ever));
        }
    }
}
