//! DFS nvme.
