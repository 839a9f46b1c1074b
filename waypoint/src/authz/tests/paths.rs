//! No way of writing a path gets round a policy: whatever the most liberal server would take it for is what was judged.

use std::collections::BTreeSet;

use super::forms::{PATHS, forms, liberally};
use super::{Asking, set};

/// A list of paths as a policy states it, and what it means of a path in the clear.
type List = (&'static str, fn(&str) -> bool);

const LISTS: [List; 7] = [
    ("/admin", |it| it == "/admin"),
    ("/admin*", |it| it.starts_with("/admin")),
    ("/admin/*", |it| it.starts_with("/admin/")),
    ("*/admin", |it| it.ends_with("/admin")),
    ("*.html", |it| it.ends_with(".html")),
    ("/api/{*}/admin/{**}", |it| {
        let segments: Vec<&str> = it.split('/').collect();
        segments.len() >= 5 && segments[1] == "api" && !segments[2].is_empty() && segments[3] == "admin"
    }),
    ("/public/{**}", |it| it.starts_with("/public/")),
];

#[test]
fn no_way_of_writing_a_path_gets_round_a_policy() {
    let corpus: BTreeSet<String> = PATHS.into_iter().flat_map(forms).collect();
    assert!(corpus.len() >= 500, "{} forms", corpus.len());
    let (mut refused, mut admitted) = (0, 0);
    for (list, falls_under) in LISTS {
        let deny =
            set(&[&format!("{{action: DENY, rules: [{{to: [{{operation: {{paths: ['{list}']}}}}]}}]}}")]);
        let allow = set(&[&format!("{{rules: [{{to: [{{operation: {{paths: ['{list}']}}}}]}}]}}")]);
        let but = set(&[&format!("{{rules: [{{to: [{{operation: {{notPaths: ['{list}']}}}}]}}]}}")]);
        for target in &corpus {
            let judge =
                |set| Asking::default().path(target).ask(|it| super::effective(set).judge(it, &[]).is_ok());
            let meant = liberally(target);
            // What is malformed is answered with 400 before any policy is asked.
            for (admits, expected) in [(judge(&deny), false), (judge(&allow), true), (judge(&but), false)] {
                if admits == Ok(true) {
                    admitted += 1;
                    assert_eq!(falls_under(&meant), expected, "{list} admits {target}, which may be {meant}");
                } else {
                    refused += 1;
                }
            }
        }
    }
    assert!(refused > 1000 && admitted > 1000, "{refused} refused, {admitted} admitted");
}
