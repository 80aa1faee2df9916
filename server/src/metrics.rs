//! What the server counts about its requests, in the text format of Prometheus.
//!
//! Label values come from fixed sets, so that no client can make a series of its own.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::fmt::{Display, Write};
use std::ops::AddAssign;
use std::rc::Rc;
use std::time::Duration;

use proto::port::runtime;

use crate::activity::Ending;

/// Upper bounds of the histogram's buckets, in seconds: from a cached lookup to a large upload.
const BUCKETS_SECONDS: [f64; 12] = [0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.1, 0.25, 1.0, 5.0, 30.0, 300.0];

#[derive(Clone, Copy, Default)]
struct Histogram {
    /// Requests per bucket, not cumulated; the last is beyond all bounds.
    counts: [u64; BUCKETS_SECONDS.len() + 1],
    sum: Duration,
}

/// Method and route of a request, both from fixed sets.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Call {
    pub(crate) method: &'static str,
    pub(crate) route: &'static str,
}

/// What was counted, on one core or on several.
#[derive(Clone, Default)]
pub(crate) struct Counts {
    requests: BTreeMap<(Call, u16), u64>,
    durations: BTreeMap<Call, Histogram>,
    received_bytes: u64,
    sent_bytes: u64,
    requests_inflight: u64,
    damaged_reads: u64,
    endings: BTreeMap<Ending, u64>,
    connections_refused: u64,
}

/// The counters of one core.
#[derive(Default)]
pub(crate) struct Metrics(RefCell<Counts>);

impl Metrics {
    /// A copy of what was counted so far.
    pub(crate) fn counts(&self) -> Counts {
        self.0.borrow().clone()
    }

    /// Counts bytes of request bodies.
    pub(crate) fn received(&self, bytes: usize) {
        self.0.borrow_mut().received_bytes += bytes as u64;
    }

    /// Counts a read that found damage.
    pub(crate) fn damaged_read(&self) {
        self.0.borrow_mut().damaged_reads += 1;
    }

    /// Counts a connection that the server ended.
    pub(crate) fn ended(&self, ending: Ending) {
        *self.0.borrow_mut().endings.entry(ending).or_default() += 1;
    }

    /// Counts a connection that was one too many.
    pub(crate) fn connection_refused(&self) {
        self.0.borrow_mut().connections_refused += 1;
    }

    /// Requests whose response is not sent in whole yet.
    pub(crate) fn requests_inflight(&self) -> u64 {
        self.0.borrow().requests_inflight
    }

    /// Starts to measure a request.
    pub(crate) fn observe(self: &Rc<Self>, call: Call) -> Observation {
        self.0.borrow_mut().requests_inflight += 1;
        Observation { metrics: self.clone(), call, status: 0, started: runtime::monotonic() }
    }

    fn finished(&self, call: Call, status: u16, took: Duration) {
        let mut counts = self.0.borrow_mut();
        counts.requests_inflight -= 1;
        *counts.requests.entry((call, status)).or_default() += 1;
        let histogram = counts.durations.entry(call).or_default();
        let bucket = BUCKETS_SECONDS.partition_point(|bound| *bound < took.as_secs_f64());
        histogram.counts[bucket] += 1;
        histogram.sum += took;
    }
}

impl AddAssign for Counts {
    fn add_assign(&mut self, other: Counts) {
        for (request, count) in other.requests {
            *self.requests.entry(request).or_default() += count;
        }
        for (call, histogram) in other.durations {
            let sum = self.durations.entry(call).or_default();
            sum.counts.iter_mut().zip(histogram.counts).for_each(|(sum, count)| *sum += count);
            sum.sum += histogram.sum;
        }
        for (ending, count) in other.endings {
            *self.endings.entry(ending).or_default() += count;
        }
        self.received_bytes += other.received_bytes;
        self.sent_bytes += other.sent_bytes;
        self.requests_inflight += other.requests_inflight;
        self.damaged_reads += other.damaged_reads;
        self.connections_refused += other.connections_refused;
    }
}

impl Counts {
    /// Writes everything counted here.
    pub(crate) fn write(&self, page: &mut Page) {
        page.family("dfs_requests_total", "counter", "Requests answered, by method, route and status.");
        for ((Call { method, route }, status), count) in &self.requests {
            page.sample(
                "dfs_requests_total",
                &format!("method=\"{method}\",route=\"{route}\",status=\"{status}\""),
                count,
            );
        }
        let name = "dfs_request_duration_seconds";
        page.family(name, "histogram", "Time from the head of a request to the last byte of its response.");
        for (Call { method, route }, histogram) in &self.durations {
            let labels = format!("method=\"{method}\",route=\"{route}\"");
            let mut cumulated = 0;
            for (bucket, count) in histogram.counts.iter().enumerate() {
                cumulated += count;
                let bound = BUCKETS_SECONDS.get(bucket).map_or("+Inf".to_owned(), f64::to_string);
                page.sample(&format!("{name}_bucket"), &format!("{labels},le=\"{bound}\""), cumulated);
            }
            page.sample(&format!("{name}_sum"), &labels, histogram.sum.as_secs_f64());
            page.sample(&format!("{name}_count"), &labels, cumulated);
        }
        page.counter("dfs_bytes_received_total", "Bytes of request bodies.", self.received_bytes);
        page.counter("dfs_bytes_sent_total", "Bytes of response bodies.", self.sent_bytes);
        page.counter("dfs_damaged_reads_total", "Reads that found bytes that do not verify.", self.damaged_reads);
        page.gauge("dfs_requests_in_flight", "Requests being served.", self.requests_inflight);
        page.family("dfs_connections_ended_total", "counter", "Connections that the server ended, by reason.");
        for (ending, reason) in
            [(Ending::Idle, "idle"), (Ending::SlowHead, "slow_head"), (Ending::SlowReader, "slow_reader")]
        {
            let count = self.endings.get(&ending).copied().unwrap_or_default();
            page.sample("dfs_connections_ended_total", &format!("reason=\"{reason}\""), count);
        }
        page.counter(
            "dfs_connections_refused_total",
            "Connections beyond the maximum, which were told to come back.",
            self.connections_refused,
        );
    }
}

