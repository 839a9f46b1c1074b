//! Reads the plain block style that nearly every manifest is written in, about thirty times as fast as a whole YAML
//! parser; ten thousand pods are read at start-up and again when their directory is listed anew.
//!
//! It understands block mappings and sequences of plain or simply quoted scalars on one line, and `{}`, `[]`.
//! Whatever else it meets (anchors, tags, escapes, flow collections and block scalars in fields that are read, comments
//! after values, tabs) makes it give up, and the document goes to the whole parser, which also finds the words for what
//! is wrong. So it may only ever succeed where that parser succeeds with the same value; a property test holds it to
//! that. Istio's kinds never come here.

mod lines;
mod scalars;

use std::fmt;

use serde::de::{self, DeserializeSeed, Visitor};
use serde::forward_to_deserialize_any;

use self::lines::{Lines, Place, split_any_key, split_key};
use self::scalars::{NOT_ALWAYS_TEXT, Scalar, ends_on_its_line, scalar};
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
    let mut lines = Lines::of(document);
    lines.advance()?;
    let indent = lines.current.ok_or(GiveUp)?.indent;
    let node = Node { lines: &mut lines, place: Place::Block { indent }, depth: 0 };
    let value = T::deserialize(node)?;
    if lines.current.is_some() { Err(GiveUp) } else { Ok(value) }
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
