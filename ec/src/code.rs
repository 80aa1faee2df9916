//! Encoding a row and rebuilding one of its columns.

use std::fmt;

use crate::gf::{inverse, mul, mul_add};
use crate::matrix::{COLUMNS_MAX, coefficient};

/// Bytes of a row that are worked on at a time, so that the sums stay in the first-level cache.
const STRIP_BYTES: usize = 8 << 10;

/// An erasure code of `k` data and `m` parity columns.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Code {
    k: usize,
    m: usize,
    /// Parity coefficients, `m` rows of `k`.
    coefficients: Vec<u8>,
}

/// Why a row was not encoded. All of them are mistakes of the caller; nothing was written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum EncodeError {
    /// Pass exactly `k` data columns (empty ones where there is no payload) and `m` parity columns.
    ColumnCount {
        /// Data and parity columns passed.
        have: (usize, usize),
        /// Data and parity columns of this code.
        need: (usize, usize),
    },
    /// Pass parity columns of the same length.
    ParityLengthsDiffer,
    /// Pass parity columns that are as long as the longest data column.
    ColumnTooLong {
        /// The data column.
        column: usize,
        /// Its bytes.
        bytes: usize,
        /// Bytes of the parity columns.
        row_bytes: usize,
    },
}

/// Why a column was not rebuilt.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ReconstructError {
    /// The row is lost unless more of its pieces turn up.
    TooFewPieces {
        /// Columns that are known.
        have: usize,
        /// Columns that are needed.
        need: usize,
    },
    /// A mistake of the caller: pass one entry for each of the `k + m` columns, and ask for one of them.
    ColumnCount {
        /// Entries passed.
        have: usize,
        /// Columns of this code.
        need: usize,
        /// The column asked for.
        wanted: usize,
    },
    /// This piece does not belong to the row: a data column has at most, a parity column exactly `row_bytes` bytes.
    /// Pass it as missing.
    PieceLength {
        /// The column.
        column: usize,
        /// Its bytes.
        bytes: usize,
        /// Bytes of the row.
        row_bytes: usize,
    },
}

impl Code {
    /// Returns the code of `k` data and `m` parity columns; `None` when `k` is 0 or `k + m` exceeds [`COLUMNS_MAX`].
    #[must_use]
    pub fn new(k: usize, m: usize) -> Option<Code> {
        if k == 0 || k.saturating_add(m) > COLUMNS_MAX {
            return None;
        }
        let coefficients = (0..m).flat_map(|parity| (0..k).map(move |data| coefficient(parity, data))).collect();
        Some(Code { k, m, coefficients })
    }

    /// Data columns.
    #[must_use]
    pub fn k(&self) -> usize {
        self.k
    }

    /// Parity columns.
    #[must_use]
    pub fn m(&self) -> usize {
        self.m
    }

    /// Computes the parity columns of one row, replacing what `parity` held.
    ///
    /// Shapes: k columns of up to `row_bytes` → m columns of exactly `row_bytes`; a short column counts as padded
    /// with zeros, an empty one as all zeros.
    /// Cost: k·m multiply-adds per byte, no allocation.
    ///
    /// # Errors
    /// [`EncodeError`] names what the shapes should have been; `parity` is then unchanged.
    pub fn encode(&self, columns: &[&[u8]], parity: &mut [&mut [u8]]) -> Result<(), EncodeError> {
        let (have, need) = ((columns.len(), parity.len()), (self.k, self.m));
        if have != need {
            return Err(EncodeError::ColumnCount { have, need });
        }
        let Some(row_bytes) = parity.first().map(|column| column.len()) else { return Ok(()) };
        if parity.iter().any(|column| column.len() != row_bytes) {
            return Err(EncodeError::ParityLengthsDiffer);
        }
        if let Some(column) = columns.iter().position(|column| column.len() > row_bytes) {
            return Err(EncodeError::ColumnTooLong { column, bytes: columns[column].len(), row_bytes });
        }
        for start in (0..row_bytes).step_by(STRIP_BYTES) {
            let end = row_bytes.min(start + STRIP_BYTES);
            for (column, coefficients) in parity.iter_mut().zip(self.coefficients.chunks_exact(self.k)) {
                let sum = &mut column[start..end];
                sum.fill(0);
                for (source, coefficient) in columns.iter().zip(coefficients) {
                    mul_add(*coefficient, clip(source, start, end), sum);
                }
            }
        }
        Ok(())
    }

