//! The calling side: numbers for calls, a line for those beyond [`RPC_SLOTS`], and where answers go.
//!
//! A call takes one of the slots that its peer has and gives it the next number; the slot is free again when the call
//! ends, however it ends. What arrives is news for the call that has the slot now, if it is its number, and otherwise
//! late.
//!
//! Memory: a few KiB for each peer that was ever called, and peers are those of the membership.

use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, VecDeque};
use std::future::poll_fn;
use std::rc::Rc;
use std::task::{Poll, Waker};

use bytes::Bytes;
use futures_channel::oneshot;
use proto::limits::{RPC_SLOTS, RPC_WAITING_MAX};
use proto::port::{Incarnation, Peer, PeerId};

use super::frame::{CallNumber, Refusal};

/// What a waiting call learns.
#[derive(Debug)]
pub(super) enum News {
    Answer(Bytes),
    Refused(Refusal),
    /// The peer has a later start than the call knows.
    Restarted,
}

/// See the module.
#[derive(Default)]
pub(super) struct Callers(RefCell<BTreeMap<PeerId, Callee>>);

/// A peer that is called.
struct Callee {
    /// Its latest start that was heard of.
    incarnation: Option<Incarnation>,
    slots: Vec<Slot>,
    free: Vec<u16>,
    line: VecDeque<oneshot::Sender<Lease>>,
}

#[derive(Default)]
struct Slot {
    /// Of the last call.
    sequence: u64,
    /// Of the call that has the slot.
    waiting: Option<Rc<Waiting>>,
}

/// The ear of one call.
#[derive(Default)]
pub(super) struct Waiting {
    /// The start of the peer that the request was sent to.
    sent_to: Cell<Option<Incarnation>>,
    /// What came and was not looked at. An answer is never replaced.
    news: RefCell<Option<News>>,
    waker: RefCell<Option<Waker>>,
}

impl Waiting {
    /// Waits for what arrives next.
    pub(super) async fn next(&self) -> News {
        poll_fn(|cx| match self.news.take() {
            Some(news) => Poll::Ready(news),
            None => {
                self.waker.replace(Some(cx.waker().clone()));
                Poll::Pending
            }
        })
        .await
    }

    fn tell(&self, news: News) {
        let mut waiting = self.news.borrow_mut();
        if !matches!(*waiting, Some(News::Answer(_))) {
            *waiting = Some(news);
        }
        drop(waiting);
        if let Some(waker) = self.waker.take() {
            waker.wake();
        }
    }

    /// The start of the peer that may have executed the call; `None` if none can have.
    pub(super) fn sent_to(&self) -> Option<Incarnation> {
        self.sent_to.get()
    }

    pub(super) fn set_sent_to(&self, incarnation: Incarnation) {
        self.sent_to.set(Some(incarnation));
    }
}

/// A slot, for one call; given to the next in line when dropped.
pub(super) struct Lease {
    callers: Rc<Callers>,
    peer: PeerId,
    pub(super) call: CallNumber,
    pub(super) waiting: Rc<Waiting>,
}

impl Drop for Lease {
    fn drop(&mut self) {
        self.callers.release(self.peer, self.call.slot);
    }
}

impl Callers {
    /// Waits for a slot of `peer`; `None` if too many wait already.
    pub(super) async fn lease(self: &Rc<Callers>, peer: PeerId) -> Option<Lease> {
        let turn = {
            let mut callees = self.0.borrow_mut();
            let callee = callees.entry(peer).or_default();
            match callee.free.pop() {
                Some(slot) => Err(callee.begin(slot)),
                None => {
                    if callee.line.len() >= RPC_WAITING_MAX {
                        callee.line.retain(|waiting| !waiting.is_canceled());
                    }
                    if callee.line.len() >= RPC_WAITING_MAX {
                        return None;
                    }
                    let (give, turn) = oneshot::channel();
                    callee.line.push_back(give);
                    Ok(turn)
                }
            }
        };
        match turn {
            Ok(turn) => Some(turn.await.expect("invariant: the line is served until it is empty")),
            Err((call, waiting)) => Some(Lease { callers: self.clone(), peer, call, waiting }),
        }
    }

    /// Gives a slot to the first in line who still waits, or keeps it.
    fn release(self: &Rc<Callers>, peer: PeerId, slot: u16) {
        let mut callees = self.0.borrow_mut();
        let callee = callees.get_mut(&peer).expect("invariant: a slot is of a peer that was called");
        callee.slots[usize::from(slot)].waiting = None;
        while let Some(give) = callee.line.pop_front() {
            if give.is_canceled() {
                continue;
            }
            let (call, waiting) = callee.begin(slot);
            drop(callees);
            // If the receiver goes between here and its poll, the lease is dropped with it and comes back.
            drop(give.send(Lease { callers: self.clone(), peer, call, waiting }));
            return;
        }
        callee.free.push(slot);
    }

    /// The latest start of `peer` that was heard of.
    pub(super) fn incarnation(&self, peer: PeerId) -> Option<Incarnation> {
        self.0.borrow().get(&peer)?.incarnation
    }

    /// Notes that `from` sent something: calls to an earlier start of it will never be answered.
    pub(super) fn heard(&self, from: Peer) {
        let mut callees = self.0.borrow_mut();
        let Some(callee) = callees.get_mut(&from.id) else { return };
        if callee.incarnation.is_some_and(|known| known >= from.incarnation) {
            return;
        }
        callee.incarnation = Some(from.incarnation);
        let waiting: Vec<Rc<Waiting>> = callee.slots.iter().filter_map(|slot| slot.waiting.clone()).collect();
        drop(callees);
        waiting.iter().for_each(|waiting| waiting.tell(News::Restarted));
    }

    /// Hands news to the call that waits for it; returns whether one does.
    pub(super) fn tell(&self, from: Peer, call: CallNumber, news: News) -> bool {
        let waiting = {
            let callees = self.0.borrow();
            let slot = callees.get(&from.id).map(|callee| &callee.slots[usize::from(call.slot)]);
            slot.filter(|slot| slot.sequence == call.sequence).and_then(|slot| slot.waiting.clone())
        };
        let Some(waiting) = waiting else { return false };
        // Only the start that was asked can answer; another only says that it was not asked.
        let asked = waiting.sent_to() == Some(from.incarnation);
        if !asked && !matches!(news, News::Refused(Refusal::NotMe)) {
            return false;
        }
        waiting.tell(news);
        true
    }
}

impl Default for Callee {
    fn default() -> Callee {
        Callee {
            incarnation: None,
            slots: (0..RPC_SLOTS).map(|_| Slot::default()).collect(),
            free: (0..RPC_SLOTS as u16).rev().collect(),
            line: VecDeque::new(),
        }
    }
}

impl Callee {
    /// Begins the next call of a slot.
    fn begin(&mut self, number: u16) -> (CallNumber, Rc<Waiting>) {
        let slot = &mut self.slots[usize::from(number)];
        assert!(slot.waiting.is_none(), "invariant: a slot has one call at a time");
        slot.sequence += 1;
        let waiting = Rc::new(Waiting::default());
        slot.waiting = Some(waiting.clone());
        (CallNumber { slot: number, sequence: slot.sequence }, waiting)
    }
}
