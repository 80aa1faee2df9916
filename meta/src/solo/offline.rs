//! Reading a store that nobody serves, for checks and inspection. Nothing is ever written, synced, cut or removed.
//!
//! The decisions are those of recovery, made by the same code. What differs is that damage does not end the reading:
//! the state stays as of the last command that could be read, so that the rest can be looked at all the same.

use proto::Lsn;
use proto::disk::{SnapshotHeader, WalHeader};
use proto::limits::SECTOR_BYTES;
use proto::port::{Disk, DiskFile};

use super::error::{Damage, OpenError};
use super::recovery::{self, Found, Listing, LogFile, Replay};
use super::snapshot::{self, FrameReader};
use super::wal::{self, FIRST_BATCH_OFFSET, header_checksum};
use super::window::Window;
use super::{DIRECTORY, SoloOptions};
use crate::command::Command;
use crate::keys::KeyRange;
use crate::pair::Pair;
use crate::txn::KvTxn;
use crate::view::View;

/// What a reserved sector reads as.
const ZEROS: [u8; SECTOR_BYTES] = [0; SECTOR_BYTES];

/// A metadata store, read but not served.
pub struct OfflineMeta<D: Disk> {
    options: SoloOptions<D>,
    listing: Listing,
    replay: Replay,
    logs: Vec<LogFile<D>>,
    remarks: Vec<Remark>,
}

/// What is there besides what is needed, and why that is no loss.
#[derive(Debug)]
pub enum Remark {
    /// A snapshot does not read well; an older one and the logs after it stand for it.
    SnapshotPassedOver {
        /// The file.
        file: String,
        /// Where in it, in bytes.
        offset: u64,
        /// What is wrong.
        what: Damage,
    },
    /// A log file that holds no command: its creation, or what follows it, did not get far.
    EmptyLog {
        /// The file.
        file: String,
    },
    /// A file that a newer snapshot replaced; the next start removes it.
    Replaced {
        /// The file.
        file: String,
    },
    /// A snapshot that was being written; the next start removes it.
    Unfinished {
        /// The file.
        file: String,
    },
    /// The last log ends in part of a batch: a write that a crash cut short, and that nobody was answered for.
    TornTail {
        /// The file.
        file: String,
        /// Where the part begins, in bytes.
        offset: u64,
    },
}

/// A file of the metadata.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum MetaFile {
    /// A log.
    Log {
        /// Its name on the device.
        name: String,
        /// Its place in the stream.
        sequence: u64,
    },
    /// A snapshot.
    Snapshot {
        /// Its name on the device.
        name: String,
        /// The last command that it contains.
        last_lsn: u64,
    },
}

impl<D: Disk> OfflineMeta<D> {
    /// Loads the newest snapshot that reads well, and opens the logs after it.
    ///
    /// # Errors
    /// [`OpenError`], as a start would report it: nothing can be read at all.
    pub async fn open(options: SoloOptions<D>) -> Result<OfflineMeta<D>, OpenError> {
        let listing = recovery::list(&options).await?;
        let (base, damaged) = recovery::newest_snapshot(&options, &listing).await?;
        let mut remarks = Vec::new();
        let durable = base.as_ref().map(|base| base.last_lsn);
        let first_sequence = base.as_ref().map_or(0, |base| base.wal_sequence);
        let mut replay = Replay::default();
        if let Some(base) = base {
            replay = Replay { state: base.state, last_lsn: base.last_lsn };
        }
        let replaced = |file| Remark::Replaced { file };
        let older = listing.snapshots.iter().filter(|lsn| durable.is_some_and(|durable| **lsn < durable.0));
        remarks.extend(older.map(|last_lsn| replaced(snapshot::file_name(*last_lsn))));
        let mut logs = Vec::new();
        for sequence in &listing.wals {
            let file = wal::file_name(options.stream, *sequence);
            if *sequence < first_sequence {
                remarks.push(replaced(file));
                continue;
            }
            match recovery::open_log(&options, *sequence).await? {
                Some(log) => logs.push(log),
                None => remarks.push(Remark::EmptyLog { file }),
            }
        }
        if listing.temporary {
            remarks.push(Remark::Unfinished { file: format!("{DIRECTORY}/{}", snapshot::TEMPORARY_NAME) });
        }
        // A damaged newest snapshot is a remark only if what stands for it is whole.
        if let Some(OpenError::Corrupt { file, offset, what }) = &damaged {
            let (file, offset, what) = (file.clone(), *offset, what.clone());
            remarks.push(Remark::SnapshotPassedOver { file, offset, what });
        }
        recovery::check_start(&logs, &replay, durable, damaged)?;
        Ok(OfflineMeta { options, listing, replay, logs, remarks })
    }

