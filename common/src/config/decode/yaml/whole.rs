//! The parser of all of YAML, and what it says of a document that it cannot read.
//!
//! It is asked through objects, so that its code is there once and not once for each kind: four megabytes less of program.
//! What passes through objects keeps of an error only its words, and each mapping and sequence around it adds where it
//! stands itself; the first place is that of the fault.

use std::fmt;

use serde::Deserialize;
use serde_saphyr::Options;

use super::erased::{self, Once, Source, Told};
use super::{MAX_ALIASED_NODES, MAX_DEPTH, MAX_DOCUMENT_BYTES, tree};
use crate::config::Kind;
use crate::config::decode::Fault;

/// Why a document cannot be read.
#[derive(Debug)]
pub(super) struct Unreadable {
    /// The line, from 0.
    pub(super) line: u32,
    said: String,
}

/// Reads a document, if need be as strictly as its kind asks for.
///
/// # Errors
/// [`Unreadable`] when it is no YAML, beyond a bound, or not of this form.
pub(super) fn read<'t, M: Deserialize<'t>>(text: &'t str, kind: Option<Kind>) -> Result<M, Unreadable> {
    let mut read = None;
    parse(text, options(kind), &mut |node| {
        read = Some(erased::read::<M>(node)?);
        Ok(())
    })
    .map_err(|error| Unreadable::new(&error))?;
    read.ok_or_else(|| Unreadable::new(&"nothing"))
}

type Visit<'v, 't> = &'v mut dyn FnMut(&mut dyn Source<'t>) -> Result<(), Told>;

fn parse<'t>(text: &'t str, options: Options, visit: Visit<'_, 't>) -> Result<(), serde_saphyr::Error> {
    serde_saphyr::with_deserializer_from_str_with_options(text, options, |node| {
        visit(&mut Once::new(node)).map_err(Told::raise)
    })
}

/// Kinds that steer traffic are read as strictly as by an API server, where a string that looks like a number or a boolean
/// must be quoted.
fn options(kind: Option<Kind>) -> Options {
    let strict = kind.is_some_and(Kind::is_strict);
    serde_saphyr::options! {
        budget: serde_saphyr::budget! {
            max_depth: MAX_DEPTH,
            max_aliases: MAX_ALIASED_NODES,
            max_anchors: MAX_ALIASED_NODES,
            max_nodes: MAX_DOCUMENT_BYTES,
            max_events: 2 * MAX_DOCUMENT_BYTES,
            max_documents: 1,
        },
        alias_limits: serde_saphyr::alias_limits! { max_total_replayed_events: MAX_ALIASED_NODES },
        no_schema: strict,
        reject_unsupported_tags: true,
        with_snippet: false,
    }
}

impl Unreadable {
    fn new(error: &dyn fmt::Display) -> Self {
        let mut said = error.to_string();
        let mut line = 1;
        while let Some((length, place)) = last_place(&said) {
            said.truncate(length);
            line = place;
        }
        Self { line: line.saturating_sub(1), said }
    }

    /// The fault in our words; `text` is the document.
    pub(super) fn fault(&self, text: &str) -> Fault {
        let said = self.said.strip_suffix(", set DuplicateKeyPolicy in Options if acceptable");
        let mut reason = said.unwrap_or(&self.said).to_owned();
        let field = self.path(&reason, text).unwrap_or_default();
        let tab = |line: &str| line.trim_start_matches(' ').starts_with('\t');
        // In JSON, where nothing is said by it, tabs indent as well.
        let is_json = text.trim_start().starts_with(['{', '[']);
        if !is_json && text.lines().any(tab) {
            reason.push_str(" (a tab in the indentation; YAML allows spaces only)");
        }
        Fault::new(field, reason)
    }
}

impl Unreadable {
    /// The path of the field at fault, or its name alone where that could be in several places.
    fn path(&self, said: &str, text: &str) -> Option<String> {
        let (name, is_written) = named(said)?;
        let path = || tree::read(text)?.path_of(name, self.line.saturating_add(1));
        Some(is_written.then(path).flatten().unwrap_or_else(|| name.to_owned()))
    }
}

/// Where the last of the places begins that stand at the end of what is said, and its line.
fn last_place(said: &str) -> Option<(usize, u32)> {
    let said = said.strip_suffix(')').unwrap_or(said);
    let (before, column) = said.rsplit_once(", column ")?;
    let (before, line) = before.rsplit_once(" at line ")?;
    column.parse::<u32>().ok()?;
    let before = before.strip_suffix(" (defined").or_else(|| before.strip_suffix(" (used")).unwrap_or(before);
    Some((before.len(), line.parse().ok()?))
}

/// The field that is unknown, missing or there twice, and whether it is written.
fn named(said: &str) -> Option<(&str, bool)> {
    if let Some(key) = said.strip_prefix("duplicate mapping key: ") {
        return Some((key, true));
    }
    let unknown = said.strip_prefix("unknown field `");
    let name = unknown.or_else(|| said.strip_prefix("missing field `"))?;
    name.split_once('`').map(|(name, _)| (name, unknown.is_some()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_place_of_a_fault_is_the_first_of_those_told() {
        for (said, line, left) in [
            ("odd at line 6, column 38 at line 5, column 37 at line 2, column 1", 5, "odd"),
            ("odd (defined at line 4, column 10) (used at line 9, column 7)", 3, "odd"),
            ("odd", 0, "odd"),
            ("odd at line", 0, "odd at line"),
            ("odd at line x, column 3", 0, "odd at line x, column 3"),
            ("`a at line 7, column 2` is odd at line 3, column 1", 2, "`a at line 7, column 2` is odd"),
        ] {
            let told = Unreadable::new(&said);
            assert_eq!((told.line, &*told.said), (line, left), "{said}");
        }
    }

    #[test]
    fn a_tab_is_told_of_where_it_is_at_fault() {
        for (text, expected) in [
            ("a:\n\tb: 1\n", true),
            ("a:\n  \tb: 1\n", true),
            ("a:\n  b: \t1\n", false),
            ("{\n\t\"a\": 1,\n\t\"a\": 2\n}\n", false),
            ("\n[\n\t1\n]\n", false),
        ] {
            let told = Unreadable::new(&"odd").fault(text).reason.contains("tab in the indentation");
            assert_eq!(told, expected, "{text}");
        }
    }

    #[test]
    fn a_field_is_named_where_one_is_at_fault() {
        for (said, field, reason) in [
            (
                "unknown field `route`, expected one of a, b",
                "route",
                "unknown field `route`, expected one of a, b",
            ),
            ("missing field `name`", "name", "missing field `name`"),
            (
                "duplicate mapping key: name, set DuplicateKeyPolicy in Options if acceptable",
                "name",
                "duplicate mapping key: name",
            ),
            ("invalid type: map, expected a string", "", "invalid type: map, expected a string"),
        ] {
            let fault = Unreadable::new(&said).fault("");
            assert_eq!((&*fault.field, &*fault.reason), (field, reason), "{said}");
        }
    }
}
