//! Bringing the state back: the newest snapshot that reads well, then every command of the logs after it.
//!
//! Recovery believes little, and decides once:
//!
//! * An unreadable batch is the torn tail of a write that nobody was answered for only in the last file, and only if no
//!   header of a later batch is found at any sector after it. Anything else is damage, and the node does not start.
//! * A device may once answer with what was there before: a batch counts as unreadable only when it was read twice.
//! * What is accepted at the end of the last file may still be in a volatile cache: it is synced before anything is
//!   built on it.
//! * Then a new file is made durable, whose header names the next command. From that moment the file before it ends
//!   there, so a torn tail stays harmless in later starts, and bytes beyond it are never looked at again.
//! * If the disk is too full for it, what the old files reserve behind their ends is given back first. A start after a
//!   crash then finds nothing there instead of a torn tail or zeros, and decides the same.
//! * Only then are files removed that hold nothing needed. Making the new file durable made every name that was seen
//!   durable too, so a renamed snapshot is there to stay before what it replaces goes. A crash anywhere in between
//!   repeats the same decisions.
//!
//! A file without a readable header in which no batch is found is one whose creation did not get far; it is passed
//! over wherever it stands, because the numbers of the commands prove that nothing is missing.

use std::collections::VecDeque;
use std::sync::Arc;

use proto::Lsn;
use proto::checksum::checksum;
use proto::disk::{FixedHeader, FormatError, HEADER_BYTES, NonceKind, WalBatchHeader, WalHeader, nonce};
use proto::limits::{SECTOR_BYTES, VIRTUAL_SHARDS};
use proto::planted::{self, Bug};
use proto::port::{Cipher, Disk, DiskFile, WrappedKey};

use super::error::{Damage, OpenError};
use super::wal::{self, COMMAND_HEAD_BYTES, FIRST_BATCH_OFFSET, WalError, WalWriter, header_checksum};
use super::window::Window;
use super::{Core, DIRECTORY, Files, MetaLoad, Snapshots, SoloOptions, snapshot};
use crate::command::Command;
use crate::exec::exec;
use crate::state::State;

/// A log file whose header is whole.
pub(super) struct LogFile<D: Disk> {
    pub(super) name: String,
    sequence: u64,
    pub(super) header: WalHeader,
    cipher: Arc<dyn Cipher>,
    pub(super) file: D::File,
}

/// The files of the directory, by what they are.
#[derive(Default)]
pub(super) struct Listing {
    /// Sequences, ascending.
    pub(super) wals: Vec<u64>,
    /// Last commands, ascending.
    pub(super) snapshots: Vec<u64>,
    pub(super) temporary: bool,
}

/// What has been brought back so far.
#[derive(Default)]
pub(super) struct Replay {
    pub(super) state: State,
    pub(super) last_lsn: Lsn,
}

