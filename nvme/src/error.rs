//! Why a ring could not be set up, and what the operator changes.

use std::io;

/// Why a [`crate::Ring`] could not be set up. Each message names the setting to change.
#[derive(Debug, thiserror::Error)]
pub enum RingError {
    /// The administrator switched io_uring off; switch it on.
    #[error(
        "io_uring is switched off by kernel.io_uring_disabled={value}: \
         set sysctl kernel.io_uring_disabled=0 (sysctl -w kernel.io_uring_disabled=0)"
    )]
    Disabled {
        /// 1: only for privileged processes and the group in `kernel.io_uring_group`; 2: for nobody.
        value: u32,
    },
    /// A sandbox refuses the system calls; allow them in its profile.
    #[error(
        "io_uring is forbidden for this process: its seccomp profile (the default one of container runtimes does so) \
         must allow io_uring_setup, io_uring_enter and io_uring_register, \
         for example with --security-opt seccomp=PROFILE.json"
    )]
    Forbidden,
    /// The kernel lacks something we cannot do without; run a newer one.
    #[error("the kernel is too old: it lacks {missing}; Linux 5.11 or newer is needed")]
    KernelTooOld {
        /// What it lacks.
        missing: &'static str,
    },
    /// The limit of locked memory is too low even for the queues; raise it.
    #[error(
        "the limit of locked memory is too low for io_uring's queues: \
         set LimitMEMLOCK=infinity in the systemd unit, or raise `ulimit -l`"
    )]
    LockedMemory,
    /// The limit of open files is reached; raise it.
    #[error("too many open files: set LimitNOFILE in the systemd unit, or raise `ulimit -n`")]
    OpenFiles,
    /// The kernel gave another reason.
    #[error("io_uring could not be set up: {source}")]
    Setup {
        /// The kernel's reason.
        source: io::Error,
    },
}

/// Names the cause of a failed ring setup from its error number and the value of `kernel.io_uring_disabled`.
///
/// `disabled` is `None` where that setting does not exist (before Linux 6.6).
#[must_use]
pub fn classify(errno: i32, disabled: Option<u32>) -> RingError {
    match (errno, disabled) {
        (libc::EPERM, Some(value)) if value != 0 => RingError::Disabled { value },
        // A kernel that has the setting has io_uring: some sandboxes answer ENOSYS for calls they refuse.
        (libc::EPERM | libc::EACCES, _) | (libc::ENOSYS, Some(_)) => RingError::Forbidden,
        (libc::ENOSYS, None) => RingError::KernelTooOld { missing: "io_uring" },
        (libc::ENOMEM, _) => RingError::LockedMemory,
        (libc::EMFILE | libc::ENFILE, _) => RingError::OpenFiles,
        _ => RingError::Setup { source: io::Error::from_raw_os_error(errno) },
    }
}

/// Names the cause of `error`, reading the setting of this machine.
pub(crate) fn diagnose(error: io::Error) -> RingError {
    let setting = std::fs::read_to_string("/proc/sys/kernel/io_uring_disabled").ok();
    match error.raw_os_error() {
        Some(errno) => classify(errno, setting.and_then(|text| text.trim().parse().ok())),
        None => RingError::Setup { source: error },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_disabling_sysctl_is_named_with_its_remedy() {
        for value in [1, 2] {
            let error = classify(libc::EPERM, Some(value));
            assert!(matches!(error, RingError::Disabled { value: found } if found == value));
            assert!(error.to_string().contains("set sysctl kernel.io_uring_disabled=0"));
        }
    }

    #[test]
    fn a_refusal_with_an_enabling_sysctl_is_a_sandbox() {
        for error in [classify(libc::EPERM, Some(0)), classify(libc::EPERM, None), classify(libc::ENOSYS, Some(0))] {
            assert!(matches!(error, RingError::Forbidden));
            assert!(error.to_string().contains("seccomp"));
        }
    }

    #[test]
    fn other_causes_are_told_apart() {
        assert!(matches!(classify(libc::ENOSYS, None), RingError::KernelTooOld { .. }));
        assert!(classify(libc::ENOMEM, Some(0)).to_string().contains("LimitMEMLOCK=infinity"));
        assert!(matches!(classify(libc::EMFILE, Some(0)), RingError::OpenFiles));
        assert!(matches!(classify(libc::EINVAL, Some(0)), RingError::Setup { .. }));
    }
}
