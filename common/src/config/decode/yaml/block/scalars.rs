//! Values that stand on one line.

use super::{GiveUp, MAX_DEPTH, Outcome};

/// A value on one line.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Scalar<'de> {
    Quoted(&'de str),
    Plain(&'de str),
    Null,
    EmptyMapping,
    EmptySequence,
}

pub(super) fn scalar(text: &str) -> Outcome<Scalar<'_>> {
    let first = *text.as_bytes().first().ok_or(GiveUp)?;
    match first {
        b'"' | b'\'' => {
            let quote = char::from(first);
            let inner = text[1..].strip_suffix(quote).ok_or(GiveUp)?;
            let simple = !inner.contains([quote, '\\']) || (quote == '\'' && !inner.contains('\''));
            if simple { Ok(Scalar::Quoted(inner)) } else { Err(GiveUp) }
        }
        b'{' if text == "{}" => Ok(Scalar::EmptyMapping),
        b'[' if text == "[]" => Ok(Scalar::EmptySequence),
        b'~' if text == "~" => Ok(Scalar::Null),
        b'/' | b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' => {
            if matches!(text, "null" | "Null" | "NULL") {
                return Ok(Scalar::Null);
            }
            let ends = text.ends_with(':') || text.contains(": ") || text.contains(" #");
            if ends || text.contains('\t') { Err(GiveUp) } else { Ok(Scalar::Plain(text)) }
        }
        _ => Err(GiveUp),
    }
}

/// Whether a value that nobody reads is sure to end on its line.
pub(super) fn ends_on_its_line(text: &str) -> bool {
    match text.as_bytes() {
        [quote @ (b'"' | b'\''), inner @ ..] => quoted_end(inner, *quote) == Some(inner.len()),
        [b'{' | b'[', ..] => flow_ends(text.as_bytes()),
        [b'-', next, ..] => *next != b' ' && is_plain(text),
        [first, ..] => !b"-?:,[]{}#&*!|>'\"%@`".contains(first) && is_plain(text),
        [] => false,
    }
}

/// Whether an unquoted scalar holds nothing that would end it or make a mapping of it.
fn is_plain(text: &str) -> bool {
    !(text.ends_with(':') || text.contains(": ") || text.contains(" #") || text.contains('\t'))
}

/// How far a quoted scalar reaches, with its closing quote.
fn quoted_end(inner: &[u8], quote: u8) -> Option<usize> {
    let mut at = 0;
    loop {
        match *inner.get(at)? {
            b'\\' if quote == b'"' => at += 1,
            byte if byte == quote && quote == b'\'' && inner.get(at + 1) == Some(&quote) => at += 1,
            byte if byte == quote => return Some(at + 1),
            _ => {}
        }
        at += 1;
    }
}

/// Whether a flow collection is closed by the last byte and not before. What is in it is not looked at.
fn flow_ends(text: &[u8]) -> bool {
    let mut closers = Vec::new();
    let mut at = 0;
    while let Some(byte) = text.get(at) {
        at += 1;
        match *byte {
            quote @ (b'"' | b'\'') => match text.get(at..).and_then(|rest| quoted_end(rest, quote)) {
                Some(length) => at += length,
                None => return false,
            },
            b'{' => closers.push(b'}'),
            b'[' => closers.push(b']'),
            b'}' | b']' if closers.pop() != Some(*byte) => return false,
            b'&' | b'*' | b'!' | b'#' | b'%' | b'@' | b'`' | b'\t' => return false,
            _ => {}
        }
        if closers.len() > MAX_DEPTH || closers.is_empty() && at < text.len() {
            return false;
        }
    }
    closers.is_empty()
}

/// Words that some YAML reads as something else than a string.
pub(super) const NOT_ALWAYS_TEXT: [&str; 11] =
    ["y", "n", "yes", "no", "on", "off", "true", "false", "null", "nan", "inf"];