    /// Rebuilds column `wanted` of one row.
    ///
    /// Shapes: `pieces` has all k + m columns, data first, `None` where one is missing. Data columns have up to
    /// `row_bytes` bytes (a column without payload is `Some(&[])`: it is known to be zeros), parity columns exactly
    /// `row_bytes`. Returns `row_bytes` bytes, the padding of a short column included. A column that is present is
    /// returned as it is.
    ///
    /// Columns are combined byte by byte: to rebuild a range, pass that range of every column as if it were the row.
    /// Cost: at most k multiply-adds per byte, one allocation.
    ///
    /// # Errors
    /// [`ReconstructError::TooFewPieces`] when fewer than k columns are known; the others are mistakes of the caller.
    pub fn reconstruct(
        &self,
        pieces: &[Option<&[u8]>],
        wanted: usize,
        row_bytes: usize,
    ) -> Result<Vec<u8>, ReconstructError> {
        self.check_shapes(pieces, wanted, row_bytes)?;
        let mut out = vec![0; row_bytes];
        if let Some(piece) = pieces[wanted] {
            out[..piece.len()].copy_from_slice(piece);
            return Ok(out);
        }
        let factors = self.factors(pieces, wanted)?;
        for start in (0..row_bytes).step_by(STRIP_BYTES) {
            let end = row_bytes.min(start + STRIP_BYTES);
            for (piece, factor) in pieces.iter().zip(factors) {
                mul_add(factor, clip(piece.unwrap_or_default(), start, end), &mut out[start..end]);
            }
        }
        Ok(out)
    }

    fn check_shapes(&self, pieces: &[Option<&[u8]>], wanted: usize, row_bytes: usize) -> Result<(), ReconstructError> {
        let need = self.k + self.m;
        if pieces.len() != need || wanted >= need {
            return Err(ReconstructError::ColumnCount { have: pieces.len(), need, wanted });
        }
        for (column, piece) in pieces.iter().enumerate() {
            let Some(piece) = piece else { continue };
            if piece.len() > row_bytes || column >= self.k && piece.len() != row_bytes {
                return Err(ReconstructError::PieceLength { column, bytes: piece.len(), row_bytes });
            }
        }
        Ok(())
    }

    /// Returns, for every column, the factor with which it enters the sum that is column `wanted`.
    ///
    /// Let t be `wanted` as a combination of the data columns. As many parities as data columns are missing stand in
    /// for them: their factors x solve Σ x_i·a(i, j) = t_j over the missing columns j, and a present data column j
    /// then enters with t_j + Σ x_i·a(i, j).
    fn factors(&self, pieces: &[Option<&[u8]>], wanted: usize) -> Result<[u8; COLUMNS_MAX], ReconstructError> {
        let (data, parities) = pieces.split_at(self.k);
        let missing: Vec<usize> = (0..self.k).filter(|column| data[*column].is_none()).collect();
        let standins: Vec<usize> =
            (0..self.m).filter(|parity| parities[*parity].is_some()).take(missing.len()).collect();
        if standins.len() < missing.len() {
            let have = self.k - missing.len() + standins.len();
            return Err(ReconstructError::TooFewPieces { have, need: self.k });
        }

        let mut factors = [0; COLUMNS_MAX];
        for (column, factor) in factors[..self.k].iter_mut().enumerate() {
            *factor =
                if wanted < self.k { u8::from(column == wanted) } else { self.coefficient(wanted - self.k, column) };
        }
        let equations = missing
            .iter()
            .map(|column| {
                let row = standins.iter().map(|parity| self.coefficient(*parity, *column));
                row.chain([factors[*column]]).collect()
            })
            .collect();
        for (parity, x) in standins.into_iter().zip(solve(equations)) {
            for (column, factor) in factors[..self.k].iter_mut().enumerate() {
                *factor ^= mul(x, self.coefficient(parity, column));
            }
            factors[self.k + parity] = x;
        }
        assert!(missing.iter().all(|column| factors[*column] == 0), "invariant: a missing column is not used");
        Ok(factors)
    }

