//! Group commit of data: blocks gather into rows, rows become durable, writers learn where their chunks lie.
//!
//! At ingest two lanes, each with an open segment of its own, take turns: while one row syncs, the next gathers. A row is cut
//! when its blocks reach [`row_bytes_target`], or as soon as somebody waits for one of them.
//!
//! On a full disk a lane may get no segment while the other still has one. It gives its row back then, and takes none
//! until the other has lost its segment too.

use std::cell::RefCell;
use std::collections::VecDeque;
use std::rc::Rc;

use ec::Code;
use futures_channel::oneshot;
use proto::disk::RowTable;
use proto::limits::{CHUNK_BYTES_MAX, ROW_BLOCKS_MAX, ROW_PAYLOAD_BYTES_TARGET, ROW_QUEUE_BYTES_MAX};
use proto::port::{Disk, runtime};
use proto::{ChunkId, Location};

use crate::error::{SegmentError, StoreError};
use crate::row::{CompressedBlock, SealedRow};
use crate::segment::{HomeSegment, OpenSegment};
use crate::store::SEGMENT_PIECE_BYTES_MIN;
use crate::wait::WaitList;

/// Bytes of blocks, and of their entries in the row's table, after which a row is cut, in segments of pieces of
/// `piece_bytes`.
///
/// An eighth of a piece: a row is longer by one block at most, its table and its entry in the footer are no longer
/// than it, and so the smallest piece has room for all of them.
pub(crate) fn row_bytes_target(piece_bytes: u64) -> usize {
    (piece_bytes as usize / 8).min(ROW_PAYLOAD_BYTES_TARGET)
}

const _: () = assert!(
    CHUNK_BYTES_MAX as u64 <= SEGMENT_PIECE_BYTES_MIN / 2,
    "the smallest piece has room for the longest chunk and three eighths"
);

/// Where lanes get segments from and hand finished rows to.
pub(crate) trait RowSink<D: Disk>: 'static {
    fn writer(&self) -> &RowWriter;
    async fn open_segment(&self) -> Result<OpenSegment<D>, SegmentError>;
    /// Seals a segment whose rows were all handed over.
    async fn seal(&self, segment: OpenSegment<D>);
    /// Called once all pieces are durable, before the writers learn of it. After an error they learn that instead, and the
    /// segment takes no more rows.
    async fn row_durable(&self, segment: &HomeSegment, row: &SealedRow) -> Result<(), StoreError>;
    /// Called when a row could not be made durable.
    async fn row_failed(&self, ids: Vec<ChunkId>, error: &StoreError);
}

struct Queued {
    block: CompressedBlock,
    done: oneshot::Sender<Result<Location, StoreError>>,
}

#[derive(Default)]
struct Queue {
    waiting: VecDeque<Queued>,
    waiting_bytes: usize,
    /// The most bytes that waited at once.
    waiting_bytes_max: usize,
    /// Blocks at the front that somebody waits for.
    urgent: usize,
    closing: bool,
    /// How often the open segments were asked to be sealed.
    turn: u64,
    lanes: usize,
    /// Lanes that have a segment.
    segments: usize,
    /// For each lane the turn in which its segment was opened, until that is sealed or given up.
    opened_in: Vec<Option<u64>>,
}

/// What a lane does next.
enum Work {
    /// Write a row of these blocks.
    Row(Vec<Queued>),
    /// Seal the segment.
    Seal,
    /// Nothing more comes.
    End,
}

/// The queue in front of the lanes.
pub(crate) struct RowWriter {
    row_bytes_target: usize,
    queue: RefCell<Queue>,
    work: WaitList,
    room: WaitList,
    ended: WaitList,
    /// A lane has sealed its segment, or given it up.
    sealed: WaitList,
}

impl RowWriter {
    /// Returns an empty queue for segments of pieces of `piece_bytes`.
    pub(crate) fn new(piece_bytes: u64) -> RowWriter {
        RowWriter {
            row_bytes_target: row_bytes_target(piece_bytes),
            queue: RefCell::default(),
            work: WaitList::default(),
            room: WaitList::default(),
            ended: WaitList::default(),
            sealed: WaitList::default(),
        }
    }

