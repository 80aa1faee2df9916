//! Whoever keeps the store: sets retentions for all files and has garbage collected, while clients work.

use std::sync::atomic::Ordering;
use std::time::Duration;

use client::{Client, ClientError};
use proto::api::{Gc, Retention};
use proto::path::FsPath;

use super::court::Court;
use super::speech::{Fate, fate};
use super::writer::{Scene, count};
use super::{now, wait};
use crate::oracle::{Violation, violation};
use crate::sim::Random;

/// Longest pause between two requests: some operations of the clients, so that a collection is mostly under way.
const PAUSE_US_MAX: u64 = 20_000;
/// One request in so many sets a retention; the others ask for a collection.
const RETENTION_ONE_IN: u64 = 6;
/// One collection in so many goes on until everything is gone that is garbage, and seals segments for it.
const NOW_ONE_IN: u64 = 8;
/// A retention keeps so many versions at most: fewer than most files get.
const KEEP_MAX: u64 = 4;
/// Longest collection that is waited for: far longer than any should take.
const COLLECTION_MAX: Duration = Duration::from_secs(60);

/// See the module.
pub(super) struct Keeper {
    random: Random,
}

impl Keeper {
    pub(super) fn new(random: Random) -> Keeper {
        Keeper { random }
    }

    /// The keeper of one round.
    pub(super) fn fork(&mut self) -> Keeper {
        Keeper { random: self.random.fork() }
    }

    /// Does one thing after the other until the curtain falls, or a request is lost.
    ///
    /// # Errors
    /// The first [`Violation`].
    pub(super) fn play(&mut self, client: &Client, scene: &Scene) -> Result<(), Violation> {
        while !scene.curtain.load(Ordering::SeqCst) {
            let goes_on = match self.random.chance(1, RETENTION_ONE_IN) {
                true => self.retain(client, scene)?,
                false => self.collect(client, scene)?,
            };
            if !goes_on {
                break;
            }
            wait(Duration::from_micros(self.random.below(PAUSE_US_MAX)));
        }
        Ok(())
    }

    /// Sets a retention; whether to go on.
    fn retain(&mut self, client: &Client, scene: &Scene) -> Result<bool, Violation> {
        let keep = self.random.chance(4, 5).then(|| self.random.between(1, KEEP_MAX) as u32);
        let before = scene.court.hear(move |docket| docket.oracle.call_retention(keep))?;
        let retention = Retention { keep, keep_for_seconds: None, keep_everything: keep.is_none() };
        let lost = match client.set_retention(&FsPath::root(), &retention) {
            Ok(_) => {
                count(&scene.tally.retentions);
                return scene.court.hear(move |docket| docket.oracle.saw_retention(keep)).map(|()| true);
            }
            Err(error) => lost(&error, scene)?,
        };
        scene.court.hear(move |docket| match lost {
            Fate::DidNotHappen => docket.oracle.refuse_retention(before),
            _ => {
                docket.leave_open();
                Ok(())
            }
        })?;
        Ok(false)
    }

    /// Asks for a collection; whether to go on.
    fn collect(&mut self, client: &Client, scene: &Scene) -> Result<bool, Violation> {
        match client.run_gc(self.random.chance(1, NOW_ONE_IN)) {
            Ok(_) => {
                count(&scene.tally.collections);
                Ok(true)
            }
            Err(error) => lost(&error, scene).map(|_| false),
        }
    }
}

/// What a failed request of the keeper leaves; only a fault or too many requests excuse it.
fn lost(error: &ClientError, scene: &Scene) -> Result<Fate, Violation> {
    let fate = fate(error)?;
    let is_excused = error.code() == "busy" || scene.trouble.load(Ordering::SeqCst);
    if matches!(fate, Fate::Refused(_)) || !is_excused {
        return Err(violation!("before any fault, the keeper of the store was answered {error:?}"));
    }
    Ok(fate)
}

/// Compares the retention in force with what was set, and lets go what it does not keep, while nobody changes anything.
pub(super) fn settle(client: &Client, court: &Court) -> Result<Gc, Violation> {
    let shown = client.retention(&FsPath::root()).map_err(|error| violation!("the retention: {error:?}"))?;
    court.hear(move |docket| docket.oracle.saw_retention(shown.in_force.keep))?;
    let collected = collect(client)?;
    court.hear(|docket| docket.oracle.saw_pass());
    Ok(collected)
}

/// Has all garbage collected that there is, and waits until that is done.
pub(super) fn collect(client: &Client) -> Result<Gc, Violation> {
    let failed = |error: ClientError| violation!("with no fault, a collection: {error:?}");
    let run = client.run_gc(true).map_err(failed)?;
    let start = now();
    loop {
        let gc = client.gc().map_err(failed)?;
        match &gc.abort {
            _ if gc.runs_ended < run => {}
            Some(why) => return Err(violation!("with no fault, a collection ended early: {why}")),
            None => return Ok(gc),
        }
        if start.elapsed() > COLLECTION_MAX {
            return Err(violation!("a collection takes longer than {COLLECTION_MAX:?}: {gc:?}"));
        }
        wait(Duration::from_millis(2));
    }
}
