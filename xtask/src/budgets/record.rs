//! The file of figures, which is committed: `tests/budgets/budgets.toml`.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::path::PathBuf;

use anyhow::{Context, Result};

use super::callgrind::Benchmark;
use crate::workspace::Workspace;

const FILE: &str = "tests/budgets/budgets.toml";
const HEAD: &str = "\
# What units of work may cost, in instructions. Written by `cargo xtask budgets --record`; `cargo xtask test` fails where
# a figure is 5 % above, and where it is 5 % below: then record the gain, so that it stays one. CONTRIBUTING.md says more.
";

/// What was recorded.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Record {
    /// The compiler it was recorded with.
    pub(crate) compiler: String,
    /// Instructions of one unit, and what that is, by the name of the benchmark.
    pub(crate) figures: BTreeMap<String, Figure>,
}

/// One of its figures.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Figure {
    /// Instructions.
    pub(crate) instructions: u64,
    /// Of what.
    pub(crate) unit: String,
}

/// What is recorded in the repository.
///
/// # Errors
/// When the file is not there or not what [`Record::write`] wrote.
pub(crate) fn read(workspace: &Workspace) -> Result<Record> {
    let path = path(workspace);
    let text = std::fs::read_to_string(&path)
        .with_context(|| format!("no {FILE}; `cargo xtask budgets --record` writes it"))?;
    parse(&text).with_context(|| format!("{FILE} is not as `cargo xtask budgets --record` writes it"))
}

fn path(workspace: &Workspace) -> PathBuf {
    workspace.root.join(FILE)
}

fn parse(text: &str) -> Result<Record> {
    let table: toml::Table = text.parse()?;
    let compiler = table.get("compiler").and_then(toml::Value::as_str).context("no `compiler`")?.to_owned();
    let mut figures = BTreeMap::new();
    for (unit, of_unit) in
        table.get("instructions_per").and_then(toml::Value::as_table).context("no figures")?
    {
        for (name, value) in of_unit.as_table().with_context(|| format!("{unit} is no table"))? {
            let instructions = value.as_integer().and_then(|it| u64::try_from(it).ok());
            let instructions =
                instructions.filter(|it| *it > 0).with_context(|| format!("{name} is no count"))?;
            figures.insert(name.clone(), Figure { instructions, unit: unit.clone() });
        }
    }
    Ok(Record { compiler, figures })
}

impl Record {
    /// Of what was measured.
    pub(crate) fn of(compiler: String, measured: &[(Benchmark, u64)]) -> Self {
        let figure = |(benchmark, instructions): &(Benchmark, u64)| {
            let unit = benchmark.unit.clone();
            (benchmark.name.clone(), Figure { instructions: *instructions, unit })
        };
        Self { compiler, figures: measured.iter().map(figure).collect() }
    }

    /// Writes it to the repository.
    ///
    /// # Errors
    /// When the file cannot be written.
    pub(crate) fn write(&self, workspace: &Workspace) -> Result<()> {
        std::fs::write(path(workspace), self.text()).with_context(|| format!("write {FILE}"))?;
        println!("{FILE} is written");
        Ok(())
    }

    fn text(&self) -> String {
        let mut by_unit = BTreeMap::<&str, Vec<(&str, u64)>>::new();
        for (name, figure) in &self.figures {
            by_unit.entry(&figure.unit).or_default().push((name, figure.instructions));
        }
        let mut text = format!("{HEAD}compiler = {:?}\n", self.compiler);
        for (unit, figures) in by_unit {
            // Writing to a string does not fail.
            let _ = writeln!(text, "\n[instructions_per.{unit}]");
            for (name, instructions) in figures {
                let _ = writeln!(text, "{name:?} = {instructions}");
            }
        }
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_read_again() {
        let measured = [("a.request", 100, "request"), ("b.request", 7, "request"), ("line", 9, "line")].map(
            |(name, instructions, unit)| {
                (Benchmark { name: name.into(), units: 10, unit: unit.into() }, instructions)
            },
        );
        let record = Record::of("rustc 1.95.0".into(), &measured);
        assert_eq!(parse(&record.text()).unwrap(), record);
        assert!(
            record.text().contains("[instructions_per.request]\n\"a.request\" = 100\n\"b.request\" = 7\n")
        );
    }

    #[test]
    fn what_is_no_count_is_no_budget() {
        for wrong in ["0", "-1", "1.5", "\"many\""] {
            let text = format!("compiler = \"rustc\"\n[instructions_per.line]\n\"a\" = {wrong}\n");
            assert!(parse(&text).is_err(), "{wrong}");
        }
        assert!(parse("compiler = \"rustc\"\n").is_err());
    }
}