/// Brings back the state and opens a new log file.
///
/// Errors: [`OpenError`].
pub(super) async fn recover<D: Disk>(options: &SoloOptions<D>) -> Result<Core<D::File>, OpenError> {
    let disk = &options.disk;
    let in_directory = |source| OpenError::Device { file: DIRECTORY.to_owned(), source };
    let listing = list(options).await?;
    let (base, damaged_snapshot) = newest_snapshot(options, &listing).await?;
    let first_sequence = base.as_ref().map_or(0, |base| base.wal_sequence);
    let mut files = Files::default();
    let mut replay = Replay::default();
    let durable = base.as_ref().map(|base| base.last_lsn);
    // What is newer than the snapshot in use is damaged: the next snapshot removes it.
    for last_lsn in listing.snapshots.iter().filter(|lsn| durable.is_none_or(|durable| **lsn > durable.0)) {
        files.snapshots.insert(*last_lsn, 0);
    }
    if let Some(base) = base {
        files.snapshots.insert(base.last_lsn.0, base.bytes);
        replay = Replay { state: base.state, last_lsn: base.last_lsn };
    }

    let (needed, mut obsolete): (Vec<u64>, Vec<u64>) =
        listing.wals.iter().partition(|sequence| **sequence >= first_sequence);
    let mut logs = Vec::new();
    for sequence in needed {
        match open_log(options, sequence).await? {
            Some(log) => logs.push(log),
            None => obsolete.push(sequence),
        }
    }
    check_start(&logs, &replay, durable, damaged_snapshot)?;

    let mut wal_bytes = 0;
    let mut ends = Vec::new();
    for (index, log) in logs.iter().enumerate() {
        let end = logs.get(index + 1).map(|next| Lsn(next.header.first_lsn.get()));
        let end_offset = replay.log(disk, log, end).await?;
        ends.push((log, end_offset));
        if end_offset == FIRST_BATCH_OFFSET {
            obsolete.push(log.sequence);
        } else {
            // What was read may still be in a volatile cache, and will be built on.
            if !planted::is(Bug::UnsyncedLogTail) {
                log.file.sync().await.map_err(|source| OpenError::Device { file: log.name.clone(), source })?;
            }
            wal_bytes += end_offset - FIRST_BATCH_OFFSET;
        }
    }

    if options.must_exist && !replay.state.has_root() {
        return Err(OpenError::Lost);
    }
    let sequence = listing.wals.last().map_or(0, |last| *last) + 1;
    let next_lsn = Lsn(replay.last_lsn.0 + 1);
    let writer = match WalWriter::create(options, sequence, next_lsn, options.wal_reserve_bytes).await {
        Err(WalError::Full) => {
            for (log, end_offset) in &ends {
                trim(log, *end_offset).await?;
            }
            // The first attempt may have left a file.
            WalWriter::create_somehow(options, sequence + 1, next_lsn).await
        }
        created => created,
    };
    let writer = writer.map_err(|error| match error {
        WalError::Full => OpenError::NoSpace { need_bytes: options.wal_reserve_bytes },
        WalError::Failed { file, source } => OpenError::Device { file, source },
    })?;
    disk.sync_dir("").await.map_err(in_directory)?;

    for sequence in obsolete {
        let name = wal::file_name(options.stream, sequence);
        snapshot::remove(disk, &name).await.map_err(|source| OpenError::Device { file: name, source })?;
    }
    for last_lsn in listing.snapshots.iter().filter(|lsn| durable.is_some_and(|durable| **lsn < durable.0)) {
        let name = snapshot::file_name(*last_lsn);
        snapshot::remove(disk, &name).await.map_err(|source| OpenError::Device { file: name, source })?;
    }
    if listing.temporary {
        let name = format!("{DIRECTORY}/{}", snapshot::TEMPORARY_NAME);
        snapshot::remove(disk, &name).await.map_err(|source| OpenError::Device { file: name, source })?;
    }
    for (log, end_offset) in ends {
        if end_offset > FIRST_BATCH_OFFSET {
            trim(log, end_offset).await?;
            files.wals.insert(log.sequence, end_offset);
        }
    }
    files.wals.insert(writer.sequence(), writer.reserved());

    Ok(Core {
        state: replay.state,
        last_applied: replay.last_lsn,
        queue: VecDeque::new(),
        queue_bytes: 0,
        load_max: MetaLoad::default(),
        writer: Some(writer),
        committing: false,
        idle_waiters: Vec::new(),
        watchers: Vec::new(),
        stopped: None,
        snapshots: Snapshots {
            durable,
            wal_bytes,
            due_at_wal_bytes: options.snapshot_after_wal_bytes,
            ..Snapshots::default()
        },
        files,
    })
}

/// Gives back what a log reserves behind its end.
async fn trim<D: Disk>(log: &LogFile<D>, end_offset: u64) -> Result<(), OpenError> {
    let device = |source| OpenError::Device { file: log.name.clone(), source };
    if log.file.len().await.map_err(device)? > end_offset {
        log.file.set_len(end_offset).await.map_err(device)?;
    }
    Ok(())
}

