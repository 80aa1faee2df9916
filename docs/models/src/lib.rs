//! The garbage collection of `docs/rfcs/0007-garbage-collection.md` as a model, every interleaving of which is checked.
//!
//! Read in this order: [`state`] says what there is, [`clients`] what writers, readers and deleters do, [`collector`]
//! the cycle step by step, [`faults`] what breaks, [`properties`] what must hold. [`Bounds`] says how much may happen
//! at most, and so how large a model is; [`Mistake`] plants one error, to prove that the properties would notice.
//!
//! An action is what happens at one place at one time: one command of the metadata, one message at an owner, one write.
//! What is between two actions of one actor, anybody else may use.

pub mod clients;
pub mod collector;
pub mod faults;
pub mod properties;
pub mod state;

use std::collections::BTreeMap;

use stateright::{Model, Property};

use crate::clients::Client;
use crate::collector::{Cycle, Step};
use crate::faults::Fault;
use crate::properties::Goal;
use crate::state::{
    CHUNKS, Checkpoint, Chunk, Entry, FIRST_EPOCH, Ghost, Key, Known, Owner, Part, Pin, Place, Read, Segment, Stage,
    State, Upload,
};

/// What may happen, at most.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Bounds {
    /// Cycles that begin.
    pub cycles: u8,
    /// Versions that are deleted or expire.
    pub deletes: u8,
    /// Versions that are made from older ones.
    pub restores: u8,
    /// Versions that are opened: one at most.
    pub reads: u8,
    /// Crashes.
    pub crashes: u8,
    /// Manifest pages that cannot be read for a while.
    pub lost_pages: u8,
}

/// An error in the protocol. Each must be found.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Mistake {
    /// The epoch is raised, and commits with old pins are let through.
    FenceNotRaised,
    /// The epoch goes up by two, and the owners are not told.
    OwnersNotTold,
    /// An answer carries the epoch of the metadata, which is not the one that the owner pinned at.
    AnswerAtAnotherEpoch,
    /// A hit does not pin.
    HitDoesNotPin,
    /// Leases are marked before the walk.
    LeasesBeforeWalk,
    /// A mark raises an upload's pin epoch, as if the owner had answered.
    LeaseRaisesPinEpoch,
    /// A lease has only what the upload has the answers for, not what it asks for.
    LeaseMissesAnswersUnderWay,
    /// A core does not wait for an open whose answer is under way.
    LeaseMissesOpening,
    /// Readers have no leases.
    ReadersNotLeased,
    /// A version whose page cannot be read is passed over.
    PagePassedOver,
    /// What was old before the table was read is condemned after.
    SweepWithoutRecheck,
    /// An owner condemns, and counts, without knowing all rows.
    IncompleteIndexTrusted,
    /// The owner is told of a copy that was not synced.
    RelocateBeforeDurable,
    /// The victim is freed before the owner is told of the copy.
    FreeBeforeRelocation,
    /// A row that its owner does not know of yet does not hold its segment.
    RowsUnderWayFreed,
    /// The checkpoint comes last.
    CheckpointAfterFree,
    /// A restore reads the version with one command and writes it with another.
    RestoreInTwoSteps,
    /// References go to another inode without a pin epoch.
    CloneWithoutPin,
    /// The fence is asked before the table of results.
    FenceBeforeResults,
    /// The next segment is the one after the last that is listed.
    SegmentIdsFromTheList,
}

/// One model: what is there at first, what may happen, and what is wrong with it.
#[derive(Clone, Debug, Default)]
pub struct Protocol {
    /// Limits.
    pub bounds: Bounds,
    /// Owners of the index; chunk `c` belongs to owner `c` modulo their number.
    pub owners: usize,
    /// Chunks that are in the first segment at first.
    pub stored: Vec<Chunk>,
    /// Versions that are there at first: inode and chunks.
    pub versions: Vec<(u8, Vec<Chunk>)>,
    /// One writer each: inode and chunks.
    pub uploads: Vec<(u8, Vec<Chunk>)>,
    /// Whether segments are compacted. Those without a live chunk are freed in any case.
    pub compacts: bool,
    /// What it must reach: a model that gets nowhere proves nothing.
    pub goals: Vec<Goal>,
    /// The planted error.
    pub mistake: Option<Mistake>,
}

