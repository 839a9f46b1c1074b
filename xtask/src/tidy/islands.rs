//! Where `unsafe` may be: the kernel programs and what talks to the kernel without a safe wrapper.
//!
//! The attribute at a crate's root keeps rustc watching; the keyword is looked for as well, because an attribute can
//! be overridden further down.

use super::lexer::{Token, starts_with};
use super::tree::{File, Finding, Tree};

const RULE: &str = "unsafe";

/// Folders whose code may be unsafe.
const ISLANDS: [&str; 5] =
    ["ebpf/programs/", "ebpf/abi/", "ebpf/loader/", "ebpf/resident/", "ztunnel/src/netns/"];
/// The one crate that contains an island: it denies unsafe code, and lifts that for one module.
const CRATE_WITH_ISLAND: &str = "ztunnel/src/";
const ISLAND_MODULE: &str = "netns";

/// Checks the keyword everywhere and the attribute at every crate root.
pub(crate) fn check(tree: &Tree) -> Vec<Finding> {
    let mut findings = Vec::new();
    for file in tree.rust().filter(|file| !ISLANDS.iter().any(|island| file.path.starts_with(island))) {
        let tokens = file.tokens();
        findings.extend(tokens.iter().filter(|token| token.is("unsafe")).map(|token| Finding {
            path: file.path.clone(),
            line: token.line,
            rule: RULE,
            what: "unsafe code outside the islands".to_owned(),
            fix: "use a safe wrapper (nix, socket2, aya), or move it behind a safe function in ztunnel/src/netns",
        }));
        if is_crate_root(&file.path) {
            root(file, &tokens, &mut findings);
        }
    }
    findings
}

/// Whether the file is where rustc starts: a library, a binary, or one of several binaries (a file or a folder).
fn is_crate_root(path: &str) -> bool {
    let binary = path
        .split_once("src/bin/")
        .is_some_and(|(_, rest)| !rest.contains('/') || rest.ends_with("/main.rs"));
    path.ends_with("src/lib.rs") || path.ends_with("src/main.rs") || binary
}

fn root(file: &File, tokens: &[Token<'_>], findings: &mut Vec<Finding>) {
    let has = |level: &str| {
        let attribute = ["#", "!", "[", level, "(", "unsafe_code"];
        (0..tokens.len()).any(|at| starts_with(&tokens[at..], &attribute))
    };
    let holds_island = file.path.starts_with(CRATE_WITH_ISLAND);
    let watched = has("forbid") || holds_island && has("deny");
    if !watched {
        findings.push(Finding {
            path: file.path.clone(),
            line: 1,
            rule: RULE,
            what: "the crate root does not forbid unsafe code".to_owned(),
            fix: "add #![forbid(unsafe_code)] (in ztunnel: deny, lifted for `mod netns` alone)",
        });
    }
    for at in 0..tokens.len() {
        let lifted = ["expect", "allow"]
            .iter()
            .any(|level| starts_with(&tokens[at..], &["#", "[", level, "(", "unsafe_code"]));
        let Some(module) = lifted.then(|| item_after(&tokens[at..])).flatten() else { continue };
        if module != ISLAND_MODULE {
            findings.push(Finding {
                path: file.path.clone(),
                line: tokens[at].line,
                rule: RULE,
                what: format!("unsafe code is allowed for `{module}`"),
                fix: "only `mod netns` of ztunnel may lift the ban",
            });
        }
    }
}

/// The name of the item that follows the attribute at the start of `tokens`.
fn item_after<'a>(tokens: &[Token<'a>]) -> Option<&'a str> {
    let after = tokens.iter().position(|token| token.is("]"))?;
    let keyword =
        tokens[after..].iter().position(|token| ["mod", "fn", "impl", "use"].contains(&token.text))?;
    tokens.get(after + keyword + 1).map(|token| token.text)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn whats(path: &str, text: &str) -> Vec<String> {
        check(&Tree::of(&[(path, text)])).into_iter().map(|finding| finding.what).collect()
    }

    #[test]
    fn unsafe_code_stays_on_its_islands() {
        let text = "fn f() { unsafe { g() } }";
        assert_eq!(whats("common/src/net/relay.rs", text), ["unsafe code outside the islands"]);
        assert_eq!(whats("tests/namespaces/tests/a.rs", text), ["unsafe code outside the islands"]);
        assert!(whats("ebpf/loader/src/lib.rs", text).is_empty());
        assert!(whats("ztunnel/src/netns/enter.rs", text).is_empty());
        assert!(whats("common/src/net/relay.rs", "// unsafe\nlet unsafe_code = \"unsafe\";").is_empty());
    }

    #[test]
    fn every_crate_root_forbids_unsafe_code() {
        assert!(whats("common/src/lib.rs", "#![forbid(unsafe_code)]").is_empty());
        for text in ["", "#![deny(unsafe_code)]", "// #![forbid(unsafe_code)]"] {
            assert_eq!(whats("common/src/lib.rs", text), ["the crate root does not forbid unsafe code"]);
        }
        assert_eq!(whats("tests/harness/src/bin/x.rs", "").len(), 1);
        assert_eq!(whats("tests/harness/src/bin/x/main.rs", "").len(), 1);
        assert!(whats("tests/harness/src/bin/x/part.rs", "").is_empty());
    }

    #[test]
    fn ztunnel_lifts_the_ban_for_netns_alone() {
        let lifted = |module| {
            format!("#![deny(unsafe_code)]\n#[expect(unsafe_code, reason = \"setns\")]\npub mod {module};")
        };
        assert!(whats("ztunnel/src/lib.rs", &lifted("netns")).is_empty());
        assert_eq!(whats("ztunnel/src/lib.rs", &lifted("pods")), ["unsafe code is allowed for `pods`"]);
    }
}
