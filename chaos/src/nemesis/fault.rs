//! What nemesis does to a server.

use std::fmt;
use std::str::FromStr;

/// A kind of fault.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum FaultKind {
    /// SIGKILL while it serves.
    Kill,
    /// SIGTERM, and sometimes SIGKILL soon after.
    Term,
    /// SIGKILL while it recovers, again and again.
    Recovery,
    /// SIGSTOP, and SIGCONT later.
    Stop,
    /// The disk is full for a while, sometimes across a kill.
    Full,
    /// The wall clock jumps.
    Clock,
    /// The power fails.
    Power,
    /// An operation of the disk fails with EIO, and perhaps all that follow.
    Eio,
    /// A write of the disk arrives in part and fails.
    Torn,
    /// The disk is slow.
    Slow,
    /// The disk never answers.
    Hang,
}

impl FaultKind {
    /// All of them.
    pub const ALL: [FaultKind; 11] = [
        FaultKind::Kill,
        FaultKind::Term,
        FaultKind::Recovery,
        FaultKind::Stop,
        FaultKind::Full,
        FaultKind::Clock,
        FaultKind::Power,
        FaultKind::Eio,
        FaultKind::Torn,
        FaultKind::Slow,
        FaultKind::Hang,
    ];

    /// Its name on the command line and in reports.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            FaultKind::Kill => "kill",
            FaultKind::Term => "term",
            FaultKind::Recovery => "recovery",
            FaultKind::Stop => "stop",
            FaultKind::Full => "full",
            FaultKind::Clock => "clock",
            FaultKind::Power => "power",
            FaultKind::Eio => "eio",
            FaultKind::Torn => "torn",
            FaultKind::Slow => "slow",
            FaultKind::Hang => "hang",
        }
    }

    /// Whether it takes a fault file system.
    #[must_use]
    pub fn needs_fuse(self) -> bool {
        use FaultKind::{Eio, Full, Hang, Power, Slow, Torn};
        matches!(self, Full | Power | Eio | Torn | Slow | Hang)
    }
}

impl fmt::Display for FaultKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for FaultKind {
    type Err = String;

    fn from_str(text: &str) -> Result<FaultKind, String> {
        let known = FaultKind::ALL.into_iter().find(|kind| kind.name() == text);
        known.ok_or_else(|| {
            let names: Vec<&str> = FaultKind::ALL.iter().map(|kind| kind.name()).collect();
            format!("{text:?} is not a fault; there are {}", names.join(", "))
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_fault_is_found_by_its_name() {
        for kind in FaultKind::ALL {
            assert_eq!(kind.name().parse(), Ok(kind));
        }
        assert!("flood".parse::<FaultKind>().unwrap_err().contains("power"));
    }
}
