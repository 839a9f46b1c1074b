//! String conditions, compiled: exact, prefix and regex (Istio `StringMatch`).
//!
//! Values are bytes, because a header need not be UTF-8. Regexes follow RE2 as far as Rust's engine can: they match the
//! whole value in time linear in its length, and `\w`, `\d`, `\s` and `(?i)` mean ASCII. A pattern that is not ASCII, or
//! names a Unicode class, is read as Unicode throughout.

use std::fmt;
use std::sync::Arc;

use regex::bytes::{Captures, Regex, RegexBuilder};
use regex_automata::dfa::dense;
use regex_automata::dfa::{Automaton as _, StartKind};
use regex_automata::nfa::thompson::{self, WhichCaptures};
use regex_automata::util::syntax;
use regex_automata::{Anchored, Input};

/// Longest regex, in bytes (Istio's own limit).
pub const MAX_PATTERN_BYTES: usize = 1024;
/// Most memory that one compiled regex takes, in bytes.
pub const MAX_COMPILED_BYTES: usize = 256 << 10;
/// Most memory that a regex takes as a table of states, in bytes; one that needs more is searched for by the general
/// engine. Most that people write need some 2 KiB.
pub const MAX_AUTOMATON_BYTES: usize = 16 << 10;
/// Most memory in which such a table is made, in bytes.
const MAX_DETERMINIZE_BYTES: usize = 64 << 10;

/// A string condition.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum StringMatch {
    /// Equal.
    Exact(Arc<str>),
    /// Equal but for the case of ASCII letters.
    ExactIgnoringCase(Arc<str>),
    /// Starts with; a plain string, so `/v1` starts `/v10`.
    Prefix(Arc<str>),
    /// Starts with, but for the case of ASCII letters.
    PrefixIgnoringCase(Arc<str>),
    /// Starts with these segments of a path, so that `/v1` does not start `/v10`; never ends in `/`, and empty starts
    /// every path (Gateway API `PathPrefix`).
    Segments(Arc<str>),
    /// Matched by the regex from its first byte to its last.
    Regex(Pattern),
}

impl StringMatch {
    /// Whether it holds of a value.
    pub fn matches(&self, value: impl AsRef<[u8]>) -> bool {
        let value = value.as_ref();
        match self {
            Self::Exact(text) => value == text.as_bytes(),
            Self::ExactIgnoringCase(text) => value.eq_ignore_ascii_case(text.as_bytes()),
            Self::Prefix(text) => value.starts_with(text.as_bytes()),
            Self::PrefixIgnoringCase(text) => {
                value.get(..text.len()).is_some_and(|start| start.eq_ignore_ascii_case(text.as_bytes()))
            }
            Self::Segments(text) => value
                .strip_prefix(text.as_bytes())
                .is_some_and(|rest| text.is_empty() || rest.is_empty() || rest.starts_with(b"/")),
            Self::Regex(pattern) => pattern.matches(value),
        }
    }

    /// Whether it holds of every path there is.
    pub fn matches_every_path(&self) -> bool {
        match self {
            Self::Exact(_) | Self::ExactIgnoringCase(_) => false,
            Self::Prefix(text) | Self::PrefixIgnoringCase(text) => text.is_empty() || **text == *"/",
            Self::Segments(text) => text.is_empty(),
            Self::Regex(pattern) => matches!(pattern.source(), ".*" | "/.*"),
        }
    }
}

/// A compiled regex that has to match the whole of a value. Two are equal when they were written alike.
#[derive(Clone)]
pub struct Pattern {
    source: Arc<str>,
    engine: Arc<Engine>,
}

/// Where a match is all there is to know, a table of states is smaller than the general engine, which keeps several
/// machines and for each thread their caches; and it is read in place, whatever was matched before.
enum Engine {
    Table(Box<dense::DFA<Vec<u32>>>),
    General(Regex),
}

