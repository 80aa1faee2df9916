//! The cycle. Each step is an action, and anything may happen between two of them.

use std::collections::BTreeSet;

use crate::state::{
    CHUNKS, Checkpoint, Chunk, Entry, Epoch, Key, Known, Part, Pin, Place, Read, Segment, SegmentId, Stage, State,
    Upload,
};
use crate::{Mistake, Protocol};

/// A chunk that compaction moves.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Move {
    /// Which.
    pub chunk: Chunk,
    /// In the victim.
    pub from: Place,
    /// In the new segment.
    pub to: Place,
}

/// How far the cycle is.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Cycle {
    /// None under way.
    Idle,
    /// The epoch is raised.
    Telling {
        /// Next to be told.
        owner: usize,
    },
    /// Over the versions, in the order of their keys.
    Walking {
        /// Last key that was read.
        cursor: Option<Key>,
        /// What that version has and owners were not told yet.
        marks: Vec<Entry>,
    },
    /// Over the cores' lease tables.
    Leasing {
        /// Next to mark its leases.
        core: usize,
    },
    /// Over the owners' entries.
    Sweeping {
        /// Next to be looked at.
        chunk: Chunk,
        /// What the index knew of it when the read of its row's table began.
        reading: Option<Known>,
    },
    /// Moving what lives in the victims.
    Compacting {
        /// Chosen at the beginning.
        victims: BTreeSet<SegmentId>,
        /// One at a time.
        moving: Option<Move>,
    },
    /// Nothing names these any more, no checkpoint either.
    Freeing {
        /// Chosen with the checkpoint.
        doomed: BTreeSet<SegmentId>,
    },
}

/// The next step of a cycle.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// The epoch and the fence, in one durable command.
    Raise,
    /// An owner learns the epoch.
    Tell(usize),
    /// Reads the next version.
    Walk(Key),
    /// An owner marks a chunk of that version.
    Mark(Entry),
    /// No version is left.
    EndWalk,
    /// A core marks its leases.
    Lease(usize),
    /// Nothing is condemned on doubt.
    Abort,
    /// Begins to read the table of an old chunk's row.
    ReadTable(Chunk),
    /// The table was read: condemned, if the entry is what it was.
    Condemn(Chunk),
    /// Chooses victims.
    EndSweep,
    /// Writes a new row.
    Copy(Chunk, Place),
    /// Makes it durable and reads it back.
    Sync,
    /// The owner changes the place.
    Relocate,
    /// Writes a checkpoint and chooses what is freed.
    Settle,
    /// FreeSegment in the log.
    Free(SegmentId),
    /// Removes the files.
    Remove(SegmentId),
    /// ForgetSegment in the log.
    Forget(SegmentId),
    /// The cycle is complete.
    End,
}

impl Protocol {
    /// What the collector does next; nothing while it waits for somebody.
    pub(crate) fn next_step(&self, state: &State) -> Option<Step> {
        Some(match &state.cycle {
            Cycle::Idle if state.left.cycles == 0 => return None,
            Cycle::Idle => Step::Raise,
            Cycle::Telling { owner } => Step::Tell(*owner),
            Cycle::Walking { cursor, marks } => match (marks.first(), next_key(state, *cursor)) {
                (Some(&entry), _) => Step::Mark(entry),
                (None, Some(key)) => Step::Walk(key),
                (None, None) => Step::EndWalk,
            },
            // An open whose answer is under way began before: the core waits until it knows what to mark.
            Cycle::Leasing { core: 0 }
                if matches!(state.read, Read::Opening(_)) && !self.has(Mistake::LeaseMissesOpening) =>
            {
                return None;
            }
            Cycle::Leasing { core } => Step::Lease(*core),
            Cycle::Sweeping { chunk: 0, reading: None } if self.is_in_doubt(state) => Step::Abort,
            Cycle::Sweeping { chunk, reading: Some(_) } => Step::Condemn(*chunk),
            Cycle::Sweeping { chunk, reading: None } => {
                (*chunk..CHUNKS).find(|&chunk| is_old(state, chunk)).map_or(Step::EndSweep, Step::ReadTable)
            }
            Cycle::Compacting { victims, moving } => self.next_move(state, victims, *moving),
            Cycle::Freeing { doomed } => match doomed.first() {
                Some(segment) => match state.segments[segment].stage {
                    Stage::Listed => Step::Free(*segment),
                    Stage::Freed => Step::Remove(*segment),
                    Stage::Removed => Step::Forget(*segment),
                },
                None => Step::End,
            },
        })
    }

    fn is_in_doubt(&self, state: &State) -> bool {
        let is_complete = state.owners.iter().all(|owner| owner.complete);
        state.doubt || !is_complete && !self.has(Mistake::IncompleteIndexTrusted)
    }

