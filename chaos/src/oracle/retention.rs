//! Retention as clients understand it: which versions of a file may be gone, and which may not.
//!
//! One retention holds for all files, that of the root: *keep the newest N*. When the node lets versions go is its own
//! affair, so a version that is not among the newest N of its file may be there or not, until somebody is told: then all
//! histories know it, and it never comes back. One that is among them is there.
//!
//! A retention that was called and not answered may be in force, or the one before; then as many versions stay for
//! certain as the lesser of them keeps. What an earlier one may have let go may be gone for good, whatever came after it.

use std::collections::BTreeSet;

use super::entry::Gone;
use super::space::{History, Space};
use super::{Oracle, Violation, violation};

/// How many of the newest versions of each file a retention keeps; `None`: all.
pub type Keep = Option<u32>;

/// Which retention is in force.
pub(super) struct Retention {
    /// One of these.
    possible: BTreeSet<Keep>,
}

impl Default for Retention {
    /// Nothing was set.
    fn default() -> Retention {
        Retention { possible: BTreeSet::from([None]) }
    }
}

impl Retention {
    /// How many versions stay for certain.
    pub(super) fn keep(&self) -> Keep {
        self.possible.iter().flatten().min().copied()
    }
}

impl Oracle {
    /// Somebody sets the retention: from now on it may be in force. Returns what may have been before.
    ///
    /// # Errors
    /// [`Violation`] if there are too many histories.
    pub fn call_retention(&mut self, keep: Keep) -> Result<BTreeSet<Keep>, Violation> {
        let before = self.retention.possible.clone();
        let possible = before.iter().copied().chain([keep]).collect();
        self.set_retention(possible)?;
        Ok(before)
    }

    /// A retention was turned down: one of those is in force that may have been before.
    ///
    /// # Errors
    /// [`Violation`] if there are too many histories.
    pub fn refuse_retention(&mut self, before: BTreeSet<Keep>) -> Result<(), Violation> {
        self.set_retention(before)
    }

    /// This retention is in force: somebody was told.
    ///
    /// # Errors
    /// [`Violation`] if it cannot be.
    pub fn saw_retention(&mut self, keep: Keep) -> Result<(), Violation> {
        self.judged += 1;
        if !self.retention.possible.contains(&keep) {
            let possible = &self.retention.possible;
            return Err(violation!("the retention {keep:?} is in force; possible are {possible:?}"));
        }
        self.set_retention(BTreeSet::from([keep]))
    }

    fn set_retention(&mut self, possible: BTreeSet<Keep>) -> Result<(), Violation> {
        self.retention.possible = possible;
        let keep = self.retention.keep();
        for space in self.spaces.values_mut() {
            space.follow()?;
            space.change_each(|state| {
                state.change_gone(|gone, now| Gone { perhaps: gone.perhaps.max(now), ..gone });
                state.keep = keep;
            });
            space.note(move || format!("from now on versions may go but for the newest {keep:?}"));
        }
        Ok(())
    }

    /// A list of the versions of the file at `path` begins with `oldest`, while nothing else happens.
    ///
    /// # Errors
    /// [`Violation`] if that is one that went before, or one before it may not have gone.
    pub fn saw_oldest(&mut self, path: &str, oldest: u64) -> Result<(), Violation> {
        self.judged += 1;
        let gone = oldest.saturating_sub(1);
        let shows = |history: &History| {
            let state = &history.state;
            state.stat(path).is_ok_and(|entry| (entry.gone.surely..=state.gone_at_most(entry)).contains(&gone))
        };
        let space = self.space(path);
        let what = path.to_owned();
        space.note(move || format!("saw {what} begin with version {oldest}"));
        space.keep(shows, || format!("the oldest version of {path} is {oldest}"))?;
        space.lose(path, gone);
        Ok(())
    }

    /// Everything was let go that no retention keeps, while nothing else happened.
    pub fn saw_pass(&mut self) {
        assert_eq!(self.retention.possible.len(), 1, "invariant: it is known which retention is in force");
        for space in self.spaces.values_mut() {
            space.change_each(|state| state.change_gone(|gone, now| Gone { surely: gone.surely.max(now), ..gone }));
        }
    }
}

