//! A document as a tree whose parts know the line they stand on.
//!
//! For faults and findings alone, which name a field: what can be read is decoded without one. Reads every style of YAML,
//! JSON with it, by the events of the parser. The surprising thing: an alias is a leaf, so that no document stands for more
//! than its text.

use std::ops::Range;

use granit_parser::{Event, Parser, ScalarStyle, Span};

use super::{MAX_DEPTH, documents, text};
use crate::config::Key;

/// A part of a document.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Node {
    /// The line it begins on, from 1 at the beginning of the text.
    pub line: u32,
    /// What it is.
    pub value: Value,
}

/// What a part of a document is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Value {
    /// A word; whether it is a block of lines below its key.
    Scalar(String, bool),
    /// A list.
    List(Vec<Node>),
    /// A mapping, in the order in which it is written.
    Map(Vec<Entry>),
    /// An alias, or what nothing is known of.
    Other,
}

/// A key and what stands there.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// The key.
    pub key: String,
    /// The line of the key, from 1 at the beginning of the text.
    pub line: u32,
    /// The value.
    pub node: Node,
}

/// Reads the first document of a text; `None` where there is none, it is no YAML or too deep.
pub fn read(text: &str) -> Option<Node> {
    let mut events = Parser::new_from_str(text);
    loop {
        match next(&mut events)? {
            (Event::StreamStart | Event::DocumentStart(..), _) => {}
            first => return node(&mut events, first, 0),
        }
    }
}

type Events<'t> = Parser<'t, granit_parser::StrInput<'t>>;

/// The next event that is no comment.
fn next<'t>(events: &mut Events<'t>) -> Option<(Event<'t>, Span)> {
    loop {
        let event = events.next_event()?.ok()?;
        if !matches!(event.0, Event::Comment(..)) {
            return Some(event);
        }
    }
}

fn line(span: &Span) -> u32 {
    u32::try_from(span.start.line()).unwrap_or(u32::MAX)
}

fn node<'t>(events: &mut Events<'t>, (event, span): (Event<'t>, Span), depth: usize) -> Option<Node> {
    if depth > MAX_DEPTH {
        return None;
    }
    let value = match event {
        Event::Scalar(text, style, ..) => {
            let is_block = matches!(style, ScalarStyle::Literal | ScalarStyle::Folded);
            Value::Scalar(text.into_owned(), is_block)
        }
        Event::SequenceStart(..) => {
            let mut items = Vec::new();
            loop {
                match next(events)? {
                    (Event::SequenceEnd, _) => break Value::List(items),
                    item => items.push(node(events, item, depth + 1)?),
                }
            }
        }
        Event::MappingStart(..) => {
            let mut entries = Vec::new();
            loop {
                let key = match next(events)? {
                    (Event::MappingEnd, _) => break Value::Map(entries),
                    key => node(events, key, depth + 1)?,
                };
                let value = next(events)?;
                let value = node(events, value, depth + 1)?;
                let Value::Scalar(text, _) = key.value else { continue };
                entries.push(Entry { key: text, line: key.line, node: value });
            }
        }
        Event::StreamEnd | Event::DocumentEnd => return None,
        _ => Value::Other,
    };
    Some(Node { line: line(&span), value })
}

/// The documents of a file: the line each begins on, from 1, and where it stands. Those that are no text are left out.
pub fn places(bytes: &[u8]) -> Vec<(u32, Range<usize>)> {
    let mut at = 0;
    let mut found = Vec::new();
    for document in documents(bytes) {
        // Each begins behind the mark that ended the one before.
        let from = document.bytes.as_ptr().addr() - bytes.as_ptr().addr();
        debug_assert!(from >= at, "documents stand one after the other");
        at = from + document.bytes.len();
        if text(document.bytes).is_ok() {
            found.push((document.line, from..at));
        }
    }
    found
}

