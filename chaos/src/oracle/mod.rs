//! The judge: what clients may be told and what a restart may show.
//!
//! Every top-level directory is a *space*, judged for itself. For each the oracle keeps every state that the operations
//! so far can have led to, given what their callers were told:
//!
//! * An operation takes effect at some moment between its call and its answer. Until it is answered each possible
//!   history decides for itself whether it did; the answer then strikes out the histories that would have answered
//!   otherwise.
//! * One that was in flight at a crash, or whose answer leaves the outcome open, may or may not have happened: both
//!   histories stay until something is seen that tells them apart.
//! * What is seen (a stat, a listing, bytes) strikes out the histories that do not show it.
//! * Versions go when the node likes, within a retention; see `retention`.
//!
//! No history left is a violation. The method is just-in-time linearization (G. Lowe, "Testing for linearizability",
//! Concurrency and Computation 29(4), 2017); spaces keep the number of histories small.

mod action;
mod entry;
pub mod model;
mod retention;
mod seen;
mod space;

use std::collections::{BTreeMap, BTreeSet};
use std::rc::Rc;

use chunk::ChunkerId;
use proto::api::Kind;
use proto::checksum::digest;
use proto::limits::INLINE_BYTES_MAX;

use self::model::{Action, Answer, ContentId, Operation, Progress, Refusal, State, Totals};
pub use self::retention::Keep;
use self::retention::Retention;
pub use self::seen::{Counted, Seen};
use self::space::{History, Space};
use crate::invariants::acked_writes::Ledger;
use crate::invariants::atomicity::Offers;

/// Something happened that no history allows.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct Violation(pub String);

/// Makes a violation of a format string.
macro_rules! violation {
    ($($part:tt)*) => { $crate::oracle::Violation(format!($($part)*)) };
}
pub(crate) use violation;

/// What the chunk store must and may hold.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StoreBounds {
    /// Chunks and their plain bytes of acknowledged files.
    pub least: (u64, u64),
    /// Chunks and their plain bytes of everything that was ever sent.
    pub most: (u64, u64),
}

/// Bytes that clients put, and the chunks that the node cuts them into: digest and length.
struct Content {
    bytes: Rc<Vec<u8>>,
    chunks: BTreeMap<u128, u64>,
}

/// See the module.
pub struct Oracle {
    chunker: ChunkerId,
    spaces: BTreeMap<String, Space>,
    retention: Retention,
    operations: u64,
    contents: Vec<Content>,
    sent: BTreeMap<u128, u64>,
    sent_again_bytes: u64,
    acknowledged: BTreeMap<u128, u64>,
    /// Answers and sights that were judged since they were asked for.
    judged: u64,
    acked: Ledger,
    offers: Offers,
}

impl Oracle {
    /// Returns an oracle of an empty store, which cuts files with `chunker`.
    #[must_use]
    pub fn new(chunker: ChunkerId) -> Oracle {
        Oracle {
            chunker,
            spaces: BTreeMap::new(),
            retention: Retention::default(),
            operations: 0,
            contents: Vec::new(),
            sent: BTreeMap::new(),
            sent_again_bytes: 0,
            acknowledged: BTreeMap::new(),
            judged: 0,
            acked: Ledger::default(),
            offers: Offers::default(),
        }
    }

    /// Registers bytes that will be put.
    pub fn add_content(&mut self, bytes: Vec<u8>) -> ContentId {
        let chunks = chunks(self.chunker, &bytes);
        self.contents.push(Content { bytes: Rc::new(bytes), chunks });
        ContentId(self.contents.len() - 1)
    }

    /// The bytes.
    #[must_use]
    pub fn content(&self, content: ContentId) -> Rc<Vec<u8>> {
        self.contents[content.0].bytes.clone()
    }

    /// Contents registered so far.
    #[must_use]
    pub fn contents(&self) -> usize {
        self.contents.len()
    }

    /// An operation is called.
    pub fn call(&mut self, action: Action, session: Option<(u64, u64)>) -> u64 {
        self.operations += 1;
        let number = self.operations;
        if let Action::Put { content, .. } = &action {
            let Content { bytes, chunks } = &self.contents[content.0];
            let again = chunks.iter().filter(|(chunk, _)| self.sent.contains_key(chunk));
            self.sent_again_bytes += again.map(|(_, bytes)| bytes).sum::<u64>();
            self.sent.extend(chunks);
            self.offers.offer(number, bytes);
        }
        self.acked.called(number, &action, session);
        let space = self.space(action.path());
        let called = action.clone();
        space.note(move || format!("{number} called {session:?}: {called:?}"));
        space.pending.insert(number, Operation { number, action, session });
        number
    }

