//! The offline check, on nodes that are whole, cut off, and damaged in every structure: what it reports is exactly what
//! was done to them, and which files that costs.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use chaos::sim::{Crash, DiskOptions, Outcome, Random, SimDisk, Simulation};
use chunk::KeyRing;
use node::fsck::{self, CheckOptions, Problem, ProblemKind, Report, Severity};
use node::inspect::{self, Pairs, Question, Value};
use node::{Attributes, Node, NodeOptions, PutOptions, Target};
use proto::disk::{
    FixedHeader, HEADER_BYTES, NonceKind, SEAL_TAG_BYTES, SUPERBLOCK_COPIES, SnapshotFrame, SnapshotHeader, nonce,
};
use proto::limits::SECTOR_BYTES;
use proto::path::FsPath;
use proto::port::{AlignedBuf, Disk, DiskFile, KeyProvider, WrappedKey, runtime};
use proto::{DomainId, SegmentId};
use zerocopy::IntoBytes;

const PIECE_BYTES: u64 = 8 << 20;

fn keys() -> Arc<KeyRing> {
    Arc::new(KeyRing::generate(1, [7; 32]))
}

fn path(text: &str) -> FsPath {
    FsPath::parse(text).unwrap()
}

fn random_bytes(seed: u64, bytes: usize) -> Vec<u8> {
    let mut out = vec![0; bytes];
    Random::new(seed).fill(&mut out);
    out
}

async fn open(disk: &SimDisk) -> Result<Node<SimDisk>, node::OpenError> {
    let options = NodeOptions {
        piece_bytes: PIECE_BYTES,
        // Pages of a few entries, so that small files have trees.
        manifest_page_entries: 4,
        ..NodeOptions::new(vec![disk.clone()], keys())
    };
    Ok(Node::open(options).await?.0)
}

async fn put(node: &Node<SimDisk>, name: &str, bytes: &[u8]) {
    let mut writer = node.create(path(name), PutOptions::default()).unwrap();
    writer.write(bytes).await.unwrap();
    writer.finish().await.unwrap();
}

async fn reads(node: &Node<SimDisk>, name: &str) -> bool {
    let mut reader = node.open_file(Target::Path(path(name))).await.unwrap();
    while let Some(part) = reader.next().await {
        if part.is_err() {
            return false;
        }
    }
    true
}

/// The files that `fill` writes, whose bytes lie in chunks.
const CHUNKED: [&str; 4] = ["/docs/one", "/docs/many", "/tree", "/docs/twin"];

async fn fill(node: &Node<SimDisk>) {
    put(node, "/inline", b"short").await;
    put(node, "/docs/one", &random_bytes(1, 30_000)).await;
    put(node, "/docs/many", &random_bytes(2, 500_000)).await;
    put(node, "/tree", &random_bytes(3, 2_000_000)).await;
    put(node, "/docs/twin", &random_bytes(1, 30_000)).await;
    node.make_symlink(path("/link"), "docs/one".to_owned(), Attributes::default(), None).await.unwrap();
}

/// How a node was left.
#[derive(Clone, Copy)]
enum Left {
    /// Segments have footers, and the metadata is a snapshot.
    Closed,
    /// Segments are open, and the metadata is a log.
    Killed,
}

/// A node with the files of `fill`, at rest.
fn filled(seed: u64, left: Left) -> (Simulation, SimDisk) {
    let mut simulation = Simulation::new(seed);
    let disk = simulation.add_disk(DiskOptions::default());
    let start = disk.clone();
    let run = simulation.run(async move {
        let node = open(&start).await.unwrap();
        fill(&node).await;
        if matches!(left, Left::Closed) {
            node.close().await.unwrap();
        }
    });
    run.unwrap();
    (simulation, disk)
}

fn check_with(simulation: &mut Simulation, disk: &SimDisk, options: CheckOptions) -> Report {
    let disk = disk.clone();
    simulation.run(async move { fsck::check(vec![disk], keys(), options).await }).unwrap()
}

