//! Writing the log: files, and sealed batches of commands in them. The layout is `proto::disk::WalHeader`'s.

use std::io;
use std::sync::Arc;

use proto::disk::{FixedHeader, HEADER_BYTES, NonceKind, SEAL_TAG_BYTES, WalBatchHeader, WalHeader, nonce};
use proto::limits::{SECTOR_BYTES, WAL_BATCH_BYTES_MAX, WAL_FILE_BYTES_TARGET};
use proto::planted::{self, Bug};
use proto::port::{AlignedBuf, Cipher, Disk, DiskFile, runtime};
use proto::{Lsn, SegmentTag};
use zerocopy::IntoBytes;

use super::{DIRECTORY, Queued, SoloOptions};

/// Bytes in front of each command of a batch: virtual shard and length.
pub(super) const COMMAND_HEAD_BYTES: usize = 8;
/// Bytes that the commands of a batch may take, heads included.
pub(super) const BATCH_PLAIN_BYTES_MAX: usize = WAL_BATCH_BYTES_MAX - SEAL_TAG_BYTES;
/// Offset of a file's first batch.
pub(super) const FIRST_BATCH_OFFSET: u64 = SECTOR_BYTES as u64;
/// Bytes by which a file is reserved ahead: from what spares the disk work to what a nearly full one still has.
fn reserve_steps_bytes(most: u64) -> [u64; 3] {
    [most, 64 << 10, SECTOR_BYTES as u64]
}

/// Why the log could not be written.
pub(super) enum WalError {
    /// No space; nothing was written, and the log is as it was.
    Full,
    /// A write or sync failed; what the disk holds is unknown.
    Failed {
        /// The file.
        file: String,
        /// What the device said.
        source: io::Error,
    },
}

/// The end of the log: the one file that is written.
pub(super) struct WalWriter<F> {
    file: F,
    name: String,
    sequence: u64,
    tag: SegmentTag,
    cipher: Arc<dyn Cipher>,
    /// Where the next batch goes.
    offset: u64,
    /// Length of the file, reserved.
    reserved: u64,
    /// Bytes by which it is reserved ahead if the disk has them.
    reserve_bytes: u64,
    /// Checksum of the header before the next batch: batches form a chain.
    previous_checksum: u64,
}

/// Name of log file `sequence` of `stream`.
pub(super) fn file_name(stream: u32, sequence: u64) -> String {
    format!("{DIRECTORY}/wal-{stream:02}-{sequence:016x}")
}

/// Stream and sequence of a log file's name; `None` if it is none.
pub(super) fn parse_file_name(name: &str) -> Option<(u32, u64)> {
    let (stream, sequence) = name.strip_prefix("wal-")?.split_once('-')?;
    let (stream, sequence) = (stream.parse().ok()?, u64::from_str_radix(sequence, 16).ok()?);
    (file_name(stream, sequence) == format!("{DIRECTORY}/{name}")).then_some((stream, sequence))
}

/// The checksum that a finished header ends with.
pub(super) fn header_checksum(header: &impl FixedHeader) -> u64 {
    let bytes = header.as_bytes();
    u64::from_le_bytes(bytes[HEADER_BYTES - 8..].try_into().expect("eight bytes"))
}

impl<F: DiskFile> WalWriter<F> {
    /// Makes a new, durable log file with a tag and a key of its own, on a nearly full disk too: with as many bytes
    /// reserved as there are, at least for its header. Uses up one number after `sequence` for each attempt.
    ///
    /// Errors: as [`WalWriter::create`].
    pub(super) async fn create_somehow<D: Disk<File = F>>(
        options: &SoloOptions<D>,
        sequence: u64,
        first_lsn: Lsn,
    ) -> Result<WalWriter<F>, WalError> {
        for (sequence, reserve_bytes) in (sequence..).zip(reserve_steps_bytes(options.wal_reserve_bytes)) {
            match WalWriter::create(options, sequence, first_lsn, reserve_bytes).await {
                Err(WalError::Full) => {}
                created => return created,
            }
        }
        Err(WalError::Full)
    }

