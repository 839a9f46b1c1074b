//! Scalars of protobuf's JSON form: whole numbers, doubles, durations; and mappings in their order.
//!
//! Ranges are checked apart from the reading, so that a fault can name the path of its field.

use std::fmt;
use std::marker::PhantomData;
use std::ops::RangeInclusive;
use std::time::Duration;

use serde::de::{Deserialize, Deserializer, Error, MapAccess, Visitor};

use crate::config::decode::Fault;
use crate::config::decode::text::Text;
use crate::config::routing::Share;

/// Longest duration accepted: ten years. Adding it to any time there is cannot overflow.
pub(crate) const MAX_DURATION: Duration = Duration::from_secs(10 * 365 * 86_400);
/// Largest whole number in a field of 32 bits, signed in Istio's API.
pub(crate) const MAX_WHOLE: u32 = i32::MAX.unsigned_abs();
/// Shortest duration, where there must be one.
const SHORTEST: Duration = Duration::from_millis(1);

/// A whole number, perhaps negative.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Whole(pub(crate) i64);

/// A number.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Double(pub(crate) f64);

struct Numeric;

/// What a number turned out to be.
enum Number {
    Whole(i64),
    Fraction(f64),
}

impl Visitor<'_> for Numeric {
    type Value = Number;
    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a number")
    }
    fn visit_u64<E: Error>(self, number: u64) -> Result<Number, E> {
        let number = i64::try_from(number).map_err(|_| E::custom(format_args!("{number} is too large")))?;
        Ok(Number::Whole(number))
    }
    fn visit_i64<E: Error>(self, number: i64) -> Result<Number, E> {
        Ok(Number::Whole(number))
    }
    fn visit_f64<E: Error>(self, number: f64) -> Result<Number, E> {
        Ok(Number::Fraction(number))
    }
    fn visit_str<E: Error>(self, text: &str) -> Result<Number, E> {
        Err(E::custom(format_args!("the string {text:?}, where a number belongs")))
    }
}

impl<'de> Deserialize<'de> for Whole {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        match deserializer.deserialize_any(Numeric)? {
            Number::Whole(number) => Ok(Self(number)),
            Number::Fraction(_) => Err(D::Error::custom(
                "a number with a fraction or a leading zero, where a whole number belongs",
            )),
        }
    }
}

impl<'de> Deserialize<'de> for Double {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Ok(match deserializer.deserialize_any(Numeric)? {
            // Whole numbers that a double cannot hold are far outside every range here.
            Number::Whole(number) => Self(i32::try_from(number).map_or(f64::INFINITY, f64::from)),
            Number::Fraction(number) => Self(number),
        })
    }
}

/// A mapping in its order. The parser refuses a key that is stated twice.
#[derive(Debug)]
pub(crate) struct Entries<'a, T>(pub(crate) Vec<(Text<'a>, T)>);

impl<T> Default for Entries<'_, T> {
    fn default() -> Self {
        Self(Vec::new())
    }
}

impl<'de: 'a, 'a, T: Deserialize<'de>> Deserialize<'de> for Entries<'a, T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Visit<T>(PhantomData<T>);
        impl<'de, T: Deserialize<'de>> Visitor<'de> for Visit<T> {
            type Value = Vec<(Text<'de>, T)>;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a mapping")
            }
            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
                let mut entries = Vec::new();
                while let Some(entry) = map.next_entry()? {
                    entries.push(entry);
                }
                Ok(entries)
            }
        }
        deserializer.deserialize_map(Visit(PhantomData)).map(Self)
    }
}

/// A whole number within a range, if it is stated.
pub(crate) fn whole(
    stated: Option<Whole>,
    range: RangeInclusive<u32>,
    field: &str,
) -> Result<Option<u32>, Fault> {
    let Some(Whole(number)) = stated else { return Ok(None) };
    match u32::try_from(number).ok().filter(|it| range.contains(it)) {
        Some(number) => Ok(Some(number)),
        None if number < 0 => Err(Fault::new(field, format!("{number} is negative"))),
        None => {
            Err(Fault::new(field, format!("{number} is not within {} to {}", range.start(), range.end())))
        }
    }
}

/// A percentage, if it is stated.
pub(crate) fn percent(stated: Option<Double>, field: &str) -> Result<Option<Share>, Fault> {
    let share = stated.map(|Double(percent)| Share::percent(percent)).transpose();
    share.map_err(|reason| Fault::new(field, reason))
}

/// A percentage stated as a whole number, if it is.
pub(crate) fn whole_percent(stated: Option<Whole>, field: &str) -> Result<Option<Share>, Fault> {
    let number = whole(stated, 0..=100, field)?;
    percent(number.map(|it| Double(f64::from(it))), field)
}

/// A duration, zero included, if it is stated.
pub(crate) fn duration(stated: Option<&Text<'_>>, field: &str) -> Result<Option<Duration>, Fault> {
    let read = stated.map(|text| parse(text)).transpose();
    read.map_err(|reason| Fault::new(field, reason))
}

