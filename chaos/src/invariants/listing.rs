//! **Listings are ordered and complete.** A directory lists exactly the names in it, each once, in the order of their
//! bytes, whatever the page size; and each entry describes itself the same when it is asked by path or by id.
//!
//! How: every listing, of clients and of the full check, goes page by page with a drawn limit. The pages are checked
//! here; that their names are all there are is for the oracle ([`super::linearizable`]), which is shown the whole. The
//! full check asks for some of the entries by path and by id, at the end of a seed for all of them.
//!
//! What it would miss: pages beside changes between them, which promise less; clients list where nothing moves
//! meanwhile but by other clients of the same core.

use std::collections::BTreeMap;

use node::{FileInfo, Node, Target};
use proto::path::FsPath;

use super::Invariant;
use super::reachable::Extent;
use crate::harness::World;
use crate::oracle::model::Refusal;
use crate::oracle::{Violation, violation};
use crate::sim::{Random, WatchedDisk};

/// One entry in so many is asked for by path and by id before the end of a seed.
const ASKED_ONE_IN: u64 = 8;

/// Lists a directory page by page, up to `limit` entries a page.
pub(crate) async fn pages(
    world: &World,
    node: &Node<WatchedDisk>,
    at: &str,
    limit: usize,
) -> Result<Result<Vec<FileInfo>, Refusal>, Violation> {
    world.judge.count(Invariant::Listing, 1);
    let directory = FsPath::parse(at).expect("invariant: the workload draws legal paths");
    let mut infos: Vec<FileInfo> = Vec::new();
    let mut after: Option<String> = None;
    loop {
        let page = match node.list(Target::Path(directory.clone()), after.take(), limit).await {
            Ok(page) => page,
            Err(error) => {
                return Ok(Err(Refusal::of(&error).ok_or_else(|| violation!("a listing of {at}: {error}"))?));
            }
        };
        let names: Vec<&str> = page.entries.iter().map(|info| info.inode.name.as_str()).collect();
        let last = infos.last().map(|info| info.inode.name.as_str());
        check_page(last, &names, page.next_after.as_deref(), limit)
            .map_err(|Violation(what)| violation!("a listing of {at}: {what}"))?;
        infos.extend(page.entries);
        match page.next_after {
            Some(next) => after = Some(next),
            None => return Ok(Ok(infos)),
        }
    }
}

/// Checks one page: `last` is the name before it, `next` where the page after it begins.
fn check_page(last: Option<&str>, names: &[&str], next: Option<&str>, limit: usize) -> Result<(), Violation> {
    if names.len() > limit || (next.is_some() && names.len() < limit) {
        return Err(violation!(
            "a page has {} entries, the limit is {limit}, the next begins at {next:?}",
            names.len()
        ));
    }
    let in_order: Vec<&str> = last.into_iter().chain(names.iter().copied()).collect();
    if !in_order.is_sorted_by(|a, b| a.as_bytes() < b.as_bytes()) {
        return Err(violation!("names are out of order or come twice: {in_order:?}"));
    }
    if next.is_some_and(|next| names.last() != Some(&next)) {
        return Err(violation!("the page ends with {:?}, the next one begins after {next:?}", names.last()));
    }
    Ok(())
}

/// Lists a directory that is there; checks that entries describe themselves the same by path and by id.
pub(crate) async fn directory(
    world: &World,
    node: &Node<WatchedDisk>,
    at: &str,
    random: &mut Random,
) -> Result<BTreeMap<String, FileInfo>, Violation> {
    let limit = random.between(1, 7) as usize;
    let infos = pages(world, node, at, limit).await?;
    let infos = infos.map_err(|refusal| violation!("{at} is listed, but not itself: {refusal:?}"))?;
    let mut entries = BTreeMap::new();
    for info in infos {
        let path = format!("{}/{}", at.trim_end_matches('/'), info.inode.name);
        let parsed = FsPath::parse(&path).map_err(|error| violation!("{path}: {error}"))?;
        if info.path != path {
            return Err(violation!("{path} is listed as {info:?}"));
        }
        if world.extent() == Extent::All || random.chance(1, ASKED_ONE_IN) {
            let by_path = node.stat(Target::Path(parsed)).await;
            let by_id = node.stat(Target::Id(info.id)).await;
            if by_path.as_ref() != Ok(&info) || by_id.as_ref() != Ok(&info) {
                return Err(violation!("{path} is listed as {info:?}, by path {by_path:?}, by id {by_id:?}"));
            }
        }
        entries.insert(path, info);
    }
    Ok(entries)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pages_out_of_order_or_of_the_wrong_length_are_refused() {
        assert_eq!(check_page(None, &["a", "b"], Some("b"), 2), Ok(()));
        assert_eq!(check_page(Some("b"), &["c"], None, 2), Ok(()));
        assert_eq!(check_page(Some("c"), &[], None, 2), Ok(()));
        check_page(None, &["b", "a"], None, 2).expect_err("out of order");
        check_page(None, &["a", "a"], None, 2).expect_err("twice");
        check_page(Some("b"), &["b"], None, 2).expect_err("the last of the page before comes again");
        check_page(None, &["a", "b", "c"], None, 2).expect_err("too long");
        check_page(None, &["a"], Some("a"), 2).expect_err("too short");
        check_page(None, &["a", "b"], Some("c"), 2).expect_err("the next page would leave a name out");
        check_page(None, &["z", "ü"], None, 2).expect("the order of bytes");
    }
}
