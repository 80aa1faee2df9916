//! The models that are checked: small enough for every interleaving, each large enough for the trouble it is named after.

use models::properties::Goal;
use models::{Bounds, Protocol};

/// A writer hits chunk 0, whose only version may be deleted, at any time before, in and between two cycles and a half.
pub(crate) fn late_commit() -> Protocol {
    Protocol {
        bounds: Bounds { cycles: 3, deletes: 1, ..Bounds::default() },
        owners: 1,
        stored: vec![0],
        versions: vec![(1, vec![0])],
        uploads: vec![(0, vec![0])],
        goals: vec![Goal::HitWhileCondemning, Goal::CommitAfterRefusal, Goal::SpaceComesBack],
        ..Protocol::default()
    }
}

/// Two writers of the same garbage, one of something new besides; two owners, told one after the other.
pub(crate) fn two_writers() -> Protocol {
    Protocol {
        bounds: Bounds { cycles: 2, ..Bounds::default() },
        owners: 2,
        stored: vec![0],
        uploads: vec![(0, vec![0]), (1, vec![0, 1])],
        goals: vec![Goal::HitWhileCondemning, Goal::SpaceComesBack],
        ..Protocol::default()
    }
}

/// An upload stays open while the epoch goes once around its two bits, and what it hit is deleted.
pub(crate) fn long_upload() -> Protocol {
    Protocol {
        bounds: Bounds { cycles: 5, deletes: 1, ..Bounds::default() },
        owners: 2,
        stored: vec![0],
        versions: vec![(1, vec![0])],
        uploads: vec![(0, vec![0, 1])],
        goals: vec![Goal::CommitAfterTwoCycles, Goal::CommitAfterRefusal],
        ..Protocol::default()
    }
}

/// Two versions are deleted and one is made from what is left, while the walk passes.
pub(crate) fn dying_versions() -> Protocol {
    Protocol {
        bounds: Bounds { cycles: 3, deletes: 3, restores: 2, ..Bounds::default() },
        owners: 2,
        stored: vec![0, 1],
        versions: vec![(1, vec![0]), (1, vec![0, 1])],
        compacts: true,
        goals: vec![Goal::SpaceComesBack],
        ..Protocol::default()
    }
}

/// A reader opens a version that is deleted or restored, while everything moves under it, and a crash may end it.
pub(crate) fn open_read() -> Protocol {
    Protocol {
        bounds: Bounds { cycles: 3, deletes: 3, restores: 1, reads: 1, crashes: 1, ..Bounds::default() },
        owners: 2,
        stored: vec![0, 1, 2],
        versions: vec![(0, vec![0, 1]), (1, vec![1])],
        compacts: true,
        goals: vec![Goal::ReadOutlivesVersion, Goal::SpaceComesBack],
        ..Protocol::default()
    }
}

/// A writer while live chunks move, and a crash at any point.
pub(crate) fn crash() -> Protocol {
    Protocol {
        bounds: Bounds { cycles: 2, crashes: 1, ..Bounds::default() },
        owners: 2,
        stored: vec![0, 1],
        versions: vec![(1, vec![0])],
        uploads: vec![(0, vec![0, 2])],
        compacts: true,
        goals: vec![Goal::TwoCopiesAfterCrash, Goal::CycleCutShort, Goal::SpaceComesBack],
        ..Protocol::default()
    }
}

/// Versions come and go, and two crashes, so also one in the recovery from another.
pub(crate) fn crashes() -> Protocol {
    Protocol {
        bounds: Bounds { cycles: 3, deletes: 2, restores: 1, crashes: 2, ..Bounds::default() },
        owners: 2,
        stored: vec![0, 1],
        versions: vec![(1, vec![0]), (1, vec![0, 1])],
        compacts: true,
        goals: vec![Goal::TwoCopiesAfterCrash, Goal::SpaceComesBack],
        ..Protocol::default()
    }
}

/// A manifest page that cannot be read for a while.
pub(crate) fn unreadable_page() -> Protocol {
    Protocol {
        bounds: Bounds { cycles: 6, deletes: 1, lost_pages: 2, ..Bounds::default() },
        owners: 1,
        stored: vec![0, 1],
        versions: vec![(0, vec![0]), (1, vec![1])],
        compacts: true,
        goals: vec![Goal::CycleCutShort, Goal::PinWrapsAround, Goal::SpaceComesBack],
        ..Protocol::default()
    }
}
