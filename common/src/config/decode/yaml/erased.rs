//! serde's traits as objects, so that the whole parser is compiled once and not once for every type that is read.
//!
//! As in the crate erased-serde; but each kind of visitor hears here only what it can use, which makes a third of the
//! program text of it. The surprising thing: what an error passes through keeps of it only its words, and whether it is
//! about a field.

use std::fmt;

use serde::Deserialize;
use serde::de::{
    DeserializeSeed, Deserializer, EnumAccess, Error, Expected, MapAccess, SeqAccess, Unexpected, Visitor,
};
use serde::forward_to_deserialize_any;

/// Reads a value from a deserializer.
///
/// # Errors
/// [`Told`].
pub(super) fn read<'de, T: Deserialize<'de>>(source: &mut dyn Source<'de>) -> Result<T, Told> {
    T::deserialize(Node(source))
}

/// What was said to be wrong.
#[derive(Debug)]
pub(super) enum Told {
    Other(String),
    UnknownField(String, &'static [&'static str]),
    MissingField(&'static str),
}

impl Told {
    fn of(error: impl fmt::Display) -> Self {
        Self::Other(error.to_string())
    }

    /// The same in another's words.
    pub(super) fn raise<E: Error>(self) -> E {
        match self {
            Self::Other(text) => E::custom(text),
            Self::UnknownField(field, known) => E::unknown_field(&field, known),
            Self::MissingField(field) => E::missing_field(field),
        }
    }
}

impl fmt::Display for Told {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Other(text) => f.write_str(text),
            Self::UnknownField(field, _) => write!(f, "unknown field `{field}`"),
            Self::MissingField(field) => write!(f, "missing field `{field}`"),
        }
    }
}

impl std::error::Error for Told {}

impl Error for Told {
    fn custom<T: fmt::Display>(text: T) -> Self {
        Self::of(text)
    }

    fn unknown_field(field: &str, known: &'static [&'static str]) -> Self {
        Self::UnknownField(field.to_owned(), known)
    }

    fn missing_field(field: &'static str) -> Self {
        Self::MissingField(field)
    }
}