fn check(simulation: &mut Simulation, disk: &SimDisk) -> Report {
    check_with(simulation, disk, CheckOptions::Full)
}

fn show(simulation: &mut Simulation, disk: &SimDisk, question: Question) -> Value {
    let disk = disk.clone();
    simulation.run(async move { inspect::answer(vec![disk], keys(), &question).await }).unwrap().unwrap()
}

/// The field `name` of a shown structure.
fn field<'a>(value: &'a Value, name: &str) -> &'a Value {
    let Value::Fields(fields) = value else { panic!("{value:?} has no fields") };
    &fields.iter().find(|(found, _)| *found == name).unwrap_or_else(|| panic!("no {name} in {value:?}")).1
}

fn number(value: &Value, name: &str) -> u64 {
    let Value::Number(number) = field(value, name) else { panic!("{name} is no number in {value:?}") };
    *number
}

fn items<'a>(value: &'a Value, name: &str) -> &'a [Value] {
    let Value::List(items) = field(value, name) else { panic!("{name} is no list in {value:?}") };
    items
}

fn codes(report: &Report) -> BTreeMap<&'static str, u64> {
    report.counts.iter().map(|(kind, count)| (kind.code(), *count)).collect()
}

fn only(report: &Report, kind: ProblemKind) -> Vec<&Problem> {
    report.problems.iter().filter(|problem| problem.kind == kind).collect()
}

/// The paths of files that are said to have lost bytes.
fn lost(report: &Report) -> BTreeSet<&str> {
    only(report, ProblemKind::DataLost).iter().map(|problem| problem.path.as_deref().unwrap()).collect()
}

fn segment_files(disk: &SimDisk) -> Vec<(String, u64)> {
    disk.files().into_iter().filter(|(name, _)| name.starts_with("segments/")).collect()
}

fn file_with_prefix(disk: &SimDisk, prefix: &str) -> String {
    disk.files().into_iter().map(|(name, _)| name).rfind(|name| name.starts_with(prefix)).unwrap()
}

/// A block of one chunk, and where it lies.
struct Block {
    name: String,
    offset: u64,
    bytes: u64,
    id: String,
    plain_bytes: u64,
    domain: u64,
}

/// The blocks of all rows.
fn blocks(simulation: &mut Simulation, disk: &SimDisk) -> Vec<Block> {
    let mut found = Vec::new();
    for (name, _) in segment_files(disk) {
        let segment = segment_of(&name);
        let shown = show(simulation, disk, Question::Segment(segment));
        for piece in pieces(&shown) {
            let row = show(simulation, disk, Question::Row { segment, row: number(&piece, "row") });
            for block in items(&row, "table") {
                let chunk = &items(block, "chunks")[0];
                let Value::Text(id) = field(chunk, "id").clone() else { panic!("an id is text") };
                let (offset, bytes) = (number(block, "offset"), number(block, "bytes"));
                found.push(Block {
                    name: name.clone(),
                    offset,
                    bytes,
                    id,
                    plain_bytes: number(chunk, "plain_bytes"),
                    domain: number(block, "domain"),
                });
            }
        }
    }
    found
}

fn segment_of(name: &str) -> SegmentId {
    SegmentId(u64::from_str_radix(&name["segments/".len()..][..16], 16).unwrap())
}

/// The pieces of a segment of one column.
fn pieces(segment: &Value) -> Vec<Value> {
    let contents = items(&items(segment, "columns")[0], "contents").iter();
    contents.filter(|extent| *field(extent, "what") == Value::Text("piece".to_owned())).cloned().collect()
}

/// Where the node cuts these bytes.
fn cuts(mut bytes: &[u8]) -> Vec<std::ops::Range<u64>> {
    let chunker = chunk::chunker(chunk::ChunkerId(1)).unwrap();
    let mut cuts = Vec::new();
    let mut start = 0;
    while !bytes.is_empty() {
        let len = chunker.cut(bytes, chunk::InputEnd::Last).unwrap();
        cuts.push(start..start + len as u64);
        start += len as u64;
        bytes = &bytes[len..];
    }
    cuts
}

