//! What a wire is like: how often something goes wrong on it, and how much a sender may have on its way.

use proto::limits::WIRE_QUEUE_BYTES_MAX;

use crate::sim::Random;

/// Chances that are drawn with every message, out of so many.
pub(super) const OUT_OF: u64 = 10_000;

/// A queue that a few messages fill.
const QUEUE_BYTES_SMALL: usize = 8 << 10;

/// See the module. Chances are out of 10,000, of each message; what `part`, `part_one_way` and `slow` begin lasts for a
/// while.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct WireOptions {
    /// A message is lost.
    pub lose: u64,
    /// A message arrives twice.
    pub duplicate: u64,
    /// A message may be overtaken by later ones.
    pub reorder: u64,
    /// A message takes far longer than usual.
    pub delay: u64,
    /// The two peers are parted.
    pub part: u64,
    /// One direction between the two peers is cut.
    pub part_one_way: u64,
    /// The receiver takes bytes slowly.
    pub slow: u64,
    /// Of each connection to a peer that restarted: its sender does not notice.
    pub half_open: u64,
    /// Bytes that may be on their way from one peer to another; one message more than nothing always may.
    pub queue_bytes: usize,
}

impl Default for WireOptions {
    /// A wire on which nothing goes wrong.
    fn default() -> WireOptions {
        WireOptions {
            lose: 0,
            duplicate: 0,
            reorder: 0,
            delay: 0,
            part: 0,
            part_one_way: 0,
            slow: 0,
            half_open: 0,
            queue_bytes: WIRE_QUEUE_BYTES_MAX,
        }
    }
}

impl WireOptions {
    /// Draws a wire: each fault is absent, rare or frequent.
    #[must_use]
    pub fn draw(random: &mut Random) -> WireOptions {
        let mut rate = |often: u64| match random.below(3) {
            0 => 0,
            1 => often / 10,
            _ => often,
        };
        WireOptions {
            lose: rate(1_000),
            duplicate: rate(1_000),
            reorder: rate(2_000),
            delay: rate(500),
            part: rate(50),
            part_one_way: rate(50),
            slow: rate(50),
            half_open: rate(8_000),
            queue_bytes: *random.pick(&[QUEUE_BYTES_SMALL, WIRE_QUEUE_BYTES_MAX]),
        }
    }
}
