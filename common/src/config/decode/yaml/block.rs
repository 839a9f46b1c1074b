//! Reads the plain block style that nearly every manifest is written in, about thirty times as fast as a whole YAML
//! parser; ten thousand pods are read at start-up and again when their directory is listed anew.
//!
//! It understands block mappings and sequences of plain or simply quoted scalars on one line, and `{}`, `[]`.
//! Whatever else it meets (anchors, tags, escapes, flow collections and block scalars in fields that are read, comments
//! after values, tabs) makes it give up, and the document goes to the whole parser, which also finds the words for what
//! is wrong. So it may only ever succeed where that parser succeeds with the same value; a property test holds it to
//! that. Security kinds never come here.

use std::fmt;

use serde::de::{self, DeserializeSeed, Visitor};
use serde::forward_to_deserialize_any;

use super::MAX_DEPTH;

/// The document is outside the subset, or wrong: the whole parser decides.
#[derive(Debug)]
pub(super) struct GiveUp;

impl fmt::Display for GiveUp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("not in plain block style")
    }
}

impl std::error::Error for GiveUp {}

impl de::Error for GiveUp {
    fn custom<T: fmt::Display>(_: T) -> Self {
        Self
    }
}

type Outcome<T> = Result<T, GiveUp>;

/// Reads one document.
pub(super) fn read<'de, T: de::Deserialize<'de>>(document: &'de str) -> Outcome<T> {
    let mut lines = Lines { rest: document, current: None };
    lines.advance()?;
    let indent = lines.current.ok_or(GiveUp)?.indent;
    let node = Node { lines: &mut lines, place: Place::Block { indent }, depth: 0 };
    let value = T::deserialize(node)?;
    if lines.current.is_some() { Err(GiveUp) } else { Ok(value) }
}

/// One line with content: blank lines and comments are passed over.
#[derive(Clone, Copy)]
struct Line<'de> {
    indent: usize,
    text: &'de str,
}

struct Lines<'de> {
    rest: &'de str,
    current: Option<Line<'de>>,
}

impl<'de> Lines<'de> {
    fn advance(&mut self) -> Outcome<()> {
        loop {
            if self.rest.is_empty() {
                self.current = None;
                return Ok(());
            }
            let (line, rest) = self.rest.split_once('\n').unwrap_or((self.rest, ""));
            self.rest = rest;
            let text = line.trim_start_matches(' ');
            let indent = line.len() - text.len();
            let text = text.trim_end_matches([' ', '\r']);
            match text.as_bytes().first() {
                None | Some(b'#') => {}
                Some(b'\t') => return Err(GiveUp),
                Some(_) => {
                    self.current = Some(Line { indent, text });
                    return Ok(());
                }
            }
        }
    }

    fn deeper_than(&self, indent: usize) -> Option<usize> {
        self.current.map(|line| line.indent).filter(|it| *it > indent)
    }

