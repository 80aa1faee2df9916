//! The targets, one file for each group of decoders.
//!
//! What every target asserts besides not panicking: what decodes encodes to the same bytes, and what encodes decodes to
//! the same value. A checksum stops nearly every change of what it covers, and a seal every one. So targets also decode
//! a copy of the input whose checksums were made right, or which they sealed themselves, to get at what lies behind.

mod api;
mod chunk;
mod client;
mod disk;
mod http;
mod index;
mod meta;
mod rpc;
mod shard;
mod store;

use crate::Target;

/// All targets.
#[must_use]
pub fn all() -> Vec<Target> {
    [
        disk::targets(),
        chunk::targets(),
        shard::targets(),
        index::targets(),
        meta::targets(),
        api::targets(),
        client::targets(),
        http::targets(),
        rpc::targets(),
        store::targets(),
    ]
    .concat()
}

/// The bytes of a golden file.
fn golden(hex: &str) -> Vec<u8> {
    let digits: Vec<u8> = hex.bytes().filter(u8::is_ascii_hexdigit).collect();
    let byte = |pair: &[u8]| u8::from_str_radix(str::from_utf8(pair).expect("digits"), 16).expect("two digits");
    digits.chunks(2).map(byte).collect()
}

/// Takes numbers and parts off the front of an input; an input that ends gives zeros and nothing.
struct Parts<'a>(&'a [u8]);

impl<'a> Parts<'a> {
    fn bytes(&mut self, count: usize) -> &'a [u8] {
        let (head, tail) = self.0.split_at(count.min(self.0.len()));
        self.0 = tail;
        head
    }

    fn number(&mut self, width: usize) -> u64 {
        let mut bytes = [0; 8];
        let taken = self.bytes(width);
        bytes[..taken.len()].copy_from_slice(taken);
        u64::from_le_bytes(bytes)
    }
}

/// Puts a length in front of `bytes`, as [`Parts`] reads it with `number(2)` and `bytes`.
fn counted(bytes: &[u8]) -> Vec<u8> {
    [&(bytes.len() as u16).to_le_bytes(), bytes].concat()
}
