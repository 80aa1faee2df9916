//! Snapshots: all pairs of one moment in sealed frames. The layout is `proto::disk::SnapshotHeader`'s.
//!
//! A crash is harmless at any point: until the rename the file has a temporary name that recovery ignores; after it
//! the file is complete and durable, and the logs and snapshots that it replaces are removed only then.
//!
//! What a snapshot replaces is the only other copy, and a disk may report a write that went elsewhere or nowhere. So the
//! whole file is read back and verified before it gets its name.

use std::io;
use std::rc::Rc;
use std::sync::Arc;

use futures_channel::oneshot;
use proto::checksum::checksum;
use proto::disk::{
    CIPHER_AES_256_GCM, FixedHeader, HEADER_BYTES, NonceKind, SEAL_TAG_BYTES, SnapshotFrame, SnapshotHeader, nonce,
};
use proto::limits::{SECTOR_BYTES, SNAPSHOT_FRAME_BYTES_MAX};
use proto::planted::{self, Bug};
use proto::port::{Cipher, Disk, DiskFile, WrappedKey, runtime};
use proto::{Lsn, SegmentTag};
use zerocopy::IntoBytes;

use super::error::{Damage, OpenError, SnapshotError};
use super::wal;
use super::window::Window;
use super::{DIRECTORY, Inner, Snapshots, SoloOptions, commit};
use crate::keys::{self, KeyKind};
use crate::record::check_pair;
use crate::state::{Loading, SnapshotRun, State};

/// Name of a snapshot that is not complete.
pub(super) const TEMPORARY_NAME: &str = "snapshot.tmp";
/// Bytes of encoded pairs that a frame has room for.
const FRAME_PLAIN_BYTES_MAX: usize = SNAPSHOT_FRAME_BYTES_MAX - HEADER_BYTES - SEAL_TAG_BYTES;
/// Bytes in front of each pair: the lengths of key and value.
const PAIR_HEAD_BYTES: usize = 8;

/// The moment that a snapshot shows.
pub(super) struct Start {
    /// The last command that it contains.
    pub(super) last_lsn: Lsn,
    /// The log file that goes on after it.
    pub(super) wal_sequence: u64,
    /// Bytes of the state.
    pub(super) state_bytes: u64,
}

/// Name of the snapshot after command `last_lsn`.
pub(super) fn file_name(last_lsn: u64) -> String {
    format!("{DIRECTORY}/snapshot-{last_lsn:016x}")
}

/// The last command of a snapshot's name; `None` if it is none.
pub(super) fn parse_file_name(name: &str) -> Option<u64> {
    let last_lsn = u64::from_str_radix(name.strip_prefix("snapshot-")?, 16).ok()?;
    (file_name(last_lsn) == format!("{DIRECTORY}/{name}")).then_some(last_lsn)
}

/// Starts a snapshot unless one is running. The returned future tells how it ends.
pub(super) fn start<D: Disk>(inner: &Rc<Inner<D>>) -> oneshot::Receiver<Result<(), SnapshotError>> {
    let (tell, ended) = oneshot::channel();
    let must_start = {
        let mut core = inner.core.borrow_mut();
        core.snapshots.waiters.push(tell);
        !std::mem::replace(&mut core.snapshots.running, true)
    };
    if must_start {
        runtime::spawn(run(Rc::clone(inner)));
    }
    ended
}

/// Takes one snapshot and tells everybody who waits for it.
async fn run<D: Disk>(inner: Rc<Inner<D>>) {
    let result = take(&inner).await;
    let waiters = {
        let mut core = inner.core.borrow_mut();
        core.state.end_snapshot();
        let snapshots = &mut core.snapshots;
        snapshots.tell_progress();
        snapshots.running = false;
        snapshots.failures += u64::from(result.is_err());
        snapshots.covered_wal_bytes = 0;
        // After a failure the next one is tried when as much log has been written again.
        let pending = if result.is_ok() { 0 } else { snapshots.wal_bytes };
        snapshots.due_at_wal_bytes = pending + inner.options.snapshot_after_wal_bytes;
        std::mem::take(&mut snapshots.waiters)
    };
    for waiter in waiters {
        let _ = waiter.send(result.clone());
    }
}

impl Snapshots {
    /// Wakes the committer if it waits for the running snapshot.
    fn tell_progress(&mut self) {
        if let Some(waiting) = self.progress.take() {
            let _ = waiting.send(());
        }
    }
}

