//! A document as a tree whose parts know the line they stand on.
//!
//! For faults and findings alone, which name a field: what can be read is decoded without one. Reads every style of YAML,
//! JSON with it, by the events of the parser. The surprising thing: what stands where an alias does has the lines of its
//! anchor, where it is written; beyond a bound on all of them an alias is a leaf of which nothing is known.

use std::collections::{HashMap, HashSet};
use std::ops::Range;

use granit_parser::{Event, Parser, ScalarStyle, Span};

use super::{MAX_ALIASED_NODES, MAX_DEPTH, documents, text};

/// The key of what is merged into a mapping.
pub const MERGE: &str = "<<";

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
    /// What nothing is known of, such as an alias beyond the bound.
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
    let events = Parser::new_from_str(text);
    let mut reader = Reader { events, anchors: HashMap::new(), left: MAX_ALIASED_NODES };
    loop {
        match reader.next()? {
            (Event::StreamStart | Event::DocumentStart(..), _) => {}
            first => return reader.node(first, 0),
        }
    }
}

struct Reader<'t> {
    events: Parser<'t, granit_parser::StrInput<'t>>,
    /// What aliases stand for, by the number of its anchor.
    anchors: HashMap<usize, Anchored>,
    /// How many more nodes may be copied for anchors and aliases.
    left: usize,
}

/// What stands at an anchor, and how much that is.
struct Anchored {
    value: Value,
    size: Size,
}

/// Nodes in a part of a document, and how deep it is.
#[derive(Clone, Copy)]
struct Size {
    nodes: usize,
    depth: usize,
}

fn line(span: &Span) -> u32 {
    u32::try_from(span.start.line()).unwrap_or(u32::MAX)
}

impl<'t> Reader<'t> {
    /// The next event that is no comment.
    fn next(&mut self) -> Option<(Event<'t>, Span)> {
        loop {
            let event = self.events.next_event()?.ok()?;
            if !matches!(event.0, Event::Comment(..)) {
                return Some(event);
            }
        }
    }

    fn node(&mut self, (event, span): (Event<'t>, Span), depth: usize) -> Option<Node> {
        if depth > MAX_DEPTH {
            return None;
        }
        let anchor = match &event {
            Event::Scalar(_, _, anchor, _)
            | Event::SequenceStart(_, anchor, _)
            | Event::MappingStart(_, anchor, _) => *anchor,
            _ => 0,
        };
        let value = match event {
            Event::Scalar(text, style, ..) => {
                let is_block = matches!(style, ScalarStyle::Literal | ScalarStyle::Folded);
                Value::Scalar(text.into_owned(), is_block)
            }
            Event::SequenceStart(..) => {
                let mut items = Vec::new();
                loop {
                    match self.next()? {
                        (Event::SequenceEnd, _) => break Value::List(items),
                        item => items.push(self.node(item, depth + 1)?),
                    }
                }
            }
            Event::MappingStart(..) => Value::Map(self.entries(depth)?),
            Event::Alias(anchor) => self.aliased(anchor, depth),
            Event::StreamEnd | Event::DocumentEnd => return None,
            _ => Value::Other,
        };
        if anchor != 0 {
            self.anchor(anchor, &value);
        }
        Some(Node { line: line(&span), value })
    }

    fn entries(&mut self, depth: usize) -> Option<Vec<Entry>> {
        let mut entries = Vec::new();
        loop {
            let key = match self.next()? {
                (Event::MappingEnd, _) => break,
                key => self.node(key, depth + 1)?,
            };
            let value = self.next()?;
            let value = self.node(value, depth + 1)?;
            let Value::Scalar(text, _) = key.value else { continue };
            entries.push(Entry { key: text, line: key.line, node: value });
        }
        merge(&mut entries);
        Some(entries)
    }

    fn anchor(&mut self, anchor: usize, value: &Value) {
        let size = value.size();
        match self.left.checked_sub(size.nodes) {
            Some(left) => {
                self.left = left;
                self.anchors.insert(anchor, Anchored { value: value.clone(), size });
            }
            None => drop(self.anchors.remove(&anchor)),
        }
    }

    /// What an alias stands for, as long as that is within the bounds.
    fn aliased(&mut self, anchor: usize, depth: usize) -> Value {
        let Some(Anchored { value, size }) = self.anchors.get(&anchor) else { return Value::Other };
        match self.left.checked_sub(size.nodes) {
            Some(left) if depth + size.depth <= MAX_DEPTH => {
                self.left = left;
                value.clone()
            }
            _ => Value::Other,
        }
    }
}

/// Puts what `<<` names into its mapping, where that does not say otherwise. What cannot be told stays there.
fn merge(entries: &mut Vec<Entry>) {
    let is_map = |it: &Node| matches!(it.value, Value::Map(_));
    let can = |it: &Entry| {
        let is_list = matches!(it.node.value, Value::List(_)) && it.node.items().iter().all(is_map);
        it.key == MERGE && (is_map(&it.node) || is_list)
    };
    let Some(at) = entries.iter().position(can) else { return };
    let from = match entries.remove(at).node.value {
        Value::List(all) => all,
        value => vec![Node { line: 0, value }],
    };
    let mut own: HashSet<String> = entries.iter().map(|it| it.key.clone()).collect();
    for node in from {
        let Value::Map(more) = node.value else { continue };
        entries.extend(more.into_iter().filter(|it| own.insert(it.key.clone())));
    }
}

impl Value {
    fn size(&self) -> Size {
        let nodes: &mut dyn Iterator<Item = &Node> = match self {
            Self::List(items) => &mut items.iter(),
            Self::Map(entries) => &mut entries.iter().map(|it| &it.node),
            _ => return Size { nodes: 1, depth: 0 },
        };
        nodes.map(|it| it.value.size()).fold(Size { nodes: 1, depth: 0 }, |all, it| Size {
            nodes: all.nodes + it.nodes,
            depth: all.depth.max(it.depth + 1),
        })
    }
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

