//! DFS client.