impl Pattern {
    /// A regex that has to match the whole of a value.
    ///
    /// # Errors
    /// In words, when it is too long, or does not compile.
    pub fn whole(source: Arc<str>) -> Result<Self, String> {
        // By itself first: `a)|(b` compiles only between the brackets below, where it means something else.
        compile(&source, &source)?;
        let whole = format!(r"\A(?:{source})\z");
        let engine = match table(&whole, is_unicode(&source)) {
            Some(table) => Engine::Table(Box::new(table)),
            None => Engine::General(compile(&source, &whole)?),
        };
        Ok(Self { source, engine: Arc::new(engine) })
    }

    /// As it was written.
    pub fn source(&self) -> &str {
        &self.source
    }

    /// Whether it matches.
    pub fn matches(&self, value: &[u8]) -> bool {
        match &*self.engine {
            Engine::Table(table) => {
                let input = Input::new(value).anchored(Anchored::Yes).earliest(true);
                // It fails only at bytes that it was told to give up at, and it was told of none.
                table.try_search_fwd(&input).is_ok_and(|end| end.is_some())
            }
            Engine::General(regex) => regex.is_match(value),
        }
    }
}

/// The table of a regex; `None` where it would be too large, or cannot be (Unicode's word boundaries).
fn table(pattern: &str, unicode: bool) -> Option<dense::DFA<Vec<u32>>> {
    let built = dense::Builder::new()
        .configure(
            dense::Config::new()
                .start_kind(StartKind::Anchored)
                .dfa_size_limit(Some(MAX_AUTOMATON_BYTES))
                .determinize_size_limit(Some(MAX_DETERMINIZE_BYTES)),
        )
        .syntax(syntax::Config::new().unicode(unicode).utf8(false))
        .thompson(
            thompson::Config::new()
                .utf8(false)
                .nfa_size_limit(Some(MAX_COMPILED_BYTES))
                .which_captures(WhichCaptures::None),
        )
        .build(pattern);
    // What it was built in has room to grow; the copy has none.
    built.ok().map(|table| table.as_ref().to_owned())
}

/// Whether a pattern is read as Unicode.
fn is_unicode(source: &str) -> bool {
    !source.is_ascii() || source.contains(r"\p") || source.contains(r"\P")
}

fn compile(source: &str, pattern: &str) -> Result<Regex, String> {
    if source.is_empty() {
        return Err("an empty regex".to_owned());
    }
    if source.len() > MAX_PATTERN_BYTES {
        return Err(format!("a regex of {} bytes, more than {MAX_PATTERN_BYTES}", source.len()));
    }
    let built = RegexBuilder::new(pattern)
        .unicode(is_unicode(source))
        .size_limit(MAX_COMPILED_BYTES)
        .dfa_size_limit(MAX_COMPILED_BYTES)
        .build();
    built.map_err(|error| match error {
        regex::Error::CompiledTooBig(limit) => {
            format!("the regex {source:?} needs more than {limit} bytes of memory")
        }
        error => {
            // The engine's message draws the pattern and an arrow on lines of their own; its last line says why.
            let said = error.to_string();
            let why = said.lines().last().unwrap_or_default().trim().trim_start_matches("error: ");
            format!("{source:?} is no regex that matches a whole value: {why}")
        }
    })
}

impl PartialEq for Pattern {
    fn eq(&self, other: &Self) -> bool {
        self.source == other.source
    }
}

impl Eq for Pattern {}

impl fmt::Debug for Pattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "/{}/", self.source)
    }
}

/// A regex and what its matches become (`uriRegexRewrite`).
#[derive(Debug, Clone)]
pub struct Substitution {
    regex: Regex,
    template: Box<[Piece]>,
}

/// A piece of a replacement.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Piece {
    Text(Arc<str>),
    /// `\0` to `\9`: what this group matched.
    Group(usize),
}

impl PartialEq for Substitution {
    fn eq(&self, other: &Self) -> bool {
        self.regex.as_str() == other.regex.as_str() && self.template == other.template
    }
}

impl Eq for Substitution {}

