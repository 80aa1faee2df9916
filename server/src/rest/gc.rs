//! Garbage collection: how it goes, and having it run.
//!
//! A run may take hours, so a request only begins one and says which; whoever wants to wait asks how it goes.

use hyper::StatusCode;
use node::{Collect, CycleReport, GcStatus};
use proto::api::{Gc, GcCycle, GcRun};
use proto::port::Disk;

use super::query::Query;
use super::{Answer, App, json};
use crate::metrics::Page;

fn cycle_of(report: &CycleReport) -> GcCycle {
    GcCycle {
        expired_versions: report.expired_versions,
        marked: report.marked,
        missing: report.missing,
        condemned_chunks: report.condemned_chunks,
        condemned_bytes: report.condemned_bytes,
        kept_chunks: report.kept,
        freed_segments: report.freed_segments,
        freed_bytes: report.freed_bytes,
        rewritten_chunks: report.rewritten_chunks,
        rewritten_bytes: report.rewritten_bytes,
        rewritten_from_bytes: report.rewritten_from_bytes,
        rewritten_to_bytes: report.rewritten_to_bytes,
        unreadable_chunks: report.unreadable,
        stopped: report.stopped.clone(),
    }
}

fn gc_of(status: &GcStatus) -> Gc {
    Gc {
        epoch: status.epoch,
        phase: status.phase.name().to_owned(),
        marked: status.marked,
        rewritten_bytes: status.rewritten_bytes,
        runs_begun: status.runs_begun,
        runs_ended: status.runs_ended,
        cycles: status.cycles,
        aborted: status.aborted,
        abort: status.abort.clone(),
        last: cycle_of(&status.last),
        total: cycle_of(&status.total),
    }
}

impl<D: Disk> App<D> {
    /// `GET /api/v1/gc`.
    pub(crate) async fn gc_status(&self) -> Answer {
        Ok(json(StatusCode::OK, &gc_of(&self.0.node.gc_status().await)))
    }

    /// `POST /api/v1/gc/run`.
    pub(crate) async fn run_gc(&self, mut query: Query) -> Answer {
        let collect = if query.flag("now")? { Collect::Now } else { Collect::Once };
        query.finish()?;
        let run = self.0.node.begin_collection(collect).await;
        Ok(json(StatusCode::ACCEPTED, &GcRun { run }))
    }
}

/// Writes what is counted of the collection.
pub(crate) fn write_metrics(status: &GcStatus, page: &mut Page) {
    let GcStatus { total, last, .. } = status;
    page.gauge("dfs_gc_epoch", "Epoch of garbage collection; each cycle raises it.", status.epoch);
    page.gauge("dfs_gc_running", "1 while a cycle of garbage collection runs.", u8::from(status.is_running()));
    page.counter("dfs_gc_cycles_total", "Cycles of garbage collection that went to their end.", status.cycles);
    page.counter("dfs_gc_cycles_aborted_total", "Cycles that ended early; the status says why.", status.aborted);
    page.counter("dfs_gc_condemned_chunks_total", "Chunks that nothing referred to any more.", total.condemned_chunks);
    page.counter("dfs_gc_condemned_bytes_total", "Their bytes after compression.", total.condemned_bytes);
    page.counter("dfs_gc_freed_segments_total", "Segments whose files were removed.", total.freed_segments);
    page.counter("dfs_gc_freed_bytes_total", "Bytes of those files.", total.freed_bytes);
    page.counter("dfs_gc_rewritten_chunks_total", "Chunks that compaction moved.", total.rewritten_chunks);
    page.counter("dfs_gc_rewritten_bytes_total", "Their plain bytes.", total.rewritten_bytes);
    page.counter("dfs_gc_rewritten_from_bytes_total", "Their stored bytes before.", total.rewritten_from_bytes);
    page.counter("dfs_gc_rewritten_to_bytes_total", "Their stored bytes after.", total.rewritten_to_bytes);
    page.gauge("dfs_gc_unreadable_chunks", "Chunks that compaction could not read; should be 0.", last.unreadable);
    page.gauge("dfs_gc_missing_chunks", "References that led nowhere in the last cycle; should be 0.", last.missing);
    page.gauge("dfs_gc_kept_chunks", "Garbage that no readable row table confirms; should be 0.", last.kept);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_count_has_its_own_place() {
        let report = CycleReport {
            expired_versions: 11,
            marked: 1,
            missing: 2,
            condemned_chunks: 3,
            condemned_bytes: 4,
            kept: 5,
            freed_segments: 6,
            freed_bytes: 7,
            rewritten_chunks: 12,
            rewritten_bytes: 13,
            rewritten_from_bytes: 14,
            rewritten_to_bytes: 15,
            unreadable: 16,
            stopped: Some("full".to_owned()),
        };
        let (last, total) = (report.clone(), report);
        let status = GcStatus { epoch: 8, cycles: 9, aborted: 10, last, total, ..GcStatus::default() };
        let gc = gc_of(&status);
        assert_eq!((gc.epoch, gc.phase.as_str(), gc.cycles, gc.aborted), (8, "idle", 9, 10));
        let cycle = gc.last;
        assert_eq!((cycle.marked, cycle.missing, cycle.condemned_chunks, cycle.condemned_bytes), (1, 2, 3, 4));
        assert_eq!(cycle.expired_versions, 11);
        assert_eq!((cycle.kept_chunks, cycle.freed_segments, cycle.freed_bytes), (5, 6, 7));
        assert_eq!((cycle.rewritten_chunks, cycle.rewritten_bytes, cycle.unreadable_chunks), (12, 13, 16));
        assert_eq!((cycle.rewritten_from_bytes, cycle.rewritten_to_bytes), (14, 15));
        assert_eq!(cycle.stopped.as_deref(), Some("full"));
        let mut page = Page::default();
        write_metrics(&status, &mut page);
        let text = page.into_text();
        for line in [
            "dfs_gc_cycles_total 9",
            "dfs_gc_freed_bytes_total 7",
            "dfs_gc_rewritten_to_bytes_total 15",
            "dfs_gc_missing_chunks 2",
        ] {
            assert!(text.lines().any(|found| found == line), "{line} is not in\n{text}");
        }
    }
}
