//! Finds the rules that may take a request without asking all of them.
//!
//! Each rule is filed under one thing that a request must have to fall under it: its path, the start of its path, or the
//! value of one field; whichever it shares with the fewest others. A request is looked up under all it has, and only
//! what is found there is asked. Rules that ask for none of these things are always asked.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use common::config::routing::StringMatch;
use common::config::routing::request::{HeaderKey, HttpMatch, ValueMatch};
use http::HeaderName;

use super::facts::RequestFacts;

/// Positions of rules, in their order.
type Filed = Box<[u32]>;

/// What a request must have.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
enum Anchor {
    Path(Arc<str>),
    Start(Arc<str>),
    Field(Field, Arc<str>),
}

/// What of a request has one value.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
enum Field {
    Header(HeaderName),
    Parameter(Arc<str>),
    Authority,
    Method,
}

/// Rules by what they ask for.
#[derive(Debug, Default)]
pub(super) struct Index {
    paths: HashMap<Arc<str>, Filed>,
    starts: Starts,
    fields: Vec<(Field, HashMap<Box<[u8]>, Filed>)>,
    others: Filed,
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
        Self::of(filed, others)
    }

    fn of(filed: HashMap<Anchor, Vec<u32>>, others: Vec<u32>) -> Self {
        let mut index = Self { others: others.into(), ..Self::default() };
        let mut starts = BTreeMap::new();
        for (anchor, positions) in filed {
            let positions: Filed = positions.into();
            match anchor {
                Anchor::Path(path) => drop(index.paths.insert(path, positions)),
                Anchor::Start(start) => drop(starts.insert(start, positions)),
                Anchor::Field(field, value) => {
                    let at = index.fields.iter().position(|(known, _)| *known == field);
                    let at = at.unwrap_or_else(|| {
                        index.fields.push((field, HashMap::new()));
                        index.fields.len() - 1
                    });
                    index.fields[at].1.insert(value.as_bytes().into(), positions);
                }
            }
        }
        index.starts = Starts::new(starts);
        index
    }

    /// The first rule that may take a request and does.
    pub(super) fn first(&self, facts: &RequestFacts<'_>, holds: impl Fn(usize) -> bool) -> Option<usize> {
        let mut best = u32::MAX;
        // Only what comes before the best so far can still win.
        let mut ask = |filed: &Filed| {
            let earlier = filed.iter().copied().take_while(|position| *position < best);
            best = earlier.into_iter().find(|position| holds(*position as usize)).unwrap_or(best);
        };
        self.paths.get(facts.path).into_iter().for_each(&mut ask);
        self.starts.of(facts.path).for_each(&mut ask);
        for (field, values) in &self.fields {
            let filed = match field {
                Field::Header(name) => facts.header(name).and_then(|it| values.get(&*it)),
                Field::Parameter(name) => facts.parameter(name).and_then(|it| values.get(it.as_bytes())),
                Field::Authority => values.get(facts.authority.as_bytes()),
                Field::Method => values.get(facts.method.as_bytes()),
            };
            filed.into_iter().for_each(&mut ask);
        }
        ask(&self.others);
        (best < u32::MAX).then_some(best as usize)
    }
}

/// Everything that a request must have to fall under a match; the more telling first.
fn anchors(stated: &HttpMatch) -> Vec<Anchor> {
    let path = match &stated.path {
        Some(StringMatch::Exact(path)) => Some(Anchor::Path(path.clone())),
        Some(StringMatch::Prefix(start)) => Some(Anchor::Start(start.clone())),
        Some(StringMatch::Regex(pattern)) => Some(Anchor::Start(literal_start(pattern.source()).into())),
        Some(StringMatch::ExactIgnoringCase(_) | StringMatch::PrefixIgnoringCase(_)) | None => None,
    };
    // Every path starts with a slash; one that is asked for nothing more tells nothing.
    let path = path.filter(|it| !matches!(it, Anchor::Start(start) if start.len() < 2));
    let headers = stated.headers.iter().filter_map(|(key, value)| match (key, value) {
        (HeaderKey::Header(name), ValueMatch::Value(StringMatch::Exact(value))) => {
            Some(Anchor::Field(Field::Header(name.clone()), value.clone()))
        }
        _ => None,
    });
    let parameters = stated.query.iter().filter_map(|(name, value)| match value {
        ValueMatch::Value(StringMatch::Exact(value)) => {
            Some(Anchor::Field(Field::Parameter(name.clone()), value.clone()))
        }
        _ => None,
    });
    let exact = |field, stated: &Option<StringMatch>| match stated {
        Some(StringMatch::Exact(value)) => Some(Anchor::Field(field, value.clone())),
        _ => None,
    };
    path.into_iter()
        .chain(headers)
        .chain(parameters)
        .chain(exact(Field::Authority, &stated.authority))
        .chain(exact(Field::Method, &stated.method))
        .collect()
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

/// Starts of paths, sorted, each knowing the longest of the others that it starts with.
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

    /// Whatever a path starts with, the longest first. The last start that is not after the path, or a start of that
    /// one, is the longest: nothing sorts between a start of the path and the path but what starts alike.
    fn of<'s>(&'s self, path: &'s str) -> impl Iterator<Item = &'s Filed> {
        let last = self.0.partition_point(|it| *it.text <= *path).checked_sub(1);
        let chain = std::iter::successors(last, |at| self.0[*at].shorter).map(|at| &self.0[at]);
        chain.filter(move |it| path.starts_with(&*it.text)).map(|it| &it.filed)
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
    fn every_start_of_a_path_is_found_longest_first() {
        let texts = ["/a", "/a/b", "/a/b/c", "/a/bb", "/ab", "/b", "/a/b/d"];
        let starts = Starts::new((0..).zip(texts).map(|(i, it)| (it.into(), Box::from([i]))).collect());
        let found = |path: &str| -> Vec<&str> {
            let path = path.to_owned();
            starts.of(&path).map(|filed| texts[filed[0] as usize]).collect()
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
