//! DFS net.
