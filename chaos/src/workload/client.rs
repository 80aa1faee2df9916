//! One client: what it does, what it remembers across crashes, and what it checks at once.

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::time::Duration;

use meta::Session;
use node::{FileInfo, Node};
use proto::VersionNumber;
use proto::api::Kind;
use proto::port::runtime;

use super::choice::{Choice, Sharing, draw};
use super::perform::{Outcome, abandon, perform, target};
use crate::harness::World;
use crate::invariants::reachable::read_all;
use crate::invariants::{listing, reads};
use crate::oracle::model::{Action, Answer, ContentId, Refusal};
use crate::oracle::{Violation, violation};
use crate::sim::{Random, WatchedDisk};

/// How long a client waits for an answer before it repeats its request.
const PATIENCE_MAX: Duration = Duration::from_millis(20);
/// One reader in so many waits before it reads what it has opened, as long as two collections take or longer.
const WAITING_READ_ONE_IN: u64 = 6;
/// It waits at most two to one of these powers of nanoseconds: a millisecond, or an eighth of a second.
const WAIT_NS_POWER_MIN: u64 = 20;
const WAIT_NS_POWER_MAX: u64 = 27;
/// Spaces that all clients share.
const SHARED_SPACES: u64 = 2;

/// What a client knows; it outlives the node's crashes.
#[derive(Default)]
pub struct Client {
    number: u64,
    /// Number of its last request of a session.
    sequence: Cell<u64>,
    /// Its last request of a session, if it has no answer yet.
    unanswered: RefCell<Option<(Action, Session)>>,
}

/// Whether a client goes on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Flow {
    GoesOn,
    /// The node takes no more changes.
    Stops,
}

impl Client {
    /// Returns a client that has done nothing.
    #[must_use]
    pub fn new(number: u64) -> Client {
        Client { number, ..Client::default() }
    }

    /// Draws what to do next, and counts it.
    ///
    /// # Errors
    /// The oracle's when it is asked.
    pub(super) fn choose(&self, world: &World, random: &mut Random) -> Result<Choice, Violation> {
        let (top, sharing) = if random.chance(2, 5) {
            (format!("/g{}", random.below(SHARED_SPACES)), Sharing::Shared)
        } else {
            (format!("/p{}", self.number), Sharing::Private)
        };
        let choice = draw(random, &mut world.oracle.borrow_mut(), &top, (sharing, world.plan.scale))?;
        world.tally.operations.set(world.tally.operations.get() + 1);
        world.tally.count(choice.name());
        Ok(choice)
    }

    /// Remembers a request of a session until it has an answer.
    pub(super) fn set_unanswered(&self, action: Action, session: Session) {
        self.unanswered.replace(Some((action, session)));
    }

    /// The last request of a session, if it has no answer yet.
    pub(super) fn take_unanswered(&self) -> Option<(Action, Session)> {
        self.unanswered.take()
    }

    /// Numbers and keys by turns; a key says which client and which request it is of.
    pub(super) fn next_session(&self) -> Session {
        let sequence = self.sequence.get() + 1;
        self.sequence.set(sequence);
        let client = 1000 + self.number;
        if sequence.is_multiple_of(2) {
            return Session::Numbered { client, sequence, acked_below: sequence };
        }
        let key = (u128::from(client) << 64 | u128::from(sequence)).to_le_bytes();
        Session::Keyed { key, fingerprint: key }
    }
}

/// The client and the number of a request.
fn number_of(session: Session) -> (u64, u64) {
    match session {
        Session::Numbered { client, sequence, .. } => (client, sequence),
        Session::Keyed { key, .. } => {
            let key = u128::from_le_bytes(key);
            ((key >> 64) as u64, key as u64)
        }
    }
}

/// One client's part of one start of the node.
pub(super) struct Run<'a> {
    pub(super) world: &'a World,
    /// The core that this client is connected to.
    pub(super) node: &'a Node<WatchedDisk>,
    /// The core that has the names: what it tells is true at that moment, with no way between.
    pub(super) names: &'a Node<WatchedDisk>,
    pub(super) client: &'a Client,
    pub(super) random: Random,
}

/// Carries out actions of client `number` on one of the node's cores, as long as the clients of this start may begin
/// more.
///
/// # Errors
/// The first [`Violation`].
pub async fn run(
    world: Rc<World>,
    nodes: Vec<Node<WatchedDisk>>,
    number: usize,
    mut random: Random,
) -> Result<(), Violation> {
    let client = &world.clients[number];
    let (node, names) = (random.pick(&nodes).clone(), &nodes[0]);
    let mut run = Run { world: &world, node: &node, names, client, random };
    let unanswered = client.take_unanswered();
    if let Some((action, session)) = unanswered
        && run.random.chance(3, 4)
        && run.change(&action, Some(session)).await? == Flow::Stops
    {
        return Ok(());
    }
    while world.begin_operation() {
        if run.step().await? == Flow::Stops {
            break;
        }
    }
    Ok(())
}

