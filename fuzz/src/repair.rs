//! Checksums made right, so that a change gets past them.

use proto::checksum::checksum;
use proto::disk::{
    FixedHeader, FooterHeader, HEADER_BYTES, PieceHeader, SegmentHeader, SnapshotFrame, SnapshotHeader, Superblock,
    WalBatchHeader, WalHeader,
};
use proto::limits::{PAYLOAD_CHECKSUM_BYTES, SECTOR_BYTES};

/// The header at the start of `bytes`, padded with zeros, with its common fields and its checksum made right.
pub(crate) fn header<H: FixedHeader>(bytes: &[u8], amend: impl FnOnce(&mut H)) -> H {
    let mut whole = [0; HEADER_BYTES];
    let have = bytes.len().min(HEADER_BYTES);
    whole[..have].copy_from_slice(&bytes[..have]);
    let mut header = H::read_from_bytes(&whole).expect("any 512 bytes are a header");
    amend(&mut header);
    header.finish();
    header
}

/// Makes the checksums of a piece right: of its parts, of its payload, of what stands before it, and of its header.
pub(crate) fn piece(bytes: &mut [u8]) {
    let mut fixed = header::<PieceHeader>(bytes, |_| ());
    let head = fixed.head_bytes.get() as usize;
    let column = usize::from(fixed.column);
    let Some(payload) = fixed.columns.get(column).map(|column| column.payload_bytes.get() as usize) else { return };
    let parts_end = HEADER_BYTES + payload.div_ceil(PAYLOAD_CHECKSUM_BYTES) * 8;
    if parts_end <= head && bytes.len() >= head + payload {
        let (before, payload) = bytes.split_at_mut(head);
        let payload = &payload[..fixed.columns[column].payload_bytes.get() as usize];
        for (part, sum) in payload.chunks(PAYLOAD_CHECKSUM_BYTES).zip(before[HEADER_BYTES..].chunks_mut(8)) {
            sum.copy_from_slice(&checksum(part).to_le_bytes());
        }
        fixed.columns[column].payload_checksum = checksum(payload).into();
        fixed.body_checksum = checksum(&before[HEADER_BYTES..]).into();
    }
    fixed.row_digest = fixed.digest().into();
    put(&mut fixed, bytes);
}

/// Makes the checksums of every structure in a file right, wherever a sector begins like one.
pub(crate) fn file(bytes: &mut [u8]) {
    // Each batch of a log repeats the checksum of what came before.
    let mut previous = 0;
    for at in (0..bytes.len()).step_by(SECTOR_BYTES) {
        let rest = &mut bytes[at..];
        let Some(&magic) = rest.first_chunk::<8>() else { return };
        match magic {
            Superblock::MAGIC => put(&mut header::<Superblock>(rest, |_| ()), rest),
            SegmentHeader::MAGIC => put(&mut header::<SegmentHeader>(rest, |_| ()), rest),
            PieceHeader::MAGIC => piece(rest),
            FooterHeader::MAGIC => {
                let fix = |header: &mut FooterHeader| {
                    let sum = body_checksum(rest, header.body_bytes.get());
                    header.body_checksum = sum.unwrap_or(header.body_checksum.get()).into();
                };
                put(&mut header::<FooterHeader>(rest, fix), rest);
            }
            WalHeader::MAGIC => put(&mut header::<WalHeader>(rest, |_| ()), rest),
            WalBatchHeader::MAGIC => {
                let fix = |header: &mut WalBatchHeader| {
                    let sum = body_checksum(rest, header.body_bytes.get().into());
                    header.body_checksum = sum.unwrap_or(header.body_checksum.get()).into();
                    header.previous_checksum = previous.into();
                };
                put(&mut header::<WalBatchHeader>(rest, fix), rest);
            }
            SnapshotHeader::MAGIC => put(&mut header::<SnapshotHeader>(rest, |_| ()), rest),
            SnapshotFrame::MAGIC => {
                let fix = |header: &mut SnapshotFrame| {
                    let sum = body_checksum(rest, header.body_bytes.get().into());
                    header.body_checksum = sum.unwrap_or(header.body_checksum.get()).into();
                };
                put(&mut header::<SnapshotFrame>(rest, fix), rest);
            }
            _ => continue,
        }
        if [WalHeader::MAGIC, WalBatchHeader::MAGIC].contains(&magic)
            && let Some(sum) = bytes[at..].get(HEADER_BYTES - 8..HEADER_BYTES)
        {
            previous = u64::from_le_bytes(sum.try_into().expect("eight bytes"));
        }
    }
}

/// The checksum of a body that follows its header.
fn body_checksum(bytes: &[u8], body_bytes: u64) -> Option<u64> {
    let end = HEADER_BYTES.checked_add(usize::try_from(body_bytes).ok()?)?;
    bytes.get(HEADER_BYTES..end).map(checksum)
}

/// Finishes a header and puts it at the start of `bytes`, if it is all there.
fn put<H: FixedHeader>(header: &mut H, bytes: &mut [u8]) {
    header.finish();
    if let Some(place) = bytes.get_mut(..HEADER_BYTES) {
        place.copy_from_slice(header.as_bytes());
    }
}
