//! The state machine: one pure function from a command and the state to an answer and the next state.
//!
//! Invariants:
//!
//! * No clock, no randomness, no I/O: time, ids and keys travel in the command, counters come from the state.
//! * All checks of a command come before its first write, so a command that fails has changed nothing.
//! * A command of a session is applied once: its answer is remembered in the same apply, and given again to whoever
//!   repeats it, also when the answer was a failure.
//! * A command that changes the namespace tells so: its change events are written in the same apply, after its changes.

pub(crate) mod collection;
mod events;
mod file;
mod names;
mod once;
mod registry;
mod rename;
mod retention;
mod sessions;

pub(crate) use self::names::parent_of;
use crate::command::{Command, Condition, MetaError, Response, Session};
use crate::txn::KvTxn;

/// Applies `command` and returns its answer.
///
/// # Panics
/// If the state holds what no command makes: it was checked when it was loaded, so memory or this code is broken.
pub fn exec(command: &Command, txn: &mut impl KvTxn) -> Response {
    let Some(session) = command.session() else { return apply(command, txn) };
    match admit(txn, session) {
        Admission::New(place) => {
            let response = apply(command, txn);
            let is_curable = matches!(
                response,
                Response::Failed(MetaError::Stale | MetaError::StaleEpoch { .. } | MetaError::NotEmpty)
            );
            // The caller cures these by looking again, or by emptying the directory, and repeats the very same request.
            if !is_curable {
                match place {
                    Place::Numbered(place) => sessions::remember(txn, place, response.clone()),
                    Place::Keyed { key, fingerprint } => once::remember(txn, key, fingerprint, response.clone()),
                }
            }
            response
        }
        Admission::Answered(response) => response,
        Admission::Refused(error) => Response::Failed(error),
    }
}

/// What to do with a request that may be a repetition.
enum Admission {
    /// Apply it; then remember its answer here.
    New(Place),
    /// It was applied before; this was its answer.
    Answered(Response),
    /// It cannot be told.
    Refused(MetaError),
}

/// Where the answer to a request is remembered.
enum Place {
    Numbered(sessions::Place),
    Keyed { key: [u8; 16], fingerprint: [u8; 16] },
}

/// Decides what to do with a request; changes nothing.
fn admit(txn: &impl KvTxn, session: Session) -> Admission {
    match session {
        Session::Numbered { client, sequence, acked_below } => sessions::admit(txn, client, sequence, acked_below),
        Session::Keyed { key, fingerprint } => once::admit(txn, key, fingerprint),
    }
}

/// Applies `command` without regard to its session.
fn apply(command: &Command, txn: &mut impl KvTxn) -> Response {
    let result = match command {
        Command::Format { now_ns } => names::format(txn, *now_ns),
        Command::CreateDomain { .. } => registry::create_domain(txn, command),
        Command::CommitFile { at, content, attributes, condition, now_ns, pin_epoch, .. } => file::commit(
            txn,
            &file::Commit { at, content, attributes, condition, now_ns: *now_ns, pin_epoch: *pin_epoch },
        ),
        Command::MakeDirectory { at, attributes, now_ns, .. } => names::make_directory(txn, at, attributes, *now_ns),
        Command::MakeSymlink { at, target, attributes, now_ns, .. } => {
            names::make_symlink(txn, at, target, attributes, *now_ns)
        }
        Command::Unlink { parent, name, inode, condition, now_ns, .. } => {
            names::unlink(txn, (*parent, name), *inode, *condition, *now_ns)
        }
        Command::UnlinkBelow { parent, name, inode, part_of, now_ns } => match admit(txn, *part_of) {
            Admission::New(_) => names::unlink(txn, (*parent, name), Some(*inode), Condition::Any, *now_ns),
            Admission::Answered(_) => Err(MetaError::Answered),
            Admission::Refused(error) => Err(error),
        },
        Command::Rename { from, to, replace, now_ns, .. } => rename::rename(txn, from, to, *replace, *now_ns),
        Command::SetAttributes {
            inode,
            condition,
            mode,
            mtime_ns,
            symlink_target,
            content_type,
            user_metadata,
            now_ns,
            ..
        } => {
            let change = names::AttributeChange {
                condition: *condition,
                mode: *mode,
                mtime_ns: *mtime_ns,
                symlink_target: symlink_target.as_deref(),
                content_type: content_type.as_deref(),
                user_metadata: user_metadata.as_deref(),
            };
            names::set_attributes(txn, *inode, &change, *now_ns)
        }
        Command::Restore { at, version, condition, now_ns, .. } => {
            file::restore(txn, at, *version, *condition, *now_ns)
        }
        Command::OpenSegment { .. } => registry::open_segment(txn, command),
        Command::SealSegment { segment, footer_offsets } => registry::seal_segment(txn, *segment, footer_offsets),
        Command::FreeSegment { segment } => registry::free_segment(txn, *segment),
        Command::ForgetSegment { segment } => registry::forget_segment(txn, *segment),
        Command::CheckpointIndex { checkpoint } => registry::checkpoint_index(txn, checkpoint),
        Command::SetRetention { directory, retention, condition, now_ns, .. } => {
            retention::set(txn, *directory, *retention, *condition, *now_ns)
        }
        Command::ExpireVersions { inode, now_ns } => Ok(retention::expire(txn, *inode, *now_ns)),
        Command::RaiseEpoch { epoch } => collection::raise_epoch(txn, *epoch),
    };
    result.unwrap_or_else(Response::Failed)
}

#[cfg(test)]
mod golden;
#[cfg(test)]
mod tests;
