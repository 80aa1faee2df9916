//! The full check of a node while nothing happens: every name, attribute, byte and counter.

use std::collections::BTreeMap;

use node::{FileInfo, FileReadError, Node, PutOptions, Target};
use proto::VersionNumber;
use proto::api::Kind;
use proto::limits::MANIFEST_PAGE_ENTRIES_MAX;
use proto::path::FsPath;

use crate::harness::{Fault, World};
use crate::oracle::{Seen, Violation, violation};
use crate::sim::{Random, SimDisk};
use crate::workload::{check_read, list_names, read_all};

/// Checks everything that the node holds.
///
/// # Errors
/// The first [`Violation`].
pub async fn everything(world: &World, node: &Node<SimDisk>, random: &mut Random) -> Result<(), Violation> {
    let mut tops = list(node, "/", random).await?;
    let files = trees(world, node, &mut tops, random).await?;
    world.read.borrow_mut().clear();
    for path in &files {
        read_back(world, node, path, None).await?;
        versions(world, node, path, random).await?;
    }
    let stats = match node.stats().await {
        Ok(stats) => stats,
        Err(error) => return world.tolerate_refusal(&format!("stats: {error}")),
    };
    world.oracle.borrow_mut().saw_counts(&(&stats).into())?;
    check_store(world, &stats)
}

/// Compares every tree; returns the paths of all files.
async fn trees(
    world: &World,
    node: &Node<SimDisk>,
    tops: &mut BTreeMap<String, FileInfo>,
    random: &mut Random,
) -> Result<Vec<String>, Violation> {
    let mut files = Vec::new();
    let known = world.oracle.borrow().tops();
    if let Some(unknown) = tops.keys().find(|top| !known.contains(top)) {
        return Err(violation!("nobody made {unknown}"));
    }
    for top in known {
        let mut tree = BTreeMap::new();
        let mut directories: Vec<String> = Vec::new();
        if let Some(info) = tops.remove(&top) {
            if info.kind() == Kind::Directory {
                directories.push(top.clone());
            }
            tree.insert(top.clone(), Seen::from(&info));
        }
        while let Some(directory) = directories.pop() {
            for (path, info) in list(node, &directory, random).await? {
                match info.kind() {
                    Kind::Directory => directories.push(path.clone()),
                    Kind::File => files.push(path.clone()),
                    Kind::Symlink => {}
                }
                tree.insert(path, Seen::from(&info));
            }
        }
        if let Some((path, _)) = tree.first_key_value().filter(|(_, seen)| seen.kind == Kind::File) {
            files.push(path.clone());
        }
        world.oracle.borrow_mut().saw_tree(&top, &tree)?;
    }
    Ok(files)
}

/// Lists one directory by path; checks that each entry describes itself the same by path and by id.
async fn list(node: &Node<SimDisk>, at: &str, random: &mut Random) -> Result<BTreeMap<String, FileInfo>, Violation> {
    let limit = random.between(1, 7) as usize;
    let infos = list_names(node, at, limit)
        .await?
        .map_err(|refusal| violation!("{at} is listed, but not itself: {refusal:?}"))?;
    let mut entries = BTreeMap::new();
    for info in infos {
        let path = format!("{}/{}", at.trim_end_matches('/'), info.inode.name);
        let parsed = FsPath::parse(&path).map_err(|error| violation!("{path}: {error}"))?;
        let by_path = node.stat(Target::Path(parsed)).await;
        let by_id = node.stat(Target::Id(info.id)).await;
        if info.path != path || by_path.as_ref() != Ok(&info) || by_id.as_ref() != Ok(&info) {
            return Err(violation!("{path} is listed as {info:?}, by path {by_path:?}, by id {by_id:?}"));
        }
        entries.insert(path, info);
    }
    Ok(entries)
}

/// Compares what a file was at every version, and reads one of them.
async fn versions(world: &World, node: &Node<SimDisk>, path: &str, random: &mut Random) -> Result<(), Violation> {
    let limit = random.between(1, 5) as usize;
    let mut next = None;
    let mut newest_first: Vec<FileInfo> = Vec::new();
    loop {
        let page = node.versions(target(path), next, limit).await;
        let page = page.map_err(|error| violation!("the versions of {path}: {error}"))?;
        newest_first.extend(page.versions);
        next = page.next_after;
        if next.is_none() {
            break;
        }
    }
    let current = newest_first.first().map_or(0, |info| info.version().0);
    let numbers = newest_first.iter().map(|info| info.version().0);
    if current == 0 || !numbers.eq((1..=current).rev()) {
        return Err(violation!("{path} has the versions {newest_first:?}"));
    }
    for info in &newest_first {
        let version = Some(info.version().0);
        world.oracle.borrow_mut().saw_stat(path, version, &Ok(info.into()))?;
    }
    match random.between(1, current) {
        version if version < current => read_back(world, node, path, Some(version)).await,
        _ => Ok(()),
    }
}

