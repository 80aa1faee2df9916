//! How the server is: alive, ready, how full, how busy.

use hyper::header::{CONTENT_TYPE, HeaderValue};
use hyper::{Response, StatusCode};
use node::NodeStats;
use proto::CoreId;
use proto::api::Stats;
use proto::disk::SUPERBLOCK_FILE_BYTES;
use proto::port::Disk;

use super::body::ResponseBody;
use super::error::ApiError;
use super::{Answer, App, gc, json};
use crate::Peer;
use crate::metrics::Page;
use crate::peer::Load;

/// `a / b`; 1 when there is nothing to divide by.
fn ratio(a: u64, b: u64) -> f64 {
    if b == 0 { 1.0 } else { a as f64 / b as f64 }
}

/// What the node counts, as the interface tells it.
///
/// Inline files are neither deduplicated nor compressed: they count alike before and after. They lie in the metadata,
/// which is never shorter than they are. The cores are asked one after the other: while data is moved, a part that is a
/// difference may be off by what moved meanwhile, but is never less than nothing.
fn stats_of(node: &NodeStats, devices: usize) -> Stats {
    let store = &node.store;
    let unique_bytes = store.unique_bytes + node.inline_bytes;
    let stored_bytes = store.stored_bytes + node.inline_bytes;
    let saved_bytes = store.unique_bytes.saturating_sub(store.stored_bytes);
    let all_metadata_bytes = node.metadata_bytes + (devices * SUPERBLOCK_FILE_BYTES) as u64;
    let data_bytes = store.file_bytes - store.parity_bytes - store.reserved_bytes;
    Stats {
        logical_bytes: node.logical_bytes,
        duplicate_bytes: node.logical_bytes.saturating_sub(unique_bytes),
        unreferenced_bytes: unique_bytes.saturating_sub(node.logical_bytes),
        unique_bytes,
        compression_bytes: saved_bytes.saturating_sub(store.similarity_bytes),
        similarity_bytes: store.similarity_bytes,
        stored_bytes,
        dead_bytes: data_bytes.saturating_sub(store.stored_bytes),
        redundancy_bytes: store.parity_bytes,
        reserved_bytes: store.reserved_bytes,
        metadata_bytes: all_metadata_bytes.saturating_sub(node.inline_bytes),
        raw_bytes: store.file_bytes + all_metadata_bytes,
        chunks: store.chunks,
        files: node.files,
        directories: node.directories,
        dedup_ratio: ratio(node.logical_bytes, unique_bytes),
        compression_ratio: ratio(unique_bytes, stored_bytes),
        reduction_ratio: ratio(node.logical_bytes, stored_bytes),
        capacity_bytes: node.capacity_bytes,
        free_bytes: node.free_bytes,
    }
}

/// An answer in plain text.
fn text(kind: &'static str, body: impl Into<bytes::Bytes>) -> Response<ResponseBody> {
    let mut response = Response::new(ResponseBody::whole(body));
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(kind));
    response
}

impl<D: Disk> App<D> {
    /// The process runs and its core takes turns.
    pub(crate) fn health(&self) -> Response<ResponseBody> {
        text("text/plain; charset=utf-8", "alive\n")
    }

    /// Whether requests are welcome.
    pub(crate) async fn ready(&self) -> Answer {
        if self.0.peer.drain.is_draining() {
            return Err(ApiError::closing());
        }
        if let Some(stopped) = self.0.node.stopped().await {
            return Err(ApiError::poisoned(stopped));
        }
        Ok(text("text/plain; charset=utf-8", "ready\n"))
    }

    async fn node_stats(&self) -> Result<NodeStats, ApiError> {
        let stats = self.0.node.stats().await;
        stats.map_err(|error| ApiError::internal(format!("a disk does not tell its free space: {error}")))
    }

    pub(crate) async fn stats(&self) -> Answer {
        Ok(json(StatusCode::OK, &stats_of(&self.node_stats().await?, self.0.devices)))
    }

