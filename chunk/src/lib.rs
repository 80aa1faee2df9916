//! DFS chunk.
