//! **No acknowledged write is lost.** A version that a client was told is committed can be read until somebody asks for
//! its file to be removed, moved or replaced, whatever crashes come.
//!
//! How: a ledger of the plainest kind, which shares no thought with the oracle. It enters (path, version, content) with
//! the acknowledgement of a put, and strikes it out as soon as anybody *calls* what could take the path away. Whatever
//! stands there must be found by every full check: a file at that path, at least that version, and whenever that version
//! is read, exactly those bytes.
//!
//! What it would miss: writes whose answer was a repetition of an earlier one, or that ran beside a removal or rename of
//! their path; and attributes. Those are judged by [`super::linearizable`] alone.

use std::collections::{BTreeMap, BTreeSet};

use proto::api::Kind;

use super::Invariant;
use crate::harness::World;
use crate::oracle::model::{Action, Answer, ContentId};
use crate::oracle::{Seen, Violation, violation};

/// What was acknowledged and must be there.
#[derive(Default)]
pub struct Ledger {
    underway: BTreeMap<u64, Underway>,
    /// Requests that were called before: their answers may be old.
    requests: BTreeSet<(u64, u64)>,
    /// By path and version.
    kept: BTreeMap<String, BTreeMap<u64, ContentId>>,
}

struct Underway {
    action: Action,
    /// Whether its answer will say what is there: it is no repetition, and nothing that could undo it ran beside it.
    is_certain: bool,
}

impl Ledger {
    /// An operation is called.
    pub fn called(&mut self, number: u64, action: &Action, session: Option<(u64, u64)>) {
        let is_first = session.is_none_or(|request| self.requests.insert(request));
        if matches!(action, Action::Remove { .. } | Action::Rename { .. }) {
            self.kept.retain(|path, _| !may_take(action, path));
            for underway in self.underway.values_mut() {
                underway.is_certain &= !may_take(action, underway.action.path());
            }
        }
        let is_undone = self.underway.values().any(|other| may_take(&other.action, action.path()));
        let is_certain = is_first && !is_undone;
        self.underway.insert(number, Underway { action: action.clone(), is_certain });
    }

    /// An operation was answered.
    pub fn answered(&mut self, number: u64, answer: &Answer) {
        if let Some(Underway { action: Action::Put { path, content, .. }, is_certain: true }) =
            self.underway.remove(&number)
            && let Answer::Committed { version, .. } = answer
        {
            self.kept.entry(path).or_default().insert(*version, content);
        }
    }

    /// An operation was turned down.
    pub fn turned_down(&mut self, number: u64) {
        self.underway.remove(&number);
    }

    /// The process is gone, and with it what was under way.
    pub fn crashed(&mut self) {
        self.underway.clear();
    }

    /// Looks for every file among all entries that the node shows; returns how many it looked for.
    ///
    /// # Errors
    /// [`Violation`] if one is missing, or is older than what was acknowledged.
    pub fn check_names(&self, seen: &BTreeMap<String, Seen>) -> Result<u64, Violation> {
        for (path, versions) in &self.kept {
            let newest = versions.last_key_value().map_or(0, |(version, _)| *version);
            match seen.get(path) {
                Some(found) if found.kind == Kind::File && found.version >= newest => {}
                found => return Err(violation!("{path} was acknowledged at version {newest}; there is {found:?}")),
            }
        }
        Ok(self.kept.len() as u64)
    }

    /// Compares the bytes of a version; returns whether it was acknowledged.
    ///
    /// # Errors
    /// [`Violation`] if other bytes were.
    pub fn check_bytes(
        &self,
        path: &str,
        version: u64,
        are: impl FnOnce(ContentId) -> bool,
    ) -> Result<bool, Violation> {
        let Some(content) = self.kept.get(path).and_then(|versions| versions.get(&version)) else { return Ok(false) };
        if are(*content) {
            return Ok(true);
        }
        Err(violation!("version {version} of {path} was acknowledged with {content:?}, and has other bytes"))
    }
}

