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

    /// The current line as an item of a sequence at `indent`.
    fn item_at(&self, indent: usize) -> Option<Line<'de>> {
        let line = self.current.filter(|line| line.indent == indent)?;
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
        self.advance()?;
        self.inline(text, line.indent)
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
        let place = Place::Inline { text, indent };
        // A deeper line would continue a scalar, or be the text of a block scalar.
        let continues = self.deeper_than(indent).is_some();
        if continues && !text.starts_with(['|', '>']) { Err(GiveUp) } else { Ok(place) }
    }

    fn skip_deeper(&mut self, indent: usize) -> Outcome<()> {
        while self.deeper_than(indent).is_some() {
            self.advance()?;
        }
        Ok(())
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
    let mut closers = Vec::new();
    let mut bytes = text.bytes();
    let opens_flow = text.starts_with(['"', '\'', '{', '[']);
    while let Some(byte) = bytes.next() {
        match byte {
            b'"' => loop {
                match bytes.next() {
                    Some(b'"') => break,
                    Some(b'\\') => drop(bytes.next()),
                    Some(_) => {}
                    None => return false,
                }
            },
            b'\'' if !bytes.any(|b| b == b'\'') => return false,
            b'{' => closers.push(b'}'),
            b'[' => closers.push(b']'),
            b'}' | b']' if closers.pop() != Some(byte) => return false,
            b'&' | b'*' | b'!' | b'#' | b'%' | b'@' | b'`' | b'\t' => return false,
            _ => {}
        }
        if closers.len() > MAX_DEPTH {
            return false;
        }
    }
    // Beside a quoted or flow value nothing may follow; what does is for the whole parser to judge.
    closers.is_empty() && (!opens_flow || text.ends_with(['"', '\'', '}', ']']))
}

/// Words that some YAML reads as something else than a string.
const NOT_ALWAYS_TEXT: [&str; 11] =
    ["y", "n", "yes", "no", "on", "off", "true", "false", "null", "nan", "inf"];

#[derive(Clone, Copy)]
enum Place<'de> {
    /// A mapping or sequence that starts on the current line at this indent.
    Block { indent: usize },
    /// A value beside its key or dash, which is at this indent.
    Inline { text: &'de str, indent: usize },
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
            Place::Inline { text, .. } => scalar(text),
            Place::Null => Ok(Scalar::Null),
            Place::Block { .. } => Err(GiveUp),
        }
    }

    fn skip(self) -> Outcome<()> {
        match self.place {
            Place::Null => Ok(()),
            Place::Block { indent } => {
                if self.lines.item_at(indent).is_some() {
                    while self.lines.item_at(indent).is_some() {
                        self.lines.advance()?;
                        self.lines.skip_deeper(indent)?;
                    }
                    return Ok(());
                }
                let first = self.lines.current.ok_or(GiveUp)?;
                split_key(first.text).ok_or(GiveUp)?;
                // Deeper, or as deep: both belong to it. Less deep ends it, and a wrong indent shows there.
                self.lines.skip_deeper(indent.checked_sub(1).ok_or(GiveUp)?)
            }
            Place::Inline { text, indent } => {
                if text.starts_with(['|', '>']) {
                    return self.lines.skip_deeper(indent);
                }
                if ends_on_its_line(text) { Ok(()) } else { Err(GiveUp) }
            }
        }
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

    fn deserialize_ignored_any<V: Visitor<'de>>(self, visitor: V) -> Outcome<V::Value> {
        self.skip()?;
        visitor.visit_unit()
    }

    forward_to_deserialize_any! {
        bool i8 i16 i32 i64 i128 u8 u16 u32 u64 u128 f32 f64 char bytes byte_buf unit unit_struct newtype_struct
        seq tuple tuple_struct map struct enum identifier
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
            // A deeper line here belongs to nothing.
            return if self.lines.deeper_than(self.indent).is_some() { Err(GiveUp) } else { Ok(None) };
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
        let Some(line) = self.lines.current.filter(|line| line.indent == self.indent) else {
            return if self.lines.deeper_than(self.indent).is_some() { Err(GiveUp) } else { Ok(None) };
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
        self.lines.advance()?;
        let place = if text.is_empty() {
            self.lines.nested(self.indent, true)
        } else {
            self.lines.inline(text, self.indent)?
        };
        seed.deserialize(Node { lines: self.lines, place, depth: self.depth })
    }
}
