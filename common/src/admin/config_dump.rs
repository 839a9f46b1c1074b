//! `/config_dump`: one JSON object whose keys are sections handed in by the program, written section by section.
//!
//! Knows no section's content. Long lists are written item by item while they are read, so that the dump of a hundred
//! thousand workloads needs a chunk of memory and not the whole text.

use std::sync::Arc;

use bytes::Bytes;
use serde_json::Value;

/// About how much of the dump is built at a time, in bytes.
const CHUNK_BYTES: usize = 64 * 1024;

/// Items of a long section, made while they are written.
pub type Items = Box<dyn Iterator<Item = Value> + Send>;

/// How a section is made, at the moment of the dump.
pub enum Content {
    /// At once.
    Value(Box<dyn Fn() -> Value + Send + Sync>),
    /// A list, item by item. The iterator should own what it shows (a snapshot's `Arc`s), so that the dump is of one
    /// moment.
    List(Box<dyn Fn() -> Items + Send + Sync>),
}

/// One key of the dump.
pub struct DumpSection {
    /// The key, such as `workloads`.
    pub key: &'static str,
    /// What is under it.
    pub content: Content,
}

impl DumpSection {
    /// A section made at once.
    pub fn value(key: &'static str, make: impl Fn() -> Value + Send + Sync + 'static) -> Self {
        Self { key, content: Content::Value(Box::new(make)) }
    }

    /// A section that is a long list.
    pub fn list(key: &'static str, make: impl Fn() -> Items + Send + Sync + 'static) -> Self {
        Self { key, content: Content::List(Box::new(make)) }
    }
}

/// A dump that is being written.
pub struct Dump {
    sections: Arc<[DumpSection]>,
    next: usize,
    items: Option<Items>,
    /// Whether the list that is being written has an item already.
    continued: bool,
    ended: bool,
}

impl Dump {
    /// A dump of `sections`, in their order.
    pub fn new(sections: Arc<[DumpSection]>) -> Self {
        Self { sections, next: 0, items: None, continued: false, ended: false }
    }

    /// Writes the next item or section; `false` at the end.
    fn advance(&mut self, out: &mut Vec<u8>) -> bool {
        if let Some(items) = &mut self.items {
            match items.next() {
                Some(item) => {
                    out.extend_from_slice(if self.continued { b",\n" } else { b"\n" });
                    self.continued = true;
                    append(&item, out);
                }
                None => {
                    out.extend_from_slice(b"]");
                    self.items = None;
                }
            }
            return true;
        }
        let Some(section) = self.sections.get(self.next) else {
            out.extend_from_slice(if self.sections.is_empty() { b"{}\n" } else { b"\n}\n" });
            return false;
        };
        out.extend_from_slice(if self.next == 0 { b"{\n" } else { b",\n" });
        append(&Value::from(section.key), out);
        out.extend_from_slice(b": ");
        match &section.content {
            Content::Value(make) => append(&make(), out),
            Content::List(make) => {
                out.extend_from_slice(b"[");
                self.items = Some(make());
                self.continued = false;
            }
        }
        self.next += 1;
        true
    }
}

fn append(value: &Value, out: &mut Vec<u8>) {
    // Keys of a `Value` are strings and a vector takes everything: there is nothing to fail.
    let _ = serde_json::to_writer_pretty(out, value);
}

impl Iterator for Dump {
    type Item = Bytes;

    fn next(&mut self) -> Option<Bytes> {
        if self.ended {
            return None;
        }
        let mut chunk = Vec::with_capacity(CHUNK_BYTES + 4096);
        while chunk.len() < CHUNK_BYTES {
            if !self.advance(&mut chunk) {
                self.ended = true;
                break;
            }
        }
        Some(chunk.into())
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn written(sections: Vec<DumpSection>) -> (String, usize) {
        let chunks: Vec<Bytes> = Dump::new(sections.into()).collect();
        let largest = chunks.iter().map(Bytes::len).max().unwrap();
        (String::from_utf8(chunks.concat()).unwrap(), largest)
    }

    #[test]
    fn sections_become_the_keys_of_one_object_in_their_order() {
        let (text, _) = written(vec![
            DumpSection::list("workloads", || Box::new([json!({"name": "a"}), json!(2)].into_iter())),
            DumpSection::list("services", || Box::new(std::iter::empty())),
            DumpSection::value("config", || json!({"k": "v"})),
        ]);
        let value: Value = serde_json::from_str(&text).unwrap();
        assert_eq!(value, json!({"workloads": [{"name": "a"}, 2], "services": [], "config": {"k": "v"}}));
        assert!(
            text.find("workloads") < text.find("services") && text.find("services") < text.find("config")
        );
        assert_eq!(written(vec![]).0, "{}\n");
    }

    #[test]
    fn a_long_list_is_never_held_as_a_whole() {
        let (text, largest) = written(vec![DumpSection::list("workloads", || {
            Box::new((0..100_000).map(|n| json!({"uid": format!("Kubernetes//Pod/ns/pod-{n}"), "n": n})))
        })]);
        let value: Value = serde_json::from_str(&text).unwrap();
        assert_eq!(value["workloads"].as_array().unwrap().len(), 100_000);
        assert!(text.len() > 5_000_000 && largest < 2 * CHUNK_BYTES, "{largest}");
    }
}
