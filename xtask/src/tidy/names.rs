//! Names that say nothing about what is behind them are refused, for files and folders of source.

use super::tree::{Finding, Tree};

/// Where everything ends up that nobody wanted to name.
const EMPTY_NAMES: [&str; 9] =
    ["utils", "util", "helpers", "helper", "misc", "common_utils", "types", "manager", "managers"];

/// Checks every Rust file and the folders above it.
pub(crate) fn check(tree: &Tree) -> Vec<Finding> {
    tree.rust()
        .filter_map(|file| {
            let path = file.path.trim_end_matches(".rs");
            let name = path.split('/').find(|part| EMPTY_NAMES.contains(part))?;
            Some(Finding {
                path: file.path.clone(),
                line: 1,
                rule: "names",
                what: format!("`{name}` says nothing about what is in it"),
                fix: "name it after the one job it does, or move each thing beside what uses it",
            })
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_and_folders_are_named_for_their_job() {
        for path in ["common/src/utils.rs", "ztunnel/src/helpers/mod.rs", "common/src/tls/types.rs"] {
            assert_eq!(check(&Tree::of(&[(path, "")])).len(), 1, "{path}");
        }
        assert!(check(&Tree::of(&[("common/src/net/relay.rs", ""), ("deploy/utils.md", "")])).is_empty());
    }
}
