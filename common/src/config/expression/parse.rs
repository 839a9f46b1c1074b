//! From words to an expression of checked types. Whatever is not part of the subset is refused here, by its name.

use std::sync::Arc;

use super::lexer::{Lexer, Word};
use super::{Attribute, MAX_EXPRESSION_DEPTH, MAX_EXPRESSION_NODES, Node, Order, Pattern, Test, Type};

/// A part and what it comes to.
type Typed = (Node, Type);

/// Reads one expression.
pub(super) struct Parser<'t> {
    lexer: Lexer<'t>,
    word: Word<'t>,
    /// Where that word stands.
    place: usize,
    depth: usize,
    nodes: usize,
}

impl<'t> Parser<'t> {
    pub(super) fn new(text: &'t str) -> Result<Self, String> {
        let mut parser = Self { lexer: Lexer::new(text), word: Word::End, place: 1, depth: 0, nodes: 0 };
        parser.step()?;
        Ok(parser)
    }

    /// All of it.
    pub(super) fn whole(mut self) -> Result<Typed, String> {
        if self.word == Word::End {
            return Err("an empty expression".to_owned());
        }
        let read = self.chosen()?;
        match self.word {
            Word::End => Ok(read),
            _ => self.wrong("the expression should end"),
        }
    }

    fn step(&mut self) -> Result<Word<'t>, String> {
        let next = self.lexer.next().map_err(|why| format!("at {}: {why}", self.lexer.place()))?;
        self.place = self.lexer.place();
        Ok(std::mem::replace(&mut self.word, next))
    }

    fn wrong<T>(&self, why: impl std::fmt::Display) -> Result<T, String> {
        match &self.word {
            Word::End => Err(format!("at the end: {why}")),
            _ => Err(format!("before {}: {why}", self.place)),
        }
    }

    fn takes(&mut self, sign: &'static str) -> Result<bool, String> {
        let is_there = self.word == Word::Sign(sign);
        if is_there {
            self.step()?;
        }
        Ok(is_there)
    }

    fn needs(&mut self, sign: &'static str) -> Result<(), String> {
        match self.takes(sign)? {
            true => Ok(()),
            false => self.wrong(format_args!("expected {sign}")),
        }
    }

    fn made(&mut self, node: Node, kind: Type) -> Result<Typed, String> {
        self.nodes += 1;
        if self.nodes > MAX_EXPRESSION_NODES {
            return self.wrong(format_args!("more than {MAX_EXPRESSION_NODES} parts"));
        }
        Ok((node, kind))
    }

    fn is(&self, (node, kind): Typed, wanted: Type, of: &str) -> Result<Box<Node>, String> {
        match kind == wanted {
            true => Ok(Box::new(node)),
            false => self.wrong(format_args!("{of} takes a {wanted}, not a {kind}")),
        }
    }

    /// `a ? b : c`, or less.
    fn chosen(&mut self) -> Result<Typed, String> {
        self.depth += 1;
        if self.depth > MAX_EXPRESSION_DEPTH {
            return self.wrong(format_args!("nested deeper than {MAX_EXPRESSION_DEPTH}"));
        }
        let mut read = self.any()?;
        if self.takes("?")? {
            let asked = *self.is(read, Type::Bool, "?")?;
            let (this, kind) = self.chosen()?;
            self.needs(":")?;
            let other = self.chosen()?;
            let other = *self.is(other, kind, "the other side of :")?;
            read = self.made(Node::Chosen(Box::new([asked, this, other])), kind)?;
        }
        self.depth -= 1;
        Ok(read)
    }

    fn any(&mut self) -> Result<Typed, String> {
        let mut read = self.all()?;
        while self.takes("||")? {
            let other = self.all()?;
            let (a, b) = (self.is(read, Type::Bool, "||")?, self.is(other, Type::Bool, "||")?);
            read = self.made(Node::Or(a, b), Type::Bool)?;
        }
        Ok(read)
    }

    fn all(&mut self) -> Result<Typed, String> {
        let mut read = self.relation()?;
        while self.takes("&&")? {
            let other = self.relation()?;
            let (a, b) = (self.is(read, Type::Bool, "&&")?, self.is(other, Type::Bool, "&&")?);
            read = self.made(Node::And(a, b), Type::Bool)?;
        }
        Ok(read)
    }

    fn relation(&mut self) -> Result<Typed, String> {
        let read = self.sum()?;
        let order = match &self.word {
            Word::Sign("==") => Order::Equal,
            Word::Sign("!=") => Order::Unequal,
            Word::Sign("<") => Order::Less,
            Word::Sign("<=") => Order::AtMost,
            Word::Sign(">") => Order::More,
            Word::Sign(">=") => Order::AtLeast,
            Word::Name("in") => {
                self.step()?;
                return self.among(read);
            }
            _ => return Ok(read),
        };
        self.step()?;
        let (other, kind) = self.sum()?;
        let one = self.is(read, kind, "a comparison with this")?;
        self.made(Node::Compare(order, one, Box::new(other)), Type::Bool)
    }

    /// What stands behind `in`: a list, or the headers of a request or an answer.
    fn among(&mut self, (one, kind): Typed) -> Result<Typed, String> {
        if self.takes("[")? {
            let mut all = Vec::new();
            while !self.takes("]")? {
                let entry = self.sum()?;
                all.push(*self.is(entry, kind, "this list")?);
                if !self.takes(",")? {
                    self.needs("]")?;
                    break;
                }
            }
            return self.made(Node::Among(Box::new(one), all.into()), Type::Bool);
        }
        let path = self.path()?;
        let Node::Text(name) = one else {
            return self.wrong("in takes a list, or the name of a header and the headers");
        };
        match Attribute::header(&path, &name) {
            Some(header) => {
                let header = header.or_else(|why| self.wrong(why))?;
                self.made(Node::Has(header), Type::Bool)
            }
            None => self.wrong(format_args!("{path} is no list and no map of headers")),
        }
    }

    fn sum(&mut self) -> Result<Typed, String> {
        let mut read = self.unary()?;
        loop {
            match self.word {
                Word::Sign("+") => {
                    self.step()?;
                    let other = self.unary()?;
                    let a = self.is(read, Type::String, "+")?;
                    let b = self.is(other, Type::String, "+")?;
                    read = self.made(Node::Joined(a, b), Type::String)?;
                }
                Word::Sign(sign @ ("-" | "*" | "/" | "%")) => {
                    return self.wrong(format_args!("the operator {sign} is not part of the subset"));
                }
                _ => return Ok(read),
            }
        }
    }

    fn unary(&mut self) -> Result<Typed, String> {
        self.depth += 1;
        if self.depth > MAX_EXPRESSION_DEPTH {
            return self.wrong(format_args!("nested deeper than {MAX_EXPRESSION_DEPTH}"));
        }
        let read = if self.takes("!")? {
            let one = self.unary()?;
            let one = self.is(one, Type::Bool, "!")?;
            self.made(Node::Not(one), Type::Bool)
        } else if self.takes("-")? {
            let one = self.unary()?;
            let one = self.is(one, Type::Int, "-")?;
            self.made(Node::Negated(one), Type::Int)
        } else {
            self.asked()
        };
        self.depth -= 1;
        read
    }

    /// A part, and what is asked of it by `.startsWith('a')` and its like.
    fn asked(&mut self) -> Result<Typed, String> {
        let mut read = self.primary()?;
        while self.takes(".")? {
            let name = self.name()?;
            self.needs("(")?;
            read = self.method(read, name)?;
        }
        Ok(read)
    }

    fn method(&mut self, of: Typed, name: &str) -> Result<Typed, String> {
        let of = self.is(of, Type::String, name)?;
        if matches!(name, "lowerAscii" | "size") {
            self.needs(")")?;
            return match name {
                "size" => self.made(Node::Size(of), Type::Int),
                _ => self.made(Node::Lower(of), Type::String),
            };
        }
        let Word::Text(part) = &self.word else {
            return self.wrong(format_args!("{name} takes a text"));
        };
        let part: Arc<str> = part.as_ref().into();
        let test = match name {
            "startsWith" => Test::StartsWith(part),
            "endsWith" => Test::EndsWith(part),
            "contains" => Test::Contains(part),
            "matches" => Test::Matches(found_in(&part).or_else(|why| self.wrong(why))?),
            _ => return self.wrong(format_args!("the function {name} is not part of the subset")),
        };
        self.step()?;
        self.needs(")")?;
        self.made(Node::Asked(test, of), Type::Bool)
    }

    fn name(&mut self) -> Result<&'t str, String> {
        match self.step()? {
            Word::Name(name) => Ok(name),
            _ => self.wrong("expected a name"),
        }
    }

    fn primary(&mut self) -> Result<Typed, String> {
        if self.takes("(")? {
            let read = self.chosen()?;
            self.needs(")")?;
            return Ok(read);
        }
        match self.word.clone() {
            Word::Text(text) => {
                self.step()?;
                self.made(Node::Text(text.as_ref().into()), Type::String)
            }
            Word::Number(number) => {
                self.step()?;
                self.made(Node::Number(number), Type::Int)
            }
            Word::Name("true" | "false") => {
                let is_true = self.word == Word::Name("true");
                self.step()?;
                self.made(Node::Bool(is_true), Type::Bool)
            }
            Word::Name(_) => self.named(),
            _ => self.wrong("expected a value"),
        }
    }

    /// An attribute, or a function of one value.
    fn named(&mut self) -> Result<Typed, String> {
        let name = self.name()?;
        if !self.takes("(")? {
            return self.attribute(name);
        }
        if name == "has" {
            let name = self.name()?;
            return match self.attribute(name)? {
                (Node::Attribute(attribute), _) => {
                    self.needs(")")?;
                    self.made(Node::Has(attribute), Type::Bool)
                }
                _ => self.wrong("has takes an attribute"),
            };
        }
        let (one, kind) = self.chosen()?;
        self.needs(")")?;
        let one = Box::new(one);
        match (name, kind) {
            ("string", _) => self.made(Node::ToText(one), Type::String),
            ("int", Type::String | Type::Int) => self.made(Node::ToNumber(one), Type::Int),
            ("size", Type::String) => self.made(Node::Size(one), Type::Int),
            ("int" | "size", kind) => self.wrong(format_args!("{name} does not take a {kind}")),
            _ => self.wrong(format_args!("the function {name} is not part of the subset")),
        }
    }

    /// The rest of a path of names, none of which is a function.
    fn path(&mut self) -> Result<String, String> {
        let mut path = self.name()?.to_owned();
        while self.takes(".")? {
            path.push('.');
            path.push_str(self.name()?);
        }
        Ok(path)
    }

    fn attribute(&mut self, first: &str) -> Result<Typed, String> {
        let mut path = first.to_owned();
        loop {
            if let Some(attribute) = Attribute::of(&path) {
                let kind = attribute.kind();
                return self.made(Node::Attribute(attribute), kind);
            }
            let part: String = if self.takes("[")? {
                let Word::Text(key) = self.step()? else { return self.wrong("expected a text in [ ]") };
                self.needs("]")?;
                if let Some(header) = Attribute::header(&path, &key) {
                    let header = header.or_else(|why| self.wrong(why))?;
                    return self.made(Node::Attribute(header), Type::String);
                }
                key.into_owned()
            } else if self.takes(".")? {
                let name = self.name()?;
                // A header whose name can be written so: `request.headers.host`.
                if let Some(header) = Attribute::header(&path, name) {
                    let header = header.or_else(|why| self.wrong(why))?;
                    return self.made(Node::Attribute(header), Type::String);
                }
                name.to_owned()
            } else {
                return self.wrong(format_args!("the attribute {path} is not part of the subset"));
            };
            path.push('.');
            path.push_str(&part);
        }
    }
}

/// A regex that has to match somewhere, as CEL's `matches` asks.
fn found_in(regex: &Arc<str>) -> Result<Pattern, String> {
    Pattern::whole(regex.clone())?;
    Pattern::whole(format!("(?s:.*)(?:{regex})(?s:.*)").into())
}
