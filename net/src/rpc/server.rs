//! The serving side: which calls are executed, and which answers are kept in case they are asked for again.
//!
//! A pure bookkeeper: [`Server::take`] says what to do with a request, [`Server::finish`] takes the answer of one that
//! was executed. Each slot of each caller has the call that came last, and so:
//!
//! * A number above that of the slot is a new call; the caller has given up on the one before, whose answer goes.
//! * The same number again is answered from memory, or ignored while it is executed.
//! * A number below is late: its caller waits no more.
//!
//! So a call is executed at most once for as long as its caller is remembered, and the memory is that of
//! [`RPC_CLIENTS_MAX`] × `RPC_SLOTS` slots and [`RPC_ANSWERS_BYTES_MAX`] of answers.

use std::collections::BTreeMap;

use bytes::Bytes;
use proto::limits::{RPC_ANSWERS_BYTES_MAX, RPC_CLIENTS_MAX, RPC_EXECUTING_MAX};
use proto::port::{Incarnation, Peer, PeerId};

use super::frame::{CallNumber, Refusal};

/// What to do with a request.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    /// Execute it, and hand the answer to [`Server::finish`].
    Execute,
    /// It was executed: send this frame again.
    Repeat(Bytes),
    /// Say why not.
    Refuse(Refusal),
    /// It is executed right now; its answer will be sent.
    Underway,
    /// Nobody waits for it any more.
    Late,
}

/// See the module.
#[derive(Default)]
pub(super) struct Server {
    callers: BTreeMap<PeerId, Caller>,
    executing: usize,
    closed: bool,
    /// The slots that have an answer, the oldest first.
    answers: BTreeMap<u64, (PeerId, u16)>,
    answers_bytes: usize,
    /// Counts requests and answers: orders what is old.
    clock: u64,
}

struct Caller {
    incarnation: Incarnation,
    heard: u64,
    slots: BTreeMap<u16, Slot>,
}

struct Slot {
    sequence: u64,
    state: State,
}

enum State {
    Executing,
    /// The answer's place in the order, and its frame.
    Answered(u64, Bytes),
    Forgotten,
}

impl Server {
    /// Decides about a request that is for this start of the server.
    pub(super) fn take(&mut self, from: Peer, call: CallNumber) -> Verdict {
        self.clock += 1;
        if let Some(caller) = self.callers.get_mut(&from.id) {
            if from.incarnation < caller.incarnation {
                return Verdict::Late;
            }
            if from.incarnation > caller.incarnation {
                // Its earlier start waits for nothing any more.
                self.forget_caller(from.id);
            } else {
                caller.heard = self.clock;
                if let Some(slot) = caller.slots.get(&call.slot)
                    && call.sequence <= slot.sequence
                {
                    return if call.sequence < slot.sequence { Verdict::Late } else { slot.again() };
                }
            }
        }
        if self.closed || self.executing == RPC_EXECUTING_MAX {
            return Verdict::Refuse(Refusal::Busy);
        }
        self.begin(from, call);
        Verdict::Execute
    }

    fn begin(&mut self, from: Peer, call: CallNumber) {
        self.executing += 1;
        if !self.callers.contains_key(&from.id) && self.callers.len() == RPC_CLIENTS_MAX {
            let longest = self.callers.iter().min_by_key(|(_, caller)| caller.heard).map(|(id, _)| *id);
            self.forget_caller(longest.expect("invariant: there are callers"));
        }
        let (incarnation, heard) = (from.incarnation, self.clock);
        let caller = self.callers.entry(from.id);
        let caller = caller.or_insert_with(|| Caller { incarnation, heard, slots: BTreeMap::new() });
        let begun = Slot { sequence: call.sequence, state: State::Executing };
        if let Some(Slot { state: State::Answered(place, frame), .. }) = caller.slots.insert(call.slot, begun) {
            self.answers.remove(&place);
            self.answers_bytes -= frame.len();
        }
    }