    /// Makes a new, durable log file with a tag and a key of its own.
    ///
    /// Errors: [`WalError::Full`] leaves at most a file without a header, which recovery passes over.
    pub(super) async fn create<D: Disk<File = F>>(
        options: &SoloOptions<D>,
        sequence: u64,
        first_lsn: Lsn,
        reserve_bytes: u64,
    ) -> Result<WalWriter<F>, WalError> {
        let name = file_name(options.stream, sequence);
        let failed = |source| WalError::Failed { file: name.clone(), source };
        let file = match options.disk.create(&name, reserve_bytes).await {
            Ok(file) => file,
            Err(error) if is_full(&error) => return Err(WalError::Full),
            Err(error) => return Err(failed(error)),
        };
        let key = runtime::random::<32>();
        let mut header = WalHeader {
            cluster: options.cluster,
            device: options.device,
            sequence: sequence.into(),
            stream: options.stream.into(),
            first_lsn: first_lsn.0.into(),
            tag: SegmentTag(runtime::random()),
            created_unix_ns: runtime::unix_ns().into(),
            cipher: proto::disk::CIPHER_AES_256_GCM.into(),
            ..WalHeader::blank()
        };
        let wrapped = options.keys.wrap(&key, runtime::random(), &header.wrap_context());
        header.ring_key = wrapped.ring_key.into();
        header.wrap_nonce = wrapped.nonce;
        header.wrapped_key = wrapped.wrapped;
        header.finish();
        let mut buf = options.disk.buffer(HEADER_BYTES);
        buf.copy_from_slice(header.as_bytes());
        buf.pad_to_sector();
        file.write_durable_at(buf, 0).await.0.map_err(failed)?;
        // Without its header no batch of the file could be read, and a disk may report a write that went elsewhere.
        let (read, back) = file.read_at(options.disk.buffer(SECTOR_BYTES), 0).await;
        if read.map_err(failed)? != SECTOR_BYTES || !back.starts_with(header.as_bytes()) {
            return Err(failed(io::ErrorKind::InvalidData.into()));
        }
        if !planted::is(Bug::UnsyncedLogName) {
            options.disk.sync_dir(DIRECTORY).await.map_err(failed)?;
        }
        Ok(WalWriter {
            file,
            sequence,
            tag: header.tag,
            cipher: options.keys.cipher(&key),
            offset: FIRST_BATCH_OFFSET,
            reserved: reserve_bytes,
            reserve_bytes: options.wal_reserve_bytes,
            previous_checksum: header_checksum(&header),
            name,
        })
    }

    /// Place of this file in its stream.
    pub(super) fn sequence(&self) -> u64 {
        self.sequence
    }

    /// Bytes that the file takes.
    pub(super) fn reserved(&self) -> u64 {
        self.reserved
    }

    /// Whether the file holds no batch.
    pub(super) fn is_empty(&self) -> bool {
        self.offset == FIRST_BATCH_OFFSET
    }

    /// Whether the next batch should go to a new file.
    pub(super) fn is_long(&self) -> bool {
        self.offset >= WAL_FILE_BYTES_TARGET
    }

    /// Appends `commands`, the first of which is `first_lsn`, and makes them durable. Returns the bytes written.
    ///
    /// After [`WalError::Failed`] the file must not be written again.
    pub(super) async fn append<D: Disk<File = F>>(
        &mut self,
        disk: &D,
        first_lsn: Lsn,
        commands: &[Queued],
    ) -> Result<u64, WalError> {
        // Room first: once a batch is sealed its nonce is spent, and the batch must go out.
        let bytes = batch_bytes(commands);
        let end = self.offset + bytes;
        // What is left behind the batch is room for the header of the file that the next start makes.
        let need = end + FIRST_BATCH_OFFSET;
        if need > self.reserved {
            self.reserve(need).await?;
        }
        let (buf, checksum) = self.seal(disk, first_lsn, commands);
        assert_eq!(buf.len() as u64, bytes, "invariant: a batch has the size that was reserved");
        let (written, _) = if planted::is(Bug::AnsweredBeforeDurable) {
            self.file.write_at(buf, self.offset).await
        } else {
            self.file.write_durable_at(buf, self.offset).await
        };
        written.map_err(|source| self.failed(source))?;
        self.offset = end;
        self.previous_checksum = checksum;
        Ok(bytes)
    }

