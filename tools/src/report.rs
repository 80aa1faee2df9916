//! What became of a tree.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, PoisonError};

use indicatif::ProgressBar;
use proto::api::ErrorDetail;
use serde::Serialize;

use crate::failure::Failure;
use crate::output::{Output, human_bytes, printable};

/// Counts what the threads of a tree transfer, and tells about what they could not.
#[derive(Debug)]
pub(crate) struct Report {
    output: Output,
    state: Mutex<State>,
    gave_up: AtomicBool,
}

#[derive(Debug, Default)]
struct State {
    summary: Summary,
    /// The first failure that concerns every file alike.
    fatal: Option<Failure>,
}

/// What became of a tree, as JSON.
#[derive(Clone, Debug, Default, Serialize)]
pub(crate) struct Summary {
    pub(crate) files: usize,
    pub(crate) directories: usize,
    pub(crate) symlinks: usize,
    pub(crate) bytes: u64,
    pub(crate) seconds: f64,
    /// Sockets, pipes and devices.
    pub(crate) skipped: Vec<String>,
    pub(crate) failed: Vec<Failed>,
}

/// One failure of a tree.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Failed {
    #[serde(flatten)]
    detail: ErrorDetail,
}

impl Report {
    pub(crate) fn new(output: Output) -> Report {
        Report { output, state: Mutex::new(State::default()), gave_up: AtomicBool::new(false) }
    }

    /// Counts something that was done.
    pub(crate) fn count(&self, add: impl FnOnce(&mut Summary)) {
        add(&mut self.state.lock().unwrap_or_else(PoisonError::into_inner).summary);
    }

    /// Notes a failure; one that concerns every file alike ends the tree.
    pub(crate) fn fail(&self, failure: Failure) {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        state.summary.failed.push(Failed { detail: failure.detail() });
        if failure.concerns_all() {
            self.gave_up.store(true, Ordering::Relaxed);
            state.fatal.get_or_insert(failure);
        }
    }

    /// Notes something that has no place in the store, and warns.
    pub(crate) fn skip(&self, path: &std::path::Path, bar: &ProgressBar) {
        let path = path.display().to_string();
        if !self.output.quiet && !self.output.json {
            let warning = printable(&format!("dfs: warning: skipped {path}: it is not a file, directory or symlink"));
            bar.suspend(|| eprintln!("{warning}"));
        }
        self.count(|summary| summary.skipped.push(path));
    }

    /// Whether it makes no sense to go on.
    pub(crate) fn has_given_up(&self) -> bool {
        self.gave_up.load(Ordering::Relaxed)
    }

    /// Prints the result and turns failures into the command's own.
    pub(crate) fn finish(self, verb: &str, bar: &ProgressBar) -> Result<(), Failure> {
        let State { mut summary, fatal } = self.state.into_inner().unwrap_or_else(PoisonError::into_inner);
        summary.seconds = bar.elapsed().as_secs_f64();
        bar.finish_and_clear();
        self.output.result(&summary, || {
            let Summary { files, directories, symlinks, bytes, seconds, .. } = summary;
            #[expect(clippy::cast_precision_loss, clippy::cast_possible_truncation, clippy::cast_sign_loss)]
            let rate = (bytes as f64 / seconds.max(0.001)) as u64;
            format!(
                "{verb} {files} files, {directories} directories, {symlinks} symlinks: {} in {seconds:.1} s ({}/s)",
                human_bytes(bytes),
                human_bytes(rate)
            )
        })?;
        if summary.failed.is_empty() {
            return Ok(());
        }
        if !self.output.json {
            for failed in &summary.failed {
                eprintln!("dfs: {}", printable(&failed.detail.message));
            }
        }
        let done = summary.files + summary.directories + summary.symlinks;
        match fatal {
            Some(cause) => Err(Failure::GivenUp { done, cause: Box::new(cause) }),
            None => {
                let failed = summary.failed.len();
                Err(Failure::Partial { failed, total: done + failed })
            }
        }
    }
}
