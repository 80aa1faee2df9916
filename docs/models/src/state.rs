//! The nouns: what is durable, what a crash forgets, and what only the checker knows.

use std::collections::{BTreeMap, BTreeSet};

use crate::Bounds;
use crate::collector::Cycle;

/// Most chunk ids that a model has.
pub const CHUNKS: usize = 3;
/// Number of the collection. Starts at [`FIRST_EPOCH`].
pub type Epoch = u8;
/// High enough that the epoch before the fence has a number.
pub const FIRST_EPOCH: Epoch = 2;

/// A chunk id; as index of an array, its position.
pub type Chunk = usize;

/// `V/inode/version`: the walk meets them in this order.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Key {
    /// File.
    pub inode: u8,
    /// Higher than that of every version before.
    pub version: u8,
}

/// Identity of a segment. The later one is the higher one.
pub type SegmentId = u8;

/// Where a chunk lies. Ordered by age.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Place {
    /// Segment.
    pub segment: SegmentId,
    /// Row of the segment.
    pub row: u8,
}

/// An entry of a manifest: the chunk, and where it was when the version was made.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Entry {
    /// Which chunk.
    pub chunk: Chunk,
    /// Where to look before asking the owner.
    pub hint: Place,
}

/// How far a segment is on its way out. One that is forgotten is in no list.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Stage {
    /// Its rows count.
    Listed,
    /// FreeSegment is in the log: recovery believes none of its rows.
    Freed,
    /// The files are gone.
    Removed,
}

/// Rows that one core wrote, one chunk each.
///
/// All are sealed from the beginning: nothing but the protocol keeps the collector away from them.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Segment {
    /// Which chunk each row has.
    pub rows: Vec<Chunk>,
    /// Whether a crash leaves it.
    pub durable: bool,
    /// Whether no compaction has seen it.
    pub hot: bool,
    /// Life.
    pub stage: Stage,
}

/// What a restart need not read again.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Checkpoint {
    /// The index at that time.
    pub named: [Option<Place>; CHUNKS],
    /// The rows that were in the index by then, or had been condemned.
    pub covered: BTreeSet<Place>,
}

/// The low two bits of an epoch, as in `index/src/slot.rs`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Pin(u8);

impl Pin {
    /// A pin taken at `epoch`.
    pub fn at(epoch: Epoch) -> Pin {
        Pin(epoch % 4)
    }

    /// Epochs since `self`, modulo 4.
    pub fn age_at(self, epoch: Epoch) -> u8 {
        Pin::at(epoch).0.wrapping_sub(self.0) % 4
    }
}

/// What the index knows of a chunk.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Known {
    /// The copy that answers.
    pub place: Place,
    /// When its owner last told somebody about it.
    pub pin: Pin,
}

/// A core's owner of a part of the index.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Owner {
    /// The epoch that it was told last, at which it pins.
    pub told: Epoch,
    /// Whether every row that counts is in its index. If not, a miss means "unknown".
    pub complete: bool,
}

/// One chunk of an upload.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Part {
    /// The owner is to be asked.
    Wanted,
    /// The owner does not know it: the bytes are to be stored.
    Absent,
    /// The row is durable, and the owner does not know yet.
    Stored(Place),
    /// The owner answered for it at this epoch. The answer is under way.
    Answered(Epoch, Place),
    /// The answer is there.
    Held(Epoch, Place),
}

/// A writer.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Upload {
    /// In the lease table of its core.
    Open {
        /// What the version will have.
        parts: Vec<(Chunk, Part)>,
        /// Epoch of the first answer.
        since: Option<Epoch>,
        /// Whether a commit met StaleEpoch: the bytes are gone, it can only ask again.
        refused: bool,
    },
    /// The answer may have been lost: the client may send the command again.
    Committed {
        /// What the command carried.
        pin: Epoch,
        /// Cycles that it was open for.
        cycles: u8,
        /// As above.
        refused: bool,
    },
    /// Told to send all of it again, or ended by a crash.
    Ended,
}

/// A reader.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Read {
    /// Not yet.
    Idle,
    /// The metadata has answered, and the answer is under way: the core knows that something is, but not what.
    Opening(Vec<Entry>),
    /// In the lease table.
    Open(Vec<Entry>),
    /// Closed, or ended by a crash.
    Ended,
}

