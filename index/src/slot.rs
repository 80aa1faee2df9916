//! One entry: 20 bytes, of which the fingerprint's two lie apart.
//!
//! ```text
//!  rest   0            71         120                142   144
//!         | tag, low 71 | place 49 | segment number 22 | pin 2 |     18 bytes, little-endian
//!
//!  place  ordinal 12 | sectors 11 | offset/64 20 | column 6, as `Location::pack` lays them
//! ```
//!
//! An empty slot has a zero fingerprint and a rest of ones: no entry has the segment number that consists of ones.

use proto::Location;

use crate::key::{HOME_SHIFT, TAG_LOW_BITS, Tag};
use crate::segments::SegmentNumber;

/// Bits of a packed location below the segment.
pub(crate) const PLACE_BITS: u32 = 49;
const PLACE_MASK: u64 = (1 << PLACE_BITS) - 1;
const SEGMENT_SHIFT: u32 = TAG_LOW_BITS + PLACE_BITS;
/// Bits of the segment number in the last two bytes; the others are the top byte of the first sixteen.
const SEGMENT_HIGH_BITS: u32 = 14;
const REST_BYTES: usize = 18;

const _: () = assert!(SEGMENT_SHIFT == 120);

/// A location without its segment: 49 bits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Place(u64);

impl Place {
    pub(crate) fn of(location: Location) -> Place {
        Place(location.pack() as u64 & PLACE_MASK)
    }

    pub(crate) fn from_bits(bits: u64) -> Place {
        Place(bits & PLACE_MASK)
    }

    pub(crate) fn bits(self) -> u64 {
        self.0
    }

    pub(crate) fn in_segment(self, segment: proto::SegmentId) -> Location {
        Location::unpack(u128::from(segment.0) << PLACE_BITS | u128::from(self.0))
            .expect("invariant: 49 bits of place and 64 of segment are a location")
    }
}

/// What the index knows of a chunk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Known {
    pub(crate) place: Place,
    pub(crate) segment: SegmentNumber,
    /// Epoch of the last pin, modulo 4.
    pub(crate) pin: Pin,
}

/// The low two bits of an epoch.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Pin(u8);

impl Pin {
    pub(crate) fn at(epoch: u64) -> Pin {
        Pin((epoch % 4) as u8)
    }

    /// Epochs since `self`, modulo 4.
    pub(crate) fn age_at(self, epoch: u64) -> u8 {
        Pin::at(epoch).0.wrapping_sub(self.0) % 4
    }
}

/// All of an entry but its fingerprint.
#[derive(Clone, Copy, Debug)]
#[repr(transparent)]
pub(crate) struct Rest([u8; REST_BYTES]);

impl Rest {
    pub(crate) const EMPTY: Rest = Rest([0xff; REST_BYTES]);

    fn new(tag_low: u128, known: Known) -> Rest {
        let segment = known.segment.0;
        let low = tag_low | u128::from(known.place.0) << TAG_LOW_BITS | u128::from(segment & 0xff) << SEGMENT_SHIFT;
        let high = (segment >> 8) as u16 | u16::from(known.pin.0) << SEGMENT_HIGH_BITS;
        let mut bytes = [0; REST_BYTES];
        bytes[..16].copy_from_slice(&low.to_le_bytes());
        bytes[16..].copy_from_slice(&high.to_le_bytes());
        Rest(bytes)
    }

    fn low(&self) -> u128 {
        u128::from_le_bytes(self.0[..16].try_into().expect("sixteen bytes of eighteen"))
    }

    fn high(&self) -> u16 {
        u16::from_le_bytes([self.0[16], self.0[17]])
    }

    fn segment(&self) -> SegmentNumber {
        let high = self.high() & ((1 << SEGMENT_HIGH_BITS) - 1);
        SegmentNumber(u32::from(self.0[15]) | u32::from(high) << 8)
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.segment() == SegmentNumber::NONE
    }

    /// Whether this is the rest of an entry with `tag`, given that the fingerprints agree.
    pub(crate) fn matches(&self, tag: Tag) -> bool {
        (self.low() ^ tag.low) << (128 - TAG_LOW_BITS) == 0 && !self.is_empty()
    }

    pub(crate) fn known(&self) -> Known {
        Known {
            place: Place::from_bits((self.low() >> TAG_LOW_BITS) as u64),
            segment: self.segment(),
            pin: Pin((self.high() >> SEGMENT_HIGH_BITS) as u8),
        }
    }

    pub(crate) fn set_known(&mut self, known: Known) {
        *self = Rest::new(self.tag_low(), known);
    }

    pub(crate) fn set_pin(&mut self, pin: Pin) {
        self.0[17] = self.0[17] & 0x3f | pin.0 << 6;
    }

    fn tag_low(&self) -> u128 {
        self.low() & ((1 << TAG_LOW_BITS) - 1)
    }
}

/// A whole entry, on its way between buckets.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Slot {
    pub(crate) fingerprint: u16,
    pub(crate) rest: Rest,
}

impl Slot {
    pub(crate) fn new(tag: Tag, known: Known) -> Slot {
        Slot { fingerprint: tag.fingerprint, rest: Rest::new(tag.low, known) }
    }

    pub(crate) fn tag(&self) -> Tag {
        Tag { fingerprint: self.fingerprint, low: self.rest.tag_low() }
    }

    /// As [`Tag::home`].
    pub(crate) fn home(&self) -> u32 {
        (self.rest.low() >> HOME_SHIFT) as u32
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn slots_survive_packing(fingerprint: u16, low in 0u128..1 << TAG_LOW_BITS, place in 0u64..1 << PLACE_BITS, segment in 0u32..(1 << 22) - 1, pin in 0u64..4, later in 0u64..4) {
            let tag = Tag { fingerprint, low };
            let known = Known { place: Place(place), segment: SegmentNumber(segment), pin: Pin::at(pin) };
            let mut slot = Slot::new(tag, known);
            prop_assert_eq!((slot.tag(), slot.rest.known(), slot.home()), (tag, known, tag.home()));
            prop_assert!(slot.rest.matches(tag));
            let other = Tag { fingerprint, low: low ^ 1 };
            prop_assert!(!slot.rest.matches(other));
            slot.rest.set_pin(Pin::at(later));
            prop_assert_eq!((slot.tag(), slot.rest.known()), (tag, Known { pin: Pin::at(later), ..known }));
        }
    }

    #[test]
    fn nothing_matches_an_empty_slot() {
        let ones = Tag { fingerprint: 0, low: (1 << TAG_LOW_BITS) - 1 };
        assert!(Rest::EMPTY.is_empty());
        assert!(!Rest::EMPTY.matches(ones));
    }

    #[test]
    fn a_pin_never_looks_older_than_it_is() {
        for pinned in 0..8u64 {
            for now in pinned..pinned + 8 {
                let seen = Pin::at(pinned).age_at(now);
                assert!(u64::from(seen) <= now - pinned);
                assert!(now - pinned > 3 || u64::from(seen) == now - pinned);
            }
        }
    }
}
