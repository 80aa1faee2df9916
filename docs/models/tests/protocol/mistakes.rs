//! Every planted mistake breaks the property that it should, in a world in which the protocol as it is holds.

use std::collections::BTreeSet;

use models::{Mistake, Protocol};
use stateright::{Checker, HasDiscoveries, Model};

use crate::worlds;

const WHOLE: &str = "retained versions are whole";
const READABLE: &str = "open readers keep their bytes";

/// Prints the shortest way there.
fn is_caught(world: Protocol, mistake: Mistake, broken: &'static str) {
    let until = HasDiscoveries::AnyOf(BTreeSet::from([broken]));
    let checked = world.with(mistake).checker().finish_when(until).spawn_bfs().join();
    println!("{}", checked.assert_any_discovery(broken));
}

#[test]
fn a_fence_that_is_not_raised_is_caught() {
    is_caught(worlds::late_commit(), Mistake::FenceNotRaised, WHOLE);
}

#[test]
fn owners_that_are_not_told_are_caught() {
    is_caught(worlds::late_commit(), Mistake::OwnersNotTold, "what an owner answers passes the fence");
}

#[test]
fn an_answer_at_another_epoch_is_caught() {
    is_caught(worlds::late_commit(), Mistake::AnswerAtAnotherEpoch, WHOLE);
}

#[test]
fn a_hit_that_does_not_pin_is_caught() {
    is_caught(worlds::late_commit(), Mistake::HitDoesNotPin, WHOLE);
}

#[test]
fn leases_before_the_walk_are_caught() {
    is_caught(worlds::open_read(), Mistake::LeasesBeforeWalk, READABLE);
}

#[test]
fn a_lease_that_raises_the_pin_epoch_is_caught() {
    is_caught(worlds::long_upload(), Mistake::LeaseRaisesPinEpoch, WHOLE);
}

#[test]
fn a_lease_that_misses_answers_under_way_is_caught() {
    is_caught(
        worlds::long_upload(),
        Mistake::LeaseMissesAnswersUnderWay,
        "an open upload keeps what owners answered for",
    );
}

#[test]
fn a_lease_that_misses_an_open_under_way_is_caught() {
    is_caught(worlds::open_read(), Mistake::LeaseMissesOpening, READABLE);
}

#[test]
fn readers_without_leases_are_caught() {
    is_caught(worlds::open_read(), Mistake::ReadersNotLeased, READABLE);
}

#[test]
fn a_page_passed_over_is_caught() {
    is_caught(worlds::unreadable_page(), Mistake::PagePassedOver, WHOLE);
}

#[test]
fn a_sweep_without_recheck_is_caught() {
    is_caught(worlds::late_commit(), Mistake::SweepWithoutRecheck, WHOLE);
}

#[test]
fn an_incomplete_index_that_is_trusted_is_caught() {
    is_caught(worlds::crashes(), Mistake::IncompleteIndexTrusted, WHOLE);
}

#[test]
fn a_relocation_before_the_copy_is_durable_is_caught() {
    is_caught(worlds::crashes(), Mistake::RelocateBeforeDurable, WHOLE);
}

#[test]
fn a_victim_freed_before_the_relocation_is_caught() {
    is_caught(worlds::crashes(), Mistake::FreeBeforeRelocation, WHOLE);
}

#[test]
fn a_row_under_way_that_is_freed_is_caught() {
    is_caught(worlds::crash(), Mistake::RowsUnderWayFreed, WHOLE);
}

#[test]
fn a_checkpoint_after_the_free_is_caught() {
    is_caught(worlds::crashes(), Mistake::CheckpointAfterFree, "what the checkpoint counts is not freed");
}

#[test]
fn a_restore_in_two_steps_is_caught() {
    is_caught(worlds::dying_versions(), Mistake::RestoreInTwoSteps, WHOLE);
}

#[test]
fn a_clone_without_a_pin_is_caught() {
    is_caught(worlds::dying_versions(), Mistake::CloneWithoutPin, WHOLE);
}

#[test]
fn a_fence_that_is_asked_before_the_results_is_caught() {
    is_caught(worlds::late_commit(), Mistake::FenceBeforeResults, "an acknowledged commit is not refused later");
}

#[test]
fn segment_ids_from_the_list_are_caught() {
    is_caught(worlds::crash(), Mistake::SegmentIdsFromTheList, "no place is written twice");
}
