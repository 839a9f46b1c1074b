//! Conditions and values about one request, in a subset of CEL: checked when they are read, evaluated without parsing.
//!
//! Knows no request: whoever evaluates answers for the attributes. The surprising thing: what is missing is neither true nor
//! false. As in CEL it spoils whatever depends on it, and a condition that is spoilt does not hold.

mod attribute;
mod evaluate;
mod lexer;
mod parse;
#[cfg(test)]
mod tests;

use std::fmt;
use std::sync::Arc;

use http::HeaderName;

pub use self::attribute::{Attribute, PeerFact};
pub use self::evaluate::{Facts, Value};
use self::parse::Parser;
use super::routing::strings::Pattern;

/// Longest expression, in bytes.
pub const MAX_EXPRESSION_BYTES: usize = 4096;
/// Most operators, functions and operands of one expression.
pub const MAX_EXPRESSION_NODES: usize = 256;
/// Deepest nesting of an expression.
pub const MAX_EXPRESSION_DEPTH: usize = 32;

/// What an expression comes to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[expect(missing_docs, reason = "CEL's own words")]
pub enum Type {
    Bool,
    Int,
    String,
}

impl fmt::Display for Type {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Bool => "bool",
            Self::Int => "int",
            Self::String => "string",
        })
    }
}

/// One expression. Two are equal when they were written alike.
#[derive(Debug, Clone)]
pub struct Expression {
    text: Arc<str>,
    root: Arc<Node>,
    kind: Type,
}

impl PartialEq for Expression {
    fn eq(&self, other: &Self) -> bool {
        self.text == other.text
    }
}

impl Eq for Expression {}

impl Expression {
    /// A condition.
    ///
    /// # Errors
    /// In words, with the place: what cannot be read, or is not part of the subset, or is no condition.
    pub fn condition(text: Arc<str>) -> Result<Self, String> {
        let read = Self::value(text)?;
        match read.kind {
            Type::Bool => Ok(read),
            other => Err(format!("comes to a {other}, where a condition belongs")),
        }
    }

    /// A value.
    ///
    /// # Errors
    /// As [`Expression::condition`].
    pub fn value(text: Arc<str>) -> Result<Self, String> {
        if text.len() > MAX_EXPRESSION_BYTES {
            return Err(format!("more than {MAX_EXPRESSION_BYTES} bytes"));
        }
        let (root, kind) = Parser::new(&text)?.whole()?;
        Ok(Self { text, root: Arc::new(root), kind })
    }

    /// As it was written.
    pub fn text(&self) -> &Arc<str> {
        &self.text
    }

    /// What it comes to.
    pub fn kind(&self) -> Type {
        self.kind
    }

    /// Whether it holds; not where what it depends on is missing.
    pub fn holds(&self, facts: &dyn Facts) -> bool {
        matches!(self.evaluate(facts), Some(Value::Bool(true)))
    }

    /// What it comes to; `None` where what it depends on is missing.
    pub fn evaluate<'v>(&'v self, facts: &'v dyn Facts) -> Option<Value<'v>> {
        evaluate::evaluate(&self.root, facts)
    }

    /// The attributes it asks for.
    pub fn attributes(&self, mut each: impl FnMut(&Attribute)) {
        self.root.walk(&mut each);
    }

    /// Headers of the request and of the answer that it asks for.
    pub fn headers(&self) -> (Vec<HeaderName>, Vec<HeaderName>) {
        let (mut request, mut response) = (Vec::new(), Vec::new());
        self.attributes(|attribute| match attribute {
            Attribute::RequestHeader(name) => request.push(name.clone()),
            Attribute::ResponseHeader(name) => response.push(name.clone()),
            _ => {}
        });
        (request, response)
    }
}

/// How two values are compared.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Order {
    Equal,
    Unequal,
    Less,
    AtMost,
    More,
    AtLeast,
}

/// What is asked of a text.
#[derive(Debug)]
enum Test {
    StartsWith(Arc<str>),
    EndsWith(Arc<str>),
    Contains(Arc<str>),
    Matches(Pattern),
}

/// One part of an expression, of checked types.
#[derive(Debug)]
enum Node {
    Text(Arc<str>),
    Number(i64),
    Bool(bool),
    Attribute(Attribute),
    Has(Attribute),
    Not(Box<Node>),
    Negated(Box<Node>),
    And(Box<Node>, Box<Node>),
    Or(Box<Node>, Box<Node>),
    Compare(Order, Box<Node>, Box<Node>),
    /// Whether the first is one of the others.
    Among(Box<Node>, Box<[Node]>),
    Asked(Test, Box<Node>),
    Chosen(Box<[Node; 3]>),
    /// Two texts as one.
    Joined(Box<Node>, Box<Node>),
    ToText(Box<Node>),
    ToNumber(Box<Node>),
    Lower(Box<Node>),
    Size(Box<Node>),
}

impl Node {
    fn walk(&self, each: &mut dyn FnMut(&Attribute)) {
        match self {
            Self::Text(_) | Self::Number(_) | Self::Bool(_) => {}
            Self::Attribute(attribute) | Self::Has(attribute) => each(attribute),
            Self::Not(it) | Self::Negated(it) | Self::Asked(_, it) => it.walk(each),
            Self::ToText(it) | Self::ToNumber(it) | Self::Lower(it) | Self::Size(it) => it.walk(each),
            Self::And(a, b) | Self::Or(a, b) | Self::Compare(_, a, b) | Self::Joined(a, b) => {
                a.walk(each);
                b.walk(each);
            }
            Self::Among(one, all) => {
                one.walk(each);
                all.iter().for_each(|it| it.walk(each));
            }
            Self::Chosen(three) => three.iter().for_each(|it| it.walk(each)),
        }
    }
}
