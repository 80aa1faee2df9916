//! The full check of a node while nothing happens: a walk over every name, version and byte, and what must hold of it.
//!
//! ```text
//!   trees     listing ─▶ linearizable     acked_writes
//!   versions  retention ─▶ linearizable ─▶ reachable: reads, acked_writes, atomicity
//!   counters  those of the walk, of the oracle, and of the segments
//! ```

use std::collections::BTreeMap;

use node::{Node, PutOptions, Target};
use proto::api::Kind;
use proto::path::FsPath;

use crate::harness::World;
use crate::invariants::counters::{self, Recount};
use crate::invariants::{acked_writes, linearizable, listing, reachable, retention};
use crate::oracle::{Seen, Violation, violation};
use crate::sim::{Random, WatchedDisk};

/// Versions of a page of them, at most.
const VERSIONS_LISTED_MAX: u64 = 5;

/// Checks everything that the node holds.
///
/// # Errors
/// The first [`Violation`].
pub async fn everything(world: &World, node: &Node<WatchedDisk>, random: &mut Random) -> Result<(), Violation> {
    let mut recount = Recount::default();
    let names = names(world, node, random).await?;
    acked_writes::check_names(world, &names)?;
    retention::in_force(world, node).await?;
    world.read.borrow_mut().clear();
    for (path, seen) in &names {
        recount.entry(seen.kind);
        if seen.kind == Kind::File {
            reachable::read_back(world, node, path, None).await?;
            versions(world, node, path, random, &mut recount).await?;
        }
    }
    linearizable::count(world);
    match node.stats().await {
        Ok(stats) => counters::check(world, &recount, &stats),
        Err(error) => world.tolerate_refusal(&format!("stats: {error}")),
    }
}

/// Walks over all names, top by top; returns everything that is there.
async fn names(
    world: &World,
    node: &Node<WatchedDisk>,
    random: &mut Random,
) -> Result<BTreeMap<String, Seen>, Violation> {
    let mut tops = listing::directory(world, node, "/", random).await?;
    let known = world.oracle.borrow().tops();
    if let Some(unknown) = tops.keys().find(|top| !known.contains(top)) {
        return Err(violation!("nobody made {unknown}"));
    }
    let mut all = BTreeMap::new();
    for top in known {
        let mut tree = BTreeMap::new();
        let mut directories: Vec<String> = Vec::new();
        let mut found: BTreeMap<_, _> = tops.remove_entry(&top).into_iter().collect();
        loop {
            for (path, info) in found {
                if info.kind() == Kind::Directory {
                    directories.push(path.clone());
                }
                tree.insert(path, Seen::from(&info));
            }
            let Some(directory) = directories.pop() else { break };
            found = listing::directory(world, node, &directory, random).await?;
        }
        linearizable::tree(world, &top, &tree)?;
        all.append(&mut tree);
    }
    Ok(all)
}

/// Compares what a file was at every version, and reads some of them.
async fn versions(
    world: &World,
    node: &Node<WatchedDisk>,
    path: &str,
    random: &mut Random,
    recount: &mut Recount,
) -> Result<(), Violation> {
    let limit = random.between(1, VERSIONS_LISTED_MAX) as usize;
    let mut next = None;
    let mut newest_first: Vec<Seen> = Vec::new();
    loop {
        let target = Target::Path(FsPath::parse(path).expect("invariant: it was listed"));
        let page = node.versions(target, next, limit).await;
        let page = page.map_err(|error| violation!("the versions of {path}: {error}"))?;
        newest_first.extend(page.versions.iter().map(|version| Seen::from(&version.info)));
        next = page.next_after;
        if next.is_none() {
            break;
        }
    }
    retention::versions(world, node, path, &newest_first).await?;
    let earlier: Vec<u64> = newest_first.iter().skip(1).map(|seen| seen.version).collect();
    for seen in newest_first {
        recount.version(&seen);
        linearizable::version(world, path, seen)?;
    }
    for version in reachable::some_of(world.extent(), earlier, random) {
        reachable::read_back(world, node, path, Some(version)).await?;
    }
    Ok(())
}

/// Stores one content under two names, perhaps from two cores: the second time the store does not grow.
///
/// # Errors
/// [`Violation`]; an error of the node counts as one.
pub async fn stores_once(world: &World, nodes: &[Node<WatchedDisk>], random: &mut Random) -> Result<(), Violation> {
    use crate::oracle::model::{Action, Answer, AttributeChange};
    let mut bytes = vec![0; random.between(10_000, 60_000) as usize];
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
