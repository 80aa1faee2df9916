//! **Histories of each path are linearizable.** All that clients were told and shown can be explained by operations that
//! took effect one by one, each between its call and its answer; one that a crash left unanswered took effect or did
//! not, and stays so.
//!
//! How: just-in-time linearization, see [`crate::oracle`]. Clients tell the oracle of every call, answer and sight as it
//! happens; the full check shows it every tree and every version. The oracle counts what it judged.
//!
//! What it would miss: orders between two top-level directories, which are judged for themselves; and the bytes of
//! versions that a start does not read, which is why [`super::reachable`] reads all of them in the end.

use std::collections::BTreeMap;

use super::Invariant;
use crate::harness::World;
use crate::oracle::{Seen, Violation};

/// Shows the oracle a whole top-level directory.
pub(crate) fn tree(world: &World, top: &str, seen: &BTreeMap<String, Seen>) -> Result<(), Violation> {
    world.oracle.borrow_mut().saw_tree(top, seen)
}

/// Shows the oracle what a file was at a version.
pub(crate) fn version(world: &World, path: &str, seen: Seen) -> Result<(), Violation> {
    let version = Some(seen.version);
    world.oracle.borrow_mut().saw_stat(path, version, &Ok(seen))
}

/// Takes over what the oracle judged since the last call, the sights of clients included.
pub(crate) fn count(world: &World) {
    world.judge.count(Invariant::Linearizable, world.oracle.borrow_mut().take_judged());
}

#[cfg(test)]
mod tests {
    use crate::oracle::Oracle;
    use crate::oracle::model::{Action, Answer, AttributeChange, ContentId, Refusal};
    use chunk::ChunkerId;
    use meta::Condition;
    use node::Removal;

    fn put(oracle: &mut Oracle, condition: Condition) -> (u64, ContentId) {
        let content = oracle.add_content(vec![1]);
        let (path, attributes) = ("/s/f".to_owned(), AttributeChange::default());
        (oracle.call(Action::Put { path, content, bytes: 1, attributes, condition }, None), content)
    }

    fn committed(version: u64) -> Answer {
        Answer::Committed { version, created: version == 1 }
    }

    #[test]
    fn two_clients_cannot_both_have_been_the_first() {
        let mut oracle = Oracle::new(ChunkerId::FASTCDC_64_KIB);
        let (first, _) = put(&mut oracle, Condition::Absent);
        let (second, _) = put(&mut oracle, Condition::Absent);
        oracle.answer("/s/f", second, &committed(1)).unwrap();
        oracle.answer("/s/f", first, &committed(1)).expect_err("one of them found the other's file");
    }

    #[test]
    fn what_was_seen_gone_does_not_come_back() {
        let mut oracle = Oracle::new(ChunkerId::FASTCDC_64_KIB);
        let (number, _) = put(&mut oracle, Condition::Any);
        oracle.answer("/s/f", number, &committed(1)).unwrap();
        oracle.call(Action::Remove { path: "/s/f".into(), how: Removal::Single }, None);
        // Not answered yet, so either may be seen; but not the one after the other.
        oracle.saw_stat("/s/f", None, &Err(Refusal::NotFound)).unwrap();
        oracle.saw_list("/s", &Ok(vec!["f".into()])).expect_err("it was seen gone");
    }

    #[test]
    fn an_old_version_is_not_read_after_a_newer_one_was_acknowledged() {
        let mut oracle = Oracle::new(ChunkerId::FASTCDC_64_KIB);
        let (number, old) = put(&mut oracle, Condition::Any);
        oracle.answer("/s/f", number, &committed(1)).unwrap();
        let (number, new) = put(&mut oracle, Condition::Any);
        assert_eq!(oracle.readable("/s/f", None).unwrap(), [old, new].into());
        oracle.answer("/s/f", number, &committed(2)).unwrap();
        assert_eq!(oracle.readable("/s/f", None).unwrap(), [new].into());
    }
}