/// Everything that lies on the disk.
async fn content(disk: &SimDisk) -> BTreeMap<String, Vec<u8>> {
    let mut files = BTreeMap::new();
    for (name, bytes) in disk.files() {
        let file = disk.open(&name).await.unwrap();
        let (read, mut buf) = file.read_at(AlignedBuf::zeroed(bytes.next_multiple_of(4096) as usize), 0).await;
        buf.set_len(read.unwrap());
        files.insert(name, buf.to_vec());
    }
    files
}

#[test]
fn a_whole_node_is_clean_and_is_not_changed() {
    for left in [Left::Closed, Left::Killed] {
        let (mut simulation, disk) = filled(1, left);
        let before = simulation.run({
            let disk = disk.clone();
            async move { content(&disk).await }
        });
        for options in [CheckOptions::Full, CheckOptions::Quick] {
            let report = check_with(&mut simulation, &disk, options);
            assert_eq!(codes(&report), BTreeMap::new(), "{:?}", report.problems);
            let totals = report.totals;
            assert_eq!((totals.files, totals.directories, totals.symlinks, totals.versions), (5, 2, 1, 5));
            assert_eq!(totals.logical_bytes, 5 + 30_000 + 500_000 + 2_000_000 + 30_000);
            assert!(totals.rows > 0 && totals.chunks > 30 && totals.references > totals.chunks - 10);
        }
        for question in [
            Question::Superblock,
            Question::Segments,
            Question::Wal(None),
            Question::Snapshot { file: None, pairs: Pairs::Shown },
        ] {
            assert!(!show(&mut simulation, &disk, question.clone()).tells_of_damage(), "{question:?}");
        }
        let after = simulation.run({
            let disk = disk.clone();
            async move { content(&disk).await }
        });
        assert!(before.unwrap() == after.unwrap(), "a check changed the disk");
    }
}

#[test]
fn a_node_that_was_cut_off_anywhere_is_clean() {
    let mut remarks = BTreeSet::new();
    for seed in 0..90 {
        let mut simulation = Simulation::new(seed);
        let mut random = Random::new(seed);
        let disk = simulation.add_disk(DiskOptions::default());
        let first = disk.clone();
        simulation.run(async move { drop(open(&first).await.unwrap()) }).unwrap();
        for start in 0..3 {
            let crash = if random.chance(1, 2) { Crash::Process } else { Crash::Power };
            let again = disk.clone();
            // Early in the start, or while files are written.
            let steps = if random.chance(1, 2) { random.between(5, 60) } else { random.between(10, 400) };
            let run = simulation.run_until(steps, crash, async move {
                let node = open(&again).await.unwrap();
                for round in 0..50 {
                    put(&node, &format!("/start{start}/file{round}"), &random_bytes(seed * 100 + round, 100_000)).await;
                    put(&node, "/changing", &random_bytes(round, 70_000)).await;
                }
            });
            assert_eq!(run.unwrap(), Outcome::Crashed);
            let report = check(&mut simulation, &disk);
            let harmless = report.worst().is_none_or(|worst| worst == Severity::Info);
            assert!(harmless, "seed {seed} start {start}: {:?}", report.problems);
            remarks.extend(report.counts.keys().map(|kind| kind.code()));
        }
    }
    for code in ["row-unfinished", "metadata-leftover", "file-leftover"] {
        assert!(remarks.contains(code), "no crash left {code}: {remarks:?}");
    }
}

#[test]
fn a_damaged_superblock_copy_is_named_and_four_are_fatal() {
    let (mut simulation, disk) = filled(2, Left::Closed);
    for copy in 0..SUPERBLOCK_COPIES as u64 {
        assert!(disk.corrupt("superblock", copy * 4096 + 24, 3));
        let report = check(&mut simulation, &disk);
        let offsets: Vec<Option<u64>> =
            only(&report, ProblemKind::SuperblockCopy).iter().map(|problem| problem.offset).collect();
        if copy < 3 {
            assert_eq!(offsets, (0..=copy).map(|copy| Some(copy * 4096)).collect::<Vec<_>>());
            assert_eq!(report.worst(), Some(Severity::Warning));
        } else {
            assert_eq!(codes(&report), BTreeMap::from([("superblock-lost", 1)]));
            assert_eq!(report.worst(), Some(Severity::Damage));
        }
        assert!(show(&mut simulation, &disk, Question::Superblock).tells_of_damage());
    }
}