/// Lists what is there.
pub(super) async fn list<D: Disk>(options: &SoloOptions<D>) -> Result<Listing, OpenError> {
    let names = options.disk.list(DIRECTORY).await;
    let names = names.map_err(|source| OpenError::Device { file: DIRECTORY.to_owned(), source })?;
    let mut listing = Listing::default();
    for name in names {
        if let Some((stream, sequence)) = wal::parse_file_name(&name) {
            if stream != options.stream {
                return Err(OpenError::Foreign { file: format!("{DIRECTORY}/{name}"), what: "stream" });
            }
            listing.wals.push(sequence);
        } else if let Some(last_lsn) = snapshot::parse_file_name(&name) {
            listing.snapshots.push(last_lsn);
        } else if name == snapshot::TEMPORARY_NAME {
            listing.temporary = true;
        }
    }
    listing.wals.sort_unstable();
    listing.snapshots.sort_unstable();
    Ok(listing)
}

/// Loads the newest snapshot that reads well. Also returns what was wrong with the newest, if it was not that.
///
/// An older one is as good if the logs after it are still there; whether they are is found out by their numbers.
pub(super) async fn newest_snapshot<D: Disk>(
    options: &SoloOptions<D>,
    listing: &Listing,
) -> Result<(Option<snapshot::Loaded>, Option<OpenError>), OpenError> {
    let mut damaged = None;
    let passed_over = usize::from(planted::is(Bug::StaleSnapshotBelieved) && listing.snapshots.len() > 1);
    for last_lsn in listing.snapshots.iter().rev().skip(passed_over) {
        match snapshot::load(options, *last_lsn).await {
            Ok(loaded) => return Ok((Some(loaded), damaged)),
            Err(OpenError::Corrupt {
                what: Damage::Format(error @ FormatError::UnknownVersion { .. }),
                file,
                offset,
            }) => {
                return Err(OpenError::Corrupt { file, offset, what: error.into() });
            }
            Err(error @ OpenError::Corrupt { .. }) => damaged = damaged.or(Some(error)),
            Err(error) => return Err(error),
        }
    }
    Ok((None, damaged))
}

/// Checks that the logs go on where the snapshot ends.
pub(super) fn check_start<D: Disk>(
    logs: &[LogFile<D>],
    replay: &Replay,
    durable: Option<Lsn>,
    damaged_snapshot: Option<OpenError>,
) -> Result<(), OpenError> {
    let expected = Lsn(replay.last_lsn.0 + 1);
    let error = match (logs.first(), durable) {
        (Some(first), _) if first.header.first_lsn.get() == expected.0 => return Ok(()),
        (Some(first), _) => {
            let found = Lsn(first.header.first_lsn.get());
            OpenError::Corrupt { file: first.name.clone(), offset: 0, what: Damage::Gap { expected, found } }
        }
        (None, Some(last_lsn)) => {
            OpenError::Corrupt { file: snapshot::file_name(last_lsn.0), offset: 0, what: Damage::LogMissing }
        }
        (None, None) if damaged_snapshot.is_none() => return Ok(()),
        (None, None) => OpenError::Corrupt { file: DIRECTORY.to_owned(), offset: 0, what: Damage::LogMissing },
    };
    // If the snapshot had been whole the logs might well have followed it: that is the file to bring back.
    Err(damaged_snapshot.unwrap_or(error))
}

