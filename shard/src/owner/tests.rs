use super::*;
use proto::VirtualShard;

const A: CoreId = CoreId(0);
const B: CoreId = CoreId(1);

fn owner() -> Owner {
    let mut owner = Owner::new(Index::new((0..64).map(VirtualShard)));
    owner.complete();
    owner.index.set_epoch(1);
    owner
}

fn location(segment: u64) -> Location {
    Location { segment: SegmentId(segment), column: 0, offset: 64, sectors: 1, ordinal: 0 }
}

fn chunk(id: ChunkId, segment: u64) -> DurableChunk {
    DurableChunk { id, location: location(segment), plain_bytes: 10, stored_bytes: 5, is_shared: false }
}

fn ask(owner: &mut Owner, asker: CoreId, id: ChunkId, disbelieved: Option<Location>) -> Claim {
    owner.claim(asker, &[Wanted { id, disbelieved }]).1.pop().expect("one answer")
}

#[test]
fn one_asker_writes_and_the_others_wait_for_him() {
    let mut owner = owner();
    let id = ChunkId([1; 32]);
    assert!(matches!(ask(&mut owner, A, id, None), Claim::Yours));
    let Claim::Underway { writer, mut durable } = ask(&mut owner, B, id, None) else { panic!("not underway") };
    assert_eq!(writer, A);
    assert!(durable.try_recv().expect("the writer is there").is_none());
    owner.insert(&[chunk(id, 1)]);
    assert_eq!(durable.try_recv().expect("told").map(Result::ok), Some(Some(location(1))));
    assert!(matches!(ask(&mut owner, B, id, None), Claim::Candidate(at) if at == location(1)));
}

#[test]
fn after_a_failure_the_next_asker_writes() {
    let mut owner = owner();
    let id = ChunkId([1; 32]);
    assert!(matches!(ask(&mut owner, A, id, None), Claim::Yours));
    let Claim::Underway { mut durable, .. } = ask(&mut owner, B, id, None) else { panic!("not underway") };
    owner.abandon(&[id], &StoreError::Closing);
    assert!(matches!(durable.try_recv(), Ok(Some(Err(StoreError::Closing)))));
    assert!(matches!(ask(&mut owner, B, id, None), Claim::Yours));
}

#[test]
fn a_candidate_that_was_not_confirmed_is_written_again_once() {
    let mut owner = owner();
    let id = ChunkId([1; 32]);
    owner.insert(&[chunk(id, 1)]);
    assert!(matches!(ask(&mut owner, A, id, Some(location(1))), Claim::Yours));
    assert!(matches!(ask(&mut owner, B, id, Some(location(1))), Claim::Underway { .. }));
    owner.insert(&[chunk(id, 2)]);
    assert!(matches!(ask(&mut owner, B, id, Some(location(1))), Claim::Candidate(at) if at == location(2)));
    let one = Volume::of_chunk(10, 5, false);
    assert_eq!(owner.volume(|_| true), one, "two copies are one chunk");
    assert_eq!(owner.volume(|segment| segment == SegmentId(2)), one, "it counts where the index finds it");
    assert_eq!(owner.segments_of_copies(), [SegmentId(1), SegmentId(2)].into());
    assert_eq!(owner.next_copy(&id, &[location(2)]), Some(location(1)), "the other copy is remembered");
}

#[test]
fn a_copy_that_did_not_verify_answers_no_more_and_stays_in_the_pages_that_count_it() {
    let id = ChunkId([1; 32]);
    let mut owner = owner();
    owner.insert(&[chunk(id, 1)]);
    owner.forget(&id, location(1));
    assert!(matches!(ask(&mut owner, A, id, None), Claim::Yours));
    assert_eq!(owner.volume(|_| true).chunks, owner.index.chunks());
}

#[test]
fn no_checkpoint_covers_the_copy_that_another_one_stands_in_for() {
    let id = ChunkId([1; 32]);
    let mut owner = owner();
    owner.recover(&[chunk(id, 1), chunk(id, 2)]);
    owner.forget(&id, location(2));
    owner.prefer(&id, location(1));
    assert!(matches!(ask(&mut owner, A, id, None), Claim::Candidate(at) if at == location(1)));
    // It is counted in one of these, and the pages name the other.
    assert_eq!(owner.segments_of_copies(), [SegmentId(1), SegmentId(2)].into());
}

#[test]
fn a_chunk_that_was_forgotten_and_came_again_is_counted_once() {
    let one = Volume::of_chunk(10, 5, false);
    let id = ChunkId([1; 32]);
    let mut owner = owner();
    owner.insert(&[chunk(id, 1)]);
    owner.forget(&id, location(1));
    assert_eq!(owner.volume(|_| true), one, "its bytes are still stored");
    owner.insert(&[chunk(id, 2)]);
    assert_eq!(owner.volume(|_| true), one);
}