    /// The path of a key on a line, or anywhere where none is on it; `None` where several may be meant.
    pub fn path_of(&self, key: &str, line: u32) -> Option<String> {
        let mut found = Vec::new();
        self.paths(key, &mut String::new(), &mut found);
        let mut on_line: Vec<&String> = found.iter().filter(|it| it.0 == line).map(|it| &it.1).collect();
        if on_line.is_empty() {
            on_line = found.iter().map(|it| &it.1).collect();
        }
        on_line.dedup();
        match on_line[..] {
            [only] => Some(only.clone()),
            _ => None,
        }
    }

    /// All places of a key, each with its line.
    fn paths(&self, key: &str, path: &mut String, found: &mut Vec<(u32, String)>) {
        let length = path.len();
        for entry in self.entries() {
            if length > 0 {
                path.push('.');
            }
            path.push_str(&entry.key);
            if entry.key == key {
                found.push((entry.line, path.clone()));
            }
            entry.node.paths(key, path, found);
            path.truncate(length);
        }
        for (at, item) in self.items().iter().enumerate() {
            path.push_str(&format!("[{at}]"));
            item.paths(key, path, found);
            path.truncate(length);
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
    }

    #[test]
    fn aliases_stand_for_what_they_name_within_a_bound() {
        let text = "a: &x {b: c, e: f}\nd: *x\ng:\n  <<: *x\n  e: own\nh: {<<: [*x, {i: j}]}";
        let tree = read(text).unwrap();
        let says = |keys: &[&str]| tree.at(keys).and_then(Node::text);
        assert_eq!((says(&["d", "b"]), tree.line_of("d.b"), tree.line_of("d")), (Some("c"), 1, 2));
        assert_eq!((says(&["g", "b"]), says(&["g", "e"])), (Some("c"), Some("own")));
        assert_eq!((says(&["h", "b"]), says(&["h", "i"]), says(&["g", "<<"])), (Some("c"), Some("j"), None));
        // Each stands for ten of the one before.
        let mut bomb = "a0: &a0 [x, x, x, x, x, x, x, x, x, x]\n".to_owned();
        for at in 1..9 {
            let many = vec![format!("*a{}", at - 1); 10].join(", ");
            bomb.push_str(&format!("a{at}: &a{at} [{many}]\n"));
        }
        let tree = read(&bomb).unwrap();
        assert_eq!(tree.get("a1").unwrap().items()[9].items().len(), 10);
        assert!(tree.get("a8").unwrap().items().iter().any(|it| it.value == Value::Other));
        // One inside itself is nothing.
        assert_eq!(read("a: &x [*x]").unwrap().get("a").unwrap().items()[0].value, Value::Other);
        let mut deep = "a0: &a0 [x]\n".to_owned();
        (1..=MAX_DEPTH).for_each(|at| deep.push_str(&format!("a{at}: &a{at} [*a{}]\n", at - 1)));
        let last = format!("a{MAX_DEPTH}");
        assert!(read(&deep).unwrap().get(&last).unwrap().value.size().depth <= MAX_DEPTH);
    }

    #[test]
    fn a_key_is_told_by_its_path_where_only_one_can_be_meant() {
        let tree = read(BLOCK).unwrap();
        for (key, line, path) in [
            ("prefix", 11, Some("spec.http[0].match[0].uri.prefix")),
            ("prefix", 1, None),
            ("prefix", 17, Some("spec.http[1].match[1].uri.prefix")),
            ("destination", 19, Some("spec.http[1].route[0].destination")),
            ("number", 1, Some("spec.http[1].route[0].destination.port.number")),
            ("uri", 1, None),
            ("nothing", 8, None),
            ("spec", 6, Some("spec")),
        ] {
            assert_eq!(tree.path_of(key, line).as_deref(), path, "{key}");
        }
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
