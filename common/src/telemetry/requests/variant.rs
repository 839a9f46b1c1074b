//! Metrics of requests with other labels than Istio's own, as an operator states them.
//!
//! Knows no Telemetry: it is told which metrics, which labels go and which values come. The surprising thing: what is changed
//! for one metric alone makes two edges of one, each in its own metrics, so that no metric ever shows one series twice.

use std::borrow::Cow;
use std::collections::HashMap;
use std::hash::BuildHasher as _;
use std::sync::atomic::AtomicU8;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use super::{
    Ending, Key, Known, REQUEST_EDGE_CACHE_ENTRIES, RequestEdge, RequestEdgeCache, RequestEnds,
    RequestProtocol,
};
use crate::telemetry::edges::EdgeTable;
use crate::telemetry::flags::Flags;
use crate::telemetry::labels::{Counted, Reporter, overflow_text};

/// How many edges with other labels are kept; requests of further ones are counted under `overflow`. Values that come from
/// requests are without end, and must not crowd out who talked to whom.
pub const MAX_VARIANT_EDGES: usize = 2_000;
/// Longest value of a label that an operator adds, in bytes; longer ones are cut.
pub const MAX_TAG_VALUE_BYTES: usize = 128;

/// A metric of requests, by its place in a scrape.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[expect(missing_docs, reason = "each is the metric of its name")]
pub enum Family {
    Requests,
    Duration,
    RequestBytes,
    ResponseBytes,
    RequestMessages,
    ResponseMessages,
}

impl Family {
    /// All of them.
    pub const EACH: [Self; 6] = [
        Self::Requests,
        Self::Duration,
        Self::RequestBytes,
        Self::ResponseBytes,
        Self::RequestMessages,
        Self::ResponseMessages,
    ];
    /// The bits of all of them.
    pub const ALL: u8 = (1 << Self::EACH.len()) - 1;

    /// Its bit in a set of metrics.
    pub fn bit(self) -> u8 {
        1 << self as u8
    }
}

/// Labels of endings that an edge has not.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash)]
pub(super) struct Hidden(u8);

impl Hidden {
    pub(super) const PROTOCOL: u8 = 1;
    pub(super) const CODE: u8 = 2;
    pub(super) const GRPC: u8 = 4;
    const FLAGS: u8 = 8;
    pub(super) const NAMES: [(u8, &'static str); 4] = [
        (Self::PROTOCOL, "request_protocol"),
        (Self::CODE, "response_code"),
        (Self::GRPC, "grpc_response_status"),
        (Self::FLAGS, "response_flags"),
    ];

    fn of<'n>(names: impl Iterator<Item = &'n Arc<str>>) -> Self {
        let bit =
            |name: &Arc<str>| Self::NAMES.iter().find(|(_, it)| **it == **name).map_or(0, |(bit, _)| *bit);
        Self(names.map(bit).fold(0, |all, bit| all | bit))
    }

    pub(super) fn has(self, label: u8) -> bool {
        self.0 & label != 0
    }

    /// An ending as far as it is told, so that endings that look alike are one.
    pub(super) fn without(self, mut ending: Ending) -> Ending {
        if self.has(Self::PROTOCOL) {
            ending.protocol = RequestProtocol::Http;
        }
        if self.has(Self::CODE) {
            ending.status = 0;
        }
        if self.has(Self::GRPC) {
            ending.grpc_status = None;
        }
        if self.has(Self::FLAGS) {
            ending.flags = Flags::NONE;
        }
        ending
    }
}

/// How some metrics, of requests or of connections, differ from Istio's own.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Variant {
    families: u8,
    hidden: Hidden,
    removed: Box<[Arc<str>]>,
    added: Box<[Arc<str>]>,
}

impl Variant {
    /// Of the metrics whose bits are in `families`: without the labels `removed`, with those `added`, which take the place of
    /// any that are called so.
    pub fn new(families: u8, removed: Vec<Arc<str>>, added: Vec<Arc<str>>) -> Self {
        let hidden = Hidden::of(removed.iter().chain(&added));
        Self { families: families & Family::ALL, hidden, removed: removed.into(), added: added.into() }
    }

    /// Whether nothing differs but which metrics there are.
    pub fn is_plain(&self) -> bool {
        self.removed.is_empty() && self.added.is_empty()
    }

