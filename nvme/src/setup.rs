//! Setting a ring up: what the kernel offers, and what is done without.
//!
//! Done without, where the kernel refuses: deferred and cooperative posting of answers, the registered file table,
//! registered buffers. Not done without: the operations that [`probe`] asks for.

use std::io;
use std::sync::Once;

use io_uring::{IoUring, Probe, opcode};

use crate::buffers::{BufferClass, DEFAULT_CLASSES, Pool};
use crate::error::{RingError, diagnose};

/// Operations in flight unless the options say otherwise.
const OPERATIONS_MAX_DEFAULT: usize = 256;
/// Operations in flight that options may ask for: the kernel takes 32,768 entries, and an operation has two.
const OPERATIONS_MAX: usize = 16384;
/// Slots of the registered file table unless the options say otherwise; more open files are used by descriptor.
const FILES_MAX_DEFAULT: u32 = 512;

/// Sizes of a ring.
#[derive(Clone, Debug)]
pub struct RingOptions {
    /// Operations in flight before callers wait, 1 to 16,384.
    pub operations_max: usize,
    /// Slots of the registered file table; files beyond are used by descriptor. 0 for no table.
    pub files_max: u32,
    /// The pool of registered buffers; empty for none.
    pub buffers: Vec<BufferClass>,
}

impl Default for RingOptions {
    fn default() -> RingOptions {
        RingOptions {
            operations_max: OPERATIONS_MAX_DEFAULT,
            files_max: FILES_MAX_DEFAULT,
            buffers: DEFAULT_CLASSES.to_vec(),
        }
    }
}

/// How modern a set-up the kernel understands, newest first.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Setup {
    /// Linux 6.1: answers are posted only when this thread asks.
    Deferred,
    /// Linux 5.19: answers are posted at the next system call, without interrupting.
    Cooperative,
    /// Older: answers interrupt.
    Plain,
}

impl Setup {
    pub(crate) fn build(self, entries: u32) -> io::Result<IoUring> {
        let mut builder = IoUring::builder();
        if self != Setup::Plain {
            builder.setup_coop_taskrun().setup_taskrun_flag().setup_submit_all();
        }
        if self == Setup::Deferred {
            builder.setup_single_issuer().setup_defer_taskrun();
        }
        builder.build(entries)
    }
}

/// Sets up the queues in the newest way the kernel understands.
///
/// # Panics
/// If `options` are out of range.
pub(crate) fn build(options: &RingOptions) -> Result<IoUring, RingError> {
    let entries = entries(options);
    let mut built = Err(io::Error::from_raw_os_error(libc::EINVAL));
    for setup in [Setup::Deferred, Setup::Cooperative, Setup::Plain] {
        built = setup.build(entries);
        // EINVAL: an unknown flag.
        if !matches!(&built, Err(error) if error.raw_os_error() == Some(libc::EINVAL)) {
            break;
        }
    }
    built.map_err(diagnose)
}

/// Submission queue entries for `options`; the completion queue is twice that.
pub(crate) fn entries(options: &RingOptions) -> u32 {
    assert!((1..=OPERATIONS_MAX).contains(&options.operations_max), "operations_max is out of range");
    (2 * options.operations_max).next_power_of_two() as u32
}

/// Finds out what the kernel can do; refuses one that lacks what has no substitute.
pub(crate) fn probe(uring: &IoUring) -> Result<Probe, RingError> {
    let mut probe = Probe::new();
    if uring.submitter().register_probe(&mut probe).is_err() {
        return Err(RingError::KernelTooOld { missing: "the io_uring probe" });
    }
    for (code, missing) in [
        (opcode::Fallocate::CODE, "io_uring fallocate"),
        (opcode::OpenAt::CODE, "io_uring openat"),
        (opcode::UnlinkAt::CODE, "io_uring unlinkat"),
        (opcode::RenameAt::CODE, "io_uring renameat"),
    ] {
        if !probe.is_supported(code) {
            return Err(RingError::KernelTooOld { missing });
        }
    }
    Ok(probe)
}

/// Registers an empty file table; returns its free slots, none if the kernel refuses.
pub(crate) fn register_files(uring: &IoUring, files_max: u32) -> Vec<u32> {
    if files_max == 0 {
        return Vec::new();
    }
    let submitter = uring.submitter();
    let registered =
        submitter.register_files_sparse(files_max).or_else(|_| submitter.register_files(&vec![-1; files_max as usize]));
    match registered {
        Ok(()) => (0..files_max).rev().collect(),
        Err(_) => Vec::new(),
    }
}

/// Registers the pool; returns an empty one, with a warning, if memory may not be locked.
pub(crate) fn register_buffers(uring: &IoUring, classes: Vec<BufferClass>) -> Pool {
    static WARNED: Once = Once::new();
    let bytes: usize = classes.iter().map(|class| class.bytes * usize::from(class.count)).sum();
    Pool::register(classes, &uring.submitter()).unwrap_or_else(|error| {
        WARNED.call_once(|| {
            eprintln!(
                "warning: I/O buffers are not registered with the kernel ({} MiB: {error}), so each operation costs \
                 more CPU; set LimitMEMLOCK=infinity in the systemd unit, or raise `ulimit -l`",
                bytes.div_ceil(1 << 20)
            );
        });
        Pool::empty()
    })
}