    /// Whether logs may hold commands that [`OfflineMeta::replay`] would apply.
    #[must_use]
    pub fn has_logs(&self) -> bool {
        !self.logs.is_empty()
    }

    /// Applies the commands of the logs; a second call does nothing.
    ///
    /// # Errors
    /// [`OpenError`], as a start would report it; the commands before the damage were applied.
    ///
    /// # Panics
    /// If the snapshot's pairs contradict each other: check them first.
    pub async fn replay(&mut self) -> Result<(), OpenError> {
        let logs = std::mem::take(&mut self.logs);
        for (index, log) in logs.iter().enumerate() {
            let end = logs.get(index + 1).map(|next| Lsn(next.header.first_lsn.get()));
            let end_offset = self.replay.log(&self.options.disk, log, end).await?;
            if end.is_none() {
                let device = |source| OpenError::Device { file: log.name.clone(), source };
                let tail = first_used_sector(&self.options.disk, &log.file, end_offset).await.map_err(device)?;
                self.remarks.extend(tail.map(|offset| Remark::TornTail { file: log.name.clone(), offset }));
            } else if end_offset == FIRST_BATCH_OFFSET {
                self.remarks.push(Remark::EmptyLog { file: log.name.clone() });
            }
        }
        if self.options.must_exist && !self.replay.state.has_root() {
            return Err(OpenError::Lost);
        }
        Ok(())
    }

    /// What was found besides what is needed.
    #[must_use]
    pub fn remarks(&self) -> &[Remark] {
        &self.remarks
    }

    /// The state as far as it was read.
    #[must_use]
    pub fn view(&self) -> View<'_> {
        View::new(&self.replay.state)
    }

    /// The last command that the state contains.
    #[must_use]
    pub fn last_lsn(&self) -> Lsn {
        self.replay.last_lsn
    }

    /// Hands every pair of the state to `look`, ascending by key.
    pub fn each_pair(&self, mut look: impl FnMut(Pair)) {
        let everything = KeyRange { from: Vec::new(), to: vec![u8::MAX] };
        for (key, value) in self.replay.state.range(&everything) {
            look(Pair::decode(&key, value).expect("invariant: pairs were checked when they were loaded or made"));
        }
    }

    /// Whether the state has a root directory: a store without one was never formatted.
    #[must_use]
    pub fn has_root(&self) -> bool {
        self.replay.state.has_root()
    }

    /// The files of the metadata: logs, then snapshots, each ascending.
    #[must_use]
    pub fn files(&self) -> Vec<MetaFile> {
        named(&self.options, &self.listing)
    }
}

/// The offset of the first sector from `offset` on that is not all zeros.
async fn first_used_sector<D: Disk>(disk: &D, file: &D::File, mut offset: u64) -> std::io::Result<Option<u64>> {
    let len = file.len().await?;
    let mut window = Window::new(disk.clone(), file.clone());
    while offset < len {
        let sector = window.read(offset, SECTOR_BYTES).await?;
        if sector != &ZEROS[..sector.len()] {
            return Ok(Some(offset));
        }
        offset += SECTOR_BYTES as u64;
    }
    Ok(None)
}

fn named<D>(options: &SoloOptions<D>, listing: &Listing) -> Vec<MetaFile> {
    let logs = listing
        .wals
        .iter()
        .map(|sequence| MetaFile::Log { name: wal::file_name(options.stream, *sequence), sequence: *sequence });
    let snapshots = listing
        .snapshots
        .iter()
        .map(|last_lsn| MetaFile::Snapshot { name: snapshot::file_name(*last_lsn), last_lsn: *last_lsn });
    logs.chain(snapshots).collect()
}

impl MetaFile {
    /// Lists the files of the metadata without reading any: logs, then snapshots, each ascending.
    ///
    /// # Errors
    /// [`OpenError::Foreign`] if there are logs of other streams, or the device's own.
    pub async fn list<D: Disk>(options: &SoloOptions<D>) -> Result<Vec<MetaFile>, OpenError> {
        Ok(named(options, &recovery::list(options).await?))
    }

