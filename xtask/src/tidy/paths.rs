//! Finds the paths a source file mentions: `use std::{fs, io::Read}` mentions `std::fs` and `std::io::Read`.
//!
//! Paths inside macro calls count too, which is why this works on tokens.

use super::lexer::{Kind, Token};

/// A path as written, braces multiplied out.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Path<'a> {
    /// Its segments.
    pub(crate) segments: Vec<&'a str>,
    /// The line of its last segment.
    pub(crate) line: usize,
}

impl Path<'_> {
    /// Whether the path starts with these segments.
    pub(crate) fn starts_with(&self, segments: &[&str]) -> bool {
        self.segments.starts_with(segments)
    }

    /// Whether the path ends with these segments.
    pub(crate) fn ends_with(&self, segments: &[&str]) -> bool {
        self.segments.ends_with(segments)
    }
}

/// Every path among `tokens`; a lone word is a path of one segment.
pub(crate) fn paths<'a>(tokens: &[Token<'a>]) -> Vec<Path<'a>> {
    let mut found = Vec::new();
    let mut at = 0;
    while at < tokens.len() {
        at = if tokens[at].kind == Kind::Word {
            path(tokens, at, &mut Vec::new(), &mut found)
        } else {
            at + 1
        };
    }
    found
}

/// Reads one path that starts at `at` below `prefix` and returns the index after it.
fn path<'a>(
    tokens: &[Token<'a>],
    mut at: usize,
    prefix: &mut Vec<&'a str>,
    found: &mut Vec<Path<'a>>,
) -> usize {
    let depth = prefix.len();
    while let Some(word) = tokens.get(at).filter(|token| token.kind == Kind::Word) {
        prefix.push(word.text);
        at += 1;
        if !tokens.get(at).is_some_and(|token| token.is("::")) {
            found.push(Path { segments: prefix.clone(), line: word.line });
            break;
        }
        at += 1;
        match tokens.get(at) {
            Some(token) if token.kind == Kind::Word => {}
            Some(token) if token.is("{") => {
                at = group(tokens, at + 1, prefix, found);
                break;
            }
            // A glob or a turbofish ends what can be known of the path.
            _ => {
                found.push(Path { segments: prefix.clone(), line: word.line });
                break;
            }
        }
    }
    prefix.truncate(depth);
    at
}

/// Reads the members of a brace group up to its end and returns the index after it.
fn group<'a>(
    tokens: &[Token<'a>],
    mut at: usize,
    prefix: &mut Vec<&'a str>,
    found: &mut Vec<Path<'a>>,
) -> usize {
    while let Some(token) = tokens.get(at) {
        if token.is("}") {
            return at + 1;
        }
        at = match token.kind {
            // A new name for the member before it, not a member.
            Kind::Word if token.text == "as" => at + 2,
            Kind::Word => path(tokens, at, prefix, found),
            _ => at + 1,
        };
    }
    at
}

#[cfg(test)]
mod tests {
    use super::super::lexer::tokens;
    use super::*;

    fn found(source: &str) -> Vec<String> {
        paths(&tokens(source)).iter().map(|path| path.segments.join("::")).collect()
    }

    #[test]
    fn braces_are_multiplied_out() {
        assert_eq!(
            found("use std::{fs, io::{Read, Write as W}, net::*};"),
            ["use", "std::fs", "std::io::Read", "std::io::Write", "std::net"]
        );
    }

    #[test]
    fn paths_in_expressions_and_macros_count() {
        let source = "select! { x = crate::net::dial(a) => tokio::spawn::<T>(y), }";
        assert_eq!(found(source), ["select", "x", "crate::net::dial", "a", "tokio::spawn", "T", "y"]);
    }
}
