//! The namespace as a client understands it: entries by path, and what each action does to them.
//!
//! Written from the documented behaviour, with paths instead of inodes, so that it shares no mistake with the state
//! machine that it judges.

use std::borrow::Cow;
use std::cmp::Ordering;
use std::collections::BTreeMap;
use std::ops::Bound;
use std::rc::Rc;

use meta::Condition;
use node::Removal;
use proto::api::Kind;

pub use super::action::{Action, Answer, AttributeChange, Operation, Progress, Refusal};
pub use super::entry::{Body, ContentId, Earlier, Entry, Gone, Totals};

/// One possible state of a subtree.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct State {
    /// Entries by absolute path; the root directory is not among them. Shared, since every step begins with a copy.
    pub entries: BTreeMap<Rc<str>, Rc<Entry>>,
    /// The last remembered answer of each client.
    remembered: BTreeMap<u64, (u64, Answer)>,
    /// How many of the newest versions of each file stay for certain; `None`: all.
    pub(super) keep: Option<u32>,
}

impl Ord for State {
    /// By entries, then by answers; the retention is the same in all histories. Histories share most entries, and those
    /// are not looked at.
    fn cmp(&self, other: &State) -> Ordering {
        let both = self.entries.iter().zip(&other.entries);
        let both = both.take_while(|(mine, other)| Rc::ptr_eq(mine.0, other.0) && Rc::ptr_eq(mine.1, other.1));
        let shared = both.count();
        let entries = self.entries.iter().skip(shared).cmp(other.entries.iter().skip(shared));
        entries.then_with(|| self.remembered.cmp(&other.remembered))
    }
}

impl PartialOrd for State {
    fn partial_cmp(&self, other: &State) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

type Checked<T> = Result<T, Refusal>;

impl State {
    /// Nothing is there, and the newest `keep` versions of each file stay; all, if it is `None`.
    pub(super) fn empty(keep: Option<u32>) -> State {
        State { keep, ..State::default() }
    }

    /// All that `operation` may do next from here: one step of its own, at one moment.
    #[must_use]
    pub fn steps(&self, operation: &Operation, progress: Option<&Progress>) -> Vec<(State, Progress)> {
        if matches!(progress, Some(Progress::Done(_))) {
            return Vec::new();
        }
        if let Some((client, sequence)) = operation.session
            && let Some((last, answer)) = self.remembered.get(&client)
            && *last == sequence
        {
            let mut steps = vec![(self.clone(), Progress::Done(answer.clone()))];
            // These may come from looking a path up, before the request is recorded, or be tried again by the node
            // itself: the repetition is then a first try.
            use Refusal::{NotADirectory, NotEmpty, NotFound};
            if matches!(answer, Answer::Refused(NotADirectory | NotEmpty | NotFound)) {
                steps.append(&mut self.first_steps(operation, progress));
            }
            return steps;
        }
        self.first_steps(operation, progress)
    }

    /// The steps of an operation that has not been answered before.
    fn first_steps(&self, operation: &Operation, progress: Option<&Progress>) -> Vec<(State, Progress)> {
        match &operation.action {
            Action::Remove { path, how: Removal::Recursive } => self.remove_recursively(operation, path),
            Action::SetAttributes { path, change } => vec![self.set_attributes(operation, path, change, progress)],
            Action::Restore { path, version, .. } => {
                let mut steps = vec![self.clone().apply_once(operation)];
                if self.may_have_lost(path, *version) {
                    let mut without = self.clone();
                    without.lose(path, *version);
                    let too_late = without.apply_once(operation);
                    // Whoever is refused for another reason is not told that it is gone.
                    steps.extend(Some(too_late).filter(|(_, too_late)| *too_late != steps[0].1));
                }
                steps
            }
            _ => vec![self.clone().apply_once(operation)],
        }
    }

    fn apply_once(mut self, operation: &Operation) -> (State, Progress) {
        let answer = self.apply(operation.number, &operation.action).unwrap_or_else(Answer::Refused);
        self.done(operation, answer)
    }

    fn done(mut self, operation: &Operation, answer: Answer) -> (State, Progress) {
        if let Some((client, sequence)) = operation.session {
            self.remembered.insert(client, (sequence, answer.clone()));
        }
        (self, Progress::Done(answer))
    }

