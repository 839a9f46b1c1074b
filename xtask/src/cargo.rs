//! Runs cargo in the workspace: builds, and the test programs that come out of them.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::Result;
use serde_json::Value;

use crate::workspace::Workspace;
use crate::{child, ebpf};

/// Where integration tests make network namespaces. Elsewhere, and inside libraries, tests need no privilege.
const PRIVILEGED: [&str; 3] = ["tests", "ebpf/loader", "ztunnel"];

/// What of it stays in memory all the same.
const UNPRIVILEGED: &str = "tests/scenarios";

/// A program of tests.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct TestProgram {
    /// The folder of its package, relative to the root.
    pub(crate) folder: PathBuf,
    /// The name of its target.
    pub(crate) name: String,
    /// What to run.
    pub(crate) executable: PathBuf,
    /// Whether it is a target of its own (a file in a package's `tests` folder) and not part of a library or binary.
    pub(crate) integration: bool,
}

impl TestProgram {
    /// Whether it makes network namespaces and loads kernel programs, for which it must be root.
    pub(crate) fn needs_root(&self) -> bool {
        self.integration
            && !self.folder.starts_with(UNPRIVILEGED)
            && PRIVILEGED.iter().any(|folder| self.folder.starts_with(folder))
    }
}

/// The cargo that runs us, in the workspace's root.
pub(crate) fn cargo(workspace: &Workspace, arguments: &[&str]) -> Command {
    let mut command = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    command.args(arguments).current_dir(&workspace.root);
    command
}

/// Builds everything that tests use, in one go, and returns the test programs.
///
/// One invocation for libraries, binaries and tests: with several, each would unite dependency features in its own
/// way and build most of the dependencies again.
pub(crate) fn build_tests(workspace: &Workspace) -> Result<Vec<TestProgram>> {
    let mut command = cargo(
        workspace,
        &["build", "--workspace", "--all-targets", "--message-format=json-render-diagnostics"],
    );
    let mut programs = Vec::new();
    child::run_building(workspace, "build the workspace and its tests", &mut command, |line| {
        programs.extend(test_program(&workspace.root, line));
    })?;
    programs.sort_by(|one, other| (&one.folder, &one.name).cmp(&(&other.folder, &other.name)));
    Ok(programs)
}

/// Builds the kernel programs where they are older than their sources, and returns the object.
pub(crate) fn build_kernel_programs(workspace: &Workspace) -> Result<PathBuf> {
    ebpf::run()?;
    Ok(ebpf::object_path(&workspace.root))
}

/// The test program that one line of cargo's messages announces.
fn test_program(root: &Path, message: &str) -> Option<TestProgram> {
    let message: Value = serde_json::from_str(message).ok()?;
    let is_test = message["reason"] == "compiler-artifact" && message["profile"]["test"] == true;
    let executable = is_test.then(|| message["executable"].as_str()).flatten()?;
    let folder = Path::new(message["manifest_path"].as_str()?).parent()?;
    Some(TestProgram {
        folder: folder.strip_prefix(root).unwrap_or(folder).to_owned(),
        name: message["target"]["name"].as_str()?.to_owned(),
        executable: executable.into(),
        integration: message["target"]["kind"].as_array()?.iter().any(|kind| kind == "test"),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn integration_tests_that_make_namespaces_need_root_and_others_do_not() {
        let message = |folder: &str, kind: &str| {
            format!(
                r#"{{"reason":"compiler-artifact","manifest_path":"/r/{folder}/Cargo.toml",
                "target":{{"kind":["{kind}"],"name":"n"}},"profile":{{"test":true}},"executable":"/t/n"}}"#
            )
        };
        let program = |folder, kind| test_program(Path::new("/r"), &message(folder, kind)).unwrap();
        assert!(program("tests/namespaces", "test").needs_root());
        assert!(!program("tests/scenarios", "test").needs_root());
        assert!(program("ebpf/loader", "test").needs_root());
        assert!(!program("tests/harness", "lib").needs_root());
        assert!(!program("common", "test").needs_root());
        assert_eq!(program("common", "lib").folder, Path::new("common"));
    }

    #[test]
    fn other_messages_are_no_test_programs() {
        for message in ["", "{}", r#"{"reason":"build-finished","success":true}"#] {
            assert_eq!(test_program(Path::new("/r"), message), None);
        }
    }
}
