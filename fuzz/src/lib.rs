//! Hostile bytes for every decoder, and for the connections of the server and the client.
//!
//! A [`Target`] is a plain function of bytes. Two drivers run the same ones:
//!
//! * the harness here: a corpus of what our own encoders write, and seeded changes of it. `tests/targets.rs` runs a fixed
//!   number of cases of each target in every test run; the program of this crate runs as many as you like.
//! * libFuzzer (`fuzz/libfuzzer`), guided by coverage, for hours.
//!
//! A reading guide: `targets/` (what is decoded and what must hold), [`harness`] (what a failure is, and how it is kept),
//! [`mutate`] (where inputs come from), [`allocation`] (what a target allocates), `repair` (checksums made right).
//!
//! Rules for every target, on any input: it does not panic or abort; it ends; it allocates no more than [`Memory`] says;
//! what decodes encodes to the same bytes. `tests/decoders.rs` fails when a decoder has no target.

pub mod allocation;
pub mod harness;
pub mod mutate;
mod repair;
pub mod targets;

/// What a target may allocate, at the same time.
#[derive(Clone, Copy, Debug)]
pub struct Memory {
    /// Whatever the input.
    pub fixed_bytes: usize,
    /// And for each byte of the input.
    pub per_byte: usize,
}

impl Memory {
    /// What an input of `input_bytes` may cost.
    #[must_use]
    pub fn bytes_max(self, input_bytes: usize) -> usize {
        self.fixed_bytes + self.per_byte * input_bytes
    }
}

/// A decoder under hostile bytes.
#[derive(Clone, Copy, Debug)]
pub struct Target {
    /// Name on the command line.
    pub name: &'static str,
    /// Decodes an input; panics if anything is wrong.
    pub run: fn(&[u8]),
    /// Valid inputs, to start from.
    pub corpus: fn() -> Vec<Vec<u8>>,
    /// What it may allocate.
    pub memory: Memory,
    /// Longest input that is drawn.
    pub input_bytes_max: usize,
    /// Cases in a test run: what a second is enough for in a debug build.
    pub cases: u64,
}

/// The target of a name.
#[must_use]
pub fn target(name: &str) -> Option<Target> {
    targets::all().into_iter().find(|target| target.name == name)
}
