//! Sizes and durations as people write them: `64KiB`, `1.5GiB`, `250ms`, `10s`, `2m`.

use std::time::Duration;

/// Units of sizes; decimal ones too, because disks are sold in them.
const SIZES: [(&str, u64); 11] = [
    ("", 1),
    ("B", 1),
    ("KiB", 1 << 10),
    ("MiB", 1 << 20),
    ("GiB", 1 << 30),
    ("TiB", 1 << 40),
    ("kB", 1_000),
    ("KB", 1_000),
    ("MB", 1_000_000),
    ("GB", 1_000_000_000),
    ("TB", 1_000_000_000_000),
];

const DURATIONS: [(&str, f64); 6] = [("us", 1e-6), ("ms", 1e-3), ("s", 1.0), ("m", 60.0), ("min", 60.0), ("h", 3600.0)];

/// Splits `64KiB` into 64 and `KiB`.
fn split(text: &str) -> Option<(f64, &str)> {
    let end = text.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(text.len());
    let number: f64 = text[..end].parse().ok()?;
    number.is_finite().then_some((number, text[end..].trim()))
}

/// Reads a number of bytes.
///
/// Errors: what to write instead.
pub(crate) fn bytes(text: &str) -> Result<u64, String> {
    let problem = || format!("{text:?} is not a size: write 4096, 64KiB, 1.5GiB or 100MB");
    let (number, unit) = split(text).ok_or_else(problem)?;
    let (_, unit_bytes) = SIZES.iter().find(|(name, _)| *name == unit).ok_or_else(problem)?;
    let bytes = number * *unit_bytes as f64;
    // 2^63 is exact as a float, so nothing above it passes.
    if bytes.fract() == 0.0 && bytes < (1_u64 << 63) as f64 { Ok(bytes as u64) } else { Err(problem()) }
}

/// Reads a duration longer than nothing.
///
/// Errors: what to write instead.
pub(crate) fn duration(text: &str) -> Result<Duration, String> {
    let problem = || format!("{text:?} is not a duration: write 250ms, 10s or 2m");
    let (number, unit) = split(text).ok_or_else(problem)?;
    let (_, unit_seconds) = DURATIONS.iter().find(|(name, _)| *name == unit).ok_or_else(problem)?;
    let duration = Duration::try_from_secs_f64(number * unit_seconds).map_err(|_| problem())?;
    if duration.is_zero() { Err(problem()) } else { Ok(duration) }
}

/// A size for people, with three digits: `512 B`, `1.50 KiB`, `10.0 GiB`.
pub(crate) fn human_bytes(bytes: u64) -> String {
    let mut value = bytes as f64;
    for unit in ["B", "KiB", "MiB", "GiB", "TiB"] {
        if value < 1000.0 || unit == "TiB" {
            return if unit == "B" { format!("{bytes} B") } else { format!("{} {unit}", three_digits(value)) };
        }
        value /= 1024.0;
    }
    unreachable!("invariant: the last unit takes everything")
}

/// A time for people: `850 ns`, `12.3 µs`, `4.56 ms`, `1.20 s`.
pub(crate) fn human_time(seconds: f64) -> String {
    let (value, unit) = match seconds {
        s if s < 1e-6 => (s * 1e9, "ns"),
        s if s < 1e-3 => (s * 1e6, "µs"),
        s if s < 1.0 => (s * 1e3, "ms"),
        s => (s, "s"),
    };
    format!("{} {unit}", three_digits(value))
}

fn three_digits(value: f64) -> String {
    match value {
        v if v < 9.995 => format!("{v:.2}"),
        v if v < 99.95 => format!("{v:.1}"),
        v => format!("{v:.0}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_and_durations_are_read_as_people_write_them() {
        for (text, expected) in [
            ("4096", 4096),
            ("64KiB", 65_536),
            ("64 KiB", 65_536),
            ("1.5GiB", 3 << 29),
            ("100MB", 100_000_000),
            ("0", 0),
        ] {
            assert_eq!(bytes(text), Ok(expected), "{text}");
        }
        for (text, ms) in [("250ms", 250), ("10s", 10_000), ("2m", 120_000), ("0.5s", 500)] {
            assert_eq!(duration(text), Ok(Duration::from_millis(ms)), "{text}");
        }
    }

    #[test]
    fn what_means_nothing_is_refused() {
        for text in ["", "KiB", "64Kib", "-1", "1e3", "1.0001", "99999999TiB", "1..2", "inf"] {
            assert!(bytes(text).is_err(), "{text}");
        }
        for text in ["", "10", "0s", "-1s", "5 parsecs", "99999999999999999999h"] {
            assert!(duration(text).is_err(), "{text}");
        }
    }

    #[test]
    fn people_get_three_digits_and_a_unit() {
        let sizes = [0, 999, 1000, 1536, 10 << 30, 5 << 50].map(human_bytes);
        assert_eq!(sizes, ["0 B", "999 B", "0.98 KiB", "1.50 KiB", "10.0 GiB", "5120 TiB"]);
        let times = [850e-9, 12.34e-6, 4.564e-3, 1.2, 250.0].map(human_time);
        assert_eq!(times, ["850 ns", "12.3 µs", "4.56 ms", "1.20 s", "250 s"]);
    }
}
