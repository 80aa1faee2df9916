//! DFS shard.