/// What a type asks a document for.
#[derive(Clone, Copy)]
pub(super) enum Ask {
    Any,
    Bool,
    Signed,
    Unsigned,
    Float,
    Text,
    Option,
    Unit,
    Sequence,
    Tuple(usize),
    Mapping,
    Struct(&'static str, &'static [&'static str]),
    /// By its name: some have a meaning for the parser.
    Newtype(&'static str),
    Field,
    Nothing,
}

/// What stands there.
pub(super) enum Said<'s, 'de> {
    Bool(bool),
    Signed(i64),
    Unsigned(u64),
    Float(f64),
    Text(&'s str),
    Borrowed(&'de str),
    Null,
    Some(&'s mut dyn Source<'de>),
    Newtype(&'s mut dyn Source<'de>),
    Sequence(&'s mut dyn Elements<'de>),
    Mapping(&'s mut dyn Entries<'de>),
}

impl Said<'_, '_> {
    fn unexpected(&self, expected: &dyn Expected) -> Told {
        let said = match self {
            Self::Bool(it) => Unexpected::Bool(*it),
            Self::Signed(it) => Unexpected::Signed(*it),
            Self::Unsigned(it) => Unexpected::Unsigned(*it),
            Self::Float(it) => Unexpected::Float(*it),
            Self::Text(it) => Unexpected::Str(it),
            Self::Borrowed(it) => Unexpected::Str(it),
            Self::Null => Unexpected::Unit,
            Self::Some(_) => Unexpected::Option,
            Self::Newtype(_) => Unexpected::NewtypeStruct,
            Self::Sequence(_) => Unexpected::Seq,
            Self::Mapping(_) => Unexpected::Map,
        };
        Told::invalid_type(said, expected)
    }
}

/// A deserializer, asked once.
pub(super) trait Source<'de> {
    fn give(&mut self, ask: Ask, to: &mut dyn Hear<'de>) -> Result<(), Told>;
}

/// A visitor, told once.
pub(super) trait Hear<'de> {
    fn hear(&mut self, said: Said<'_, 'de>) -> Result<(), Told>;
    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result;
}

/// A seed, given once.
pub(super) trait Want<'de> {
    fn take(&mut self, source: &mut dyn Source<'de>) -> Result<(), Told>;
}

/// A sequence.
pub(super) trait Elements<'de> {
    fn next(&mut self, want: &mut dyn Want<'de>) -> Result<bool, Told>;
}

/// A mapping.
pub(super) trait Entries<'de> {
    fn key(&mut self, want: &mut dyn Want<'de>) -> Result<bool, Told>;
    fn value(&mut self, want: &mut dyn Want<'de>) -> Result<(), Told>;
}

/// The parser's side: one of serde's deserializers as a [`Source`].
pub(super) struct Once<D>(Option<D>);

impl<D> Once<D> {
    pub(super) fn new(deserializer: D) -> Self {
        Self(Some(deserializer))
    }
}

impl<'de, D: Deserializer<'de>> Source<'de> for Once<D> {
    fn give(&mut self, ask: Ask, to: &mut dyn Hear<'de>) -> Result<(), Told> {
        let node = self.0.take().ok_or_else(|| Told::of("asked twice"))?;
        let to = Passing(to);
        let given = match ask {
            Ask::Any => node.deserialize_any(to),
            Ask::Bool => node.deserialize_bool(to),
            Ask::Signed => node.deserialize_i64(to),
            Ask::Unsigned => node.deserialize_u64(to),
            Ask::Float => node.deserialize_f64(to),
            Ask::Text => node.deserialize_str(to),
            Ask::Option => node.deserialize_option(to),
            Ask::Unit => node.deserialize_unit(to),
            Ask::Sequence => node.deserialize_seq(to),
            Ask::Tuple(length) => node.deserialize_tuple(length, to),
            Ask::Mapping => node.deserialize_map(to),
            Ask::Struct(name, fields) => node.deserialize_struct(name, fields, to),
            Ask::Newtype(name) => node.deserialize_newtype_struct(name, to),
            Ask::Field => node.deserialize_identifier(to),
            Ask::Nothing => node.deserialize_ignored_any(to),
        };
        given.map_err(Told::of)
    }
}

/// What the parser tells.
struct Passing<'p, 'de>(&'p mut dyn Hear<'de>);

impl<'de> Visitor<'de> for Passing<'_, 'de> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.expecting(f)
    }

    fn visit_bool<E: Error>(self, it: bool) -> Result<(), E> {
        self.0.hear(Said::Bool(it)).map_err(Told::raise)
    }

    fn visit_i64<E: Error>(self, it: i64) -> Result<(), E> {
        self.0.hear(Said::Signed(it)).map_err(Told::raise)
    }

    fn visit_u64<E: Error>(self, it: u64) -> Result<(), E> {
        self.0.hear(Said::Unsigned(it)).map_err(Told::raise)
    }

    fn visit_f64<E: Error>(self, it: f64) -> Result<(), E> {
        self.0.hear(Said::Float(it)).map_err(Told::raise)
    }

    fn visit_str<E: Error>(self, it: &str) -> Result<(), E> {
        self.0.hear(Said::Text(it)).map_err(Told::raise)
    }

    fn visit_borrowed_str<E: Error>(self, it: &'de str) -> Result<(), E> {
        self.0.hear(Said::Borrowed(it)).map_err(Told::raise)
    }

    fn visit_none<E: Error>(self) -> Result<(), E> {
        self.0.hear(Said::Null).map_err(Told::raise)
    }

    fn visit_unit<E: Error>(self) -> Result<(), E> {
        self.0.hear(Said::Null).map_err(Told::raise)
    }

    fn visit_some<D: Deserializer<'de>>(self, node: D) -> Result<(), D::Error> {
        self.0.hear(Said::Some(&mut Once::new(node))).map_err(Told::raise)
    }

    fn visit_newtype_struct<D: Deserializer<'de>>(self, node: D) -> Result<(), D::Error> {
        self.0.hear(Said::Newtype(&mut Once::new(node))).map_err(Told::raise)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, elements: A) -> Result<(), A::Error> {
        self.0.hear(Said::Sequence(&mut Through(elements))).map_err(Told::raise)
    }