/// Opens a log file and checks its header; `None` if its creation did not get far.
pub(super) async fn open_log<D: Disk>(
    options: &SoloOptions<D>,
    sequence: u64,
) -> Result<Option<LogFile<D>>, OpenError> {
    let name = wal::file_name(options.stream, sequence);
    let device = |source| OpenError::Device { file: name.clone(), source };
    let corrupt = |what| OpenError::Corrupt { file: name.clone(), offset: 0, what };
    let file = options.disk.open(&name).await.map_err(device)?;
    let mut window = Window::new(options.disk.clone(), file.clone());
    let header = match WalHeader::parse(window.read(0, SECTOR_BYTES).await.map_err(device)?) {
        Ok(header) => header,
        Err(error @ FormatError::UnknownVersion { .. }) => return Err(corrupt(error.into())),
        Err(error) => {
            let batch = find_batch(&mut window, FIRST_BATCH_OFFSET, |_| true).await.map_err(device)?;
            return if batch.is_some() { Err(corrupt(error.into())) } else { Ok(None) };
        }
    };
    if header.cluster != options.cluster {
        return Err(OpenError::Foreign { file: name, what: "cluster" });
    }
    if header.device != options.device {
        return Err(OpenError::Foreign { file: name, what: "device" });
    }
    if header.sequence.get() != sequence || header.stream.get() != options.stream {
        return Err(corrupt(Damage::Name));
    }
    let wrapped = WrappedKey { ring_key: header.ring_key.get(), nonce: header.wrap_nonce, wrapped: header.wrapped_key };
    let key = options.keys.unwrap(&wrapped, &header.wrap_context());
    let key = key.map_err(|source| OpenError::Key { file: name.clone(), source })?;
    Ok(Some(LogFile { name, sequence, header, cipher: options.keys.cipher(&key), file }))
}

/// Returns the offset of the first batch header at or after `offset` that `wanted` accepts.
pub(super) async fn find_batch<D: Disk>(
    window: &mut Window<D>,
    mut offset: u64,
    wanted: impl Fn(&WalBatchHeader) -> bool,
) -> std::io::Result<Option<u64>> {
    loop {
        let sector = window.read(offset, SECTOR_BYTES).await?;
        if sector.is_empty() {
            return Ok(None);
        }
        if WalBatchHeader::parse(sector).is_ok_and(|header| wanted(&header)) {
            return Ok(Some(offset));
        }
        offset += SECTOR_BYTES as u64;
    }
}

/// What is found where a batch should be.
pub(super) enum Found {
    /// A whole batch, decrypted: its header's checksum, its commands, and the bytes that it takes.
    Batch { checksum: u64, commands: Vec<Command>, bytes: u64 },
    /// Nothing, or part of a batch.
    Unreadable(FormatError),
}

impl Replay {
    /// Applies the commands of `log` before `end`, which the next file starts with; up to its tail if it is the last.
    /// Returns the offset after the last batch applied.
    pub(super) async fn log<D: Disk>(
        &mut self,
        disk: &D,
        log: &LogFile<D>,
        end: Option<Lsn>,
    ) -> Result<u64, OpenError> {
        let device = |source| OpenError::Device { file: log.name.clone(), source };
        let first_lsn = log.header.first_lsn.get();
        let mut next_lsn = self.last_lsn.0 + 1;
        if first_lsn != next_lsn {
            let what = Damage::Gap { expected: Lsn(next_lsn), found: Lsn(first_lsn) };
            return Err(OpenError::Corrupt { file: log.name.clone(), offset: 0, what });
        }
        let mut window = Window::new(disk.clone(), log.file.clone());
        let mut offset = FIRST_BATCH_OFFSET;
        let mut previous_checksum = header_checksum(&log.header);
        while end.is_none_or(|end| next_lsn < end.0) {
            let corrupt = |what| OpenError::Corrupt { file: log.name.clone(), offset, what };
            let mut found = log.read_batch(&mut window, offset, next_lsn, previous_checksum).await;
            if matches!(found, Ok(Found::Unreadable(_)) | Err(OpenError::Corrupt { .. })) {
                window.forget();
                found = log.read_batch(&mut window, offset, next_lsn, previous_checksum).await;
            }
            let (checksum, commands, bytes) = match found? {
                Found::Batch { checksum, commands, bytes } => (checksum, commands, bytes),
                Found::Unreadable(error) if end.is_some() => return Err(corrupt(error.into())),
                Found::Unreadable(error) => {
                    let later = |header: &WalBatchHeader| header.tag == log.header.tag;
                    let after = offset + SECTOR_BYTES as u64;
                    if find_batch(&mut window, after, later).await.map_err(device)?.is_some() {
                        return Err(corrupt(error.into()));
                    }
                    break;
                }
            };
            if end.is_some_and(|end| next_lsn + commands.len() as u64 > end.0) {
                return Err(corrupt(Damage::Chain));
            }
            for command in &commands {
                exec(command, &mut self.state);
            }
            next_lsn += commands.len() as u64;
            self.last_lsn = Lsn(next_lsn - 1);
            previous_checksum = checksum;
            offset += bytes;
        }
        Ok(offset)
    }
}

