//! A wall clock that jumps, for a process that knows nothing of it: libfaketime with a timestamp file.
//!
//! The monotonic clock stays true: it never jumps on a real machine either, and every timer of the server runs on it.

use std::path::{Path, PathBuf};
use std::time::SystemTime;

use crate::oracle::{Violation, violation};
use crate::sim::Random;

/// Where Debian and others have the library.
const LIBRARIES: [&str; 5] = [
    "/usr/lib/x86_64-linux-gnu/faketime/libfaketimeMT.so.1",
    "/usr/lib/aarch64-linux-gnu/faketime/libfaketimeMT.so.1",
    "/usr/lib64/faketime/libfaketimeMT.so.1",
    "/usr/lib/faketime/libfaketimeMT.so.1",
    "/usr/local/lib/faketime/libfaketimeMT.so.1",
];
/// Jumps, in either direction.
const JUMP_SECONDS_MAX: u64 = 400 * 86_400;
/// The least jump that is certainly not a slow machine.
const JUMP_SECONDS_MIN: u64 = 3600;

/// See the module.
#[derive(Debug)]
pub(super) struct Clock {
    library: PathBuf,
    file: PathBuf,
    /// How far the fake clock is ahead.
    offset_s: i64,
}

#[expect(clippy::disallowed_methods, reason = "a real server is compared with real time")]
fn unix_s() -> i64 {
    let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    since.as_secs().cast_signed()
}

impl Clock {
    /// A clock that is right so far, with its file in `directory`; `None` if the library is not there.
    pub(super) fn new(directory: &Path) -> Option<Clock> {
        let library = LIBRARIES.iter().map(PathBuf::from).find(|library| library.exists())?;
        Some(Clock { library, file: directory.join("clock"), offset_s: 0 })
    }

    /// What a process needs in its environment to go by this clock.
    pub(super) fn environment(&self) -> std::io::Result<Vec<(String, String)>> {
        self.write()?;
        let variables = [
            ("LD_PRELOAD", self.library.display().to_string()),
            ("FAKETIME_TIMESTAMP_FILE", self.file.display().to_string()),
            ("FAKETIME_CACHE_DURATION", "1".to_owned()),
            ("FAKETIME_DONT_FAKE_MONOTONIC", "1".to_owned()),
            ("NO_FAKE_STAT", "1".to_owned()),
        ];
        Ok(variables.map(|(name, value)| (name.to_owned(), value)).to_vec())
    }

    /// Writes the file anew, so that no reader finds half of it.
    fn write(&self) -> std::io::Result<()> {
        let temporary = self.file.with_extension("new");
        std::fs::write(&temporary, format!("{:+}\n", self.offset_s))?;
        std::fs::rename(&temporary, &self.file)
    }

    /// Jumps to anywhere within [`JUMP_SECONDS_MAX`] of the right time.
    pub(super) fn jump(&mut self, random: &mut Random) -> Result<(), Violation> {
        let before = self.offset_s;
        while self.offset_s.abs_diff(before) < JUMP_SECONDS_MIN {
            self.offset_s = random.between(0, 2 * JUMP_SECONDS_MAX).cast_signed() - JUMP_SECONDS_MAX.cast_signed();
        }
        self.write().map_err(|error| violation!("{} cannot be written: {error}", self.file.display()))
    }

    /// Whether a moment that a server noted just now, in nanoseconds since the epoch, is of this clock.
    pub(super) fn shows(&self, noted_ns: u64) -> bool {
        (noted_ns / 1_000_000_000).cast_signed().abs_diff(unix_s() + self.offset_s) < JUMP_SECONDS_MIN / 2
    }
}
