//! The oracle of the simulator, heard by many threads: it lives on one of its own, and they come before it one by one.
//!
//! Where the simulator's clients hand over bytes, these hand over descriptions of them ([`Content::describe`]): the oracle
//! only passes contents through, and a run of an hour sends more than fits in memory.
//!
//! [`Content::describe`]: super::content::Content::describe

use std::collections::BTreeMap;
use std::sync::mpsc::{Sender, channel};

use chunk::ChunkerId;

use crate::oracle::model::{Action, Answer};
use crate::oracle::{Oracle, Violation};

/// The oracle, and which operations their clients will repeat after a crash.
pub(super) struct Docket {
    pub(super) oracle: Oracle,
    /// By client: the operation under way as the oracle knows it, and as it is repeated.
    patient: BTreeMap<u64, (u64, Action, u64)>,
    /// Whether the process may still be about to do something that nobody waits for.
    is_unsettled: bool,
}

impl Docket {
    fn new() -> Docket {
        Docket { oracle: Oracle::new(ChunkerId::FASTCDC_64_KIB), patient: BTreeMap::new(), is_unsettled: false }
    }

    /// A client that repeats its requests until they are answered calls an operation.
    pub(super) fn call_patiently(&mut self, client: u64, sequence: u64, action: Action) {
        let number = self.oracle.call(action.clone(), Some((client, sequence)));
        self.patient.insert(client, (number, action, sequence));
    }

    /// The number of the operation that a patient client has under way, which is over now.
    pub(super) fn settle_patiently(&mut self, client: u64) -> u64 {
        self.patient.remove(&client).expect("invariant: it was called").0
    }

    /// Nobody waits for an operation any more, and it may still happen.
    pub(super) fn leave_open(&mut self) {
        self.is_unsettled = true;
    }

    /// Whether an operation that was left open may still happen in this process.
    pub(super) fn is_unsettled(&self) -> bool {
        self.is_unsettled
    }

    /// The process is gone: patient clients call again, the others never learn what became of their operations.
    pub(super) fn crash(&mut self) -> Result<(), Violation> {
        self.oracle.crash()?;
        self.is_unsettled = false;
        for (client, (number, action, sequence)) in &mut self.patient {
            *number = self.oracle.call(action.clone(), Some((*client, *sequence)));
        }
        Ok(())
    }

    pub(super) fn answer(&mut self, path: &str, number: u64, answer: &Answer) -> Result<(), Violation> {
        self.oracle.answer(path, number, answer)
    }
}

type Matter = Box<dyn FnOnce(&mut Docket) + Send>;

/// See the module. Ends when the last clone is dropped.
#[derive(Clone)]
pub(super) struct Court {
    matters: Sender<Matter>,
}

impl Court {
    pub(super) fn open() -> Court {
        let (matters, incoming) = channel::<Matter>();
        let sits = move || {
            let mut docket = Docket::new();
            incoming.into_iter().for_each(|matter| matter(&mut docket));
        };
        std::thread::Builder::new().name("oracle".to_owned()).spawn(sits).expect("a thread");
        Court { matters }
    }

    /// Has the oracle's thread do something, and waits for what comes of it.
    pub(super) fn hear<T: Send + 'static>(&self, matter: impl FnOnce(&mut Docket) -> T + Send + 'static) -> T {
        let (sender, heard) = channel();
        let matter: Matter = Box::new(move |docket| {
            // Whoever asked waits for the answer.
            let _ = sender.send(matter(docket));
        });
        self.matters.send(matter).expect("invariant: the court sits as long as there is somebody to hear");
        heard.recv().expect("the oracle's thread has failed; see its message")
    }
}
