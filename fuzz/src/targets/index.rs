//! `index`: pages of checkpoints.

use index::{ExportCursor, Index, PAGE_BYTES_MAX, page_shard};
use proto::limits::VIRTUAL_SHARDS;
use proto::{ChunkId, Location, SegmentId, VirtualShard};

use super::golden;
use crate::{Memory, Target};

pub(super) fn targets() -> Vec<Target> {
    vec![Target {
        name: "index-page",
        run: page,
        corpus: || vec![golden(include_str!("../../../index/golden/page.hex")), exported(40)],
        // An index of all virtual shards, and the two pages of an export.
        memory: Memory { fixed_bytes: 16 << 20, per_byte: 16 },
        input_bytes_max: 8192,
        cases: 3_000,
    }]
}

fn empty() -> Index {
    Index::new((0..VIRTUAL_SHARDS as u8).map(VirtualShard))
}

/// A page of some entries.
fn exported(entries: u8) -> Vec<u8> {
    let mut index = empty();
    for number in 0..entries {
        let mut id = ChunkId::default();
        id.0[4..].fill(number);
        let segment = SegmentId(1 + u64::from(number % 3));
        let offset = 64 * u32::from(number);
        index.insert(&id, Location { segment, column: 0, offset, sectors: 2, ordinal: 0 });
    }
    index.export(ChunkId::default().virtual_shard(), ExportCursor::default(), PAGE_BYTES_MAX).0
}

fn page(input: &[u8]) {
    let mut index = empty();
    let imported = index.import(input, |_| true);
    let Ok(stats) = imported else {
        assert_eq!(index.chunks(), 0, "of a page that is refused, nothing is taken");
        return;
    };
    let shard = page_shard(input).expect("a page that was taken has a head");
    assert_eq!(stats.added, index.chunks());
    // Of two entries for one chunk the first counts, so an index may hold fewer than its page.
    let mut copy = empty();
    let mut at = Some(ExportCursor::default());
    while let Some(cursor) = at {
        let (page, next) = index.export(shard, cursor, PAGE_BYTES_MAX);
        let stats = copy.import(&page, |_| true).expect("what is exported is imported");
        assert_eq!(stats.known, 0, "an export names a chunk once");
        at = next;
    }
    assert_eq!(copy.chunks(), index.chunks());
    let mut none = empty();
    let skipped = none.import(input, |_| false).expect("it was taken before");
    assert_eq!((none.chunks(), skipped.added), (0, 0));
}
