//! Writes a time as `2026-11-21T04:49:43.123456Z` (RFC 3339, UTC, microseconds), or with milliseconds.
//!
//! Written by hand because every access log line carries one: this is a few divisions and no allocation.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

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
    fn every_day_of_four_centuries_agrees_with_the_time_crate() {
        for day in 0..146_097u64 {
            let at = UNIX_EPOCH + Duration::from_secs(day * SECONDS_PER_DAY + day % SECONDS_PER_DAY);
            let ours = written(at);
            let theirs = OffsetDateTime::from(at).format(&Rfc3339).unwrap();
            assert_eq!(ours.replace(".000000Z", "Z"), theirs);
        }
    }
}