    fn visit_map<A: MapAccess<'de>>(self, entries: A) -> Result<(), A::Error> {
        self.0.hear(Said::Mapping(&mut Through(entries))).map_err(Told::raise)
    }

    fn visit_enum<A: EnumAccess<'de>>(self, _: A) -> Result<(), A::Error> {
        Err(A::Error::custom("an enumeration, which no manifest has"))
    }
}

/// A sequence or a mapping of the parser.
struct Through<A>(A);

impl<'de, A: SeqAccess<'de>> Elements<'de> for Through<A> {
    fn next(&mut self, want: &mut dyn Want<'de>) -> Result<bool, Told> {
        self.0.next_element_seed(Wanted(want)).map(|it| it.is_some()).map_err(Told::of)
    }
}

impl<'de, A: MapAccess<'de>> Entries<'de> for Through<A> {
    fn key(&mut self, want: &mut dyn Want<'de>) -> Result<bool, Told> {
        self.0.next_key_seed(Wanted(want)).map(|it| it.is_some()).map_err(Told::of)
    }

    fn value(&mut self, want: &mut dyn Want<'de>) -> Result<(), Told> {
        self.0.next_value_seed(Wanted(want)).map_err(Told::of)
    }
}

struct Wanted<'w, 'de>(&'w mut dyn Want<'de>);

impl<'de> DeserializeSeed<'de> for Wanted<'_, 'de> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, node: D) -> Result<(), D::Error> {
        self.0.take(&mut Once::new(node)).map_err(Told::raise)
    }
}

/// The side of the types: a [`Source`] as one of serde's deserializers.
struct Node<'n, 'de>(&'n mut dyn Source<'de>);

/// How a visitor is told what it may hear.
type Tell<'de, V> = fn(V, Said<'_, 'de>) -> Result<<V as Visitor<'de>>::Value, Told>;

/// A visitor and what it makes of what it hears.
struct Slot<'de, V: Visitor<'de>> {
    visitor: Option<V>,
    tell: Tell<'de, V>,
    value: Option<V::Value>,
}

impl<'de, V: Visitor<'de>> Hear<'de> for Slot<'de, V> {
    fn hear(&mut self, said: Said<'_, 'de>) -> Result<(), Told> {
        let visitor = self.visitor.take().ok_or_else(|| Told::of("told twice"))?;
        self.value = Some((self.tell)(visitor, said)?);
        Ok(())
    }

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.visitor.as_ref().map_or(Ok(()), |visitor| visitor.expecting(f))
    }
}

impl<'de> Node<'_, 'de> {
    fn ask<V: Visitor<'de>>(self, ask: Ask, visitor: V, tell: Tell<'de, V>) -> Result<V::Value, Told> {
        let mut slot = Slot { visitor: Some(visitor), tell, value: None };
        self.0.give(ask, &mut slot)?;
        slot.value.ok_or_else(|| Told::of("nothing was told"))
    }
}

fn anything<'de, V: Visitor<'de>>(visitor: V, said: Said<'_, 'de>) -> Result<V::Value, Told> {
    match said {
        Said::Bool(it) => visitor.visit_bool(it),
        Said::Signed(it) => visitor.visit_i64(it),
        Said::Unsigned(it) => visitor.visit_u64(it),
        Said::Float(it) => visitor.visit_f64(it),
        Said::Text(it) => visitor.visit_str(it),
        Said::Borrowed(it) => visitor.visit_borrowed_str(it),
        Said::Null => visitor.visit_unit(),
        Said::Some(it) => visitor.visit_some(Node(it)),
        Said::Newtype(it) => visitor.visit_newtype_struct(Node(it)),
        Said::Sequence(it) => visitor.visit_seq(Sequence(it)),
        Said::Mapping(it) => visitor.visit_map(Mapping(it)),
    }
}