    /// An operation was answered.
    ///
    /// # Errors
    /// [`Violation`] if no history allows the answer.
    pub fn answer(&mut self, path: &str, number: u64, answer: &Answer) -> Result<(), Violation> {
        self.judged += 1;
        self.acked.answered(number, answer);
        let space = self.space(path);
        let told = answer.clone();
        space.note(move || format!("{number} answered {told:?}"));
        space.follow()?;
        let operation = space.pending.remove(&number).expect("invariant: it was called");
        if let (Action::Put { content, .. }, Answer::Committed { .. }) = (&operation.action, answer) {
            self.acknowledged.extend(&self.contents[content.0].chunks);
        }
        let expected = |history: &History| matches!(history.progress.get(&number), Some(Progress::Done(done)) if done.reads_as(answer));
        let space = self.space(path);
        space.keep(expected, || {
            format!(
                "operation {number} {:?} (session {:?}) was answered {answer:?}",
                operation.action, operation.session
            )
        })?;
        space.forget(number);
        Ok(())
    }

    /// An operation was turned down: nothing of it may ever show.
    ///
    /// # Errors
    /// [`Violation`] if its effect was seen before.
    pub fn refuse(&mut self, path: &str, number: u64) -> Result<(), Violation> {
        self.judged += 1;
        self.acked.turned_down(number);
        self.offers.withdraw(number);
        let space = self.space(path);
        space.note(move || format!("{number} turned down"));
        space.follow()?;
        let operation = space.pending.remove(&number).expect("invariant: it was called");
        // A recursive removal may have taken some leaves.
        let undone = |history: &History| !matches!(history.progress.get(&number), Some(Progress::Done(_)));
        space.keep(undone, || {
            format!("operation {number} {:?} was turned down, yet it took effect", operation.action)
        })?;
        space.forget(number);
        Ok(())
    }

    /// The process is gone: what was not answered may or may not have happened.
    ///
    /// # Errors
    /// [`Violation`] if there are too many histories.
    pub fn crash(&mut self) -> Result<(), Violation> {
        self.acked.crashed();
        self.spaces.values_mut().try_for_each(Space::crash)
    }

    /// A stat of `path`, or of one of its versions, shows this, now.
    ///
    /// # Errors
    /// [`Violation`] if no history does.
    pub fn saw_stat(
        &mut self,
        path: &str,
        version: Option<u64>,
        seen: &Result<Seen, Refusal>,
    ) -> Result<(), Violation> {
        self.judged += 1;
        let space = self.space(path);
        let (what, shown) = (path.to_owned(), seen.clone());
        space.note(move || {
            let shown = shown.as_ref().map_or_else(|refusal| format!("{refusal:?}"), Seen::to_string);
            format!("saw {what} at {version:?}: {shown}")
        });
        space.follow()?;
        let shows = |history: &History| match (history.state.stat_at(path, version), seen) {
            (Ok(entry), Ok(seen)) => seen.fits(&entry),
            (Err(expected), Err(refusal)) => expected == *refusal,
            (Ok(_), Err(Refusal::VersionExpired)) => {
                version.is_some_and(|version| history.state.may_have_lost(path, version))
            }
            _ => false,
        };
        space.keep(shows, || format!("a stat of {path} at {version:?} shows {seen:?}"))?;
        match (seen, version) {
            (Ok(seen), _) => space.learn(path, seen.inode),
            (Err(Refusal::VersionExpired), Some(version)) => space.lose(path, version),
            _ => {}
        }
        Ok(())
    }

    /// A listing of the whole directory `path` shows these names, now.
    ///
    /// # Errors
    /// [`Violation`] if no history does.
    pub fn saw_list(&mut self, path: &str, seen: &Result<Vec<String>, Refusal>) -> Result<(), Violation> {
        self.judged += 1;
        let space = self.space(path);
        let (what, shown) = (path.to_owned(), seen.clone());
        space.note(move || format!("saw {what} list {shown:?}"));
        space.follow()?;
        space.keep(|history| history.state.list(path) == *seen, || format!("a listing of {path} shows {seen:?}"))
    }

