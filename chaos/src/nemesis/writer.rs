//! One client: what it does next, what it tells the oracle, and what it checks at once.

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc::Sender;

use client::{ByteRange, Client, ClientError};
use meta::Condition;
use node::Removal;
use proto::api::{Entry, Kind};
use proto::limits::INLINE_BYTES_MAX;

use super::content::Content;
use super::court::Court;
use super::speech::{Fate, fate, fs_path, seen, send};
use crate::oracle::model::{Action, Answer, AttributeChange, Body, ContentId, State};
use crate::oracle::{Oracle, Violation, violation};
use crate::sim::Random;

/// The space that all writers share; each has one of its own besides.
pub(super) const SHARED: &str = "/shared";
/// How often a writer turns to the shared space.
const SHARED_PERCENT: u64 = 15;
/// How often it reads, per operation.
const READ_PERCENT: u64 = 25;
/// Bytes of the files of a space; beyond it, only small files are written.
const LIVE_BYTES_MAX: u64 = 4 << 20;
/// Names in each directory: few, so that files are replaced often. They sort around the separator.
const NAMES: [&str; 5] = ["a", "b", "a-b", "z.d", "ü"];
/// Directories of a space, at two depths.
const DIRECTORIES: [&str; 4] = ["", "/d", "/e", "/d/deep"];
/// Entries below a directory that is removed recursively: each may be left by a crash, or not.
const RECURSIVE_ENTRIES_MAX: usize = 6;

/// What all clients of a round share.
pub(super) struct Scene {
    pub(super) court: Court,
    /// Set before a fault strikes: no request may fail earlier.
    pub(super) trouble: AtomicBool,
    /// Clients end with the operation that they are at.
    pub(super) curtain: AtomicBool,
    /// Told of each acknowledged operation.
    pub(super) acknowledged: Sender<()>,
    pub(super) tally: Tally,
}

/// What clients did.
#[derive(Debug, Default)]
pub(super) struct Tally {
    pub(super) operations: AtomicU64,
    pub(super) acknowledged: AtomicU64,
    pub(super) refused: AtomicU64,
    pub(super) did_not_happen: AtomicU64,
    pub(super) open: AtomicU64,
    pub(super) reads: AtomicU64,
    pub(super) failed_reads: AtomicU64,
    pub(super) retentions: AtomicU64,
    pub(super) collections: AtomicU64,
}

pub(super) fn count(counter: &AtomicU64) {
    counter.fetch_add(1, Ordering::Relaxed);
}

/// How a client takes a lost request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Temper {
    /// It never repeats one: the outcome is open.
    Hasty,
    /// It repeats each until it is answered, across any number of restarts; it is this number among clients.
    Patient(u64),
}

/// A client and its space.
pub(super) struct Writer {
    top: String,
    random: Random,
    temper: Temper,
    sequence: u64,
}

/// An operation that the oracle knows of.
struct Called {
    action: Action,
    content: Option<Content>,
    number: u64,
}

impl Writer {
    pub(super) fn new(name: &str, random: Random, temper: Temper) -> Writer {
        Writer { top: format!("/{name}"), random, temper, sequence: 0 }
    }

    /// Does one thing after the other until the curtain falls, or a request is lost.
    ///
    /// # Errors
    /// The first [`Violation`].
    pub(super) fn play(&mut self, client: &Client, scene: &Scene) -> Result<(), Violation> {
        while !scene.curtain.load(Ordering::SeqCst) {
            let is_shared = self.random.below(100) < SHARED_PERCENT && self.temper == Temper::Hasty;
            let goes_on = self.change(client, scene, is_shared)?;
            if !goes_on {
                return Ok(());
            }
            if self.random.below(100) < READ_PERCENT {
                self.read(client, scene)?;
            }
        }
        Ok(())
    }

    fn call(&mut self, court: &Court, is_shared: bool) -> Called {
        let top = if is_shared { SHARED.to_owned() } else { self.top.clone() };
        let mut random = self.random.fork();
        self.sequence += 1;
        let (temper, sequence) = (self.temper, self.sequence);
        court.hear(move |docket| {
            let (action, content) = choose(&mut docket.oracle, &mut random, &top, is_shared);
            let number = match temper {
                Temper::Hasty => docket.oracle.call(action.clone(), None),
                Temper::Patient(client) => {
                    docket.call_patiently(client, sequence, action.clone());
                    0
                }
            };
            Called { action, content, number }
        })
    }