#[test]
fn what_a_loaded_checkpoint_counts_is_moved_and_not_counted_anew() {
    let one = Volume::of_chunk(10, 5, false);
    let id = ChunkId([1; 32]);
    // The checkpoint's volume is with one owner, its entries with others.
    let (mut first, mut owner) = (self::owner(), owner());
    first.add_covered(one);
    owner.index.insert(&id, location(1));
    owner.insert(&[chunk(id, 2)]);
    let mut sum = first.volume(|_| true);
    sum += owner.volume(|_| true);
    assert_eq!(sum, one);
    let mut covered = first.volume(|segment| segment == SegmentId(1));
    covered += owner.volume(|segment| segment == SegmentId(1));
    assert_eq!(covered, Volume::default());
    assert_eq!(owner.segments_of_copies(), [SegmentId(2)].into(), "the covered one stays covered");
}

#[test]
fn of_recovered_copies_the_later_one_answers_whatever_came_first() {
    for order in [[1, 2], [2, 1]] {
        let mut owner = owner();
        let id = ChunkId([1; 32]);
        order.iter().for_each(|segment| owner.recover(&[chunk(id, *segment)]));
        assert_eq!(owner.next_copy(&id, &[]), Some(location(2)));
        assert_eq!(owner.next_copy(&id, &[location(2)]), Some(location(1)));
    }
}

fn moved(id: ChunkId, from: u64, to: u64) -> Moved {
    let (from, to) = (location(from), location(to));
    Moved { id, from, to, plain_bytes: 10, stored_before: 5, stored_after: 2, was_shared: false, is_shared: true }
}

#[test]
fn a_moved_chunk_is_found_and_counted_where_it_went_and_waits_for_nobody() {
    let id = ChunkId([1; 32]);
    let mut owner = owner();
    owner.insert(&[chunk(id, 1)]);
    owner.forget(&id, location(1));
    assert!(owner.relocate(&moved(id, 1, 7)));
    assert!(matches!(ask(&mut owner, A, id, None), Claim::Candidate(at) if at == location(7)));
    let after = Volume { chunks: 1, plain_bytes: 10, stored_bytes: 2, similarity_bytes: 8 };
    assert_eq!((owner.volume(|_| true), owner.volume(|segment| segment == SegmentId(7))), (after, after));
    assert!(!owner.names(SegmentId(1)) && owner.names(SegmentId(7)));
    assert!(owner.segments_of_copies().is_empty(), "the old place is not remembered");
}

#[test]
fn what_was_condemned_or_stored_again_meanwhile_is_not_moved() {
    let (dead, again) = (ChunkId([1; 32]), ChunkId([2; 32]));
    let mut owner = owner();
    owner.insert(&[chunk(dead, 1), chunk(again, 1)]);
    owner.index.remove(&dead, location(1));
    assert!(matches!(ask(&mut owner, A, again, Some(location(1))), Claim::Yours));
    owner.insert(&[chunk(again, 2)]);
    let before = owner.volume(|_| true);
    assert!(!owner.relocate(&moved(dead, 1, 7)) && !owner.relocate(&moved(again, 1, 7)));
    assert_eq!(owner.standing(&dead, location(7)), Standing::Dead);
    assert_eq!(owner.standing(&again, location(1)), Standing::Copy(location(2)));
    assert_eq!((owner.standing(&again, location(2)), owner.volume(|_| true)), (Standing::Live, before));
}

#[test]
fn a_writer_that_waits_for_a_chunk_does_not_lose_it_to_a_move() {
    let id = ChunkId([1; 32]);
    let mut owner = owner();
    owner.insert(&[chunk(id, 1)]);
    // It could not be confirmed at its old place, which was being freed.
    assert!(matches!(ask(&mut owner, A, id, Some(location(1))), Claim::Yours));
    let Claim::Underway { mut durable, .. } = ask(&mut owner, B, id, None) else { panic!("not underway") };
    assert!(owner.relocate(&moved(id, 1, 7)));
    assert!(durable.try_recv().expect("the writer is there").is_none());
    owner.insert(&[chunk(id, 8)]);
    assert_eq!(durable.try_recv().expect("told").map(Result::ok), Some(Some(location(8))));
    assert_eq!(owner.next_copy(&id, &[location(8)]), Some(location(7)));
}

#[test]
fn recovered_copies_of_unequal_length_are_counted_as_the_one_that_answers() {
    let id = ChunkId([1; 32]);
    let short = DurableChunk { stored_bytes: 2, is_shared: true, ..chunk(id, 7) };
    for order in [[chunk(id, 1), short], [short, chunk(id, 1)]] {
        let mut owner = owner();
        order.iter().for_each(|chunk| owner.recover(&[*chunk]));
        for displaced in owner.take_displaced() {
            assert_eq!(displaced.location, location(1));
            owner.correct(&displaced, &chunk(id, 1));
        }
        let all = owner.volume(|_| true);
        assert_eq!((all.stored_bytes, all.similarity_bytes), (2, 8));
        assert_eq!(owner.volume(|segment| segment == SegmentId(1)), Volume::default());
    }
}

