//! The full check of a node while nothing happens: every name, attribute, byte and counter.

use std::collections::BTreeMap;

use node::{FileInfo, Node, PutOptions, Target};
use proto::api::Kind;
use proto::limits::MANIFEST_PAGE_ENTRIES_MAX;
use proto::path::FsPath;

use crate::harness::{Fault, World};
use crate::oracle::{Violation, violation};
use crate::sim::{Random, SimDisk};
use crate::workload::{check_read, list_names, read_all};

/// Checks everything that the node holds.
///
/// # Errors
/// The first [`Violation`].
pub async fn everything(world: &World, node: &Node<SimDisk>, random: &mut Random) -> Result<(), Violation> {
    let mut tops = list(node, "/", random).await?;
    let files = trees(world, node, &mut tops, random).await?;
    for path in &files {
        read_back(world, node, path).await?;
    }
    let stats = match node.stats().await {
        Ok(stats) => stats,
        Err(error) => return world.tolerate_refusal(&format!("stats: {error}")),
    };
    world.oracle.borrow_mut().saw_stats(&stats)?;
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
            tree.insert(top.clone(), info);
        }
        while let Some(directory) = directories.pop() {
            for (path, info) in list(node, &directory, random).await? {
                match info.kind() {
                    Kind::Directory => directories.push(path.clone()),
                    Kind::File => files.push(path.clone()),
                    Kind::Symlink => {}
                }
                tree.insert(path, info);
            }
        }
        if let Some((path, _)) = tree.first_key_value().filter(|(_, info)| info.kind() == Kind::File) {
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

async fn read_back(world: &World, node: &Node<SimDisk>, path: &str) -> Result<(), Violation> {
    let allowed = world.oracle.borrow_mut().readable(path)?;
    let target = Target::Path(FsPath::parse(path).expect("invariant: it was listed"));
    let opened = node.open_file(target).await;
    let mut reader = opened.map_err(|error| violation!("{path} is listed, but: {error}"))?;
    let size = reader.info().size();
    let (bytes, error) = read_all(&mut reader).await;
    let failed = error.is_some();
    let from = check_read(world, path, 0..size, &allowed, (&bytes, error))?;
    if failed { Ok(()) } else { world.oracle.borrow_mut().saw_content(path, &from) }
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
