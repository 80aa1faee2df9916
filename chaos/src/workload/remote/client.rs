//! A client that reaches the node over the wire alone, and lives on when the node crashes.

use std::rc::Rc;
use std::time::Duration;

use bytes::Bytes;
use meta::Session;
use net::rpc::{CallError, Endpoint, RPC_BODY_BYTES_MAX};

use super::message::{Request, Response, Work};
use super::{NODE, Remote, peer};
use crate::harness::World;
use crate::oracle::model::Action;
use crate::oracle::{Violation, violation};
use crate::sim::{Random, SimWire};
use crate::workload::choice::Choice;
use crate::workload::client::{Client, Flow};

/// How long a client waits for an answer before it makes the call anew.
const PATIENCE_MIN: Duration = Duration::from_millis(1);
const PATIENCE_MAX: Duration = Duration::from_millis(200);
/// Calls that a client makes for one request before it leaves it to a later round.
const CALLS_MAX: u64 = 40;
/// Requests are that much shorter than what a call takes.
const REQUEST_EXTRA_BYTES: u64 = 64 << 10;

struct RemoteClient {
    world: Rc<World>,
    remote: Rc<Remote>,
    number: usize,
    endpoint: Endpoint<SimWire>,
    /// Requests so far.
    requests: u64,
    random: Random,
}

/// Works on as client `number` for as long as the simulation goes on.
pub async fn run(world: Rc<World>, remote: Rc<Remote>, number: usize, random: Random) {
    let endpoint = Endpoint::open(remote.network.bind(peer(number)));
    let mut client = RemoteClient { world, remote: remote.clone(), number, endpoint, requests: 0, random };
    loop {
        let round = remote.rounds.get();
        if let Err(violation) = client.round().await {
            remote.fail(violation);
        }
        remote.next_round(round).await;
    }
}

impl RemoteClient {
    /// Asks again for what has no answer yet, then goes on as long as clients may begin more.
    async fn round(&mut self) -> Result<(), Violation> {
        let unanswered = self.client().take_unanswered();
        if let Some((action, session)) = unanswered
            && self.random.chance(3, 4)
            && self.change(action, Some(session)).await? == Flow::Stops
        {
            return Ok(());
        }
        while self.world.begin_operation() {
            if self.step().await? == Flow::Stops {
                break;
            }
        }
        Ok(())
    }

    fn client(&self) -> &Client {
        &self.world.clients[self.number]
    }

    async fn step(&mut self) -> Result<Flow, Violation> {
        let world = self.world.clone();
        let choice = world.clients[self.number].choose(&world, &mut self.random)?;
        world.tally.count("remote operations");
        match choice {
            Choice::Change(action) => {
                let session = self.random.chance(3, 4).then(|| self.client().next_session());
                self.change(action, session).await
            }
            // Whoever goes away in the middle of a message has sent nothing.
            Choice::Abandon(action) => self.ask(Work::Stat { path: action.path().to_owned() }).await,
            Choice::Stat(path) => self.ask(Work::Stat { path }).await,
            Choice::List(path) => self.ask(Work::List { path }).await,
            Choice::Read(path, version) => self.ask(Work::Read { path, version }).await,
        }
    }

    /// Carries out a change; what has a session is asked for until it is answered.
    async fn change(&mut self, action: Action, session: Option<Session>) -> Result<Flow, Violation> {
        let bytes = match &action {
            Action::Put { bytes, .. } if *bytes + REQUEST_EXTRA_BYTES > RPC_BODY_BYTES_MAX as u64 => {
                return Ok(Flow::GoesOn);
            }
            Action::Put { content, .. } => Bytes::from(self.world.oracle.borrow().content(*content).to_vec()),
            _ => Bytes::new(),
        };
        if let Some(session) = session {
            self.client().set_unanswered(action.clone(), session);
        }
        let flow = self.ask(Work::Change { action, session, bytes }).await?;
        if flow == Flow::GoesOn {
            self.client().take_unanswered();
        }
        Ok(flow)
    }

    /// Makes a request, by as many calls as it takes; one without a session is made once.
    async fn ask(&mut self, work: Work) -> Result<Flow, Violation> {
        let (remote, world) = (self.remote.clone(), self.world.clone());
        self.requests += 1;
        remote.given.borrow_mut().insert(self.number, (self.requests, Vec::new()));
        let once = matches!(work, Work::Change { session: None, .. });
        let request = Request { client: self.number, number: self.requests, work }.encode();
        for call in 0..CALLS_MAX {
            let patience_ns = self.random.between(PATIENCE_MIN.as_nanos() as u64, PATIENCE_MAX.as_nanos() as u64);
            world.tally.add("remote requests made anew", u64::from(call > 0));
            match self.endpoint.call(NODE, request.clone(), Duration::from_nanos(patience_ns)).await {
                Ok(answer) => return self.told(&answer),
                Err(CallError::NoAnswer { .. }) => world.tally.count("remote calls without an answer"),
                Err(CallError::Restarted { .. }) => world.tally.count("remote calls cut off by a restart"),
                Err(CallError::Forgotten { .. }) => world.tally.count("remote calls whose answer was forgotten"),
                Err(error) => return Err(violation!("client {}: {error}", self.number)),
            }
            if once {
                // It may have happened or not: nobody will ever ask.
                return Ok(Flow::GoesOn);
            }
        }
        world.tally.count("remote requests left to a later round");
        Ok(Flow::Stops)
    }

    /// An answer arrived: the node must have given it to this request.
    fn told(&self, answer: &Bytes) -> Result<Flow, Violation> {
        let given = self.remote.given.borrow();
        let (_, given) = &given[&self.number];
        if !given.contains(answer) {
            let (client, of) = (self.number, given.len());
            return Err(violation!("client {client} was told what is none of the node's {of} answers: {answer:?}"));
        }
        self.world.tally.count("remote answers");
        match Response::decode(answer) {
            Some(Response::Answered(_) | Response::TurnedDown | Response::Seen(_)) => Ok(Flow::GoesOn),
            Some(Response::Stops) => Ok(Flow::Stops),
            None => Err(violation!("client {} cannot read its answer: {answer:?}", self.number)),
        }
    }
}