    /// Applies an action that happens at one moment.
    fn apply(&mut self, number: u64, action: &Action) -> Checked<Answer> {
        match action {
            Action::Put { path, content, bytes, attributes, condition } => {
                self.put(number, path, (*content, *bytes), attributes, *condition)
            }
            Action::Restore { path, version, condition } => self.restore(number, path, *version, *condition),
            Action::MakeDirectory { path, attributes } => self.make(number, path, Body::Directory, attributes),
            Action::MakeSymlink { path, target, attributes } => {
                self.make(number, path, Body::Symlink { target: target.clone() }, attributes)
            }
            Action::Rename { from, to, replace } => self.rename(number, from, to, *replace),
            Action::Remove { path, .. } => {
                self.resolve(path)?;
                if self.has_children(path) {
                    return Err(Refusal::NotEmpty);
                }
                self.entries.remove(path.as_str());
                Ok(Answer::Removed)
            }
            Action::SetAttributes { .. } => unreachable!("invariant: it takes two steps"),
        }
    }

    /// Names that every proper ancestor of `path`, and `path`, stand for something.
    fn resolve(&self, path: &str) -> Checked<()> {
        for ancestor in ancestors(path) {
            let entry = self.entries.get(ancestor).ok_or(Refusal::NotFound)?;
            if !entry.is_directory() {
                return Err(Refusal::NotADirectory);
            }
        }
        if path.is_empty() || self.entries.contains_key(path) { Ok(()) } else { Err(Refusal::NotFound) }
    }

    /// Checks that `path` may be made, as far as its ancestors go.
    fn check_ancestors(&self, path: &str) -> Checked<()> {
        let existing = ancestors(path).map_while(|ancestor| self.entries.get(ancestor));
        if existing.into_iter().all(|entry| entry.is_directory()) { Ok(()) } else { Err(Refusal::NotADirectory) }
    }

    fn make_ancestors(&mut self, number: u64, path: &str) {
        for (depth, ancestor) in ancestors(path).enumerate() {
            if !self.entries.contains_key(ancestor) {
                let entry = Entry::new((number, depth + 1), Body::Directory, &AttributeChange::default());
                self.entries.insert(ancestor.into(), Rc::new(entry));
            }
        }
    }

    fn insert(&mut self, number: u64, path: &str, entry: Entry) {
        self.make_ancestors(number, path);
        self.entries.insert(path.into(), Rc::new(entry));
    }

    fn put(
        &mut self,
        number: u64,
        path: &str,
        (content, bytes): (ContentId, u64),
        attributes: &AttributeChange,
        condition: Condition,
    ) -> Checked<Answer> {
        self.check_ancestors(path)?;
        let Some(found) = self.entries.get(path) else {
            if matches!(condition, Condition::Match { .. } | Condition::Exists) {
                return Err(Refusal::ConditionFailed(None));
            }
            let body = Body::File { version: 1, content, bytes, earlier: Vec::new() };
            self.insert(number, path, Entry::new((number, 0), body, attributes));
            return Ok(Answer::Committed { version: 1, created: true });
        };
        let mut entry = match found.kind() {
            Kind::Directory => return Err(Refusal::IsADirectory),
            Kind::Symlink => return Err(Refusal::AlreadyExists),
            Kind::File => found.with_next(content, bytes).expect("invariant: it is a file"),
        };
        check_condition(condition, found)?;
        entry.mode = attributes.mode.unwrap_or(entry.mode);
        entry.mtime_ns = attributes.mtime_ns;
        entry.user_metadata = attributes.user_metadata.clone().unwrap_or_default();
        Ok(self.commit(number, path, entry))
    }

    fn restore(&mut self, number: u64, path: &str, version: u64, condition: Condition) -> Checked<Answer> {
        self.check_ancestors(path)?;
        let found = self.entries.get(path).ok_or(Refusal::NotFound)?;
        if found.kind() != Kind::File {
            return Err(Refusal::NotAFile);
        }
        check_condition(condition, found)?;
        if found.has_lost(version) {
            return Err(Refusal::VersionExpired);
        }
        let Entry { mode, mtime_ns, user_metadata, body, .. } = found.at(version).ok_or(Refusal::NoSuchVersion)?;
        let Body::File { content, bytes, .. } = body else { unreachable!("invariant: it is a file") };
        let entry = found.with_next(content, bytes).expect("invariant: it is a file");
        Ok(self.commit(number, path, Entry { mode, mtime_ns, user_metadata, ..entry }))
    }

    /// Gives a file that is there its next version.
    fn commit(&mut self, number: u64, path: &str, entry: Entry) -> Answer {
        let Body::File { version, .. } = entry.body else { unreachable!("invariant: it is a file") };
        self.insert(number, path, entry);
        Answer::Committed { version, created: false }
    }

