//! DFS node.