    fn next_move(&self, state: &State, victims: &BTreeSet<SegmentId>, moving: Option<Move>) -> Step {
        match moving {
            Some(Move { from, .. }) if self.has(Mistake::FreeBeforeRelocation) && state.is_listed(from.segment) => {
                Step::Free(from.segment)
            }
            Some(Move { to, .. })
                if !state.segments[&to.segment].durable && !self.has(Mistake::RelocateBeforeDurable) =>
            {
                Step::Sync
            }
            Some(_) => Step::Relocate,
            None => {
                let mut live = state.index.iter().enumerate();
                let next = live.find_map(|(chunk, known)| {
                    known.filter(|known| victims.contains(&known.place.segment)).map(|known| (chunk, known.place))
                });
                next.map_or(Step::Settle, |(chunk, place)| Step::Copy(chunk, place))
            }
        }
    }

    pub(crate) fn take_step(&self, state: &mut State, step: Step) {
        match step {
            Step::Raise => self.raise(state),
            Step::Tell(owner) => {
                state.owners[owner].told = state.epoch;
                let is_last = owner + 1 == state.owners.len();
                state.cycle = if is_last { self.after_telling() } else { Cycle::Telling { owner: owner + 1 } };
            }
            Step::Walk(key) => self.walk(state, key),
            Step::Mark(entry) => {
                mark(state, entry, state.epoch - 1);
                let Cycle::Walking { marks, .. } = &mut state.cycle else { unreachable!("marks belong to the walk") };
                marks.remove(0);
            }
            Step::EndWalk => {
                let is_last = self.has(Mistake::LeasesBeforeWalk);
                state.cycle =
                    if is_last { Cycle::Sweeping { chunk: 0, reading: None } } else { Cycle::Leasing { core: 0 } };
            }
            Step::Lease(core) => self.lease(state, core),
            Step::Abort => {
                state.ghost.aborted = true;
                state.cycle = Cycle::Idle;
            }
            Step::ReadTable(chunk) => state.cycle = Cycle::Sweeping { chunk, reading: state.index[chunk] },
            Step::Condemn(chunk) => self.condemn(state, chunk),
            Step::EndSweep => {
                for chunk in 0..CHUNKS {
                    let has_survived = state.ghost.dead[chunk] && state.index[chunk].is_some();
                    state.ghost.survived[chunk] += u8::from(has_survived);
                }
                let victims = if self.compacts { victims(state) } else { BTreeSet::new() };
                state.cycle = Cycle::Compacting { victims, moving: None };
            }
            Step::Copy(chunk, from) => self.copy(state, chunk, from),
            Step::Sync | Step::Relocate => self.end_move(state, step),
            Step::Settle => {
                let doomed = self.segments_without_live_chunks(state);
                if !self.has(Mistake::CheckpointAfterFree) {
                    state.checkpoint = checkpoint(state);
                }
                state.cycle = Cycle::Freeing { doomed };
            }
            Step::Free(segment) => set_stage(state, segment, Stage::Freed),
            Step::Remove(segment) => set_stage(state, segment, Stage::Removed),
            Step::Forget(segment) => {
                state.segments.remove(&segment);
                let Cycle::Freeing { doomed } = &mut state.cycle else { unreachable!("only the doomed are forgotten") };
                doomed.remove(&segment);
            }
            Step::End => {
                if self.has(Mistake::CheckpointAfterFree) {
                    state.checkpoint = checkpoint(state);
                }
                state.cycle = Cycle::Idle;
            }
        }
    }

    fn raise(&self, state: &mut State) {
        state.left.cycles -= 1;
        state.epoch += if self.has(Mistake::OwnersNotTold) { 2 } else { 1 };
        if !self.has(Mistake::FenceNotRaised) {
            state.fence = state.epoch - 1;
        }
        state.doubt = false;
        state.cycle = if self.has(Mistake::OwnersNotTold) { self.after_telling() } else { Cycle::Telling { owner: 0 } };
        for chunk in 0..CHUNKS {
            state.ghost.dead[chunk] = !state.is_needed(chunk);
        }
    }

    fn after_telling(&self) -> Cycle {
        if self.has(Mistake::LeasesBeforeWalk) {
            Cycle::Leasing { core: 0 }
        } else {
            Cycle::Walking { cursor: None, marks: Vec::new() }
        }
    }

    fn walk(&self, state: &mut State, key: Key) {
        let is_readable = state.unreadable != Some(key);
        state.doubt |= !is_readable && !self.has(Mistake::PagePassedOver);
        let marks = if is_readable { state.versions[&key].clone() } else { Vec::new() };
        state.cycle = Cycle::Walking { cursor: Some(key), marks };
    }