#[test]
fn a_condemned_chunk_is_counted_nowhere_and_is_written_by_the_next_who_asks() {
    let one = Volume::of_chunk(10, 5, false);
    let (dead, kept) = (ChunkId([1; 32]), ChunkId([2; 32]));
    // The first counts for all what the loaded checkpoint covered; the dead chunk's entry is with the other.
    let (mut first, mut owner) = (self::owner(), owner());
    first.add_covered(one);
    owner.index.insert(&dead, location(1));
    owner.insert(&[chunk(kept, 2)]);
    owner.index.set_epoch(3);
    assert_eq!(owner.mark(&[kept, ChunkId([9; 32])]), [1], "one is unknown");
    assert_eq!(owner.condemn(&[chunk(kept, 2), chunk(dead, 2)]), Volume::default(), "alive, and another place");
    assert_eq!(owner.condemn(&[chunk(dead, 1)]), one);
    let mut sum = first.volume(|_| true);
    sum += owner.volume(|_| true);
    assert_eq!(sum, one);
    assert_eq!(owner.unused(&[SegmentId(1), SegmentId(2)]), [SegmentId(1)]);
    assert!(matches!(ask(&mut owner, A, dead, None), Claim::Yours));
}

#[test]
fn a_copy_that_a_checkpoint_has_of_what_the_tail_has_is_remembered_and_counted_no_more() {
    let one = Volume { chunks: 1, plain_bytes: 10, stored_bytes: 5, ..Volume::default() };
    let (again, other) = (ChunkId([1; 32]), ChunkId([2; 32]));
    let mut owner = owner();
    owner.recover(&[chunk(again, 7)]);
    owner.add_covered(one);
    // It is on two pages.
    let before = DurableChunk { stored_bytes: 9, ..chunk(again, 1) };
    owner.add_covered(Volume { stored_bytes: 9, ..one });
    assert!(owner.supersede(&[before]) && owner.supersede(&[before]));
    let mut sum = one;
    sum += one;
    assert_eq!((owner.volume(|_| true), owner.known(&again)), (sum, Some(location(7))));
    assert_eq!(owner.unused(&[SegmentId(1), SegmentId(7)]), []);
    assert!(!owner.supersede(&[chunk(other, 1)]), "nobody knows it");
    assert!(!owner.supersede(&[chunk(again, 7)]), "it is the copy of the tail");
}

#[test]
fn a_segment_with_a_remembered_copy_is_used_until_the_named_copy_was_verified() {
    let one = Volume::of_chunk(10, 5, false);
    let id = ChunkId([1; 32]);
    let mut owner = owner();
    owner.recover(&[chunk(id, 1), chunk(id, 2)]);
    assert_eq!(owner.unused(&[SegmentId(1), SegmentId(2)]), []);
    assert_eq!(owner.copied(None, 9), [(id, location(2))]);
    owner.forget_copies(&chunk(id, 1));
    assert_eq!(owner.copied(None, 9).len(), 1, "that copy does not answer");
    owner.forget_copies(&chunk(id, 2));
    assert_eq!(owner.unused(&[SegmentId(1), SegmentId(2)]), [SegmentId(1)]);
    owner.forget_segment(SegmentId(1));
    assert_eq!(owner.volume(|_| true), one);
    assert_eq!(owner.copied(None, 9), []);
}

#[test]
fn a_reader_that_comes_late_does_not_bring_back_what_was_condemned_or_moved() {
    let id = ChunkId([1; 32]);
    let mut owner = owner();
    owner.insert(&[chunk(id, 1)]);
    owner.index.insert(&id, location(2));
    owner.prefer(&id, location(1));
    assert_eq!(owner.known(&id), Some(location(2)));
    owner.index.set_epoch(3);
    owner.condemn(&[chunk(id, 2)]);
    owner.prefer(&id, location(2));
    assert_eq!(owner.known(&id), None);
}

#[test]
fn a_copy_that_is_dropped_leaves_its_count_to_the_copy_that_answers() {
    let one = Volume::of_chunk(10, 5, false);
    let id = ChunkId([1; 32]);
    let mut owner = owner();
    owner.recover(&[chunk(id, 1), chunk(id, 2)]);
    owner.forget(&id, location(2));
    owner.prefer(&id, location(1));
    assert_eq!(owner.volume(|segment| segment == SegmentId(2)), one, "still counted where it did not verify");
    owner.drop_copy(&chunk(id, 2));
    assert_eq!(owner.volume(|segment| segment == SegmentId(1)), one);
    assert_eq!(owner.volume(|segment| segment == SegmentId(2)), Volume::default(), "no checkpoint counts it there");
    assert_eq!(owner.unused(&[SegmentId(1), SegmentId(2)]), [SegmentId(2)]);
    owner.drop_copy(&chunk(id, 2));
    assert_eq!(owner.volume(|_| true), one);
}

#[test]
fn a_chunk_that_is_entered_again_is_counted_once() {
    let one = Volume::of_chunk(10, 5, false);
    let id = ChunkId([1; 32]);
    let mut owner = owner();
    assert!(owner.reenter(&chunk(id, 1)) && owner.reenter(&chunk(id, 1)));
    assert_eq!((owner.volume(|_| true), owner.index.chunks()), (one, 1));
}
