//! Data directories that somebody changed, against all who read them: the offline check, the inspection, a start of the
//! node, and reads of every file.
//!
//! An input is a list of changes to the files of a node that was closed, or killed. In one half of the inputs the node
//! was sealed under [`Clear`], which seals nothing, and all checksums are made right afterwards: what is then read is
//! what a defect of ours, and not a disk, could have written, and still it is refused rather than stumbled over.

use std::cell::OnceCell;
use std::sync::Arc;

use chaos::sim::{DiskOptions, SimDisk, Simulation};
use chunk::KeyRing;
use node::fsck::{self, CheckOptions};
use node::inspect::{self, Pairs, Question};
use node::{Node, NodeOptions, PutOptions, Target as Object};
use proto::SegmentId;
use proto::disk::{SEAL_TAG_BYTES, WRAPPED_KEY_BYTES};
use proto::limits::SECTOR_BYTES;
use proto::path::FsPath;
use proto::port::{AlignedBuf, Cipher, Disk, DiskFile, KeyError, KeyProvider, OpenError, WrappedKey};

use super::Parts;
use crate::{Memory, Target, repair};

/// Small, for each case writes and reads all of them.
const PIECE_BYTES: u64 = 1 << 20;
const WAL_RESERVE_BYTES: u64 = 64 << 10;
/// The files of the node, and their lengths: one inline, one chunk, several, a tree of manifest pages.
const FILES: [(&str, usize); 4] = [("/inline", 100), ("/d/one", 20_000), ("/d/many", 300_000), ("/twin", 20_000)];

pub(super) fn targets() -> Vec<Target> {
    vec![Target {
        name: "store",
        run,
        corpus: || {
            let change = |file: u8, offset: u32, what: u8, value: u32| {
                [&[file][..], &offset.to_le_bytes()[..3], &[what], &value.to_le_bytes()[..3]].concat()
            };
            let changes =
                [change(0, 40, 0, 3), change(1, 4096, 1, 7), change(2, 9000, 2, 0xff_ffff), change(3, 0, 4, 0)];
            (0..4u8).flat_map(|which| changes.iter().map(move |change| [&[which][..], change].concat())).collect()
        },
        // Buffers for whole segments, of the check and of the start.
        memory: Memory { fixed_bytes: 256 << 20, per_byte: 0 },
        input_bytes_max: 200,
        cases: 40,
    }]
}

/// Keys that seal nothing, and open everything.
struct Clear;

impl Cipher for Clear {
    fn seal(&self, _: &[u8; 12], _: &[u8], _: &mut [u8]) -> [u8; SEAL_TAG_BYTES] {
        [0; SEAL_TAG_BYTES]
    }

    fn open<'a>(&self, _: &[u8; 12], _: &[u8], sealed: &'a mut [u8]) -> Result<&'a mut [u8], OpenError> {
        let bytes = sealed.len().checked_sub(SEAL_TAG_BYTES).ok_or(OpenError)?;
        Ok(&mut sealed[..bytes])
    }
}

impl KeyProvider for Clear {
    fn wrap(&self, key: &[u8; 32], nonce: [u8; 12], _: &[u8]) -> WrappedKey {
        let mut wrapped = [0; WRAPPED_KEY_BYTES];
        wrapped[..32].copy_from_slice(key);
        WrappedKey { ring_key: 1, nonce, wrapped }
    }

    fn unwrap(&self, wrapped: &WrappedKey, _: &[u8]) -> Result<[u8; 32], KeyError> {
        Ok(*wrapped.wrapped.first_chunk().expect("a wrapped key is longer than a key"))
    }

    fn cipher(&self, _: &[u8; 32]) -> Arc<dyn Cipher> {
        Arc::new(Clear)
    }
}

/// How a data directory was made.
#[derive(Clone, Copy)]
struct Kind {
    sealed: bool,
    closed: bool,
}

impl Kind {
    fn keys(self) -> Arc<dyn KeyProvider> {
        if self.sealed { Arc::new(KeyRing::generate(1, [7; 32])) } else { Arc::new(Clear) }
    }

    fn options(self, disk: SimDisk) -> NodeOptions<SimDisk> {
        let options = NodeOptions::new(vec![disk], self.keys());
        NodeOptions {
            piece_bytes: PIECE_BYTES,
            wal_reserve_bytes: WAL_RESERVE_BYTES,
            manifest_page_entries: 4,
            checkpoint_after_chunks: 4,
            ..options
        }
    }
}

fn path(name: &str) -> FsPath {
    FsPath::parse(name).expect("a path of ours is legal")
}

fn content(bytes: usize) -> Vec<u8> {
    (0..bytes as u32).flat_map(|at| (at / 7).wrapping_mul(2_654_435_761).to_le_bytes()).take(bytes).collect()
}

/// Name, bytes up to the last that is not zero, and length.
type StoredFile = (String, Vec<u8>, u64);

