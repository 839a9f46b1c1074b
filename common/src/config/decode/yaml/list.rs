//! Unpacks a `v1` List, as `kubectl get -o yaml` writes it, item by item: one bad item spoils no other.
//!
//! In block style an item is cut out by its lines, so that a list of ten thousand pods is never held as a tree. Only
//! a list in flow style (JSON) is, and there one fault in its syntax spoils the whole.

use serde::Deserialize;

use super::head::Head;
use super::tree::{self, Node};
use super::{Decoder, MAX_DOCUMENTS, Page, Signs, whole};
use crate::config::Subject;
use crate::config::decode::Fault;

/// Reads every item.
pub(super) fn unpack(decoder: &mut Decoder<'_>, page: Page<'_>) {
    match items(page) {
        Some(items) => {
            for item in items {
                decoder.documents += 1;
                if decoder.documents > MAX_DOCUMENTS {
                    let fault = Fault::new("items", format!("more than {MAX_DOCUMENTS} documents"));
                    let signs = Signs::of(None, page.text.as_bytes());
                    return decoder.reject(item.line, Subject::default(), signs, fault);
                }
                let text = dedent(item.text);
                decoder.page(Page { text: &text, line: item.line });
            }
        }
        None => tree(decoder, page),
    }
}

/// The lines of each item below a plain `items:`; `None` when the list is not written that way.
fn items(page: Page<'_>) -> Option<Vec<Page<'_>>> {
    let mut items: Vec<Page<'_>> = Vec::new();
    let (mut dash, mut inside, mut at) = (None, false, 0);
    for (line, text) in (page.line..).zip(page.text.split_inclusive('\n')) {
        let start = at;
        at += text.len();
        let content = text.trim_start_matches(' ');
        let indent = text.len() - content.len();
        let blank = content.trim().is_empty() || content.starts_with('#');
        if !inside {
            if text.starts_with("items:") {
                inside = true;
                if text.trim_end() != "items:" || !items.is_empty() {
                    return None;
                }
            }
            continue;
        }
        let is_item = content.starts_with("- ") && dash.is_none_or(|it| it == indent);
        if is_item {
            dash = Some(indent);
            items.push(Page { text: &page.text[start..at], line });
        } else if blank || dash.is_some_and(|dash| indent > dash) {
            if let Some(item) = items.last_mut() {
                let from = at - text.len() - item.text.len();
                item.text = &page.text[from..at];
            }
        } else if indent == 0 {
            inside = false;
        } else {
            return None;
        }
    }
    (!items.is_empty()).then_some(items)
}

/// An item as a document of its own: without its dash, and as far to the left as its first key.
fn dedent(item: &str) -> String {
    let before = item.len() - item.trim_start_matches(' ').len() + 1;
    let width = before + item[before..].len() - item[before..].trim_start_matches(' ').len();
    let mut text = String::with_capacity(item.len());
    for (i, line) in item.split_inclusive('\n').enumerate() {
        let margin = line.len() - line.trim_start_matches(' ').len();
        // A line that starts further left than its item is wrong; left where it is, it will be found so.
        let cut = if i == 0 || margin >= width { width.min(line.len()) } else { margin.saturating_sub(1) };
        text.push_str(&line[cut..]);
    }
    text
}

#[derive(Deserialize)]
struct Tree {
    items: Option<Vec<serde_json::Value>>,
}

/// A list in any other style.
fn tree(decoder: &mut Decoder<'_>, page: Page<'_>) {
    let tree: Tree = match whole::read(page.text, None) {
        Ok(tree) => tree,
        Err(error) => {
            let signs = Signs::of(None, page.text.as_bytes());
            return decoder.reject_error(page, Subject::default(), signs, &error);
        }
    };
    let lines = tree::read(page.text);
    let lines = lines.as_ref().and_then(|it| it.get("items")).map(Node::items).unwrap_or_default();
    for (at, item) in tree.items.unwrap_or_default().into_iter().enumerate() {
        decoder.documents += 1;
        let stated = |key: &str| item.get(key).and_then(|it| it.as_str()).unwrap_or_default().to_owned();
        let head = Head { api_version: stated("apiVersion"), kind: stated("kind") };
        // Printed as JSON, which is YAML too, an item is a document like any other.
        let text = item.to_string();
        let behind = lines.get(at).map_or(0, |it| it.line.saturating_sub(1));
        decoder.document(Page { text: &text, line: page.line.saturating_add(behind) }, &head);
    }
}
