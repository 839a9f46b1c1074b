//! How a time is written, as stated in the specifiers of `strftime` that Envoy documents for `%START_TIME(...)%`: read once.
//!
//! Knows no time. Times are UTC, and words English. What is not known is refused with its place.

use std::sync::Arc;

/// A compiled format.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TimeFormat {
    pieces: Box<[TimePiece]>,
}

/// A part of a written time.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum TimePiece {
    /// As it stands.
    Literal(Arc<str>),
    /// What a specifier stands for.
    Field(TimeField),
}

/// What a specifier stands for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TimeField {
    /// `%Y`: four digits.
    Year,
    /// `%y`: its last two digits.
    ShortYear,
    /// `%m`: 01 to 12.
    Month,
    /// `%b`, `%h`: `Jan`.
    ShortMonthName,
    /// `%B`: `January`.
    MonthName,
    /// `%d`: 01 to 31.
    Day,
    /// `%e`: the same with a blank for a zero in front.
    PaddedDay,
    /// `%j`: day of the year, 001 to 366.
    DayOfYear,
    /// `%a`: `Mon`.
    ShortWeekday,
    /// `%A`: `Monday`.
    Weekday,
    /// `%u`: 1 (Monday) to 7.
    WeekdayNumber,
    /// `%w`: 0 (Sunday) to 6.
    WeekdayFromSunday,
    /// `%H`: 00 to 23.
    Hour,
    /// `%I`: 01 to 12.
    HourOfHalf,
    /// `%p`: `AM` or `PM`.
    Half,
    /// `%M`: 00 to 59.
    Minute,
    /// `%S`: 00 to 59.
    Second,
    /// `%s`: seconds since 1970.
    SinceEpoch,
    /// `%f` and `%1f` to `%9f`: so many digits of the fraction of the second, cut off behind them.
    Fraction(u8),
    /// `%z`: `+0000`.
    Offset,
    /// `%Z`: `UTC`.
    Zone,
}

impl TimeFormat {
    /// Reads a format.
    ///
    /// # Errors
    /// In words, what is not known, and at which byte of the format.
    pub fn read(text: &str) -> Result<Self, String> {
        let (mut pieces, mut literal, mut rest) = (Vec::new(), String::new(), text);
        while let Some(at) = rest.find('%') {
            literal.push_str(&rest[..at]);
            let specifier = &rest[at + 1..];
            let place = text.len() - specifier.len();
            let (fields, length) = fields(specifier).ok_or_else(|| {
                let shown: String = specifier.chars().take(2).collect();
                format!("%{shown} at byte {place} of the time's format {text:?} is not known")
            })?;
            rest = &specifier[length..];
            for piece in fields {
                match piece {
                    TimePiece::Literal(more) => literal.push_str(&more),
                    TimePiece::Field(field) => {
                        if !literal.is_empty() {
                            pieces.push(TimePiece::Literal(std::mem::take(&mut literal).into()));
                        }
                        pieces.push(TimePiece::Field(field));
                    }
                }
            }
        }
        literal.push_str(rest);
        if !literal.is_empty() {
            pieces.push(TimePiece::Literal(literal.into()));
        }
        Ok(Self { pieces: pieces.into() })
    }

    /// Its parts, in their order.
    pub fn pieces(&self) -> &[TimePiece] {
        &self.pieces
    }
}

/// What stands behind a `%`, and how many bytes of it there are.
fn fields(text: &str) -> Option<(Vec<TimePiece>, usize)> {
    use TimeField::*;
    let field = |it| vec![TimePiece::Field(it)];
    let separated = |all: &[TimeField], by: &str| {
        let mut pieces = Vec::new();
        for (at, it) in all.iter().enumerate() {
            if at > 0 {
                pieces.push(TimePiece::Literal(by.into()));
            }
            pieces.push(TimePiece::Field(*it));
        }
        pieces
    };
    let literal = |it: &str| vec![TimePiece::Literal(it.into())];
    let pieces = match text.as_bytes().first()? {
        digit @ b'1'..=b'9' if text.as_bytes().get(1) == Some(&b'f') => {
            return Some((field(Fraction(digit - b'0')), 2));
        }
        b'f' => field(Fraction(9)),
        b'Y' => field(Year),
        b'y' => field(ShortYear),
        b'm' => field(Month),
        b'b' | b'h' => field(ShortMonthName),
        b'B' => field(MonthName),
        b'd' => field(Day),
        b'e' => field(PaddedDay),
        b'j' => field(DayOfYear),
        b'a' => field(ShortWeekday),
        b'A' => field(Weekday),
        b'u' => field(WeekdayNumber),
        b'w' => field(WeekdayFromSunday),
        b'H' => field(Hour),
        b'I' => field(HourOfHalf),
        b'p' => field(Half),
        b'M' => field(Minute),
        b'S' => field(Second),
        b's' => field(SinceEpoch),
        b'z' => field(Offset),
        b'Z' => field(Zone),
        b'F' => separated(&[Year, Month, Day], "-"),
        b'D' => separated(&[Month, Day, ShortYear], "/"),
        b'T' => separated(&[Hour, Minute, Second], ":"),
        b'R' => separated(&[Hour, Minute], ":"),
        b'n' => literal("\n"),
        b't' => literal("\t"),
        b'%' => literal("%"),
        _ => return None,
    };
    Some((pieces, 1))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_format_is_literals_and_fields() {
        let read = TimeFormat::read("%F at %3f%%").unwrap();
        let (field, literal) = (TimePiece::Field, |it: &str| TimePiece::Literal(it.into()));
        let expected = [
            field(TimeField::Year),
            literal("-"),
            field(TimeField::Month),
            literal("-"),
            field(TimeField::Day),
            literal(" at "),
            field(TimeField::Fraction(3)),
            literal("%"),
        ];
        assert_eq!(read.pieces(), expected);
    }

    #[test]
    fn what_is_not_known_is_refused_with_its_place() {
        for (text, why) in [
            ("%Y-%Q", "%Q at byte 4"),
            ("%", "% at byte 1"),
            ("%0f", "%0f at byte 1"),
            ("%3S", "%3S at byte 1"),
            ("ü%é", "%é at byte 3"),
            ("%Ez", "%Ez at byte 1"),
        ] {
            let refused = TimeFormat::read(text).expect_err(text);
            assert!(refused.contains(why), "{text}: {refused}");
        }
    }
}
