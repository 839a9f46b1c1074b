//! `cargo xtask tidy`: the rules of the house that neither rustc nor clippy knows.
//!
//! Each rule is a pure function from the tree to its findings. Nothing can be switched off for one place: a rule that
//! is wrong is changed here, in the open.

mod islands;
mod layers;
mod lexer;
mod map;
mod names;
mod paths;
mod size;
mod text;
mod tree;

use anyhow::{Result, bail};

use crate::workspace::Workspace;
use tree::{Finding, Tree};

/// A rule: what it finds wrong with the tree.
type Rule = fn(&Tree) -> Vec<Finding>;

const RULES: [Rule; 6] = [layers::check, islands::check, names::check, map::check, size::check, text::check];

/// Checks the workspace and prints what it found.
pub(crate) fn run(workspace: &Workspace) -> Result<()> {
    let tree = Tree::read(&workspace.root)?;
    let mut findings: Vec<Finding> = RULES.iter().flat_map(|rule| rule(&tree)).collect();
    findings
        .sort_by(|one, other| (&one.path, one.line, one.rule).cmp(&(&other.path, other.line, other.rule)));
    for finding in &findings {
        println!("{finding}");
    }
    print!("{}", size::longest(&tree));
    if findings.is_empty() {
        println!("tidy: {} files, nothing to report", tree.files.len());
        return Ok(());
    }
    bail!("tidy: {} findings in {} files", findings.len(), tree.files.len())
}
