//! The full check of a server at rest: every name, every byte, the counters.

use std::collections::{BTreeMap, BTreeSet};

use client::Client;
use proto::api::{Entry, Kind};

use crate::actor::{fs_path, read_back};
use crate::contended::Contended;
use crate::model::{Outcome, Space};

/// What was verified.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Tally {
    pub(crate) files: u64,
    pub(crate) bytes: u64,
    /// Open operations that turned out to have happened.
    pub(crate) happened: u64,
    /// Open operations that turned out not to have happened.
    pub(crate) did_not_happen: u64,
}

impl Tally {
    pub(crate) fn add(&mut self, other: Tally) {
        self.files += other.files;
        self.bytes += other.bytes;
        self.happened += other.happened;
        self.did_not_happen += other.did_not_happen;
    }
}

/// Everything that has a name.
fn walk(client: &Client) -> BTreeMap<String, Entry> {
    let mut seen = BTreeMap::new();
    let mut directories = vec!["/".to_owned()];
    while let Some(directory) = directories.pop() {
        for child in client.list(&fs_path(&directory)) {
            let entry = child.unwrap_or_else(|error| panic!("listing {directory}: {error:?}")).entry;
            if entry.kind == Kind::Directory {
                directories.push(entry.path.clone());
            }
            let before = seen.insert(entry.path.clone(), entry);
            assert!(before.is_none(), "listed twice: {before:?}");
        }
    }
    seen
}

/// Checks that the server holds exactly what `spaces` and `contended` allow, and settles what was open in them.
///
/// Nobody may change anything meanwhile. `common` are directories that belong to nobody. Panics at the first thing that
/// is wrong.
pub(crate) fn verify(client: &Client, spaces: &mut [&mut Space], contended: &[Contended], common: &[&str]) -> Tally {
    let mut seen = walk(client);
    let files = seen.values().filter(|entry| entry.kind == Kind::File).count() as u64;
    let directories = 1 + seen.values().filter(|entry| entry.kind == Kind::Directory).count() as u64;

    let mut tally = Tally::default();
    for space in spaces.iter_mut() {
        let own = seen.extract_if(.., |path, _| space.owns(path)).collect();
        match space.settle(&own) {
            Ok(Outcome::Settled) => {}
            Ok(Outcome::Happened | Outcome::HappenedInPart) => tally.happened += 1,
            Ok(Outcome::DidNotHappen) => tally.did_not_happen += 1,
            Err(why) => panic!("{}: {why}", space.home),
        }
    }
    let reading: Vec<Tally> = std::thread::scope(|scope| {
        let readers: Vec<_> = spaces.iter().map(|space| scope.spawn(|| compare(client, space))).collect();
        readers.into_iter().map(|reader| reader.join().expect("a comparison failed; see its message")).collect()
    });
    for read in reading {
        tally.add(read);
    }
    for file in contended {
        let entry = seen.remove(&file.path);
        let holds = |content: &_| {
            let mut download = client.get(&fs_path(&file.path), None).expect("a listed file can be read");
            crate::content::Content::compare(content, 0, content.bytes, &mut download).is_ok()
        };
        file.settle(entry.as_ref(), holds).unwrap_or_else(|why| panic!("{why}"));
        tally.files += u64::from(entry.is_some());
        tally.bytes += entry.map_or(0, |entry| entry.size);
    }
    seen.retain(|path, entry| entry.kind != Kind::Directory || !common.contains(&path.as_str()));
    assert!(seen.is_empty(), "these belong to nobody: {seen:?}");

    let stats = client.stats().expect("counters");
    assert_eq!((stats.files, stats.directories), (files, directories), "{stats:?}");
    let own: u64 = spaces.iter().flat_map(|space| space.tree.files()).map(|(_, file)| file.logical_bytes()).sum();
    let sums = contended.iter().fold(BTreeSet::from([own]), |sums, file| {
        let more = file.logical_bytes();
        sums.iter().flat_map(|sum| more.iter().map(move |more| sum + more)).collect()
    });
    assert!(sums.contains(&stats.logical_bytes), "all versions of all files have {sums:?} bytes: {stats:?}");
    tally
}

/// Compares every file of a space, byte for byte.
fn compare(client: &Client, space: &Space) -> Tally {
    let mut tally = Tally::default();
    for (path, file) in space.tree.files() {
        let content = file.content();
        let read = read_back(client, path, content, (0, content.bytes));
        read.unwrap_or_else(|error| panic!("{path}: {error:?}"));
        tally.files += 1;
        tally.bytes += content.bytes;
    }
    tally
}
