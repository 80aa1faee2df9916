//! The glommio engine of `dfs-bench device`: takes a job as JSON in its only argument, prints the outcome as JSON.
//!
//! Started by `dfs-bench device --engine glommio`; of no use by itself.

#[path = "../../src/device/drive.rs"]
mod drive;

use std::io;

use anyhow::{Context, anyhow};
use glommio::io::{DmaFile, OpenOptions};
use glommio::{LocalExecutorBuilder, Placement};

use crate::drive::{BlockFile, Job, Outcome, drive};

fn main() -> anyhow::Result<()> {
    let argument = std::env::args().nth(1).context("start `dfs-bench device --engine glommio` instead")?;
    let job: Job = serde_json::from_str(&argument).context("dfs-bench is of another version")?;
    let executor = LocalExecutorBuilder::new(Placement::Unbound)
        .spawn(|| async move { run(&job).await })
        .map_err(|error| anyhow!("glommio does not start: {error}"))?;
    let outcome = executor.join().map_err(|error| anyhow!("glommio failed: {error}"))??;
    println!("{}", serde_json::to_string(&outcome)?);
    Ok(())
}

async fn run(job: &Job) -> anyhow::Result<Outcome> {
    let file = OpenOptions::new().read(true).write(true).dma_open(&job.file).await.map_err(io::Error::from)?;
    let file = GlommioFile(file);
    let outcome = drive(&file, job).await?;
    file.0.close().await.map_err(io::Error::from)?;
    Ok(outcome)
}

struct GlommioFile(DmaFile);

impl BlockFile for GlommioFile {
    /// glommio lends memory for each operation; what is kept is only how much.
    type Buffer = usize;

    fn buffer(&self, bytes: usize) -> usize {
        bytes
    }

    async fn read(&self, bytes: usize, offset: u64) -> io::Result<usize> {
        let read = self.0.read_at_aligned(offset, bytes).await?;
        if read.len() == bytes { Ok(bytes) } else { Err(io::ErrorKind::UnexpectedEof.into()) }
    }

    async fn write(&self, bytes: usize, offset: u64) -> io::Result<usize> {
        let written = self.0.write_at(self.0.alloc_dma_buffer(bytes), offset).await?;
        if written == bytes { Ok(bytes) } else { Err(io::ErrorKind::WriteZero.into()) }
    }

    async fn write_durable(&self, bytes: usize, offset: u64) -> io::Result<usize> {
        let bytes = self.write(bytes, offset).await?;
        self.0.fdatasync().await?;
        Ok(bytes)
    }
}
