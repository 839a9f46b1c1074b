//! Owns what becomes of the results: a table for the person, a JSON file for programs.

mod table;
mod verdict;

use std::{fs, path::Path};

use anyhow::{Context, Result};
use serde::Serialize;

use self::verdict::{Judgement, judge};
pub(crate) use self::{
    table::{missed, table},
    verdict::has_subject,
};
use crate::{figures::Figure, machine::Machine, plan::Plan, results::Results};

/// The JSON file's content.
#[derive(Debug, Serialize)]
struct Document<'a> {
    machine: &'a Machine,
    plan: &'a Plan,
    figures: Vec<Judged>,
    #[serde(flatten)]
    results: &'a Results,
}

#[derive(Debug, Serialize)]
struct Judged {
    #[serde(flatten)]
    figure: &'static Figure,
    #[serde(flatten)]
    judgement: Judgement,
}

/// Writes everything that was measured, and what it was judged to be, to `path`.
///
/// # Errors
/// The file cannot be written.
pub(crate) fn write_json(path: &Path, machine: &Machine, plan: &Plan, results: &Results) -> Result<()> {
    let judged = |figure| Judged { figure, judgement: judge(results, figure) };
    let figures = results.layer.figures().iter().map(judged).collect();
    let document = Document { machine, plan, figures, results };
    let text = serde_json::to_string_pretty(&document).context("put the results into JSON")?;
    if let Some(directory) = path.parent() {
        fs::create_dir_all(directory).with_context(|| format!("create {}", directory.display()))?;
    }
    fs::write(path, text + "\n").with_context(|| format!("write {}", path.display()))
}
