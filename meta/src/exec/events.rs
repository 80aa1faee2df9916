//! Change events: what watchers of the namespace learn of a command.
//!
//! ```text
//!   forgotten │ retained: at most EVENTS_RETAINED_MAX events and EVENTS_RETAINED_BYTES_MAX bytes │ to come
//!   ──────────┼──────────────────────────────────────────────────────────────────────────────────┼────▶ cursor
//!          oldest                                                                              next
//! ```

use proto::InodeId;
use proto::limits::{EVENTS_RETAINED_BYTES_MAX, EVENTS_RETAINED_MAX, PATH_DEPTH_MAX};

use super::names::parent_of;
use crate::codec;
use crate::keys;
use crate::record::{Change, Event, EventClock, Inode};
use crate::txn::{KvTxn, load, store};

/// Tells of a change of `inode`; the path is that of its record.
pub(super) fn tell(txn: &mut impl KvTxn, change: Change, inode: &Inode, now_ns: u64) {
    let path = path(txn, inode.parent, &inode.name);
    let (inode, kind, version) = (inode.inode, inode.kind, inode.version);
    append(txn, &Event { change, inode, kind, version, at_ns: now_ns, path });
}

/// The absolute path of `name` in `directory`; the last [`PATH_DEPTH_MAX`] names of it, after `/..`, if it has more.
pub(super) fn path(txn: &impl KvTxn, directory: InodeId, name: &str) -> String {
    if name.is_empty() {
        return "/".to_owned();
    }
    let mut names = vec![name.to_owned()];
    let mut at = directory;
    while at != InodeId::ROOT {
        // Directories that were moved may lie deeper than paths go; this bounds what an event costs.
        if names.len() == PATH_DEPTH_MAX {
            names.push("..".to_owned());
            break;
        }
        let (parent, name) = parent_of(txn, at);
        names.push(name);
        at = parent;
    }
    names.iter().rev().flat_map(|name| ["/", name]).collect()
}

/// Appends an event, and forgets the oldest ones that there is no room for.
fn append(txn: &mut impl KvTxn, event: &Event) {
    let mut clock: EventClock = load(txn, keys::EVENT_CLOCK).unwrap_or_default();
    let (key, value) = (keys::event(clock.next), codec::encode(event));
    clock.next += 1;
    clock.bytes += (key.len() + value.len()) as u64;
    txn.put(key, value);
    while clock.next - clock.oldest > EVENTS_RETAINED_MAX || clock.bytes > EVENTS_RETAINED_BYTES_MAX {
        let key = keys::event(clock.oldest);
        let value = txn.get(&key).expect("invariant: the clock knows which events there are");
        clock.bytes -= (key.len() + value.len()) as u64;
        clock.oldest += 1;
        txn.delete(&key);
    }
    store(txn, keys::EVENT_CLOCK.to_vec(), &clock);
}
