//! The names of a directory's manifests, in order.
//!
//! All of them are one text: a directory of 50,000 files is listed every half minute, and a name at a time would be an
//! allocation for each.

use std::cmp::Ordering;
use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;

/// Between two names. No name has it, and it comes before all that names have: a name is compared by comparing all that
/// follows its beginning.
const END: u8 = 0;

/// Names of files, sorted, each once.
#[derive(Debug, Default)]
pub(super) struct Listing {
    text: Vec<u8>,
    /// Where each begins.
    starts: Vec<usize>,
}

impl Listing {
    /// Adds a name, out of order until [`Self::sort`] is called. One that is no UTF-8 is passed over.
    pub(super) fn add(&mut self, name: &OsStr) {
        if name.to_str().is_some_and(|it| !it.as_bytes().contains(&END)) {
            self.starts.push(self.text.len());
            self.text.extend_from_slice(name.as_bytes());
            self.text.push(END);
        }
    }

    /// Puts the names in order.
    pub(super) fn sort(&mut self) {
        let text = &self.text;
        self.starts.sort_unstable_by(|a, b| from(text, *a).cmp(from(text, *b)));
    }

    /// How many there are.
    pub(super) fn len(&self) -> usize {
        self.starts.len()
    }

    /// Leaves out all after the first so many.
    pub(super) fn truncate(&mut self, most: usize) {
        self.starts.truncate(most);
    }

    /// Every name, in order.
    pub(super) fn iter(&self) -> impl Iterator<Item = &str> {
        self.starts.iter().map(|start| name_at(&self.text, *start))
    }

    /// Whether there is this one.
    pub(super) fn contains(&self, name: &str) -> bool {
        self.starts.binary_search_by(|start| compare(from(&self.text, *start), name.as_bytes())).is_ok()
    }
}

fn from(text: &[u8], start: usize) -> &[u8] {
    text.get(start..).unwrap_or_default()
}

/// How the name that `text` begins with compares to another.
fn compare(text: &[u8], name: &[u8]) -> Ordering {
    let (head, rest) = text.split_at(name.len().min(text.len()));
    head.cmp(name).then_with(|| rest.first().map_or(Ordering::Equal, |next| next.cmp(&END)))
}

fn name_at(text: &[u8], start: usize) -> &str {
    let name = from(text, start).split(|byte| *byte == END).next().unwrap_or_default();
    // What was added is UTF-8.
    std::str::from_utf8(name).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn names_are_in_the_order_of_strings_and_are_found() {
        let names = ["b.yaml", "a-b.yaml", "a.yaml", "a", "ab", "a\u{1}", "ü.json", "a+b"];
        let mut listing = Listing::default();
        names.iter().for_each(|name| listing.add(OsStr::new(name)));
        listing.add(OsStr::from_bytes(b"\xff.yaml"));
        listing.sort();
        assert!(listing.iter().eq(BTreeSet::from(names)));
        assert!(names.iter().all(|name| listing.contains(name)));
        assert!(!["", "b", "b.yam", "b.yaml2", "z"].iter().any(|name| listing.contains(name)));
        listing.truncate(2);
        assert_eq!((listing.len(), listing.iter().collect::<Vec<_>>()), (2, vec!["a", "a\u{1}"]));
    }
}
