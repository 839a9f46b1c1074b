//! `ebb-demo clean`: removes what runs left that were killed, and names each thing that is gone.
//!
//! What to remove is the harness's business (it keeps a ledger per run and never touches a living one); here the places
//! where its things lie are only looked at before and after.

use std::{collections::BTreeSet, fs, path::PathBuf};

use anyhow::Result;
use harness::run;

/// Where a run's things lie, each named after the run: namespaces, pins and the run's own directory.
const PLACES: [(&str, &str); 3] =
    [("namespace", "/run/netns"), ("pins", "/sys/fs/bpf/ebb"), ("directory", "/run/ebb")];

/// Removes leftovers and prints a line for each.
///
/// # Errors
/// Something cannot be removed; the rest is.
pub(crate) fn clean() -> Result<()> {
    let before = things();
    let cleaned = run::clean();
    let after = things();
    for (kind, path) in before.difference(&after) {
        // A living run removes its own things meanwhile; those of other runs were removed by us.
        let ours = |prefixes: &Vec<String>| prefixes.iter().any(|prefix| belongs(path, prefix));
        if cleaned.as_ref().map_or(true, ours) {
            println!("removed {kind} {}", path.display());
        }
    }
    cleaned.map(drop)
}

fn things() -> BTreeSet<(&'static str, PathBuf)> {
    let listed = |(kind, place)| {
        let entries = fs::read_dir(place).into_iter().flatten().flatten();
        entries.map(move |entry| (kind, entry.path()))
    };
    PLACES.into_iter().flat_map(listed).collect()
}

/// Whether a path is named after the run, or is something of it.
fn belongs(path: &std::path::Path, prefix: &str) -> bool {
    let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
    name.strip_prefix(prefix).is_some_and(|rest| rest.is_empty() || rest.starts_with('-'))
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;

    #[test]
    fn a_run_is_not_taken_for_one_whose_name_it_begins() {
        assert!(belongs(Path::new("/run/netns/ebb-1a-0-node-1"), "ebb-1a-0"));
        assert!(belongs(Path::new("/run/ebb/ebb-1a-0"), "ebb-1a-0"));
        assert!(!belongs(Path::new("/run/netns/ebb-1a-01-node-1"), "ebb-1a-0"));
    }
}
