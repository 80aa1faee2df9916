//! Erasure coding of rows: `k` data columns, `m` parity columns, and any `k` of them rebuild the rest.
//!
//! This crate computes and does nothing else: no I/O, no formats, no dependency. Read it in this order:
//!
//! * `gf`: arithmetic in GF(2^8).
//! * `matrix`: the frozen parity coefficients. They are part of the on-disk format and never change.
//! * [`Code`]: encoding a row and rebuilding one of its columns.
//!
//! ```text
//!   data 0   data 1   data 2            parity 0 = a00·data 0 + a01·data 1 + a02·data 2
//!   xxxxxxx  xxxx000  0000000           parity 1 = a10·data 0 + a11·data 1 + a12·data 2
//!   `------ row_bytes                   every parity column has row_bytes bytes
//! ```
//!
//! A short column counts as padded with zeros up to `row_bytes`; the zeros are never stored. A column without payload
//! is a column of zeros, hence known without reading anything: with `w` populated columns any `w` pieces of the row
//! suffice.

mod code;
mod gf;
mod matrix;

pub use code::{Code, EncodeError, ReconstructError};
pub use matrix::{COLUMNS_MAX, coefficient};
