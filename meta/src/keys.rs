//! Keys of the state, laid out by hand so that their byte order is the order ranges are read in.
//!
//! ```text
//!   D dir u64 | frag u16 | name     → Name          A dir u64                    → Directory
//!   I inode u64                     → Inode         V inode u64 | version u64    → Version
//!   P inode u64 | !version u64      → Past          E cursor u64                 → Event
//!   S client u64                    → ClientWindow  R touch u64                  → the client touched then
//!   O key 16 bytes                  → Once          F number u64                 → the key that was used then
//!   G segment u64                   → SegmentRecord K domain u64                 → DomainRecord
//!   N slot u16                      → next inode counter of the slot
//!   C c | C e | C f                 → Counters, event clock, fence of garbage collection
//!   C i | C o | C s                 → IndexCheckpoint, clock of keys, session clock
//! ```
//!
//! All numbers are big-endian; `!` inverts all bits, so that newer versions come first. `L`, `Q`, `T`, `U` and `X` are
//! kept for locks, quota, transactions and uploads.

use proto::{DomainId, InodeId, SegmentId, VersionNumber};

/// A half-open range of keys.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KeyRange {
    /// First key that may be in the range.
    pub from: Vec<u8>,
    /// First key beyond it.
    pub to: Vec<u8>,
}

/// The one fragment that directories have so far.
const FRAGMENT: u16 = 0;
/// Totals over the whole state.
pub(crate) const COUNTERS: &[u8] = b"Cc";
/// Which change events there are.
pub(crate) const EVENT_CLOCK: &[u8] = b"Ce";
/// Fence of garbage collection; the epoch is the one after it.
pub(crate) const FENCE: &[u8] = b"Cf";
/// Which remembered keys there are.
pub(crate) const ONCE_CLOCK: &[u8] = b"Co";
/// Clock of the exactly-once windows.
pub(crate) const SESSION_CLOCK: &[u8] = b"Cs";

/// The checkpoint of the chunk index.
pub(crate) const INDEX_CHECKPOINT: &[u8] = b"Ci";

/// Which record a key leads to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum KeyKind {
    Name,
    Directory,
    Inode,
    Version,
    Past,
    Event,
    ClientWindow,
    Touch,
    Once,
    OnceOrder,
    Segment,
    Domain,
    SlotCounter,
    Counters,
    EventClock,
    Fence,
    OnceClock,
    SessionClock,
    IndexCheckpoint,
}

/// Returns what `key` leads to; `None` if it is no key of this version.
pub(crate) fn kind(key: &[u8]) -> Option<KeyKind> {
    Some(match (*key.first()?, key.len()) {
        (b'D', 12..) => KeyKind::Name,
        (b'A', 9) => KeyKind::Directory,
        (b'I', 9) => KeyKind::Inode,
        (b'V', 17) => KeyKind::Version,
        (b'P', 17) => KeyKind::Past,
        (b'E', 9) => KeyKind::Event,
        (b'S', 9) => KeyKind::ClientWindow,
        (b'R', 9) => KeyKind::Touch,
        (b'O', 17) => KeyKind::Once,
        (b'F', 9) => KeyKind::OnceOrder,
        (b'G', 9) => KeyKind::Segment,
        (b'K', 9) => KeyKind::Domain,
        (b'N', 3) => KeyKind::SlotCounter,
        (b'C', 2) => match key {
            COUNTERS => KeyKind::Counters,
            EVENT_CLOCK => KeyKind::EventClock,
            FENCE => KeyKind::Fence,
            ONCE_CLOCK => KeyKind::OnceClock,
            SESSION_CLOCK => KeyKind::SessionClock,
            INDEX_CHECKPOINT => KeyKind::IndexCheckpoint,
            _ => return None,
        },
        _ => return None,
    })
}

fn numbered(letter: u8, number: u64) -> Vec<u8> {
    let mut key = Vec::with_capacity(17);
    key.push(letter);
    key.extend_from_slice(&number.to_be_bytes());
    key
}

