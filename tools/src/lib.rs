//! DFS tools.
