//! What came of the operations of a phase.

use std::collections::BTreeMap;
use std::time::Duration;

use serde::Serialize;

use crate::latency::{Latencies, Summary};

/// Counts of one connection, and sums of several.
#[derive(Clone, Debug)]
pub(crate) struct Tally {
    kinds: Vec<KindTally>,
    /// Failed operations by reason, such as `507 no_space`.
    failures: BTreeMap<String, u64>,
    /// Answers 429: the server asked to come back later.
    busy: u64,
}

#[derive(Clone, Debug)]
struct KindTally {
    latencies: Latencies,
    bytes: u64,
}

/// What came of one kind of operation.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct KindReport {
    pub(crate) operation: &'static str,
    pub(crate) operations: u64,
    pub(crate) operations_per_s: f64,
    /// Bytes of bodies, uploads and downloads alike.
    pub(crate) bytes: u64,
    /// From when it was sent (closed loop) or due (open loop) until the whole answer was there.
    pub(crate) latency: Option<Summary>,
}

impl Tally {
    pub(crate) fn new(kinds: usize) -> Tally {
        let kind = KindTally { latencies: Latencies::new(), bytes: 0 };
        Tally { kinds: vec![kind; kinds], failures: BTreeMap::new(), busy: 0 }
    }

    /// Counts an operation that succeeded and moved `bytes`.
    pub(crate) fn succeeded(&mut self, kind: usize, latency: Duration, bytes: u64) {
        self.kinds[kind].latencies.record(latency);
        self.kinds[kind].bytes += bytes;
    }

    /// Counts an operation that failed.
    pub(crate) fn failed(&mut self, reason: String) {
        *self.failures.entry(reason).or_default() += 1;
    }

    /// Counts an answer 429.
    pub(crate) fn refused_as_busy(&mut self) {
        self.busy += 1;
    }

    pub(crate) fn add(&mut self, other: &Tally) {
        for (sum, kind) in self.kinds.iter_mut().zip(&other.kinds) {
            sum.latencies.add(&kind.latencies);
            sum.bytes += kind.bytes;
        }
        for (reason, count) in &other.failures {
            *self.failures.entry(reason.clone()).or_default() += count;
        }
        self.busy += other.busy;
    }

    pub(crate) fn failures(&self) -> &BTreeMap<String, u64> {
        &self.failures
    }

    pub(crate) fn busy(&self) -> u64 {
        self.busy
    }

    /// Bytes of all bodies.
    pub(crate) fn bytes(&self) -> u64 {
        self.kinds.iter().map(|kind| kind.bytes).sum()
    }

    /// Operations that succeeded.
    pub(crate) fn operations(&self) -> u64 {
        self.kinds.iter().map(|kind| kind.latencies.count()).sum()
    }

    /// Latencies of all kinds together.
    ///
    /// Only these can be corrected: while an operation stalls, its connection omits operations of every kind.
    pub(crate) fn latencies(&self) -> Latencies {
        let mut all = Latencies::new();
        self.kinds.iter().for_each(|kind| all.add(&kind.latencies));
        all
    }

    /// One report for each of `names` that occurred, for a phase of `seconds`.
    pub(crate) fn reports(&self, names: &[&'static str], seconds: f64) -> Vec<KindReport> {
        let occurred = names.iter().zip(&self.kinds).filter(|(_, kind)| kind.latencies.count() > 0);
        let report = |(name, kind): (&&'static str, &KindTally)| KindReport {
            operation: name,
            operations: kind.latencies.count(),
            operations_per_s: kind.latencies.count() as f64 / seconds,
            bytes: kind.bytes,
            latency: kind.latencies.summary(),
        };
        occurred.map(report).collect()
    }
}