/// What the properties need to know of the past. No action reads it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Ghost {
    /// The newest segment that there ever was.
    pub last_segment: SegmentId,
    /// Whether a row was written where one had been before.
    pub written_twice: bool,
    /// Whether a commit that had been acknowledged was refused when it was sent again.
    pub refused_later: bool,
    /// Whether a cycle was ever cut short.
    pub aborted: bool,
    /// Garbage at the beginning of the cycle, and ever since.
    pub dead: [bool; CHUNKS],
    /// Completed sweeps that it was left in the index by.
    pub survived: [u8; CHUNKS],
}

/// Everything.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct State {
    /// Durable, in the metadata.
    pub epoch: Epoch,
    /// Commits with a lower pin epoch are refused. Durable.
    pub fence: Epoch,
    /// The roots. Durable.
    pub versions: BTreeMap<Key, Vec<Entry>>,
    /// Durable.
    pub next_version: u8,
    /// Those that the metadata lists. Durable.
    pub segments: BTreeMap<SegmentId, Segment>,
    /// Durable.
    pub next_segment: SegmentId,
    /// Durable.
    pub checkpoint: Checkpoint,
    /// The version whose manifest page cannot be read at present.
    pub unreadable: Option<Key>,

    /// Who answers for which chunk: see [`State::owner_of`].
    pub owners: Vec<Owner>,
    /// All owners' entries.
    pub index: [Option<Known>; CHUNKS],
    /// One for each writer, each on a core of its own.
    pub uploads: Vec<Upload>,
    /// On the first core.
    pub read: Read,
    /// The collector.
    pub cycle: Cycle,
    /// Whether this cycle met something that it could not read.
    pub doubt: bool,
    /// A restore in two steps: only [`crate::Mistake::RestoreInTwoSteps`] has it.
    pub restoring: Option<(u8, Vec<Entry>)>,

    /// What may still happen.
    pub left: Bounds,
    /// The checker's memory.
    pub ghost: Ghost,
}

impl State {
    /// Position of the owner of `chunk`.
    pub fn owner_of(&self, chunk: Chunk) -> usize {
        chunk % self.owners.len()
    }

    /// The epoch at which `chunk` would be pinned now.
    pub fn told(&self, chunk: Chunk) -> Epoch {
        self.owners[self.owner_of(chunk)].told
    }

    /// Whether the segment is there and its rows count.
    pub fn is_listed(&self, segment: SegmentId) -> bool {
        self.segments.get(&segment).is_some_and(|segment| segment.stage == Stage::Listed)
    }

    /// Whether `chunk` can be read at `place`, now and after a crash.
    pub fn has_copy(&self, chunk: Chunk, place: Place) -> bool {
        self.segments.get(&place.segment).is_some_and(|segment| {
            segment.stage == Stage::Listed
                && segment.durable
                && segment.rows.get(usize::from(place.row)) == Some(&chunk)
        })
    }

    /// Every row that counts.
    pub fn rows(&self) -> impl Iterator<Item = (Chunk, Place)> {
        let listed = self.segments.iter().filter(|(_, segment)| segment.stage == Stage::Listed);
        listed.flat_map(|(&id, segment)| {
            segment.rows.iter().zip(0..).map(move |(&chunk, row)| (chunk, Place { segment: id, row }))
        })
    }

    /// Rows that were written and whose owner does not know of them yet.
    pub fn rows_under_way(&self) -> BTreeSet<Place> {
        let parts = self.uploads.iter().flat_map(Upload::parts);
        parts.filter_map(|&(_, part)| if let Part::Stored(place) = part { Some(place) } else { None }).collect()
    }

    /// Whether a version, an upload or a reader needs `chunk`.
    pub fn is_needed(&self, chunk: Chunk) -> bool {
        let entries = self.versions.values().chain([self.read.entries()]).flatten();
        let parts = self.uploads.iter().flat_map(Upload::parts);
        entries.map(|entry| entry.chunk).chain(parts.map(|&(chunk, _)| chunk)).any(|needed| needed == chunk)
    }
}

static NO_ENTRIES: Vec<Entry> = Vec::new();

impl Read {
    /// What the reader will read.
    pub fn entries(&self) -> &Vec<Entry> {
        match self {
            Read::Opening(entries) | Read::Open(entries) => entries,
            Read::Idle | Read::Ended => &NO_ENTRIES,
        }
    }
}

impl Upload {
    /// Of an upload that has begun and not ended.
    pub fn parts(&self) -> &[(Chunk, Part)] {
        match self {
            Upload::Open { parts, since, .. }
                if since.is_some() || parts.iter().any(|(_, part)| *part != Part::Wanted) =>
            {
                parts
            }
            _ => &[],
        }
    }
}
