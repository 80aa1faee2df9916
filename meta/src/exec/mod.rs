//! The state machine: one pure function from a command and the state to an answer and the next state.
//!
//! Invariants:
//!
//! * No clock, no randomness, no I/O: time, ids and keys travel in the command, counters come from the state.
//! * All checks of a command come before its first write, so a command that fails has changed nothing.
//! * A command of a session is applied once: its answer is remembered in the same apply, and given again to whoever
//!   repeats it, also when the answer was a failure.

mod file;
mod names;
mod registry;
mod rename;
mod sessions;

use crate::command::{Command, MetaError, Response};
use crate::txn::KvTxn;

/// Applies `command` and returns its answer.
///
/// # Panics
/// If the state holds what no command makes: it was checked when it was loaded, so memory or this code is broken.
pub fn exec(command: &Command, txn: &mut impl KvTxn) -> Response {
    let Some(session) = command.session() else { return apply(command, txn) };
    match sessions::admit(txn, session) {
        sessions::Admission::New(window) => {
            let response = apply(command, txn);
            let is_curable = matches!(
                response,
                Response::Failed(MetaError::Stale | MetaError::StaleEpoch { .. } | MetaError::NotEmpty)
            );
            // The caller cures these by looking again, or by emptying the directory, and repeats the very same request.
            if !is_curable {
                sessions::remember(txn, session, window, response.clone());
            }
            response
        }
        sessions::Admission::Answered(response) => response,
        sessions::Admission::Stale { window_from } => Response::Failed(MetaError::StaleSequence { window_from }),
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
        Command::Unlink { parent, name, inode, now_ns, .. } => names::unlink(txn, *parent, name, *inode, *now_ns),
        Command::Rename { from, to, replace, now_ns, .. } => rename::rename(txn, from, to, *replace, *now_ns),
        Command::SetAttributes { inode, mode, mtime_ns, symlink_target, user_metadata, .. } => {
            let change = names::AttributeChange {
                mode: *mode,
                mtime_ns: *mtime_ns,
                symlink_target: symlink_target.as_deref(),
                user_metadata: user_metadata.as_deref(),
            };
            names::set_attributes(txn, *inode, &change)
        }
        Command::OpenSegment { .. } => registry::open_segment(txn, command),
        Command::SealSegment { segment, footer_offsets } => registry::seal_segment(txn, *segment, footer_offsets),
        Command::FreeSegment { segment } => registry::free_segment(txn, *segment),
        Command::CheckpointIndex { checkpoint } => registry::checkpoint_index(txn, checkpoint),
    };
    result.unwrap_or_else(Response::Failed)
}

#[cfg(test)]
mod golden;
#[cfg(test)]
mod tests;