fn scalar<'de, V: Visitor<'de>>(visitor: V, said: Said<'_, 'de>) -> Result<V::Value, Told> {
    match said {
        Said::Bool(it) => visitor.visit_bool(it),
        Said::Signed(it) => visitor.visit_i64(it),
        Said::Unsigned(it) => visitor.visit_u64(it),
        Said::Float(it) => visitor.visit_f64(it),
        other => text(visitor, other),
    }
}

fn text<'de, V: Visitor<'de>>(visitor: V, said: Said<'_, 'de>) -> Result<V::Value, Told> {
    match said {
        Said::Text(it) => visitor.visit_str(it),
        Said::Borrowed(it) => visitor.visit_borrowed_str(it),
        other => Err(other.unexpected(&visitor)),
    }
}

fn option<'de, V: Visitor<'de>>(visitor: V, said: Said<'_, 'de>) -> Result<V::Value, Told> {
    match said {
        Said::Null => visitor.visit_none(),
        Said::Some(it) => visitor.visit_some(Node(it)),
        other => Err(other.unexpected(&visitor)),
    }
}

fn newtype<'de, V: Visitor<'de>>(visitor: V, said: Said<'_, 'de>) -> Result<V::Value, Told> {
    match said {
        Said::Newtype(it) => visitor.visit_newtype_struct(Node(it)),
        other => Err(other.unexpected(&visitor)),
    }
}

fn sequence<'de, V: Visitor<'de>>(visitor: V, said: Said<'_, 'de>) -> Result<V::Value, Told> {
    match said {
        Said::Sequence(it) => visitor.visit_seq(Sequence(it)),
        other => Err(other.unexpected(&visitor)),
    }
}

fn mapping<'de, V: Visitor<'de>>(visitor: V, said: Said<'_, 'de>) -> Result<V::Value, Told> {
    match said {
        Said::Mapping(it) => visitor.visit_map(Mapping(it)),
        other => Err(other.unexpected(&visitor)),
    }
}

type Given<'de, V> = Result<<V as Visitor<'de>>::Value, Told>;

impl<'de> Deserializer<'de> for Node<'_, 'de> {
    type Error = Told;

    fn deserialize_any<V: Visitor<'de>>(self, visitor: V) -> Given<'de, V> {
        self.ask(Ask::Any, visitor, anything)
    }

    fn deserialize_bool<V: Visitor<'de>>(self, visitor: V) -> Given<'de, V> {
        self.ask(Ask::Bool, visitor, scalar)
    }

    fn deserialize_i32<V: Visitor<'de>>(self, visitor: V) -> Given<'de, V> {
        self.deserialize_i64(visitor)
    }

    fn deserialize_i64<V: Visitor<'de>>(self, visitor: V) -> Given<'de, V> {
        self.ask(Ask::Signed, visitor, scalar)
    }

    fn deserialize_u16<V: Visitor<'de>>(self, visitor: V) -> Given<'de, V> {
        self.deserialize_u64(visitor)
    }

    fn deserialize_u32<V: Visitor<'de>>(self, visitor: V) -> Given<'de, V> {
        self.deserialize_u64(visitor)
    }

    fn deserialize_u64<V: Visitor<'de>>(self, visitor: V) -> Given<'de, V> {
        self.ask(Ask::Unsigned, visitor, scalar)
    }

    fn deserialize_f64<V: Visitor<'de>>(self, visitor: V) -> Given<'de, V> {
        self.ask(Ask::Float, visitor, scalar)
    }