    /// The metrics that differ in this way, by their bits.
    pub(in crate::telemetry) fn families(&self) -> u8 {
        self.families
    }

    /// Whether the label `response_flags` goes.
    pub(in crate::telemetry) fn hides_flags(&self) -> bool {
        self.hidden.has(Hidden::FLAGS)
    }

    /// The labels of an edge, given those of Istio and the values of what is added.
    pub(in crate::telemetry) fn labels(&self, standard: &str, values: &[Cow<'_, str>]) -> String {
        let mut text = standard.to_owned();
        for name in self.removed.iter().chain(&self.added) {
            remove(&mut text, name);
        }
        for (name, value) in self.added.iter().zip(values) {
            text.push_str(if text.is_empty() { "" } else { "," });
            text.push_str(name);
            text.push_str("=\"");
            escape(&value[..value.floor_char_boundary(MAX_TAG_VALUE_BYTES)], &mut text);
            text.push('"');
        }
        text
    }
}

/// The other sets of metrics, of `all`, that have one with `families` in common.
pub(in crate::telemetry) fn overlapping(families: u8, all: u8) -> impl Iterator<Item = u8> {
    (1..=all).filter(move |it| *it != families && it & families != 0)
}

/// Takes a label out of a text of them.
fn remove(text: &mut String, name: &str) {
    let is_at = |at: usize| {
        let behind = &text[at..];
        (at == 0 || text[..at].ends_with(',')) && behind[name.len()..].starts_with("=\"")
    };
    // A value cannot look like a label behind a comma: quotes in it are escaped.
    let Some(at) = text.match_indices(name).map(|(at, _)| at).find(|at| is_at(*at)) else { return };
    let begin = at + name.len() + 2;
    let mut escaped = false;
    let length = text[begin..].bytes().position(|byte| {
        let ends = byte == b'"' && !escaped;
        escaped = byte == b'\\' && !escaped;
        ends
    });
    let Some(length) = length else { return };
    let mut end = begin + length + 1;
    let mut from = at;
    if text[end..].starts_with(',') {
        end += 1;
    } else {
        from = at.saturating_sub(1);
    }
    text.replace_range(from..end, "");
}

fn escape(value: &str, out: &mut String) {
    for character in value.chars() {
        match character {
            '\\' => out.push_str("\\\\"),
            '"' => out.push_str("\\\""),
            '\n' => out.push_str("\\n"),
            other => out.push(other),
        }
    }
}

/// The edges with other labels.
#[derive(Debug)]
pub(super) struct Variants {
    /// By their metrics and labels.
    table: Mutex<EdgeTable<RequestEdge>>,
    /// For those that found no place; one for each way of differing, of which there are few.
    overflow: Mutex<HashMap<(u8, Hidden), Arc<RequestEdge>>>,
}

impl Default for Variants {
    fn default() -> Self {
        Self { table: Mutex::new(EdgeTable::new(MAX_VARIANT_EDGES)), overflow: Mutex::default() }
    }
}

impl Variants {
    pub(super) fn scraped(&self, edges: &mut Vec<Arc<RequestEdge>>) {
        let mut table = self.table();
        table.scraped(Instant::now());
        edges.extend(table.edges().cloned());
        edges.extend(self.overflow.lock().unwrap_or_else(PoisonError::into_inner).values().cloned());
    }

    pub(super) fn expire_after(&self, expiry: Option<Duration>) {
        self.table().expire_after(expiry);
    }

