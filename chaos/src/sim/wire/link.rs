//! One direction between two peers.

use super::Partition;
use crate::sim::faults::{WIRE_PARTED, WIRE_PARTED_ONE_WAY};

/// See the module.
#[derive(Debug, Default)]
pub(super) struct Link {
    /// Bytes that were sent, and neither received nor lost.
    pub(super) queued_bytes: usize,
    /// Messages that were put on it.
    pub(super) sent: u64,
    /// The last of them, by the order of sending, that arrived.
    pub(super) arrived: u64,
    /// When the sender has put all its bytes on it.
    pub(super) free_at_ns: u64,
    /// When the last message arrives that keeps the order.
    pub(super) last_due_ns: u64,
    /// Until when the sender does not notice that the other end is another process.
    pub(super) half_open_until_ns: u64,
    pub(super) cut: Cut,
}

/// A partition, as one direction sees it.
#[derive(Clone, Copy, Debug)]
pub(super) struct Cut {
    pub(super) until_ns: u64,
    pub(super) how: Partition,
}

impl Default for Cut {
    fn default() -> Cut {
        Cut { until_ns: 0, how: Partition::BothWays }
    }
}

impl Cut {
    /// What a message that is on the link now is lost to, if it is.
    pub(super) fn takes(&self, now_ns: u64) -> Option<&'static str> {
        (now_ns < self.until_ns).then_some(match self.how {
            Partition::BothWays => WIRE_PARTED,
            Partition::OneWay => WIRE_PARTED_ONE_WAY,
        })
    }
}

impl Link {
    pub(super) fn heal(&mut self) {
        self.cut = Cut::default();
        self.half_open_until_ns = 0;
    }
}
