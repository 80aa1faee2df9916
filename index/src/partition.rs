//! One virtual shard's part of the index: an open-addressing table of entries.

use hashbrown::HashTable;
use proto::ChunkId;

use crate::entry::Entry;

/// See the module.
#[derive(Debug, Default)]
pub(crate) struct Partition {
    table: HashTable<Entry>,
}

impl Partition {
    pub(crate) fn get(&self, id: &ChunkId) -> Option<&Entry> {
        self.table.find(Entry::hash_of(id), |entry| entry.matches_id(id))
    }

    pub(crate) fn insert(&mut self, entry: Entry) {
        match self.table.find_mut(entry.hash(), |known| known.matches(&entry)) {
            Some(known) => *known = entry,
            None => {
                self.table.insert_unique(entry.hash(), entry, Entry::hash);
            }
        }
    }

    pub(crate) fn remove(&mut self, id: &ChunkId) -> bool {
        match self.table.find_entry(Entry::hash_of(id), |entry| entry.matches_id(id)) {
            Ok(found) => {
                found.remove();
                true
            }
            Err(_) => false,
        }
    }

    pub(crate) fn len(&self) -> usize {
        self.table.len()
    }

    pub(crate) fn memory_bytes(&self) -> usize {
        self.table.allocation_size()
    }
}
