//! What an expression comes to for one request. Pure; allocates only where texts are made.

use std::borrow::Cow;

use super::{Attribute, Node, Order, Test};

/// Who answers for the attributes of one request.
pub trait Facts {
    /// The value of an attribute, of the type that [`Attribute::kind`] says; `None` where the request has none.
    fn attribute(&self, attribute: &Attribute) -> Option<Value<'_>>;
}

/// What an expression, or a part of it, comes to.
#[derive(Debug, Clone, PartialEq, Eq)]
#[expect(missing_docs, reason = "CEL's own types")]
pub enum Value<'v> {
    Bool(bool),
    Number(i64),
    Text(Cow<'v, str>),
}

impl Value<'_> {
    fn is_true(&self) -> Option<bool> {
        match self {
            Self::Bool(is_true) => Some(*is_true),
            _ => None,
        }
    }
}

impl<'v> Value<'v> {
    /// A text that is borrowed.
    pub fn text(text: &'v str) -> Self {
        Self::Text(Cow::Borrowed(text))
    }

    /// As a text, whatever it is.
    pub fn into_text(self) -> Cow<'v, str> {
        match self {
            Self::Bool(is_true) => Cow::Borrowed(if is_true { "true" } else { "false" }),
            Self::Number(number) => Cow::Owned(number.to_string()),
            Self::Text(text) => text,
        }
    }
}

pub(super) fn evaluate<'v>(node: &'v Node, facts: &'v dyn Facts) -> Option<Value<'v>> {
    Some(match node {
        Node::Text(text) => Value::text(text),
        Node::Number(number) => Value::Number(*number),
        Node::Bool(is_true) => Value::Bool(*is_true),
        Node::Attribute(attribute) => facts.attribute(attribute)?,
        Node::Has(attribute) => Value::Bool(facts.attribute(attribute).is_some()),
        Node::Not(one) => Value::Bool(!condition(one, facts)?),
        Node::Negated(one) => Value::Number(number(one, facts)?.checked_neg()?),
        // What is missing on one side does not matter where the other side decides alone (CEL, "Logical Operators").
        Node::And(a, b) => Value::Bool(decided(condition(a, facts), || condition(b, facts), false)?),
        Node::Or(a, b) => Value::Bool(decided(condition(a, facts), || condition(b, facts), true)?),
        Node::Compare(order, a, b) => {
            Value::Bool(compared(*order, &evaluate(a, facts)?, &evaluate(b, facts)?)?)
        }
        Node::Among(one, all) => {
            let one = evaluate(one, facts)?;
            Value::Bool(all.iter().any(|it| evaluate(it, facts).as_ref() == Some(&one)))
        }
        Node::Asked(test, one) => Value::Bool(test.holds(&text(one, facts)?)),
        Node::Chosen(three) => {
            let [asked, this, other] = &**three;
            evaluate(if condition(asked, facts)? { this } else { other }, facts)?
        }
        Node::Joined(a, b) => {
            let mut joined = text(a, facts)?.into_owned();
            joined.push_str(&text(b, facts)?);
            Value::Text(joined.into())
        }
        Node::ToText(one) => Value::Text(evaluate(one, facts)?.into_text()),
        Node::ToNumber(one) => match evaluate(one, facts)? {
            Value::Text(text) => Value::Number(text.parse().ok()?),
            other => other,
        },
        Node::Lower(one) => Value::Text(text(one, facts)?.to_ascii_lowercase().into()),
        Node::Size(one) => Value::Number(i64::try_from(text(one, facts)?.chars().count()).ok()?),
    })
}

/// `decisive` of either side decides; without it both sides have to be there.
fn decided(one: Option<bool>, other: impl FnOnce() -> Option<bool>, decisive: bool) -> Option<bool> {
    if one == Some(decisive) {
        return one;
    }
    match other() {
        Some(other) if other == decisive => Some(decisive),
        other => one.and(other),
    }
}

fn condition(node: &Node, facts: &dyn Facts) -> Option<bool> {
    evaluate(node, facts)?.is_true()
}

fn number(node: &Node, facts: &dyn Facts) -> Option<i64> {
    match evaluate(node, facts)? {
        Value::Number(number) => Some(number),
        _ => None,
    }
}

fn text<'v>(node: &'v Node, facts: &'v dyn Facts) -> Option<Cow<'v, str>> {
    match evaluate(node, facts)? {
        Value::Text(text) => Some(text),
        _ => None,
    }
}

fn compared(order: Order, a: &Value<'_>, b: &Value<'_>) -> Option<bool> {
    let ordering = match (a, b) {
        (Value::Bool(a), Value::Bool(b)) => a.cmp(b),
        (Value::Number(a), Value::Number(b)) => a.cmp(b),
        (Value::Text(a), Value::Text(b)) => a.cmp(b),
        _ => return None,
    };
    Some(match order {
        Order::Equal => ordering.is_eq(),
        Order::Unequal => ordering.is_ne(),
        Order::Less => ordering.is_lt(),
        Order::AtMost => ordering.is_le(),
        Order::More => ordering.is_gt(),
        Order::AtLeast => ordering.is_ge(),
    })
}

impl Test {
    fn holds(&self, text: &str) -> bool {
        match self {
            Self::StartsWith(part) => text.starts_with(&**part),
            Self::EndsWith(part) => text.ends_with(&**part),
            Self::Contains(part) => text.contains(&**part),
            Self::Matches(pattern) => pattern.matches(text.as_bytes()),
        }
    }
}
