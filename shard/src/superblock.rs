//! Who a device is, and which incarnation the node last started with.
//!
//! Layout and the reason why a crash is harmless: [`proto::disk::Superblock`].

use proto::disk::{FixedHeader, FormatError, SUPERBLOCK_COPIES, SUPERBLOCK_FILE_BYTES, Superblock};
use proto::limits::SECTOR_BYTES;
use proto::port::{AlignedBuf, Disk, DiskFile};
use zerocopy::IntoBytes;

/// Name of the superblock file.
pub const SUPERBLOCK_NAME: &str = "superblock";

/// Bytes of the copies that are written at once.
const HALF_BYTES: usize = SUPERBLOCK_COPIES / 2 * SECTOR_BYTES;

/// A superblock could not be read.
#[derive(Debug, thiserror::Error)]
pub enum SuperblockError {
    /// The device failed.
    #[error("the superblock cannot be read: {0}")]
    Device(#[from] std::io::Error),
    /// No copy is valid. If the directory is not a DFS data directory, choose another; else restore it from its peers.
    #[error("none of the four superblock copies is valid: {0}")]
    Damaged(FormatError),
}

/// Reads the newest valid copy; `None` on a device that was never formatted, or whose formatting did not finish.
///
/// Errors: [`SuperblockError`].
pub async fn load<D: Disk>(disk: &D) -> Result<Option<Superblock>, SuperblockError> {
    let file = match disk.open(SUPERBLOCK_NAME).await {
        Ok(file) => file,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error.into()),
    };
    let (read, mut buf) = file.read_at(AlignedBuf::zeroed(SUPERBLOCK_FILE_BYTES), 0).await;
    buf.set_len(read?);
    let copies: Vec<_> = buf.chunks(SECTOR_BYTES).map(Superblock::parse).collect();
    // A version that only newer software understands must not be mistaken for damage.
    let unknown = copies.iter().find_map(|copy| match copy {
        Err(error @ FormatError::UnknownVersion { .. }) => Some(error.clone()),
        _ => None,
    });
    if let Some(error) = unknown {
        return Err(SuperblockError::Damaged(error));
    }
    let error = copies.iter().find_map(|copy| copy.as_ref().err().cloned());
    match (copies.into_iter().flatten().max_by_key(|copy| copy.sequence.get()), error) {
        (Some(newest), _) => Ok(Some(newest)),
        (None, Some(error)) if buf.iter().any(|byte| *byte != 0) => Err(SuperblockError::Damaged(error)),
        _ => Ok(None),
    }
}

/// Writes all copies, the first half durably before the second: a crash leaves the old or the new one whole. Each half is
/// read back.
///
/// Errors: the device's own, `InvalidData` if what it wrote is not there; the device then has either superblock.
pub async fn store<D: Disk>(disk: &D, superblock: &mut Superblock) -> std::io::Result<()> {
    superblock.finish();
    let file = match disk.open(SUPERBLOCK_NAME).await {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
            disk.create(SUPERBLOCK_NAME, SUPERBLOCK_FILE_BYTES as u64).await?
        }
        other => other?,
    };
    for half in 0..2 {
        let offset = (half * HALF_BYTES) as u64;
        write_half(&file, superblock, offset).await?;
        if !holds(&file, superblock, offset).await? {
            // A disk may report a write that went elsewhere; what an interrupted formatting left would be believed.
            write_half(&file, superblock, offset).await?;
            if !holds(&file, superblock, offset).await? {
                return Err(std::io::Error::new(std::io::ErrorKind::InvalidData, "the superblock was not written"));
            }
        }
    }
    disk.sync_dir("").await
}

/// Writes the copies of one half.
async fn write_half<F: DiskFile>(file: &F, superblock: &Superblock, offset: u64) -> std::io::Result<()> {
    let mut buf = AlignedBuf::zeroed(HALF_BYTES);
    for copy in buf.chunks_mut(SECTOR_BYTES) {
        copy[..superblock.as_bytes().len()].copy_from_slice(superblock.as_bytes());
    }
    file.write_durable_at(buf, offset).await.0
}

/// Whether all copies of one half are there.
async fn holds<F: DiskFile>(file: &F, superblock: &Superblock, offset: u64) -> std::io::Result<bool> {
    let (read, mut buf) = file.read_at(AlignedBuf::zeroed(HALF_BYTES), offset).await;
    buf.set_len(read?);
    Ok(buf.len() == HALF_BYTES && buf.chunks(SECTOR_BYTES).all(|copy| copy.starts_with(superblock.as_bytes())))
}