#[test]
fn a_hole_in_the_log_is_damage_and_a_torn_tail_is_not() {
    let (mut simulation, disk) = filled(3, Left::Killed);
    let name = file_with_prefix(&disk, "meta/wal-");
    let shown = show(&mut simulation, &disk, Question::Wal(Some(name.clone())));
    let batches = items(&items(&shown, "logs")[0], "contents");
    let offsets: Vec<u64> = batches.iter().map(|batch| number(batch, "offset")).collect();
    let (first, middle, last) = (offsets[0], offsets[offsets.len() / 2], *offsets.last().unwrap());
    assert!(first < middle && middle < last);

    assert!(disk.corrupt(&name, last + 600, 0));
    let report = check(&mut simulation, &disk);
    let torn = only(&report, ProblemKind::TornTail);
    assert_eq!((torn.len(), torn[0].file.as_ref(), torn[0].offset), (1, Some(&name), Some(last)));
    assert_eq!(report.worst(), Some(Severity::Info), "{:?}", report.problems);

    assert!(disk.corrupt(&name, middle + 600, 0));
    let report = check(&mut simulation, &disk);
    let holes = only(&report, ProblemKind::MetadataDamaged);
    assert_eq!((holes.len(), holes[0].file.as_ref(), holes[0].offset), (1, Some(&name), Some(middle)));
    assert!(show(&mut simulation, &disk, Question::Wal(None)).tells_of_damage());

    assert!(disk.corrupt(&name, 40, 0));
    let report = check(&mut simulation, &disk);
    let headers = only(&report, ProblemKind::MetadataDamaged);
    assert_eq!((headers.len(), headers[0].file.as_ref(), headers[0].offset), (1, Some(&name), Some(0)));
}

#[test]
fn a_damaged_or_missing_snapshot_is_named() {
    for offset in [30, 4096 + 30, 4096 + 700] {
        let (mut simulation, disk) = filled(4, Left::Closed);
        let name = file_with_prefix(&disk, "meta/snapshot-");
        assert!(disk.corrupt(&name, offset, 5));
        let report = check(&mut simulation, &disk);
        let found = only(&report, ProblemKind::MetadataDamaged);
        let place = Some(offset / 4096 * 4096);
        assert_eq!((found.len(), found[0].file.as_ref(), found[0].offset), (1, Some(&name), place));
        assert!(
            show(&mut simulation, &disk, Question::Snapshot { file: None, pairs: Pairs::Counted }).tells_of_damage()
        );
    }
    let (mut simulation, disk) = filled(4, Left::Closed);
    let name = file_with_prefix(&disk, "meta/snapshot-");
    let gone = disk.clone();
    simulation.run(async move { gone.remove(&name).await.unwrap() }).unwrap();
    let report = check(&mut simulation, &disk);
    assert_eq!(only(&report, ProblemKind::MetadataDamaged).len(), 1, "{:?}", report.problems);
}