/// Takes one snapshot, then removes what it replaces.
async fn take<D: Disk>(inner: &Rc<Inner<D>>) -> Result<(), SnapshotError> {
    let (answer, started) = oneshot::channel();
    {
        let mut core = inner.core.borrow_mut();
        if matches!(core.stopped, Some(super::ProposeError::Poisoned { .. })) {
            return Err(SnapshotError::Stopped);
        }
        core.snapshots.start = Some(answer);
    }
    commit::wake(inner);
    let start = started.await.unwrap_or(Err(SnapshotError::Stopped))?;

    let temporary = format!("{DIRECTORY}/{TEMPORARY_NAME}");
    let name = file_name(start.last_lsn.0);
    let device = |error: io::Error| SnapshotError::Device { file: name.clone(), kind: error.kind() };
    let mut written = write(inner, &start, &temporary).await.map_err(device);
    if written.is_ok()
        && let Err(error) = verify(&inner.options, &temporary, start.last_lsn.0).await
    {
        let kind = match error {
            OpenError::Device { source, .. } => source.kind(),
            _ => io::ErrorKind::InvalidData,
        };
        written = Err(SnapshotError::Device { file: name.clone(), kind });
    }
    let bytes = match written {
        Ok(bytes) => bytes,
        Err(error) => {
            // The next attempt removes it as well, so failing to do so now is no second error.
            let _ = inner.options.disk.remove(&temporary).await;
            return Err(error);
        }
    };
    let disk = &inner.options.disk;
    disk.rename(&temporary, &name).await.map_err(device)?;
    if !planted::is(Bug::LogCutEarly) {
        disk.sync_dir(DIRECTORY).await.map_err(device)?;
    }

    let (wals, snapshots) = {
        let mut core = inner.core.borrow_mut();
        core.snapshots.durable = Some(start.last_lsn);
        core.snapshots.wal_bytes -= std::mem::take(&mut core.snapshots.covered_wal_bytes);
        core.files.snapshots.insert(start.last_lsn.0, bytes);
        let wals: Vec<u64> = core.files.wals.range(..start.wal_sequence).map(|(sequence, _)| *sequence).collect();
        let snapshots: Vec<u64> = core.files.snapshots.range(..start.last_lsn.0).map(|(lsn, _)| *lsn).collect();
        (wals, snapshots)
    };
    for sequence in wals {
        remove(disk, &wal::file_name(inner.options.stream, sequence)).await.map_err(device)?;
        inner.core.borrow_mut().files.wals.remove(&sequence);
    }
    for last_lsn in snapshots {
        remove(disk, &file_name(last_lsn)).await.map_err(device)?;
        inner.core.borrow_mut().files.snapshots.remove(&last_lsn);
    }
    Ok(())
}

/// Removes a file that may be gone already.
pub(super) async fn remove<D: Disk>(disk: &D, name: &str) -> io::Result<()> {
    match disk.remove(name).await {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        result => result,
    }
}

/// Writes all frames and the header to `name` and makes them durable. Returns the length.
async fn write<D: Disk>(inner: &Rc<Inner<D>>, start: &Start, name: &str) -> io::Result<u64> {
    let SoloOptions { disk, cluster, keys, .. } = &inner.options;
    remove(disk, name).await?;
    let key = runtime::random::<32>();
    let mut header = SnapshotHeader {
        cluster: *cluster,
        tag: SegmentTag(runtime::random()),
        last_lsn: start.last_lsn.0.into(),
        wal_sequence: start.wal_sequence.into(),
        cipher: CIPHER_AES_256_GCM.into(),
        created_unix_ns: runtime::unix_ns().into(),
        ..SnapshotHeader::blank()
    };
    let wrapped = keys.wrap(&key, runtime::random(), &header.wrap_context());
    header.ring_key = wrapped.ring_key.into();
    header.wrap_nonce = wrapped.nonce;
    header.wrapped_key = wrapped.wrapped;
    let cipher = keys.cipher(&key);

    let mut reserved = (start.state_bytes + 2 * SECTOR_BYTES as u64).next_multiple_of(SECTOR_BYTES as u64);
    let file = disk.create(name, reserved).await?;
    let mut offset = SECTOR_BYTES as u64;
    let (mut frames, mut pairs) = (0u64, 0u64);
    loop {
        let run = {
            let mut core = inner.core.borrow_mut();
            let run = core.state.next_run(FRAME_PLAIN_BYTES_MAX);
            core.snapshots.tell_progress();
            run
        };
        if run.pairs == 0 {
            break;
        }
        let mut buf = disk.buffer(HEADER_BYTES + run.body.len() + SEAL_TAG_BYTES);
        seal_frame(&mut buf, header.tag, frames, &run, &*cipher);
        buf.pad_to_sector();
        let end = offset + buf.len() as u64;
        if end > reserved {
            reserved = end + inner.options.wal_reserve_bytes;
            file.set_len(reserved).await?;
        }
        file.write_at(buf, offset).await.0?;
        offset = end;
        frames += 1;
        pairs += u64::from(run.pairs);
        runtime::yield_now().await;
    }
    header.frames = frames.into();
    header.pairs = pairs.into();
    header.finish();
    let mut buf = disk.buffer(HEADER_BYTES);
    buf.copy_from_slice(header.as_bytes());
    buf.pad_to_sector();
    file.write_at(buf, 0).await.0?;
    file.set_len(offset).await?;
    if !planted::is(Bug::UnsyncedSnapshot) {
        file.sync().await?;
    }
    Ok(offset)
}

