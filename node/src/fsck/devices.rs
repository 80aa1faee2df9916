//! Superblocks: every copy on every directory, and whether the directories are one node.

use proto::disk::{FixedHeader, FormatError, SUPERBLOCK_COPIES, SUPERBLOCK_FILE_BYTES, Superblock};
use proto::limits::SECTOR_BYTES;
use proto::port::{AlignedBuf, Disk, DiskFile};
use shard::superblock::SUPERBLOCK_NAME;

use super::problem::{Problem, ProblemKind, Report};

/// A directory whose superblock was read.
#[derive(Clone, Debug)]
pub(crate) struct Device<D> {
    /// Its place among those given, counted from 1.
    pub(crate) directory: usize,
    pub(crate) superblock: Superblock,
    pub(crate) disk: D,
}

/// Reads the four copies; `None` if there is no such file, or it is all zeros.
///
/// Errors: the device's own.
pub(crate) async fn read_copies<D: Disk>(disk: &D) -> std::io::Result<Option<Vec<Result<Superblock, FormatError>>>> {
    let file = match disk.open(SUPERBLOCK_NAME).await {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        file => file?,
    };
    let (read, mut buf) = file.read_at(AlignedBuf::zeroed(SUPERBLOCK_FILE_BYTES), 0).await;
    buf.set_len(read?);
    if buf.iter().all(|byte| *byte == 0) {
        return Ok(None);
    }
    let copy = |copy: usize| Superblock::parse(buf.get(copy * SECTOR_BYTES..).unwrap_or(&[]));
    Ok(Some((0..SUPERBLOCK_COPIES).map(copy).collect()))
}

/// Checks the superblocks of all directories; returns those of one node, the one with the metadata first.
pub(crate) async fn check<D: Disk>(disks: &[D], report: &mut Report) -> Vec<Device<D>> {
    let mut devices = Vec::with_capacity(disks.len());
    for (place, disk) in disks.iter().enumerate() {
        if let Some(superblock) = check_one(place + 1, disk, report).await {
            devices.push(Device { directory: place + 1, superblock, disk: disk.clone() });
        }
    }
    devices.sort_by_key(|device| device.superblock.device_ordinal.get());
    let Some(first) = devices.first().map(|device| device.superblock.clone()) else { return devices };
    devices.retain(|device| {
        let same = device.superblock.cluster == first.cluster;
        if !same {
            let (other, cluster) = (device.superblock.cluster, first.cluster);
            let detail = format!("it belongs to node {other}, the others to {cluster}; it was not checked");
            report.add(Problem::new(ProblemKind::DeviceMismatch, detail).in_file(device.directory, SUPERBLOCK_NAME));
        }
        same
    });
    for ordinal in 0..first.device_count.get() {
        let here = devices.iter().filter(|device| device.superblock.device_ordinal.get() == ordinal).count();
        if here != 1 {
            let count = first.device_count.get();
            let detail = format!("of the node's {count} directories number {} was given {here} times", ordinal + 1);
            report.add(Problem::new(ProblemKind::DeviceMismatch, detail));
        }
    }
    devices
}

/// Checks the copies of one directory; returns the newest valid one.
async fn check_one<D: Disk>(directory: usize, disk: &D, report: &mut Report) -> Option<Superblock> {
    let problem = |kind, detail: String| Problem::new(kind, detail).in_file(directory, SUPERBLOCK_NAME);
    let copies = match read_copies(disk).await {
        Ok(Some(copies)) => copies,
        Ok(None) => {
            report.add(problem(ProblemKind::SuperblockLost, "the directory has no superblock".to_owned()));
            return None;
        }
        Err(error) => {
            report.add(problem(ProblemKind::DeviceFailed, error.to_string()));
            return None;
        }
    };
    let newest = copies.iter().flatten().max_by_key(|copy| copy.sequence.get()).cloned();
    // Of a newer version the reader must not make anything, whatever the other copies say.
    let unknown = copies.iter().any(|copy| matches!(copy, Err(FormatError::UnknownVersion { .. })));
    let (Some(newest), false) = (newest, unknown) else {
        let errors: Vec<String> = copies.iter().flat_map(|copy| copy.as_ref().err()).map(ToString::to_string).collect();
        report.add(problem(ProblemKind::SuperblockLost, errors.join("; ")));
        return None;
    };
    for (number, copy) in copies.iter().enumerate() {
        let offset = (number * SECTOR_BYTES) as u64;
        match copy {
            Err(error) => {
                report.add(problem(ProblemKind::SuperblockCopy, format!("copy {number}: {error}")).at(offset))
            }
            Ok(copy) if copy.sequence != newest.sequence => {
                let detail = format!("copy {number} is of update {}, the newest of {}", copy.sequence, newest.sequence);
                report.add(problem(ProblemKind::SuperblockHalfUpdated, detail).at(offset));
            }
            Ok(copy) if *copy != newest => {
                let detail = format!("copy {number} differs from others of update {}", newest.sequence);
                report.add(problem(ProblemKind::SuperblockCopy, detail).at(offset));
            }
            Ok(_) => {}
        }
    }
    Some(newest)
}