    /// The current line, when it is of the block at `indent`.
    fn at(&self, indent: usize) -> Option<Line<'de>> {
        self.current.filter(|line| line.indent == indent)
    }

    /// Checks that a block at `indent` ends before the current line: a deeper one would belong to nothing.
    fn ended(&self, indent: usize) -> Outcome<()> {
        if self.deeper_than(indent).is_some() { Err(GiveUp) } else { Ok(()) }
    }

    /// Steps over a key at `indent`, with what is beside it.
    fn enter_value(&mut self, text: &'de str, indent: usize) -> Outcome<Place<'de>> {
        if text.starts_with(['|', '>']) {
            return self.skip_block_scalar(text, indent);
        }
        self.advance()?;
        if text.is_empty() { Ok(self.nested(indent, true)) } else { self.inline(text, indent) }
    }

    /// Steps over a block scalar below `indent`: lines as deep as its first or deeper, `#` or not.
    fn skip_block_scalar(&mut self, header: &str, indent: usize) -> Outcome<Place<'de>> {
        if !matches!(&header[1..], "" | "-" | "+") {
            return Err(GiveUp);
        }
        let (mut level, mut widest_blank) = (None, 0);
        while !self.rest.is_empty() {
            let (line, rest) = self.rest.split_once('\n').unwrap_or((self.rest, ""));
            let text = line.trim_start_matches(' ');
            let margin = line.len() - text.len();
            if text.trim_end_matches('\r').is_empty() {
                widest_blank = widest_blank.max(if level.is_none() { margin } else { 0 });
            } else if margin <= indent {
                break;
            } else if margin < *level.get_or_insert(margin) || widest_blank > margin && level == Some(margin)
            {
                return Err(GiveUp);
            }
            self.rest = rest;
        }
        self.advance()?;
        Ok(Place::BlockScalar)
    }

    /// The current line as an item of a sequence at `indent`.
    fn item_at(&self, indent: usize) -> Option<Line<'de>> {
        let line = self.at(indent)?;
        (line.text == "-" || line.text.starts_with("- ")).then_some(line)
    }

    /// Steps over the dash of an item: what follows it is a line of its own, further in.
    fn enter_item(&mut self, line: Line<'de>) -> Outcome<Place<'de>> {
        let text = line.text[1..].trim_start_matches(' ');
        if text.is_empty() {
            self.advance()?;
            return Ok(self.nested(line.indent, false));
        }
        if text.starts_with('#') {
            return Err(GiveUp);
        }
        let indent = line.indent + line.text.len() - text.len();
        if split_key(text).is_some() || text == "-" || text.starts_with("- ") {
            self.current = Some(Line { indent, text });
            return Ok(Place::Block { indent });
        }
        self.enter_value(text, line.indent)
    }

    /// What stands below a key or a dash at `indent` that has nothing beside it.
    fn nested(&self, indent: usize, in_mapping: bool) -> Place<'de> {
        if let Some(indent) = self.deeper_than(indent) {
            Place::Block { indent }
        } else if in_mapping && self.item_at(indent).is_some() {
            Place::Block { indent }
        } else {
            Place::Null
        }
    }

    /// A value beside its key or dash at `indent`; the lines below it are already current.
    fn inline(&self, text: &'de str, indent: usize) -> Outcome<Place<'de>> {
        let place = Place::Inline { text };
        // A deeper line would continue the scalar.
        if self.deeper_than(indent).is_some() { Err(GiveUp) } else { Ok(place) }
    }
}

/// Splits `key: value` or `key:`; the key is of letters, digits and `_./-`, and starts with a letter or digit.
fn split_key(text: &str) -> Option<(&str, &str)> {
    let end = text.bytes().position(|b| !(b.is_ascii_alphanumeric() || b"_./-".contains(&b)))?;
    let (key, rest) = text.split_at(end);
    let rest = rest.strip_prefix(':')?;
    if !key.bytes().next()?.is_ascii_alphanumeric() || !(rest.is_empty() || rest.starts_with(' ')) {
        return None;
    }
    Some((key, rest.trim_start_matches(' ')))
}

/// Splits `key: value` or `key:` where nobody reads the key, which may be any plain scalar (`f:metadata`).
fn split_any_key(text: &str) -> Option<(&str, &str)> {
    let (key, value) = match text.split_once(": ") {
        Some((key, value)) => (key, value.trim_start_matches(' ')),
        None => (text.strip_suffix(':')?, ""),
    };
    let plain =
        matches!(key.as_bytes().first()?, b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'.' | b'/' | b'_');
    (plain && !key.contains(" #") && !key.ends_with(' ') && !key.contains('\t')).then_some((key, value))
}

