//! **Memory and queues stay in their named bounds** (`proto::limits`), and nobody waits once nothing is under way.
//!
//! How: the node keeps high-water marks of its queues ([`Node::load`]); every core is asked for them once the clients of
//! a start have ended. After a clean close no claim may be left: a chunk that is claimed and neither inserted nor
//! abandoned would have everybody wait who asks for it.
//!
//! What it would miss: bounds that a seed does not come near to, which have tests of their own; and buffers, sockets and
//! requests, which belong to the ring and the server and do not exist here.

use std::time::Duration;

use node::{DAMAGED_CHUNKS_MAX, Node, NodeLoad};
use proto::limits::{
    COMMAND_BYTES_MAX, EVENTS_RETAINED_BYTES_MAX, EVENTS_RETAINED_MAX, IDEMPOTENCY_KEYS_MAX, MAILBOX_CALLS_MAX,
    REQUEST_BYTES_MAX, ROW_QUEUE_BYTES_MAX, ROW_TABLES_CACHED_BYTES_MAX, SEGMENT_FILES_OPEN_MAX, SESSION_CLIENTS_MAX,
    SNAPSHOT_ASIDE_BYTES_MAX, WAL_QUEUE_BYTES_MAX, WAL_QUEUE_COMMANDS_MAX,
};
use proto::port::runtime;

use super::Invariant;
use crate::harness::World;
use crate::oracle::{Violation, violation};
use crate::sim::WatchedDisk;

/// How long what clients left behind may take to end after a close.
const LEFT_BEHIND: Duration = Duration::from_secs(1);

/// Checks one core.
pub(crate) async fn check(world: &World, node: &Node<WatchedDisk>) -> Result<(), Violation> {
    world.judge.count(Invariant::Bounds, 1);
    let requests = 2 * world.clients.len() as u64;
    within(&node.load().await, requests)
}

/// Checks that a closed node has nothing under way; what clients gave up may go on for a while.
pub(crate) async fn nobody_waits(world: &World, node: &Node<WatchedDisk>) -> Result<(), Violation> {
    world.judge.count(Invariant::Bounds, 1);
    if node.load().await.store.claims > 0 {
        runtime::sleep(LEFT_BEHIND).await;
    }
    match node.load().await.store.claims {
        0 => Ok(()),
        claims => Err(violation!("the node is closed, and {claims} chunks are claimed by nobody")),
    }
}

/// Compares every mark with its bound, for up to `requests` requests at a time.
fn within(load: &NodeLoad, requests: u64) -> Result<(), Violation> {
    let (store, metadata) = (&load.store, &load.metadata_max);
    let request_bytes = REQUEST_BYTES_MAX as u64 * requests;
    let marks = [
        // Who had room brings what one request may have.
        ("bytes that waited for rows", store.row_queue_bytes_max, ROW_QUEUE_BYTES_MAX as u64 + request_bytes),
        ("bytes of row tables", store.row_tables_bytes, ROW_TABLES_CACHED_BYTES_MAX as u64),
        ("open segment files", store.segment_files_open, SEGMENT_FILES_OPEN_MAX as u64),
        ("chunks remembered because of damage", store.damaged_chunks, DAMAGED_CHUNKS_MAX as u64),
        ("calls about chunks", store.calls_underway_max, MAILBOX_CALLS_MAX as u64),
        ("calls about names", load.name_calls_underway_max, MAILBOX_CALLS_MAX as u64),
        ("commands that waited", metadata.queue_commands, WAL_QUEUE_COMMANDS_MAX as u64),
        ("bytes of commands that waited", metadata.queue_bytes, WAL_QUEUE_BYTES_MAX as u64),
        ("bytes aside", metadata.aside_bytes, (SNAPSHOT_ASIDE_BYTES_MAX + COMMAND_BYTES_MAX) as u64),
        ("events", load.events, EVENTS_RETAINED_MAX),
        ("bytes of events", load.event_bytes, EVENTS_RETAINED_BYTES_MAX),
        ("clients", load.session_clients, SESSION_CLIENTS_MAX as u64),
        ("idempotency keys", load.idempotency_keys, IDEMPOTENCY_KEYS_MAX),
    ];
    match marks.into_iter().find(|(_, mark, bound)| mark > bound) {
        Some((what, mark, bound)) => Err(violation!("{what}: {mark}, the bound is {bound}")),
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_mark_has_its_bound() {
        assert_eq!(within(&NodeLoad::default(), 1), Ok(()));
        let beyond: [fn(&mut NodeLoad); 13] = [
            |load| load.store.row_queue_bytes_max = u64::MAX,
            |load| load.store.row_tables_bytes = ROW_TABLES_CACHED_BYTES_MAX as u64 + 1,
            |load| load.store.segment_files_open = SEGMENT_FILES_OPEN_MAX as u64 + 1,
            |load| load.store.damaged_chunks = DAMAGED_CHUNKS_MAX as u64 + 1,
            |load| load.store.calls_underway_max = MAILBOX_CALLS_MAX as u64 + 1,
            |load| load.name_calls_underway_max = MAILBOX_CALLS_MAX as u64 + 1,
            |load| load.metadata_max.queue_commands = WAL_QUEUE_COMMANDS_MAX as u64 + 1,
            |load| load.metadata_max.queue_bytes = WAL_QUEUE_BYTES_MAX as u64 + 1,
            |load| load.metadata_max.aside_bytes = u64::MAX,
            |load| load.events = EVENTS_RETAINED_MAX + 1,
            |load| load.event_bytes = EVENTS_RETAINED_BYTES_MAX + 1,
            |load| load.session_clients = SESSION_CLIENTS_MAX as u64 + 1,
            |load| load.idempotency_keys = IDEMPOTENCY_KEYS_MAX + 1,
        ];
        for (number, go_beyond) in beyond.into_iter().enumerate() {
            let mut load = NodeLoad::default();
            go_beyond(&mut load);
            assert!(within(&load, 1).is_err(), "mark {number}");
        }
    }
}
