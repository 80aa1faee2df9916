//! Dedup domains, the list of segments that recovery believes, and the checkpoint of the chunk index.

use proto::{Geometry, SegmentId};

use crate::command::{Command, MetaError, Response};
use crate::keys;
use crate::record::{DomainRecord, IndexCheckpoint, SegmentRecord, SegmentState};
use crate::txn::{KvTxn, load, store};

/// Registers a domain; the very same again changes nothing.
pub(super) fn create_domain(txn: &mut impl KvTxn, command: &Command) -> Result<Response, MetaError> {
    let &Command::CreateDomain { domain, chunker, ring_key, wrap_nonce, wrapped_key } = command else {
        unreachable!("invariant: the caller matched the command");
    };
    let record = DomainRecord { domain, chunker, ring_key, wrap_nonce, wrapped_key };
    match load::<DomainRecord>(txn, &keys::domain(domain)) {
        Some(found) if found != record => return Err(MetaError::AlreadyExists),
        Some(_) => {}
        None => store(txn, keys::domain(domain), &record),
    }
    Ok(Response::Domain)
}

/// Lists a segment.
pub(super) fn open_segment(txn: &mut impl KvTxn, command: &Command) -> Result<Response, MetaError> {
    let Command::OpenSegment { segment, members, k, m, stream, generation, now_ns } = command else {
        unreachable!("invariant: the caller matched the command");
    };
    if Geometry::new(*k, *m).is_none_or(|geometry| geometry.columns() != members.len()) {
        return Err(MetaError::InvalidGeometry);
    }
    let key = keys::segment(*segment);
    if txn.get(&key).is_some() {
        return Err(MetaError::AlreadyExists);
    }
    let record = SegmentRecord {
        segment: *segment,
        members: members.clone(),
        k: *k,
        m: *m,
        stream: *stream,
        opened_ns: *now_ns,
        generation: *generation,
        state: SegmentState::Open,
    };
    store(txn, key, &record);
    Ok(Response::Segment)
}

/// Notes that a segment takes no more rows.
pub(super) fn seal_segment(
    txn: &mut impl KvTxn,
    segment: SegmentId,
    footer_offsets: &[u64],
) -> Result<Response, MetaError> {
    let key = keys::segment(segment);
    let mut record: SegmentRecord = load(txn, &key).ok_or(MetaError::NoSuchSegment)?;
    if !footer_offsets.is_empty() && footer_offsets.len() != record.members.len() {
        return Err(MetaError::InvalidGeometry);
    }
    match &record.state {
        SegmentState::Open => {
            record.state = SegmentState::Sealed { footer_offsets: footer_offsets.to_vec() };
            store(txn, key, &record);
            Ok(Response::Segment)
        }
        SegmentState::Sealed { footer_offsets: sealed } if sealed == footer_offsets => Ok(Response::Segment),
        SegmentState::Sealed { .. } => Err(MetaError::InvalidGeometry),
        SegmentState::Freed => Err(MetaError::NoSuchSegment),
    }
}

/// Notes that nothing in a sealed segment is needed.
pub(super) fn free_segment(txn: &mut impl KvTxn, segment: SegmentId) -> Result<Response, MetaError> {
    let key = keys::segment(segment);
    let mut record: SegmentRecord = load(txn, &key).ok_or(MetaError::NoSuchSegment)?;
    match record.state {
        SegmentState::Open => return Err(MetaError::SegmentInUse),
        SegmentState::Sealed { .. } => {
            record.state = SegmentState::Freed;
            store(txn, key, &record);
        }
        SegmentState::Freed => {}
    }
    Ok(Response::Segment)
}

/// Takes a freed segment off the list.
pub(super) fn forget_segment(txn: &mut impl KvTxn, segment: SegmentId) -> Result<Response, MetaError> {
    let key = keys::segment(segment);
    let record: SegmentRecord = load(txn, &key).ok_or(MetaError::NoSuchSegment)?;
    if record.state != SegmentState::Freed {
        return Err(MetaError::SegmentInUse);
    }
    txn.delete(&key);
    Ok(Response::Segment)
}

/// Replaces the checkpoint of the chunk index.
pub(super) fn checkpoint_index(txn: &mut impl KvTxn, checkpoint: &IndexCheckpoint) -> Result<Response, MetaError> {
    store(txn, keys::INDEX_CHECKPOINT.to_vec(), checkpoint);
    Ok(Response::Checkpoint)
}