/// A value on one line.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Scalar<'de> {
    Quoted(&'de str),
    Plain(&'de str),
    Null,
    EmptyMapping,
    EmptySequence,
}

fn scalar(text: &str) -> Outcome<Scalar<'_>> {
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
fn ends_on_its_line(text: &str) -> bool {
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
const NOT_ALWAYS_TEXT: [&str; 11] =
    ["y", "n", "yes", "no", "on", "off", "true", "false", "null", "nan", "inf"];

#[derive(Clone, Copy)]
enum Place<'de> {
    /// A mapping or sequence that starts on the current line at this indent.
    Block { indent: usize },
    /// A value beside its key or dash.
    Inline { text: &'de str },
    /// Text in lines of its own, already passed over.
    BlockScalar,
    /// Nothing.
    Null,
}

struct Node<'n, 'de> {
    lines: &'n mut Lines<'de>,
    place: Place<'de>,
    depth: usize,
}

impl<'de> Node<'_, 'de> {
    fn scalar(&self) -> Outcome<Scalar<'de>> {
        match self.place {
            Place::Inline { text } => scalar(text),
            Place::Null => Ok(Scalar::Null),
            Place::Block { .. } | Place::BlockScalar => Err(GiveUp),
        }
    }

    /// Passes over a value that nobody reads, looking at its structure all the same.
    fn skip(self) -> Outcome<()> {
        match self.place {
            Place::Null | Place::BlockScalar => Ok(()),
            Place::Inline { text } => {
                if ends_on_its_line(text) {
                    Ok(())
                } else {
                    Err(GiveUp)
                }
            }
            Place::Block { .. } if self.depth >= MAX_DEPTH => Err(GiveUp),
            Place::Block { indent } if self.lines.item_at(indent).is_some() => {
                while let Some(line) = self.lines.item_at(indent) {
                    let place = self.lines.enter_item(line)?;
                    Node { lines: self.lines, place, depth: self.depth + 1 }.skip()?;
                }
                self.lines.ended(indent)
            }
            Place::Block { indent } => self.skip_mapping(indent),
        }
    }

    fn skip_mapping(self, indent: usize) -> Outcome<()> {
        let mut seen = Vec::new();
        while let Some(line) = self.lines.at(indent) {
            let (key, value) = split_any_key(line.text).ok_or(GiveUp)?;
            if seen.contains(&key) {
                return Err(GiveUp);
            }
            seen.push(key);
            let place = self.lines.enter_value(value, indent)?;
            Node { lines: self.lines, place, depth: self.depth + 1 }.skip()?;
        }
        self.lines.ended(indent)
    }
}

impl<'de> de::Deserializer<'de> for Node<'_, 'de> {
    type Error = GiveUp;