/// Reads a snapshot back and checks that it is whole.
///
/// Errors: as [`load`].
async fn verify<D: Disk>(options: &SoloOptions<D>, name: &str, last_lsn: u64) -> Result<(), OpenError> {
    let mut reader = FrameReader::open(options, name.to_owned(), last_lsn).await?;
    let mut pairs = 0u64;
    while let Some(frame) = reader.next().await? {
        pairs += u64::from(frame.pairs);
        runtime::yield_now().await;
    }
    if pairs == reader.header.pairs.get() { Ok(()) } else { Err(reader.corrupt(0, Damage::Contents)) }
}

/// Lays out and seals a frame in `buf`, which has the right length.
fn seal_frame(buf: &mut [u8], tag: SegmentTag, index: u64, run: &SnapshotRun, cipher: &dyn Cipher) {
    let (head, body) = buf.split_at_mut(HEADER_BYTES);
    let mut header = SnapshotFrame {
        tag,
        index: index.into(),
        pairs: run.pairs.into(),
        body_bytes: (body.len() as u32).into(),
        ..SnapshotFrame::blank()
    };
    let (plain, seal) = body.split_at_mut(run.body.len());
    plain.copy_from_slice(&run.body);
    seal.copy_from_slice(&cipher.seal(&nonce(NonceKind::SnapshotFrame, index, 0), &header.associated(), plain));
    header.body_checksum = checksum(body).into();
    header.finish();
    head.copy_from_slice(header.as_bytes());
}

/// A snapshot that was read back.
pub(super) struct Loaded {
    pub(super) state: State,
    pub(super) last_lsn: Lsn,
    pub(super) wal_sequence: u64,
    /// Length of its file.
    pub(super) bytes: u64,
}

/// Reads and checks the snapshot after command `last_lsn`.
///
/// Errors: [`OpenError::Corrupt`] if an older snapshot should be tried; any other is final.
pub(super) async fn load<D: Disk>(options: &SoloOptions<D>, last_lsn: u64) -> Result<Loaded, OpenError> {
    let mut reader = FrameReader::open(options, file_name(last_lsn), last_lsn).await?;
    let mut loading = Loading::default();
    let mut pairs = 0u64;
    while let Some(frame) = reader.next().await? {
        append_pairs(&mut loading, &frame.plain, frame.pairs).map_err(|what| reader.corrupt(frame.offset, what))?;
        pairs += u64::from(frame.pairs);
    }
    if pairs != reader.header.pairs.get() {
        return Err(reader.corrupt(0, Damage::Contents));
    }
    let wal_sequence = reader.header.wal_sequence.get();
    Ok(Loaded { state: loading.finish(), last_lsn: Lsn(last_lsn), wal_sequence, bytes: reader.offset })
}

/// Reads a snapshot frame by frame.
pub(super) struct FrameReader<D: Disk> {
    pub(super) header: SnapshotHeader,
    name: String,
    window: Window<D>,
    cipher: Arc<dyn Cipher>,
    /// Place of the next frame.
    index: u64,
    /// Where the next frame starts; after the last one, the length of the file.
    offset: u64,
}

/// The pairs of one frame, decrypted.
pub(super) struct Frame {
    pub(super) offset: u64,
    pub(super) pairs: u32,
    pub(super) plain: Vec<u8>,
}