    /// A walk of a whole top-level directory shows these entries by path, now.
    ///
    /// # Errors
    /// [`Violation`] if no history does.
    pub fn saw_tree(&mut self, top: &str, seen: &BTreeMap<String, Seen>) -> Result<(), Violation> {
        self.judged += 1;
        let space = self.space(top);
        let (what, paths) = (top.to_owned(), seen.keys().cloned().collect::<Vec<_>>());
        space.note(move || format!("saw the tree {what}: {paths:?}"));
        space.follow()?;
        let shows = |history: &History| {
            let entries = &history.state.entries;
            entries.len() == seen.len()
                && entries.iter().zip(seen).all(|((path, entry), (name, seen))| **path == **name && seen.fits(entry))
        };
        space.keep(shows, || {
            let lines: String = seen.iter().map(|(path, seen)| format!("\n  {path} {seen}")).collect();
            format!("the tree {top} is{lines}")
        })?;
        seen.iter().for_each(|(path, seen)| space.learn(path, seen.inode));
        Ok(())
    }

    /// Paths of all top-level directories that clients use.
    #[must_use]
    pub fn tops(&self) -> Vec<String> {
        self.spaces.keys().cloned().collect()
    }

    /// Every content that a read of `path`, or of one of its versions, begun now may return.
    ///
    /// # Errors
    /// [`Violation`] if there are too many histories.
    pub fn readable(&mut self, path: &str, version: Option<u64>) -> Result<BTreeSet<ContentId>, Violation> {
        let space = self.space(path);
        space.follow()?;
        Ok(space.histories.iter().filter_map(|history| history.content(path, version)).collect())
    }

    /// A read of `path`, or of one of its versions, while nothing else happens, returned this content.
    ///
    /// # Errors
    /// [`Violation`] if no history has it.
    pub fn saw_content(
        &mut self,
        path: &str,
        version: Option<u64>,
        allowed: &BTreeSet<ContentId>,
    ) -> Result<(), Violation> {
        let holds =
            |history: &History| history.content(path, version).is_some_and(|content| allowed.contains(&content));
        self.space(path).keep(holds, || format!("a read of {path} at {version:?} returned {allowed:?}"))
    }

    /// Compares what the node says that it holds, while nothing happens and after every tree was seen.
    ///
    /// # Errors
    /// [`Violation`] if no history adds up to it.
    pub fn saw_counts(&mut self, seen: &Counted) -> Result<(), Violation> {
        let mut sums = BTreeSet::from([Totals::default()]);
        let (mut files, mut directories, mut symlinks) = (0, 1, 0);
        for space in self.spaces.values() {
            let totals: BTreeSet<Totals> = space.histories.iter().map(|history| history.state.totals()).collect();
            sums = sums.iter().flat_map(|sum| totals.iter().map(|total| sum.plus(*total))).collect();
            // What is visible was compared before: any history will do.
            for entry in space.histories.iter().take(1).flat_map(|history| history.state.entries.values()) {
                match entry.kind() {
                    Kind::File => files += 1,
                    Kind::Directory => directories += 1,
                    Kind::Symlink => symlinks += 1,
                }
            }
        }
        let adds_up = |sum: &Totals| {
            sum.logical_bytes == seen.logical_bytes && seen.inline_bytes.is_none_or(|bytes| bytes == sum.inline_bytes)
        };
        if !sums.iter().any(adds_up) {
            return Err(violation!("the node counts {seen:?}, but all versions of all files have {sums:?}"));
        }
        let names_add_up =
            (seen.files, seen.directories) == (files, directories) && seen.symlinks.is_none_or(|seen| seen == symlinks);
        if !names_add_up {
            let expected = (files, directories, symlinks);
            return Err(violation!("files, directories and symlinks are {expected:?}, the node counts {seen:?}"));
        }
        Ok(())
    }

    /// What the chunk store must hold if nothing is collected, and may hold.
    #[must_use]
    pub fn store_bounds(&self) -> StoreBounds {
        let sum = |chunks: &BTreeMap<u128, u64>| (chunks.len() as u64, chunks.values().sum());
        StoreBounds { least: sum(&self.acknowledged), most: sum(&self.sent) }
    }

    /// Bytes of chunks that were sent when they had been sent before, by repeated requests too.
    #[must_use]
    pub fn sent_again_bytes(&self) -> u64 {
        self.sent_again_bytes
    }

    /// Answers and sights that were judged since the last call.
    pub fn take_judged(&mut self) -> u64 {
        std::mem::take(&mut self.judged)
    }

    /// The writes that were acknowledged and must be there.
    #[must_use]
    pub fn acked(&self) -> &Ledger {
        &self.acked
    }

    /// What was ever put.
    #[must_use]
    pub fn offers(&self) -> &Offers {
        &self.offers
    }

    /// A guess at what is there, to aim operations at: the paths of one history.
    #[must_use]
    pub fn guess(&self, top: &str) -> Option<&State> {
        self.spaces.get(top)?.histories.last().map(|history| &history.state)
    }

