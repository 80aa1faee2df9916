//! The erasure-code geometry of rows: `k` data columns and `m` parity columns.

use crate::limits::ROW_COLUMNS_MAX;

/// `k` data columns and `m` parity columns; `k + m` is at most [`ROW_COLUMNS_MAX`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Geometry {
    k: u8,
    m: u8,
}

impl Geometry {
    /// One disk, no redundancy: the open policy of a single-disk node.
    pub const SINGLE: Geometry = Geometry { k: 1, m: 0 };
    /// The geometry of a full cluster: nine failure domains, any three may be lost.
    pub const WIDE: Geometry = Geometry { k: 6, m: 3 };

    /// Returns the geometry, or `None` when `k` is zero or the row would be wider than [`ROW_COLUMNS_MAX`].
    #[must_use]
    pub const fn new(k: u8, m: u8) -> Option<Geometry> {
        if k == 0 || k as usize + m as usize > ROW_COLUMNS_MAX { None } else { Some(Geometry { k, m }) }
    }

    /// Data columns.
    #[must_use]
    pub const fn k(self) -> usize {
        self.k as usize
    }

    /// Parity columns.
    #[must_use]
    pub const fn m(self) -> usize {
        self.m as usize
    }

    /// All columns, data first.
    #[must_use]
    pub const fn columns(self) -> usize {
        self.k() + self.m()
    }
}

impl std::fmt::Display for Geometry {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}+{}", self.k, self.m)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn impossible_geometries_are_refused() {
        assert_eq!(Geometry::new(0, 3), None);
        assert_eq!(Geometry::new(14, 3), None);
        assert_eq!(Geometry::new(6, 3), Some(Geometry::WIDE));
        assert_eq!(Geometry::WIDE.to_string(), "6+3");
    }
}
