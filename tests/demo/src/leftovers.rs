//! `ebb-demo clean`: removes what runs left that were killed, and names each thing that is gone.
//!
//! What to remove is the harness's business (it keeps a ledger per run and never touches a living one); here the places
//! where its things lie are only looked at before and after. Tests that do without the harness pin in a place of their
//! own, under names that say whose they are.

use std::{
    collections::BTreeSet,
    fs,
    path::{Path, PathBuf},
};

use anyhow::{Context, Result};
use harness::run;

/// Where a run's things lie, each named after the run: namespaces, pins and the run's own directory.
const PLACES: [(&str, &str); 3] =
    [("namespace", "/run/netns"), ("pins", "/sys/fs/bpf/ebb"), ("directory", "/run/ebb")];

/// Where tests without the harness pin: `<name>-<process id>-<number>`.
const TEST_PINS: &str = "/sys/fs/bpf/ebb-tests";

/// Removes leftovers and prints a line for each.
///
/// # Errors
/// Something cannot be removed; the rest is.
pub(crate) fn clean() -> Result<()> {
    let before = things();
    let cleaned = run::clean();
    let tests = clean_tests(Path::new(TEST_PINS), Path::new("/proc"));
    let after = things();
    for (kind, path) in before.difference(&after) {
        // A living run removes its own things meanwhile; those of other runs were removed by us.
        let ours = |prefixes: &Vec<String>| prefixes.iter().any(|prefix| belongs(path, prefix));
        if cleaned.as_ref().map_or(true, ours) {
            println!("removed {kind} {}", path.display());
        }
    }
    cleaned.map(drop).and(tests)
}

/// Removes the pins of tests whose process is gone.
fn clean_tests(pins: &Path, processes: &Path) -> Result<()> {
    let mut outcome = Ok(());
    for entry in fs::read_dir(pins).into_iter().flatten().flatten() {
        let path = entry.path();
        let is_left = owner(&path).is_some_and(|process| !processes.join(process.to_string()).exists());
        if !is_left {
            continue;
        }
        match fs::remove_dir_all(&path).with_context(|| format!("remove {}", path.display())) {
            Ok(()) => println!("removed pins {}", path.display()),
            failed => outcome = outcome.and(failed),
        }
    }
    outcome
}

/// The process that pinned there, by the name.
fn owner(path: &Path) -> Option<u32> {
    path.file_name()?.to_str()?.rsplit('-').nth(1)?.parse().ok()
}

fn things() -> BTreeSet<(&'static str, PathBuf)> {
    let listed = |(kind, place)| {
        let entries = fs::read_dir(place).into_iter().flatten().flatten();
        entries.map(move |entry| (kind, entry.path()))
    };
    PLACES.into_iter().flat_map(listed).collect()
}

/// Whether a path is named after the run, or is something of it.
fn belongs(path: &Path, prefix: &str) -> bool {
    let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
    name.strip_prefix(prefix).is_some_and(|rest| rest.is_empty() || rest.starts_with('-'))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pins_of_a_test_that_is_gone_are_removed_and_those_of_a_living_one_are_not() {
        let home = std::env::temp_dir().join(format!("ebb-leftovers-{}", std::process::id()));
        let (pins, processes) = (home.join("pins"), home.join("proc"));
        for folder in [
            pins.join("netns-12-0/pod"),
            pins.join("redirect-13-4"),
            pins.join("other"),
            processes.join("13"),
        ] {
            fs::create_dir_all(folder).unwrap();
        }
        let cleaned = clean_tests(&pins, &processes);
        let mut left: Vec<_> = fs::read_dir(&pins).unwrap().map(|entry| entry.unwrap().file_name()).collect();
        left.sort();
        fs::remove_dir_all(&home).unwrap();
        cleaned.unwrap();
        assert_eq!(left, ["other", "redirect-13-4"]);
    }

    #[test]
    fn a_run_is_not_taken_for_one_whose_name_it_begins() {
        assert!(belongs(Path::new("/run/netns/ebb-1a-0-node-1"), "ebb-1a-0"));
        assert!(belongs(Path::new("/run/ebb/ebb-1a-0"), "ebb-1a-0"));
        assert!(!belongs(Path::new("/run/netns/ebb-1a-01-node-1"), "ebb-1a-0"));
    }
}