    pub(crate) async fn metrics_page(&self) -> Answer {
        let node = self.node_stats().await?;
        let stats = stats_of(&node, self.0.devices);
        let mut page = Page::default();
        let version = concat!("version=\"", env!("CARGO_PKG_VERSION"), "\"");
        page.info("dfs_build_info", "The running software.", version);
        let mut load = Load::default();
        for core in 0..self.0.cores.count() as u16 {
            load += self.0.cores.ask(CoreId(core), Peer::load).await;
        }
        load.counts.write(&mut page);
        page.gauge("dfs_cores", "Cores that serve.", self.0.cores.count());
        page.gauge("dfs_connections", "Open client connections.", load.connections);
        for (name, queue) in [("uploads", load.uploads), ("downloads", load.downloads)] {
            page.gauge(&format!("dfs_{name}_in_flight"), "Those that are served.", queue.served);
            page.gauge(&format!("dfs_{name}_waiting"), "Those that wait to be served.", queue.waiting);
        }
        page.gauge("dfs_ready", "1 if the server takes changes.", u8::from(self.ready().await.is_ok()));
        page.gauge(
            "dfs_logical_bytes",
            "Bytes of all versions of all files, as clients wrote them.",
            stats.logical_bytes,
        );
        page.gauge("dfs_unique_bytes", "Plain bytes of distinct chunks and of inline files.", stats.unique_bytes);
        page.gauge("dfs_stored_bytes", "The same after compression, before redundancy.", stats.stored_bytes);
        page.gauge("dfs_raw_bytes", "Bytes taken on the disks, everything included.", stats.raw_bytes);
        page.gauges(
            "dfs_saved_bytes",
            "Logical bytes that are not stored, by what saved them.",
            "by",
            &[
                ("duplicates", stats.duplicate_bytes),
                ("compression", stats.compression_bytes),
                ("similarity", stats.similarity_bytes),
            ],
        );
        page.gauges(
            "dfs_disk_bytes",
            "Bytes taken on the disks, by what they are for; together dfs_raw_bytes.",
            "for",
            &[
                ("stored", stats.stored_bytes),
                ("dead", stats.dead_bytes),
                ("redundancy", stats.redundancy_bytes),
                ("reserved", stats.reserved_bytes),
                ("metadata", stats.metadata_bytes),
            ],
        );
        page.gauge(
            "dfs_unreferenced_bytes",
            "Unique bytes beyond the logical ones: at least so much is of no file.",
            stats.unreferenced_bytes,
        );
        page.gauge("dfs_metadata_bytes", "Bytes of the metadata log and its snapshots.", node.metadata_bytes);
        page.gauge("dfs_capacity_bytes", "Bytes of the disks.", stats.capacity_bytes);
        page.gauge("dfs_free_bytes", "Bytes of the disks that are free.", stats.free_bytes);
        page.gauge("dfs_chunks", "Distinct chunks.", stats.chunks);
        page.gauge("dfs_segments", "Segments, open and sealed.", node.store.segments);
        page.gauge("dfs_files", "Files.", stats.files);
        page.gauge("dfs_directories", "Directories, the root included.", stats.directories);
        page.gauge("dfs_symlinks", "Symlinks.", node.symlinks);
        page.gauge("dfs_index_memory_bytes", "Memory that the chunk index takes.", node.store.index_memory_bytes);
        page.counter(
            "dfs_row_tables_at_hand_total",
            "Duplicates that were confirmed in a row table that was at hand.",
            node.store.tables_at_hand,
        );
        page.counter(
            "dfs_row_tables_read_total",
            "Row tables that were read to confirm duplicates; each brings the chunks of its row.",
            node.store.tables_read,
        );
        page.counter(
            "dfs_index_checkpoints_total",
            "Checkpoints of the chunk index that were taken.",
            node.index_checkpoints,
        );
        page.counter(
            "dfs_index_checkpoints_failed_total",
            "Checkpoints of the chunk index that were not taken.",
            node.index_checkpoints_failed,
        );
        gc::write_metrics(&self.0.node.gc_status().await, &mut page);
        Ok(text("text/plain; version=0.0.4; charset=utf-8", page.into_text()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use shard::StoreStats;

    #[test]
    fn an_empty_node_has_ratios_of_one() {
        let stats = stats_of(&NodeStats::default(), 0);
        assert_eq!((stats.dedup_ratio, stats.compression_ratio, stats.reduction_ratio), (1.0, 1.0, 1.0));
    }

    #[test]
    fn inline_files_count_as_unique_and_stored() {
        let mut node = NodeStats { logical_bytes: 500, inline_bytes: 100, metadata_bytes: 700, ..NodeStats::default() };
        node.store.unique_bytes = 150;
        node.store.stored_bytes = 25;
        node.store.file_bytes = 4000;
        let stats = stats_of(&node, 1);
        assert_eq!((stats.unique_bytes, stats.stored_bytes), (250, 125));
        assert_eq!((stats.dedup_ratio, stats.compression_ratio), (2.0, 2.0));
        assert_eq!(stats.raw_bytes, 4700 + SUPERBLOCK_FILE_BYTES as u64);
        assert_eq!(stats.metadata_bytes, 600 + SUPERBLOCK_FILE_BYTES as u64);
    }

    /// As the type says.
    fn adds_up(stats: &Stats) -> bool {
        let saved = stats.duplicate_bytes + stats.compression_bytes + stats.similarity_bytes;
        let kept = stats.stored_bytes + stats.dead_bytes + stats.redundancy_bytes;
        stats.logical_bytes + stats.unreferenced_bytes == saved + stats.stored_bytes
            && kept + stats.reserved_bytes + stats.metadata_bytes == stats.raw_bytes
    }

    #[test]
    fn the_parts_add_up_with_garbage_and_parity_too() {
        let store = StoreStats {
            unique_bytes: 2000,
            stored_bytes: 500,
            similarity_bytes: 1100,
            file_bytes: 9000,
            parity_bytes: 3000,
            reserved_bytes: 4000,
            ..StoreStats::default()
        };
        for logical_bytes in [5000, 2100, 60, 0] {
            let node = NodeStats { logical_bytes, store, metadata_bytes: 700, ..NodeStats::default() };
            let stats = stats_of(&node, 3);
            assert!(adds_up(&stats), "{stats:?}");
            assert_eq!((stats.compression_bytes, stats.dead_bytes), (400, 1500));
            assert_eq!(stats.duplicate_bytes.min(stats.unreferenced_bytes), 0);
        }
    }
}