    /// Its name on the device.
    #[must_use]
    pub fn name(&self) -> &str {
        match self {
            MetaFile::Log { name, .. } | MetaFile::Snapshot { name, .. } => name,
        }
    }
}

/// One batch of a log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LogBatch {
    /// Where it begins, in bytes.
    pub offset: u64,
    /// Bytes that it takes, padding included.
    pub bytes: u64,
    /// Number of its first command.
    pub first_lsn: Lsn,
    /// Its commands.
    pub commands: Vec<Command>,
}

/// How the batches of a log end.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum LogEnd {
    /// The file has no header that reads, and no batch: it was never finished.
    NoHeader,
    /// Zeros follow the last batch, to the end of the file.
    Zeros {
        /// Where they begin, in bytes.
        offset: u64,
    },
    /// Something follows that is no batch and is followed by none: in the last log a torn write, elsewhere what the
    /// next log declared void.
    Torn {
        /// Where it begins, in bytes.
        offset: u64,
    },
}

impl LogBatch {
    /// Reads log `sequence` from its header on and hands every batch to `take`. Returns its header, if it has one.
    ///
    /// # Errors
    /// [`OpenError`]; the batches before the damage were handed over.
    pub async fn read_all<D: Disk>(
        options: &SoloOptions<D>,
        sequence: u64,
        mut take: impl FnMut(LogBatch),
    ) -> Result<(Option<WalHeader>, LogEnd), OpenError> {
        let Some(log) = recovery::open_log(options, sequence).await? else { return Ok((None, LogEnd::NoHeader)) };
        let device = |source| OpenError::Device { file: log.name.clone(), source };
        let mut window = Window::new(options.disk.clone(), log.file.clone());
        let mut offset = FIRST_BATCH_OFFSET;
        let mut next_lsn = log.header.first_lsn.get();
        let mut previous_checksum = header_checksum(&log.header);
        loop {
            match log.read_batch(&mut window, offset, next_lsn, previous_checksum).await? {
                Found::Batch { checksum, commands, bytes } => {
                    let count = commands.len() as u64;
                    take(LogBatch { offset, bytes, first_lsn: Lsn(next_lsn), commands });
                    next_lsn += count;
                    previous_checksum = checksum;
                    offset += bytes;
                }
                Found::Unreadable(error) => {
                    let tag = log.header.tag;
                    let after = offset + SECTOR_BYTES as u64;
                    let later = recovery::find_batch(&mut window, after, |batch| batch.tag == tag).await;
                    if later.map_err(device)?.is_some() {
                        return Err(OpenError::Corrupt { file: log.name, offset, what: Damage::Format(error) });
                    }
                    let used = first_used_sector(&options.disk, &log.file, offset).await.map_err(device)?;
                    let end = used.map_or(LogEnd::Zeros { offset }, |_| LogEnd::Torn { offset });
                    return Ok((Some(log.header), end));
                }
            }
        }
    }
}

/// One frame of a snapshot.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SnapshotFramePairs {
    /// Where it begins, in bytes.
    pub offset: u64,
    /// Its pairs.
    pub pairs: Vec<Pair>,
}

impl SnapshotFramePairs {
    /// Reads the snapshot after command `last_lsn` and hands its header, then every frame, to `take`.
    ///
    /// # Errors
    /// [`OpenError`]; what comes before the damage was handed over.
    pub async fn read_all<D: Disk>(
        options: &SoloOptions<D>,
        last_lsn: u64,
        header: impl FnOnce(&SnapshotHeader),
        mut take: impl FnMut(SnapshotFramePairs),
    ) -> Result<(), OpenError> {
        let mut reader = FrameReader::open(options, snapshot::file_name(last_lsn), last_lsn).await?;
        header(&reader.header);
        while let Some(frame) = reader.next().await? {
            let mut pairs = Vec::with_capacity(frame.pairs as usize);
            let read = snapshot::each_pair(&frame.plain, frame.pairs, |key, value| {
                pairs.push(Pair::decode(key, value)?);
                Ok(())
            });
            read.map_err(|what| reader.corrupt(frame.offset, what))?;
            take(SnapshotFramePairs { offset: frame.offset, pairs });
        }
        Ok(())
    }
}
