//! Group commit of data: blocks gather into rows, rows become durable, waiters learn where their chunks lie.
//!
//! Two lanes, each with an open segment of its own, take turns: while one row syncs, the next gathers. A row is cut
//! when its blocks reach [`ROW_PAYLOAD_BYTES_TARGET`], or as soon as somebody waits for one of them.

use std::cell::RefCell;
use std::collections::{BTreeMap, VecDeque};
use std::rc::Rc;

use ec::Code;
use futures_channel::oneshot;
use futures_util::FutureExt;
use futures_util::future::{LocalBoxFuture, Shared};
use proto::limits::{ROW_BLOCKS_MAX, ROW_PAYLOAD_BYTES_TARGET, ROW_QUEUE_BYTES_MAX, SEGMENTS_OPEN_MAX};
use proto::port::{Disk, runtime};
use proto::{ChunkId, Location};

use crate::error::{SegmentError, StoreError};
use crate::row::{CompressedBlock, SealedRow};
use crate::segment::{OpenSegment, Segment, SegmentLog};
use crate::wait::WaitList;

/// Completes when the chunk's row is durable, with the chunk's location.
pub type Durable = Shared<LocalBoxFuture<'static, Result<Location, StoreError>>>;

/// Where lanes get segments from and hand finished rows to.
pub(crate) trait RowSink<D: Disk>: 'static {
    type Log: SegmentLog;
    async fn open_segment(&self) -> Result<OpenSegment<D>, SegmentError>;
    fn log(&self) -> &Self::Log;
    /// Called once all pieces are durable, before any waiter learns of it.
    fn row_durable(&self, segment: &Rc<Segment>, row: &SealedRow);
}

struct Queued {
    block: CompressedBlock,
    done: oneshot::Sender<Result<Location, StoreError>>,
}

#[derive(Default)]
struct Queue {
    waiting: VecDeque<Queued>,
    waiting_bytes: usize,
    /// Blocks at the front that somebody waits for.
    urgent: usize,
    closing: bool,
    lanes: usize,
    /// Chunks that are queued or being written: a second writer of the same bytes waits for the first.
    underway: BTreeMap<ChunkId, Durable>,
}

/// The queue in front of the lanes.
#[derive(Default)]
pub(crate) struct RowWriter {
    queue: RefCell<Queue>,
    work: WaitList,
    room: WaitList,
    ended: WaitList,
}

impl RowWriter {
    /// Starts the lanes.
    pub(crate) fn start<D: Disk>(self: &Rc<Self>, sink: &Rc<impl RowSink<D>>, code: &Rc<Code>) {
        for _ in 0..SEGMENTS_OPEN_MAX {
            self.queue.borrow_mut().lanes += 1;
            let (writer, sink, code) = (self.clone(), sink.clone(), code.clone());
            runtime::spawn(async move {
                writer.run_lane(&*sink, &code).await;
                writer.queue.borrow_mut().lanes -= 1;
                writer.ended.wake();
            });
        }
    }

    /// Waits until the queue has room for another block.
    pub(crate) async fn wait_for_room(&self) {
        let has_room = || (self.queue.borrow().waiting_bytes < ROW_QUEUE_BYTES_MAX).then_some(());
        self.room.until(has_room).await;
    }

    /// The chunk's durability, if somebody is writing it already.
    pub(crate) fn underway(&self, id: &ChunkId) -> Option<Durable> {
        self.queue.borrow().underway.get(id).cloned()
    }

    /// Queues a block of one chunk.
    pub(crate) fn push(&self, block: CompressedBlock) -> Durable {
        assert_eq!(block.entry.chunks.len(), 1, "invariant: at ingest a block holds one chunk");
        let id = block.entry.chunks[0].id;
        let (done, durable) = oneshot::channel();
        let durable = durable.map(|result| result.unwrap_or(Err(StoreError::Closing))).boxed_local().shared();
        let mut queue = self.queue.borrow_mut();
        if queue.closing {
            let _ = done.send(Err(StoreError::Closing));
            return durable;
        }
        queue.waiting_bytes += block.column_bytes();
        queue.waiting.push_back(Queued { block, done });
        queue.underway.insert(id, durable.clone());
        drop(queue);
        self.work.wake();
        durable
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

    async fn run_lane<D: Disk>(&self, sink: &impl RowSink<D>, code: &Code) {
        let mut open: Option<OpenSegment<D>> = None;
        while let Some(row) = self.work.until(|| self.next_row()).await {
            self.room.wake();
            let (blocks, waiters): (Vec<CompressedBlock>, Vec<_>) =
                row.into_iter().map(|queued| (queued.block, queued.done)).unzip();
            let written = write_row(sink, code, &mut open, &blocks).await;
            let mut queue = self.queue.borrow_mut();
            for block in &blocks {
                queue.underway.remove(&block.entry.chunks[0].id);
            }
            drop(queue);
            for (number, waiter) in waiters.into_iter().enumerate() {
                // A caller that went away does not matter: the chunk is stored and indexed all the same.
                let _ = waiter.send(written.as_ref().map(|locations| locations[number]).map_err(Clone::clone));
            }
        }
        if let Some(segment) = open {
            segment.seal(sink.log()).await;
        }
    }

    /// Takes the blocks of the next row off the queue: `None` while it is not time, `Some(None)` at the end.
    fn next_row(&self) -> Option<Option<Vec<Queued>>> {
        let mut queue = self.queue.borrow_mut();
        if queue.waiting.is_empty() {
            return queue.closing.then_some(None);
        }
        if queue.urgent == 0 && queue.waiting_bytes < ROW_PAYLOAD_BYTES_TARGET && !queue.closing {
            return None;
        }
        let mut row = Vec::new();
        let mut row_bytes = 0;
        while row_bytes < ROW_PAYLOAD_BYTES_TARGET
            && row.len() < ROW_BLOCKS_MAX
            && let Some(queued) = queue.waiting.pop_front()
        {
            row_bytes += queued.block.column_bytes();
            row.push(queued);
        }
        queue.waiting_bytes -= row_bytes;
        queue.urgent = queue.urgent.saturating_sub(row.len());
        Some(Some(row))
    }
}

/// Makes one row durable in the lane's segment, opening or changing it as needed.
async fn write_row<D: Disk>(
    sink: &impl RowSink<D>,
    code: &Code,
    open: &mut Option<OpenSegment<D>>,
    blocks: &[CompressedBlock],
) -> Result<Vec<Location>, StoreError> {
    if let Some(full) = open.take_if(|segment| !segment.fits(blocks)) {
        full.seal(sink.log()).await;
    }
    let segment = match open.take() {
        Some(segment) => segment,
        None => sink.open_segment().await?,
    };
    let (segment, row) = segment.append(code, blocks).await?;
    sink.row_durable(&segment.segment, &row);
    let locations = row.table.blocks.iter().map(|block| block.location(segment.segment.id, 0)).collect();
    *open = Some(segment);
    Ok(locations)
}
