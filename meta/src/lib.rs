//! DFS meta.