    /// Keeps the frame that answers a call which was executed. Returns whether the caller may still wait for it.
    pub(super) fn finish(&mut self, from: Peer, call: CallNumber, frame: Bytes) -> bool {
        self.executing -= 1;
        let caller = self.callers.get_mut(&from.id).filter(|caller| caller.incarnation == from.incarnation);
        let slot = caller.and_then(|caller| caller.slots.get_mut(&call.slot));
        let awaits = |slot: &&mut Slot| slot.sequence == call.sequence && matches!(slot.state, State::Executing);
        let Some(slot) = slot.filter(awaits) else { return false };
        self.clock += 1;
        self.answers_bytes += frame.len();
        self.answers.insert(self.clock, (from.id, call.slot));
        slot.state = State::Answered(self.clock, frame);
        while self.answers_bytes > RPC_ANSWERS_BYTES_MAX {
            self.forget_oldest_answer();
        }
        true
    }

    /// Executes no further call.
    pub(super) fn close(&mut self) {
        self.closed = true;
    }

    /// Calls that are executed now.
    pub(super) fn executing(&self) -> usize {
        self.executing
    }

    fn forget_oldest_answer(&mut self) {
        let (_, (id, slot)) = self.answers.pop_first().expect("invariant: bytes of answers are those of some");
        let caller = self.callers.get_mut(&id).expect("invariant: a caller with an answer is known");
        let slot = caller.slots.get_mut(&slot).expect("invariant: a slot with an answer is known");
        let State::Answered(_, frame) = std::mem::replace(&mut slot.state, State::Forgotten) else {
            unreachable!("invariant: the order names slots with answers");
        };
        self.answers_bytes -= frame.len();
    }

    fn forget_caller(&mut self, id: PeerId) {
        let caller = self.callers.remove(&id).expect("invariant: who is forgotten was known");
        for slot in caller.slots.into_values() {
            if let State::Answered(place, frame) = slot.state {
                self.answers.remove(&place);
                self.answers_bytes -= frame.len();
            }
        }
    }
}