fn number_at(key: &[u8], at: usize) -> u64 {
    u64::from_be_bytes(key[at..at + 8].try_into().expect("eight bytes"))
}

/// A name in a directory.
pub(crate) fn name(directory: InodeId, name: &str) -> Vec<u8> {
    let mut key = Vec::with_capacity(11 + name.len());
    key.push(b'D');
    key.extend_from_slice(&directory.0.to_be_bytes());
    key.extend_from_slice(&FRAGMENT.to_be_bytes());
    key.extend_from_slice(name.as_bytes());
    key
}

/// The name within a key made by [`name`]; `None` if it is not UTF-8, as no name of ours is.
pub(crate) fn name_of(key: &[u8]) -> Option<&str> {
    std::str::from_utf8(key.get(11..)?).ok()
}

/// All names of a directory that come after `after`.
pub(crate) fn names(directory: InodeId, after: Option<&str>) -> KeyRange {
    // No name holds a NUL, so the key with one appended is the next possible key.
    let from = match after {
        Some(after) => [name(directory, after), vec![0]].concat(),
        None => name(directory, ""),
    };
    KeyRange { from, to: next_prefix(numbered(b'D', directory.0)) }
}

/// What belongs to a directory as such.
pub(crate) fn directory(directory: InodeId) -> Vec<u8> {
    numbered(b'A', directory.0)
}

/// A file, directory or symlink.
pub(crate) fn inode(inode: InodeId) -> Vec<u8> {
    numbered(b'I', inode.0)
}

/// A version of a file.
pub(crate) fn version(inode: InodeId, version: VersionNumber) -> Vec<u8> {
    let mut key = numbered(b'V', inode.0);
    key.extend_from_slice(&version.0.to_be_bytes());
    key
}

/// All versions of a file.
pub(crate) fn versions(inode: InodeId) -> KeyRange {
    let from = numbered(b'V', inode.0);
    KeyRange { to: next_prefix(from.clone()), from }
}

/// The version within a key made by [`version`].
///
/// # Panics
/// If it is another key.
pub(crate) fn version_of(key: &[u8]) -> VersionNumber {
    VersionNumber(number_at(key, 9))
}

/// The versions of all files, from `from` on.
pub(crate) fn all_versions(from: Option<(InodeId, VersionNumber)>) -> KeyRange {
    let from = from.map_or_else(|| vec![b'V'], |(inode, number)| version(inode, number));
    KeyRange { from, to: vec![b'V' + 1] }
}

/// The file and the version within a key made by [`version`].
///
/// # Panics
/// If it is another key.
pub(crate) fn version_at(key: &[u8]) -> (InodeId, VersionNumber) {
    (InodeId(number_at(key, 1)), VersionNumber(number_at(key, 9)))
}

/// What the inode of a file said at an earlier version.
pub(crate) fn past(inode: InodeId, version: VersionNumber) -> Vec<u8> {
    let mut key = numbered(b'P', inode.0);
    key.extend_from_slice(&(!version.0).to_be_bytes());
    key
}

/// The version within a key made by [`past`].
///
/// # Panics
/// If it is another key.
pub(crate) fn version_of_past(key: &[u8]) -> VersionNumber {
    VersionNumber(!number_at(key, 9))
}

/// All earlier versions of a file, newest first.
pub(crate) fn all_pasts(inode: InodeId) -> KeyRange {
    pasts(inode, VersionNumber(u64::MAX))
}

/// Earlier versions of a file below `before`, newest first.
pub(crate) fn pasts(inode: InodeId, before: VersionNumber) -> KeyRange {
    let below = VersionNumber(before.0.saturating_sub(1));
    KeyRange { from: past(inode, below), to: next_prefix(numbered(b'P', inode.0)) }
}