    fn make(&mut self, number: u64, path: &str, body: Body, attributes: &AttributeChange) -> Checked<Answer> {
        self.check_ancestors(path)?;
        if self.entries.contains_key(path) {
            return Err(Refusal::AlreadyExists);
        }
        self.insert(number, path, Entry::new((number, 0), body, attributes));
        Ok(Answer::Made)
    }

    fn rename(&mut self, number: u64, from: &str, to: &str, replace: bool) -> Checked<Answer> {
        self.resolve(from)?;
        let moved = self.entries[from].clone();
        self.check_ancestors(to)?;
        if moved.is_directory() && to.strip_prefix(from).is_some_and(|rest| rest.starts_with('/')) {
            return Err(Refusal::IntoItself);
        }
        if from == to {
            return Ok(Answer::Renamed);
        }
        if let Some(target) = self.entries.get(to) {
            match (moved.is_directory(), target.is_directory()) {
                _ if !replace => return Err(Refusal::AlreadyExists),
                (false, true) => return Err(Refusal::IsADirectory),
                (true, false) => return Err(Refusal::NotADirectory),
                _ if self.has_children(to) => return Err(Refusal::NotEmpty),
                _ => {}
            }
        }
        let below: Vec<String> = self.below(from).map(str::to_owned).collect();
        for path in below {
            let entry = self.entries.remove(path.as_str()).expect("invariant: the path was just listed");
            self.entries.insert(format!("{to}{}", &path[from.len()..]).into(), entry);
        }
        let entry = self.entries.remove(from).expect("invariant: it was just found");
        self.make_ancestors(number, to);
        self.entries.insert(to.into(), entry);
        Ok(Answer::Renamed)
    }

    /// A recursive removal takes leaves one by one, then the directory itself.
    fn remove_recursively(&self, operation: &Operation, path: &str) -> Vec<(State, Progress)> {
        if let Err(refusal) = self.resolve(path) {
            return vec![self.clone().done(operation, Answer::Refused(refusal))];
        }
        let leaves = self.below(path).filter(|below| !self.has_children(below));
        let bound = Progress::Bound(self.entries[path].object);
        let mut steps: Vec<(State, Progress)> = leaves
            .map(|leaf| {
                let mut next = self.clone();
                next.entries.remove(leaf);
                (next, bound.clone())
            })
            .collect();
        let last = if steps.is_empty() {
            let mut next = self.clone();
            next.entries.remove(path);
            next.done(operation, Answer::Removed)
        } else {
            // Others may keep adding names for as long as it tries.
            self.clone().done(operation, Answer::Refused(Refusal::NotEmpty))
        };
        steps.push(last);
        steps
    }

    fn set_attributes(
        &self,
        operation: &Operation,
        path: &str,
        change: &AttributeChange,
        progress: Option<&Progress>,
    ) -> (State, Progress) {
        let refused = |refusal| self.clone().done(operation, Answer::Refused(refusal));
        let Some(Progress::Bound(object)) = progress else {
            return match self.resolve(path) {
                Ok(()) => (self.clone(), Progress::Bound(self.entries[path].object)),
                Err(refusal) => refused(refusal),
            };
        };
        let mut next = self.clone();
        let Some(entry) = next.entries.values_mut().find(|entry| entry.object == *object) else {
            return refused(Refusal::NotFound);
        };
        let entry = Rc::make_mut(entry);
        if let Some(new_target) = &change.symlink_target {
            let Body::Symlink { target } = &mut entry.body else {
                return refused(Refusal::NotASymlink);
            };
            target.clone_from(new_target);
        }
        entry.mode = change.mode.unwrap_or(entry.mode);
        if !entry.is_directory() {
            entry.mtime_ns = change.mtime_ns.or(entry.mtime_ns);
        }
        if let Some(user_metadata) = &change.user_metadata {
            entry.user_metadata.clone_from(user_metadata);
        }
        next.done(operation, Answer::Changed)
    }

    /// Paths below a directory.
    pub fn below<'a>(&'a self, path: &'a str) -> impl Iterator<Item = &'a str> {
        let inside = move |key: &&Rc<str>| key.strip_prefix(path).is_some_and(|rest| rest.starts_with('/'));
        let from = (Bound::Included(path), Bound::Unbounded);
        let keys = self.entries.range::<str, _>(from).map(|(key, _)| key);
        keys.take_while(move |key| key.starts_with(path)).filter(inside).map(|key| &**key)
    }