impl Slot {
    /// What a repetition of the slot's call is told.
    fn again(&self) -> Verdict {
        match &self.state {
            State::Executing => Verdict::Underway,
            State::Answered(_, frame) => Verdict::Repeat(frame.clone()),
            State::Forgotten => Verdict::Refuse(Refusal::Forgotten),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proto::limits::RPC_SLOTS;

    fn peer(id: u64, incarnation: u64) -> Peer {
        Peer { id: PeerId(id), incarnation: Incarnation(incarnation) }
    }

    fn call(slot: u16, sequence: u64) -> CallNumber {
        CallNumber { slot, sequence }
    }

    fn frame(bytes: usize) -> Bytes {
        Bytes::from(vec![1; bytes])
    }

    #[test]
    fn a_repeated_call_is_executed_once_and_answered_from_memory() {
        let mut server = Server::default();
        assert_eq!(server.take(peer(1, 1), call(0, 1)), Verdict::Execute);
        assert_eq!(server.take(peer(1, 1), call(0, 1)), Verdict::Underway);
        assert!(server.finish(peer(1, 1), call(0, 1), frame(3)));
        assert_eq!(server.take(peer(1, 1), call(0, 1)), Verdict::Repeat(frame(3)));
        assert_eq!(server.take(peer(1, 1), call(1, 1)), Verdict::Execute, "another slot");
        assert_eq!(server.take(peer(2, 1), call(0, 1)), Verdict::Execute, "another caller");
    }

    #[test]
    fn a_call_that_its_caller_gave_up_is_not_begun_any_more() {
        let mut server = Server::default();
        assert_eq!(server.take(peer(1, 1), call(0, 5)), Verdict::Execute);
        assert_eq!(server.take(peer(1, 1), call(0, 7)), Verdict::Execute);
        assert_eq!(server.take(peer(1, 1), call(0, 5)), Verdict::Late);
        assert_eq!(server.take(peer(1, 1), call(0, 6)), Verdict::Late);
        assert!(!server.finish(peer(1, 1), call(0, 5), frame(1)), "nobody waits for it");
        assert!(server.finish(peer(1, 1), call(0, 7), frame(2)));
        assert_eq!(server.take(peer(1, 1), call(0, 7)), Verdict::Repeat(frame(2)));
    }

    #[test]
    fn a_restarted_caller_starts_anew_and_its_earlier_start_is_late() {
        let mut server = Server::default();
        assert_eq!(server.take(peer(1, 1), call(0, 9)), Verdict::Execute);
        assert_eq!(server.take(peer(1, 2), call(0, 1)), Verdict::Execute);
        assert_eq!(server.take(peer(1, 1), call(0, 10)), Verdict::Late);
        assert!(!server.finish(peer(1, 1), call(0, 9), frame(1)));
        assert!(server.finish(peer(1, 2), call(0, 1), frame(1)));
        assert_eq!(server.executing(), 0);
    }

    #[test]
    fn answers_are_bounded_in_bytes_and_a_forgotten_one_is_not_made_again() {
        let mut server = Server::default();
        let part = RPC_ANSWERS_BYTES_MAX / 4;
        for sequence in 1..=3 {
            for slot in 0..RPC_SLOTS as u16 {
                assert_eq!(server.take(peer(1, 1), call(slot, sequence)), Verdict::Execute);
                assert!(server.finish(peer(1, 1), call(slot, sequence), frame(part)));
                assert!(server.answers_bytes <= RPC_ANSWERS_BYTES_MAX);
            }
        }
        assert_eq!(server.answers.len(), 4);
        assert_eq!(server.take(peer(1, 1), call(0, 3)), Verdict::Refuse(Refusal::Forgotten));
        assert_eq!(server.take(peer(1, 1), call(RPC_SLOTS as u16 - 1, 3)), Verdict::Repeat(frame(part)));
        server.forget_caller(PeerId(1));
        assert_eq!((server.answers_bytes, server.answers.len()), (0, 0));
    }

    #[test]
    fn what_is_executed_at_a_time_is_bounded_and_a_refused_call_may_come_again() {
        let mut server = Server::default();
        for id in 0..RPC_EXECUTING_MAX as u64 {
            assert_eq!(server.take(peer(id, 1), call(0, 1)), Verdict::Execute);
        }
        assert_eq!(server.take(peer(9999, 1), call(0, 1)), Verdict::Refuse(Refusal::Busy));
        assert!(server.finish(peer(0, 1), call(0, 1), frame(1)));
        assert_eq!(server.take(peer(9999, 1), call(0, 1)), Verdict::Execute);
        server.close();
        assert!(server.finish(peer(1, 1), call(0, 1), frame(1)));
        assert_eq!(server.take(peer(1, 1), call(0, 2)), Verdict::Refuse(Refusal::Busy));
        assert_eq!(server.take(peer(1, 1), call(0, 1)), Verdict::Repeat(frame(1)), "answers outlast the close");
    }

    #[test]
    fn callers_are_bounded_and_the_silent_one_leaves_first() {
        let mut server = Server::default();
        for id in 0..RPC_CLIENTS_MAX as u64 {
            assert_eq!(server.take(peer(id, 1), call(0, 1)), Verdict::Execute);
            assert!(server.finish(peer(id, 1), call(0, 1), frame(1)));
        }
        assert_eq!(server.take(peer(0, 1), call(0, 1)), Verdict::Repeat(frame(1)));
        assert_eq!(server.take(peer(5000, 1), call(0, 1)), Verdict::Execute);
        assert_eq!(server.callers.len(), RPC_CLIENTS_MAX);
        assert!(server.callers.contains_key(&PeerId(0)) && !server.callers.contains_key(&PeerId(1)));
    }
}
