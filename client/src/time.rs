//! RFC 3339 in UTC, the only spelling of time on the wire.

/// Nanoseconds of a second.
const SECOND_NS: u64 = 1_000_000_000;

/// Reads an RFC 3339 time in UTC (`2026-01-31T12:00:00.5Z`) into nanoseconds since the Unix epoch.
///
/// `None` if `text` is anything else, or outside what 64 bits of nanoseconds hold (the years 1970 to 2554).
#[must_use]
pub fn parse_rfc3339_utc_ns(text: &str) -> Option<u64> {
    let (seconds, rest) = text.split_at_checked(19)?;
    let bytes = seconds.as_bytes();
    let separators = [(4, b'-'), (7, b'-'), (10, b'T'), (13, b':'), (16, b':')];
    if separators.iter().any(|&(at, separator)| bytes[at] != separator) {
        return None;
    }
    let number = |from: usize, to: usize| -> Option<i64> { digits(seconds.get(from..to)?) };
    let (year, month, day) = (number(0, 4)?, number(5, 7)?, number(8, 10)?);
    let (hour, minute, second) = (number(11, 13)?, number(14, 16)?, number(17, 19)?);
    if !(1..=12).contains(&month) || day < 1 || day > days_of_month(year, month) {
        return None;
    }
    if hour > 23 || minute > 59 || second > 59 {
        return None;
    }
    let rest = rest.strip_suffix('Z').or_else(|| rest.strip_suffix("+00:00"))?;
    let fraction_ns = match rest.strip_prefix('.') {
        Some(fraction) if (1..=9).contains(&fraction.len()) => digits(&format!("{fraction:0<9}"))?,
        Some(_) => return None,
        None if rest.is_empty() => 0,
        None => return None,
    };
    let total_seconds = days_since_epoch(year, month, day) * 86_400 + hour * 3_600 + minute * 60 + second;
    let whole_ns = u64::try_from(total_seconds).ok()?.checked_mul(SECOND_NS)?;
    whole_ns.checked_add(u64::try_from(fraction_ns).ok()?)
}

/// Writes `unix_ns` for people: `2026-01-31 12:00:00Z`.
#[must_use]
pub fn format_seconds_utc(unix_ns: u64) -> String {
    let seconds = unix_ns / SECOND_NS;
    let (days, second_of_day) = (seconds / 86_400, seconds % 86_400);
    let (year, month, day) = date_of_day(days);
    let (hour, minute, second) = (second_of_day / 3_600, second_of_day / 60 % 60, second_of_day % 60);
    format!("{year:04}-{month:02}-{day:02} {hour:02}:{minute:02}:{second:02}Z")
}

/// Reads `text` if it consists of ASCII digits only.
fn digits(text: &str) -> Option<i64> {
    if text.is_empty() || !text.bytes().all(|b| b.is_ascii_digit()) {
        return None;
    }
    text.parse().ok()
}

/// Days of a month of the Gregorian calendar.
fn days_of_month(year: i64, month: i64) -> i64 {
    let leap = year % 4 == 0 && (year % 100 != 0 || year % 400 == 0);
    match month {
        4 | 6 | 9 | 11 => 30,
        2 => 28 + i64::from(leap),
        _ => 31,
    }
}

/// Days from 1970-01-01 to a date. Years are counted from March, so that a leap day is the last of its year.
fn days_since_epoch(year: i64, month: i64, day: i64) -> i64 {
    let march_year = year - i64::from(month <= 2);
    let (era, year_of_era) = (march_year.div_euclid(400), march_year.rem_euclid(400));
    let day_of_year = (153 * ((month + 9) % 12) + 2) / 5 + day - 1;
    era * 146_097 + year_of_era * 365 + year_of_era / 4 - year_of_era / 100 + day_of_year - 719_468
}

/// Undoes [`days_since_epoch`].
fn date_of_day(days: u64) -> (u64, u64, u64) {
    let shifted = days + 719_468;
    let (era, day_of_era) = (shifted / 146_097, shifted % 146_097);
    let year_of_era = (day_of_era - day_of_era / 1_460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let march_month = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * march_month + 2) / 5 + 1;
    let month = if march_month < 10 { march_month + 3 } else { march_month - 9 };
    (era * 400 + year_of_era + u64::from(month <= 2), month, day)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn known_times_are_read() {
        for (text, expected) in [
            ("1970-01-01T00:00:00Z", 0),
            ("2000-02-29T12:34:56Z", 951_827_696_000_000_000),
            ("2026-11-22T12:55:50.123456789Z", 1_795_352_150_123_456_789),
            ("1970-01-01T00:00:01.5+00:00", 1_500_000_000),
            ("2554-07-21T23:34:33.709551615Z", u64::MAX),
        ] {
            assert_eq!(parse_rfc3339_utc_ns(text), Some(expected), "{text}");
        }
    }

    #[test]
    fn anything_else_is_refused() {
        for text in [
            "",
            "1970-01-01",
            "1970-13-01T00:00:00Z",
            "1970-02-29T00:00:00Z",
            "1970-01-01T24:00:00Z",
            "1970-01-01T00:00:00",
            "1970-01-01T00:00:00+02:00",
            "1970-01-01T00:00:00.Z",
            "1970-01-01T00:00:00.1234567890Z",
            "+970-01-01T00:00:00Z",
            "2554-07-21T23:34:33.709551616Z",
            "1969-12-31T23:59:59.999Z",
            "ü970-01-01T00:00:00Z",
        ] {
            assert_eq!(parse_rfc3339_utc_ns(text), None, "{text}");
        }
    }

    proptest! {
        #[test]
        fn what_is_written_is_read_back(seconds in 0..18_000_000_000_u64) {
            let written = format_seconds_utc(seconds * 1_000_000_000).replace(' ', "T");
            prop_assert_eq!(parse_rfc3339_utc_ns(&written), Some(seconds * 1_000_000_000));
        }
    }
}
