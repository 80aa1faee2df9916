//! What removing half of the files gives back, compared with a store that never had them.

use proto::api::Stats;
use serde::Serialize;

use super::passes::{collect, over, store};
use super::{Options, target};
use crate::data::SourceFile;
use crate::http::Connection;
use crate::server::{Server, fs_target};
use crate::units::human_bytes;

/// Space after half of the files were removed.
#[derive(Debug, Serialize)]
pub(super) struct Half {
    kept_files: usize,
    kept_logical_bytes: u64,
    /// Seconds of the collection after the removal.
    collect_s: f64,
    collect_server_cpu_s: Option<f64>,
    before: Kept,
    after: Kept,
    /// A server that never had the other half.
    fresh: Kept,
    /// `after` to `fresh`, stored bytes.
    stored_ratio: f64,
    /// The same with what is dead and redundant.
    disk_ratio: f64,
}

/// What segments hold.
#[derive(Clone, Copy, Debug, Serialize)]
struct Kept {
    stored_bytes: u64,
    /// With what is dead and redundant, without what is reserved.
    disk_bytes: u64,
}

impl Kept {
    fn of(stats: &Stats) -> Kept {
        let disk_bytes = stats.stored_bytes + stats.dead_bytes + stats.redundancy_bytes;
        Kept { stored_bytes: stats.stored_bytes, disk_bytes }
    }
}

/// Removes every second file, collects, and stores the others in a fresh server.
pub(super) fn measure(
    options: &Options,
    server: &Server,
    root: &str,
    files: &[SourceFile],
    failures: &mut Vec<String>,
) -> anyhow::Result<Half> {
    let before = Kept::of(&server.stats()?);
    let mut connection = server.connection();
    for file in files.iter().skip(1).step_by(2) {
        connection.fetch("DELETE", &fs_target(&format!("{root}/first/{}", file.name)))?;
    }
    let removed = collect("collect, half removed", server, before.stored_bytes)?;
    let after = Kept::of(&server.stats()?);

    let rest: Vec<SourceFile> = files.iter().step_by(2).cloned().collect();
    let fresh_server = options.server.connect_beside("rest")?;
    let store = |connection: &mut Connection, file: &SourceFile| store(connection, file, &target(root, "first", file));
    over("ingest of the rest", &fresh_server, &rest, options.concurrency, &store, failures)?;
    collect("collect, fresh", &fresh_server, before.stored_bytes)?;
    let fresh = Kept::of(&fresh_server.stats()?);
    fresh_server.finish()?;
    let ratio = |of: u64, to: u64| of as f64 / to.max(1) as f64;
    Ok(Half {
        kept_files: rest.len(),
        kept_logical_bytes: rest.iter().map(|file| file.bytes).sum(),
        collect_s: removed.seconds,
        collect_server_cpu_s: removed.server_cpu_s,
        before,
        after,
        fresh,
        stored_ratio: ratio(after.stored_bytes, fresh.stored_bytes),
        disk_ratio: ratio(after.disk_bytes, fresh.disk_bytes),
    })
}

impl Half {
    pub(super) fn words(&self) -> String {
        let kept = |kept: Kept| {
            format!("{} stored, {} with what is dead", human_bytes(kept.stored_bytes), human_bytes(kept.disk_bytes))
        };
        format!(
            "\nhalf of the files removed, collected in {:.2} s; {} files of {} stay\n  before  {}\n  after   {}\n  \
             fresh   {}\n  after to fresh {:.3} stored, {:.3} with what is dead\n\n",
            self.collect_s,
            self.kept_files,
            human_bytes(self.kept_logical_bytes),
            kept(self.before),
            kept(self.after),
            kept(self.fresh),
            self.stored_ratio,
            self.disk_ratio
        )
    }
}
