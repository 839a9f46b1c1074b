//! The repository's own text files, read once, and what a rule says about them.
//!
//! Works without git, so that an unpacked archive can be checked too: build output is left out by name.

use std::collections::BTreeSet;
use std::fmt;
use std::path::Path;

use anyhow::{Context, Result};

use super::lexer::{Token, tokens, without_tests};

/// Folders that hold what was built or found, never what was written.
const NOT_OURS: [&str; 7] = [
    ".git",
    "target",
    "dist",
    "node_modules",
    "tests/fuzz/corpus",
    "tests/fuzz/artifacts",
    "tests/fuzz/coverage",
];

/// One text file.
#[derive(Debug, Clone)]
pub(crate) struct File {
    /// Path from the root, with `/`.
    pub(crate) path: String,
    /// Its content.
    pub(crate) text: String,
}

impl File {
    /// Whether it is Rust source.
    pub(crate) fn is_rust(&self) -> bool {
        self.path.ends_with(".rs")
    }

    /// The tokens of all of it.
    pub(crate) fn tokens(&self) -> Vec<Token<'_>> {
        tokens(&self.text)
    }

    /// The tokens of what ships: nothing when the whole file is test code.
    pub(crate) fn shipped_tokens(&self) -> Vec<Token<'_>> {
        let test_file = self.path.ends_with("/tests.rs") || self.path.contains("/tests/");
        if test_file { Vec::new() } else { without_tests(&self.tokens()) }
    }
}

/// The files and folders of the repository.
#[derive(Debug, Clone, Default)]
pub(crate) struct Tree {
    /// Text files, by path.
    pub(crate) files: Vec<File>,
    /// Every folder that holds a file at any depth, without a final `/`; the root is not among them.
    pub(crate) folders: BTreeSet<String>,
}

impl Tree {
    /// Reads the repository at `root`.
    pub(crate) fn read(root: &Path) -> Result<Self> {
        let mut tree = Self::default();
        tree.read_folder(root, "")?;
        tree.files.sort_by(|one, other| one.path.cmp(&other.path));
        Ok(tree)
    }

    /// A tree of these files, for tests of rules.
    #[cfg(test)]
    pub(crate) fn of(files: &[(&str, &str)]) -> Self {
        let mut tree = Self::default();
        for (path, text) in files {
            tree.add((*path).to_owned(), Some((*text).to_owned()));
        }
        tree
    }

    /// Rust files, by path.
    pub(crate) fn rust(&self) -> impl Iterator<Item = &File> {
        self.files.iter().filter(|file| file.is_rust())
    }

    /// The file at this path.
    pub(crate) fn file(&self, path: &str) -> Option<&File> {
        self.files.iter().find(|file| file.path == path)
    }

    fn read_folder(&mut self, root: &Path, folder: &str) -> Result<()> {
        let place = root.join(folder);
        let entries = std::fs::read_dir(&place).with_context(|| format!("list {}", place.display()))?;
        for entry in entries {
            let entry = entry.with_context(|| format!("list {}", place.display()))?;
            let name = entry.file_name().to_string_lossy().into_owned();
            let path = if folder.is_empty() { name.clone() } else { format!("{folder}/{name}") };
            if NOT_OURS.contains(&name.as_str()) || NOT_OURS.contains(&path.as_str()) {
                continue;
            }
            let kind = entry.file_type().with_context(|| format!("look at {path}"))?;
            if kind.is_dir() {
                self.read_folder(root, &path)?;
            } else if kind.is_file() {
                let bytes = std::fs::read(entry.path()).with_context(|| format!("read {path}"))?;
                self.add(path, String::from_utf8(bytes).ok());
            }
        }
        Ok(())
    }

    /// Adds a file and the folders above it; `text` is `None` for what is not text.
    fn add(&mut self, path: String, text: Option<String>) {
        let mut folder = path.as_str();
        while let Some((parent, _)) = folder.rsplit_once('/') {
            self.folders.insert(parent.to_owned());
            folder = parent;
        }
        if let Some(text) = text {
            self.files.push(File { path, text });
        }
    }
}

/// A breach of a rule: where, which, and what to do about it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Finding {
    /// The file.
    pub(crate) path: String,
    /// The line, from 1.
    pub(crate) line: usize,
    /// The rule's short name.
    pub(crate) rule: &'static str,
    /// What is wrong.
    pub(crate) what: String,
    /// What would put it right.
    pub(crate) fix: &'static str,
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}: [{}] {}; {}", self.path, self.line, self.rule, self.what, self.fix)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn build_output_is_not_read() {
        let root = tempfile::tempdir().unwrap();
        for path in
            ["a/src/lib.rs", "target/debug/x.rs", "tests/fuzz/corpus/a/seed", "tests/fuzz/target/x.rs"]
        {
            let file = root.path().join(path);
            std::fs::create_dir_all(file.parent().unwrap()).unwrap();
            std::fs::write(file, "x").unwrap();
        }
        let tree = Tree::read(root.path()).unwrap();
        assert_eq!(tree.files.iter().map(|file| file.path.as_str()).collect::<Vec<_>>(), ["a/src/lib.rs"]);
        assert_eq!(tree.folders.into_iter().collect::<Vec<_>>(), ["a", "a/src"]);
    }

    #[test]
    fn a_finding_names_file_line_rule_and_fix() {
        let finding =
            Finding { path: "a.rs".into(), line: 3, rule: "names", what: "bad".into(), fix: "rename it" };
        assert_eq!(finding.to_string(), "a.rs:3: [names] bad; rename it");
    }
}
