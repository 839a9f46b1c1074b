//! The words of an expression, with their places.

use std::borrow::Cow;

/// One word.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Word<'t> {
    Name(&'t str),
    Text(Cow<'t, str>),
    Number(i64),
    /// An operator or a bracket.
    Sign(&'static str),
    End,
}

/// Longer ones first: `<=` is no `<`.
const SIGNS: [&str; 22] = [
    "==", "!=", "<=", ">=", "&&", "||", "<", ">", "!", "(", ")", "[", "]", ".", ",", "?", ":", "+", "-", "*",
    "/", "%",
];

/// Cuts a text into words.
pub(super) struct Lexer<'t> {
    text: &'t str,
    at: usize,
}

impl<'t> Lexer<'t> {
    pub(super) fn new(text: &'t str) -> Self {
        Self { text, at: 0 }
    }

    /// Where the next word begins, in characters from 1.
    pub(super) fn place(&self) -> usize {
        self.text[..self.at].chars().count() + 1
    }

    /// The next word.
    ///
    /// # Errors
    /// In words, when there is none of CEL.
    pub(super) fn next(&mut self) -> Result<Word<'t>, String> {
        let rest = self.text[self.at..].trim_start();
        self.at = self.text.len() - rest.len();
        let Some(first) = rest.chars().next() else { return Ok(Word::End) };
        let raw = rest.strip_prefix(['r', 'R']).filter(|rest| rest.starts_with(['"', '\'']));
        if let Some(raw) = raw {
            self.at += 1;
            return self.quoted(raw, true);
        }
        match first {
            '"' | '\'' => self.quoted(rest, false),
            '0'..='9' => self.number(rest),
            'a'..='z' | 'A'..='Z' | '_' => {
                let end = rest.find(|c: char| !(c.is_ascii_alphanumeric() || c == '_'));
                let name = &rest[..end.unwrap_or(rest.len())];
                self.at += name.len();
                Ok(Word::Name(name))
            }
            other => match SIGNS.iter().find(|sign| rest.starts_with(**sign)) {
                Some(sign) => {
                    self.at += sign.len();
                    Ok(Word::Sign(sign))
                }
                None => Err(format!("{other:?} is none of CEL")),
            },
        }
    }

    fn number(&mut self, rest: &'t str) -> Result<Word<'t>, String> {
        let end = rest.find(|c: char| !(c.is_ascii_alphanumeric() || c == '.')).unwrap_or(rest.len());
        let text = &rest[..end];
        self.at += end;
        let number = text.parse();
        number
            .map(Word::Number)
            .map_err(|_| format!("{text:?} is no whole number; no other is part of the subset"))
    }

    fn quoted(&mut self, rest: &'t str, raw: bool) -> Result<Word<'t>, String> {
        let quote = rest.as_bytes()[0];
        if rest[1..].starts_with(&rest[..1].repeat(2)) {
            return Err("texts in three quotes are not part of the subset".to_owned());
        }
        let mut at = 1;
        loop {
            match rest.as_bytes().get(at) {
                None | Some(b'\n' | b'\r') => return Err("a text without its closing quote".to_owned()),
                Some(byte) if *byte == quote => break,
                Some(b'\\') if !raw => at += 2,
                Some(_) => at += 1,
            }
        }
        let inside = &rest[1..at];
        self.at += at + 1;
        let text = match raw || !inside.contains('\\') {
            true => Cow::Borrowed(inside),
            false => Cow::Owned(unescaped(inside)?),
        };
        Ok(Word::Text(text))
    }
}

fn unescaped(text: &str) -> Result<String, String> {
    let mut plain = String::with_capacity(text.len());
    let mut characters = text.chars();
    while let Some(character) = characters.next() {
        if character != '\\' {
            plain.push(character);
            continue;
        }
        plain.push(match characters.next() {
            Some(quoted @ ('\\' | '"' | '\'' | '`' | '?')) => quoted,
            Some('n') => '\n',
            Some('r') => '\r',
            Some('t') => '\t',
            Some(other) => return Err(format!("the escape \\{other} is not part of the subset")),
            None => return Err("a text that ends in a backslash".to_owned()),
        });
    }
    Ok(plain)
}
