//! Writes a time as `2026-11-21T04:49:43.123456Z` (RFC 3339, UTC, microseconds), or with milliseconds.
//!
//! Written by hand because every access log line carries one: this is a few divisions and no allocation.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use crate::config::time_format::{TimeField, TimeFormat, TimePiece};

const SECONDS_PER_DAY: u64 = 86_400;

/// Appends `at` to `out`. A time before 1970 is written as 1970.
pub(super) fn write(out: &mut Vec<u8>, at: SystemTime) {
    let since = since_epoch(at);
    write_seconds(out, since.as_secs());
    digits(out, u64::from(since.subsec_micros()), 6);
    out.push(b'Z');
}

/// As [`write()`], with milliseconds, as Envoy writes a time.
pub(super) fn write_millis(out: &mut Vec<u8>, at: SystemTime) {
    let since = since_epoch(at);
    write_seconds(out, since.as_secs());
    digits(out, u64::from(since.subsec_millis()), 3);
    out.push(b'Z');
}

const MONTHS: [&str; 12] = [
    "January",
    "February",
    "March",
    "April",
    "May",
    "June",
    "July",
    "August",
    "September",
    "October",
    "November",
    "December",
];
const WEEKDAYS: [&str; 7] = ["Sunday", "Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday"];

/// Appends `at` as a format has it, in UTC. A time before 1970 is written as 1970.
pub(super) fn write_as(out: &mut Vec<u8>, at: SystemTime, format: &TimeFormat) {
    let since = since_epoch(at);
    for piece in format.pieces() {
        match piece {
            TimePiece::Literal(text) => out.extend_from_slice(text.as_bytes()),
            TimePiece::Field(field) => write_field(out, since, *field),
        }
    }
}