    fn deserialize_any<V: Visitor<'de>>(self, visitor: V) -> Outcome<V::Value> {
        if let Place::Block { indent } = self.place {
            if self.depth >= MAX_DEPTH {
                return Err(GiveUp);
            }
            let depth = self.depth + 1;
            return if self.lines.item_at(indent).is_some() {
                visitor.visit_seq(Items { lines: self.lines, indent, depth })
            } else {
                visitor.visit_map(Entries { lines: self.lines, indent, depth, value: None, seen: Vec::new() })
            };
        }
        match self.scalar()? {
            Scalar::Quoted(text) => visitor.visit_borrowed_str(text),
            Scalar::Null => visitor.visit_unit(),
            Scalar::EmptyMapping => visitor
                .visit_map(de::value::MapDeserializer::<std::iter::Empty<((), ())>, GiveUp>::new(
                    std::iter::empty(),
                )),
            Scalar::EmptySequence => visitor
                .visit_seq(de::value::SeqDeserializer::<std::iter::Empty<()>, GiveUp>::new(
                    std::iter::empty(),
                )),
            Scalar::Plain("true") => visitor.visit_bool(true),
            Scalar::Plain("false") => visitor.visit_bool(false),
            Scalar::Plain(text) => match text.as_bytes() {
                [b'0'] => visitor.visit_u64(0),
                [b'1'..=b'9', rest @ ..] if rest.len() < 18 && rest.iter().all(u8::is_ascii_digit) => {
                    visitor.visit_u64(text.parse().map_err(|_| GiveUp)?)
                }
                [b'0'..=b'9', ..] => Err(GiveUp),
                _ if NOT_ALWAYS_TEXT.iter().any(|word| text.eq_ignore_ascii_case(word)) => Err(GiveUp),
                _ => visitor.visit_borrowed_str(text),
            },
        }
    }

    fn deserialize_str<V: Visitor<'de>>(self, visitor: V) -> Outcome<V::Value> {
        match self.scalar()? {
            Scalar::Quoted(text) | Scalar::Plain(text) => visitor.visit_borrowed_str(text),
            _ => Err(GiveUp),
        }
    }

    fn deserialize_string<V: Visitor<'de>>(self, visitor: V) -> Outcome<V::Value> {
        self.deserialize_str(visitor)
    }

    fn deserialize_option<V: Visitor<'de>>(self, visitor: V) -> Outcome<V::Value> {
        let null = !matches!(self.place, Place::Block { .. }) && self.scalar()? == Scalar::Null;
        if null { visitor.visit_none() } else { visitor.visit_some(self) }
    }

    fn deserialize_map<V: Visitor<'de>>(self, visitor: V) -> Outcome<V::Value> {
        // Left to itself, a derived struct would take a sequence for its fields in order.
        match self.place {
            Place::Block { indent } if self.lines.item_at(indent).is_none() => self.deserialize_any(visitor),
            Place::Inline { text: "{}" } => self.deserialize_any(visitor),
            _ => Err(GiveUp),
        }
    }

    fn deserialize_struct<V: Visitor<'de>>(
        self,
        _: &'static str,
        _: &'static [&'static str],
        visitor: V,
    ) -> Outcome<V::Value> {
        self.deserialize_map(visitor)
    }

    fn deserialize_ignored_any<V: Visitor<'de>>(self, visitor: V) -> Outcome<V::Value> {
        self.skip()?;
        visitor.visit_unit()
    }

    forward_to_deserialize_any! {
        bool i8 i16 i32 i64 i128 u8 u16 u32 u64 u128 f32 f64 char bytes byte_buf unit unit_struct newtype_struct
        seq tuple tuple_struct enum identifier
    }
}

struct Items<'n, 'de> {
    lines: &'n mut Lines<'de>,
    indent: usize,
    depth: usize,
}

impl<'de> de::SeqAccess<'de> for Items<'_, 'de> {
    type Error = GiveUp;

    fn next_element_seed<T: DeserializeSeed<'de>>(&mut self, seed: T) -> Outcome<Option<T::Value>> {
        let Some(line) = self.lines.item_at(self.indent) else {
            self.lines.ended(self.indent)?;
            return Ok(None);
        };
        let place = self.lines.enter_item(line)?;
        seed.deserialize(Node { lines: self.lines, place, depth: self.depth }).map(Some)
    }
}

struct Entries<'n, 'de> {
    lines: &'n mut Lines<'de>,
    indent: usize,
    depth: usize,
    value: Option<&'de str>,
    seen: Vec<&'de str>,
}

impl<'de> de::MapAccess<'de> for Entries<'_, 'de> {
    type Error = GiveUp;

    fn next_key_seed<K: DeserializeSeed<'de>>(&mut self, seed: K) -> Outcome<Option<K::Value>> {
        let Some(line) = self.lines.at(self.indent) else {
            self.lines.ended(self.indent)?;
            return Ok(None);
        };
        if self.lines.item_at(self.indent).is_some() {
            // Items at the indent of their key's mapping end that mapping, when it is itself an item.
            return Err(GiveUp);
        }
        let (key, value) = split_key(line.text).ok_or(GiveUp)?;
        if self.seen.contains(&key) {
            return Err(GiveUp);
        }
        self.seen.push(key);
        self.value = Some(value);
        seed.deserialize(de::value::BorrowedStrDeserializer::new(key)).map(Some)
    }

    fn next_value_seed<V: DeserializeSeed<'de>>(&mut self, seed: V) -> Outcome<V::Value> {
        let text = self.value.take().ok_or(GiveUp)?;
        let place = self.lines.enter_value(text, self.indent)?;
        seed.deserialize(Node { lines: self.lines, place, depth: self.depth })
    }
}
