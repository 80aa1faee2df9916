//! The ordered key-value store that the state machine runs over.
//!
//! Solo and Raft bring their own; the state machine cannot tell. What it reads there it wrote itself, or a loader
//! checked it before, so a value that does not decode is a broken invariant and not an error to handle.

use rkyv::Deserialize;
use rkyv::api::high::{HighDeserializer, HighSerializer, HighValidator};
use rkyv::bytecheck::CheckBytes;
use rkyv::rancor::Error;
use rkyv::ser::allocator::ArenaHandle;

use crate::codec::{self, Stored};
use crate::keys::KeyRange;

/// An ordered store of byte keys and values, as one command sees it: its own writes included.
pub trait KvTxn {
    /// The value of `key`.
    fn get(&self, key: &[u8]) -> Option<&[u8]>;
    /// Sets the value of `key`.
    fn put(&mut self, key: Vec<u8>, value: Vec<u8>);
    /// Removes `key`, if it is there.
    fn delete(&mut self, key: &[u8]);
    /// Pairs of `range`, ascending by key. Keys are copies: a store need not hold them in one piece.
    fn range(&self, range: &KeyRange) -> impl Iterator<Item = (Vec<u8>, &[u8])>;
}

/// Returns the record of `key`.
pub(crate) fn load<T>(txn: &impl KvTxn, key: &[u8]) -> Option<T>
where
    T: Stored<Archived: for<'a> CheckBytes<HighValidator<'a, Error>> + Deserialize<T, HighDeserializer<Error>>>,
{
    txn.get(key).map(own)
}

/// Decodes a value of the state.
pub(crate) fn own<T>(value: &[u8]) -> T
where
    T: Stored<Archived: for<'a> CheckBytes<HighValidator<'a, Error>> + Deserialize<T, HighDeserializer<Error>>>,
{
    match codec::decode(value) {
        Ok(record) => record,
        Err(error) => panic!("invariant: values of the state were encoded or checked by this software: {error}"),
    }
}

/// Sets the record of `key`.
pub(crate) fn store<T>(txn: &mut impl KvTxn, key: Vec<u8>, record: &T)
where
    T: Stored + for<'a> rkyv::Serialize<HighSerializer<Vec<u8>, ArenaHandle<'a>, Error>>,
{
    txn.put(key, codec::encode(record));
}