    fn coefficient(&self, parity: usize, data: usize) -> u8 {
        self.coefficients[parity * self.k + data]
    }
}

/// The part of `column` that lies in `start..end`; empty where the column has ended.
fn clip(column: &[u8], start: usize, end: usize) -> &[u8] {
    &column[start.min(column.len())..end.min(column.len())]
}

/// Solves n linear equations in n unknowns by elimination: each row holds n coefficients and the right-hand side.
///
/// # Panics
/// If the equations are dependent, which those of a Cauchy matrix never are.
fn solve(mut rows: Vec<Vec<u8>>) -> Vec<u8> {
    for pivot in 0..rows.len() {
        let found = (pivot..rows.len())
            .find(|row| rows[*row][pivot] != 0)
            .expect("invariant: every square submatrix of a Cauchy matrix is invertible");
        rows.swap(pivot, found);
        let mut pivot_row = std::mem::take(&mut rows[pivot]);
        let scale = inverse(pivot_row[pivot]);
        pivot_row.iter_mut().for_each(|value| *value = mul(*value, scale));
        for row in rows.iter_mut().filter(|row| !row.is_empty()) {
            let factor = row[pivot];
            mul_add(factor, &pivot_row, row);
        }
        rows[pivot] = pivot_row;
    }
    rows.iter().map(|row| *row.last().expect("a row has a right-hand side")).collect()
}

impl fmt::Display for EncodeError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            EncodeError::ColumnCount { have, need } => {
                write!(f, "{}+{} columns were passed to a {}+{} code", have.0, have.1, need.0, need.1)
            }
            EncodeError::ParityLengthsDiffer => f.write_str("the parity columns differ in length"),
            EncodeError::ColumnTooLong { column, bytes, row_bytes } => {
                write!(f, "data column {column} has {bytes} bytes in a row of {row_bytes}")
            }
        }
    }
}

impl fmt::Display for ReconstructError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            ReconstructError::TooFewPieces { have, need } => {
                write!(f, "{have} columns of the row are known and {need} are needed")
            }
            ReconstructError::ColumnCount { have, need, wanted } => {
                write!(f, "column {wanted} was asked for among {have} columns of a code of {need}")
            }
            ReconstructError::PieceLength { column, bytes, row_bytes } => {
                write!(f, "column {column} has {bytes} bytes in a row of {row_bytes}")
            }
        }
    }
}

