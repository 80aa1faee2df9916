//! What goes wrong with disks between two starts, and is put right by an operator once the node has refused to start.
//!
//! Without another copy the node can do no more than refuse, naming the place; so each of these is followed by a start
//! that may do just that, and after the operator's repair the next one must find everything.

use std::rc::Rc;

use proto::disk::{FixedHeader, WalBatchHeader, WalHeader};
use proto::limits::SECTOR_BYTES;

use super::world::World;
use crate::oracle::{Violation, violation};
use crate::sim::{Random, Simulation};

/// Copies of a superblock, one of which is enough.
const SUPERBLOCK_COPIES: u64 = 4;
/// Tries to hit a byte that holds data.
const FLIP_ATTEMPTS: usize = 20;

/// Remembers a disk, or exchanges it for what it was when it was remembered: metadata of an earlier start must be
/// refused, data of an earlier start must be refused unless nothing is missing.
pub(super) fn exchange(simulation: &mut Simulation, world: &Rc<World>, random: &mut Random) -> Result<(), Violation> {
    let starts = world.starts.get();
    let Some((disk, starts_before)) = world.remembered.get() else {
        if world.disks().len() > 1 && starts > 0 && random.chance(1, 2) {
            let disk = random.below(world.disks().len() as u64) as usize;
            world.disks()[disk].remember();
            world.remembered.set(Some((disk, starts)));
        }
        return Ok(());
    };
    if starts == starts_before || random.chance(1, 2) {
        return Ok(());
    }
    world.remembered.set(None);
    let disk = &world.disks()[disk];
    let has_metadata = disk.files().iter().any(|(name, _)| name.starts_with("meta/"));
    assert!(disk.revert(), "invariant: it was remembered");
    match world.open_alone(simulation, random)? {
        Err(node::OpenError::Stale { .. }) => world.tally.count("reverted disks refused"),
        Err(error) => world.tolerate_failed_start(&error)?,
        Ok(()) if has_metadata => return Err(violation!("metadata of an earlier start was believed")),
        Ok(()) => {
            world.tally.count("reverted disks on which nothing was missing");
            return Ok(());
        }
    }
    disk.restore();
    Ok(())
}

/// Flips a bit of what exists once: a log, a snapshot, the header of a segment; or of a superblock, which has copies.
pub(super) fn rot_metadata(
    simulation: &mut Simulation,
    world: &Rc<World>,
    random: &mut Random,
) -> Result<(), Violation> {
    let disk = random.pick(world.disks()).clone();
    let scope = *random.pick(&["meta/wal", "meta/snapshot-", "segments/", "superblock"]);
    let files: Vec<(String, u64)> = disk.files().into_iter().filter(|(name, _)| name.starts_with(scope)).collect();
    if files.is_empty() || world.starts.get() == 0 {
        return Ok(());
    }
    let (name, len) = random.pick(&files);
    let sector = SECTOR_BYTES as u64;
    let head = |name: &str| disk.peek(name, 0, SECTOR_BYTES);
    // A log whose creation was cut off settles nothing about the one before.
    let newest = files.iter().rfind(|(name, _)| head(name).is_some_and(|head| WalHeader::parse(&head).is_ok()));
    let end = match scope {
        // What is not the newest log may end anywhere; the last batch of that cannot be told from a torn one.
        "meta/wal" if newest.is_none_or(|(newest, _)| newest <= name) => {
            let is_batch =
                |at: &u64| disk.peek(name, *at, SECTOR_BYTES).is_some_and(|s| WalBatchHeader::parse(&s).is_ok());
            (1..len / sector).map(|number| number * sector).rfind(is_batch).unwrap_or(0)
        }
        "segments/" => sector,
        "superblock" => sector * random.below(SUPERBLOCK_COPIES),
        _ => *len,
    };
    let hit = (0..FLIP_ATTEMPTS).find_map(|_| {
        let (offset, bit) = (random.below(end.max(1)), random.below(8) as u8);
        (end > 0 && disk.corrupt(name, offset, bit)).then_some((offset, bit))
    });
    let Some((offset, bit)) = hit else { return Ok(()) };
    match world.open_alone(simulation, random)? {
        // What was hit means nothing, or is there again.
        Ok(()) => return Ok(()),
        Err(node::OpenError::Meta(meta::OpenError::Corrupt { .. })) if scope.starts_with("meta/") => {}
        Err(node::OpenError::Segment(_)) if scope == "segments/" => {}
        Err(error) => world.tolerate_failed_start(&error)?,
    }
    world.tally.count("damaged metadata refused");
    disk.mend(name, offset, bit);
    Ok(())
}
