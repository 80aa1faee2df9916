//! What must hold in every state, and what must happen in some, lest the model prove nothing.

use stateright::Property;

use crate::Protocol;
use crate::collector::Cycle;
use crate::state::{CHUNKS, Entry, Part, State, Upload};

/// Completed cycles after which garbage may still be in the index, counted from those that began when it was garbage.
const CYCLES_SURVIVED_MAX: u8 = 1;
/// The same after cycles that were cut short: its pin, two bits, may look younger than it is.
const CYCLES_SURVIVED_AFTER_ABORT_MAX: u8 = 2;

pub(crate) fn all() -> Vec<Property<Protocol>> {
    vec![
        Property::always("retained versions are whole", |_, state: &State| {
            state.versions.values().flatten().all(|entry| is_found(state, entry))
        }),
        Property::always("open readers keep their bytes", |_, state: &State| {
            state.read.entries().iter().all(|entry| is_found(state, entry))
        }),
        Property::always("what is needed is not condemned", |_, state: &State| {
            let mut needed = state.versions.values().flatten().chain(state.read.entries());
            needed
                .all(|entry| state.index[entry.chunk].is_some() || !state.owners[state.owner_of(entry.chunk)].complete)
        }),
        Property::always("an acknowledged commit is not refused later", |_, state: &State| !state.ghost.refused_later),
        Property::always("an open upload keeps what owners answered for", |_, state: &State| {
            state.uploads.iter().flat_map(Upload::parts).all(|(chunk, part)| {
                !matches!(part, Part::Answered(..) | Part::Held(..)) || state.index[*chunk].is_some()
            })
        }),
        Property::always("what an owner answers passes the fence", |_, state: &State| {
            state.owners.iter().all(|owner| state.fence <= owner.told && owner.told <= state.epoch)
        }),
        Property::always("no place is written twice", |_, state: &State| !state.ghost.written_twice),
        Property::always("the index names what is there", |_, state: &State| {
            let mut index = state.index.iter().enumerate();
            index.all(|(chunk, known)| known.is_none_or(|known| state.has_copy(chunk, known.place)))
        }),
        Property::always("what the checkpoint counts is not freed", |_, state: &State| {
            state.checkpoint.named.iter().flatten().all(|place| state.is_listed(place.segment))
        }),
        Property::always("garbage is condemned by the second cycle", |_, state: &State| {
            let most = if state.ghost.aborted { CYCLES_SURVIVED_AFTER_ABORT_MAX } else { CYCLES_SURVIVED_MAX };
            state.ghost.survived.iter().all(|&survived| survived <= most)
        }),
    ]
}

/// Whether a reader with `entry` gets its bytes: at the hint, at the owner's place, or once the owner knows all rows.
fn is_found(state: &State, entry: &Entry) -> bool {
    let Entry { chunk, hint } = *entry;
    state.has_copy(chunk, hint)
        || state.index[chunk].is_some_and(|known| state.has_copy(chunk, known.place))
        || !state.owners[state.owner_of(chunk)].complete
            && state.rows().any(|(other, place)| other == chunk && state.has_copy(chunk, place))
}

/// What a model is to reach, besides what must always hold.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Goal {
    /// Nothing is left of what nobody needs.
    SpaceComesBack,
    /// A hit comes while the sweep reads the table of the chunk's row.
    HitWhileCondemning,
    /// A commit is refused; its writer asks again, and is let through.
    CommitAfterRefusal,
    /// An upload is open over two cycles.
    CommitAfterTwoCycles,
    /// A reader has what no version has, after a sweep.
    ReadOutlivesVersion,
    /// A crash leaves two copies of a chunk.
    TwoCopiesAfterCrash,
    /// A cycle is cut short.
    CycleCutShort,
    /// A chunk that is older than its pin can say.
    PinWrapsAround,
}

impl Goal {
    pub(crate) fn property(self) -> Property<Protocol> {
        match self {
            Goal::SpaceComesBack => Property::sometimes("space comes back", |_, state: &State| {
                let has_freed = state.next_segment > 0 && state.left.cycles == 0 && state.cycle == Cycle::Idle;
                has_freed && !state.segments.contains_key(&0) && state.rows().all(|(chunk, _)| state.is_needed(chunk))
            }),
            Goal::HitWhileCondemning => Property::sometimes(
                "a hit comes while condemning",
                |_, state: &State| matches!(state.cycle, Cycle::Sweeping { chunk, reading: Some(read) } if state.index[chunk] != Some(read)),
            ),
            Goal::CommitAfterRefusal => Property::sometimes("a refused commit comes again", |_, state: &State| {
                state.uploads.iter().any(|upload| matches!(upload, Upload::Committed { refused: true, .. }))
            }),
            Goal::CommitAfterTwoCycles => Property::sometimes("an upload outlives two cycles", |_, state: &State| {
                let mut uploads = state.uploads.iter();
                uploads.any(|upload| matches!(upload, Upload::Committed { cycles: 2.., .. }))
            }),
            Goal::ReadOutlivesVersion => Property::sometimes("a read outlives its version", |_, state: &State| {
                let is_gone = |entry: &Entry| !state.versions.values().flatten().any(|kept| kept.chunk == entry.chunk);
                matches!(state.cycle, Cycle::Freeing { .. }) && state.read.entries().iter().any(is_gone)
            }),
            Goal::TwoCopiesAfterCrash => Property::sometimes("a crash leaves two copies", |_, state: &State| {
                let is_incomplete = state.owners.iter().any(|owner| !owner.complete);
                is_incomplete && (0..CHUNKS).any(|chunk| state.rows().filter(|row| row.0 == chunk).count() > 1)
            }),
            Goal::CycleCutShort => Property::sometimes("a cycle is cut short", |_, state: &State| state.ghost.aborted),
            Goal::PinWrapsAround => Property::sometimes("garbage survives an epoch too many", |_, state: &State| {
                state.ghost.survived.contains(&CYCLES_SURVIVED_AFTER_ABORT_MAX)
            }),
        }
    }
}

/// What is needed is not garbage, whatever it was.
pub(crate) fn remember(state: &mut State) {
    for chunk in 0..CHUNKS {
        if state.is_needed(chunk) {
            state.ghost.dead[chunk] = false;
            state.ghost.survived[chunk] = 0;
        }
    }
}