/// A request being measured; counted when dropped.
pub(crate) struct Observation {
    metrics: Rc<Metrics>,
    call: Call,
    /// 0: the client left before it was answered.
    status: u16,
    started: Duration,
}

impl Observation {
    /// Notes the status that was answered.
    pub(crate) fn answered(&mut self, status: u16) {
        self.status = status;
    }

    /// Counts bytes of the response body.
    pub(crate) fn sent(&self, bytes: usize) {
        self.metrics.0.borrow_mut().sent_bytes += bytes as u64;
    }
}

/// The status under which requests are counted whose client left: nobody saw another.
const CLIENT_CLOSED_REQUEST: u16 = 499;

impl Drop for Observation {
    fn drop(&mut self) {
        let status = if self.status == 0 { CLIENT_CLOSED_REQUEST } else { self.status };
        self.metrics.finished(self.call, status, runtime::monotonic().saturating_sub(self.started));
    }
}

/// A page of metrics being written.
#[derive(Default)]
pub(crate) struct Page(String);

impl Page {
    fn family(&mut self, name: &str, kind: &str, help: &str) {
        writeln!(self.0, "# HELP {name} {help}\n# TYPE {name} {kind}").expect("writing to a string");
    }

    fn sample(&mut self, name: &str, labels: &str, value: impl Display) {
        writeln!(self.0, "{name}{{{labels}}} {value}").expect("writing to a string");
    }

    /// Writes a counter without labels.
    pub(crate) fn counter(&mut self, name: &str, help: &str, value: u64) {
        self.family(name, "counter", help);
        writeln!(self.0, "{name} {value}").expect("writing to a string");
    }

    /// Writes a gauge without labels.
    pub(crate) fn gauge(&mut self, name: &str, help: &str, value: impl Display) {
        self.family(name, "gauge", help);
        writeln!(self.0, "{name} {value}").expect("writing to a string");
    }

    /// Writes a gauge with a sample for each value of `label`.
    pub(crate) fn gauges(&mut self, name: &str, help: &str, label: &str, samples: &[(&str, u64)]) {
        self.family(name, "gauge", help);
        for (value, number) in samples {
            self.sample(name, &format!("{label}=\"{value}\""), number);
        }
    }

    /// Writes a gauge that is always 1 and tells by its labels.
    pub(crate) fn info(&mut self, name: &str, help: &str, labels: &str) {
        self.family(name, "gauge", help);
        self.sample(name, labels, 1);
    }

    /// The text.
    pub(crate) fn into_text(self) -> String {
        self.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const CALL: Call = Call { method: "GET", route: "fs" };

    #[test]
    fn buckets_are_cumulated_and_end_in_the_count() {
        let metrics = Metrics::default();
        for (status, took_us) in [(200, 400), (200, 500), (404, 700), (200, 400_000_000)] {
            metrics.0.borrow_mut().requests_inflight += 1;
            metrics.finished(CALL, status, Duration::from_micros(took_us));
        }
        let mut page = Page::default();
        metrics.counts().write(&mut page);
        let text = page.into_text();
        for line in [
            "dfs_requests_total{method=\"GET\",route=\"fs\",status=\"200\"} 3",
            "dfs_requests_total{method=\"GET\",route=\"fs\",status=\"404\"} 1",
            "dfs_request_duration_seconds_bucket{method=\"GET\",route=\"fs\",le=\"0.0005\"} 2",
            "dfs_request_duration_seconds_bucket{method=\"GET\",route=\"fs\",le=\"0.001\"} 3",
            "dfs_request_duration_seconds_bucket{method=\"GET\",route=\"fs\",le=\"300\"} 3",
            "dfs_request_duration_seconds_bucket{method=\"GET\",route=\"fs\",le=\"+Inf\"} 4",
            "dfs_request_duration_seconds_count{method=\"GET\",route=\"fs\"} 4",
            "dfs_requests_in_flight 0",
        ] {
            assert!(text.lines().any(|found| found == line), "{line} is not in\n{text}");
        }
    }

    #[test]
    fn every_sample_has_help_and_a_type() {
        let metrics = Metrics::default();
        metrics.0.borrow_mut().requests_inflight += 1;
        metrics.finished(CALL, 200, Duration::ZERO);
        let mut page = Page::default();
        metrics.counts().write(&mut page);
        let text = page.into_text();
        let samples = text.lines().filter(|line| !line.starts_with('#'));
        for sample in samples {
            let name = sample.split(['{', ' ']).next().unwrap();
            let family = ["_bucket", "_sum", "_count"].iter().find_map(|end| name.strip_suffix(end)).unwrap_or(name);
            assert!(
                text.contains(&format!("# HELP {family} ")) && text.contains(&format!("# TYPE {family} ")),
                "{name}"
            );
        }
    }
}