impl<D: Disk> FrameReader<D> {
    /// Opens the snapshot after command `last_lsn`, in the file `name`, and checks its header.
    ///
    /// Errors: as [`load`].
    pub(super) async fn open(
        options: &SoloOptions<D>,
        name: String,
        last_lsn: u64,
    ) -> Result<FrameReader<D>, OpenError> {
        let device = |source| OpenError::Device { file: name.clone(), source };
        let corrupt = |what| OpenError::Corrupt { file: name.clone(), offset: 0, what };
        let file = options.disk.open(&name).await.map_err(device)?;
        let mut window = Window::new(options.disk.clone(), file);
        let sector = window.read(0, SECTOR_BYTES).await.map_err(device)?;
        let header = SnapshotHeader::parse(sector).map_err(|error| corrupt(error.into()))?;
        if header.cluster != options.cluster {
            return Err(OpenError::Foreign { file: name.clone(), what: "cluster" });
        }
        if header.last_lsn.get() != last_lsn {
            return Err(corrupt(Damage::Name));
        }
        let (ring_key, nonce, wrapped) = (header.ring_key.get(), header.wrap_nonce, header.wrapped_key);
        let key = options.keys.unwrap(&WrappedKey { ring_key, nonce, wrapped }, &header.wrap_context());
        let cipher = options.keys.cipher(&key.map_err(|source| OpenError::Key { file: name.clone(), source })?);
        Ok(FrameReader { header, name, window, cipher, index: 0, offset: SECTOR_BYTES as u64 })
    }

    /// Returns the next frame; `None` after the last that the header counts.
    ///
    /// Errors: as [`load`].
    pub(super) async fn next(&mut self) -> Result<Option<Frame>, OpenError> {
        if self.index == self.header.frames.get() {
            return Ok(None);
        }
        let (name, offset, index) = (self.name.clone(), self.offset, self.index);
        let device = |source| OpenError::Device { file: name.clone(), source };
        let corrupt = |what| OpenError::Corrupt { file: name.clone(), offset, what };
        let head = self.window.read(offset, SECTOR_BYTES).await.map_err(device)?;
        let frame = SnapshotFrame::parse(head).map_err(|error| corrupt(error.into()))?;
        let body_bytes = frame.body_bytes.get() as usize;
        let fits = body_bytes <= FRAME_PLAIN_BYTES_MAX + SEAL_TAG_BYTES;
        if frame.tag != self.header.tag || frame.index.get() != index || !fits {
            return Err(corrupt(Damage::Contents));
        }
        let bytes = self.window.read(offset, HEADER_BYTES + body_bytes).await.map_err(device)?;
        if bytes.len() < HEADER_BYTES + body_bytes || checksum(&bytes[HEADER_BYTES..]) != frame.body_checksum.get() {
            return Err(corrupt(Damage::Contents));
        }
        let mut plain = bytes[HEADER_BYTES..].to_vec();
        let nonce = nonce(NonceKind::SnapshotFrame, index, 0);
        let opened = self.cipher.open(&nonce, &frame.associated(), &mut plain).map_err(|_| corrupt(Damage::Seal))?;
        let plain_bytes = opened.len();
        plain.truncate(plain_bytes);
        self.index += 1;
        self.offset += ((HEADER_BYTES + body_bytes) as u64).next_multiple_of(SECTOR_BYTES as u64);
        Ok(Some(Frame { offset, pairs: frame.pairs.get(), plain }))
    }

    /// Says that the file is damaged.
    pub(super) fn corrupt(&self, offset: u64, what: Damage) -> OpenError {
        OpenError::Corrupt { file: self.name.clone(), offset, what }
    }
}

/// Adds the pairs of a frame to `loading`; all must follow what is there.
fn append_pairs(loading: &mut Loading, plain: &[u8], pairs: u32) -> Result<(), Damage> {
    each_pair(plain, pairs, |key, value| {
        let forgotten = planted::is(Bug::ForgottenKeys) && keys::kind(key) == Some(KeyKind::Once);
        if forgotten || loading.append(key, value) { Ok(()) } else { Err(Damage::Contents) }
    })
}

/// Hands every pair of a frame to `take`, checked.
pub(super) fn each_pair(
    mut plain: &[u8],
    pairs: u32,
    mut take: impl FnMut(&[u8], &[u8]) -> Result<(), Damage>,
) -> Result<(), Damage> {
    for _ in 0..pairs {
        let (head, rest) = plain.split_at_checked(PAIR_HEAD_BYTES).ok_or(Damage::Contents)?;
        let word = |at: usize| u32::from_le_bytes(head[at..at + 4].try_into().expect("four bytes")) as usize;
        let (key, rest) = rest.split_at_checked(word(0)).ok_or(Damage::Contents)?;
        let (value, rest) = rest.split_at_checked(word(4)).ok_or(Damage::Contents)?;
        check_pair(key, value)?;
        take(key, value)?;
        plain = rest;
    }
    if plain.is_empty() { Ok(()) } else { Err(Damage::Contents) }
}
