//! `net::rpc`: frames of calls, against an end that serves and has a call under way.
//!
//! An input is a row of messages, each as another start of a peer may have sent it: frames with their checksums made
//! right, or bytes as they are. What must hold: nothing is executed but requests, once each; the call ends.

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::rc::Rc;
use std::time::Duration;

use bytes::Bytes;
use chaos::sim::Simulation;
use net::rpc::Endpoint;
use proto::checksum::checksum;
use proto::limits::WIRE_MESSAGE_BYTES_MAX;
use proto::port::{Incarnation, Peer, PeerId, Received, SendError, Wire, runtime};

use super::Parts;
use crate::{Memory, Target};

const HEADER_BYTES: usize = 64;
/// The end under test, as frames name it.
const ME: u64 = 0x33;
const OTHER: PeerId = PeerId(2);
const PATIENCE: Duration = Duration::from_secs(5);

pub(super) fn targets() -> Vec<Target> {
    vec![Target {
        name: "rpc",
        run,
        corpus,
        memory: Memory { fixed_bytes: 4 << 20, per_byte: 400 },
        input_bytes_max: 2048,
        cases: 1_500,
    }]
}

/// A wire that delivers what the input holds, each message after a moment, and takes whatever is sent.
#[derive(Clone)]
struct Scripted(Rc<RefCell<VecDeque<Received>>>);

impl Wire for Scripted {
    fn me(&self) -> Peer {
        Peer { id: PeerId(1), incarnation: Incarnation(ME) }
    }

    fn send(&self, _: PeerId, message: Bytes) -> Result<(), SendError> {
        assert!((HEADER_BYTES..=WIRE_MESSAGE_BYTES_MAX).contains(&message.len()), "what is sent is a frame");
        Ok(())
    }

    async fn receive(&self) -> Received {
        runtime::sleep(Duration::from_millis(1)).await;
        let next = self.0.borrow_mut().pop_front();
        match next {
            Some(received) => received,
            None => std::future::pending().await,
        }
    }
}

/// Makes a frame of what stands where a header should, and of the rest: all but who it is for and what it says.
fn repaired(message: &[u8]) -> Vec<u8> {
    let mut frame = message.to_vec();
    frame.resize(frame.len().max(HEADER_BYTES), 0);
    let (header, body) = frame.split_at_mut(HEADER_BYTES);
    header[..6].copy_from_slice(b"DFSC\x01\0");
    header[12..16].copy_from_slice(&(body.len() as u32).to_le_bytes());
    header[48..56].copy_from_slice(&checksum(body).to_le_bytes());
    let sum = checksum(&header[..56]);
    header[56..].copy_from_slice(&sum.to_le_bytes());
    frame
}

fn run(input: &[u8]) {
    let mut parts = Parts(input);
    let mut script = VecDeque::new();
    while !parts.0.is_empty() {
        let (flags, bytes) = (parts.number(1), parts.number(1) as usize);
        let message = parts.bytes(bytes);
        let message = if flags & 1 == 0 { repaired(message) } else { message.to_vec() };
        // A few peers, and a few starts of each.
        let from = Peer { id: PeerId(2 + (flags >> 1 & 3)), incarnation: Incarnation(1 + (flags >> 3)) };
        script.push_back(Received { from, message: message.into() });
    }
    let mut simulation = Simulation::new(1);
    simulation.run(converse(script)).unwrap_or_else(|stuck| panic!("{stuck}"));
}

async fn converse(script: VecDeque<Received>) {
    let messages = script.len() as u64;
    let wire = Scripted(Rc::new(RefCell::new(script)));
    let executed = Rc::new(Cell::new(0));
    let counted = executed.clone();
    let endpoint = Endpoint::serve(wire.clone(), move |_, request| {
        counted.set(counted.get() + 1);
        async move { request }
    });
    let begun = runtime::monotonic();
    let _ = endpoint.call(OTHER, Bytes::from_static(b"question"), PATIENCE).await;
    assert!(runtime::monotonic() <= begun + PATIENCE + Duration::from_secs(1), "a call ends with its patience");
    while !wire.0.borrow().is_empty() {
        runtime::sleep(Duration::from_millis(10)).await;
    }
    endpoint.close().await;
    assert!(executed.get() <= messages, "a message makes one execution at most");
    assert_eq!(endpoint.counts().executed, executed.get());
}

fn corpus() -> Vec<Vec<u8>> {
    let frame = |kind: u8, reason: u8, slot: u8, sequence: u8, to: u64, body: &[u8]| {
        let mut header = [0; HEADER_BYTES];
        (header[6], header[7], header[8], header[16]) = (kind, reason, slot, sequence);
        header[24..32].copy_from_slice(&to.to_le_bytes());
        repaired(&[&header, body].concat())
    };
    let record = |flags: u8, message: Vec<u8>| [&[flags, message.len() as u8][..], &message].concat();
    let request = |slot, sequence| frame(2, 0, slot, sequence, ME, b"question");
    vec![
        record(0, frame(1, 0, 0, 1, 0, b"")),
        [record(0, request(0, 1)), record(0, request(0, 1)), record(0, request(0, 3))].concat(),
        [record(0, frame(4, 1, 0, 1, ME, b"")), record(0, frame(3, 0, 0, 1, ME, b"answer"))].concat(),
        [record(0, frame(4, 2, 0, 1, ME, b"")), record(8, frame(4, 3, 0, 1, ME, b""))].concat(),
        [record(1, request(5, 1)), record(2, request(5, 2)), record(10, request(5, 1))].concat(),
    ]
}
