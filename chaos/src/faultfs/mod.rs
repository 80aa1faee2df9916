//! A file system with faults, for real processes: what a simulated disk is to the simulator, this is to a real `dfsd`.
//!
//! A FUSE file system in memory. It reaches what nothing else does: I/O through io_uring passes by every shim of libc and
//! by strace, and a killed process leaves its page cache behind, so that SIGKILL alone proves nothing about syncs. Here
//! nothing is cached by the kernel, O_DIRECT or not, and whoever owns the [`FaultFs`] says what becomes of each operation:
//!
//! ```text
//!   dfsd ──io_uring, O_DIRECT──▶ kernel ──FUSE──▶ bridge ──▶ faults: fail, tear, delay, never answer
//!                                                   │
//!                                                   ▼
//!                                                 store: current state │ what syncs have made durable
//!                                                                      └─▶ power loss: back to the latter, and any
//!                                                                          subset of the rest
//! ```
//!
//! * **Faults** ([`FaultFs::inject`]): the n-th operation of a kind and those after it fail with EIO or ENOSPC, arrive in
//!   part, are answered late, or never.
//! * **Space** ([`FaultFs::set_capacity`]): ENOSPC as a real file system gives it, to whoever reserves or writes.
//! * **Power loss** ([`FaultFs::lose_power`]): every page that no sync covered is as it was, as any write since left it, or
//!   torn between two of them at 512 bytes; lengths and names likewise. The process that used it must be gone; what it
//!   had open gives EIO from then on.
//! * **Lies** ([`FaultFs::lie_about_syncs`]): syncs that do nothing, to prove that a test would notice.
//!
//! Not what a general file system offers: no symlinks, no renames between directories, no times. The kernel
//! itself does locks. Names, files and pages follow the same rules as those of [`crate::sim`]; they do not survive the
//! [`FaultFs`].

mod bridge;
mod faults;
mod file;
mod names;
mod store;

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use fuser::{BackgroundSession, Config, MountOption};
use rustix::mount::UnmountFlags;

use self::bridge::{Bridge, Hanging};
pub use self::faults::{Effect, Fault, Operation};
use self::faults::{Faults, Parts};
use self::store::Store;
use crate::sim::Random;

/// Threads that serve operations: so many slow ones at once leave the others alone.
const THREADS: usize = 8;

/// How much of what was not synced survives a power loss.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Survival {
    /// Nothing.
    Nothing,
    /// Everything, as if it had been synced.
    Everything,
    /// Each page, length and name by chance.
    Some,
}

impl Survival {
    /// Draws one; mostly [`Survival::Some`].
    pub fn draw(random: &mut Random) -> Survival {
        match random.below(5) {
            0 => Survival::Nothing,
            1 => Survival::Everything,
            _ => Survival::Some,
        }
    }

    /// How many of `count` changes, one after the other, survive.
    fn draw_kept(self, count: usize, random: &mut Random) -> usize {
        match self {
            Survival::Nothing => 0,
            Survival::Everything => count,
            Survival::Some => random.below(count as u64 + 1) as usize,
        }
    }
}

/// What a power loss took.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Loss {
    /// Pages of 4 KiB that are not as they were last written.
    pub pages: u64,
    /// Those of them that are torn.
    pub torn_pages: u64,
    /// Files with another length.
    pub lengths: u64,
    /// Creations, removals and renames that did not happen.
    pub names: u64,
}

/// What the threads of the file system share.
#[derive(Debug)]
struct State {
    store: Store,
    faults: Faults,
    lies_about_syncs: bool,
    /// Counts power losses; what was opened before one is of no use after it.
    epoch: u64,
    hanging: Vec<Hanging>,
    parts: Parts,
}

type Shared = Arc<Mutex<State>>;

fn lock(state: &Shared) -> MutexGuard<'_, State> {
    state.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A mounted file system with faults; unmounted when dropped.
