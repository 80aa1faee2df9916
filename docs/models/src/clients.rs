//! Writers, a reader, and what is done to versions.

use crate::state::{Chunk, Entry, Epoch, Key, Known, Part, Pin, Read, Segment, Stage, State, Upload};
use crate::{Mistake, Protocol};

/// What a client does; writers by number.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Client {
    /// Asks the owner for the chunk. A hit pins it.
    Claim(usize, Chunk),
    /// Writes a row with the chunk, durably.
    Store(usize, Chunk),
    /// Tells the owner where the row is.
    Insert(usize, Chunk),
    /// Has the owner's answer.
    Receive(usize, Chunk),
    /// Makes the version, if the fence lets it.
    Commit(usize),
    /// Sends the same command again, because no answer came.
    CommitAgain(usize),
    /// Deletes a version, or lets it expire.
    Delete(Key),
    /// Makes a new version of the same inode, in one command.
    Restore(Key),
    /// First half of [`Mistake::RestoreInTwoSteps`].
    ReadToRestore(Key),
    /// Second half.
    WriteRestored,
    /// [`Mistake::CloneWithoutPin`]: a new version of an inode that the walk comes to earlier.
    Clone(Key),
    /// Asks the metadata for a version.
    Ask(Key),
    /// Has the answer: the lease is in the table.
    Open,
    /// Ends the lease.
    Close,
}

impl Protocol {
    pub(crate) fn client_actions(&self, state: &State) -> Vec<Client> {
        let mut actions = Vec::new();
        for (writer, upload) in state.uploads.iter().enumerate() {
            match upload {
                Upload::Open { parts, .. } => {
                    for &(chunk, part) in parts {
                        match part {
                            Part::Wanted => actions.push(Client::Claim(writer, chunk)),
                            Part::Absent => actions.push(Client::Store(writer, chunk)),
                            Part::Stored(_) => actions.push(Client::Insert(writer, chunk)),
                            Part::Answered(..) => actions.push(Client::Receive(writer, chunk)),
                            Part::Held(..) => {}
                        }
                    }
                    if parts.iter().all(|(_, part)| matches!(part, Part::Held(..))) {
                        actions.push(Client::Commit(writer));
                    }
                }
                Upload::Committed { .. } => actions.push(Client::CommitAgain(writer)),
                Upload::Ended => {}
            }
        }
        for &key in state.versions.keys() {
            if state.left.deletes > 0 {
                actions.push(Client::Delete(key));
            }
            if state.left.reads > 0 {
                actions.push(Client::Ask(key));
            }
            if state.left.restores > 0 {
                actions.push(match self.mistake {
                    Some(Mistake::RestoreInTwoSteps) => Client::ReadToRestore(key),
                    Some(Mistake::CloneWithoutPin) => Client::Clone(key),
                    _ => Client::Restore(key),
                });
            }
        }
        match state.read {
            Read::Opening(_) => actions.push(Client::Open),
            Read::Open(_) => actions.push(Client::Close),
            Read::Idle | Read::Ended => {}
        }
        actions.extend(state.restoring.is_some().then_some(Client::WriteRestored));
        actions
    }

    pub(crate) fn act(&self, state: &mut State, client: Client) {
        match client {
            Client::Claim(writer, chunk) => self.claim(state, writer, chunk),
            Client::Store(writer, chunk) => {
                let segment = Segment { rows: vec![chunk], durable: true, hot: true, stage: Stage::Listed };
                let place = self.write_row(state, chunk, segment);
                set_part(state, writer, chunk, Part::Stored(place));
            }
            Client::Insert(writer, chunk) => self.insert(state, writer, chunk),
            Client::Receive(writer, chunk) => receive(state, writer, chunk),
            Client::Commit(writer) => self.commit(state, writer),
            Client::CommitAgain(writer) => self.commit_again(state, writer),
            Client::Delete(key) => {
                state.left.deletes -= 1;
                state.versions.remove(&key);
                state.unreadable = state.unreadable.filter(|&unreadable| unreadable != key);
            }
            Client::Restore(key) => {
                state.left.restores -= 1;
                let entries = state.versions[&key].clone();
                make_version(state, key.inode, entries);
            }
            Client::ReadToRestore(key) => {
                state.left.restores -= 1;
                state.restoring = Some((key.inode, state.versions[&key].clone()));
            }
            Client::WriteRestored => {
                let (inode, entries) = state.restoring.take().expect("a restore is under way");
                make_version(state, inode, entries);
            }
            Client::Clone(key) => {
                state.left.restores -= 1;
                let entries = state.versions[&key].clone();
                make_version(state, 0, entries);
            }
            Client::Ask(key) => {
                state.left.reads -= 1;
                state.read = Read::Opening(state.versions[&key].clone());
            }
            Client::Open => state.read = Read::Open(state.read.entries().clone()),
            Client::Close => state.read = Read::Ended,
        }
    }