    fn table(&self) -> MutexGuard<'_, EdgeTable<RequestEdge>> {
        // Each statement under the lock leaves the table whole.
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What an edge with other labels is found by without putting its labels together.
#[derive(Debug)]
pub(super) struct KnownVariant {
    key: Key,
    variant: Variant,
    values: Box<[Box<str>]>,
    known: Known,
}

impl KnownVariant {
    fn is(&self, key: Key, variant: &Variant, values: &[Cow<'_, str>]) -> bool {
        self.key == key
            && self.variant == *variant
            && self.values.iter().map(|it| &**it).eq(values.iter().map(|it| &**it))
    }

    fn edge(&self) -> Option<Arc<RequestEdge>> {
        self.known.edge.upgrade()
    }
}

impl RequestEdgeCache {
    /// As [`RequestEdgeCache::edge`], of metrics that differ from Istio's own; `values` are those of the labels that are added.
    pub fn variant(
        &self,
        ends: &RequestEnds<'_>,
        variant: &Variant,
        values: &[Cow<'_, str>],
    ) -> Arc<RequestEdge> {
        if variant.is_plain() {
            let edge = self.edge(ends);
            edge.show(variant.families);
            return edge;
        }
        let key = self.key(ends);
        let hash = self.hash.hash_one((key, variant, values));
        let mut known = self.variants.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(edge) =
            known.get(&hash).filter(|it| it.is(key, variant, values)).and_then(KnownVariant::edge)
        {
            return edge;
        }
        let labels = variant.labels(&ends.labels().request_text(), values);
        let Variants { table, overflow } = &self.metrics.variants;
        let make = |labels: Arc<str>| {
            let mut edge = RequestEdge::new(labels, self.metrics.room.clone());
            (edge.families, edge.hidden) = (AtomicU8::new(variant.families), variant.hidden);
            edge
        };
        // Behind the metrics, which two edges of the same labels differ in.
        let key_of = |families: u8| format!("{families:02x}{:02x}{labels}", variant.hidden.0);
        let mut table = table.lock().unwrap_or_else(PoisonError::into_inner);
        let whole = key_of(variant.families);
        if table.get(&whole).is_none() {
            // What was stated before and is no more: in no metric is one series shown twice.
            overlapping(variant.families, Family::ALL).for_each(|it| table.remove(&key_of(it)));
        }
        let found = table.find(whole, Instant::now(), |whole| make(whole[4..].into()));
        drop(table);
        let Some(edge) = found else {
            let mut overflow = overflow.lock().unwrap_or_else(PoisonError::into_inner);
            let edge = overflow.entry((variant.families, variant.hidden)).or_insert_with(|| {
                Arc::new(make(overflow_text(Reporter::Waypoint, Counted::Requests).into()))
            });
            return edge.clone();
        };
        if known.len() >= REQUEST_EDGE_CACHE_ENTRIES {
            known.clear();
        }
        // What a hash stands for in the key cannot be compared with: the labels are put together anew each time.
        if key.1 == 0 {
            let values = values.iter().map(|it| Box::from(&**it)).collect();
            known.insert(
                hash,
                KnownVariant { key, variant: variant.clone(), values, known: ends.known(&edge) },
            );
        }
        edge
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn labels_go_and_come() {
        let standard = r#"reporter="waypoint",a="1,b=\"2\"",b="x",ab="y""#;
        let labels = |removed: &[&str], added: &[(&str, &str)]| {
            let names = |all: &[&str]| all.iter().map(|it| Arc::from(*it)).collect();
            let (keys, values): (Vec<_>, Vec<_>) = added.iter().copied().unzip();
            let values: Vec<Cow<'_, str>> = values.into_iter().map(Cow::Borrowed).collect();
            Variant::new(Family::ALL, names(removed), names(&keys)).labels(standard, &values)
        };
        assert_eq!(labels(&["b"], &[]), r#"reporter="waypoint",a="1,b=\"2\"",ab="y""#);
        assert_eq!(labels(&["a", "ab"], &[]), r#"reporter="waypoint",b="x""#);
        assert_eq!(labels(&["reporter"], &[("b", "n\"\n")]), r#"a="1,b=\"2\"",ab="y",b="n\"\n""#);
        assert_eq!(labels(&["none"], &[]), standard);
        assert_eq!(labels(&["reporter", "a", "b", "ab"], &[("c", "d")]), r#"c="d""#);
        let long = labels(&[], &[("c", &"é".repeat(MAX_TAG_VALUE_BYTES))]);
        assert!(long.ends_with(&format!("c=\"{}\"", "é".repeat(MAX_TAG_VALUE_BYTES / 2))), "{long}");
    }

    #[test]
    fn endings_that_look_alike_are_one() {
        let names: Vec<Arc<str>> = vec!["response_code".into(), "response_flags".into()];
        let hidden = Hidden::of(names.iter());
        let flags = crate::telemetry::flags::Flag::DelayInjected.into();
        let ending = Ending { protocol: RequestProtocol::Grpc, status: 503, grpc_status: Some(1), flags };
        let seen = hidden.without(ending);
        assert_eq!((seen.status, seen.flags, seen.grpc_status), (0, Flags::NONE, Some(1)));
    }
}
