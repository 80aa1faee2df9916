//! What clients ask for and what they are told, in words of the oracle's own: every interface of the node is judged in
//! the same terms.

use meta::Condition;
use node::Removal;

use super::entry::ContentId;

/// What a client asks for.
#[derive(Clone, Debug)]
#[expect(missing_docs, reason = "the fields are those of the node's methods")]
pub enum Action {
    Put { path: String, content: ContentId, bytes: u64, attributes: AttributeChange, condition: Condition },
    Restore { path: String, version: u64, condition: Condition },
    MakeDirectory { path: String, attributes: AttributeChange },
    MakeSymlink { path: String, target: String, attributes: AttributeChange },
    Rename { from: String, to: String, replace: bool },
    Remove { path: String, how: Removal },
    SetAttributes { path: String, change: AttributeChange },
}

impl Action {
    /// The path that it is about.
    #[must_use]
    pub fn path(&self) -> &str {
        match self {
            Action::Put { path, .. }
            | Action::Restore { path, .. }
            | Action::MakeDirectory { path, .. }
            | Action::MakeSymlink { path, .. }
            | Action::Rename { from: path, .. }
            | Action::Remove { path, .. }
            | Action::SetAttributes { path, .. } => path,
        }
    }
}

/// Attributes that an action sets; absent ones keep what is there, or the default.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[expect(missing_docs, reason = "the fields are those of the node's attributes")]
pub struct AttributeChange {
    pub mode: Option<u32>,
    pub mtime_ns: Option<u64>,
    pub symlink_target: Option<String>,
    pub user_metadata: Option<Vec<(String, String)>>,
}

/// What came of an action.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[expect(missing_docs, reason = "they are named after the actions")]
pub enum Answer {
    Committed { version: u64, created: bool },
    Made,
    Renamed,
    Removed,
    Changed,
    Refused(Refusal),
}

impl Answer {
    /// Whether a client whom the node answers like this may be told `told`.
    #[must_use]
    pub fn reads_as(&self, told: &Answer) -> bool {
        use Refusal::{ConditionFailed, ConditionFailedSomehow};
        let untold = (self, told);
        self == told || matches!(untold, (Answer::Refused(ConditionFailed(_)), Answer::Refused(ConditionFailedSomehow)))
    }
}

/// Why an action changed nothing: the refusals that the workload can meet.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[expect(missing_docs, reason = "they are those of `MetaError`")]
pub enum Refusal {
    NotFound,
    NotADirectory,
    IsADirectory,
    AlreadyExists,
    NotEmpty,
    ConditionFailed(Option<u64>),
    /// The same, from an interface that does not tell which version is there.
    ConditionFailedSomehow,
    IntoItself,
    NotASymlink,
    NotAFile,
    NoSuchVersion,
    VersionExpired,
}

/// One operation of the history.
#[derive(Clone, Debug)]
pub struct Operation {
    /// Its place in the history.
    pub number: u64,
    /// What was asked for.
    pub action: Action,
    /// Client and sequence, for exactly-once.
    pub session: Option<(u64, u64)>,
}

/// How far an operation has got in one possible history.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Progress {
    /// It found its object by name and will act on the object.
    Bound((u64, usize)),
    /// It took effect; this is what its caller must be told.
    Done(Answer),
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_failed_condition_may_be_told_without_its_version() {
        let failed = Answer::Refused(Refusal::ConditionFailed(Some(3)));
        let untold = Answer::Refused(Refusal::ConditionFailedSomehow);
        assert!(failed.reads_as(&failed) && failed.reads_as(&untold));
        assert!(!failed.reads_as(&Answer::Refused(Refusal::ConditionFailed(Some(4)))));
        assert!(!Answer::Refused(Refusal::NotFound).reads_as(&untold));
    }
}