    fn deserialize_str<V: Visitor<'de>>(self, visitor: V) -> Given<'de, V> {
        self.ask(Ask::Text, visitor, text)
    }

    fn deserialize_string<V: Visitor<'de>>(self, visitor: V) -> Given<'de, V> {
        self.deserialize_str(visitor)
    }

    fn deserialize_option<V: Visitor<'de>>(self, visitor: V) -> Given<'de, V> {
        self.ask(Ask::Option, visitor, option)
    }

    fn deserialize_unit<V: Visitor<'de>>(self, visitor: V) -> Given<'de, V> {
        self.ask(Ask::Unit, visitor, anything)
    }

    fn deserialize_newtype_struct<V: Visitor<'de>>(self, name: &'static str, visitor: V) -> Given<'de, V> {
        self.ask(Ask::Newtype(name), visitor, newtype)
    }

    fn deserialize_seq<V: Visitor<'de>>(self, visitor: V) -> Given<'de, V> {
        self.ask(Ask::Sequence, visitor, sequence)
    }

    fn deserialize_tuple<V: Visitor<'de>>(self, length: usize, visitor: V) -> Given<'de, V> {
        self.ask(Ask::Tuple(length), visitor, sequence)
    }

    fn deserialize_map<V: Visitor<'de>>(self, visitor: V) -> Given<'de, V> {
        self.ask(Ask::Mapping, visitor, mapping)
    }

    fn deserialize_struct<V: Visitor<'de>>(
        self,
        name: &'static str,
        fields: &'static [&'static str],
        visitor: V,
    ) -> Given<'de, V> {
        self.ask(Ask::Struct(name, fields), visitor, mapping)
    }

    fn deserialize_identifier<V: Visitor<'de>>(self, visitor: V) -> Given<'de, V> {
        self.ask(Ask::Field, visitor, text)
    }

    fn deserialize_ignored_any<V: Visitor<'de>>(self, visitor: V) -> Given<'de, V> {
        self.ask(Ask::Nothing, visitor, anything)
    }

    forward_to_deserialize_any! {
        i8 i16 i128 u8 u128 f32 char bytes byte_buf unit_struct tuple_struct enum
    }
}

/// A seed and what it makes.
struct Seed<S, T> {
    seed: Option<S>,
    made: Option<T>,
}

impl<'de, S: DeserializeSeed<'de>> Want<'de> for Seed<S, S::Value> {
    fn take(&mut self, source: &mut dyn Source<'de>) -> Result<(), Told> {
        let seed = self.seed.take().ok_or_else(|| Told::of("given twice"))?;
        self.made = Some(seed.deserialize(Node(source))?);
        Ok(())
    }
}

struct Sequence<'s, 'de>(&'s mut dyn Elements<'de>);

impl<'de> SeqAccess<'de> for Sequence<'_, 'de> {
    type Error = Told;

    fn next_element_seed<S: DeserializeSeed<'de>>(&mut self, seed: S) -> Result<Option<S::Value>, Told> {
        let mut seed = Seed { seed: Some(seed), made: None };
        self.0.next(&mut seed)?;
        Ok(seed.made)
    }
}

struct Mapping<'m, 'de>(&'m mut dyn Entries<'de>);

impl<'de> MapAccess<'de> for Mapping<'_, 'de> {
    type Error = Told;

    fn next_key_seed<S: DeserializeSeed<'de>>(&mut self, seed: S) -> Result<Option<S::Value>, Told> {
        let mut seed = Seed { seed: Some(seed), made: None };
        self.0.key(&mut seed)?;
        Ok(seed.made)
    }

    fn next_value_seed<S: DeserializeSeed<'de>>(&mut self, seed: S) -> Result<S::Value, Told> {
        let mut seed = Seed { seed: Some(seed), made: None };
        self.0.value(&mut seed)?;
        seed.made.ok_or_else(|| Told::of("a key without a value"))
    }
}
