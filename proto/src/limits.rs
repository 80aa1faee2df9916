//! Every named maximum of the system, in one place.
//!
//! Meeting one gives a clear error, never an abort. Units are in the names.

/// Smallest unit a disk writes atomically as far as we believe; every durable write starts and ends on it.
pub const SECTOR_BYTES: usize = 4096;
/// Blocks start on multiples of this inside a piece, so that 20 bits of a [`crate::Location`] address 64 MiB.
pub const BLOCK_ALIGN_BYTES: usize = 64;
/// Size of one segment piece (one column of a segment on one disk).
pub const SEGMENT_PIECE_BYTES: u64 = 64 << 20;
/// Payload bytes after which a row is closed and written.
pub const ROW_PAYLOAD_BYTES_TARGET: usize = 2 << 20;
/// Compressed bytes that may wait for a row on one core; writers beyond it wait for room.
pub const ROW_QUEUE_BYTES_MAX: usize = 64 << 20;
/// Segments that a core keeps open for appends: one row gathers while the other syncs.
pub const SEGMENTS_OPEN_MAX: usize = 2;
/// Segment files that a core keeps open for reading.
pub const SEGMENT_FILES_OPEN_MAX: usize = 512;
/// Encoded bytes of the row tables that a core keeps in memory to confirm duplicates.
pub const ROW_TABLES_CACHED_BYTES_MAX: usize = 32 << 20;
/// Plain bytes of blocks of several chunks that a core keeps decoded for its readers.
pub const DECODED_BLOCKS_BYTES_MAX: usize = 32 << 20;
/// Freed segments that a core remembers, so that whoever has an old place is told at once.
pub const GONE_SEGMENTS_MAX: usize = 65_536;
/// Stored bytes of one upload that may wait for their rows.
pub const UPLOAD_WINDOW_BYTES_MAX: usize = 3 << 20;
/// Chunks of one download that are read ahead.
pub const READ_AHEAD_CHUNKS: usize = 8;
/// Blocks of one row.
pub const ROW_BLOCKS_MAX: usize = 4096;
/// Data plus parity columns of one row.
pub const ROW_COLUMNS_MAX: usize = 16;
/// Plain bytes of one block.
pub const BLOCK_PLAIN_BYTES_MAX: usize = 1 << 20;
/// Chunks of one block (12 bits of a [`crate::Location`]).
pub const BLOCK_CHUNKS_MAX: usize = 4096;
/// Shortest chunk that the default chunker cuts, except at the end of a file.
pub const CHUNK_BYTES_MIN: usize = 32 << 10;
/// Chunk size that the default chunker aims at.
pub const CHUNK_BYTES_AVG: usize = 64 << 10;
/// Longest chunk.
pub const CHUNK_BYTES_MAX: usize = 128 << 10;
/// Payload bytes under one checksum, so that ranges and reconstruction verify what they use.
pub const PAYLOAD_CHECKSUM_BYTES: usize = 16 << 10;
/// Files up to this size live inline with their metadata.
pub const INLINE_BYTES_MAX: usize = 4 << 10;
/// Bytes that one request may hold in memory, whatever the size of the file.
pub const REQUEST_BYTES_MAX: usize = 8 << 20;
/// Entries of one manifest page; a longer manifest is a tree of pages.
pub const MANIFEST_PAGE_ENTRIES_MAX: usize = 1024;
/// Levels of pages below a manifest's root. Three of them hold 64 PiB of 64 KiB chunks already.
pub const MANIFEST_DEPTH_MAX: u8 = 4;
/// Bytes of one path component.
pub const NAME_BYTES_MAX: usize = 255;
/// Bytes of a whole path.
pub const PATH_BYTES_MAX: usize = 4096;
/// Components of a path.
pub const PATH_DEPTH_MAX: usize = 256;
/// Bytes of all user metadata of a file, names and values together.
pub const USER_METADATA_BYTES_MAX: usize = 8 << 10;
/// Pairs of user metadata of a file.
pub const USER_METADATA_PAIRS_MAX: usize = 64;
/// Bytes of the media type of a file.
pub const CONTENT_TYPE_BYTES_MAX: usize = 255;
/// Bytes of a symlink target.
pub const SYMLINK_BYTES_MAX: usize = 4096;
/// Entries of one page of a directory listing.
pub const LIST_PAGE_ENTRIES_MAX: usize = 10_000;
/// Entries of one page of a directory listing when the caller names no limit.
pub const LIST_PAGE_ENTRIES_DEFAULT: usize = 1_000;
/// Earlier versions of a file that one metadata command lets go; the rest goes with the commands after it.
pub const EXPIRE_VERSIONS_MAX: u64 = 256;
/// Bytes of one encoded metadata command.
pub const COMMAND_BYTES_MAX: usize = 1 << 20;
/// Bytes of one metadata WAL batch.
pub const WAL_BATCH_BYTES_MAX: usize = 4 << 20;
/// Commands that may wait for one metadata commit before callers are told to back off.
pub const WAL_QUEUE_COMMANDS_MAX: usize = 4096;
/// Bytes of the commands that may wait for one metadata commit before callers are told to back off.
pub const WAL_QUEUE_BYTES_MAX: usize = 32 << 20;
/// Bytes after which a metadata WAL file is followed by a new one.
pub const WAL_FILE_BYTES_TARGET: u64 = 64 << 20;
/// Bytes by which a metadata WAL file is reserved ahead.
pub const WAL_RESERVE_BYTES: u64 = 4 << 20;
/// Bytes of one frame of a metadata snapshot, its header and padding included.
pub const SNAPSHOT_FRAME_BYTES_MAX: usize = 1 << 20;
/// Bytes of old metadata values that are kept in memory for a snapshot that has yet to write them; changes beyond it wait
/// for the snapshot to make progress.
pub const SNAPSHOT_ASIDE_BYTES_MAX: usize = 64 << 20;
/// Remembered results per client of the exactly-once window.
pub const SESSION_RESULTS_MAX: usize = 64;
/// Clients whose exactly-once window is remembered; the least recently used leaves first.
pub const SESSION_CLIENTS_MAX: usize = 65_536;
/// Bytes of an idempotency key.
pub const IDEMPOTENCY_KEY_BYTES_MAX: usize = 255;
/// Idempotency keys whose answers are remembered; the oldest leaves first.
pub const IDEMPOTENCY_KEYS_MAX: u64 = 65_536;
/// Change events that are retained; the oldest leaves first.
pub const EVENTS_RETAINED_MAX: u64 = 65_536;
/// Bytes of the change events that are retained; the oldest leaves first.
pub const EVENTS_RETAINED_BYTES_MAX: u64 = 16 << 20;
/// Events of one page.
pub const EVENTS_PAGE_MAX: usize = 1_000;
/// Events that are looked at for one page, whether they are asked for or not.
pub const EVENTS_SCANNED_MAX: usize = 4_096;
/// Requests of one core that may wait for events or stream them, so that others are served meanwhile.
pub const EVENT_WATCHERS_MAX: usize = 256;
/// Requests of all cores that may wait for the next event.
pub const EVENT_WAITERS_MAX: usize = 4_096;
/// Seconds that a request may wait for the next event.
pub const EVENT_WAIT_SECONDS_MAX: usize = 60;
/// Seconds after which a disk that does not answer is given up until the next start: well above the time that a drive
/// or a network volume takes to recover by itself.
pub const DISK_ANSWER_SECONDS_MAX: u64 = 180;
/// Versions whose manifests one step of a garbage collection's walk takes.
pub const MARK_STEP_VERSIONS_MAX: usize = 256;
/// Entries of manifests after which such a step ends, and which are sent to their owners together.
pub const MARK_STEP_ENTRIES_MAX: usize = 4_096;
/// Entries of the index that one step of a sweep looks at.
pub const SWEEP_STEP_ENTRIES_MAX: usize = 16 << 10;
/// Stale entries that a sweep gathers before it reads their row tables, so that each is read once for many: 12 MiB.
pub const SWEEP_BATCH_CHUNKS_MAX: usize = 256 << 10;
/// Segments that missing chunks may protect; with more a cycle of garbage collection ends without freeing anything.
pub const PROTECTED_SEGMENTS_MAX: usize = 65_536;
/// Segments that are freed together, so that their files' removals share a sync.
pub const FREE_BATCH_SEGMENTS_MAX: usize = 64;
/// Virtual shards of a node: index partitions and namespace groups, dealt to the cores at start.
pub const VIRTUAL_SHARDS: usize = 64;
/// Calls from one core to another that may be under way; callers beyond it wait for room.
pub const MAILBOX_CALLS_MAX: usize = 256;
/// Calls from other cores that a core answers before its other tasks have their turn.
pub const MAILBOX_BATCH_CALLS_MAX: usize = 32;
/// Cores of a node: each is dealt at least one virtual shard.
pub const CORES_MAX: usize = VIRTUAL_SHARDS;

