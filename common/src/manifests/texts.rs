//! The texts that manifests were read from, to tell on which line a field of an object stands.
//!
//! Nothing is parsed before somebody asks, and then one document, which is kept with those that were asked for before it:
//! findings come document by document, and several of one.

use std::cell::{OnceCell, RefCell};
use std::collections::{HashMap, VecDeque};
use std::ops::Range;
use std::rc::Rc;
use std::sync::Arc;

use crate::config::decode::yaml::document::Document;
use crate::config::decode::yaml::tree::{self, Node};
use crate::config::{Key, Origin};

/// How much text may be kept as documents, in bytes; the last one is kept however long it is.
const MAX_KEPT_BYTES: usize = 16 << 20;

/// Text by the name of its file.
#[derive(Default)]
pub(super) struct Texts {
    files: HashMap<Arc<str>, Text>,
    kept: RefCell<Kept>,
}

/// A document by its file and the line on which it begins.
type Place = (Arc<str>, u32);

/// Documents that were asked for.
#[derive(Default)]
struct Kept {
    /// `None` where one cannot be read again.
    documents: HashMap<Place, Option<Rc<Document>>>,
    /// The same and the length of each, the oldest first.
    order: VecDeque<(Place, usize)>,
    bytes: usize,
}

impl Kept {
    fn keep(&mut self, place: Place, document: Option<Rc<Document>>, bytes: usize) {
        self.bytes += bytes;
        while self.bytes > MAX_KEPT_BYTES
            && let Some((oldest, bytes)) = self.order.pop_front()
        {
            self.documents.remove(&oldest);
            self.bytes -= bytes;
        }
        self.order.push_back((place.clone(), bytes));
        self.documents.insert(place, document);
    }
}

/// The line on which each document of a file begins, and where it stands.
type Places = Box<[(u32, Range<usize>)]>;

struct Text {
    bytes: Vec<u8>,
    /// Where its documents are, once anybody asked.
    places: OnceCell<Places>,
}

/// What states an object, and how its lines are counted in its file.
pub struct Stating {
    document: Rc<Document>,
    /// The line of the file on which the document begins, from 1.
    first: u32,
    line: u32,
    key: Option<Key>,
}

impl Stating {
    /// The part of the document that is the object.
    pub fn node(&self) -> Option<&Node> {
        self.document.stating(self.line, self.key.as_ref())
    }

    /// The line of the file that a line of the document is.
    pub fn line(&self, line: u32) -> u32 {
        self.first.saturating_add(line).saturating_sub(1)
    }
}

impl Texts {
    pub(super) fn keep(&mut self, file: Arc<str>, bytes: Vec<u8>) {
        self.files.insert(file, Text { bytes, places: OnceCell::new() });
    }

    /// What states an object of which this is the origin; `None` where it cannot be read again.
    pub(super) fn stating(&self, origin: &Origin, key: Option<&Key>) -> Option<Stating> {
        let text = self.files.get(&origin.file)?;
        let places = text.places.get_or_init(|| tree::places(&text.bytes).into());
        let at = places.partition_point(|(line, _)| *line <= origin.line).checked_sub(1)?;
        let (first, range) = &places[at];
        let line = origin.line.saturating_sub(*first).saturating_add(1);
        let place = (origin.file.clone(), *first);
        let known = self.kept.borrow().documents.get(&place).cloned();
        let document = known.unwrap_or_else(|| {
            let words = text.bytes.get(range.clone()).and_then(|it| std::str::from_utf8(it).ok());
            let document = words.and_then(Document::read).map(Rc::new);
            self.kept.borrow_mut().keep(place, document.clone(), range.len());
            document
        })?;
        Some(Stating { document, first: *first, line, key: key.cloned() })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn documents_are_kept_up_to_so_many_bytes_and_the_last_always() {
        let place = |line| (Arc::from("a.yaml"), line);
        let mut kept = Kept::default();
        kept.keep(place(1), None, 1);
        kept.keep(place(2), None, MAX_KEPT_BYTES - 1);
        assert_eq!((kept.documents.len(), kept.bytes), (2, MAX_KEPT_BYTES));
        kept.keep(place(3), None, 1);
        assert!(!kept.documents.contains_key(&place(1)) && kept.documents.len() == 2);
        kept.keep(place(4), None, 2 * MAX_KEPT_BYTES);
        assert_eq!(kept.documents.keys().collect::<Vec<_>>(), [&place(4)]);
        kept.keep(place(5), None, 1);
        assert_eq!((kept.documents.len(), kept.bytes), (1, 1));
    }

    #[test]
    fn what_was_asked_for_is_parsed_once() {
        let mut texts = Texts::default();
        let file: Arc<str> = "a.yaml".into();
        texts.keep(file.clone(), b"kind: Pod\n---\nkind: Node\n---\na: [\n".to_vec());
        let at = |line| texts.stating(&Origin { file: file.clone(), line }, None);
        let (first, second) = (at(1).unwrap(), at(3).unwrap());
        assert!(Rc::ptr_eq(&first.document, &at(1).unwrap().document));
        assert!(Rc::ptr_eq(&second.document, &at(3).unwrap().document));
        assert!(at(5).is_none() && texts.kept.borrow().documents.len() == 3);
    }
}