impl Substitution {
    /// Replaces what `source` matches by `template`, in which `\0` to `\9` are its groups and `\\` is a backslash
    /// (RE2's rewrite syntax).
    ///
    /// # Errors
    /// In words, when the regex does not compile or has no such group.
    pub fn new(source: Arc<str>, template: &str) -> Result<Self, String> {
        let regex = compile(&source, &source)?;
        let mut pieces = Vec::new();
        let mut text = String::new();
        let mut chars = template.chars();
        while let Some(c) = chars.next() {
            if c != '\\' {
                text.push(c);
                continue;
            }
            match chars.next() {
                Some('\\') => text.push('\\'),
                Some(digit) if digit.is_ascii_digit() => {
                    let group = usize::from(digit as u8 - b'0');
                    if group >= regex.captures_len() {
                        return Err(format!("\\{group} in {template:?}: the regex has no such group"));
                    }
                    if !text.is_empty() {
                        pieces.push(Piece::Text(std::mem::take(&mut text).into()));
                    }
                    pieces.push(Piece::Group(group));
                }
                _ => {
                    return Err(format!(
                        "a backslash in {template:?} with neither digit nor backslash after it"
                    ));
                }
            }
        }
        if !text.is_empty() {
            pieces.push(Piece::Text(text.into()));
        }
        Ok(Self { regex, template: pieces.into() })
    }

    /// The value with every match replaced. Bytes, because a group may cut a character in two.
    pub fn apply(&self, value: &[u8]) -> Vec<u8> {
        let replaced = self.regex.replace_all(value, |captures: &Captures<'_>| {
            let mut made = Vec::new();
            for piece in &self.template {
                match piece {
                    Piece::Text(text) => made.extend_from_slice(text.as_bytes()),
                    Piece::Group(group) => {
                        made.extend_from_slice(captures.get(*group).map_or(&[][..], |it| it.as_bytes()));
                    }
                }
            }
            made
        });
        replaced.into_owned()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn regex(source: &str) -> StringMatch {
        StringMatch::Regex(Pattern::whole(source.into()).unwrap())
    }

    #[test]
    fn strings_match_as_istio_says() {
        for (condition, value, expected) in [
            (StringMatch::Exact("/a".into()), "/a", true),
            (StringMatch::Exact("/a".into()), "/A", false),
            (StringMatch::Exact("/a".into()), "/a/", false),
            (StringMatch::ExactIgnoringCase("/a".into()), "/A", true),
            (StringMatch::ExactIgnoringCase("/a".into()), "/AB", false),
            (StringMatch::Prefix("/v1".into()), "/v10", true),
            (StringMatch::Prefix("/v1".into()), "/V1", false),
            (StringMatch::Prefix("/v1".into()), "/v", false),
            (StringMatch::PrefixIgnoringCase("/v1".into()), "/V1/x", true),
            (StringMatch::PrefixIgnoringCase("/v1".into()), "/V", false),
            (StringMatch::PrefixIgnoringCase("/v1".into()), "/ä", false),
            (regex("/v[0-9]+"), "/v12", true),
            (regex("/v[0-9]+"), "/v12/x", false),
            (regex("/v[0-9]+"), "x/v12", false),
            (regex("a|ab"), "ab", true),
            (regex("a|b"), "ab", false),
            (regex("(?i)firefox.*"), "FireFox/1", true),
            (regex(r"\w+"), "ä", false),
            (regex(r"\d"), "٣", false),
            (regex(r"\pL+"), "ä", true),
            (regex("ä."), "äx", true),
            (regex("a.*"), "a\nb", false),
            (regex("^a$"), "a", true),
            (regex("a$"), "a\n", false),
        ] {
            assert_eq!(condition.matches(value), expected, "{condition:?} of {value:?}");
        }
        assert!(regex(".*").matches([0xff, 0xfe]));
    }

    #[test]
    fn a_regex_that_could_not_match_a_whole_value_or_costs_too_much_is_refused() {
        for (bad, why) in [
            ("", "empty"),
            ("*", "repetition"),
            ("(", "unclosed"),
            ("a)|(b", "unopened"),
            ("[z-a]", "invalid"),
            ("(?=a)", "look-around"),
            (r"(a)\1", "backreferences"),
            ("((a{100}){100}){100}", "memory"),
            (&"a".repeat(1025), "more than 1024"),
        ] {
            let error = Pattern::whole(bad.into()).unwrap_err();
            assert!(error.contains(why), "{bad:?}: {error}");
        }
    }