    /// Makes the file at least `need` bytes long, longer if the disk has room.
    async fn reserve(&mut self, need: u64) -> Result<(), WalError> {
        for step in reserve_steps_bytes(self.reserve_bytes) {
            let reserved = need.next_multiple_of(step);
            match self.file.set_len(reserved).await {
                Ok(()) => {
                    self.reserved = reserved;
                    return Ok(());
                }
                Err(error) if is_full(&error) => {}
                Err(source) => return Err(self.failed(source)),
            }
        }
        Err(WalError::Full)
    }

    fn failed(&self, source: io::Error) -> WalError {
        WalError::Failed { file: self.name.clone(), source }
    }

    /// Lays out and seals a batch, padded to sectors. Returns it and its header's checksum.
    fn seal<D: Disk>(&self, disk: &D, first_lsn: Lsn, commands: &[Queued]) -> (AlignedBuf, u64) {
        let plain_bytes = plain_bytes(commands);
        assert!((1..=BATCH_PLAIN_BYTES_MAX).contains(&plain_bytes), "invariant: a batch has commands and fits");
        let body_bytes = plain_bytes + SEAL_TAG_BYTES;
        let mut header = WalBatchHeader {
            tag: self.tag,
            first_lsn: first_lsn.0.into(),
            commands: (commands.len() as u32).into(),
            body_bytes: (body_bytes as u32).into(),
            previous_checksum: self.previous_checksum.into(),
            ..WalBatchHeader::blank()
        };

        let mut buf = disk.buffer(HEADER_BYTES + body_bytes);
        let body = &mut buf[HEADER_BYTES..];
        let mut at = 0;
        for queued in commands {
            let shard = u32::from(queued.shard.0).to_le_bytes();
            let len = (queued.bytes.len() as u32).to_le_bytes();
            for part in [&shard[..], &len, &queued.bytes] {
                body[at..at + part.len()].copy_from_slice(part);
                at += part.len();
            }
        }
        let (plain, tag) = body.split_at_mut(plain_bytes);
        let nonce = nonce(NonceKind::WalBatch, first_lsn.0, 0);
        tag.copy_from_slice(&self.cipher.seal(&nonce, &header.associated(), plain));
        header.body_checksum = proto::checksum::checksum(body).into();
        header.finish();
        buf[..HEADER_BYTES].copy_from_slice(header.as_bytes());
        buf.pad_to_sector();
        (buf, header_checksum(&header))
    }
}

/// Whether an error says that the disk, or what this user may take of it, is full.
fn is_full(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded)
}

/// Bytes of the commands of a batch before sealing.
fn plain_bytes(commands: &[Queued]) -> usize {
    commands.iter().map(|queued| COMMAND_HEAD_BYTES + queued.bytes.len()).sum()
}

/// Bytes of a batch on the disk.
fn batch_bytes(commands: &[Queued]) -> u64 {
    (HEADER_BYTES + plain_bytes(commands) + SEAL_TAG_BYTES).next_multiple_of(SECTOR_BYTES) as u64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_names_of_ours_are_parsed() {
        assert_eq!(file_name(3, 0x1f), "meta/wal-03-000000000000001f");
        assert_eq!(parse_file_name("wal-03-000000000000001f"), Some((3, 0x1f)));
        for name in ["wal-3-000000000000001f", "wal-03-1f", "wal-03-000000000000001F", "snapshot.tmp", "wal-", ""] {
            assert_eq!(parse_file_name(name), None, "{name}");
        }
    }
}
