//! DFS server.
