//! What goes wrong on a wire: the names under which it is counted when it happens, and how often it begins.

use crate::sim::Random;

/// A message was lost on its way.
pub const LOST: &str = "wire: message lost";
/// A message arrived twice.
pub const DUPLICATED: &str = "wire: message duplicated";
/// A message arrived before one that was sent earlier.
pub const REORDERED: &str = "wire: message overtook another";
/// A message took far longer than usual.
pub const DELAYED: &str = "wire: message delayed";
/// A message was lost since its two peers were parted.
pub const PARTED: &str = "wire: message lost in a partition";
/// A message was lost since its direction was cut, while the other one worked.
pub const PARTED_ONE_WAY: &str = "wire: message lost in a one-way partition";
/// A message waited for a peer that took bytes slowly.
pub const SLOWED: &str = "wire: message held up by a slow peer";
/// A message went into a connection whose other end was gone.
pub const HALF_OPEN: &str = "wire: message sent into a half-open connection";
/// A message was in flight when its sender or receiver ended, and was lost with it.
pub const LOST_IN_CRASH: &str = "wire: message lost in a crash";
/// A message reached a later start of its receiver than the one that ran when it was sent.
pub const OUTLIVED: &str = "wire: message outlived its receiver's crash";
/// A message was refused since its peer's queue was full.
pub const QUEUE_FULL: &str = "wire: queue full";

/// All names.
pub const KINDS: &[&str] = &[
    LOST,
    DUPLICATED,
    REORDERED,
    DELAYED,
    PARTED,
    PARTED_ONE_WAY,
    SLOWED,
    HALF_OPEN,
    LOST_IN_CRASH,
    OUTLIVED,
    QUEUE_FULL,
];

/// Chances that are drawn with every message, out of so many.
pub(super) const OUT_OF: u64 = 10_000;

/// How often something goes wrong, in chances out of 10,000; those from `part` on are drawn with every message, and
/// concern those that follow for a while.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct WireRates {
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
}

impl WireRates {
    /// Draws a wire: each fault is absent, rare or frequent.
    #[must_use]
    pub fn draw(random: &mut Random) -> WireRates {
        let mut rate = |often: u64| match random.below(3) {
            0 => 0,
            1 => often / 10,
            _ => often,
        };
        WireRates {
            lose: rate(1_000),
            duplicate: rate(1_000),
            reorder: rate(2_000),
            delay: rate(500),
            part: rate(50),
            part_one_way: rate(50),
            slow: rate(50),
            half_open: rate(8_000),
        }
    }
}
