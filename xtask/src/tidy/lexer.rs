//! Cuts Rust source into tokens with line numbers, without comments.
//!
//! Knows just enough of the language to never take text in a string or comment for code: nested block comments, raw
//! and byte strings, and the difference between a lifetime and a character. Not a parser.

/// What a token is, as far as the rules care.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    /// An identifier or keyword.
    Word,
    /// A lifetime such as `'a`.
    Lifetime,
    /// A string, character or number.
    Literal,
    /// One character of punctuation; `::` is one token of two.
    Mark,
}

/// One token of a source file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Token<'a> {
    /// What it is.
    pub(crate) kind: Kind,
    /// Its text.
    pub(crate) text: &'a str,
    /// The line it starts on, from 1.
    pub(crate) line: usize,
}

impl Token<'_> {
    /// Whether this is the word or mark `text` (and not a literal that looks like it).
    pub(crate) fn is(&self, text: &str) -> bool {
        matches!(self.kind, Kind::Word | Kind::Mark) && self.text == text
    }
}

/// The tokens of `source`, in order.
pub(crate) fn tokens(source: &str) -> Vec<Token<'_>> {
    let mut cursor = Cursor { source, at: 0, line: 1 };
    let mut tokens = Vec::new();
    while let Some(token) = cursor.next_token() {
        tokens.push(token);
    }
    tokens
}

struct Cursor<'a> {
    source: &'a str,
    at: usize,
    line: usize,
}

impl<'a> Cursor<'a> {
    fn rest(&self) -> &'a str {
        &self.source[self.at..]
    }

    fn next_token(&mut self) -> Option<Token<'a>> {
        self.skip_blanks_and_comments();
        let rest = self.rest();
        let first = rest.chars().next()?;
        let (kind, length) = if let Some(length) = string_length(rest) {
            (Kind::Literal, length)
        } else if first == '\'' {
            quote_length(rest)
        } else if let Some(raw) = rest.strip_prefix("r#").filter(|raw| raw.starts_with(is_word)) {
            (Kind::Word, 2 + word_length(raw))
        } else if first.is_ascii_digit() {
            (Kind::Literal, word_length(rest))
        } else if is_word(first) {
            (Kind::Word, word_length(rest))
        } else if rest.starts_with("::") {
            (Kind::Mark, 2)
        } else {
            (Kind::Mark, first.len_utf8())
        };
        let token = Token { kind, text: &rest[..length], line: self.line };
        self.advance(length);
        Some(token)
    }

    fn skip_blanks_and_comments(&mut self) {
        loop {
            let rest = self.rest();
            let skipped = if rest.starts_with("//") {
                rest.find('\n').unwrap_or(rest.len())
            } else if rest.starts_with("/*") {
                block_comment_length(rest)
            } else {
                rest.len() - rest.trim_start().len()
            };
            if skipped == 0 {
                return;
            }
            self.advance(skipped);
        }
    }

    fn advance(&mut self, length: usize) {
        self.line += self.rest()[..length].matches('\n').count();
        self.at += length;
    }
}

fn is_word(c: char) -> bool {
    c == '_' || c.is_alphanumeric()
}

fn word_length(text: &str) -> usize {
    text.find(|c| !is_word(c)).unwrap_or(text.len())
}

fn block_comment_length(text: &str) -> usize {
    let mut depth = 0;
    let mut at = 0;
    while at < text.len() {
        let rest = &text.as_bytes()[at..];
        if rest.starts_with(b"/*") {
            depth += 1;
            at += 2;
        } else if rest.starts_with(b"*/") {
            depth -= 1;
            at += 2;
            if depth == 0 {
                return at;
            }
        } else {
            at += 1;
        }
    }
    text.len()
}

/// The length of a string literal of any kind, or `None` when `text` does not start with one.
fn string_length(text: &str) -> Option<usize> {
    let prefix = text.find(|c| !matches!(c, 'b' | 'c' | 'r'))?;
    let body = &text[prefix..];
    if !matches!(&text[..prefix], "" | "b" | "c" | "r" | "br" | "cr") {
        return None;
    }
    if text[..prefix].ends_with('r') {
        let hashes = body.find(|c| c != '#')?;
        let end = format!("\"{}", "#".repeat(hashes));
        let inside = body[hashes..].strip_prefix('"')?;
        let length = inside.find(&end).map_or(inside.len(), |at| at + end.len());
        return Some(prefix + hashes + 1 + length);
    }
    if body.starts_with('"') {
        return Some(prefix + escaped_length(body, b'"'));
    }
    // A byte such as b'x'; a bare quote may be a lifetime and is decided elsewhere.
    (prefix == 1 && text.starts_with("b'")).then(|| prefix + escaped_length(body, b'\''))
}

