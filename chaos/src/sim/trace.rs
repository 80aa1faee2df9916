//! What happened, as a hash over everything and a log of the last events.
//!
//! Two runs of one seed must give the same hash; where they do not, something below the ports is not from the seed.

use std::collections::VecDeque;
use std::fmt;

use proto::checksum::checksum;

/// Events that the log keeps.
const TAIL_EVENTS_MAX: usize = 64;

/// One event.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TraceEvent {
    /// Virtual time.
    pub at_ns: u64,
    /// Kind of event.
    pub what: &'static str,
    /// What it is about: a task, a file.
    pub subject: u64,
    /// Kind-specific: an offset, a content hash.
    pub detail: u64,
}

impl fmt::Display for TraceEvent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let TraceEvent { at_ns, what, subject, detail } = self;
        write!(f, "{:>12}.{:03} µs  {what:<14} {subject:>6}  {detail:#x}", at_ns / 1000, at_ns % 1000)
    }
}

/// Running hash and bounded log of a run.
#[derive(Debug, Default)]
pub struct Trace {
    hash: u64,
    events: u64,
    tail: VecDeque<TraceEvent>,
}

impl Trace {
    pub(crate) fn record(&mut self, event: TraceEvent) {
        let mut input = [0; 40];
        let fields = [self.hash, event.at_ns, checksum(event.what.as_bytes()), event.subject, event.detail];
        for (eight, field) in input.chunks_exact_mut(8).zip(fields) {
            eight.copy_from_slice(&field.to_le_bytes());
        }
        self.hash = checksum(&input);
        self.events += 1;
        if self.tail.len() == TAIL_EVENTS_MAX {
            self.tail.pop_front();
        }
        self.tail.push_back(event);
    }

    /// Hash over all events so far.
    #[must_use]
    pub fn hash(&self) -> u64 {
        self.hash
    }

    /// Events so far.
    #[must_use]
    pub fn events(&self) -> u64 {
        self.events
    }

    /// The last events, oldest first, one a line.
    #[must_use]
    pub fn tail(&self) -> String {
        self.tail.iter().map(|event| format!("{event}\n")).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_field_and_the_order_reach_the_hash() {
        let event = TraceEvent { at_ns: 1, what: "poll", subject: 2, detail: 3 };
        let hash = |events: &[TraceEvent]| {
            let mut trace = Trace::default();
            events.iter().for_each(|event| trace.record(*event));
            trace.hash()
        };
        let base = hash(&[event]);
        for other in [
            TraceEvent { at_ns: 9, ..event },
            TraceEvent { what: "wake", ..event },
            TraceEvent { subject: 9, ..event },
            TraceEvent { detail: 9, ..event },
        ] {
            assert_ne!(hash(&[other]), base);
            assert_ne!(hash(&[event, other]), hash(&[other, event]));
        }
        assert_eq!(hash(&[event]), base);
    }

    #[test]
    fn the_log_is_bounded() {
        let mut trace = Trace::default();
        (0..1000).for_each(|at_ns| trace.record(TraceEvent { at_ns, what: "poll", subject: 0, detail: 0 }));
        assert_eq!(trace.tail().lines().count(), TAIL_EVENTS_MAX);
        assert_eq!(trace.events(), 1000);
    }
}
