//! One top-level directory: every history that its clients were told nothing against.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::rc::Rc;

use super::action::{Operation, Progress};
use super::entry::{Body, ContentId, Entry};
use super::model::State;
use super::retention::Keep;
use super::{Violation, violation};

/// Histories of one space that the oracle follows at most; more means that the workload does too much at once.
const HISTORIES_MAX: usize = 60_000;
/// Histories that a message shows.
const HISTORIES_SHOWN: usize = 3;
/// Calls and answers that a message shows.
const LOG_LINES: usize = 40;

/// A line of a message.
type Line = Box<dyn Fn() -> String>;

/// One way things may have gone.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct History {
    /// First, since it tells most histories apart at once.
    pub(super) progress: BTreeMap<u64, Progress>,
    pub(super) state: State,
}

/// One top-level directory.
pub(super) struct Space {
    pub(super) pending: BTreeMap<u64, Operation>,
    pub(super) histories: BTreeSet<History>,
    /// The last calls and answers, for messages: put into words when one is shown.
    log: VecDeque<Line>,
}

impl Space {
    /// An empty directory that nobody has asked for, and in which the newest `keep` versions of each file stay.
    pub(super) fn new(keep: Keep) -> Space {
        let history = History { progress: BTreeMap::new(), state: State::empty(keep) };
        Space { pending: BTreeMap::new(), histories: BTreeSet::from([history]), log: VecDeque::new() }
    }

    /// The process is gone: what was not answered may or may not have happened.
    pub(super) fn crash(&mut self) -> Result<(), Violation> {
        self.note(|| "the process ended".to_owned());
        self.follow()?;
        self.pending.clear();
        let histories = std::mem::take(&mut self.histories);
        self.histories =
            histories.into_iter().map(|history| History { progress: BTreeMap::new(), ..history }).collect();
        Ok(())
    }

    /// Lets every history go on in every way: each pending operation may take its steps by now.
    pub(super) fn follow(&mut self) -> Result<(), Violation> {
        let mut reached: Vec<History> =
            self.histories.iter().flat_map(|history| history.steps(&self.pending)).collect();
        while let Some(history) = reached.pop() {
            if self.histories.contains(&history) {
                continue;
            }
            reached.extend(history.steps(&self.pending));
            self.histories.insert(history);
            if self.histories.len() > HISTORIES_MAX {
                return Err(violation!("more than {HISTORIES_MAX} histories: {:?}", self.pending));
            }
        }
        Ok(())
    }

    /// Strikes out the histories that do not fit.
    pub(super) fn keep(&mut self, fits: impl Fn(&History) -> bool, what: impl Fn() -> String) -> Result<(), Violation> {
        if !self.histories.iter().any(&fits) {
            let total = self.histories.len();
            let shown = self.histories.iter().take(HISTORIES_SHOWN).map(History::describe);
            let shown: String = shown.collect();
            let log: String = self.log.iter().map(|line| format!("\n  {}", line())).collect();
            return Err(violation!(
                "{}\nbut none of {total} histories does:{shown}\nlast calls and answers:{log}",
                what()
            ));
        }
        self.histories.retain(fits);
        Ok(())
    }

    pub(super) fn note(&mut self, line: impl Fn() -> String + 'static) {
        if self.log.len() == LOG_LINES {
            self.log.pop_front();
        }
        self.log.push_back(Box::new(line));
    }

    /// Every history learns the inode of what `path` stands for.
    pub(super) fn learn(&mut self, path: &str, inode: u64) {
        let knows = |history: &History| history.state.entries.get(path).is_none_or(|entry| entry.inode.is_some());
        if self.histories.iter().all(knows) {
            return;
        }
        self.change_each(|state| {
            if let Some(entry) = state.entries.get_mut(path).filter(|entry| entry.inode.is_none()) {
                Rc::make_mut(entry).inode = Some(inode);
            }
        });
    }

    /// Changes what every history holds.
    pub(super) fn change_each(&mut self, change: impl Fn(&mut State)) {
        let histories = std::mem::take(&mut self.histories);
        let changed = |mut history: History| {
            change(&mut history.state);
            history
        };
        self.histories = histories.into_iter().map(changed).collect();
    }

    /// Drops what histories know of an operation that is over.
    pub(super) fn forget(&mut self, number: u64) {
        let histories = std::mem::take(&mut self.histories);
        let forget = |mut history: History| {
            history.progress.remove(&number);
            history
        };
        self.histories = histories.into_iter().map(forget).collect();
    }
}

impl History {
    /// Every step that one of the operations may take next.
    fn steps<'a>(&'a self, pending: &'a BTreeMap<u64, Operation>) -> impl Iterator<Item = History> + 'a {
        pending.iter().flat_map(|(number, operation)| {
            let steps = self.state.steps(operation, self.progress.get(number));
            steps.into_iter().map(|(state, progress)| {
                let mut next = History { state, progress: self.progress.clone() };
                next.progress.insert(*number, progress);
                next
            })
        })
    }

    pub(super) fn content(&self, path: &str, version: Option<u64>) -> Option<ContentId> {
        match &self.state.stat_at(path, version).ok()?.body {
            Body::File { content, .. } => Some(*content),
            _ => None,
        }
    }

    fn describe(&self) -> String {
        let line = |(path, entry): (&Rc<str>, &Rc<Entry>)| {
            let Entry { mode, mtime_ns, user_metadata, gone, body, .. } = &**entry;
            format!("\n  {path} {mode:o} {mtime_ns:?} {user_metadata:?} {gone:?} {body:?}")
        };
        let entries: String = self.state.entries.iter().map(line).collect();
        format!("\n- {:?}{entries}", self.progress)
    }
}