#[test]
fn a_damaged_block_costs_exactly_the_bytes_of_its_chunks() {
    for left in [Left::Closed, Left::Killed] {
        let (mut simulation, disk) = filled(5, left);
        let blocks = blocks(&mut simulation, &disk);
        assert!(blocks.len() > 30);
        let cuts = cuts(&random_bytes(2, 500_000));
        let mut exact = 0;
        for Block { name, offset, bytes, id, plain_bytes, .. } in &blocks {
            // In the header, in the sealed entry, in the payload.
            for at in [offset + 9, offset + 40, offset + bytes - 3] {
                assert!(disk.corrupt(name, at, 1));
                let report = check(&mut simulation, &disk);
                let kind =
                    |problem: &&Problem| matches!(problem.kind, ProblemKind::BlockDamaged | ProblemKind::RowUnfinished);
                let damaged: Vec<&Problem> =
                    report.problems.iter().filter(kind).filter(|problem| problem.offset == Some(*offset)).collect();
                assert_eq!(damaged.len(), 1, "{name} at {at}: {:?}", report.problems);
                assert!(damaged[0].file.as_ref() == Some(name) && damaged[0].detail.contains(id), "{damaged:?}");
                let losses = only(&report, ProblemKind::DataLost);
                assert!(!losses.is_empty() && losses.iter().all(|loss| loss.version == Some(1)), "{losses:?}");
                for loss in losses {
                    let range = loss.range.clone().unwrap();
                    let about = loss.detail.contains(id) && loss.detail.contains(&format!("offset {offset}:"));
                    assert!(about, "{} is not about chunk {id}", loss.detail);
                    if loss.path.as_deref() == Some("/docs/many") && !loss.detail.contains("page") {
                        assert!(cuts.contains(&range) && range.end - range.start == *plain_bytes, "{loss:?}");
                        exact += 1;
                    }
                }
                // And back.
                assert!(disk.corrupt(name, at, 1));
            }
        }
        assert_eq!(exact, cuts.len() * 3, "every chunk of the file was lost once for each damage");
        assert_eq!(codes(&check(&mut simulation, &disk)), BTreeMap::new());
    }
}

#[test]
fn what_is_called_lost_is_what_the_node_cannot_read() {
    let mut costly = 0;
    for seed in 0..30 {
        let left = if seed % 2 == 0 { Left::Closed } else { Left::Killed };
        let (mut simulation, disk) = filled(seed, left);
        let mut random = Random::new(seed);
        let files = segment_files(&disk);
        for _ in 0..random.between(1, 4) {
            let (name, len) = random.pick(&files);
            // Damage of the first sector keeps the node from starting.
            disk.corrupt(name, random.between(4096, len - 1), random.below(8) as u8);
        }
        let report = check(&mut simulation, &disk);
        let start = disk.clone();
        let unreadable = simulation.run(async move {
            let node = open(&start).await.unwrap();
            let mut unreadable = BTreeSet::new();
            for name in CHUNKED {
                if !reads(&node, name).await {
                    unreadable.insert(name);
                }
            }
            unreadable
        });
        assert_eq!(lost(&report), unreadable.unwrap(), "seed {seed}: {:#?}", report.problems);
        costly += usize::from(!lost(&report).is_empty());
    }
    assert!((4..30).contains(&costly), "{costly} of 30 seeds cost a file");
}

#[test]
fn a_segment_without_its_header_or_file_costs_all_files_in_it() {
    for left in [Left::Closed, Left::Killed] {
        for harm in ["header", "file", "length"] {
            let (mut simulation, disk) = filled(6, left);
            let blocks = blocks(&mut simulation, &disk);
            let (name, len) = segment_files(&disk).remove(0);
            let harmed = (disk.clone(), name.clone());
            match harm {
                "header" => assert!(disk.corrupt(&name, 130, 0)),
                "file" => simulation.run(async move { harmed.0.remove(&harmed.1).await.unwrap() }).unwrap(),
                _ => {
                    let run = simulation.run(async move {
                        let file = harmed.0.open(&harmed.1).await.unwrap();
                        file.set_len(8192).await.unwrap();
                        file.sync().await.unwrap();
                    });
                    run.unwrap();
                }
            }
            let report = check(&mut simulation, &disk);
            assert_eq!(report.worst(), Some(Severity::Damage));
            let expected = if harm == "length" { ProblemKind::DataLost } else { ProblemKind::SegmentUnreadable };
            assert!(!only(&report, expected).is_empty(), "{harm}: {:?}", report.problems);
            if harm != "length" {
                let found = only(&report, ProblemKind::SegmentUnreadable);
                assert_eq!((found.len(), found[0].file.as_ref()), (1, Some(&name)));
            }
            // Every lost chunk lies in that file, and every chunk in it is lost to some file.
            let losses = only(&report, ProblemKind::DataLost);
            let place = name["segments/".len()..].to_owned();
            assert!(losses.iter().all(|loss| loss.detail.contains(&place)), "{harm}: {losses:#?}");
            if harm == "file" {
                let whole = |path: &str| !lost(&report).contains(path);
                let elsewhere = blocks.iter().filter(|block| block.name != name).count();
                assert!(elsewhere == 0 || CHUNKED.iter().any(|path| whole(path)) || elsewhere < blocks.len());
            }
            assert!(len > 8192);
        }
    }
}

