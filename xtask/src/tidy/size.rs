//! How long files and functions may be, and which ones are the longest today.
//!
//! Tests count too: a test nobody can read proves nothing.

use super::lexer::{Kind, Token};
use super::tree::{Finding, Tree};

const RULE: &str = "size";
/// The longest file, in lines.
const MAX_FILE_LINES: usize = 600;
/// The longest function, in lines from `fn` to the closing brace.
const MAX_FUNCTION_LINES: usize = 70;
/// How many of the longest are listed.
const LISTED: usize = 5;

/// Something that has a length.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Measured {
    lines: usize,
    path: String,
    /// Where it starts.
    line: usize,
    /// The function's name; empty for a file.
    name: String,
}

/// Refuses what is too long.
pub(crate) fn check(tree: &Tree) -> Vec<Finding> {
    let files = files(tree).into_iter().filter(|file| file.lines > MAX_FILE_LINES).map(|file| Finding {
        what: format!("{} lines, at most {MAX_FILE_LINES}", file.lines),
        path: file.path,
        line: file.line,
        rule: RULE,
        fix: "split it by job; a file does one",
    });
    let functions =
        functions(tree).into_iter().filter(|function| function.lines > MAX_FUNCTION_LINES).map(|function| {
            Finding {
                what: format!(
                    "function `{}` has {} lines, at most {MAX_FUNCTION_LINES}",
                    function.name, function.lines
                ),
                path: function.path,
                line: function.line,
                rule: RULE,
                fix: "take the decision out as a pure function, or name the steps",
            }
        });
    files.chain(functions).collect()
}

/// The longest functions and files, for people to look at.
pub(crate) fn longest(tree: &Tree) -> String {
    let mut text = String::new();
    for (title, mut all) in [("longest functions", functions(tree)), ("longest files", files(tree))] {
        all.sort_by(|one, other| other.lines.cmp(&one.lines).then_with(|| one.path.cmp(&other.path)));
        text.push_str(&format!("{title}:\n"));
        for one in all.iter().take(LISTED) {
            text.push_str(&format!("  {:>4}  {}:{} {}\n", one.lines, one.path, one.line, one.name));
        }
    }
    text
}

fn files(tree: &Tree) -> Vec<Measured> {
    tree.rust()
        .map(|file| Measured {
            lines: file.text.lines().count(),
            path: file.path.clone(),
            line: 1,
            name: String::new(),
        })
        .collect()
}

fn functions(tree: &Tree) -> Vec<Measured> {
    let mut functions = Vec::new();
    for file in tree.rust() {
        let tokens = file.tokens();
        for at in 0..tokens.len() {
            if let Some((name, lines)) = function_at(&tokens[at..]) {
                let (path, line) = (file.path.clone(), tokens[at].line);
                functions.push(Measured { lines, path, line, name: name.to_owned() });
            }
        }
    }
    functions
}

/// The name and the number of lines of the function that `tokens` starts with, when it starts with one with a body.
fn function_at<'a>(tokens: &[Token<'a>]) -> Option<(&'a str, usize)> {
    let [keyword, name, ..] = tokens else { return None };
    if !keyword.is("fn") || name.kind != Kind::Word {
        return None;
    }
    // Braces and semicolons inside parentheses or brackets belong to the signature: `[u8; { N }]`.
    let mut inside = 0_usize;
    let mut braces = 0_usize;
    for token in tokens.iter().filter(|token| token.kind == Kind::Mark) {
        match token.text {
            "(" | "[" => inside += 1,
            ")" | "]" => inside = inside.saturating_sub(1),
            ";" if inside == 0 && braces == 0 => return None,
            "{" if inside == 0 || braces > 0 => braces += 1,
            "}" if braces > 0 => {
                braces -= 1;
                if braces == 0 {
                    return Some((name.text, token.line - keyword.line + 1));
                }
            }
            _ => {}
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    fn measured(source: &str) -> Vec<(String, usize)> {
        functions(&Tree::of(&[("a.rs", source)])).into_iter().map(|f| (f.name, f.lines)).collect()
    }

    #[test]
    fn a_function_is_measured_from_its_name_to_its_last_brace() {
        let source = "fn a(x: [u8; { 1 }])\nwhere\n{\n  g(|| { 1 });\n  let s = \"}\"; // }\n}\nfn b() {}";
        assert_eq!(measured(source), [("a".into(), 6), ("b".into(), 1)]);
    }

    #[test]
    fn what_has_no_body_is_no_function() {
        assert_eq!(measured("trait T { fn a(&self) -> [u8; 4]; } type F = fn(u8) -> u8;"), []);
    }

    #[test]
    fn long_functions_and_files_are_refused_and_the_limit_itself_is_not() {
        let function = |lines: usize| format!("fn long() {{{}}}", "\n".repeat(lines - 1));
        assert!(check(&Tree::of(&[("a.rs", &function(MAX_FUNCTION_LINES))])).is_empty());
        let found = check(&Tree::of(&[("a.rs", &function(MAX_FUNCTION_LINES + 1))]));
        assert_eq!(found[0].what, "function `long` has 71 lines, at most 70");
        assert!(check(&Tree::of(&[("a.rs", &"//\n".repeat(MAX_FILE_LINES))])).is_empty());
        assert_eq!(check(&Tree::of(&[("a.rs", &"//\n".repeat(MAX_FILE_LINES + 1))])).len(), 1);
    }
}
