//! Short numbers for segments: an entry has 22 bits for what a segment id says in 64.
//!
//! A number is taken when the first entry names its segment and given to another once no entry does, so what counts
//! is the segments that hold chunks now: 2^22 - 1 of 64 MiB are 256 TiB for one core.

use hashbrown::HashTable;
use proto::SegmentId;

const NUMBER_BITS: u32 = 22;

/// Number of a segment in this core's index.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct SegmentNumber(pub(crate) u32);

impl SegmentNumber {
    /// What no segment has: the mark of an empty slot.
    pub(crate) const NONE: SegmentNumber = SegmentNumber((1 << NUMBER_BITS) - 1);
}

#[derive(Debug)]
struct Numbered {
    segment: SegmentId,
    /// Who relies on the number: entries, and whoever called [`SegmentNumbers::take`].
    users: u32,
}

/// The numbering of one core.
#[derive(Debug, Default)]
pub(crate) struct SegmentNumbers {
    numbered: Vec<Numbered>,
    free: Vec<SegmentNumber>,
    numbers: HashTable<SegmentNumber>,
}

impl SegmentNumbers {
    /// Returns the number of `segment` with one user more; `None` if all numbers are taken.
    pub(crate) fn take(&mut self, segment: SegmentId) -> Option<SegmentNumber> {
        let numbered = &self.numbered;
        let same = |number: &SegmentNumber| numbered[number.0 as usize].segment == segment;
        if let Some(number) = self.numbers.find(hash(segment), same).copied() {
            self.take_again(number);
            return Some(number);
        }
        let number = match self.free.pop() {
            Some(number) => {
                self.numbered[number.0 as usize] = Numbered { segment, users: 1 };
                number
            }
            None if self.numbered.len() < SegmentNumber::NONE.0 as usize => {
                self.numbered.push(Numbered { segment, users: 1 });
                SegmentNumber(self.numbered.len() as u32 - 1)
            }
            None => return None,
        };
        let numbered = &self.numbered;
        self.numbers.insert_unique(hash(segment), number, |number| hash(numbered[number.0 as usize].segment));
        Some(number)
    }

    /// Adds a user to a number that has one.
    pub(crate) fn take_again(&mut self, number: SegmentNumber) {
        self.numbered[number.0 as usize].users += 1;
    }

    /// Takes a user off; the number is free after the last.
    pub(crate) fn release(&mut self, number: SegmentNumber) {
        let numbered = &mut self.numbered[number.0 as usize];
        numbered.users = numbered.users.checked_sub(1).expect("invariant: a number in use has users");
        if numbered.users == 0 {
            let gone = self.numbers.find_entry(hash(numbered.segment), |candidate| *candidate == number);
            gone.expect("invariant: a number in use is in the table").remove();
            self.free.push(number);
        }
    }

    /// Who relies on the number of `segment`.
    pub(crate) fn users(&self, segment: SegmentId) -> u32 {
        let same = |number: &SegmentNumber| self.numbered[number.0 as usize].segment == segment;
        self.numbers.find(hash(segment), same).map_or(0, |number| self.numbered[number.0 as usize].users)
    }

    /// Returns the segment of a number in use.
    pub(crate) fn segment(&self, number: SegmentNumber) -> SegmentId {
        self.numbered[number.0 as usize].segment
    }

    /// Every number in use is below this.
    pub(crate) fn end(&self) -> usize {
        self.numbered.len()
    }

    pub(crate) fn memory_bytes(&self) -> usize {
        self.numbered.capacity() * size_of::<Numbered>()
            + self.free.capacity() * size_of::<SegmentNumber>()
            + self.numbers.allocation_size()
    }
}

/// Segment ids count upwards in two places; the table wants their differences in its low and in its high bits.
fn hash(segment: SegmentId) -> u64 {
    let mixed = segment.0.wrapping_mul(0x9e37_79b9_7f4a_7c15);
    mixed ^ mixed >> 32
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_number_is_free_after_its_last_user() {
        let mut numbers = SegmentNumbers::default();
        let first = numbers.take(SegmentId(7)).unwrap();
        assert_eq!(numbers.take(SegmentId(7)), Some(first));
        numbers.release(first);
        assert_ne!(numbers.take(SegmentId(8)), Some(first), "still in use");
        numbers.release(first);
        assert_eq!(numbers.take(SegmentId(9)), Some(first));
        assert_eq!(numbers.segment(first), SegmentId(9));
        assert_ne!(numbers.take(SegmentId(7)), Some(first));
    }

    #[test]
    fn the_mark_of_an_empty_slot_is_no_number() {
        let mut numbers = SegmentNumbers::default();
        let last = SegmentNumber(SegmentNumber::NONE.0 - 1);
        numbers.numbered.resize_with(last.0 as usize, || Numbered { segment: SegmentId(0), users: 1 });
        assert_eq!(numbers.take(SegmentId(1)), Some(last));
        assert_eq!(numbers.take(SegmentId(2)), None);
        assert_eq!(numbers.take(SegmentId(1)), Some(last), "a segment that has a number keeps it");
        numbers.release(last);
        numbers.release(last);
        assert_eq!(numbers.take(SegmentId(2)), Some(last));
    }
}