#[test]
fn a_damaged_footer_is_a_warning_and_costs_nothing() {
    let (mut simulation, disk) = filled(7, Left::Closed);
    for (name, _) in segment_files(&disk) {
        let shown = show(&mut simulation, &disk, Question::Segment(segment_of(&name)));
        let offset = number(field(&items(&shown, "columns")[0], "footer"), "offset");
        for at in [offset + 20, offset + 600] {
            assert!(disk.corrupt(&name, at, 2));
            let report = check(&mut simulation, &disk);
            assert_eq!(codes(&report), BTreeMap::from([("footer-damaged", 1)]), "{:?}", report.problems);
            let found = only(&report, ProblemKind::FooterDamaged);
            assert_eq!((found[0].file.as_ref(), found[0].offset), (Some(&name), Some(offset)));
            assert!(show(&mut simulation, &disk, Question::Segment(segment_of(&name))).tells_of_damage());
            assert!(disk.corrupt(&name, at, 2));
        }
    }
}

#[test]
fn a_row_whose_head_is_damaged_costs_no_file() {
    for left in [Left::Closed, Left::Killed] {
        let (mut simulation, disk) = filled(8, left);
        for (name, _) in segment_files(&disk) {
            let pieces = pieces(&show(&mut simulation, &disk, Question::Segment(segment_of(&name))));
            for (place, piece) in pieces.iter().enumerate() {
                let (offset, row) = (number(piece, "offset"), number(piece, "row"));
                // The header, the checksums, the table.
                for at in [offset + 60, offset + 513, offset + 560] {
                    assert!(disk.corrupt(&name, at, 4));
                    let report = check(&mut simulation, &disk);
                    let last = place + 1 == pieces.len();
                    let torn = matches!(left, Left::Killed) && last;
                    let kind = if torn { ProblemKind::RowUnfinished } else { ProblemKind::RowDamaged };
                    let found = only(&report, kind);
                    assert_eq!(found.len(), 1, "{:?}", report.problems);
                    assert_eq!((found[0].file.as_ref(), found[0].offset), (Some(&name), Some(offset)), "{found:?}");
                    assert!(found[0].row.is_none_or(|found| found == row));
                    assert_eq!(lost(&report), BTreeSet::new());
                    // Who has a footer still finds the chunks by their ids.
                    let hint_only = !only(&report, ProblemKind::HintOnly).is_empty();
                    assert_eq!(hint_only, matches!(left, Left::Killed), "{:?}", report.problems);
                    assert!(disk.corrupt(&name, at, 4));
                }
            }
        }
    }
}

#[test]
fn files_that_nobody_lists_are_told_apart() {
    let (mut simulation, disk) = filled(9, Left::Closed);
    let (name, _) = segment_files(&disk).remove(0);
    let copy = disk.clone();
    let run = simulation.run(async move {
        let files = content(&copy).await;
        for (name, bytes) in [
            ("segments/00000000ff000001.00", &files[&name][..]),
            ("segments/00000000ff000002.00", &files[&name][..4096]),
        ] {
            let mut buf = AlignedBuf::copy_of(bytes);
            buf.pad_to_sector();
            copy.create(name, 0).await.unwrap().write_durable_at(buf, 0).await.0.unwrap();
        }
    });
    run.unwrap();
    let report = check(&mut simulation, &disk);
    assert_eq!(codes(&report), BTreeMap::from([("file-leftover", 1), ("file-unlisted", 1)]));
    let unlisted = only(&report, ProblemKind::FileUnlisted);
    assert_eq!(unlisted[0].file.as_deref(), Some("segments/00000000ff000001.00"));
}

