//! A client that never repeats a request: the first one that is lost ends its round, and its outcome is open.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc::Sender;

use client::{Attributes, Client, ClientError, Upload};

use crate::actor::{Actor, fs_path, send};
use crate::contended::Contended;
use crate::content::Content;

/// How often it reads, per operation.
const READ_PERCENT: u64 = 10;
/// How often it writes to a contended file.
const CONTENDED_PERCENT: u64 = 8;

/// What the writers of one round share.
pub(crate) struct Round<'a> {
    pub(crate) client: Client,
    pub(crate) contended: &'a [Contended],
    /// Set before the server is killed: no request may fail earlier.
    pub(crate) killing: AtomicBool,
    /// Told of each acknowledged operation.
    pub(crate) acknowledged: Sender<()>,
    /// How many of those there were.
    pub(crate) acknowledgements: AtomicU64,
    /// Operations whose outcome is open.
    pub(crate) open: AtomicU64,
}

/// What is known of an operation that failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fate {
    /// It never left.
    NotSent,
    /// It may or may not have happened.
    Open,
}

impl Round<'_> {
    /// What `error` leaves of an operation. Panics if it is not one that a kill causes.
    fn fate(&self, error: &ClientError) -> Fate {
        assert!(self.killing.load(Ordering::SeqCst), "before the server was killed: {error:?}");
        match error {
            ClientError::Unreachable { .. } => Fate::NotSent,
            // An answer that breaks off in its head is none that a server gives.
            ClientError::Interrupted { .. } | ClientError::Protocol { .. } => Fate::Open,
            // Said while it drains.
            ClientError::Api { detail, .. } if detail.code == "closing" => Fate::Open,
            other => panic!("not what a kill causes: {other:?}"),
        }
    }

    fn acknowledge(&self) {
        self.acknowledgements.fetch_add(1, Ordering::Relaxed);
        // Nobody counts any more once the round is over.
        let _ = self.acknowledged.send(());
    }

    /// Does what `actor` chooses until the server is gone.
    pub(crate) fn write(&self, actor: &mut Actor) {
        assert!(actor.space.open.is_none(), "invariant: settled before the round");
        loop {
            let goes_on = match actor.random.below(100) {
                0..CONTENDED_PERCENT => self.write_contended(actor),
                _ => self.write_own(actor),
            };
            if !goes_on {
                return;
            }
            if actor.random.percent(READ_PERCENT)
                && let Err(error) = actor.read_something(&self.client)
            {
                self.fate(&error);
                return;
            }
        }
    }

    fn write_own(&self, actor: &mut Actor) -> bool {
        let operation = actor.choose();
        match send(&self.client, &operation) {
            Ok(answer) => {
                actor.acknowledge(&operation, answer.as_ref());
                self.acknowledge();
                true
            }
            Err(error) => {
                if self.fate(&error) == Fate::Open {
                    self.open.fetch_add(1, Ordering::Relaxed);
                    actor.space.open = Some(operation);
                }
                false
            }
        }
    }

    fn write_contended(&self, actor: &mut Actor) -> bool {
        let bytes = actor.draw_bytes();
        let content = Content::draw(&mut actor.random, bytes);
        let file = actor.random.pick(self.contended).expect("invariant: there are contended files");
        let upload = &mut content.source();
        match self.client.put(&fs_path(&file.path), Upload::rewindable(upload, bytes), &Attributes::default()) {
            Ok(answer) => {
                file.acknowledge(content, &answer);
                self.acknowledge();
                true
            }
            Err(error) => {
                if self.fate(&error) == Fate::Open {
                    self.open.fetch_add(1, Ordering::Relaxed);
                    file.leave_open(content);
                }
                false
            }
        }
    }
}