/// Earlier versions of all files whose inodes come after `inode`; of all, without one.
pub(crate) fn pasts_after(inode: Option<InodeId>) -> KeyRange {
    let from = inode.map_or_else(|| vec![b'P'], |inode| next_prefix(numbered(b'P', inode.0)));
    KeyRange { from, to: vec![b'P' + 1] }
}

/// The inode within a key made by [`past`].
///
/// # Panics
/// If it is another key.
pub(crate) fn inode_of_past(key: &[u8]) -> InodeId {
    InodeId(number_at(key, 1))
}

/// A change event.
pub(crate) fn event(cursor: u64) -> Vec<u8> {
    numbered(b'E', cursor)
}

/// The cursor within a key made by [`event`].
///
/// # Panics
/// If it is another key.
pub(crate) fn cursor_of_event(key: &[u8]) -> u64 {
    number_at(key, 1)
}

/// All events that come after `cursor`.
pub(crate) fn events(cursor: u64) -> KeyRange {
    KeyRange { from: event(cursor.saturating_add(1)), to: vec![b'E' + 1] }
}

/// The answer to a request that had a key.
pub(crate) fn once(key: &[u8; 16]) -> Vec<u8> {
    [&b"O"[..], key].concat()
}

/// The key that was used as the `number`th.
pub(crate) fn once_order(number: u64) -> Vec<u8> {
    numbered(b'F', number)
}

/// The exactly-once window of a client.
pub(crate) fn client(client: u64) -> Vec<u8> {
    numbered(b'S', client)
}

/// The client that was touched at `touch` on the session clock.
pub(crate) fn touch(touch: u64) -> Vec<u8> {
    numbered(b'R', touch)
}

/// All touches, oldest first.
pub(crate) fn touches() -> KeyRange {
    KeyRange { from: vec![b'R'], to: vec![b'R' + 1] }
}

/// A segment.
pub(crate) fn segment(segment: SegmentId) -> Vec<u8> {
    numbered(b'G', segment.0)
}

/// All segments.
pub(crate) fn segments() -> KeyRange {
    KeyRange { from: vec![b'G'], to: vec![b'G' + 1] }
}

/// A dedup domain.
pub(crate) fn domain(domain: DomainId) -> Vec<u8> {
    numbered(b'K', domain.0)
}

/// The inode counter of a metadata slot.
pub(crate) fn slot_counter(slot: u16) -> Vec<u8> {
    let mut key = vec![b'N'];
    key.extend_from_slice(&slot.to_be_bytes());
    key
}

