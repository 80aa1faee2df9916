//! DFS bench.