impl Node {
    /// The part of this document that states an object which begins on a line of it: the document, or an item of its
    /// `List`.
    pub fn stating(&self, line: u32, key: Option<&Key>) -> Option<&Self> {
        if self.get("kind").and_then(Self::text) != Some("List") {
            return Some(self);
        }
        let items = self.get("items")?.items();
        let mut on_line = items.iter().filter(|it| it.line == line);
        if let (Some(item), None) = (on_line.next(), on_line.next()) {
            return Some(item);
        }
        items.iter().find(|it| key.is_some_and(|key| it.states(key)))
    }

    /// Whether it says that it is this object.
    fn states(&self, key: &Key) -> bool {
        let says = |keys: &[&str]| self.at(keys).and_then(Self::text);
        let namespace = says(&["metadata", "namespace"]).unwrap_or("default");
        says(&["kind"]) == Some(key.kind.name())
            && says(&["metadata", "name"]) == Some(&*key.object.name)
            && (key.object.namespace.is_empty() || *key.object.namespace == *namespace)
    }

    /// The entries of a mapping; none of anything else.
    pub fn entries(&self) -> &[Entry] {
        match &self.value {
            Value::Map(entries) => entries,
            _ => &[],
        }
    }

    /// The items of a list; none of anything else.
    pub fn items(&self) -> &[Self] {
        match &self.value {
            Value::List(items) => items,
            _ => &[],
        }
    }

    /// The word that it is.
    pub fn text(&self) -> Option<&str> {
        match &self.value {
            Value::Scalar(text, _) => Some(text),
            _ => None,
        }
    }

    /// What stands at a key of a mapping.
    pub fn get(&self, key: &str) -> Option<&Self> {
        self.entries().iter().find(|it| it.key == key).map(|it| &it.node)
    }

    /// What stands at a key of a mapping in a mapping, and so on.
    pub fn at(&self, keys: &[&str]) -> Option<&Self> {
        keys.iter().try_fold(self, |node, key| node.get(key))
    }

    /// The line of a field such as `spec.http[1].route[0].destination.host`, or of what is nearest to it on the way there.
    /// Keys may have dots: `metadata.labels.istio.io/use-waypoint`. Fields of `mesh` are those of a MeshConfig, which is a
    /// text inside its ConfigMap.
    pub fn line_of(&self, field: &str) -> u32 {
        let Some(mesh) = self.get("data").filter(|_| field == "mesh" || field.starts_with("mesh.")) else {
            return self.nearest(field);
        };
        let line = mesh.nearest("mesh");
        match mesh.get("mesh").map(|it| &it.value) {
            Some(Value::Scalar(text, true)) => {
                let inner = read(text).map_or(0, |it| it.nearest(field.trim_start_matches("mesh.")));
                line.saturating_add(inner)
            }
            _ => line,
        }
    }