fn write_field(out: &mut Vec<u8>, since: Duration, field: TimeField) {
    let (days, second) = (since.as_secs() / SECONDS_PER_DAY, since.as_secs() % SECONDS_PER_DAY);
    let (year, month, day) = civil(days);
    // 1970-01-01 was a Thursday.
    let (weekday, hour) = ((days + 4) % 7, second / 3600);
    // Each number is within the words it counts.
    let word = |of: &[&'static str], at: u64| of[at as usize % of.len()];
    let (month_name, weekday_name) = (word(&MONTHS, month - 1), word(&WEEKDAYS, weekday));
    let mut text = |text: &str| out.extend_from_slice(text.as_bytes());
    match field {
        TimeField::ShortMonthName => text(&month_name[..3]),
        TimeField::MonthName => text(month_name),
        TimeField::ShortWeekday => text(&weekday_name[..3]),
        TimeField::Weekday => text(weekday_name),
        TimeField::Half => text(if hour < 12 { "AM" } else { "PM" }),
        TimeField::Offset => text("+0000"),
        TimeField::Zone => text("UTC"),
        TimeField::SinceEpoch => text(&since.as_secs().to_string()),
        TimeField::PaddedDay => text(&format!("{day:>2}")),
        TimeField::Year => digits(out, year, 4),
        TimeField::ShortYear => digits(out, year, 2),
        TimeField::Month => digits(out, month, 2),
        TimeField::Day => digits(out, day, 2),
        TimeField::DayOfYear => digits(out, days - first_day(year) + 1, 3),
        TimeField::WeekdayNumber => digits(out, (weekday + 6) % 7 + 1, 1),
        TimeField::WeekdayFromSunday => digits(out, weekday, 1),
        TimeField::Hour => digits(out, hour, 2),
        TimeField::HourOfHalf => digits(out, (hour + 11) % 12 + 1, 2),
        TimeField::Minute => digits(out, second / 60 % 60, 2),
        TimeField::Second => digits(out, second % 60, 2),
        TimeField::Fraction(width) => {
            let cut = 10_u64.pow(9 - u32::from(width.min(9)));
            digits(out, u64::from(since.subsec_nanos()) / cut, width.into());
        }
    }
}

/// The day on which a year from 1970 on begins, in days since 1970-01-01.
fn first_day(year: u64) -> u64 {
    let before = year - 1;
    365 * (year - 1970) + (before / 4 - before / 100 + before / 400) - (1969 / 4 - 1969 / 100 + 1969 / 400)
}

fn since_epoch(at: SystemTime) -> Duration {
    at.duration_since(UNIX_EPOCH).unwrap_or_default()
}

/// Appends everything up to the decimal point.
fn write_seconds(out: &mut Vec<u8>, since_epoch: u64) {
    let (days, second) = (since_epoch / SECONDS_PER_DAY, since_epoch % SECONDS_PER_DAY);
    let (year, month, day) = civil(days);
    digits(out, year, 4);
    for (separator, value) in
        [(b'-', month), (b'-', day), (b'T', second / 3600), (b':', second / 60 % 60), (b':', second % 60)]
    {
        out.push(separator);
        digits(out, value, 2);
    }
    out.push(b'.');
}

/// Year, month and day of a number of days since 1970-01-01, in the proleptic Gregorian calendar.
///
/// Years are counted from March, so that the leap day is a year's last day and month lengths follow one formula.
fn civil(days: u64) -> (u64, u64, u64) {
    const DAYS_PER_ERA: u64 = 146_097; // 400 years
    let shifted = days + 719_468; // days since 0000-03-01
    let (era, of_era) = (shifted / DAYS_PER_ERA, shifted % DAYS_PER_ERA);
    let year_of_era = (of_era - of_era / 1460 + of_era / 36_524 - of_era / 146_096) / 365;
    let of_year = of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let march_month = (5 * of_year + 2) / 153;
    let day = of_year - (153 * march_month + 2) / 5 + 1;
    let month = if march_month < 10 { march_month + 3 } else { march_month - 9 };
    (era * 400 + year_of_era + u64::from(month <= 2), month, day)
}

/// Appends exactly `width` decimal digits of `value`.
fn digits(out: &mut Vec<u8>, mut value: u64, width: usize) {
    let start = out.len();
    out.resize(start + width, b'0');
    for at in (start..start + width).rev() {
        out[at] = b'0' + u8::try_from(value % 10).unwrap_or(0);
        value /= 10;
    }
}

#[cfg(test)]
mod tests {
    use time::OffsetDateTime;
    use time::format_description::well_known::Rfc3339;

    use super::*;

    fn written(at: SystemTime) -> String {
        let mut out = Vec::new();
        write(&mut out, at);
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn a_time_is_written_in_utc_with_microseconds() {
        let at = UNIX_EPOCH + Duration::new(1_795_236_583, 123_456_789);
        assert_eq!(written(at), "2026-11-21T04:49:43.123456Z");
        let mut out = Vec::new();
        write_millis(&mut out, at);
        assert_eq!(out, b"2026-11-21T04:49:43.123Z");
    }

    #[test]
    fn a_time_is_written_as_its_format_has_it() {
        let at = UNIX_EPOCH + Duration::new(1_795_236_583, 120_456_789);
        for (format, expected) in [
            ("%Y/%m/%dT%H:%M:%S%z %s", "2026/11/21T04:49:43+0000 1795236583"),
            ("%s.%3f %s.%6f %s.%9f", "1795236583.120 1795236583.120456 1795236583.120456789"),
            ("%f|%1f", "120456789|1"),
            ("%a, %d %b %Y %T %Z", "Sat, 21 Nov 2026 04:49:43 UTC"),
            ("%A %B %e %y %j %u %w", "Saturday November 21 26 325 6 6"),
            ("%I:%M %p%n%D%t%R %%", "04:49 AM\n11/21/26\t04:49 %"),
        ] {
            let mut out = Vec::new();
            write_as(&mut out, at, &TimeFormat::read(format).unwrap());
            assert_eq!(String::from_utf8(out).unwrap(), expected, "{format}");
        }
        let mut out = Vec::new();
        write_as(&mut out, UNIX_EPOCH, &TimeFormat::read("%e %I %p %u %w %j").unwrap());
        assert_eq!(out, b" 1 12 AM 4 4 001");
    }

    #[test]
    fn days_of_years_and_weeks_agree_with_the_time_crate() {
        let format = TimeFormat::read("%j %u").unwrap();
        for day in 0..146_097u64 {
            let at = UNIX_EPOCH + Duration::from_secs(day * SECONDS_PER_DAY);
            let theirs = OffsetDateTime::from(at);
            let mut out = Vec::new();
            write_as(&mut out, at, &format);
            let expected = format!("{:03} {}", theirs.ordinal(), theirs.weekday().number_from_monday());
            assert_eq!(String::from_utf8(out).unwrap(), expected);
        }
    }

    #[test]
    fn every_day_of_four_centuries_agrees_with_the_time_crate() {
        for day in 0..146_097u64 {
            let at = UNIX_EPOCH + Duration::from_secs(day * SECONDS_PER_DAY + day % SECONDS_PER_DAY);
            let ours = written(at);
            let theirs = OffsetDateTime::from(at).format(&Rfc3339).unwrap();
            assert_eq!(ours.replace(".000000Z", "Z"), theirs);
        }
    }
}
