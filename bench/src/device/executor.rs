//! The executor's own files: what storing through monoio, without a ring of our own, would cost.

use std::fs::OpenOptions;
use std::io;
use std::os::unix::fs::OpenOptionsExt;

use monoio::buf::{IoBufMut, SliceMut};
use monoio::fs::File;
use proto::limits::SECTOR_BYTES;
use rustix::fs::OFlags;

use super::drive::{BlockFile, Job, Outcome, drive};

/// Runs `job` on monoio.
pub(super) fn run(job: &Job) -> anyhow::Result<Outcome> {
    net::run(None, async || {
        let direct = OFlags::DIRECT.bits().cast_signed();
        let file = OpenOptions::new().read(true).write(true).custom_flags(direct).open(&job.file)?;
        Ok(drive(&ExecutorFile(File::from_std(file)?), job).await?)
    })?
}

struct ExecutorFile(File);

impl BlockFile for ExecutorFile {
    /// A part of a larger allocation that begins at a sector.
    type Buffer = SliceMut<Vec<u8>>;

    fn buffer(&self, bytes: usize) -> SliceMut<Vec<u8>> {
        let memory = vec![0; bytes + SECTOR_BYTES];
        let begin = memory.as_ptr().align_offset(SECTOR_BYTES);
        memory.slice_mut(begin..begin + bytes)
    }

    async fn read(&self, buffer: SliceMut<Vec<u8>>, offset: u64) -> io::Result<SliceMut<Vec<u8>>> {
        let (read, buffer) = self.0.read_exact_at(buffer, offset).await;
        read.map(|_| buffer)
    }

    async fn write(&self, buffer: SliceMut<Vec<u8>>, offset: u64) -> io::Result<SliceMut<Vec<u8>>> {
        let (written, buffer) = self.0.write_all_at(buffer, offset).await;
        written.map(|_| buffer)
    }

    async fn write_durable(&self, buffer: SliceMut<Vec<u8>>, offset: u64) -> io::Result<SliceMut<Vec<u8>>> {
        let buffer = self.write(buffer, offset).await?;
        self.0.sync_data().await?;
        Ok(buffer)
    }
}