    #[test]
    fn a_hostile_value_is_matched_in_linear_time() {
        let condition = regex("(a*)*b");
        let started = std::time::Instant::now();
        assert!(!condition.matches("a".repeat(100_000)));
        assert!(started.elapsed() < std::time::Duration::from_secs(2));
    }

    #[test]
    fn a_table_says_what_the_general_engine_says() {
        let values: &[&[u8]] = &[
            b"",
            b"a",
            b"ab",
            b"abc",
            b"b\n",
            b"a\n",
            b"/v12",
            b"/v12/x",
            b"Firefox/99 x",
            b"a b",
            b"ab ab",
            "\u{e4}x".as_bytes(),
            b"\xff",
            b"a\xffb",
            b"user@shop",
            b"aaaaaaaaaaaaaaaaaaaaaaaa",
        ];
        let sources = [
            "a|ab",
            "a*?",
            "(a|b)+c?",
            ".*",
            "(?s).*",
            "(?i)FIREFOX/[0-9]+.*",
            r"\bab\b.*",
            r"(?m)^a$\n?",
            "/v[0-9]{1,3}(/.*)?",
            r"[^@]+@[a-z]+",
            r"\w+\s\w+",
            "a{3,24}",
            r"\x61+",
            "(?:)",
            "a$|b\n",
        ];
        for source in sources {
            let pattern = Pattern::whole(source.into()).unwrap();
            assert!(matches!(*pattern.engine, Engine::Table(_)), "{source:?} has no table");
            let general = compile(source, &format!(r"\A(?:{source})\z")).unwrap();
            for value in values {
                assert_eq!(pattern.matches(value), general.is_match(value), "{source:?} of {value:?}");
            }
        }
    }

    #[test]
    fn a_regex_without_a_small_table_still_matches() {
        for (source, value, expected) in [
            (r"\pL+\b", "\u{e4}", true),
            ("[a-z]*q.{200}", &format!("q{}", "x".repeat(200)), true),
            ("(a|b)*a(a|b){12}", "babababababababa", true),
            ("(a|b)*a(a|b){12}", "bbbbbbbbbbbbbbbb", false),
        ] {
            let pattern = Pattern::whole(source.into()).unwrap();
            assert!(matches!(*pattern.engine, Engine::General(_)), "{source:?} has a table");
            assert_eq!(pattern.matches(value.as_bytes()), expected, "{source:?} of {value:?}");
        }
    }

    #[test]
    fn tables_are_small() {
        for source in
            ["/orders/17/[0-9]+/items", "(bronze|tin)-8-[a-z]+", ".*Firefox/[0-9]+.*", "(?i)mobile.*"]
        {
            let pattern = Pattern::whole(source.into()).unwrap();
            let Engine::Table(table) = &*pattern.engine else { panic!("{source:?} has no table") };
            assert!(table.memory_usage() <= 4096, "{source:?}: {} bytes", table.memory_usage());
        }
    }

    #[test]
    fn a_substitution_fills_in_groups() {
        for (source, template, value, expected) in [
            ("^/service/([^/]+)(/.*)$", r"\2/instance/\1", "/service/foo/v1/api", "/v1/api/instance/foo"),
            ("one", "two", "/xx/one/yy/one/zz", "/xx/two/yy/two/zz"),
            ("(?i)/XXX/", "/yyy/", "/aaa/XxX/bbb", "/aaa/yyy/bbb"),
            ("a", r"\\\0", "a", r"\a"),
            ("(a)|(b)", r"[\2]", "a", "[]"),
        ] {
            let made = Substitution::new(source.into(), template).unwrap().apply(value.as_bytes());
            assert_eq!(String::from_utf8(made).unwrap(), expected);
        }
        for (source, template) in [("a", r"\1"), ("(a)", r"\x"), ("(a)", "\\"), ("(", "")] {
            assert!(Substitution::new(source.into(), template).is_err(), "{source} {template}");
        }
    }
}