/// The files of a node's data directory.
fn made(kind: Kind) -> Vec<StoredFile> {
    let mut simulation = Simulation::new(1);
    let disk = simulation.add_disk(DiskOptions::default());
    let start = disk.clone();
    let fill = async move {
        let (node, _) = Node::open(kind.options(start)).await.expect("a blank disk is formatted");
        for (name, bytes) in FILES {
            let mut writer = node.create(path(name), PutOptions::default()).expect("the options are legal");
            writer.write(&content(bytes)).await.expect("the disk is healthy");
            writer.finish().await.expect("the disk is healthy");
        }
        if kind.closed {
            node.close().await.expect("the disk is healthy");
        }
    };
    simulation.run(fill).unwrap_or_else(|stuck| panic!("{stuck}"));
    let read = async move {
        let mut files = Vec::new();
        for (name, bytes) in disk.files() {
            let file = disk.open(&name).await.expect("a listed file is there");
            let len = (bytes as usize).next_multiple_of(SECTOR_BYTES);
            let (read, buf) = file.read_at(AlignedBuf::zeroed(len), 0).await;
            let mut content = buf[..read.expect("the disk is healthy")].to_vec();
            content.truncate(content.iter().rposition(|byte| *byte != 0).map_or(0, |last| last + 1));
            files.push((name, content, bytes));
        }
        files
    };
    simulation.run(read).unwrap_or_else(|stuck| panic!("{stuck}"))
}

thread_local! {
    static MADE: [OnceCell<Vec<StoredFile>>; 4] = const { [const { OnceCell::new() }; 4] };
}

/// Makes one change of 8 bytes: file u8, offset u24, what u8, value u24.
fn change(files: &mut [StoredFile], parts: &mut Parts<'_>) {
    let (file, offset) = (parts.number(1) as usize, parts.number(3) as usize);
    let (what, value) = (parts.number(1), parts.number(3));
    let place = file % files.len();
    let (_, bytes, len) = &mut files[place];
    if bytes.is_empty() {
        return;
    }
    let at = offset % bytes.len();
    let end = (at + 4).min(bytes.len());
    match what % 7 {
        0 => bytes[at] ^= 1 << (value % 8),
        1 => bytes[at] = value as u8,
        2 => bytes[at..end].copy_from_slice(&(value as u32).to_le_bytes()[..end - at]),
        3 => bytes[at..end].copy_from_slice(&(value as u32 | 0xff00_0000).to_le_bytes()[..end - at]),
        4 => {
            let sector = at - at % SECTOR_BYTES;
            let end = (sector + SECTOR_BYTES).min(bytes.len());
            bytes[sector..end].fill(0);
        }
        5 => {
            // A sector of this file in place of another.
            let (from, to) = (value as usize % bytes.len(), at - at % SECTOR_BYTES);
            let from = from - from % SECTOR_BYTES;
            let count = SECTOR_BYTES.min(bytes.len() - from).min(bytes.len() - to);
            bytes.copy_within(from..from + count, to);
        }
        _ => {
            // Simulated disks have files of whole sectors.
            bytes.truncate(at - at % SECTOR_BYTES);
            *len = bytes.len() as u64;
        }
    }
}

fn run(input: &[u8]) {
    let mut parts = Parts(input);
    let which = parts.number(1) as usize % 4;
    let kind = Kind { sealed: which & 1 == 0, closed: which & 2 == 0 };
    let mut files = MADE.with(|made_before| made_before[which].get_or_init(|| made(kind)).clone());
    while !parts.0.is_empty() {
        change(&mut files, &mut parts);
    }
    if !kind.sealed {
        files.iter_mut().for_each(|(_, bytes, _)| repair::file(bytes));
    }
    let mut simulation = Simulation::new(1);
    let disk = simulation.add_disk(DiskOptions::default());
    simulation.run(look(kind, disk, files)).unwrap_or_else(|stuck| panic!("{stuck}"));
}

async fn look(kind: Kind, disk: SimDisk, files: Vec<StoredFile>) {
    let mut segments = Vec::new();
    for (name, bytes, len) in files {
        let file = disk.create(&name, 0).await.expect("the disk is empty");
        if !bytes.is_empty() {
            let mut buf = AlignedBuf::copy_of(&bytes);
            buf.pad_to_sector();
            file.write_at(buf, 0).await.0.expect("the disk is healthy");
        }
        file.set_len(len).await.expect("the disk is healthy");
        let number = name.strip_prefix("segments/").and_then(|name| u64::from_str_radix(name.get(..16)?, 16).ok());
        segments.extend(number.map(SegmentId));
    }
    fsck::check(vec![disk.clone()], kind.keys(), CheckOptions::Full).await;
    let mut questions = vec![
        Question::Superblock,
        Question::Segments,
        Question::Wal(None),
        Question::Snapshot { file: None, pairs: Pairs::Shown },
    ];
    questions.extend(segments.iter().map(|segment| Question::Segment(*segment)));
    questions.extend(segments.iter().map(|segment| Question::Row { segment: *segment, row: 1 }));
    let named = disk.files().into_iter().filter_map(|(name, _)| name.strip_prefix("meta/").map(str::to_owned));
    for name in named {
        questions.push(Question::Wal(Some(name.clone())));
        questions.push(Question::Snapshot { file: Some(name), pairs: Pairs::Shown });
    }
    for question in questions {
        let _ = inspect::answer(vec![disk.clone()], kind.keys(), &question).await;
    }
    let Ok((node, _)) = Node::open(kind.options(disk)).await else { return };
    for (name, bytes) in FILES {
        let Ok(mut reader) = node.open_file(Object::Path(path(name))).await else { continue };
        let mut read = Vec::new();
        while let Some(part) = reader.next().await {
            let Ok(part) = part else { break };
            read.extend_from_slice(&part);
        }
        // Under a real seal no byte of what is read can be another.
        let expected = content(bytes);
        assert!(!kind.sealed || expected.starts_with(&read), "{name} was read, and wrongly");
    }
    let _ = node.close().await;
}
