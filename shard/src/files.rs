//! Open segment files for reading, bounded: the least recently used closes first.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;

use proto::limits::SEGMENT_FILES_OPEN_MAX;
use proto::port::Disk;
use proto::{DeviceId, SegmentId};

use crate::recent::Recent;
use crate::segment::{Member, piece_name};

/// The devices of a node and the segment files that are open on them.
pub struct SegmentFiles<D: Disk> {
    members: BTreeMap<DeviceId, D>,
    open: RefCell<Recent<(SegmentId, u8), D::File>>,
    /// Segments forgotten so far: what was opened meanwhile is not kept.
    forgotten: Cell<u64>,
}

impl<D: Disk> SegmentFiles<D> {
    /// Returns an empty cache over `members`.
    #[must_use]
    pub fn new(members: &[Member<D>]) -> SegmentFiles<D> {
        let members = members.iter().map(|member| (member.device, member.disk.clone())).collect();
        SegmentFiles { members, open: RefCell::new(Recent::new(SEGMENT_FILES_OPEN_MAX)), forgotten: Cell::new(0) }
    }

    /// The device, if it is here.
    #[must_use]
    pub fn disk(&self, device: DeviceId) -> Option<&D> {
        self.members.get(&device)
    }

    /// Files that are open.
    #[must_use]
    pub fn open_files(&self) -> usize {
        self.open.borrow().cost()
    }

    /// Closes the files of a segment that was freed, once the reads under way have ended: its space returns only then.
    pub fn forget(&self, segment: SegmentId) {
        self.forgotten.set(self.forgotten.get() + 1);
        self.open.borrow_mut().take_range((segment, 0)..=(segment, u8::MAX));
    }

    /// Opens the file of one column, or returns the open one.
    ///
    /// Errors: `NotFound` if the device is not here or has no such file, or the device's own.
    pub async fn file(&self, segment: SegmentId, column: u8, device: DeviceId) -> std::io::Result<D::File> {
        if let Some(file) = self.open.borrow_mut().get(&(segment, column)) {
            return Ok(file.clone());
        }
        let disk = self.members.get(&device).ok_or(std::io::ErrorKind::NotFound)?;
        let forgotten = self.forgotten.get();
        let file = disk.open(&piece_name(segment, usize::from(column))).await?;
        if self.forgotten.get() == forgotten {
            self.open.borrow_mut().insert((segment, column), file.clone(), 1);
        }
        Ok(file)
    }
}
