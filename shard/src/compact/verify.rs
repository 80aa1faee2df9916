//! A row, read back from its devices before anybody relies on it.

use std::io::{Error, ErrorKind};
use std::sync::Arc;

use proto::disk::SEAL_TAG_BYTES;
use proto::limits::SECTOR_BYTES;
use proto::port::{Disk, runtime};

use crate::error::{ReadError, StoreError};
use crate::row::{PiecePlace, SealedRow, open_table, piece_bytes, verify_piece};
use crate::segment::{HomeSegment, SegmentLog};
use crate::store::Inner;

/// Reads all pieces of a durable row and checks everything in them: headers, checksums, the table, and the seals of all
/// blocks.
///
/// Returns the bytes read.
/// Errors: [`StoreError::Device`]; the row may not be relied on, and its segment should take no more rows.
pub(super) async fn verify_row<D: Disk, L: SegmentLog>(
    inner: &Inner<D, L>,
    home: &HomeSegment,
    row: &SealedRow,
) -> Result<u64, StoreError> {
    let mut read_bytes = 0;
    let mut digest = None;
    for piece in &row.place.pieces {
        let (bytes, found) = read_back(inner, home, row, piece).await?;
        read_bytes += bytes;
        if found.is_none() || *digest.get_or_insert(found) != found {
            return Err(different(home, piece));
        }
        runtime::yield_now().await;
    }
    Ok(read_bytes)
}

/// Reads one piece; returns the bytes read and the row digest in its header, `None` if anything in it is not as it was
/// written.
async fn read_back<D: Disk, L: SegmentLog>(
    inner: &Inner<D, L>,
    home: &HomeSegment,
    row: &SealedRow,
    piece: &PiecePlace,
) -> Result<(u64, Option<u128>), StoreError> {
    let segment = &home.segment;
    let offset = u64::from(piece.offset_sectors) * SECTOR_BYTES as u64;
    let bytes = piece_bytes(piece.payload_bytes as usize, row.table.encoded_bytes() + SEAL_TAG_BYTES);
    let read = inner.read_piece(segment, piece.column, offset, bytes).await;
    let mut buf = read.map_err(|error| match error {
        ReadError::Device { device, segment, source } => StoreError::Device { device, segment, source },
        ReadError::Stale(_) | ReadError::Corrupt { .. } => different(home, piece),
    })?;
    let checked = || {
        let verified = verify_piece(&buf)?;
        let header = verified.header;
        let is_ours = header.tag == segment.tag && header.row.get() == row.place.row.0 && header.column == piece.column;
        if let Some(sealed) = verified.sealed_table {
            let table = open_table(&*segment.cipher, segment.tag, row.place.row, segment.geometry, sealed)?;
            (table == row.table).then_some(())?;
        }
        is_ours.then_some(header.row_digest.get())
    };
    let digest = checked();
    for block in row.table.blocks.iter().filter(|block| block.column == piece.column) {
        let start = (u64::from(block.offset) - offset) as usize;
        let opened = buf.get_mut(start..).and_then(|bytes| chunk::open_block(&*segment.cipher, bytes).ok());
        if opened.is_none_or(|opened| opened.entry != block.entry) {
            return Ok((bytes as u64, None));
        }
    }
    Ok((bytes as u64, digest))
}

fn different(home: &HomeSegment, piece: &PiecePlace) -> StoreError {
    let device = home.segment.members[usize::from(piece.column)];
    let source = Arc::new(Error::new(ErrorKind::InvalidData, "a row reads back differently from what was written"));
    StoreError::Device { device, segment: home.segment.id, source }
}