    fn has_children(&self, path: &str) -> bool {
        self.below(path).next().is_some()
    }

    /// Whether `path` stands for nothing, and nothing above it is in the way.
    #[must_use]
    pub fn may_be_made(&self, path: &str) -> bool {
        !self.entries.contains_key(path) && self.check_ancestors(path).is_ok()
    }

    /// Names in a directory, ordered bytewise.
    ///
    /// # Errors
    /// As the node's own.
    pub fn list(&self, path: &str) -> Result<Vec<String>, Refusal> {
        self.resolve(path)?;
        if !path.is_empty() && !self.entries[path].is_directory() {
            return Err(Refusal::NotADirectory);
        }
        let name = |below: &str| below[path.len() + 1..].to_owned();
        let mut names: Vec<String> = self.below(path).map(name).filter(|name| !name.contains('/')).collect();
        names.sort_unstable();
        Ok(names)
    }

    /// What a path stands for.
    ///
    /// # Errors
    /// As the node's own.
    pub fn stat(&self, path: &str) -> Result<&Entry, Refusal> {
        self.resolve(path)?;
        Ok(&self.entries[path])
    }

    /// What a file was at a version; at its current one if none is given.
    ///
    /// # Errors
    /// As the node's own.
    pub fn stat_at(&self, path: &str, version: Option<u64>) -> Result<Cow<'_, Entry>, Refusal> {
        let entry = self.stat(path)?;
        match version {
            None => Ok(Cow::Borrowed(entry)),
            Some(_) if entry.kind() != Kind::File => Err(Refusal::NotAFile),
            Some(version) if entry.has_lost(version) => Err(Refusal::VersionExpired),
            Some(version) => entry.at(version).map(Cow::Owned).ok_or(Refusal::NoSuchVersion),
        }
    }

    /// How many versions of a file may have been let go by now; 0 if it is no file.
    #[must_use]
    pub fn gone_at_most(&self, entry: &Entry) -> u64 {
        gone_now(self.keep, entry).max(entry.gone.perhaps)
    }

    /// Whether a version that nobody knows to be gone may have been let go.
    #[must_use]
    pub fn may_have_lost(&self, path: &str, version: u64) -> bool {
        let may_have = |entry: &Entry| version > entry.gone.surely && version <= self.gone_at_most(entry);
        self.stat(path).is_ok_and(may_have)
    }

    /// The file at `path` was let go up to `version`.
    pub(super) fn lose(&mut self, path: &str, version: u64) {
        if let Some(entry) = self.entries.get_mut(path).filter(|entry| entry.gone.surely < version) {
            Rc::make_mut(entry).gone.surely = version;
        }
    }

    /// Changes for each file which versions were let go; `change` is told how many the retention lets go now.
    pub(super) fn change_gone(&mut self, change: impl Fn(Gone, u64) -> Gone) {
        for entry in self.entries.values_mut() {
            let gone = change(entry.gone, gone_now(self.keep, entry));
            if gone != entry.gone {
                Rc::make_mut(entry).gone = gone;
            }
        }
    }

    /// Bytes of all versions of all files.
    #[must_use]
    pub fn totals(&self) -> Totals {
        self.entries.values().map(|entry| entry.totals()).fold(Totals::default(), Totals::plus)
    }
}

/// How many versions of a file are not among the newest that are kept; 0 if it is no file.
fn gone_now(keep: Option<u32>, entry: &Entry) -> u64 {
    match (keep, &entry.body) {
        (Some(keep), Body::File { version, .. }) => version.saturating_sub(u64::from(keep)),
        _ => 0,
    }
}

/// Whether a condition holds for a file that is there.
fn check_condition(condition: Condition, found: &Entry) -> Checked<()> {
    let Body::File { version, .. } = found.body else { unreachable!("invariant: it is a file") };
    let holds = match condition {
        Condition::Any | Condition::Exists => true,
        Condition::Absent => false,
        // An inode that a condition names was seen, so every history knows whose it is.
        Condition::Match { inode, version: expected } => found.inode == Some(inode.0) && expected.0 == version,
    };
    if holds { Ok(()) } else { Err(Refusal::ConditionFailed(Some(version))) }
}