/// What can happen next.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Action {
    /// Clients, and the metadata on their behalf.
    Client(Client),
    /// The collector.
    Collect(Step),
    /// The world.
    Fault(Fault),
}

impl Protocol {
    /// Whether the planted error is `mistake`.
    pub fn has(&self, mistake: Mistake) -> bool {
        self.mistake == Some(mistake)
    }

    /// The same with an error in it.
    pub fn with(mut self, mistake: Mistake) -> Protocol {
        self.mistake = Some(mistake);
        self
    }

    /// Writes a row into a segment of its own.
    pub(crate) fn write_row(&self, state: &mut State, chunk: Chunk, segment: Segment) -> Place {
        let id = if self.has(Mistake::SegmentIdsFromTheList) {
            state.segments.keys().last().map_or(0, |last| last + 1)
        } else {
            state.next_segment
        };
        state.next_segment = id + 1;
        state.ghost.written_twice |= id <= state.ghost.last_segment;
        state.ghost.last_segment = state.ghost.last_segment.max(id);
        assert_eq!(segment.rows, [chunk]);
        state.segments.insert(id, segment);
        Place { segment: id, row: 0 }
    }
}

impl Model for Protocol {
    type State = State;
    type Action = Action;

    /// All chunks were marked by the cycle before: the next one condemns those that nobody needs.
    fn init_states(&self) -> Vec<State> {
        let mut index = [None; CHUNKS];
        let mut checkpoint = Checkpoint::default();
        let mut place_of = [None; CHUNKS];
        for (&chunk, row) in self.stored.iter().zip(0..) {
            let place = Place { segment: 0, row };
            index[chunk] = Some(Known { place, pin: Pin::at(FIRST_EPOCH - 1) });
            checkpoint.named[chunk] = Some(place);
            checkpoint.covered.insert(place);
            place_of[chunk] = Some(place);
        }
        let entry = |&chunk: &Chunk| Entry { chunk, hint: place_of[chunk].expect("a version's chunks are stored") };
        let versions = self.versions.iter().zip(0..);
        let versions: BTreeMap<Key, Vec<Entry>> = versions
            .map(|(&(inode, ref chunks), version)| (Key { inode, version }, chunks.iter().map(entry).collect()))
            .collect();
        let wanted = |chunks: &Vec<Chunk>| chunks.iter().map(|&chunk| (chunk, Part::Wanted)).collect();
        let segment = Segment { rows: self.stored.clone(), durable: true, hot: true, stage: Stage::Listed };
        vec![State {
            epoch: FIRST_EPOCH,
            fence: FIRST_EPOCH - 1,
            next_version: versions.len() as u8,
            versions,
            segments: BTreeMap::from([(0, segment)]),
            next_segment: 1,
            checkpoint,
            unreadable: None,
            owners: vec![Owner { told: FIRST_EPOCH, complete: true }; self.owners],
            index,
            uploads: (self.uploads.iter())
                .map(|(_, chunks)| Upload::Open { parts: wanted(chunks), since: None, refused: false })
                .collect(),
            read: Read::Idle,
            cycle: Cycle::Idle,
            doubt: false,
            restoring: None,
            left: self.bounds,
            ghost: Ghost::default(),
        }]
    }

    fn actions(&self, state: &State, actions: &mut Vec<Action>) {
        actions.extend(self.client_actions(state).into_iter().map(Action::Client));
        actions.extend(self.next_step(state).map(Action::Collect));
        actions.extend(self.possible_faults(state).into_iter().map(Action::Fault));
    }

    fn next_state(&self, state: &State, action: Action) -> Option<State> {
        let mut next = state.clone();
        match action {
            Action::Client(client) => self.act(&mut next, client),
            Action::Collect(step) => self.take_step(&mut next, step),
            Action::Fault(fault) => self.strike(&mut next, fault),
        }
        properties::remember(&mut next);
        Some(next)
    }

    fn properties(&self) -> Vec<Property<Protocol>> {
        let goals = self.goals.iter().map(|goal| goal.property());
        properties::all().into_iter().chain(goals).collect()
    }
}
