//! A document with its objects found by line and by name, so that whoever asks for each object of a long `List` does not
//! look at all of them for every one.

use std::collections::HashMap;
use std::collections::hash_map::Entry;

use super::tree::{self, Node};
use crate::config::Key;

/// A document, and where the objects of it are.
#[derive(Debug)]
pub struct Document {
    root: Node,
    /// For a `List`.
    items: Option<Items>,
}

/// The place of each item in its list.
#[derive(Debug, Default)]
struct Items {
    /// By the line it begins on; `None` where several do.
    lines: HashMap<u32, Option<usize>>,
    /// The first by kind, namespace and name, and by kind and name alone.
    names: HashMap<String, usize>,
}

impl Document {
    /// Reads the first document of a text; `None` as of [`tree::read`].
    pub fn read(text: &str) -> Option<Self> {
        tree::read(text).map(Self::of)
    }

    fn of(root: Node) -> Self {
        let is_list = root.get("kind").and_then(Node::text) == Some("List");
        let items = is_list.then(|| root.get("items").map(Items::of).unwrap_or_default());
        Self { root, items }
    }

    /// The part that states an object which begins on a line, from 1 at the beginning of the document: all of it, or an
    /// item of a `List`.
    pub fn stating(&self, line: u32, key: Option<&Key>) -> Option<&Node> {
        let Some(items) = &self.items else { return Some(&self.root) };
        let at = match items.lines.get(&line) {
            Some(Some(only)) => *only,
            _ => {
                let Key { kind, object } = key?;
                *items.names.get(&name(kind.name(), &object.namespace, &object.name))?
            }
        };
        self.root.get("items")?.items().get(at)
    }
}

impl Items {
    fn of(list: &Node) -> Self {
        let mut found = Self::default();
        for (at, item) in list.items().iter().enumerate() {
            match found.lines.entry(item.line) {
                Entry::Vacant(place) => drop(place.insert(Some(at))),
                Entry::Occupied(mut place) => drop(place.insert(None)),
            }
            let says = |keys: &[&str]| item.at(keys).and_then(Node::text);
            let (Some(kind), Some(own)) = (says(&["kind"]), says(&["metadata", "name"])) else { continue };
            let namespace = says(&["metadata", "namespace"]).unwrap_or("default");
            for namespace in [namespace, ""] {
                found.names.entry(name(kind, namespace, own)).or_insert(at);
            }
        }
        found
    }
}

fn name(kind: &str, namespace: &str, name: &str) -> String {
    format!("{kind} {namespace}/{name}")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{Kind, ObjectName};

    #[test]
    fn an_item_of_a_list_is_found_by_its_line_or_by_its_name() {
        let block = "kind: List\napiVersion: v1\nitems:\n- kind: Pod\n  metadata: {name: a}\n- kind: Pod\n  spec:\n    x: y\n";
        let document = Document::read(block).unwrap();
        assert_eq!(document.stating(6, None).unwrap().line_of("spec.x"), 8);
        let flow = "{kind: List, items: [{kind: Pod, metadata: {name: a}},\n  {kind: Pod, metadata: {name: b, namespace: c}}, \
                    {kind: Pod, metadata: {name: b, namespace: d}}, {kind: Node, metadata: {name: n}}]}";
        let document = Document::read(flow).unwrap();
        let key = |kind, namespace, name| Key { kind, object: ObjectName::new(namespace, name) };
        let found = |line, namespace, name| {
            let node = document.stating(line, Some(&key(Kind::Pod, namespace, name)))?;
            node.at(&["metadata", "namespace"]).and_then(Node::text).or(Some("-"))
        };
        assert_eq!(found(2, "c", "b"), Some("c"));
        assert_eq!(found(2, "d", "b"), Some("d"));
        assert_eq!(found(9, "d", "b"), Some("d"));
        assert_eq!(found(9, "default", "a"), Some("-"));
        assert_eq!(found(9, "default", "b"), None);
        assert_eq!(document.stating(2, Some(&key(Kind::Node, "", "n"))).unwrap().line, 2);
        assert!(document.stating(2, None).is_none());
        assert!(Document::read("kind: Pod").unwrap().stating(9, None).is_some());
    }
}
