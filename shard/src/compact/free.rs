//! Giving a segment back.
//!
//! The home lets it go first, so that nobody who asks is sent there; then all cores forget what they keep of it; then the
//! files go. A crash between any two of these leaves files of a segment that the log says is freed: the next start
//! removes them.

use std::rc::Rc;
use std::sync::Arc;

use proto::port::Disk;
use proto::{CoreId, DeviceId, SegmentId};

use crate::segment::{Member, SegmentLog, remove_files};
use crate::store::Inner;

/// A segment was not freed, or not wholly.
#[derive(Clone, Debug, thiserror::Error)]
pub enum FreeError {
    /// It takes rows, or an index entry or a remembered copy names it: nothing was done. Compact it first.
    #[error("segment {0} is in use")]
    InUse(SegmentId),
    /// The segment is forgotten, but files are left on the device: the next start removes them.
    #[error("device {device} failed while removing segment {segment}: {source}")]
    Device {
        /// The device.
        device: DeviceId,
        /// The segment.
        segment: SegmentId,
        /// What it said.
        source: Arc<std::io::Error>,
    },
}

/// What a home says of a segment that it was to let go.
enum LetGo {
    Gone { members: Vec<DeviceId>, file_bytes: u64 },
    InUse,
    Unknown,
}

pub(super) async fn free<D: Disk, L: SegmentLog>(
    inner: &Rc<Inner<D, L>>,
    segment: SegmentId,
) -> Result<u64, FreeError> {
    if inner.is_named(segment).await {
        return Err(FreeError::InUse(segment));
    }
    let home = inner.home_of(segment);
    let (members, file_bytes) = match inner.peers.ask(home, move |inner: &Inner<D, L>| inner.let_go(segment)).await {
        LetGo::Gone { members, file_bytes } => (members, file_bytes),
        LetGo::InUse => return Err(FreeError::InUse(segment)),
        LetGo::Unknown => return Ok(0),
    };
    for core in inner.cores() {
        inner.peers.ask(core, move |inner: &Inner<D, L>| inner.forget_segment(segment)).await;
    }
    let member = |device: &DeviceId| {
        let member = inner.options.members.iter().find(|member| member.device == *device);
        member.cloned().expect("invariant: a segment at its home lies on devices that are here")
    };
    let members: Vec<Member<D>> = members.iter().map(member).collect();
    let removed = remove_files(segment, &members).await;
    removed.map_err(|(device, source)| FreeError::Device { device, segment, source: Arc::new(source) })?;
    Ok(file_bytes)
}

impl<D: Disk, L: SegmentLog> Inner<D, L> {
    /// All cores.
    pub(super) fn cores(&self) -> impl Iterator<Item = CoreId> + use<D, L> {
        (0..self.peers.count() as u16).map(CoreId)
    }

    /// Whether an owner on any core names a segment.
    pub(super) async fn is_named(&self, segment: SegmentId) -> bool {
        for core in self.cores() {
            if self.peers.ask(core, move |inner: &Inner<D, L>| inner.owner.borrow().names(segment)).await {
                return true;
            }
        }
        false
    }

    fn let_go(&self, segment: SegmentId) -> LetGo {
        let mut home = self.home.borrow_mut();
        let Some(known) = home.get(&segment) else { return LetGo::Unknown };
        if !known.settled.get() {
            return LetGo::InUse;
        }
        let gone = LetGo::Gone { members: known.segment.members.clone(), file_bytes: known.file_bytes.get() };
        home.remove(&segment);
        gone
    }

    /// Forgets what this core keeps of a segment whose home let it go.
    pub(crate) fn forget_segment(&self, segment: SegmentId) {
        self.gone.borrow_mut().insert(segment, (), 1);
        self.foreign.borrow_mut().remove(&segment);
        self.files.forget(segment);
        self.known.borrow_mut().forget(segment);
        self.blocks.borrow_mut().forget(segment);
        self.owner.borrow_mut().forget_segment(segment);
    }
}
