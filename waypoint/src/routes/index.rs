//! Finds the rules that may take a request without asking all of them.
//!
//! Each rule is filed under one thing that a request must have to fall under it: the whole or the start of its path, of a
//! header, of a parameter, and so on; whichever it shares with the fewest others. A request is looked up under all it
//! has, and only what is found there is asked. Rules that ask for none of these things are always asked.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use common::config::routing::StringMatch;
use common::config::routing::request::{HeaderKey, HttpMatch, ValueMatch};
use http::HeaderName;

use super::facts::RequestFacts;

/// Positions of rules, in their order.
type Filed = Box<[u32]>;

/// What of a request has a value, or several.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
enum Field {
    Path,
    Header(HeaderName),
    Parameter(Arc<str>),
    Authority,
    Method,
}

impl Field {
    /// Hands over each value that a request has.
    fn each(&self, facts: &RequestFacts<'_>, mut ask: impl FnMut(&[u8])) {
        let text = match self {
            Self::Header(name) => return facts.values(name).for_each(ask),
            Self::Parameter(name) => {
                return facts.parameter(name).map(str::as_bytes).into_iter().for_each(ask);
            }
            Self::Path => facts.path,
            Self::Authority => facts.authority,
            Self::Method => facts.method,
        };
        ask(text.as_bytes());
    }
}

/// What a request must have: a field that is, or starts with, some text. Starting with nothing is being there.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct Anchor {
    field: Field,
    text: Arc<str>,
    is_whole: bool,
}

/// Rules by what they ask for.
#[derive(Debug, Default)]
pub(super) struct Index {
    fields: Vec<(Field, Values)>,
    others: Filed,
}

/// Rules by the value of one field.
#[derive(Debug, Default)]
struct Values {
    whole: HashMap<Box<[u8]>, Filed>,
    starts: Starts,
}

impl Index {
    /// Files rules by what they state, in their order; `None` takes every request.
    pub(super) fn new<'m>(stated: impl Iterator<Item = Option<&'m HttpMatch>> + Clone) -> Self {
        let mut shared: HashMap<Anchor, u32> = HashMap::new();
        for anchor in stated.clone().flatten().flat_map(anchors) {
            *shared.entry(anchor).or_default() += 1;
        }
        let mut others = Vec::new();
        let mut filed: HashMap<Anchor, Vec<u32>> = HashMap::new();
        for (position, stated) in (0..).zip(stated) {
            let anchors = stated.map(anchors).unwrap_or_default();
            match anchors.into_iter().min_by_key(|it| shared.get(it)) {
                Some(anchor) => filed.entry(anchor).or_default().push(position),
                None => others.push(position),
            }
        }
        let mut values: HashMap<Field, Values> = HashMap::new();
        let mut starts: HashMap<Field, BTreeMap<Arc<str>, Filed>> = HashMap::new();
        for (Anchor { field, text, is_whole }, positions) in filed {
            let of_field = values.entry(field.clone()).or_default();
            if is_whole {
                of_field.whole.insert(text.as_bytes().into(), positions.into());
            } else {
                starts.entry(field).or_default().insert(text, positions.into());
            }
        }
        for (field, starts) in starts {
            values.entry(field).or_default().starts = Starts::new(starts);
        }
        Self { fields: values.into_iter().collect(), others: others.into() }
    }

    /// The first rule that may take a request and does.
    pub(super) fn first(&self, facts: &RequestFacts<'_>, holds: impl Fn(usize) -> bool) -> Option<usize> {
        let mut best = u32::MAX;
        // Only what comes before the best so far can still win.
        let mut ask = |filed: &Filed| {
            let mut earlier = filed.iter().copied().take_while(|position| *position < best);
            best = earlier.find(|position| holds(*position as usize)).unwrap_or(best);
        };
        for (field, values) in &self.fields {
            field.each(facts, |value| {
                values.whole.get(value).into_iter().for_each(&mut ask);
                values.starts.of(value).for_each(&mut ask);
            });
        }
        ask(&self.others);
        (best < u32::MAX).then_some(best as usize)
    }
}

/// Everything that a request must have to fall under a match; the more telling first.
fn anchors(stated: &HttpMatch) -> Vec<Anchor> {
    let headers = stated.headers.iter().filter_map(|(key, value)| match key {
        HeaderKey::Header(name) => value_anchor(Field::Header(name.clone()), value),
        HeaderKey::Claim(_) => None,
    });
    let parameters =
        stated.query.iter().filter_map(|(name, value)| value_anchor(Field::Parameter(name.clone()), value));
    // These are always there, and every path starts with a slash.
    let always =
        [(Field::Path, &stated.path), (Field::Authority, &stated.authority), (Field::Method, &stated.method)];
    let always = always.into_iter().filter_map(|(field, stated)| anchor(field, stated.as_ref()?));
    let always = always.filter(|it| it.is_whole || !matches!(&*it.text, "" | "/"));
    always.chain(headers).chain(parameters).collect()
}

