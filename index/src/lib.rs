//! DFS index.