#[derive(Debug)]
pub struct FaultFs {
    path: PathBuf,
    state: Shared,
    session: Option<BackgroundSession>,
}

/// Mounts an empty file system of `capacity_bytes` on the directory `path`.
///
/// # Errors
/// The kernel's: without `/dev/fuse`, or without permission to mount (as root, or through `fusermount3`).
pub fn mount(path: &Path, capacity_bytes: u64) -> io::Result<FaultFs> {
    let state = State {
        store: Store::new(capacity_bytes),
        faults: Faults::default(),
        lies_about_syncs: false,
        epoch: 0,
        hanging: Vec::new(),
        parts: Parts::default(),
    };
    let state: Shared = Arc::new(Mutex::new(state));
    let mut config = Config::default();
    config.mount_options = vec![MountOption::FSName("faultfs".to_owned()), MountOption::NoAtime];
    config.n_threads = Some(THREADS);
    let session = fuser::spawn_mount(Bridge::new(state.clone()), path, &config)?;
    Ok(FaultFs { path: path.to_owned(), state, session: Some(session) })
}

impl FaultFs {
    /// Where it is mounted.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Arms a fault.
    pub fn inject(&self, fault: Fault) {
        lock(&self.state).faults.arm(fault);
    }

    /// Disarms all faults and fails what hangs with EIO.
    pub fn clear_faults(&self) {
        lock(&self.state).faults.disarm();
        self.release();
    }

    /// Fails the operations that hang with EIO; returns how many did.
    pub fn release(&self) -> usize {
        let hanging = std::mem::take(&mut lock(&self.state).hanging);
        let count = hanging.len();
        hanging.into_iter().for_each(Hanging::fail);
        count
    }

    /// Changes how much fits; more may be there already.
    pub fn set_capacity(&self, bytes: u64) {
        lock(&self.state).store.set_capacity(bytes);
    }

    /// Bytes that are free.
    #[must_use]
    pub fn free_bytes(&self) -> u64 {
        lock(&self.state).store.space().1 * file::PAGE_BYTES as u64
    }

    /// Whether syncs do nothing from now on, and say that they did.
    pub fn lie_about_syncs(&self, lies: bool) {
        lock(&self.state).lies_about_syncs = lies;
    }

    /// Operations so far, by kind.
    #[must_use]
    pub fn operations(&self) -> BTreeMap<Operation, u64> {
        lock(&self.state).faults.operations().clone()
    }

    /// Operations that met a fault so far.
    #[must_use]
    pub fn struck(&self) -> u64 {
        lock(&self.state).faults.struck()
    }

    /// The power fails, after the process that used the file system is gone: see the module. Disarms all faults.
    pub fn lose_power(&self, survival: Survival, random: &mut Random) -> Loss {
        self.clear_faults();
        let mut state = lock(&self.state);
        state.epoch += 1;
        state.store.lose_power(survival, random)
    }

    /// Unmounts. Whoever still uses it gets errors.
    ///
    /// # Errors
    /// The kernel's.
    pub fn unmount(mut self) -> io::Result<()> {
        self.end()
    }

    fn end(&mut self) -> io::Result<()> {
        let Some(session) = self.session.take() else { return Ok(()) };
        self.clear_faults();
        // Forced: the connection is cut, so that nothing waits for an answer any more and the threads end.
        match rustix::mount::unmount(&self.path, UnmountFlags::FORCE | UnmountFlags::DETACH) {
            Ok(()) => session.join(),
            // Not root: fusermount3 does it, and the threads end when the last user does.
            Err(rustix::io::Errno::PERM) => session.umount_and_join(),
            Err(error) => Err(error.into()),
        }
    }
}

impl Drop for FaultFs {
    fn drop(&mut self) {
        if let Err(error) = self.end() {
            eprintln!("warning: {} stays mounted: {error}; run `umount -l` on it", self.path.display());
        }
    }
}