// Peers.

/// Bytes of one message between peers: the largest block with all that describes it, several times over, and no more
/// than a slow link carries within a second or so.
pub const WIRE_MESSAGE_BYTES_MAX: usize = 4 << 20;
/// Bytes of messages that may wait for one peer to take them, and as many that may wait to be received from it; further
/// ones are refused.
pub const WIRE_QUEUE_BYTES_MAX: usize = 16 << 20;
/// Calls to one peer that are under way; callers beyond it wait in line.
pub const RPC_SLOTS: usize = 32;
/// Calls to one peer that wait in line; further ones are refused.
pub const RPC_WAITING_MAX: usize = 1024;
/// Calls from peers that a server executes at the same time; callers beyond it are told to come again.
pub const RPC_EXECUTING_MAX: usize = 512;
/// Peers whose calls a server remembers; the one that was silent longest leaves first.
pub const RPC_CLIENTS_MAX: usize = 1024;
/// Bytes of answers that a server keeps in case they are asked for again; the oldest leaves first.
pub const RPC_ANSWERS_BYTES_MAX: usize = 32 << 20;
/// How long a caller waits for an answer before it asks again; the pause doubles each time.
pub const RPC_RETRY_MS_MIN: u64 = 20;
/// The longest such pause.
pub const RPC_RETRY_MS_MAX: u64 = 2_000;

