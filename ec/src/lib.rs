//! DFS ec.