impl Space {
    /// Every history learns that the file at `path` was let go up to `version`.
    pub(super) fn lose(&mut self, path: &str, version: u64) {
        let knows = |history: &History| history.state.stat(path).is_ok_and(|entry| entry.gone.surely >= version);
        if !self.histories.iter().all(knows) {
            self.change_each(|state| state.lose(path, version));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::oracle::Seen;
    use crate::oracle::model::{Action, Answer, AttributeChange, Refusal};
    use chunk::ChunkerId;
    use meta::Condition;
    use proto::api::Kind;

    const FILE: &str = "/s/f";

    fn put(oracle: &mut Oracle, version: u64) {
        let content = oracle.add_content(vec![1]);
        let (path, attributes) = (FILE.to_owned(), AttributeChange::default());
        let number = oracle.call(Action::Put { path, content, bytes: 1, attributes, condition: Condition::Any }, None);
        oracle.answer(FILE, number, &Answer::Committed { version, created: version == 1 }).unwrap();
    }

    fn restore(oracle: &mut Oracle, version: u64) -> u64 {
        oracle.call(Action::Restore { path: FILE.to_owned(), version, condition: Condition::Any }, None)
    }

    /// A file with five versions, of which the newest `keep` stay.
    fn with(keep: u32) -> Oracle {
        let mut oracle = Oracle::new(ChunkerId::FASTCDC_64_KIB);
        oracle.call_retention(Some(keep)).unwrap();
        oracle.saw_retention(Some(keep)).unwrap();
        (1..=5).for_each(|version| put(&mut oracle, version));
        oracle
    }

    fn see(oracle: &mut Oracle, version: u64) -> Result<(), Violation> {
        let seen = Seen {
            inode: 1,
            kind: Kind::File,
            version,
            size: 1,
            mode: 0o644,
            mtime_ns: 0,
            user_metadata: Vec::new(),
            symlink_target: None,
        };
        oracle.saw_stat(FILE, Some(version), &Ok(seen))
    }

    fn miss(oracle: &mut Oracle, version: u64) -> Result<(), Violation> {
        oracle.saw_stat(FILE, Some(version), &Err(Refusal::VersionExpired))
    }

    #[test]
    fn what_is_not_kept_may_be_there_until_it_is_gone_and_then_stays_gone() {
        let mut oracle = with(2);
        see(&mut oracle, 1).unwrap();
        miss(&mut oracle, 2).unwrap();
        see(&mut oracle, 3).unwrap();
        see(&mut oracle, 2).expect_err("it had gone");
        see(&mut oracle, 1).expect_err("those before it went as well");
        miss(&mut oracle, 3).unwrap();
        miss(&mut oracle, 4).expect_err("it is kept");
        miss(&mut oracle, 6).expect_err("it never was");
        oracle.saw_oldest(FILE, 3).expect_err("it had gone");
        oracle.saw_oldest(FILE, 5).expect_err("the one before is kept");
        oracle.saw_oldest(FILE, 4).unwrap();
    }

    #[test]
    fn without_a_retention_nothing_goes() {
        let mut oracle = with(5);
        miss(&mut oracle, 1).expect_err("it is kept");
        oracle.saw_oldest(FILE, 2).expect_err("version 1 is kept");
        oracle.saw_oldest(FILE, 1).unwrap();
    }

    #[test]
    fn a_restore_finds_its_version_or_is_told_that_it_is_gone_and_both_are_remembered() {
        let mut oracle = with(2);
        let number = restore(&mut oracle, 2);
        oracle.answer(FILE, number, &Answer::Committed { version: 6, created: false }).unwrap();
        let number = restore(&mut oracle, 2);
        oracle.answer(FILE, number, &Answer::Refused(Refusal::VersionExpired)).unwrap();
        see(&mut oracle, 2).expect_err("it was not there to be restored");
        let number = restore(&mut oracle, 5);
        oracle.answer(FILE, number, &Answer::Refused(Refusal::VersionExpired)).expect_err("it is kept");
    }

    #[test]
    fn a_retention_without_an_answer_may_be_in_force() {
        let mut oracle = with(4);
        oracle.call_retention(Some(2)).unwrap();
        miss(&mut oracle, 2).unwrap();
        oracle.saw_retention(Some(3)).expect_err("nobody asked for it");
        // Whatever it has let go may be gone for good.
        oracle.saw_retention(Some(4)).unwrap();
        miss(&mut oracle, 3).unwrap();
        miss(&mut oracle, 4).expect_err("no retention ever let it go");
        put(&mut oracle, 6);
        miss(&mut oracle, 4).expect_err("the one in force keeps it");
    }

    #[test]
    fn after_a_pass_nothing_is_left_but_what_is_kept() {
        let mut oracle = with(2);
        oracle.call_retention(Some(3)).unwrap();
        oracle.saw_retention(Some(3)).unwrap();
        oracle.saw_pass();
        see(&mut oracle, 2).expect_err("it is not among the newest three");
        see(&mut oracle, 3).unwrap();
        oracle.saw_oldest(FILE, 4).unwrap();
    }
}
