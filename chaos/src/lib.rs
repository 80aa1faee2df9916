//! DFS chaos.