    /// An upload's pin epoch stays what it was: its commit may come after the walk of the next cycle has passed its inode
    /// and before that cycle's leases, so that neither sees it. It holds what it asks for from before it asks.
    fn lease(&self, state: &mut State, core: usize) {
        if core == 0 && !self.has(Mistake::ReadersNotLeased) {
            let entries = if let Read::Open(entries) = &state.read { entries.clone() } else { Vec::new() };
            for entry in entries {
                mark(state, entry, state.epoch - 1);
            }
        }
        let mut uploads = std::mem::take(&mut state.uploads);
        if let Some(Upload::Open { parts, refused, .. }) = uploads.get_mut(core) {
            for (chunk, part) in parts {
                // What was refused asks again for what it holds.
                if *part == Part::Wanted && !*refused {
                    continue;
                }
                if matches!(part, Part::Answered(..)) && self.has(Mistake::LeaseMissesAnswersUnderWay) {
                    continue;
                }
                // Without a hint: what the index does not know is on its way into a row.
                if is_old(state, *chunk) {
                    state.index[*chunk].as_mut().expect("what is old is there").pin = Pin::at(state.epoch - 1);
                }
                if let Part::Answered(epoch, _) | Part::Held(epoch, _) = part
                    && self.has(Mistake::LeaseRaisesPinEpoch)
                {
                    *epoch = state.epoch;
                }
            }
        }
        state.uploads = uploads;
        let is_last = core + 1 >= state.uploads.len().max(1);
        state.cycle = match (is_last, self.has(Mistake::LeasesBeforeWalk)) {
            (false, _) => Cycle::Leasing { core: core + 1 },
            (true, false) => Cycle::Sweeping { chunk: 0, reading: None },
            (true, true) => Cycle::Walking { cursor: None, marks: Vec::new() },
        };
    }

    fn condemn(&self, state: &mut State, chunk: Chunk) {
        let Cycle::Sweeping { reading, .. } = state.cycle else { unreachable!("only a sweep condemns") };
        let is_as_read = state.index[chunk] == reading && is_old(state, chunk);
        if is_as_read || self.has(Mistake::SweepWithoutRecheck) {
            state.index[chunk] = None;
        }
        state.cycle = Cycle::Sweeping { chunk: chunk + 1, reading: None };
    }

    fn copy(&self, state: &mut State, chunk: Chunk, from: Place) {
        let segment = Segment { rows: vec![chunk], durable: false, hot: false, stage: Stage::Listed };
        let to = self.write_row(state, chunk, segment);
        let Cycle::Compacting { moving, .. } = &mut state.cycle else { unreachable!("only compaction copies") };
        *moving = Some(Move { chunk, from, to });
    }

    fn end_move(&self, state: &mut State, step: Step) {
        let Cycle::Compacting { moving, .. } = &mut state.cycle else { unreachable!("only compaction moves") };
        let Move { chunk, from, to } = moving.expect("a copy was written");
        if step == Step::Sync {
            state.segments.get_mut(&to.segment).expect("the copy's segment is listed").durable = true;
            return;
        }
        *moving = None;
        if let Some(known) = state.index[chunk].as_mut().filter(|known| known.place == from) {
            known.place = to;
        }
    }

    /// Those that no entry names, and that hold no row on its way to its owner.
    fn segments_without_live_chunks(&self, state: &State) -> BTreeSet<SegmentId> {
        let mut kept: BTreeSet<SegmentId> = state.index.iter().flatten().map(|known| known.place.segment).collect();
        if !self.has(Mistake::RowsUnderWayFreed) {
            kept.extend(state.rows_under_way().iter().map(|place| place.segment));
        }
        state.segments.keys().filter(|segment| !kept.contains(segment)).copied().collect()
    }
}

fn next_key(state: &State, cursor: Option<Key>) -> Option<Key> {
    state.versions.keys().find(|&&key| cursor.is_none_or(|cursor| key > cursor)).copied()
}

fn is_old(state: &State, chunk: Chunk) -> bool {
    state.index[chunk].is_some_and(|known| known.pin.age_at(state.epoch) >= 2)
}

/// Pins at `epoch` what is older; what the index lacks and the hint's row has, enters it. Returns whether it is there.
fn mark(state: &mut State, entry: Entry, epoch: Epoch) -> bool {
    let has_hinted = state.has_copy(entry.chunk, entry.hint);
    let (pin, now) = (Pin::at(epoch), state.epoch);
    match &mut state.index[entry.chunk] {
        Some(known) => {
            if known.pin.age_at(now) > pin.age_at(now) {
                known.pin = pin;
            }
            true
        }
        absent if has_hinted => {
            *absent = Some(Known { place: entry.hint, pin });
            true
        }
        _ => false,
    }
}

/// Segments with something alive, and something dead or never compacted.
fn victims(state: &State) -> BTreeSet<SegmentId> {
    let segments = state.segments.iter().filter(|(id, segment)| {
        let live = state.index.iter().flatten().filter(|known| known.place.segment == **id).count();
        live > 0 && (segment.hot || live < segment.rows.len())
    });
    segments.map(|(&id, _)| id).collect()
}

/// The index as it is. Rows whose owner does not know of them yet are not covered: a restart reads them.
fn checkpoint(state: &State) -> Checkpoint {
    let under_way = state.rows_under_way();
    Checkpoint {
        named: state.index.map(|known| known.map(|known| known.place)),
        covered: state.rows().map(|(_, place)| place).filter(|place| !under_way.contains(place)).collect(),
    }
}

fn set_stage(state: &mut State, segment: SegmentId, stage: Stage) {
    state.segments.get_mut(&segment).expect("the doomed are listed").stage = stage;
}