    /// At the owner: a hit pins, and the answer carries the epoch of the pin.
    fn claim(&self, state: &mut State, writer: usize, chunk: Chunk) {
        let told = state.told(chunk);
        let part = match &mut state.index[chunk] {
            Some(known) => {
                if !self.has(Mistake::HitDoesNotPin) {
                    known.pin = Pin::at(told);
                }
                Part::Answered(self.answer(told, state.epoch), known.place)
            }
            None => Part::Absent,
        };
        // The client sent its bytes once. What was condemned since its first answer, it must send again.
        if let (Part::Absent, Upload::Open { refused: true, .. }) = (part, &state.uploads[writer]) {
            state.uploads[writer] = Upload::Ended;
        } else {
            set_part(state, writer, chunk, part);
        }
    }

    /// At the owner: an older copy keeps answering.
    fn insert(&self, state: &mut State, writer: usize, chunk: Chunk) {
        let Some(&(_, Part::Stored(written))) = state.uploads[writer].parts().iter().find(|part| part.0 == chunk)
        else {
            unreachable!("only what was stored is inserted");
        };
        let told = state.told(chunk);
        let place = state.index[chunk].map_or(written, |known| known.place);
        state.index[chunk] = Some(Known { place, pin: Pin::at(told) });
        set_part(state, writer, chunk, Part::Answered(self.answer(told, state.epoch), place));
    }

    fn answer(&self, told: Epoch, durable: Epoch) -> Epoch {
        if self.has(Mistake::AnswerAtAnotherEpoch) { durable } else { told }
    }

    /// At the metadata: the lease ends with the answer.
    fn commit(&self, state: &mut State, writer: usize) {
        let Upload::Open { parts, since, refused } = &mut state.uploads[writer] else {
            unreachable!("only an open upload is committed");
        };
        let held = parts.iter().map(|&(chunk, part)| match part {
            Part::Held(epoch, hint) => (epoch, Entry { chunk, hint }),
            _ => unreachable!("only what owners answered for is committed"),
        });
        let (epochs, entries): (Vec<Epoch>, Vec<Entry>) = held.unzip();
        let pin = epochs.into_iter().min().expect("an upload has chunks");
        if pin < state.fence {
            parts.iter_mut().for_each(|(_, part)| *part = Part::Wanted);
            *refused = true;
        } else {
            let cycles = state.epoch - since.expect("an owner answered");
            state.uploads[writer] = Upload::Committed { pin, cycles, refused: *refused };
            make_version(state, self.uploads[writer].0, entries);
        }
    }

    /// At the metadata: the table of results has the answer.
    fn commit_again(&self, state: &mut State, writer: usize) {
        let Upload::Committed { pin, .. } = state.uploads[writer] else {
            unreachable!("only a commit is sent again");
        };
        state.ghost.refused_later |= self.has(Mistake::FenceBeforeResults) && pin < state.fence;
    }
}

fn set_part(state: &mut State, writer: usize, chunk: Chunk, new: Part) {
    let Upload::Open { parts, since, .. } = &mut state.uploads[writer] else {
        unreachable!("only an open upload has parts");
    };
    let part = parts.iter_mut().find(|part| part.0 == chunk).expect("a chunk of the upload");
    part.1 = new;
    if let Part::Answered(epoch, _) = new {
        since.get_or_insert(epoch);
    }
}

fn receive(state: &mut State, writer: usize, chunk: Chunk) {
    let part = state.uploads[writer].parts().iter().find(|part| part.0 == chunk);
    let Some(&(_, Part::Answered(epoch, place))) = part else { unreachable!("only an answer is received") };
    set_part(state, writer, chunk, Part::Held(epoch, place));
}

fn make_version(state: &mut State, inode: u8, entries: Vec<Entry>) {
    let key = Key { inode, version: state.next_version };
    state.next_version += 1;
    state.versions.insert(key, entries);
}