impl Run<'_> {
    async fn step(&mut self) -> Result<Flow, Violation> {
        let choice = self.client.choose(self.world, &mut self.random)?;
        match choice {
            Choice::Change(action) => {
                let session = self.random.chance(1, 2).then(|| self.client.next_session());
                let flow = self.change(&action, session).await?;
                if flow == Flow::GoesOn {
                    self.look_back(&action).await?;
                }
                Ok(flow)
            }
            Choice::Abandon(action) => self.abandon(&action).await,
            Choice::Stat(at) => self.stat(&at, None).await.map(|_| Flow::GoesOn),
            Choice::List(at) => self.list(&at).await,
            Choice::Read(at, version) => self.read(&at, version).await,
        }
    }

    /// Carries out a change, sometimes twice at once or twice in a row under one number.
    async fn change(&mut self, action: &Action, session: Option<Session>) -> Result<Flow, Violation> {
        if let Some(session) = session {
            self.client.set_unanswered(action.clone(), session);
        }
        let again = session.is_some() && self.random.chance(1, 8);
        self.world.tally.add("requests repeated", u64::from(again));
        let writers = Writers::begin(self.world, action);
        let (first, second) = (self.random.fork(), self.random.fork());
        let mut flow = if again && self.random.chance(1, 2) {
            // The client lost patience and sent the request again.
            let (first, second) =
                futures_util::future::join(self.once(first, action, session), self.once(second, action, session)).await;
            if first? == Flow::Stops { second.map(|_| Flow::Stops)? } else { second? }
        } else {
            self.once(first, action, session).await?
        };
        if again && flow == Flow::GoesOn {
            // The answer was lost on its way; the client waited for it for a while.
            let patience_ns = self.random.below(PATIENCE_MAX.as_nanos() as u64);
            runtime::sleep(Duration::from_nanos(patience_ns)).await;
            let third = self.random.fork();
            flow = self.once(third, action, session).await?;
        }
        drop(writers);
        if flow == Flow::GoesOn {
            self.client.take_unanswered();
        }
        Ok(flow)
    }

    async fn once(&self, random: Random, action: &Action, session: Option<Session>) -> Result<Flow, Violation> {
        let content = |content: ContentId| self.world.oracle.borrow().content(content);
        self.judged(random, action, session, content).await.map(|(flow, _)| flow)
    }

    /// Carries out a change once, and lets the judge see its call and its answer; returns the answer, if there is one.
    pub(super) async fn judged(
        &self,
        random: Random,
        action: &Action,
        session: Option<Session>,
        content: impl Fn(ContentId) -> Rc<Vec<u8>>,
    ) -> Result<(Flow, Option<Answer>), Violation> {
        let oracle = &self.world.oracle;
        let number = {
            let key = session.map(number_of);
            oracle.borrow_mut().call(action.clone(), key)
        };
        match perform(self.node, random, action, session, content).await {
            Outcome::Answered(answer) => {
                self.tally_answer(action, &answer);
                oracle.borrow_mut().answer(action.path(), number, &answer)?;
                Ok((Flow::GoesOn, Some(answer)))
            }
            Outcome::TurnedDown(error) => {
                oracle.borrow_mut().refuse(action.path(), number)?;
                self.world.tolerate_refusal(&error)?;
                Ok((if self.world.closing.get() { Flow::Stops } else { Flow::GoesOn }, None))
            }
            Outcome::Gone(error) => {
                oracle.borrow_mut().refuse(action.path(), number)?;
                self.world.tolerate_unread(&error)?;
                Ok((Flow::GoesOn, None))
            }
            Outcome::Late(error) => {
                if !self.world.is_remote(self.client.number) {
                    return Err(violation!("{action:?}: the client waits for this answer, yet: {error}"));
                }
                // Its client has the answer to a repetition, and has asked for something else since.
                oracle.borrow_mut().refuse(action.path(), number)?;
                self.world.tally.count("remote requests that were late");
                Ok((Flow::GoesOn, None))
            }
            Outcome::Open(error) => {
                self.world.tolerate_refusal(&error)?;
                Ok((Flow::Stops, None))
            }
        }
    }

    fn tally_answer(&self, action: &Action, answer: &Answer) {
        let tally = &self.world.tally;
        tally.count("changes answered");
        match (action, answer) {
            (Action::Put { bytes, .. }, Answer::Committed { created, .. }) => {
                tally.count(if *created { "files created" } else { "files overwritten" });
                tally.add("bytes put", *bytes);
            }
            (_, Answer::Refused(_)) => tally.count("changes refused"),
            _ => {}
        }
    }

    async fn abandon(&mut self, action: &Action) -> Result<Flow, Violation> {
        let Action::Put { path: at, content, .. } = action else {
            unreachable!("invariant: only puts are abandoned");
        };
        let number = self.world.oracle.borrow_mut().call(action.clone(), None);
        let bytes = self.world.oracle.borrow().content(*content);
        let abandoned = abandon(self.node, self.random.fork(), at, &bytes).await;
        self.world.oracle.borrow_mut().refuse(at, number)?;
        if let Err(error) = abandoned {
            self.world.tolerate_refusal(&error.to_string())?;
        }
        Ok(Flow::GoesOn)
    }

    /// Read-after-write and list-after-write.
    async fn look_back(&mut self, action: &Action) -> Result<(), Violation> {
        let at = match action {
            Action::Rename { to, .. } => to,
            action => action.path(),
        };
        self.stat(at, None).await?;
        if self.random.chance(1, 3) {
            let parent = at.rsplit_once('/').map_or(at, |(parent, _)| parent);
            self.list(if parent.is_empty() { at } else { parent }).await?;
        }
        if self.random.chance(1, 4) {
            self.read(at, None).await?;
        }
        Ok(())
    }

    pub(super) async fn stat(&mut self, at: &str, version: Option<u64>) -> Result<Option<FileInfo>, Violation> {
        let info = match version {
            None => self.names.stat(target(at)).await,
            Some(version) => self.names.stat_version(target(at), VersionNumber(version)).await,
        };
        let seen = match &info {
            Ok(info) if info.path != at => return Err(violation!("a stat of {at} describes {}", info.path)),
            Ok(info) => Ok(info.into()),
            Err(error) => Err(Refusal::of(error).ok_or_else(|| violation!("a stat of {at}: {error}"))?),
        };
        self.world.oracle.borrow_mut().saw_stat(at, version, &seen)?;
        Ok(info.ok())
    }

    pub(super) async fn list(&mut self, at: &str) -> Result<Flow, Violation> {
        let limit = self.random.between(1, 5) as usize;
        let seen = match listing::pages(self.world, self.names, at, limit).await? {
            Ok(infos) => Ok(infos.into_iter().map(|info| info.inode.name).collect()),
            Err(refusal) => Err(refusal),
        };
        self.world.oracle.borrow_mut().saw_list(at, &seen)?;
        Ok(Flow::GoesOn)
    }

    async fn read(&mut self, at: &str, version: Option<u64>) -> Result<Flow, Violation> {
        self.read_bytes(at, version).await.map(|_| Flow::GoesOn)
    }

    /// Reads a file or part of it; returns what came, which is nothing if it is no file or changes meanwhile.
    pub(super) async fn read_bytes(&mut self, at: &str, version: Option<u64>) -> Result<Vec<u8>, Violation> {
        let info = self.stat(at, version).await?;
        let opened = match version {
            None => self.node.open_file(target(at)).await,
            Some(version) => self.node.open_version(target(at), VersionNumber(version)).await,
        };
        if self.stat(at, version).await? != info {
            // It changed on the way between the cores: either may be what was opened.
            return Ok(Vec::new());
        }
        let (mut reader, info) = match (opened, info) {
            (Ok(reader), Some(info)) if info.kind() == Kind::File && *reader.info() == info => (reader, info),
            (Err(_), info) if info.as_ref().is_none_or(|info| info.kind() != Kind::File) => return Ok(Vec::new()),
            (opened, info) => {
                let opened = opened.map(|reader| reader.info().clone());
                return Err(violation!("{at} is {info:?}, but opens as {opened:?}"));
            }
        };
        let allowed = self.world.oracle.borrow_mut().readable(at, version)?;
        let mut range = 0..info.size();
        if self.random.chance(1, 2) {
            self.world.tally.count("ranged reads");
            let start = self.random.below(info.size() + 2);
            range = start..start + self.random.below(info.size() + 2);
            reader.restrict(range.clone());
        }
        if self.random.chance(1, WAITING_READ_ONE_IN) {
            self.world.tally.count("reads that waited after they opened");
            let power = self.random.between(WAIT_NS_POWER_MIN, WAIT_NS_POWER_MAX);
            runtime::sleep(Duration::from_nanos(self.random.below(1 << power))).await;
        }
        let (bytes, error) = read_all(&mut reader).await;
        reads::check(self.world, at, range, &allowed, (&bytes, error)).map(|_| bytes)
    }
}

/// Says for as long as it lives that somebody puts a path.
struct Writers<'a> {
    world: &'a World,
    path: Option<&'a str>,
}

impl<'a> Writers<'a> {
    fn begin(world: &'a World, action: &'a Action) -> Writers<'a> {
        let path = match action {
            Action::Put { path, .. } => Some(path.as_str()),
            _ => None,
        };
        if let Some(path) = path {
            let mut writers = world.writers.borrow_mut();
            let others = writers.entry(path.to_owned()).or_default();
            world.tally.add("puts beside another of the same path", u64::from(*others > 0));
            *others += 1;
        }
        Writers { world, path }
    }
}

impl Drop for Writers<'_> {
    fn drop(&mut self) {
        if let Some(path) = self.path {
            *self.world.writers.borrow_mut().get_mut(path).expect("invariant: it was counted") -= 1;
        }
    }
}