/// The length of a quoted text whose closing quote may be escaped, quotes included.
fn escaped_length(text: &str, quote: u8) -> usize {
    let bytes = text.as_bytes();
    let mut at = 1;
    while at < bytes.len() {
        match bytes[at] {
            b'\\' => at += 2,
            byte if byte == quote => return at + 1,
            _ => at += 1,
        }
    }
    text.len()
}

/// A quote starts a character when it closes again after one character or an escape, else a lifetime.
fn quote_length(text: &str) -> (Kind, usize) {
    let mut inside = text[1..].chars();
    match (inside.next(), inside.next()) {
        (Some('\\'), _) => (Kind::Literal, escaped_length(text, b'\'')),
        (Some(c), Some('\'')) => (Kind::Literal, 2 + c.len_utf8()),
        _ => (Kind::Lifetime, 1 + word_length(&text[1..])),
    }
}

/// The tokens without the items that exist only in tests (`#[cfg(test)]`).
pub(crate) fn without_tests<'a>(tokens: &[Token<'a>]) -> Vec<Token<'a>> {
    const CFG_TEST: [&str; 7] = ["#", "[", "cfg", "(", "test", ")", "]"];
    let mut kept = Vec::with_capacity(tokens.len());
    let mut at = 0;
    while at < tokens.len() {
        if starts_with(&tokens[at..], &CFG_TEST) {
            at = end_of_item(tokens, at + CFG_TEST.len());
        } else {
            kept.push(tokens[at]);
            at += 1;
        }
    }
    kept
}

/// Whether `tokens` starts with these words and marks.
pub(crate) fn starts_with(tokens: &[Token<'_>], texts: &[&str]) -> bool {
    tokens.len() >= texts.len() && tokens.iter().zip(texts).all(|(token, text)| token.is(text))
}

/// The index after the item that starts at `from`: after its body, or after the semicolon when it has none.
pub(crate) fn end_of_item(tokens: &[Token<'_>], from: usize) -> usize {
    let mut depth = 0_usize;
    for (at, token) in tokens.iter().enumerate().skip(from) {
        if token.is("(") || token.is("[") || token.is("{") {
            depth += 1;
        } else if token.is(")") || token.is("]") || token.is("}") {
            depth = depth.saturating_sub(1);
            if depth == 0 && token.is("}") {
                return at + 1;
            }
        } else if depth == 0 && token.is(";") {
            return at + 1;
        }
    }
    tokens.len()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn texts(source: &str) -> Vec<&str> {
        tokens(source).iter().map(|token| token.text).collect()
    }

    #[test]
    fn text_in_comments_is_not_code() {
        assert_eq!(texts("a // unsafe\nb /* x /* unsafe */ y */ c /// d\n"), ["a", "b", "c"]);
    }

    #[test]
    fn text_in_strings_is_one_literal() {
        for literal in [
            r#""un\"safe { ""#,
            "\"\\\\\"",
            r###"r#"a " b"#"###,
            r#"br"x""#,
            r#"b"x""#,
            r#"c"x""#,
            "b'\\''",
            "'\"'",
            "'\\''",
            "'{'",
            "'é'",
        ] {
            let source = format!("a {literal} b");
            assert_eq!(texts(&source), ["a", literal, "b"]);
            assert_eq!(tokens(&source)[1].kind, Kind::Literal);
        }
    }

    #[test]
    fn a_lifetime_does_not_swallow_code() {
        assert_eq!(texts("fn f<'a>(x: &'a str) {}")[..5], ["fn", "f", "<", "'a", ">"]);
        assert_eq!(tokens("&'static str")[1].kind, Kind::Lifetime);
    }

    #[test]
    fn lines_count_through_long_literals() {
        let tokens = tokens("a\n\"x\ny\"\n/* \n */ b");
        assert_eq!((tokens[1].line, tokens[2].line), (2, 5));
    }

    #[test]
    fn raw_words_are_words() {
        assert_eq!(texts("r#type br rb"), ["r#type", "br", "rb"]);
    }

    #[test]
    fn test_items_are_left_out() {
        let source = "a; #[cfg(test)] mod tests { fn f() { [0; 2] } } b; #[cfg(test)] #[x] use y; c";
        let tokens = tokens(source);
        let kept: Vec<&str> = without_tests(&tokens).iter().map(|token| token.text).collect();
        assert_eq!(kept, ["a", ";", "b", ";", "c"]);
    }
}