    /// Waits until the queue has room for another block.
    pub(crate) async fn wait_for_room(&self) {
        let has_room = || (self.queue.borrow().waiting_bytes < ROW_QUEUE_BYTES_MAX).then_some(());
        self.room.until(has_room).await;
    }

    /// Queues a block; its waiter learns where its first chunk lies. `None` if nothing more is taken.
    pub(crate) fn push(&self, block: CompressedBlock) -> Option<oneshot::Receiver<Result<Location, StoreError>>> {
        let (done, durable) = oneshot::channel();
        let mut queue = self.queue.borrow_mut();
        if queue.closing {
            return None;
        }
        queue.waiting_bytes += block.column_bytes();
        queue.waiting_bytes_max = queue.waiting_bytes_max.max(queue.waiting_bytes);
        queue.waiting.push_back(Queued { block, done });
        drop(queue);
        self.work.wake();
        Some(durable)
    }

    /// The most bytes that waited for a row at once.
    pub(crate) fn waiting_bytes_max(&self) -> usize {
        self.queue.borrow().waiting_bytes_max
    }

    /// Has every block queued so far written without waiting for a full row.
    pub(crate) fn hurry(&self) {
        let mut queue = self.queue.borrow_mut();
        queue.urgent = queue.waiting.len();
        drop(queue);
        self.work.wake();
    }

    /// Writes what is queued, seals the open segments, and takes nothing more.
    pub(crate) async fn close(&self) {
        self.queue.borrow_mut().closing = true;
        self.work.wake();
        self.ended.until(|| (self.queue.borrow().lanes == 0).then_some(())).await;
    }

    /// Has the open segments sealed, and waits until they are; rows that come later go to new ones.
    pub(crate) async fn turn_over(&self) {
        let turn = {
            let mut queue = self.queue.borrow_mut();
            queue.turn += 1;
            queue.turn
        };
        self.work.wake();
        let sealed = || self.queue.borrow().opened_in.iter().flatten().all(|opened| *opened >= turn).then_some(());
        self.sealed.until(sealed).await;
    }

    /// What a lane does next; `None` while it is not time. A lane that found no room for a segment leaves the rows to
    /// those that have one.
    fn next_work(&self, lane: usize, found_no_room: bool) -> Option<Work> {
        let mut queue = self.queue.borrow_mut();
        if queue.opened_in[lane].is_some_and(|turn| turn < queue.turn) {
            return Some(Work::Seal);
        }
        if queue.waiting.is_empty() {
            return queue.closing.then_some(Work::End);
        }
        if found_no_room && queue.segments > 0 {
            return None;
        }
        if queue.urgent == 0 && queue.waiting_bytes < self.row_bytes_target && !queue.closing {
            return None;
        }
        let mut row = Vec::new();
        let (mut row_bytes, mut table_bytes) = (0, 0);
        while row_bytes.max(table_bytes) < self.row_bytes_target
            && row.len() < ROW_BLOCKS_MAX
            && let Some(queued) = queue.waiting.pop_front()
        {
            row_bytes += queued.block.column_bytes();
            table_bytes += RowTable::block_bytes(queued.block.entry.chunks.len());
            row.push(queued);
        }
        queue.waiting_bytes -= row_bytes;
        queue.urgent = queue.urgent.saturating_sub(row.len());
        Some(Work::Row(row))
    }

    /// Puts the blocks of a row back, to be taken next.
    fn give_back(&self, row: impl DoubleEndedIterator<Item = Queued>) {
        let mut queue = self.queue.borrow_mut();
        for queued in row.rev() {
            queue.waiting_bytes += queued.block.column_bytes();
            queue.urgent += 1;
            queue.waiting.push_front(queued);
        }
        drop(queue);
        self.work.wake();
    }

    fn lane_has_segment(&self) -> bool {
        self.queue.borrow().segments > 0
    }

    fn segment_opened(&self, lane: usize) {
        let mut queue = self.queue.borrow_mut();
        queue.segments += 1;
        queue.opened_in[lane] = Some(queue.turn);
    }