impl std::error::Error for EncodeError {}
impl std::error::Error for ReconstructError {}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::gf::testing::slow_mul;
    use proptest::prelude::*;

    /// A row, its geometry, and which columns are lost.
    #[derive(Clone, Debug)]
    struct Case {
        k: usize,
        m: usize,
        row_bytes: usize,
        columns: Vec<Vec<u8>>,
        lost: Vec<usize>,
    }

    /// Rows of every geometry with full, short and empty columns; `losses` chooses how many columns are lost.
    fn cases(losses: fn(usize, usize) -> std::ops::RangeInclusive<usize>) -> impl Strategy<Value = Case> {
        (1..=COLUMNS_MAX)
            .prop_flat_map(|k| {
                (Just(k), 0..=COLUMNS_MAX - k, prop_oneof![0usize..70, STRIP_BYTES - 1..STRIP_BYTES + 3])
            })
            .prop_flat_map(move |(k, m, row_bytes)| {
                let column = prop_oneof![
                    prop::collection::vec(any::<u8>(), row_bytes),
                    prop::collection::vec(any::<u8>(), 0..=row_bytes),
                    Just(Vec::new()),
                ];
                let order = Just((0..k + m).collect::<Vec<_>>()).prop_shuffle();
                (Just((k, m, row_bytes)), prop::collection::vec(column, k), order, losses(k, m))
            })
            .prop_map(|((k, m, row_bytes), columns, mut order, lost)| {
                order.truncate(lost);
                Case { k, m, row_bytes, columns, lost: order }
            })
    }

    /// All columns of the row at full length: the data padded, then the parities that `Code::encode` computed.
    fn encoded(case: &Case) -> Vec<Vec<u8>> {
        let code = Code::new(case.k, case.m).unwrap();
        let mut parity = vec![vec![0xee; case.row_bytes]; case.m];
        let columns: Vec<&[u8]> = case.columns.iter().map(Vec::as_slice).collect();
        code.encode(&columns, &mut parity.iter_mut().map(Vec::as_mut_slice).collect::<Vec<_>>()).unwrap();
        let padded = case.columns.iter().map(|column| {
            let mut column = column.clone();
            column.resize(case.row_bytes, 0);
            column
        });
        padded.chain(parity).collect()
    }

    /// What a reader has: columns as stored (data unpadded), the lost ones missing.
    fn survivors<'a>(case: &'a Case, whole: &'a [Vec<u8>]) -> Vec<Option<&'a [u8]>> {
        let stored = case.columns.iter().chain(&whole[case.k..]);
        stored.enumerate().map(|(index, piece)| (!case.lost.contains(&index)).then_some(piece.as_slice())).collect()
    }

    proptest! {
        #[test]
        fn parity_equals_the_schoolbook_sum(case in cases(|_, _| 0..=0)) {
            let whole = encoded(&case);
            let (data, parities) = whole.split_at(case.k);
            for (parity, column) in parities.iter().enumerate() {
                // The start of the row and the seam between two strips; the bytes between them are alike.
                for (at, byte) in column.iter().enumerate().filter(|(at, _)| *at < 70 || *at > STRIP_BYTES - 4) {
                    let products = data.iter().enumerate().map(|(j, source)| slow_mul(coefficient(parity, j), source[at]));
                    prop_assert_eq!(*byte, products.fold(0, |sum, product| sum ^ product));
                }
            }
        }

        #[test]
        fn any_m_losses_are_rebuilt(case in cases(|_, m| 0..=m)) {
            let whole = encoded(&case);
            let pieces = survivors(&case, &whole);
            let code = Code::new(case.k, case.m).unwrap();
            for (wanted, expected) in whole.iter().enumerate() {
                prop_assert_eq!(&code.reconstruct(&pieces, wanted, case.row_bytes).unwrap(), expected);
            }
        }

        #[test]
        fn fewer_than_k_columns_rebuild_nothing_that_is_lost(case in cases(|k, m| m + 1..=k + m)) {
            let whole = encoded(&case);
            let pieces = survivors(&case, &whole);
            let code = Code::new(case.k, case.m).unwrap();
            let have = case.k + case.m - case.lost.len();
            for wanted in &case.lost {
                let error = ReconstructError::TooFewPieces { have, need: case.k };
                prop_assert_eq!(code.reconstruct(&pieces, *wanted, case.row_bytes), Err(error));
            }
        }

        #[test]
        fn a_range_is_rebuilt_from_that_range_of_the_pieces(case in cases(|_, m| 0..=m), cut in any::<prop::sample::Index>()) {
            let whole = encoded(&case);
            let start = cut.index(case.row_bytes + 1);
            let pieces: Vec<_> = survivors(&case, &whole)
                .into_iter()
                .map(|piece| piece.map(|bytes| clip(bytes, start, case.row_bytes)))
                .collect();
            let code = Code::new(case.k, case.m).unwrap();
            for (wanted, expected) in whole.iter().enumerate() {
                let range = code.reconstruct(&pieces, wanted, case.row_bytes - start).unwrap();
                prop_assert_eq!(&range, &expected[start..]);
            }
        }
    }

    #[test]
    fn every_choice_of_survivors_of_six_plus_three_rebuilds_the_row() {
        let columns = (0u8..6).map(|seed| (0..40).map(|at| seed.wrapping_mul(97) ^ (at * 3)).collect()).collect();
        let mut case = Case { k: 6, m: 3, row_bytes: 40, columns, lost: vec![] };
        let whole = encoded(&case);
        let code = Code::new(6, 3).unwrap();
        for lost in (0u32..1 << 9).filter(|mask| mask.count_ones() == 3) {
            case.lost = (0..9).filter(|column| lost >> column & 1 == 1).collect();
            let pieces = survivors(&case, &whole);
            for (wanted, expected) in whole.iter().enumerate() {
                assert_eq!(&code.reconstruct(&pieces, wanted, 40).unwrap(), expected, "lost {:?}", case.lost);
            }
        }
    }

    #[test]
    fn encoding_is_frozen() {
        let code = Code::new(3, 2).unwrap();
        let (mut p, mut q) = ([0; 4], [0; 4]);
        code.encode(&[b"abcd", b"xy", b""], &mut [&mut p, &mut q]).unwrap();
        assert_eq!(p, [b'a' ^ b'x', b'b' ^ b'y', b'c', b'd']);
        assert_eq!(q, [0x47, 0xc6, b'c', b'd']);
    }

    #[test]
    fn impossible_geometries_are_refused() {
        for (k, m) in [(0, 0), (0, 3), (14, 3), (17, 0), (1, usize::MAX)] {
            assert_eq!(Code::new(k, m), None, "{k}+{m}");
        }
        assert!(Code::new(1, 0).is_some() && Code::new(16, 0).is_some() && Code::new(1, 15).is_some());
    }

    #[test]
    fn wrong_shapes_are_refused() {
        let code = Code::new(2, 1).unwrap();
        let encode = |columns: &[&[u8]], parity: &mut [&mut [u8]]| code.encode(columns, parity);
        assert_eq!(encode(&[b"ab"], &mut [&mut [0; 2]]), Err(EncodeError::ColumnCount { have: (1, 1), need: (2, 1) }));
        assert_eq!(
            encode(&[b"ab", b"abc"], &mut [&mut [0; 2]]),
            Err(EncodeError::ColumnTooLong { column: 1, bytes: 3, row_bytes: 2 })
        );
        assert_eq!(
            Code::new(1, 2).unwrap().encode(&[b"a"], &mut [&mut [0; 2], &mut [0; 1]]),
            Err(EncodeError::ParityLengthsDiffer)
        );
        let reconstruct = |pieces: &[Option<&[u8]>], wanted| code.reconstruct(pieces, wanted, 2);
        assert_eq!(
            reconstruct(&[None, Some(b"ab")], 0),
            Err(ReconstructError::ColumnCount { have: 2, need: 3, wanted: 0 })
        );
        assert_eq!(
            reconstruct(&[Some(b"a"), None, Some(b"ab")], 3),
            Err(ReconstructError::ColumnCount { have: 3, need: 3, wanted: 3 })
        );
        assert_eq!(
            reconstruct(&[None, Some(b"abc"), Some(b"ab")], 0),
            Err(ReconstructError::PieceLength { column: 1, bytes: 3, row_bytes: 2 })
        );
        assert_eq!(
            reconstruct(&[None, Some(b"a"), Some(b"a")], 0),
            Err(ReconstructError::PieceLength { column: 2, bytes: 1, row_bytes: 2 })
        );
    }
}
