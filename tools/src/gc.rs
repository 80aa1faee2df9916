//! Garbage collection as people see it.

use std::time::Duration;

use client::ClientError;
use proto::api::Gc;

use crate::context::Context;
use crate::failure::Failure;
use crate::output::{human_bytes, printable};
use crate::progress;

/// How often the server is asked how a run goes.
const ASK_AGAIN_AFTER: Duration = Duration::from_millis(500);

/// Answers in a row that say that nothing is done or waits, though a run was asked for.
const IDLE_ANSWERS_MAX: u32 = 6;

fn failed(error: ClientError) -> Failure {
    Failure::remote("/api/v1/gc", error)
}

/// Shows how it goes.
pub(crate) fn show(context: &Context) -> Result<(), Failure> {
    let gc = context.client.gc().map_err(failed)?;
    context.output.result(&gc, || table(&gc))
}

/// Begins a run; with `now` waits for its end.
pub(crate) fn run(context: &Context, now: bool) -> Result<(), Failure> {
    let before = context.client.gc().map_err(failed)?;
    let run = context.client.run_gc(now).map_err(failed)?;
    let bar = progress::spinner(context.output, "waiting for its turn");
    let mut gc = context.client.gc().map_err(failed)?;
    let mut idle = 0;
    while now && gc.runs_ended < run {
        // Runs are counted from the start. One that was asked for begins at once, or after the one under way.
        idle = if gc.phase == "idle" && gc.runs_begun < run { idle + 1 } else { 0 };
        if idle == IDLE_ANSWERS_MAX || has_restarted(&before, &gc) {
            let why = "the server was started again meanwhile; run it again".to_owned();
            return Err(Failure::Collection { why });
        }
        bar.set_message(match gc.phase.as_str() {
            "compact" => format!("compact: {} rewritten", human_bytes(gc.rewritten_bytes)),
            phase => format!("{phase}: {} references followed", gc.marked),
        });
        pause();
        gc = context.client.gc().map_err(failed)?;
    }
    bar.finish_and_clear();
    if let Some(why) = gc.abort.as_ref().filter(|_| now && gc.aborted > before.aborted) {
        return Err(Failure::Collection { why: printable(why) });
    }
    context.output.result(&gc, || if now { table(&gc) } else { format!("run {run} begins") })?;
    match gc.last.stopped.as_ref().filter(|_| now) {
        Some(why) => Err(Failure::Unfinished { why: printable(why) }),
        None => Ok(()),
    }
}

/// Whether `later` is of another start of the server than `before`.
fn has_restarted(before: &Gc, later: &Gc) -> bool {
    later.runs_begun < before.runs_begun || later.runs_ended < before.runs_ended || later.cycles < before.cycles
}

#[expect(clippy::disallowed_methods, reason = "a command that waits for a server has nothing else to do")]
fn pause() {
    std::thread::sleep(ASK_AGAIN_AFTER);
}

fn table(gc: &Gc) -> String {
    let from = format!("after compression, from {}", human_bytes(gc.total.rewritten_from_bytes));
    let rows = [
        ("phase", gc.phase.clone(), ""),
        ("epoch", gc.epoch.to_string(), "raised by each cycle"),
        ("cycles", gc.cycles.to_string(), "since the server was started"),
        ("condemned", human_bytes(gc.total.condemned_bytes), "that nothing referred to any more, after compression"),
        ("freed", human_bytes(gc.total.freed_bytes), "of segments, given back to the disks"),
        ("rewritten", human_bytes(gc.total.rewritten_bytes), "of chunks that compaction moved, before compression"),
        ("to", human_bytes(gc.total.rewritten_to_bytes), &from),
        ("missing", gc.last.missing.to_string(), "references that led nowhere in the last cycle"),
        ("kept", gc.last.kept_chunks.to_string(), "dead chunks whose row cannot be read"),
        ("unreadable", gc.last.unreadable_chunks.to_string(), "chunks that compaction could not read and left"),
    ];
    let mut lines: Vec<String> =
        rows.iter().map(|(name, value, note)| format!("{name:<10}{value:>11}  {note}").trim_end().to_owned()).collect();
    if let Some(why) = &gc.abort {
        lines.push(format!("the last cycle ended early: {}", printable(why)));
    }
    if let Some(why) = &gc.last.stopped {
        lines.push(format!("compaction was not finished, the next cycle tries again: {}", printable(why)));
    }
    lines.join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_server_that_counts_less_than_before_was_started_again() {
        let before = Gc { runs_begun: 3, runs_ended: 3, cycles: 5, ..Gc::default() };
        assert!(!has_restarted(&before, &Gc { runs_begun: 4, ..before.clone() }));
        assert!(has_restarted(&before, &Gc { cycles: 0, ..before.clone() }));
    }

    #[test]
    fn a_cycle_that_ended_early_says_why() {
        let mut gc = Gc { phase: "idle".to_owned(), ..Gc::default() };
        gc.total.freed_bytes = 3 << 20;
        assert!(table(&gc).contains("freed         3.0 MiB  of segments"), "{}", table(&gc));
        assert!(!table(&gc).contains("early"));
        gc.abort = Some("a page\u{1b}".to_owned());
        assert!(table(&gc).ends_with("the last cycle ended early: a page\\u{1b}"), "{}", table(&gc));
    }
}
