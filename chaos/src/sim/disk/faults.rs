//! What is armed to go wrong with a disk.
//!
//! A fault is armed for the nth operation from now, so that it meets the node at a place that the seed chose.

use std::collections::BTreeMap;
use std::time::Duration;

use super::Operation;
use crate::sim::random::Random;

/// One operation on a file in some place.
#[derive(Clone, Copy, Debug)]
struct Nth {
    /// What the file's name starts with.
    scope: &'static str,
    /// How many such operations go well before.
    left: u64,
}

impl Nth {
    /// Counts an operation on `name`; returns whether it is the one.
    fn is_met(&mut self, name: &str) -> bool {
        if !name.starts_with(self.scope) {
            return false;
        }
        let met = self.left == 0;
        self.left = self.left.saturating_sub(1);
        met
    }
}

/// A time in which a disk is not itself.
#[derive(Clone, Copy, Debug)]
struct Spell {
    /// Operations issued before it begins.
    left: u64,
    /// For how long; `None` until the process ends.
    lasts: Option<Duration>,
    /// What an operation issued in it takes longer at most; `None` until it is over.
    extra_max: Option<Duration>,
    /// When it began.
    began: Option<Duration>,
}

/// How an operation that was issued is held up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Hold {
    /// It is not.
    No,
    /// By so much more than usual.
    Slow(Duration),
    /// For so long, or until the process ends.
    Stalled(Option<Duration>),
}

/// See the module.
#[derive(Default)]
pub(super) struct Faults {
    /// How many operations of a kind go well before one fails.
    errors: BTreeMap<Operation, u64>,
    misdirected: Option<Nth>,
    stale: Option<Nth>,
    spell: Option<Spell>,
}

impl Faults {
    pub(super) fn fail_nth(&mut self, operation: Operation, nth: u64) {
        self.errors.insert(operation, nth);
    }

    pub(super) fn misdirect_nth(&mut self, scope: &'static str, nth: u64) {
        self.misdirected = Some(Nth { scope, left: nth });
    }

    pub(super) fn stale_nth(&mut self, scope: &'static str, nth: u64) {
        self.stale = Some(Nth { scope, left: nth });
    }

    pub(super) fn slow_nth(&mut self, nth: u64, lasts: Duration, extra_max: Duration) {
        self.spell = Some(Spell { left: nth, lasts: Some(lasts), extra_max: Some(extra_max), began: None });
    }

    pub(super) fn stall_nth(&mut self, nth: u64, lasts: Option<Duration>) {
        self.spell = Some(Spell { left: nth, lasts, extra_max: None, began: None });
    }

    /// The process ended: a disk that did not answer it answers the next.
    pub(super) fn process_ended(&mut self) {
        self.spell.take_if(|spell| spell.lasts.is_none() && spell.began.is_some());
    }

    /// Counts an operation that is about to complete; returns whether it fails.
    pub(super) fn fails(&mut self, operation: Operation) -> bool {
        match self.errors.get_mut(&operation) {
            Some(0) => {
                self.errors.remove(&operation);
                true
            }
            Some(left) => {
                *left -= 1;
                false
            }
            None => false,
        }
    }

    /// Counts an operation that is issued at `now`; says by how much it is held up.
    pub(super) fn hold(&mut self, now: Duration, random: &mut Random) -> Hold {
        let Some(spell) = &mut self.spell else { return Hold::No };
        if spell.left > 0 {
            spell.left -= 1;
            return Hold::No;
        }
        let began = *spell.began.get_or_insert(now);
        match (spell.lasts, spell.extra_max) {
            (Some(lasts), _) if now >= began + lasts => {
                self.spell = None;
                Hold::No
            }
            (_, Some(extra_max)) => Hold::Slow(Duration::from_nanos(random.below(extra_max.as_nanos() as u64 + 1))),
            (Some(lasts), None) => Hold::Stalled(Some(began + lasts - now)),
            (None, None) => Hold::Stalled(None),
        }
    }

    /// Whether a misdirected write is armed.
    pub(super) fn may_misdirect(&self) -> bool {
        self.misdirected.is_some()
    }

    /// Counts a write to `name`; if it is to go astray, returns what the names of the files start with that it may hit.
    pub(super) fn misdirects(&mut self, name: &str) -> Option<&'static str> {
        let armed = self.misdirected.as_mut()?;
        armed.is_met(name).then_some(armed.scope)
    }

    /// The write went astray.
    pub(super) fn misdirected(&mut self) {
        self.misdirected = None;
    }

    /// Whether a stale read is armed.
    pub(super) fn may_be_stale(&self) -> bool {
        self.stale.is_some()
    }

    /// Counts a read of `name`; returns whether it is to be stale.
    pub(super) fn is_stale(&mut self, name: &str) -> bool {
        self.stale.as_mut().is_some_and(|armed| armed.is_met(name))
    }

    /// The read was stale.
    pub(super) fn was_stale(&mut self) {
        self.stale = None;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    #[test]
    fn a_slow_spell_begins_and_ends() {
        let (mut faults, mut random) = (Faults::default(), Random::new(1));
        faults.slow_nth(1, 10 * SECOND, 5 * SECOND);
        assert_eq!(faults.hold(SECOND, &mut random), Hold::No, "not yet");
        let mut hold = |now| match faults.hold(now, &mut random) {
            Hold::Slow(extra) => extra,
            other => panic!("a slow disk is slow, not {other:?}"),
        };
        let held: Vec<Duration> = (0..10).map(|second| hold((2 + second) * SECOND)).collect();
        assert!(held.iter().all(|extra| *extra <= 5 * SECOND) && held.iter().any(|extra| *extra > SECOND), "{held:?}");
        assert_eq!(faults.hold(12 * SECOND, &mut random), Hold::No, "it is over");
    }

    #[test]
    fn a_stall_holds_until_its_end_or_that_of_the_process() {
        let (mut faults, mut random) = (Faults::default(), Random::new(1));
        faults.stall_nth(0, Some(10 * SECOND));
        assert_eq!(faults.hold(SECOND, &mut random), Hold::Stalled(Some(10 * SECOND)));
        faults.process_ended();
        assert_eq!(
            faults.hold(4 * SECOND, &mut random),
            Hold::Stalled(Some(7 * SECOND)),
            "another process waits as well"
        );
        assert_eq!(faults.hold(11 * SECOND, &mut random), Hold::No);
        faults.stall_nth(0, None);
        assert_eq!(faults.hold(900 * SECOND, &mut random), Hold::Stalled(None));
        faults.process_ended();
        assert_eq!(faults.hold(900 * SECOND, &mut random), Hold::No);
    }

    #[test]
    fn only_files_in_scope_count() {
        let mut faults = Faults::default();
        faults.stale_nth("segments/", 1);
        let met = ["meta/wal", "segments/a", "meta/wal", "segments/b"].map(|name| faults.is_stale(name));
        assert_eq!(met, [false, false, false, true]);
    }
}
