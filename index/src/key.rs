//! The bits of an id that the index keeps, and what each of them is for.
//!
//! ```text
//!  id     byte 1, low 2 bits and byte 2, high 4 bits        6 bits   the virtual shard: never stored
//!         bytes 3 to 14, little-endian, the low 90 bits    90 bits   the key
//!
//!  key    0        3                    42               74             90
//!         | implied |                    |      home      | fingerprint |
//!         |       group: as many as the table has bits of groups        |
//!         | <------------------- tag: 87 bits, stored ----------------> |
//! ```
//!
//! A partition never has fewer than eight groups, so a group's number always implies the low three bits of the keys in
//! it. With the shard that makes 96 bits for each entry, whatever the size of the table. Ids are keyed hashes, so any of
//! their bits are as good as random; what would happen if they were not is said in `partition`.

use proto::ChunkId;

/// Low bits of a key that the group implies.
pub(crate) const IMPLIED_BITS: u32 = 3;
const KEY_BITS: u32 = 90;
/// Low bits of a tag, which lie in a slot's rest; those above are the fingerprint.
pub(crate) const TAG_LOW_BITS: u32 = KEY_BITS - IMPLIED_BITS - 16;
/// Where the home bits begin in a tag.
pub(crate) const HOME_SHIFT: u32 = 42 - IMPLIED_BITS;

/// The part of an id that the index knows it by, within one virtual shard.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Key(u128);

impl Key {
    pub(crate) fn of(id: &ChunkId) -> Key {
        let low = u64::from_le_bytes(id.0[3..11].try_into().expect("eight bytes of thirty-two"));
        let high = u32::from_le_bytes(id.0[11..15].try_into().expect("four bytes of thirty-two"));
        Key((u128::from(high) << 64 | u128::from(low)) & ((1 << KEY_BITS) - 1))
    }

    /// The key in `bytes`, if it is one.
    pub(crate) fn from_bytes(bytes: [u8; 12]) -> Option<Key> {
        let mut wide = [0; 16];
        wide[..12].copy_from_slice(&bytes);
        let bits = u128::from_le_bytes(wide);
        (bits >> KEY_BITS == 0).then_some(Key(bits))
    }

    pub(crate) fn to_bytes(self) -> [u8; 12] {
        self.0.to_le_bytes()[..12].try_into().expect("twelve bytes of sixteen")
    }

    /// The key whose tag is stored in group `group`.
    pub(crate) fn from_tag(tag: Tag, group: usize) -> Key {
        let implied = group as u128 & ((1 << IMPLIED_BITS) - 1);
        let tag = u128::from(tag.fingerprint) << TAG_LOW_BITS | tag.low;
        Key(tag << IMPLIED_BITS | implied)
    }

    /// The bits that choose the group.
    pub(crate) fn group_bits(self) -> usize {
        self.0 as usize
    }

    pub(crate) fn tag(self) -> Tag {
        let tag = self.0 >> IMPLIED_BITS;
        Tag { fingerprint: (tag >> TAG_LOW_BITS) as u16, low: tag & ((1 << TAG_LOW_BITS) - 1) }
    }
}

/// What a slot stores of a key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Tag {
    pub(crate) fingerprint: u16,
    /// The bits below the fingerprint.
    pub(crate) low: u128,
}

impl Tag {
    /// The bits that choose the bucket within the group.
    pub(crate) fn home(self) -> u32 {
        (self.low >> HOME_SHIFT) as u32
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn group_and_tag_make_up_the_key(id: [u8; 32]) {
            let key = Key::of(&ChunkId(id));
            prop_assert_eq!(Key::from_tag(key.tag(), key.group_bits()), key);
            prop_assert_eq!(Key::from_bytes(key.to_bytes()), Some(key));
        }
    }

    #[test]
    fn ninety_six_bits_tell_ids_apart() {
        let zero = ChunkId::default();
        let told_apart = |bit: usize| {
            let mut id = zero;
            id.0[bit / 8] ^= 1 << (bit % 8);
            id.virtual_shard() != zero.virtual_shard() || Key::of(&id) != Key::of(&zero)
        };
        assert_eq!((0..256).filter(|bit| told_apart(*bit)).count(), 96);
    }

    #[test]
    fn wider_keys_are_refused() {
        assert_eq!(Key::from_bytes([0xff; 12]), None);
    }
}