/// The first key after all keys that start with `prefix`.
fn next_prefix(mut prefix: Vec<u8>) -> Vec<u8> {
    while let Some(last) = prefix.pop() {
        if last < u8::MAX {
            prefix.push(last + 1);
            return prefix;
        }
    }
    unreachable!("invariant: a prefix starts with a letter, which has a successor")
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn layouts_are_frozen() {
        let ino = InodeId(0x0102_0304_0506_0708);
        assert_eq!(name(ino, "ab"), b"D\x01\x02\x03\x04\x05\x06\x07\x08\0\0ab");
        assert_eq!(directory(ino), b"A\x01\x02\x03\x04\x05\x06\x07\x08");
        assert_eq!(inode(ino), b"I\x01\x02\x03\x04\x05\x06\x07\x08");
        assert_eq!(version(ino, VersionNumber(9)), b"V\x01\x02\x03\x04\x05\x06\x07\x08\0\0\0\0\0\0\0\x09");
        assert_eq!(past(ino, VersionNumber(9)), b"P\x01\x02\x03\x04\x05\x06\x07\x08\xff\xff\xff\xff\xff\xff\xff\xf6");
        assert_eq!(event(1), b"E\0\0\0\0\0\0\0\x01");
        assert_eq!(once(b"0123456789abcdef"), b"O0123456789abcdef");
        assert_eq!(once_order(1), b"F\0\0\0\0\0\0\0\x01");
        assert_eq!(client(1), b"S\0\0\0\0\0\0\0\x01");
        assert_eq!(touch(1), b"R\0\0\0\0\0\0\0\x01");
        assert_eq!(segment(SegmentId(1)), b"G\0\0\0\0\0\0\0\x01");
        assert_eq!(domain(DomainId(1)), b"K\0\0\0\0\0\0\0\x01");
        assert_eq!(slot_counter(0x0203), b"N\x02\x03");
    }

    #[test]
    fn the_last_inode_has_a_range_too() {
        let range = names(InodeId(u64::MAX), None);
        assert!(range.from < name(InodeId(u64::MAX), "a") && name(InodeId(u64::MAX), "a") < range.to);
        assert_eq!(range.to, b"E");
    }

    proptest! {
        #[test]
        fn keys_order_like_what_they_name(a: u64, b: u64, left in "[^\0/]{1,8}", right in "[^\0/]{1,8}") {
            let (left, right) = (left.as_str(), right.as_str());
            prop_assert_eq!(name(InodeId(a), left).cmp(&name(InodeId(b), right)), (a, left.as_bytes()).cmp(&(b, right.as_bytes())));
            prop_assert_eq!(touch(a).cmp(&touch(b)), a.cmp(&b));
            let (newer, older) = (VersionNumber(a.max(b)), VersionNumber(a.min(b)));
            prop_assert_eq!(past(InodeId(a), newer).cmp(&past(InodeId(a), older)), older.cmp(&newer));
            prop_assert_eq!(version_of_past(&past(InodeId(a), newer)), newer);
            let before = pasts(InodeId(a), newer);
            prop_assert_eq!((before.from..before.to).contains(&past(InodeId(a), older)), older < newer);
            prop_assert_eq!(version_of(&version(InodeId(a), newer)), newer);
            prop_assert_eq!(inode_of_past(&past(InodeId(a), newer)), InodeId(a));
            let after = pasts_after(Some(InodeId(a)));
            prop_assert_eq!((after.from..after.to).contains(&past(InodeId(b), older)), b > a);
            prop_assert_eq!(cursor_of_event(&event(a)), a);
            let key = name(InodeId(a), left);
            prop_assert_eq!(name_of(&key), Some(left));
            let after = names(InodeId(a), Some(left));
            let follows = name(InodeId(a), right);
            prop_assert_eq!((after.from..after.to).contains(&follows), right.as_bytes() > left.as_bytes());
        }

        #[test]
        fn every_key_is_recognised(number: u64, text in "[a-z]{1,9}") {
            for (key, expected) in [
                (name(InodeId(number), &text), KeyKind::Name),
                (directory(InodeId(number)), KeyKind::Directory),
                (inode(InodeId(number)), KeyKind::Inode),
                (version(InodeId(number), VersionNumber(number)), KeyKind::Version),
                (past(InodeId(number), VersionNumber(number)), KeyKind::Past),
                (event(number), KeyKind::Event),
                (once(&[7; 16]), KeyKind::Once),
                (once_order(number), KeyKind::OnceOrder),
                (EVENT_CLOCK.to_vec(), KeyKind::EventClock),
                (ONCE_CLOCK.to_vec(), KeyKind::OnceClock),
                (client(number), KeyKind::ClientWindow),
                (touch(number), KeyKind::Touch),
                (segment(SegmentId(number)), KeyKind::Segment),
                (domain(DomainId(number)), KeyKind::Domain),
                (slot_counter(number as u16), KeyKind::SlotCounter),
                (COUNTERS.to_vec(), KeyKind::Counters),
                (FENCE.to_vec(), KeyKind::Fence),
                (SESSION_CLOCK.to_vec(), KeyKind::SessionClock),
            ] {
                prop_assert_eq!(kind(&key), Some(expected));
            }
            prop_assert_eq!(kind(b""), None);
            prop_assert_eq!(kind(b"Z12345678"), None);
        }
    }
}
