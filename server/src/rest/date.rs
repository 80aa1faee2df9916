//! Times as text: RFC 3339 for JSON, and the dates of HTTP headers. Always UTC.

const NS_PER_SECOND: u64 = 1_000_000_000;
const SECONDS_PER_DAY: u64 = 86_400;
const WEEKDAYS: [&str; 7] = ["Sun", "Mon", "Tue", "Wed", "Thu", "Fri", "Sat"];
const MONTHS: [&str; 12] = ["Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec"];

/// A moment, taken apart on the Gregorian calendar.
struct Civil {
    year: u64,
    /// 1 to 12.
    month: u64,
    /// 1 to 31.
    day: u64,
    hour: u64,
    minute: u64,
    second: u64,
    nanosecond: u64,
    /// 0 is Sunday.
    weekday: u64,
}

/// Takes nanoseconds since the Unix epoch apart.
///
/// Years are counted from March and in eras of 400, so that a leap day is the last of its year.
fn civil(unix_ns: u64) -> Civil {
    let (seconds, nanosecond) = (unix_ns / NS_PER_SECOND, unix_ns % NS_PER_SECOND);
    let (days, second_of_day) = (seconds / SECONDS_PER_DAY, seconds % SECONDS_PER_DAY);
    let shifted = days + 719_468;
    let (era, day_of_era) = (shifted / 146_097, shifted % 146_097);
    let year_of_era = (day_of_era - day_of_era / 1_460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let march_month = (5 * day_of_year + 2) / 153;
    let month = if march_month < 10 { march_month + 3 } else { march_month - 9 };
    Civil {
        year: era * 400 + year_of_era + u64::from(month <= 2),
        month,
        day: day_of_year - (153 * march_month + 2) / 5 + 1,
        hour: second_of_day / 3_600,
        minute: second_of_day / 60 % 60,
        second: second_of_day % 60,
        nanosecond,
        weekday: (days + 4) % 7,
    }
}

/// Whole seconds since the Unix epoch.
pub(crate) fn unix_seconds(unix_ns: u64) -> u64 {
    unix_ns / NS_PER_SECOND
}

/// `2026-01-31T12:00:00.000000000Z`: always nine digits, so that equal lengths sort as times do.
pub(crate) fn rfc3339(unix_ns: u64) -> String {
    let Civil { year, month, day, hour, minute, second, nanosecond, .. } = civil(unix_ns);
    format!("{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}.{nanosecond:09}Z")
}

/// `Sat, 31 Jan 2026 12:00:00 GMT`, as `Last-Modified` spells it.
pub(crate) fn http_date(unix_ns: u64) -> String {
    let Civil { year, month, day, hour, minute, second, weekday, .. } = civil(unix_ns);
    let (weekday, month) = (WEEKDAYS[weekday as usize], MONTHS[month as usize - 1]);
    format!("{weekday}, {day:02} {month} {year:04} {hour:02}:{minute:02}:{second:02} GMT")
}

/// Reads a date of a header in any of the three forms of RFC 9110, section 5.6.7, in seconds since the Unix epoch.
/// `None` for anything else, and for dates before 1970.
///
/// ```text
///   Sun, 06 Nov 1994 08:49:37 GMT     Sunday, 06-Nov-94 08:49:37 GMT     Sun Nov  6 08:49:37 1994
/// ```
pub(crate) fn parse_http_date(text: &str) -> Option<u64> {
    let text = text.trim();
    if let Some((_weekday, rest)) = text.split_once(", ") {
        let rest = rest.strip_suffix(" GMT")?;
        if let Some((date, time)) = rest.split_once(' ').filter(|(date, _)| date.contains('-')) {
            let mut parts = date.split('-');
            let (day, month, year) = (digits(parts.next()?, 2)?, month(parts.next()?)?, digits(parts.next()?, 2)?);
            // Two digits mean a year of the fifty before the turn of the century, or of the fifty after.
            let year = if year < 70 { 2000 + year } else { 1900 + year };
            return if parts.next().is_none() { seconds(year, month, day, time) } else { None };
        }
        let mut parts = rest.splitn(4, ' ');
        let (day, month) = (digits(parts.next()?, 2)?, month(parts.next()?)?);
        let year = digits(parts.next()?, 4)?;
        return seconds(year, month, day, parts.next()?);
    }
    let mut parts = text.split_ascii_whitespace();
    let (_weekday, month, day) = (parts.next()?, month(parts.next()?)?, parts.next()?);
    let day = digits(day, day.len().clamp(1, 2))?;
    let (time, year) = (parts.next()?, digits(parts.next()?, 4)?);
    if parts.next().is_none() { seconds(year, month, day, time) } else { None }
}

/// Reads exactly `count` digits.
fn digits(text: &str, count: usize) -> Option<u64> {
    (text.len() == count && text.bytes().all(|byte| byte.is_ascii_digit())).then(|| text.parse().ok())?
}

/// 1 to 12.
fn month(text: &str) -> Option<u64> {
    MONTHS.iter().position(|month| *month == text).map(|at| at as u64 + 1)
}

/// The inverse of [`civil`], for years from 1970 on; `time` is `08:49:37`, or a leap second.
fn seconds(year: u64, month: u64, day: u64, time: &str) -> Option<u64> {
    let mut parts = time.split(':').map(|part| digits(part, 2));
    let (hour, minute, second) = (parts.next()??, parts.next()??, parts.next()??);
    let legal = year >= 1970 && (1..=31).contains(&day) && hour < 24 && minute < 60 && second <= 60;
    if !legal || parts.next().is_some() {
        return None;
    }
    let (march_year, march_month) = if month > 2 { (year, month - 3) } else { (year - 1, month + 9) };
    let days =
        365 * march_year + march_year / 4 - march_year / 100 + march_year / 400 + (153 * march_month + 2) / 5 + day;
    let days = days.checked_sub(719_469)?;
    Some(days * SECONDS_PER_DAY + hour * 3_600 + minute * 60 + second)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn known_moments_are_spelled_right() {
        for (unix_ns, json, header) in [
            (0, "1970-01-01T00:00:00.000000000Z", "Thu, 01 Jan 1970 00:00:00 GMT"),
            (784_111_777 * NS_PER_SECOND, "1994-11-06T08:49:37.000000000Z", "Sun, 06 Nov 1994 08:49:37 GMT"),
            (951_827_696_000_000_007, "2000-02-29T12:34:56.000000007Z", "Tue, 29 Feb 2000 12:34:56 GMT"),
            (1_795_352_150_123_456_789, "2026-11-22T12:55:50.123456789Z", "Sun, 22 Nov 2026 12:55:50 GMT"),
            (4_107_542_399_999_999_999, "2100-02-28T23:59:59.999999999Z", "Sun, 28 Feb 2100 23:59:59 GMT"),
            (4_107_542_400_000_000_000, "2100-03-01T00:00:00.000000000Z", "Mon, 01 Mar 2100 00:00:00 GMT"),
            (u64::MAX, "2554-07-21T23:34:33.709551615Z", "Sun, 21 Jul 2554 23:34:33 GMT"),
        ] {
            assert_eq!(rfc3339(unix_ns), json);
            assert_eq!(http_date(unix_ns), header);
            assert_eq!(parse_http_date(header), Some(unix_seconds(unix_ns)));
        }
    }

    #[test]
    fn dates_are_read_in_all_three_forms() {
        for text in [
            "Sun, 06 Nov 1994 08:49:37 GMT",
            "Sunday, 06-Nov-94 08:49:37 GMT",
            "Sun Nov  6 08:49:37 1994",
            " Sun Nov 16 08:49:37 1994 ",
        ] {
            let expected = if text.contains("16") { 784_111_777 + 10 * SECONDS_PER_DAY } else { 784_111_777 };
            assert_eq!(parse_http_date(text), Some(expected), "{text}");
        }
        assert_eq!(parse_http_date("Thursday, 01-Jan-70 00:00:00 GMT"), Some(0));
        for text in [
            "",
            "0",
            "yesterday",
            "Sun, 06 Nov 1994 08:49:37",
            "Sun, 06 Nov 1994 08:49:37 UTC",
            "Sun, 6 Nov 1994 08:49:37 GMT",
            "Sun, 06 nov 1994 08:49:37 GMT",
            "Sun, 06 Nov 1994 24:00:00 GMT",
            "Sun, 06 Nov 1994 08:49:37:00 GMT",
            "Sun, 06-Nov-94-1 08:49:37 GMT",
            "Wed, 31 Dec 1969 23:59:59 GMT",
            "Sun Nov  6 08:49:37 1994 GMT",
            "1994-11-06T08:49:37Z",
        ] {
            assert_eq!(parse_http_date(text), None, "{text}");
        }
    }

    #[test]
    fn every_day_of_four_centuries_follows_the_one_before() {
        let days_of = |year: u64, month: u64| match month {
            2 => 28 + u64::from(year.is_multiple_of(4) && (!year.is_multiple_of(100) || year.is_multiple_of(400))),
            4 | 6 | 9 | 11 => 30,
            _ => 31,
        };
        let (mut year, mut month, mut day) = (1970, 1, 1);
        for days in 0..146_097 {
            let now = civil(days * SECONDS_PER_DAY * NS_PER_SECOND);
            assert_eq!((now.year, now.month, now.day), (year, month, day));
            assert_eq!(seconds(year, month, day, "00:00:00"), Some(days * SECONDS_PER_DAY));
            day += 1;
            if day > days_of(year, month) {
                (day, month) = (1, month + 1);
            }
            if month > 12 {
                (month, year) = (1, year + 1);
            }
        }
    }
}
