//! Carrying out one action on the node, and sorting its outcome: answered, turned down, or left open.

use meta::{Attributes, Condition, MetaError, ProposeError, Session};
use node::namespace::AttributeChange as NodeChange;
use node::{ChangeError, FileInfo, FileWriter, Node, PutError, PutOptions, Target};
use proto::VersionNumber;
use proto::path::FsPath;
use proto::port::runtime;

use crate::oracle::model::{Action, Answer, AttributeChange, ContentId, Refusal};
use crate::sim::{Random, WatchedDisk};

/// How an action ended.
#[derive(Debug)]
pub(super) enum Outcome {
    /// The caller was told.
    Answered(Answer),
    /// It certainly did not happen, for want of space or because of a device.
    TurnedDown(String),
    /// It certainly did not happen, for want of what was stored before.
    Gone(String),
    /// It did not happen now: its client said since that it has the answer.
    Late(String),
    /// It may or may not have happened: only a restart tells.
    Open(String),
}

/// How many bytes one call hands over at most.
const WRITE_BYTES_MAX: u64 = 200_000;

/// Parses a path of ours.
pub(super) fn path(text: &str) -> FsPath {
    FsPath::parse(text).expect("invariant: the workload draws legal paths")
}

pub(super) fn target(text: &str) -> Target {
    Target::Path(path(text))
}

/// Carries out `action`; `bytes` are what a put sends.
pub(super) async fn perform(
    node: &Node<WatchedDisk>,
    random: Random,
    action: &Action,
    session: Option<Session>,
    bytes: impl Fn(ContentId) -> std::rc::Rc<Vec<u8>>,
) -> Outcome {
    match action {
        Action::Put { path: at, content, attributes, condition, .. } => {
            let bytes = bytes(*content);
            match put(node, random, &path(at), &bytes, options(attributes, *condition, session)).await {
                Ok(done) => {
                    Outcome::Answered(Answer::Committed { version: done.info.inode.version.0, created: done.created })
                }
                Err(PutError::Store(error)) => Outcome::TurnedDown(error.to_string()),
                Err(PutError::Change(error)) => refused(error),
                Err(error @ PutError::Gone) => Outcome::Gone(error.to_string()),
            }
        }
        Action::Restore { path: at, version, condition } => {
            let restored = node.restore(path(at), VersionNumber(*version), *condition, session).await;
            let committed = |info: FileInfo| Answer::Committed { version: info.version().0, created: false };
            restored.map_or_else(refused, |info| Outcome::Answered(committed(info)))
        }
        Action::MakeDirectory { path: at, attributes } => {
            let made = node.make_directory(path(at), of(attributes), session).await;
            made.map_or_else(refused, |_| Outcome::Answered(Answer::Made))
        }
        Action::MakeSymlink { path: at, target, attributes } => {
            let made = node.make_symlink(path(at), target.clone(), of(attributes), session).await;
            made.map_or_else(refused, |_| Outcome::Answered(Answer::Made))
        }
        Action::Rename { from, to, replace } => {
            let renamed = node.rename(path(from), path(to), *replace, session).await;
            renamed.map_or_else(refused, |_| Outcome::Answered(Answer::Renamed))
        }
        Action::Remove { path: at, how } => {
            let removed = node.remove(target(at), *how, session).await;
            removed.map_or_else(refused, |()| Outcome::Answered(Answer::Removed))
        }
        Action::SetAttributes { path: at, change } => {
            let change = NodeChange {
                mode: change.mode,
                mtime_ns: change.mtime_ns,
                symlink_target: change.symlink_target.clone(),
                content_type: None,
                user_metadata: change.user_metadata.clone(),
            };
            let changed = node.set_attributes(target(at), change, session).await;
            changed.map_or_else(refused, |_| Outcome::Answered(Answer::Changed))
        }
    }
}

pub(super) fn refused(error: ChangeError) -> Outcome {
    match error {
        ChangeError::Refused(overtaken @ MetaError::StaleEpoch { .. }) => Outcome::TurnedDown(overtaken.to_string()),
        ChangeError::Refused(late @ MetaError::StaleSequence { .. }) => Outcome::Late(late.to_string()),
        ChangeError::Refused(refused) => match Refusal::of(&refused) {
            Some(refusal) => Outcome::Answered(Answer::Refused(refusal)),
            None => panic!("no action of the workload may be refused like this: {refused}"),
        },
        ChangeError::Log(error @ (ProposeError::Busy | ProposeError::StorageFull)) => {
            Outcome::TurnedDown(error.to_string())
        }
        error @ ChangeError::NoSpace { .. } => Outcome::TurnedDown(error.to_string()),
        ChangeError::Log(error @ (ProposeError::Poisoned { .. } | ProposeError::Closed)) => {
            Outcome::Open(error.to_string())
        }
        ChangeError::Log(ProposeError::TooLarge { bytes }) => panic!("a command of {bytes} bytes"),
        ChangeError::Root => panic!("the workload leaves the root alone"),
    }
}

fn of(attributes: &AttributeChange) -> Attributes {
    Attributes {
        mode: attributes.mode,
        mtime_ns: attributes.mtime_ns,
        content_type: None,
        user_metadata: attributes.user_metadata.clone().unwrap_or_default(),
        owner: 0,
    }
}

fn options(attributes: &AttributeChange, condition: Condition, session: Option<Session>) -> PutOptions {
    PutOptions { attributes: of(attributes), condition, session }
}

async fn put(
    node: &Node<WatchedDisk>,
    mut random: Random,
    path: &FsPath,
    bytes: &[u8],
    options: PutOptions,
) -> Result<node::write::Committed, PutError> {
    let mut writer = node.create(path.clone(), options)?;
    send(&mut writer, &mut random, bytes).await?;
    writer.finish().await
}

/// Sends part of a file and gives up.
pub(super) async fn abandon(
    node: &Node<WatchedDisk>,
    mut random: Random,
    at: &str,
    bytes: &[u8],
) -> Result<(), PutError> {
    let mut writer = node.create(path(at), PutOptions::default())?;
    let sent = random.below(bytes.len() as u64 + 1) as usize;
    send(&mut writer, &mut random, &bytes[..sent]).await
}

/// Sends bytes in pieces of any size.
async fn send(writer: &mut FileWriter<WatchedDisk>, random: &mut Random, mut bytes: &[u8]) -> Result<(), PutError> {
    while !bytes.is_empty() {
        let piece = random.between(1, WRITE_BYTES_MAX).min(bytes.len() as u64) as usize;
        writer.write(&bytes[..piece]).await?;
        bytes = &bytes[piece..];
        if random.chance(1, 4) {
            runtime::yield_now().await;
        }
    }
    Ok(())
}
