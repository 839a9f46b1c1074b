//! ARCHITECTURE.md is checked against the tree, so that its map and its table of bounds stay true.
//!
//! Only two of its sections are read: in "The tree" every name in backticks that ends in `/` is a folder, and in
//! "Named bounds" each line names a constant, the file that defines it and its value as written there.

use std::collections::BTreeSet;

use super::tree::{Finding, Tree};

const MAP: &str = "ARCHITECTURE.md";
const TREE_SECTION: &str = "## The tree";
const BOUNDS_SECTION: &str = "## Named bounds";
/// Ends an entry that stands for each child folder: data folders are many and alike.
const EACH_CHILD: &str = "/*";

/// Checks both sections.
pub(crate) fn check(tree: &Tree) -> Vec<Finding> {
    let Some(map) = tree.file(MAP) else {
        return vec![finding(
            1,
            format!("{MAP} is missing"),
            "write it: the tree, the layer rule, the bounds",
        )];
    };
    let mut findings = folders(tree, &map.text);
    findings.extend(bounds(tree, &map.text));
    findings
}

fn finding(line: usize, what: String, fix: &'static str) -> Finding {
    Finding { path: MAP.to_owned(), line, rule: "map", what, fix }
}

fn folders(tree: &Tree, map: &str) -> Vec<Finding> {
    let mut findings = Vec::new();
    let mut named = BTreeSet::new();
    for (line, text) in section(map, TREE_SECTION) {
        for folder in quoted(text).filter_map(|name| name.strip_suffix('/')) {
            if !tree.folders.contains(folder.trim_end_matches(EACH_CHILD)) {
                findings.push(finding(
                    line,
                    format!("`{folder}/` is on the map and not in the tree"),
                    "take it off the map, or add what it promises",
                ));
            }
            // A folder on the map puts the folders above it there too.
            named.extend(folder.match_indices('/').map(|(at, _)| folder[..at].to_owned()));
            named.insert(folder.to_owned());
        }
    }
    for folder in &tree.folders {
        let parent = folder.rsplit_once('/').map_or("", |(parent, _)| parent);
        if !named.contains(folder) && !named.contains(&format!("{parent}{EACH_CHILD}")) {
            findings.push(finding(
                section(map, TREE_SECTION).next().map_or(1, |(line, _)| line),
                format!("`{folder}/` is in the tree and not on the map"),
                "say what it is for in \"The tree\"",
            ));
        }
    }
    findings
}

fn bounds(tree: &Tree, map: &str) -> Vec<Finding> {
    let mut findings = Vec::new();
    for (line, text) in section(map, BOUNDS_SECTION) {
        let names: Vec<&str> = quoted(text).collect();
        let [bound, path, value, ..] = names[..] else { continue };
        match tree.file(path).and_then(|file| constant(&file.text, bound)) {
            None => findings.push(finding(
                line,
                format!("`{bound}` is not a constant of `{path}`"),
                "name the constant and the file that define the bound",
            )),
            Some(defined) if defined != value => findings.push(finding(
                line,
                format!("`{bound}` is `{defined}`, not `{value}`"),
                "write the value as the code does",
            )),
            Some(_) => {}
        }
    }
    findings
}

/// The expression that a constant of this name has in `source`.
fn constant<'a>(source: &'a str, name: &str) -> Option<&'a str> {
    let (_, definition) = source.split_once(&format!("const {name}: "))?;
    let (_, value) = definition.split_once('=')?;
    value.split(';').next().map(str::trim)
}

/// The numbered lines between a heading and the next one of its rank.
fn section<'a>(map: &'a str, heading: &'a str) -> impl Iterator<Item = (usize, &'a str)> {
    map.lines()
        .enumerate()
        .map(|(at, line)| (at + 1, line))
        .skip_while(move |(_, line)| *line != heading)
        .skip(1)
        .take_while(|(_, line)| !line.starts_with("## "))
}

fn quoted(line: &str) -> impl Iterator<Item = &str> {
    line.split('`').skip(1).step_by(2)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn whats(map: &str, files: &[(&str, &str)]) -> Vec<String> {
        let all: Vec<_> = files.iter().copied().chain([(MAP, map)]).collect();
        check(&Tree::of(&all)).into_iter().map(|finding| finding.what).collect()
    }

    #[test]
    fn every_folder_is_on_the_map_and_every_folder_on_the_map_exists() {
        let map =
            "`not/read/`\n## The tree\n| `common/src/tls/` | x |\n| `gone/` | x |\n## Ports\n`not/read/`";
        assert_eq!(
            whats(map, &[("common/src/tls/a.rs", ""), ("common/src/net/b.rs", "")]),
            [
                "`gone/` is on the map and not in the tree",
                "`common/src/net/` is in the tree and not on the map"
            ]
        );
    }

    #[test]
    fn one_entry_may_stand_for_each_child() {
        let files = [("seeds/one/a", ""), ("seeds/two/b", "")];
        assert!(whats("## The tree\n`seeds/*/`", &files).is_empty());
        assert_eq!(whats("## The tree\n`seeds/`", &files).len(), 2);
        assert_eq!(whats("## The tree\n`seeds/*/`", &[("seeds/one/two/a", "")]).len(), 1);
    }

    #[test]
    fn a_bound_on_the_map_is_a_constant_in_the_code() {
        let map = |row| format!("## The tree\n`a/`\n## Named bounds\n| Bound | In |\n{row}");
        let file = ("a/b.rs", "pub const MAX_FLOWS: usize = 3 * 4;");
        assert!(whats(&map("| `MAX_FLOWS` | `a/b.rs` | `3 * 4` | flows |"), &[file]).is_empty());
        assert_eq!(
            whats(&map("| `MAX_FLOWS` | `a/b.rs` | `3` | flows |"), &[file]),
            ["`MAX_FLOWS` is `3 * 4`, not `3`"]
        );
        assert_eq!(
            whats(&map("| `MAX_PODS` | `a/b.rs` | `3` | pods |"), &[file]),
            ["`MAX_PODS` is not a constant of `a/b.rs`"]
        );
    }

    #[test]
    fn a_missing_map_is_found() {
        assert_eq!(check(&Tree::of(&[("a.rs", "")])).len(), 1);
    }
}