/// A duration of at least a millisecond, if it is stated.
pub(crate) fn positive(stated: Option<&Text<'_>>, field: &str) -> Result<Option<Duration>, Fault> {
    let read = duration(stated, field)?;
    match read.filter(|it| *it < SHORTEST) {
        Some(short) => Err(Fault::new(field, format!("{short:?} is less than 1ms"))),
        None => Ok(read),
    }
}

/// Reads what protobuf and Go write: `1s`, `0.5s`, `1h30m`, `250ms`.
fn parse(text: &str) -> Result<Duration, String> {
    let wrong =
        || format!("{text:?} is not a duration: a number and a unit (ms, s, m, h), such as 0.5s or 1h30m");
    if text == "0" {
        return Ok(Duration::ZERO);
    }
    if text.starts_with('-') {
        return Err(format!("{text} is negative"));
    }
    let mut total: u128 = 0;
    let mut rest = text;
    while !rest.is_empty() {
        let number = rest.len() - rest.trim_start_matches(|c: char| c.is_ascii_digit() || c == '.').len();
        let (digits, after) = rest.split_at(number);
        let letters = after.len() - after.trim_start_matches(|c: char| c.is_alphabetic()).len();
        let (unit, after) = after.split_at(letters);
        let unit = match unit {
            "ns" => 1,
            "us" | "µs" | "μs" => 1_000,
            "ms" => 1_000_000,
            "s" => 1_000_000_000,
            "m" => 60_000_000_000,
            "h" => 3_600_000_000_000,
            _ => return Err(wrong()),
        };
        total = total.checked_add(nanoseconds(digits, unit).ok_or_else(wrong)?).ok_or_else(wrong)?;
        rest = after;
    }
    let seconds = u64::try_from(total / 1_000_000_000).map_err(|_| wrong())?;
    let nanoseconds = u32::try_from(total % 1_000_000_000).map_err(|_| wrong())?;
    let read = Duration::new(seconds, nanoseconds);
    match () {
        () if text.is_empty() => Err(wrong()),
        () if read > MAX_DURATION => Err(format!("{text} is more than ten years")),
        () => Ok(read),
    }
}

/// `digits` times `unit`, which is in nanoseconds; what is less than one is dropped.
fn nanoseconds(digits: &str, unit: u128) -> Option<u128> {
    let (before, after) = digits.split_once('.').unwrap_or((digits, ""));
    if before.is_empty() && after.is_empty() || after.contains('.') {
        return None;
    }
    let number = |digits: &str| if digits.is_empty() { Some(0) } else { digits.parse::<u128>().ok() };
    // More digits than these are below a nanosecond in any unit.
    let after = &after[..after.len().min(18)];
    let scale = 10u128.pow(u32::try_from(after.len()).ok()?);
    let fraction = number(after)? * unit / scale;
    number(before)?.checked_mul(unit)?.checked_add(fraction)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_are_read_as_protobuf_and_go_write_them() {
        for (text, nanoseconds) in [
            ("0s", 0),
            ("0", 0),
            ("1s", 1_000_000_000),
            ("0.5s", 500_000_000),
            (".5s", 500_000_000),
            ("1.s", 1_000_000_000),
            ("1.000000001s", 1_000_000_001),
            ("250ms", 250_000_000),
            ("10us", 10_000),
            ("10µs", 10_000),
            ("7ns", 7),
            ("1h30m", 5_400_000_000_000),
            ("1.5h", 5_400_000_000_000),
            ("0.0000000000000000000001h", 0),
        ] {
            assert_eq!(parse(text), Ok(Duration::from_nanos(nanoseconds)), "{text}");
        }
        for bad in [
            "",
            "1",
            "s",
            "1 s",
            " 1s",
            "1S",
            "1d",
            "1w",
            "1.2.3s",
            ".s",
            "+1s",
            "1e3s",
            "1s2",
            "99999999999h",
            "é",
            "999999999999999999999999999999999999999999s",
        ] {
            assert!(parse(bad).is_err(), "{bad:?}");
        }
        assert!(parse("-1s").unwrap_err().contains("negative"));
        assert!(parse("90000h").unwrap_err().contains("ten years"));
    }

    #[test]
    fn numbers_keep_to_their_range() {
        assert_eq!(whole(Some(Whole(5)), 0..=5, "f"), Ok(Some(5)));
        assert_eq!(whole(None, 1..=5, "f"), Ok(None));
        assert!(whole(Some(Whole(-1)), 0..=5, "f").unwrap_err().reason.contains("negative"));
        assert!(whole(Some(Whole(6)), 0..=5, "f").unwrap_err().reason.contains("0 to 5"));
        assert!(whole(Some(Whole(i64::MAX)), 0..=5, "f").is_err());
        assert!(whole_percent(Some(Whole(101)), "f").is_err());
        assert_eq!(whole_percent(Some(Whole(50)), "f").unwrap().map(Share::per_million), Some(500_000));
    }
}
