//! Words and numbers for people; JSON for programs.

use std::io::Write;

use serde::Serialize;

use crate::failure::Failure;

/// Where results go.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Output {
    /// One JSON document instead of words.
    pub(crate) json: bool,
    /// Errors only.
    pub(crate) quiet: bool,
}

impl Output {
    /// Prints the result of a command: `words` for people, `value` for programs.
    pub(crate) fn result(self, value: &impl Serialize, words: impl FnOnce() -> String) -> Result<(), Failure> {
        if self.json {
            let mut text = serde_json::to_string(value).expect("invariant: results are plain data");
            text.push('\n');
            self.raw(text.as_bytes())
        } else if self.quiet {
            Ok(())
        } else {
            self.line(&words())
        }
    }

    /// Prints lines that were asked for, also when quiet.
    pub(crate) fn line(self, text: &str) -> Result<(), Failure> {
        self.raw(format!("{text}\n").as_bytes())
    }

    /// Writes `bytes` to stdout.
    pub(crate) fn raw(self, bytes: &[u8]) -> Result<(), Failure> {
        let mut stdout = std::io::stdout().lock();
        stdout.write_all(bytes).and_then(|()| stdout.flush()).map_err(Failure::Output)
    }
}

/// `text` without anything that a terminal would obey.
pub(crate) fn printable(text: &str) -> String {
    let mut safe = String::with_capacity(text.len());
    for c in text.chars() {
        if c.is_control() && c != '\n' { safe.extend(c.escape_default()) } else { safe.push(c) }
    }
    safe
}

/// A byte count in IEC units with three or four significant digits: `512 B`, `1.5 KiB`, `10.0 GiB`.
pub(crate) fn human_bytes(bytes: u64) -> String {
    const UNITS: [&str; 6] = ["KiB", "MiB", "GiB", "TiB", "PiB", "EiB"];
    if bytes < 1024 {
        return format!("{bytes} B");
    }
    // Tenths, rounded, so that 1023.96 KiB becomes 1.0 MiB and not 1024.0 KiB.
    let mut unit_bytes = 1024_u128;
    for unit in UNITS {
        let tenths = (u128::from(bytes) * 10 + unit_bytes / 2) / unit_bytes;
        if tenths < 10_240 || unit == UNITS[UNITS.len() - 1] {
            return format!("{}.{} {unit}", tenths / 10, tenths % 10);
        }
        unit_bytes *= 1024;
    }
    unreachable!("the last unit always fits")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_in_iec_units() {
        for (bytes, text) in [
            (0, "0 B"),
            (1023, "1023 B"),
            (1024, "1.0 KiB"),
            (1536, "1.5 KiB"),
            ((1 << 20) - 1, "1.0 MiB"),
            (10 << 30, "10.0 GiB"),
            (u64::MAX, "16.0 EiB"),
        ] {
            assert_eq!(human_bytes(bytes), text);
        }
    }

    #[test]
    fn terminal_commands_in_names_are_disarmed() {
        assert_eq!(printable("a\x1b[2Jb\rü\n"), "a\\u{1b}[2Jb\\rü\n");
    }
}