/// Proper ancestors, outermost first, without the root.
fn ancestors(path: &str) -> impl Iterator<Item = &str> {
    path.match_indices('/').map(|(at, _)| &path[..at]).filter(|ancestor| !ancestor.is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn put(path: &str, content: usize) -> Action {
        let attributes = AttributeChange::default();
        Action::Put { path: path.into(), content: ContentId(content), bytes: 1, attributes, condition: Condition::Any }
    }

    /// Applies actions of one step each.
    fn after(actions: &[Action]) -> State {
        actions
            .iter()
            .enumerate()
            .fold(State::default(), |state, (number, action)| one(&state, number as u64, action).0)
    }

    fn one(state: &State, number: u64, action: &Action) -> (State, Answer) {
        let operation = Operation { number, action: action.clone(), session: None };
        let mut steps = state.steps(&operation, None);
        assert_eq!(steps.len(), 1);
        let Some((next, Progress::Done(answer))) = steps.pop() else { panic!("not done") };
        (next, answer)
    }

    fn refusal(state: &State, action: Action) -> Refusal {
        match one(state, 99, &action) {
            (next, Answer::Refused(refusal)) => {
                assert_eq!(&next, state, "a refusal changes nothing");
                refusal
            }
            (_, other) => panic!("{other:?}"),
        }
    }

    fn rename(from: &str, to: &str, replace: bool) -> Action {
        Action::Rename { from: from.into(), to: to.into(), replace }
    }

    #[test]
    fn names_are_listed_bytewise_whatever_lies_below_them() {
        let state = after(&[put("/s/a/b", 0), put("/s/a-b", 1), put("/s/a.b", 2), put("/s/é", 3)]);
        assert_eq!(state.list("/s").unwrap(), ["a", "a-b", "a.b", "é"]);
        assert_eq!(state.list("").unwrap(), ["s"]);
        assert_eq!(state.list("/s/a-b"), Err(Refusal::NotADirectory));
        assert_eq!(state.list("/s/x/y"), Err(Refusal::NotFound));
        assert_eq!(state.list("/s/a-b/y"), Err(Refusal::NotADirectory));
    }

    #[test]
    fn renames_move_subtrees_and_refuse_what_the_interface_says() {
        let state = after(&[put("/s/a/b", 0), put("/s/f", 1), put("/s/d/x", 2)]);
        let (moved, _) = one(&state, 9, &rename("/s/a", "/s/new/deep", false));
        assert!(moved.entries.contains_key("/s/new/deep/b") && !moved.entries.contains_key("/s/a"));
        assert_eq!(refusal(&state, rename("/s/a", "/s/a/b/c", true)), Refusal::NotADirectory);
        assert_eq!(refusal(&state, rename("/s/a", "/s/a/c", true)), Refusal::IntoItself);
        assert_eq!(refusal(&state, rename("/s/f", "/s/a", true)), Refusal::IsADirectory);
        assert_eq!(refusal(&state, rename("/s/a", "/s/f", true)), Refusal::NotADirectory);
        assert_eq!(refusal(&state, rename("/s/a", "/s/d", true)), Refusal::NotEmpty);
        assert_eq!(refusal(&state, rename("/s/f", "/s/a/b", false)), Refusal::AlreadyExists);
        assert_eq!(refusal(&state, rename("/s/f/x", "/s/g", false)), Refusal::NotADirectory);
        assert_eq!(one(&state, 9, &rename("/s/f", "/s/f", false)).1, Answer::Renamed);
    }

    #[test]
    fn versions_and_retained_bytes_grow_with_every_commit() {
        let state = after(&[put("/s/f", 0), put("/s/f", 1)]);
        assert_eq!(state.totals(), Totals { logical_bytes: 2, inline_bytes: 2 });
        assert!(matches!(state.stat("/s/f").unwrap().body, Body::File { version: 2, content: ContentId(1), .. }));
    }

    #[test]
    fn a_recursive_removal_may_stop_anywhere_but_never_orphans() {
        let start = after(&[put("/s/d/e/x", 0), put("/s/d/y", 1)]);
        let action = Action::Remove { path: "/s/d".into(), how: Removal::Recursive };
        let operation = Operation { number: 9, action, session: None };
        let mut reached = vec![start];
        let mut next = 0;
        while next < reached.len() {
            for (state, _) in reached[next].steps(&operation, None) {
                let orphan = |path: &Rc<str>| ancestors(path).any(|parent| !state.entries.contains_key(parent));
                assert!(!state.entries.keys().any(orphan));
                if !reached.contains(&state) {
                    reached.push(state);
                }
            }
            next += 1;
        }
        assert_eq!(reached.len(), 7, "six subsets that keep their parents, and the end");
    }
}