// Clients. What is counted is counted by each core.

/// Connections that are served; further ones are told to come back and closed.
pub const CONNECTIONS_MAX: usize = 4096;
/// Connections beyond [`CONNECTIONS_MAX`] that are told so at the same time; further ones are closed without a word.
pub const CONNECTIONS_REFUSED_MAX: usize = 256;
/// Requests that are served or wait; further ones are told to come back.
pub const REQUESTS_INFLIGHT_MAX: u64 = 1024;
/// Uploads that are served. Each takes up to [`REQUEST_BYTES_MAX`], 512 MiB in all.
pub const UPLOADS_INFLIGHT_MAX: usize = 64;
/// Downloads and listings that are served.
pub const DOWNLOADS_INFLIGHT_MAX: usize = 128;
/// Uploads, and as many downloads, that wait to be served; further ones are told to come back.
pub const ADMISSION_WAITING_MAX: usize = 256;
/// How long one of them waits before it is told to come back.
pub const ADMISSION_WAIT_SECONDS_MAX: u64 = 5;
/// Bytes of the target of a request: two paths of [`PATH_BYTES_MAX`], every byte of them percent-encoded, and the rest.
pub const URI_BYTES_MAX: usize = 32 << 10;
/// Bytes of all headers of a request: percent-encoded user metadata, a path, and the rest.
pub const HEADERS_BYTES_MAX: usize = 64 << 10;
/// Headers of a request: all that user metadata may have, and as many again.
pub const HEADERS_MAX: usize = 2 * USER_METADATA_PAIRS_MAX;
/// Requests of one HTTP/2 connection that are served at the same time: no more than it may have of
/// [`UPLOADS_INFLIGHT_MAX`], so that it does not get in its own way.
pub const STREAMS_MAX: u32 = 32;
/// Streams that an HTTP/2 client may have reset before they were served; with more the connection ends.
pub const STREAMS_RESET_EARLY_MAX: usize = 64;
/// Streams that the server may have reset because of a client's mistakes; with more the connection ends.
pub const STREAMS_RESET_FOR_ERRORS_MAX: usize = 256;
/// Body bytes that one HTTP/2 request may have in memory before its handler takes them.
pub const STREAM_WINDOW_BYTES: u32 = 256 << 10;
/// The same for all requests of an HTTP/2 connection: room for each, so that one that waits keeps no other from its bytes.
pub const CONNECTION_WINDOW_BYTES: u32 = STREAMS_MAX * STREAM_WINDOW_BYTES;
/// Response bytes that one HTTP/2 stream may have in memory.
pub const STREAM_SEND_BYTES_MAX: usize = 512 << 10;
/// How long the head of a request may take, from its first byte to its last.
pub const HEAD_SECONDS_MAX: u64 = 10;
/// How long a connection without a request stays open.
pub const IDLE_SECONDS_MAX: u64 = 60;
/// How long a client is waited for, to send or to take bytes of a body, until it must have moved [`PACE_BYTES_MIN`].
pub const PACE_SECONDS: u64 = 60;
/// Bytes of a body that a client must move in each [`PACE_SECONDS`] of waiting for it.
pub const PACE_BYTES_MIN: u64 = 16 << 10;
/// How long a connection that the server ends still takes bytes, so that a client that is sending reads its answer.
pub const LINGER_SECONDS_MAX: u64 = 2;
/// Bytes that it takes meanwhile.
pub const LINGER_BYTES_MAX: usize = 16 << 20;
/// An HTTP/2 client that is silent for so long is asked whether it is there.
pub const PING_SECONDS: u64 = 60;
/// How long it may take to answer.
pub const PING_ANSWER_SECONDS_MAX: u64 = 20;