    fn nearest(&self, field: &str) -> u32 {
        let (mut node, mut line, mut rest) = (self, self.line, field);
        loop {
            rest = rest.strip_prefix('.').unwrap_or(rest);
            if let Some((position, behind)) = rest.strip_prefix('[').and_then(|it| it.split_once(']')) {
                let item = position.parse().ok().and_then(|it: usize| node.items().get(it));
                let Some(item) = item else { return line };
                (node, line, rest) = (item, item.line, behind);
                continue;
            }
            let is_next = |it: &&Entry| {
                rest.strip_prefix(&*it.key).is_some_and(|it| it.is_empty() || it.starts_with(['.', '[']))
            };
            // Of keys that begin alike, the longest is meant.
            let found = node.entries().iter().filter(|it| !it.key.is_empty()).filter(is_next);
            let Some(entry) = found.max_by_key(|it| it.key.len()) else { return line };
            (node, line, rest) = (&entry.node, entry.line, &rest[entry.key.len()..]);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{Kind, ObjectName};

    const BLOCK: &str = "# A comment.
kind: VirtualService
metadata:
  labels: {a.b/c: d, istio.io/use-waypoint: w,
    istio.io/use-waypoint-namespace: n}
spec:
  hosts: [web]
  http:
    - name: first
      match:
        - uri: {prefix: /a}

        - headers:
            x: {exact: y}
    - match:
      - uri: {prefix: /b}
      - uri: {prefix: /c}
      route:
      - destination: {host: web,
          port: {number: 80}}
    # The last.
    - route: [{destination: {host: web}}]
  tcp:
  - route: []
";

    #[test]
    fn fields_are_found_in_every_style_and_the_nearest_where_there_is_none() {
        let tree = read(BLOCK).unwrap();
        for (field, expected) in [
            ("", 2),
            ("spec", 6),
            ("spec.hosts[0]", 7),
            ("spec.http", 8),
            ("spec.http[0]", 9),
            ("spec.http[0].match[1].headers.x", 14),
            ("spec.http[1].match[1]", 17),
            ("spec.http[1].route[0].destination.host", 19),
            ("spec.http[1].route[0].destination.port.number", 20),
            ("spec.http[1].route[0].destination.subset", 19),
            ("spec.http[2].route[0].destination", 22),
            ("spec.http[3]", 8),
            ("spec.tcp[0].route[1]", 24),
            ("spec.tls[0]", 6),
            ("metadata.labels.a.b/c", 4),
            ("metadata.labels.istio.io/use-waypoint", 4),
            ("metadata.labels.istio.io/use-waypoint-namespace", 5),
            ("status", 2),
        ] {
            assert_eq!(tree.line_of(field), expected, "{field}");
        }
    }

    #[test]
    fn json_is_read_too_and_what_is_no_document_is_not() {
        let json = "{\n\t\"kind\": \"Service\",\n\t\"spec\": {\n\t\t\"ports\": [\n\t\t\t{\"port\": 80},\n\t\t\t{\"port\": 81}\n\t\t]\n\t}\n}";
        let tree = read(json).unwrap();
        assert_eq!(tree.line_of("spec.ports[1].port"), 6);
        assert_eq!(tree.at(&["kind"]).and_then(Node::text), Some("Service"));
        for text in ["", "a: [", "# nothing", &"[".repeat(MAX_DEPTH + 2)] {
            assert_eq!(read(text), None, "{text}");
        }
        let alias = read("a: &x {b: c}\nd: *x").unwrap();
        assert_eq!(alias.get("d").unwrap().value, Value::Other);
    }

    #[test]
    fn an_item_of_a_list_is_found_by_its_line_or_by_its_name() {
        let block = "kind: List\napiVersion: v1\nitems:\n- kind: Pod\n  metadata: {name: a}\n- kind: Pod\n  spec:\n    x: y\n";
        let tree = read(block).unwrap();
        assert_eq!(tree.stating(6, None).unwrap().line_of("spec.x"), 8);
        let flow = "{kind: List, items: [{kind: Pod, metadata: {name: a}},\n  {kind: Pod, metadata: {name: b, namespace: c}}]}";
        let tree = read(flow).unwrap();
        let key = |namespace, name| Key { kind: Kind::Pod, object: ObjectName::new(namespace, name) };
        assert_eq!(tree.stating(9, Some(&key("c", "b"))).unwrap().line, 2);
        assert_eq!(tree.stating(9, Some(&key("default", "a"))).unwrap().line, 1);
        assert_eq!(tree.stating(9, Some(&key("default", "b"))), None);
    }

    #[test]
    fn a_field_of_the_mesh_config_is_found_inside_its_text() {
        let text = "kind: ConfigMap\ndata:\n  mesh: |\n    # First.\n    defaultConfig:\n      tracing: {}\n";
        let tree = read(text).unwrap();
        for (field, line) in
            [("mesh.defaultConfig.tracing", 6), ("mesh.nothing", 5), ("data.mesh", 3), ("mesh", 5)]
        {
            assert_eq!(tree.line_of(field), line, "{field}");
        }
    }

    #[test]
    fn documents_are_found_with_the_lines_they_begin_on() {
        let text = "a: b\n---\nc: d\n--- {e: f}\n";
        let found: Vec<_> = places(text.as_bytes()).into_iter().map(|(line, at)| (line, &text[at])).collect();
        assert_eq!(found, [(1, "a: b\n"), (2, "\nc: d\n"), (4, " {e: f}\n")]);
    }
}