type RawPairs = Vec<(Vec<u8>, Vec<u8>)>;

/// Changes the pairs of the snapshot and seals it again, as a defect of the software would.
fn rewrite_snapshot(simulation: &mut Simulation, disk: &SimDisk, edit: impl FnOnce(&mut RawPairs) + 'static) {
    let (disk, name) = (disk.clone(), file_with_prefix(disk, "meta/snapshot-"));
    let run = simulation.run(async move {
        let mut bytes = content(&disk).await.remove(&name).unwrap();
        let mut header = SnapshotHeader::parse(&bytes).unwrap();
        let mut frame = SnapshotFrame::parse(&bytes[SECTOR_BYTES..]).unwrap();
        assert_eq!(header.frames.get(), 1, "a small state has one frame");
        let (ring_key, wrap_nonce, wrapped) = (header.ring_key.get(), header.wrap_nonce, header.wrapped_key);
        let wrapped = WrappedKey { ring_key, nonce: wrap_nonce, wrapped };
        let cipher = keys().cipher(&keys().unwrap(&wrapped, &header.wrap_context()).unwrap());
        let body = SECTOR_BYTES + HEADER_BYTES;
        let sealed = &mut bytes[body..body + frame.body_bytes.get() as usize];
        let seal = nonce(NonceKind::SnapshotFrame, 0, 0);
        let mut rest: &[u8] = cipher.open(&seal, &frame.associated(), sealed).unwrap();
        let mut pairs = Vec::new();
        while !rest.is_empty() {
            let word = |at: usize| u32::from_le_bytes(rest[at..at + 4].try_into().unwrap()) as usize;
            let (key, value) = (word(0), word(4));
            pairs.push((rest[8..8 + key].to_vec(), rest[8 + key..8 + key + value].to_vec()));
            rest = &rest[8 + key + value..];
        }
        edit(&mut pairs);
        pairs.sort();
        let mut plain = Vec::new();
        for (key, value) in &pairs {
            plain.extend_from_slice(&(key.len() as u32).to_le_bytes());
            plain.extend_from_slice(&(value.len() as u32).to_le_bytes());
            plain.extend_from_slice(key);
            plain.extend_from_slice(value);
        }
        header.pairs = (pairs.len() as u64).into();
        header.finish();
        frame.pairs = (pairs.len() as u32).into();
        frame.body_bytes = ((plain.len() + SEAL_TAG_BYTES) as u32).into();
        let tag = cipher.seal(&seal, &frame.associated(), &mut plain);
        plain.extend_from_slice(&tag);
        frame.body_checksum = proto::checksum::checksum(&plain).into();
        frame.finish();
        let mut out = header.as_bytes().to_vec();
        out.resize(SECTOR_BYTES, 0);
        out.extend_from_slice(frame.as_bytes());
        out.extend_from_slice(&plain);
        let mut buf = AlignedBuf::copy_of(&out);
        buf.pad_to_sector();
        let file = disk.open(&name).await.unwrap();
        file.set_len(buf.len() as u64).await.unwrap();
        file.write_durable_at(buf, 0).await.0.unwrap();
    });
    run.unwrap();
}

