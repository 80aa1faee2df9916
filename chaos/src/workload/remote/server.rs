//! The node's side: carries out what arrives, as a client on this machine would, and lets the judge see it.

use std::cell::RefCell;
use std::rc::Rc;

use bytes::Bytes;
use net::rpc::Endpoint;
use node::Node;
use proto::port::runtime;

use super::message::{Request, Response, Work};
use super::{NODE, Remote};
use crate::harness::World;
use crate::oracle::{Violation, violation};
use crate::sim::completion::completion;
use crate::sim::{Random, SimWire, WatchedDisk};
use crate::workload::client::{Flow, Run};

/// Bytes of a read that its client is sent.
const READ_BYTES_MAX: usize = 1 << 20;

/// Starts to answer remote clients; each of them has one of `nodes`, the cores of the node, to itself.
#[must_use]
pub fn serve(world: Rc<World>, remote: Rc<Remote>, nodes: Vec<Node<WatchedDisk>>, random: Random) -> Endpoint<SimWire> {
    let random = RefCell::new(random);
    Endpoint::serve(remote.network.clone().bind(NODE), move |_, message| {
        let (world, remote, random) = (world.clone(), remote.clone(), random.borrow_mut().fork());
        let nodes = nodes.clone();
        async move {
            let Some(request) = Request::decode(&message) else {
                remote.fail(violation!("a request of {} bytes", message.len()));
                return Response::Stops.encode();
            };
            let permit = remote.permit(request.client).await;
            let may_drop = remote.may_drop(request.client);
            let execution = async move {
                let executed = carry_out(&world, &remote, &nodes, random, request).await;
                permit.end();
                executed.unwrap_or_else(|violation| {
                    remote.fail(violation);
                    Response::Stops
                })
            };
            if may_drop {
                return execution.await.encode();
            }
            let (completer, completion) = completion();
            runtime::spawn(async move { completer.complete(execution.await.encode()) });
            completion.await
        }
    })
}

/// Carries out one request, and notes what its client may be told.
async fn carry_out(
    world: &World,
    remote: &Remote,
    nodes: &[Node<WatchedDisk>],
    random: Random,
    request: Request,
) -> Result<Response, Violation> {
    let Request { client, number, work } = request;
    if !remote.wants(client, number) {
        return Ok(Response::Stops);
    }
    let (node, names) = (&nodes[client % nodes.len()], &nodes[0]);
    let mut run = Run { world, node, names, client: &world.clients[client], random };
    let response = match work {
        Work::Change { action, session, bytes } => {
            // What arrived is written, whatever was meant: the judge knows what was meant.
            let arrived = Rc::new(bytes.to_vec());
            match run.judged(run.random.clone(), &action, session, |_| arrived.clone()).await? {
                (Flow::Stops, _) => Response::Stops,
                (Flow::GoesOn, Some(answer)) => Response::Answered(answer),
                (Flow::GoesOn, None) => Response::TurnedDown,
            }
        }
        Work::Stat { path } => {
            run.stat(&path, None).await?;
            Response::Seen(Bytes::new())
        }
        Work::List { path } => {
            run.list(&path).await?;
            Response::Seen(Bytes::new())
        }
        Work::Read { path, version } => {
            let mut bytes = run.read_bytes(&path, version).await?;
            bytes.truncate(READ_BYTES_MAX);
            Response::Seen(bytes.into())
        }
    };
    if let Some((current, given)) = remote.given.borrow_mut().get_mut(&client)
        && *current == number
    {
        given.push(response.encode());
    }
    Ok(response)
}