/// Reads a file, as it is or as it was at a version.
async fn read_back(world: &World, node: &Node<SimDisk>, path: &str, version: Option<u64>) -> Result<(), Violation> {
    let allowed = world.oracle.borrow_mut().readable(path, version)?;
    let opened = match version {
        None => node.open_file(target(path)).await,
        Some(version) => node.open_version(target(path), VersionNumber(version)).await,
    };
    let mut reader = opened.map_err(|error| violation!("{path} at {version:?} is listed, but: {error}"))?;
    let (size, read) = (reader.info().size(), (path.to_owned(), reader.info().version().0));
    let (bytes, error) = read_all(&mut reader).await;
    let damaged = match &error {
        Some(FileReadError::Damaged { range, .. }) => Some(range.clone()),
        _ => None,
    };
    world.read.borrow_mut().insert(read, damaged);
    let failed = error.is_some();
    let from = check_read(world, path, 0..size, &allowed, (&bytes, error))?;
    if failed { Ok(()) } else { world.oracle.borrow_mut().saw_content(path, version, &from) }
}

fn target(path: &str) -> Target {
    Target::Path(FsPath::parse(path).expect("invariant: it was listed"))
}

/// Compares the chunk store's counters with what it must and may hold.
fn check_store(world: &World, stats: &node::NodeStats) -> Result<(), Violation> {
    let bounds = world.oracle.borrow().store_bounds();
    let seen = (stats.store.chunks, stats.store.unique_bytes);
    let too_few = seen.0 < bounds.least.0 || seen.1 < bounds.least.1;
    // Pages of manifests are chunks as well, which the oracle does not know.
    let without_pages = world.manifest_page_entries == MANIFEST_PAGE_ENTRIES_MAX;
    let too_many = without_pages && (seen.0 > bounds.most.0 || seen.1 > bounds.most.1);
    // Damage takes chunks away.
    if too_many || (too_few && world.fault != Fault::Rot) {
        return Err(violation!("the store counts {seen:?} chunks and bytes; {bounds:?}"));
    }
    if stats.free_bytes > stats.capacity_bytes {
        return Err(violation!("more bytes are free than there are: {stats:?}"));
    }
    Ok(())
}

/// Stores one content under two names, perhaps from two cores: the second time the store does not grow.
///
/// # Errors
/// [`Violation`]; an error of the node counts as one.
pub async fn stores_once(world: &World, nodes: &[Node<SimDisk>], random: &mut Random) -> Result<(), Violation> {
    use crate::oracle::model::{Action, Answer, AttributeChange};
    let mut bytes = vec![0; random.between(10_000, 400_000) as usize];
    random.fill(&mut bytes);
    let mut stores = Vec::new();
    for name in ["first", "second"] {
        let (path, len) = (format!("/once/{name}"), bytes.len() as u64);
        let number = {
            let mut oracle = world.oracle.borrow_mut();
            let content = oracle.add_content(bytes.clone());
            let (attributes, condition) = (AttributeChange::default(), node::Condition::Absent);
            oracle.call(Action::Put { path: path.clone(), content, bytes: len, attributes, condition }, None)
        };
        let node = random.pick(nodes);
        let put = async {
            let mut writer = node.create(FsPath::parse(&path).expect("a legal path"), PutOptions::default())?;
            writer.write(&bytes).await?;
            writer.finish().await
        };
        let done = put.await.map_err(|error: node::PutError| violation!("{path}: {error}"))?;
        let answer = Answer::Committed { version: done.info.version().0, created: done.created };
        world.oracle.borrow_mut().answer(&path, number, &answer)?;
        let stats = node.stats().await.map_err(|error| violation!("stats: {error}"))?;
        stores.push((stats.store.chunks, stats.store.unique_bytes, stats.store.stored_bytes));
    }
    if stores[0] != stores[1] {
        return Err(violation!("the same file was stored again: {stores:?} chunks, unique and stored bytes"));
    }
    Ok(())
}