fn value_anchor(field: Field, stated: &ValueMatch) -> Option<Anchor> {
    match stated {
        ValueMatch::Present => Some(Anchor { field, text: "".into(), is_whole: false }),
        ValueMatch::Value(stated) => anchor(field, stated),
    }
}

fn anchor(field: Field, stated: &StringMatch) -> Option<Anchor> {
    let (text, is_whole) = match stated {
        StringMatch::Exact(text) => (text.clone(), true),
        StringMatch::Prefix(text) | StringMatch::Segments(text) => (text.clone(), false),
        StringMatch::Regex(pattern) => (literal_start(pattern.source()).into(), false),
        StringMatch::ExactIgnoringCase(_) | StringMatch::PrefixIgnoringCase(_) => return None,
    };
    Some(Anchor { field, text, is_whole })
}

/// What every string that a regex takes whole starts with; shorter than could be, never longer.
fn literal_start(source: &str) -> &str {
    if may_alternate(source) {
        return "";
    }
    let source = source.strip_prefix('^').unwrap_or(source);
    let end = source.find(|c| r".^$*+?()[]{}|\".contains(c)).unwrap_or(source.len());
    let literal = &source[..end];
    match source[end..].chars().next() {
        // The last character is what is repeated, perhaps no times.
        Some('*' | '+' | '?' | '{') => {
            literal.char_indices().next_back().map_or("", |(at, _)| &literal[..at])
        }
        _ => literal,
    }
}

/// Whether there may be a `|` outside all brackets.
fn may_alternate(source: &str) -> bool {
    if source.contains('|') && source.contains('[') {
        return true;
    }
    let (mut depth, mut escaped) = (0_i32, false);
    for c in source.chars() {
        match c {
            _ if escaped => escaped = false,
            '\\' => escaped = true,
            '(' => depth += 1,
            ')' => depth -= 1,
            '|' if depth <= 0 => return true,
            _ => {}
        }
    }
    false
}

/// Starts of values, sorted, each knowing the longest of the others that it starts with.
#[derive(Debug, Default)]
struct Starts(Box<[Start]>);

#[derive(Debug)]
struct Start {
    text: Arc<str>,
    shorter: Option<usize>,
    filed: Filed,
}

impl Starts {
    fn new(sorted: BTreeMap<Arc<str>, Filed>) -> Self {
        let mut all: Vec<Start> = Vec::with_capacity(sorted.len());
        for (text, filed) in sorted {
            let mut shorter = all.len().checked_sub(1);
            while let Some(start) = shorter.map(|at| &all[at]).filter(|it| !text.starts_with(&*it.text)) {
                shorter = start.shorter;
            }
            all.push(Start { text, shorter, filed });
        }
        Self(all.into())
    }

    /// Whatever a value starts with, the longest first. The last start that is not after the value, or a start of that
    /// one, is the longest: nothing sorts between a start of the value and the value but what starts alike.
    fn of<'s>(&'s self, value: &'s [u8]) -> impl Iterator<Item = &'s Filed> {
        let last = self.0.partition_point(|it| it.text.as_bytes() <= value).checked_sub(1);
        let chain = std::iter::successors(last, |at| self.0[*at].shorter).map(|at| &self.0[at]);
        chain.filter(move |it| value.starts_with(it.text.as_bytes())).map(|it| &it.filed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_regex_is_filed_under_what_all_it_takes_begins_with() {
        for (source, expected) in [
            ("/v1/users/[0-9]+", "/v1/users/"),
            ("^/v1$", "/v1"),
            ("/v1/.*", "/v1/"),
            ("/ab?c", "/a"),
            ("/ab*", "/a"),
            ("/ab+", "/a"),
            ("/ab{2}", "/a"),
            ("/ä?", "/"),
            (r"/a\.b", "/a"),
            ("/a(b|c)", "/a"),
            ("/a|/b", ""),
            (r"/a\|b", "/a"),
            ("/a[(]|b", ""),
            ("(?i)/a", ""),
            (".*", ""),
            ("", ""),
        ] {
            assert_eq!(literal_start(source), expected, "{source}");
        }
    }

    #[test]
    fn every_start_of_a_value_is_found_longest_first() {
        let texts = ["/a", "/a/b", "/a/b/c", "/a/bb", "/ab", "/b", "/a/b/d"];
        let starts = Starts::new((0..).zip(texts).map(|(i, it)| (it.into(), Box::from([i]))).collect());
        let found = |path: &str| -> Vec<&str> {
            starts.of(path.as_bytes()).map(|filed| texts[filed[0] as usize]).collect()
        };
        assert_eq!(found("/a/b/c/d"), ["/a/b/c", "/a/b", "/a"]);
        assert_eq!(found("/a/b/cc"), ["/a/b/c", "/a/b", "/a"]);
        assert_eq!(found("/a/bc"), ["/a/b", "/a"]);
        assert_eq!(found("/a/b"), ["/a/b", "/a"]);
        assert_eq!(found("/a/bz"), ["/a/b", "/a"]);
        assert_eq!(found("/abc"), ["/ab", "/a"]);
        assert_eq!(found("/c"), [""; 0]);
        assert_eq!(found("/"), [""; 0]);
    }
}