    /// Histories that a recursive removal of `path` in the space `top` can lead to: each entry may be left by a crash, or
    /// not, in each history that is followed now.
    #[must_use]
    pub fn removal_histories(&self, top: &str, path: &str) -> u64 {
        let histories = self.spaces.get(top).map(|space| &space.histories);
        let left = |entries: usize| 1 << entries.min(u32::BITS as usize);
        histories.into_iter().flatten().map(|history| left(history.state.below(path).count())).sum()
    }

    fn space(&mut self, path: &str) -> &mut Space {
        let end = path[1..].find('/').map_or(path.len(), |at| at + 1);
        let keep = self.retention.keep();
        self.spaces.entry(path[..end].to_owned()).or_insert_with(|| Space::new(keep))
    }
}

/// Digest and length of each chunk that the bytes are cut into; none if they lie inline.
fn chunks(chunker: ChunkerId, bytes: &[u8]) -> BTreeMap<u128, u64> {
    let mut chunks = BTreeMap::new();
    if bytes.len() <= INLINE_BYTES_MAX {
        return chunks;
    }
    let chunker = chunk::chunker(chunker).expect("invariant: the node has the chunker too");
    let mut rest = bytes;
    while let Some(len) = chunker.cut(rest, chunk::InputEnd::Last) {
        let (chunk, after) = rest.split_at(len);
        chunks.insert(digest(chunk), len as u64);
        rest = after;
    }
    chunks
}

#[cfg(test)]
mod tests {
    use super::model::AttributeChange;
    use super::*;
    use meta::Condition;

    fn put(oracle: &mut Oracle, path: &str, bytes: u64) -> Action {
        let content = oracle.add_content(vec![1; bytes as usize]);
        let attributes = AttributeChange::default();
        Action::Put { path: path.into(), content, bytes, attributes, condition: Condition::Any }
    }

    fn committed(version: u64) -> Answer {
        Answer::Committed { version, created: version == 1 }
    }

    #[test]
    fn an_unanswered_operation_may_or_may_not_show() {
        let mut oracle = Oracle::new(ChunkerId::FASTCDC_64_KIB);
        let action = put(&mut oracle, "/s/f", 1);
        oracle.call(action, None);
        oracle.crash().unwrap();
        assert_eq!(oracle.saw_list("/s", &Ok(vec!["f".into()])), Ok(()));
        oracle.saw_list("/s", &Err(Refusal::NotFound)).expect_err("once seen it stays");
    }

    #[test]
    fn an_answered_operation_stays_through_a_crash() {
        let mut oracle = Oracle::new(ChunkerId::FASTCDC_64_KIB);
        let action = put(&mut oracle, "/s/f", 1);
        let number = oracle.call(action, None);
        oracle.answer("/s/f", number, &committed(1)).unwrap();
        oracle.crash().unwrap();
        oracle.saw_list("/s", &Err(Refusal::NotFound)).expect_err("it was acknowledged");
        assert_eq!(oracle.saw_list("/s", &Ok(vec!["f".into()])), Ok(()));
    }

    #[test]
    fn concurrent_writers_take_some_order_and_each_version_is_given_once() {
        let mut oracle = Oracle::new(ChunkerId::FASTCDC_64_KIB);
        let numbers: Vec<u64> = (0..3)
            .map(|_| {
                let action = put(&mut oracle, "/s/f", 1);
                oracle.call(action, None)
            })
            .collect();
        oracle.answer("/s/f", numbers[1], &committed(2)).unwrap();
        oracle.answer("/s/f", numbers[0], &committed(2)).expect_err("two writers cannot have made version 2");
    }

    #[test]
    fn a_repeated_request_gets_its_first_answer() {
        let mut oracle = Oracle::new(ChunkerId::FASTCDC_64_KIB);
        let action = put(&mut oracle, "/s/f", 1);
        oracle.call(action.clone(), Some((7, 1)));
        oracle.crash().unwrap();
        let again = oracle.call(action.clone(), Some((7, 1)));
        oracle.answer("/s/f", again, &committed(1)).unwrap();
        let third = oracle.call(action, Some((7, 1)));
        oracle.answer("/s/f", third, &committed(2)).expect_err("it was applied twice");
    }

    #[test]
    fn what_was_turned_down_never_shows() {
        let mut oracle = Oracle::new(ChunkerId::FASTCDC_64_KIB);
        let action = put(&mut oracle, "/s/f", 1);
        let number = oracle.call(action, None);
        oracle.refuse("/s/f", number).unwrap();
        oracle.saw_list("/s", &Ok(vec!["f".into()])).expect_err("it was turned down");
    }
}
