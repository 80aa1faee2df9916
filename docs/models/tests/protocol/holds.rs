//! Every state of every world has every property, and each world gets to what it is there for.

use models::Protocol;
use stateright::{Checker, Model};

use crate::worlds;

fn holds(world: Protocol) {
    let checked = world.checker().spawn_bfs().join();
    println!("{} states, longest way {}", checked.unique_state_count(), checked.max_depth());
    checked.assert_properties();
}

#[test]
fn late_commits_are_refused_or_whole() {
    holds(worlds::late_commit());
}

#[test]
fn two_writers_may_hit_and_store_what_is_condemned() {
    holds(worlds::two_writers());
}

#[test]
fn an_upload_may_stay_open_for_days() {
    holds(worlds::long_upload());
}

#[test]
fn a_restore_saves_a_dying_version() {
    holds(worlds::dying_versions());
}

#[test]
fn readers_keep_what_they_opened() {
    holds(worlds::open_read());
}

#[test]
fn a_crash_at_any_point_loses_nothing() {
    holds(worlds::crash());
}

#[test]
fn two_crashes_lose_nothing() {
    holds(worlds::crashes());
}

#[test]
fn a_page_that_cannot_be_read_ends_the_cycle() {
    holds(worlds::unreadable_page());
}
