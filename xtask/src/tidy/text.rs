//! What must not be in committed text: paths of somebody's machine, unfinished code, silenced modules.

use super::lexer::{Token, end_of_item, starts_with};
use super::tree::{File, Finding, Tree};

/// Where people's own folders are. Written in two halves, because this file is checked too.
const MACHINE_FOLDERS: [&str; 3] = [concat!("/ho", "me/"), concat!("/ro", "ot/"), concat!("/wo", "rk/")];

/// Checks every file.
pub(crate) fn check(tree: &Tree) -> Vec<Finding> {
    let mut findings = Vec::new();
    for file in &tree.files {
        machine_paths(file, &mut findings);
        if file.is_rust() {
            let tokens = file.tokens();
            unfinished(file, &tokens, &mut findings);
            silenced_modules(file, &tokens, &mut findings);
        }
    }
    findings
}

fn machine_paths(file: &File, findings: &mut Vec<Finding>) {
    for (number, line) in file.text.lines().enumerate() {
        if let Some(folder) = MACHINE_FOLDERS.iter().find(|folder| starts_a_path(line, folder)) {
            findings.push(Finding {
                path: file.path.clone(),
                line: number + 1,
                rule: "machine",
                what: format!("a path below {folder} exists on one machine only"),
                fix: "name it relative to the repository, or take it from the environment",
            });
        }
    }
}

/// Whether `folder` stands at the start of a path in `line`, rather than inside a longer one.
fn starts_a_path(line: &str, folder: &str) -> bool {
    line.match_indices(folder).any(|(at, _)| {
        let before = line[..at].chars().next_back();
        !before.is_some_and(|c| c.is_alphanumeric() || matches!(c, '_' | '-' | '.' | '}' | ')' | '>' | '*'))
    })
}

fn unfinished(file: &File, tokens: &[Token<'_>], findings: &mut Vec<Finding>) {
    for name in ["todo", "unimplemented"] {
        for at in 0..tokens.len() {
            if starts_with(&tokens[at..], &[name, "!"]) {
                findings.push(Finding {
                    path: file.path.clone(),
                    line: tokens[at].line,
                    rule: "unfinished",
                    what: format!("{name}! in committed code"),
                    fix: "write it, or leave out what calls it",
                });
            }
        }
    }
}

fn silenced_modules(file: &File, tokens: &[Token<'_>], findings: &mut Vec<Finding>) {
    for at in 0..tokens.len() {
        let whole_file = starts_with(&tokens[at..], &["#", "!", "[", "allow"]);
        let module = starts_with(&tokens[at..], &["#", "[", "allow"]) && is_on_module(&tokens[at..]);
        if whole_file || module {
            findings.push(Finding {
                path: file.path.clone(),
                line: tokens[at].line,
                rule: "silenced",
                what: "a lint is silenced for a whole module".to_owned(),
                fix: "put #[expect(lint, reason = \"...\")] on the item that needs it",
            });
        }
    }
}

/// Whether the attribute at the start of `tokens` is on a `mod`, other attributes and visibility aside.
fn is_on_module(tokens: &[Token<'_>]) -> bool {
    let item = &tokens[..end_of_item(tokens, 0)];
    let mut depth = 0_usize;
    for token in item {
        match token.text {
            "[" | "(" => depth += 1,
            "]" | ")" => depth = depth.saturating_sub(1),
            "mod" if depth == 0 => return true,
            "#" | "pub" => {}
            _ if depth == 0 => return false,
            _ => {}
        }
    }
    false
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rules(path: &str, text: &str) -> Vec<&'static str> {
        check(&Tree::of(&[(path, text)])).into_iter().map(|finding| finding.rule).collect()
    }

    #[test]
    fn paths_of_one_machine_are_refused() {
        for folder in MACHINE_FOLDERS {
            assert_eq!(rules("README.md", &format!("see {folder}x")), ["machine"]);
            assert_eq!(rules("a.rs", &format!("let x = \"{folder}x\";")), ["machine"]);
            assert!(
                rules("README.md", &format!("see tests{folder}x and $DIR{folder}").replace("$DIR", "a"))
                    .is_empty()
            );
        }
    }

    #[test]
    fn unfinished_code_is_refused() {
        assert_eq!(rules("a.rs", concat!("fn f() { to", "do!() }")), ["unfinished"]);
        assert!(rules("a.rs", "// the to-do list\nlet todo = 1;").is_empty());
    }

    #[test]
    fn a_module_is_never_silenced() {
        assert_eq!(rules("a.rs", "#![allow(dead_code)]"), ["silenced"]);
        assert_eq!(rules("a.rs", "#[allow(dead_code)]\n#[cfg(unix)]\npub(crate) mod a {}"), ["silenced"]);
        assert!(rules("a.rs", "#[allow(dead_code)] fn f() { mod x {} }").is_empty());
        assert!(rules("a.rs", "#[expect(missing_docs, reason = \"generated\")] pub mod wire {}").is_empty());
    }
}