impl<D: Disk> LogFile<D> {
    /// Reads the batch at `offset`, which starts with command `next_lsn` and follows a header of `previous_checksum`.
    ///
    /// Errors: [`OpenError::Corrupt`] for what no torn write leaves behind.
    pub(super) async fn read_batch(
        &self,
        window: &mut Window<D>,
        offset: u64,
        next_lsn: u64,
        previous_checksum: u64,
    ) -> Result<Found, OpenError> {
        let device = |source| OpenError::Device { file: self.name.clone(), source };
        let corrupt = |what| OpenError::Corrupt { file: self.name.clone(), offset, what };
        let what = WalBatchHeader::WHAT;
        let header = match WalBatchHeader::parse(window.read(offset, SECTOR_BYTES).await.map_err(device)?) {
            Ok(header) if header.tag == self.header.tag => header,
            Ok(_) => return Ok(Found::Unreadable(FormatError::Field { what, field: "tag" })),
            Err(error @ FormatError::UnknownVersion { .. }) => return Err(corrupt(error.into())),
            Err(error) => return Ok(Found::Unreadable(error)),
        };
        if header.first_lsn.get() != next_lsn || header.previous_checksum.get() != previous_checksum {
            return Err(corrupt(Damage::Chain));
        }
        let need = HEADER_BYTES + header.body_bytes.get() as usize;
        let bytes = window.read(offset, need).await.map_err(device)?;
        if bytes.len() < need {
            return Ok(Found::Unreadable(FormatError::TooShort { what, have: bytes.len(), need }));
        }
        if checksum(&bytes[HEADER_BYTES..]) != header.body_checksum.get() && !planted::is(Bug::LogChecksumSkipped) {
            return Ok(Found::Unreadable(FormatError::Checksum { what }));
        }
        let mut body = bytes[HEADER_BYTES..].to_vec();
        let nonce = nonce(NonceKind::WalBatch, next_lsn, 0);
        let plain = self.cipher.open(&nonce, &header.associated(), &mut body);
        let plain = plain.map_err(|_| corrupt(Damage::Seal))?;
        let commands = parse_commands(plain, header.commands.get()).map_err(|error| corrupt(error.into()))?;
        let bytes = (need as u64).next_multiple_of(SECTOR_BYTES as u64);
        Ok(Found::Batch { checksum: header_checksum(&header), commands, bytes })
    }
}

/// Splits the plain body of a batch into its commands.
fn parse_commands(mut plain: &[u8], count: u32) -> Result<Vec<Command>, FormatError> {
    let what = WalBatchHeader::WHAT;
    let mut commands = Vec::new();
    for _ in 0..count {
        let short = |need| FormatError::TooShort { what, have: plain.len(), need };
        let (head, rest) = plain.split_at_checked(COMMAND_HEAD_BYTES).ok_or(short(COMMAND_HEAD_BYTES))?;
        let word = |at: usize| u32::from_le_bytes(head[at..at + 4].try_into().expect("four bytes")) as usize;
        if word(0) >= VIRTUAL_SHARDS {
            return Err(FormatError::Field { what, field: "virtual shard" });
        }
        let (command, rest) = rest.split_at_checked(word(4)).ok_or(short(COMMAND_HEAD_BYTES + word(4)))?;
        commands.push(Command::decode(command)?);
        plain = rest;
    }
    if plain.is_empty() { Ok(commands) } else { Err(FormatError::Field { what, field: "length" }) }
}
