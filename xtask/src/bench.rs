//! `cargo xtask bench`: builds what is measured and the program that measures, and becomes the latter.
//!
//! What can be chosen is known to that program alone; its words are handed over as they are. Making a report again, or
//! asking what there is, needs neither root nor anything but that program.

use std::ffi::OsStr;
use std::process::Command;

use anyhow::{Context, Result};
use clap::CommandFactory;

use crate::Arguments;
use crate::harness::{self, Needs};
use crate::workspace::Workspace;

/// The program that measures.
const PROGRAM: &str = "ebb-bench";
/// Tells it where the published report is, and the files of further systems.
const HOME: &str = "EBB_BENCHMARKS";
/// That place in the repository.
const FOLDER: &str = "deploy/benchmarks";
/// Tells it which commit was built.
const COMMIT: &str = "EBB_COMMIT";

/// Carries out the command.
///
/// # Errors
/// Something cannot be built, or there is no root where it is needed.
pub(crate) fn run(workspace: &Workspace, arguments: &[String]) -> Result<()> {
    if asks_for_help(arguments) {
        return help(workspace, arguments);
    }
    let needs = if measures(arguments) {
        Needs::everything(&["ztunnel", "waypoint", "ebb-harness", PROGRAM], &["routing_cost"])
    } else {
        Needs::nothing_but(&PROGRAM)
    };
    let home = workspace.root.join(FOLDER);
    let commit = commit(workspace);
    let mut environment = vec![(HOME, home.as_os_str())];
    environment.extend(commit.as_deref().map(|commit| (COMMIT, OsStr::new(commit))));
    harness::become_program(workspace, PROGRAM, &needs, arguments, &environment)
}

/// What is built, for the report: the commit, and whether anything was changed since; nothing where there is no git.
fn commit(workspace: &Workspace) -> Option<String> {
    let git = |arguments: &[&str]| {
        let output = Command::new("git").args(arguments).current_dir(&workspace.root).output().ok()?;
        output.status.success().then(|| String::from_utf8_lossy(&output.stdout).trim().to_owned())
    };
    let commit = git(&["rev-parse", "--short=10", "HEAD"])?;
    let changed = git(&["status", "--porcelain", "--untracked-files=no"]).is_none_or(|list| !list.is_empty());
    Some(if changed { format!("{commit} with changes") } else { commit })
}

/// The help, for which nothing is built: the program's own, or ours where it never was.
fn help(workspace: &Workspace, arguments: &[String]) -> Result<()> {
    if harness::help(workspace, PROGRAM, arguments)? {
        return Ok(());
    }
    let mut ours = Arguments::command();
    ours.build();
    let ours = ours.find_subcommand_mut("bench").context("every command is one of ours")?;
    ours.print_long_help().context("print the help")
}

fn asks_for_help(arguments: &[String]) -> bool {
    arguments.iter().any(|it| it == "--help" || it == "-h")
}

/// Whether these words have something measured.
fn measures(arguments: &[String]) -> bool {
    !arguments.iter().any(|it| it == "--list" || it == "--from" || it.starts_with("--from="))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_report_that_is_made_again_needs_no_root() {
        let words = |text: &str| text.split_whitespace().map(str::to_owned).collect::<Vec<_>>();
        for text in ["--from a.json", "--from=a.json --out x", "--list", "--layer l4 --list"] {
            assert!(!measures(&words(text)), "{text}");
        }
        for text in ["", "--quick", "--layer l4 --systems ebb"] {
            assert!(measures(&words(text)), "{text}");
        }
    }

    #[test]
    fn every_word_reaches_the_program() {
        use clap::Parser;
        for text in ["", "--quick", "--layer l4,l7 --rounds 3 --before DIR", "--help", "-h"] {
            let read = Arguments::try_parse_from(format!("xtask bench {text}").split_whitespace()).unwrap();
            let crate::Command::Bench { arguments } = read.command else {
                panic!("{text} is another command")
            };
            assert_eq!(arguments.join(" "), text);
        }
    }
}