    /// Whether the client goes on.
    fn change(&mut self, client: &Client, scene: &Scene, is_shared: bool) -> Result<bool, Violation> {
        let Called { action, content, number } = self.call(&scene.court, is_shared);
        count(&scene.tally.operations);
        let sent = send(client, &action, content);
        let (counter, fate, entry) = match sent {
            Ok((answer, entry)) => (&scene.tally.acknowledged, Ok(answer), entry),
            Err(error) => match fate(&error)? {
                Fate::Refused(refusal) => (&scene.tally.refused, Ok(Answer::Refused(refusal)), None),
                fate => {
                    let is_busy = error.code() == "busy";
                    if !is_busy && !scene.trouble.load(Ordering::SeqCst) {
                        return Err(violation!("before any fault, {action:?} was answered {error:?}"));
                    }
                    // Of several attempts, an earlier one may have got through.
                    let open = fate == Fate::Open || self.temper != Temper::Hasty;
                    let counter = if open { &scene.tally.open } else { &scene.tally.did_not_happen };
                    // After a refused connection there is nothing to do until the next round.
                    (counter, Err((open, matches!(error, ClientError::Unreachable { .. }))), None)
                }
            },
        };
        count(counter);
        if fate.is_ok() {
            // Nobody counts any more once the round is over.
            let _ = scene.acknowledged.send(());
        }
        let goes_on = !matches!(fate, Err((true, _) | (_, true)));
        let (temper, shown) = (self.temper, entry.filter(|_| !is_shared));
        scene.court.hear(move |docket| {
            let number = match temper {
                Temper::Hasty => number,
                Temper::Patient(client) => docket.settle_patiently(client),
            };
            match fate {
                Ok(answer) => docket.answer(action.path(), number, &answer)?,
                Err((true, _)) => {
                    docket.leave_open();
                    return Ok(());
                }
                Err((false, _)) => docket.oracle.refuse(action.path(), number)?,
            }
            shown.map_or(Ok(()), |entry| docket.oracle.saw_stat(&entry.path, None, &Ok(seen(&entry)?)))
        })?;
        Ok(goes_on)
    }

    /// Reads a file of the client's own space, or a part of it.
    fn read(&mut self, client: &Client, scene: &Scene) -> Result<(), Violation> {
        let (top, mut random) = (self.top.clone(), self.random.fork());
        let chosen = scene.court.hear(move |docket| {
            let files = files(docket.oracle.guess(&top)?);
            let path = if files.is_empty() { return None } else { random.pick(&files).clone() };
            let part = random.chance(1, 2).then(|| (random.next_u64(), random.next_u64()));
            let allowed = docket.oracle.readable(&path, None);
            Some(allowed.map(|allowed| (path, part, described(&docket.oracle, &allowed))))
        });
        let Some(chosen) = chosen else { return Ok(()) };
        let (path, part, allowed) = chosen?;
        count(&scene.tally.reads);
        match read_back(client, &path, None, part, &allowed)? {
            Ok(_) => Ok(()),
            Err(_) if scene.trouble.load(Ordering::SeqCst) => {
                count(&scene.tally.failed_reads);
                Ok(())
            }
            // A put of the client's own may be open, so that the file is not there.
            Err(error) if error.is_not_found() => Ok(()),
            Err(error) => Err(violation!("before any fault, a read of {path} failed: {error:?}")),
        }
    }
}

/// What the contents are.
pub(super) fn described(oracle: &Oracle, contents: &BTreeSet<ContentId>) -> Vec<(ContentId, Content)> {
    contents.iter().map(|content| (*content, Content::described(&oracle.content(*content)))).collect()
}

/// Reads a file as it is, or as it was at a version, or a part of it that two numbers choose; returns which of the
/// `allowed` contents it can be.
///
/// # Errors
/// [`Violation`] if it is none of them; within it the client's own.
pub(super) fn read_back(
    client: &Client,
    path: &str,
    version: Option<u64>,
    part: Option<(u64, u64)>,
    allowed: &[(ContentId, Content)],
) -> Result<Result<BTreeSet<ContentId>, ClientError>, Violation> {
    let mut fits = BTreeSet::new();
    let mut wrong = format!("{path} is readable, but should not be");
    for (id, content) in allowed {
        let range = part.filter(|_| content.bytes > 0).map(|(start, end)| {
            let start = start % content.bytes;
            (start, start + 1 + end % (content.bytes - start))
        });
        let (start, end) = range.unwrap_or((0, content.bytes));
        let range = range.map(|_| ByteRange { start, end: Some(end) });
        let opened = match version {
            None => client.get(&fs_path(path), range),
            Some(version) => client.get_version(&fs_path(path), version, range),
        };
        let mut download = match opened {
            Ok(download) => download,
            // Another of the contents is shorter, and it is the one that is there.
            Err(ClientError::Api { detail, .. }) if detail.code == "range_not_satisfiable" && allowed.len() > 1 => {
                continue;
            }
            Err(error) => return Ok(Err(error)),
        };
        if download.head().size != content.bytes {
            wrong = format!("{path} has {} bytes; {content:?} is allowed", download.head().size);
            continue;
        }
        match content.compare(start, end, &mut download) {
            Ok(()) => drop(fits.insert(*id)),
            Err(error) => match ClientError::from_io(error) {
                Ok(error) => return Ok(Err(error)),
                Err(difference) => wrong = format!("{path} {difference}"),
            },
        }
    }
    if fits.is_empty() { Err(Violation(wrong)) } else { Ok(Ok(fits)) }
}