    /// A lane has sealed its segment, or given it up.
    fn segment_gone(&self, lane: usize) {
        self.queue.borrow_mut().opened_in[lane] = None;
        self.sealed.wake();
    }

    /// A lane appends no more to its segment: whoever left his rows to it tries for himself again.
    fn segment_ended(&self) {
        self.queue.borrow_mut().segments -= 1;
        self.work.wake();
    }
}

/// Starts the lanes of a sink's writer.
pub(crate) fn start_lanes<D: Disk>(sink: &Rc<impl RowSink<D>>, code: &Rc<Code>, lanes: usize) {
    for lane in 0..lanes {
        let mut queue = sink.writer().queue.borrow_mut();
        queue.lanes += 1;
        queue.opened_in.push(None);
        drop(queue);
        let (sink, code) = (sink.clone(), code.clone());
        runtime::spawn(async move {
            run_lane(&*sink, &code, lane).await;
            let writer = sink.writer();
            writer.queue.borrow_mut().lanes -= 1;
            writer.ended.wake();
        });
    }
}

async fn run_lane<D: Disk>(sink: &impl RowSink<D>, code: &Code, lane: usize) {
    let writer = sink.writer();
    let mut open: Option<OpenSegment<D>> = None;
    let mut found_no_room = false;
    loop {
        let row = match writer.work.until(|| writer.next_work(lane, found_no_room)).await {
            Work::Row(row) => row,
            Work::Seal => {
                seal(sink, lane, open.take()).await;
                continue;
            }
            Work::End => break,
        };
        writer.room.wake();
        let (blocks, waiters): (Vec<CompressedBlock>, Vec<_>) =
            row.into_iter().map(|queued| (queued.block, queued.done)).unzip();
        let written = write_row(sink, code, lane, &mut open, &blocks).await;
        found_no_room = matches!(&written, Err(StoreError::Segment(error)) if error.is_no_space());
        if found_no_room && writer.lane_has_segment() {
            writer.give_back(blocks.into_iter().zip(waiters).map(|(block, done)| Queued { block, done }));
            continue;
        }
        if let Err(error) = &written {
            let ids = blocks.iter().flat_map(|block| block.entry.chunks.iter().map(|chunk| chunk.id)).collect();
            sink.row_failed(ids, error).await;
        }
        for (number, waiter) in waiters.into_iter().enumerate() {
            // A caller that went away does not matter: the chunk is stored and indexed all the same.
            let _ = waiter.send(written.as_ref().map(|locations| locations[number]).map_err(Clone::clone));
        }
    }
    seal(sink, lane, open).await;
}

/// Seals a lane's segment, if it has one.
async fn seal<D: Disk>(sink: &impl RowSink<D>, lane: usize, open: Option<OpenSegment<D>>) {
    if let Some(segment) = open {
        sink.writer().segment_ended();
        sink.seal(segment).await;
        sink.writer().segment_gone(lane);
    }
}

/// Makes one row durable in the lane's segment, opening or changing it as needed.
async fn write_row<D: Disk>(
    sink: &impl RowSink<D>,
    code: &Code,
    lane: usize,
    open: &mut Option<OpenSegment<D>>,
    blocks: &[CompressedBlock],
) -> Result<Vec<Location>, StoreError> {
    let full = open.take_if(|segment| !segment.fits(blocks));
    seal(sink, lane, full).await;
    let segment = match open.take() {
        Some(segment) => segment,
        None => {
            let segment = sink.open_segment().await?;
            sink.writer().segment_opened(lane);
            segment
        }
    };
    let (segment, row) = match segment.append(code, blocks).await {
        Ok(appended) => appended,
        Err(error) => {
            sink.writer().segment_ended();
            sink.writer().segment_gone(lane);
            return Err(error);
        }
    };
    if let Err(error) = sink.row_durable(&segment.home, &row).await {
        sink.writer().segment_ended();
        segment.release().await;
        sink.writer().segment_gone(lane);
        return Err(error);
    }
    let id = segment.home.segment.id;
    let locations = row.table.blocks.iter().map(|block| block.location(id, 0)).collect();
    *open = Some(segment);
    Ok(locations)
}