#[test]
fn a_namespace_that_contradicts_itself_is_named_by_path() {
    // What is removed, where a key starts like this, and what is said of it.
    let cases: [(&[u8], &str, ProblemKind, Option<&str>); 6] = [
        (b"D", "one", ProblemKind::NamespaceBroken, Some("/docs/one")),
        (b"I", "one", ProblemKind::NamespaceBroken, Some("/docs/one")),
        (b"V", "", ProblemKind::NamespaceBroken, None),
        (b"A", "", ProblemKind::NamespaceBroken, None),
        (b"Cc", "", ProblemKind::CountersWrong, None),
        (b"G", "", ProblemKind::FileUnlisted, None),
    ];
    for (prefix, holds, kind, path) in cases {
        let (mut simulation, disk) = filled(10, Left::Closed);
        rewrite_snapshot(&mut simulation, &disk, move |pairs| {
            let names = |(key, value): &(Vec<u8>, Vec<u8>)| {
                let text = holds.as_bytes();
                let found = |bytes: &[u8]| bytes.windows(text.len().max(1)).any(|window| window == text);
                key.starts_with(prefix) && (text.is_empty() || found(key) || found(value))
            };
            let place = pairs.iter().rposition(names).unwrap();
            pairs.remove(place);
        });
        let report = check(&mut simulation, &disk);
        let found = only(&report, kind);
        assert!(!found.is_empty(), "{prefix:?}: {:?}", report.problems);
        if path.is_some() {
            assert!(found.iter().any(|problem| problem.path.as_deref() == path), "{found:#?}");
        }
        assert!(report.worst() >= Some(Severity::Warning));
    }
}

#[test]
fn a_version_that_is_missing_between_others_is_named_by_path() {
    for (prefix, version) in [(b'V', 2u64), (b'P', !2)] {
        let (mut simulation, disk) = filled(10, Left::Closed);
        let again = disk.clone();
        let run = simulation.run(async move {
            let node = open(&again).await.unwrap();
            for round in 0..3 {
                put(&node, "/docs/one", &[round; 10]).await;
            }
            node.close().await.unwrap();
        });
        run.unwrap();
        assert_eq!(check(&mut simulation, &disk).worst(), None);
        rewrite_snapshot(&mut simulation, &disk, move |pairs| {
            let is_it = |key: &[u8]| key[0] == prefix && key.len() == 17 && key.ends_with(&version.to_be_bytes());
            let place = pairs.iter().position(|(key, _)| is_it(key)).unwrap();
            pairs.remove(place);
        });
        let report = check(&mut simulation, &disk);
        let found = only(&report, ProblemKind::NamespaceBroken);
        assert!(found.iter().any(|problem| problem.path.as_deref() == Some("/docs/one")), "{found:#?}");
    }
}

#[test]
fn without_its_keys_nothing_is_called_clean() {
    let (mut simulation, disk) = filled(11, Left::Closed);
    let other = Arc::new(KeyRing::generate(1, [8; 32]));
    let report = simulation.run({
        let disk = disk.clone();
        async move { fsck::check(vec![disk], other, CheckOptions::Full).await }
    });
    assert_eq!(codes(&report.unwrap()), BTreeMap::from([("metadata-damaged", 1)]));
}

#[test]
fn a_damaged_checkpoint_of_the_index_is_a_warning() {
    let (mut simulation, disk) = filled(12, Left::Closed);
    for _ in 0..2 {
        let start = disk.clone();
        let run = simulation.run(async move {
            let options = NodeOptions { piece_bytes: PIECE_BYTES, ..NodeOptions::new(vec![start], keys()) };
            let node = Node::open(NodeOptions { checkpoint_after_chunks: 1, ..options }).await.unwrap().0;
            // In simulated time, which passes only when nothing else is left to do.
            runtime::sleep(Duration::from_secs(60)).await;
            node.close().await.unwrap();
        });
        run.unwrap();
    }
    assert_eq!(codes(&check(&mut simulation, &disk)), BTreeMap::new());
    let mut costly = 0;
    for block in blocks(&mut simulation, &disk) {
        if block.domain != DomainId::CHECKPOINTS.0 {
            continue;
        }
        assert!(disk.corrupt(&block.name, block.offset + block.bytes - 3, 1));
        let report = check(&mut simulation, &disk);
        assert_eq!(report.worst(), Some(Severity::Warning), "{:?}", report.problems);
        assert_eq!(only(&report, ProblemKind::BlockDamaged)[0].offset, Some(block.offset));
        // Pages of checkpoints that were replaced are still there, and cost nothing.
        costly += only(&report, ProblemKind::CheckpointDamaged).len();
        assert!(disk.corrupt(&block.name, block.offset + block.bytes - 3, 1));
    }
    assert!(costly > 0, "no page of the checkpoint in use was damaged");
}