/// Whether `action` may take away what is at `path`.
fn may_take(action: &Action, path: &str) -> bool {
    let within = |top: &str| path.strip_prefix(top).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'));
    match action {
        Action::Remove { path: top, .. } => within(top),
        Action::Rename { from, to, .. } => within(from) || within(to),
        _ => false,
    }
}

/// Checks the names that a walk over everything met.
pub(crate) fn check_names(world: &World, seen: &BTreeMap<String, Seen>) -> Result<(), Violation> {
    let looked_for = world.oracle.borrow().acked().check_names(seen)?;
    world.judge.count(Invariant::AckedWrites, looked_for);
    Ok(())
}

/// Checks all bytes of a version.
pub(crate) fn check_bytes(world: &World, path: &str, version: u64, bytes: &[u8]) -> Result<(), Violation> {
    let oracle = world.oracle.borrow();
    let was_acked = oracle.acked().check_bytes(path, version, |content| *oracle.content(content) == bytes)?;
    world.judge.count(Invariant::AckedWrites, u64::from(was_acked));
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::oracle::model::AttributeChange;
    use meta::Condition;
    use node::Removal;

    const CONTENT: ContentId = ContentId(7);

    fn put(path: &str) -> Action {
        let attributes = AttributeChange::default();
        Action::Put { path: path.into(), content: CONTENT, bytes: 1, attributes, condition: Condition::Any }
    }

    fn remove(path: &str) -> Action {
        Action::Remove { path: path.into(), how: Removal::Recursive }
    }

    fn committed(version: u64) -> Answer {
        Answer::Committed { version, created: version == 1 }
    }

    fn file(version: u64) -> Seen {
        Seen {
            inode: 1,
            kind: Kind::File,
            version,
            size: 1,
            mode: 0,
            mtime_ns: 0,
            user_metadata: Vec::new(),
            symlink_target: None,
        }
    }

    fn there(version: u64) -> BTreeMap<String, Seen> {
        BTreeMap::from([("/s/d/f".to_owned(), file(version))])
    }

    fn with_two_versions() -> Ledger {
        let mut ledger = Ledger::default();
        for version in [1, 2] {
            ledger.called(version, &put("/s/d/f"), None);
            ledger.answered(version, &committed(version));
        }
        ledger.crashed();
        ledger
    }

    #[test]
    fn a_missing_file_an_older_version_and_other_bytes_are_losses() {
        let ledger = with_two_versions();
        assert_eq!(ledger.check_names(&there(2)), Ok(1));
        ledger.check_names(&there(1)).expect_err("version 2 was acknowledged");
        ledger.check_names(&BTreeMap::new()).expect_err("the file was acknowledged");
        assert_eq!(ledger.check_bytes("/s/d/f", 1, |content| content == CONTENT), Ok(true));
        ledger.check_bytes("/s/d/f", 1, |_| false).expect_err("other bytes were acknowledged");
    }

    #[test]
    fn a_removal_that_was_called_may_have_happened() {
        for taken in ["/s/d/f", "/s/d", "/s"] {
            let mut ledger = with_two_versions();
            ledger.called(9, &remove(taken), None);
            assert_eq!(ledger.check_names(&BTreeMap::new()), Ok(0));
        }
        let mut ledger = with_two_versions();
        ledger.called(9, &remove("/s/d/g"), None);
        ledger.called(10, &remove("/s/d/ff"), None);
        ledger.check_names(&BTreeMap::new()).expect_err("nobody asked for the file to go");
    }

    #[test]
    fn what_ran_beside_a_removal_or_was_told_before_is_not_certain() {
        let mut ledger = Ledger::default();
        ledger.called(1, &put("/s/f"), None);
        ledger.called(2, &remove("/s"), None);
        ledger.answered(1, &committed(1));
        ledger.called(3, &put("/s/f"), None);
        ledger.answered(3, &committed(2));
        ledger.called(4, &put("/s/g"), Some((1, 1)));
        ledger.crashed();
        ledger.called(5, &put("/s/g"), Some((1, 1)));
        ledger.answered(5, &committed(1));
        assert_eq!(ledger.check_names(&BTreeMap::new()), Ok(0));
    }
}
