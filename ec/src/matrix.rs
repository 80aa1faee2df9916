//! The frozen parity coefficients (`docs/FORMATS.md` §geometry, geometry code 1).
//!
//! ```text
//!   c(i, j) = 1 / ((16 + i) xor j)                                    a Cauchy matrix over GF(2^8), 0x11D
//!   a(i, j) = c(i, j) · c(0, 0) / (c(i, 0) · c(0, j))                 the same, scaled by rows and columns
//! ```
//!
//! * Neither `k` nor `m` occurs: the matrix of a narrower geometry is the upper left corner of a wider one.
//! * Every square submatrix of a Cauchy matrix is invertible, and scaling rows and columns by non-zero factors keeps
//!   that: any `k` of the `k + m` columns determine the others.
//! * Scaling makes row 0 and column 0 all ones. So the first parity column is the plain XOR of the data, which makes
//!   the common repair of a single loss an XOR as well, and every parity of a 1+m row is a plain copy of its data.

use crate::gf::{inverse, mul};

/// Data plus parity columns of the widest geometry.
pub const COLUMNS_MAX: usize = 16;

/// The factor of data column `data` in parity column `parity`, both counted from 0.
///
/// # Panics
/// If `parity` or `data` is not below [`COLUMNS_MAX`].
#[must_use]
pub const fn coefficient(parity: usize, data: usize) -> u8 {
    assert!(parity < COLUMNS_MAX && data < COLUMNS_MAX, "invariant: the matrix is 16 columns wide");
    mul(mul(cauchy(parity, data), cauchy(0, 0)), inverse(mul(cauchy(parity, 0), cauchy(0, data))))
}

const fn cauchy(parity: usize, data: usize) -> u8 {
    inverse((COLUMNS_MAX + parity) as u8 ^ data as u8)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::gf::testing::slow_mul;

    #[test]
    fn six_plus_three_is_frozen() {
        let row = |parity| [0, 1, 2, 3, 4, 5].map(|data| coefficient(parity, data));
        assert_eq!(row(0), [1, 1, 1, 1, 1, 1]);
        assert_eq!(row(1), [1, 130, 10, 21, 128, 55]);
        assert_eq!(row(2), [1, 10, 55, 218, 39, 247]);
    }

    #[test]
    fn every_coefficient_satisfies_the_documented_formula() {
        let point = |parity: usize, data: usize| (16 + parity as u8) ^ data as u8;
        for parity in 0..COLUMNS_MAX {
            for data in 0..COLUMNS_MAX {
                // a(i,j) = (x_i + y_0)(x_0 + y_j) / ((x_i + y_j)(x_0 + y_0)), multiplied out.
                let left = slow_mul(coefficient(parity, data), slow_mul(point(parity, data), point(0, 0)));
                assert_eq!(left, slow_mul(point(parity, 0), point(0, data)), "a({parity},{data})");
            }
        }
    }

    #[test]
    fn first_parity_is_xor_and_single_data_is_mirrored() {
        for index in 0..COLUMNS_MAX {
            assert_eq!((coefficient(0, index), coefficient(index, 0)), (1, 1));
        }
    }
}
