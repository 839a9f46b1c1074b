//! The texts that manifests were read from, to tell on which line a field of an object stands.
//!
//! Nothing is parsed before somebody asks, and then one document, which is kept until another one is asked for: findings
//! come document by document.

use std::cell::{OnceCell, RefCell};
use std::collections::HashMap;
use std::ops::Range;
use std::rc::Rc;
use std::sync::Arc;

use crate::config::decode::yaml::tree::{self, Node};
use crate::config::{Key, Origin};

/// Text by the name of its file.
#[derive(Default)]
pub(super) struct Texts {
    files: HashMap<Arc<str>, Text>,
    last: RefCell<Option<Last>>,
}

/// The document that was asked for last: its file, and the line on which it begins.
struct Last {
    file: Arc<str>,
    first: u32,
    document: Rc<Node>,
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
    document: Rc<Node>,
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
        let stating = |document| Stating { document, first: *first, line, key: key.cloned() };
        if let Some(last) = &*self.last.borrow()
            && last.file == origin.file
            && last.first == *first
        {
            return Some(stating(last.document.clone()));
        }
        let document = std::str::from_utf8(text.bytes.get(range.clone())?).ok()?;
        let document = Rc::new(tree::read(document)?);
        let last = Last { file: origin.file.clone(), first: *first, document: document.clone() };
        self.last.replace(Some(last));
        Some(stating(document))
    }
}
