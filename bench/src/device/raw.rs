//! The ring that DFS stores with: the `nvme` crate, through the same port as the server.

use std::io;
use std::path::Path;

use anyhow::Context;
use nvme::{BufferClass, Ring, RingDisk, RingFile, RingOptions};
use proto::port::{AlignedBuf, Disk, DiskFile};

use super::drive::{BlockFile, Job, Outcome, drive};

/// Memory that is registered with the kernel at most; more operations in flight use plain memory.
const REGISTERED_BYTES_MAX: usize = 64 << 20;

/// Runs `job` on the storage ring.
pub(super) fn run(job: &Job) -> anyhow::Result<Outcome> {
    let directory = job.file.parent().unwrap_or(Path::new("."));
    let name = job.file.file_name().and_then(|name| name.to_str()).context("the test file has no name")?;
    let count = (REGISTERED_BYTES_MAX / job.block_bytes).min(job.depth) as u16;
    let mut options =
        RingOptions { buffers: vec![BufferClass { bytes: job.block_bytes, count }], ..RingOptions::default() };
    options.operations_max = options.operations_max.max(job.depth);
    net::run(None, async || {
        let ring = Ring::new(options)?;
        let disk = RingDisk::open(&ring, directory)?;
        let file = disk.open(name).await?;
        Ok(drive(&RawFile { disk, file }, job).await?)
    })?
}

struct RawFile {
    disk: RingDisk,
    file: RingFile,
}

impl BlockFile for RawFile {
    type Buffer = AlignedBuf;

    fn buffer(&self, bytes: usize) -> AlignedBuf {
        self.disk.buffer(bytes)
    }

    async fn read(&self, buffer: AlignedBuf, offset: u64) -> io::Result<AlignedBuf> {
        let (read, buffer) = self.file.read_at(buffer, offset).await;
        if read? == buffer.len() { Ok(buffer) } else { Err(io::ErrorKind::UnexpectedEof.into()) }
    }

    async fn write(&self, buffer: AlignedBuf, offset: u64) -> io::Result<AlignedBuf> {
        let (written, buffer) = self.file.write_at(buffer, offset).await;
        written.map(|()| buffer)
    }

    async fn write_durable(&self, buffer: AlignedBuf, offset: u64) -> io::Result<AlignedBuf> {
        let (written, buffer) = self.file.write_durable_at(buffer, offset).await;
        written.map(|()| buffer)
    }
}
