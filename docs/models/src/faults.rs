//! What breaks: the process, at any moment, and manifest pages for a while.

use crate::Protocol;
use crate::collector::Cycle;
use crate::state::{CHUNKS, Key, Known, Pin, Place, Read, Stage, State, Upload};

/// Something breaks, or is whole again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// All that is not durable is gone. The process is up again, and its index is empty.
    Crash,
    /// An owner has read the checkpoint and the rows after it.
    Recover(usize),
    /// A manifest page cannot be read.
    LosePage(Key),
    /// It can again.
    FindPage,
}

impl Protocol {
    pub(crate) fn possible_faults(&self, state: &State) -> Vec<Fault> {
        let mut faults = Vec::new();
        if state.left.crashes > 0 {
            faults.push(Fault::Crash);
        }
        let incomplete = state.owners.iter().enumerate().filter(|(_, owner)| !owner.complete);
        faults.extend(incomplete.map(|(owner, _)| Fault::Recover(owner)));
        if state.unreadable.is_some() {
            faults.push(Fault::FindPage);
        } else if state.left.lost_pages > 0 {
            faults.extend(state.versions.keys().map(|&key| Fault::LosePage(key)));
        }
        faults
    }

    pub(crate) fn strike(&self, state: &mut State, fault: Fault) {
        match fault {
            Fault::Crash => crash(state),
            Fault::Recover(owner) => recover(state, owner),
            Fault::LosePage(key) => {
                state.left.lost_pages -= 1;
                state.unreadable = Some(key);
            }
            Fault::FindPage => state.unreadable = None,
        }
    }
}

/// A segment that is freed in the log is removed and forgotten before anything is served.
fn crash(state: &mut State) {
    state.left.crashes -= 1;
    state.segments.retain(|_, segment| segment.durable && segment.stage == Stage::Listed);
    for owner in &mut state.owners {
        owner.told = state.epoch;
        owner.complete = false;
    }
    state.index = [None; CHUNKS];
    for upload in &mut state.uploads {
        if !upload.parts().is_empty() {
            *upload = Upload::Ended;
        }
    }
    if !state.read.entries().is_empty() {
        state.read = Read::Ended;
    }
    state.restoring = None;
    state.cycle = Cycle::Idle;
    state.doubt = false;
}

/// Of several copies the latest answers. What is entered is pinned.
fn recover(state: &mut State, owner: usize) {
    let told = state.owners[owner].told;
    for chunk in (owner..CHUNKS).step_by(state.owners.len()) {
        let inserted = state.index[chunk].map(|known| known.place);
        let rows = state.rows().filter(|(other, place)| *other == chunk && !state.checkpoint.covered.contains(place));
        let latest: Option<Place> =
            rows.map(|(_, place)| place).chain(state.checkpoint.named[chunk]).chain(inserted).max();
        state.index[chunk] = latest.map(|place| Known { place, pin: Pin::at(told) });
        // Pinned anew, it is as garbage that has just become it.
        state.ghost.dead[chunk] = false;
        state.ghost.survived[chunk] = 0;
    }
    state.owners[owner].complete = true;
}