fn files(state: &State) -> Vec<String> {
    let files = state.entries.iter().filter(|(_, entry)| entry.kind() == Kind::File);
    files.map(|(path, _)| path.to_string()).collect()
}

/// A length, with all the ways of storing a file in it: none, inline, one chunk, several, many.
fn draw_bytes(random: &mut Random, live_bytes: u64) -> u64 {
    let inline_max = INLINE_BYTES_MAX as u64;
    let limit = if live_bytes > LIVE_BYTES_MAX { 60 } else { 100 };
    match random.below(limit) {
        0..10 => 0,
        10..40 => random.between(1, inline_max),
        40..50 => random.between(inline_max - 1, inline_max + 1),
        50..70 => random.between(inline_max + 1, 64 << 10),
        70..92 => random.between(64 << 10, 400 << 10),
        _ => random.between(1 << 20, 3 << 20),
    }
}

fn draw_attributes(random: &mut Random) -> AttributeChange {
    let metadata = |random: &mut Random| {
        let pairs = random.below(3);
        (0..pairs).map(|number| (format!("key-{number}"), format!("{:x}", random.next_u64()))).collect()
    };
    AttributeChange {
        mode: random.chance(1, 2).then(|| random.below(0o1000) as u32),
        mtime_ns: random.chance(1, 3).then(|| random.below(1 << 60)),
        symlink_target: None,
        user_metadata: random.chance(1, 3).then(|| metadata(random)),
    }
}

/// Chooses an action in the space `top`, aimed with a guess at what is there.
fn choose(oracle: &mut Oracle, random: &mut Random, top: &str, is_shared: bool) -> (Action, Option<Content>) {
    let state = oracle.guess(top).cloned().unwrap_or_default();
    let any = |random: &mut Random| {
        let directories = if is_shared { &DIRECTORIES[..1] } else { &DIRECTORIES };
        let names = if is_shared { &NAMES[..2] } else { &NAMES };
        format!("{top}{}/{}", random.pick(directories), random.pick(names))
    };
    let directory = |random: &mut Random| format!("{top}{}", random.pick(&DIRECTORIES[1..]));
    let action = match random.below(if is_shared { 70 } else { 100 }) {
        0..12 => Action::Remove { path: any(random), how: Removal::Single },
        12..24 => Action::Rename { from: any(random), to: any(random), replace: random.chance(2, 3) },
        70..76 => {
            let attributes = AttributeChange { mtime_ns: None, ..draw_attributes(random) };
            Action::MakeDirectory { path: any(random), attributes }
        }
        76..79 => {
            let target = format!("../{}", random.pick(&NAMES));
            Action::MakeSymlink { path: any(random), target, attributes: AttributeChange::default() }
        }
        79..83 => {
            let path = directory(random);
            let few = state.below(&path).count() <= RECURSIVE_ENTRIES_MAX;
            Action::Remove { path, how: if few { Removal::Recursive } else { Removal::Single } }
        }
        83..87 => Action::Rename { from: directory(random), to: directory(random), replace: random.chance(1, 2) },
        87..92 => {
            // A request that changes nothing is refused.
            let mode = Some(random.below(0o1000) as u32);
            let change = AttributeChange { mode, user_metadata: None, ..draw_attributes(random) };
            Action::SetAttributes { path: any(random), change }
        }
        92..96 => Action::Restore { path: any(random), version: random.between(1, 3), condition: Condition::Any },
        _ => {
            let bytes = |entry: &std::rc::Rc<crate::oracle::model::Entry>| match entry.body {
                Body::File { bytes, .. } => bytes,
                _ => 0,
            };
            let live_bytes = state.entries.values().map(bytes).sum();
            let bytes = draw_bytes(random, live_bytes);
            let content = Content::draw(random, bytes);
            let (path, attributes) = (any(random), draw_attributes(random));
            let id = oracle.add_content(content.describe());
            let condition = Condition::Any;
            return (Action::Put { path, content: id, bytes: content.bytes, attributes, condition }, Some(content));
        }
    };
    (action, None)
}

/// An entry belongs to the name that it was asked for.
pub(super) fn check_path(entry: &Entry, path: &str) -> Result<(), Violation> {
    if entry.path == path { Ok(()) } else { Err(violation!("{path} describes itself as {}", entry.path)) }
}
